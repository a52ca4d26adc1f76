"""The guard: what it lets the policy see, what it admits on validation, when it keeps the rest."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Finished, Workplace
from hypothesis import given, settings
from hypothesis import strategies as st

import router
from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix
from router.policies import (
    Allocation,
    Budget,
    Certified,
    CheapestAdequate,
    EpsilonGreedy,
    Guarded,
    HardCap,
    PerQueryBudget,
    Policy,
    Subset,
    Threshold,
    Utility,
    policy_from_dict,
)
from router.policies.base import TIE
from router.prediction import Prediction

NAMES = ("large", "medium", "small")
DOLLARS = np.array([0.01, 0.001, 0.0001])
many = settings(max_examples=60, deadline=None)


def outcomes_of(
    scores: np.ndarray, cost: np.ndarray | None, groups: np.ndarray | None = None
) -> OutcomeMatrix:
    n, m = scores.shape
    group = np.arange(n) if groups is None else groups
    queries = pd.DataFrame({"query_id": np.arange(n), "prompt": "p", "group": group})
    return OutcomeMatrix(queries, NAMES[:m], scores, np.ones((n, m), dtype=bool), cost)


def market(
    n: int, seed: int, gain: float = 0.3, error: float = 0.05
) -> tuple[Prediction, OutcomeMatrix]:
    """Large is good at everything, medium better by `gain` at half of the queries and worse by as
    much at the others, small bad; predictions of these chances err by `error`."""
    rng = np.random.default_rng(seed)
    turn = np.where(rng.random(n) < 0.5, gain, -gain)
    chance = np.column_stack([np.full(n, 0.65), 0.6 + turn, np.full(n, 0.2)])
    scores = (rng.random((n, 3)) < chance).astype(float)
    cost = DOLLARS * rng.lognormal(sigma=0.2, size=(n, 3))
    quality = chance + error * rng.normal(size=(n, 3))
    prediction = Prediction(NAMES, quality, np.full((n, 3), error), np.tile(DOLLARS, (n, 1)))
    return prediction, outcomes_of(scores, cost)


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, m = draw(st.integers(1, 30)), draw(st.integers(2, 3))
    quality, error = rng.random((n, m)), 0.2 * rng.random((n, m))
    if draw(st.booleans()):
        quality, error = np.round(quality, 1), np.round(error, 1)
    return Prediction(NAMES[:m], quality, error, DOLLARS[:m] * rng.lognormal(size=(n, m)))


def guard(width: float, setting: Policy, against: str = "large") -> Guarded:
    """A guard as tuning leaves it."""
    return Guarded(setting, width=width, against=against, setting=setting)


def gain_of(policy: Policy, prediction: Prediction, outcomes: OutcomeMatrix) -> float:
    found = policy.expected(prediction, outcomes.scores, outcomes.cost)
    return float((found.score - outcomes.scores[:, 0]).mean())


def cost_of(policy: Policy, prediction: Prediction, outcomes: OutcomeMatrix) -> float:
    found = policy.expected(prediction, outcomes.scores, outcomes.cost)
    assert found.cost is not None
    return float(found.cost.mean())


# Query by query


@many
@given(predictions(), st.sampled_from([0.0, 1.0, 100.0, math.inf]))
def test_without_a_width_the_policy_decides_alone(prediction: Prediction, weight: float) -> None:
    for setting in (Utility(weight), CheapestAdequate(0.6), Subset(cost_weight=1.0)):
        policy = guard(0.0, setting)
        np.testing.assert_array_equal(
            policy.probabilities(prediction), setting.probabilities(prediction)
        )
        chosen = np.zeros(len(prediction), dtype=int)
        np.testing.assert_array_equal(
            policy.votes(prediction, chosen), setting.votes(prediction, chosen)
        )


@many
@given(predictions(), st.sampled_from(NAMES[:2]))
def test_at_an_infinite_width_the_incumbent_answers_alone(
    prediction: Prediction, against: str
) -> None:
    policy = guard(math.inf, Utility(50.0), against)
    column = NAMES.index(against)
    assert (policy.probabilities(prediction)[:, column] == 1).all()
    found = policy.expected(prediction, prediction.quality, prediction.cost)
    np.testing.assert_array_equal(found.score, prediction.quality[:, column])
    np.testing.assert_array_equal(found.cost, prediction.cost[:, column])


@many
@given(predictions(), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.0, 3.0, 100.0]))
def test_the_incumbent_is_left_exactly_where_the_bound_of_a_gain_is_positive(
    prediction: Prediction, width: float, weight: float
) -> None:
    chosen = guard(width, Utility(weight), "medium").probabilities(prediction).argmax(axis=1)
    assert prediction.cost is not None
    for i, j in enumerate(chosen):
        quality, error, cost = (
            part[i] for part in (prediction.quality, prediction.quality_se, prediction.cost)
        )
        bounds = {
            other: quality[other]
            - quality[1]
            - weight * (cost[other] - cost[1])
            - width * math.sqrt(error[other] ** 2 + error[1] ** 2)
            for other in range(len(quality))
            if other != 1
        }
        rounding = 2 * TIE * (1 + weight * cost.min())
        if j == 1:
            assert max(bounds.values()) <= rounding
        else:
            assert bounds[j] >= -rounding
            assert bounds[j] >= max(bounds.values()) - rounding


@many
@given(predictions())
def test_what_a_decision_yields_is_of_the_guarded_decision(prediction: Prediction) -> None:
    policy = guard(1.0, Utility(3.0))
    found = policy.expected(prediction, prediction.quality, prediction.cost)
    mixture = policy.probabilities(prediction)
    np.testing.assert_allclose(found.score, (mixture * prediction.quality).sum(axis=1))
    np.testing.assert_allclose(found.cost, (mixture * prediction.cost).sum(axis=1))


@many
@given(predictions(), st.lists(st.floats(0, 5), min_size=2, max_size=5))
def test_a_larger_width_keeps_the_incumbent_more_often(
    prediction: Prediction, widths: list[float]
) -> None:
    kept = [
        guard(width, Utility()).probabilities(prediction)[:, 0]
        for width in [*sorted(widths), math.inf]
    ]
    assert (np.diff(kept, axis=0) >= 0).all()


# On the whole


def test_of_a_strong_signal_it_makes_use() -> None:
    tuned = Guarded().tune(*market(800, 0))
    elsewhere = market(4000, 1)
    assert tuned.against == "large"
    assert gain_of(tuned, *elsewhere) > 0.07  # all there is to gain is 0.5 x 0.25
    assert cost_of(tuned, *elsewhere) < 0.6 * 0.0102


@pytest.mark.parametrize("seed", range(5))
def test_from_predictions_that_tell_nothing_it_keeps_the_incumbent(seed: int) -> None:
    prediction, outcomes = market(800, seed)
    rng = np.random.default_rng(seed)
    shuffled = prediction.take(rng.permutation(800))
    tuned = Guarded().tune(shuffled, outcomes)
    gain = gain_of(tuned, shuffled, outcomes)
    assert (tuned.width, tuned.against) == (math.inf, "large")
    assert gain == 0
    assert cost_of(tuned, shuffled, outcomes) == outcomes.cost[:, 0].mean()


def test_what_is_admitted_seldom_loses_where_nothing_can_be_gained() -> None:
    """Predictions are noise and the other is worse by a little: without a guard, that is lost."""
    lost, unguarded = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        chance = np.array([0.7, 0.68])
        scores = (rng.random((400, 2)) < chance).astype(float)
        scores[0] = [1, 0]
        noise = chance + 0.1 * rng.normal(size=(400, 2))
        prediction = Prediction(NAMES[:2], noise, np.full((400, 2), 0.1), np.full((400, 2), 0.01))
        outcomes = outcomes_of(scores, np.full((400, 2), 0.01))
        tuned = Guarded(incumbent="large").tune(prediction, outcomes)
        away = 1 - tuned.probabilities(prediction)[:, 0].mean()
        lost.append(0.02 * away)
        unguarded.append(0.02 * (1 - Utility().probabilities(prediction)[:, 0].mean()))
    assert np.mean(unguarded) > 0.008
    assert np.mean(lost) < 0.001
    assert np.mean(np.array(lost) > 0) < 0.2  # several widths are tried, at 5 % each


def test_validation_finds_the_width_that_tells_what_is_known_from_what_is_not() -> None:
    """Of half of the queries the predictions know which model is better, and say so; of the others
    they say too much, with large standard errors, and the incumbent is much better."""
    n = 1000
    rng = np.random.default_rng(0)
    known = np.arange(n) < n // 2
    turn = np.where(rng.random(n) < 0.5, 0.2, -0.2)
    chance = np.column_stack([np.full(n, 0.6), np.where(known, 0.6 + turn, 0.3)])
    quality = np.column_stack([np.full(n, 0.6), np.where(known, 0.6 + turn, 0.65)])
    error = np.tile(np.where(known, 0.02, 0.2)[:, None], (1, 2))
    scores = (rng.random((n, 2)) < chance).astype(float)
    tuned = Guarded().tune(Prediction(NAMES[:2], quality, error), outcomes_of(scores, None))
    assert tuned.width in (0.5, 1.0, 2.0)
    left = tuned.probabilities(Prediction(NAMES[:2], quality, error))[:, 1] == 1
    np.testing.assert_array_equal(left, known & (turn > 0))


def test_more_confidence_admits_less() -> None:
    prediction, outcomes = market(300, 16, gain=0.12)
    widths = [
        Guarded(confidence=level).tune(prediction, outcomes).width for level in (0.5, 0.999999)
    ]
    assert widths[0] != math.inf
    assert widths[1] == math.inf


def test_the_admitted_setting_keeps_its_bound_and_the_incumbent_its_cost() -> None:
    prediction, outcomes = market(500, 3, gain=0.15)
    tuned = Guarded(confidence=0.9).tune(prediction, outcomes)
    found = tuned.expected(prediction, outcomes.scores, outcomes.cost)
    gain = found.score - outcomes.scores[:, 0]
    assert tuned.width != math.inf
    assert gain.mean() > 1.2815 * gain.std(ddof=1) / math.sqrt(500)
    assert tuned.budget == found.cost.mean() <= outcomes.cost[:, 0].mean()


def test_without_a_budget_a_little_quality_that_may_be_chance_is_left_for_a_lower_cost() -> None:
    prediction, outcomes = market(800, 4)
    limit = float(outcomes.cost[:, 0].mean())
    cheapest, best = (Guarded(budget=budget).tune(prediction, outcomes) for budget in (None, limit))
    assert cost_of(cheapest, prediction, outcomes) < cost_of(best, prediction, outcomes)
    assert gain_of(cheapest, prediction, outcomes) < gain_of(best, prediction, outcomes)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 1.0, 3.0])
def test_a_budget_is_kept_and_more_of_it_never_hurts(share: float) -> None:
    prediction, outcomes = market(600, 5)
    budget = share * float(outcomes.cost[:, 0].mean())
    tuned = Guarded(budget=budget).tune(prediction, outcomes)
    assert cost_of(tuned, prediction, outcomes) <= budget * (1 + 1e-9)
    # The incumbent is the best single model that the budget pays, and it is not lost against.
    affordable = outcomes.cost.mean(axis=0) <= budget * (1 + 1e-9)
    best = np.where(affordable, outcomes.scores.mean(axis=0), -1)
    assert tuned.against == NAMES[best.argmax()]
    less = Guarded(budget=budget / 2).tune(prediction, outcomes)
    values = [gain_of(policy, prediction, outcomes) for policy in (tuned, less)]
    assert values[0] + outcomes.scores[:, 0].mean() >= best.max()
    assert values[0] >= values[1] - 0.02  # another incumbent, another bound


def test_a_log_without_costs_is_guarded_on_quality_alone() -> None:
    prediction, outcomes = market(600, 6)
    bare = Prediction(NAMES, prediction.quality, prediction.quality_se)
    tuned = Guarded().tune(bare, outcomes_of(outcomes.scores, None))
    assert gain_of(tuned, bare, outcomes_of(outcomes.scores, None)) > 0.07
    assert tuned.budget is None


def test_a_log_of_chosen_answers_alone_is_guarded_by_its_doubly_robust_scores() -> None:
    prediction, full = market(4000, 15)
    rng = np.random.default_rng(15)
    seen = np.eye(3, dtype=bool)[rng.choice(3, size=4000, p=[0.6, 0.3, 0.1])]
    propensity = np.tile([0.6, 0.3, 0.1], (4000, 1))
    chosen_only = OutcomeMatrix(
        full.queries, NAMES, full.scores, seen, full.cost, propensity=propensity
    )
    tuned = Guarded().tune(prediction, chosen_only)
    assert tuned.against == "large"
    assert gain_of(tuned, prediction, full) > 0.07
    assert cost_of(tuned, prediction, full) < full.cost[:, 0].mean()
    noise = prediction.take(rng.permutation(4000))
    assert gain_of(Guarded().tune(noise, chosen_only), noise, full) == 0


def test_queries_of_a_group_prove_less_than_queries_alone() -> None:
    prediction, outcomes = market(20, 7)
    rows = np.repeat(np.arange(20), 12)
    repeated = prediction.take(rows)
    scores, cost = outcomes.scores[rows], outcomes.cost[rows]
    alone = Guarded().tune(repeated, outcomes_of(scores, cost))
    grouped = Guarded().tune(repeated, outcomes_of(scores, cost, rows))
    assert alone.width != math.inf
    assert grouped.width == math.inf


@pytest.mark.parametrize(("lucky", "admitted"), [(1, False), (3, False), (6, True)])
def test_a_few_lucky_queries_prove_nothing(lucky: int, admitted: bool) -> None:
    """Three of fifty would be 0.06 +- 0.034, were it not for one won and one lost in thought."""
    scores, quality = np.tile([1.0, 0.0], (50, 1)), np.tile([0.9, 0.1], (50, 1))
    scores[:lucky], quality[:lucky] = [0, 1], [0.1, 0.9]
    prediction = Prediction(NAMES[:2], quality, np.full((50, 2), 0.01))
    tuned = Guarded().tune(prediction, outcomes_of(scores, None))
    assert (tuned.width != math.inf) == admitted


def test_one_group_is_no_evidence() -> None:
    prediction, outcomes = market(300, 8)
    same = outcomes_of(outcomes.scores, outcomes.cost, np.zeros(300, dtype=int))
    assert Guarded().tune(prediction, same).width == math.inf


def test_what_the_user_names_is_kept() -> None:
    prediction, outcomes = market(600, 9)
    tuned = Guarded(incumbent="medium", width=0.5, budget=0.006).tune(prediction, outcomes)
    assert (tuned.against, tuned.width) == ("medium", 0.5)
    assert Guarded(width=math.inf).tune(prediction, outcomes).width == math.inf


def test_a_policy_that_reads_outcomes_is_tuned_inside() -> None:
    prediction, outcomes = market(600, 10)
    tuned = Guarded(Threshold()).tune(prediction, outcomes)
    assert isinstance(tuned.setting, Threshold)
    assert gain_of(tuned, prediction, outcomes) >= 0


@pytest.mark.parametrize("gain", [0.3, 0.0])
def test_the_frontier_runs_to_the_cheapest_also_where_nothing_was_admitted(gain: float) -> None:
    prediction, outcomes = market(500, 11, gain)
    tuned = Guarded().tune(prediction, outcomes)
    assert math.isinf(tuned.width) == (gain == 0.0)
    costs = [cost_of(setting, prediction, outcomes) for setting in tuned.path(prediction)]
    assert costs[0] > 2 * costs[-1]
    assert costs[-1] == pytest.approx(outcomes.cost[:, 2].mean())


# Words


def test_the_reason_tells_when_the_guard_kept_the_incumbent() -> None:
    query = Prediction(
        NAMES[:2], np.array([[0.8, 0.85]]), np.array([[0.03, 0.04]]), np.array([[0.01, 0.001]])
    )
    assert guard(2.0, Utility()).reason(query, 0) == (
        "keeps the incumbent large: medium would answer, but not with its predicted quality "
        "lowered by 2 x the standard error of its gain (0.1)"
    )
    assert guard(0.5, Utility()).probabilities(query)[0, 1] == 1
    assert guard(0.5, Utility()).reason(query, 1) == (
        "best predicted quality (0.825); every other than the incumbent large is lowered by 0.5 x "
        "the standard error of its gain"
    )
    assert guard(0.0, Utility()).reason(query, 1) == Utility().reason(query, 1)
    assert guard(math.inf, Utility()).reason(query, 0) == (
        "keeps the incumbent large, as on every query"
    )


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"budget": 0.0}, "policy.budget is 0.0; give USD"),
        ({"budget": math.nan}, "policy.budget is nan; give USD"),
        ({"width": -1.0}, "policy.width is -1.0; give standard errors"),
        ({"width": math.nan}, "policy.width is nan; give standard errors"),
        ({"confidence": 0.4}, "policy.confidence is 0.4; give a probability"),
        ({"confidence": 1.0}, "policy.confidence is 1.0; give a probability"),
        ({"policy": Budget(0.1)}, "policy.policy is Budget, whose budget the guard would not"),
        ({"policy": HardCap()}, "policy.policy is HardCap, whose cap"),
        ({"policy": Allocation()}, "policy.policy is Allocation"),
        ({"policy": Certified()}, "policy.policy is Certified"),
        ({"policy": PerQueryBudget()}, "policy.policy is PerQueryBudget"),
        ({"policy": EpsilonGreedy()}, "policy.policy is EpsilonGreedy"),
        ({"policy": Guarded()}, "policy.policy is Guarded"),
    ],
)
def test_nonsense_is_refused_by_name(parameters: dict[str, Any], expected: str) -> None:
    with pytest.raises(RouterError, match=expected):
        Guarded(**parameters)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (
            {"incumbent": "huge"},
            "policy.incumbent is 'huge', which is none of the candidates large",
        ),
        ({"budget": 1e-6}, r"policy.budget=\$1e-06 per query is below \$0.0001"),
        ({"budget": 0.005, "incumbent": "large"}, r"policy.budget=\$0.005 per query cannot pay"),
    ],
)
def test_what_cannot_be_guarded_is_told(parameters: dict[str, Any], expected: str) -> None:
    with pytest.raises(RouterError, match=expected):
        Guarded(**parameters).tune(*market(100, 12))


def test_a_budget_needs_costs() -> None:
    prediction, outcomes = market(100, 13)
    with pytest.raises(RouterError, match="cannot be kept: the log has no costs"):
        Guarded(budget=1.0).tune(prediction, outcomes_of(outcomes.scores, None))


def test_an_untuned_guard_and_a_foreign_one_say_so() -> None:
    prediction, _ = market(5, 14)
    with pytest.raises(RouterError, match="was not tuned yet"):
        Guarded().probabilities(prediction)
    with pytest.raises(RouterError, match="the incumbent 'huge' is none of the candidates"):
        guard(1.0, Utility(), "huge").probabilities(prediction)


@pytest.mark.parametrize(
    "policy",
    [
        guard(math.inf, Utility(math.inf), "inf"),
        guard(0.5, Threshold("a", "b", cut=-math.inf), "a"),
        Guarded(CheapestAdequate(0.5), incumbent="a", budget=0.1, confidence=0.9),
    ],
    ids=["infinite", "threshold", "untuned"],
)
def test_a_guard_travels_through_json(policy: Guarded) -> None:
    assert policy_from_dict(json.loads(json.dumps(policy.to_dict(), allow_nan=False))) == policy


def test_an_exported_guard_decides_as_it_did_in_training(
    workplace: Workplace, run_router: Callable[..., Finished], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    finished = run_router(
        "train", *workplace.options, "tracking=none", "latest=null", "estimator=ridge",
        "policy=guarded", "policy.confidence=0.5", "policy.width=0.5", f"hydra.run.dir={folder}",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    loaded = router.load(folder / "artifact")
    policy = loaded.policy
    assert isinstance(policy, Guarded)
    assert isinstance(policy.setting, Utility)
    assert policy.against == "large"
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert policy_from_dict(metrics["policy"]) == policy
    decided = pd.read_parquet(folder / "predictions.parquet").set_index("query_id")["chosen"]
    prompts = pd.read_csv(workplace.table).drop_duplicates("query_id").set_index("query_id")
    for query, chosen in decided.items():
        decision = loaded.route(prompts.loc[query, "prompt"])
        assert decision.candidate == chosen
        assert "incumbent large" in decision.reason
    assert metrics["parity"]["decisions_equal"] == metrics["queries"]
    # Where the incumbent may not answer, the others do.
    among = loaded.route("algebra question number 3", candidates=["medium", "small"])
    assert among.candidate in ("medium", "small")
