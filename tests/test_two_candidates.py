"""RouteLLM's metrics: by hand, by brute force, and on its own published tables."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from router.evaluation.two_candidates import (
    average_pgr,
    call_performance_threshold,
    call_performance_threshold_routellm,
    decile_curve,
    performance_gap_recovered,
    strong_share_curve,
    two_candidate_metrics,
)

WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
LEVELS = (0.2, 0.5, 0.8)


GAPS, SCORES = st.sampled_from([-0.5, 0.0, 0.25, 0.5]), st.sampled_from([0.0, 0.5, 1.0])


@st.composite
def problems(draw, most=25):
    """(gap, weak, strong) of one to `most` queries; equal gaps are common."""
    n = draw(st.integers(1, most))
    return tuple(draw(arrays(float, n, elements=values)) for values in (GAPS, SCORES, SCORES))


def released_code(gap, weak, strong):
    """RouteLLM's evals/benchmarks.py, told in our words: (strong share, score) of the thresholds
    between ten bins, sorted by share."""
    _, thresholds = pd.qcut(gap, 10, retbins=True)
    points = []
    for i, threshold in enumerate(thresholds):
        is_last = i == len(thresholds) - 1
        selected = [g > threshold if is_last else g >= threshold for g in gap]
        scores = [
            s if is_strong else w for is_strong, s, w in zip(selected, strong, weak, strict=True)
        ]
        points.append((sum(selected) / len(gap), sum(scores) / len(gap)))
    return np.array(sorted(points))


@pytest.fixture
def published(shared_table):
    """(weak, strong) scores of RouteLLM's published evaluation set, in its order."""

    def load(name):
        table = pd.read_parquet(shared_table(f"routellm_{name}"))
        table = table[table["split"] == "test_decontaminated"]
        by_model = [table[table["model"] == name] for name in (WEAK, STRONG)]
        assert by_model[0]["query_id"].tolist() == by_model[1]["query_id"].tolist()
        return tuple(side["score"].to_numpy() for side in by_model)

    return load


def test_curve_by_hand():
    gap = np.array([0.1, 0.9, 0.5])
    weak, strong = np.array([1.0, 0.0, 0.5]), np.array([0.0, 1.0, 0.5])
    curve = strong_share_curve(gap, weak, strong)
    assert curve == pytest.approx(np.array([(0, 0.5), (1 / 3, 5 / 6), (2 / 3, 5 / 6), (1, 0.5)]))


@given(problems(most=5))
def test_equal_gaps_count_in_their_expected_order(problem):
    gap, weak, strong = problem
    curves = []
    for order in itertools.permutations(range(len(gap))):
        ranked = sorted(order, key=lambda i: -gap[i])  # stable: a tie keeps the permutation's order
        gains = (strong - weak)[ranked]
        curves.append(weak.mean() + np.concatenate([[0], gains.cumsum()]) / len(gap))
    expected = np.mean(curves, axis=0)
    assert strong_share_curve(gap, weak, strong)[:, 1] == pytest.approx(expected)


@given(problems())
def test_curve_runs_from_the_weak_to_the_strong_model(problem):
    gap, weak, strong = problem
    curve = strong_share_curve(gap, weak, strong)
    assert curve[[0, -1]] == pytest.approx(np.array([(0, weak.mean()), (1, strong.mean())]))
    assert np.diff(curve[:, 0]) == pytest.approx(1 / len(gap))


@given(problems(), st.randoms(use_true_random=False))
def test_curve_depends_on_ranks_alone_and_not_on_the_order_of_queries(problem, shuffler):
    gap, weak, strong = problem
    rows = list(range(len(gap)))
    shuffler.shuffle(rows)
    curve = strong_share_curve(gap, weak, strong)
    assert strong_share_curve(np.exp(3 * gap), weak, strong) == pytest.approx(curve)
    assert strong_share_curve(gap[rows], weak[rows], strong[rows]) == pytest.approx(curve)


def test_pgr():
    assert performance_gap_recovered(0.75, 0.6, 0.8) == pytest.approx(0.75)
    assert performance_gap_recovered(0.5, 0.6, 0.8) == pytest.approx(-0.5)


def test_apgr_by_hand():
    # PGR 0, 0, 1 at shares 0, .5, 1: (0 + 1) / 2 x .5 = .25.
    assert average_pgr(np.array([(0, 0.2), (0.5, 0.2), (1, 0.6)])) == pytest.approx(0.25)
    assert average_pgr(np.array([(0, 0.2), (0.5, 0.6), (1, 0.6)])) == pytest.approx(0.75)
    assert average_pgr(np.array([(0, 0.2), (1, 0.6)])) == pytest.approx(0.5)


@given(problems())
def test_a_router_that_cannot_tell_queries_apart_is_the_random_one(problem):
    _, weak, strong = problem
    assume(strong.mean() > weak.mean())
    metrics = two_candidate_metrics(np.zeros(len(weak)), weak, strong)
    assert metrics["apgr"] == pytest.approx(0.5)
    assert metrics["apgr_routellm"] == pytest.approx(0.5)
    for level, name in zip(LEVELS, ("cpt20", "cpt50", "cpt80"), strict=True):
        # The full curve moves in steps of one query, the deciles' is a line.
        assert 100 * level - 1e-9 <= metrics[name] <= 100 * level + 100 / len(weak) + 1e-9
        assert metrics[f"{name}_routellm"] == pytest.approx(100 * level)


@given(problems())
def test_reversing_a_router_reverses_its_apgr(problem):
    gap, weak, strong = problem
    assume(strong.mean() > weak.mean())
    there = average_pgr(strong_share_curve(gap, weak, strong))
    back = average_pgr(strong_share_curve(-gap, weak, strong))
    assert there + back == pytest.approx(1)


@given(problems())
def test_no_order_beats_the_true_gap(problem):
    gap, weak, strong = problem
    assume(strong.mean() > weak.mean())
    ceiling = average_pgr(strong_share_curve(strong - weak, weak, strong))
    assert average_pgr(strong_share_curve(gap, weak, strong)) <= ceiling + 1e-12


@given(problems(), st.sampled_from(LEVELS))
def test_cpt_is_the_least_share_that_recovers_enough(problem, level):
    gap, weak, strong = problem
    assume(strong.mean() > weak.mean())
    curve = strong_share_curve(gap, weak, strong)
    share = call_performance_threshold(curve, level)
    ends = weak.mean(), strong.mean()
    reached = [performance_gap_recovered(score, *ends) >= level - 1e-9 for _, score in curve]
    assert share == curve[reached.index(True), 0]


def test_cpt_where_the_score_is_not_monotone():
    """The score reaches the level, falls below it and reaches it again: the first time counts."""
    scores = [0, 0.1, 0.2, 0.3, 0.6, 0.55, 0.3, 0.3, 0.4, 0.45, 1]
    curve = np.column_stack([np.linspace(0, 1, 11), scores])
    assert call_performance_threshold(curve, 0.5) == pytest.approx(0.4)


def test_cpt_as_released_is_interpolated():
    curve = np.array([(0, 0.2), (0.5, 0.4), (1, 0.7)])  # PGR 0, .4, 1
    assert call_performance_threshold(curve, 0.5) == 1
    assert call_performance_threshold_routellm(curve, 0.5) == pytest.approx(0.5 + 0.5 / 6)
    assert call_performance_threshold_routellm(curve, 0.2) == pytest.approx(0.25)


def test_no_metrics_where_the_strong_model_is_not_stronger():
    gap, same = np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.0, 1.0])
    assert two_candidate_metrics(gap, same, same) == {}
    assert two_candidate_metrics(gap, same, 1 - same) == {}


@given(st.integers(20, 60), st.integers(0, 2**32 - 1))
def test_decile_curve_is_the_released_codes(n, seed):
    rng = np.random.default_rng(seed)
    gap, weak, strong = rng.normal(size=n), rng.random(n), rng.random(n)
    assert decile_curve(gap, weak, strong) == pytest.approx(released_code(gap, weak, strong))


def test_decile_curve_takes_coinciding_edges_once():
    gap = np.repeat([0.0, 1.0], [50, 50])
    weak, strong = np.zeros(100), np.ones(100)
    curve = decile_curve(gap, weak, strong)
    assert curve == pytest.approx(np.array([(0, 0), (0.5, 0.5), (1, 1)]))


@pytest.mark.parametrize(
    ("name", "queries", "weak_percent", "strong_percent", "ceiling"),
    [("mmlu", 14_037, 68.091, 80.587, 1.268), ("gsm8k", 1_307, 63.734, 85.769, 1.115)],
)
def test_published_accuracies_and_ceiling(
    published, name, queries, weak_percent, strong_percent, ceiling
):
    weak, strong = published(name)
    assert len(weak) == queries
    assert round(100 * weak.mean(), 3) == weak_percent
    assert round(100 * strong.mean(), 3) == strong_percent
    # Queries of equal true gap in any order: their gains are the same.
    rank = (strong - weak).argsort(kind="stable").argsort()
    assert average_pgr(decile_curve(rank, weak, strong)) == pytest.approx(ceiling, abs=5e-4)
    # Eleven points cut the corners off the full curve, whose area is known in closed form.
    gained, lost = ((strong - weak == sign).mean() for sign in (1, -1))
    area = gained - (gained**2 + lost**2) / 2
    best = average_pgr(strong_share_curve(strong - weak, weak, strong))
    assert best == pytest.approx(area / (strong - weak).mean())


@pytest.mark.parametrize(
    ("name", "apgr", "spread"), [("mmlu", 0.5012, 0.009), ("gsm8k", 0.5069, 0.019)]
)
def test_random_router_as_published(published, name, apgr, spread):
    """The published figures are one run of a random router whose seed is not known. So: their
    mean over seeds is 50 % and 20/50/80 %, and the published run is one of ours within their
    spread."""
    weak, strong = published(name)
    runs = []
    for seed in range(200):
        gap = np.random.default_rng(seed).random(len(weak))
        curve = decile_curve(gap, weak, strong)
        levels = [100 * call_performance_threshold_routellm(curve, level) for level in LEVELS]
        runs.append([average_pgr(curve), *levels])
    mean, sd = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1)
    assert np.abs(mean - [0.5, 20, 50, 80]) == pytest.approx(0, abs=3 * (sd / 200**0.5).max())
    assert (np.abs(mean - [0.5, 20, 50, 80]) < 3 * sd / 200**0.5).all()
    assert sd[0] == pytest.approx(spread, rel=0.15)
    assert abs(apgr - mean[0]) < 3 * sd[0]
    if name == "mmlu":
        assert (np.abs([19.90, 50.04, 79.32] - mean[1:]) < 3 * sd[1:]).all()


@pytest.mark.parametrize(
    ("name", "apgr", "thresholds"),
    [
        ("mmlu", 0.49259, [19.63, 51.98, 81.28]),
        ("gsm8k", 0.48572, [19.69, 53.05, 83.02]),
    ],
)
def test_random_router_to_the_digit_under_the_released_codes_seed(
    published, name, apgr, thresholds
):
    """evals/evaluate.py calls random.seed(0) and draws one random.uniform(0, 1) for each prompt;
    here the prompts stand in the table's order."""
    weak, strong = published(name)
    generator = random.Random(0)
    gap = np.array([generator.uniform(0, 1) for _ in weak])
    released = released_code(gap, weak, strong)
    metrics = two_candidate_metrics(gap, weak, strong)
    assert metrics["apgr_routellm"] == pytest.approx(average_pgr(released))
    assert metrics["apgr_routellm"] == pytest.approx(apgr, abs=5e-6)
    found = [metrics[f"cpt{level}_routellm"] for level in (20, 50, 80)]
    assert found == pytest.approx(thresholds, abs=5e-3)
