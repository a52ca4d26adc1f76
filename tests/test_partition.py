"""Partitions beyond the common tests: soft assignment, learned shrinkage, a new candidate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_problem
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from test_estimator_graphs import assert_parity

from router.errors import RouterError
from router.estimators import Marginal, Partition
from router.estimators.base import Overall, overall_of
from router.estimators.cells import MOST_PSEUDO_COUNT, candidate_columns, learned_pseudo_count
from router.estimators.head import Head
from router.outcomes.matrix import OutcomeMatrix


def islands(
    n: int, levels: np.ndarray, seed: int = 0, noise: float = 0.3
) -> tuple[np.ndarray, np.ndarray, OutcomeMatrix]:
    """(vectors, island of each, outcomes): levels (islands, m) are the candidates' true means."""
    rng = np.random.default_rng(seed)
    k, m = levels.shape
    island = rng.integers(k, size=n)
    X = 4 * np.eye(k)[island] + 0.1 * rng.normal(size=(n, k))
    _, outcomes = make_problem(n)
    names = tuple(f"m{j}" for j in range(m))
    scores = levels[island] + noise * rng.normal(size=(n, m))
    observed = np.ones((n, m), dtype=bool)
    return X, island, OutcomeMatrix(outcomes.queries, names, scores, observed)


# ---- Soft assignment ----------------------------------------------------------------------------


def test_soft_assignment_is_the_softmax_over_the_nearest_clusters() -> None:
    X, outcomes = make_problem(200)
    soft = Partition(6, n_nearest=3, temperature=0.2).fit(X, outcomes)
    centres = soft.blocks_[0].centres
    # What a query right at a cluster's centre is told by the hard partition is that cluster's mean.
    hard = Partition(6).fit(X, outcomes).predict(centres)
    queries, _ = make_problem(40, seed=1)
    prediction = soft.predict(queries)
    for i, x in enumerate(queries):
        distance = ((x - centres) ** 2).sum(axis=1)
        nearest = np.argsort(distance)[:3]
        weight = np.exp(-distance[nearest] / (2 * 0.2))
        weight /= weight.sum()
        np.testing.assert_allclose(prediction.quality[i], weight @ hard.quality[nearest], atol=1e-5)
        np.testing.assert_allclose(
            prediction.quality_se[i], weight @ hard.quality_se[nearest], atol=1e-5
        )


def test_a_low_temperature_is_the_nearest_cluster_alone() -> None:
    X, outcomes = make_problem(200)
    hard = Partition([3, 7], n_repeats=2).fit(X, outcomes).predict(X)
    soft = Partition([3, 7], n_repeats=2, n_nearest=5, temperature=1e-7).fit(X, outcomes).predict(X)
    np.testing.assert_allclose(soft.quality, hard.quality, atol=1e-6)
    np.testing.assert_allclose(soft.quality_se, hard.quality_se, atol=1e-6)


def test_a_high_temperature_is_the_plain_mean_of_the_clusters() -> None:
    X, outcomes = make_problem(200)
    soft = Partition(4, n_nearest=10, temperature=1e9).fit(X, outcomes)
    table = soft.predict(X).quality
    np.testing.assert_allclose(table, np.tile(table[:1], (200, 1)), atol=1e-6)
    hard = Partition(4).fit(X, outcomes).predict(soft.blocks_[0].centres).quality
    np.testing.assert_allclose(table[0], hard.mean(axis=0), atol=1e-6)


def test_one_nearest_cluster_does_not_look_at_the_temperature() -> None:
    X, outcomes = make_problem(120)
    one = Partition(5, n_repeats=3, temperature=0.01).fit(X, outcomes).predict(X)
    two = Partition(5, n_repeats=3, temperature=10.0).fit(X, outcomes).predict(X)
    np.testing.assert_array_equal(one.quality, two.quality)


@pytest.mark.parametrize("estimator", [
    Partition([4, 9], n_repeats=2, n_nearest=3),
    Partition(8, n_nearest=100, temperature=1.0),
    Partition(6, shrinkage=None),
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("costs", ["usd", "tokens"])
def test_the_graph_equals_predict(estimator: Partition, costs: str) -> None:
    X, outcomes = make_problem(150, observed=0.7, costs=costs)
    head = Head(estimator, estimator).fit(X.astype(np.float32), outcomes)
    assert_parity(head, make_problem(80, seed=1)[0])
    assert_parity(head, np.zeros((3, 8)))


# ---- Learned shrinkage --------------------------------------------------------------------------


def sums(values: np.ndarray, cell: np.ndarray, seen: np.ndarray) -> list[np.ndarray]:
    """Counts, deviations and squared deviations by cell; values and seen (n, m)."""
    deviation = np.where(seen, values - overall_of(np.where(seen, values, 0), seen).mean, 0.0)
    member = csr_array((np.ones(len(cell)), (cell, np.arange(len(cell)))))
    return [member @ seen, member @ deviation, member @ deviation**2]


@pytest.mark.parametrize("ratio", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_learned_pseudo_count_is_the_variance_within_over_that_between(
    ratio: float, share: float
) -> None:
    rng = np.random.default_rng(0)
    cell = rng.integers(1000, size=40_000)
    values = rng.normal(size=(1000, 4))[cell] + np.sqrt(ratio) * rng.normal(size=(40_000, 4))
    seen = rng.random((40_000, 4)) < share
    assert learned_pseudo_count(*sums(values, cell, seen)) == pytest.approx(ratio, rel=0.1)


def test_cells_that_do_not_differ_learn_the_overall_mean() -> None:
    values = np.tile([[0.0], [1.0]], (50, 1))
    seen = np.ones_like(values, dtype=bool)
    assert learned_pseudo_count(*sums(values, np.arange(100) // 10, seen)) == MOST_PSEUDO_COUNT
    X, outcomes = make_problem(200)
    rng = np.random.default_rng(0)
    noise = replace(outcomes, scores=rng.integers(2, size=(200, 3)).astype(float))
    learned = Partition(10, shrinkage=None).fit(X, noise).predict(X).quality
    fixed = Partition(10, shrinkage=0.0).fit(X, noise).predict(X).quality
    marginal = Marginal().fit(X, noise).predict(X).quality
    assert np.abs(learned - marginal).mean() < 0.5 * np.abs(fixed - marginal).mean()


def test_learned_shrinkage_is_near_the_best_one() -> None:
    rng = np.random.default_rng(5)
    levels = 0.5 + 0.1 * rng.normal(size=(12, 3))
    X, island, outcomes = islands(240, levels, noise=0.4)
    truth = levels[island]

    def loss(shrinkage: float | None) -> float:
        fitted = Partition(12, shrinkage=shrinkage).fit(X, outcomes)
        return float(((fitted.predict(X).quality - truth) ** 2).mean())

    best = min(loss(s) for s in (0.0, 1.0, 4.0, 16.0, 64.0, 256.0))
    assert loss(None) < 1.15 * best


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1), st.booleans()), min_size=1, max_size=30)
)
@example([(0, 0.1, True), (0, 0.1, True), (0, 0.1, True), (1, 0.7, True), (1, 0.7, True)])
@settings(max_examples=200)
def test_a_learned_pseudo_count_is_a_number_whatever_the_log(
    log: list[tuple[int, float, bool]],
) -> None:
    cell = np.array([entry[0] for entry in log])
    values = np.array([[entry[1]] for entry in log])
    seen = np.array([[entry[2]] for entry in log])
    seen[0] = True
    assert 0 <= learned_pseudo_count(*sums(values, cell, seen)) <= MOST_PSEUDO_COUNT


# ---- A new candidate ----------------------------------------------------------------------------


def test_many_labels_of_a_new_candidate_are_as_good_as_the_full_log() -> None:
    X, full = make_problem(800)
    joint = Partition(6, n_repeats=2).fit(X, full).predict(X)
    two = Partition(6, n_repeats=2).fit(X, full.select(full.candidates[:2]))
    added = two.with_candidate(full.candidates[2], X, full.scores[:, 2]).predict(X)
    np.testing.assert_allclose(added.quality, joint.quality, atol=0.02)
    np.testing.assert_allclose(added.quality_se, joint.quality_se, rtol=0.15)


def test_where_it_has_no_label_a_new_candidate_follows_the_others() -> None:
    levels = np.array([[0.9, 0.8], [0.3, 0.2], [0.6, 0.5]])
    X, island, outcomes = islands(900, levels, noise=0.1)
    fitted = Partition(3).fit(X, outcomes)
    rows = np.flatnonzero(island == 0)[:60]
    # As good as the first candidate where it was tried: so it should be elsewhere.
    added = fitted.with_candidate("new", X[rows], outcomes.scores[rows, 0]).predict(X)
    for k in range(3):
        new = added.quality[island == k, -1].mean()
        assert new == pytest.approx(levels[k, 0], abs=0.04)
    error = [added.quality_se[island == k, -1].mean() for k in range(3)]
    assert error[0] < min(error[1:])


def test_its_own_labels_correct_what_the_others_lead_to_expect() -> None:
    levels = np.array([[0.9, 0.8], [0.2, 0.1]])
    X, island, outcomes = islands(400, levels, noise=0.1)
    reverse = np.where(island == 0, 0.2, 0.9)
    added = Partition(2).fit(X, outcomes).with_candidate("new", X, reverse).predict(X)
    np.testing.assert_allclose(added.quality[:, -1], reverse, atol=0.03)


def test_a_lucky_level_from_few_labels_is_drawn_to_that_of_the_others() -> None:
    levels = np.full((2, 6), 0.5)
    X, _, outcomes = islands(400, levels, noise=0.1)
    fitted = Partition(2).fit(X, outcomes)
    few = fitted.with_candidate("new", X[:3], np.ones(3)).predict(X).quality[:, -1]
    many = fitted.with_candidate("new", X, np.ones(400)).predict(X).quality[:, -1]
    assert (few < 0.85).all()
    assert (many > 0.95).all()


def test_a_new_candidate_in_every_cell_by_hand() -> None:
    """One known candidate, hard cells, no shrinkage in the cell: level and means are plain."""
    table = np.array([[0.8, 0.1], [0.2, 0.1]])
    scores = np.array([1.0, 0.0, 0.0])
    overall = Overall(np.array([1 / 3]), np.array([0.2]), np.array([3]))
    weight = np.eye(2)[[0, 0, 1]]
    mean, _ = np.split(candidate_columns(table, 0.0, overall, weight, scores), 2, axis=1)
    np.testing.assert_allclose(mean[:, 0], [0.5, 0.0], atol=1e-6)
    # All prior: the profile plus the level, whose weight is three labels of thirteen.
    mean, _ = np.split(candidate_columns(table, 1e9, overall, weight, scores), 2, axis=1)
    level = (0.2 - 0.8 - 0.2) / 13
    np.testing.assert_allclose(mean[:, 0], [0.8 + level, 0.2 + level], atol=1e-6)


@pytest.mark.parametrize(
    "estimator",
    [Partition(n_nearest=0), Partition(temperature=0.0), Partition(shrinkage=float("nan"))],
    ids=repr,
)
def test_hyperparameters_out_of_range_are_refused(estimator: Partition) -> None:
    with pytest.raises(RouterError, match="Partition needs"):
        estimator.fit(*make_problem(40))
