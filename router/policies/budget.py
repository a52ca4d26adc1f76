"""P1 + P6: an average budget in dollars per query, met exactly by mixing two plans."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from router.errors import RouterError
from router.policies.base import (
    Policy,
    filled,
    filled_latency,
    net_of_latency,
    require_weight,
)
from router.policies.bisection import mixture_of_two, off_the_switch
from router.policies.utility import Utility, cost_weights
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix

ROUNDING = 1e-9


@dataclass(frozen=True)
class Budget(Policy):
    """Best predicted quality at an average cost of at most `budget` dollars per query.

    Tuning finds the cost weight by bisection on validation outcomes. Where the budget falls between
    two neighbouring plans they are mixed with Pr(dear) = (budget - C_cheap) / (C_dear - C_cheap),
    so that the mean validation cost is the budget exactly.

    budget: USD per query on average. None lets validation choose by the one-standard-error rule
        (Breiman et al. 1984, section 3.4.3): of all budgets up to the best single model's cost, the
        least whose mean score is within the best one's own standard error of it.
    latency_weight: score that one second is worth; quality is what is left of it.
    dear_weight, cheap_weight, dear_share: the tuned mixture.
    """

    budget: float | None = None
    latency_weight: float = 0.0
    dear_weight: float | None = None
    cheap_weight: float | None = None
    dear_share: float = 1.0

    def __post_init__(self) -> None:
        if self.budget is not None and not self.budget > 0:
            raise RouterError(f"policy.budget is {self.budget}; give USD per query above 0.")
        require_weight(self.latency_weight)

    def tune(self, prediction: Prediction, outcomes: OutcomeMatrix) -> Self:
        scores, cost = filled(prediction, outcomes)
        if self.latency_weight > 0:
            prediction = net_of_latency(prediction, self.latency_weight)
            scores = scores - self.latency_weight * filled_latency(prediction, outcomes)
        if cost is None:
            if self.budget is not None:
                raise RouterError(
                    f"policy.budget=${self.budget:g} cannot be kept: the log has no costs; "
                    "log cost_usd, or tokens with data.prices."
                )
            return self._of_one_plan(0.0)
        if self.budget is None:
            return self._tune_to_one_standard_error(prediction, scores, cost)
        return self._tune_to_budget(prediction, cost, self.budget)

    def _of_one_plan(self, weight: float) -> Self:
        return dataclasses.replace(self, dear_weight=weight, cheap_weight=weight, dear_share=1.0)

    def _tune_to_budget(self, prediction: Prediction, cost: np.ndarray, budget: float) -> Self:
        rows = np.arange(len(prediction))

        def choices(weight: float) -> np.ndarray:
            return Utility(weight).choose(prediction)

        def spent(weight: float) -> float:
            return float(cost[rows, choices(weight)].mean())

        if spent(0.0) <= budget:
            return self._of_one_plan(0.0)
        least = spent(float("inf"))
        if least > budget:
            raise RouterError(
                f"policy.budget=${budget:g} per query is below ${least:.3g}, "
                "the mean cost of always asking the cheapest candidate; raise it."
            )
        finite = cost_weights(prediction)[1:-1]
        steps = [0.0, min(finite, default=1.0) / 2, max(finite, default=1.0) * 2, float("inf")]
        dear, cheap, share = mixture_of_two(choices, spent, budget, steps)
        return dataclasses.replace(self, dear_weight=dear, cheap_weight=cheap, dear_share=share)

    def _tune_to_one_standard_error(
        self, prediction: Prediction, scores: np.ndarray, cost: np.ndarray
    ) -> Self:
        rows = np.arange(len(prediction))
        weights = cost_weights(prediction)
        chosen = [Utility(weight).choose(prediction) for weight in weights]
        value = np.array([scores[rows, choice] for choice in chosen])
        spent = np.array([cost[rows, choice].mean() for choice in chosen])
        most = cost[:, scores.mean(axis=0).argmax()].mean() * (1 + ROUNDING)
        affordable = spent <= max(most, spent.min())
        quality = value.mean(axis=1)
        best = int(np.where(affordable, quality, -np.inf).argmax())
        error = value[best].std(ddof=1) / np.sqrt(len(rows))
        good = affordable & (quality >= quality[best] - error - ROUNDING)
        plan = int(np.where(good, spent, np.inf).argmin())
        weight = off_the_switch(lambda w: Utility(w).choose(prediction), weights[plan], +1)
        return dataclasses.replace(self._of_one_plan(weight), budget=float(spent[plan]))

    def _plans(self) -> tuple[Utility, Utility]:
        if self.dear_weight is None or self.cheap_weight is None:
            raise RouterError("This budget policy was not tuned yet; call tune on validation data.")
        seconds = self.latency_weight
        return Utility(self.dear_weight, seconds), Utility(self.cheap_weight, seconds)

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        dear, cheap = self._plans()
        if self.dear_share == 1.0:
            return dear.probabilities(prediction)
        mixed = self.dear_share * dear.probabilities(prediction)
        return mixed + (1 - self.dear_share) * cheap.probabilities(prediction)

    def path(self, prediction: Prediction) -> list[Policy]:
        return Utility(latency_weight=self.latency_weight).path(prediction)

    def reason(self, prediction: Prediction, chosen: int) -> str:
        dear, cheap = self._plans()
        plan = dear if dear.choose(prediction)[0] == chosen else cheap
        kept = "" if self.budget is None else f" (budget ${self.budget:.6f} per query)"
        return plan.reason(prediction, chosen) + kept
