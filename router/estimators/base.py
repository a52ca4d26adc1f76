"""The contract of an estimator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from inspect import isabstract
from typing import Any, Self

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

    def with_candidate(self, name: str, X: np.ndarray, scores: np.ndarray) -> Self:
        """A copy with one more candidate, the last, learned from k labelled queries: (k, d) vectors
        and (k,) scores. Nothing is refitted: the old candidates' predictions stay to the last bit.

        An option of an estimator. Raises RouterError where it is not offered, or on bad input.
        """
        raise _cannot_take_candidates(self)

    @property
    def takes_candidates(self) -> bool:
        """Whether `with_candidate` is offered."""
        return _offers(type(self))

    @property
    def takes_weights(self) -> bool:
        """Whether `fit` lets outcomes count by `outcomes.weights`; where not, it refuses them."""
        return False


def require_takes_candidates(estimator: Estimator) -> None:
    """Raise RouterError, with the names of those that can, where the estimator, fitted or not,
    cannot take in a candidate."""
    if not getattr(estimator, "takes_candidates", False):
        raise _cannot_take_candidates(estimator)


def _cannot_take_candidates(estimator: Estimator) -> RouterError:
    offered = ", ".join(sorted(kind.__name__ for kind in _kinds(Estimator) if _offers(kind)))
    return RouterError(
        f"{type(estimator).__name__} as configured cannot take in a candidate; train with one that "
        f"can ({offered}), or train anew on all outcomes."
    )


def require_takes_weights(estimator: Estimator) -> None:
    """Raise RouterError, with the names of those that can, where the estimator, fitted or not,
    cannot let outcomes count differently."""
    if not getattr(estimator, "takes_weights", False):
        offered = ", ".join(
            sorted(kind.__name__ for kind in _kinds(Estimator) if kind.takes_weights is True)
        )
        raise RouterError(
            f"{type(estimator).__name__} as configured cannot weigh outcomes; choose an estimator "
            f"that can ({offered}), or fit it without weights."
        )


def _kinds(kind: Any) -> list[type[Estimator]]:
    """The classes below, at whatever depth."""
    return [*kind.__subclasses__(), *(k for sub in kind.__subclasses__() for k in _kinds(sub))]


def _offers(kind: type[Estimator]) -> bool:
    return kind.with_candidate is not Estimator.with_candidate and not isabstract(kind)


def check_labels(
    estimator: Estimator, name: str, X: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(X, scores) of a new candidate as float64; raises RouterError on bad input."""
    X, scores = np.asarray(X, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if name in estimator.candidates_:
        raise RouterError(f"{name!r} is a candidate already; give the new one another name.")
    if X.ndim != 2 or scores.shape != (len(X),) or not len(X):
        raise RouterError(
            f"The labels of {name!r} have X of shape {X.shape} and scores of shape {scores.shape}; "
            "expected (k, d) and (k,) with k of at least 1."
        )
    if not (np.isfinite(X).all() and np.isfinite(scores).all()):
        raise RouterError(f"The labels of {name!r} hold NaN or infinite values.")
    return X, scores


def check_fit(
    estimator: Estimator, X: np.ndarray, outcomes: OutcomeMatrix
) -> tuple[np.ndarray, OutcomeMatrix, np.ndarray]:
    """(X as float64, outcomes, (n, m) targets with 0 where unobserved), without the outcomes of
    weight 0 and the queries that have no outcome at all; raises RouterError on bad input, such as
    weights that the estimator would have to ignore."""
    X = np.asarray(X, dtype=np.float64)
    if X.ndim != 2 or len(X) != len(outcomes):
        raise RouterError(f"X has shape {X.shape}; expected ({len(outcomes)}, d).")
    if not np.isfinite(X).all():
        raise RouterError("X holds NaN or infinite values; check the encoder.")
    if outcomes.weights is not None:
        require_takes_weights(estimator)
        given = outcomes.weights[outcomes.observed]
        if not (np.isfinite(given).all() and (given >= 0).all()):
            raise RouterError("The weights of the outcomes must be finite numbers from 0 up.")
        # What does not count may as well not be there.
        outcomes = replace(outcomes, observed=outcomes.observed & (outcomes.weights > 0))
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


def weights_of(outcomes: OutcomeMatrix) -> np.ndarray:
    """(n, m) how many outcomes each one counts as: 1, or its weight on the scale on which a
    candidate's weights sum to the effective sample size of Kish (1965, Survey Sampling),
    (sum of weights)^2 / sum of squared weights; 0 where unobserved.

    On this scale the weights' squares have the same sum, so that penalties, pseudo-counts and
    standard errors weigh against as many outcomes as the log is worth, and a common factor of the
    weights makes no difference.
    """
    if outcomes.weights is None:
        return outcomes.observed.astype(float)
    weights = np.where(outcomes.observed, outcomes.weights, 0.0)
    return weights * (weights.sum(axis=0) / (weights**2).sum(axis=0))


@dataclass(frozen=True)
class Overall:
    """(m,) mean and variance of each candidate's observed targets, and how many there are; with
    weights, how many they are worth (see weights_of)."""

    mean: np.ndarray
    variance: np.ndarray
    count: np.ndarray

    @property
    def se(self) -> np.ndarray:
        """(m,) standard error of the mean."""
        return np.sqrt(self.variance / self.count)

    def with_candidate(self, scores: np.ndarray) -> Overall:
        """The statistics with one more candidate, the last, of the (k,) scores; its variance too
        counts one pseudo-outcome of the variance pooled over the old candidates."""
        # The counts times the variances hold each candidate's squares and the pooled variance once.
        pooled = (self.variance * self.count).sum() / self.count.sum()
        squares = ((scores - scores.mean()) ** 2).sum()
        return Overall(
            np.append(self.mean, scores.mean()),
            np.append(self.variance, (squares + pooled) / len(scores)),
            np.append(self.count, len(scores)),
        )

    def last(self) -> Overall:
        """The last candidate's statistics alone."""
        return Overall(self.mean[-1:], self.variance[-1:], self.count[-1:])


def overall_of(targets: np.ndarray, weights: np.ndarray) -> Overall:
    """The candidates' statistics over all queries, from (n, m) targets and weights_of them.

    Every variance counts one pseudo-outcome of the variance pooled over candidates: a candidate
    with one outcome, or with equal ones, is not taken as certain.
    """
    count = weights.sum(axis=0)
    mean = (weights * targets).sum(axis=0) / count
    squares = (weights * (targets - mean) ** 2).sum(axis=0)
    pooled = squares.sum() / max(count.sum() - len(count), 1)
    return Overall(mean, (squares + pooled) / count, count)
