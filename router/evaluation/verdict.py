"""Does the router pay? Said plainly, also when it does not."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from router.evaluation.bootstrap import Interval

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
    margin: loss of mean score that counts as equal quality.
    """
    gain = f"{quality.value:+.4f} [{quality.low:+.4f}, {quality.high:+.4f}] quality"
    against = f"against always asking {best_single}"
    if cost is None:
        figures = f"{gain} {against}"
        if quality.low > 0:
            return Verdict("pays", f"The router is better: {figures}.")
        if quality.high < 0:
            return Verdict("does not pay", f"The router is worse: {figures}.")
        return Verdict("cannot tell", f"The interval holds zero: {figures}.")
    figures = f"{gain}, {cost.value:+.1%} [{cost.low:+.1%}, {cost.high:+.1%}] cost, {against}"
    if quality.low > 0 and cost.high <= 0:
        return Verdict("pays", f"The router is better and not dearer: {figures}.")
    if quality.low > -margin and cost.high < 0:
        return Verdict(
            "pays", f"The router is cheaper at equal quality (margin {margin:g}): {figures}."
        )
    if quality.high < -margin:
        return Verdict("does not pay", f"The router is worse: {figures}.")
    if quality.high <= 0 and cost.low >= 0:
        return Verdict("does not pay", f"The router is neither better nor cheaper: {figures}.")
    return Verdict(
        "cannot tell", f"Neither a gain nor a saving at equal quality is certain: {figures}."
    )
