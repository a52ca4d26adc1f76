"""Outcomes of a log that saw the chosen candidate alone, weighed by how rarely it was chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
from sklearn.base import clone

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit, require_takes_weights
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction


class InversePropensity(Estimator):
    """An estimator fitted with each outcome weighing 1 / the probability with which the log's
    policy chose that candidate (Horvitz and Thompson 1952, JASA 47), so that a candidate's outcomes
    stand for all queries, not for those that were sent to it.

    It matters to an estimator too simple for the truth: that one fits best where its outcomes lie.
    Where the estimator is right about the mean given the vector, and the policy chose by the vector
    alone, the outcomes need no weights, and these only add variance. The weights are normalised for
    each candidate, and standard errors count the outcomes by their effective sample size (see
    base.weights_of).

    estimator: fitted as a clone; it must take weights.
    largest_weight: limit of 1 / probability, at least 1; it trades bias for variance (Ionides 2008,
        Journal of Computational and Graphical Statistics 17).
    """

    def __init__(self, estimator: Estimator, largest_weight: float = 100.0):
        self.estimator = estimator
        self.largest_weight = largest_weight

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        require_takes_weights(self.estimator)
        X, outcomes, _ = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        weights = inverse_propensities(self, outcomes, self.largest_weight)
        self.member_ = clone(self.estimator).fit(X, replace(outcomes, weights=weights))
        return self

    def predict(self, X: np.ndarray) -> Prediction:
        return self.member_.predict(X)

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        return self.member_.to_onnx(graph, vector)


def inverse_propensities(
    estimator: Estimator, outcomes: OutcomeMatrix, largest: float
) -> np.ndarray:
    """(n, m) 1 / propensity of each outcome, at most `largest`; NaN where unobserved. A query with
    every candidate's outcome and no propensity was sent to all of them, with probability 1.

    Raises RouterError, in the name of the estimator, where an outcome has no propensity.
    """
    name = type(estimator).__name__
    if not largest >= 1:
        raise RouterError(f"{name} needs largest_weight of at least 1.")
    logged = outcomes.propensity
    chance = np.full(outcomes.scores.shape, np.nan) if logged is None else logged.copy()
    chance[np.isnan(chance) & outcomes.fully_observed[:, None]] = 1.0
    chance[~outcomes.observed] = np.nan
    bad = outcomes.observed & ~((chance > 0) & (chance <= 1))
    if bad.any():
        first = outcomes.queries["query_id"].iloc[np.flatnonzero(bad.any(axis=1))[0]]
        raise RouterError(
            f"{name} needs the propensity of every outcome, above 0 and at most 1, and "
            f"{int(bad.sum()):,} of {int(outcomes.observed.sum()):,} lack one, query '{first}' "
            "first; log with which probability the model was chosen (column 'propensity'), or "
            "choose an estimator that needs none."
        )
    return np.minimum(1 / chance, largest)
