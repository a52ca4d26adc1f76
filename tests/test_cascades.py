"""Cascades: what is asked, in which order, until an answer will do."""

from __future__ import annotations

import dataclasses
from itertools import permutations, product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Budget, Cascade, CascadeRouting, LearnedStopping, Policy
from router.policies.sequential import STOP, Sequential
from router.prediction import Prediction

many = settings(max_examples=50, deadline=None)
NAMES = ("dear", "middle", "cheap")
COST = np.array([10.0, 3.0, 1.0])


def outcomes_of(scores: np.ndarray, cost: np.ndarray | None = None) -> OutcomeMatrix:
    n, m = scores.shape
    queries = pd.DataFrame({"query_id": np.arange(n), "prompt": "p", "group": np.arange(n)})
    cost = np.tile(COST[:m], (n, 1)) if cost is None else cost
    return OutcomeMatrix(queries, NAMES[:m], scores, np.ones((n, m), dtype=bool), cost)


def prediction_of(quality: Any, judged: Any, cost: Any = None) -> Prediction:
    quality = np.asarray(quality, dtype=float)
    n, m = quality.shape
    cost = np.tile(COST[:m], (n, 1)) if cost is None else np.asarray(cost, dtype=float)
    return Prediction(
        NAMES[:m], quality, np.zeros((n, m)), cost, judged=np.asarray(judged, dtype=float)
    )


@st.composite
def problems(draw: st.DrawFn) -> tuple[Prediction, OutcomeMatrix]:
    n = draw(st.integers(4, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = (rng.random((n, 3)) < [0.9, 0.7, 0.5]).astype(float)
    judged = np.clip(scores * 0.4 + 0.6 * rng.random((n, 3)), 0, 1)
    if draw(st.booleans()):
        judged = np.round(judged, 1)
    cost = COST * rng.lognormal(sigma=0.3, size=(n, 3))
    return prediction_of(rng.random((n, 3)), judged, cost), outcomes_of(scores, cost)


def by_hand(
    prediction: Prediction, steps: tuple[str, ...], thresholds: tuple[float, ...]
) -> tuple[list[list[int]], list[int]]:
    """(who was asked of every query, whose answer was returned), written as one would tell it."""
    asked, answered = [], []
    for judged in prediction.judged:
        path = []
        for name, least in zip(steps, (*thresholds, -np.inf), strict=True):
            path.append(prediction.candidates.index(name))
            if judged[path[-1]] >= least:
                break
        asked.append(path)
        answered.append(path[-1])
    return asked, answered


@many
@given(problems(), st.permutations(NAMES), st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_a_cascade_goes_on_until_an_answer_is_good_enough(
    problem: tuple[Prediction, OutcomeMatrix], order: list[str], least: list[float]
) -> None:
    prediction, outcomes = problem
    policy = Cascade(steps=tuple(order), thresholds=tuple(least))
    asked, answered = by_hand(prediction, policy.steps, policy.thresholds)
    replay = policy.replay(prediction)
    assert [np.flatnonzero(row).tolist() for row in replay.asked] == [sorted(p) for p in asked]
    assert replay.answered.tolist() == answered
    expected = policy.expected(prediction, outcomes.scores, outcomes.cost)
    paid = [sum(outcomes.cost[i, j] for j in path) for i, path in enumerate(asked)]
    np.testing.assert_allclose(expected.cost, paid)  # what earlier steps cost stays paid


@many
@given(problems(), st.floats(0.1, 1.2))
def test_the_search_finds_the_best_cascade_of_all(
    problem: tuple[Prediction, OutcomeMatrix], share: float
) -> None:
    """Against every order and every combination of thresholds, one by one."""
    prediction, outcomes = problem
    budget = share * outcomes.cost[:, 0].mean()
    try:
        tuned = Cascade(budget=budget, max_steps=3).tune(prediction, outcomes)
    except RouterError:
        assert budget < outcomes.cost.mean(axis=0).min()
        return
    found = tuned.expected(prediction, outcomes.scores, outcomes.cost)
    assert found.cost.mean() <= budget * (1 + 1e-9)
    best = -1.0
    levels = [np.unique(prediction.judged[:, j]) for j in range(3)]
    for length in (1, 2, 3):
        for columns in permutations(range(3), length):
            for thresholds in product(*(levels[j] for j in columns[:-1])):
                steps = tuple(NAMES[j] for j in columns)
                plan = Cascade(steps=steps, thresholds=thresholds)
                value = plan.expected(prediction, outcomes.scores, outcomes.cost)
                if value.cost.mean() <= budget:
                    best = max(best, float(value.score.mean()))
    assert found.score.mean() == pytest.approx(best)


def test_a_perfect_judge_pays_for_the_dear_one_only_where_the_cheap_one_fails() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.random((400, 2)) < [0.9, 0.6]).astype(float)
    outcomes = outcomes_of(scores)
    prediction = prediction_of(np.tile([0.9, 0.6], (400, 1)), scores)
    tuned = Cascade(order=("middle", "dear"), budget=8.0).tune(prediction, outcomes)
    replay = tuned.replay(prediction)
    np.testing.assert_array_equal(replay.asked[:, 0], scores[:, 1] == 0)
    value = tuned.expected(prediction, scores, outcomes.cost)
    assert value.score.mean() == scores.max(axis=1).mean()


def test_cascade_routing_asks_no_second_where_all_fail_together() -> None:
    """Same marginal qualities; where surprises go together, a bad answer speaks against others."""
    rng = np.random.default_rng(1)
    n = 2000
    shared, own = rng.normal(size=(n, 1)), rng.normal(size=(n, 2))

    def asked_second(together: float) -> float:
        surprise = 0.25 * (np.sqrt(together) * shared + np.sqrt(1 - together) * own)
        judged = np.clip(np.array([0.6, 0.5]) + surprise, 0, 1)
        prediction = prediction_of(np.tile([0.6, 0.5], (n, 1)), judged)
        policy = CascadeRouting(step_weights=(0.01,), names=NAMES[:2])._learned(prediction)
        replay = dataclasses.replace(policy, step_weights=(0.015,)).replay(prediction)
        bad = judged[:, 1] < 0.4
        return float(replay.asked[bad].all(axis=1).mean())

    assert asked_second(0.9) < asked_second(0.0) - 0.2


def test_learned_stopping_finds_the_rule_that_a_cost_weight_asks_for() -> None:
    """Bins of one informative judge: go on exactly where the dear one's lead pays."""
    rng = np.random.default_rng(5)
    level = rng.integers(4, size=4000)
    chance = np.array([0.1, 0.5, 0.8, 0.95])[level]
    scores = (rng.random((4000, 2)) < np.column_stack([np.full(4000, 0.9), chance])).astype(float)
    judged = np.column_stack([np.full(4000, 0.9), level / 4])
    prediction = prediction_of(np.tile([0.9, 0.7], (4000, 1)), judged)
    outcomes = outcomes_of(scores)
    # Two of four bins: what asking the dear one there costs.
    budget = 3.0 + 10.0 * float((level <= 1).mean())
    tuned = LearnedStopping(budget, bins=4).tune(prediction, outcomes)
    assert tuned.steps == ("middle", "dear")
    assert tuned.goes_on == ((1, 1, 0, 0),)


def test_without_uncertainty_it_defers_where_the_expected_gain_exceeds_the_cost() -> None:
    """Jitkrittum et al. 2023: defer iff q_next - judged > weight x cost of the next."""
    rng = np.random.default_rng(2)
    quality = np.column_stack([rng.uniform(0.6, 1, 300), rng.uniform(0, 0.5, 300)])
    judged = np.column_stack([rng.random(300), rng.random(300)])
    prediction = prediction_of(quality, judged)
    policy = CascadeRouting(
        depth=1,
        uncertainty=False,
        step_weights=(0.09, 0.05),
        names=NAMES[:2],
        covariance=((0.0, 0.0), (0.0, 0.0)),
    )
    cheap_first = quality[:, 1] - 0.09 * 3 > quality[:, 0] - 0.09 * 10
    replay = policy.replay(prediction)
    defers = quality[:, 0] - judged[:, 1] > 0.05 * 10
    assert cheap_first.any()
    np.testing.assert_array_equal(replay.asked[cheap_first, 0], defers[cheap_first])


@pytest.mark.parametrize("kind", [Cascade, CascadeRouting, LearnedStopping])
@many
@given(problem=problems(), share=st.floats(0.15, 1.5))
def test_the_budget_is_kept_and_nobody_is_asked_twice(
    kind: type[Sequential], problem: tuple[Prediction, OutcomeMatrix], share: float
) -> None:
    prediction, outcomes = problem
    budget = share * float(outcomes.cost[:, 0].mean())
    if budget < outcomes.cost.mean(axis=0).min():
        with pytest.raises(RouterError, match="raise it"):
            kind(budget=budget).tune(prediction, outcomes)
        return
    tuned = kind(budget=budget).tune(prediction, outcomes)
    spent = tuned.expected(prediction, outcomes.scores, outcomes.cost).cost
    assert spent.mean() <= budget * (1 + 1e-9)
    replay = tuned.replay(prediction)
    assert replay.asked.any(axis=1).all()
    assert replay.asked[np.arange(len(prediction)), replay.answered].all()


@pytest.mark.parametrize("policy", [Cascade(8.0), CascadeRouting(8.0), LearnedStopping(8.0)])
@many
@given(problem=problems())
def test_step_by_step_is_the_replay(
    policy: Sequential, problem: tuple[Prediction, OutcomeMatrix]
) -> None:
    """A service that knows only the answers so far asks whom the replay asked."""
    prediction, outcomes = problem
    tuned = policy.tune(prediction, outcomes)
    replay = tuned.replay(prediction)
    for i in range(len(prediction)):
        query = prediction.take(slice(i, i + 1))
        judged, asked, last = (
            np.full((1, 3), np.nan),
            np.zeros((1, 3), dtype=bool),
            np.array([STOP]),
        )
        for _ in range(4):
            seen = dataclasses.replace(query, judged=judged)
            step = tuned.next_step(seen, asked, last)
            if step[0] == STOP:
                break
            asked, judged, last = asked.copy(), judged.copy(), step
            asked[0, step[0]] = True
            judged[0, step[0]] = query.judged[0, step[0]]
        np.testing.assert_array_equal(asked[0], replay.asked[i])
        assert tuned.returned(seen, asked, last)[0] == replay.answered[i]


@pytest.mark.parametrize("policy", [Cascade(8.0), CascadeRouting(8.0), LearnedStopping(8.0)])
def test_a_candidate_that_may_not_be_asked_is_passed_over(policy: Sequential) -> None:
    rng = np.random.default_rng(3)
    scores = (rng.random((60, 3)) < [0.9, 0.7, 0.5]).astype(float)
    prediction = prediction_of(np.tile([0.9, 0.7, 0.5], (60, 1)), np.clip(scores * 0.8 + 0.1, 0, 1))
    tuned = policy.tune(prediction, outcomes_of(scores))
    left = prediction.select(np.array([0, 2]))
    replay = tuned.replay(left)
    assert replay.asked.shape == (60, 2)
    assert replay.asked.any(axis=1).all()


def test_before_an_answer_was_judged_a_plan_is_its_first_step() -> None:
    prediction = prediction_of([[0.9, 0.7, 0.5]] * 3, np.full((3, 3), np.nan))
    policy = Cascade(steps=("cheap", "dear"), thresholds=(0.5,))
    assert policy.probabilities(prediction).argmax(axis=1).tolist() == [2, 2, 2]
    assert not policy.asks_several(prediction)


@pytest.mark.parametrize("kind", [Cascade, CascadeRouting, LearnedStopping])
def test_without_a_judge_there_is_no_cascade(kind: type[Policy]) -> None:
    prediction = dataclasses.replace(prediction_of([[0.9, 0.5]] * 6, [[1, 1]] * 6), judged=None)
    with pytest.raises(RouterError, match="nobody does here; log response"):
        kind().tune(prediction, outcomes_of(np.eye(2)[[0, 1] * 3]))


@pytest.mark.parametrize("kind", [Cascade, CascadeRouting, LearnedStopping])
def test_a_log_of_one_answer_a_query_cannot_tune_a_cascade(kind: type[Policy]) -> None:
    scores = np.eye(2)[[0, 1] * 3]
    outcomes = dataclasses.replace(outcomes_of(scores), observed=scores.astype(bool))
    with pytest.raises(RouterError, match="answer a sample of queries by every candidate"):
        kind().tune(prediction_of([[0.9, 0.5]] * 6, [[1, 1]] * 6), outcomes)


def test_the_router_alone_has_the_same_budget() -> None:
    rng = np.random.default_rng(4)
    scores = (rng.random((80, 3)) < [0.9, 0.7, 0.5]).astype(float)
    prediction = prediction_of(rng.random((80, 3)), np.clip(scores, 0.1, 0.9))
    tuned = Cascade(budget=3.0).tune(prediction, outcomes_of(scores))
    alone = tuned.without_answers()
    assert isinstance(alone, Budget)
    assert alone.budget == 3.0
    assert alone.expected(prediction, scores, np.tile(COST, (80, 1))).cost.mean() == pytest.approx(
        3
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "falling"}, "give a list of names, or rising"),
        ({"max_steps": 9}, "give a number from 1 to 5"),
    ],
)
def test_bad_parameters_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterError, match=message):
        Cascade(**options)


def test_an_order_of_unknown_names_is_told() -> None:
    prediction = prediction_of([[0.9, 0.5]] * 6, [[1.0, 0.5]] * 6)
    with pytest.raises(RouterError, match="give different names out of dear, middle"):
        Cascade(order=("dear", "huge")).tune(prediction, outcomes_of(np.eye(2)[[0, 1] * 3]))
