"""What a judge of answers reads (numpy only: training and serving run the same code)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from router.answer_features import answer_features
from router.errors import RouterError

if TYPE_CHECKING:
    from router.outcomes.answers import Answers

READS = ("prompt", "response", "features", "signals")


@dataclass(frozen=True)
class JudgeInput:
    """What a judge reads, side by side.

    reads: of READS. signals, means: the signals that are read, and what stands in for one that is
        not told.
    """

    reads: tuple[str, ...]
    signals: tuple[str, ...]
    means: tuple[float, ...]

    def __post_init__(self) -> None:
        unknown = [name for name in self.reads if name not in READS]
        if unknown or not self.reads:
            raise RouterError(
                f"judge.reads is {list(self.reads)}; choose at least one of {', '.join(READS)}."
            )

    def read(
        self,
        X: np.ndarray,
        prompts: Sequence[str],
        texts: Sequence[str | None],
        vectors: np.ndarray | None,
        signals: Mapping[str, np.ndarray],
    ) -> np.ndarray:
        """(n, k) float32 of one candidate's n answers.

        X: (n, d) vectors of the prompts. texts, vectors: of the answers; vectors may be None where
            they are not read. signals: (n,) by name, NaN where not told.
        """
        told = [
            np.where(np.isnan(signals[name]), mean, signals[name])
            for name, mean in zip(self.signals, self.means, strict=True)
        ]
        parts: list[np.ndarray] = []
        if "prompt" in self.reads:
            parts.append(X)
        if "response" in self.reads:
            assert vectors is not None
            parts.append(vectors)
        if "features" in self.reads:
            pairs = zip(prompts, texts, strict=True)
            parts.append(np.stack([answer_features(prompt, text or "") for prompt, text in pairs]))
        return np.hstack([*parts, *(values[:, None] for values in told)]).astype(np.float32)

    def judged(
        self,
        X: np.ndarray,
        prompts: Sequence[str],
        answers: Answers,
        score: Callable[[int, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """(n, m) judged quality of every answer in [0, 1]; NaN where nothing of it is known.

        score: (candidate's column, (k, inputs) as `read` gives them) -> (k,).
        """
        known = answers.known
        judged = np.full(known.shape, np.nan)
        for j in range(known.shape[1]):
            rows = np.flatnonzero(known[:, j])
            if len(rows):
                inputs = self.of_candidate(j, rows, X, prompts, answers)
                judged[rows, j] = np.clip(score(j, inputs), 0, 1)
        return judged

    def of_candidate(
        self, j: int, rows: np.ndarray, X: np.ndarray, prompts: Sequence[str], answers: Answers
    ) -> np.ndarray:
        """(len(rows), k) float32 of the answers of candidate j to the queries in `rows`."""
        return self.read(
            X[rows],
            [prompts[row] for row in rows],
            answers.text[rows, j].tolist(),
            None if answers.vectors is None else answers.vectors[rows, j],
            {name: answers.signals[name][rows, j] for name in self.signals},
        )
