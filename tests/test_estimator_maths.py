"""Estimators against their formulas, written out plainly or fitted by scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn.linear_model
from conftest import make_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from router.errors import RouterError
from router.estimators import KNN, LightGBM, Logistic, Marginal, Partition, Ridge
from router.estimators.base import overall_of
from router.estimators.linear_uncertainty import LinearUncertainty
from router.estimators.ridge import leave_one_out
from router.outcomes.matrix import OutcomeMatrix

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def outcomes_of(scores: np.ndarray, observed: np.ndarray | None = None) -> OutcomeMatrix:
    n, m = scores.shape
    queries = pd.DataFrame({"query_id": np.arange(n), "prompt": "p", "group": np.arange(n)})
    seen = np.ones((n, m), dtype=bool) if observed is None else observed
    return OutcomeMatrix(queries, tuple(f"c{j}" for j in range(m)), scores, seen)


def mask(rng: np.random.Generator, n: int, m: int, share: float) -> np.ndarray:
    """Random, but every candidate is seen twice at least."""
    observed = rng.random((n, m)) < share
    observed[:2] = True
    return observed


# Overall


@few
@given(seeds)
def test_the_overall_variance_counts_one_pseudo_outcome_of_the_pooled_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    observed = mask(rng, 30, 3, 0.5)
    targets = np.where(observed, rng.random((30, 3)), 0.0)
    overall = overall_of(targets, observed)
    columns = [targets[observed[:, j], j] for j in range(3)]
    squares = [((column - column.mean()) ** 2).sum() for column in columns]
    pooled = sum(squares) / sum(len(column) - 1 for column in columns)
    for j, column in enumerate(columns):
        assert overall.mean[j] == pytest.approx(column.mean())
        assert overall.variance[j] == pytest.approx((squares[j] + pooled) / len(column))
        assert overall.se[j] == pytest.approx(np.sqrt(overall.variance[j] / len(column)))


# Partition


def blobs(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 6) vectors in three far and narrow clusters, and each one's cluster."""
    label = np.concatenate([np.arange(3).repeat(3), rng.integers(3, size=n - 9)])
    return 10 * np.eye(6)[label] + 0.01 * rng.normal(size=(n, 6)), label


@few
@given(seeds, st.floats(0.3, 1.0))
def test_partition_without_shrinkage_gives_the_cluster_means(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    X, label = blobs(rng, 40)
    observed = mask(rng, 40, 2, share)
    scores = rng.random((40, 2))
    fitted = Partition(n_clusters=3, shrinkage=0).fit(X, outcomes_of(scores, observed))
    quality = fitted.predict(X).quality
    for cluster in range(3):
        for j in range(2):
            seen = (label == cluster) & observed[:, j]
            # Nothing seen here: all that is known is the overall mean.
            expected = scores[seen if seen.any() else observed[:, j], j].mean()
            np.testing.assert_allclose(quality[label == cluster, j], expected, atol=1e-6)


@few
@given(seeds, st.floats(0.3, 1.0))
def test_partition_with_infinite_shrinkage_is_the_marginal(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    X, _ = blobs(rng, 40)
    outcomes = outcomes_of(rng.random((40, 2)), mask(rng, 40, 2, share))
    shrunk = Partition(n_clusters=3, shrinkage=1e12).fit(X, outcomes).predict(X)
    marginal = Marginal().fit(X, outcomes).predict(X)
    np.testing.assert_allclose(shrunk.quality, marginal.quality, atol=1e-6)
    np.testing.assert_allclose(shrunk.quality_se, marginal.quality_se, atol=1e-6)


@few
@given(seeds, st.floats(0.01, 100.0))
def test_partition_shrinks_by_the_pseudo_count(seed: int, shrinkage: float) -> None:
    rng = np.random.default_rng(seed)
    X, label = blobs(rng, 40)
    scores = rng.random((40, 2))
    fitted = Partition(n_clusters=3, shrinkage=shrinkage).fit(X, outcomes_of(scores))
    prediction = fitted.predict(X)
    overall = overall_of(scores, np.ones((40, 2), dtype=bool))
    for cluster in range(3):
        own = scores[label == cluster]
        n = len(own) + shrinkage
        mean = (own.sum(axis=0) + shrinkage * overall.mean) / n
        spread = ((own - mean) ** 2).sum(axis=0) / n
        spread += shrinkage / n * (overall.variance + (overall.mean - mean) ** 2)
        se = np.sqrt(spread / n + (shrinkage / n) ** 2 * overall.se**2)
        first = np.flatnonzero(label == cluster)[0]
        np.testing.assert_allclose(prediction.quality[first], mean, atol=1e-6)
        np.testing.assert_allclose(prediction.quality_se[first], se, atol=1e-6)


def test_a_bag_of_partitions_is_their_mean() -> None:
    X, outcomes = make_problem(90)
    bag = Partition(n_clusters=[3, 7], n_repeats=2, random_state=5).fit(X, outcomes).predict(X)
    alone = [
        Partition(n_clusters=size, random_state=seed).fit(X, outcomes).predict(X)
        for size in (3, 7)
        for seed in (5, 6)
    ]
    np.testing.assert_allclose(bag.quality, np.mean([p.quality for p in alone], axis=0), atol=1e-6)
    np.testing.assert_allclose(
        bag.quality_se, np.mean([p.quality_se for p in alone], axis=0), atol=1e-6
    )


# kNN


@few
@given(
    seeds,
    st.integers(1, 30),
    st.floats(0.05, 1.0),
    st.sampled_from([0.1, 1.0, 10.0]),
    st.floats(0.3, 1.0),
)
def test_knn_equals_a_plain_loop(
    seed: int, k: int, temperature: float, shrinkage: float, share: float
) -> None:
    rng = np.random.default_rng(seed)
    X, queries = rng.normal(size=(25, 4)), rng.normal(size=(5, 4))
    X[20:] = X[:5]  # duplicates: as near as the last neighbour is near enough
    observed = mask(rng, 25, 2, share)
    scores = rng.random((25, 2))
    prediction = (
        KNN(k, temperature, shrinkage).fit(X, outcomes_of(scores, observed)).predict(queries)
    )
    overall = overall_of(np.where(observed, scores, 0.0), observed)
    known = observed.any(axis=1)  # queries without any outcome are no neighbours
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    for i, query in enumerate(queries):
        cosine = unit @ (query / np.linalg.norm(query))
        kth = np.sort(cosine[known])[::-1][min(k, known.sum()) - 1]
        for j in range(2):
            near = [r for r in range(25) if cosine[r] >= kth - 1e-6 and observed[r, j]]
            weights = np.array(
                [np.exp((cosine[r] - cosine[known].max()) / temperature) for r in near]
            )
            own = scores[near, j]
            total = weights.sum() + shrinkage
            mean = (weights @ own + shrinkage * overall.mean[j]) / total
            spread = weights @ (own - mean) ** 2 / total
            spread += shrinkage / total * (overall.variance[j] + (overall.mean[j] - mean) ** 2)
            effective = max(total**2 / ((weights**2).sum() + shrinkage), 1)
            se = np.sqrt(spread / effective + (shrinkage / total) ** 2 * overall.se[j] ** 2)
            assert prediction.quality[i, j] == pytest.approx(mean, abs=2e-5)
            assert prediction.quality_se[i, j] == pytest.approx(se, abs=2e-5)


def test_knn_where_no_neighbour_saw_a_candidate_gives_its_overall_mean() -> None:
    X = np.concatenate([np.tile([1.0, 0.0], (10, 1)), np.tile([0.0, 1.0], (10, 1))])
    observed = np.ones((20, 2), dtype=bool)
    observed[:10, 1] = False
    scores = np.random.default_rng(0).random((20, 2))
    prediction = KNN(5, shrinkage=0).fit(X, outcomes_of(scores, observed)).predict(X[:1])
    assert prediction.quality[0, 0] == pytest.approx(scores[:10, 0].mean(), abs=1e-6)
    assert prediction.quality[0, 1] == pytest.approx(scores[10:, 1].mean(), abs=1e-6)
    # What is known of a place where nothing was seen: it is one outcome's spread away.
    assert prediction.quality_se[0, 1] >= scores[10:, 1].std()


def test_knn_judges_by_the_angle_not_by_the_length() -> None:
    X, outcomes = make_problem(80)
    lengths = np.random.default_rng(0).uniform(0.1, 10, size=(80, 1))
    one, two = KNN().fit(X, outcomes).predict(X), KNN().fit(X * lengths, outcomes).predict(X * 3)
    np.testing.assert_allclose(two.quality, one.quality, atol=1e-5)


# Ridge


@few
@given(seeds, st.integers(5, 25), st.integers(1, 8), st.floats(0.01, 100))
def test_leave_one_out_equals_leaving_each_one_out(seed: int, n: int, d: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(n, d)) + 3, rng.random((n, 2))
    _, _, error = leave_one_out(X, Y, [alpha])
    squares = []
    for i in range(n):
        rest = np.arange(n) != i
        model = sklearn.linear_model.Ridge(alpha).fit(X[rest], Y[rest])
        squares.append((model.predict(X[[i]])[0] - Y[i]) ** 2)
    np.testing.assert_allclose(error, np.mean(squares, axis=0), rtol=1e-6)


@few
@given(seeds, st.floats(0.01, 100))
def test_copies_of_a_query_are_left_out_together(seed: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(8, 3))[rng.integers(8, size=20)], rng.random((20, 2))
    X[:2] = rng.normal(size=(2, 3))  # so that something is left of any
    _, _, error = leave_one_out(X, Y, [alpha])
    squares = []
    for i in range(20):
        rest = (X[i] != X).any(axis=1)
        model = sklearn.linear_model.Ridge(alpha).fit(X[rest], Y[rest])
        squares.append((model.predict(X[[i]])[0] - Y[i]) ** 2)
    np.testing.assert_allclose(error, np.mean(squares, axis=0), rtol=1e-6)


@few
@given(seeds, st.integers(3, 20))
def test_ridge_learns_a_new_candidate_from_its_labels_alone(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    X, labelled, scores = rng.normal(size=(30, 4)), rng.normal(size=(k, 4)), rng.random(k)
    old = Ridge().fit(X, outcomes_of(rng.random((30, 2))))
    new = old.with_candidate("new", labelled, scores)
    alone = Ridge().fit(labelled, outcomes_of(scores[:, None]))
    queries = rng.normal(size=(5, 4))
    np.testing.assert_array_equal(new.predict(queries).quality[:, :2], old.predict(queries).quality)
    np.testing.assert_allclose(
        new.predict(queries).quality[:, 2], alone.predict(queries).quality[:, 0], rtol=1e-9
    )
    np.testing.assert_allclose(new.loo_error_[2:], alone.loo_error_)
    assert (new.alpha_[2], len(new.loo_error_)) == (alone.alpha_[0], 3)


@few
@given(seeds, st.floats(0.5, 1.0))
def test_ridge_is_scikit_learns_at_the_penalty_of_least_leave_one_out_error(
    seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    n, m = 30, 3
    X = rng.normal(size=(n, 5))
    scores = rng.random((n, m)) + X @ rng.normal(size=(5, m)) * 0.1
    observed = mask(rng, n, m, share)
    observed[:4] = True
    alphas = (0.1, 1.0, 10.0, 100.0)
    fitted = Ridge(alphas).fit(X, outcomes_of(scores, observed))
    queries = rng.normal(size=(6, 5))
    quality = fitted.predict(queries).quality
    for j in range(m):
        own = observed[:, j]
        errors = [leave_one_out(X[own], scores[own][:, [j]], [a])[2][0] for a in alphas]
        assert fitted.alpha_[j] == alphas[int(np.argmin(errors))]
        model = sklearn.linear_model.Ridge(fitted.alpha_[j]).fit(X[own], scores[own, j])
        np.testing.assert_allclose(quality[:, j], model.predict(queries), rtol=1e-7)


@few
@given(seeds, st.integers(1, 8), st.floats(0.01, 10), st.floats(0.01, 10))
def test_linear_uncertainty_is_the_exact_posterior_at_full_rank(
    seed: int, d: int, alpha: float, weight: float
) -> None:
    rng = np.random.default_rng(seed)
    X, queries = rng.normal(size=(20, d)) + 2, rng.normal(size=(5, d))
    uncertainty = LinearUncertainty.fit(X, np.full((20, 1), weight), np.array([alpha]), rank=d)
    # The intercept has a flat prior, the slopes one of precision alpha.
    A = np.column_stack([X, np.ones(20)])
    precision = weight * A.T @ A + np.diag([alpha] * d + [0.0])
    Q = np.column_stack([queries, np.ones(5)])
    exact = np.einsum("qi,ij,qj->q", Q, np.linalg.inv(precision), Q)
    np.testing.assert_allclose(uncertainty.variance(queries)[:, 0], exact, rtol=1e-6)


def test_linear_uncertainty_of_lower_rank_keeps_the_mean_of_the_rest() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5000, 12)) * np.where(np.arange(12) < 3, 5.0, 1.0)
    weights, alpha = np.ones((5000, 1)), np.array([2.0])
    full = LinearUncertainty.fit(X, weights, alpha, rank=12).variance(X)
    low = LinearUncertainty.fit(X, weights, alpha, rank=3).variance(X)
    # The nine directions left over are alike, so their mean serves for each.
    np.testing.assert_allclose(low, full, rtol=0.1)


def test_ridge_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    X, queries = rng.normal(size=(400, 10)), rng.normal(size=(300, 10))
    coef = rng.normal(size=(10, 20)) * 0.05
    scores = 0.5 + X @ coef + 0.2 * rng.normal(size=(400, 20))
    prediction = Ridge().fit(X, outcomes_of(scores)).predict(queries)
    z = (prediction.quality - (0.5 + queries @ coef)) / prediction.quality_se
    assert 0.9 < (np.abs(z) < 1.96).mean() < 0.99


# Logistic


def test_logistic_is_scikit_learns_on_plain_labels() -> None:
    X, outcomes = make_problem(300, observed=0.8)
    prediction = Logistic(C=2.0).fit(X, outcomes).predict(X)
    for j in range(3):
        own = outcomes.observed[:, j]
        model = sklearn.linear_model.LogisticRegression(C=2.0, tol=1e-10, max_iter=10_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X[own], outcomes.scores[own, j].astype(int))
        np.testing.assert_allclose(
            prediction.quality[:, j], model.predict_proba(X)[:, 1], atol=1e-4
        )


def test_balanced_logistic_is_scikit_learns_on_plain_labels() -> None:
    X, outcomes = make_problem(300, observed=0.8)
    balanced = Logistic(class_weight="balanced").fit(X, outcomes).predict(X)
    for j in range(3):
        own = outcomes.observed[:, j]
        model = sklearn.linear_model.LogisticRegression(
            C=3.0, class_weight="balanced", tol=1e-10, max_iter=10_000
        ).fit(X[own], outcomes.scores[own, j].astype(int))
        np.testing.assert_allclose(balanced.quality[:, j], model.predict_proba(X)[:, 1], atol=1e-4)


def test_balanced_logistic_weighs_right_and_wrong_shares_the_same() -> None:
    rng = np.random.default_rng(0)
    X, scores = rng.normal(size=(500, 3)), rng.choice([0.0, 0.1, 0.5], size=(500, 2))
    fitted = Logistic(class_weight="balanced").fit(X, outcomes_of(scores))
    # The vectors say nothing: plain, predictions lie about the mean; balanced, about one half.
    np.testing.assert_allclose(fitted.predict(X).quality.mean(axis=0), 0.5, atol=0.01)
    plain = Logistic().fit(X, outcomes_of(scores))
    np.testing.assert_allclose(plain.predict(X).quality.mean(axis=0), 0.2, atol=0.02)


def test_logistic_refuses_an_unknown_class_weight() -> None:
    with pytest.raises(RouterError, match="'equal'"):
        Logistic(class_weight="equal").fit(*make_problem(40))


@few
@given(seeds)
def test_logistic_on_shares_is_where_the_loss_has_no_slope(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 4))
    scores = rng.choice([0.0, 0.25, 0.5, 1.0], size=(60, 2))
    fitted = Logistic(C=1.5).fit(X, outcomes_of(scores))
    error = expit(X @ fitted.coef_ + fitted.intercept_) - scores
    np.testing.assert_allclose(X.T @ error + fitted.coef_ / 1.5, 0, atol=1e-2)
    np.testing.assert_allclose(error.sum(axis=0), 0, atol=1e-2)


# LightGBM


def test_lightgbm_with_too_few_outcomes_for_a_split_is_the_marginal() -> None:
    X, outcomes = make_problem(16)
    prediction = LightGBM(n_folds=4, min_child_samples=20).fit(X, outcomes).predict(X)
    marginal = Marginal().fit(X, outcomes).predict(X)
    # Four equal folds: the mean of the means of each three is the mean of all.
    np.testing.assert_allclose(prediction.quality, marginal.quality, atol=1e-12)
    assert (prediction.quality_se >= marginal.quality_se).all()


def test_lightgbm_errors_are_the_jackknife_over_its_folds() -> None:
    X, outcomes = make_problem(200)
    fitted = LightGBM().fit(X, outcomes)
    prediction = fitted.predict(X)
    for j, of_candidate in enumerate(fitted.boosters_):
        folds = np.array([booster.predict(X.astype(np.float32)) for booster in of_candidate])
        jackknife = np.sqrt(3 / 4 * ((folds - folds.mean(axis=0)) ** 2).sum(axis=0))
        np.testing.assert_allclose(prediction.quality[:, j], folds.mean(axis=0))
        floor = fitted.overall_.se[j]
        np.testing.assert_allclose(prediction.quality_se[:, j], np.maximum(jackknife, floor))
