"""E3: logistic regression per candidate on soft labels."""

from __future__ import annotations

from typing import Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit, overall_of, weights_of
from router.estimators.graph import Graph
from router.estimators.linear_uncertainty import LinearUncertainty
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

TOLERANCE = 1e-6  # of the gradient of the mean loss
MOST_STEPS = 1000
LEAST_SPREAD = 1e-6
LEAST_DISPERSION = 1e-3


class Logistic(Estimator):
    """P(correct | query), one classifier per candidate; a score between 0 and 1 counts as that
    share of a correct answer.

    A classifier of correctness per candidate as in Shnitzer et al. 2023 (arXiv 2309.15789) and, on
    a fine-tuned encoder, FORC (arXiv 2308.06077).

    C: inverse penalty.
    se_rank: directions in which the standard error is kept exactly (see LinearUncertainty).
    class_weight: None, or "balanced": right and wrong answers of a candidate weigh the same in sum,
        as in Srivatsa et al. 2024 (arXiv 2405.00467). The predictions are then no calibrated
        probabilities: each candidate's lie around 1/2 whatever its mean score, so that candidates
        are ranked by where each does better than it usually does.
    """

    takes_weights = True

    def __init__(self, C: float = 3.0, se_rank: int = 32, class_weight: str | None = None):
        self.C = C
        self.se_rank = se_rank
        self.class_weight = class_weight

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if not self.C > 0 or self.se_rank < 1:
            raise RouterError("Logistic needs C above 0 and se_rank of at least 1.")
        if self.class_weight not in (None, "balanced"):
            raise RouterError(
                f"Logistic needs class_weight null or 'balanced', not {self.class_weight!r}."
            )
        X, outcomes, targets = check_fit(self, X, outcomes)
        weights = weights_of(outcomes)
        if targets.min() < 0 or targets.max() > 1:
            raise RouterError(
                "Logistic needs targets in [0, 1]; choose another estimator for cost or corrected "
                "scores."
            )
        self.candidates_ = outcomes.candidates
        overall = overall_of(targets, weights)
        mean, n = overall.mean, overall.count
        # Without both kinds of label there is no slope to fit: half an outcome of each kind.
        smoothed = (mean * n + 0.5) / (n + 1)
        self.coef_ = np.zeros((X.shape[1], len(n)))
        self.intercept_ = np.log(smoothed / (1 - smoothed))
        both_kinds = (mean > 0) & (mean < 1)
        # An outcome is split into a right answer of weight `right` and a wrong one.
        right, wrong = weights * targets, weights * (1 - targets)
        if self.class_weight == "balanced":
            right[:, both_kinds] *= 0.5 / mean[both_kinds]
            wrong[:, both_kinds] *= 0.5 / (1 - mean[both_kinds])
        if both_kinds.any():
            self.coef_[:, both_kinds], self.intercept_[both_kinds] = _least_loss(
                X, right[:, both_kinds], wrong[:, both_kinds], self.C
            )
        p = self._probability(X)
        spread = p * (1 - p)
        # Graded scores vary less than coin flips of the same mean: scale by the Pearson statistic.
        weight = right + wrong
        label = right / np.where(weight > 0, weight, 1.0)
        pearson = weight * (label - p) ** 2 / np.maximum(spread, LEAST_SPREAD)
        dispersion = np.clip(pearson.sum(axis=0) / n, LEAST_DISPERSION, 1.0)
        dispersion[~both_kinds] = 1.0
        self.uncertainty_ = LinearUncertainty.fit(
            X, weight * spread / dispersion, 1 / (self.C * dispersion), self.se_rank
        )
        return self

    def _probability(self, X: np.ndarray) -> np.ndarray:
        return expit(X @ self.coef_ + self.intercept_)

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


def _least_loss(
    X: np.ndarray, right: np.ndarray, wrong: np.ndarray, C: float
) -> tuple[np.ndarray, np.ndarray]:
    """(d, m) coefficients and (m,) intercepts of least log loss + |coefficients|^2 / 2C, from the
    (n, m) weights of right and of wrong answers.

    All candidates at once: the sum of their losses is least where each is, and one pass over X
    serves them all. The vectors are turned and scaled so that the curvature is about the same in
    every direction, which L-BFGS needs to be quick."""
    n, d = X.shape
    m = right.shape[1]
    weight = right + wrong
    centre = X.mean(axis=0)
    Z = X - centre
    values, directions = np.linalg.eigh(Z.T @ Z)
    mean_spread = 0.25 * weight.mean()  # a coin flip's, where it was seen
    scale = directions / np.sqrt(np.maximum(values, 0.0) * mean_spread + 1 / C)
    Z = Z @ scale
    penalty = (scale.T @ scale) / C

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(d + 1, m)
        scaled = weights[:-1]
        logit = Z @ scaled + weights[-1]
        value = (weight * np.logaddexp(0, logit) - right * logit).sum()
        pull = penalty @ scaled
        error = weight * expit(logit) - right
        gradient = np.concatenate([Z.T @ error + pull, error.sum(axis=0)[None]])
        return (value + (scaled * pull).sum() / 2) / n, gradient.ravel() / n

    options = {"gtol": TOLERANCE, "ftol": 0.0, "maxiter": MOST_STEPS}
    found = minimize(loss, np.zeros((d + 1) * m), jac=True, method="L-BFGS-B", options=options)
    weights = found.x.reshape(d + 1, m)
    coef = scale @ weights[:-1]
    return coef, weights[-1] - centre @ coef
