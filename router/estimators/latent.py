"""Probabilities from logits that are linear in a latent of the query: what the small neural
estimators share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from scipy.special import expit, softmax

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit
from router.estimators.battles import chances_to_beat, chances_to_onnx
from router.estimators.graph import Graph
from router.estimators.linear_uncertainty import LinearUncertainty
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

LEAST_DISPERSION = 0.01


@dataclass(frozen=True)
class LastLayer:
    """What belongs to the candidates: the logit of candidate j is latent · coef[:, j] + bias[j].

    coef: (r, m). bias: (m,). uncertainty: of the logits, by the latent.
    """

    coef: np.ndarray
    bias: np.ndarray
    uncertainty: LinearUncertainty

    def logits(self, latent: np.ndarray) -> np.ndarray:
        return latent @ self.coef + self.bias

    def to_onnx(self, graph: Graph, latent: str) -> tuple[str, str]:
        """The names of the logits and of their variance."""
        product = graph.op("MatMul", latent, graph.constant(self.coef))
        logits = graph.op("Add", product, graph.constant(self.bias[None]))
        return logits, self.uncertainty.to_onnx(graph, latent)


class LatentEstimator(Estimator):
    """link(coef' latent(x) + bias) with latent(x) = activation(projection' (x - mean) + offset).

    Scores are quasi-binomial: graded ones spread less than right and wrong answers, and say more,
    by the factor 1 / dispersion_. The standard error is the last layer's (Laplace's approximation
    with the latent held fixed; Kristiadi et al. 2020, arXiv 2002.10118): that of the logit times
    the slope of the link.
    """

    activation: ClassVar[str] = "identity"  # identity, relu, softplus, or ball (see _latent)
    penalty: float

    projection_: np.ndarray
    offset_: np.ndarray
    layers_: list[LastLayer]

    @property
    def link(self) -> str:
        """sigmoid: P(correct) of each candidate; softmax: P(best) among the candidates; beats: mean
        chance to beat another one."""
        return "sigmoid"

    @abstractmethod
    def _require_sound_hyperparameters(self) -> None: ...

    @abstractmethod
    def _learn(
        self, Z: np.ndarray, targets: np.ndarray, observed: np.ndarray, outcomes: OutcomeMatrix
    ) -> tuple[np.ndarray, np.ndarray]:
        """Set projection_ and offset_; the last layer's coef (r, m) and bias (m,).

        Z: (n, d) vectors less their mean. observed: (n, m) the cells to learn from.
        """

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        self._require_sound_hyperparameters()
        X, outcomes, targets = check_fit(self, X, outcomes)
        if targets.min() < 0 or targets.max() > 1:
            raise RouterError(
                f"{type(self).__name__} needs targets in [0, 1]; choose another estimator for cost."
            )
        self.candidates_ = outcomes.candidates
        self.mean_ = X.mean(axis=0)
        observed = outcomes.observed
        # Scores that are all equal leave no slope to fit, and the logit of 0 or 1 is infinite.
        constant = np.zeros(len(self.candidates_), dtype=bool)
        if self.link == "sigmoid":
            high, low = (np.where(observed, targets, edge) for edge in (-1.0, 2.0))
            constant = high.max(axis=0) == low.min(axis=0)
        learned = observed & ~constant
        self.dispersion_ = _dispersion(targets, learned) if self.link == "sigmoid" else 1.0
        self.prior_ = self.penalty * self.dispersion_
        coef, bias = self._learn(X - self.mean_, targets, learned, outcomes)
        coef[:, constant] = 0.0
        bias[constant] = start_bias(targets, observed)[constant]
        latent = self._latent(X)
        _, slope = self._link(latent @ coef + bias)
        alpha = np.full(len(bias), self.penalty)
        information = observed * slope / self.dispersion_
        uncertainty = LinearUncertainty.fit(latent, information, alpha, self._se_rank())
        self.layers_ = [LastLayer(coef, bias, uncertainty)]
        return self

    def _se_rank(self) -> int:
        return self.projection_.shape[1]

    def predict(self, X: np.ndarray) -> Prediction:
        latent = self._latent(np.asarray(X, dtype=np.float64))
        p, slope = self._link(np.hstack([layer.logits(latent) for layer in self.layers_]))
        variance = np.hstack([layer.uncertainty.variance(latent) for layer in self.layers_])
        return Prediction(self.candidates_, p, slope * np.sqrt(variance))

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        latent = self._latent_to_onnx(graph, vector)
        written = [layer.to_onnx(graph, latent) for layer in self.layers_]
        logits, variance = (
            graph.op("Concat", *parts, axis=1) for parts in zip(*written, strict=True)
        )
        if self.link == "beats":
            p, slope = chances_to_onnx(graph, logits, len(self.candidates_))
        else:
            sigmoid = self.link == "sigmoid"
            p = graph.op("Sigmoid", logits) if sigmoid else graph.op("Softmax", logits, axis=1)
            slope = graph.op("Mul", p, graph.op("Sub", graph.constant(1.0), p))
        return p, graph.op("Mul", slope, graph.op("Sqrt", variance))

    def _link(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, m) probabilities, and how steeply each rises with the candidate's own logit."""
        if self.link == "beats":
            return chances_to_beat(logits)
        p = softmax(logits, axis=1) if self.link == "softmax" else expit(logits)
        return p, p * (1 - p)

    def _offset(self, Z: np.ndarray) -> np.ndarray:
        return self.offset_

    def _offset_to_onnx(self, graph: Graph, Z: str) -> str:
        return graph.constant(self.offset_[None])

    def _latent(self, X: np.ndarray) -> np.ndarray:
        Z = X - self.mean_
        raw = Z @ self.projection_ + self._offset(Z)
        if self.activation == "relu":
            return np.maximum(raw, 0.0)
        if self.activation == "softplus":
            return np.logaddexp(0.0, raw)
        if self.activation == "ball":  # of length below 1, and smooth where a length of 1 is not
            return raw / np.sqrt(1 + (raw**2).sum(axis=1, keepdims=True))
        return raw

    def _latent_to_onnx(self, graph: Graph, vector: str) -> str:
        Z = graph.op("Sub", vector, graph.constant(self.mean_[None]))
        projected = graph.op("MatMul", Z, graph.constant(self.projection_))
        raw = graph.op("Add", projected, self._offset_to_onnx(graph, Z))
        if self.activation == "relu":
            return graph.op("Relu", raw)
        if self.activation == "softplus":
            return graph.op("Softplus", raw)
        if self.activation == "ball":
            axis = graph.constant([1], np.int64)
            square = graph.op("ReduceSum", graph.op("Mul", raw, raw), axis, keepdims=1)
            length = graph.op("Sqrt", graph.op("Add", square, graph.constant(1.0)))
            return graph.op("Div", raw, length)
        return raw


def _dispersion(targets: np.ndarray, observed: np.ndarray) -> float:
    """Variance of the scores as a share of that of right and wrong answers with the same means: 1
    for scores of 0 and 1, less for graded ones, which say more. A prior is weighed against the
    likelihood divided by it (quasi-likelihood; McCullagh and Nelder 1989, section 9.2)."""
    count = np.maximum(observed.sum(axis=0), 1)
    mean = np.where(observed, targets, 0.0).sum(axis=0) / count
    spread = np.where(observed, (targets - mean) ** 2, 0.0).sum()
    of_binary = (observed * mean * (1 - mean)).sum()
    return float(np.clip(spread / of_binary, LEAST_DISPERSION, 1.0)) if of_binary > 0 else 1.0


def start_bias(targets: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """(m,) logit of each candidate's mean score, half an outcome of each kind added."""
    mean = (np.where(observed, targets, 0.0).sum(axis=0) + 0.5) / (observed.sum(axis=0) + 1)
    return np.log(mean / (1 - mean))
