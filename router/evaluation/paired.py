"""Paired differences of two routers, with one-sided bounds that hold for few and clustered rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from router.evaluation.bootstrap import Interval

PLUS = 4  # queries: two that are won outright and two that are lost outright


@dataclass(frozen=True)
class Paired:
    """Means of two paired columns with their covariance; n - 1 stands for groups - 1.

    means: (2,) candidate's and incumbent's. covariance: (2, 2) of those means; NaN where one group
    is all there is. groups: how many.
    """

    means: np.ndarray
    covariance: np.ndarray
    groups: int

    @classmethod
    def of(cls, values: np.ndarray, groups: np.ndarray) -> Paired:
        """values: (n, 2) of each query; groups: (n,) integers, queries that are not independent.

        The covariance is the linearised one of a ratio of group sums to group sizes (sandwich
        with the factor G / (G - 1)), which allows for groups of different sizes.
        """
        _, group = np.unique(groups, return_inverse=True)
        count = int(group.max()) + 1
        means = values.mean(axis=0)
        sums = np.zeros((count, 2))
        np.add.at(sums, group, values - means)
        if count < 2:
            return cls(means, np.full((2, 2), np.nan), count)
        covariance = count / (count - 1) * (sums.T @ sums) / len(values) ** 2
        return cls(means, covariance, count)

    def difference(self, tail: float, spread: float = 0.0) -> Interval:
        """Scores of candidate less incumbent; each end is missed with probability `tail` at most,
        nearly.

        spread: variance of the mean that is added to the measured one (see `rare_losses`).
        """
        value, error = self._difference(spread)
        if self.groups < 2:
            return Interval(value, math.nan, math.nan)
        reach = self._quantile(tail) * error
        return Interval(value, max(value - reach, -1.0), min(value + reach, 1.0))

    def relative(self, tail: float) -> Interval:
        """(Candidate - incumbent) / incumbent by Fieller's theorem: the ratios that a t-test does
        not reject. Ends are infinite where the incumbent's mean may be zero."""
        a, b = self.means.tolist()
        if a == b == 0:
            return Interval(0.0, 0.0, 0.0)
        value = a / b - 1 if b > 0 else math.inf
        if self.groups < 2:
            return Interval(value, math.nan, math.nan)
        square = self._quantile(tail) ** 2
        (aa, ab), (_, bb) = self.covariance.tolist()
        # (a - r b)^2 <= t^2 Var(a - r b) is a quadratic in the ratio r.
        leading, middle, constant = b * b - square * bb, a * b - square * ab, a * a - square * aa
        if b <= 0 or leading <= 0:
            return Interval(value, -math.inf, math.inf)
        root = math.sqrt(max(middle * middle - leading * constant, 0.0))
        return Interval(value, (middle - root) / leading - 1, (middle + root) / leading - 1)

    def chance_of_loss_within(self, margin: float, spread: float = 0.0) -> float:
        """One-sided p-value of the hypothesis that the candidate loses at most `margin`; 1 where
        one group is all there is."""
        if self.groups < 2:
            return 1.0
        value, error = self._difference(spread)
        if error == 0:
            return 0.0 if value < -margin else 1.0
        return float(stdtr(self.groups - 1, (value + margin) / error))

    def _difference(self, spread: float) -> tuple[float, float]:
        """Value and standard error."""
        (aa, ab), (_, bb) = self.covariance.tolist()
        variance = max(aa - 2 * ab + bb, 0.0) + spread if self.groups > 1 else math.nan
        return float(self.means[0] - self.means[1]), math.sqrt(variance)

    def _quantile(self, tail: float) -> float:
        return float(-stdtrit(self.groups - 1, tail))


def rare_losses(n: int, largest: float = 1.0) -> float:
    """Variance of a mean of n differences in [-largest, largest] that stands for what n queries
    cannot show.

    Two routers that differ on few queries show few differences, or none, and a t-interval or a
    bootstrap then claims to know the loss exactly. Two queries won and two lost outright are added
    to the spread: the pairs of the plus-four intervals (Agresti and Coull, 1998), here in the
    variance alone, so that the mean stays.
    """
    return PLUS * (largest / n) ** 2


def holm(p_values: np.ndarray) -> np.ndarray:
    """(k,) p-values adjusted for k tests (Holm, 1979): those up to alpha are rejected, and any true
    hypothesis is among them with probability alpha at most, however the tests depend."""
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
