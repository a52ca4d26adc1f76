"""How far a figure moved between two samples of queries; rows may be weighted and clustered.

Every figure is a smooth function of means. So it has an influence: how much each query moves it.
Summed within groups of dependent queries, the influences give its standard error (the sandwich of
survey sampling), whatever the figure is, and also where a group has queries in both samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from router.evaluation.bootstrap import Interval
from router.evaluation.metrics import effective_decisions
from router.outcomes.grouping import group_queries
from router.outcomes.matrix import OutcomeMatrix


@dataclass(frozen=True)
class Estimate:
    """A figure, its standard error, and the degrees of freedom of its t-test."""

    value: float
    error: float
    degrees: float

    def interval(self, tail: float) -> Interval:
        """Each end is missed with probability `tail`, nearly."""
        reach = float(-stdtrit(self.degrees, tail)) * self.error
        return Interval(self.value, self.value - reach, self.value + reach)

    def t(self, null: float = 0.0) -> float:
        """The distance from the null in standard errors."""
        away = self.value - null
        if self.error > 0:
            return away / self.error
        return math.copysign(math.inf, away) if away != 0 else 0.0

    def p_above(self, null: float) -> float:
        """One-sided p-value of the hypothesis that the figure is at most `null`."""
        return 0.5 if self.t(null) == 0 else float(stdtr(self.degrees, -self.t(null)))

    @property
    def p_other_than_zero(self) -> float:
        """Two-sided p-value."""
        return float(2 * stdtr(self.degrees, -abs(self.t())))


@dataclass(frozen=True, eq=False)
class Mean:
    """A mean of one sample. influence: (n,) how much each query moves it."""

    value: float
    influence: np.ndarray


def joint_groups(reference: OutcomeMatrix, recent: OutcomeMatrix) -> np.ndarray:
    """(n0 + n1,) integers from 0 up, the reference's queries first: equal within a group of either
    table, and where the prompt is the same. A session or user that is in both tables counts as two,
    which makes the tests a little less ready to see a difference."""
    names = [f"0 {group}" for group in reference.groups] + [f"1 {group}" for group in recent.groups]
    prompts = reference.queries["prompt"].tolist() + recent.queries["prompt"].tolist()
    return group_queries(pd.Series(prompts), pd.Series(names))


def effective_groups(weights: np.ndarray, groups: np.ndarray) -> float:
    """(sum w)^2 / sum w^2 of the weights by group: how many independent queries of equal weight
    tell as much. weights, groups: (n,)."""
    return effective_decisions(np.bincount(groups, weights))


def clustered_variance(influence: np.ndarray, groups: np.ndarray) -> float:
    """Variance of the figure that the influences (n,) belong to; queries of a group count as one
    observation."""
    count = len(np.unique(groups[influence != 0]))
    sums = np.bincount(groups, influence)
    return float((sums**2).sum()) * count / max(count - 1, 1)


def standardised_mean(
    values: np.ndarray, weights: np.ndarray, strata: np.ndarray, shares: np.ndarray
) -> Mean:
    """Mean over strata of the weighted means within them (post-stratification).

    values: (n,), read where the weight is above 0. weights: (n,) of each query within its stratum;
    0 leaves it out. strata: (n,) numbers below k, or -1 for none. shares: (k,) that sum to one;
    each stratum of positive share has a weighted query.
    """
    used = np.flatnonzero((weights > 0) & (strata >= 0))
    stratum, weight = strata[used], weights[used]
    total = np.bincount(stratum, weight, minlength=len(shares))
    sums = np.bincount(stratum, weight * values[used], minlength=len(shares))
    means = np.divide(sums, total, out=np.zeros(len(shares)), where=total > 0)
    count = np.bincount(stratum, minlength=len(shares))
    # A mean of few hides some of their spread.
    freedom = np.sqrt(count / np.maximum(count - 1, 1))
    influence = np.zeros(len(values))
    share = np.divide(shares * freedom, total, out=np.zeros(len(shares)), where=total > 0)
    influence[used] = share[stratum] * weight * (values[used] - means[stratum])
    return Mean(float(shares @ means), influence)


def difference(
    recent: Mean, reference: Mean, groups: np.ndarray, degrees: float, spread: float = 0.0
) -> Estimate:
    """Recent less reference. groups: (n0 + n1,), the reference's first. spread: variance that is
    added to the measured one."""
    influence = np.concatenate([-reference.influence, recent.influence])
    variance = clustered_variance(influence, groups) + spread
    return Estimate(recent.value - reference.value, math.sqrt(variance), degrees)


def log_ratio(recent: Mean, reference: Mean, groups: np.ndarray, degrees: float) -> Estimate:
    """Logarithm of recent / reference, of two positive means."""
    influence = np.concatenate(
        [-reference.influence / reference.value, recent.influence / recent.value]
    )
    error = math.sqrt(clustered_variance(influence, groups))
    return Estimate(math.log(recent.value / reference.value), error, degrees)
