"""Estimators of a policy's value, on logs whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import make_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import RouterError
from router.estimators import Marginal, Partition, Ridge
from router.evaluation.bootstrap import Bootstrap, Interval
from router.evaluation.metrics import effective_decisions
from router.evaluation.overlap import (
    Overlap,
    difference_refusal,
    importance_weights,
    refusal,
)
from router.off_policy.comparison import compare
from router.off_policy.diagnostics import (
    by_candidate,
    by_task,
    calibration,
    estimated_propensities,
    miscalibrated,
    recomputed,
)
from router.off_policy.replay import replay
from router.off_policy.reward_model import reward_model
from router.off_policy.values import (
    DECIDING,
    METHODS,
    Reweighted,
    best_limit,
    doubly_robust,
    shrunken_doubly_robust,
    switch_doubly_robust,
    values,
)
from router.off_policy.verdict import judge_against_log
from router.outcomes.decisions import Decisions
from router.outcomes.matrix import OutcomeMatrix

N, M = 400, 3
LOGGING = np.array([0.6, 0.3, 0.1])


def simulated(
    seed: int, model_is_right: bool, propensity_is_right: bool
) -> tuple[Reweighted, float]:
    """(one log, the target's true value): rewards are Bernoulli with a mean that depends on x, and
    so does the logging policy."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=N)
    mean = np.column_stack([0.8 - 0.3 * x, 0.2 + 0.6 * x, 0.4 + 0.2 * x])
    target = np.column_stack([1 - x, x, np.zeros(N)])
    logging = np.column_stack([0.2 + 0.5 * x, 0.7 - 0.5 * x, np.full(N, 0.1)])
    chosen = (rng.uniform(size=N)[:, None] > logging.cumsum(axis=1)).sum(axis=1)
    rows = np.arange(N)
    reward = (rng.uniform(size=N) < mean[rows, chosen]).astype(float)
    told = logging if propensity_is_right else np.tile([0.3, 0.6, 0.1], (N, 1))
    model = mean if model_is_right else np.full((N, M), 0.3)
    weights = target / told
    # The integral of (1 - x) (.8 - .3 x) + x (.2 + .6 x) over x from 0 to 1.
    truth = 0.8 - 1.1 / 2 + 0.3 / 3 + 0.2 / 2 + 0.6 / 3
    return Reweighted(target, weights[rows, chosen], reward, model, chosen, weights), truth


def estimates(method: str, model_is_right: bool, propensity_is_right: bool) -> tuple[float, float]:
    """(mean error over 400 logs, in standard errors; root mean squared error)."""
    errors = []
    for seed in range(400):
        seen, truth = simulated(seed, model_is_right, propensity_is_right)
        errors.append(values(method, seen).mean() - truth)
    errors = np.array(errors)
    bias = errors.mean() / (errors.std(ddof=1) / np.sqrt(len(errors)) + 1e-9)
    return float(bias), float(np.sqrt((errors**2).mean()))


@pytest.mark.parametrize(
    ("method", "model_is_right", "propensity_is_right", "unbiased"),
    [
        ("IPS", False, True, True),
        ("IPS", True, False, False),
        ("SNIPS", False, True, True),
        ("DM", True, False, True),
        ("DM", False, True, False),
        ("DR", True, True, True),
        ("DR", True, False, True),
        ("DR", False, True, True),
        ("DR", False, False, False),
    ],
)
def test_each_estimator_is_right_where_its_paper_says_so(
    method: str, model_is_right: bool, propensity_is_right: bool, unbiased: bool
) -> None:
    bias, _ = estimates(method, model_is_right, propensity_is_right)
    assert (abs(bias) < 4) == unbiased


def test_a_good_model_makes_doubly_robust_sharper_than_inverse_propensity() -> None:
    _, ips = estimates("IPS", True, True)
    for method in ("DR", "Switch-DR", "DRos"):
        assert estimates(method, True, True)[1] < 0.9 * ips


@pytest.mark.parametrize("method", ["SNIPS", "DR", "Switch-DR", "DRos"])
def test_intervals_cover_the_truth_about_as_often_as_they_say(method: str) -> None:
    held = []
    for seed in range(300):
        seen, truth = simulated(seed, model_is_right=False, propensity_is_right=True)
        found = Bootstrap(np.arange(N), 300, random_state=seed).mean(values(method, seen))
        held.append(found.low <= truth <= found.high)
    assert 0.90 <= np.mean(held) <= 0.985


@pytest.fixture(scope="module")
def fitted_logs() -> list[tuple[Decisions, Reweighted, float]]:
    """200 logs of sessions of two decisions that share what a model cannot see, with reward models
    that were fitted to them, and the target's true value; weights up to about 30."""
    logs = []
    for seed in range(200):
        rng, n = np.random.default_rng(seed), 1000
        session = np.repeat(np.arange(n // 2), 2)
        x = rng.normal(size=(n // 2, 3))[session]
        luck = 0.6 * rng.normal(size=(n // 2, 1))[session]
        mean = 1 / (1 + np.exp(-(x + luck + [0.8, 0.2, -0.2])))
        logging = np.exp(np.column_stack([np.zeros(n), x[:, 1], x[:, 0] - 0.5]))
        logging /= logging.sum(axis=1, keepdims=True)
        target = 0.9 * np.eye(3)[np.where(x[:, 0] > 0, 0, 1)] + 0.1 / 3
        chosen = (rng.uniform(size=n)[:, None] > logging.cumsum(axis=1)).sum(axis=1)
        queries = pd.DataFrame({"query_id": np.arange(n).astype(str), "group": session})
        outcomes = OutcomeMatrix(
            queries,
            ("a", "b", "c"),
            (rng.uniform(size=(n, 3)) < mean).astype(float),
            np.eye(3, dtype=bool)[np.minimum(chosen, 2)],
            propensity=logging,
        )
        decisions = Decisions.of(outcomes)
        model = reward_model(Ridge(), x, decisions, decisions.score, 3)
        seen = Reweighted.of(decisions, target, decisions.score, model)
        logs.append((decisions, seen, (target * mean).sum(axis=1).mean()))
    truth = float(np.mean([mean for _, _, mean in logs]))
    return [(decisions, seen, truth) for decisions, seen, _ in logs]


@pytest.mark.parametrize(
    ("method", "least"),
    [("IPS", 0.9), ("SNIPS", 0.88), ("DR", 0.9), ("Switch-DR", 0.9), ("DRos", 0.9)],
)
def test_intervals_hold_with_a_model_that_was_fitted_to_the_log(
    fitted_logs: list[tuple[Decisions, Reweighted, float]], method: str, least: float
) -> None:
    held = []
    for decisions, seen, truth in fitted_logs:
        found = Bootstrap(decisions.groups, 300).mean(values(method, seen))
        held.append(found.low <= truth <= found.high)
    assert least <= np.mean(held) <= 0.99


def test_the_direct_method_knows_nothing_of_what_its_model_gets_wrong(
    fitted_logs: list[tuple[Decisions, Reweighted, float]],
) -> None:
    held = []
    for decisions, seen, truth in fitted_logs:
        found = Bootstrap(decisions.groups, 300).mean(values("DM", seen))
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) < 0.6
    assert "DM" not in DECIDING


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_a_log_that_tells_the_chosen_ones_propensity_alone_still_bounds_the_bias(seed: int) -> None:
    seen, _ = simulated(seed, False, True)
    unknown = replace(seen, weights=None)
    for method in METHODS:
        assert np.isfinite(values(method, unknown)).all()
    for method in ("DM", "IPS", "SNIPS", "DR"):
        np.testing.assert_array_equal(values(method, unknown), values(method, seen))


@given(st.integers(0, 10**6), st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_self_normalised_values_do_not_know_the_scale_of_the_propensities(
    seed: int, scale: float
) -> None:
    seen, _ = simulated(seed, True, True)
    scaled = replace(seen, weight=scale * seen.weight)
    expected = (seen.weight * seen.reward).sum() / seen.weight.sum()
    assert values("SNIPS", seen).mean() == pytest.approx(expected)
    assert values("SNIPS", scaled).mean() == pytest.approx(expected)
    assert values("IPS", scaled).mean() == pytest.approx(scale * values("IPS", seen).mean())


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_limits_lead_from_the_model_to_doubly_robust(seed: int) -> None:
    seen, _ = simulated(seed, False, True)
    robust = doubly_robust(seen)
    np.testing.assert_allclose(switch_doubly_robust(seen, np.inf), robust)
    np.testing.assert_allclose(switch_doubly_robust(seen, seen.weight.max()), robust)
    np.testing.assert_allclose(switch_doubly_robust(seen, 0.0), seen.modelled)
    np.testing.assert_allclose(shrunken_doubly_robust(seen, np.inf), robust)
    np.testing.assert_allclose(shrunken_doubly_robust(seen, 1e12), robust, atol=1e-6)
    np.testing.assert_allclose(shrunken_doubly_robust(seen, 0.0), seen.modelled)


def test_a_few_huge_weights_are_cut_off_where_the_model_is_good() -> None:
    seen, _ = simulated(0, True, True)
    weight = seen.weight.copy()
    weight[:4] = 500.0
    assert best_limit(replace(seen, weight=weight)) < 500.0


def decisions_of(seed: int = 0, n: int = N) -> tuple[np.ndarray, OutcomeMatrix, Decisions]:
    vectors, outcomes = make_problem(n)
    return vectors, outcomes, Decisions.of(replay(outcomes, np.tile(LOGGING, (n, 1)), seed))


def test_the_logging_policy_is_worth_what_it_earned() -> None:
    vectors, _, decisions = decisions_of()
    target = np.tile(LOGGING, (N, 1))
    model = reward_model(Marginal(), vectors, decisions, decisions.score)
    seen = Reweighted.of(decisions, target, decisions.score, model)
    np.testing.assert_allclose(seen.weight, 1.0)
    for method in ("IPS", "SNIPS"):
        assert values(method, seen).mean() == pytest.approx(decisions.score.mean())
    found = compare(decisions, target, vectors, Marginal(), resamples=50)
    assert found.figures["quality"].difference["IPS"].value == pytest.approx(0, abs=1e-12)
    assert found.relative_cost is not None
    assert found.relative_cost["IPS"].value == pytest.approx(0, abs=1e-12)


def test_the_comparison_finds_score_dollars_and_utility_of_a_full_table() -> None:
    n = 6000
    vectors, outcomes, decisions = decisions_of(n=n)
    kind = (outcomes.tasks == "poetry").astype(int)
    target = np.eye(3)[kind]  # medium for poetry, large for algebra
    found = compare(decisions, target, vectors, Partition(4), cost_weight=10.0, resamples=200)
    assert outcomes.cost is not None
    truth = {
        "quality": (target * outcomes.scores).sum(axis=1).mean(),
        "cost": (target * outcomes.cost).sum(axis=1).mean(),
    }
    truth["utility"] = truth["quality"] - 10 * truth["cost"]
    assert set(found.figures) == set(truth)
    for name, value in truth.items():
        for method in METHODS:
            interval = found.figures[name].target[method]
            wide = interval.high - interval.low
            assert abs(interval.value - value) < (1.5 * wide if method != "DM" else 0.05 * value)
    assert found.relative_cost is not None
    spent = truth["cost"] / decisions.cost.mean() - 1
    assert found.relative_cost["DR"].low < spent < found.relative_cost["DR"].high
    assert len(found.per_decision["quality"]["DR"]) == n


def test_sessions_that_decide_alike_widen_the_interval() -> None:
    vectors, _, decisions = decisions_of()
    rows = np.repeat(np.arange(N), 4)
    repeated = decisions.take(rows)
    assert len(np.unique(repeated.groups)) == N
    target = np.tile([0.2, 0.2, 0.6], (4 * N, 1))
    kept = compare(repeated, target, vectors[rows], Marginal(), resamples=300)
    queries = repeated.outcomes.queries.assign(group=np.arange(4 * N))
    apart = replace(repeated, outcomes=replace(repeated.outcomes, queries=queries))
    naive = compare(apart, target, vectors[rows], Marginal(), resamples=300)
    widths = [
        found.figures["quality"].target["IPS"].high - found.figures["quality"].target["IPS"].low
        for found in (kept, naive)
    ]
    assert widths[0] > 1.7 * widths[1]


def test_a_candidate_that_was_never_chosen_is_predicted_by_the_mean_of_all() -> None:
    vectors, outcomes = make_problem(N)
    log = replay(outcomes, np.tile([0.7, 0.3, 0.0], (N, 1)))
    decisions = Decisions.of(log)
    model = reward_model(Marginal(), vectors, decisions, decisions.score)
    np.testing.assert_allclose(model[:, 2], decisions.score.mean())
    target = np.tile([0.5, 0.4, 0.1], (N, 1))
    overlap = Overlap.of(decisions, target)
    assert overlap.uncovered == pytest.approx(0.1)
    assert "10.0% of the target's choices are such as the log never made" in str(refusal(overlap))
    table = by_candidate(decisions, target).set_index("candidate")
    assert table.loc["small", "uncovered"] == 1.0
    assert table.loc["large", "uncovered"] == 0.0
    assert table["chosen"].sum() == N


# --- diagnostics ---


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30))
def test_effective_decisions_lie_between_none_and_all(weights: list[float]) -> None:
    weight = np.array(weights)
    effective = effective_decisions(weight)
    assert 0 <= effective <= len(weight) * (1 + 1e-9)
    assert effective_decisions(np.ones(7)) == pytest.approx(7)
    assert effective_decisions(np.array([5.0, 0, 0])) == pytest.approx(1)


def test_the_overlap_tells_weights_and_tasks() -> None:
    _, _, decisions = decisions_of()
    target = np.eye(3)[np.full(N, 2)]
    overlap = Overlap.of(decisions, target)
    chose_small = int((decisions.chosen == 2).sum())
    assert overlap.effective == pytest.approx(chose_small)
    assert overlap.largest_weight == pytest.approx(10.0)
    assert overlap.mean_weight == pytest.approx(10 * chose_small / N)
    assert overlap.uncovered == 0
    assert not overlap.deterministic
    tasks = by_task(decisions, target)
    assert tasks is not None
    assert tasks["decisions"].sum() == N
    assert tasks["effective"].sum() == pytest.approx(chose_small)


def test_propensities_that_do_not_hold_are_seen_and_those_that_do_are_not() -> None:
    for names in (("large", "medium", "small"), ("large", "small")):
        outcomes = make_problem(N)[1].select(names)
        told, held = np.full((N, len(names)), 1 / len(names)), []
        for seed in range(200):
            table = calibration(Decisions.of(replay(outcomes, told, seed)))
            assert table is not None
            held.append(miscalibrated(table))
        assert np.mean(np.array(held) < 0.01) < 0.03
    _, _, decisions = decisions_of()
    lied = replace(decisions, propensities=np.tile([0.45, 0.45, 0.1], (N, 1)))
    table = calibration(lied)
    assert table is not None
    assert miscalibrated(table) < 1e-4
    only_chosen = np.where(decisions.outcomes.observed, decisions.propensities, np.nan)
    assert calibration(replace(decisions, propensities=only_chosen)) is None


def test_where_the_log_was_certain_it_could_not_choose_another() -> None:
    _, outcomes = make_problem(N)
    logging = np.tile(LOGGING, (N, 1))
    logging[: N // 4] = [1.0, 0.0, 0.0]
    log = replay(outcomes, logging)
    alone = replace(log, propensity=np.where(log.observed, logging, np.nan))
    target = np.tile([0.0, 1.0, 0.0], (N, 1))
    for told in (log, alone):
        overlap = Overlap.of(Decisions.of(told), target)
        assert overlap.uncovered == pytest.approx(0.25)
        assert not overlap.deterministic


def test_what_the_logging_policy_computes_now_is_compared() -> None:
    _, _, decisions = decisions_of()
    same = np.tile(LOGGING, (N, 1))
    assert recomputed(decisions, same)["share_that_differs"] == 0
    other = same.copy()
    other[: N // 4] = [0.5, 0.4, 0.1]
    told = recomputed(decisions, other)
    changed = (decisions.chosen[: N // 4] != 2).sum() / N
    assert told["share_that_differs"] == pytest.approx(changed)
    assert told["largest_difference"] == pytest.approx(0.1)


def test_estimated_propensities_find_a_policy_that_chose_by_the_query() -> None:
    vectors, outcomes = make_problem(3000)
    poetry = (outcomes.tasks == "poetry")[:, None]
    truth = np.where(poetry, [0.1, 0.8, 0.1], [0.7, 0.1, 0.2])
    log = replace(replay(outcomes, truth), propensity=None)
    with pytest.raises(RouterError, match="no propensity of the chosen model"):
        Decisions.of(log)
    found = estimated_propensities(vectors, log)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert np.abs(found - truth).mean() < 0.05
    assert Decisions.of(log, found).estimated


def test_nothing_is_estimated_of_a_log_that_always_chose_one() -> None:
    vectors, outcomes = make_problem(N)
    log = replay(outcomes, np.tile([1.0, 0.0, 0.0], (N, 1)))
    with pytest.raises(RouterError, match="always chose 'large'"):
        estimated_propensities(vectors, log)
    target = np.tile([0.5, 0.5, 0.0], (N, 1))
    overlap = Overlap.of(Decisions.of(log), target)
    assert overlap.deterministic
    assert "left nothing to chance" in str(refusal(overlap))


# --- the verdict ---


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("quality", "cost", "decision"),
    [
        ((0.01, 0.03), None, "better"),
        ((-0.03, -0.01), None, "worse"),
        ((-0.01, 0.01), None, "cannot tell"),
        ((0.0, 0.0), None, "cannot tell"),
        ((0.01, 0.03), (-0.2, -0.1), "better"),
        ((0.01, 0.03), (0.0, 0.0), "better"),
        ((-0.005, 0.03), (-0.2, -0.1), "better"),
        ((-0.03, 0.0), (-0.2, -0.1), "cannot tell"),
        ((0.01, 0.03), (0.1, 0.2), "cannot tell"),
        ((-0.03, 0.005), (0.1, 0.2), "worse"),
        ((-0.03, -0.01), (0.0, 0.2), "worse"),
        ((0.0, 0.0), (0.0, 0.0), "cannot tell"),
    ],
)
def test_the_verdict_is_the_same_rule_both_ways(
    quality: tuple[float, float], cost: tuple[float, float] | None, decision: str
) -> None:
    told = judge_against_log(
        interval(*quality), None if cost is None else interval(*cost), None, None
    )
    assert told.decision == decision


def test_utility_decides_alone_and_a_refusal_before_all() -> None:
    better, worse = interval(0.01, 0.03), interval(-0.03, -0.01)
    assert judge_against_log(worse, None, better, None).decision == "better"
    assert judge_against_log(better, None, worse, None).decision == "worse"
    assert judge_against_log(better, None, interval(-1, 1), None).decision == "cannot tell"
    refused = judge_against_log(better, None, better, "Too little")
    assert refused.decision == "refused"
    assert refused.sentence.startswith("Too little: +0.0200 [+0.0100, +0.0300] quality")
    unknown = interval(float("nan"), float("nan"))
    assert judge_against_log(unknown, None, None, "Too little").sentence == "Too little."


def test_few_effective_decisions_are_refused() -> None:
    overlap = Overlap.of(decisions_of()[2], np.eye(3)[np.full(N, 2)])
    assert "are worth" in str(refusal(overlap))
    assert refusal(overlap, least_effective=10) is None


def test_shapes_that_do_not_fit_are_said() -> None:
    _, _, decisions = decisions_of()
    with pytest.raises(RouterError, match="must be"):
        Reweighted.of(decisions, np.ones((N, 2)), decisions.score, np.ones((N, 3)))
    with pytest.raises(RouterError, match="method=XY: choose DM"):
        values("XY", simulated(0, True, True)[0])


def test_a_mean_weight_far_from_one_is_refused() -> None:
    """A short log may never draw what the target asks: then its weights are alike, and far off."""
    _, _, decisions = decisions_of()
    target = np.tile([0.4, 0.2, 0.4], (N, 1))
    lucky = decisions.take(np.flatnonzero(decisions.chosen != 2))
    assert Overlap.of(lucky, target[: len(lucky)]).effective > 200
    assert "The mean weight is 0.6" in str(refusal(Overlap.of(lucky, target[: len(lucky)])))
    assert refusal(Overlap.of(decisions, target), least_effective=100) is None


def test_policies_that_differ_on_few_decisions_are_not_told_apart() -> None:
    _, outcomes = make_problem(N)
    log = Decisions.of(replay(outcomes, np.tile([0.97, 0.02, 0.01], (N, 1))))
    plans = [np.tile(plan, (N, 1)) for plan in ([1.0, 0.0, 0.0], [0.93, 0.0, 0.07])]
    weights = [importance_weights(log, plan) for plan in plans]
    assert min(effective_decisions(weight) for weight in weights) > 200
    assert "where the two policies differ" in str(difference_refusal(*weights))
    assert difference_refusal(weights[0], weights[0]) is None
    often = [importance_weights(decisions_of()[2], plan) for plan in plans]
    assert difference_refusal(*often) is None
