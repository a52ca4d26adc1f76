"""E2: the mean outcome of each label that the log gives its queries, shrunk to the overall mean."""

from __future__ import annotations

import copy
from typing import Self

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.utils.extmath import softmax

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit, check_labels, overall_of, weights_of
from router.estimators.cells import candidate_columns, cell_table
from router.estimators.graph import Graph
from router.outcomes.faults import listed
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

RARE = "(rare)"
NONE = "(none)"
MOST_STEPS = 10_000


class Labels(Estimator):
    """One shrunken mean per label and candidate. No label is known when a query is routed: it is
    predicted from the vector by multinomial logistic regression.

    The quality is the mean over labels by their predicted probability, and so is the standard
    error: which label it is, and how it does, are not told apart. Labels as the router: the subject
    level of Bench-CoE (arXiv 2412.04167); the data set's best model by a predicted label: LLM
    routing lessons (arXiv 2405.00467).

    column: column of the queries that holds the label, as task; a query without one is "(none)".
    least_queries: labels with fewer queries are pooled into one.
    shrinkage: pseudo-count of the candidate's overall mean in each label; None learns it
        (cells.learned_pseudo_count).
    hard: the most probable label alone counts.
    C: inverse penalty of the regression.
    """

    takes_weights = True

    def __init__(
        self,
        column: str = "task",
        least_queries: int = 10,
        shrinkage: float | None = 4.0,
        hard: bool = False,
        C: float = 10.0,
    ):
        self.column = column
        self.least_queries = least_queries
        self.shrinkage = shrinkage
        self.hard = hard
        self.C = C

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if self.least_queries < 1 or not self.C > 0:
            raise RouterError("Labels needs least_queries of at least 1 and C above 0.")
        if self.shrinkage is not None and not self.shrinkage >= 0:
            raise RouterError("Labels needs shrinkage of at least 0, or null to learn it.")
        X, outcomes, targets = check_fit(self, X, outcomes)
        if self.column not in outcomes.queries:
            raise RouterError(
                f"Labels needs a column {self.column!r} in the log, which has "
                f"{listed(outcomes.queries.columns)}; log it, or choose another estimator."
            )
        self.candidates_ = outcomes.candidates
        self.labels_, label = self._pooled(outcomes)
        self.coef_ = np.zeros((X.shape[1], len(self.labels_)))
        self.intercept_ = np.zeros(len(self.labels_))
        if len(self.labels_) > 1:
            self.coef_, self.intercept_ = _regressed(X, label, self.C)
        weights = weights_of(outcomes)
        self.overall_ = overall_of(targets, weights)
        member = np.eye(len(self.labels_))[label]
        self.table_, self.pseudo_count_ = cell_table(
            self.overall_, member, targets, weights, self.shrinkage
        )
        return self

    def _pooled(self, outcomes: OutcomeMatrix) -> tuple[tuple[str, ...], np.ndarray]:
        """(labels by name, (n,) number of each query's label), the rare ones pooled."""
        column = outcomes.queries[self.column]
        given = column.astype(object).where(column.notna(), NONE).astype(str)
        rare = given.map(given.value_counts()) < self.least_queries
        names, label = np.unique(given.where(~rare, RARE).to_numpy(str), return_inverse=True)
        return tuple(names.tolist()), label

    def with_candidate(self, name: str, X: np.ndarray, scores: np.ndarray) -> Self:
        """As in Estimator; a labelled query belongs to each label with its probability."""
        X, scores = check_labels(self, name, X, scores)
        grown = copy.copy(self)
        grown.candidates_ = (*self.candidates_, name)
        grown.overall_ = self.overall_.with_candidate(scores)
        new = candidate_columns(
            self.table_, self.pseudo_count_, grown.overall_.last(), self._weights(X), scores
        )
        mean, se = np.split(self.table_, 2, axis=1)
        grown.table_ = np.concatenate([mean, new[:, :1], se, new[:, 1:]], axis=1)
        return grown

    def _weights(self, X: np.ndarray) -> np.ndarray:
        """(n, labels) weight of each label; rows sum to one."""
        logit = X @ self.coef_ + self.intercept_
        return np.eye(len(self.labels_))[logit.argmax(axis=1)] if self.hard else softmax(logit)

    def predict(self, X: np.ndarray) -> Prediction:
        weights = self._weights(np.asarray(X, dtype=np.float64))
        # Label by label: a matrix product rounds otherwise when a column is added to the table.
        statistics = np.zeros((len(weights), self.table_.shape[1]))
        for weight, row in zip(weights.T, self.table_, strict=True):
            statistics += weight[:, None] * row
        quality, se = np.split(statistics, 2, axis=1)
        return Prediction(self.candidates_, quality, se)

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        m = len(self.candidates_)
        product = graph.op("MatMul", vector, graph.constant(self.coef_))
        logit = graph.op("Add", product, graph.constant(self.intercept_[None]))
        table = graph.constant(self.table_)
        if self.hard:
            statistics = graph.op("Gather", table, graph.op("ArgMax", logit, axis=1, keepdims=0))
        else:
            statistics = graph.op("MatMul", graph.op("Softmax", logit), table)
        quality, se = graph.op_with_outputs(
            "Split", 2, statistics, graph.constant([m, m], np.int64), axis=1
        )
        return quality, se


def _regressed(X: np.ndarray, label: np.ndarray, C: float) -> tuple[np.ndarray, np.ndarray]:
    """(d, labels) coefficients and (labels,) intercepts, label 0 the least."""
    fitted = LogisticRegression(C=C, max_iter=MOST_STEPS).fit(X, label)
    coef, intercept = fitted.coef_.T, fitted.intercept_
    if coef.shape[1] == 1:  # two labels: scikit-learn writes the difference of their logits
        coef, intercept = np.hstack([-coef, coef]) / 2, np.append(-intercept, intercept) / 2
    return coef, intercept
