"""Training on logs that saw the chosen candidate alone: weights, inverse propensity, doubly robust.

That the two estimators do what every estimator must is in test_estimators.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from test_estimators import ESTIMATORS, make_problem, seen_only

from router.errors import RouterError
from router.estimators import (
    KNN,
    MLP,
    Average,
    BestCandidate,
    Calibrated,
    DoublyRobust,
    Estimator,
    InversePropensity,
    KernelRidge,
    Labels,
    LightGBM,
    Logistic,
    Marginal,
    Partition,
    Ridge,
    Stack,
)
from router.estimators.base import overall_of, weights_of
from router.estimators.ridge import leave_one_out
from router.off_policy.replay import replay
from router.outcomes.matrix import OutcomeMatrix

# The wrappers and the searches of hyperparameters use weights in more than one place.
WEIGHED = [
    *(estimator for estimator in ESTIMATORS if estimator.takes_weights),
    *(Calibrated(Ridge(), kind) for kind in ("platt", "beta")),
    KNN(n_neighbors=[5, 20], temperature=[0.05, 0.2]),
    Logistic(class_weight="balanced"),
    Partition(n_clusters=4, shrinkage=None),
]
every_estimator_that_takes_weights = pytest.mark.parametrize("estimator", WEIGHED, ids=repr)


def weighed(outcomes: OutcomeMatrix, weights: np.ndarray) -> OutcomeMatrix:
    return replace(outcomes, weights=weights)


def uneven(outcomes: OutcomeMatrix, seed: int = 0) -> np.ndarray:
    """(n, m) weights from 0.1 to 10."""
    return 10 ** np.random.default_rng(seed).uniform(-1, 1, size=outcomes.scores.shape)


def assert_alike(one: Estimator, two: Estimator, X: np.ndarray, atol: float) -> None:
    first, second = one.predict(X), two.predict(X)
    np.testing.assert_allclose(first.quality, second.quality, rtol=0, atol=atol)
    np.testing.assert_allclose(first.quality_se, second.quality_se, rtol=0, atol=atol)


# ---- Weights of outcomes ------------------------------------------------------------------------


def test_the_estimators_that_take_weights() -> None:
    assert {type(estimator) for estimator in WEIGHED} == {
        Average, Calibrated, KNN, KernelRidge, Labels, LightGBM, Logistic, Marginal, Partition,
        Ridge, Stack,
    }  # fmt: skip


@every_estimator_that_takes_weights
def test_equal_weights_are_no_weights(estimator: Estimator) -> None:
    X, outcomes = make_problem(120, observed=0.7)
    plain = clone(estimator).fit(X, outcomes)
    for value in (1.0, 3.0):
        equal = weighed(outcomes, np.full(outcomes.scores.shape, value))
        assert_alike(clone(estimator).fit(X, equal), plain, X, atol=1e-12)


@every_estimator_that_takes_weights
def test_unequal_weights_make_a_difference_and_a_common_factor_makes_none(
    estimator: Estimator,
) -> None:
    X, outcomes = make_problem(120, observed=0.7)
    weights = uneven(outcomes)
    one = clone(estimator).fit(X, weighed(outcomes, weights))
    assert_alike(one, clone(estimator).fit(X, weighed(outcomes, 2 * weights)), X, atol=1e-6)
    plain = clone(estimator).fit(X, outcomes)
    assert np.abs(one.predict(X).quality - plain.predict(X).quality).max() > 0.01


@every_estimator_that_takes_weights
def test_an_outcome_of_weight_zero_may_as_well_be_missing(estimator: Estimator) -> None:
    X, full = make_problem(120)
    seen = np.random.default_rng(1).random(full.scores.shape) < 0.6
    weights = uneven(full)
    missing = clone(estimator).fit(X, weighed(seen_only(full, seen), weights))
    zero = clone(estimator).fit(X, weighed(full, np.where(seen, weights, 0.0)))
    assert_alike(zero, missing, X, atol=1e-12)


@every_estimator_that_takes_weights
def test_the_standard_error_counts_the_effective_sample(estimator: Estimator) -> None:
    """Half of the weight on a tenth of the outcomes is worth less than all alike."""
    X, outcomes = make_problem(400)
    weights = np.where(np.random.default_rng(2).random((400, 1)) < 0.1, 9.0, 1.0)
    few = clone(estimator).fit(X, weighed(outcomes, np.tile(weights, 3)))
    plain = clone(estimator).fit(X, outcomes)
    assert few.predict(X).quality_se.mean() > 1.1 * plain.predict(X).quality_se.mean()


@pytest.mark.parametrize(
    "estimator",
    [estimator for estimator in ESTIMATORS if not estimator.takes_weights],
    ids=lambda estimator: type(estimator).__name__,
)
def test_an_estimator_that_cannot_weigh_outcomes_says_so(estimator: Estimator) -> None:
    X, outcomes = make_problem(60)
    name = type(estimator).__name__
    with pytest.raises(RouterError, match=rf"^{name} as .* cannot weigh .* \(.*KNN, .*Ridge.*\)"):
        clone(estimator).fit(X, weighed(outcomes, uneven(outcomes)))
    with pytest.raises(RouterError, match=rf"^{name} as configured cannot weigh outcomes"):
        InversePropensity(estimator).fit(X, outcomes)


def test_a_wrapper_takes_weights_where_its_members_do() -> None:
    X, outcomes = make_problem(60)
    members = {"ridge": Ridge(), "mlp": MLP()}
    for wrapper in (Average(members), Stack(members), Calibrated(BestCandidate())):
        assert not wrapper.takes_weights
        with pytest.raises(RouterError, match="cannot weigh outcomes"):
            wrapper.fit(X, weighed(outcomes, uneven(outcomes)))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_weights_that_are_no_amounts_are_refused(bad: float) -> None:
    X, outcomes = make_problem(60)
    weights = uneven(outcomes)
    weights[3, 1] = bad
    with pytest.raises(RouterError, match="must be finite numbers from 0 up"):
        Ridge().fit(X, weighed(outcomes, weights))


@pytest.mark.parametrize(
    "make",
    [
        lambda worth: Marginal(),
        lambda worth: Ridge(alphas=(2.0 / worth,)),
        lambda worth: KernelRidge(bandwidths=(0.7,), alphas=(2.0 / worth,)),
        lambda worth: Logistic(C=3.0 * worth),
        lambda worth: Partition(n_clusters=4, shrinkage=4.0 / worth),
        lambda worth: Labels(shrinkage=4.0 / worth, hard=True),
        lambda worth: KNN(n_neighbors=1, shrinkage=1.0 / worth),
        lambda worth: LightGBM(min_child_samples=1, feature_fraction=1.0),
    ],
    ids=["marginal", "ridge", "kernel ridge", "logistic", "partition", "labels", "knn", "trees"],
)
def test_an_outcome_of_weight_k_counts_as_k_outcomes(make: Callable[[float], Estimator]) -> None:
    """Save that the effective sample is smaller, beside which a penalty weighs more."""
    _, outcomes = make_problem(90, seed=6)
    rng = np.random.default_rng(6)
    place = 2 * (outcomes.tasks == "poetry") + rng.integers(2, size=90)
    X = np.array([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0], [5.0, 5.0]])[place]
    times = rng.integers(1, 5, size=90)
    worth = times.sum() / (times**2).sum()  # effective sample size / number of copies
    repeated = np.repeat(np.arange(90), times)
    as_weights = make(1.0).fit(X, weighed(outcomes, np.tile(times[:, None], 3)))
    as_copies = make(worth).fit(X[repeated], outcomes.take(repeated))
    np.testing.assert_allclose(
        as_weights.predict(X).quality, as_copies.predict(X).quality, atol=2e-5
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_weighted_leave_one_out_equals_leaving_each_one_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, d, alpha = int(rng.integers(6, 15)), int(rng.integers(1, 4)), 10 ** rng.uniform(-1, 2)
    X = rng.normal(size=(n, d))[rng.integers(n, size=n)]  # some vectors stand several times
    if len(np.unique(X, axis=0)) < 2:
        return
    Y, weights = rng.normal(size=(n, 2)), rng.uniform(0.1, 5, size=n)
    coef, _, error = leave_one_out(X, Y, [alpha], weights)

    def fitted(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w, penalty = weights[rows, None], np.diag([*np.full(d, alpha), 0.0])
        Z = np.hstack([X[rows], np.ones((len(rows), 1))])
        solved = np.linalg.solve(Z.T @ (w * Z) + penalty, Z.T @ (w * Y[rows]))
        return solved[:-1], solved[-1]

    np.testing.assert_allclose(coef, fitted(np.arange(n))[0], atol=1e-8)
    squares = np.empty((n, 2))
    for i in range(n):
        slope, level = fitted(np.flatnonzero((X[i] != X).any(axis=1)))
        squares[i] = (Y[i] - X[i] @ slope - level) ** 2
    np.testing.assert_allclose(error, np.average(squares, axis=0, weights=weights), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_weights_count_as_many_outcomes_as_they_are_worth(seed: int) -> None:
    _, outcomes = make_problem(30, observed=0.7)
    raw = np.where(outcomes.observed, uneven(outcomes, seed), 0.0)
    counts = weights_of(weighed(outcomes, raw))
    worth = raw.sum(axis=0) ** 2 / (raw**2).sum(axis=0)
    np.testing.assert_allclose(counts.sum(axis=0), worth)
    np.testing.assert_allclose((counts**2).sum(axis=0), worth)
    assert (worth <= outcomes.observed.sum(axis=0) + 1e-9).all()
    targets = np.where(outcomes.observed, outcomes.scores, 0.0)
    mean = [np.average(targets[:, j], weights=raw[:, j]) for j in range(3)]
    np.testing.assert_allclose(overall_of(targets, counts).mean, mean)


# ---- Logs of a policy that chose by what the estimator does not know ----------------------------


def biased_problem(n: int, seed: int = 0) -> tuple[np.ndarray, OutcomeMatrix, np.ndarray]:
    """((n, 8) vectors, full outcomes, (n, 3) propensities) where the policy sends the first kind of
    prompt, at which every candidate is better, to "medium", and the other to "large"."""
    X, full = make_problem(n, seed)
    poetry = (full.tasks == "poetry")[:, None]
    return X, full, np.where(poetry, [0.1, 0.7, 0.2], [0.7, 0.1, 0.2])


def blind(X: np.ndarray) -> np.ndarray:
    """Vectors that do not tell the kinds apart."""
    return np.random.default_rng(0).normal(size=X.shape)


@pytest.mark.parametrize(
    "member", [Marginal(), Partition(n_clusters=4), Ridge(), Logistic()], ids=repr
)
def test_inverse_propensity_finds_the_mean_that_a_naive_fit_misses(member: Estimator) -> None:
    X, full, propensities = biased_problem(6000)
    X, truth = blind(X), full.mean_scores()
    log = replay(full, propensities, random_state=1)
    naive = clone(member).fit(X, log).predict(X).quality.mean(axis=0)
    weighted = InversePropensity(member).fit(X, log).predict(X).quality.mean(axis=0)
    np.testing.assert_allclose(weighted, truth, atol=0.03)
    medium = full.candidates.index("medium")
    assert naive[medium] - truth[medium] > 0.15  # it saw the easy half


def test_with_vectors_that_tell_what_the_policy_chose_by_a_naive_fit_is_as_good() -> None:
    X, full, propensities = biased_problem(4000)
    log = replay(full, propensities, random_state=1)
    for member in (Partition(n_clusters=2), Logistic()):
        naive = clone(member).fit(X, log).predict(X).quality.mean(axis=0)
        np.testing.assert_allclose(naive, full.mean_scores(), atol=0.03)


@pytest.mark.parametrize("member", [Marginal(), Partition(n_clusters=4), Ridge()], ids=repr)
@pytest.mark.parametrize("right", ["propensity", "reward"])
def test_doubly_robust_is_right_where_the_propensity_or_the_reward_is(
    member: Estimator, right: str
) -> None:
    X, full, propensities = biased_problem(6000)
    truth = full.mean_scores()
    log = replay(full, propensities, random_state=1)
    reward: Estimator = Marginal()
    if right == "reward":
        log = replace(log, propensity=np.full_like(propensities, 0.6))
        reward = Partition(n_clusters=2, shrinkage=0)
        wrong = InversePropensity(Marginal()).fit(X, log).predict(X).quality[0]
        assert np.abs(wrong - truth).max() > 0.15
    else:
        assert np.abs(Marginal().fit(X, log).predict(X).quality[0] - truth).max() > 0.15
    fitted = DoublyRobust(member, reward).fit(X, log)
    np.testing.assert_allclose(fitted.predict(X).quality.mean(axis=0), truth, atol=0.03)


@pytest.mark.parametrize(
    "estimator",
    [InversePropensity(Marginal()), DoublyRobust(Marginal(), Ridge(), n_folds=2)],
    ids=lambda estimator: type(estimator).__name__,
)
def test_the_standard_error_is_how_far_the_mean_moves_from_log_to_log(
    estimator: Estimator,
) -> None:
    means, errors = [], []
    for seed in range(60):
        X, full, propensities = biased_problem(300, seed)
        log = replay(full, propensities, random_state=seed)
        prediction = clone(estimator).fit(X, log).predict(X[:1])
        means.append(prediction.quality[0])
        errors.append(prediction.quality_se[0])
    ratio = np.mean(errors, axis=0) / np.std(means, axis=0)
    assert (ratio > 0.8).all()
    assert (ratio < 1.3).all()


def test_a_policy_that_chose_blindly_leaves_nothing_to_correct() -> None:
    X, full, _ = biased_problem(300)
    log = replay(full, np.tile([0.2, 0.3, 0.5], (300, 1)))
    for member in (Marginal(), Ridge(), Partition(n_clusters=8)):
        weighted = InversePropensity(member).fit(X, log)
        assert_alike(weighted, clone(member).fit(X, log), X, atol=1e-12)


def test_the_largest_weight_is_a_limit() -> None:
    X, full, propensities = biased_problem(600)
    log = replay(full, propensities)
    limited = InversePropensity(Marginal(), largest_weight=1).fit(X, log)
    assert_alike(limited, Marginal().fit(X, log), X, atol=1e-12)
    free = InversePropensity(Marginal(), largest_weight=10).fit(X, log)
    assert_alike(free, InversePropensity(Marginal()).fit(X, log), X, atol=0)


def test_what_an_estimator_of_pseudo_outcomes_is_given() -> None:
    """Members that fit exactly show the targets: a cell's own outcome counts with 1 / propensity,
    the others hold what the reward's folds say."""
    X, full, propensities = biased_problem(300)
    log = replay(full, propensities)
    seen = log.observed
    fitted = DoublyRobust(KNN(n_neighbors=1, shrinkage=0), Marginal(), n_folds=2).fit(X, log)
    targets = fitted.predict(X).quality
    medium = full.candidates.index("medium")
    predicted = np.unique(np.round(targets[~seen[:, medium], medium], 5))
    assert len(predicted) == 2  # one mean a fold
    own = targets[seen[:, medium], medium]
    p, r = (values[seen[:, medium], medium] for values in (propensities, full.scores))
    expected = predicted[:, None] + (r - predicted[:, None]) / p
    assert np.abs(own - expected).min(axis=0).max() < 1e-3


# ---- Propensities -------------------------------------------------------------------------------

BOTH = [InversePropensity(Marginal()), DoublyRobust(Marginal(), Marginal())]
both = pytest.mark.parametrize("estimator", BOTH, ids=lambda estimator: type(estimator).__name__)


@both
@pytest.mark.parametrize("chance", [None, np.nan, 0.0, 1.5])
def test_an_outcome_without_a_propensity_is_refused(
    estimator: Estimator, chance: float | None
) -> None:
    X, full, propensities = biased_problem(60)
    log = replay(full, propensities)
    logged = None
    if chance is not None:
        logged = propensities.copy()
        logged[7] = chance
    name = type(estimator).__name__
    rows = "60 of 60" if chance is None else "1 of 60 lack one, query 'q7'"
    with pytest.raises(RouterError, match=rf"{name} needs the propensity .*{rows}.*'propensity'"):
        clone(estimator).fit(X, replace(log, propensity=logged))


@both
def test_the_propensity_of_the_chosen_candidate_is_enough(estimator: Estimator) -> None:
    X, full, propensities = biased_problem(100)
    log = replay(full, propensities)
    chosen = replace(log, propensity=np.where(log.observed, propensities, np.nan))
    assert_alike(clone(estimator).fit(X, chosen), clone(estimator).fit(X, log), X, atol=0)


@both
def test_a_query_that_every_candidate_answered_needs_no_propensity(estimator: Estimator) -> None:
    X, full, propensities = biased_problem(100)
    full = replace(full, propensity=None)
    assert_alike(clone(estimator).fit(X, full), Marginal().fit(X, full), X, atol=1e-12)
    log = replay(full, propensities)
    mixed = replace(
        full,
        observed=np.where(np.arange(100)[:, None] < 20, True, log.observed),
        propensity=np.where(np.arange(100)[:, None] < 20, np.nan, propensities),
    )
    assert np.isfinite(clone(estimator).fit(X, mixed).predict(X).quality).all()


def test_a_member_that_wants_scores_refuses_pseudo_outcomes() -> None:
    X, full, propensities = biased_problem(100)
    with pytest.raises(RouterError, match="corrected"):
        DoublyRobust(Logistic(), Marginal()).fit(X, replay(full, propensities))


def test_estimators_of_chosen_only_logs_go_into_each_other() -> None:
    X, full, propensities = biased_problem(2000)
    log = replay(full, propensities, random_state=1)
    within = DoublyRobust(Ridge(), InversePropensity(Average({"a": Ridge(), "b": Marginal()})))
    found = within.fit(blind(X), log).predict(blind(X)).quality.mean(axis=0)
    np.testing.assert_allclose(found, full.mean_scores(), atol=0.05)
