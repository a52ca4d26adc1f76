"""Cost, predicted apart from quality: dollars, or tokens times prices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_problem

from router.errors import RouterError
from router.estimators import KNN, Logistic, Marginal, Ridge
from router.estimators.cost import LEAST_SHARE, CostModel
from router.estimators.head import Head, cross_predict
from router.outcomes.matrix import OutcomeMatrix


def at_prices(outcomes: OutcomeMatrix, prices: np.ndarray) -> OutcomeMatrix:
    assert outcomes.tokens is not None
    return replace(outcomes, prices=prices, cost=np.einsum("nmk,mk->nm", outcomes.tokens, prices))


def test_dollars_are_predicted_where_the_log_has_dollars() -> None:
    X, outcomes = make_problem(200, observed=0.8)
    model = CostModel(Marginal()).fit(X, outcomes)
    assert model.predict_amounts(X).shape == (200, 3, 1)
    expected = np.tile(outcomes.mean_costs(), (200, 1))
    np.testing.assert_allclose(model.predict(X), expected)


def test_tokens_are_predicted_and_then_priced() -> None:
    X, outcomes = make_problem(200, costs="tokens", observed=0.8)
    model = CostModel(Ridge()).fit(X, outcomes)
    amounts = model.predict_amounts(X)
    assert amounts.shape == (200, 3, 2)
    priced = amounts[:, :, 0] * outcomes.prices[:, 0] + amounts[:, :, 1] * outcomes.prices[:, 1]
    np.testing.assert_allclose(model.predict(X), priced)
    mean_tokens = np.nanmean(outcomes.tokens, axis=0)
    np.testing.assert_allclose(amounts.mean(axis=0), mean_tokens, rtol=0.05)


def test_a_change_of_prices_needs_no_refit() -> None:
    X, outcomes = make_problem(150, costs="tokens")
    other = np.array([[1e-6, 7e-6], [0.0, 2e-6], [3e-6, 3e-6]])
    before = CostModel(Ridge()).fit(X, outcomes)
    after = CostModel(Ridge()).fit(X, at_prices(outcomes, other))
    np.testing.assert_array_equal(before.predict_amounts(X), after.predict_amounts(X))
    repriced = np.einsum("nmk,mk->nm", before.predict_amounts(X), other)
    np.testing.assert_allclose(repriced, after.predict(X))


def test_the_graph_knows_amounts_and_no_prices() -> None:
    X, outcomes = make_problem(100, costs="tokens")
    dear = at_prices(outcomes, 1000 * outcomes.prices)
    one, two = (Head(Marginal(), Ridge()).fit(X, log).to_onnx() for log in (outcomes, dear))
    assert one.SerializeToString() == two.SerializeToString()


def test_costs_follow_the_query() -> None:
    X, outcomes = make_problem(400)
    factor = np.where(X[:, :1] > 0, 3.0, 1.0)
    outcomes = replace(outcomes, cost=outcomes.cost * factor)
    for estimator in (Ridge(), KNN()):
        cost = CostModel(estimator).fit(X, outcomes).predict(X)
        ratio = cost[X[:, 0] > 0.5].mean(axis=0) / cost[X[:, 0] < -0.5].mean(axis=0)
        np.testing.assert_allclose(ratio, 3, rtol=0.2)


def test_a_prediction_never_falls_below_a_share_of_the_mean() -> None:
    X, outcomes = make_problem(200)
    outcomes = replace(outcomes, cost=np.where(X[:, :1] > 0, 1.0, 1e-9) * np.ones((200, 3)))
    model = CostModel(Ridge()).fit(X, outcomes)
    cost = model.predict(10 * X)  # far outside what was seen: the line goes below zero
    np.testing.assert_allclose(cost.min(axis=0), LEAST_SHARE * outcomes.mean_costs())


def test_a_free_candidate_is_predicted_free() -> None:
    X, outcomes = make_problem(80)
    cost = outcomes.cost.copy()
    cost[:, 2] = 0.0
    predicted = CostModel(Ridge()).fit(X, replace(outcomes, cost=cost)).predict(X)
    assert (predicted[:, 2] == 0).all()
    assert (predicted[:, :2] > 0).all()


def test_the_head_predicts_cost_only_where_the_log_has_it() -> None:
    for costs in ("usd", "tokens", None):
        X, outcomes = make_problem(60, costs=costs)
        prediction = Head(Ridge(), Ridge()).fit(X, outcomes).predict(X)
        assert (prediction.cost is None) == (costs is None)


def test_quality_does_not_depend_on_cost() -> None:
    X, outcomes = make_problem(80)
    with_cost = Head(Ridge(), KNN()).fit(X, outcomes).predict(X)
    without = Head(Ridge(), KNN()).fit(X, replace(outcomes, cost=None)).predict(X)
    np.testing.assert_array_equal(with_cost.quality, without.quality)


def test_an_estimator_of_probabilities_is_refused_for_cost() -> None:
    X, outcomes = make_problem(60)
    with pytest.raises(RouterError, match="another estimator for cost"):
        Head(Ridge(), Logistic()).fit(X, outcomes)


def test_cross_prediction_never_saw_the_query_that_it_predicts() -> None:
    X, outcomes = make_problem(60)
    # With one vector per query, nearest neighbour would know every answer by heart.
    by_heart = Head(KNN(1, temperature=1e-3, shrinkage=0.0), Marginal())
    seen = by_heart.fit(X, outcomes).predict(X)
    np.testing.assert_allclose(seen.quality, outcomes.scores, atol=1e-5)
    unseen = cross_predict(by_heart, X, outcomes, n_folds=4)
    assert np.abs(unseen.quality - outcomes.scores).mean() > 0.1
    # Nor any other query of its group: here, every query stands twice.
    twice = np.tile(np.arange(60), 2)
    doubled = cross_predict(by_heart, X[twice], outcomes.take(twice), n_folds=4)
    assert np.abs(doubled.quality - outcomes.scores[twice]).mean() > 0.1
    assert doubled.cost is not None
    assert (doubled.cost > 0).all()
