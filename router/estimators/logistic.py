"""E3: logistic regression per candidate on soft labels."""

from __future__ import annotations

from typing import Self

import numpy as np
from sklearn.linear_model import LogisticRegression

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit, prior_of
from router.estimators.graph import Graph
from router.estimators.linear_uncertainty import LinearUncertainty
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction


class Logistic(Estimator):
    """P(correct | query), one classifier per candidate; a score between 0 and 1 counts as that
    share of a correct answer.

    The correctness predictor of FORC (arXiv 2308.11601), section 3, on a frozen encoder.

    C: inverse penalty.
    se_rank: directions in which the standard error is kept exactly (see LinearUncertainty).
    """

    def __init__(self, C: float = 3.0, se_rank: int = 32):
        self.C = C
        self.se_rank = se_rank

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        X, targets = check_fit(X, outcomes)
        observed = outcomes.observed
        if targets.min() < 0 or targets.max() > 1:
            raise RouterError(
                "Logistic needs targets in [0, 1]; choose another estimator for cost."
            )
        self.candidates_ = outcomes.candidates
        mean, _ = prior_of(targets, observed)
        self.coef_ = np.zeros((X.shape[1], len(self.candidates_)))
        # Without both kinds of label there is no slope to fit: half an outcome of each kind.
        n = observed.sum(axis=0)
        smoothed = (mean * n + 0.5) / (n + 1)
        self.intercept_ = np.log(smoothed / (1 - smoothed))
        for j in range(len(self.candidates_)):
            rows = np.flatnonzero(observed[:, j])
            y = targets[rows, j]
            if y.min() == y.max() and y[0] in (0.0, 1.0):
                continue
            model = LogisticRegression(C=self.C, max_iter=1000)
            model.fit(
                np.concatenate([X[rows], X[rows]]),
                np.repeat([1, 0], len(rows)),
                sample_weight=np.concatenate([y, 1 - y]),
            )
            self.coef_[:, j] = model.coef_[0]
            self.intercept_[j] = model.intercept_[0]
        p = self._probability(X)
        spread = p * (1 - p)
        # Graded scores vary less than coin flips of the same mean: scale by the Pearson statistic.
        pearson = np.where(observed, (targets - p) ** 2 / np.maximum(spread, 1e-6), 0.0)
        dispersion = np.clip(pearson.sum(axis=0) / n, 1e-3, 1.0)
        self.uncertainty_ = LinearUncertainty.fit(
            X,
            observed * spread / dispersion,
            np.full(len(n), 1 / self.C) / dispersion,
            self.se_rank,
        )
        return self

    def _probability(self, X: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(X @ self.coef_ + self.intercept_)))

    def predict(self, X: np.ndarray) -> Prediction:
        X = np.asarray(X, dtype=np.float64)
        p = self._probability(X)
        # Delta method: d p / d logit = p (1 - p).
        return Prediction(self.candidates_, p, p * (1 - p) * np.sqrt(self.uncertainty_.variance(X)))

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        product = graph.op("MatMul", vector, graph.constant(self.coef_))
        p = graph.op("Sigmoid", graph.op("Add", product, graph.constant(self.intercept_[None])))
        slope = graph.op("Mul", p, graph.op("Sub", graph.constant(1.0), p))
        se = graph.op("Sqrt", self.uncertainty_.to_onnx(graph, vector))
        return p, graph.op("Mul", slope, se)
