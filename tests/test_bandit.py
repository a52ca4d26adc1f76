"""Estimators that learn one outcome at a time: LinearBandit and RunningMean."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from conftest import make_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import RouterError
from router.estimators import Estimator, LinearBandit, Marginal, RunningMean
from router.estimators.graph import Graph
from router.estimators.recency import recency_weights
from router.outcomes.matrix import OutcomeMatrix

FORGETTING = pytest.mark.parametrize("forgetting", [1.0, 0.9])


def with_times(outcomes: OutcomeMatrix, times: list[str | None]) -> OutcomeMatrix:
    stamps = pd.to_datetime(pd.Series(times), utc=True)
    return replace(outcomes, queries=outcomes.queries.assign(timestamp=stamps))


def log_of(scores: np.ndarray) -> OutcomeMatrix:
    """Outcomes of (n, m) scores; NaN where unobserved."""
    n, m = scores.shape
    queries = pd.DataFrame({"query_id": np.arange(n), "prompt": "p", "group": np.arange(n)})
    return OutcomeMatrix(queries, tuple(f"c{j}" for j in range(m)), scores, ~np.isnan(scores))


def assert_same(one: Estimator, other: Estimator, X: np.ndarray, atol: float = 1e-8) -> None:
    first, second = one.predict(X), other.predict(X)
    assert first.candidates == second.candidates
    np.testing.assert_allclose(first.quality, second.quality, rtol=0, atol=atol)
    np.testing.assert_allclose(first.quality_se, second.quality_se, rtol=0, atol=atol)


# Weights by age


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1.0))
def test_an_outcome_weighs_by_the_number_of_later_ones_of_its_candidate(
    seed: int, forgetting: float
) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 12)), 3
    scores = np.where(rng.random((n, m)) < 0.6, 1.0, np.nan)
    weights = recency_weights(log_of(scores), forgetting)
    for i in range(n):
        for j in range(m):
            later = int((~np.isnan(scores[i + 1 :, j])).sum())
            expected = 0.0 if np.isnan(scores[i, j]) else forgetting**later
            assert weights[i, j] == pytest.approx(expected)


def test_timestamps_decide_what_is_older_and_none_is_oldest() -> None:
    outcomes = with_times(log_of(np.ones((4, 1))), ["2026-03-01", "2026-01-01", None, "2026-02-01"])
    assert recency_weights(outcomes, 0.5)[:, 0].tolist() == [1.0, 0.25, 0.125, 0.5]
    assert recency_weights(log_of(np.ones((3, 1))), 0.5)[:, 0].tolist() == [0.25, 0.5, 1.0]


# LinearBandit


@FORGETTING
def test_fit_ends_where_updates_in_the_order_of_the_log_end(forgetting: float) -> None:
    X, outcomes = make_problem(150, observed=0.7)
    fitted = LinearBandit(forgetting=forgetting).fit(X, outcomes)
    learner = LinearBandit(forgetting=forgetting).fit(X, outcomes).forget()
    assert np.abs(learner.predict(X).quality - fitted.predict(X).quality).max() > 0.01
    for i, j in np.argwhere(outcomes.observed):
        learner.update(X[i], outcomes.candidates[j], outcomes.scores[i, j])
    assert_same(learner, fitted, X)


@FORGETTING
def test_updates_after_fit_are_the_log_going_on(forgetting: float) -> None:
    X, outcomes = make_problem(60)
    learner = LinearBandit(forgetting=forgetting).fit(X, outcomes)
    expected = LinearBandit(forgetting=forgetting).fit(X, outcomes).forget()
    again = np.concatenate([np.arange(60), np.arange(20)])
    for i in again:
        expected.update(X[i], "small", outcomes.scores[i, 2])
    for i in again[60:]:
        learner.update(X[i], "small", outcomes.scores[i, 2])
    one, other = learner.predict(X), expected.predict(X)
    np.testing.assert_allclose(one.quality[:, 2], other.quality[:, 2], atol=1e-8)
    np.testing.assert_allclose(one.quality_se[:, 2], other.quality_se[:, 2], atol=1e-8)


def test_timestamps_give_the_order_to_fit() -> None:
    X, outcomes = make_problem(80)
    order = np.random.default_rng(0).permutation(80)
    days = [str(day) for day in pd.date_range("2026-01-01", periods=80)]
    timed = with_times(outcomes, days)
    shuffled = timed.take(order)
    bandit = LinearBandit(forgetting=0.9)
    one = bandit.fit(X, timed).predict(X)
    two = bandit.fit(X[order], shuffled).predict(X)
    np.testing.assert_allclose(two.quality, one.quality, atol=1e-8)
    untimed = bandit.fit(X[order], outcomes.take(order)).predict(X)
    assert np.abs(untimed.quality - one.quality).max() > 0.01


def test_without_forgetting_the_order_makes_no_difference() -> None:
    X, outcomes = make_problem(80, observed=0.6)
    order = np.random.default_rng(0).permutation(80)
    one = LinearBandit().fit(X, outcomes)
    two = LinearBandit().fit(X[order], outcomes.take(order))
    assert_same(one, two, X)


@pytest.mark.parametrize("forgetting", [1.0, 0.8])
def test_the_posterior_is_that_of_bayesian_regression_by_brute_force(forgetting: float) -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, 3)) @ np.diag([2.0, 1.0, 0.5])
    outcomes = log_of(rng.random((40, 2)))
    prediction = LinearBandit(penalty=2.0, forgetting=forgetting).fit(X, outcomes).predict(X)
    # In the space of functions: a Gaussian process whose kernel the directions give. Evidence of
    # weight w is an outcome with the noise divided by w.
    Z = X - X.mean(axis=0)
    kernel = 1 + Z @ np.linalg.inv(Z.T @ Z / 40) @ Z.T / (2.0 * 3)
    weight = forgetting ** np.arange(40)[::-1]
    inverse = np.linalg.inv(kernel + np.diag(1 / weight))
    for j in range(2):
        y = outcomes.scores[:, j]
        mean = y.mean() + kernel @ inverse @ (y - y.mean())
        pooled = ((outcomes.scores - outcomes.scores.mean(axis=0)) ** 2).sum() / 78
        noise = y.var() + pooled / 40
        variance = noise * np.diag(kernel - kernel @ inverse @ kernel)
        np.testing.assert_allclose(prediction.quality[:, j], mean, atol=1e-8)
        np.testing.assert_allclose(prediction.quality_se[:, j], np.sqrt(variance), atol=1e-8)


def test_a_known_linear_truth_is_recovered_and_the_standard_error_covers_it() -> None:
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(30):
        X, new = rng.normal(size=(2, 400, 3))
        slopes = rng.normal(scale=0.1, size=(3, 2))
        noisy = 0.5 + X @ slopes + rng.normal(scale=0.3, size=(400, 2))
        prediction = LinearBandit().fit(X, log_of(noisy)).predict(new)
        error = prediction.quality - (0.5 + new @ slopes)
        assert np.abs(error).mean() < 0.05
        inside.append((np.abs(error) < 1.96 * prediction.quality_se).mean())
    assert 0.92 < np.mean(inside) <= 1


def test_an_outcome_teaches_its_candidate_alone_and_most_at_its_own_query() -> None:
    X, outcomes = make_problem(100)
    before = LinearBandit().fit(X, outcomes).predict(X)
    learner = LinearBandit().fit(X, outcomes)
    assert learner.update(X[7], "medium", 1.0) is learner
    after = learner.predict(X)
    for j in (0, 2):
        np.testing.assert_array_equal(after.quality[:, j], before.quality[:, j])
        np.testing.assert_array_equal(after.quality_se[:, j], before.quality_se[:, j])
    assert (after.quality_se[:, 1] < before.quality_se[:, 1]).all()
    assert after.quality[7, 1] > before.quality[7, 1]
    shrinkage = 1 - after.quality_se[:, 1] / before.quality_se[:, 1]
    alike = X @ X[7] > 0.9
    assert shrinkage[alike].mean() > shrinkage[X @ X[7] < 0].mean()


def test_forgetting_keeps_doubt_alive() -> None:
    X, outcomes = make_problem(1000)
    keeps = LinearBandit().fit(X, outcomes).predict(X).quality_se.mean()
    forgets = LinearBandit(forgetting=0.98).fit(X, outcomes).predict(X).quality_se.mean()
    assert forgets > 3 * keeps


def test_only_the_leading_directions_count() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 6)) * np.array([5.0, 4.0, 1.0, 1.0, 0.5, 0.1])
    outcomes = log_of(rng.random((200, 2)))
    fitted = LinearBandit(dimensions=2).fit(X, outcomes)
    assert fitted.basis_.shape == (6, 2)
    assert fitted.precision_.shape == (2, 3, 3)
    leading = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)[2][:2]
    blind = X - (X - X.mean(axis=0)) @ leading.T @ leading
    means = np.tile(outcomes.scores.mean(axis=0), (200, 1))
    np.testing.assert_allclose(fitted.predict(blind).quality, means)
    assert np.abs(fitted.predict(X).quality - means).max() > 0.01


def test_the_exported_graph_knows_what_was_learned_after_fit() -> None:
    X, outcomes = make_problem(80)
    learner = LinearBandit().fit(X, outcomes)
    for i in range(30):
        learner.update(X[i], "small", 1.0)
    graph = Graph()
    quality, error = learner.to_onnx(graph, "vector")
    axes = {name: ["batch", "candidate"] for name in ("quality", "error")}
    model = graph.model(8, {"quality": quality, "error": error}, axes)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    computed = session.run(["quality", "error"], {"vector": X.astype(np.float32)})
    prediction = learner.predict(X)
    np.testing.assert_allclose(computed[0], prediction.quality, atol=1e-5)
    np.testing.assert_allclose(computed[1], prediction.quality_se, atol=1e-5)


def test_a_new_candidate_is_an_arm_with_a_posterior_of_its_own() -> None:
    X, outcomes = make_problem(120)
    bandit = LinearBandit().fit(X, outcomes)
    grown = bandit.with_candidate("new", X[:10], outcomes.scores[:10, 1])
    old, new = bandit.predict(X), grown.predict(X)
    assert new.candidates == (*outcomes.candidates, "new")
    np.testing.assert_array_equal(new.quality[:, :3], old.quality)
    np.testing.assert_array_equal(new.quality_se[:, :3], old.quality_se)
    assert new.quality_se[:, 3].mean() > 1.5 * new.quality_se[:, 1].mean()
    for i in range(10, 120):
        grown.update(X[i], "new", outcomes.scores[i, 1])
    # After the same outcomes it predicts nearly as the one that it repeats.
    learned = grown.predict(X)
    np.testing.assert_allclose(learned.quality[:, 3], learned.quality[:, 1], atol=0.03)
    assert bandit.candidates_ == outcomes.candidates
    assert_same(bandit, LinearBandit().fit(X, outcomes), X, atol=0.0)


# RunningMean


@pytest.mark.parametrize("observed", [1.0, 0.5])
def test_without_a_learning_rate_it_is_the_marginal(observed: float) -> None:
    X, outcomes = make_problem(90, observed=observed)
    assert_same(RunningMean().fit(X, outcomes), Marginal().fit(X, outcomes), X, atol=1e-12)


@pytest.mark.parametrize("learning_rate", [None, 0.01, 0.3])
def test_fit_ends_where_updates_end(learning_rate: float | None) -> None:
    X, outcomes = make_problem(90, observed=0.7)
    early, late = np.arange(30), np.arange(30, 90)
    fitted = RunningMean(learning_rate).fit(X, outcomes)
    learner = RunningMean(learning_rate).fit(X[early], outcomes.take(early))
    learner.pooled_ = fitted.pooled_  # the pseudo-outcome's variance is what fit alone learns
    for i, j in np.argwhere(outcomes.observed[late]):
        learner.update(outcomes.candidates[j], outcomes.scores[30 + i, j])
    assert_same(learner, fitted, X, atol=1e-12)


def test_after_many_outcomes_it_moves_as_stateless_q_learning_does() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((400, 2))
    value = np.zeros(2)
    for row in scores:
        value += 0.1 * (row - value)
    prediction = RunningMean(0.1).fit(np.zeros((400, 1)), log_of(scores)).predict(np.zeros((1, 1)))
    np.testing.assert_allclose(prediction.quality[0], value, atol=1e-12)


def test_the_first_outcomes_are_not_drawn_to_a_guess() -> None:
    scores = np.array([[1.0, 0.25], [1.0, 0.75]])
    fitted = RunningMean(0.5).fit(np.zeros((2, 1)), log_of(scores))
    prediction = fitted.predict(np.zeros((1, 1)))
    np.testing.assert_allclose(prediction.quality[0], [1.0, (0.5 * 0.25 + 0.75) / 1.5])


def test_the_effective_number_of_outcomes_is_bounded_by_the_memory() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.random((5000, 2)) < 0.5).astype(float)
    rate = 0.02
    fitted = RunningMean(rate).fit(np.zeros((5000, 1)), log_of(scores))
    np.testing.assert_allclose(fitted.overall_.count, (2 - rate) / rate)
    # The standard error is the spread of such means over many logs.
    log_means = []
    weights = (1 - rate) ** np.arange(600)[::-1]
    for _ in range(400):
        log_means.append((weights * (rng.random(600) < 0.5)).sum() / weights.sum())
    error = fitted.predict(np.zeros((1, 1))).quality_se[0]
    np.testing.assert_allclose(error, np.std(log_means), rtol=0.15)


def test_it_follows_a_drift_that_the_sample_mean_averages_out() -> None:
    scores = np.concatenate([np.ones((200, 2)), np.zeros((100, 2))])
    scores[:, 1] = 1 - scores[:, 1]
    X = np.zeros((300, 1))
    assert Marginal().fit(X, log_of(scores)).predict(X).quality[0].argmax() == 0
    assert RunningMean(0.05).fit(X, log_of(scores)).predict(X).quality[0].argmax() == 1


def test_a_new_candidate_is_learned_from_its_own_scores() -> None:
    X, outcomes = make_problem(60)
    fitted = RunningMean(0.1).fit(X, outcomes)
    grown = fitted.with_candidate("new", X[:20], outcomes.scores[:20, 1])
    assert grown.candidates_ == (*outcomes.candidates, "new")
    np.testing.assert_array_equal(grown.predict(X).quality[:, :3], fitted.predict(X).quality)
    np.testing.assert_array_equal(grown.predict(X).quality_se[:, :3], fitted.predict(X).quality_se)
    for i in range(20, 60):
        grown.update("new", outcomes.scores[i, 1])
    prediction = grown.predict(X)
    np.testing.assert_allclose(prediction.quality[:, 3], prediction.quality[:, 1], atol=1e-12)
    np.testing.assert_allclose(prediction.quality_se[:, 3], prediction.quality_se[:, 1], rtol=1e-9)
    assert_same(fitted, RunningMean(0.1).fit(X, outcomes), X, atol=0.0)


# Faults


def test_an_unknown_candidate_is_told_in_a_sentence() -> None:
    X, outcomes = make_problem(40)
    sentence = "^'gpt' is none of the candidates large, medium, small.$"
    with pytest.raises(RouterError, match=sentence):
        LinearBandit().fit(X, outcomes).update(X[0], "gpt", 1.0)
    with pytest.raises(RouterError, match=sentence):
        RunningMean().fit(X, outcomes).update("gpt", 1.0)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_teaches_nothing(score: float) -> None:
    X, outcomes = make_problem(40)
    bandit, mean = LinearBandit().fit(X, outcomes), RunningMean().fit(X, outcomes)
    with pytest.raises(RouterError, match="give a finite number"):
        bandit.update(X[0], "large", score)
    with pytest.raises(RouterError, match="give a finite number"):
        mean.update("large", score)
    assert_same(bandit, LinearBandit().fit(X, outcomes), X, atol=0.0)
    assert_same(mean, RunningMean().fit(X, outcomes), X, atol=0.0)


def test_a_vector_that_does_not_fit_is_refused() -> None:
    X, outcomes = make_problem(40)
    bandit = LinearBandit().fit(X, outcomes)
    for vector in (X[0][:3], X[:1], np.full(8, np.nan)):
        with pytest.raises(RouterError, match="give 8 finite numbers"):
            bandit.update(vector, "large", 1.0)


@pytest.mark.parametrize(
    "estimator",
    [
        LinearBandit(dimensions=0),
        LinearBandit(penalty=0.0),
        LinearBandit(forgetting=0.0),
        LinearBandit(forgetting=1.1),
        RunningMean(0.0),
        RunningMean(1.0),
    ],
    ids=repr,
)
def test_hyperparameters_out_of_range_are_refused(estimator: Estimator) -> None:
    with pytest.raises(RouterError, match=f"^{type(estimator).__name__} needs"):
        estimator.fit(*make_problem(40))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_log_of_a_query_or_two_is_enough(n: int) -> None:
    rng = np.random.default_rng(n)
    X = rng.normal(size=(n, 3))
    for estimator in (LinearBandit(), LinearBandit(forgetting=0.5), RunningMean(0.5)):
        prediction = estimator.fit(X, log_of(np.full((n, 2), 0.5))).predict(rng.normal(size=(5, 3)))
        np.testing.assert_allclose(prediction.quality, 0.5)
        assert np.isfinite(prediction.quality_se).all()
