"""Is the target better than the policy that made the log? Said only where the log can carry it."""

from __future__ import annotations

import numpy as np

from router.evaluation.bootstrap import Interval
from router.evaluation.metrics import ROUNDING, effective_decisions
from router.evaluation.verdict import LEAST_EFFECTIVE, MARGIN, Verdict
from router.off_policy.diagnostics import Overlap

MOST_UNCOVERED = 0.01
FURTHEST = 0.25  # of the mean weight from 1: 3.5 standard errors where 200 decisions are effective
LEAST_DIFFERENT = 50.0


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


def judge_against_log(
    quality: Interval,
    cost: Interval | None,
    utility: Interval | None,
    refused: str | None,
    margin: float = MARGIN,
) -> Verdict:
    """ "better", "worse", "cannot tell" or "refused", from paired differences, target less log.

    quality: mean score. cost: mean USD, as a share of the log's; None where it has none.
    utility: score less weighted USD; where it is given it decides alone.
    refused: why the log cannot judge, or None.
    margin: a loss of mean score up to this counts as equal quality.

    Better is what is surely better and not dearer, or surely cheaper at equal quality; worse is
    that of which the log is better by the same rule.
    """
    told = f"{quality.value:+z.4f} [{quality.low:+z.4f}, {quality.high:+z.4f}] quality"
    if cost is not None:
        told += f", {cost.value:+z.1%} [{cost.low:+z.1%}, {cost.high:+z.1%}] cost"
    if utility is not None:
        told += f", {utility.value:+z.4f} [{utility.low:+z.4f}, {utility.high:+z.4f}] utility"
    told += ", against the policy that made the log"
    if refused is not None:
        known = np.isfinite(quality.value)  # SNIPS of a target that never decides so is not
        return Verdict("refused", f"{refused}: {told}." if known else f"{refused}.")
    if utility is not None:
        decision = _sign(utility)
        why = {"better": "More utility", "worse": "Less utility", "cannot tell": "Neither is sure"}
        return Verdict(decision, f"{why[decision]}: {told}.")
    if _is_better(quality, cost, margin):
        return Verdict("better", f"{_how(quality, cost)}: {told}.")
    turned = _turned(quality), None if cost is None else _turned(cost)
    if _is_better(*turned, margin):
        return Verdict("worse", f"The log's own policy is better: {told}.")
    return Verdict("cannot tell", f"Neither policy is surely better: {told}.")


def _is_better(quality: Interval, cost: Interval | None, margin: float) -> bool:
    if cost is None:
        return quality.low > ROUNDING
    better_and_not_dearer = quality.low > ROUNDING and cost.high <= ROUNDING
    cheaper_and_equal = cost.high < -ROUNDING and quality.low >= -margin - ROUNDING
    return better_and_not_dearer or cheaper_and_equal


def _how(quality: Interval, cost: Interval | None) -> str:
    if cost is None or cost.high >= -ROUNDING:
        return "Surely better"
    return "Surely better and cheaper" if quality.low > ROUNDING else "Cheaper at equal quality"


def _sign(interval: Interval) -> str:
    if interval.low > ROUNDING:
        return "better"
    return "worse" if interval.high < -ROUNDING else "cannot tell"


def _turned(interval: Interval) -> Interval:
    low, high = np.negative([interval.high, interval.low])
    return Interval(-interval.value, float(low), float(high))
