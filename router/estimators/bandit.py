"""E7: a linear-Gaussian posterior per candidate that learns one outcome at a time."""

from __future__ import annotations

import copy
from typing import Self

import numpy as np

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit, check_labels, overall_of
from router.estimators.graph import Graph
from router.estimators.recency import column_of, recency_weights, require_score
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

LEAST_SCALE = 0.1  # of the leading direction's standard deviation: weaker ones are not blown up
LEAST_NOISE = 1e-12


class LinearBandit(Estimator):
    """Bayesian linear regression per candidate: posterior mean and its standard deviation, for the
    policies UpperConfidence and Thompson (LinUCB, arXiv 1003.0146; as routers MetaLLM, arXiv
    2407.10834, and MixLLM, arXiv 2502.18482).

    `fit` learns a frame: the leading directions of the vectors, scaled to equal spread, and each
    candidate's mean and variance. Around that mean a candidate's scores are linear in the
    directions, with normal weights and noise. `update` then moves a candidate's posterior by one
    outcome within the frame, at the price of one solve of (dimensions + 1) equations; `fit` itself
    ends where updates in the log's order from the prior would end. The posterior's covariance is
    kept as a triangle per candidate, so the exported graph holds m x (dimensions + 1)^2 numbers.

    dimensions: directions of the vectors that are kept.
    penalty: the directions together are expected to explain 1 / penalty of a candidate's variance;
        a direction's weight so has a prior of penalty x (directions kept) outcomes, while the mean
        has one of a single outcome.
    forgetting: factor on a candidate's earlier evidence at each new outcome of it, in (0, 1]; below
        1 the posterior follows drift, with a memory of 1 / (1 - forgetting) outcomes.
    """

    def __init__(self, dimensions: int = 32, penalty: float = 10.0, forgetting: float = 1.0):
        self.dimensions = dimensions
        self.penalty = penalty
        self.forgetting = forgetting

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        """Learn from the outcomes in the order of their timestamps, or else of the log."""
        if self.dimensions < 1 or not self.penalty > 0 or not 0 < self.forgetting <= 1:
            raise RouterError(
                "LinearBandit needs at least 1 of dimensions, a penalty above 0 and forgetting in "
                "(0, 1]."
            )
        X, outcomes, targets = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        self.overall_ = overall_of(targets, outcomes.observed)
        self.centre_ = X.mean(axis=0)
        Z = X - self.centre_
        values, directions = np.linalg.eigh(Z.T @ Z / len(Z))
        scale = np.sqrt(np.maximum(values[::-1][: self.dimensions], 0.0))
        kept = directions[:, ::-1][:, : self.dimensions]
        # Vectors that are all the same show no direction.
        shown = scale[0] > np.finfo(np.float32).eps * (1 + np.abs(self.centre_).max())
        self.basis_ = kept / np.maximum(scale, LEAST_SCALE * scale[0]) if shown else 0 * kept
        weights = recency_weights(outcomes, self.forgetting)
        F = self._features(X)
        deviations = targets - self.overall_.mean
        self.precision_ = np.stack([self._prior + (F.T * w) @ F for w in weights.T])
        self.moment_ = (weights * deviations).T @ F
        self._solve_all()
        return self

    @property
    def _prior(self) -> np.ndarray:
        """(k + 1, k + 1) precision of the weights; the constant's, last, is one outcome."""
        k = self.basis_.shape[1]
        return np.diag(np.append(np.full(k, float(self.penalty * k)), 1.0))

    def _features(self, X: np.ndarray) -> np.ndarray:
        """(n, k + 1): the leading directions, and a constant."""
        return np.column_stack([(X - self.centre_) @ self.basis_, np.ones(len(X))])

    def _solve_all(self) -> None:
        solved = [
            _solve(precision, moment)
            for precision, moment in zip(self.precision_, self.moment_, strict=True)
        ]
        self.weights_ = np.stack([weights for weights, _ in solved])
        self.root_ = np.stack([root for _, root in solved])
        self.noise_ = np.maximum(self.overall_.variance, LEAST_NOISE)

    def update(self, vector: np.ndarray, candidate: str, score: float) -> Self:
        """Learn one outcome: (d,) vector of the query, the candidate that answered, its score.

        Raises RouterError where the candidate is unknown, or vector or score are not as they
        should be.
        """
        j = column_of(self.candidates_, candidate)
        require_score(score)
        vector = np.asarray(vector, dtype=np.float64)
        if vector.shape != self.centre_.shape or not np.isfinite(vector).all():
            raise RouterError(
                f"The vector has shape {vector.shape}; give {len(self.centre_)} finite numbers."
            )
        f = self._features(vector[None])[0]
        prior, kept = self._prior, self.forgetting
        self.precision_[j] = prior + kept * (self.precision_[j] - prior) + np.outer(f, f)
        self.moment_[j] = kept * self.moment_[j] + (score - self.overall_.mean[j]) * f
        self.weights_[j], self.root_[j] = _solve(self.precision_[j], self.moment_[j])
        return self

    def forget(self) -> Self:
        """Back to the prior: the frame stays, and the candidates' posteriors are as before any
        outcome."""
        self.precision_ = np.stack([self._prior] * len(self.candidates_))
        self.moment_ = np.zeros_like(self.moment_)
        self._solve_all()
        return self

    def with_candidate(self, name: str, X: np.ndarray, scores: np.ndarray) -> Self:
        X, scores = check_labels(self, name, X, scores)
        grown = copy.copy(self)
        grown.candidates_ = (*self.candidates_, name)
        grown.overall_ = self.overall_.with_candidate(scores)
        F = self._features(X)
        weights = self.forgetting ** np.arange(len(F))[::-1]
        own = self._prior + (F.T * weights) @ F
        grown.precision_ = np.concatenate([self.precision_, own[None]])
        moment = (weights * (scores - scores.mean())) @ F
        grown.moment_ = np.concatenate([self.moment_, moment[None]])
        grown._solve_all()
        return grown

    def predict(self, X: np.ndarray) -> Prediction:
        F = self._features(np.asarray(X, dtype=np.float64))
        # One candidate at a time: another one beside it must not change a bit.
        shift = np.stack([F @ weights for weights in self.weights_], axis=1)
        spread = np.stack([((F @ root.T) ** 2).sum(axis=1) for root in self.root_], axis=1)
        return Prediction(
            self.candidates_, self.overall_.mean + shift, np.sqrt(self.noise_ * spread)
        )

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        m, k, _ = self.root_.shape
        centred = graph.op("Sub", vector, graph.constant(self.centre_[None]))
        leading = graph.op("MatMul", centred, graph.constant(self.basis_))
        F = graph.op("Pad", leading, graph.constant([0, 0, 0, 1], np.int64), graph.constant(1.0))
        product = graph.op("MatMul", F, graph.constant(self.weights_.T))
        quality = graph.op("Add", product, graph.constant(self.overall_.mean[None]))
        rooted = graph.op("MatMul", F, graph.constant(self.root_.reshape(m * k, k).T))
        by_candidate = graph.op("Reshape", rooted, graph.constant([-1, m, k], np.int64))
        squares = graph.op("Mul", by_candidate, by_candidate)
        spread = graph.op("ReduceSum", squares, graph.constant([2], np.int64), keepdims=0)
        variance = graph.op("Mul", spread, graph.constant(self.noise_[None]))
        return quality, graph.op("Sqrt", variance)


def _solve(precision: np.ndarray, moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(k,) posterior mean of the weights and the (k, k) root R of their covariance R'R: the
    variance of f'w is |R f|^2."""
    root = np.linalg.inv(np.linalg.cholesky(precision))
    return root.T @ (root @ moment), root
