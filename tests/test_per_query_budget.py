"""A budget for every single query: the closed form is the linear program's optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from test_policies import many, outcomes_of, prediction_of, problems

from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix
from router.policies import PerQueryBudget, Utility
from router.prediction import Prediction


def expected(policy: PerQueryBudget, prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
    """(n,) predicted quality and cost of the mixtures."""
    yields = policy.expected(prediction, prediction.quality, prediction.cost)
    assert yields.cost is not None
    return yields.score, yields.cost


@many
@given(problems(), st.floats(0, 1))
def test_it_is_the_optimum_of_the_linear_program(
    problem: tuple[Prediction, OutcomeMatrix], share: float
) -> None:
    prediction, _ = problem
    assert prediction.cost is not None
    budget = float(np.quantile(prediction.cost, share))
    quality, cost = expected(PerQueryBudget(budget), prediction)
    for i in range(min(len(prediction), 8)):
        costs = prediction.cost[i]
        if costs.min() > budget:
            assert cost[i] == costs.min()
            continue
        # In units of the budget: the solver's tolerance is an absolute one.
        best = linprog(
            -prediction.quality[i],
            A_ub=[costs / budget],
            b_ub=[1.0],
            A_eq=np.ones((1, len(costs))),
            b_eq=[1.0],
        )
        assert quality[i] == pytest.approx(-best.fun, abs=1e-5)
        assert cost[i] <= budget * (1 + 1e-9)


@many
@given(problems(), st.floats(0, 1))
def test_it_mixes_at_most_two_and_keeps_every_query_within_the_budget(
    problem: tuple[Prediction, OutcomeMatrix], share: float
) -> None:
    prediction, _ = problem
    assert prediction.cost is not None
    budget = float(np.quantile(prediction.cost, share))
    policy = PerQueryBudget(budget)
    mixed = policy.probabilities(prediction)
    assert ((mixed > 0).sum(axis=1) <= 2).all()
    _, cost = expected(policy, prediction)
    assert (cost <= np.maximum(budget, prediction.cost.min(axis=1)) * (1 + 1e-9)).all()
    # Who is mixed spends the whole budget.
    several = (mixed > 0).sum(axis=1) == 2
    np.testing.assert_allclose(cost[several], budget)


@many
@given(problems())
def test_more_money_never_buys_less_quality(problem: tuple[Prediction, OutcomeMatrix]) -> None:
    prediction, _ = problem
    path = PerQueryBudget().path(prediction)
    quality = np.array([expected(setting, prediction)[0] for setting in path])
    assert (np.diff(quality, axis=0) <= 1e-9).all()  # from dear to cheap


def test_a_budget_above_everything_takes_the_best_and_below_everything_the_cheapest() -> None:
    prediction = prediction_of([[0.9, 0.8, 0.1], [0.5, 0.5, 0.5]], [[4.0, 2.0, 1.0]] * 2)
    best = PerQueryBudget(10.0).probabilities(prediction)
    np.testing.assert_array_equal(best, [[1, 0, 0], [0, 0, 1]])  # equal quality: the cheapest
    np.testing.assert_array_equal(best, Utility().probabilities(prediction))
    least = PerQueryBudget(0.5).probabilities(prediction)
    np.testing.assert_array_equal(least, [[0, 0, 1]] * 2)


def test_the_mixture_skips_what_lies_below_the_hull() -> None:
    # c1 costs half of what lies between, but is worse than the mixture of c0 and c2.
    prediction = prediction_of([[0.9, 0.3, 0.1]], [[3.0, 2.0, 1.0]])
    policy = PerQueryBudget(2.5)
    np.testing.assert_allclose(policy.probabilities(prediction), [[0.75, 0.0, 0.25]])
    assert policy.reason(prediction, 0) == (
        "drawn with probability 0.75 from c2 and c0, the best mixture for $2.500000"
    )
    assert PerQueryBudget(0.5).reason(prediction, 2) == (
        "every candidate costs more than $0.500000; this one costs least"
    )
    assert PerQueryBudget(3.0).reason(prediction, 0) == "best predicted quality (0.900)"
    assert PerQueryBudget(1.0).reason(prediction, 2) == (
        "the best mixture for $1.000000 is this candidate alone"
    )


def test_costs_are_needed_and_the_budget_is_positive() -> None:
    with pytest.raises(RouterError, match="policy=per_query_budget weighs costs"):
        PerQueryBudget().tune(prediction_of([[0.5, 0.4]]), outcomes_of(np.ones((1, 2)), None))
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(RouterError, match=r"policy\.budget is"):
            PerQueryBudget(bad)
