"""P7: what the policies that explore share: cost weight, budget, floor."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from router.errors import RouterError
from router.policies.base import (
    TIE,
    Policy,
    filled,
    net_of_latency,
    require_cost,
    require_weight,
)
from router.policies.bisection import mixture_of_two
from router.policies.utility import cost_weights
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix

HALVINGS = 40  # of the logarithm of the cost weight
DOUBTS = 20  # standard deviations that set two candidates apart for good


@dataclass(frozen=True, kw_only=True)
class Exploring(Policy):
    """A policy that asks other candidates than the one predicted best too, to learn of them.

    `probabilities` is the exact propensity to log for off-policy evaluation. The draw itself is a
    hash of the prompt (`uniform_of`): every other prompt explores anew, the same one the same way.

    cost_weight: score that one US dollar is worth; infinite: cost alone.
    budget: USD per query on average, exploration included. Tuning then finds the cost weight, and
        mixes two neighbouring ones, so that the mean validation cost is the budget exactly. None
        keeps the given cost_weight.
    latency_weight: score that one second is worth.
    least_probability: of every candidate in every decision, by mixing with the uniform choice; so
        weights of off-policy evaluation are at most 1 / least_probability.
    cheap_weight, dear_share: the tuned mixture: cost_weight decides with probability dear_share,
        else cheap_weight.
    """

    option: ClassVar[str]  # what `policy=` calls it

    cost_weight: float = 0.0
    budget: float | None = None
    latency_weight: float = 0.0
    least_probability: float = 0.0
    cheap_weight: float | None = None
    dear_share: float = 1.0

    def __post_init__(self) -> None:
        if not self.cost_weight >= 0:
            raise RouterError(f"policy.cost_weight is {self.cost_weight}; give at least 0.")
        if self.budget is not None and not self.budget > 0:
            raise RouterError(f"policy.budget is {self.budget}; give USD per query above 0.")
        require_weight(self.latency_weight)
        if not 0 <= self.least_probability <= 0.5:
            raise RouterError(
                f"policy.least_probability is {self.least_probability}; give one in [0, 0.5]."
            )

    @abstractmethod
    def unfloored(self, net: Prediction, cost_weight: float) -> np.ndarray:
        """(n, m) probabilities at one cost weight, before the floor.

        net: quality less the weighted latency in place of quality."""

    def doubt(self, net: Prediction) -> np.ndarray:
        """(n, m) standard deviations that the policy lays around the quality; none here."""
        return np.zeros_like(net.quality)

    def switches(self, net: Prediction) -> list[float]:
        """Cost weights of `path`, ascending."""
        return cost_weights(net)

    def tune(self, prediction: Prediction, outcomes: OutcomeMatrix) -> Self:
        if self.budget is None:
            self._at(prediction, self.cost_weight)  # says now what it lacks
            return self
        _, cost = filled(prediction, outcomes)
        if cost is None:
            raise RouterError(
                f"policy.budget=${self.budget:g} cannot be kept: the log has no costs; "
                "log cost_usd, or tokens with data.prices."
            )
        return self._tune_to_budget(prediction, cost, self.budget)

    def _tune_to_budget(self, prediction: Prediction, cost: np.ndarray, budget: float) -> Self:
        def choices(weight: float) -> np.ndarray:
            return self._at(prediction, weight)

        def spent(weight: float) -> float:
            return float((choices(weight) * cost).sum(axis=1).mean())

        if spent(0.0) <= budget:
            return dataclasses.replace(self, cost_weight=0.0, cheap_weight=0.0, dear_share=1.0)
        least = spent(np.inf)
        if least > budget:
            raise RouterError(
                f"policy.budget=${budget:g} per query is below ${least:.3g}, the mean cost of this "
                "exploration around the cheapest candidate; raise the budget or explore less."
            )
        steps = self._steps(prediction)
        dear, cheap, share = mixture_of_two(choices, spent, budget, steps, HALVINGS)
        return dataclasses.replace(self, cost_weight=dear, cheap_weight=cheap, dear_share=share)

    def _steps(self, prediction: Prediction) -> list[float]:
        """Zero; a weight too small to tell any two costs apart; one at which any two costs weigh
        more than all quality and doubt; infinity."""
        assert prediction.cost is not None
        net = net_of_latency(prediction, self.latency_weight)
        gaps = np.diff(np.sort(prediction.cost, axis=1), axis=1)
        gaps = gaps[gaps > 0]
        if len(gaps) == 0:
            return [0.0, np.inf]
        apart = np.ptp(net.quality) + DOUBTS * (self.doubt(net).max() + TIE)
        widest = np.ptp(prediction.cost, axis=1).max()
        return [0.0, float(TIE / widest), float(apart / gaps.min()), np.inf]

    def weights(self) -> list[float]:
        """The cost weights that decide: one, or a dear and a cheap one."""
        if self.budget is not None and self.cheap_weight is None:
            raise RouterError("This policy's budget was not tuned; call tune on validation data.")
        if self.cheap_weight is None or self.dear_share == 1:
            return [self.cost_weight]
        return [self.cost_weight, self.cheap_weight]

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        return self._at(prediction, *self.weights())

    def _at(self, prediction: Prediction, *cost_weights: float) -> np.ndarray:
        """The probabilities at one cost weight, or at the mixture of two."""
        m = len(prediction.candidates)
        if self.least_probability * m > 1:
            raise RouterError(
                f"policy.least_probability is {self.least_probability}; "
                f"{m} candidates can have at most {1 / m:.3g} each."
            )
        if max(cost_weights) > 0:
            require_cost(prediction, self.option)
        net = net_of_latency(prediction, self.latency_weight)
        mixed, *cheap = (self.unfloored(net, weight) for weight in cost_weights)
        if cheap:
            mixed = self.dear_share * mixed + (1 - self.dear_share) * cheap[0]
        # Where the floors of all make one, rounding may leave a little less than nothing.
        return self.least_probability + max(1 - m * self.least_probability, 0.0) * mixed

    def path(self, prediction: Prediction) -> list[Policy]:
        fixed = dataclasses.replace(self, budget=None, cheap_weight=None, dear_share=1.0)
        net = net_of_latency(prediction, self.latency_weight)
        return [dataclasses.replace(fixed, cost_weight=weight) for weight in self.switches(net)]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        net = net_of_latency(prediction, self.latency_weight)
        ways = (self.merit(prediction, net, weight, chosen) for weight in self.weights())
        why = next((merit for merit in ways if merit is not None), "explores")
        return f"{why}; drawn with probability {self.probabilities(prediction)[0, chosen]:.3g}"

    @abstractmethod
    def merit(
        self, prediction: Prediction, net: Prediction, cost_weight: float, chosen: int
    ) -> str | None:
        """What speaks for `chosen` at one cost weight; None where it is mere exploration."""
