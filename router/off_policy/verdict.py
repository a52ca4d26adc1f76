"""Is the target better than the policy that made the log? Said only where the log can carry it."""

from __future__ import annotations

import numpy as np

from router.evaluation.bootstrap import Interval
from router.evaluation.metrics import ROUNDING
from router.evaluation.verdict import MARGIN, Verdict


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
