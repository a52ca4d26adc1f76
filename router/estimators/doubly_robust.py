"""Dense pseudo-outcomes from a log that saw the chosen candidate alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
from sklearn.base import clone

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit, overall_of, weights_of
from router.estimators.cross_fit import first_known, out_of_fold
from router.estimators.graph import Graph
from router.estimators.inverse_propensity import inverse_propensities
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction


class DoublyRobust(Estimator):
    """An estimator fitted to a pseudo-outcome of every query and candidate: what `reward` predicts
    there, and where the outcome was logged, its error added, over the probability with which the
    candidate was chosen (Robins and Rotnitzky 1995, JASA 90; as a target for regression, Kennedy
    2023, arXiv 2004.14497; for policies, Dudik et al. 2011, arXiv 1103.4601).

    Given the query, its mean is the true one where either the prediction or the propensity is
    right. The predictions come from folds that did not see the query's group.

    The pseudo-outcomes scatter as much as the rare outcomes that they rest on. The estimator sees
    this as noise, so its standard error knows of it. It does not see that a candidate with few
    outcomes has one prediction's error in all of its pseudo-outcomes; therefore the standard error
    is never below that of the candidate's mean outcome weighed by inverse propensity.

    Pseudo-outcomes leave [0, 1], which Logistic and the like refuse.

    estimator: of the pseudo-outcomes, fitted as a clone.
    reward: of the logged outcomes, fitted n_folds times.
    n_folds: of the cross-fitting, groups kept whole, at least 2.
    largest_weight: limit of 1 / probability, at least 1.
    """

    def __init__(
        self,
        estimator: Estimator,
        reward: Estimator,
        n_folds: int = 5,
        largest_weight: float = 100.0,
    ):
        self.estimator = estimator
        self.reward = reward
        self.n_folds = n_folds
        self.largest_weight = largest_weight

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if self.n_folds < 2:
            raise RouterError("DoublyRobust needs n_folds of at least 2.")
        X, outcomes, targets = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        weights = inverse_propensities(self, outcomes, self.largest_weight)
        predicted = out_of_fold([self.reward], X, outcomes, self.n_folds)[0]
        predicted = first_known(predicted, outcomes.mean_scores())
        error = np.where(outcomes.observed, weights * (outcomes.scores - predicted), 0.0)
        self.member_ = clone(self.estimator).fit(X, _dense(outcomes, predicted + error))
        weighed = weights_of(replace(outcomes, weights=weights))
        self.least_se_ = overall_of(targets, weighed).se
        return self

    def predict(self, X: np.ndarray) -> Prediction:
        prediction = self.member_.predict(X)
        return replace(prediction, quality_se=np.maximum(prediction.quality_se, self.least_se_))

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        quality, se = self.member_.to_onnx(graph, vector)
        return quality, graph.op("Max", se, graph.constant(self.least_se_))


def _dense(outcomes: OutcomeMatrix, scores: np.ndarray) -> OutcomeMatrix:
    """The queries with a score in every cell; of the log's other numbers none is known of all."""
    return replace(
        outcomes,
        scores=scores,
        observed=np.ones_like(outcomes.observed),
        cost=None,
        tokens=None,
        prices=None,
        price_dates=(),
        latency=None,
        propensity=None,
    )
