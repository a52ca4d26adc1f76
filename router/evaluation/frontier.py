"""(mean cost, mean quality) of a policy as its budget moves, and the area under it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.outcomes.matrix import OutcomeMatrix
from router.policies import Policy
from router.prediction import Prediction


@dataclass(frozen=True)
class Curve:
    """A policy at L settings on n queries.

    quality, cost: (L, n) expected score and USD of each query at each setting.
    shares: (L, m) share of queries that each candidate answers.
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
    plans = [setting.probabilities(prediction) for setting in policy.path(prediction)]
    m = len(outcomes.candidates)
    cheapest = int(outcomes.cost.mean(axis=0).argmin())
    plans.append(np.eye(m)[np.full(len(outcomes), cheapest)])
    chosen = np.stack(plans)
    return Curve(
        quality=np.einsum("lnm,nm->ln", chosen, outcomes.scores),
        cost=np.einsum("lnm,nm->ln", chosen, outcomes.cost),
        shares=chosen.mean(axis=1),
    )


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
    kept: list[tuple[float, float]] = []
    for cost, quality in sorted(map(tuple, points.tolist()), key=lambda p: (p[0], -p[1])):
        if kept and quality <= kept[-1][1]:
            continue
        while len(kept) >= 2 and _bends_up(kept[-2], kept[-1], (cost, quality)):
            kept.pop()
        kept.append((cost, quality))
    return np.array(kept)


def _bends_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])


def quality_at(points: np.ndarray, cost: float) -> float:
    """Quality of the hull at a mean cost; NaN below its cheapest point."""
    upper = hull(points)
    return float(np.interp(cost, upper[:, 0], upper[:, 1], left=np.nan))


def aiq(points: np.ndarray, least_cost: float, largest_cost: float) -> float:
    """Average improvement in quality (RouterBench, arXiv 2403.12031, section 3.3): mean height of
    the hull over the fixed range of costs, so that routers are compared over the same range.

    The range is that of the single models. Where the hull starts above least_cost its first point
    does not count for what lies below: that stretch is worth 0.
    """
    if largest_cost <= least_cost:
        return quality_at(points, largest_cost)
    upper = hull(points)
    inner = upper[(upper[:, 0] > least_cost) & (upper[:, 0] < largest_cost), 0]
    grid = np.concatenate([[max(least_cost, upper[0, 0])], inner, [largest_cost]])
    heights = np.interp(grid, upper[:, 0], upper[:, 1])
    return float(np.trapezoid(heights, grid) / (largest_cost - least_cost))


def aiq_routerbench(points: np.ndarray, largest_cost: float) -> float:
    """AIQ as RouterBench's released code computes it: the hull is drawn out to largest_cost (the
    dearest of the routers compared) and the area is divided by largest_cost, so the value depends
    on the company and starts at the router's own cheapest point."""
    upper = hull(points)
    if largest_cost > upper[-1, 0]:
        upper = np.vstack([upper, [largest_cost, upper[-1, 1]]])
    return float(np.trapezoid(upper[:, 1], upper[:, 0]) / largest_cost)


def quality_neutral_cost(points: np.ndarray, quality: float, cost: float) -> float:
    """QNC: least cost at which the hull reaches `quality`, as a share of `cost`; infinite if it
    never does."""
    upper = hull(points)
    if upper[-1, 1] < quality:
        return float("inf")
    if upper[0, 1] >= quality:
        return float(upper[0, 0] / cost)
    return float(np.interp(quality, upper[:, 1], upper[:, 0]) / cost)
