"""All that is learned on top of the vectors: quality, cost and latency."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
import onnx
from sklearn.base import BaseEstimator, clone
from tqdm import tqdm

from router.errors import RouterError
from router.estimators.base import Estimator
from router.estimators.cost import CostModel
from router.estimators.graph import Graph
from router.estimators.judge import Judge
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.splits import grouped_folds
from router.prediction import Prediction


class Head(BaseEstimator):
    """Quality, cost and latency, learned apart, predicted together, and who judges answers.

    quality: estimator of the score.
    cost: estimator of the relative cost, and of the relative latency likewise (see CostModel);
        unused where the log knows neither.
    judge: of the answers (see Judge), for cascades; None where nobody looks at them.
    """

    def __init__(self, quality: Estimator, cost: Estimator, judge: Judge | None = None):
        self.quality = quality
        self.cost = cost
        self.judge = judge

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        self.n_features_ = X.shape[1]
        self.quality_ = clone(self.quality).fit(X, outcomes)
        self.cost_ = None
        if outcomes.cost is not None:
            self.cost_ = CostModel(self.cost).fit(X, outcomes)
        self.latency_ = None
        if outcomes.latency is not None:
            self.latency_ = CostModel(self.cost).fit(X, _seconds_as_cost(outcomes))
        self.judge_ = None if self.judge is None else clone(self.judge).fit(X, outcomes)
        return self

    def predict(self, X: np.ndarray, outcomes: OutcomeMatrix | None = None) -> Prediction:
        """outcomes: of the same queries; of them a judge reads the answers."""
        prediction = self.quality_.predict(X)
        judged = None
        if self.judge_ is not None and outcomes is not None:
            judged = self.judge_.predict(X, outcomes)
        return replace(
            prediction,
            cost=None if self.cost_ is None else self.cost_.predict(X),
            latency=None if self.latency_ is None else self.latency_.predict(X),
            judged=judged,
        )

    def to_onnx(self) -> onnx.ModelProto:
        """`vector` (batch, d) -> `quality`, `quality_se` (batch, m) and, where the log knows them,
        `amounts` (batch, m, kinds), dollars or input and output tokens, and `latency` (batch, m),
        seconds."""
        graph = Graph()
        quality, se = self.quality_.to_onnx(graph, "vector")
        outputs = {"quality": quality, "quality_se": se}
        if self.cost_ is not None:
            outputs["amounts"] = self.cost_.to_onnx(graph, "vector")
        if self.latency_ is not None:
            seconds = self.latency_.to_onnx(graph, "vector")  # (batch, m, 1)
            outputs["latency"] = graph.op("Squeeze", seconds, graph.constant([2], np.int64))
        axes = {name: ["batch", "candidates"] for name in ("quality", "quality_se", "latency")}
        axes["amounts"] = ["batch", "candidates", "kinds"]
        return graph.model(self.n_features_, outputs, axes)


def _seconds_as_cost(outcomes: OutcomeMatrix) -> OutcomeMatrix:
    """The outcomes whose latency is known, with seconds in place of dollars."""
    assert outcomes.latency is not None
    known = ~np.isnan(outcomes.latency)
    unknown = [name for j, name in enumerate(outcomes.candidates) if not known[:, j].any()]
    if unknown:
        raise RouterError(
            f"No latency_s of {', '.join(map(repr, unknown))} among the {len(outcomes)} queries to "
            "learn from, though others have one; log it, or drop the column."
        )
    return replace(
        outcomes, observed=known, cost=outcomes.latency, tokens=None, prices=None, price_dates=()
    )


class FoldHeads:
    """A head for each fold, fitted without it: what is said of a query comes from a head that never
    saw its group, whichever vectors it is shown.

    head: is cloned. X, outcomes: see Head.
    """

    def __init__(
        self,
        head: Head,
        X: np.ndarray,
        outcomes: OutcomeMatrix,
        n_folds: int,
        random_state: int = 0,
    ):
        self._judges = head.judge is not None
        folds = grouped_folds(outcomes.groups, n_folds, random_state)
        self._heads = [
            (held_out, clone(head).fit(X[fit_rows], outcomes.take(fit_rows)))
            for fit_rows, held_out in tqdm(
                folds, "Cross-fitting", unit="fold", leave=False, disable=None
            )
        ]

    def predict(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Prediction:
        """Out-of-fold prediction of the same n queries, in the same order, from (n, d) vectors."""
        n, m = len(X), len(outcomes.candidates)
        quality, se = np.empty((n, m)), np.empty((n, m))
        cost = None if outcomes.cost is None else np.empty((n, m))
        latency = None if outcomes.latency is None else np.empty((n, m))
        judged = np.full((n, m), np.nan) if self._judges else None
        for held_out, head in self._heads:
            prediction = head.predict(X[held_out], outcomes.take(held_out))
            quality[held_out], se[held_out] = prediction.quality, prediction.quality_se
            if cost is not None and prediction.cost is not None:
                cost[held_out] = prediction.cost
            if latency is not None and prediction.latency is not None:
                latency[held_out] = prediction.latency
            if judged is not None and prediction.judged is not None:
                judged[held_out] = prediction.judged
        return Prediction(outcomes.candidates, quality, se, cost, latency, judged)


def cross_predict(
    head: Head, X: np.ndarray, outcomes: OutcomeMatrix, n_folds: int, random_state: int = 0
) -> Prediction:
    """Out-of-fold prediction of every query: from a clone that never saw its group."""
    return FoldHeads(head, X, outcomes, n_folds, random_state).predict(X, outcomes)
