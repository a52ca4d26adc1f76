"""P7: the best candidate, and with a small probability any."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.errors import RouterError
from router.policies.base import require_cost
from router.policies.exploring import Exploring
from router.policies.utility import Utility
from router.prediction import Prediction

LEAST_COST = 1e-3  # of the query's dearest candidate: a free one does not take all exploration


@dataclass(frozen=True, kw_only=True)
class EpsilonGreedy(Exploring):
    """argmax of quality - cost_weight x cost with probability 1 - epsilon, else a candidate drawn
    at random (Sutton and Barto 2018, section 2.2).

    See `Exploring` for the other parameters and for what is drawn.

    epsilon: probability of a random draw.
    cost_aware: draw in proportion to 1 / predicted cost, so that exploration spends the same on
        each candidate; else uniformly.
    """

    option = "epsilon_greedy"

    epsilon: float = 0.05
    cost_aware: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.epsilon <= 1:
            raise RouterError(f"policy.epsilon is {self.epsilon}; give a probability in [0, 1].")

    def unfloored(self, net: Prediction, cost_weight: float) -> np.ndarray:
        best = Utility(cost_weight).probabilities(net)
        return (1 - self.epsilon) * best + self.epsilon * self._random(net)

    def _random(self, net: Prediction) -> np.ndarray:
        if not self.cost_aware:
            return np.full(net.quality.shape, 1 / len(net.candidates))
        cost = require_cost(net, self.option)
        dearest = cost.max(axis=1, keepdims=True)
        relative = np.divide(cost, dearest, out=np.ones_like(cost), where=dearest > 0)
        worth = 1 / np.maximum(relative, LEAST_COST)
        return np.asarray(worth / worth.sum(axis=1, keepdims=True))

    def merit(
        self, prediction: Prediction, net: Prediction, cost_weight: float, chosen: int
    ) -> str | None:
        greedy = Utility(cost_weight, self.latency_weight)
        if greedy.choose(prediction)[0] != chosen:
            return None
        return greedy.reason(prediction, chosen)
