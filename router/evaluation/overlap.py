"""How far a log of decisions can carry what it is asked of another policy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from router.evaluation.metrics import ROUNDING, effective_decisions
from router.outcomes.decisions import Decisions

TOP = 0.01  # share of the decisions that the heaviest are
CERTAIN = 1 - 1e-9  # a choice of this probability leaves none to the others
LEAST_EFFECTIVE = 200.0  # effective decisions, below which an interval is not to be trusted
LEAST_DIFFERENT = 50.0  # likewise where two policies differ
MOST_UNCOVERED = 0.01
FURTHEST = 0.25  # of the mean weight from 1: 3.5 standard errors where 200 decisions are effective


@dataclass(frozen=True)
class Overlap:
    """The log as evidence on one target policy.

    decisions: n. effective: (sum w)^2 / sum w^2 of the weights, the number of decisions of its own
        that would tell as much (Kish 1965). mean_weight: near 1 where propensities are right and
        cover the target. largest_weight, share_of_heaviest: the greatest weight, and the share of
        all weight on the heaviest 1 % of the decisions.
    uncovered: share of the target's choices that the log never makes: propensity 0, or not told
        and the candidate never chosen.
    deterministic: every choice was made with probability 1.
    """

    decisions: int
    effective: float
    mean_weight: float
    largest_weight: float
    share_of_heaviest: float
    uncovered: float
    deterministic: bool

    @classmethod
    def of(cls, decisions: Decisions, target: np.ndarray) -> Overlap:
        """target: (n, m) probability of each candidate."""
        weight = importance_weights(decisions, target)
        heaviest = np.sort(weight)[::-1][: max(1, round(TOP * len(weight)))]
        total = float(weight.sum())
        return cls(
            decisions=len(weight),
            effective=effective_decisions(weight),
            mean_weight=float(weight.mean()),
            largest_weight=float(weight.max()),
            share_of_heaviest=float(heaviest.sum()) / total if total > 0 else float("nan"),
            uncovered=float((target * ~covered(decisions)).sum(axis=1).mean()),
            deterministic=bool((decisions.propensity >= CERTAIN).all()),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def covered(decisions: Decisions) -> np.ndarray:
    """(n, m) whether the log may choose the candidate there; where it does not tell, whether it
    ever chose it and was not certain of another."""
    observed = decisions.outcomes.observed
    open_to_others = (decisions.propensity < CERTAIN)[:, None] | observed
    told = ~np.isnan(decisions.propensities)
    may = np.where(told, decisions.propensities > 0, observed.any(axis=0))
    return np.asarray(may & open_to_others)


def importance_weights(decisions: Decisions, target: np.ndarray) -> np.ndarray:
    """(n,) target's probability of the chosen candidate over its propensity."""
    return np.asarray(target[np.arange(len(decisions)), decisions.chosen] / decisions.propensity)


def difference_refusal(weight: np.ndarray, other: np.ndarray) -> str | None:
    """Why the log cannot compare two policies that share most of their choices, in one sentence;
    None where it can. Whatever the weights of each, the difference rests on the few decisions at
    which theirs differ.

    weight, other: (n,) of the two.
    """
    told = effective_decisions(np.abs(weight - other))
    if not 0 < told < LEAST_DIFFERENT:
        return None
    return (
        f"{len(weight):,} decisions are worth {told:.0f} where the two policies differ, and at "
        f"least {LEAST_DIFFERENT:.0f} are asked for; log more, or explore more"
    )


def refusal(
    overlap: Overlap,
    least_effective: float = LEAST_EFFECTIVE,
    most_uncovered: float = MOST_UNCOVERED,
) -> str | None:
    """Why the log cannot judge the target, in one sentence; None where it can."""
    if overlap.deterministic and (overlap.uncovered > 0 or overlap.mean_weight < 1 - ROUNDING):
        return (
            "The log left nothing to chance (every propensity is 1), so it cannot tell what "
            "another choice would have earned; explore, and log that"
        )
    if overlap.uncovered > most_uncovered:
        return (
            f"{overlap.uncovered:.1%} of the target's choices are such as the log never made "
            f"(at most {most_uncovered:.1%} are allowed); explore them, or route without"
        )
    if overlap.effective < least_effective:
        return (
            f"{overlap.decisions:,} decisions are worth {overlap.effective:.0f} of the target's "
            f"own, and at least {least_effective:.0f} are asked for; log more, or explore more"
        )
    if abs(overlap.mean_weight - 1) > FURTHEST:
        return (
            f"The mean weight is {overlap.mean_weight:.2f}, far from 1: the log happens to lack "
            "choices that the target makes, or its propensities are wrong; log more, or mend them"
        )
    return None
