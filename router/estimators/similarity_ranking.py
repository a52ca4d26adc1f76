"""E5: a Bradley-Terry ranking for each query, in which similar battles weigh more."""

from __future__ import annotations

from typing import Self

import numpy as np

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit
from router.estimators.battles import (
    Battles,
    Rounds,
    chances_to_beat,
    chances_to_onnx,
    edges_to_onnx,
    information,
    overall_strengths,
    prior_wins,
)
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

CHUNK = 256  # queries at a time: their similarities to all training queries lie in memory
LEAST_NORM = 1e-12
LEAST_SIMILARITY = 0.1


class SimilarityRanking(Estimator):
    """Similarity-weighted ranking of RouteLLM (arXiv 2406.18665): every logged battle weighs
    10 x 10^(s / s_max), s its cosine with the query and s_max the largest one, and a Bradley-Terry
    fit of all of them ranks the candidates for that query. A tie is half a win for both.

    The weights are divided by their largest, 100, which leaves the fit as it is; so the prior
    counts in battles as near as the nearest. Where the largest cosine is below 0.1, the weights
    fall with the distance from it as if it were 0.1.

    Quality is the mean chance to beat another candidate, ties counted half: a number in [0, 1], but
    no score. Its standard error is that of the candidate's own strength (a sandwich, since weights
    are no counts), the others taken as known. The log is kept whole, with m x m numbers a query.

    prior: battles of each candidate, half of them won, spread evenly over the others.
    """

    def __init__(self, prior: float = 1.0):
        self.prior = prior

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if not self.prior > 0:
            raise RouterError("SimilarityRanking needs a prior above 0.")
        X, outcomes, _ = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        battles = Battles.of(outcomes)
        fought = np.unique(battles.query)
        # float32, as in the exported graph.
        self.X_ = _unit(X[fought]).astype(np.float32)
        self.wins_ = battles.wins()[fought].reshape(len(fought), -1)
        self.prior_wins_ = prior_wins(len(self.candidates_), self.prior)
        start = overall_strengths(battles.total_wins() + self.prior_wins_)
        some, _ = self._sums(X[fought][:CHUNK])
        self.rounds_ = Rounds.fit(some, start)
        return self

    def predict(self, X: np.ndarray) -> Prediction:
        parts = [self._predict(X[i : i + CHUNK]) for i in range(0, max(len(X), 1), CHUNK)]
        quality, se = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Prediction(self.candidates_, quality, se)

    def _predict(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wins, squares = self._sums(X)
        strength = self.rounds_.strengths(wins)
        quality, slope = chances_to_beat(strength)
        known = information(strength, wins + wins.transpose(0, 2, 1))
        spread = information(strength, squares + squares.transpose(0, 2, 1))
        return quality, slope * np.sqrt(spread) / known

    def _sums(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(b, m, m) wins, by weight and by squared weight, the prior's among them."""
        m = len(self.candidates_)
        similarity = _unit(X.astype(np.float32)) @ self.X_.T
        largest = similarity.max(axis=1, keepdims=True)
        below = (similarity - largest) / np.maximum(largest, np.float32(LEAST_SIMILARITY))
        weight = np.float32(10) ** below
        sums = [w @ self.wins_ for w in (weight, weight**2)]
        wins, squares = (part.reshape(-1, m, m) + self.prior_wins_ for part in sums)
        return wins, squares

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        m = len(self.candidates_)
        norm = graph.op("ReduceL2", vector, axes=[1], keepdims=1)
        unit = graph.op("Div", vector, graph.op("Max", norm, graph.constant(LEAST_NORM)))
        similarity = graph.op("MatMul", unit, graph.constant(self.X_.T))
        largest = graph.op("ReduceMax", similarity, axes=[1], keepdims=1)
        below = graph.op(
            "Div",
            graph.op("Sub", similarity, largest),
            graph.op("Max", largest, graph.constant(LEAST_SIMILARITY)),
        )
        weight = graph.op("Pow", graph.constant(10.0), below)
        logged = graph.constant(self.wins_)
        prior = graph.constant(self.prior_wins_[None])
        square = graph.constant([-1, m, m], np.int64)

        def sums(weights: str) -> str:
            logged_wins = graph.op("Reshape", graph.op("MatMul", weights, logged), square)
            return graph.op("Add", logged_wins, prior)

        wins, squares = sums(weight), sums(graph.op("Mul", weight, weight))
        strength = self.rounds_.to_onnx(graph, wins)
        quality, slope = chances_to_onnx(graph, strength, m)
        p = graph.op("Sigmoid", edges_to_onnx(graph, strength))
        even = graph.op("Mul", p, graph.op("Sub", graph.constant(1.0), p))
        last = graph.constant([2], np.int64)

        def informed(of_wins: str) -> str:
            both = graph.op("Add", of_wins, graph.op("Transpose", of_wins, perm=[0, 2, 1]))
            return graph.op("ReduceSum", graph.op("Mul", both, even), last, keepdims=0)

        error = graph.op("Div", graph.op("Sqrt", informed(squares)), informed(wins))
        return quality, graph.op("Mul", slope, error)


def _unit(X: np.ndarray) -> np.ndarray:
    """Rows of unit length; a row of zeros stays."""
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), LEAST_NORM)
