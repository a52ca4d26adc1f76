"""E1: kernel ridge regression per candidate, on landmark queries."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import numpy as np
from sklearn.cluster import kmeans_plusplus

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit
from router.estimators.graph import Graph
from router.estimators.ridge import DEFAULT_ALPHAS, Ridge
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

LEAST_EIGENVALUE = 1e-6  # beside the largest; float32 knows nothing smaller


class KernelRidge(Estimator):
    """Ridge regression on the Gaussian kernel, through Nystroem features of landmark queries
    (Williams and Seeger 2001); the whole kernel where every query is a landmark.

    Penalty and bandwidth are those of least leave-one-out error: the penalty for each candidate
    apart, the bandwidth by the sum over candidates. Ridge on the features gives that error in
    closed form.

    bandwidths: of exp(-|x - z|^2 / (2 bandwidth^2)), to choose from, in units of the root mean
        squared distance between landmarks.
    n_landmarks: queries that span the features, spread by k-means++ seeding.
    alphas, se_rank: as in Ridge.
    random_state: seed of the landmarks.
    """

    takes_weights = True

    def __init__(
        self,
        bandwidths: Sequence[float] = (0.35, 0.5, 0.7, 1.0),
        n_landmarks: int = 500,
        alphas: Sequence[float] = DEFAULT_ALPHAS,
        se_rank: int = 32,
        random_state: int = 0,
    ):
        self.bandwidths = bandwidths
        self.n_landmarks = n_landmarks
        self.alphas = alphas
        self.se_rank = se_rank
        self.random_state = random_state

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if not self.bandwidths or not min(self.bandwidths) > 0 or self.n_landmarks < 1:
            raise RouterError("KernelRidge needs bandwidths above 0 and at least one landmark.")
        X, outcomes, _ = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        # Sorted and each once: the landmarks do not depend on the order of the log.
        different, copy_of = np.unique(X, axis=0, return_inverse=True)
        self.landmarks_, _ = kmeans_plusplus(
            different, min(self.n_landmarks, len(different)), random_state=self.random_state
        )
        distances = _squared_distances(self.landmarks_, self.landmarks_)
        scale = float(np.sqrt(distances.mean())) or 1.0
        least = np.inf
        for bandwidth in self.bandwidths:
            width = bandwidth * scale
            whitening = _whitening(np.exp(-distances / (2 * width**2)))
            features = _kernel(different, self.landmarks_, width) @ whitening
            ridge = Ridge(self.alphas, self.se_rank).fit(features[copy_of.ravel()], outcomes)
            error = float(ridge.loo_error_.sum())
            if error < least:
                least, self.bandwidth_, self.width_ = error, bandwidth, width
                self.whitening_, self.ridge_ = whitening, ridge
        return self

    def with_candidate(self, name: str, X: np.ndarray, scores: np.ndarray) -> Self:
        grown = copy.copy(self)
        grown.ridge_ = self.ridge_.with_candidate(name, self._features(X), scores)
        grown.candidates_ = grown.ridge_.candidates_
        return grown

    def predict(self, X: np.ndarray) -> Prediction:
        return self.ridge_.predict(self._features(X))

    def _features(self, X: np.ndarray) -> np.ndarray:
        X = np.asarray(X, dtype=np.float64)
        return _kernel(X, self.landmarks_, self.width_) @ self.whitening_

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        # |x - z|^2 = |x|^2 + |z|^2 - 2 x·z
        axis = graph.constant([1], np.int64)
        norm = graph.op("ReduceSum", graph.op("Mul", vector, vector), axis, keepdims=1)
        norms = graph.constant((self.landmarks_**2).sum(axis=1)[None])
        product = graph.op("MatMul", vector, graph.constant(-2 * self.landmarks_.T))
        distance = graph.op("Relu", graph.op("Add", graph.op("Add", norm, norms), product))
        slope = graph.constant(-1 / (2 * self.width_**2))
        kernel = graph.op("Exp", graph.op("Mul", distance, slope))
        return self.ridge_.to_onnx(
            graph, graph.op("MatMul", kernel, graph.constant(self.whitening_))
        )


def _whitening(kernel: np.ndarray) -> np.ndarray:
    """(landmarks, r) from kernel values to features whose products are the kernel."""
    values, directions = np.linalg.eigh(kernel)
    kept = values > values[-1] * LEAST_EIGENVALUE
    return directions[:, kept] / np.sqrt(values[kept])


def _kernel(X: np.ndarray, Z: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-_squared_distances(X, Z) / (2 * width**2))


def _squared_distances(X: np.ndarray, Z: np.ndarray) -> np.ndarray:
    squares = (X**2).sum(axis=1)[:, None] + (Z**2).sum(axis=1) - 2 * X @ Z.T
    return np.maximum(squares, 0.0)
