"""How many more labels: the learning curve's power law, and the queries that would show a gain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.evaluation.bootstrap import Bootstrap, Interval

Z95 = 1.959964
EXPONENTS = np.linspace(0.1, 1.5, 29)  # 0.5 is that of a sampling error, 1 that of a parametric fit
MOST_TIMES = 100  # beyond a hundred times today's labels a power law of four points says nothing


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """gain = limit - scale x queries ** -exponent; each an array of one shape, or a number.

    The form of learning curves in Hestness et al. 2017 (arXiv 1712.00409).
    """

    limit: np.ndarray
    scale: np.ndarray
    exponent: np.ndarray

    @classmethod
    def fit(cls, sizes: np.ndarray, gains: np.ndarray) -> PowerLaw:
        """Least squares for every row of gains (..., L) at sizes (L,), with scale >= 0.

        For a given exponent the other two are linear, so the exponents of a grid are tried: that
        cannot fail to converge, and serves all resamples at once.
        """
        flat = gains.reshape(-1, len(sizes))
        mean = flat.mean(axis=1)
        least = ((flat - mean[:, None]) ** 2).sum(axis=1)  # of a flat curve, scale 0
        limit, scale, exponent = mean, np.zeros_like(mean), np.full_like(mean, EXPONENTS[0])
        for c in EXPONENTS:
            fall = (sizes / sizes[-1]) ** -c
            centred = fall - fall.mean()
            slope = -(flat @ centred) / (centred @ centred)
            level = mean + slope * fall.mean()
            error = ((flat - level[:, None] + slope[:, None] * fall) ** 2).sum(axis=1)
            better = (slope > 0) & (error < least)
            least = np.where(better, error, least)
            limit = np.where(better, level, limit)
            scale = np.where(better, slope * sizes[-1] ** c, scale)
            exponent = np.where(better, c, exponent)
        shape = gains.shape[:-1]
        return cls(limit.reshape(shape), scale.reshape(shape), exponent.reshape(shape))

    def at(self, queries: float | np.ndarray) -> np.ndarray:
        """Gain after learning from that many labelled queries."""
        return np.asarray(self.limit - self.scale * queries**-self.exponent)


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """sizes: (L,) queries learned from. gains: (L,) intervals of the gain over the best single.
    law: the fitted power law; at_four_times: the gain that it foresees at four times the labels,
    with the interval of refits on resamples. rises: whether the last point is surely above the
    first."""

    sizes: np.ndarray
    gains: list[Interval]
    law: PowerLaw
    at_four_times: Interval
    rises: bool

    @classmethod
    def of(cls, sizes: np.ndarray, gains: np.ndarray, bootstrap: Bootstrap) -> LearningCurve | None:
        """gains: (k, L) of each judged query. None with fewer than three points, through which any
        power law passes."""
        if len(sizes) < 3:
            return None
        resampled, means = bootstrap.means(gains), gains.mean(axis=0)
        law = PowerLaw.fit(sizes, means)
        ahead = PowerLaw.fit(sizes, resampled).at(4 * sizes[-1])
        return cls(
            sizes,
            [bootstrap.interval(float(m), r) for m, r in zip(means, resampled.T, strict=True)],
            law,
            bootstrap.interval(float(law.at(4 * sizes[-1])), ahead),
            bootstrap.mean(gains[:, -1] - gains[:, 0]).low > 0,
        )


def deviation(gain: Interval, queries: int) -> float:
    """Standard deviation of one query's gain, as the interval of the mean implies it: queries that
    share a group count as what they are worth together."""
    return float((gain.high - gain.low) / (2 * Z95) * np.sqrt(queries))


def queries_to_show(gain: float, deviation: float) -> float | None:
    """Judged queries at which the 95 % interval of a mean gain excludes 0: (1.96 sd / gain)^2. None
    where there is no gain."""
    return (Z95 * deviation / gain) ** 2 if gain > 0 else None


def labels_needed(
    curve: LearningCurve | None, gain: Interval, queries: int, n_folds: int
) -> float | None:
    """Labelled queries in all at which the quick router's gain would be certain, cross-validated as
    today's; None where no number up to a hundred times today's would do.

    A larger log judges more sharply, and where the learning curve rises it teaches more too.

    gain: on the `queries` judged today.
    """
    if curve is None or not curve.rises:
        needed = queries_to_show(gain.value, deviation(gain, queries))
        return needed if needed is not None and needed <= MOST_TIMES * queries else None
    # A router that has learned little departs little from the best single model, and its gain
    # scatters little: that of a better one will scatter more.
    sd = max(deviation(each, queries) for each in curve.gains)
    grid = np.geomspace(1, MOST_TIMES * queries, 4000)
    foreseen = curve.law.at(grid * (1 - 1 / n_folds))
    enough = np.flatnonzero(foreseen * np.sqrt(grid) >= Z95 * sd)
    return float(grid[enough[0]]) if len(enough) else None
