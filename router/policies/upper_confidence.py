"""P7: the candidate that may be best, as far as the standard errors allow."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from router.errors import RouterError
from router.policies.exploring import Exploring
from router.policies.utility import Utility, cost_weights
from router.prediction import Prediction


@dataclass(frozen=True, kw_only=True)
class UpperConfidence(Exploring):
    """argmax of quality + width x standard error - cost_weight x cost (LinUCB, arXiv 1003.0146; as
    a router MetaLLM, arXiv 2407.10834, and MixLLM, arXiv 2502.18482).

    Without a floor and a budget the choice is certain, and what it logs cannot be reweighted:
    give least_probability where other policies shall be judged from the log.

    See `Exploring` for the other parameters and for what is drawn.

    width: standard errors that are added.
    """

    option = "upper_confidence"

    width: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.width < np.inf:
            raise RouterError(f"policy.width is {self.width}; give standard errors from 0 up.")

    def _optimistic(self, net: Prediction) -> Prediction:
        return dataclasses.replace(net, quality=net.quality + self.doubt(net))

    def doubt(self, net: Prediction) -> np.ndarray:
        return self.width * net.quality_se

    def unfloored(self, net: Prediction, cost_weight: float) -> np.ndarray:
        return Utility(cost_weight).probabilities(self._optimistic(net))

    def switches(self, net: Prediction) -> list[float]:
        return cost_weights(self._optimistic(net))

    def merit(
        self, prediction: Prediction, net: Prediction, cost_weight: float, chosen: int
    ) -> str | None:
        if Utility(cost_weight).choose(self._optimistic(net))[0] != chosen:
            return None
        if np.isinf(cost_weight):
            return Utility(cost_weight).reason(net, chosen)
        bound = f"{prediction.quality[0, chosen]:.3f} + {self.doubt(net)[0, chosen]:.3f}"
        if self.latency_weight > 0:
            bound += f" - {(prediction.quality - net.quality)[0, chosen]:.3g} for its latency"
        if cost_weight > 0 and net.cost is not None:
            bound += f" - {cost_weight * net.cost[0, chosen]:.3g} for its cost"
        return f"greatest upper bound of predicted quality ({bound})"
