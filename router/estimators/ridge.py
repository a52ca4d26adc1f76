"""E3: ridge regression per candidate, penalty chosen by leave-one-out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit, overall_of
from router.estimators.graph import Graph
from router.estimators.linear_uncertainty import LinearUncertainty
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

LEAST_NOISE = 1e-12
LEAST_FREEDOM = 1e-9  # 1 - leverage is never 0, save by rounding
DEFAULT_ALPHAS = tuple(float(alpha) for alpha in np.logspace(-1, 3, 17))


class Ridge(Estimator):
    """Score regression: linear in the vector, with intercept.

    A regressor per candidate as in CARROT (arXiv 2502.03261); the leave-one-out error of every
    penalty comes from one eigendecomposition (Hastie et al. 2009, equation 7.64).

    alphas: penalties above 0 to choose from, for each candidate apart.
    se_rank: directions in which the standard error is kept exactly (see LinearUncertainty).
    """

    def __init__(self, alphas: Sequence[float] = DEFAULT_ALPHAS, se_rank: int = 32):
        self.alphas = alphas
        self.se_rank = se_rank

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if not self.alphas or not min(self.alphas) > 0 or self.se_rank < 1:
            raise RouterError("Ridge needs alphas above 0 and se_rank of at least 1.")
        X, outcomes, targets = check_fit(X, outcomes)
        observed = outcomes.observed
        self.candidates_ = outcomes.candidates
        m = len(self.candidates_)
        overall = overall_of(targets, observed)
        self.coef_ = np.zeros((X.shape[1], m))
        self.intercept_ = overall.mean.copy()
        self.alpha_ = np.full(m, float(max(self.alphas)))
        noise = overall.variance.copy()
        # Candidates that saw the same queries share one eigendecomposition.
        patterns, pattern_of = np.unique(observed, axis=1, return_inverse=True)
        for p in range(patterns.shape[1]):
            rows = np.flatnonzero(patterns[:, p])
            columns = np.flatnonzero(pattern_of.ravel() == p)
            if len(rows) < 3:
                continue  # the mean is all that two outcomes support
            coef, alpha, error = leave_one_out(X[rows], targets[rows][:, columns], self.alphas)
            self.coef_[:, columns] = coef
            self.intercept_[columns] -= X[rows].mean(axis=0) @ coef
            self.alpha_[columns] = alpha
            # One pseudo-outcome, as in overall_of: a perfect fit to few outcomes is not certain.
            noise[columns] = error + overall.variance.mean() / len(rows)
        noise = np.maximum(noise, LEAST_NOISE)
        self.uncertainty_ = LinearUncertainty.fit(
            X, observed / noise, self.alpha_ / noise, self.se_rank
        )
        return self

    def predict(self, X: np.ndarray) -> Prediction:
        X = np.asarray(X, dtype=np.float64)
        quality = X @ self.coef_ + self.intercept_
        return Prediction(self.candidates_, quality, np.sqrt(self.uncertainty_.variance(X)))

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        product = graph.op("MatMul", vector, graph.constant(self.coef_))
        quality = graph.op("Add", product, graph.constant(self.intercept_[None]))
        return quality, graph.op("Sqrt", self.uncertainty_.to_onnx(graph, vector))


def leave_one_out(
    X: np.ndarray, Y: np.ndarray, alphas: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(d, m) coefficients, (m,) penalties of least leave-one-out error, (m,) that error."""
    n = len(X)
    Z = X - X.mean(axis=0)
    R = Y - Y.mean(axis=0)
    values, directions = np.linalg.eigh(Z.T @ Z)
    values = np.maximum(values, 0.0)
    projected = Z @ directions
    cross = projected.T @ R
    penalties = np.asarray(alphas, dtype=float)
    leverages = 1 / n + projected**2 @ (1 / (values[:, None] + penalties))  # (n, penalties)
    errors = np.empty((len(penalties), Y.shape[1]))
    for i, penalty in enumerate(penalties):
        residual = R - projected @ (cross / (values + penalty)[:, None])
        left_out = residual / np.maximum(1 - leverages[:, [i]], LEAST_FREEDOM)
        errors[i] = (left_out**2).mean(axis=0)
    best = errors.argmin(axis=0)
    alpha = penalties[best]
    coef = directions @ (cross / (values[:, None] + alpha))
    return coef, alpha, errors[best, np.arange(Y.shape[1])]
