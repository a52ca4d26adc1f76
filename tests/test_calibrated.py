"""Calibrated maps qualities to what was scored where they were predicted."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.linear_model
from conftest import make_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.base import clone
from test_estimator_graphs import assert_parity
from test_stack import Columns, coins, outcomes_of

from router.errors import RouterError
from router.estimators import KNN, Calibrated, Marginal, Partition, Ridge
from router.estimators.head import Head
from router.evaluation.metrics import expected_calibration_error

KINDS = ("isotonic", "platt", "beta")
every_kind = pytest.mark.parametrize("kind", KINDS)


def grid(m: int, low: float = -0.5, high: float = 1.5) -> np.ndarray:
    return np.tile(np.linspace(low, high, 501)[:, None], (1, m))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS), st.integers(2, 80), st.booleans())
def test_a_map_is_increasing_and_stays_in_the_unit_interval(
    seed: int, kind: str, n: int, graded: bool
) -> None:
    rng = np.random.default_rng(seed)
    quality = rng.normal(0.5, rng.uniform(0.01, 1), size=(n, 2))
    truth = np.clip(quality + rng.normal(size=(n, 2)) * rng.uniform(0, 1), 0, 1)
    outcomes = outcomes_of(truth if graded else np.round(truth))
    prediction = Calibrated(Columns(), kind).fit(quality, outcomes).predict(grid(2, -3, 4))
    assert (np.diff(prediction.quality, axis=0) >= -1e-12).all()
    assert prediction.quality.min() >= 0
    assert prediction.quality.max() <= 1


@every_kind
@pytest.mark.parametrize("graded", [False, True])
def test_the_calibration_error_of_a_miscalibrated_estimator_falls(kind: str, graded: bool) -> None:
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.05, 0.95, size=(4000, 2))
    overconfident = expit(3 * logit(chance) + np.array([1.0, -1.0]))
    scores = rng.beta(4 * chance, 4 * (1 - chance)) if graded else coins(rng, chance)
    fit, rest = np.arange(2000), np.arange(2000, 4000)
    calibrated = Calibrated(Columns(), kind).fit(overconfident[fit], outcomes_of(scores[fit]))
    after = calibrated.predict(overconfident[rest]).quality
    for j in range(2):
        errors = [
            expected_calibration_error(quality[:, j], scores[rest, j])
            for quality in (overconfident[rest], after)
        ]
        assert errors[0] > 0.1
        assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("kind", ["isotonic", "beta"])
def test_a_calibrated_estimator_stays_about_as_it_is(kind: str) -> None:
    rng = np.random.default_rng(1)
    chance = rng.uniform(0.05, 0.95, size=(6000, 2))
    calibrated = Calibrated(Columns(), kind).fit(chance, outcomes_of(coins(rng, chance)))
    assert np.abs(calibrated.predict(chance).quality - chance).mean() < 0.02


def test_platt_and_beta_recover_the_curve_that_made_the_scores() -> None:
    rng = np.random.default_rng(2)
    quality = rng.uniform(0.02, 0.98, size=(20_000, 1))
    inside = grid(1, 0.1, 0.9)

    def platt(q: np.ndarray) -> np.ndarray:
        return np.asarray(expit(4 * q - 3))

    def beta(q: np.ndarray) -> np.ndarray:
        return np.asarray(expit(2 * np.log(q) - 0.5 * np.log(1 - q) + 0.7))

    for kind, curve in (("platt", platt), ("beta", beta)):
        outcomes = outcomes_of(coins(rng, curve(quality)))
        found = Calibrated(Columns(), kind).fit(quality, outcomes).predict(inside).quality
        np.testing.assert_allclose(found, curve(inside), atol=0.03)


def test_platt_is_logistic_regression_on_his_smoothed_labels() -> None:
    rng = np.random.default_rng(3)
    quality = rng.random((60, 1))
    scores = np.clip(quality + 0.3 * rng.normal(size=(60, 1)), 0, 1)
    right = scores.sum()
    labels = scores * (right + 1) / (right + 2) + (1 - scores) / (60 - right + 2)
    model = sklearn.linear_model.LogisticRegression(C=1e9, tol=1e-10, max_iter=10_000)
    model.fit(
        np.concatenate([quality, quality]),
        np.repeat([1, 0], 60),
        np.concatenate([labels[:, 0], 1 - labels[:, 0]]),
    )
    found = Calibrated(Columns(), "platt").fit(quality, outcomes_of(scores)).predict(grid(1))
    np.testing.assert_allclose(
        found.quality[:, 0], model.predict_proba(grid(1))[:, 1], atol=1e-5, rtol=0
    )


def test_isotonic_runs_through_the_means_of_the_levels_and_pools_what_falls() -> None:
    level = np.repeat([0.1, 0.3, 0.6, 0.9], 50)
    mean = np.repeat([0.2, 0.6, 0.4, 0.7], 50)
    scores = mean + np.tile([0.1, -0.1], 100)
    fitted = Calibrated(Columns()).fit(level[:, None], outcomes_of(scores[:, None]))
    # 0.3 and 0.6 are pooled into a block at 0.45 with mean 0.5; outside, the map is level.
    points = np.array([0.0, 0.1, 0.275, 0.45, 0.9, 2.0])
    np.testing.assert_allclose(
        fitted.predict(points[:, None]).quality[:, 0], [0.2, 0.2, 0.35, 0.5, 0.7, 0.7]
    )


def test_isotonic_does_not_run_after_a_few_outcomes_at_the_end() -> None:
    quality = np.linspace(0, 1, 200)[:, None]
    scores = np.full((200, 1), 0.5)
    scores[:3], scores[-3:] = 0.0, 1.0
    predicted = Calibrated(Columns(), least_outcomes=30).fit(quality, outcomes_of(scores))
    assert predicted.predict(quality).quality.min() > 0.3
    assert predicted.predict(quality).quality.max() < 0.7


@every_kind
def test_the_map_is_fitted_on_predictions_of_queries_that_were_not_learned(kind: str) -> None:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(300, 8))
    outcomes = outcomes_of(coins(rng, np.full((300, 2), 0.5)))
    memory = KNN(n_neighbors=1, shrinkage=0.0)
    recalled = clone(memory).fit(X, outcomes).predict(X).quality
    assert np.ptp(recalled) == pytest.approx(1)
    # On new queries a memory of noise is worth nothing, and the map says so.
    mapped = Calibrated(memory, kind).fit(X, outcomes).predict(X).quality
    assert np.abs(mapped - outcomes.mean_scores()).max() < 0.12


@every_kind
def test_a_candidate_with_few_outcomes_takes_the_map_of_all(kind: str) -> None:
    rng = np.random.default_rng(5)
    chance = rng.uniform(0.1, 0.9, size=(3000, 3))
    quality = expit(3 * logit(chance))
    observed = np.ones(chance.shape, dtype=bool)
    observed[5:, 2] = False
    outcomes = outcomes_of(coins(rng, chance), observed)
    mapped = Calibrated(Columns(), kind).fit(quality, outcomes).predict(quality).quality
    assert np.abs(mapped[:, 2] - chance[:, 2]).mean() < 0.05
    assert np.abs(quality[:, 2] - chance[:, 2]).mean() > 0.1


@every_kind
def test_qualities_are_only_cut_where_there_is_nothing_to_learn_a_map_from(kind: str) -> None:
    few = outcomes_of(np.random.default_rng(6).random((8, 2)))
    always = outcomes_of(np.ones((100, 2)))
    for outcomes in (few, always):
        quality = np.random.default_rng(7).random((len(outcomes), 2))
        mapped = Calibrated(Columns(), kind).fit(quality, outcomes).predict(grid(2)).quality
        np.testing.assert_allclose(mapped, np.clip(grid(2), 0, 1), atol=1e-12)


@pytest.mark.parametrize("kind", ["platt", "beta"])
def test_the_standard_error_is_scaled_by_the_slope_of_the_map(kind: str) -> None:
    rng = np.random.default_rng(8)
    quality = rng.uniform(0.3, 0.7, size=(20_000, 2))
    outcomes = outcomes_of(coins(rng, np.clip(3 * quality - 1, 0, 1)))
    fitted = Calibrated(Columns(se=0.02), kind).fit(quality, outcomes)
    inside, step = grid(2, 0.4, 0.6), 1e-4
    ahead, behind = (fitted.predict(inside + s).quality for s in (step, -step))
    slope = (ahead - behind) / (2 * step)
    assert (slope > 1.5).all()
    np.testing.assert_allclose(fitted.predict(inside).quality_se, 0.02 * slope, rtol=0.02)


@every_kind
def test_no_quality_is_surer_than_the_mean_of_the_candidate(kind: str) -> None:
    X, outcomes = make_problem(300)
    least = Marginal().fit(X, outcomes).predict(X).quality_se
    prediction = Calibrated(Columns(se=1e-9), kind).fit(X, outcomes).predict(X)
    np.testing.assert_allclose(prediction.quality_se, least)


@every_kind
def test_the_graph_equals_predict(kind: str) -> None:
    X, outcomes = make_problem(150, observed=0.7)
    new, _ = make_problem(80, seed=1)
    for estimator in (Ridge(), Partition(n_clusters=8), Columns(), KNN()):
        head = Head(Calibrated(estimator, kind), Marginal()).fit(X.astype(np.float32), outcomes)
        assert_parity(head, new)
    # With an identity and a shared map among them.
    scores = outcomes.scores.copy()
    scores[:, 0] = 1.0
    observed = outcomes.observed.copy()
    observed[:, 2] &= np.cumsum(observed[:, 2]) <= 4
    head = Head(Calibrated(Ridge(), kind), Marginal()).fit(X, outcomes_of(scores, observed))
    assert_parity(head, new)


@pytest.mark.parametrize(
    "estimator",
    [
        Calibrated(Ridge(), kind="spline"),
        Calibrated(Ridge(), n_folds=1),
        Calibrated(Ridge(), least_outcomes=1),
    ],
    ids=repr,
)
def test_hyperparameters_out_of_range_are_refused_in_a_sentence(estimator: Calibrated) -> None:
    with pytest.raises(RouterError, match="Calibrated needs"):
        estimator.fit(*make_problem(40))


@pytest.mark.parametrize("kind", ["platt", "beta"])
def test_targets_beyond_a_score_are_refused_by_sigmoids(kind: str) -> None:
    X, outcomes = make_problem(40)
    with pytest.raises(RouterError, match=r"targets in \[0, 1\] for kind"):
        Calibrated(Ridge(), kind).fit(X, outcomes.with_target(3 * outcomes.scores))


def test_isotonic_serves_for_a_cost() -> None:
    rng = np.random.default_rng(9)
    known = rng.uniform(1, 3, size=(2000, 2))
    cost = known**2 * rng.uniform(0.9, 1.1, size=(2000, 2))
    fitted = Calibrated(Columns()).fit(known, outcomes_of(cost))
    inside = grid(2, 1.2, 2.8)
    np.testing.assert_allclose(fitted.predict(inside).quality, inside**2, rtol=0.05)
