"""E0: one mean per candidate, whatever the query."""

from __future__ import annotations

import copy
from typing import Self

import numpy as np

from router.estimators.base import Estimator, check_fit, check_labels, overall_of, weights_of
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction


class Marginal(Estimator):
    """The mean observed score of each candidate; the estimator that every other must beat."""

    takes_weights = True

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        _, outcomes, targets = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        self.overall_ = overall_of(targets, weights_of(outcomes))
        return self

    def with_candidate(self, name: str, X: np.ndarray, scores: np.ndarray) -> Self:
        _, scores = check_labels(self, name, X, scores)
        grown = copy.copy(self)
        grown.candidates_ = (*self.candidates_, name)
        grown.overall_ = self.overall_.with_candidate(scores)
        return grown

    def predict(self, X: np.ndarray) -> Prediction:
        n = len(X)
        mean, se = self.overall_.mean, self.overall_.se
        return Prediction(self.candidates_, np.tile(mean, (n, 1)), np.tile(se, (n, 1)))

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        # The vector counts for nothing but the number of rows.
        zero = graph.op(
            "ReduceSum",
            graph.op("Mul", vector, graph.constant(0.0)),
            graph.constant([1], np.int64),
            keepdims=1,
        )
        return (
            graph.op("Add", zero, graph.constant(self.overall_.mean)),
            graph.op("Add", zero, graph.constant(self.overall_.se)),
        )
