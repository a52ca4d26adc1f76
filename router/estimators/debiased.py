"""Many biased scores, corrected by the few queries that have gold ones."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Self

import numpy as np
from sklearn.base import clone

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit
from router.estimators.cross_fit import first_known, out_of_fold
from router.estimators.graph import Graph
from router.estimators.logistic import Logistic
from router.outcomes.faults import listed
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

log = logging.getLogger(__name__)

LEAST_CHANCE = 0.01  # a chance nearer to 0 or 1 would make one query's weight the whole


class Debiased(Estimator):
    """An estimator fitted to scores of which most come from a biased judge or from preferences,
    after Meta-Router (arXiv 2509.25535).

    Whether a query's scores are gold is read as a treatment; the bias of the others is then its
    conditional effect. A DR-learner (Kennedy 2023, arXiv 2004.14497) estimates it for each
    candidate: mean gold score, mean biased score and chance of gold, each predicted by folds that
    did not see the query, make a pseudo-outcome that is right on average where either the two means
    or the chance are; `correction` learns it from the vectors. The biased scores plus this
    correction, and the gold scores as they stand, are what `estimator` is fitted to.

    The table's column `gold` says which queries are gold; without one, or where all are alike, this
    is the estimator alone. So are candidates that lack either kind. Corrected scores may leave
    [0, 1], which Logistic refuses. The standard error is the estimator's own: it takes the
    correction as known.

    estimator: of the corrected scores.
    correction: regression of the means and of the bias.
    n_folds: of the cross-fitting, groups kept whole.
    """

    def __init__(self, estimator: Estimator, correction: Estimator, n_folds: int = 5):
        self.estimator = estimator
        self.correction = correction
        self.n_folds = n_folds

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if self.n_folds < 2:
            raise RouterError("Debiased needs n_folds of at least 2.")
        X, outcomes, _ = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        if "gold" not in outcomes.queries:
            log.warning("Debiased: the table has no column 'gold', so no score is corrected.")
        else:
            gold = outcomes.queries["gold"].to_numpy(dtype=bool)
            outcomes = outcomes.with_target(self._corrected(X, outcomes, gold))
        self.member_ = clone(self.estimator).fit(X, outcomes)
        return self

    def _corrected(self, X: np.ndarray, outcomes: OutcomeMatrix, gold: np.ndarray) -> np.ndarray:
        """(n, m) scores, the biased ones corrected."""
        is_gold, is_biased = (outcomes.observed & rows[:, None] for rows in (gold, ~gold))
        has_gold, has_biased = is_gold.any(axis=0), is_biased.any(axis=0)
        if not has_gold.all():
            names = np.array(outcomes.candidates, dtype=object)[~has_gold]
            log.warning("Debiased: %s has no gold score and is left as it is.", listed(names))
        columns = np.flatnonzero(has_gold & has_biased)
        corrected = outcomes.scores.copy()
        if len(columns):
            both = outcomes.select([outcomes.candidates[j] for j in columns])
            effect = both.with_target(self._pseudo_outcomes(X, both, gold))
            bias = np.zeros_like(corrected)
            bias[:, columns] = clone(self.correction).fit(X, effect).predict(X).quality
            corrected += np.where(is_biased, bias, 0.0)
        return corrected

    def _pseudo_outcomes(
        self, X: np.ndarray, outcomes: OutcomeMatrix, gold: np.ndarray
    ) -> np.ndarray:
        """(n, m) doubly robust pseudo-outcomes of gold against biased scores."""
        treated = np.broadcast_to(gold[:, None], outcomes.observed.shape)
        golden = replace(outcomes, observed=outcomes.observed & treated)
        biased = replace(outcomes, observed=outcomes.observed & ~treated)
        chances = outcomes.with_target(treated.astype(float))
        chance, gold_mean, biased_mean = (
            out_of_fold([estimator], X, seen, self.n_folds)[0]
            for estimator, seen in (
                (Logistic(), chances),
                (self.correction, golden),
                (self.correction, biased),
            )
        )
        # What a fold has never seen is as good as the other kind, or as any.
        gold_mean = first_known(gold_mean, biased_mean, outcomes.mean_scores())
        biased_mean = first_known(biased_mean, gold_mean)
        chance = np.clip(first_known(chance, chances.mean_scores()), LEAST_CHANCE, 1 - LEAST_CHANCE)
        residual = np.where(
            treated,
            (outcomes.scores - gold_mean) / chance,
            (biased_mean - outcomes.scores) / (1 - chance),
        )
        return gold_mean - biased_mean + residual

    def predict(self, X: np.ndarray) -> Prediction:
        return self.member_.predict(X)

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        return self.member_.to_onnx(graph, vector)
