"""P10: the incumbent answers, unless another candidate is surely worth more."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Self

import numpy as np

from router.errors import RouterError
from router.policies.base import Policy, filled, one_hot
from router.policies.expected import Expected
from router.policies.utility import Utility
from router.prediction import Prediction

if TYPE_CHECKING:
    from router.outcomes.matrix import OutcomeMatrix

WIDTHS = (0.0, 0.5, 1.0, 2.0)
PLUS = 2  # queries that are thought in addition: one won outright, one lost outright
ROUNDING = 1e-9


@dataclass(frozen=True)
class Guarded(Policy):
    """Another policy, held to an incumbent: query by query, and on the whole.

    Query by query: of each other candidate the policy sees, in place of its predicted quality, that
    quality less `width` standard errors of its gain over the incumbent. So Utility leaves the
    incumbent exactly where the lower bound of the gain, net of costs, is above zero. The standard
    errors are the estimator's, of a mean and not of one answer, and what two candidates' errors
    have in common is not known: the bound is a dial that validation sets, not a proof.

    On the whole: of the policy's settings, as its `path` gives them, each at several widths, those
    are admitted whose paired gain in mean score over the incumbent has a lower bound of at least
    zero on validation, at no more than the incumbent's cost or, if given, the budget. With a budget
    the best of them answers; without, the cheapest whose mean score is within one standard error,
    of the paired difference, of the best (Breiman et al. 1984, section 3.4.3). Where none is
    admitted, the incumbent answers every query. That many settings are looked at makes the best of
    them look better than it is: as the bound does not allow for this, it is a guard and no
    certificate (see Certified).

    policy: whose settings are tried; the one that it has itself does not count.
    incumbent: candidate; None takes the best mean score on validation, of those that the budget can
        pay.
    budget: USD per query on average; None allows what the incumbent costs.
    width: standard errors of a query's gain; infinite: the incumbent alone. None lets validation
        choose.
    confidence: of the one-sided bound of the mean gain on validation, by a normal approximation.
        One query won and one lost outright are thought in addition, so that a few lucky ones prove
        nothing.
    against, setting: the tuned incumbent and setting.
    """

    policy: Policy = Utility()  # noqa: RUF009  # frozen
    incumbent: str | None = None
    budget: float | None = None
    width: float | None = None
    confidence: float = 0.95
    against: str | None = None
    setting: Policy | None = None

    def __post_init__(self) -> None:
        if self.budget is not None and not self.budget > 0:
            raise RouterError(f"policy.budget is {self.budget}; give USD per query above 0.")
        if self.width is not None and not self.width >= 0:
            raise RouterError(f"policy.width is {self.width}; give standard errors from 0 up.")
        if not 0.5 <= self.confidence < 1:
            raise RouterError(
                f"policy.confidence is {self.confidence}; give a probability from 0.5 to below 1."
            )
        for limit in ("budget", "cap"):
            if hasattr(self.policy, limit):
                raise RouterError(
                    f"policy.policy is {type(self.policy).__name__}, whose {limit} the guard would "
                    "not keep; give utility, and policy.budget for an average budget."
                )

    def tune(self, prediction: Prediction, outcomes: OutcomeMatrix) -> Self:
        scores, cost = filled(prediction, outcomes)
        if cost is None:
            prediction = dataclasses.replace(prediction, cost=None)
        against = self._incumbent(prediction.candidates, scores, cost)
        setting = self.policy.tune(prediction, outcomes)
        alone = dataclasses.replace(self, width=math.inf, against=against, setting=setting)
        plans = [alone, *alone._deviating(self._widths(prediction), prediction, outcomes)]
        expected = [plan.expected(prediction, scores, cost) for plan in plans]
        column = prediction.candidates.index(against)
        gains = np.stack([plan.score - scores[:, column] for plan in expected])
        spent = np.array([0.0 if plan.cost is None else plan.cost.mean() for plan in expected])
        chosen = self._admitted_and_chosen(gains, spent, outcomes.groups)
        if self.budget is not None or self.incumbent is not None or cost is None:
            return plans[chosen]
        # Settled, so that the lookups it is compared with may spend as much.
        return dataclasses.replace(plans[chosen], budget=float(spent[chosen]))

    def _incumbent(
        self, candidates: tuple[str, ...], scores: np.ndarray, cost: np.ndarray | None
    ) -> str:
        value = scores.mean(axis=0)
        if self.budget is not None:
            if cost is None:
                raise RouterError(
                    f"policy.budget=${self.budget:g} cannot be kept: the log has no costs; "
                    "log cost_usd, or tokens with data.prices."
                )
            spent = cost.mean(axis=0)
            value = np.where(spent <= self.budget * (1 + ROUNDING), value, -np.inf)
            if np.isneginf(value).all():
                raise RouterError(
                    f"policy.budget=${self.budget:g} per query is below ${spent.min():.3g}, "
                    "the mean cost of always asking the cheapest candidate; raise it."
                )
        if self.incumbent is None:
            return candidates[int(value.argmax())]
        if self.incumbent not in candidates:
            raise RouterError(
                f"policy.incumbent is {self.incumbent!r}, which is none of the candidates "
                f"{', '.join(candidates)}."
            )
        if np.isneginf(value[candidates.index(self.incumbent)]):
            raise RouterError(
                f"policy.budget=${self.budget:g} per query cannot pay {self.incumbent}, "
                "policy.incumbent; raise it, or name a cheaper one."
            )
        return self.incumbent

    def _widths(self, prediction: Prediction) -> tuple[float, ...]:
        if self.width is not None:
            return (self.width,)
        return WIDTHS if prediction.quality_se.any() else WIDTHS[:1]

    def _deviating(
        self, widths: tuple[float, ...], prediction: Prediction, outcomes: OutcomeMatrix
    ) -> list[Self]:
        """Every setting at every finite width."""
        plans = []
        for width in widths:
            if not math.isinf(width):
                plan = dataclasses.replace(self, width=width)
                lowered = plan._lowered(prediction)
                settings = self.policy.tune(lowered, outcomes).path(lowered)
                plans += [dataclasses.replace(plan, setting=setting) for setting in settings]
        return plans

    def _admitted_and_chosen(self, gains: np.ndarray, spent: np.ndarray, groups: np.ndarray) -> int:
        """The plan, of which the first is the incumbent alone.

        gains: (plans, n) score less the incumbent's. spent: (plans,) USD per query.
        """
        gain = gains.mean(axis=1)
        error = np.sqrt(_standard_errors(gains, groups) ** 2 + PLUS / len(groups) ** 2)
        lower = gain - NormalDist().inv_cdf(self.confidence) * error
        most = spent[0] if self.budget is None else self.budget
        admitted = (lower >= -ROUNDING) & (spent <= most * (1 + ROUNDING))
        admitted[0] = True
        # The incumbent's gain is zero, so the best admitted one is never below.
        best = np.lexsort((spent, -np.where(admitted, gain, -np.inf)))[0]
        if self.budget is not None:
            return int(best)
        lost = gain[best] - gain
        near = admitted & (lost <= _standard_errors(gains[best] - gains, groups) + ROUNDING)
        return int(np.lexsort((-gain, np.where(near, spent, np.inf)))[0])

    def _tuned(self) -> tuple[str, float, Policy]:
        if self.against is None or self.width is None or self.setting is None:
            raise RouterError("This guard was not tuned yet; call tune on validation data.")
        return self.against, self.width, self.setting

    def _column(self, prediction: Prediction) -> int:
        against, _, _ = self._tuned()
        if against not in prediction.candidates:
            raise RouterError(
                f"policy=guarded: the incumbent {against!r} is none of the candidates "
                f"{', '.join(prediction.candidates)}."
            )
        return prediction.candidates.index(against)

    def _lowered(self, prediction: Prediction) -> Prediction:
        """What the policy sees: every candidate but the incumbent at its lower bound."""
        _, width, _ = self._tuned()
        column = self._column(prediction)
        error = np.hypot(prediction.quality_se, prediction.quality_se[:, [column]])
        error[:, column] = 0.0
        return dataclasses.replace(prediction, quality=prediction.quality - width * error)

    def _keeps_always(self) -> bool:
        return math.isinf(self._tuned()[1])

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        if self._keeps_always():
            always = np.full(len(prediction), self._column(prediction))
            return one_hot(always, len(prediction.candidates))
        return self._tuned()[2].probabilities(self._lowered(prediction))

    def votes(self, prediction: Prediction, chosen: np.ndarray) -> np.ndarray:
        if self._keeps_always():
            return super().votes(prediction, chosen)
        return self._tuned()[2].votes(self._lowered(prediction), chosen)

    def expected(
        self,
        prediction: Prediction,
        scores: np.ndarray,
        cost: np.ndarray | None = None,
        latency: np.ndarray | None = None,
    ) -> Expected:
        if self._keeps_always():
            return super().expected(prediction, scores, cost, latency)
        return self._tuned()[2].expected(self._lowered(prediction), scores, cost, latency)

    def path(self, prediction: Prediction) -> list[Policy]:
        """The settings at the tuned width; at the largest one tried where the incumbent alone
        answers, as then the frontier is of what was not admitted."""
        plan = dataclasses.replace(self, width=WIDTHS[-1]) if self._keeps_always() else self
        settings = plan._tuned()[2].path(plan._lowered(prediction))
        return [dataclasses.replace(plan, setting=setting) for setting in settings]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        against, width, setting = self._tuned()
        if self._keeps_always():
            return f"keeps the incumbent {against}, as on every query"
        lowered = self._lowered(prediction)
        if width == 0:
            return setting.reason(prediction, chosen)
        favourite = int(setting.probabilities(prediction)[0].argmax())
        if chosen == self._column(prediction) != favourite:
            less = prediction.quality[0, favourite] - lowered.quality[0, favourite]
            return (
                f"keeps the incumbent {against}: {prediction.candidates[favourite]} would answer, "
                f"but not with its predicted quality lowered by {width:g} x the standard error of "
                f"its gain ({less:.3g})"
            )
        return (
            f"{setting.reason(lowered, chosen)}; every other than the incumbent {against} is "
            f"lowered by {width:g} x the standard error of its gain"
        )


def _standard_errors(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(K,) of the means of values (K, n); groups: (n,) of queries that are not independent."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return np.full(len(values), np.inf)
    by_group = np.argsort(group, kind="stable")
    centred = values - values.mean(axis=1, keepdims=True)
    sums = np.add.reduceat(centred[:, by_group], np.cumsum(sizes) - sizes, axis=1)
    variance = len(sizes) / (len(sizes) - 1) * (sums**2).sum(axis=1)
    return np.asarray(np.sqrt(variance) / len(groups))
