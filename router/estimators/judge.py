"""Who looks at an answer: the expected score of an answer that has been seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone

from router.answer_features import SIGNALS
from router.errors import RouterError
from router.estimators.base import Estimator
from router.estimators.graph import Graph
from router.judge_input import READS, JudgeInput
from router.outcomes.answers import Answers
from router.outcomes.matrix import OutcomeMatrix


class Judge(BaseEstimator):
    """P(the answer is good | query, candidate, answer), or its expected score: one estimator per
    candidate, fitted on what is read of the query and the answer.

    FrugalGPT's scorer (arXiv 2305.05176) reads both texts. A judge that reads nothing but one
    signal maps that signal to a score: the share of samples that agree (Yue et al., arXiv
    2310.03094), the model's own verification (AutoMix, arXiv 2310.12963), quantiles of the tokens'
    log-probabilities (Gupta et al., arXiv 2404.10136), the greatest class probability (Model
    Cascading, arXiv 2210.05528).

    estimator: of any kind; cloned for each candidate.
    reads: any of prompt and response (their vectors), features (see answer_features) and signals.
    signals: names out of SIGNALS; all that the log tells if None. One that an answer lacks is taken
        to be at its mean.
    """

    def __init__(
        self,
        estimator: Estimator,
        reads: Sequence[str] = READS,
        signals: Sequence[str] | None = None,
    ):
        self.estimator = estimator
        self.reads = reads
        self.signals = signals

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        """Learn from (n, d) vectors of the queries and the answers that were scored.

        Raises RouterError where the log has no answers, or lacks what is to be read.
        """
        answers = self._answers(outcomes)
        names, means = self._signals(answers)
        self.input_ = JudgeInput(tuple(self.reads), names, means)
        self.candidates_ = outcomes.candidates
        known = answers.known & outcomes.observed
        blind = [name for j, name in enumerate(self.candidates_) if not known[:, j].any()]
        if blind:
            raise RouterError(
                f"judge: no answer of {', '.join(map(repr, blind))} among the {len(X)} queries to "
                "learn from; log response, or leave these models out with data.candidates."
            )
        self.estimators_ = []
        for j, name in enumerate(self.candidates_):
            rows = np.flatnonzero(known[:, j])
            read = self.input_.of_candidate(j, rows, X, outcomes.prompts, answers)
            own = outcomes.take(rows).select([name])
            self.estimators_.append(clone(self.estimator).fit(read, own))
        self.n_inputs_ = read.shape[1]
        return self

    def predict(self, X: np.ndarray, outcomes: OutcomeMatrix) -> np.ndarray:
        """(n, m) expected score of each answer in [0, 1]; NaN where nothing of it is known."""

        def score(j: int, read: np.ndarray) -> np.ndarray:
            return self.estimators_[j].predict(read).quality[:, 0]

        return self.input_.judged(X, outcomes.prompts, self._answers(outcomes), score)

    def to_onnx(self) -> Any:
        """`vector` (batch, inputs) of one candidate's answers -> `judged` (batch, m): by the
        estimator of every candidate."""
        graph = Graph()
        judged = [estimator.to_onnx(graph, "vector")[0] for estimator in self.estimators_]
        joined = graph.op("Concat", *judged, axis=1) if len(judged) > 1 else judged[0]
        clipped = graph.op("Clip", joined, graph.constant(0.0), graph.constant(1.0))
        return graph.model(self.n_inputs_, {"judged": clipped}, {"judged": ["batch", "candidates"]})

    def _answers(self, outcomes: OutcomeMatrix) -> Answers:
        answers = outcomes.answers
        if answers is None:
            raise RouterError(
                "judge: the log has no answers; log response (or another signal of the answer: "
                "data/README.md), or train without a judge."
            )
        if "response" in self.reads and answers.vectors is None:
            raise RouterError("judge: the answers were not encoded; give their vectors.")
        return answers

    def _signals(self, answers: Answers) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """The names of the signals that are read, and their means."""
        if "signals" not in self.reads:
            return (), ()
        told = [name for name in SIGNALS if not np.isnan(answers.signals[name]).all()]
        names = told if self.signals is None else list(self.signals)
        unknown = [name for name in names if name not in SIGNALS]
        if unknown:
            raise RouterError(
                f"judge.signals names {unknown[0]!r}; choose of {', '.join(SIGNALS)}."
            )
        absent = [name for name in names if name not in told]
        if absent or (not names and len(self.reads) == 1):
            what = absent[0] if absent else "signals"
            raise RouterError(
                f"judge: the log has no {what}; log it (data/README.md), or let the judge read "
                "something else."
            )
        return tuple(names), tuple(float(np.nanmean(answers.signals[name])) for name in names)
