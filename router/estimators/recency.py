"""Outcomes by age: what an estimator that learns one outcome at a time weighs them with."""

from __future__ import annotations

import numpy as np

from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix


def recency_weights(outcomes: OutcomeMatrix, forgetting: float) -> np.ndarray:
    """(n, m) weight of each outcome: `forgetting` to the power of the number of the candidate's
    later outcomes; 0 where unobserved.

    The order is that of the timestamps, where a query without one counts as the oldest, and among
    equals, or without timestamps at all, that of the log.
    """
    queries = outcomes.queries
    order = np.arange(len(queries))
    if "timestamp" in queries:
        times = queries["timestamp"].reset_index(drop=True)
        order = times.sort_values(kind="stable", na_position="first").index.to_numpy()
    seen = outcomes.observed[order]
    later = seen[::-1].cumsum(axis=0)[::-1] - seen
    weights = np.empty(seen.shape)
    weights[order] = np.where(seen, forgetting**later, 0.0)
    return weights


def column_of(candidates: tuple[str, ...], name: str) -> int:
    """The candidate's column; raises RouterError where it is none."""
    if name not in candidates:
        raise RouterError(f"{name!r} is none of the candidates {', '.join(candidates)}.")
    return candidates.index(name)


def require_score(score: float) -> None:
    """Raise RouterError where one outcome's score is no finite number."""
    if not np.isfinite(score):
        raise RouterError(f"The score is {score}; give a finite number.")
