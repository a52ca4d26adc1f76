"""E0 that forgets: an exponentially weighted mean per candidate, whatever the query."""

from __future__ import annotations

import copy
from typing import Self

import numpy as np

from router.errors import RouterError
from router.estimators.base import Overall, check_fit, check_labels
from router.estimators.marginal import Marginal
from router.estimators.recency import column_of, recency_weights, require_score
from router.outcomes.matrix import OutcomeMatrix


class RunningMean(Marginal):
    """PickLLM's context-free learner (arXiv 2412.12170): stateless Q-learning, which moves a
    candidate's value by learning_rate x (score - value) at each of its outcomes. The costs and
    seconds of PickLLM's reward are the policy's business here.

    The weights of the outcomes are normalised, so that no first value has to be guessed; after
    many outcomes the value moves as Q-learning's does. The standard error counts Kish's effective
    number of outcomes, which ends at (2 - learning_rate) / learning_rate.

    learning_rate: share of the newest outcome in the mean, in (0, 1); None for the sample mean.
    """

    takes_weights = False  # each outcome has its weight by age already

    def __init__(self, learning_rate: float | None = None):
        self.learning_rate = learning_rate

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        """Learn from the outcomes in the order of their timestamps, or else of the log."""
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise RouterError("RunningMean needs a learning_rate in (0, 1), or None.")
        _, outcomes, targets = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        self._learn(targets, recency_weights(outcomes, self._forgetting))
        freedom = max(self.weight_.sum() - len(self.weight_), 1)
        self.pooled_ = self.spread_.sum() / freedom
        self._summarise()
        return self

    @property
    def _forgetting(self) -> float:
        return 1.0 if self.learning_rate is None else 1.0 - self.learning_rate

    def _learn(self, targets: np.ndarray, weights: np.ndarray) -> None:
        """Weighted sums over (n, m) targets."""
        self.weight_ = weights.sum(axis=0)
        self.square_ = (weights**2).sum(axis=0)
        self.mean_ = (weights * targets).sum(axis=0) / self.weight_
        self.spread_ = (weights * (targets - self.mean_) ** 2).sum(axis=0)

    def _summarise(self) -> None:
        """As `overall_of`, with weighted outcomes: one pseudo-outcome of the pooled variance."""
        variance = (self.spread_ + self.pooled_) / self.weight_
        self.overall_ = Overall(self.mean_, variance, self.weight_**2 / self.square_)

    def update(self, candidate: str, score: float) -> Self:
        """Learn one outcome: the candidate that answered, and its score.

        Raises RouterError where the candidate is unknown or the score no number.
        """
        j = column_of(self.candidates_, candidate)
        require_score(score)
        older = self._forgetting * self.weight_[j]
        step = score - self.mean_[j]
        self.weight_[j] = older + 1
        self.square_[j] = self._forgetting**2 * self.square_[j] + 1
        self.mean_[j] += step / self.weight_[j]
        # The weighted sum of squares changes as in West (1979).
        self.spread_[j] = self._forgetting * self.spread_[j] + step**2 * older / self.weight_[j]
        self._summarise()
        return self

    def with_candidate(self, name: str, X: np.ndarray, scores: np.ndarray) -> Self:
        _, scores = check_labels(self, name, X, scores)
        own = copy.copy(self)
        own._learn(scores[:, None], self._forgetting ** np.arange(len(scores))[::-1, None])
        grown = copy.copy(self)
        grown.candidates_ = (*self.candidates_, name)
        for sums in ("weight_", "square_", "mean_", "spread_"):
            setattr(grown, sums, np.append(getattr(self, sums), getattr(own, sums)))
        grown._summarise()
        return grown
