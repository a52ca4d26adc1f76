"""The contract of an estimator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator

from router.errors import RouterError
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction


class Estimator(BaseEstimator, ABC):
    """Vectors -> per-candidate mean score and its standard error.

    Follows scikit-learn: hyperparameters in __init__ only, clonable, deterministic under
    `random_state`. `fit` reads only observed outcomes; `to_onnx` writes the forward pass of
    `predict`, so that training and serving compute the same numbers.

    A class of one's own needs these three methods and is plugged in by `_target_`.
    """

    candidates_: tuple[str, ...]

    @abstractmethod
    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        """Learn from (n, d) vectors and the outcomes of the same n queries."""

    @abstractmethod
    def predict(self, X: np.ndarray) -> Prediction:
        """Quality and standard error of (n, d) vectors, each (n, m)."""

    @abstractmethod
    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        """Write `predict` into the graph; the names of quality and standard error, (batch, m)."""


def check_fit(
    X: np.ndarray, outcomes: OutcomeMatrix
) -> tuple[np.ndarray, OutcomeMatrix, np.ndarray]:
    """(X as float64, outcomes, (n, m) targets with 0 where unobserved), without the queries that
    have no outcome at all; raises RouterError on bad input."""
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or len(X) != len(outcomes):
        raise RouterError(f"X has shape {X.shape}; expected ({len(outcomes)}, d).")
    if not np.isfinite(X).all():
        raise RouterError("X holds NaN or infinite values; check the encoder.")
    n_outcomes = outcomes.observed.sum(axis=0)
    unseen = [name for j, name in enumerate(outcomes.candidates) if n_outcomes[j] == 0]
    if unseen:
        raise RouterError(
            f"No outcome of {', '.join(map(repr, unseen))} among the {len(X)} queries to learn "
            "from; log more, or leave these models out with data.candidates."
        )
    known = outcomes.observed.any(axis=1)
    if not known.all():
        rows = np.flatnonzero(known)
        X, outcomes = X[rows], outcomes.take(rows)
    return X, outcomes, np.where(outcomes.observed, outcomes.scores, 0.0)


@dataclass(frozen=True)
class Overall:
    """(m,) mean and variance of each candidate's observed targets, and how many there are."""

    mean: np.ndarray
    variance: np.ndarray
    count: np.ndarray

    @property
    def se(self) -> np.ndarray:
        """(m,) standard error of the mean."""
        return np.sqrt(self.variance / self.count)


def overall_of(targets: np.ndarray, observed: np.ndarray) -> Overall:
    """The candidates' statistics over all queries.

    Every variance counts one pseudo-outcome of the variance pooled over candidates: a candidate
    with one outcome, or with equal ones, is not taken as certain.
    """
    count = observed.sum(axis=0)
    mean = targets.sum(axis=0) / count
    squares = np.where(observed, (targets - mean) ** 2, 0.0).sum(axis=0)
    pooled = squares.sum() / max(count.sum() - len(count), 1)
    return Overall(mean, (squares + pooled) / count, count)
