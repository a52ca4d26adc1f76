"""Every branch of the verdict, its borders, and that its sentences are true."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.evaluation.bootstrap import Interval
from router.evaluation.verdict import judge

NAN = float("nan")


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high)


intervals = st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)).map(
    lambda p: interval(*sorted(p))
)


@pytest.mark.parametrize(
    ("quality", "cost", "decision", "why"),
    [
        ((0.01, 0.03), (-0.5, -0.3), "pays", "better and cheaper"),
        ((0.01, 0.03), (-0.5, 0.0), "pays", "better and not dearer"),
        ((0.01, 0.03), (0.0, 0.0), "pays", "better and not dearer"),
        ((0.01, 0.03), (-0.1, 0.1), "cannot tell", "better and may be dearer"),
        ((0.01, 0.03), (0.0, 0.1), "cannot tell", "better and may be dearer"),
        ((0.01, 0.03), (0.1, 0.2), "cannot tell", "better and dearer"),
        ((0.0, 0.03), (-0.5, -0.3), "pays", "cheaper at equal quality"),
        ((-0.005, 0.03), (-0.5, -0.3), "pays", "cheaper at equal quality"),
        ((-0.009, -0.001), (-0.5, -0.3), "pays", "cheaper at equal quality"),
        ((-0.01, 0.03), (-0.5, -0.3), "pays", "cheaper at equal quality"),  # the margin itself
        ((-0.011, 0.03), (-0.5, -0.3), "cannot tell", "saving is certain, equal quality is not"),
        ((-0.02, -0.01), (-0.5, -0.3), "cannot tell", "saving is certain, equal quality is not"),
        ((-0.02, -0.011), (-0.5, -0.3), "does not pay", "cheaper, but worse by more than"),
        ((-0.02, -0.011), (-0.5, 0.3), "does not pay", "worse by more than the margin"),
        ((-0.02, -0.011), (0.1, 0.3), "does not pay", "worse by more than the margin"),
        ((-0.005, 0.0), (0.0, 0.3), "does not pay", "neither better nor cheaper"),
        ((-0.005, -0.001), (0.1, 0.3), "does not pay", "neither better nor cheaper"),
        ((0.0, 0.0), (0.0, 0.0), "does not pay", "neither better nor cheaper"),
        ((-0.005, 0.0), (-0.1, 0.1), "cannot tell", "Neither a gain nor a saving is certain"),
        ((-0.005, 0.005), (-0.1, 0.1), "cannot tell", "Neither a gain nor a saving is certain"),
        ((-0.005, 0.005), (-0.1, 0.0), "cannot tell", "Neither a gain nor a saving is certain"),
        ((-0.005, 0.005), (0.1, 0.2), "cannot tell", "Neither a gain nor a saving is certain"),
        ((NAN, NAN), (-0.5, -0.3), "cannot tell", "saving is certain, equal quality is not"),
        ((NAN, NAN), (NAN, NAN), "cannot tell", "Neither a gain nor a saving is certain"),
        ((-0.005, 0.0), (math.inf, math.inf), "does not pay", "neither better nor cheaper"),
    ],
)
def test_with_costs(quality, cost, decision, why):
    verdict = judge(interval(*quality), interval(*cost), "large")
    assert verdict.decision == decision
    assert why in verdict.sentence
    assert verdict.sentence.endswith("against always asking large.")
    assert verdict.to_dict() == {"decision": decision, "sentence": verdict.sentence}


@pytest.mark.parametrize(
    ("quality", "decision", "why"),
    [
        ((0.01, 0.03), "pays", "The router is better"),
        ((0.0, 0.03), "cannot tell", "Neither a gain nor a loss is certain"),
        ((-0.03, 0.01), "cannot tell", "Neither a gain nor a loss is certain"),
        ((-0.03, 0.0), "does not pay", "The router is not better"),
        ((0.0, 0.0), "does not pay", "The router is not better"),
        ((-0.03, -0.001), "does not pay", "The router is worse"),
        ((NAN, NAN), "cannot tell", "Neither a gain nor a loss is certain"),
    ],
)
def test_without_costs(quality, decision, why):
    verdict = judge(interval(*quality), None, "large")
    assert verdict.decision == decision
    assert verdict.sentence.startswith(why + ":")
    assert "cost" not in verdict.sentence


def test_the_sentence_has_the_figures():
    quality, cost = Interval(0.0123, 0.001, 0.02), Interval(-0.25, -0.3, -0.2)
    assert judge(quality, cost, "a/b-1").sentence == (
        "The router is better and cheaper: +0.0123 [+0.0010, +0.0200] quality, "
        "-25.0% [-30.0%, -20.0%] cost, against always asking a/b-1."
    )
    assert judge(quality, None, "a/b-1").sentence == (
        "The router is better: +0.0123 [+0.0010, +0.0200] quality against always asking a/b-1."
    )


def test_rounding_decides_nothing():
    """A router that is the best single model, summed in another order."""
    noise = Interval(1e-17, -1e-16, 1e-16)
    verdict = judge(noise, noise, "large")
    assert verdict.decision == "does not pay"
    assert verdict == judge(interval(0, 0), interval(0, 0), "large")
    assert judge(noise, None, "large").decision == "does not pay"
    assert "-0.0" not in judge(Interval(-1e-9, -1e-9, 0), Interval(-1e-9, 0, 0), "x").sentence


def test_the_margin_is_the_callers():
    quality, cost = interval(-0.03, 0.01), interval(-0.5, -0.3)
    assert judge(quality, cost, "large").decision == "cannot tell"
    assert judge(quality, cost, "large", margin=0.05).decision == "pays"
    assert "(margin 0.05)" in judge(quality, cost, "large", margin=0.05).sentence
    assert judge(interval(0, 0), cost, "large", margin=0).decision == "pays"
    assert judge(interval(-0.02, -0.001), cost, "large", margin=0).decision == "does not pay"


@given(intervals, intervals, st.floats(0, 0.1))
def test_the_verdict_is_never_kinder_than_the_intervals(quality, cost, margin):
    verdict = judge(quality, cost, "large", margin)
    if verdict.decision == "pays":
        assert cost.high <= 1e-9
        assert quality.low > 0 or (cost.high < 0 and quality.low >= -margin - 1e-9)
    if verdict.decision == "does not pay":
        assert quality.high <= 1e-9
        assert quality.high < -margin or cost.low >= -1e-9
    if "better" in verdict.sentence and "neither better" not in verdict.sentence:
        assert quality.low > 0
    if "is cheaper" in verdict.sentence or "The saving" in verdict.sentence:
        assert cost.high < 0
    if "worse" in verdict.sentence:
        assert quality.high < -margin


@given(intervals, intervals, st.floats(0, 0.2))
def test_a_better_router_is_never_judged_worse(quality, cost, step):
    order = ["does not pay", "cannot tell", "pays"]
    before = judge(quality, cost, "large").decision
    raised = Interval(quality.value + step, quality.low + step, quality.high + step)
    assert order.index(judge(raised, cost, "large").decision) >= order.index(before)
    saved = Interval(cost.value - step, cost.low - step, cost.high - step)
    assert order.index(judge(quality, saved, "large").decision) >= order.index(before)
