"""P6: a budget for every single query, met in expectation by mixing two candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from router.errors import RouterError
from router.policies.base import (
    TIE,
    Policy,
    best_of_cheapest,
    reason_of_best,
    require_cost,
    spread,
)
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix


@dataclass(frozen=True)
class PerQueryBudget(Policy):
    """The mixture of candidates of greatest predicted quality whose expected predicted cost keeps
    to the budget, for each query alone: maximise sum p_j q_j subject to sum p_j c_j <= budget and
    sum p_j = 1 (P2L's cost-optimal routing, arXiv 2502.14855).

    The best mixture lies on the upper hull of the query's (cost, quality) points, so it mixes at
    most the two neighbouring corners between which the budget falls. Where every candidate costs
    more, the cheapest answers.

    budget: USD that one query's answer may cost in expectation.
    """

    budget: float = 0.01

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise RouterError(f"policy.budget is {self.budget}; give USD per query above 0.")

    def tune(self, prediction: Prediction, outcomes: OutcomeMatrix) -> Self:
        require_cost(prediction, "per_query_budget")
        return self

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        cheap, dear, dear_share = self._corners(prediction)
        rows = np.arange(len(prediction))
        mixed = np.zeros(prediction.quality.shape)
        mixed[rows, cheap] = 1 - dear_share
        mixed[rows, dear] += dear_share
        return mixed

    def _corners(self, prediction: Prediction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(n,) the hull's corner below the budget, the next one, and the next one's probability."""
        quality, cost = prediction.quality, require_cost(prediction, "per_query_budget")
        n, m = quality.shape
        rows = np.arange(n)
        below = best_of_cheapest(quality, cost)
        above, share = below.copy(), np.zeros(n)
        for _ in range(m - 1):  # up the hull: each step is the steepest that is left
            rise = quality - quality[rows, below][:, None]
            run = cost - cost[rows, below][:, None]
            slope = np.full((n, m), -np.inf)
            np.divide(rise, run, out=slope, where=(rise > TIE) & (run > 0))
            step = slope.argmax(axis=1)
            climbs = np.isfinite(slope[rows, step]) & (share == 0)
            left = self.budget - cost[rows, below]
            fits = climbs & (run[rows, step] <= left)
            mixes = climbs & ~fits & (left > 0)
            above[mixes] = step[mixes]
            share[mixes] = left[mixes] / run[rows, step][mixes]
            below = np.where(fits, step, below)
            above = np.where(share > 0, above, below)
            if not fits.any():
                break
        return below, above, share

    def path(self, prediction: Prediction) -> list[Policy]:
        costs = require_cost(prediction, "per_query_budget")
        # A candidate that is free is asked at every budget.
        return [PerQueryBudget(float(cost)) for cost in spread(costs[costs > 0])[::-1]] or [self]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        cheap, dear, share = (corner[0] for corner in self._corners(prediction))
        cost = require_cost(prediction, "per_query_budget")[0]
        names = prediction.candidates
        if share > 0:
            return (
                f"drawn with probability {share if chosen == dear else 1 - share:.2f} from "
                f"{names[cheap]} and {names[dear]}, the best mixture for ${self.budget:.6f}"
            )
        if cost[chosen] > self.budget:
            return f"every candidate costs more than ${self.budget:.6f}; this one costs least"
        best = reason_of_best(prediction, chosen)
        return best or f"the best mixture for ${self.budget:.6f} is this candidate alone"
