"""What another policy would have earned on logged decisions, by the estimators of the papers.

Every estimator gives a value to each decision; their mean is the estimate. So intervals, paired
differences and figures by task are means like any other (see evaluation.bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from router.errors import RouterError
from router.evaluation.overlap import importance_weights
from router.outcomes.decisions import Decisions

METHODS = ("DM", "IPS", "SNIPS", "DR", "Switch-DR", "DRos")
DECIDING = METHODS[1:]  # the interval of DM knows nothing of what its model gets wrong
QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99, 1.0)  # of the weights: where limits are looked for


@dataclass(frozen=True, eq=False)
class Reweighted:
    """n decisions as the target policy would have made them.

    target: (n, m) its probability of each candidate.
    weight: (n,) target's probability of the chosen candidate over its propensity.
    reward: (n,) what the decision earned.
    model: (n, m) what each candidate is predicted to earn, learned from other decisions.
    chosen: (n,) position of the chosen candidate.
    weights: (n, m) of every candidate that the log may choose, 0 of the others; None where the log
        does not tell.
    """

    target: np.ndarray
    weight: np.ndarray
    reward: np.ndarray
    model: np.ndarray
    chosen: np.ndarray
    weights: np.ndarray | None = None

    @classmethod
    def of(
        cls, decisions: Decisions, target: np.ndarray, reward: np.ndarray, model: np.ndarray
    ) -> Reweighted:
        """Raises RouterError where the shapes are not those of the decisions."""
        shape = (len(decisions), len(decisions.candidates))
        if target.shape != shape or model.shape != shape or reward.shape != shape[:1]:
            raise RouterError(
                f"Target and model must be {shape} and the reward {shape[:1]}, not "
                f"{target.shape}, {model.shape} and {reward.shape}."
            )
        weights, told = None, decisions.propensities
        if not np.isnan(told).any():
            weights = np.divide(target, told, out=np.zeros(shape), where=told > 0)
        weight = importance_weights(decisions, target)
        return cls(target, weight, reward, model, decisions.chosen, weights)

    @property
    def modelled(self) -> np.ndarray:
        """(n,) what the target is predicted to earn."""
        return np.asarray((self.target * self.model).sum(axis=1))

    @property
    def residual(self) -> np.ndarray:
        """(n,) what the decision earned beyond what was predicted of it."""
        return self.reward - self.model[np.arange(len(self.model)), self.chosen]


def direct_method(seen: Reweighted) -> np.ndarray:
    """DM: (n,) the model's word for it. Biased as the model is, and its interval knows nothing of
    that."""
    return seen.modelled


def inverse_propensity(seen: Reweighted) -> np.ndarray:
    """IPS: (n,) reward times weight (Horvitz and Thompson 1952). Unbiased where propensities are
    right and positive wherever the target's are."""
    return seen.weight * seen.reward


def self_normalised(seen: Reweighted) -> np.ndarray:
    """SNIPS: (n,) values whose mean is sum(w r) / sum(w) (Swaminathan and Joachims 2015); linear
    around it, so that they scatter as the ratio does. Propensities may be wrong by a factor."""
    total = seen.weight.sum()
    if total == 0:
        return np.full(len(seen.weight), np.nan)
    value = (seen.weight * seen.reward).sum() / total
    return np.asarray(value + seen.weight / seen.weight.mean() * (seen.reward - value))


def doubly_robust(seen: Reweighted) -> np.ndarray:
    """DR: (n,) the model, and its weighted error (Dudik et al., arXiv 1103.4601). Right on average
    where the propensities are, and nearly so where the model is."""
    return seen.modelled + seen.weight * seen.residual


def switch_doubly_robust(seen: Reweighted, limit: float) -> np.ndarray:
    """Switch-DR: (n,) likewise, with the model alone where the weight is above the limit (Wang et
    al., arXiv 1612.01205)."""
    return _with_share(seen, _up_to(limit))


def shrunken_doubly_robust(seen: Reweighted, strength: float) -> np.ndarray:
    """DRos: (n,) likewise, with weights w s / (w^2 + s), optimistic shrinkage (Su et al., arXiv
    1907.09623). strength: from 0, the model alone, to infinity, DR."""
    return _with_share(seen, _shrinking(strength))


def values(method: str, seen: Reweighted) -> np.ndarray:
    """(n,) value of each decision by the method of that name; limit and strength are chosen as
    `best_limit` and `best_strength` do.

    Raises RouterError where the name is none of METHODS.
    """
    if method not in METHODS:
        raise RouterError(f"method={method}: choose {', '.join(METHODS)}.")
    if method == "Switch-DR":
        return switch_doubly_robust(seen, best_limit(seen))
    if method == "DRos":
        return shrunken_doubly_robust(seen, best_strength(seen))
    plain = {
        "DM": direct_method,
        "IPS": inverse_propensity,
        "SNIPS": self_normalised,
        "DR": doubly_robust,
    }
    return plain[method](seen)


def best_limit(seen: Reweighted) -> float:
    """Of quantiles of the positive weights and infinity, the limit of least estimated squared
    error (see `_squared_error`)."""
    limits = [*_quantiles(seen.weight), np.inf]
    return min(limits, key=lambda limit: _squared_error(seen, _up_to(limit)))


def best_strength(seen: Reweighted) -> float:
    """Likewise of squares of such quantiles, at which a weight is halved."""
    strengths = [weight**2 for weight in _quantiles(seen.weight)] + [np.inf]
    return min(strengths, key=lambda strength: _squared_error(seen, _shrinking(strength)))


Share = Callable[[np.ndarray], np.ndarray]  # weights -> the share of each that is kept


def _up_to(limit: float) -> Share:
    return lambda weight: (weight <= limit).astype(float)


def _shrinking(strength: float) -> Share:
    if strength == 0:
        return np.zeros_like
    return lambda weight: 1 / (1 + weight**2 / strength)


def _with_share(seen: Reweighted, share: Share) -> np.ndarray:
    """(n,) the model, and its error by what is kept of the weight."""
    return seen.modelled + share(seen.weight) * seen.weight * seen.residual


def _quantiles(weight: np.ndarray) -> list[float]:
    positive = weight[weight > 0]
    return sorted(set(np.quantile(positive, QUANTILES).tolist())) if len(positive) else []


def _squared_error(seen: Reweighted, share: Share) -> float:
    """Estimated variance of the mean, and the square of the most that its bias can be: the range
    of the rewards times the share of the target's choices that is left to the model (the rule of
    Wang et al. for Switch, here for both).

    A bias that is estimated from the decisions that are left out is as noisy as they are; by it
    the rule would take the model for right and the interval would be far too narrow.
    """
    if seen.weights is None:
        left = (1 - share(seen.weight)) * seen.weight  # the same on average, by the weights
    else:
        left = (seen.target * (1 - share(seen.weights))).sum(axis=1)
    most = np.ptp(seen.reward) * left.mean()
    return float(_with_share(seen, share).var() / len(seen.reward) + most**2)
