"""The small neural estimators: each shows the property that its method exists for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from test_estimator_graphs import assert_parity

from router.errors import RouterError
from router.estimators import (
    MLP,
    BestCandidate,
    CostBandedContrastive,
    DualContrastive,
    Estimator,
    ItemResponse,
    Logistic,
    Marginal,
    MatrixFactorisation,
    MessagePassing,
)
from router.estimators.gradient import descend, squared, tensors
from router.estimators.head import Head
from router.outcomes.matrix import OutcomeMatrix


def outcomes_of(
    scores: np.ndarray,
    observed: np.ndarray | None = None,
    names: list[str] | None = None,
    cost: np.ndarray | None = None,
    tasks: np.ndarray | None = None,
) -> OutcomeMatrix:
    """A log of (n, m) scores."""
    n, m = scores.shape
    _, any_log = make_problem(10)
    rows = any_log.queries.iloc[np.arange(n) % 10].reset_index(drop=True)
    queries = rows.assign(group=np.arange(n)).drop(columns="task")
    if tasks is not None:
        queries["task"] = tasks
    return OutcomeMatrix(
        queries,
        tuple(names or [f"c{j:02}" for j in range(m)]),
        scores,
        np.ones((n, m), dtype=bool) if observed is None else observed,
        cost,
    )


def unit_vectors(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    X = rng.normal(size=(n, d))
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def error(estimator: Estimator, X: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(m,) root mean square error of the quality."""
    return np.sqrt(((estimator.predict(X).quality - truth) ** 2).mean(axis=0))


# ---- Descent ------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_the_descent_ends_at_the_least_squares_solution(seed: int, penalty: float) -> None:
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    x, y = tensors(X, Y)
    found = descend(
        {"coef": np.zeros((4, 2)), "shift": np.zeros(2)},
        lambda p: (
            squared(x @ p["coef"] + p["shift"] - y) + penalty * squared(p["coef"], p["shift"])
        ),
        most_steps=200,
    )
    design = np.column_stack([X, np.ones(30)])
    solution = np.linalg.solve(design.T @ design + penalty * np.eye(5), design.T @ Y)
    np.testing.assert_allclose(found["coef"], solution[:4], atol=1e-5)
    np.testing.assert_allclose(found["shift"], solution[4], atol=1e-5)


def test_importing_the_estimators_does_not_import_torch() -> None:
    code = "import router.estimators, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


# ---- Low rank -----------------------------------------------------------------------------------


def low_rank_problem(
    n: int, m: int = 24, observed: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, OutcomeMatrix, np.ndarray]:
    """(vectors, outcomes, true P(correct)) where m candidates differ along two directions."""
    truth = np.random.default_rng(99)
    projection, candidates = truth.normal(size=(12, 2)) * 4, truth.normal(size=(2, m))
    rng = np.random.default_rng(seed)
    X = unit_vectors(n, 12, rng)
    p = expit(X @ projection @ candidates + np.linspace(-1, 1, m))
    scores = (rng.random((n, m)) < p).astype(float)
    seen = rng.random((n, m)) < observed
    seen[:, 0] = True
    return X, outcomes_of(scores, seen), p


@pytest.mark.parametrize(
    "estimator",
    [MatrixFactorisation(rank=2, penalty=2.0), ItemResponse(dimensions=2, penalty=2.0)],
    ids=repr,
)
def test_low_rank_learns_more_from_a_sparse_log_than_a_regression_per_candidate(
    estimator: Estimator,
) -> None:
    X, outcomes, _ = low_rank_problem(1000, observed=0.1)
    new, _, p = low_rank_problem(500, seed=1)
    shared = error(clone(estimator).fit(X, outcomes), new, p).mean()
    assert shared < 0.9 * error(Logistic().fit(X, outcomes), new, p).mean()
    assert shared < 0.75 * error(Marginal().fit(X, outcomes), new, p).mean()


def test_item_response_finds_difficulty_discrimination_and_ability() -> None:
    rng = np.random.default_rng(0)
    X = unit_vectors(4000, 8, rng)
    difficulty, discrimination = 4 * X[:, 0], np.exp(1.5 * X[:, 1])
    ability = np.linspace(-2, 2, 8)
    p = expit(discrimination[:, None] * (ability - difficulty[:, None]))
    scores = (rng.random(p.shape) < p).astype(float)
    fitted = ItemResponse(dimensions=1, penalty=1.0).fit(X[:3000], outcomes_of(scores[:3000]))
    predicted = fitted.predict(X[3000:]).quality
    assert np.sqrt(((predicted - p[3000:]) ** 2).mean()) < 0.05
    # The better candidate has the better chance on every query: one ability orders them all.
    assert (np.diff(predicted, axis=1) > 0).mean() > 0.98


def test_an_effort_shares_its_ability_with_the_same_effort_of_another_model() -> None:
    rng = np.random.default_rng(1)
    names = ["a@high", "a@low", "b@high", "b@low", "c@high", "c@low"]
    model, effort = np.array([0, 0, 1, 1, -1, -1]), np.array([1.5, -0.5] * 3)
    X = unit_vectors(1500, 6, rng)
    p = expit(4 * X[:, :1] + model + effort)
    scores = (rng.random(p.shape) < p).astype(float)
    observed = np.ones(p.shape, dtype=bool)
    observed[3:, 2] = False  # b@high was seen three times
    scores[:3, 2] = [1, 0, 0]
    log = outcomes_of(scores, observed, names)
    shared, own = (
        error(ItemResponse(effort_separator=separator).fit(X, log), X, p)[2]
        for separator in ("@", None)
    )
    assert shared < 0.1
    assert own > 2 * shared


def test_wins_do_not_depend_on_the_scale_of_the_scores() -> None:
    X, _, _ = low_rank_problem(300, m=4)
    scores = np.random.default_rng(0).random((300, 4))
    estimator = MatrixFactorisation(loss="wins", rank=2)
    as_they_are = clone(estimator).fit(X, outcomes_of(scores)).predict(X)
    bent = clone(estimator).fit(X, outcomes_of(scores**3)).predict(X)
    np.testing.assert_array_equal(bent.quality, as_they_are.quality)
    harder = scores * np.linspace(0.1, 1, 300)[:, None]  # each query has its own scale
    np.testing.assert_array_equal(
        clone(estimator).fit(X, outcomes_of(harder)).predict(X).quality, as_they_are.quality
    )


def test_between_two_candidates_wins_give_the_probability_of_the_win() -> None:
    rng = np.random.default_rng(2)
    X = unit_vectors(3000, 6, rng)
    p = expit(4 * X[:, 0] + 0.5)
    first = rng.random(3000) < p
    scores = np.column_stack([first, ~first]).astype(float)
    tied = rng.random(3000) < 0.3
    scores[tied] = 1.0  # says nothing of which is better
    fitted = MatrixFactorisation(loss="wins", penalty=1.0).fit(X, outcomes_of(scores))
    quality = fitted.predict(X).quality
    np.testing.assert_allclose(quality.sum(axis=1), 1)
    assert np.sqrt(((quality[:, 0] - p) ** 2).mean()) < 0.04


# ---- A new candidate ----------------------------------------------------------------------------

TAKES_ONE_MORE = pytest.mark.parametrize(
    "estimator", [MatrixFactorisation(), ItemResponse()], ids=lambda e: type(e).__name__
)


def without_the_last(outcomes: OutcomeMatrix) -> OutcomeMatrix:
    return outcomes.select(outcomes.candidates[:-1])


@TAKES_ONE_MORE
def test_known_candidates_stay_to_the_last_bit(estimator: Estimator) -> None:
    X, outcomes, _ = low_rank_problem(400, m=7)
    fitted = clone(estimator).fit(X, without_the_last(outcomes))
    added = fitted.with_candidate("new", X[:50], outcomes.scores[:50, -1])
    again = added.with_candidate("newer", X[:5], outcomes.scores[:5, 0])
    assert again.candidates_ == (*outcomes.candidates[:-1], "new", "newer")
    for n in (1, 2, 399):
        before, after, later = (e.predict(X[:n]) for e in (fitted, added, again))
        np.testing.assert_array_equal(after.quality[:, :-1], before.quality)
        np.testing.assert_array_equal(after.quality_se[:, :-1], before.quality_se)
        np.testing.assert_array_equal(later.quality[:, :-1], after.quality)
    assert fitted.candidates_ == outcomes.candidates[:-1]
    assert len(clone(added).fit(X, outcomes).candidates_) == 7


@TAKES_ONE_MORE
@pytest.mark.parametrize("k", [20, 100])
def test_few_labels_teach_more_with_the_known_candidates_than_alone(
    estimator: Estimator, k: int
) -> None:
    X, outcomes, _ = low_rank_problem(2000)
    new, _, p = low_rank_problem(500, seed=1)
    fitted = clone(estimator).fit(X, without_the_last(outcomes))
    with_others, alone = [], []
    for start in range(0, 1000, 200):
        rows = np.arange(start, start + k)
        grown = fitted.with_candidate("new", X[rows], outcomes.scores[rows, -1])
        with_others.append(error(grown, new, p)[-1])
        own = outcomes.take(rows).select(outcomes.candidates[-1:])
        alone += [error(e.fit(X[rows], own), new, p[:, -1:])[0] for e in (Logistic(), Marginal())]
    assert np.mean(with_others) < 0.9 * np.mean(alone[::2])
    assert np.mean(with_others) < 0.9 * np.mean(alone[1::2])


@TAKES_ONE_MORE
def test_many_labels_end_where_a_fit_on_all_does(estimator: Estimator) -> None:
    X, outcomes, _ = low_rank_problem(3000, m=6)
    grown = (
        clone(estimator)
        .fit(X, without_the_last(outcomes))
        .with_candidate("new", X, outcomes.scores[:, -1])
    )
    new, _, p = low_rank_problem(500, m=6, seed=1)
    together = error(clone(estimator).fit(X, outcomes), new, p)[-1]
    assert error(grown, new, p)[-1] < together + 0.03


@TAKES_ONE_MORE
def test_one_label_leaves_a_new_candidate_near_the_known_ones_and_in_doubt(
    estimator: Estimator,
) -> None:
    X, outcomes, _ = low_rank_problem(1000)
    fitted = clone(estimator).fit(X, without_the_last(outcomes))
    before = fitted.predict(X)
    away, se = [], []
    for k in (1, 20, 200):
        prediction = fitted.with_candidate("new", X[:k], np.ones(k)).predict(X)
        away.append(np.abs(prediction.quality[:, -1] - before.quality.mean(axis=1)).mean())
        se.append(prediction.quality_se[:, -1].mean())
    assert away[0] < 0.2
    assert away[0] < away[1] < away[2]
    assert se[0] > se[1] > se[2]
    assert se[0] > 2 * before.quality_se.mean()


@TAKES_ONE_MORE
def test_the_graph_of_a_grown_estimator_equals_its_predict(estimator: Estimator) -> None:
    X, outcomes = make_problem(120, costs=None)
    head = Head(estimator, Marginal()).fit(X, outcomes)
    head.quality_ = head.quality_.with_candidate("new", X[:30], outcomes.scores[:30, 0])
    assert_parity(head, make_problem(60, seed=1)[0])


@TAKES_ONE_MORE
def test_labels_of_a_new_candidate_are_checked(estimator: Estimator) -> None:
    X, outcomes = make_problem(60)
    fitted = clone(estimator).fit(X, outcomes)
    with pytest.raises(RouterError, match="'large' is a candidate already"):
        fitted.with_candidate("large", X, outcomes.scores[:, 0])
    with pytest.raises(RouterError, match=r"'new' hold scores outside \[0, 1\]"):
        fitted.with_candidate("new", X, 2 * np.ones(60))
    with pytest.raises(RouterError, match="expected"):
        fitted.with_candidate("new", X, outcomes.scores[:9, 0])


def test_wins_take_in_no_candidate() -> None:
    X, outcomes = make_problem(60)
    estimator = MatrixFactorisation(loss="wins")
    assert not estimator.takes_candidates
    assert MatrixFactorisation().takes_candidates
    with pytest.raises(RouterError, match="loss=scores"):
        estimator.fit(X, outcomes).with_candidate("new", X, outcomes.scores[:, 0])


# ---- One hidden layer ---------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_a_hidden_layer_learns_what_no_line_divides(loss: str) -> None:
    rng = np.random.default_rng(3)
    X = unit_vectors(2500, 4, rng)
    apart = (X[:, 0] > 0) ^ (X[:, 1] > 0)
    p = np.where(apart[:, None], [0.9, 0.2], [0.1, 0.7])
    outcomes = outcomes_of((rng.random(p.shape) < p).astype(float))
    network = MLP(loss=loss).fit(X[:2000], outcomes.take(np.arange(2000)))
    lines = Logistic().fit(X[:2000], outcomes.take(np.arange(2000)))
    assert (error(network, X[2000:], p[2000:]) < 0.7 * error(lines, X[2000:], p[2000:])).all()


# ---- Which one is best --------------------------------------------------------------------------


def regions_problem(
    n: int, m: int = 3, seed: int = 0, noise: float = 0.1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(vectors, (n, m) scores, (n,) the candidate that is good there): every candidate has its own
    region."""
    rng = np.random.default_rng(seed)
    place = rng.integers(m, size=n)
    X = np.eye(m + 3)[place] * 2 + 0.5 * rng.normal(size=(n, m + 3))
    right = np.eye(m, dtype=bool)[place]
    scores = (rng.random((n, m)) < np.where(right, 1 - noise, noise)).astype(float)
    return X / np.linalg.norm(X, axis=1, keepdims=True), scores, place


@pytest.mark.parametrize(
    "estimator",
    [
        BestCandidate(),
        BestCandidate(temperature=0.0, tag_share=0.0),
        DualContrastive(),
        CostBandedContrastive(),
        MatrixFactorisation(loss="wins"),
    ],
    ids=repr,
)
def test_the_best_candidate_of_each_region_is_chosen(estimator: Estimator) -> None:
    X, scores, _ = regions_problem(900, m=4)
    fitted = clone(estimator).fit(X, outcomes_of(scores))
    new, _, place = regions_problem(500, m=4, seed=1)
    assert (fitted.predict(new).quality.argmax(axis=1) == place).mean() > 0.95


@pytest.mark.parametrize(
    "estimator", [BestCandidate(), DualContrastive(), CostBandedContrastive()], ids=repr
)
def test_the_probabilities_of_being_best_sum_to_one(estimator: Estimator) -> None:
    X, outcomes = make_problem(80, observed=0.7)
    quality = clone(estimator).fit(X, outcomes).predict(X).quality
    np.testing.assert_allclose(quality.sum(axis=1), 1)


def test_hard_labels_are_multinomial_logistic_regression() -> None:
    X, scores, _ = regions_problem(3000)
    scores += np.random.default_rng(0).random(scores.shape) * 0.01  # no ties
    scores /= scores.max()
    penalty = 2.0
    ours = BestCandidate(temperature=0.0, tag_share=0.0, penalty=penalty)
    theirs = LogisticRegression(C=1 / penalty, max_iter=1000).fit(X, scores.argmax(axis=1))
    np.testing.assert_allclose(
        ours.fit(X, outcomes_of(scores)).predict(X).quality, theirs.predict_proba(X), atol=0.005
    )


def test_equal_scores_share_a_label() -> None:
    X, scores, _ = regions_problem(400, m=2)
    scores = scores[:, [0, 1, 0]]
    for temperature in (0.0, 0.3):
        fitted = BestCandidate(temperature=temperature, tag_share=0.0)
        quality = fitted.fit(X, outcomes_of(scores)).predict(X).quality
        np.testing.assert_allclose(quality[:, 0], quality[:, 2], atol=1e-4)


def test_one_tag_for_all_gives_every_query_the_mean_label() -> None:
    X, scores, _ = regions_problem(2000)
    scores[:, 0] = 1.0
    fitted = BestCandidate(temperature=0.5, tag_share=1.0, n_tags=1)
    quality = fitted.fit(X, outcomes_of(scores)).predict(X).quality
    labels = np.exp(scores / 0.5)
    labels /= labels.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(quality, np.tile(labels.mean(axis=0), (2000, 1)), atol=0.005)


def test_candidates_that_never_met_are_not_compared() -> None:
    # One is seen where the others fail, which is no proof that it is the best.
    X, scores, _ = regions_problem(600)
    observed = np.ones(scores.shape, dtype=bool)
    observed[:, 2] = False
    observed[::2] = [False, False, True]
    before = BestCandidate(tag_share=0.0).fit(X, outcomes_of(scores, observed)).predict(X).quality
    changed = scores.copy()
    changed[:, 2] = 1 - changed[:, 2]
    after = BestCandidate(tag_share=0.0).fit(X, outcomes_of(changed, observed)).predict(X).quality
    np.testing.assert_allclose(after, before, atol=1e-12)


def test_the_sample_loss_draws_queries_of_a_cluster_together() -> None:
    X, scores, place = regions_problem(600, noise=0.4)
    spreads = []
    for weight in (0.0, 5.0):
        estimator = DualContrastive(n_clusters=3, sample_weight=weight)
        quality = estimator.fit(X, outcomes_of(scores)).predict(X).quality
        within = np.mean([quality[place == k].var(axis=0).sum() for k in range(3)])
        spreads.append(within / quality.var(axis=0).sum())
    assert spreads[1] < 0.5 * spreads[0]


def costs_problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(vectors, scores, costs): the cheap one is right in half of the space, the dear one always,
    and a third one, in price between them, never."""
    rng = np.random.default_rng(seed)
    X = unit_vectors(600, 5, rng)
    scores = np.column_stack([X[:, 0] > 0, np.zeros(600), np.ones(600)]).astype(float)
    return X, scores, rng.lognormal(sigma=0.1, size=(600, 3)) * [0.0001, 0.001, 0.01]


def test_the_cheapest_candidate_that_is_right_is_drawn_to_the_query() -> None:
    X, scores, cost = costs_problem()
    easy = X[:, 0] > 0.2
    hard = X[:, 0] < -0.2
    quality = CostBandedContrastive().fit(X, outcomes_of(scores, cost=cost)).predict(X).quality
    assert (quality[easy].argmax(axis=1) == 0).mean() > 0.95
    assert (quality[hard].argmax(axis=1) == 2).mean() > 0.95
    # Without costs there is one band, and the dear one is never worse.
    free = CostBandedContrastive().fit(X, outcomes_of(scores)).predict(X).quality
    assert (free[easy, 0] < quality[easy, 0]).all()
    one_band = CostBandedContrastive(n_bands=1).fit(X, outcomes_of(scores, cost=cost))
    np.testing.assert_array_equal(one_band.predict(X).quality, free)


def test_bands_are_the_same_in_any_currency() -> None:
    X, scores, cost = costs_problem()
    dollars, cents = (
        CostBandedContrastive().fit(X, outcomes_of(scores, cost=c)).predict(X).quality
        for c in (cost, 100 * cost)
    )
    np.testing.assert_array_equal(cents, dollars)


# ---- The graph of queries, tasks and candidates -------------------------------------------------


def test_a_query_hears_the_task_that_it_is_nearest_to() -> None:
    X, scores, place = regions_problem(900)
    tasks = np.array(["art", "law", "war"], dtype=object)[place]
    fitted = MessagePassing().fit(X, outcomes_of(scores, tasks=tasks))
    new, _, place = regions_problem(300, seed=1)
    assert error(fitted, new, np.where(np.eye(3)[place] > 0, 0.9, 0.1)).max() < 0.12


def test_a_log_without_tasks_is_clustered() -> None:
    X, scores, _ = regions_problem(900)
    fitted = MessagePassing(n_tasks=8).fit(X, outcomes_of(scores))
    new, _, place = regions_problem(300, seed=1)
    assert error(fitted, new, np.where(np.eye(3)[place] > 0, 0.9, 0.1)).max() < 0.12


def test_names_of_tasks_mean_nothing() -> None:
    X, outcomes = make_problem(150)
    renamed = outcomes.queries["task"].map({"algebra": "1", "poetry": "2"})
    other = replace(outcomes, queries=outcomes.queries.assign(task=renamed))
    one, two = (MessagePassing().fit(X, log).predict(X) for log in (outcomes, other))
    np.testing.assert_array_equal(one.quality, two.quality)


def test_the_exported_graph_does_not_grow_with_the_log() -> None:
    sizes = set()
    for n in (60, 240):
        X, outcomes = make_problem(n, costs=None)
        head = Head(MessagePassing(), Marginal()).fit(X, outcomes)
        sizes.add(len(head.to_onnx().SerializeToString()))
    assert len(sizes) == 1


# ---- Contracts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimator",
    [
        MatrixFactorisation(loss="wins"),
        MatrixFactorisation(rank=1),
        ItemResponse(dimensions=1, effort_separator=None),
        MLP(hidden=1, loss="squared"),
        BestCandidate(temperature=0.0, tag_share=0.0, se_rank=2),
        DualContrastive(dimensions=1, n_best=1, n_worst=10, sample_weight=0.0),
        CostBandedContrastive(n_clusters=1, n_bands=9, cost_weight=0.0),
        MessagePassing(hidden=1),
    ],
    ids=repr,
)
def test_the_graph_equals_predict_with_other_hyperparameters(estimator: Estimator) -> None:
    X, outcomes = make_problem(100, observed=0.7)
    assert_parity(Head(estimator, Marginal()).fit(X, outcomes), make_problem(80, seed=1)[0])


@pytest.mark.parametrize(
    "estimator",
    [
        MatrixFactorisation(rank=0),
        MatrixFactorisation(loss="ranks"),
        MatrixFactorisation(penalty=0.0),
        ItemResponse(dimensions=0),
        ItemResponse(effort_separator=""),
        ItemResponse(penalty=-1.0),
        MLP(hidden=0),
        MLP(loss="hinge"),
        MLP(penalty=0.0),
        BestCandidate(temperature=-0.1),
        BestCandidate(tag_share=1.1),
        BestCandidate(n_tags=0),
        DualContrastive(n_best=0),
        DualContrastive(temperature=0.0),
        DualContrastive(sample_weight=-1.0),
        CostBandedContrastive(n_bands=0),
        CostBandedContrastive(correct=0.0),
        CostBandedContrastive(cost_weight=-1.0),
        MessagePassing(n_tasks=0),
        MessagePassing(penalty=0.0),
    ],
    ids=repr,
)
def test_hyperparameters_out_of_range_are_refused_in_a_sentence(estimator: Estimator) -> None:
    with pytest.raises(RouterError, match=f"{type(estimator).__name__} needs"):
        estimator.fit(*make_problem(40))


@pytest.mark.parametrize(
    "kind",
    [
        MatrixFactorisation,
        ItemResponse,
        MLP,
        BestCandidate,
        DualContrastive,
        CostBandedContrastive,
        MessagePassing,
    ],
)
def test_targets_beyond_a_score_are_refused(kind: type[Estimator]) -> None:
    X, outcomes = make_problem(40)
    with pytest.raises(RouterError, match=r"\[0, 1\]"):
        kind().fit(X, outcomes.with_target(3 * outcomes.scores))
