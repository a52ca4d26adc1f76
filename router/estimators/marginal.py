"""E0: one mean per candidate, whatever the query."""

from __future__ import annotations

from typing import Self

import numpy as np

from router.estimators.base import Estimator, check_fit, prior_of
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction


class Marginal(Estimator):
    """The mean observed score of each candidate; the estimator that every other must beat."""

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        _, targets = check_fit(X, outcomes)
        self.candidates_ = outcomes.candidates
        self.mean_, variance = prior_of(targets, outcomes.observed)
        self.se_ = np.sqrt(variance / outcomes.observed.sum(axis=0))
        return self

    def predict(self, X: np.ndarray) -> Prediction:
        shape = (len(X), len(self.candidates_))
        return Prediction(
            self.candidates_,
            np.broadcast_to(self.mean_, shape).copy(),
            np.broadcast_to(self.se_, shape).copy(),
        )

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        zero = graph.op(
            "ReduceSum",
            graph.op("Mul", vector, graph.constant(0.0)),
            graph.constant([1], np.int64),
            keepdims=1,
        )
        return (
            graph.op("Add", zero, graph.constant(self.mean_)),
            graph.op("Add", zero, graph.constant(self.se_)),
        )
