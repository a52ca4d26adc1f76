"""P1: predicted quality less the weighted cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.errors import RouterError
from router.policies.base import (
    Policy,
    cheapest_best,
    one_hot,
    require_cost,
    spread,
)
from router.prediction import Prediction


@dataclass(frozen=True)
class Utility(Policy):
    """argmax of quality - cost_weight x cost; ties go to the cheaper candidate.

    cost_weight: score that one US dollar is worth (lambda of the Lagrangian).
    """

    cost_weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.cost_weight >= 0:
            raise RouterError(f"policy.cost_weight is {self.cost_weight}; give at least 0.")

    def choose(self, prediction: Prediction) -> np.ndarray:
        """(n,) chosen candidate."""
        if self.cost_weight == 0:
            return cheapest_best(prediction.quality, prediction.cost)
        cost = require_cost(prediction, "utility")
        if np.isinf(self.cost_weight):
            return cost.argmin(axis=1)
        # Scaled by the weight, so that the tie tolerance means the same at every weight.
        scale = max(1.0, self.cost_weight * float(np.median(cost)))
        return cheapest_best((prediction.quality - self.cost_weight * cost) / scale, cost)

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        return one_hot(self.choose(prediction), len(prediction.candidates))

    def path(self, prediction: Prediction) -> list[Policy]:
        return [Utility(weight) for weight in cost_weights(prediction)]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        quality = prediction.quality[0]
        best = int(quality.argmax())
        name = prediction.candidates[best]
        if prediction.cost is None or best == chosen:
            return f"best predicted quality ({quality[chosen]:.3f})"
        gain = quality[best] - quality[chosen]
        extra = prediction.cost[0, best] - prediction.cost[0, chosen]
        return (
            f"{name} would add {gain:.3f} quality for ${extra:.6f} more, "
            f"too little at {self.cost_weight:.4g} quality per dollar"
        )


def cost_weights(prediction: Prediction) -> list[float]:
    """Weights at which choices change, from 0 (quality alone) to infinity (cost alone)."""
    if prediction.cost is None:
        return [0.0]
    quality, cost = prediction.quality, prediction.cost
    best = quality.argmax(axis=1)[:, None]
    gain = np.take_along_axis(quality, best, axis=1) - quality
    extra = np.take_along_axis(cost, best, axis=1) - cost
    matters = (extra > 0) & (gain > 0)
    switches = spread(np.log(gain[matters] / extra[matters]))
    return [0.0, *np.exp(switches).tolist(), float("inf")]
