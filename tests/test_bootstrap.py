"""The bootstrap: its draws, its coverage, its pairing and its memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from router.evaluation.bootstrap import Bootstrap, Interval


def test_interval_to_dict():
    assert Interval(0.5, 0.4, 0.6).to_dict() == {"value": 0.5, "low": 0.4, "high": 0.6}


@pytest.mark.parametrize("n_groups", [40, 4000])  # in one piece, and in several
def test_means_are_those_of_whole_groups_drawn_with_replacement(n_groups):
    rng = np.random.default_rng(1)
    groups = rng.integers(n_groups, size=6000) * 7 - 3
    values = rng.random((6000, 2))
    resamples = 1000 if n_groups == 4000 else 50
    means = Bootstrap(groups, resamples, random_state=5).means(values)
    names = np.unique(groups)
    members = [np.flatnonzero(groups == name) for name in names]
    drawn = np.random.default_rng(5).integers(len(names), size=(resamples, len(names)))
    for i in (0, 1, resamples // 2, resamples - 1):
        rows = np.concatenate([members[group] for group in drawn[i]])
        assert means[i] == pytest.approx(values[rows].mean(axis=0))


def test_shape_of_the_means_follows_the_values():
    bootstrap = Bootstrap(np.arange(12), 30)
    values = np.random.default_rng(0).random((12, 3, 2))
    means = bootstrap.means(values)
    assert means.shape == (30, 3, 2)
    assert means[:, 1, 0] == pytest.approx(bootstrap.means(values[:, 1, 0]))


def test_every_figure_sees_the_same_resamples():
    """So a difference is paired, whatever was asked before."""
    values = np.random.default_rng(0).random((80, 2))
    bootstrap = Bootstrap(np.arange(80) // 2, 100)
    first = bootstrap.means(values[:, 0])
    difference = bootstrap.means(values[:, 0] - values[:, 1])
    assert difference == pytest.approx(first - bootstrap.means(values[:, 1]))
    again = Bootstrap(np.arange(80) // 2, 100)
    assert again.mean(values[:, 0]) == bootstrap.mean(values[:, 0])
    other_seed = Bootstrap(np.arange(80) // 2, 100, random_state=1)
    assert other_seed.mean(values[:, 0]) != bootstrap.mean(values[:, 0])


@given(arrays(float, st.integers(2, 30), elements=st.floats(-5, 5)), st.floats(-3, 3))
def test_means_are_linear_and_stay_within_the_data(values, shift):
    bootstrap = Bootstrap(np.arange(len(values)), 40)
    means = bootstrap.means(values)
    assert means.min() >= values.min() - 1e-9
    assert means.max() <= values.max() + 1e-9
    assert bootstrap.means(2 * values + shift) == pytest.approx(2 * means + shift)
    interval = bootstrap.mean(np.full(len(values), shift))
    assert [interval.low, interval.value, interval.high] == pytest.approx([shift] * 3)


def test_interval_of_a_mean_is_the_normal_theorys():
    values = np.random.default_rng(0).exponential(size=2000)
    interval = Bootstrap(np.arange(2000), 4000).mean(values)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert interval.value == pytest.approx(values.mean())
    assert interval.value - interval.low == pytest.approx(half, rel=0.1)
    assert interval.high - interval.value == pytest.approx(half, rel=0.1)


def test_level_sets_the_width():
    values = np.random.default_rng(0).normal(size=500)
    wide, narrow = (
        Bootstrap(np.arange(500), 4000, level=level).mean(values) for level in (0.95, 0.5)
    )
    ratio = (wide.high - wide.low) / (narrow.high - narrow.low)
    assert ratio == pytest.approx(1.96 / 0.6745, rel=0.1)


def test_coverage_is_near_nominal():
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(100, 400))
    means = Bootstrap(np.arange(100), 400).means(samples)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    covered = ((low <= 1) & (high >= 1)).mean()
    assert 0.91 < covered < 0.97


def test_coverage_needs_the_groups():
    """25 groups of eight queries that share most of their luck: drawn one by one they look like
    200 independent queries, and the interval is far too narrow."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(25), 8)
    samples = rng.normal(size=(25, 400))[group] + 0.3 * rng.normal(size=(200, 400))
    covered = {}
    for name, groups in (("grouped", group), ("alone", np.arange(200))):
        low, high = np.quantile(Bootstrap(groups, 400).means(samples), [0.025, 0.975], axis=0)
        covered[name] = ((low <= 0) & (high >= 0)).mean()
    assert covered["grouped"] > 0.88
    assert covered["alone"] < 0.6


def test_groups_of_different_size_weigh_by_their_queries():
    values = np.array([0.0, 1.0, 1.0, 1.0])
    means = Bootstrap(np.array([0, 1, 1, 1]), 500).means(values)
    # Draws of the two groups: both the single (0), one of each (3/4), both the large (1).
    assert set(np.round(means, 12)) == {0.0, 0.75, 1.0}


def test_paired_difference_is_narrower_than_unpaired():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=300)
    router, single = (difficulty + 0.2 * rng.normal(size=300) for _ in range(2))
    bootstrap = Bootstrap(np.arange(300), 2000)
    paired = bootstrap.mean(router - single)
    apart = bootstrap.means(router) - Bootstrap(np.arange(300), 2000, random_state=9).means(single)
    unpaired = bootstrap.interval(float(router.mean() - single.mean()), apart)
    assert paired.value == pytest.approx(unpaired.value)
    assert (paired.high - paired.low) < 0.4 * (unpaired.high - unpaired.low)


def test_one_group_alone_has_no_interval():
    interval = Bootstrap(np.zeros(20), 50).mean(np.arange(20.0))
    assert interval.value == 9.5
    assert np.isnan([interval.low, interval.high]).all()


def test_infinite_resamples_do_not_spoil_the_interval():
    bootstrap = Bootstrap(np.arange(10), 1000)
    resampled = np.concatenate([np.linspace(0, 1, 960), np.full(40, np.inf)])
    assert bootstrap.interval(0.5, resampled) == Interval(
        0.5, pytest.approx(0.026, abs=1e-3), np.inf
    )


def test_memory_is_bounded():
    """60,000 queries times 400 resamples of 8-byte integers alone would take 192 MB."""
    values = np.random.default_rng(0).random(60_000)
    tracemalloc.start()
    Bootstrap(np.arange(60_000), 400).mean(values)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 120e6
