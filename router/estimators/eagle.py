"""E5: Elo ratings of all battles, moved by the nearest ones."""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy.special import expit

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit
from router.estimators.battles import (
    Battles,
    chances_to_beat,
    chances_to_onnx,
    information,
    overall_strengths,
    prior_wins,
)
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

CHUNK = 512  # queries at a time: their similarities to all training queries lie in memory
TIE = 1e-6  # cosines this close are one
LEAST_NORM = 1e-12
PRIOR = 1.0  # battles, see Eagle
ELO = np.log(10) / 400  # log strength of one Elo point


class Eagle(Estimator):
    """Eagle (arXiv 2409.15518): share x global rating + (1 - share) x local rating, where the local
    one starts at the global one and is moved by the battles of the nearest training queries.

    Elo's result hangs on the order of the battles, and a log has none that means anything. So both
    parts are order-free: the global rating is the one at which Elo's updates cancel, the
    Bradley-Terry maximum of all battles with one more of each candidate, half won, spread over the
    others; and each local update, step x (result - expected result), is evaluated at the global
    ratings, so that the updates add up. Whoever is as near as the last neighbour counts too. A
    query with several battles moves a candidate by their mean.

    Quality is the mean chance to beat another candidate, ties counted half: a number in [0, 1], but
    no score. Its standard error is that of the candidate's own rating, the others taken as known:
    the global rating's, and the chance in the neighbours' results.

    n_neighbors: how many of the nearest queries with a battle count.
    share: of the global rating, in [0, 1].
    step: Elo points for a win where a defeat was sure (Elo's K).
    """

    def __init__(self, n_neighbors: int = 40, share: float = 0.5, step: float = 32.0):
        self.n_neighbors = n_neighbors
        self.share = share
        self.step = step

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if self.n_neighbors < 1 or not 0 <= self.share <= 1 or not self.step > 0:
            raise RouterError(
                "Eagle needs n_neighbors of at least 1, share in [0, 1] and step above 0."
            )
        X, outcomes, _ = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        battles = Battles.of(outcomes)
        wins = battles.total_wins() + prior_wins(len(self.candidates_), PRIOR)
        self.strength_ = overall_strengths(wins)
        self.variance_ = 1 / information(self.strength_[None], (wins + wins.T)[None])[0]
        expected = expit(self.strength_[battles.first] - self.strength_[battles.second])
        moved = battles.weight * (battles.result - expected)
        chance = battles.weight * expected * (1 - expected)
        fought = np.unique(battles.query)
        # float32, as in the exported graph: the same neighbours on both sides.
        self.X_ = _unit(X[fought]).astype(np.float32)
        self.k_ = min(self.n_neighbors, len(fought))
        sums = [battles.totals(moved, -moved), battles.totals(chance, chance)]
        self.sums_ = np.concatenate(sums, axis=1)[fought].astype(np.float32)
        return self

    @property
    def _reach(self) -> float:
        """Log strength by which one update moves the blend of both ratings."""
        return (1 - self.share) * self.step * ELO

    def predict(self, X: np.ndarray) -> Prediction:
        parts = [self._local(X[i : i + CHUNK]) for i in range(0, max(len(X), 1), CHUNK)]
        moved, chance = np.split(np.concatenate(parts), 2, axis=1)
        quality, slope = chances_to_beat(self.strength_ + self._reach * moved)
        se = slope * np.sqrt(self.variance_ + self._reach**2 * chance)
        return Prediction(self.candidates_, quality, se)

    def _local(self, X: np.ndarray) -> np.ndarray:
        similarity = _unit(X.astype(np.float32)) @ self.X_.T
        last = similarity.shape[1] - self.k_
        least = np.partition(similarity, last, axis=1)[:, [last]] - np.float32(TIE)
        return ((similarity >= least).astype(np.float32) @ self.sums_).astype(np.float64)

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        m = len(self.candidates_)
        norm = graph.op("ReduceL2", vector, axes=[1], keepdims=1)
        unit = graph.op("Div", vector, graph.op("Max", norm, graph.constant(LEAST_NORM)))
        similarity = graph.op("MatMul", unit, graph.constant(self.X_.T))
        nearest, _ = graph.op_with_outputs(
            "TopK", 2, similarity, graph.constant([self.k_], np.int64), axis=1
        )
        least = graph.op(
            "Sub", graph.op("ReduceMin", nearest, axes=[1], keepdims=1), graph.constant(TIE)
        )
        counts = graph.op("GreaterOrEqual", similarity, least)
        weight = graph.op("Where", counts, graph.constant(1.0), graph.constant(0.0))
        sums = graph.op("MatMul", weight, graph.constant(self.sums_))
        moved, chance = graph.op_with_outputs(
            "Split", 2, sums, graph.constant([m, m], np.int64), axis=1
        )
        way = graph.op("Mul", moved, graph.constant(self._reach))
        strength = graph.op("Add", way, graph.constant(self.strength_[None]))
        quality, slope = chances_to_onnx(graph, strength, m)
        local = graph.op("Mul", chance, graph.constant(self._reach**2))
        variance = graph.op("Add", local, graph.constant(self.variance_[None]))
        return quality, graph.op("Mul", slope, graph.op("Sqrt", variance))


def _unit(X: np.ndarray) -> np.ndarray:
    """Rows of unit length; a row of zeros stays."""
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), LEAST_NORM)
