"""How much exploration answers a question, before anyone explores: rate, requests, dollars, days.

The incumbent's decisions are mixed with a uniform draw: a candidate is asked with probability
p = (1 - rate) x the incumbent's + rate / m. Requests are taken to be independent; where sessions
repeat themselves, more are needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import ndtri

from router.errors import RouterError
from router.outcomes.decisions import Decisions
from router.outcomes.matrix import OutcomeMatrix

HALVINGS = 60


class Question(Protocol):
    """What exploration shall answer.

    extra_cost, extra_loss: mean USD and mean score that a request costs more, or loses, if it is
    drawn for exploration instead of decided by the incumbent; None where they are not known.
    """

    @property
    def extra_cost(self) -> float | None: ...

    @property
    def extra_loss(self) -> float | None: ...

    def requests(self, rate: float) -> float:
        """Requests that the answer needs at a rate of exploration; a convex function of it,
        infinite where it is never reached."""


@dataclass(frozen=True)
class Plan:
    """rate: of exploration. requests: how many, explored or not. days: at the given traffic.
    dollars: spent beyond the incumbent's own. loss: summed score lost on the way."""

    rate: float
    requests: int
    days: float
    dollars: float | None
    loss: float | None


def plan(question: Question, rate: float, requests_per_day: float) -> Plan | None:
    """What the answer takes at the rate; None where it is never reached."""
    needed = question.requests(rate)
    if math.isinf(needed):
        return None
    requests = max(math.ceil(needed), 1)

    def in_all(per_draw: float | None) -> float | None:
        return None if per_draw is None else requests * rate * per_draw

    return Plan(
        rate,
        requests,
        requests / requests_per_day,
        in_all(question.extra_cost),
        in_all(question.extra_loss),
    )


def fastest_rate(question: Question, most: float) -> float:
    """The rate up to `most` that needs the fewest requests, by golden section of a convex
    function. More exploration is not always faster: it takes answers from the incumbent's own."""
    low, high = 0.0, most
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(HALVINGS):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if question.requests(left) <= question.requests(right):
            high = right
        else:
            low = left
    best = (low + high) / 2
    # The minimum may lie at the end itself, which the search comes near to but never tries.
    return most if question.requests(most) <= question.requests(best) else best


def least_rate(question: Question, requests: float, most: float) -> float | None:
    """The least rate up to `most` at which so many requests suffice; None where none does.

    Requests x rate, the number of draws, does not fall as the rate rises, unless the reward model
    explains less than a constant would. So the least rate loses the least too, and where a uniform
    draw is dearer than the incumbent it costs the least.
    """
    if question.requests(0.0) <= requests:
        return 0.0
    low, high = 0.0, fastest_rate(question, most)
    if question.requests(high) > requests:
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if question.requests(middle) <= requests else (middle, high)
    return high


@dataclass(frozen=True, eq=False)
class TargetValue:
    """How much exploration gives the target's value, or its gain on the incumbent, an interval of
    the wished half-width by doubly robust evaluation.

    The value of one decision is b + (d / p)(r - f), with f the reward model's score, d the target's
    probabilities (for a gain, less the incumbent's), b = sum d f; its variance under p is

        E[b^2 + 2 b sum d e + sum d^2 / p e^2] - E[b + sum d e]^2,   e = r - f,

    and all sums are taken over the outcomes of a table; where it saw some of them only, each stands
    for 1 / the probability with which it was seen.

    predicted, scores: (n, m) f and r. seen: (n, m) weight of each outcome (see `seen_weights`).
    incumbent, target: (n, m) probabilities; rows sum to one.
    cost: (n, m) USD, or None. gain: the interval is that of the difference.
    half_width, level: of the interval. least_ess: effective sample size of the target's weights
    that shall be reached too.
    """

    predicted: np.ndarray
    scores: np.ndarray
    seen: np.ndarray
    incumbent: np.ndarray
    target: np.ndarray
    cost: np.ndarray | None
    half_width: float
    level: float = 0.95
    gain: bool = True
    least_ess: float = 0.0

    @property
    def extra_cost(self) -> float | None:
        return None if self.cost is None else self._of_draw(self.cost)

    @property
    def extra_loss(self) -> float | None:
        return -self._of_draw(self.scores)

    def requests(self, rate: float) -> float:
        width = requests_of(self.variance(rate), self.half_width, self.level)
        if self.least_ess == 0:
            return width
        return max(width, self.least_ess * self._mean_square_weight(rate))

    def variance(self, rate: float) -> float:
        """Of one decision's value; infinite where the rate leaves no chance to what it weighs."""
        contrast = self.target - self.incumbent if self.gain else self.target
        over_propensity = self._over_propensity(contrast, rate)
        if np.isinf(over_propensity).any():
            return math.inf
        error = np.where(self.seen > 0, self.scores - self.predicted, 0.0)
        base = (contrast * self.predicted).sum(axis=1)
        correction = (self.seen * contrast * error).sum(axis=1)
        noise = (self.seen * over_propensity * error**2).sum(axis=1)
        square = (base**2 + 2 * base * correction + noise).mean()
        return max(float(square - (base + correction).mean() ** 2), 0.0)

    def _mean_square_weight(self, rate: float) -> float:
        """E[w^2] = E[sum target^2 / p]: n decisions have an effective size of n / E[w^2]."""
        return float(self._over_propensity(self.target, rate).sum(axis=1).mean())

    def _over_propensity(self, probabilities: np.ndarray, rate: float) -> np.ndarray:
        """(n, m) probabilities^2 / p; infinite where p is 0 and the probability is not."""
        propensity = (1 - rate) * self.incumbent + rate / self.incumbent.shape[1]
        square = probabilities**2
        never = np.where(square > 0, np.inf, 0.0)
        return np.divide(square, propensity, out=never, where=propensity > 0)

    def _of_draw(self, values: np.ndarray) -> float:
        """Mean of a uniform draw less that of the incumbent's decision."""
        known = np.where(self.seen > 0, values, 0.0)
        change = 1 / self.incumbent.shape[1] - self.incumbent
        return float((self.seen * change * known).sum(axis=1).mean())


@dataclass(frozen=True)
class NewCandidate:
    """How much exploration gives the mean score of a model without outcomes an interval of the
    wished half-width. A request is its with probability rate, whatever the incumbent would do, so
    its answers are a plain sample: (z / half_width)^2 variance of them, at any rate.

    incumbent_cost, incumbent_quality: means of the incumbent's decisions.
    cost: USD per answer of the new model, or None. quality: a guess at its mean score, for scores
        of 0 and 1; None: unknown, so that the variance is at its greatest, 1/4, and the loss is not
        told.
    """

    incumbent_cost: float | None
    incumbent_quality: float
    cost: float | None
    quality: float | None
    half_width: float
    level: float = 0.95

    @property
    def extra_cost(self) -> float | None:
        if self.cost is None or self.incumbent_cost is None:
            return None
        return self.cost - self.incumbent_cost

    @property
    def extra_loss(self) -> float | None:
        return None if self.quality is None else self.incumbent_quality - self.quality

    def requests(self, rate: float) -> float:
        if rate == 0:
            return math.inf
        chance = 0.5 if self.quality is None else self.quality
        return requests_of(chance * (1 - chance), self.half_width, self.level) / rate


def requests_of(variance: float, half_width: float, level: float) -> float:
    """Independent values whose mean has a normal interval of this half-width."""
    return float((ndtri((1 + level) / 2) / half_width) ** 2 * variance)


def seen_weights(outcomes: OutcomeMatrix) -> np.ndarray:
    """(n, m) 1 / the probability with which each outcome came into the table; 0 where it did not.

    Of a full table it is 1; of a log of decisions 1 / propensity. Of other tables it is 1 / the
    share of queries that the candidate answered: missing answers are taken to be missing at random.

    Raises RouterError where a log of decisions has no propensities, or a candidate no outcome.
    """
    seen = outcomes.observed.astype(float)
    if outcomes.chosen_only:
        decisions = Decisions.of(outcomes)
        return np.asarray(seen / decisions.propensity[:, None])
    shares = seen.mean(axis=0)
    if not shares.all():
        name = outcomes.candidates[int(shares.argmin())]
        raise RouterError(f"No test query has an outcome of {name}; log some of its answers.")
    return np.asarray(seen / shares)
