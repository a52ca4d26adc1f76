"""When to stop, learned backwards from the last step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Self

import numpy as np

from router.errors import RouterError
from router.policies.base import (
    TIE,
    Policy,
    cheapest_best,
    filled,
    require_cost,
)
from router.policies.bisection import neighbours
from router.policies.sequential import (
    STOP,
    Sequential,
    cheapest_near_best,
    require_judged,
    router_alone,
)
from router.policies.utility import cost_weights
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix

SETTINGS = 40  # of the path
MOST_HISTORIES = 4096
NEVER = 1e6  # a mean cost weighs so many scores: no gain pays for it
ROUNDING = 1e-9


@dataclass(frozen=True)
class LearnedStopping(Sequential):
    """A partially observed decision process with one action more than stopping: ask the next.

    What is seen is how well each answer so far was judged, in `bins` of equal size; what is hidden
    is how good the answers are. For every history of bins the value of stopping is the mean score
    of the last answer, and the value of going on the mean of what the rest of the list then yields
    less its weighted cost, both over validation queries of that history and shrunk to the history
    without its latest answer. Solved exactly from the last step back, as AutoMix does with its
    POMDP (arXiv 2310.12963) on self-verification, and DER (an MDP over the answers so far) by
    reinforcement learning.

    budget: USD per query on average, by bisection of the cost weight; None lets validation choose
        by the one-standard-error rule (see cheapest_near_best), for the list that scores best at
        the best single candidate's cost.
    max_steps: most candidates asked of one query; lists run by rising mean cost, and the one that
        scores best on validation is taken.
    bins: of the judged quality, at each step.
    shrinkage: validation queries that a shorter history counts for.
    steps, edges, goes_on: tuned: the list; of each step but the last its bins' inner edges, and
        whether to go on, history by history (bins of the earlier answers first).
    """

    budget: float | None = None
    max_steps: int = 3
    bins: int = 5
    shrinkage: float = 10.0
    steps: tuple[str, ...] = ()
    edges: tuple[tuple[float, ...], ...] = ()
    goes_on: tuple[tuple[int, ...], ...] = ()
    alone: Policy | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and not self.budget > 0:
            raise RouterError(f"policy.budget is {self.budget}; give USD per query above 0.")
        if not self.bins >= 2:
            raise RouterError(f"policy.bins is {self.bins}; give at least 2.")
        if not self.max_steps >= 1 or self.bins ** (self.max_steps - 1) > MOST_HISTORIES:
            raise RouterError(
                f"policy.max_steps is {self.max_steps} with {self.bins} bins, which makes no step "
                f"or more than {MOST_HISTORIES:,} histories; give fewer."
            )
        if not self.shrinkage >= 0:
            raise RouterError(f"policy.shrinkage is {self.shrinkage}; give queries from 0 up.")

    def tune(self, prediction: Prediction, outcomes: OutcomeMatrix) -> Self:
        require_judged(prediction, outcomes, "learned_stopping")
        scores, cost = filled(prediction, outcomes)
        if cost is None:
            require_cost(dataclasses.replace(prediction, cost=None), "learned_stopping")
        assert cost is not None
        least = float(cost.mean(axis=0).min())
        budget = self.budget
        if budget is None:
            budget = float(cost.mean(axis=0)[scores.mean(axis=0).argmax()])
        elif budget * (1 + ROUNDING) < least:
            raise RouterError(
                f"policy.budget=${budget:g} per query is below ${least:.3g}, the mean cost of "
                "always asking the cheapest candidate; raise it."
            )
        best, gained = None, -np.inf
        for columns in self._lists(cost.mean(axis=0)):
            tuned = self._within(budget, columns, prediction, scores, cost)
            score = -np.inf if tuned is None else tuned._mean(prediction, scores, cost)[0]
            if score > gained + ROUNDING:
                best, gained = tuned, score
        assert best is not None  # the cheapest candidate alone keeps the budget
        if self.budget is None:
            columns = tuple(prediction.candidates.index(name) for name in best.steps)
            plans = [
                self._solved(columns, weight, prediction, scores, cost)
                for weight in _weights(prediction, cost)
            ]
            best, budget = cheapest_near_best(plans, prediction, scores, cost)
        alone = router_alone(prediction, outcomes, budget)
        return dataclasses.replace(best, budget=budget, alone=alone)

    def _lists(self, mean_cost: np.ndarray) -> Iterator[tuple[int, ...]]:
        rising = np.argsort(mean_cost, kind="stable").tolist()
        for length in range(1, min(self.max_steps, len(rising)) + 1):
            yield from combinations(rising, length)

    def _mean(
        self, prediction: Prediction, scores: np.ndarray, cost: np.ndarray
    ) -> tuple[float, float]:
        expected = self.expected(prediction, scores, cost)
        assert expected.cost is not None
        return float(expected.score.mean()), float(expected.cost.mean())

    def _within(
        self,
        budget: float,
        columns: tuple[int, ...],
        prediction: Prediction,
        scores: np.ndarray,
        cost: np.ndarray,
    ) -> Self | None:
        """The list at the least cost weight that keeps the budget; None where none does."""

        def spent(weight: float) -> float:
            solved = self._solved(columns, weight, prediction, scores, cost)
            return solved._mean(prediction, scores, cost)[1]

        budget *= 1 + ROUNDING
        if spent(0.0) <= budget:
            return self._solved(columns, 0.0, prediction, scores, cost)
        if cost[:, columns[0]].mean() > budget:
            return None
        never = NEVER / float(cost[:, columns[1:]].mean(axis=0).min())
        _, within = neighbours(spent, budget, [0.0, never * 1e-15, never], halvings=30)
        return self._solved(columns, within, prediction, scores, cost)

    def _solved(
        self,
        columns: tuple[int, ...],
        weight: float,
        prediction: Prediction,
        scores: np.ndarray,
        cost: np.ndarray,
    ) -> Self:
        """The list with its best rule at a cost weight, by backward induction."""
        assert prediction.judged is not None
        judged = prediction.judged[:, columns[:-1]]
        edges = [_edges(values, self.bins) for values in judged.T]
        levels = [_bin(values, inner) for values, inner in zip(judged.T, edges, strict=True)]
        histories = [np.zeros(len(scores), dtype=int)]
        for level in levels:
            histories.append(histories[-1] * self.bins + level)
        value = scores[
            :, columns[-1]
        ]  # what the list yields from the step on, its cost not counted
        rules: list[tuple[int, ...]] = []
        for k in range(len(columns) - 2, -1, -1):
            stay = scores[:, columns[k]]
            after = value - weight * cost[:, columns[k + 1]]
            stop, go = (
                _shrunken(histories[: k + 2], values, self.bins, self.shrinkage)
                for values in (stay, after)
            )
            rule = go > stop + TIE
            rules.append(tuple(rule.astype(int).tolist()))
            value = np.where(rule[histories[k + 1]], after, stay)
        return dataclasses.replace(
            self,
            steps=tuple(prediction.candidates[j] for j in columns),
            edges=tuple(map(tuple, edges)),
            goes_on=tuple(rules[::-1]),
        )

    def next_step(self, prediction: Prediction, asked: np.ndarray, last: np.ndarray) -> np.ndarray:
        if not self.steps:
            raise RouterError("This policy was not tuned yet; call tune on validation data.")
        present = [name for name in self.steps if name in prediction.candidates]
        if not present:
            return np.where(last == STOP, cheapest_best(prediction.quality, prediction.cost), STOP)
        columns = np.array([prediction.candidates.index(name) for name in present])
        left = ~asked[:, columns]
        following = np.where(left.any(axis=1), columns[left.argmax(axis=1)], STOP)
        if prediction.judged is None:
            return np.where(last == STOP, following, STOP)
        begun = last != STOP
        return np.where(begun & ~self._wants_more(prediction, last), STOP, following)

    def _wants_more(self, prediction: Prediction, last: np.ndarray) -> np.ndarray:
        """(n,) whether the history up to the last answer is one to go on from. A step that may not
        be asked, or was not judged, counts as one of the middle bin."""
        assert prediction.judged is not None
        n = len(last)
        wants, history = np.zeros(n, dtype=bool), np.zeros(n, dtype=int)
        for name, inner, rule in zip(self.steps, self.edges, self.goes_on, strict=False):
            level = np.full(n, self.bins // 2)
            if name in prediction.candidates:
                column = prediction.candidates.index(name)
                level = _bin(prediction.judged[:, column], inner)
            history = history * self.bins + level
            if name in prediction.candidates:
                wants = np.where(last == column, np.array(rule, dtype=bool)[history], wants)
        return wants

    def path(self, prediction: Prediction) -> list[Policy]:
        require_judged(prediction, None, "learned_stopping")
        assert prediction.judged is not None
        cost = require_cost(prediction, "learned_stopping")
        known = np.where(np.isnan(prediction.judged), prediction.quality, prediction.judged)
        steps = self.steps or tuple(
            prediction.candidates[j] for j in np.argsort(cost.mean(axis=0))[: self.max_steps]
        )
        columns = tuple(prediction.candidates.index(name) for name in steps)
        plans: list[Policy] = []
        for weight in _weights(prediction, cost):
            plan = self._solved(columns, weight, prediction, known, cost)
            if not plans or plan != plans[-1]:
                plans.append(plan)
        return plans

    def reason(self, prediction: Prediction, chosen: int) -> str:
        name = prediction.candidates[chosen]
        if name not in self.steps:
            return f"not among the steps {' -> '.join(self.steps)}"
        place = self.steps.index(name)
        what = f"step {place + 1} of {' -> '.join(self.steps)}"
        if place == len(self.steps) - 1:
            return f"{what}; its answer stands"
        return f"{what}; how well its answer is judged decides whether the next is asked"


def _weights(prediction: Prediction, cost: np.ndarray) -> list[float]:
    """Cost weights from quality alone to such as no gain pays for."""
    finite = np.array(cost_weights(prediction)[1:-1] or [1.0])
    ends = np.log(finite.min() / 8), np.log(finite.max() * 8)
    never = NEVER / float(cost.mean(axis=0).min())
    return [0.0, *np.exp(np.linspace(*ends, SETTINGS)).tolist(), never]


def _edges(judged: np.ndarray, bins: int) -> tuple[float, ...]:
    known = judged[~np.isnan(judged)]
    if not len(known):
        return (0.5,) * (bins - 1)
    return tuple(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1]).tolist())


def _bin(judged: np.ndarray, edges: tuple[float, ...]) -> np.ndarray:
    """(n,) bin of each; the middle one where it was not judged."""
    level = np.searchsorted(np.array(edges), judged, side="right")
    return np.where(np.isnan(judged), (len(edges) + 1) // 2, level)


def _shrunken(
    histories: list[np.ndarray], values: np.ndarray, bins: int, shrinkage: float
) -> np.ndarray:
    """(bins ** length,) mean of the values in every history, shrunk to the one that is shorter by
    an answer, and so on to the overall mean. histories: (n,) codes at every length from 0."""
    means = np.array([values.mean()])
    for length, codes in enumerate(histories[1:], 1):
        count = np.bincount(codes, minlength=bins**length)
        total = np.bincount(codes, values, bins**length)
        parents = np.repeat(means, bins)
        weight = count + shrinkage
        means = np.where(
            weight > 0, (total + shrinkage * parents) / np.maximum(weight, 1e-12), parents
        )
    return means
