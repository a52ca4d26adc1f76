"""(mean cost, mean quality) of a policy as its budget moves, and the area under it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from router.evaluation.metrics import ROUNDING
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Policy
from router.prediction import Prediction


@dataclass(frozen=True)
class Curve:
    """A policy at L settings on n queries.

    quality, cost: (L, n) expected score and USD of each query at each setting.
    shares: (L, m) share of queries that each candidate answers; in a vote, of the votes.
    """

    quality: np.ndarray
    cost: np.ndarray
    shares: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """(L, 2) mean cost and mean quality of each setting."""
        return np.stack([self.cost.mean(axis=1), self.quality.mean(axis=1)], axis=1)


def curve_of(policy: Policy, prediction: Prediction, outcomes: OutcomeMatrix) -> Curve:
    """The policy's settings from dear to cheap, judged on fully observed outcomes with costs.

    The cheapest candidate alone ends every curve: it is the limit of every budget.
    """
    assert outcomes.cost is not None
    path = policy.path(prediction)
    n, m = outcomes.scores.shape
    quality, cost = np.empty((len(path) + 1, n)), np.empty((len(path) + 1, n))
    shares = np.empty((len(path) + 1, m))
    for i, setting in enumerate(path):
        expected = setting.expected(prediction, outcomes.scores, outcomes.cost)
        assert expected.cost is not None
        quality[i], cost[i] = expected.score, expected.cost
        shares[i] = setting.probabilities(prediction).mean(axis=0)
    cheapest = int(outcomes.cost.mean(axis=0).argmin())
    quality[-1], cost[-1] = outcomes.scores[:, cheapest], outcomes.cost[:, cheapest]
    shares[-1] = np.eye(m)[cheapest]
    return Curve(quality, cost, shares)


def oracle_curve(outcomes: OutcomeMatrix) -> np.ndarray:
    """(L, 2) points of the router that knows every outcome beforehand."""
    from router.policies import Utility

    assert outcomes.cost is not None
    known = Prediction(
        outcomes.candidates, outcomes.scores, np.zeros_like(outcomes.scores), outcomes.cost
    )
    return curve_of(Utility(), known, outcomes).points


def hull(points: np.ndarray) -> np.ndarray:
    """(h, 2) non-decreasing concave upper hull of (cost, quality) points, by rising cost.

    Every point of it can be reached by mixing two settings at random.
    """
    return points[hull_rows(points)]


def hull_rows(points: np.ndarray) -> np.ndarray:
    """(h,) rows of `points` that are the hull's corners, by rising cost."""
    order = np.lexsort((-points[:, 1], points[:, 0]))
    best_so_far = np.maximum.accumulate(points[order, 1])
    rises = np.concatenate([[True], best_so_far[1:] > best_so_far[:-1]])
    kept: list[tuple[float, float]] = []
    rows: list[int] = []
    for row in order[rises].tolist():
        point = (float(points[row, 0]), float(points[row, 1]))
        while len(kept) >= 2 and _bends_up(kept[-2], kept[-1], point):
            kept.pop()
            rows.pop()
        kept.append(point)
        rows.append(row)
    return np.array(rows)


def _bends_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def quality_at(points: np.ndarray, cost: float) -> float:
    """Quality of the hull at a mean cost; NaN below its cheapest point."""
    upper = hull(points)
    if cost < upper[0, 0] and _equal(cost, upper[0, 0]):
        return float(upper[0, 1])
    return float(np.interp(cost, upper[:, 0], upper[:, 1], left=np.nan))


def aiq(points: np.ndarray, least_cost: float, largest_cost: float) -> float:
    """Average improvement in quality (RouterBench, arXiv 2403.12031, section 3.3): mean height of
    the hull over the fixed range of costs, so that routers are compared over the same range.

    The range is that of the single models. Where the hull starts above least_cost its first point
    does not count for what lies below: that stretch is worth 0. Where all models cost the same the
    range is one point, and the hull's height there is the answer.
    """
    return mean_height(hull(points), least_cost, largest_cost)


def mean_height(curve: np.ndarray, least_cost: float, largest_cost: float) -> float:
    """Mean over a range of costs of the line through (cost, quality) points of rising cost; 0 is
    its height before the first point, its last height what it keeps."""
    cost, quality = curve.T
    if largest_cost <= least_cost or _equal(least_cost, largest_cost):
        reached = (cost <= largest_cost) | np.isclose(cost, largest_cost, rtol=ROUNDING, atol=0)
        return float(quality[reached].max(initial=0.0))
    if cost[0] >= largest_cost:
        return 0.0
    inner = cost[(cost > least_cost) & (cost < largest_cost)]
    grid = np.concatenate([[max(least_cost, cost[0])], inner, [largest_cost]])
    area = np.trapezoid(np.interp(grid, cost, quality), grid)
    return float(area / (largest_cost - least_cost))


def aiq_routerbench(points: np.ndarray, largest_cost: float) -> float:
    """AIQ as RouterBench's released code computes it: the hull is drawn out to the dearest of the
    routers compared and the area is divided by that cost, so the value depends on the company and
    starts at the router's own cheapest point.

    largest_cost: the dearest of the others; where the hull goes further, its own end counts.
    """
    upper = hull(points)
    largest_cost = max(largest_cost, float(upper[-1, 0]))
    if largest_cost == 0:
        return float(upper[-1, 1])
    drawn_out = np.vstack([upper, [largest_cost, upper[-1, 1]]])
    return float(np.trapezoid(drawn_out[:, 1], drawn_out[:, 0]) / largest_cost)


def quality_neutral_cost(points: np.ndarray, quality: float, cost: float) -> float:
    """QNC: least cost at which the hull reaches `quality`, as a share of `cost`; infinite if it
    never does, or if it costs anything where `cost` is zero."""
    upper = hull(points)
    wanted = quality - ROUNDING
    if upper[-1, 1] < wanted:
        return float("inf")
    neutral = float(np.interp(wanted, upper[:, 1], upper[:, 0]))
    if cost > 0:
        return neutral / cost
    return 1.0 if neutral == 0 else float("inf")


def _equal(a: float, b: float) -> bool:
    """Equal but for the rounding of a mean: the order of a sum must not decide."""
    return math.isclose(a, b, rel_tol=ROUNDING)
