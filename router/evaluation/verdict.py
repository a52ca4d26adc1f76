"""Does the router pay? Said plainly, also when it does not."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from router.evaluation.bootstrap import Interval
from router.evaluation.metrics import ROUNDING

MARGIN = 0.01


@dataclass(frozen=True)
class Verdict:
    """decision: "pays", "does not pay" or "cannot tell"; sentence: why, with the figures."""

    decision: str
    sentence: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def judge(
    quality: Interval, cost: Interval | None, best_single: str, margin: float = MARGIN
) -> Verdict:
    """The router against the best single model, on the paired differences of the test side.

    quality: mean score, router less best single. cost: mean USD, likewise, as a share of the best
    single model's; None where the log has no costs.
    margin: a loss of mean score up to this counts as equal quality.

    It pays where it is surely better and surely not dearer, or surely cheaper at equal quality.
    Intervals that are NaN decide nothing.
    """
    gain = f"{quality.value:+z.4f} [{quality.low:+z.4f}, {quality.high:+z.4f}] quality"
    against = f"against always asking {best_single}"
    if cost is None:
        decision, why = _without_costs(quality)
        return Verdict(decision, f"{why}: {gain} {against}.")
    decision, why = _with_costs(quality, cost, margin)
    more = f"{cost.value:+z.1%} [{cost.low:+z.1%}, {cost.high:+z.1%}] cost"
    return Verdict(decision, f"{why}: {gain}, {more}, {against}.")


def _without_costs(quality: Interval) -> tuple[str, str]:
    if quality.low > ROUNDING:
        return "pays", "The router is better"
    if quality.high < -ROUNDING:
        return "does not pay", "The router is worse"
    if quality.high <= ROUNDING:
        return "does not pay", "The router is not better"
    return "cannot tell", "Neither a gain nor a loss is certain"


def _with_costs(quality: Interval, cost: Interval, margin: float) -> tuple[str, str]:
    better, cheaper = quality.low > ROUNDING, cost.high < -ROUNDING
    if better and cost.high <= ROUNDING:
        return "pays", f"The router is better and {'cheaper' if cheaper else 'not dearer'}"
    if cheaper and quality.low >= -margin - ROUNDING:
        return "pays", f"The router is cheaper at equal quality (margin {margin:g})"
    if quality.high < -margin - ROUNDING:
        also = "cheaper, but worse" if cheaper else "worse"
        return "does not pay", f"The router is {also} by more than the margin of {margin:g}"
    if quality.high <= ROUNDING and cost.low >= -ROUNDING:
        return "does not pay", "The router is neither better nor cheaper"
    if better:
        dearer = "is better and dearer" if cost.low > ROUNDING else "is better and may be dearer"
        return "cannot tell", f"The router {dearer}; what the gain is worth is yours to say"
    if cheaper:
        return "cannot tell", "The saving is certain, equal quality is not"
    return "cannot tell", "Neither a gain nor a saving is certain"
