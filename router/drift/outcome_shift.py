"""How far scores, costs and errors moved, and how far because the queries are others."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from router.drift.observed import Observed
from router.drift.shift import (
    Mean,
    difference,
    effective_groups,
    log_ratio,
    standardised_mean,
)
from router.evaluation.bootstrap import Interval
from router.evaluation.paired import rare_losses

LEAST_IN_STRATUM = 2


@dataclass(frozen=True, eq=False)
class Strata:
    """Tasks that are in both tables. reference, recent: (n0,), (n1,) a number below k, or -1.
    count: k."""

    reference: np.ndarray
    recent: np.ndarray
    count: int

    @classmethod
    def of(
        cls, reference: np.ndarray | None, recent: np.ndarray | None, sizes: list[int]
    ) -> Strata:
        """reference, recent: task names; without tasks in one of the tables, all is one stratum."""
        if reference is None or recent is None:
            return cls(np.zeros(sizes[0], dtype=int), np.zeros(sizes[1], dtype=int), 1)
        codes, names = pd.factorize(np.concatenate([reference, recent]), sort=True)
        return cls(codes[: sizes[0]], codes[sizes[0] :], len(names))


@dataclass(frozen=True)
class OutcomeShift:
    """One number of one candidate in both tables.

    reference, recent: its means.
    shift: recent less reference, or the change as a share of the reference, both on the tasks'
        shares in the recent table.
    by_queries: likewise, what the tasks' shares alone change; NaN where all is one stratum.
    p, t: of the hypothesis that there is no shift. effective: independent queries on both sides.
    obstacle: why it cannot be judged; None where it can.
    """

    reference: float
    recent: float
    shift: Interval
    by_queries: float
    t: float
    p: float
    effective: tuple[float, float]
    obstacle: str | None


def outcome_shift(
    reference: Observed,
    recent: Observed,
    strata: Strata,
    groups: np.ndarray,
    least_groups: int,
    relative: bool = False,
    tail: float = 0.025,
) -> OutcomeShift:
    """Compare one number of one candidate, by direct standardisation (Kitagawa, 1955): within each
    task, then averaged over the recent tasks. A task with fewer than two outcomes on a side is
    left to `by_queries`.

    groups: (n0 + n1,) integers, the reference's first. relative: compare the ratio of means, of
    positive numbers; else the difference, of numbers in [0, 1] or near it.
    """
    n = len(reference.values)
    effective = (
        effective_groups(reference.weights, groups[:n]),
        effective_groups(recent.weights, groups[n:]),
    )
    whole = [
        _mean(of, np.zeros(len(of.values), dtype=int), np.ones(1)).value if size > 0 else math.nan
        for of, size in zip((reference, recent), effective, strict=True)
    ]
    nothing = Interval(math.nan, math.nan, math.nan)
    unknown = OutcomeShift(
        whole[0], whole[1], nothing, math.nan, math.nan, math.nan, effective, None
    )
    if min(effective) < least_groups:
        fewer = "recent" if effective[1] < effective[0] else "reference"
        few = f"{min(effective):.0f} independent {fewer} outcomes are too few"
        return replace(unknown, obstacle=f"{few}; at least {least_groups} are asked for")
    shares = _shares(reference, recent, strata)
    if shares is None:
        return replace(unknown, obstacle="no task has outcomes in both tables")
    means = [
        _mean(reference, strata.reference, shares),
        _mean(recent, strata.recent, shares),
    ]
    if relative and not min(*whole, *(mean.value for mean in means)) > 0:
        return replace(unknown, obstacle="its mean is 0 in one of the tables")
    degrees = min(effective) - 1
    total = _change(whole[1], whole[0], relative)
    if relative:
        estimate = log_ratio(means[1], means[0], groups, degrees)
        logs = estimate.interval(tail)
        shift = Interval(*(math.expm1(end) for end in (logs.value, logs.low, logs.high)))
        by_queries = (1 + total) / (1 + shift.value) - 1
    else:
        # Two right and two wrong answers more on either side: see `rare_losses`.
        spread = rare_losses(round(effective[0]), 0.5) + rare_losses(round(effective[1]), 0.5)
        estimate = difference(means[1], means[0], groups, degrees, spread)
        shift = estimate.interval(tail)
        by_queries = total - shift.value
    return OutcomeShift(
        reference=whole[0],
        recent=whole[1],
        shift=shift,
        by_queries=by_queries if strata.count > 1 else math.nan,
        t=estimate.t(),
        p=estimate.p_other_than_zero,
        effective=effective,
        obstacle=reference.selected or recent.selected,
    )


def _change(recent: float, reference: float, relative: bool) -> float:
    return recent / reference - 1 if relative else recent - reference


def _mean(observed: Observed, strata: np.ndarray, shares: np.ndarray) -> Mean:
    kept = np.where(strata >= 0, shares[strata] > 0, False)
    return standardised_mean(observed.values, observed.weights, np.where(kept, strata, -1), shares)


def _shares(reference: Observed, recent: Observed, strata: Strata) -> np.ndarray | None:
    """(k,) recent shares of the tasks that can be compared, summing to one; None without any."""
    known = np.minimum(
        np.bincount(strata.reference[reference.weights > 0], minlength=strata.count),
        np.bincount(strata.recent[recent.weights > 0], minlength=strata.count),
    )
    shares = np.bincount(strata.recent, minlength=strata.count) * (known >= LEAST_IN_STRATUM)
    return shares / shares.sum() if shares.sum() > 0 else None
