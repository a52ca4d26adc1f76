"""P7: every candidate as often as it is likely to be the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.errors import RouterError
from router.policies.base import TIE, require_cost
from router.policies.exploring import Exploring
from router.policies.utility import cost_weights
from router.prediction import Prediction

PATH_STEP = 3  # every third weight: a setting costs an integral for each query
SPAN = 7.0  # standard deviations; less than 2e-12 of a normal lies beyond
KNOTS = np.array([-SPAN, -3.0, 0.0, 3.0, SPAN])
NODES, WEIGHTS = np.polynomial.legendre.leggauss(10)  # between two knots
CELLS = 2_000_000  # numbers held at a time
# Hart et al. 1968, algorithm 5666: the normal's upper tail over exp(-z^2 / 2), for z from 0 to 7.
ABOVE = (
    3.52624965998911e-2,
    0.700383064443688,
    6.37396220353165,
    33.912866078383,
    112.079291497871,
    221.213596169931,
    220.206867912376,
)
BELOW = (
    8.83883476483184e-2,
    1.75566716318264,
    16.064177579207,
    86.7807322029461,
    296.564248779674,
    637.333633378831,
    793.826512519948,
    440.413735824752,
)


@dataclass(frozen=True, kw_only=True)
class Thompson(Exploring):
    """Thompson sampling: each candidate with the probability that it is the best of independent
    normals with mean quality - cost_weight x cost and standard deviation width x standard error
    (Thompson 1933; Russo et al. 2018, arXiv 1707.02038).

    The probability is computed, not sampled, so that it can be logged. What its quadrature leaves,
    about 1e-8, makes the draw no less true to it: the draw is from the very numbers logged.

    See `Exploring` for the other parameters and for what is drawn.

    width: factor on the standard errors; more explores more.
    """

    option = "thompson"

    width: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.width < np.inf:
            raise RouterError(f"policy.width is {self.width}; give a factor above 0.")

    def doubt(self, net: Prediction) -> np.ndarray:
        # Utilities as close as TIE are one: a spread below it is rounding.
        return np.maximum(self.width * net.quality_se, TIE)

    def unfloored(self, net: Prediction, cost_weight: float) -> np.ndarray:
        utility = net.quality
        if cost_weight > 0:
            cost = require_cost(net, self.option)
            extra = cost - cost.min(axis=1, keepdims=True)
            # Nothing extra weighs nothing, even at an infinite weight.
            spent = np.multiply(extra, cost_weight, out=np.zeros_like(extra), where=extra > 0)
            utility = utility - spent
        return chance_of_the_greatest(utility, self.doubt(net))

    def switches(self, net: Prediction) -> list[float]:
        weights = cost_weights(net)
        return [*weights[:-1:PATH_STEP], *weights[-1:]]

    def merit(
        self, prediction: Prediction, net: Prediction, cost_weight: float, chosen: int
    ) -> str | None:
        chance = self.unfloored(net, cost_weight)[0, chosen]
        if chance == 0:
            return None
        quality, error = prediction.quality[0, chosen], prediction.quality_se[0, chosen]
        return f"the best with probability {chance:.3g} (quality {quality:.3f} ± {error:.3f})"


def chance_of_the_greatest(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(n, m) probability that each of a row's independent normals is the greatest; rows sum to one.

    The chance of normal j is the integral over x of its density times the others' distribution
    functions. Knots at every normal's own deviations cut the line into pieces on which all of them
    are smooth, whatever their scales, and Gauss and Legendre's rule integrates each piece.

    mean: (n, m), may be -inf, but not a whole row. deviation: (n, m) above 0.
    """
    n, m = mean.shape
    mean = mean - mean.max(axis=1, keepdims=True)
    rows = max(1, CELLS // (m * m * len(KNOTS) * len(NODES)))
    parts = [slice(start, start + rows) for start in range(0, n, rows)]
    chance = [np.zeros((0, m)), *(_integrals(mean[part], deviation[part]) for part in parts)]
    mass = np.concatenate(chance)
    return np.asarray(mass / mass.sum(axis=1, keepdims=True))


def _integrals(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    n = len(mean)
    # The greatest lies above every normal's least and below the greatest of their ends.
    low = (mean - SPAN * deviation).max(axis=1, keepdims=True)
    high = (mean + SPAN * deviation).max(axis=1, keepdims=True)
    knots = (mean[:, :, None] + deviation[:, :, None] * KNOTS).reshape(n, -1)
    edges = np.sort(np.clip(knots, low, high), axis=1)
    row, piece = np.nonzero(edges[:, 1:] > edges[:, :-1])
    left, right = edges[row, piece], edges[row, piece + 1]
    x = left[:, None] + (right - left)[:, None] * (NODES + 1) / 2
    z = (x[:, :, None] - mean[row][:, None]) / deviation[row][:, None]  # (pieces, nodes, m)
    z = np.clip(z, -SPAN, SPAN)
    bell = np.exp(-(z**2) / 2)
    tail = bell * np.polyval(ABOVE, np.abs(z)) / np.polyval(BELOW, np.abs(z))
    below = np.where(z > 0, 1 - tail, tail)
    # Above `low` no factor vanishes: the others' product is the whole one over the normal's own.
    all_below = below.prod(axis=2, keepdims=True) * WEIGHTS[:, None]
    mass = (all_below * np.where(z < SPAN, bell, 0.0) / below).sum(axis=1)
    mass *= (right - left)[:, None] / deviation[row]
    return np.add.reduceat(mass, np.searchsorted(row, np.arange(n)), axis=0)
