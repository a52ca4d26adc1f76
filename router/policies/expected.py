"""What decisions yield: score, dollars and seconds of each query."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

HALF = 0.5 + 1e-9  # of a vote; equal halves that rounding sets apart are no majority


class Expected(NamedTuple):
    """(n,) score, USD and seconds of each query's decision; cost and latency are None where the
    outcomes have none."""

    score: np.ndarray
    cost: np.ndarray | None
    latency: np.ndarray | None


def expected_of_mixture(
    plan: np.ndarray,
    scores: np.ndarray,
    cost: np.ndarray | None = None,
    latency: np.ndarray | None = None,
) -> Expected:
    """One candidate answers each query, drawn with the probabilities of `plan`; all (n, m)."""

    def mean(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else (plan * values).sum(axis=1)

    return Expected((plan * scores).sum(axis=1), mean(cost), mean(latency))


def expected_of_vote(
    votes: np.ndarray,
    scores: np.ndarray,
    cost: np.ndarray | None = None,
    latency: np.ndarray | None = None,
) -> Expected:
    """Every candidate with a vote is asked at the same time, and the answer with the most weight
    wins; all (n, m), rows of `votes` sum to one.

    Cost is the sum over the asked, latency that of the slowest. The score is the greatest that
    more than half of the weight reaches, a weighted lower median. For right and wrong answers that
    is 1 where the right ones outweigh all others together: the least that a plurality vote can
    score, as the log does not say which wrong answers agree. Graded answers that reach one level
    count as agreeing. A candidate alone scores what it scores.
    """
    asked = votes > 0
    by_score = np.argsort(-scores, axis=1, kind="stable")
    weight = np.take_along_axis(votes, by_score, axis=1).cumsum(axis=1)
    median = (weight > HALF).argmax(axis=1)[:, None]
    score = np.take_along_axis(np.take_along_axis(scores, by_score, axis=1), median, axis=1)[:, 0]
    return Expected(
        score,
        None if cost is None else np.where(asked, cost, 0.0).sum(axis=1),
        None if latency is None else np.where(asked, latency, 0.0).max(axis=1),
    )
