"""Labels: a mean per label of the log, the label predicted from the vector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_problem
from test_estimator_graphs import assert_parity

from router.errors import RouterError
from router.estimators import Labels, Marginal
from router.estimators.head import Head
from router.outcomes.matrix import OutcomeMatrix


def labelled(outcomes: OutcomeMatrix, labels: np.ndarray, column: str = "task") -> OutcomeMatrix:
    return replace(outcomes, queries=outcomes.queries.assign(**{column: labels}))


def three_topics(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, OutcomeMatrix]:
    """(vectors, topic, outcomes); the topics lie far apart."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(3, size=n)
    X = 3 * np.eye(4)[topic] + 0.2 * rng.normal(size=(n, 4))
    _, outcomes = make_problem(n)
    chance = np.array([[0.9, 0.5, 0.1], [0.2, 0.8, 0.4], [0.5, 0.1, 0.9]])[topic]
    scores = (rng.random((n, 3)) < chance).astype(float)
    outcomes = replace(outcomes, scores=scores, cost=None)
    return X, topic, labelled(outcomes, np.array(["law", "maths", "verse"])[topic])


@pytest.mark.parametrize("hard", [False, True])
def test_where_the_vector_gives_the_label_away_its_mean_is_predicted(hard: bool) -> None:
    X, topic, outcomes = three_topics(600)
    prediction = Labels(shrinkage=0.0, hard=hard, C=1e4).fit(X, outcomes).predict(X)
    for k in range(3):
        rows = topic == k
        expected = outcomes.scores[rows].mean(axis=0)
        np.testing.assert_allclose(prediction.quality[rows], np.tile(expected, (rows.sum(), 1)),
                                   atol=0.005)  # fmt: skip


def test_between_two_topics_the_soft_label_predicts_between_their_means() -> None:
    X, _, outcomes = three_topics(600)
    between = ((X[0] + X[np.flatnonzero(outcomes.tasks != outcomes.tasks[0])[0]]) / 2)[None]
    soft, hard = (Labels(hard=h).fit(X, outcomes) for h in (False, True))
    tables = np.unique(hard.predict(X).quality, axis=0)
    assert len(tables) == 3
    at = soft.predict(between).quality[0]
    assert not np.isclose(tables, at).all(axis=1).any()
    assert (at > tables.min(axis=0)).all()
    assert (at < tables.max(axis=0)).all()
    assert np.isclose(tables, hard.predict(between).quality[0]).all(axis=1).any()


def test_a_vector_that_says_nothing_of_the_label_gives_the_mean_over_labels() -> None:
    _, _, outcomes = three_topics(600)
    X = np.random.default_rng(3).normal(size=(600, 4))
    prediction = Labels(C=1e-4).fit(X, outcomes).predict(X)
    marginal = Marginal().fit(X, outcomes).predict(X)
    np.testing.assert_allclose(prediction.quality, marginal.quality, atol=0.02)


def test_rare_labels_are_pooled() -> None:
    X, topic, outcomes = three_topics(300)
    names = outcomes.tasks.copy()
    rare = np.flatnonzero(topic == 2)
    names[rare] = [f"rare{i}" for i in rare]
    fitted = Labels(least_queries=10).fit(X, labelled(outcomes, names))
    assert fitted.labels_ == ("(rare)", "law", "maths")
    expected = Labels().fit(X, outcomes).predict(X)
    np.testing.assert_allclose(fitted.predict(X).quality, expected.quality, atol=1e-4)


def test_when_every_label_is_rare_the_marginal_is_left() -> None:
    X, outcomes = make_problem(60)
    fitted = Labels(least_queries=1000, shrinkage=0.0).fit(X, outcomes)
    assert fitted.labels_ == ("(rare)",)
    np.testing.assert_allclose(
        fitted.predict(X).quality, Marginal().fit(X, outcomes).predict(X).quality, atol=1e-9
    )


def test_any_column_of_the_queries_serves_and_gaps_are_a_label() -> None:
    X, topic, outcomes = three_topics(300)
    difficulty = np.where(topic == 0, None, topic).astype(object)
    tagged = labelled(outcomes, difficulty, "difficulty")
    fitted = Labels(column="difficulty").fit(X, tagged)
    assert fitted.labels_[0] == "(none)"
    assert len(fitted.labels_) == 3


def test_a_column_that_the_log_lacks_is_told_with_those_that_it_has() -> None:
    X, outcomes = make_problem(60)
    with pytest.raises(RouterError, match=r"'topic' in the log, which has .*task.*; log it"):
        Labels(column="topic").fit(X, outcomes)


def test_the_label_of_a_held_out_query_is_not_needed() -> None:
    X, _, outcomes = three_topics(300)
    fitted = Labels().fit(X, outcomes)
    assert fitted.predict(X[:5]).quality.shape == (5, 3)


@pytest.mark.parametrize("hard", [False, True])
def test_the_graph_equals_predict(hard: bool) -> None:
    X, _, outcomes = three_topics(300)
    head = Head(Labels(hard=hard, shrinkage=None), Marginal()).fit(X.astype(np.float32), outcomes)
    assert_parity(head, three_topics(80, seed=1)[0])


def test_a_new_candidate_learns_its_labels_means() -> None:
    X, _, outcomes = three_topics(900)
    two = Labels().fit(X, outcomes.select(outcomes.candidates[:2]))
    three = two.with_candidate(outcomes.candidates[2], X, outcomes.scores[:, 2]).predict(X)
    joint = Labels().fit(X, outcomes).predict(X)
    np.testing.assert_allclose(three.quality, joint.quality, atol=0.05)


@pytest.mark.parametrize(
    "estimator", [Labels(least_queries=0), Labels(C=0.0), Labels(shrinkage=-1.0)], ids=repr
)
def test_hyperparameters_out_of_range_are_refused(estimator: Labels) -> None:
    with pytest.raises(RouterError, match="Labels needs"):
        estimator.fit(*make_problem(40))
