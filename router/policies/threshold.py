"""P3: strong or weak model, by the predicted gap."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from router.errors import RouterError
from router.policies.base import TIE, Policy, filled, one_hot, spread
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix


@dataclass(frozen=True)
class Threshold(Policy):
    """The strong model where its predicted gain over the weak one reaches a threshold, after
    RouteLLM (arXiv 2406.18665), whose score is the strong model's predicted chance to win.

    strong, weak: candidates; by default the best on validation, and the cheapest other one (the
        worst one where the log has no costs).
    threshold: least predicted gain; None takes the one that sends strong_share of the validation
        queries to the strong model (queries of equal gain stay together). It sets the share of
        strong calls, not dollars.
    strong_share: share of queries for the strong model, in [0, 1].
    cut: the tuned threshold.
    """

    strong: str | None = None
    weak: str | None = None
    threshold: float | None = None
    strong_share: float = 0.5
    cut: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.strong_share <= 1:
            raise RouterError(
                f"policy.strong_share is {self.strong_share}; give a share in [0, 1]."
            )
        if self.threshold is not None and math.isnan(self.threshold):
            raise RouterError("policy.threshold is not a number; give a least predicted gain.")
        if self.strong is not None and self.strong == self.weak:
            raise RouterError(f"policy.strong and policy.weak are both {self.strong!r}.")

    def tune(self, prediction: Prediction, outcomes: OutcomeMatrix) -> Self:
        names = prediction.candidates
        scores, cost = filled(prediction, outcomes)
        value = scores.mean(axis=0)
        rank = value if cost is None else cost.mean(axis=0)
        others = [j for j in range(len(names)) if names[j] != self.weak]
        strong = self.strong or names[max(others, key=lambda j: value[j])]
        others = [j for j in range(len(names)) if names[j] != strong]
        weak = self.weak or names[min(others, key=lambda j: rank[j])]
        pair = dataclasses.replace(self, strong=strong, weak=weak)
        gap = np.sort(pair.gap(prediction))[::-1]
        if self.threshold is not None:
            return dataclasses.replace(pair, cut=self.threshold)
        # Halfway between the last query of the strong model and the first of the weak one.
        ends = np.concatenate([[np.inf], gap, [-np.inf]])
        n_strong = round(self.strong_share * len(gap))
        return dataclasses.replace(pair, cut=float(ends[n_strong : n_strong + 2].mean()))

    def _columns(self, prediction: Prediction) -> tuple[int, int]:
        names = prediction.candidates
        for name in (self.strong, self.weak):
            if name not in names:
                raise RouterError(
                    f"policy=threshold: {name!r} is none of the candidates {', '.join(names)}."
                )
        return names.index(str(self.strong)), names.index(str(self.weak))

    def gap(self, prediction: Prediction) -> np.ndarray:
        """(n,) predicted quality of the strong less that of the weak model."""
        if self.strong is None or self.weak is None:
            raise RouterError("This threshold policy was not tuned; call tune on validation data.")
        strong, weak = self._columns(prediction)
        return prediction.quality[:, strong] - prediction.quality[:, weak]

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        if self.cut is None:
            raise RouterError("This threshold policy was not tuned; call tune on validation data.")
        strong, weak = self._columns(prediction)
        chosen = np.where(self.gap(prediction) >= self.cut - TIE, strong, weak)
        return one_hot(chosen, len(prediction.candidates))

    def path(self, prediction: Prediction) -> list[Policy]:
        cuts = [-np.inf, *spread(self.gap(prediction)).tolist(), np.inf]
        return [dataclasses.replace(self, cut=float(cut)) for cut in cuts]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        gain = float(self.gap(prediction)[0])
        sign = "reaches" if prediction.candidates[chosen] == self.strong else "stays below"
        return f"predicted gain of {self.strong} ({gain:.3f}) {sign} {self.cut:.3f}"
