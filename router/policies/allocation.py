"""P4: an average budget and a capacity for each candidate, kept by prices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from router.errors import RouterError
from router.policies.base import Policy, filled, one_hot, require_cost
from router.policies.bisection import off_the_switch
from router.policies.utility import Utility, cost_weights
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix

GAIN = 1e-7  # of mean quality, or of the mean cost: less is the solver's own tolerance
MOST_PLANS = 2000
COST_ALONE = 1e6  # times any price at which choices change: quality no longer counts


@dataclass(frozen=True)
class Allocation(Policy):
    """Best predicted quality at an average cost of at most `budget` dollars per query, while no
    candidate answers more than its capacity's share of the queries.

    On validation this is the linear program that FORC (arXiv 2308.06077) and OmniRouter (arXiv
    2502.20576) solve for a batch: maximise mean sum_j p_ij q_ij subject to mean sum_j p_ij c_ij <=
    budget and mean p_ij <= capacity_j. Its dual is a price of a dollar and a price of each
    candidate's answer; a query alone then takes argmax q - dollar_price x c - answer_price, as in
    the online form of Wu and Silwal (2025). Queries that are tied at the optimum need a mixture:
    Dantzig and Wolfe's decomposition (1960) solves the program by plans, each of them an argmax at
    prices of its own, and ends with at most as many plans as there are limits and one more, whose
    mixture meets budget and capacities exactly. A plan is made from predicted costs; what it
    spends is counted in logged ones.

    budget: USD per query on average; None for no limit.
    capacities: candidate -> share of the queries that it may answer; without limit if not named.
    plans: the tuned mixture: of each plan its share, the price of a dollar, and the price of an
        answer of each candidate, all in score.
    """

    budget: float | None = None
    capacities: Mapping[str, float] | tuple[tuple[str, float], ...] | None = None
    plans: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and not self.budget > 0:
            raise RouterError(f"policy.budget is {self.budget}; give USD per query above 0.")
        if isinstance(self.capacities, Mapping):
            pairs = tuple((str(name), share) for name, share in self.capacities.items())
            object.__setattr__(self, "capacities", pairs)
        for name, share in self._capacities().items():
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
                raise RouterError(
                    f"policy.capacities.{name} is {share}; give a share of the queries in [0, 1]."
                )

    def _capacities(self) -> dict[str, float]:
        return dict(self.capacities or ())

    def tune(self, prediction: Prediction, outcomes: OutcomeMatrix) -> Self:
        _, cost = filled(prediction, outcomes)
        if cost is None and self.budget is not None:
            raise RouterError(
                f"policy.budget=${self.budget:g} cannot be kept: the log has no costs; "
                "log cost_usd, or tokens with data.prices."
            )
        limits = self._limits(prediction.candidates)
        program = Program(prediction, cost, limits)
        if cost is not None and self.budget is not None:
            least = program.least_cost(self.budget)
            if least > self.budget * (1 + GAIN):
                why = "these capacities allow" if self._capacities() else "any plan can have"
                raise RouterError(
                    f"policy.budget=${self.budget:g} per query is below ${least:.3g}, "
                    f"the least mean cost that {why}; raise it."
                )
        return dataclasses.replace(self, plans=program.solve(self.budget).plans)

    def _limits(self, candidates: tuple[str, ...]) -> np.ndarray:
        """(m,) capacities; infinite for candidates without one."""
        capacities = self._capacities()
        unknown = [name for name in capacities if name not in candidates]
        if unknown:
            raise RouterError(
                f"policy.capacities names {unknown[0]!r}, which is none of the candidates "
                f"{', '.join(candidates)}."
            )
        limits = np.array([capacities.get(name, np.inf) for name in candidates])
        if limits.sum() < 1:
            raise RouterError(
                f"policy.capacities hold {limits.sum():.1%} of the queries; raise them to 100 % or "
                "leave out a candidate that needs no limit."
            )
        return limits

    def _plans(self) -> list[tuple[float, _Plan]]:
        if self.plans is None:
            raise RouterError("This allocation was not tuned yet; call tune on validation data.")
        return [(share, _Plan(dollar, np.array(answer))) for share, dollar, *answer in self.plans]

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        m = len(prediction.candidates)
        parts = [share * one_hot(plan.choose(prediction), m) for share, plan in self._plans()]
        mixed = np.sum(parts, axis=0)
        return np.asarray(mixed / mixed.sum(axis=1, keepdims=True))

    def path(self, prediction: Prediction) -> list[Policy]:
        """The price of a dollar from 0 to where cost alone counts, at the tuned prices of answers.

        They hold for the tuned budget: at others, the capacities are not promised."""
        answer = np.zeros(len(prediction.candidates))
        for share, plan in [] if self.plans is None else self._plans():
            answer = answer + share * plan.answer
        tolled = dataclasses.replace(prediction, quality=prediction.quality - answer)
        finite = cost_weights(tolled)[1:-1]
        dollars = [0.0] if prediction.cost is None else [0.0, *finite, _beyond(prediction)]
        return [
            dataclasses.replace(self, plans=((1.0, dollar, *answer.tolist()),))
            for dollar in dollars
        ]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        plan = next(plan for _, plan in self._plans() if plan.choose(prediction)[0] == chosen)
        spent = 0.0 if prediction.cost is None else plan.dollar * prediction.cost[0, chosen]
        return (
            f"predicted quality {prediction.quality[0, chosen]:.3f} less {spent:.3g} for its cost "
            f"and {plan.answer[chosen]:.3g} for its capacity is the greatest"
        )


@dataclass(frozen=True, eq=False)
class _Plan:
    """argmax of quality less the price of the dollars and the price of the answer."""

    dollar: float
    answer: np.ndarray

    def choose(self, prediction: Prediction) -> np.ndarray:
        """(n,) chosen candidate; ties go to the cheaper."""
        tolled = dataclasses.replace(prediction, quality=prediction.quality - self.answer)
        return Utility(self.dollar).choose(tolled)

    def off_the_switch(self, prediction: Prediction) -> _Plan:
        """A plan of the same choices with prices some way off those at which a query switches:
        rounding in the artifact must not decide for the queries that are alike."""

        def scaled(factor: float) -> _Plan:
            return _Plan(self.dollar * factor, self.answer * factor)

        def choices(factor: float) -> np.ndarray:
            return scaled(factor).choose(prediction)

        up = off_the_switch(choices, 1.0, +1)
        return scaled(up if up != 1.0 else off_the_switch(choices, 1.0, -1))


@dataclass(frozen=True, eq=False)
class Solution:
    """The best mixture and the shadow prices of its limits.

    plans: as `Allocation.plans`.
    dollar: what one more dollar would add to the summed score of the queries.
    answer: (m,) what one more answer of each candidate would add to it.
    """

    plans: tuple[tuple[float, ...], ...]
    dollar: float
    answer: np.ndarray


class Program:
    """The linear program, over mixtures of plans that are added while one would improve it.

    prediction: what the plans decide by.
    cost: (n, m) what answers cost, which the plans do not see; None without costs.
    limits: (m,) largest share of each candidate.
    """

    def __init__(self, prediction: Prediction, cost: np.ndarray | None, limits: np.ndarray):
        self.prediction = prediction
        self.cost = cost
        self.limited = np.flatnonzero(limits < 1)
        self.limits = limits[self.limited]
        self.scale = 1.0 if cost is None else float(cost.mean()) or 1.0
        self.plans: list[_Plan] = []
        self.quality: list[float] = []
        self.spent: list[float] = []  # as a multiple of the mean cost
        self.loads: list[np.ndarray] = []
        m = len(limits)
        # Always asking one candidate: mixtures of these keep any capacities that can be kept.
        toll = 2 * (np.ptp(prediction.quality) + 1)
        starts = [_Plan(0.0, np.zeros(m))]
        starts += [_Plan(0.0, toll * (np.arange(m) != j)) for j in range(m)]
        for plan in starts if len(self.limits) else starts[:1]:
            self._add(plan)

    def _measure(self, plan: _Plan) -> tuple[float, float, np.ndarray]:
        chosen = plan.choose(self.prediction)
        rows = np.arange(len(chosen))
        spent = 0.0 if self.cost is None else self.cost[rows, chosen].mean() / self.scale
        load = np.bincount(chosen, minlength=len(self.prediction.candidates)) / len(chosen)
        return float(self.prediction.quality[rows, chosen].mean()), float(spent), load

    def _add(self, plan: _Plan) -> None:
        quality, spent, load = self._measure(plan)
        self.plans.append(plan)
        self.quality.append(quality)
        self.spent.append(spent)
        self.loads.append(load[self.limited])

    def least_cost(self, enough: float) -> float:
        """USD per query of the cheapest mixture within the capacities; the search ends at a cost
        that is low enough."""
        large = _beyond(self.prediction)
        self._add(_Plan(large, np.zeros(len(self.prediction.candidates))))
        while True:
            weights, tolls, worth = _best_mixture(
                -np.array(self.spent), np.array(self.loads), self.limits
            )
            least = float(weights @ self.spent) * self.scale
            answer = self._per_candidate(tolls) * self.scale * large
            _, spent, load = self._measure(_Plan(large, answer))
            gain = -spent - tolls @ load[self.limited] - worth
            if least <= enough or gain <= GAIN or len(self.plans) >= MOST_PLANS:
                return least
            self._add(_Plan(large, answer))

    def solve(self, budget: float | None) -> Solution:
        """The best mixture within the capacities and a budget in USD per query that they allow."""
        while True:
            used, limits = np.array(self.loads), self.limits
            if budget is not None:
                used = np.column_stack([self.spent, used])
                limits = np.concatenate([[budget / self.scale], limits])
            weights, prices, worth = _best_mixture(np.array(self.quality), used, limits)
            dollar = 0.0 if budget is None else float(prices[0])
            tolls = prices if budget is None else prices[1:]
            plan = _Plan(dollar / self.scale, self._per_candidate(tolls))
            quality, spent, load = self._measure(plan)
            gain = quality - dollar * spent - tolls @ load[self.limited] - worth
            if gain <= GAIN or len(self.plans) >= MOST_PLANS:
                break
            self._add(plan)
        mixture = []
        for k in np.flatnonzero(weights > GAIN):
            part = self.plans[k].off_the_switch(self.prediction)
            mixture.append((float(weights[k]), part.dollar, *part.answer.tolist()))
        return Solution(tuple(mixture), plan.dollar, plan.answer)

    def _per_candidate(self, tolls: np.ndarray) -> np.ndarray:
        answer = np.zeros(len(self.prediction.candidates))
        answer[self.limited] = tolls
        return answer


def _best_mixture(
    value: np.ndarray, used: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """(K,) weights of the plans that maximise value within the limits, the (r,) prices of these,
    and what the mixture itself is worth at those prices.

    value: (K,). used: (K, r). limits: (r,).
    """
    from scipy.optimize import linprog  # the runtime decides by the prices, without scipy

    solution = linprog(
        -value,
        A_ub=used.T if len(limits) else None,
        b_ub=limits if len(limits) else None,
        A_eq=np.ones((1, len(value))),
        b_eq=[1.0],
        method="highs-ds",  # a corner: no more plans than limits and one
    )
    if solution.x is None:
        raise RouterError(f"The allocation could not be solved ({solution.message.strip()}).")
    prices = np.maximum(-solution.ineqlin.marginals, 0.0)
    return np.maximum(solution.x, 0.0), prices, float(-solution.eqlin.marginals[0])


def _beyond(prediction: Prediction) -> float:
    """A finite price of a dollar at which cost alone counts."""
    mean = float(require_cost(prediction, "allocation").mean())
    finite = cost_weights(prediction)[1:-1]
    largest = max(finite, default=0.0) or 1 / max(mean, 1e-12)
    return COST_ALONE * largest
