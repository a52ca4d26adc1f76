"""A budget is a promise in dollars: met in expectation on validation, never exceeded."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_policies import many, outcomes_of, prediction_of, problems

from router.errors import RouterError
from router.estimators import Partition, Ridge
from router.estimators.head import Head
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Budget, Utility
from router.policies.base import filled
from router.prediction import Prediction


def spent(policy: Budget | Utility, prediction: Prediction, outcomes: OutcomeMatrix) -> float:
    """Mean validation cost; the prediction stands in for what was not observed."""
    _, cost = filled(prediction, outcomes)
    return float((policy.probabilities(prediction) * cost).sum(axis=1).mean())


def ends(prediction: Prediction, outcomes: OutcomeMatrix) -> tuple[float, float]:
    """What quality alone and cost alone spend."""
    dear, cheap = (spent(Utility(w), prediction, outcomes) for w in (0.0, np.inf))
    return dear, cheap


@many
@given(problems(), st.floats(0, 1, exclude_max=True))
def test_a_budget_within_reach_is_met_exactly(
    problem: tuple[Prediction, OutcomeMatrix], share: float
) -> None:
    prediction, outcomes = problem
    dear, cheap = ends(prediction, outcomes)
    assume(cheap < dear)
    budget = cheap + share * (dear - cheap)
    policy = Budget(budget).tune(prediction, outcomes)
    assert spent(policy, prediction, outcomes) == pytest.approx(budget, rel=1e-9)
    assert 0 <= policy.dear_share <= 1
    assert policy.budget == budget


@many
@given(problems(), st.floats(0, 1))
def test_the_two_plans_are_neighbours(
    problem: tuple[Prediction, OutcomeMatrix], share: float
) -> None:
    prediction, outcomes = problem
    dear, cheap = ends(prediction, outcomes)
    assume(cheap < dear)
    policy = Budget(cheap + share * (dear - cheap)).tune(prediction, outcomes)
    low, high = policy.dear_weight, policy.cheap_weight
    assert low <= high
    chosen = [Utility(weight).choose(prediction) for weight in (low, high)]
    # A weight in between gives each query one of the two choices, and one of the two plans:
    # what switches between them switches at one weight, up to rounding.
    for between in np.geomspace(low, high, 9) if 0 < low < high < np.inf else []:
        middle = Utility(float(between)).choose(prediction)
        assert (middle == chosen[0]).all() or (middle == chosen[1]).all()


@many
@given(problems())
def test_a_budget_above_the_dearest_plan_is_slack(
    problem: tuple[Prediction, OutcomeMatrix],
) -> None:
    prediction, outcomes = problem
    dear, _ = ends(prediction, outcomes)
    for budget in (dear, 2 * dear, np.inf):
        policy = Budget(budget).tune(prediction, outcomes)
        best = Utility(0.0).probabilities(prediction)
        np.testing.assert_array_equal(policy.probabilities(prediction), best)
        assert spent(policy, prediction, outcomes) <= budget


@many
@given(problems(), st.floats(0.01, 0.999))
def test_a_budget_out_of_reach_is_refused_with_the_least_one(
    problem: tuple[Prediction, OutcomeMatrix], share: float
) -> None:
    prediction, outcomes = problem
    dear, cheap = ends(prediction, outcomes)
    assume(cheap <= dear)
    with pytest.raises(RouterError, match=r"policy.budget=\$.* is below \$.*raise it") as caught:
        Budget(share * cheap).tune(prediction, outcomes)
    said = float(re.search(r"below \$([^,]+),", str(caught.value)).group(1))
    assert said == pytest.approx(cheap, rel=0.01)


@many
@given(problems(), st.integers(0, 2**32 - 1))
def test_more_money_never_buys_less_predicted_quality(
    problem: tuple[Prediction, OutcomeMatrix], seed: int
) -> None:
    prediction, _ = problem
    # Costs as predicted: then the mixture of two plans is the best that the budget buys.
    outcomes = outcomes_of(prediction.quality, prediction.cost)
    dear, cheap = ends(prediction, outcomes)
    assume(cheap < dear * 0.99)
    shares = np.sort(np.random.default_rng(seed).random(6))
    quality = []
    for budget in cheap + shares * (dear - cheap):
        policy = Budget(float(budget)).tune(prediction, outcomes)
        quality.append((policy.probabilities(prediction) * prediction.quality).sum(axis=1).mean())
    assert (np.diff(quality) >= -1e-5).all()


def test_the_mixture_is_the_one_of_the_two_prices() -> None:
    prediction = prediction_of([[0.9, 0.5]] * 4, [[4.0, 1.0]] * 4)
    outcomes = outcomes_of(np.ones((4, 2)), np.tile([4.0, 1.0], (4, 1)))
    policy = Budget(2.0).tune(prediction, outcomes)
    # All four queries are alike and switch at one weight: a third of the way from 1 to 4.
    np.testing.assert_allclose(policy.probabilities(prediction), [[1 / 3, 2 / 3]] * 4)


def test_queries_that_are_alike_do_not_fall_apart_by_rounding() -> None:
    prediction = prediction_of([[0.9, 0.5]] * 4, [[4.0, 1.0]] * 4)
    outcomes = outcomes_of(np.ones((4, 2)), np.tile([4.0, 1.0], (4, 1)))
    policies = [
        Budget(2.0).tune(prediction, outcomes),
        Budget().tune(prediction, outcomes),
    ]
    rng = np.random.default_rng(0)
    noise = 1e-6 * rng.uniform(-1, 1, size=(2, 1000, 2))
    served = prediction_of(
        np.tile([0.9, 0.5], (1000, 1)) + noise[0], np.tile([4.0, 1.0], (1000, 1)) * (1 + noise[1])
    )
    for policy in policies:
        np.testing.assert_array_equal(
            policy.probabilities(served), np.tile(policy.probabilities(prediction)[0], (1000, 1))
        )


# Validation chooses the budget


@many
@given(problems(least=8))
def test_the_one_standard_error_rule_keeps_its_two_promises(
    problem: tuple[Prediction, OutcomeMatrix],
) -> None:
    prediction, outcomes = problem
    policy = Budget().tune(prediction, outcomes)
    scores, cost = filled(prediction, outcomes)
    plans = [setting.probabilities(prediction) for setting in Utility().path(prediction)]
    costs = np.array([(plan * cost).sum(axis=1).mean() for plan in plans])
    single = cost[:, scores.mean(axis=0).argmax()].mean() * (1 + 1e-9)
    own = policy.probabilities(prediction)
    assert policy.budget == pytest.approx(spent(policy, prediction, outcomes))
    assert policy.dear_weight == policy.cheap_weight
    # At most the best single model's cost, or the least there is where all plans cost more.
    assert policy.budget <= max(single, costs.min() * (1 + 1e-9))
    values = np.array([(plan * scores).sum(axis=1) for plan in plans])
    affordable = costs <= max(single, costs.min())
    best = int(np.where(affordable, values.mean(axis=1), -np.inf).argmax())
    error = values[best].std(ddof=1) / np.sqrt(len(values[best]))

    def within_one_error(value: np.ndarray) -> bool:
        return bool(value.mean() >= values[best].mean() - error - 1e-9)

    assert within_one_error((own * scores).sum(axis=1))
    # No cheaper plan on the path is as good.
    for plan, plan_cost in zip(values, costs, strict=True):
        if plan_cost < policy.budget * (1 - 1e-9):
            assert not within_one_error(plan)


def test_the_rule_saves_where_the_candidates_are_equally_good() -> None:
    rng = np.random.default_rng(0)
    prediction = prediction_of(0.7 + 0.01 * rng.normal(size=(200, 2)), [[1.0, 0.01]] * 200)
    outcomes = outcomes_of(
        (rng.random((200, 2)) < 0.7).astype(float), np.tile([1.0, 0.01], (200, 1))
    )
    assert Budget().tune(prediction, outcomes).budget == pytest.approx(0.01)


def test_the_rule_pays_where_quality_is_worth_it() -> None:
    prediction = prediction_of([[0.95, 0.1]] * 200, [[1.0, 0.01]] * 200)
    outcomes = outcomes_of(np.tile([1.0, 0.0], (200, 1)), np.tile([1.0, 0.01], (200, 1)))
    assert Budget().tune(prediction, outcomes).budget == pytest.approx(1.0)


def test_the_rule_where_every_plan_costs_more_than_the_best_single_model() -> None:
    # c0 is the best and the cheapest by the log, but is predicted to be bad and dear.
    prediction = prediction_of([[0.1, 0.5, 0.9]] * 10, [[9.0, 1.0, 2.0]] * 10)
    outcomes = outcomes_of(np.tile([1.0, 0.4, 0.6], (10, 1)), np.tile([0.5, 1.0, 2.0], (10, 1)))
    assert Budget().tune(prediction, outcomes).budget == pytest.approx(1.0)


# What is not there


def test_without_costs_quality_alone_decides_and_no_budget_can_be_kept() -> None:
    prediction = prediction_of([[0.5, 0.6]] * 6)
    outcomes = outcomes_of(np.ones((6, 2)), None)
    policy = Budget().tune(prediction, outcomes)
    assert policy.budget is None
    assert (policy.probabilities(prediction)[:, 1] == 1).all()
    assert policy.reason(prediction.take(slice(0, 1)), 1) == "best predicted quality (0.600)"
    with pytest.raises(RouterError, match="cannot be kept: the log has no costs"):
        Budget(0.01).tune(prediction, outcomes)


def test_an_untuned_budget_says_so() -> None:
    prediction = prediction_of([[0.5, 0.6]], [[1.0, 2.0]])
    with pytest.raises(RouterError, match="not tuned yet"):
        Budget(1.0).probabilities(prediction)


def test_the_reason_names_the_plan_that_was_drawn_and_the_budget() -> None:
    prediction = prediction_of([[0.9, 0.5]] * 4, [[4.0, 1.0]] * 4)
    outcomes = outcomes_of(np.ones((4, 2)), np.tile([4.0, 1.0], (4, 1)))
    policy = Budget(2.0).tune(prediction, outcomes)
    query = prediction.take(slice(0, 1))
    assert policy.reason(query, 0) == (
        "best predicted quality (0.900) (budget $2.000000 per query)"
    )
    cheap = policy.reason(query, 1)
    assert cheap.startswith("c0 would add 0.4 quality for $3.000000 more, which does not pay at ")
    assert cheap.endswith("quality per dollar (budget $2.000000 per query)")


def test_tuning_again_forgets_the_former_mixture() -> None:
    prediction = prediction_of([[0.9, 0.5]] * 4, [[4.0, 1.0]] * 4)
    outcomes = outcomes_of(np.ones((4, 2)), np.tile([4.0, 1.0], (4, 1)))
    once = Budget(2.0).tune(prediction, outcomes)
    assert once.tune(prediction, outcomes) == once
    slack = dataclasses.replace(once, budget=9.0).tune(prediction, outcomes)
    assert slack == Budget(9.0).tune(prediction, outcomes)


@pytest.mark.parametrize("observed", [1.0, 0.6])
def test_a_budget_on_a_fitted_head(problem: object, observed: float) -> None:
    assert callable(problem)
    X, outcomes = problem(300, observed=observed)
    prediction = Head(Partition(n_clusters=6), Ridge()).fit(X, outcomes).predict(X)
    dear, cheap = ends(prediction, outcomes)
    for budget in np.geomspace(cheap * 1.01, dear * 0.99, 7):
        policy = Budget(float(budget)).tune(prediction, outcomes)
        assert spent(policy, prediction, outcomes) == pytest.approx(budget, rel=1e-9)
