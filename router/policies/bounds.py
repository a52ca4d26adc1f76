"""What the mean of a sample proves about the mean that it was drawn from.

Values lie in [0, 1], one per independent draw. A test that says "the mean is at least so much" is
wrong with probability delta at most over the sample, whatever its size: nothing here is asymptotic.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

HALVINGS = 40
MOST_QUERIES = 100_000  # more than that is no plan


def binomial_proves(values: np.ndarray, least: float, delta: float) -> bool:
    """Whether draws that are 0 or 1 prove a mean of at least `least`: at a smaller one, as many
    ones would have a chance of delta at most. The greatest mean proven is Clopper and Pearson's
    lower bound (1934), the delta quantile of Beta(ones, zeros + 1).

    values: (n,), drawn from nothing but 0 and 1. A sample of graded values that happens to hold no
    others does not do.
    """
    from scipy.special import betainc  # where policies are tuned; the runtime only decides

    ones = int(values.sum())
    if ones == 0 or least <= 0:
        return least <= 0
    return bool(betainc(ones, len(values) - ones + 1, least) <= delta)


def betting_proves(values: np.ndarray, least: float, delta: float) -> bool:
    """Whether draws of anything in [0, 1] prove a mean of at least `least` (Waudby-Smith and
    Ramdas, arXiv 2010.09686; the stakes are those of Bates et al., arXiv 2101.02703).

    A gambler stakes part of a capital of 1 on every value being above `least`. If the mean is
    below, the game is not in the gambler's favour, and the capital ever reaches 1 / delta with
    probability delta at most (Ville). The smaller the variance, the higher the stakes and the
    more is proven. The values are drawn in random order, the same every time.

    values: (n,).
    """
    if not 0 < least < 1:
        return least <= 0
    values = np.random.default_rng(0).permutation(values)
    n = len(values)
    count = np.arange(1, n + 1)
    mean = (0.5 + values.cumsum()) / (count + 1)
    variance = (0.25 + ((values - mean) ** 2).cumsum()) / (count + 1)
    known = np.concatenate([[0.25], variance[:-1]])  # a stake is made before its value is seen
    goal = math.log(1 / delta)
    stakes = np.minimum(1.0, np.sqrt(2 * goal / (n * known)))
    return bool(np.log1p(stakes * (values - least)).cumsum().max() >= goal)


def conformal_proves(values: np.ndarray, least: float) -> bool:
    """Whether the next draw's value is at least `least` in expectation, after a choice among
    settings whose values only fall from one to the next (conformal risk control, arXiv
    2208.02814): n of n + 1 exchangeable values are these, and the last may be 0.

    values: (n,).
    """
    return bool(values.sum() / (len(values) + 1) >= least)


def greatest_proven(proves: Callable[[float], bool]) -> float:
    """The greatest mean that is proven; its lower bound."""
    proven, not_proven = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (proven + not_proven) / 2
        proven, not_proven = (middle, not_proven) if proves(middle) else (proven, middle)
    return proven


def queries_needed(proves: Callable[[np.ndarray], bool], values: np.ndarray) -> int | None:
    """About how many values of the same distribution would prove it; None where that is more than
    `MOST_QUERIES`, or no number would do."""

    def enough(n: int) -> bool:
        return proves(np.resize(values, n))

    high = len(values)
    while not enough(high):
        high *= 2
        if high > MOST_QUERIES:
            return None
    low = high // 2
    while high - low > max(1, high // 40):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
