"""P2: the cheapest candidate that is good enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.errors import RouterError
from router.policies.base import (
    TIE,
    Policy,
    best_of_cheapest,
    cheapest_best,
    one_hot,
    require_cost,
    spread,
)
from router.prediction import Prediction


@dataclass(frozen=True)
class CheapestAdequate(Policy):
    """The cheapest candidate whose predicted quality reaches least_quality; where none does, the
    best one (FORC's thresholding, arXiv 2308.06077).

    least_quality: predicted score that counts as good enough, in [0, 1].
    """

    least_quality: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.least_quality <= 1:
            raise RouterError(
                f"policy.least_quality is {self.least_quality}; give a score in [0, 1]."
            )

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        cost = require_cost(prediction, "cheapest_adequate")
        adequate = prediction.quality >= self.least_quality - TIE
        cheapest = best_of_cheapest(prediction.quality, np.where(adequate, cost, np.inf))
        best = cheapest_best(prediction.quality, cost)
        chosen = np.where(adequate.any(axis=1), cheapest, best)
        return one_hot(chosen, len(prediction.candidates))

    def path(self, prediction: Prediction) -> list[Policy]:
        levels = np.clip(spread(prediction.quality.ravel()), 0, 1)
        return [CheapestAdequate(float(level)) for level in np.unique([0, 1, *levels])[::-1]]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        quality = prediction.quality[0, chosen]
        if quality >= self.least_quality - TIE:
            return f"cheapest with predicted quality {quality:.3f} >= {self.least_quality:g}"
        return f"no candidate is predicted to reach {self.least_quality:g}; best is {quality:.3f}"
