"""P9: the setting of a policy that is proven to keep its promise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from router.errors import RouterError
from router.policies.allocation import Allocation
from router.policies.base import Policy
from router.policies.bounds import (
    betting_proves,
    binomial_proves,
    conformal_proves,
    greatest_proven,
    queries_needed,
)
from router.policies.expected import Expected
from router.policies.hard_cap import HardCap
from router.policies.threshold import Threshold
from router.policies.utility import Utility
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix

HEADROOM = 2.0  # of the dearest query seen, where the user names no largest cost


@dataclass(frozen=True)
class Certified(Policy):
    """The setting of another policy that keeps a mean score, a mean cost, or both, not only on the
    validation queries but for queries drawn like them.

    Settings are tested one after the other, the safest first, and the first that cannot be proven
    ends the test: from dear to cheap for `quality`, whose last proven setting is the cheapest one;
    from cheap to dear for `budget`, whose last proven setting is the best one. With both, the
    cheapest that keeps the quality answers, if it keeps the budget too.

    method="fixed_sequence" promises with probability 1 - delta over the validation queries
    (fixed-sequence testing of Learn then Test, arXiv 2110.01052). The bound is Clopper and
    Pearson's where scores are 0 or 1, else the betting bound; both hold for any number of queries.
    Two promises share delta.
    method="conformal" promises in expectation over the validation queries and the next one
    (conformal risk control, arXiv 2208.02814): weaker, and delta does not count. It needs scores
    that only fall and costs that only rise along the settings, so each query counts with the worst
    of the settings tested so far, which costs some of what could be promised.

    What is assumed: queries to come are drawn like those of validation, and groups of queries are
    drawn independently; each group counts once, with its mean. Queries without a score of every
    candidate are left out, as if they were missing at random. Predictions do not know the outcomes
    they are tested on: exact with a validation side of its own, nearly so with out-of-fold
    predictions, whose folds lend outcomes to each other. The settings are read off the predictions
    of the validation queries, not off outcomes. Costs have no natural bound: a query's counts up
    to `largest_cost`, and the promise is exact if none is dearer.

    policy: whose settings are tested, as its `path` gives them before any tuning.
    quality: mean score that is promised, in [0, 1]; None promises none.
    budget: mean USD per query that is promised not to be passed; None promises none.
    delta: probability with which a promise may be broken, in (0, 1).
    largest_cost: USD that no query's answer costs more than; None takes twice the dearest that
        validation saw at any setting, which is an assumption and no proof.
    setting: the tuned setting.
    """

    policy: Policy = Utility()  # noqa: RUF009  # frozen
    quality: float | None = 0.9
    budget: float | None = None
    delta: float = 0.1
    method: Literal["fixed_sequence", "conformal"] = "fixed_sequence"
    largest_cost: float | None = None
    setting: Policy | None = None

    def __post_init__(self) -> None:
        if self.quality is None and self.budget is None:
            raise RouterError(
                "policy=certified promises nothing; give policy.quality, policy.budget or both."
            )
        if self.quality is not None and not 0 <= self.quality <= 1:
            raise RouterError(f"policy.quality is {self.quality}; give a mean score in [0, 1].")
        for name in ("budget", "largest_cost"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise RouterError(f"policy.{name} is {value}; give USD per query above 0.")
        if not 0 < self.delta < 1:
            raise RouterError(f"policy.delta is {self.delta}; give a probability between 0 and 1.")
        if self.method not in ("fixed_sequence", "conformal"):
            raise RouterError(
                f"policy.method is {self.method!r}; give fixed_sequence or conformal."
            )
        if _reads_outcomes(self.policy):
            raise RouterError(
                f"policy.policy is {type(self.policy).__name__}, whose settings depend on the very "
                "outcomes that would test them; give utility, cheapest_adequate or "
                "per_query_budget, or threshold with both of its candidates."
            )

    def tune(self, prediction: Prediction, outcomes: OutcomeMatrix) -> Self:
        settings = self.policy.path(prediction)
        scores, costs = _seen(settings, prediction, outcomes)
        if self.quality is None:
            chosen = self._best_within_budget(costs)
        else:
            chosen = self._cheapest_of_quality(scores)
            if self.budget is not None and chosen < self._best_within_budget(costs):
                raise RouterError(
                    f"policy.quality={self.quality:g} takes ${costs[chosen].mean():.3g} per query, "
                    f"where policy.budget=${self.budget:g} can no longer be promised; lower the "
                    "quality, raise the budget, or calibrate on more queries."
                )
        return dataclasses.replace(self, setting=settings[chosen])

    def _cheapest_of_quality(self, scores: np.ndarray) -> int:
        """Of the settings, whose (K, n) scores are given from dear to cheap."""
        assert self.quality is not None
        promise = self._promise(scores, self.quality)
        kept = promise.kept()
        if kept == 0:
            raise RouterError(self._quality_not_kept(promise))
        return kept - 1

    def _best_within_budget(self, costs: np.ndarray) -> int:
        """Likewise of (K, n) costs; what is not spent of the largest cost is the value proven."""
        assert self.budget is not None
        if len(costs) == 0:
            raise RouterError(
                "policy.budget cannot be promised: the log has no costs; "
                "log cost_usd, or tokens with data.prices."
            )
        largest = self._largest_cost(float(costs.max()))
        promise = self._promise(1 - costs[::-1] / largest, 1 - self.budget / largest)
        kept = promise.kept()
        if kept == 0:
            raise RouterError(self._budget_not_kept(promise, largest))
        return len(costs) - kept

    def _promise(self, values: np.ndarray, least: float) -> _Promise:
        if self.method == "conformal":
            return _Promise(np.minimum.accumulate(values), least, conformal_proves)
        share = self.delta / (1 if self.quality is None or self.budget is None else 2)
        # That all scores of all settings are 0 or 1 is taken to be their nature.
        test = binomial_proves if np.isin(values, (0.0, 1.0)).all() else betting_proves
        return _Promise(values, least, partial(test, delta=share))

    def _largest_cost(self, dearest: float) -> float:
        if self.largest_cost is None:
            return max(HEADROOM * dearest, 1e-12)  # a free answer has no ratio
        if dearest > self.largest_cost:
            raise RouterError(
                f"policy.largest_cost=${self.largest_cost:g} is below ${dearest:.3g}, which a "
                "validation query cost; raise it."
            )
        return self.largest_cost

    def _quality_not_kept(self, promise: _Promise) -> str:
        safest = promise.values[0]
        rounded_down = math.floor(1e4 * promise.proven()) / 1e4
        return (
            f"policy.quality={self.quality:g} cannot be promised{self._certainty()}: on "
            f"{len(safest):,} independent validation queries the safest setting scores "
            f"{safest.mean():.4f}, which proves {rounded_down:.4f}; lower policy.quality to "
            f"that, or {self._remedy(promise, 'train a better router')}."
        )

    def _budget_not_kept(self, promise: _Promise, largest: float) -> str:
        cheapest = promise.values[0]
        rounded_up = 1.001 * largest * (1 - promise.proven())
        return (
            f"policy.budget=${self.budget:g} cannot be promised{self._certainty()}: on "
            f"{len(cheapest):,} independent validation queries the cheapest setting costs "
            f"${largest * (1 - cheapest.mean()):.4g}, which proves no less than "
            f"${rounded_up:.4g} where one query may cost ${largest:.3g}; "
            "raise policy.budget to that, name a smaller policy.largest_cost if none can be that "
            f"dear, or {self._remedy(promise, 'add a cheaper candidate')}."
        )

    def _remedy(self, promise: _Promise, change: str) -> str:
        needed = promise.queries_needed()
        if needed is None:
            return f"{change}: no sensible number of queries like these would prove it"
        larger = "" if self.method == "conformal" else ", or raise policy.delta"
        return f"calibrate on about {float(f'{needed:.2g}'):,.0f} queries like these{larger}"

    def _certainty(self) -> str:
        if self.method == "conformal":
            return " in expectation"
        return f" with probability {1 - self.delta:g}"

    def _tuned(self) -> Policy:
        if self.setting is None:
            raise RouterError("This promise was not tested yet; call tune on validation data.")
        return self.setting

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        return self._tuned().probabilities(prediction)

    def votes(self, prediction: Prediction, chosen: np.ndarray) -> np.ndarray:
        return self._tuned().votes(prediction, chosen)

    def expected(
        self,
        prediction: Prediction,
        scores: np.ndarray,
        cost: np.ndarray | None = None,
        latency: np.ndarray | None = None,
    ) -> Expected:
        return self._tuned().expected(prediction, scores, cost, latency)

    def path(self, prediction: Prediction) -> list[Policy]:
        return self.policy.path(prediction)

    def reason(self, prediction: Prediction, chosen: int) -> str:
        promised = []
        if self.quality is not None:
            promised.append(f"a mean quality of at least {self.quality:g}")
        if self.budget is not None:
            promised.append(f"at most ${self.budget:g} per query")
        why = self._tuned().reason(prediction, chosen)
        return f"{why} (the setting keeps {' and '.join(promised)}{self._certainty()})"


@dataclass(frozen=True, eq=False)
class _Promise:
    """Settings and what is promised of them.

    values: (K, n) in [0, 1] of each independent query at each setting, the safest setting first.
    least: mean that is promised.
    proves: (n,) values and a mean -> whether they prove it.
    """

    values: np.ndarray
    least: float
    proves: Callable[[np.ndarray, float], bool]

    def kept(self) -> int:
        """How many settings are proven before the first that is not."""
        for k, values in enumerate(self.values):
            if not self.proves(values, self.least):
                return k
        return len(self.values)

    def proven(self) -> float:
        """The greatest mean that the safest setting proves."""
        return greatest_proven(lambda least: self.proves(self.values[0], least))

    def queries_needed(self) -> int | None:
        """Likewise about how many queries would prove what is promised; None: no number would."""
        safest = self.values[0]
        if safest.mean() <= self.least:  # chance might still prove it
            return None
        return queries_needed(lambda values: self.proves(values, self.least), safest)


def _reads_outcomes(policy: Policy) -> bool:
    if isinstance(policy, Threshold):
        return policy.strong is None or policy.weak is None
    return isinstance(policy, Allocation | HardCap | Certified)


def _seen(
    settings: list[Policy], prediction: Prediction, outcomes: OutcomeMatrix
) -> tuple[np.ndarray, np.ndarray]:
    """(K, n) score and (K, n) USD of each independent query at each setting; no row of USD where
    the log has no costs."""
    known = outcomes.fully_observed
    if not known.any():
        raise RouterError(
            "policy=certified needs queries with a score of every candidate, and validation has "
            "none; have some of its queries answered by all candidates."
        )
    prediction, outcomes = prediction.take(known), outcomes.take(known)
    groups = outcomes.groups
    yields = [each.expected(prediction, outcomes.scores, outcomes.cost) for each in settings]
    costs = [each.cost for each in yields if each.cost is not None]
    return (
        _group_means(np.stack([each.score for each in yields]), groups),
        _group_means(np.reshape(costs, (len(costs), len(groups))), groups),
    )


def _group_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(K, G) mean of each group, of values (K, n)."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    by_group = np.argsort(group, kind="stable")
    starts = np.cumsum(sizes) - sizes
    return np.add.reduceat(values[:, by_group], starts, axis=1) / sizes
