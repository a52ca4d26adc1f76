"""kNN with its settings chosen and its inverted file, and kernel ridge."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from test_estimator_graphs import assert_parity
from test_estimator_maths import mask, outcomes_of

from router.errors import RouterError
from router.estimators import KNN, Estimator, KernelRidge, Marginal, Ridge
from router.estimators.head import Head
from router.estimators.neighbours import Exact, InvertedFile
from router.outcomes.matrix import OutcomeMatrix

few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def in_groups(outcomes: OutcomeMatrix, groups: np.ndarray) -> OutcomeMatrix:
    outcomes.queries["group"] = groups
    return outcomes


def clustered(rng: np.random.Generator, n: int, d: int = 24, n_topics: int = 40) -> np.ndarray:
    """(n, d) float32 unit vectors around topics of unequal size."""
    topics = rng.normal(size=(n_topics, d))
    topic = rng.choice(n_topics, size=n, p=rng.dirichlet(np.ones(n_topics)))
    X = topics[topic] + 0.6 * rng.normal(size=(n, d))
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


# The choice of n_neighbors and temperature


@few
@given(seeds, st.floats(0.5, 1.0))
def test_knn_takes_the_setting_that_routes_best_outside_each_querys_group(
    seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    n, m = 24, 3
    X, scores, observed = rng.normal(size=(n, 4)), rng.random((n, m)), mask(rng, n, m, share)
    observed[:, 0] |= ~observed.any(axis=1)
    outcomes = in_groups(outcomes_of(scores, observed), np.arange(n) // 2)
    sizes, temperatures = [1, 3, 8], [0.05, 0.5]
    # Without shrinkage, nothing of the overall mean is left in a prediction with neighbours.
    chosen = KNN(sizes, temperatures, shrinkage=0).fit(X, outcomes)
    standings = []
    for k in sizes:
        for temperature in temperatures:
            first, error = [], 0.0
            for i in range(n):
                rest = np.flatnonzero(outcomes.groups != outcomes.groups[i])
                alone = KNN(k, temperature, shrinkage=0).fit(X[rest], outcomes.take(rest))
                quality = alone.predict(X[[i]]).quality[0]
                nearest = np.argsort(-_cosine(X[rest], X[i]))[:k]
                unseen = ~observed[rest[nearest]].any(axis=0)
                quality[unseen] = outcomes.mean_scores()[unseen]
                j = int(quality.argmax())
                first += [scores[i, j]] if observed[i, j] else []
                error += ((quality - scores[i])[observed[i]] ** 2).sum()
            standings.append((-round(float(np.mean(first)), 6), error, k, temperature))
    assert (chosen.n_neighbors_, chosen.temperature_) == min(standings)[2:]


def _cosine(X: np.ndarray, query: np.ndarray) -> np.ndarray:
    return X @ query / np.linalg.norm(X, axis=1)


def test_knn_is_not_talked_into_one_neighbour_by_a_querys_own_copies() -> None:
    X, once = make_problem(150, seed=3)
    twice = np.repeat(np.arange(150), 2)
    copies = once.take(twice)
    assert KNN([1, 30]).fit(X[twice], copies).n_neighbors_ == 30
    # Were the copies strangers to each other, the nearest one would know the answer.
    strangers = in_groups(once.take(twice), np.arange(300))
    assert KNN([1, 30]).fit(X[twice], strangers).n_neighbors_ == 1


def test_knn_with_one_setting_is_what_the_choice_gives_when_it_falls_on_it() -> None:
    X, outcomes = make_problem(120)
    chosen = KNN([5, 20], [0.1, 0.4]).fit(X, outcomes)
    alone = KNN(chosen.n_neighbors_, chosen.temperature_).fit(X, outcomes)
    np.testing.assert_array_equal(chosen.predict(X).quality, alone.predict(X).quality)


# The inverted file


@pytest.mark.parametrize("n", [3000, 9000])
def test_the_inverted_file_finds_nearly_all_of_the_nearest(n: int) -> None:
    rng = np.random.default_rng(0)
    X = clustered(rng, n + 300)
    X, queries = X[:n], X[n:]
    _, exact = Exact(X).search(queries, 40)
    _, found = InvertedFile(X, n_probe=48).search(queries, 40)
    recall = [len(np.intersect1d(*both)) / 40 for both in zip(exact, found, strict=True)]
    assert np.mean(recall) >= 0.95


@pytest.mark.parametrize("n_probe", [1, 12])
@pytest.mark.parametrize("shape", ["clustered", "many copies", "all the same"])
def test_the_graph_searches_the_lists_that_predict_searches(n_probe: int, shape: str) -> None:
    rng = np.random.default_rng(1)
    X = clustered(rng, 1600)
    if shape == "many copies":
        X = X[rng.integers(8, size=1600)]  # 200 copies of each: more than are found at first
    elif shape == "all the same":
        X = np.tile(X[:1], (1600, 1))
    outcomes = outcomes_of(rng.random((1600, 3)), mask(rng, 1600, 3, 0.7))
    approximate = KNN(approximate_above=1000, n_probe=n_probe)
    head = Head(approximate, Marginal()).fit(X, outcomes)
    assert isinstance(head.quality_.votes_[0].neighbours, InvertedFile)
    queries = clustered(np.random.default_rng(2), 150)
    assert_parity(head, queries)
    assert_parity(head, queries[:1])
    assert_parity(head, X[:64])


@pytest.mark.parametrize("k", [5, 1500])
def test_the_inverted_file_is_exact_where_every_list_is_searched(k: int) -> None:
    rng = np.random.default_rng(3)
    X = clustered(rng, 1500)
    outcomes = outcomes_of(rng.random((1500, 2)))
    exact = KNN(k).fit(X, outcomes)
    everywhere = KNN(k, approximate_above=10, n_probe=10**6).fit(X, outcomes)
    queries = clustered(np.random.default_rng(4), 80)
    for name in ("quality", "quality_se"):
        np.testing.assert_allclose(
            getattr(everywhere.predict(queries), name),
            getattr(exact.predict(queries), name),
            atol=1e-5,
        )


def test_the_inverted_file_serves_the_choice_of_settings_too() -> None:
    rng = np.random.default_rng(5)
    X = clustered(rng, 1500)
    chance = 1 / (1 + np.exp(-4 * X[:, :3]))
    outcomes = outcomes_of((rng.random((1500, 3)) < chance).astype(float))
    sizes = [1, 40]
    exact = KNN(sizes).fit(X, outcomes)
    approximate = KNN(sizes, approximate_above=1000).fit(X, outcomes)
    assert approximate.n_neighbors_ == exact.n_neighbors_ == 40


def test_the_inverted_file_is_made_above_its_threshold_alone() -> None:
    X, outcomes = make_problem(60)
    at = KNN(approximate_above=60).fit(X, outcomes)
    above = KNN(approximate_above=59).fit(X, outcomes)
    assert isinstance(at.votes_[0].neighbours, Exact)
    assert isinstance(above.votes_[0].neighbours, InvertedFile)


# Kernel ridge


@few
@given(seeds, st.floats(0.3, 2.0), st.floats(0.05, 5.0))
def test_kernel_ridge_on_every_query_is_the_whole_kernels(
    seed: int, bandwidth: float, alpha: float
) -> None:
    rng = np.random.default_rng(seed)
    n = 25
    X, queries, scores = rng.normal(size=(n, 4)), rng.normal(size=(6, 4)), rng.random((n, 2))
    fitted = KernelRidge([bandwidth], n_landmarks=n, alphas=[alpha]).fit(X, outcomes_of(scores))
    squares = ((X[:, None] - X) ** 2).sum(axis=2)
    width = bandwidth * np.sqrt(squares.mean())
    # With an intercept that is not penalised: [K + alpha, 1; 1', 0] [a; b] = [y; 0].
    system = np.ones((n + 1, n + 1))
    system[:n, :n] = np.exp(-squares / (2 * width**2)) + alpha * np.eye(n)
    system[n, n] = 0
    solution = np.linalg.solve(system, np.vstack([scores, np.zeros(2)]))
    kernel = np.exp(-((queries[:, None] - X) ** 2).sum(axis=2) / (2 * width**2))
    expected = kernel @ solution[:n] + solution[n]
    np.testing.assert_allclose(fitted.predict(queries).quality, expected, atol=1e-4)


def wave(n: int, frequency: float, seed: int) -> tuple[np.ndarray, OutcomeMatrix]:
    """A candidate whose score swings across the first direction, and one that does not care."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n, 2))
    scores = 0.5 + 0.4 * np.column_stack([np.sin(frequency * X[:, 0]), np.zeros(n)])
    return X, outcomes_of(scores + 0.05 * rng.normal(size=(n, 2)))


def test_kernel_ridge_learns_what_no_line_can() -> None:
    X, train = wave(400, 6.0, seed=0)
    queries, test = wave(200, 6.0, seed=1)

    def loss(estimator: Estimator) -> float:
        error = estimator.fit(X, train).predict(queries).quality - test.scores
        return float((error**2).mean())

    assert loss(KernelRidge(n_landmarks=60)) < 0.1 * loss(Ridge())


def test_the_bandwidth_follows_the_truth() -> None:
    bandwidths = (0.1, 2.0)
    assert KernelRidge(bandwidths).fit(*wave(300, 14.0, seed=0)).bandwidth_ == 0.1
    assert KernelRidge(bandwidths).fit(*wave(300, 0.5, seed=0)).bandwidth_ == 2.0


@few
@given(seeds)
def test_the_bandwidth_is_that_of_least_leave_one_out_error(seed: int) -> None:
    X, outcomes = make_problem(40, seed % 1000, observed=0.7)
    bandwidths = (0.2, 0.6, 1.8)
    errors = {
        bandwidth: KernelRidge([bandwidth], n_landmarks=20).fit(X, outcomes).ridge_.loo_error_.sum()
        for bandwidth in bandwidths
    }
    chosen = KernelRidge(bandwidths, n_landmarks=20).fit(X, outcomes)
    assert chosen.bandwidth_ == min(errors, key=errors.__getitem__)


def test_kernel_ridge_judges_distances_by_their_own_scale() -> None:
    X, outcomes = make_problem(80)
    one = KernelRidge().fit(X, outcomes).predict(X)
    two = KernelRidge().fit(1000 * X, outcomes).predict(1000 * X)
    np.testing.assert_allclose(two.quality, one.quality, atol=1e-6)


def test_the_order_of_the_log_makes_no_difference_to_kernel_ridge() -> None:
    X, outcomes = make_problem(150, observed=0.7)
    order = np.random.default_rng(0).permutation(150)
    one = KernelRidge(n_landmarks=30).fit(X, outcomes).predict(X)
    two = KernelRidge(n_landmarks=30).fit(X[order], outcomes.take(order)).predict(X)
    np.testing.assert_allclose(two.quality, one.quality, atol=1e-6)


def test_the_graph_of_kernel_ridge_at_the_size_of_a_real_encoder() -> None:
    rng = np.random.default_rng(6)
    X = clustered(rng, 900, d=384)
    outcomes = outcomes_of((rng.random((600, 3)) < 0.5).astype(float))
    head = Head(KernelRidge(bandwidths=[0.5, 1.0]), Marginal()).fit(X[:600], outcomes)
    assert_parity(head, X[600:])
    assert_parity(head, X[:100])


# One more candidate


@pytest.mark.parametrize(
    "estimator",
    [
        KNN(),
        KNN([5, 20], approximate_above=100),
        KernelRidge(n_landmarks=40),
    ],
    ids=repr,
)
@pytest.mark.parametrize("k", [1, 2, 30])
def test_a_new_candidate_is_learned_from_its_labels_and_changes_no_other(
    estimator: Estimator, k: int
) -> None:
    X, outcomes = make_problem(150, costs=None)
    labelled, others = make_problem(30, seed=7)
    labelled, scores = labelled[:k], others.scores[:k, 1]
    head = Head(estimator, Marginal()).fit(X, outcomes)
    old = head.quality_
    before = old.predict(X)
    new = old.with_candidate("new", labelled, scores)
    after = new.predict(X)
    assert after.candidates == new.candidates_ == (*outcomes.candidates, "new")
    np.testing.assert_array_equal(after.quality[:, :3], before.quality)
    np.testing.assert_array_equal(after.quality_se[:, :3], before.quality_se)
    np.testing.assert_array_equal(old.predict(X).quality, before.quality)
    if k == 30:  # "medium" is right on one side of the space; so is the new candidate
        assert np.corrcoef(after.quality[:, 1], after.quality[:, 3])[0, 1] > 0.7
    else:
        assert (after.quality_se[:, 3] > before.quality_se.max(axis=1)).mean() > 0.9
    head.quality_ = new
    assert_parity(head, X)


def test_the_new_candidates_neighbours_are_its_own_labels() -> None:
    X, outcomes = make_problem(100)
    labelled, others = make_problem(40, seed=8)
    new = KNN(10).fit(X, outcomes).with_candidate("new", labelled, others.scores[:, 0])
    alone = KNN(10).fit(labelled, others)
    np.testing.assert_allclose(
        new.predict(X).quality[:, 3], alone.predict(X).quality[:, 0], atol=1e-6
    )


# Bad hyperparameters


@pytest.mark.parametrize(
    "estimator",
    [
        KNN(n_neighbors=[]),
        KNN(n_neighbors=[5, 0]),
        KNN(temperature=[]),
        KNN(temperature=[0.1, -0.1]),
        KNN(n_probe=0),
        KernelRidge(bandwidths=[]),
        KernelRidge(bandwidths=[0.5, 0.0]),
        KernelRidge(n_landmarks=0),
    ],
    ids=repr,
)
def test_hyperparameters_out_of_range_are_refused_in_a_sentence(estimator: Estimator) -> None:
    with pytest.raises(RouterError, match=f"{type(estimator).__name__} needs"):
        estimator.fit(*make_problem(40))
