"""P1: predicted quality less the weighted cost and the weighted latency."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from router.errors import RouterError
from router.policies.base import (
    TIE,
    Policy,
    best_of_cheapest,
    cheapest_best,
    net_of_latency,
    one_hot,
    reason_of_best,
    require_cost,
    require_weight,
    spread,
)
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix


@dataclass(frozen=True)
class Utility(Policy):
    """argmax of quality - cost_weight x cost - latency_weight x latency; ties go to the cheaper
    candidate.

    cost_weight: score that one US dollar is worth (lambda of the Lagrangian); infinite: cost alone,
        and quality less the weighted latency decides between equal costs.
    latency_weight: score that one second is worth.
    """

    cost_weight: float = 0.0
    latency_weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.cost_weight >= 0:
            raise RouterError(f"policy.cost_weight is {self.cost_weight}; give at least 0.")
        require_weight(self.latency_weight)

    def tune(self, prediction: Prediction, outcomes: OutcomeMatrix) -> Self:
        net_of_latency(prediction, self.latency_weight)
        return self

    def choose(self, prediction: Prediction) -> np.ndarray:
        """(n,) chosen candidate."""
        prediction = net_of_latency(prediction, self.latency_weight)
        quality = prediction.quality
        if self.cost_weight == 0:
            return cheapest_best(quality, prediction.cost)
        cost = require_cost(prediction, "utility")
        if math.isinf(self.cost_weight):
            return best_of_cheapest(quality, cost)
        # Rounding grows with the weighted cost. The tolerance depends on the query alone, not on
        # the batch it comes in, and never falls with the weight: so the cost never rises with it.
        weighted = self.cost_weight * cost
        tolerance = TIE * (1 + weighted.min(axis=1, keepdims=True))
        return cheapest_best(quality - weighted, cost, tolerance)

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        return one_hot(self.choose(prediction), len(prediction.candidates))

    def path(self, prediction: Prediction) -> list[Policy]:
        weights = cost_weights(net_of_latency(prediction, self.latency_weight))
        return [Utility(weight, self.latency_weight) for weight in weights]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        if math.isinf(self.cost_weight):
            return f"least predicted cost (${require_cost(prediction, 'utility')[0, chosen]:.6f})"
        what = "predicted quality"
        if self.latency_weight > 0:
            what += f" less {self.latency_weight:g} per second"
        prediction = net_of_latency(prediction, self.latency_weight)
        best_quality = reason_of_best(prediction, chosen, what=what)
        if best_quality is not None:
            return best_quality
        cost = require_cost(prediction, "utility")[0]
        best = int(cheapest_best(prediction.quality, prediction.cost)[0])
        gain = prediction.quality[0, best] - prediction.quality[0, chosen]
        return (
            f"{prediction.candidates[best]} would add {gain:.3g} {what.removeprefix('predicted ')} "
            f"for ${cost[best] - cost[chosen]:.6f} more, which does not pay at "
            f"{self.cost_weight:.4g} quality per dollar"
        )


def cost_weights(prediction: Prediction) -> list[float]:
    """About a hundred of the weights at which choices change, with the least and the greatest, from
    0 (quality alone) to infinity (cost alone)."""
    if prediction.cost is None:
        return [0.0]
    switches = spread(np.log(_switches(prediction.quality, prediction.cost)))
    return [0.0, *np.exp(switches).tolist(), float("inf")]


def _switches(quality: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """(k,) every weight at which some query's choice moves on to a cheaper candidate.

    As the weight grows, a query's choices run along the upper hull of its candidates' (cost,
    quality) points; the weights are the slopes."""
    rows = np.arange(len(quality))
    chosen = cheapest_best(quality, cost)
    switches = []
    for _ in range(quality.shape[1] - 1):
        saving = cost[rows, chosen][:, None] - cost
        loss = quality[rows, chosen][:, None] - quality
        slope = np.full(cost.shape, np.inf)
        np.divide(loss, saving, out=slope, where=saving > 0)
        least = slope.min(axis=1)
        switches.append(least)
        chosen = np.where(np.isfinite(least), slope.argmin(axis=1), chosen)
    slopes = np.concatenate(switches)
    return slopes[np.isfinite(slopes) & (slopes > 0)]
