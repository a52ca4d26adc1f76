"""Paired bootstrap over queries; queries of one group are drawn together."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

CHUNK_CELLS = 20_000_000


@dataclass(frozen=True)
class Interval:
    """A figure with its percentile interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


class Bootstrap:
    """Resamples of n queries, the same for every figure, so that differences are paired.

    groups: (n,) integers; whole groups are drawn with replacement.
    resamples: number of resamples.
    level: coverage of the intervals.
    """

    def __init__(
        self, groups: np.ndarray, resamples: int = 1000, level: float = 0.95, random_state: int = 0
    ):
        _, self.group = np.unique(groups, return_inverse=True)
        self.resamples = resamples
        self.level = level
        self.random_state = random_state

    def means(self, values: np.ndarray) -> np.ndarray:
        """(resamples, ...) means of per-query values (n, ...) in every resample."""
        flat = np.asarray(values, dtype=float).reshape(len(values), -1)
        n_groups = int(self.group.max()) + 1
        sums = np.zeros((n_groups, flat.shape[1] + 1))
        np.add.at(sums, self.group, np.column_stack([flat, np.ones(len(flat))]))
        rng = np.random.default_rng(self.random_state)
        step = max(1, CHUNK_CELLS // n_groups)
        parts = []
        for start in range(0, self.resamples, step):
            size = min(step, self.resamples - start)
            drawn = rng.integers(n_groups, size=(size, n_groups))
            offsets = np.arange(size)[:, None] * n_groups
            counts = np.bincount((drawn + offsets).ravel(), minlength=size * n_groups)
            totals = counts.reshape(size, n_groups) @ sums
            parts.append(totals[:, :-1] / totals[:, -1:])
        return np.concatenate(parts).reshape(self.resamples, *np.shape(values)[1:])

    def interval(self, value: float, resampled: np.ndarray) -> Interval:
        """The percentile interval of a figure that was computed on every resample."""
        tail = (1 - self.level) / 2
        low, high = np.quantile(resampled, [tail, 1 - tail])
        return Interval(float(value), float(low), float(high))

    def mean(self, values: np.ndarray) -> Interval:
        """Interval of the mean of per-query values (n,)."""
        return self.interval(float(np.mean(values)), self.means(values))
