"""P5: no query may cost more than a cap."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from router.errors import RouterError
from router.policies.base import Policy, cheapest_best, one_hot, require_cost, spread
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix


@dataclass(frozen=True)
class HardCap(Policy):
    """Best predicted quality among candidates whose cost stays under a cap for almost all queries.

    A candidate is allowed where an upper quantile of its cost is at most the cap: its predicted
    mean times the quantile of (logged cost / predicted cost) on validation. Where none is allowed,
    the one with the least upper cost answers.

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
            ratio = outcomes.cost[seen, j] / np.maximum(predicted[seen, j], 1e-300)
            ratios.append(float(np.quantile(ratio, self.level, method="higher")))
        return dataclasses.replace(self, ratios=tuple(ratios))

    def upper_cost(self, prediction: Prediction) -> np.ndarray:
        """(n, m) USD that a candidate's answer stays under with probability `level`."""
        if self.ratios is None:
            raise RouterError("This cap policy was not tuned yet; call tune on validation data.")
        return require_cost(prediction, "hard_cap") * np.array(self.ratios)

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        upper = self.upper_cost(prediction)
        allowed = upper <= self.cap
        quality = np.where(allowed, prediction.quality, -np.inf)
        quality[~allowed.any(axis=1)] = 0.0  # none allowed: a tie, which the least cost decides
        return one_hot(cheapest_best(quality, upper), len(prediction.candidates))

    def path(self, prediction: Prediction) -> list[Policy]:
        caps = np.exp(spread(np.log(np.maximum(self.upper_cost(prediction).ravel(), 1e-12))))
        return [dataclasses.replace(self, cap=float(cap * (1 + 1e-9))) for cap in caps[::-1]]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        upper = self.upper_cost(prediction)[0, chosen]
        if upper <= self.cap:
            return (
                f"best predicted quality among those under ${self.cap:g} "
                f"(stays under ${upper:.6f} with probability {self.level:g})"
            )
        return f"no candidate stays under ${self.cap:g}; the cheapest may cost ${upper:.6f}"
