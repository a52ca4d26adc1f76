"""Hybrid-LLM's label: is the candidate nearly as good as the best one on this query?"""

from __future__ import annotations

from typing import Self

import numpy as np
from sklearn.base import clone

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction


class NearBest(Estimator):
    """P(score >= best observed score of the query - margin), learned by another estimator.

    With a weak and a strong model that is Hybrid-LLM's P(q_weak >= q_strong - t) (arXiv 2404.14618,
    section 3), which forgives the weak model small losses. Several answers per query would make
    its soft labels; a log has one, so labels are 0 and 1.

    estimator: of that probability, fitted as a clone. margin: t, in score.
    """

    def __init__(self, estimator: Estimator, margin: float = 0.1):
        self.estimator = estimator
        self.margin = margin

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if not self.margin >= 0:
            raise RouterError(f"NearBest.margin is {self.margin}; give at least 0.")
        X, outcomes, targets = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        best = np.where(outcomes.observed, targets, -np.inf).max(axis=1, keepdims=True)
        near = (targets >= best - self.margin - 1e-9).astype(float)
        self.estimator_ = clone(self.estimator).fit(X, outcomes.with_target(near))
        return self

    def predict(self, X: np.ndarray) -> Prediction:
        return self.estimator_.predict(X)

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        return self.estimator_.to_onnx(graph, vector)
