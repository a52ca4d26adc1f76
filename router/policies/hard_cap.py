"""P5: no query may cost more than a cap."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from router.errors import RouterError
from router.policies.base import (
    Policy,
    cheapest_best,
    one_hot,
    reason_of_best,
    require_cost,
    spread,
)
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix


LEAST_COST = 1e-12  # USD: a free candidate has no ratio


@dataclass(frozen=True)
class HardCap(Policy):
    """Best predicted quality among candidates whose cost stays under a cap for almost all queries.

    A candidate is allowed where its upper cost is at most the cap: its predicted cost times a
    quantile of (logged cost / predicted cost) on validation. The quantile is split conformal
    prediction's, the ceil((n + 1) level)-th smallest of n (Lei et al. 2018, section 2.2), so that a
    new query stays under its upper cost with probability `level`; of too few outcomes for that it
    is the largest. Where no candidate is allowed, the one with the least upper cost answers.

    cap: USD for one query.
    level: share of queries whose cost must stay under the upper cost, in (0, 1).
    ratios: tuned quantile of each candidate.
    """

    cap: float = 0.01
    level: float = 0.95
    ratios: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.cap > 0:
            raise RouterError(f"policy.cap is {self.cap}; give USD per query above 0.")
        if not 0 < self.level < 1:
            raise RouterError(f"policy.level is {self.level}; give a share between 0 and 1.")

    def tune(self, prediction: Prediction, outcomes: OutcomeMatrix) -> Self:
        predicted = require_cost(prediction, "hard_cap")
        if outcomes.cost is None:
            raise RouterError("policy=hard_cap needs logged costs on the validation side.")
        ratios = []
        for j in range(len(prediction.candidates)):
            seen = outcomes.observed[:, j]
            if not seen.any():
                raise RouterError(
                    f"policy=hard_cap: no validation cost of {prediction.candidates[j]!r}."
                )
            ratio = np.sort(outcomes.cost[seen, j] / np.maximum(predicted[seen, j], LEAST_COST))
            n_under = min(math.ceil((len(ratio) + 1) * self.level), len(ratio))
            ratios.append(float(ratio[n_under - 1]))
        return dataclasses.replace(self, ratios=tuple(ratios))

    def upper_cost(self, prediction: Prediction) -> np.ndarray:
        """(n, m) USD that a candidate's answer stays under with probability `level`."""
        if self.ratios is None:
            raise RouterError("This cap policy was not tuned yet; call tune on validation data.")
        return require_cost(prediction, "hard_cap") * np.array(self.ratios)

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        upper = self.upper_cost(prediction)
        allowed = upper <= self.cap
        best = cheapest_best(np.where(allowed, prediction.quality, -np.inf), prediction.cost)
        chosen = np.where(allowed.any(axis=1), best, upper.argmin(axis=1))
        return one_hot(chosen, len(prediction.candidates))

    def path(self, prediction: Prediction) -> list[Policy]:
        caps = np.exp(spread(np.log(np.maximum(self.upper_cost(prediction).ravel(), LEAST_COST))))
        return [dataclasses.replace(self, cap=float(cap * (1 + 1e-9))) for cap in caps[::-1]]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        upper = self.upper_cost(prediction)[0]
        if upper[chosen] > self.cap:
            return f"none stays under ${self.cap:g}; this one may cost least, ${upper[chosen]:.6f}"
        best = reason_of_best(prediction, chosen, upper <= self.cap)
        return (
            f"{best} among those under ${self.cap:g} "
            f"(stays under ${upper[chosen]:.6f} with probability {self.level:g})"
        )
