"""Do the tasks keep their shares of the queries?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import chi2

from router.drift.shift import Estimate, clustered_variance

LEAST_EXPECTED = 5  # queries; the usual condition of the chi-square test
RARE = "(rare tasks)"


@dataclass(frozen=True, eq=False)
class TaskShift:
    """tasks: k names; those too rare to compare are one. reference, recent: (k,) their shares.
    psi: population stability index, 0 where the shares are the same. statistic, p: of the test."""

    tasks: list[str]
    reference: np.ndarray
    recent: np.ndarray
    psi: Estimate
    statistic: float
    p: float

    @property
    def most_moved(self) -> list[int]:
        """Positions, the greatest change of share first."""
        return list(np.argsort(-np.abs(self.recent - self.reference), kind="stable"))


def task_shift(
    reference: np.ndarray, recent: np.ndarray, groups: np.ndarray, degrees: float
) -> TaskShift | None:
    """Chi-square test of equal shares; None where fewer than two tasks are large enough.

    reference, recent: (n0,), (n1,) task names. groups: (n0 + n1,) integers, the reference's first.

    Queries of a group often have the same task, which inflates Pearson's statistic. It is divided
    by the mean design effect, which is 1 without groups (the first-order correction of Rao and
    Scott, 1984).
    """
    codes, names = pd.factorize(np.concatenate([reference, recent]), sort=True)
    sizes = np.array([len(reference), len(recent)])
    expected = np.bincount(codes) * sizes.min() / sizes.sum()
    kept = np.flatnonzero(expected >= LEAST_EXPECTED)
    place = np.full(len(names), len(kept))
    place[kept] = np.arange(len(kept))
    codes = place[codes]
    tasks = [str(names[code]) for code in kept] + ([RARE] if len(kept) < len(names) else [])
    if len(tasks) < 2:
        return None
    is_recent = np.repeat([False, True], sizes)
    counts = np.stack([np.bincount(codes[~is_recent], minlength=len(tasks)),
                       np.bincount(codes[is_recent], minlength=len(tasks))])  # fmt: skip
    statistic, p = _chi_square(codes, is_recent, counts, groups)
    psi = _stability_index(codes, is_recent, counts, groups, degrees)
    shares = counts / sizes[:, None]
    return TaskShift(tasks, shares[0], shares[1], psi, statistic, p)


def _chi_square(
    codes: np.ndarray, is_recent: np.ndarray, counts: np.ndarray, groups: np.ndarray
) -> tuple[float, float]:
    sizes = counts.sum(axis=1)
    shares = counts / sizes[:, None]
    scale = counts.sum(axis=0) / sizes.sum() * (1 / sizes).sum()
    pearson = float(((shares[1] - shares[0]) ** 2 / scale).sum())
    # Their mean over tasks is what the statistic would be if nothing had moved.
    by_chance = 0.0
    for task in range(counts.shape[1]):
        share = np.where(is_recent, shares[1, task], shares[0, task])
        sign = np.where(is_recent, 1 / sizes[1], -1 / sizes[0])
        by_chance += clustered_variance(sign * ((codes == task) - share), groups) / scale[task]
    degrees = counts.shape[1] - 1
    if by_chance == 0:  # the same groups with the same tasks on both sides
        return (0.0, 1.0) if pearson == 0 else (math.inf, 0.0)
    statistic = pearson * degrees / by_chance
    return statistic, float(chi2.sf(statistic, degrees))


def _stability_index(
    codes: np.ndarray,
    is_recent: np.ndarray,
    counts: np.ndarray,
    groups: np.ndarray,
    degrees: float,
) -> Estimate:
    """Sum over tasks of (q - p) log(q / p); half a query is added to each task, so that one that
    is new or gone does not make it infinite."""
    smoothed = counts + 0.5
    p, q = smoothed / smoothed.sum(axis=1, keepdims=True)
    value = float(((q - p) * np.log(q / p)).sum())
    by_p, by_q = -np.log(q / p) - (q - p) / p, np.log(q / p) + (q - p) / q
    sizes = counts.sum(axis=1)
    influence = np.where(
        is_recent,
        (by_q - by_q @ counts[1] / sizes[1])[codes] / sizes[1],
        (by_p - by_p @ counts[0] / sizes[0])[codes] / sizes[0],
    )
    return Estimate(value, math.sqrt(clustered_variance(influence, groups)), degrees)
