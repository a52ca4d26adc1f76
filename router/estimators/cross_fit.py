"""What an estimator says of queries that it never saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.base import clone

from router.estimators.base import Estimator
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.splits import grouped_folds


def out_of_fold(
    members: Sequence[Estimator],
    X: np.ndarray,
    outcomes: OutcomeMatrix,
    n_folds: int,
    random_state: int = 0,
) -> np.ndarray:
    """(members, n, m) quality of every query, from clones that never saw its group; NaN where the
    candidate has no outcome outside the fold."""
    quality = np.full((len(members), *outcomes.scores.shape), np.nan)
    for fit_rows, held_out in grouped_folds(outcomes.groups, n_folds, random_state):
        part = outcomes.take(fit_rows)
        present = np.flatnonzero(part.observed.any(axis=0))
        if len(present) < min(2, len(outcomes.candidates)):
            continue  # one candidate beats nobody
        part = part.select([outcomes.candidates[j] for j in present])
        for own, member in zip(quality, members, strict=True):
            fitted = clone(member).fit(X[fit_rows], part)
            own[np.ix_(held_out, present)] = fitted.predict(X[held_out]).quality
    return quality


def first_known(*values: np.ndarray) -> np.ndarray:
    """The first that is a number, cell by cell."""
    known = values[0]
    for other in values[1:]:
        known = np.where(np.isnan(known), other, known)
    return known
