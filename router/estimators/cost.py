"""Cost per candidate, predicted apart from quality: dollars, or tokens that are priced later."""

from __future__ import annotations

import copy
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, clone

from router.estimators.base import Estimator
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix

LEAST_SHARE = 0.05


class CostModel(BaseEstimator):
    """Predicts each candidate's tokens where the log has them, else its dollars.

    Any estimator serves as regressor: it learns the amount relative to the candidate's mean, so
    that a 500-fold spread of prices does not matter, and a prediction never falls below
    LEAST_SHARE of that mean. Predictions are means, as a budget in dollars needs; CARROT (arXiv
    2502.03261) and OmniRouter (arXiv 2502.20576) predict cost from the query likewise.

    estimator: regressor of the relative amount.
    """

    def __init__(self, estimator: Estimator):
        self.estimator = estimator

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if outcomes.cost is None:
            raise ValueError("the outcomes have no cost to learn from")
        self.prices_ = outcomes.prices
        amounts = (
            outcomes.cost[:, :, None] if outcomes.tokens is None else outcomes.tokens
        )  # (n, m, kinds)
        observed = outcomes.observed
        means = []
        self.members_: list[Estimator] = []
        for kind in range(amounts.shape[2]):
            amount = amounts[:, :, kind]
            mean = np.where(observed, amount, 0.0).sum(axis=0) / observed.sum(axis=0)
            relative = amount / np.where(mean > 0, mean, 1.0)
            means.append(mean)
            self.members_.append(clone(self.estimator).fit(X, outcomes.with_target(relative)))
        self.mean_ = np.stack(means, axis=1)
        self.n_flat_ = 0  # candidates, the last ones, that cost their mean whatever the query
        return self

    def with_candidate(
        self, name: str, X: np.ndarray, amounts: np.ndarray, price: np.ndarray | None = None
    ) -> Self:
        """A copy with one more candidate, the last, learned from (k, d) vectors and (k, kinds)
        amounts of its answers: dollars, or tokens, and then its (2,) USD per token too.

        Where the estimator takes in no candidate, the new one costs its labels' mean everywhere.
        """
        grown = copy.copy(self)
        mean = amounts.mean(axis=0)
        grown.mean_ = np.concatenate([self.mean_, mean[None]])
        if self.prices_ is not None:
            assert price is not None
            grown.prices_ = np.concatenate([self.prices_, price[None]])
        if self.n_flat_ or not getattr(self.estimator, "takes_candidates", False):
            grown.n_flat_ = self.n_flat_ + 1
            return grown
        relative = amounts / np.where(mean > 0, mean, 1.0)
        grown.members_ = [
            member.with_candidate(name, X, relative[:, kind])
            for kind, member in enumerate(self.members_)
        ]
        return grown

    def predict_amounts(self, X: np.ndarray) -> np.ndarray:
        """(n, m, kinds) dollars (one kind), or input and output tokens (two kinds)."""
        relative = np.stack([member.predict(X).quality for member in self.members_], axis=2)
        if self.n_flat_:
            flat = np.ones((len(X), self.n_flat_, relative.shape[2]))
            relative = np.concatenate([relative, flat], axis=1)
        return np.maximum(relative, LEAST_SHARE) * self.mean_

    def predict(self, X: np.ndarray) -> np.ndarray:
        """(n, m) USD per answer."""
        amounts = self.predict_amounts(X)
        if self.prices_ is None:
            return amounts[:, :, 0]
        return np.einsum("nmk,mk->nm", amounts, self.prices_)

    def to_onnx(self, graph: Graph, vector: str) -> str:
        """The name of the amounts, (batch, m, kinds)."""
        kinds = []
        for member in self.members_:
            relative, _ = member.to_onnx(graph, vector)
            if self.n_flat_:
                pads = graph.constant([0, 0, 0, self.n_flat_], np.int64)
                relative = graph.op("Pad", relative, pads, graph.constant(1.0))
            kinds.append(relative)
        # Kind beside kind, as one floor and one product serve all of them.
        floored = graph.op("Max", graph.op("Concat", *kinds, axis=1), graph.constant(LEAST_SHARE))
        m, n_kinds = self.mean_.shape
        flat = graph.op("Mul", floored, graph.constant(self.mean_.T.reshape(1, -1)))
        if n_kinds == 1:
            return graph.op("Unsqueeze", flat, graph.constant([2], np.int64))
        shape = graph.constant([-1, n_kinds, m], np.int64)
        return graph.op("Transpose", graph.op("Reshape", flat, shape), perm=[0, 2, 1])
