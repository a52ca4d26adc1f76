"""Figures of one operating point, against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from router.evaluation.metrics import (
    brier,
    cost_save,
    expected_calibration_error,
    oracle_gap_closed,
    perf_gain,
    routerarena_score,
)

shares = st.floats(0, 1)


def test_oracle_gap_closed():
    assert oracle_gap_closed(0.75, 0.6, 0.9) == pytest.approx(0.5)
    assert oracle_gap_closed(0.6, 0.6, 0.9) == 0
    assert oracle_gap_closed(0.9, 0.6, 0.9) == 1
    assert oracle_gap_closed(0.5, 0.6, 0.9) == pytest.approx(-1 / 3)
    assert math.isnan(oracle_gap_closed(0.9, 0.9, 0.9))
    assert math.isnan(oracle_gap_closed(0.9, 0.9, 0.9 + 1e-16))


@pytest.mark.parametrize(
    ("accuracy", "dollars", "published"),
    [  # RouterArena's leaderboard, 2025: accuracy and USD per 1,000 queries, as rounded there
        (0.6688, 0.15, 66.89),  # MIRT-BERT
        (0.6809, 0.54, 66.66),  # Azure-Router
        (0.6634, 0.21, 66.12),  # NIRT-BERT
        (0.7396, 10.02, 64.32),  # GPT-5
    ],
)
def test_routerarena_score_is_the_leaderboards(accuracy, dollars, published):
    assert 100 * routerarena_score(accuracy, dollars / 1000) == pytest.approx(published, abs=0.05)


def test_routerarena_score_by_hand():
    # Half way between the ends on the logarithmic scale: C = 0.5, S = 1.1 x 0.8 x 0.5 / 0.58.
    middle = math.sqrt(200 * 0.0044) / 1000
    assert routerarena_score(0.8, middle) == pytest.approx(0.44 / 0.58)
    assert routerarena_score(0.8, 0.0044 / 1000) == pytest.approx(0.88 / 1.08)
    assert routerarena_score(0.8, 0.0) == routerarena_score(0.8, 0.0044 / 1000)
    assert routerarena_score(0.8, 0.2) == 0
    assert routerarena_score(0.8, 7.0) == 0
    assert routerarena_score(0.0, 7.0) == 0
    assert routerarena_score(1.0, 0.0) == pytest.approx(1)


@given(shares, shares, st.floats(1e-6, 0.2), st.floats(1e-6, 0.2))
def test_routerarena_score_rises_with_accuracy_and_falls_with_cost(a, b, cheap, dear):
    worse, better = sorted((a, b))
    cheap, dear = sorted((cheap, dear))
    assert routerarena_score(worse, cheap) <= routerarena_score(better, cheap) + 1e-12
    assert routerarena_score(better, dear) <= routerarena_score(better, cheap) + 1e-12


def test_perf_gain_and_cost_save_by_hand():
    settings = np.array([(1.0, 0.6), (2.0, 0.8), (3.0, 0.88), (4.0, 0.84)])
    assert perf_gain(settings, 0.8) == pytest.approx(0.1)
    assert perf_gain(settings, 1.0) == pytest.approx(-0.12)
    assert cost_save(settings, 0.8, 8.0) == pytest.approx(0.75)
    assert cost_save(settings, 0.85, 2.0) == pytest.approx(-0.5)  # it costs more
    assert math.isnan(cost_save(settings, 0.9, 8.0))


def test_figures_against_a_model_that_never_scores_or_costs_nothing():
    settings = np.array([(0.0, 0.6)])
    assert math.isnan(perf_gain(settings, 0.0))
    assert math.isnan(cost_save(settings, 0.5, 0.0))


def test_cost_save_forgives_the_rounding_of_a_mean():
    assert cost_save(np.array([(2.0, 0.3)]), 0.1 + 0.2, 4.0) == pytest.approx(0.5)


def test_brier_by_hand():
    assert brier(np.array([0.0, 1.0, 0.5]), np.array([0.0, 0.0, 1.0])) == pytest.approx(1.25 / 3)


@given(shares, arrays(float, st.integers(1, 30), elements=st.sampled_from([0.0, 1.0])))
def test_brier_of_a_constant_is_variance_and_squared_bias(constant, score):
    expected = score.var() + (score.mean() - constant) ** 2
    assert brier(np.full(len(score), constant), score) == pytest.approx(expected)


def test_calibration_error_by_hand():
    """Ten predictions, ten bins of one: the mean absolute error."""
    predicted = np.linspace(0.05, 0.95, 10)
    score = np.array([0, 0, 1, 0, 0, 1, 1, 1, 0, 1], dtype=float)
    assert expected_calibration_error(predicted, score) == pytest.approx(
        np.abs(predicted - score).mean()
    )


def test_calibration_error_of_two_levels():
    """60 queries at .2, of which 18 succeed; 40 at .7, of which 30 do."""
    predicted = np.repeat([0.2, 0.7], [60, 40])
    score = np.concatenate([np.repeat([1.0, 0.0], [18, 42]), np.repeat([0.0, 1.0], [10, 30])])
    assert expected_calibration_error(predicted, score) == pytest.approx(
        0.6 * abs(0.2 - 0.3) + 0.4 * abs(0.7 - 0.75)
    )


@given(shares, arrays(float, st.integers(1, 40), elements=shares))
def test_calibration_error_of_a_constant_is_its_bias(constant, score):
    """Equal predictions are one bin: the order of the log does not make them look uncalibrated."""
    error = expected_calibration_error(np.full(len(score), constant), score)
    assert error == pytest.approx(abs(constant - score.mean()))


@given(st.data(), st.integers(1, 40), st.randoms(use_true_random=False))
def test_calibration_error_is_blind_to_order_and_bounded(data, n, random):
    predicted = data.draw(arrays(float, n, elements=st.sampled_from([0.1, 0.25, 0.5, 0.9])))
    score = data.draw(arrays(float, n, elements=shares))
    rows = list(range(n))
    random.shuffle(rows)
    error = expected_calibration_error(predicted, score)
    assert expected_calibration_error(predicted[rows], score[rows]) == pytest.approx(error)
    assert abs(predicted.mean() - score.mean()) - 1e-12 <= error
    assert error <= np.abs(predicted - score).mean() + 1e-12


def test_calibration_error_of_a_calibrated_prediction_vanishes_with_the_sample():
    rng = np.random.default_rng(0)
    predicted = rng.random(40_000)
    score = (rng.random(40_000) < predicted).astype(float)
    assert expected_calibration_error(predicted, score) < 0.01
    assert expected_calibration_error(predicted**2, score) > 0.1
