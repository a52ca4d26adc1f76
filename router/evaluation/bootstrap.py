"""Paired bootstrap over queries; queries of one group are drawn together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

CHUNK_CELLS = 2_000_000  # resamples x groups that are drawn at a time: about 50 MB
KEPT_CELLS = 100_000_000  # bytes of drawn counts that are kept between figures


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
        _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        self._by_group = np.argsort(group, kind="stable")
        self._starts = np.cumsum(sizes) - sizes
        self._sizes = sizes.astype(float)
        self.n_groups = len(sizes)
        self.resamples = resamples
        self.level = level
        self.random_state = random_state

    def means(self, values: np.ndarray) -> np.ndarray:
        """(resamples, ...) means of per-query values (n, ...) in every resample."""
        flat = np.asarray(values, dtype=float).reshape(len(values), -1)
        sums = np.add.reduceat(flat[self._by_group], self._starts, axis=0)
        sums = np.column_stack([sums, self._sizes])
        drawn = self._kept if self.resamples * self.n_groups <= KEPT_CELLS else self._draw()
        totals = np.concatenate([counts @ sums for counts in drawn])
        return (totals[:, :-1] / totals[:, -1:]).reshape(self.resamples, *np.shape(values)[1:])

    def interval(self, value: float, resampled: np.ndarray) -> Interval:
        """The percentile interval of a figure that was computed on every resample; NaN where one
        group is all there is, since its spread is unknown."""
        if self.n_groups < 2:
            return Interval(float(value), float("nan"), float("nan"))
        tail = (1 - self.level) / 2
        if np.isfinite(resampled).all():
            low, high = np.quantile(resampled, [tail, 1 - tail])
        else:  # between infinities there is nothing to interpolate
            low, high = np.quantile(resampled, [tail, 1 - tail], method="nearest")
        return Interval(float(value), float(low), float(high))

    def mean(self, values: np.ndarray) -> Interval:
        """Interval of the mean of per-query values (n,)."""
        return self.interval(float(np.mean(values)), self.means(values))

    def relative(self, values: np.ndarray, reference: np.ndarray) -> Interval:
        """The paired difference of two means, values less reference (n,), as a share of the
        reference's; against nothing it is 0 or infinite."""

        def ratio(means: np.ndarray) -> np.ndarray:
            more, whole = means[..., 0], means[..., 1]
            free = np.where(more > 0, np.inf, 0.0)
            return np.divide(more, whole, out=free, where=whole > 0)

        both = np.stack([values - reference, reference], axis=1)
        return self.interval(float(ratio(both.mean(axis=0))), ratio(self.means(both)))

    @cached_property
    def _kept(self) -> list[np.ndarray]:
        # A byte holds the count: that one group is drawn 256 times has a chance below 1e-500.
        return [counts.astype(np.uint8) for counts in self._draw()]

    def _draw(self) -> Iterator[np.ndarray]:
        """(chunk, groups) times that each group is drawn; the same on every call."""
        rng = np.random.default_rng(self.random_state)
        step = max(1, CHUNK_CELLS // self.n_groups)
        for start in range(0, self.resamples, step):
            size = min(step, self.resamples - start)
            drawn = rng.integers(self.n_groups, size=(size, self.n_groups))
            drawn += np.arange(size)[:, None] * self.n_groups
            counts = np.bincount(drawn.ravel(), minlength=size * self.n_groups)
            yield counts.reshape(size, self.n_groups)
