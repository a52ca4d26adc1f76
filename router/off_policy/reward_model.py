"""What each candidate would have earned, predicted from other decisions of the log."""

from __future__ import annotations

import numpy as np

from router.estimators.base import Estimator
from router.estimators.cross_fit import first_known, out_of_fold
from router.outcomes.decisions import Decisions


def reward_model(
    estimator: Estimator,
    vectors: np.ndarray,
    decisions: Decisions,
    reward: np.ndarray,
    n_folds: int = 5,
    random_state: int = 0,
) -> np.ndarray:
    """(n, m) predicted reward, each query's from folds that did not see its group.

    A candidate that too few decisions chose is predicted by its mean, and one that none chose by
    the mean of all: whether the log can carry such a prediction is for the overlap to say.

    vectors: (n, d). reward: (n,) what the decisions earned: score, USD, seconds or a mixture.
    """
    observed = decisions.outcomes.observed
    earned = np.where(observed, reward[:, None], np.nan)
    target = decisions.outcomes.with_target(earned)
    predicted = out_of_fold([estimator], vectors, target, n_folds, random_state)[0]
    return first_known(
        predicted, np.broadcast_to(target.mean_scores(), earned.shape), reward.mean()
    )
