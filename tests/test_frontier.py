"""The hull, the areas under it, and the frontier of a policy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.evaluation.bootstrap import Bootstrap
from router.evaluation.crossfit import aiq_gain, cross_fitted
from router.evaluation.frontier import (
    aiq,
    aiq_routerbench,
    curve_of,
    hull,
    mean_height,
    oracle_curve,
    quality_at,
    quality_neutral_cost,
)
from router.outcomes.splits import grouped_folds
from router.policies import Utility
from router.prediction import Prediction

# Coarse numbers, so that equal costs, equal qualities and points on one line are common.
coarse = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda p: (p[0] / 4, p[1] / 8))
fine = st.tuples(st.floats(0, 2), st.floats(0, 1))
clouds = st.lists(st.one_of(coarse, fine), min_size=1, max_size=12).map(np.array)


def best_mixture(points: np.ndarray, cost: float) -> float:
    """By brute force: the best quality that mixing two points buys for at most `cost`."""
    best = -math.inf
    for (c1, q1), (c2, q2) in itertools.product(points.tolist(), repeat=2):
        if c1 <= cost:
            share = 1.0 if c2 <= cost else (cost - c1) / (c2 - c1)
            best = max(best, q1, q1 + share * (q2 - q1))
    return best


def test_hull_by_hand():
    points = np.array([(0, 0.2), (1, 0.6), (2, 0.7), (3, 0.9), (1.5, 0.5), (4, 0.8)])
    assert hull(points).tolist() == [[0, 0.2], [1, 0.6], [3, 0.9]]


def test_hull_of_one_point_and_of_equal_costs():
    assert hull(np.array([(2.0, 0.5)])).tolist() == [[2.0, 0.5]]
    assert hull(np.array([(2.0, 0.5), (2.0, 0.9), (2.0, 0.1)])).tolist() == [[2.0, 0.9]]


@given(clouds)
def test_hull_rises_and_bends_down(points):
    steps = np.diff(hull(points), axis=0)
    assert (steps > 0).all()
    (run, rise), (next_run, next_rise) = steps[:-1].T, steps[1:].T
    assert (next_rise * run <= rise * next_run + 1e-12).all()  # no step is steeper than the last


@given(clouds)
def test_hull_lies_above_every_point_and_starts_at_the_cheapest(points):
    upper = hull(points)
    assert upper[0, 0] == points[:, 0].min()
    assert upper[-1, 1] == points[:, 1].max()
    heights = np.interp(points[:, 0], upper[:, 0], upper[:, 1])
    assert (heights >= points[:, 1] - 1e-12).all()


@given(clouds, st.randoms(use_true_random=False))
def test_hull_is_idempotent_and_blind_to_order_and_duplicates(points, random):
    upper = hull(points)
    assert np.array_equal(hull(upper), upper)
    rows = list(range(len(points))) * 2
    random.shuffle(rows)
    assert np.array_equal(hull(points[rows]), upper)


@given(clouds, st.floats(0, 3))
def test_quality_at_is_the_best_affordable_mixture(points, cost):
    if cost < points[:, 0].min():
        assert math.isclose(cost, points[:, 0].min(), rel_tol=1e-9) or np.isnan(
            quality_at(points, cost)
        )
    else:
        assert quality_at(points, cost) == pytest.approx(best_mixture(points, cost), abs=1e-9)


def test_quality_at_forgives_the_rounding_of_a_mean():
    thirds = np.array([0.1, 0.2, 0.3]).mean()
    assert quality_at(np.array([(thirds + 1e-17, 0.5)]), thirds - 1e-17) == 0.5


@pytest.mark.parametrize(
    ("points", "least", "largest", "expected"),
    [
        ([(0, 0), (1, 1)], 0, 1, 0.5),  # a triangle
        ([(0, 0.2), (1, 0.8)], 0, 2, 0.65),  # flat beyond its end: (0.5 + 0.8) / 2
        ([(0, 0.2), (1, 0.8), (2, 0.8)], 0, 2, 0.65),
        ([(0, 0.2), (2, 0.8)], 0, 1, 0.35),  # cut at the range's end
        ([(0, 0.2), (2, 0.8)], 1, 2, 0.65),  # and at its start
        ([(1, 0.6)], 0, 2, 0.3),  # worth nothing where it cannot be had
        ([(2, 0.6)], 0, 1, 0.0),
        ([(1, 0.6)], 0, 1, 0.0),
        ([(0, 0.4), (1, 0.5), (2, 0.9)], 0, 2, 0.65),  # the middle point lies below the mixture
        ([(5, 0.7)], 5, 5, 0.7),  # all models cost the same
        ([(0, 0.7), (0, 0.9)], 0, 0, 0.9),  # or nothing
    ],
)
def test_aiq_by_hand(points, least, largest, expected):
    assert aiq(np.array(points, dtype=float), least, largest) == pytest.approx(expected)


@given(st.floats(0, 1), st.floats(0, 5), st.floats(0.01, 5))
def test_aiq_of_a_constant_is_its_quality(quality, least, width):
    assert aiq(np.array([(least, quality)]), least, least + width) == pytest.approx(quality)


@given(clouds, st.floats(0, 1), st.floats(0.1, 2))
def test_aiq_is_the_mean_height_of_the_hull(points, least, width):
    # Midpoints of a fine grid; the hull has few corners, so the error is small.
    costs = least + width * (np.arange(4000) + 0.5) / 4000
    upper = hull(points)
    heights = np.interp(costs, upper[:, 0], upper[:, 1], left=0.0)
    # A step at the first corner is off by at most one cell, a steep corner likewise.
    assert aiq(points, least, least + width) == pytest.approx(heights.mean(), abs=1e-3)


@given(clouds, st.one_of(coarse, fine), st.floats(0, 1), st.floats(0.1, 2))
def test_aiq_never_falls_when_a_setting_is_added(points, extra, least, width):
    more = np.vstack([points, extra])
    assert aiq(more, least, least + width) >= aiq(points, least, least + width) - 1e-12


@given(clouds, st.floats(1e-6, 1e6))
def test_aiq_does_not_depend_on_the_currency(points, rate):
    scaled = points * [rate, 1]
    assert aiq(scaled, 0.5 * rate, 2 * rate) == pytest.approx(aiq(points, 0.5, 2), abs=1e-9)


@given(clouds, st.floats(0, 1), st.floats(0.1, 2))
def test_aiq_lies_between_nothing_and_the_best_quality(points, least, width):
    assert 0 <= aiq(points, least, least + width) <= points[:, 1].max() + 1e-12


def test_aiq_where_equal_costs_differ_by_rounding():
    models = np.array([(0.1 + 0.2, 0.5), (0.3, 0.8)])  # 0.30000000000000004 and 0.3
    assert aiq(models, 0.3, 0.1 + 0.2) == 0.8
    assert aiq(np.array([(0.1 + 0.2, 0.5)]), 0.3, 0.3) == 0.5


def test_mean_height_of_a_line_that_falls():
    assert mean_height(np.array([(0, 0.8), (2, 0.4)]), 0, 4) == pytest.approx((0.6 + 0.4) / 2)


def test_aiq_routerbench_by_hand():
    points = np.array([(1, 0.5), (3, 0.9)])
    # The area from its own cheapest point, drawn out to the dearest of the company.
    assert aiq_routerbench(points, 5) == pytest.approx((0.7 * 2 + 0.9 * 2) / 5)
    assert aiq_routerbench(points, 3) == pytest.approx(0.7 * 2 / 3)
    # Where the router itself is the dearest, its own end counts.
    assert aiq_routerbench(points, 2) == aiq_routerbench(points, 3)
    assert aiq_routerbench(np.array([(0, 0.4), (0, 0.6)]), 0) == 0.6


@given(clouds, st.floats(0.1, 3))
def test_aiq_routerbench_is_the_fixed_range_from_zero(points, largest):
    """Both definitions agree over [0, c_max]: what lies below the cheapest point is worth 0."""
    end = max(largest, hull(points)[-1, 0])
    assert aiq_routerbench(points, largest) == pytest.approx(aiq(points, 0, end), abs=1e-9)


def test_aiq_routerbench_depends_on_the_company_and_the_fixed_range_does_not():
    points = np.array([(1, 0.5), (3, 0.9)])
    assert aiq_routerbench(points, 4) != pytest.approx(aiq_routerbench(points, 8))


def test_quality_neutral_cost_by_hand():
    points = np.array([(1, 0.5), (3, 0.9)])
    assert quality_neutral_cost(points, 0.7, 4) == pytest.approx(0.5)
    assert quality_neutral_cost(points, 0.4, 4) == pytest.approx(0.25)  # its cheapest suffices
    assert quality_neutral_cost(points, 0.9, 4) == pytest.approx(0.75)
    assert quality_neutral_cost(points, 0.91, 4) == math.inf
    assert quality_neutral_cost(np.array([(4, 0.9 - 1e-16)]), 0.9, 4) == pytest.approx(1)


def test_quality_neutral_cost_against_a_free_model():
    assert quality_neutral_cost(np.array([(0.0, 0.8)]), 0.8, 0.0) == 1.0
    assert quality_neutral_cost(np.array([(1.0, 0.8)]), 0.8, 0.0) == math.inf


@given(clouds, st.floats(0, 1))
def test_quality_neutral_cost_buys_the_quality_and_less_does_not(points, quality):
    neutral = quality_neutral_cost(points, quality, 1.0)
    if math.isinf(neutral):
        assert points[:, 1].max() < quality
    else:
        assert quality_at(points, neutral) >= quality - 1e-8
        if neutral > points[:, 0].min() + 1e-6:
            assert quality_at(points, neutral - 1e-6) < quality


def test_curve_judges_every_setting_on_the_outcomes(problem):
    _, outcomes = problem(60)
    rng = np.random.default_rng(0)
    quality = rng.random(outcomes.scores.shape)
    prediction = Prediction(outcomes.candidates, quality, quality * 0, outcomes.cost)
    policy = Utility()
    curve = curve_of(policy, prediction, outcomes)
    rows = np.arange(60)
    for i, setting in enumerate(policy.path(prediction)):
        chosen = setting.choose(prediction)
        assert curve.quality[i] == pytest.approx(outcomes.scores[rows, chosen])
        assert curve.cost[i] == pytest.approx(outcomes.cost[rows, chosen])
        assert curve.shares[i] == pytest.approx(np.bincount(chosen, minlength=3) / 60)
    assert curve.points == pytest.approx(
        np.stack([curve.cost.mean(axis=1), curve.quality.mean(axis=1)], axis=1)
    )


def test_every_curve_ends_with_the_cheapest_candidate_alone(problem):
    _, outcomes = problem(60)
    flipped = Prediction(
        outcomes.candidates,
        outcomes.scores,
        outcomes.scores * 0,
        outcomes.cost[:, ::-1],  # a prediction that takes the dearest for the cheapest
    )
    curve = curve_of(Utility(), flipped, outcomes)
    assert curve.points[-1] == pytest.approx(
        [outcomes.cost[:, 2].mean(), outcomes.scores[:, 2].mean()]
    )
    assert curve.shares[-1].tolist() == [0, 0, 1]


def test_oracle_is_bounded_by_the_outcomes_and_above_all_models(problem):
    _, outcomes = problem(200)
    points = oracle_curve(outcomes)
    assert points[:, 1].max() == pytest.approx(outcomes.scores.max(axis=1).mean())
    assert points[:, 0].min() == pytest.approx(outcomes.cost.min(axis=1).mean())
    for cost, quality in zip(outcomes.cost.mean(axis=0), outcomes.scores.mean(axis=0), strict=True):
        assert quality_at(points, cost) >= quality


def gain_of(outcomes, quality, resamples=200):
    """(AIQ gain, cross-fitted; the hull's gain on the same queries) of a router that predicts
    `quality` and knows the mean costs."""
    cost = np.tile(outcomes.cost.mean(axis=0), (len(outcomes), 1))
    prediction = Prediction(outcomes.candidates, quality, quality * 0, cost)
    curve = curve_of(Utility(), prediction, outcomes)
    bootstrap = Bootstrap(outcomes.groups, resamples)
    of_models = outcomes.cost.T, outcomes.scores.T
    models = np.stack([outcomes.cost.mean(axis=0), outcomes.scores.mean(axis=0)], axis=1)
    ends = models[:, 0].min(), models[:, 0].max()
    naive = aiq(curve.points, *ends) - aiq(models, *ends)
    return aiq_gain(curve.cost, curve.quality, *of_models, bootstrap, outcomes.groups), naive


def test_a_router_that_knows_nothing_gains_nothing(problem):
    """The hull of a hundred noisy settings lies above the line between two models in every run;
    the cross-fitted gain scatters around zero and its interval nearly always holds it."""
    gains, naive = [], []
    for seed in range(24):
        outcomes = problem(300, seed)[1].select(["large", "small"])
        noise = np.random.default_rng(seed).random(outcomes.scores.shape)
        gain, hull_gain = gain_of(outcomes, [0.8, 0.2] + 0.1 * noise)
        gains.append(gain)
        naive.append(hull_gain)
    values = np.array([gain.value for gain in gains])
    assert min(naive) > 0
    assert abs(values.mean()) < 2.5 * values.std() / np.sqrt(len(values))
    assert sum(gain.low > 0 for gain in gains) <= 2


def test_a_router_that_knows_the_prompt_gains(problem):
    _, outcomes = problem(600)
    algebra = outcomes.tasks == "algebra"
    quality = np.where(algebra[:, None], [0.9, 0.3, 0.2], [0.9, 0.9, 0.3])
    gain, hull_gain = gain_of(outcomes, quality)
    assert 0 < gain.low < gain.value < gain.high
    assert gain.value == pytest.approx(hull_gain, abs=0.01)


def test_cross_fitted_mixtures_do_not_see_the_query_that_they_judge():
    rng = np.random.default_rng(0)
    cost, quality = rng.random((6, 40)), rng.random((6, 40))
    groups, targets = np.arange(40) // 2, np.array([0.3, 0.5])
    before = cross_fitted(cost, quality, targets, groups)
    fold = grouped_folds(groups, 5)[0][1]
    changed, of_fold = quality.copy(), fold[0]
    changed[:, of_fold] = rng.random(6) * 100
    after = cross_fitted(cost, changed, targets, groups)
    assert not np.allclose(after[of_fold], before[of_fold])
    assert np.array_equal(after[fold[1:]], before[fold[1:]])


def test_cross_fitted_mixtures_hit_their_targets_where_all_queries_are_alike():
    settings = np.array([(1.0, 0.2), (2.0, 0.8), (4.0, 0.9), (3.0, 0.1)])
    cost, quality = (np.tile(column[:, None], (1, 20)) for column in settings.T)
    targets = np.array([0.5, 1.0, 1.5, 3.0, 9.0])
    fitted = cross_fitted(cost, quality, targets, np.arange(20))
    assert fitted[:, :, 0] == pytest.approx(np.tile([1.0, 1.0, 1.5, 3.0, 4.0], (20, 1)))
    assert fitted[:, :, 1] == pytest.approx(np.tile([0.2, 0.2, 0.5, 0.85, 0.9], (20, 1)))


def test_the_gain_over_one_group_of_queries_is_unknown():
    ones = np.ones((2, 8))
    gain = aiq_gain(ones, ones, ones, ones, Bootstrap(np.zeros(8), 10), np.zeros(8))
    assert np.isnan([gain.value, gain.low, gain.high]).all()
