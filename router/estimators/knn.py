"""E1: the outcomes of the most similar queries."""

from __future__ import annotations

from typing import Self

import numpy as np

from router.estimators.base import Estimator, check_fit, prior_of
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

CHUNK = 512


class KNN(Estimator):
    """Similarity-weighted mean over the nearest training queries, exact.

    Benchmark routing by k nearest neighbours: Shnitzer et al. 2023 (arXiv 2309.15789), section 3;
    well-tuned kNN as the router to beat: Li 2025 (arXiv 2505.12601).

    n_neighbors: how many of the nearest queries count.
    temperature: weight = exp((cosine - largest cosine) / temperature).
    shrinkage: pseudo-count of the candidate's overall mean beside the neighbours.
    """

    def __init__(self, n_neighbors: int = 40, temperature: float = 0.1, shrinkage: float = 1.0):
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.shrinkage = shrinkage

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        X, targets = check_fit(X, outcomes)
        self.candidates_ = outcomes.candidates
        self.X_ = X.astype(np.float32)
        # float32, as in the exported graph: the same neighbours on both sides.
        self.sums_ = np.concatenate(
            [outcomes.observed, targets, targets**2], axis=1, dtype=np.float32
        )
        self.mean_, self.variance_ = prior_of(targets, outcomes.observed)
        self.k_ = min(self.n_neighbors, len(X))
        return self

    def predict(self, X: np.ndarray) -> Prediction:
        parts = [self._predict(X[i : i + CHUNK]) for i in range(0, max(len(X), 1), CHUNK)]
        quality, se = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Prediction(self.candidates_, quality, se)

    def _predict(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        m = len(self.candidates_)
        similarity = X.astype(np.float32) @ self.X_.T
        nearest = np.argpartition(-similarity, self.k_ - 1, axis=1)[:, : self.k_]
        top = np.take_along_axis(similarity, nearest, axis=1).astype(np.float64)
        weight = np.exp((top - top.max(axis=1, keepdims=True)) / self.temperature)
        neighbours = self.sums_[nearest].astype(np.float64)
        weighted = np.einsum("nk,nkc->nc", weight, neighbours)
        squared = np.einsum("nk,nkc->nc", weight**2, neighbours[:, :, :m])
        total, target, target2 = weighted[:, :m], weighted[:, m : 2 * m], weighted[:, 2 * m :]
        shrunk = total + self.shrinkage
        mean = (target + self.shrinkage * self.mean_) / shrunk
        prior_square = self.shrinkage * (self.variance_ + self.mean_**2)
        variance = np.maximum((target2 + prior_square) / shrunk - mean**2, 0.0)
        # Effective sample size of the weighted mean (Kish), the prior counted as its own sample.
        effective = shrunk**2 / (squared + self.shrinkage)
        return mean, np.sqrt(variance / effective)

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        m = len(self.candidates_)
        similarity = graph.op("MatMul", vector, graph.constant(self.X_.T))
        top, nearest = graph.op_with_outputs(
            "TopK", 2, similarity, graph.constant([self.k_], np.int64), axis=1
        )
        largest = graph.op("ReduceMax", top, axes=[1], keepdims=1)
        scaled = graph.op("Sub", top, largest)
        weight = graph.op("Exp", graph.op("Div", scaled, graph.constant(self.temperature)))
        row = graph.op("Unsqueeze", weight, graph.constant([1], np.int64))
        row2 = graph.op("Mul", row, row)
        neighbours = graph.op("Gather", graph.constant(self.sums_), nearest, axis=0)
        one = graph.constant([1], np.int64)
        weighted = graph.op("Squeeze", graph.op("MatMul", row, neighbours), one)
        sizes = graph.constant([m, m, m], np.int64)
        total, target, target2 = graph.op_with_outputs("Split", 3, weighted, sizes, axis=1)
        squares = graph.op("Squeeze", graph.op("MatMul", row2, neighbours), one)
        squared, _, _ = graph.op_with_outputs("Split", 3, squares, sizes, axis=1)
        prior = graph.constant(self.shrinkage)
        shrunk = graph.op("Add", total, prior)
        mean = graph.op(
            "Div", graph.op("Add", target, graph.constant(self.shrinkage * self.mean_)), shrunk
        )
        prior_square = graph.constant(self.shrinkage * (self.variance_ + self.mean_**2))
        second = graph.op("Div", graph.op("Add", target2, prior_square), shrunk)
        variance = graph.op("Relu", graph.op("Sub", second, graph.op("Mul", mean, mean)))
        effective = graph.op(
            "Div", graph.op("Mul", shrunk, shrunk), graph.op("Add", squared, prior)
        )
        return mean, graph.op("Sqrt", graph.op("Div", variance, effective))
