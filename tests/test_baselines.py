"""Baselines: chosen on the train side alone, and plain enough to trust."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pandas as pd
import pytest

from router.evaluation.baselines import SHRINKAGE, Baselines
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Budget, HardCap, Threshold, Utility
from router.prediction import Prediction


def matrix(scores, cost=None, tasks=None, prompts=None, observed=None) -> OutcomeMatrix:
    """Outcomes of candidates a, b, c, ... ."""
    scores = np.array(scores, dtype=float)
    n, m = scores.shape
    queries = pd.DataFrame({"query_id": [f"q{i}" for i in range(n)]})
    queries["prompt"] = prompts or [f"prompt {i}" for i in range(n)]
    queries["group"] = np.arange(n)
    if tasks is not None:
        queries["task"] = tasks
    return OutcomeMatrix(
        queries,
        tuple("abcdefgh"[:m]),
        scores,
        np.ones((n, m), dtype=bool) if observed is None else np.array(observed),
        None if cost is None else np.broadcast_to(np.array(cost, dtype=float), (n, m)).copy(),
    )


def predicted(outcomes, quality, cost=None) -> Prediction:
    quality = np.broadcast_to(np.array(quality, dtype=float), outcomes.scores.shape).copy()
    if cost is not None:
        cost = np.broadcast_to(np.array(cost, dtype=float), quality.shape).copy()
    return Prediction(outcomes.candidates, quality, quality * 0, cost)


def test_best_single_and_cheapest_are_the_train_sides():
    train = matrix([[1, 0, 0]] * 6, cost=[3, 1, 2])
    test = matrix([[0, 1, 1]] * 6, cost=[1, 3, 2])
    plans = Baselines.fit(train, Utility()).plans(test, np.full((6, 3), 1 / 3))
    assert plans["best single"].tolist() == [[1, 0, 0]] * 6
    assert plans["cheapest"].tolist() == [[0, 1, 0]] * 6


def test_unobserved_outcomes_do_not_count():
    """b scores 1 wherever it was asked, a half the time: the mean over what was seen decides."""
    scores = [[1, np.nan], [0, np.nan], [1, 1], [0, 1], [1, np.nan], [0, np.nan]]
    cost = [[1.0, 5.0]] * 2 + [[9.0, 5.0]] * 4
    train = matrix(scores, cost, observed=~np.isnan(scores), tasks=list("xxyyxx"))
    baselines = Baselines.fit(train, Utility())
    assert baselines.best_single == "b"
    assert baselines.cheapest == "b"
    lookup = baselines.lookups["task-label lookup"]
    assert np.isfinite(lookup.quality).all()
    assert np.isfinite(lookup.cost).all()


def test_without_costs_there_is_no_cheapest():
    train = matrix([[1, 0], [0, 0], [1, 1]] * 2)
    baselines = Baselines.fit(train, Utility())
    assert baselines.cheapest is None
    assert set(baselines.plans(train, np.ones((6, 2)) / 2)) == {
        "best single",
        "random",
        "prompt length",
        "oracle",
    }


def test_task_lookup_holds_shrunken_means():
    scores = [[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 2 + [[0.0, 0.0]] * 2
    train = matrix(scores, cost=[[4.0, 2.0]] * 4 + [[8.0, 1.0]] * 4, tasks=list("xxxxyyyy"))
    lookup = Baselines.fit(train, Utility()).lookups["task-label lookup"]
    assert lookup.cells == ("x", "y")
    whole = 4 + SHRINKAGE
    assert lookup.quality == pytest.approx(
        np.array(
            [
                [(4 + SHRINKAGE * 0.5) / whole, SHRINKAGE * 0.25 / whole],
                [SHRINKAGE * 0.5 / whole, (2 + SHRINKAGE * 0.25) / whole],
                [0.5, 0.25],
            ]
        )
    )
    assert lookup.cost[2] == pytest.approx([6, 1.5])


def test_unknown_tasks_fall_to_the_overall_mean():
    train = matrix([[1, 0], [0, 1]] * 4, tasks=["x", "y"] * 4)
    lookup = Baselines.fit(train, Utility()).lookups["task-label lookup"]
    test = matrix([[0, 0]] * 3, tasks=["y", "never seen", "x"])
    assert lookup.predict(test).quality[1] == pytest.approx([0.5, 0.5])
    assert lookup.predict(test).quality[0] == pytest.approx(lookup.quality[1])
    assert lookup.predict(test).quality[2] == pytest.approx(lookup.quality[0])


def test_length_lookup_tells_short_from_long():
    prompts = ["x" * (5 if i % 2 else 500) for i in range(40)]
    train = matrix([[i % 2, 1 - i % 2] for i in range(40)], prompts=prompts)
    baselines = Baselines.fit(train, Utility())
    test = matrix([[0, 0]] * 3, prompts=["y" * 4, "y" * 900, ""])
    plan = baselines.plans(test, np.full((3, 2), 0.5))["prompt length"]
    assert plan.argmax(axis=1).tolist() == [0, 1, 0]


def test_length_lookup_counts_characters_whatever_the_prompt():
    """A prompt of a million characters costs a million characters, not a million for each prompt;
    trailing NULs and emoji count."""
    prompts = ["short"] * 3000 + ["x" * 1_000_000, "\0\0\0", "😀" * 7]
    train = matrix([[0, 1], [1, 0], [1, 1]] * 1001, prompts=prompts)
    lookup = Baselines.fit(train, Utility()).lookups["prompt length"]
    assert lookup.cells == (5.0,)
    quality = lookup.predict(train).quality
    assert quality[-1] == pytest.approx(quality[-3])  # long
    assert quality[-2] == pytest.approx(quality[0])  # three characters are short


def test_random_is_the_mean_over_all_shuffles_of_the_routers_choices():
    rng = np.random.default_rng(0)
    test = matrix(rng.random((5, 3)), cost=rng.random((5, 3)))
    router = np.eye(3)[[0, 2, 2, 1, 0]]
    plan = Baselines.fit(test, Utility()).plans(test, router)["random"]
    shuffles = [router[list(order)] for order in itertools.permutations(range(5))]
    assert plan == pytest.approx(np.mean(shuffles, axis=0))
    for values in (test.scores, test.cost):
        expected = np.mean([(shuffle * values).sum() for shuffle in shuffles])
        assert (plan * values).sum() == pytest.approx(expected)


def test_oracle_takes_the_cheapest_of_the_best():
    scores = [[1, 1, 0], [0, 0, 0], [0.2, 0.9, 0.9], [0, 0, 1], [1, 1, 1]]
    cost = [[3, 2, 1], [2, 3, 1], [1, 2, 3], [1, 1, 9], [0, 1, 2]]
    test = matrix(scores, cost=cost)
    plan = Baselines.fit(test, Utility()).plans(test, np.full((5, 3), 1 / 3))["oracle"]
    assert plan.argmax(axis=1).tolist() == [1, 2, 1, 2, 0]
    assert plan.sum(axis=1).tolist() == [1] * 5


def test_every_plan_is_a_distribution(problem):
    _, outcomes = problem(60)
    policy = Budget(0.002).tune(predicted(outcomes, outcomes.scores, outcomes.cost), outcomes)
    plans = Baselines.fit(outcomes, policy).plans(outcomes, np.full((60, 3), 1 / 3))
    assert list(plans) == [
        "best single",
        "cheapest",
        "random",
        "prompt length",
        "task-label lookup",
        "oracle",
    ]
    for plan in plans.values():
        assert plan.shape == (60, 3)
        assert (plan >= 0).all()
        assert plan.sum(axis=1) == pytest.approx(np.ones(60))


@pytest.mark.parametrize("budget", [0.0005, 0.002, 0.006, 0.05])
def test_lookups_keep_the_routers_budget_on_the_train_side(problem, budget):
    _, outcomes = problem(300)
    policy = Budget(budget).tune(predicted(outcomes, outcomes.scores, outcomes.cost), outcomes)
    for lookup in Baselines.fit(outcomes, policy).lookups.values():
        plan = lookup.policy.probabilities(lookup.predict(outcomes))
        spent = (plan * outcomes.cost).sum(axis=1).mean()
        assert spent <= budget * (1 + 1e-9)
        if budget < 0.006:  # it binds, and is met exactly
            assert spent == pytest.approx(budget)


def test_a_lookup_that_cannot_keep_the_budget_spends_as_little_as_it_can():
    """The router tells by the prompt which of two models is cheap this time, and its budget is
    what that costs; a lookup knows mean costs alone, and the least of them is dearer."""
    cost = np.array([[1.0, 3.0], [3.0, 1.0]] * 10)
    train = matrix([[1, 0], [1, 1]] * 10, cost=cost, tasks=["x"] * 20)
    policy = Budget(1.1).tune(predicted(train, [0.9, 0.5], cost), train)
    assert policy.budget == 1.1
    for lookup in Baselines.fit(train, policy).lookups.values():
        plan = lookup.policy.probabilities(lookup.predict(train))
        assert (plan * train.cost).sum(axis=1).mean() == pytest.approx(2.0)


def test_lookups_follow_the_routers_kind_of_policy(problem):
    _, outcomes = problem(100)
    prediction = predicted(outcomes, outcomes.scores, outcomes.cost)
    cap = HardCap(cap=0.0015, level=0.9).tune(prediction, outcomes)
    for lookup in Baselines.fit(outcomes, cap).lookups.values():
        plan = lookup.policy.probabilities(lookup.predict(outcomes))
        assert plan[:, 0].max() == 0  # "large" is over the cap
    half = Threshold(strong="large", weak="small", strong_share=0.5).tune(prediction, outcomes)
    lookup = Baselines.fit(outcomes, half).lookups["prompt length"]
    assert isinstance(lookup.policy, Threshold)


@pytest.mark.parametrize("costs", ["usd", "tokens", None])
def test_json_round_trip_plans_the_same(problem, costs):
    _, train = problem(80, seed=1, costs=costs, observed=0.8)
    _, test = problem(40, seed=2, costs=costs)
    prediction = predicted(train, train.mean_scores(), train.mean_costs())
    baselines = Baselines.fit(train, Budget().tune(prediction, train))
    again = Baselines.from_dict(json.loads(json.dumps(baselines.to_dict(), allow_nan=False)))
    router = np.full((40, 3), 1 / 3)
    plans = baselines.plans(test, router)
    assert list(again.plans(test, router)) == list(plans)
    for name, plan in again.plans(test, router).items():
        assert np.array_equal(plan, plans[name])
    assert again.to_dict() == baselines.to_dict()


def test_without_tasks_on_the_test_side_the_task_lookup_is_left_out(problem):
    _, outcomes = problem(40)
    baselines = Baselines.fit(outcomes, Utility())
    bare = dataclasses.replace(outcomes, queries=outcomes.queries.drop(columns="task"))
    assert "task-label lookup" not in baselines.plans(bare, np.full((40, 3), 1 / 3))
    assert "task-label lookup" not in Baselines.fit(bare, Utility()).lookups
