"""What every estimator must do, in the manner of scikit-learn's check_estimator; a new one in
router.estimators is covered by standing in its __all__."""

from __future__ import annotations

import inspect
from dataclasses import replace

import conftest
import numpy as np
import pytest
from sklearn.base import clone

import router.estimators as room
from router.errors import RouterError
from router.estimators import (
    KNN,
    Average,
    BestCandidate,
    BradleyTerry,
    CostBandedContrastive,
    Debiased,
    DoublyRobust,
    DualContrastive,
    Eagle,
    Estimator,
    InversePropensity,
    LightGBM,
    Logistic,
    Marginal,
    NearBest,
    Partition,
    Ridge,
    SimilarityRanking,
)
from router.outcomes.matrix import OutcomeMatrix

MEMBERS = {
    "Average": {"estimators": {"ridge": Ridge(), "partition": Partition(n_clusters=4)}},
    "Stack": {"estimators": {"ridge": Ridge(), "partition": Partition(n_clusters=4)}},
    "Calibrated": {"estimator": Ridge()},
    "NearBest": {"estimator": Logistic()},
    "Debiased": {"estimator": Ridge(), "correction": Ridge()},
    "InversePropensity": {"estimator": Partition(n_clusters=4)},
    "DoublyRobust": {"estimator": Ridge(), "reward": Partition(n_clusters=4)},
}
CLASSES = [getattr(room, name) for name in room.__all__ if name != "Estimator"]
ESTIMATORS = [kind(**MEMBERS.get(kind.__name__, {})) for kind in CLASSES]

every_estimator = pytest.mark.parametrize(
    "estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__
)
# Those whose quality is the chance to beat another candidate; see test_pairwise_estimators.py.
PAIRWISE = (BradleyTerry, Eagle, SimilarityRanking)
# Those whose quality is the probability of being best; see test_neural_estimators.py.
DIRECT = (BestCandidate, CostBandedContrastive, DualContrastive)
# Whose quality is the probability of being nearly best; see test_near_best.py.
RELATIVE = (NearBest,)
every_estimator_of_scores = pytest.mark.parametrize(
    "estimator",
    [
        estimator
        for estimator in ESTIMATORS
        if not isinstance(estimator, PAIRWISE + DIRECT + RELATIVE)
    ],
    ids=lambda estimator: type(estimator).__name__,
)

every_estimator_that_takes_candidates = pytest.mark.parametrize(
    "estimator",
    [estimator for estimator in ESTIMATORS if estimator.takes_candidates],
    ids=lambda estimator: type(estimator).__name__,
)


def make_problem(
    n: int = 120, seed: int = 0, costs: str | None = "usd", observed: float = 1.0
) -> tuple[np.ndarray, OutcomeMatrix]:
    """As in conftest; the log tells with which probability each outcome was seen."""
    X, outcomes = conftest.make_problem(n, seed, costs, observed)
    return X, replace(outcomes, propensity=np.full(outcomes.scores.shape, observed))


def with_scores(outcomes: OutcomeMatrix, scores: np.ndarray) -> OutcomeMatrix:
    return replace(outcomes, scores=scores)


def seen_only(outcomes: OutcomeMatrix, observed: np.ndarray) -> OutcomeMatrix:
    """The same log without the outcomes outside `observed`."""
    return replace(outcomes, observed=outcomes.observed & observed)


@every_estimator
def test_a_clone_has_the_same_hyperparameters_and_fit_changes_none(estimator: Estimator) -> None:
    described = repr(estimator)
    copy = clone(estimator)
    assert repr(copy) == described
    assert repr(copy.set_params(**estimator.get_params())) == described
    X, outcomes = make_problem(60)
    assert repr(copy.fit(X, outcomes)) == described


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_init_does_nothing_but_assign(kind: type[Estimator]) -> None:
    names = [name for name in inspect.signature(kind).parameters if name not in ("args", "kwargs")]
    given = {name: object() for name in names}
    assert vars(kind(**given)) == given


@every_estimator
def test_fit_returns_itself_and_leaves_its_input_alone(estimator: Estimator) -> None:
    X, outcomes = make_problem(60, observed=0.7)
    X.setflags(write=False)
    before = X.copy()
    fitted = clone(estimator)
    assert fitted.fit(X, outcomes) is fitted
    assert fitted.candidates_ == outcomes.candidates
    fitted.predict(X)
    np.testing.assert_array_equal(X, before)


@every_estimator
def test_predictions_are_finite_and_one_for_each_query_and_candidate(
    estimator: Estimator,
) -> None:
    X, outcomes = make_problem(60)
    fitted = clone(estimator).fit(X, outcomes)
    for n in (1, 7):
        prediction = fitted.predict(X[:n])
        assert prediction.candidates == outcomes.candidates
        for values in (prediction.quality, prediction.quality_se):
            assert values.shape == (n, 3)
            assert values.dtype == np.float64
            assert np.isfinite(values).all()
        assert (prediction.quality_se >= 0).all()
        assert prediction.cost is None


@every_estimator
def test_the_same_seed_gives_the_same_predictions(estimator: Estimator) -> None:
    X, outcomes = make_problem(150, observed=0.8)
    first, second = clone(estimator).fit(X, outcomes), clone(estimator).fit(X, outcomes)
    expected = first.predict(X)
    for again in (second.predict(X), first.fit(X, outcomes).predict(X)):
        np.testing.assert_array_equal(again.quality, expected.quality)
        np.testing.assert_array_equal(again.quality_se, expected.quality_se)


@pytest.mark.parametrize(
    "estimator",
    [estimator for estimator in ESTIMATORS if "random_state" in estimator.get_params()],
    ids=lambda estimator: type(estimator).__name__,
)
def test_another_seed_gives_other_predictions(estimator: Estimator) -> None:
    X, outcomes = make_problem(150)
    one = clone(estimator).set_params(random_state=1).fit(X, outcomes).predict(X)
    two = clone(estimator).set_params(random_state=2).fit(X, outcomes).predict(X)
    assert not np.array_equal(one.quality, two.quality)


@every_estimator
def test_a_query_is_predicted_the_same_alone_and_in_company(estimator: Estimator) -> None:
    X, outcomes = make_problem(90)
    fitted = clone(estimator).fit(X, outcomes)
    together = fitted.predict(X)
    for row in (0, 41, 89):
        alone = fitted.predict(X[[row]])
        np.testing.assert_allclose(alone.quality[0], together.quality[row], atol=1e-6)
        np.testing.assert_allclose(alone.quality_se[0], together.quality_se[row], atol=1e-6)


@every_estimator
def test_float32_vectors_are_as_good_as_float64(estimator: Estimator) -> None:
    X, outcomes = make_problem(90)
    X = X.astype(np.float32)
    from_single = clone(estimator).fit(X, outcomes).predict(X)
    from_double = clone(estimator).fit(X.astype(np.float64), outcomes).predict(X.astype(np.float64))
    np.testing.assert_allclose(from_single.quality, from_double.quality, atol=1e-6)


@every_estimator
def test_standard_errors_fall_as_the_log_grows(estimator: Estimator) -> None:
    queries, _ = make_problem(100, seed=9)
    errors = []
    for n in (100, 2000):
        fitted = clone(estimator).fit(*make_problem(n, seed=3))
        errors.append(fitted.predict(queries).quality_se.mean(axis=0))
    assert (errors[1] < errors[0]).all()
    assert (errors[1] > 0).all()


@every_estimator
def test_what_an_unobserved_cell_would_have_held_makes_no_difference(
    estimator: Estimator,
) -> None:
    X, full = make_problem(120)
    observed = np.random.default_rng(0).random(full.scores.shape) < 0.6
    masked = seen_only(full, observed)
    assert np.isnan(masked.scores[~masked.observed]).all()
    otherwise = seen_only(
        with_scores(full, np.where(observed, full.scores, 1 - full.scores)), observed
    )
    one = clone(estimator).fit(X, masked).predict(X)
    two = clone(estimator).fit(X, otherwise).predict(X)
    np.testing.assert_array_equal(one.quality, two.quality)
    np.testing.assert_array_equal(one.quality_se, two.quality_se)


@every_estimator
def test_queries_without_any_outcome_may_as_well_be_missing(estimator: Estimator) -> None:
    X, full = make_problem(120)
    rows = np.flatnonzero(np.random.default_rng(1).random(120) < 0.7)
    observed = np.zeros_like(full.observed)
    observed[rows] = True
    with_blanks = clone(estimator).fit(X, seen_only(full, observed)).predict(X)
    without = clone(estimator).fit(X[rows], full.take(rows)).predict(X)
    np.testing.assert_allclose(with_blanks.quality, without.quality, atol=1e-9)
    np.testing.assert_allclose(with_blanks.quality_se, without.quality_se, atol=1e-9)


@pytest.mark.parametrize("estimator", [Marginal(), Ridge(), Logistic()], ids=repr)
def test_a_candidate_is_learned_from_its_own_outcomes_alone(estimator: Estimator) -> None:
    X, outcomes = make_problem(200, observed=0.5)
    prediction = clone(estimator).fit(X, outcomes).predict(X)
    for j in range(3):
        rows = np.flatnonzero(outcomes.observed[:, j])
        own = outcomes.take(rows).select([outcomes.candidates[j]])
        alone = clone(estimator).fit(X[rows], own).predict(X)
        np.testing.assert_allclose(alone.quality[:, 0], prediction.quality[:, j], atol=1e-3)


@pytest.mark.parametrize(
    "estimator",
    # k-means starts from drawn rows, so a partition depends on their order.
    [KNN(), LightGBM(), Logistic(), Marginal(), Ridge()],
    ids=lambda estimator: type(estimator).__name__,
)
def test_the_order_of_the_log_makes_no_difference(estimator: Estimator) -> None:
    X, outcomes = make_problem(200, observed=0.7)
    order = np.random.default_rng(2).permutation(200)
    one = clone(estimator).fit(X, outcomes).predict(X)
    two = clone(estimator).fit(X[order], outcomes.take(order)).predict(X)
    np.testing.assert_allclose(one.quality, two.quality, atol=1e-5)
    np.testing.assert_allclose(one.quality_se, two.quality_se, atol=1e-5)


@every_estimator
@pytest.mark.parametrize("n_outcomes", [1, 2, 5])
def test_a_candidate_with_few_outcomes_is_predicted_with_doubt(
    estimator: Estimator, n_outcomes: int
) -> None:
    X, full = make_problem(150)
    observed = np.ones_like(full.observed)
    observed[n_outcomes:, 1] = False
    prediction = clone(estimator).fit(X, seen_only(full, observed)).predict(X)
    assert np.isfinite(prediction.quality).all()
    assert (prediction.quality > -0.5).all()
    assert (prediction.quality < 1.5).all()
    error = prediction.quality_se.mean(axis=0)
    assert error[1] > 1.5 * max(error[0], error[2])


@every_estimator_of_scores
@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
def test_a_candidate_whose_scores_are_all_equal(estimator: Estimator, score: float) -> None:
    X, outcomes = make_problem(150)
    scores = outcomes.scores.copy()
    scores[:, 0] = score
    prediction = clone(estimator).fit(X, with_scores(outcomes, scores)).predict(X)
    np.testing.assert_allclose(prediction.quality[:, 0], score, atol=0.005)
    # 150 outcomes are no proof.
    assert (prediction.quality_se[:, 0] > 5e-4).all()
    assert (prediction.quality_se[:, 0] < 0.1).all()


@every_estimator_of_scores
def test_a_log_in_which_all_scores_are_equal(estimator: Estimator) -> None:
    X, outcomes = make_problem(40)
    prediction = (
        clone(estimator).fit(X, with_scores(outcomes, np.ones_like(outcomes.scores))).predict(X)
    )
    np.testing.assert_allclose(prediction.quality, 1.0, atol=0.02)
    assert np.isfinite(prediction.quality_se).all()


@every_estimator
@pytest.mark.parametrize("observed", [1.0, 0.6])
def test_ten_queries_are_enough_to_fit(estimator: Estimator, observed: float) -> None:
    X, outcomes = make_problem(10, observed=observed)
    prediction = clone(estimator).fit(X, outcomes).predict(X)
    assert np.isfinite(prediction.quality).all()
    assert (prediction.quality_se > 0).all()


@every_estimator
def test_a_log_in_which_every_query_stands_twice(estimator: Estimator) -> None:
    X, outcomes = make_problem(100)
    twice = np.tile(np.arange(100), 2)
    once = clone(estimator).fit(X, outcomes).predict(X)
    doubled = clone(estimator).fit(X[twice], outcomes.take(twice)).predict(X)
    assert np.abs(doubled.quality - once.quality).mean() < 0.1
    assert np.isfinite(doubled.quality_se).all()


@every_estimator_of_scores
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_vectors_that_are_all_the_same_give_the_mean(estimator: Estimator, value: float) -> None:
    _, outcomes = make_problem(100)
    X = np.full((100, 16), value)
    prediction = clone(estimator).fit(X, outcomes).predict(X)
    # The smallest folds' means differ a little from the mean of all.
    np.testing.assert_allclose(
        prediction.quality, np.tile(outcomes.mean_scores(), (100, 1)), atol=0.01
    )
    assert (prediction.quality_se > 0).all()


@pytest.mark.parametrize(
    "estimator",
    [
        KNN(n_neighbors=10**6),
        Partition(n_clusters=10**6),
        Partition(n_clusters=[2, 10**6, 10**7], n_repeats=2),
        Ridge(se_rank=10**6),
        Logistic(se_rank=10**6),
    ],
    ids=repr,
)
def test_more_neighbours_clusters_or_directions_than_there_are(estimator: Estimator) -> None:
    X, outcomes = make_problem(30)
    for rows in (np.arange(30), np.zeros(30, dtype=int)):  # as they are, and all the same
        prediction = estimator.fit(X[rows], outcomes).predict(X)
        assert np.isfinite(prediction.quality).all()
        assert (prediction.quality_se > 0).all()


@pytest.mark.parametrize(
    "estimator",
    [
        estimator
        for estimator in ESTIMATORS
        if not isinstance(estimator, (Marginal, *PAIRWISE, *DIRECT))
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_better_than_the_marginal_where_the_vectors_tell(estimator: Estimator) -> None:
    X, train = make_problem(600, seed=4)
    queries, test = make_problem(400, seed=5)

    def loss(fitted: Estimator) -> float:
        return float(((fitted.predict(queries).quality - test.scores) ** 2).mean())

    assert loss(clone(estimator).fit(X, train)) < 0.97 * loss(Marginal().fit(X, train))


@every_estimator
def test_a_candidate_that_was_never_observed_is_refused_by_name(estimator: Estimator) -> None:
    X, outcomes = make_problem(40)
    observed = np.ones_like(outcomes.observed)
    observed[:, 1] = False
    with pytest.raises(RouterError, match="'medium'"):
        clone(estimator).fit(X, seen_only(outcomes, observed))


@every_estimator
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_refused(estimator: Estimator, bad: float) -> None:
    X, outcomes = make_problem(40)
    X[3, 2] = bad
    with pytest.raises(RouterError, match="NaN or infinite"):
        clone(estimator).fit(X, outcomes)


@every_estimator
def test_vectors_of_another_shape_are_refused(estimator: Estimator) -> None:
    X, outcomes = make_problem(40)
    for wrong in (X[:39], X[0]):
        with pytest.raises(RouterError, match="expected"):
            clone(estimator).fit(wrong, outcomes)


@pytest.mark.parametrize(
    "estimator",
    [
        Average({}),
        BradleyTerry(C=0.0),
        BradleyTerry(se_rank=0),
        Debiased(Ridge(), Ridge(), n_folds=1),
        DoublyRobust(Ridge(), Ridge(), n_folds=1),
        DoublyRobust(Ridge(), Ridge(), largest_weight=0.5),
        Eagle(n_neighbors=0),
        Eagle(share=1.5),
        Eagle(step=0.0),
        InversePropensity(Ridge(), largest_weight=0.5),
        KNN(n_neighbors=0),
        KNN(temperature=0.0),
        KNN(shrinkage=-1.0),
        LightGBM(n_folds=1),
        LightGBM(n_estimators=0),
        Logistic(C=0.0),
        Logistic(se_rank=0),
        Partition(n_clusters=0),
        Partition(n_clusters=[]),
        Partition(n_repeats=0),
        Partition(shrinkage=-1.0),
        Ridge(alphas=()),
        Ridge(alphas=(0.0, 1.0)),
        Ridge(se_rank=0),
        SimilarityRanking(prior=0.0),
    ],
    ids=repr,
)
def test_hyperparameters_out_of_range_are_refused_in_a_sentence(estimator: Estimator) -> None:
    with pytest.raises(RouterError, match=f"{type(estimator).__name__} needs"):
        estimator.fit(*make_problem(40))


def test_logistic_refuses_targets_beyond_a_score() -> None:
    X, outcomes = make_problem(40)
    with pytest.raises(RouterError, match=r"\[0, 1\]"):
        Logistic().fit(X, outcomes.with_target(3 * outcomes.scores))


def test_the_average_is_the_mean_of_its_members() -> None:
    X, outcomes = make_problem(80)
    members = {"ridge": Ridge(), "knn": KNN(), "marginal": Marginal()}
    average = Average(members).fit(X, outcomes).predict(X)
    alone = [clone(member).fit(X, outcomes).predict(X) for member in members.values()]
    np.testing.assert_allclose(average.quality, np.mean([p.quality for p in alone], axis=0))
    np.testing.assert_allclose(average.quality_se, np.mean([p.quality_se for p in alone], axis=0))
    assert not hasattr(members["ridge"], "parts_")  # clones are fitted, never what was given


# ---- A candidate taken in without refitting -----------------------------------------------------


@every_estimator_that_takes_candidates
@pytest.mark.parametrize("n_labels", [1, 20])
def test_a_candidate_is_taken_in_and_the_old_ones_stay_to_the_last_bit(
    estimator: Estimator, n_labels: int
) -> None:
    X, outcomes = make_problem(150, observed=0.8)
    fitted = clone(estimator).fit(X, outcomes)
    before = fitted.predict(X)
    labels = np.arange(n_labels) % 2.0
    grown = fitted.with_candidate("new", X[:n_labels], labels).with_candidate(
        "newer", X[-n_labels:], 1 - labels
    )
    after, again = grown.predict(X), fitted.predict(X)
    assert grown.candidates_ == after.candidates == (*outcomes.candidates, "new", "newer")
    assert fitted.candidates_ == again.candidates == outcomes.candidates
    for old in (
        again,
        replace(
            after,
            candidates=before.candidates,
            quality=after.quality[:, :3],
            quality_se=after.quality_se[:, :3],
        ),
    ):
        np.testing.assert_array_equal(old.quality, before.quality)
        np.testing.assert_array_equal(old.quality_se, before.quality_se)
    assert np.isfinite(after.quality).all()
    assert (after.quality_se > 0).all()
    assert repr(grown) == repr(fitted)


@every_estimator_that_takes_candidates
def test_the_standard_error_of_a_candidate_taken_in_falls_with_its_labels(
    estimator: Estimator,
) -> None:
    X, outcomes = make_problem(400)
    fitted = clone(estimator).fit(X, outcomes.select(outcomes.candidates[:2]))
    errors = [
        fitted.with_candidate("new", X[:k], outcomes.scores[:k, 2]).predict(X).quality_se[:, 2]
        for k in (20, 400)
    ]
    assert errors[1].mean() < errors[0].mean()


@every_estimator_that_takes_candidates
def test_a_candidate_taken_in_from_many_labels_is_told_from_a_bad_one(
    estimator: Estimator,
) -> None:
    X, outcomes = make_problem(300)
    fitted = clone(estimator).fit(X, outcomes)
    for score in (0.05, 0.95):
        grown = fitted.with_candidate("new", X, np.full(300, score))
        np.testing.assert_allclose(grown.predict(X).quality[:, -1].mean(), score, atol=0.1)


@every_estimator_that_takes_candidates
@pytest.mark.parametrize(
    ("name", "n_vectors", "score", "sentence"),
    [
        ("medium", 5, 1.0, "'medium' is a candidate already"),
        ("new", 4, 1.0, "'new' have X of shape"),
        ("new", 0, 1.0, "'new' have X of shape"),
        ("new", 5, np.nan, "'new' hold NaN or infinite values"),
    ],
)
def test_labels_that_make_no_candidate_are_refused(
    estimator: Estimator, name: str, n_vectors: int, score: float, sentence: str
) -> None:
    X, outcomes = make_problem(60)
    fitted = clone(estimator).fit(X, outcomes)
    with pytest.raises(RouterError, match=sentence):
        fitted.with_candidate(name, X[:n_vectors], np.full(5 if n_vectors else 0, score))


def test_an_estimator_that_takes_in_no_candidate_names_those_that_do() -> None:
    X, outcomes = make_problem(60)
    fitted = LightGBM(n_estimators=2).fit(X, outcomes)
    assert not fitted.takes_candidates
    with pytest.raises(RouterError, match=r"LightGBM .* train with one that can \(.*Partition"):
        fitted.with_candidate("new", X[:5], np.ones(5))
    average = Average({"trees": LightGBM(n_estimators=2), "marginal": Marginal()})
    assert not average.takes_candidates
    assert Average({"marginal": Marginal()}).takes_candidates
