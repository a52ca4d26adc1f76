"""An ordered list of candidates with a threshold each: the next is asked where an answer's judged
quality stays below."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from router.errors import RouterError
from router.policies.base import (
    PATH_POINTS,
    Policy,
    cheapest_best,
    filled,
    require_cost,
    spread,
)
from router.policies.sequential import STOP, Sequential, require_judged, router_alone
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix

MOST_PERMUTED = 5  # candidates of which every order is tried
GRID = {1: 512, 2: 96, 3: 24, 4: 12}  # thresholds tried of a step, by how many steps have one
ROUNDING = 1e-9


@dataclass(frozen=True)
class Cascade(Sequential):
    """FrugalGPT's cascade (arXiv 2305.05176): the ordered list of candidates, and the threshold of
    each, that score best within an average budget.

    Every list of up to max_steps candidates is tried: in every order where there are up to five
    candidates, beyond that by rising mean cost. Of each, all combinations of thresholds from the
    quantiles of the judged quality are scored at once from cumulated histograms: all that differ
    for a list of two of up to 512 queries, and beyond that each threshold is within 1/512 of the
    queries of any other (1/96 for a list of three, 1/24 for four).

    budget: USD per query on average. None lets validation choose by the one-standard-error rule, as
        Budget does: the cheapest whose mean score is within the best one's standard error of it, of
        those that cost no more than the best single candidate.
    max_steps: most candidates asked of one query; up to 5.
    order: the list, where it is not to be searched: names, or "rising" for all by rising mean cost
        (EcoAssistant, arXiv 2310.03046).
    steps, thresholds: the tuned list; an answer of step k stands if its judged quality is at least
        thresholds[k], the last step's always.
    """

    budget: float | None = None
    max_steps: int = 3
    order: tuple[str, ...] | str | None = None
    steps: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    alone: Policy | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and not self.budget > 0:
            raise RouterError(f"policy.budget is {self.budget}; give USD per query above 0.")
        if not 1 <= self.max_steps <= max(GRID) + 1:
            raise RouterError(
                f"policy.max_steps is {self.max_steps}; give a number from 1 to {max(GRID) + 1}."
            )
        if isinstance(self.order, str) and self.order != "rising":
            raise RouterError(f"policy.order is {self.order!r}; give a list of names, or rising.")
        if self.order is not None and not isinstance(self.order, str):
            object.__setattr__(self, "order", tuple(self.order))  # a list, as Hydra gives it

    def tune(self, prediction: Prediction, outcomes: OutcomeMatrix) -> Self:
        require_judged(prediction, outcomes, "cascade")
        scores, cost = filled(prediction, outcomes)
        if cost is None:
            require_cost(dataclasses.replace(prediction, cost=None), "cascade")
        assert cost is not None
        plans = list(self._plans(prediction, scores, cost))
        spent = np.array([plan.cost for plan in plans])
        gained = np.array([plan.score for plan in plans])
        if self.budget is not None:
            if spent.min() > self.budget * (1 + ROUNDING):
                raise RouterError(
                    f"policy.budget=${self.budget:g} per query is below ${spent.min():.3g}, the "
                    "mean cost of the cheapest cascade; raise it."
                )
            affordable = spent <= self.budget * (1 + ROUNDING)
            best = np.lexsort((spent, -np.where(affordable, gained, -np.inf)))[0]
            alone = router_alone(prediction, outcomes, self.budget)
            return dataclasses.replace(self._of(plans[best], prediction.candidates), alone=alone)
        most = cost.mean(axis=0)[scores.mean(axis=0).argmax()] * (1 + ROUNDING)
        affordable = spent <= max(most, spent.min())
        best = np.lexsort((spent, -np.where(affordable, gained, -np.inf)))[0]
        tuned = self._of(plans[best], prediction.candidates)
        each = tuned.expected(prediction, scores).score
        near = affordable & (gained >= gained[best] - each.std(ddof=1) / np.sqrt(len(each)))
        chosen = plans[np.lexsort((-gained, np.where(near, spent, np.inf)))[0]]
        # Settled, so that the baselines it is compared with may spend as much.
        return dataclasses.replace(
            self._of(chosen, prediction.candidates),
            budget=chosen.cost,
            alone=router_alone(prediction, outcomes, chosen.cost),
        )

    def _of(self, plan: _Plan, candidates: tuple[str, ...]) -> Self:
        steps = tuple(candidates[j] for j in plan.columns)
        return dataclasses.replace(self, steps=steps, thresholds=plan.thresholds)

    def _plans(
        self, prediction: Prediction, scores: np.ndarray, cost: np.ndarray
    ) -> Iterator[_Plan]:
        """Of every list, the plans that no other of the same list betters at no more cost."""
        assert prediction.judged is not None
        for columns in self._lists(prediction.candidates, cost.mean(axis=0)):
            yield from _best_plans(columns, prediction.judged, scores, cost)

    def _lists(
        self, candidates: tuple[str, ...], mean_cost: np.ndarray
    ) -> Iterator[tuple[int, ...]]:
        m = len(candidates)
        rising = np.argsort(mean_cost, kind="stable").tolist()
        if self.order is not None:
            yield tuple(rising) if self.order == "rising" else self._named(candidates)
            return
        for length in range(1, min(self.max_steps, m) + 1):
            yield from (permutations if m <= MOST_PERMUTED else combinations)(rising, length)

    def _named(self, candidates: tuple[str, ...]) -> tuple[int, ...]:
        assert self.order is not None
        unknown = [name for name in self.order if name not in candidates]
        if unknown or not self.order or len(set(self.order)) < len(self.order):
            raise RouterError(
                f"policy.order is {list(self.order)}; give different names out of "
                f"{', '.join(candidates)}."
            )
        return tuple(candidates.index(name) for name in self.order)

    def next_step(self, prediction: Prediction, asked: np.ndarray, last: np.ndarray) -> np.ndarray:
        if not self.steps:
            raise RouterError("This cascade was not tuned yet; call tune on validation data.")
        least_of = dict(zip(self.steps, (*self.thresholds, -np.inf), strict=True))
        # A step that may not be asked is passed over.
        present = [name for name in self.steps if name in prediction.candidates]
        if not present:
            return np.where(last == STOP, cheapest_best(prediction.quality, prediction.cost), STOP)
        columns = np.array([prediction.candidates.index(name) for name in present])
        left = ~asked[:, columns]
        following = np.where(left.any(axis=1), columns[left.argmax(axis=1)], STOP)
        if prediction.judged is None:
            return np.where(last == STOP, following, STOP)
        least = np.array([least_of.get(name, -np.inf) for name in prediction.candidates])
        good = prediction.judged[np.arange(len(last)), last] >= least[last]
        return np.where(good & (last != STOP), STOP, following)

    def path(self, prediction: Prediction) -> list[Policy]:
        require_judged(prediction, None, "cascade")
        assert prediction.judged is not None
        cost = require_cost(prediction, "cascade")
        known = np.where(np.isnan(prediction.judged), prediction.quality, prediction.judged)
        plans = list(self._plans(prediction, known, cost))
        order = np.lexsort(([-plan.score for plan in plans], [plan.cost for plan in plans]))
        kept: list[_Plan] = []
        for i in order:
            if not kept or plans[i].score > kept[-1].score + ROUNDING:
                kept.append(plans[i])
        rows = spread(np.arange(len(kept)), PATH_POINTS)
        return [self._of(kept[i], prediction.candidates) for i in rows[::-1].astype(int)]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        name = prediction.candidates[chosen]
        if name not in self.steps:
            return f"not among the steps {' -> '.join(self.steps)}"
        place = self.steps.index(name)
        what = f"step {place + 1} of {' -> '.join(self.steps)}"
        if place == len(self.steps) - 1:
            return f"{what}; its answer stands"
        return f"{what}; its answer stands if it is judged at least {self.thresholds[place]:.3f}"


class _Plan(NamedTuple):
    """A list of columns, its thresholds, and its mean score and cost."""

    columns: tuple[int, ...]
    thresholds: tuple[float, ...]
    score: float
    cost: float


def _best_plans(
    columns: tuple[int, ...], judged: np.ndarray, scores: np.ndarray, cost: np.ndarray
) -> list[_Plan]:
    """The list at those thresholds that no others of it better at no more cost."""
    n, inner = len(scores), columns[:-1]
    if not inner:
        (column,) = columns
        return [_Plan(columns, (), scores[:, column].mean(), cost[:, column].mean())]
    grids = [spread(judged[~np.isnan(judged[:, j]), j], GRID[len(inner)]) for j in inner]
    if not all(len(grid) for grid in grids):
        return []
    # Level t: the answer is good enough for the first t thresholds. Unjudged, it always stands.
    levels = [
        np.where(np.isnan(judged[:, j]), len(grid), np.searchsorted(grid, judged[:, j], "right"))
        for j, grid in zip(inner, grids, strict=True)
    ]
    shape = tuple(len(grid) for grid in grids)
    score, spent = np.zeros(shape), np.zeros(shape)
    for k, column in enumerate(columns):
        reached = _sums(levels[:k], shape[:k], np.stack([scores[:, column], cost[:, column]]))
        wide = (..., *(None,) * (len(inner) - k))
        spent += reached[1][wide]
        score += reached[0][wide]
        if k < len(inner):  # less what was not good enough here
            left = _sums(levels[: k + 1], shape[: k + 1], scores[None, :, column])[0]
            score -= left[(..., *(None,) * (len(inner) - k - 1))]
    score, spent = score / n, spent / n
    kept = _undominated(score.ravel(), spent.ravel())
    places = np.unravel_index(kept, shape)
    return [
        _Plan(
            columns,
            tuple(float(grid[t]) for grid, t in zip(grids, where, strict=True)),
            float(score[where]),
            float(spent[where]),
        )
        for where in zip(*(place.tolist() for place in places), strict=True)
    ]


def _sums(levels: Sequence[np.ndarray], shape: tuple[int, ...], values: np.ndarray) -> np.ndarray:
    """(v, *shape) sum of each of (v, n) values over the queries whose answers at every step stay
    below the threshold of each place of `shape`."""
    if not levels:
        return values.sum(axis=1)
    sizes = tuple(size + 1 for size in shape)
    flat = np.ravel_multi_index(tuple(levels), sizes)
    count = int(np.prod(sizes))
    sums = np.stack([np.bincount(flat, row, count).reshape(sizes) for row in values])
    for axis in range(1, sums.ndim):  # an answer of level t fails threshold t and those above
        sums = sums.cumsum(axis=axis)
    return sums[(slice(None), *(slice(size) for size in shape))]


def _undominated(score: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Places by rising cost at which the score rises."""
    order = np.lexsort((-score, cost))
    best = np.maximum.accumulate(score[order])
    rises = np.concatenate([[True], best[1:] > best[:-1] + ROUNDING])
    return order[rises]
