"""Estimators of preferences, against simulations and formulas; and the correction of biased
scores by gold ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from conftest import make_problem
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from sklearn.base import clone

from router.errors import RouterError
from router.estimators import (
    BradleyTerry,
    Debiased,
    Eagle,
    Estimator,
    Logistic,
    Marginal,
    Ridge,
    SimilarityRanking,
)
from router.estimators.battles import (
    Battles,
    Rounds,
    chances_to_beat,
    overall_strengths,
    prior_wins,
)
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**32 - 1)
PAIRWISE = [BradleyTerry(), Eagle(), SimilarityRanking()]
every_pairwise = pytest.mark.parametrize(
    "estimator", PAIRWISE, ids=lambda estimator: type(estimator).__name__
)


def outcomes_of(
    scores: np.ndarray, observed: np.ndarray | None = None, **columns: np.ndarray
) -> OutcomeMatrix:
    n, m = scores.shape
    queries = pd.DataFrame({"query_id": np.arange(n), "prompt": "p", "group": np.arange(n)})
    seen = np.ones((n, m), dtype=bool) if observed is None else observed
    names = tuple(f"c{j}" for j in range(m))
    return OutcomeMatrix(queries.assign(**columns), names, scores, seen)


def simulate(
    rng: np.random.Generator, X: np.ndarray, strength: np.ndarray, tie: float = 0.0
) -> OutcomeMatrix:
    """One battle a query, between two candidates drawn at random, with Rao and Kupper's ties."""
    n, m = strength.shape
    pair = np.argsort(rng.random((n, m)), axis=1)[:, :2]
    rows = np.arange(n)
    edge = strength[rows, pair[:, 0]] - strength[rows, pair[:, 1]]
    drawn = rng.random(n)
    result = np.where(drawn < expit(edge - tie), 1.0, 0.5)
    result = np.where(drawn > 1 - expit(-edge - tie), 0.0, result)
    scores, observed = np.zeros((n, m)), np.zeros((n, m), dtype=bool)
    for side, score in ((0, result), (1, 1 - result)):
        scores[rows, pair[:, side]], observed[rows, pair[:, side]] = score, True
    return outcomes_of(scores, observed)


def random_log(rng: np.random.Generator, n: int, m: int) -> OutcomeMatrix:
    observed = rng.random((n, m)) < 0.6
    observed[:2] = True
    return outcomes_of(rng.integers(3, size=(n, m)) / 2, observed)


def pairs_of(outcomes: OutcomeMatrix) -> list[tuple[int, int, int, float, float]]:
    """(query, winner or first, loser or second, result, weight), written out plainly."""
    found = []
    for q in range(len(outcomes)):
        seen = np.flatnonzero(outcomes.observed[q])
        for i in seen:
            for j in seen[seen > i]:
                gap = outcomes.scores[q, i] - outcomes.scores[q, j]
                result = 1.0 if gap > 0 else 0.0 if gap < 0 else 0.5
                found.append((q, int(i), int(j), result, 1 / (len(seen) - 1)))
    return found


# --- battles ---


@few
@given(seeds)
def test_battles_are_all_pairs_of_a_querys_outcomes(seed: int) -> None:
    outcomes = random_log(np.random.default_rng(seed), 8, 4)
    battles = Battles.of(outcomes)
    columns = (battles.query, battles.first, battles.second, battles.result, battles.weight)
    assert sorted(zip(*map(list, columns), strict=True)) == sorted(pairs_of(outcomes))
    met = outcomes.observed.sum(axis=1) > 1
    each = battles.totals(battles.weight, battles.weight)
    np.testing.assert_allclose(each, outcomes.observed & met[:, None])  # each outcome counts once
    np.testing.assert_allclose(battles.wins().sum(axis=0), battles.total_wins(), atol=1e-5)


@every_pairwise
def test_a_log_without_a_pair_is_refused(estimator: Estimator) -> None:
    observed = np.eye(3, dtype=bool)[np.arange(30) % 3]
    outcomes = outcomes_of(np.tile([0.0, 1.0], 45).reshape(30, 3), observed)
    with pytest.raises(RouterError, match="None of the 30 queries has outcomes of two candidates"):
        clone(estimator).fit(np.random.default_rng(0).normal(size=(30, 4)), outcomes)


@few
@given(seeds, st.floats(0, 2))
def test_chances_to_beat_are_the_mean_over_the_others_and_their_slope(
    seed: int, tie: float
) -> None:
    strength = np.random.default_rng(seed).normal(size=(3, 4))
    chance, slope = chances_to_beat(strength, tie)
    for i in range(4):
        edges = [strength[:, i] - strength[:, j] for j in range(4) if j != i]
        values = [0.5 + 0.5 * (expit(e - tie) - expit(-e - tie)) for e in edges]
        np.testing.assert_allclose(chance[:, i], np.mean(values, axis=0))
        step = 1e-6 * np.eye(4)[i]
        rise = chances_to_beat(strength + step, tie)[0] - chances_to_beat(strength - step, tie)[0]
        np.testing.assert_allclose(slope[:, i], rise[:, i] / 2e-6, atol=1e-8)
    np.testing.assert_allclose(chance.mean(axis=1), 0.5)  # somebody wins what another loses


@few
@given(seeds, st.integers(2, 6))
def test_rounds_find_the_maximum_of_the_likelihood(seed: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    # Some pairs never met, and some candidates hardly ever won.
    wins = rng.integers(4, size=(5, m, m)) * rng.random((5, m, 1)) * (1 - np.eye(m))
    wins = wins + prior_wins(m, 1.0)
    rounds = Rounds.fit(wins, np.zeros(m))
    found = rounds.strengths(wins)
    for own, strength in zip(wins, found, strict=True):

        def loss(s: np.ndarray, own: np.ndarray = own) -> float:
            return -float((own * log_expit(s[:, None] - s[None])).sum())

        best = minimize(loss, np.zeros(m), method="BFGS", options={"gtol": 1e-6}).x
        np.testing.assert_allclose(strength - strength.mean(), best - best.mean(), atol=2e-3)
        settled = overall_strengths(own)
        np.testing.assert_allclose(settled, strength - strength.mean(), atol=1e-3)
        assert loss(settled) <= loss(best) + 1e-9


def test_a_candidate_that_never_lost_or_never_fought_stays_finite() -> None:
    wins = np.zeros((3, 3))
    wins[0, 1] = 1e5
    strength = overall_strengths(wins + prior_wins(3, 1.0))
    assert strength[0] - strength[1] == pytest.approx(np.log(1e5 / 0.25), abs=1)
    assert strength[1] < strength[2] < strength[0]


# --- what all of them share ---


@every_pairwise
def test_the_order_of_the_log_makes_no_difference(estimator: Estimator) -> None:
    X, outcomes = make_problem(200, observed=0.7)
    order = np.random.default_rng(2).permutation(200)
    one = clone(estimator).fit(X, outcomes).predict(X)
    two = clone(estimator).fit(X[order], outcomes.take(order)).predict(X)
    np.testing.assert_allclose(one.quality, two.quality, atol=2e-5)
    np.testing.assert_allclose(one.quality_se, two.quality_se, atol=2e-5)


@every_pairwise
def test_only_who_did_better_counts(estimator: Estimator) -> None:
    X, outcomes = make_problem(100)
    by_little = outcomes.with_target(0.5 + 0.01 * outcomes.scores)
    one = clone(estimator).fit(X, outcomes).predict(X)
    two = clone(estimator).fit(X, by_little).predict(X)
    np.testing.assert_array_equal(one.quality, two.quality)


@every_pairwise
@pytest.mark.parametrize("score", [0.0, 1.0])
def test_all_ties_leave_everyone_equal(estimator: Estimator, score: float) -> None:
    X, outcomes = make_problem(60)
    scores = np.full_like(outcomes.scores, score)
    prediction = clone(estimator).fit(X, outcomes.with_target(scores)).predict(X)
    np.testing.assert_allclose(prediction.quality, 0.5, atol=1e-6)
    assert (prediction.quality_se > 0).all()


@every_pairwise
def test_the_better_candidate_is_preferred_where_it_is_better(estimator: Estimator) -> None:
    rng = np.random.default_rng(0)
    side = rng.choice([-1.0, 1.0], size=1500)
    X = rng.normal(size=(1500, 4)) * 0.3 + np.outer(side, np.eye(4)[0])
    strength = np.column_stack([2 * side, -2 * side, np.zeros(1500)])
    fitted = clone(estimator).fit(X[:1000], simulate(rng, X[:1000], strength[:1000]))
    best = fitted.predict(X[1000:]).quality.argmax(axis=1)
    assert (best == strength[1000:].argmax(axis=1)).mean() > 0.9


@every_pairwise
def test_chances_lie_in_zero_to_one_and_average_a_half(estimator: Estimator) -> None:
    X, outcomes = make_problem(100, observed=0.8)
    quality = clone(estimator).fit(X, outcomes).predict(X).quality
    assert quality.min() >= 0
    assert quality.max() <= 1
    np.testing.assert_allclose(quality.mean(axis=1), 0.5)


# --- BradleyTerry ---


def test_bradley_terry_recovers_strengths_and_ties() -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(20_000, 3))
    coef = np.array([[1.0, -0.5, -0.5], [0.0, 0.8, -0.8], [0.0, 0.0, 0.0]])
    strength = X @ coef + [0.5, 0.0, -0.5]
    fitted = BradleyTerry(C=100.0).fit(X, simulate(rng, X, strength, tie=0.7))
    np.testing.assert_allclose(fitted.coef_, coef, atol=0.1)
    np.testing.assert_allclose(fitted.intercept_, [0.5, 0.0, -0.5], atol=0.1)
    assert fitted.tie_ == pytest.approx(0.7, abs=0.05)


def test_without_ties_bradley_terry_of_two_is_a_logistic_regression_of_who_won() -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(400, 3))
    strength = np.column_stack([X @ [1.0, -1.0, 0.5], np.zeros(400)])
    battles = simulate(rng, X, strength)
    chance = BradleyTerry(C=1.0).fit(X, battles).predict(X).quality[:, 0]
    # The difference of two coefficients is penalised half as much as one.
    won = Logistic(C=2.0).fit(X, battles).predict(X).quality[:, 0]
    np.testing.assert_allclose(chance, won, atol=0.01)


def test_bradley_terrys_standard_error_is_the_spread_over_logs() -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(300, 2))
    strength = X @ rng.normal(size=(2, 3)) * 0.5
    fits = [
        BradleyTerry(C=10.0).fit(X, simulate(rng, X, strength, tie=0.3)).predict(X[:20])
        for _ in range(60)
    ]
    spread = np.std([fit.quality for fit in fits], axis=0).mean()
    told = np.mean([fit.quality_se for fit in fits])
    assert 0.6 < told / spread < 1.6


# --- SimilarityRanking ---


@few
@given(seeds)
def test_similarity_ranking_is_a_fit_of_every_battle_by_its_weight(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, outcomes = rng.normal(size=(25, 3)), random_log(rng, 25, 3)
    query = rng.normal(size=(1, 3))
    quality = SimilarityRanking(prior=1.0).fit(X, outcomes).predict(query).quality[0]
    battled = sorted({pair[0] for pair in pairs_of(outcomes)})
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    cosine = unit @ query[0] / np.linalg.norm(query)
    largest = cosine[battled].max()
    assume(largest > 0.1)  # the paper says nothing of a query that is like no other
    weight = 10 * 10 ** (cosine / largest)

    def loss(s: np.ndarray) -> float:
        total = 0.0
        for q, i, j, result, share in pairs_of(outcomes):
            won = result * log_expit(s[i] - s[j]) + (1 - result) * log_expit(s[j] - s[i])
            total -= weight[q] * share * won
        prior = 100 * 1.0 / 2 / 2  # half of a nearest battle of each, over two others
        return total - prior * sum(
            log_expit(s[i] - s[j]) for i in range(3) for j in range(3) if i != j
        )

    best = minimize(loss, np.zeros(3), method="BFGS").x
    np.testing.assert_allclose(quality, chances_to_beat(best[None])[0][0], atol=1e-3)


def test_a_query_unlike_all_others_is_ranked_by_the_least_unlike() -> None:
    X = np.array([[1.0, 0.0], [0.8, 0.6]] * 10)
    scores = np.array([[1.0, 0.0], [0.0, 1.0]] * 10)
    fitted = SimilarityRanking().fit(X, outcomes_of(scores))
    # Both have negative cosines with it; the second kind's is nearer to 0.
    quality = fitted.predict(np.array([[-1.0, 0.0]])).quality[0]
    assert np.isfinite(quality).all()
    assert quality[1] > 0.6


def test_the_rounds_in_the_graph_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    wins = rng.random((6, 4, 4)).astype(np.float32) * (1 - np.eye(4, dtype=np.float32))
    rounds = Rounds.fit(wins + prior_wins(4, 1.0), np.zeros(4))
    graph = Graph()
    shape = graph.constant([-1, 4, 4], np.int64)
    batch = graph.op("Add", graph.op("Reshape", "vector", shape), graph.constant(prior_wins(4, 1)))
    model = graph.model(
        16, {"strength": rounds.to_onnx(graph, batch)}, {"strength": ["batch", "candidates"]}
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (computed,) = session.run(None, {"vector": wins.reshape(6, 16)})
    np.testing.assert_allclose(
        computed, rounds.strengths(wins + prior_wins(4, 1.0)), atol=1e-5, rtol=0
    )


# --- Eagle ---


@few
@given(seeds, st.floats(0, 1))
def test_eagle_adds_the_neighbours_updates_to_the_global_ratings(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    X, outcomes = rng.normal(size=(30, 3)), random_log(rng, 30, 3)
    fitted = Eagle(n_neighbors=5, share=share, step=24.0).fit(X, outcomes)
    query = rng.normal(size=(1, 3))
    scale = 400 / np.log(10)
    overall = overall_strengths(Battles.of(outcomes).total_wins() + prior_wins(3, 1.0)) * scale
    cosine = X @ query[0] / np.linalg.norm(X, axis=1)
    fought = sorted({pair[0] for pair in pairs_of(outcomes)}, key=lambda q: -cosine[q])
    local = overall.copy()
    for q, i, j, result, weight in pairs_of(outcomes):
        if q in fought[:5]:
            gain = 24 * weight * (result - 1 / (1 + 10 ** ((overall[j] - overall[i]) / 400)))
            local[i] += gain
            local[j] -= gain
    rating = share * overall + (1 - share) * local
    expected = [
        np.mean([1 / (1 + 10 ** ((rating[j] - rating[i]) / 400)) for j in range(3) if j != i])
        for i in range(3)
    ]
    np.testing.assert_allclose(fitted.predict(query).quality[0], expected, atol=1e-5)


def test_at_the_global_ratings_elos_updates_cancel() -> None:
    X, outcomes = make_problem(300)
    fitted = Eagle(n_neighbors=10**6).fit(X, outcomes)
    battles = Battles.of(outcomes)
    edge = fitted.strength_[battles.first] - fitted.strength_[battles.second]
    gain = battles.weight * (battles.result - expit(edge))
    # But for the one battle of each candidate that the prior adds.
    assert np.abs(battles.totals(gain, -gain).sum(axis=0)).max() < 0.5
    whole = fitted.predict(X).quality
    np.testing.assert_allclose(whole, np.tile(whole[:1], (300, 1)), atol=1e-6)


def test_eagle_by_the_global_rating_alone_is_the_same_for_every_query() -> None:
    X, outcomes = make_problem(80)
    quality = Eagle(share=1.0).fit(X, outcomes).predict(X).quality
    np.testing.assert_array_equal(quality, np.tile(quality[:1], (80, 1)))


# --- Debiased ---


def judged_log(
    seed: int, n: int = 2000, share: float = 0.1, by_query: bool = False
) -> tuple[np.ndarray, OutcomeMatrix, np.ndarray]:
    """(vectors, scores of which most are a biased judge's, (n, 2) true means). The judge favours
    the second candidate, the more so the greater the first coordinate."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    truth = np.column_stack([0.6 + 0.1 * X[:, 0], 0.5 + 0.1 * X[:, 1]])
    bias = np.column_stack([np.full(n, -0.1), 0.2 + 0.1 * X[:, 0]])
    chance = expit(np.log(share / (1 - share)) + 1.5 * X[:, 0]) if by_query else share
    gold = rng.random(n) < chance
    scores = truth + np.where(gold[:, None], 0.0, bias) + 0.1 * rng.normal(size=(n, 2))
    return X, outcomes_of(scores, gold=gold), truth


def error(fitted: Estimator, X: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(((fitted.predict(X).quality - truth) ** 2).mean()))


@pytest.mark.parametrize("by_query", [False, True])
def test_few_gold_scores_take_the_judges_bias_away(by_query: bool) -> None:
    X, outcomes, truth = judged_log(0, by_query=by_query)
    debiased = Debiased(Ridge(), Ridge()).fit(X, outcomes)
    as_it_stands = Ridge().fit(X, outcomes)
    assert error(debiased, X, truth) < 0.25 * error(as_it_stands, X, truth)
    wrong = as_it_stands.predict(X).quality.argmax(axis=1) != truth.argmax(axis=1)
    corrected = debiased.predict(X).quality.argmax(axis=1) != truth.argmax(axis=1)
    assert corrected.mean() < 0.3 * wrong.mean()


def test_many_judged_scores_help_the_few_gold_ones() -> None:
    errors = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(3000, 30)) / np.sqrt(30)
        truth = np.column_stack([0.5 + 0.5 * X[:, :15].sum(axis=1), 0.5 - 0.5 * X[:, 20]])
        gold = rng.random(3000) < 0.03
        scores = truth + np.where(gold[:, None], 0.0, 0.3) + 0.4 * rng.normal(size=(3000, 2))
        outcomes = outcomes_of(scores, gold=gold)
        alone = Ridge().fit(X[gold], outcomes.take(np.flatnonzero(gold)))
        errors.append(
            (error(Debiased(Ridge(), Ridge()).fit(X, outcomes), X, truth), error(alone, X, truth))
        )
    debiased, gold_only = np.mean(errors, axis=0)
    assert debiased < gold_only


def test_the_correction_is_doubly_robust() -> None:
    """Means that know nothing of the query are wrong where the gold queries are unlike the others;
    the chance of gold makes up for it."""
    biases = []
    for seed in range(8):
        X, outcomes, truth = judged_log(seed, by_query=True, share=0.2)
        outcomes = outcomes.select(["c0"])
        corrected = Debiased(Marginal(), Marginal()).fit(X, outcomes).predict(X).quality[0, 0]
        gold = outcomes.queries["gold"].to_numpy()
        scores = outcomes.scores[:, 0]
        naive = (scores + np.where(gold, 0.0, scores[gold].mean() - scores[~gold].mean())).mean()
        biases.append((corrected - truth[:, 0].mean(), naive - truth[:, 0].mean()))
    robust, naive_bias = np.abs(np.mean(biases, axis=0))
    assert robust < 0.3 * naive_bias


@pytest.mark.parametrize("gold", [None, False, True])
def test_without_both_kinds_it_is_the_estimator_alone(
    gold: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    X, outcomes = make_problem(100)
    if gold is not None:
        outcomes = replace(outcomes, queries=outcomes.queries.assign(gold=gold))
    wrapped = Debiased(Ridge(), Marginal()).fit(X, outcomes).predict(X)
    alone = Ridge().fit(X, outcomes).predict(X)
    np.testing.assert_array_equal(wrapped.quality, alone.quality)
    np.testing.assert_array_equal(wrapped.quality_se, alone.quality_se)
    assert ("is corrected" in caplog.text) == (gold is None)
    assert ("has no gold score" in caplog.text) == (gold is False)


def test_a_candidate_without_gold_keeps_its_scores() -> None:
    X, outcomes, _ = judged_log(1, n=300)
    gold = outcomes.queries["gold"].to_numpy()
    observed = outcomes.observed.copy()
    observed[gold, 1] = False
    outcomes = replace(outcomes, observed=observed)
    wrapped = Debiased(Ridge(), Ridge()).fit(X, outcomes).predict(X).quality
    alone = Ridge().fit(X, outcomes).predict(X).quality
    np.testing.assert_allclose(wrapped[:, 1], alone[:, 1], atol=1e-9)
    assert np.abs(wrapped[:, 0] - alone[:, 0]).max() > 0.02


@pytest.mark.parametrize("n_gold", [1, 2, 299])
def test_a_single_score_of_one_kind_does_not_break_it(n_gold: int) -> None:
    X, outcomes, _ = judged_log(2, n=300)
    queries = outcomes.queries.assign(gold=np.arange(300) < n_gold)
    prediction = Debiased(Ridge(), Ridge()).fit(X, replace(outcomes, queries=queries)).predict(X)
    assert np.isfinite(prediction.quality).all()
    assert (prediction.quality_se > 0).all()


def test_what_is_wrapped_may_be_an_estimator_of_battles() -> None:
    X, outcomes, truth = judged_log(3)
    debiased = Debiased(BradleyTerry(), Ridge()).fit(X, outcomes).predict(X).quality
    as_it_stands = BradleyTerry().fit(X, outcomes).predict(X).quality
    best = truth.argmax(axis=1)
    assert (debiased.argmax(axis=1) == best).mean() > (as_it_stands.argmax(axis=1) == best).mean()
