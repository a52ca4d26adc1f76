"""The contract of a cascade: candidates are asked one after the other, until an answer will do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from router.errors import RouterError
from router.policies.base import Policy, one_hot
from router.policies.budget import Budget
from router.policies.expected import Expected
from router.policies.utility import Utility
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix

STOP = -1
ROUNDING = 1e-9
T = TypeVar("T", bound=Policy)


class Replay(NamedTuple):
    """What became of n queries: asked (n, m) bool, answered (n,) whose answer was returned."""

    asked: np.ndarray
    answered: np.ndarray


class Sequential(Policy):
    """A policy that may look at an answer before it decides on the next step.

    It reads `prediction.judged`: what each answer is worth to whoever has seen it. A judged quality
    is looked at only once the candidate was asked. What earlier steps cost stays paid, and their
    seconds add up.

    alone: the router that may not look at answers, tuned to the same budget: the bar to beat.
    """

    alone: Policy | None

    def without_answers(self) -> Policy:
        return self if self.alone is None else self.alone

    @abstractmethod
    def next_step(self, prediction: Prediction, asked: np.ndarray, last: np.ndarray) -> np.ndarray:
        """(n,) candidate to ask next, or STOP where no further answer is worth its cost.

        asked: (n, m) whose answers were seen. last: (n,) the latest of them, STOP where there is
        none yet; then some candidate must be named.
        """

    def returned(self, prediction: Prediction, asked: np.ndarray, last: np.ndarray) -> np.ndarray:
        """(n,) whose answer the caller gets once the steps are over: the last one's."""
        return last

    def replay(self, prediction: Prediction) -> Replay:
        """Step by step as in production. A query whose latest answer nobody has judged goes no
        further: before any answer is seen that is the first step, which is how a plan begins."""
        n, m = prediction.quality.shape
        asked = np.zeros((n, m), dtype=bool)
        last = np.full(n, STOP)
        judged = np.full((n, m), np.nan) if prediction.judged is None else prediction.judged
        rows = np.arange(n)
        for _ in range(m):
            step = self.next_step(prediction.take(rows), asked[rows], last[rows])
            goes_on = step != STOP
            rows, step = rows[goes_on], step[goes_on]
            if not len(rows):
                break
            asked[rows, step] = True
            last[rows] = step
            rows = rows[~np.isnan(judged[rows, step])]
        return Replay(asked, self.returned(prediction, asked, last))

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        """(n, m) one on the candidate whose answer is returned, as far as answers were judged."""
        return one_hot(self.replay(prediction).answered, len(prediction.candidates))

    def asks_several(self, prediction: Prediction) -> bool:
        return bool((self.replay(prediction).asked.sum(axis=1) > 1).any())

    def expected(
        self,
        prediction: Prediction,
        scores: np.ndarray,
        cost: np.ndarray | None = None,
        latency: np.ndarray | None = None,
    ) -> Expected:
        asked, answered = self.replay(prediction)

        def paid(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else np.where(asked, values, 0.0).sum(axis=1)

        return Expected(scores[np.arange(len(scores)), answered], paid(cost), paid(latency))


def router_alone(prediction: Prediction, outcomes: OutcomeMatrix, budget: float) -> Policy:
    """The plain router within USD per query; the cheapest candidate where it cannot be kept."""
    try:
        return Budget(budget).tune(prediction, outcomes)
    except RouterError:
        return Utility(float("inf"))


def cheapest_near_best(
    plans: Sequence[T], prediction: Prediction, scores: np.ndarray, cost: np.ndarray
) -> tuple[T, float]:
    """(the plan, its mean USD) by the one-standard-error rule (Breiman et al. 1984, section 3.4.3):
    the cheapest whose mean score is within the best one's standard error of it, of those that cost
    no more than the best single candidate, or than the cheapest plan."""
    expected = [plan.expected(prediction, scores, cost) for plan in plans]
    gained = np.stack([value.score for value in expected])
    spent = np.array([0.0 if value.cost is None else value.cost.mean() for value in expected])
    most = max(cost.mean(axis=0)[scores.mean(axis=0).argmax()], spent.min()) * (1 + ROUNDING)
    quality = np.where(spent <= most, gained.mean(axis=1), -np.inf)
    best = int(np.lexsort((spent, -quality))[0])
    error = gained[best].std(ddof=1) / np.sqrt(gained.shape[1])
    near = quality >= quality[best] - error - ROUNDING
    chosen = int(np.lexsort((-quality, np.where(near, spent, np.inf)))[0])
    return plans[chosen], float(spent[chosen])


def require_judged(prediction: Prediction, outcomes: OutcomeMatrix | None, policy: str) -> None:
    """Raise RouterError where no answer was judged, or a log tells one answer per query alone."""
    if prediction.judged is None or np.isnan(prediction.judged).all():
        raise RouterError(
            f"policy={policy} judges answers, but nobody does here; log response (or other signals "
            "of the answer) and train with judge=answer."
        )
    if outcomes is not None and outcomes.chosen_only and len(outcomes.candidates) > 1:
        raise RouterError(
            f"policy={policy} needs the answers of several candidates to the same queries, and "
            "this log has one each; answer a sample of queries by every candidate."
        )
