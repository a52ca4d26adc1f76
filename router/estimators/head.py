"""All that is learned on top of the vectors: quality and cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
import onnx
from sklearn.base import BaseEstimator, clone
from tqdm import tqdm

from router.estimators.base import Estimator
from router.estimators.cost import CostModel
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.splits import grouped_folds
from router.prediction import Prediction


class Head(BaseEstimator):
    """Quality and cost, learned apart, predicted together.

    quality: estimator of the score.
    cost: estimator of the relative cost (see CostModel); unused where the log knows no cost.
    """

    def __init__(self, quality: Estimator, cost: Estimator):
        self.quality = quality
        self.cost = cost

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        self.n_features_ = X.shape[1]
        self.quality_ = clone(self.quality).fit(X, outcomes)
        self.cost_ = None
        if outcomes.cost is not None:
            self.cost_ = CostModel(self.cost).fit(X, outcomes)
        return self

    def predict(self, X: np.ndarray) -> Prediction:
        prediction = self.quality_.predict(X)
        return prediction if self.cost_ is None else replace(prediction, cost=self.cost_.predict(X))

    def to_onnx(self) -> onnx.ModelProto:
        """`vector` (batch, d) -> `quality`, `quality_se` (batch, m) and, where costs are known,
        `amounts` (batch, m, kinds): dollars, or input and output tokens."""
        graph = Graph()
        quality, se = self.quality_.to_onnx(graph, "vector")
        outputs = {"quality": quality, "quality_se": se}
        if self.cost_ is not None:
            outputs["amounts"] = self.cost_.to_onnx(graph, "vector")
        axes = {name: ["batch", "candidates"] for name in ("quality", "quality_se")}
        axes["amounts"] = ["batch", "candidates", "kinds"]
        return graph.model(self.n_features_, outputs, axes)


def cross_predict(
    head: Head, X: np.ndarray, outcomes: OutcomeMatrix, n_folds: int, random_state: int = 0
) -> Prediction:
    """Out-of-fold prediction of every query: from a clone that never saw its group."""
    n, m = len(X), len(outcomes.candidates)
    quality, se = np.empty((n, m)), np.empty((n, m))
    cost = None if outcomes.cost is None else np.empty((n, m))
    folds = grouped_folds(outcomes.groups, n_folds, random_state)
    for fit_rows, held_out in tqdm(folds, "Cross-fitting", unit="fold", leave=False, disable=None):
        fitted = clone(head).fit(X[fit_rows], outcomes.take(fit_rows))
        prediction = fitted.predict(X[held_out])
        quality[held_out], se[held_out] = prediction.quality, prediction.quality_se
        if cost is not None and prediction.cost is not None:
            cost[held_out] = prediction.cost
    return Prediction(outcomes.candidates, quality, se, cost)
