"""How much exploration is enough: closed forms against replayed logs, and the verb."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import CANDIDATES, Finished, TrainedRun, make_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import RouterError
from router.off_policy.exploration_plan import (
    NewCandidate,
    TargetValue,
    fastest_rate,
    least_rate,
    plan,
    requests_of,
    seen_weights,
)
from router.off_policy.replay import replay
from router.outcomes.matrix import OutcomeMatrix

RunRouter = Callable[..., Finished]
Z = 1.959964


@pytest.fixture(scope="module")
def outcomes() -> OutcomeMatrix:
    return make_problem(3000)[1]


def always(outcomes: OutcomeMatrix, name: str) -> np.ndarray:
    return np.tile(np.eye(3)[outcomes.candidates.index(name)], (len(outcomes), 1))


def by_task(outcomes: OutcomeMatrix) -> np.ndarray:
    """Medium where it is as good as large, else large."""
    poetry = (outcomes.tasks == "poetry")[:, None]
    return np.where(poetry, always(outcomes, "medium"), always(outcomes, "large"))


def question_on(outcomes: OutcomeMatrix, **changes: object) -> TargetValue:
    """What is the gain of a router by task on always asking large? The reward model is the mean."""
    asked = TargetValue(
        predicted=np.tile(outcomes.mean_scores(), (len(outcomes), 1)),
        scores=outcomes.scores,
        seen=seen_weights(outcomes),
        incumbent=always(outcomes, "large"),
        target=by_task(outcomes),
        cost=outcomes.cost,
        half_width=0.05,
    )
    return replace(asked, **changes)


def explored(outcomes: OutcomeMatrix, asked: TargetValue, rate: float, n: int, seed: int):
    """(log of n requests, their rows in the table): drawn from it, replayed at the rate."""
    rows = np.random.default_rng(seed).integers(len(outcomes), size=n)
    propensities = (1 - rate) * asked.incumbent[rows] + rate / 3
    return replay(outcomes.take(rows), propensities, seed), rows


def doubly_robust(log: OutcomeMatrix, asked: TargetValue, rows: np.ndarray) -> np.ndarray:
    """(n,) value of each decision, written out."""
    weight = asked.target[rows] - (asked.incumbent[rows] if asked.gain else 0)
    base = (weight * asked.predicted[rows]).sum(axis=1)
    error = np.where(log.observed, log.scores - asked.predicted[rows], 0).sum(axis=1)
    ratio = np.where(log.observed, weight / log.propensity, 0).sum(axis=1)
    return base + ratio * error


# ---- Closed forms and replayed logs -------------------------------------------------------------


@pytest.mark.parametrize("gain", [True, False])
@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_the_planned_requests_give_the_wished_interval(
    outcomes: OutcomeMatrix, gain: bool, rate: float
) -> None:
    asked = question_on(outcomes, gain=gain, half_width=0.03)
    planned = plan(asked, rate, 100)
    assert planned is not None
    realised = []
    for seed in range(5):
        log, rows = explored(outcomes, asked, rate, planned.requests, seed)
        values = doubly_robust(log, asked, rows)
        realised.append(Z * values.std() / math.sqrt(len(values)))
    assert np.mean(realised) == pytest.approx(0.03, rel=0.1)


def test_the_interval_of_a_plan_holds_the_truth(outcomes: OutcomeMatrix) -> None:
    asked = question_on(outcomes)
    planned = plan(asked, 0.2, 100)
    assert planned is not None
    truth = ((asked.target - asked.incumbent) * outcomes.scores).sum(axis=1).mean()
    hits = 0
    for seed in range(200):
        log, rows = explored(outcomes, asked, 0.2, planned.requests, seed)
        hits += abs(doubly_robust(log, asked, rows).mean() - truth) <= asked.half_width
    assert 0.90 <= hits / 200 <= 0.99


def test_without_a_reward_model_it_is_inverse_propensity_weighting(
    outcomes: OutcomeMatrix,
) -> None:
    zero = np.zeros_like(outcomes.scores)
    small = outcomes.candidates.index("small")
    asked = question_on(outcomes, predicted=zero, target=always(outcomes, "small"), gain=False)
    score = outcomes.scores[:, small]
    expected = (score**2).mean() / (0.1 / 3) - score.mean() ** 2
    assert asked.variance(0.1) == pytest.approx(expected)
    assert asked.requests(0.1) == pytest.approx((Z / 0.05) ** 2 * expected, rel=1e-5)


def test_a_perfect_reward_model_leaves_the_spread_between_queries(
    outcomes: OutcomeMatrix,
) -> None:
    asked = question_on(outcomes, predicted=outcomes.scores, gain=False)
    value = (asked.target * outcomes.scores).sum(axis=1)
    assert asked.variance(0.01) == pytest.approx(value.var())
    assert asked.variance(0.5) == pytest.approx(value.var())


def test_a_log_of_decisions_plans_as_the_full_table_does(outcomes: OutcomeMatrix) -> None:
    full = question_on(outcomes)
    log, rows = explored(outcomes, full, 0.5, len(outcomes), 0)
    partial = question_on(
        log,
        predicted=full.predicted[rows],
        incumbent=full.incumbent[rows],
        target=full.target[rows],
    )
    assert partial.variance(0.1) == pytest.approx(full.variance(0.1), rel=0.2)
    assert partial.extra_cost == pytest.approx(full.extra_cost, rel=0.2)
    assert partial.extra_loss == pytest.approx(full.extra_loss, rel=0.2)


def test_dollars_and_lost_score_are_those_of_the_replayed_log(outcomes: OutcomeMatrix) -> None:
    asked = question_on(outcomes)
    planned = plan(asked, 0.2, 50)
    assert planned is not None
    large = outcomes.candidates.index("large")
    dollars, loss = [], []
    for seed in range(20):
        log, rows = explored(outcomes, asked, 0.2, planned.requests, seed)
        dollars.append(np.nansum(log.cost) - outcomes.cost[rows, large].sum())
        loss.append(outcomes.scores[rows, large].sum() - np.nansum(log.scores))
    assert np.mean(dollars) == pytest.approx(planned.dollars, rel=0.05)
    assert np.mean(loss) == pytest.approx(planned.loss, rel=0.1)
    assert planned.days == planned.requests / 50


def test_the_effective_sample_size_reaches_its_floor(outcomes: OutcomeMatrix) -> None:
    asked = question_on(outcomes, half_width=0.5, least_ess=200)
    planned = plan(asked, 0.05, 100)
    assert planned is not None
    sizes = []
    for seed in range(20):
        log, rows = explored(outcomes, asked, 0.05, planned.requests, seed)
        weights = np.where(log.observed, asked.target[rows] / log.propensity, 0).sum(axis=1)
        sizes.append(weights.sum() ** 2 / (weights**2).sum())
    assert np.mean(sizes) == pytest.approx(200, rel=0.1)
    assert question_on(outcomes, half_width=0.5).requests(0.05) < planned.requests


def test_what_is_never_asked_is_never_learned(outcomes: OutcomeMatrix) -> None:
    asked = question_on(outcomes)
    assert asked.variance(0.0) == math.inf
    assert plan(asked, 0.0, 100) is None
    same = question_on(outcomes, target=asked.incumbent)
    assert same.variance(0.0) == 0.0


# ---- A new candidate ----------------------------------------------------------------------------


def test_a_new_candidates_answers_do_not_depend_on_the_rate() -> None:
    asked = NewCandidate(0.01, 0.9, cost=0.03, quality=None, half_width=0.05)
    for rate in (0.01, 0.1, 1.0):
        assert asked.requests(rate) * rate == pytest.approx(Z**2 * 0.25 / 0.05**2, rel=1e-5)
    planned = plan(asked, 0.1, 1000)
    assert planned is not None
    assert planned.dollars == pytest.approx(planned.requests * 0.1 * 0.02)
    assert planned.loss is None
    assert plan(asked, 0.0, 1000) is None


def test_a_new_candidates_interval_has_the_wished_width() -> None:
    asked = NewCandidate(None, 0.9, cost=0.03, quality=0.8, half_width=0.03)
    planned = plan(asked, 0.2, 1000)
    assert planned is not None
    assert planned.dollars is None
    rng = np.random.default_rng(0)
    answers = rng.random((500, planned.requests)) < 0.2
    scores = rng.random((500, planned.requests)) < 0.8
    means = (answers & scores).sum(axis=1) / answers.sum(axis=1)
    assert Z * means.std() == pytest.approx(0.03, rel=0.1)
    assert planned.loss == pytest.approx(planned.requests * 0.2 * 0.1)


# ---- The least rate -----------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.floats(2e3, 1e6), st.floats(0.05, 1.0))
def test_the_least_rate_suffices_and_a_lesser_one_does_not(requests: float, most: float) -> None:
    small = question_on(make_problem(60)[1])
    for asked in (small, NewCandidate(0.01, 0.9, 0.03, None, 0.05)):
        rate = least_rate(asked, requests, most)
        if rate is None:
            assert all(asked.requests(r) > requests for r in np.linspace(1e-3, most, 200))
        else:
            assert 0 < rate <= most
            assert asked.requests(rate) <= requests < asked.requests(rate * 0.999)


def test_the_fastest_rate_is_the_best_of_a_fine_grid(outcomes: OutcomeMatrix) -> None:
    balanced = 0.5 * always(outcomes, "large") + 0.5 * always(outcomes, "medium")
    asked = question_on(outcomes, incumbent=balanced, target=always(outcomes, "small"), gain=False)
    for most in (0.1, 1.0):
        rate = fastest_rate(asked, most)
        best = min(asked.requests(r) for r in np.linspace(0.001, most, 300))
        assert asked.requests(rate) <= best * (1 + 1e-9)


def test_where_the_incumbent_explores_enough_no_more_is_needed(outcomes: OutcomeMatrix) -> None:
    uniform = np.full(outcomes.scores.shape, 1 / 3)
    assert least_rate(question_on(outcomes, incumbent=uniform), 1e6, 0.5) == 0.0


def test_requests_of_a_known_case() -> None:
    assert requests_of(0.25, 0.1, 0.95) == pytest.approx(96.04, abs=0.01)


# ---- How outcomes came into the table -----------------------------------------------------------


def test_outcomes_stand_for_the_ones_not_seen(outcomes: OutcomeMatrix) -> None:
    assert (seen_weights(outcomes) == 1).all()
    partly = make_problem(400, observed=0.6)[1]
    weights = seen_weights(partly)
    assert weights.sum(axis=0) == pytest.approx(np.full(3, 400))
    assert ((weights > 0) == partly.observed).all()
    log = replay(outcomes, np.full(outcomes.scores.shape, 1 / 3))
    assert set(np.unique(seen_weights(log)).round(9)) == {0.0, 3.0}


def test_a_log_without_propensities_is_no_ground_for_a_plan(outcomes: OutcomeMatrix) -> None:
    log = replay(outcomes, np.full(outcomes.scores.shape, 1 / 3))
    with pytest.raises(RouterError, match="no propensity"):
        seen_weights(replace(log, propensity=None))
    unseen = outcomes.observed.copy()
    unseen[:, 1] = False
    with pytest.raises(RouterError, match=f"No test query has an outcome of {CANDIDATES[1]}"):
        seen_weights(replace(outcomes, observed=unseen))


# ---- The verb -----------------------------------------------------------------------------------


@pytest.fixture
def ask(
    trained_run: TrainedRun, run_router: RunRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Finished]:
    monkeypatch.chdir(tmp_path)
    places = trained_run.workplace.data, f"hydra.run.dir={tmp_path / 'plan'}"
    return lambda *options: run_router("plan-exploration", *places[0], places[1], *options)


def test_the_verb_prints_and_writes_the_least_plan(
    ask: Callable[..., Finished], trained_run: TrainedRun, tmp_path: Path
) -> None:
    finished = ask(
        "incumbent=large", f"target={trained_run.artifact}", "requests_per_day=500",
        "half_width=0.1", "least_ess=50",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    written = json.loads((tmp_path / "plan" / "plan.json").read_text(encoding="utf-8"))
    least = written["least"]
    assert least["requests"] <= 15_000
    assert least["days"] <= 30
    assert least in written["plans"]
    assert written["sentence"] in finished.out
    assert "least" in finished.out
    assert [one["rate"] for one in written["plans"]] == sorted(
        {least["rate"], 0.01, 0.02, 0.05, 0.1, 0.2, 0.5}
    )


def test_the_verb_plans_for_a_new_candidate(ask: Callable[..., Finished], tmp_path: Path) -> None:
    finished = ask(
        "incumbent=large", "new_candidate.name=huge", "new_candidate.cost=0.05",
        "requests_per_day=1000", "half_width=0.05",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    least = json.loads((tmp_path / "plan" / "plan.json").read_text(encoding="utf-8"))["least"]
    assert least["requests"] == 30_000
    assert least["rate"] == pytest.approx(Z**2 * 0.25 / 0.05**2 / 30_000, rel=1e-5)
    assert least["dollars"] > 0


def test_the_verb_says_when_there_is_too_little_time(
    ask: Callable[..., Finished], tmp_path: Path
) -> None:
    finished = ask("incumbent=large", "target=small", "requests_per_day=10", "half_width=0.01")
    assert finished.code == 0
    assert "30 days are too few: at best" in finished.out
    written = json.loads((tmp_path / "plan" / "plan.json").read_text(encoding="utf-8"))
    assert written["least"] is None
    assert len(written["plans"]) == 6


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["incumbent=large", "requests_per_day=9"], "One question is needed"),
        (["incumbent=large", "target=small"], "requests_per_day is None; give a number above 0"),
        (["incumbent=large", "target=large", "requests_per_day=9"], "Both always ask large"),
        (["incumbent=tiny", "target=large", "requests_per_day=9"], "incumbent=tiny: neither"),
        (["target=large", "requests_per_day=9"], "incumbent is needed"),
        (
            ["incumbent=large", "new_candidate.name=small", "requests_per_day=9"],
            "has outcomes already",
        ),
        (["incumbent=large", "target=small", "requests_per_day=9", "rates=[2]"], "rates is 2"),
        (["incumbent=large", "target=small", "requests_per_day=9", "rates=0.1"], "give a list"),
        (["incumbent=large", "target=small", "requests_per_day=9", "most_rate=0"], "most_rate is"),
        (["incumbent=large", "target=small", "requests_per_day=9", "level=1"], "level is 1"),
        (["incumbent=large", "target=small", "requests_per_day=9", "least_ess=-1"], "least_ess is"),
        (["incumbent=large", "target=small", "requests_per_day=9", "half_width=0"], "half_width"),
    ],
)
def test_the_verb_says_what_to_mend(
    ask: Callable[..., Finished], tmp_path: Path, options: list[str], says: str
) -> None:
    finished = ask(*options)
    assert finished.code == 2
    assert says in finished.err
    assert finished.err.count("\n") == 1 + finished.err.count("No split column")
    assert not (tmp_path / "plan").exists()
