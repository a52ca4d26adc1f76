"""P8: several candidates are asked together and vote on the answer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from router.errors import RouterError
from router.policies.base import TIE, Policy, one_hot, require_cost, spread
from router.policies.expected import Expected, expected_of_vote
from router.policies.utility import Utility, cost_weights
from router.prediction import Prediction


@dataclass(frozen=True)
class Subset(Policy):
    """The candidates that are likely right are asked together; the answer with the greatest sum of
    confidences wins (SelectLLM's weighted maximum confidence, arXiv 2408.08545).

    A candidate's confidence is its predicted quality. Of those whose confidence less its weighted
    cost reaches least_confidence, the max_size best are asked; where none does, the best one. Where
    one of them outweighs the others together, as one of two always does, their votes could change
    nothing, and the best one is asked alone. max_size 1 is the policy Utility.

    See `expected_of_vote` for what a vote scores.

    max_size: most candidates asked for one query.
    least_confidence: predicted score, less the weighted cost, from which a candidate is asked.
    cost_weight: score that one US dollar is worth.
    """

    max_size: int = 3
    least_confidence: float = 0.5
    cost_weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.max_size >= 1:
            raise RouterError(f"policy.max_size is {self.max_size}; give at least 1.")
        if not 0 <= self.least_confidence <= 1:
            raise RouterError(
                f"policy.least_confidence is {self.least_confidence}; give a score in [0, 1]."
            )
        if not self.cost_weight >= 0:
            raise RouterError(f"policy.cost_weight is {self.cost_weight}; give at least 0.")

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        """(n, m) share of each candidate in the vote; the ones with a share are asked."""
        best = Utility(self.cost_weight).choose(prediction)
        alone = one_hot(best, len(prediction.candidates))
        if self.max_size == 1 or np.isinf(self.cost_weight):
            return alone
        value = prediction.quality.copy()
        if self.cost_weight > 0:
            value -= self.cost_weight * require_cost(prediction, "subset")
        rank = (-value).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        asked = (value >= self.least_confidence - TIE) & (rank < self.max_size)
        weight = np.where(asked, np.maximum(prediction.quality, 0.0), 0.0)
        total = weight.sum(axis=1, keepdims=True)
        decided = weight.max(axis=1, keepdims=True) >= total / 2 - TIE  # also where none is asked
        return np.where(decided, alone, weight / np.where(decided, 1.0, total))

    def votes(self, prediction: Prediction, chosen: np.ndarray) -> np.ndarray:
        return self.probabilities(prediction)

    def expected(
        self,
        prediction: Prediction,
        scores: np.ndarray,
        cost: np.ndarray | None = None,
        latency: np.ndarray | None = None,
    ) -> Expected:
        return expected_of_vote(self.probabilities(prediction), scores, cost, latency)

    def path(self, prediction: Prediction) -> list[Policy]:
        if prediction.cost is None:
            return [dataclasses.replace(self, max_size=k) for k in range(self.max_size, 0, -1)]
        margin, cost = prediction.quality - self.least_confidence, prediction.cost
        leaves = np.divide(margin, cost, out=np.zeros(cost.shape), where=(margin > 0) & (cost > 0))
        # A candidate is left out at the first kind of weight, the best one changes at the second.
        switches = np.concatenate([leaves[leaves > 0], cost_weights(prediction)[1:-1]])
        weights = [0.0, *np.exp(spread(np.log(switches))).tolist(), float("inf")]
        return [dataclasses.replace(self, cost_weight=weight) for weight in weights]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        shares = self.probabilities(prediction)[0]
        asked = np.flatnonzero(shares)
        if len(asked) == 1:
            return f"asked alone: {Utility(self.cost_weight).reason(prediction, chosen)}"
        listed = ", ".join(f"{prediction.candidates[j]} {shares[j]:.2f}" for j in asked)
        return f"likely right ({prediction.quality[0, chosen]:.3f}); asked together, votes {listed}"
