"""E3: ridge regression per candidate, penalty chosen by leave-one-out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import csr_array

from router.errors import RouterError
from router.estimators.base import (
    Estimator,
    Overall,
    check_fit,
    check_labels,
    overall_of,
    weights_of,
)
from router.estimators.graph import Graph
from router.estimators.linear_uncertainty import LinearUncertainty
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

LEAST_NOISE = 1e-12
LEAST_FREEDOM = 1e-9  # 1 - leverage is never 0, save by rounding
DEFAULT_ALPHAS = tuple(float(alpha) for alpha in np.logspace(-1, 3, 17))


@dataclass(frozen=True)
class LinearPart:
    """Candidates learned from the same queries.

    coef: (d, m). intercept: (m,). uncertainty: of the m linear predictors.
    """

    coef: np.ndarray
    intercept: np.ndarray
    uncertainty: LinearUncertainty

    def predict(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Quality and standard error, (n, m)."""
        return X @ self.coef + self.intercept, np.sqrt(self.uncertainty.variance(X))

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        """The same in the graph."""
        product = graph.op("MatMul", vector, graph.constant(self.coef))
        quality = graph.op("Add", product, graph.constant(self.intercept[None]))
        return quality, graph.op("Sqrt", self.uncertainty.to_onnx(graph, vector))


class Ridge(Estimator):
    """Score regression: linear in the vector, with intercept.

    A regressor per candidate as in CARROT (arXiv 2502.03261); the leave-one-out error of every
    penalty comes from one eigendecomposition (Hastie et al. 2009, equation 7.64). That error, a
    mean square, stays in `loo_error_`, (m,); in its place the variance of a candidate with fewer
    than three outcomes.

    alphas: penalties above 0 to choose from, for each candidate apart.
    se_rank: directions in which the standard error is kept exactly (see LinearUncertainty).
    """

    takes_weights = True

    def __init__(self, alphas: Sequence[float] = DEFAULT_ALPHAS, se_rank: int = 32):
        self.alphas = alphas
        self.se_rank = se_rank

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if not self.alphas or not min(self.alphas) > 0 or self.se_rank < 1:
            raise RouterError("Ridge needs alphas above 0 and se_rank of at least 1.")
        X, outcomes, targets = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        weights = weights_of(outcomes)
        self.overall_ = overall_of(targets, weights)
        part, self.alpha_, self.loo_error_ = self._learn(X, targets, weights, self.overall_)
        self.parts_ = [part]
        return self

    def with_candidate(self, name: str, X: np.ndarray, scores: np.ndarray) -> Self:
        """As in Estimator; the new candidate's penalty is its own too."""
        X, scores = check_labels(self, name, X, scores)
        targets = scores[:, None]
        grown = copy.copy(self)
        grown.candidates_ = (*self.candidates_, name)
        grown.overall_ = self.overall_.with_candidate(scores)
        part, alpha, error = self._learn(X, targets, np.ones_like(targets), grown.overall_.last())
        # A part of its own: in one matrix product the old candidates' last bits might change.
        grown.parts_ = [*self.parts_, part]
        grown.alpha_ = np.append(self.alpha_, alpha)
        grown.loo_error_ = np.append(self.loo_error_, error)
        return grown

    def _learn(
        self, X: np.ndarray, targets: np.ndarray, weights: np.ndarray, overall: Overall
    ) -> tuple[LinearPart, np.ndarray, np.ndarray]:
        """(part, (m,) penalties, (m,) leave-one-out errors)."""
        m = targets.shape[1]
        coef = np.zeros((X.shape[1], m))
        intercept = overall.mean.copy()
        alpha = np.full(m, float(max(self.alphas)))
        error = overall.variance.copy()
        noise = overall.variance.copy()
        # Candidates that saw the same queries, and count them alike, share one eigendecomposition.
        patterns, pattern_of = np.unique(weights, axis=1, return_inverse=True)
        for p in range(patterns.shape[1]):
            rows = np.flatnonzero(patterns[:, p])
            columns = np.flatnonzero(pattern_of.ravel() == p)
            if len(rows) < 3:
                continue  # the mean is all that two outcomes support
            own = patterns[rows, p]
            found = leave_one_out(X[rows], targets[rows][:, columns], self.alphas, own)
            coef[:, columns], alpha[columns], error[columns] = found
            intercept[columns] -= np.average(X[rows], axis=0, weights=own) @ coef[:, columns]
            # One pseudo-outcome, as in overall_of: a perfect fit to few outcomes is not certain.
            noise[columns] = error[columns] + overall.variance.mean() / own.sum()
        noise = np.maximum(noise, LEAST_NOISE)
        uncertainty = LinearUncertainty.fit(X, weights / noise, alpha / noise, self.se_rank)
        return LinearPart(coef, intercept, uncertainty), alpha, error

    def predict(self, X: np.ndarray) -> Prediction:
        X = np.asarray(X, dtype=np.float64)
        predicted = [part.predict(X) for part in self.parts_]
        quality, se = (np.concatenate(both, axis=1) for both in zip(*predicted, strict=True))
        return Prediction(self.candidates_, quality, se)

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        written = [part.to_onnx(graph, vector) for part in self.parts_]
        quality, se = (graph.op("Concat", *both, axis=1) for both in zip(*written, strict=True))
        return quality, se


def leave_one_out(
    X: np.ndarray, Y: np.ndarray, alphas: Sequence[float], weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(d, m) coefficients, (m,) penalties of least leave-one-out error, (m,) that error.

    Copies of a vector are left out together: a query that is predicted from its own copy says
    nothing about other queries.

    weights: (n,) above 0, of the squared errors; all alike if None.
    """
    n = len(X)
    weights = np.ones(n) if weights is None else weights
    total = weights.sum()
    _, copy_of = np.unique(X, axis=0, return_inverse=True)
    copy_of = copy_of.ravel()
    members = csr_array((np.ones(n), (copy_of, np.arange(n))))
    # Rows times the root of their weight: weighted least squares is plain least squares of these.
    root = np.sqrt(weights)[:, None]
    Z = root * (X - np.average(X, axis=0, weights=weights))
    R = root * (Y - np.average(Y, axis=0, weights=weights))
    values, directions = np.linalg.eigh(Z.T @ Z)
    values = np.maximum(values, 0.0)
    projected = Z @ directions
    cross = projected.T @ R
    penalties = np.asarray(alphas, dtype=float)
    leverages = root**2 / total + projected**2 @ (
        1 / (values[:, None] + penalties)
    )  # (n, penalties)
    errors = np.empty((len(penalties), Y.shape[1]))
    for i, penalty in enumerate(penalties):
        residual = R - projected @ (cross / (values + penalty)[:, None])
        # On copies with roots r of their weights, the hat matrix is H = a rr' with leverages a r^2,
        # and (I - H)^-1 = I + a rr' / (1 - a r'r).
        leverage = leverages[:, [i]]
        freedom = np.maximum(1 - (members @ leverage)[copy_of], LEAST_FREEDOM)
        left_out = residual + leverage / root * (members @ (root * residual))[copy_of] / freedom
        errors[i] = (left_out**2).sum(axis=0) / total
    best = errors.argmin(axis=0)
    alpha = penalties[best]
    coef = directions @ (cross / (values[:, None] + alpha))
    return coef, alpha, errors[best, np.arange(Y.shape[1])]
