"""The artifact's judge of answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from router.answer_features import SIGNALS, signals_of
from router.errors import RouterError
from router.judge_input import JudgeInput

if TYPE_CHECKING:
    from router.outcomes.answers import Answers

LISTS = ("responses", "logprobs")


class AnswerJudge:
    """What an answer is worth to whoever has seen it (see router.estimators.judge.Judge).

    content: the manifest's `judge`. score: (k, inputs) -> (k, m), by every candidate's estimator.
    """

    def __init__(self, content: Mapping[str, Any], score: Callable[[np.ndarray], np.ndarray]):
        self.input = JudgeInput(
            tuple(content["reads"]), tuple(content["signals"]), tuple(content["means"])
        )
        self._score = score

    @property
    def reads_response(self) -> bool:
        """Whether the vector of the response is read."""
        return "response" in self.input.reads

    def judged(self, X: np.ndarray, prompts: Sequence[str], answers: Answers) -> np.ndarray:
        """(n, m) of logged answers; NaN where nothing of one is known."""

        def score(j: int, read: np.ndarray) -> np.ndarray:
            return self._score(read)[:, j]

        return self.input.judged(X, prompts, answers, score)

    def of_answer(
        self,
        column: int,
        X: np.ndarray,
        prompt: str,
        response: str,
        vector: np.ndarray | None,
        told: Mapping[str, Any],
    ) -> float:
        """Of one answer, in [0, 1]. X, vector: (1, d) of the prompt and of the response.

        Raises RouterError where `told` holds something else than signals, or no number.
        """
        signals = {name: np.array([value]) for name, value in _signals(response, told).items()}
        read = self.input.read(X, [prompt], [response], vector, signals)
        return float(np.clip(self._score(read)[0, column], 0, 1))


def _signals(response: str, told: Mapping[str, Any]) -> dict[str, float]:
    unknown = sorted(set(told) - {*SIGNALS, *LISTS})
    if unknown:
        raise RouterError(
            f"The answer's signals name {unknown[0]!r}; known are {', '.join((*SIGNALS, *LISTS))}."
        )
    strange = RouterError(
        "The answer's signals hold something that is no number; give numbers, a list of texts in "
        "responses, and a list of numbers in logprobs."
    )
    if any(isinstance(told.get(name), str | bytes | Mapping) for name in LISTS):
        raise strange
    try:
        signals = signals_of(response, told)
    except (TypeError, ValueError):
        raise strange from None
    infinite = [name for name, value in signals.items() if np.isinf(value)]
    if infinite:
        raise RouterError(f"The answer's signal {infinite[0]!r} is infinite; give a finite number.")
    return signals
