"""Routing and cascading as one problem: after every answer, the further candidates that are worth
asking are found anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from statistics import NormalDist
from typing import TYPE_CHECKING, Self

import numpy as np

from router.errors import RouterError
from router.policies.base import TIE, Policy, filled, require_cost
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

DRAWS = 64
SETTINGS = 30  # of the path: each replays every query
STEP_FACTORS = (0.5, 0.71, 1.41, 2.0)
ROUNDING = 1e-9


@dataclass(frozen=True)
class CascadeRouting(Sequential):
    """Cascade routing (Dekoninck et al., arXiv 2410.10347): of all sets of candidates that contain
    those already asked, the one with the greatest expected quality less its weighted further cost
    is aimed at, and its cheapest candidate not yet asked is asked next; where none betters what is
    there, the answer that is judged best is returned. Nobody is asked twice.

    The expected quality of a set is that of its best-judged answer. What a judge will say of an
    answer not yet seen is taken as Gaussian around the predicted quality, with the covariance of
    judged less predicted quality on validation; given the answers that were seen, as the Gaussian
    is then. So a hard query, on which all fail together, is not worth a second try.

    budget: USD per query on average, kept by bisection of the cost weight on validation. None lets
        validation choose by the one-standard-error rule (see cheapest_near_best).
    depth: most further candidates that are weighed together. 1 weighs each alone.
    uncertainty: False takes the predicted quality for certain; with depth 1 that is post-hoc
        deferral: go on where the expected gain exceeds the weighted cost of the next step
        (Jitkrittum et al., arXiv 2307.02764).
    per_step: whether each step has a cost weight of its own (the paper's lambdas), found by
        coordinate search on validation at the same budget.
    step_weights: tuned score per USD, by how many answers were seen; the last holds beyond.
    names, covariance: tuned; of the candidates in this order.
    """

    budget: float | None = None
    depth: int = 2
    uncertainty: bool = True
    per_step: bool = False
    step_weights: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    covariance: tuple[tuple[float, ...], ...] = ()
    alone: Policy | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and not self.budget > 0:
            raise RouterError(f"policy.budget is {self.budget}; give USD per query above 0.")
        if not self.depth >= 1:
            raise RouterError(f"policy.depth is {self.depth}; give at least 1.")

    def tune(self, prediction: Prediction, outcomes: OutcomeMatrix) -> Self:
        require_judged(prediction, outcomes, "cascade_routing")
        scores, cost = filled(prediction, outcomes)
        if cost is None:
            require_cost(dataclasses.replace(prediction, cost=None), "cascade_routing")
        assert cost is not None
        learned = self._learned(prediction)
        if self.budget is None:
            plans = [learned._weighing((weight,)) for weight in _weights(prediction)]
            tuned, budget = cheapest_near_best(plans, prediction, scores, cost)
        else:
            budget = self.budget
            tuned = learned._within(budget, prediction, scores, cost)
        if self.per_step:
            tuned = tuned._by_step(budget, prediction, scores, cost)
        alone = router_alone(prediction, outcomes, budget)
        return dataclasses.replace(tuned, budget=budget, alone=alone)

    def _learned(self, prediction: Prediction) -> Self:
        assert prediction.judged is not None
        surprise = prediction.judged - prediction.quality
        known = ~np.isnan(surprise)
        count = known.T.astype(float) @ known
        centred = np.where(known, surprise - np.nanmean(np.where(known, surprise, 0.0), axis=0), 0)
        pairs = centred.T @ centred / np.maximum(count, 1)
        # Cells of different queries need not make a covariance; the nearest one is taken.
        values, vectors = np.linalg.eigh(pairs)
        covariance = (vectors * np.maximum(values, 0)) @ vectors.T
        return dataclasses.replace(
            self,
            names=prediction.candidates,
            covariance=tuple(map(tuple, covariance.tolist())),
            step_weights=(0.0,),
        )

    def _spent(self, prediction: Prediction, scores: np.ndarray, cost: np.ndarray) -> float:
        spent = self.expected(prediction, scores, cost).cost
        assert spent is not None
        return float(spent.mean())

    def _weighing(self, weights: tuple[float, ...]) -> Self:
        return dataclasses.replace(self, step_weights=weights)

    def _within(
        self, budget: float, prediction: Prediction, scores: np.ndarray, cost: np.ndarray
    ) -> Self:
        """The step weights in their proportions, so high that the budget is kept."""
        shape = np.array([weight or 1.0 for weight in self.step_weights])

        def at(scale: float) -> tuple[float, ...]:
            return (scale,) if np.isinf(scale) else tuple((scale * shape).tolist())

        def spent(scale: float) -> float:
            return self._weighing(at(scale))._spent(prediction, scores, cost)

        budget *= 1 + ROUNDING
        if spent(0.0) <= budget:
            return self._weighing(at(0.0))
        if spent(float("inf")) > budget:
            raise RouterError(
                f"policy.budget=${budget:g} per query is below ${spent(float('inf')):.3g}, the "
                "mean cost of always asking the cheapest candidate; raise it."
            )
        finite = cost_weights(prediction)[1:-1]
        steps = [0.0, min(finite, default=1.0) / 1e3, max(finite, default=1.0) * 8, float("inf")]
        _, within = neighbours(spent, budget, steps, halvings=16)
        return self._weighing(at(within))

    def _by_step(
        self, budget: float, prediction: Prediction, scores: np.ndarray, cost: np.ndarray
    ) -> Self:
        best = self._weighing(self.step_weights * len(self.names))
        if not np.isfinite(best.step_weights).all() or not any(best.step_weights):
            return self
        gained = best.expected(prediction, scores).score.mean()
        for step in range(1, len(self.names)):
            for factor in STEP_FACTORS:
                weights = list(best.step_weights)
                weights[step] *= factor
                tried = self._weighing(tuple(weights))._within(budget, prediction, scores, cost)
                score = tried.expected(prediction, scores).score.mean()
                if score > gained + ROUNDING and np.isfinite(tried.step_weights).all():
                    best, gained = tried, score
        return best

    def next_step(self, prediction: Prediction, asked: np.ndarray, last: np.ndarray) -> np.ndarray:
        if not set(prediction.candidates) <= set(self.names):
            raise RouterError(
                "This cascade routing was not tuned yet, or for other candidates; call tune on "
                "validation data."
            )
        step = np.full(len(last), STOP)
        patterns, of_row = np.unique(asked, axis=0, return_inverse=True)
        for pattern, seen in enumerate(patterns):
            rows = np.flatnonzero(of_row.ravel() == pattern)
            step[rows] = self._step_after(seen, prediction.take(rows))
        return step

    def _step_after(self, seen: np.ndarray, prediction: Prediction) -> np.ndarray:
        """(n,) next candidate of queries of which the same answers were seen; seen: (m,) bool."""
        cost = require_cost(prediction, "cascade_routing")
        weight = self.step_weights[min(int(seen.sum()), len(self.step_weights) - 1)]
        n = len(prediction)
        if seen.all():
            return np.full(n, STOP)
        if np.isinf(weight):
            cheapest = cost.argmin(axis=1)
            return np.full(n, STOP) if seen.any() else cheapest
        have = np.full((n, 1), -np.inf)
        if seen.any():
            assert prediction.judged is not None
            judged = prediction.judged[:, seen]
            judged = np.where(np.isnan(judged), prediction.quality[:, seen], judged)
            have = judged.max(axis=1, keepdims=True)
        likely = self._likely(seen, prediction)  # (n, draws, unseen)
        unseen = np.flatnonzero(~seen)
        best, step = have[:, 0] + TIE, np.full(n, STOP)
        for chosen in _sets(len(unseen), self.depth):
            quality = np.maximum(likely[:, :, chosen].max(axis=2), have).mean(axis=1)
            further = cost[:, unseen[chosen]]
            value = quality - weight * further.sum(axis=1)
            first = unseen[np.array(chosen)[further.argmin(axis=1)]]
            better = value > best
            step, best = np.where(better, first, step), np.where(better, value, best)
        return step

    def _likely(self, seen: np.ndarray, prediction: Prediction) -> np.ndarray:
        """(n, draws, unseen) what the judge may say of the answers not yet seen, in [0, 1]."""
        unseen = ~seen
        expected = prediction.quality[:, unseen]
        if not self.uncertainty:
            return np.clip(expected, 0, 1)[:, None, :]
        places = [self.names.index(name) for name in prediction.candidates]
        covariance = np.array(self.covariance)[np.ix_(places, places)]
        spread = covariance[np.ix_(unseen, unseen)]
        if seen.any():
            assert prediction.judged is not None
            surprise = prediction.judged[:, seen] - prediction.quality[:, seen]
            carried = covariance[np.ix_(unseen, seen)] @ np.linalg.pinv(
                covariance[np.ix_(seen, seen)], hermitian=True
            )
            expected = expected + np.where(np.isnan(surprise), 0.0, surprise) @ carried.T
            spread = spread - carried @ covariance[np.ix_(seen, unseen)]
        values, vectors = np.linalg.eigh(spread)
        root = vectors * np.sqrt(np.maximum(values, 0))
        noise = _normal_draws(len(expected.T)) @ root.T
        return np.clip(expected[:, None, :] + noise, 0, 1)

    def returned(self, prediction: Prediction, asked: np.ndarray, last: np.ndarray) -> np.ndarray:
        """(n,) whose answer is judged best; one that nobody judged is worth what was predicted."""
        judged = prediction.quality
        if prediction.judged is not None:
            judged = np.where(np.isnan(prediction.judged), prediction.quality, prediction.judged)
        return np.where(asked, judged, -np.inf).argmax(axis=1)

    def path(self, prediction: Prediction) -> list[Policy]:
        require_judged(prediction, None, "cascade_routing")
        learned = self if self.covariance else self._learned(prediction)
        return [learned._weighing((weight,)) for weight in _weights(prediction)]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        name = prediction.candidates[chosen]
        return (
            f"{name} is worth asking first at {self.step_weights[0]:.4g} quality per dollar; what "
            "comes next depends on its answer"
        )


def _weights(prediction: Prediction) -> list[float]:
    """Cost weights from quality alone to cost alone."""
    finite = np.array(cost_weights(prediction)[1:-1] or [1.0])
    ends = np.log(finite.min() / 8), np.log(finite.max() * 8)
    return [0.0, *np.exp(np.linspace(*ends, SETTINGS)).tolist(), float("inf")]


def _sets(size: int, depth: int) -> Iterator[list[int]]:
    for length in range(1, min(depth, size) + 1):
        yield from map(list, combinations(range(size), length))


@lru_cache(maxsize=64)
def _normal_draws(size: int) -> np.ndarray:
    """(DRAWS, size) standard normal numbers, the same on every machine: a Kronecker sequence of
    square roots of primes, each point with its mirror image."""
    primes = [p for p in range(2, 2000) if all(p % q for q in range(2, int(p**0.5) + 1))][:size]
    steps = np.arange(1, DRAWS // 2 + 1)[:, None] * np.sqrt(np.array(primes, dtype=float))
    uniform = (steps + 0.5) % 1
    half = np.vectorize(NormalDist().inv_cdf)(np.clip(uniform, 1e-9, 1 - 1e-9))
    draws: np.ndarray = np.concatenate([half, -half])
    draws.setflags(write=False)
    return draws
