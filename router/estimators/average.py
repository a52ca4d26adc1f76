"""The plain mean of several estimators."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Self

import numpy as np
from sklearn.base import clone

from router.errors import RouterError
from router.estimators.base import Estimator
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction


class Average(Estimator):
    """Equal-weight mean of the estimators' predictions.

    The standard errors are averaged too: the members err on the same queries, so the mean of
    several is not counted as surer than its members.

    estimators: the members by name, fitted as clones.
    """

    def __init__(self, estimators: Mapping[str, Estimator]):
        self.estimators = estimators

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if not self.estimators:
            raise RouterError("Average needs at least one estimator.")
        self.candidates_ = outcomes.candidates
        self.members_ = [clone(member).fit(X, outcomes) for member in self.estimators.values()]
        return self

    def with_candidate(self, name: str, X: np.ndarray, scores: np.ndarray) -> Self:
        grown = copy.copy(self)
        grown.members_ = [member.with_candidate(name, X, scores) for member in self.members_]
        grown.candidates_ = (*self.candidates_, name)
        return grown

    @property
    def takes_candidates(self) -> bool:
        """Where every member does."""
        return all(member.takes_candidates for member in self.estimators.values())

    @property
    def takes_weights(self) -> bool:
        """Where every member does."""
        return all(member.takes_weights for member in self.estimators.values())

    def predict(self, X: np.ndarray) -> Prediction:
        predictions = [member.predict(X) for member in self.members_]
        return Prediction(
            self.candidates_,
            np.mean([prediction.quality for prediction in predictions], axis=0),
            np.mean([prediction.quality_se for prediction in predictions], axis=0),
        )

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        share = graph.constant(1 / len(self.members_))
        written = [member.to_onnx(graph, vector) for member in self.members_]

        def mean(tensors: Sequence[str]) -> str:
            return graph.op("Mul", reduce(lambda a, b: graph.op("Add", a, b), tensors), share)

        return mean([quality for quality, _ in written]), mean([se for _, se in written])
