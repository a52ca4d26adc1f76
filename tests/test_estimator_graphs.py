"""The exported graph computes what `predict` computes."""

from __future__ import annotations

import struct

import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.base import clone
from test_estimators import (
    every_estimator,
    every_estimator_that_takes_candidates,
    make_problem,
)

from router.estimators import KNN, Estimator, LightGBM, Logistic, Marginal, Partition, Ridge
from router.estimators.boosting import float32_at_most
from router.estimators.head import Head
from router.estimators.latent import LatentEstimator
from router.outcomes.matrix import OutcomeMatrix


def run(head: Head, X: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(
        head.to_onnx().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"vector": X.astype(np.float32)}), strict=True))


def head_of(estimator: Estimator) -> Head:
    """The estimator for quality and, where it can, for cost."""
    cost = Marginal() if isinstance(estimator, (Logistic, LatentEstimator)) else clone(estimator)
    return Head(clone(estimator), cost)


def assert_parity(head: Head, X: np.ndarray) -> None:
    X = X.astype(np.float32)
    predicted, computed = head.predict(X), run(head, X)
    np.testing.assert_allclose(computed["quality"], predicted.quality, atol=1e-5, rtol=0)
    np.testing.assert_allclose(computed["quality_se"], predicted.quality_se, atol=1e-5, rtol=0)
    assert ("amounts" in computed) == (head.cost_ is not None)
    if head.cost_ is not None:
        relative = computed["amounts"] / head.cost_.predict_amounts(X)
        np.testing.assert_allclose(relative, 1, atol=1e-5)


@every_estimator
@pytest.mark.parametrize("costs", ["usd", "tokens", None])
@pytest.mark.parametrize("observed", [1.0, 0.5])
def test_the_graph_equals_predict(estimator: Estimator, costs: str | None, observed: float) -> None:
    X, outcomes = make_problem(120, costs=costs, observed=observed)
    head = head_of(estimator).fit(X.astype(np.float32), outcomes)
    new, _ = make_problem(200, seed=1)
    assert_parity(head, new)
    assert_parity(head, new[:1])
    assert_parity(head, X)


@every_estimator_that_takes_candidates
@pytest.mark.parametrize("n_labels", [1, 30])
def test_the_graph_equals_predict_with_a_candidate_taken_in(
    estimator: Estimator, n_labels: int
) -> None:
    X, outcomes = make_problem(120, observed=0.8)
    X = X.astype(np.float32)
    head = Head(clone(estimator), Marginal()).fit(X, outcomes)
    labels = np.arange(n_labels) % 2.0
    head.quality_ = head.quality_.with_candidate("new", X[:n_labels], labels)
    amounts = np.linspace(0.1, 0.2, n_labels)[:, None]
    assert head.cost_ is not None
    head.cost_ = head.cost_.with_candidate("new", X[:n_labels], amounts)
    assert_parity(head, make_problem(80, seed=1)[0])


@pytest.mark.parametrize("cost", [Partition(4), LightGBM(n_estimators=5)], ids=repr)
@pytest.mark.parametrize("costs", ["usd", "tokens"])
def test_the_cost_of_a_candidate_taken_in(cost: Estimator, costs: str) -> None:
    X, outcomes = make_problem(120, costs=costs)
    X = X.astype(np.float32)
    head = Head(Marginal(), cost).fit(X, outcomes)
    assert head.cost_ is not None
    known = head.cost_.predict(X)
    head.quality_ = head.quality_.with_candidate("new", X[:20], np.ones(20))
    kinds = head.cost_.mean_.shape[1]
    amounts = np.random.default_rng(0).uniform(50, 150, size=(20, kinds))
    price = np.array([1e-6, 4e-6]) if costs == "tokens" else None
    head.cost_ = head.cost_.with_candidate("new", X[:20], amounts, price)
    predicted = head.cost_.predict(X)
    np.testing.assert_array_equal(predicted[:, :3], known)
    mean = amounts.mean(axis=0) @ (np.ones(kinds) if price is None else price)
    np.testing.assert_allclose(predicted[:, 3].mean(), mean, rtol=0.15)
    if not cost.takes_candidates:
        np.testing.assert_allclose(predicted[:, 3], mean)
    computed = run(head, X)["amounts"]
    np.testing.assert_allclose(computed / head.cost_.predict_amounts(X), 1, atol=1e-5)


def _all_the_same(X: np.ndarray, outcomes: OutcomeMatrix) -> tuple[np.ndarray, OutcomeMatrix]:
    return np.tile(X[:1], (len(X), 1)), outcomes


def _all_zero(X: np.ndarray, outcomes: OutcomeMatrix) -> tuple[np.ndarray, OutcomeMatrix]:
    return np.zeros_like(X), outcomes


def _every_query_many_times(
    X: np.ndarray, outcomes: OutcomeMatrix
) -> tuple[np.ndarray, OutcomeMatrix]:
    rows = np.arange(90) % 6
    return X[rows], outcomes.take(rows)


def _one_candidate_always_right(
    X: np.ndarray, outcomes: OutcomeMatrix
) -> tuple[np.ndarray, OutcomeMatrix]:
    scores = outcomes.scores.copy()
    scores[:, 1] = 1.0
    return X, outcomes.with_target(scores)


def _ten_queries(X: np.ndarray, outcomes: OutcomeMatrix) -> tuple[np.ndarray, OutcomeMatrix]:
    return X[:10], outcomes.take(np.arange(10))


@every_estimator
@pytest.mark.parametrize(
    "change",
    [
        _all_the_same,
        _all_zero,
        _every_query_many_times,
        _one_candidate_always_right,
        _ten_queries,
    ],
)
def test_the_graph_equals_predict_on_odd_logs(estimator: Estimator, change: object) -> None:
    assert callable(change)
    X, outcomes = change(*make_problem(100))
    head = head_of(estimator).fit(X.astype(np.float32), outcomes)
    assert_parity(head, X)
    assert_parity(head, make_problem(50, seed=1)[0])


@pytest.mark.parametrize(
    "estimator",
    [Partition([2, 5, 9], n_repeats=3), Ridge(se_rank=2), Logistic(se_rank=2), KNN(500)],
    ids=repr,
)
def test_the_graph_equals_predict_with_other_hyperparameters(estimator: Estimator) -> None:
    X, outcomes = make_problem(150, observed=0.7)
    assert_parity(head_of(estimator).fit(X, outcomes), make_problem(80, seed=1)[0])


def test_the_graph_equals_predict_at_the_size_of_a_real_encoder() -> None:
    rng = np.random.default_rng(0)
    _, outcomes = make_problem(400)
    X, new = rng.normal(size=(2, 400, 384)).astype(np.float32)
    for estimator in (Ridge(), Logistic(), Partition(n_clusters=8)):
        head = head_of(estimator).fit(X / np.linalg.norm(X, axis=1, keepdims=True), outcomes)
        assert_parity(head, new / np.linalg.norm(new, axis=1, keepdims=True))


@every_estimator
def test_the_same_head_is_written_to_the_same_bytes(estimator: Estimator) -> None:
    X, outcomes = make_problem(60)
    one, two = (head_of(estimator).fit(X, outcomes).to_onnx() for _ in range(2))
    assert one.SerializeToString() == two.SerializeToString()


# LightGBM's thresholds: float64 in its own trees, float32 in the graph.

doubles = st.floats(allow_nan=False, allow_infinity=False)
singles = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(doubles, singles)
@example(0.1, struct.unpack("f", struct.pack("f", 0.1))[0])
@example(1e300, 3.4028234663852886e38)
@example(-1e300, -3.4028234663852886e38)
def test_a_float32_threshold_sends_every_float32_where_the_float64_does(
    threshold: float, value: float
) -> None:
    assert (value <= threshold) == (value <= float32_at_most(threshold))


@given(singles, st.sampled_from([-1, 0, 1]))
@example(-3.4028234663852886e38, -1)
def test_a_float32_threshold_is_exact_beside_a_float32(value: float, step: int) -> None:
    threshold = float(np.nextafter(value, np.inf * step)) if step else value
    assert (value <= threshold) == (value <= float32_at_most(threshold))


def test_trees_in_the_graph_are_exact_at_their_thresholds() -> None:
    X, outcomes = make_problem(300, seed=2)
    X = np.round(X, 1).astype(np.float32)  # few values, so that thresholds lie beside the data
    fitted = LightGBM(n_estimators=20, feature_fraction=1.0).fit(X, outcomes)
    thresholds = sorted(
        threshold
        for of_candidate in fitted.boosters_
        for booster in of_candidate
        for threshold in booster.trees_to_dataframe()["threshold"].dropna()
    )
    near = np.float32(thresholds)
    values = np.unique([np.nextafter(near, -np.inf), near, np.nextafter(near, np.inf)])
    assert len(values) > 30
    rng = np.random.default_rng(0)
    queries = rng.choice(values, size=(3000, 8)).astype(np.float32)
    head = Head(fitted, Marginal())
    head.n_features_, head.quality_, head.cost_, head.latency_ = 8, fitted, None, None
    computed = run(head, queries)["quality"]
    np.testing.assert_allclose(computed, fitted.predict(queries).quality, atol=1e-6)
