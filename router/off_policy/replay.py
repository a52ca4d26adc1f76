"""Full-information outcomes, replayed as the log of a policy whose propensities are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix
from router.policies import draw

ROUNDING = 1e-9


def replay(
    outcomes: OutcomeMatrix, propensities: np.ndarray, random_state: int = 0
) -> OutcomeMatrix:
    """What the log of a policy would hold: of each query the drawn candidate's outcome alone, with
    the whole vector of propensities.

    outcomes: of n queries, every candidate's known.
    propensities: (n, m) probability of each candidate; rows sum to one.

    Raises RouterError where an outcome or a probability is missing.
    """
    if not outcomes.fully_observed.all():
        raise RouterError(
            f"{int((~outcomes.fully_observed).sum()):,} of {len(outcomes):,} queries lack an "
            "outcome of some candidate; only full-information queries can be replayed."
        )
    sums = propensities.sum(axis=1)
    if propensities.shape != outcomes.scores.shape or not (
        (propensities >= 0).all() and (np.abs(sums - 1) < ROUNDING * outcomes.scores.shape[1]).all()
    ):
        raise RouterError(
            "The propensities must be one probability per query and candidate, rows summing to one."
        )
    uniforms = np.random.default_rng(random_state).random(len(outcomes))
    observed = np.zeros_like(outcomes.observed)
    observed[np.arange(len(outcomes)), draw(propensities, uniforms)] = True
    return replace(outcomes, observed=observed, propensity=propensities)
