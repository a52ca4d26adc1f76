"""E1: the outcomes of the most similar queries."""

from __future__ import annotations

from typing import Self

import numpy as np

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit, overall_of
from router.estimators.graph import Graph
from router.estimators.shrinkage import ShrunkenMean
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

CHUNK = 512  # queries at a time: their similarities to all training queries lie in memory
TIE = 1e-6  # cosines this close are one
LEAST_NORM = 1e-12


class KNN(Estimator):
    """Similarity-weighted mean over the nearest training queries, exact.

    Whoever is as near as the last of the nearest counts too, so that neither the order of the log
    nor rounding decides between duplicates.

    Benchmark routing by k nearest neighbours: Shnitzer et al. 2023 (arXiv 2309.15789); well-tuned
    kNN as the router to beat: Li 2025 (arXiv 2505.12601).

    n_neighbors: how many of the nearest queries count.
    temperature: weight = exp((cosine - largest cosine) / temperature).
    shrinkage: pseudo-count of the candidate's overall mean beside the neighbours.
    """

    def __init__(self, n_neighbors: int = 40, temperature: float = 0.1, shrinkage: float = 1.0):
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.shrinkage = shrinkage

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if self.n_neighbors < 1 or not self.temperature > 0 or not self.shrinkage >= 0:
            raise RouterError(
                "KNN needs n_neighbors of at least 1, temperature above 0 and shrinkage of at "
                "least 0."
            )
        X, outcomes, targets = check_fit(X, outcomes)
        observed = outcomes.observed
        self.candidates_ = outcomes.candidates
        self.k_ = min(self.n_neighbors, len(X))
        # float32, as in the exported graph: the same neighbours on both sides.
        self.X_ = _unit(X).astype(np.float32)
        overall = overall_of(targets, observed)
        deviation = np.where(observed, targets - overall.mean, 0.0)
        self.sums_ = np.concatenate([observed, deviation, deviation**2], axis=1, dtype=np.float32)
        self.mean_ = ShrunkenMean(overall, self.shrinkage)
        return self

    def predict(self, X: np.ndarray) -> Prediction:
        parts = [self._predict(X[i : i + CHUNK]) for i in range(0, max(len(X), 1), CHUNK)]
        quality, se = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Prediction(self.candidates_, quality, se)

    def _predict(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        m = len(self.candidates_)
        similarity = _unit(X.astype(np.float32)) @ self.X_.T
        last = similarity.shape[1] - self.k_
        least = np.partition(similarity, last, axis=1)[:, [last]] - np.float32(TIE)
        largest = similarity.max(axis=1, keepdims=True)
        weight = np.exp((similarity - largest) / np.float32(self.temperature))
        weight *= similarity >= least
        sums = weight @ self.sums_
        squares = weight**2 @ self.sums_[:, :m]
        count, total, total2 = np.split(sums.astype(np.float64), 3, axis=1)
        return self.mean_(count, squares.astype(np.float64), total, total2)

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
        largest = graph.op("ReduceMax", nearest, axes=[1], keepdims=1)
        scaled = graph.op(
            "Div", graph.op("Sub", similarity, largest), graph.constant(self.temperature)
        )
        counts = graph.op("GreaterOrEqual", similarity, least)
        weight = graph.op("Where", counts, graph.op("Exp", scaled), graph.constant(0.0))
        sums = graph.op("MatMul", weight, graph.constant(self.sums_))
        count, total, total2 = graph.op_with_outputs(
            "Split", 3, sums, graph.constant([m, m, m], np.int64), axis=1
        )
        squared = graph.op("Mul", weight, weight)
        squares = graph.op("MatMul", squared, graph.constant(self.sums_[:, :m]))
        return self.mean_.to_onnx(graph, count, squares, total, total2)


def _unit(X: np.ndarray) -> np.ndarray:
    """Rows of unit length; a row of zeros stays."""
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), LEAST_NORM)
