"""Stack weighs its members by what they know of the choice."""

from __future__ import annotations

from typing import Self

import numpy as np
import pandas as pd
import pytest
from conftest import make_problem
from hypothesis import given, settings
from hypothesis import strategies as st
from test_estimator_graphs import assert_parity

from router.errors import RouterError
from router.estimators import KNN, Average, Estimator, Marginal, Partition, Ridge, Stack
from router.estimators.graph import Graph
from router.estimators.head import Head
from router.estimators.stack import contrast_weights
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction


class Columns(Estimator):
    """The vector holds the qualities, from column `first` on."""

    def __init__(self, first: int = 0, se: float = 0.01):
        self.first = first
        self.se = se

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        self.candidates_ = outcomes.candidates
        return self

    def predict(self, X: np.ndarray) -> Prediction:
        quality = np.asarray(X, dtype=float)[:, self.first : self.first + len(self.candidates_)]
        return Prediction(self.candidates_, quality, np.full(quality.shape, self.se))

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        own = np.arange(self.first, self.first + len(self.candidates_))
        quality = graph.op("Gather", vector, graph.constant(own, np.int64), axis=1)
        zero = graph.op("Mul", quality, graph.constant(0.0))
        return quality, graph.op("Add", zero, graph.constant(self.se))


def outcomes_of(
    scores: np.ndarray, observed: np.ndarray | None = None, groups: np.ndarray | None = None
) -> OutcomeMatrix:
    n, m = scores.shape
    group = np.arange(n) if groups is None else groups
    queries = pd.DataFrame({"query_id": np.arange(n), "prompt": "p", "group": group})
    seen = np.ones((n, m), dtype=bool) if observed is None else observed
    return OutcomeMatrix(queries, tuple(f"c{j}" for j in range(m)), scores, seen)


def coins(rng: np.random.Generator, chance: np.ndarray) -> np.ndarray:
    return (rng.random(chance.shape) < chance).astype(float)


def test_the_member_that_knows_takes_the_weight_and_the_others_are_left_out() -> None:
    rng = np.random.default_rng(0)
    chance, noise = rng.random((3000, 3)), rng.random((3000, 3))
    X = np.concatenate([noise, chance], axis=1)
    outcomes = outcomes_of(coins(rng, chance))
    both = {"noise": Columns(0), "truth": Columns(3)}
    stack = Stack(both, equal=0.0).fit(X, outcomes)
    assert stack.weights_["truth"] > 0.95
    assert sum(stack.weights_.values()) == pytest.approx(1)
    # What is left out is in neither the prediction nor the artifact.
    against = {"reversed": Columns(0), "truth": Columns(3)}
    X[:, :3] = 1 - chance
    stack = Stack(against, equal=0.0).fit(X, outcomes)
    assert stack.weights_ == {"reversed": 0.0, "truth": 1.0}
    np.testing.assert_allclose(stack.predict(X).quality, chance)
    graph = Graph()
    stack.to_onnx(graph, "vector")
    alone = Graph()
    Stack({"truth": Columns(3)}).fit(X, outcomes).to_onnx(alone, "vector")
    sizes = [
        len(each.model(6, {"q": "vector"}, {"q": ["batch", "d"]}).SerializeToString())
        for each in (graph, alone)
    ]
    assert sizes[0] == sizes[1]


def test_knowing_how_hard_a_query_is_earns_nothing() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random((2000, 1))
    gap = rng.uniform(-0.1, 0.1, size=(2000, 1))
    scores = 0.2 + 0.6 * hard + gap * np.array([[1.0, -1.0]])
    knows_difficulty = 0.2 + 0.6 * hard - gap * np.array([[0.3, -0.3]])
    knows_choice = 0.5 + gap * np.array([[1.0, -1.0]])
    X = np.concatenate([knows_difficulty, knows_choice], axis=1)
    squared_error = [((part - scores) ** 2).mean() for part in (knows_difficulty, knows_choice)]
    assert squared_error[0] < squared_error[1]
    members = {"difficulty": Columns(0), "choice": Columns(2)}
    stack = Stack(members, equal=0.0).fit(X, outcomes_of(scores))
    assert stack.weights_["choice"] == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.4, 1.0), st.sampled_from([0.0, 5.0, 1e3]))
def test_the_weights_are_the_best_of_all_convex_ones(seed: int, share: float, equal: float) -> None:
    rng = np.random.default_rng(seed)
    n, m, k = 30, 3, 3
    known = rng.random((n, m)) < share
    known[0] = True
    scores = rng.random((n, m))
    quality = rng.random((k, n, m)) + rng.uniform(-1, 1) * scores
    queries = [i for i in range(n) if known[i].sum() > 1]
    errors, sizes = [], []  # of each query: members' predicted differences less the true ones
    for i in queries:
        p, s = quality[:, i, known[i]], scores[i, known[i]]
        centred = p - p.mean(axis=1, keepdims=True)
        errors.append(centred - (s - s.mean()))
        sizes.append((centred**2).sum() / k)
    error = np.concatenate(errors, axis=1)

    def loss(weights: np.ndarray) -> np.ndarray:
        """Of (..., members) convex weights."""
        pull = equal * np.mean(sizes) * ((weights - 1 / k) ** 2).sum(axis=-1)
        return np.asarray(((weights @ error) ** 2).sum(axis=-1) + pull)

    found = contrast_weights(quality, np.where(known, scores, 0.0), known.astype(float), equal)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    grid = np.linspace(0, 1, 101)
    a, b = (values.ravel() for values in np.meshgrid(grid, grid))
    convex = np.stack([a, b, 1 - a - b], axis=1)[a + b <= 1]
    least = loss(convex).min()
    assert loss(found) <= least + 1e-4 * max(least, 1.0)


def test_a_great_pseudo_count_of_equal_weights_is_the_average() -> None:
    X, outcomes = make_problem(100, observed=0.7)
    members = {"ridge": Ridge(), "partition": Partition(4), "marginal": Marginal()}
    stack = Stack(members, equal=1e12).fit(X, outcomes).predict(X)
    average = Average(members).fit(X, outcomes).predict(X)
    np.testing.assert_allclose(stack.quality, average.quality, atol=1e-6)
    np.testing.assert_allclose(stack.quality_se, average.quality_se, atol=1e-6)


def test_members_that_are_all_alike_share_the_weight() -> None:
    X, outcomes = make_problem(100)
    stack = Stack({"one": Ridge(), "two": Ridge(), "three": Ridge()}, equal=0.0).fit(X, outcomes)
    assert list(stack.weights_.values()) == pytest.approx([1 / 3] * 3, abs=1e-3)


def test_a_log_with_one_outcome_a_query_tells_nothing_of_the_choice() -> None:
    X, full = make_problem(200)
    observed = np.eye(3, dtype=bool)[np.arange(200) % 3]
    outcomes = outcomes_of(full.scores, observed)
    stack = Stack({"ridge": Ridge(), "partition": Partition(4)}).fit(X, outcomes)
    assert stack.weights_ == {"ridge": 0.5, "partition": 0.5}


def test_memory_of_a_prompt_earns_nothing_since_its_group_stays_in_one_fold() -> None:
    rng = np.random.default_rng(2)
    directions = rng.normal(size=(150, 8))
    kind = directions[:, :1] > 0
    chance = np.where(kind, [[0.8, 0.4]], [[0.4, 0.8]])
    twice = np.repeat(np.arange(150), 2)
    X, outcomes = directions[twice], outcomes_of(coins(rng, chance)[twice], groups=twice)
    members = {"memory": KNN(n_neighbors=2, temperature=1e-3, shrinkage=0.0), "ridge": Ridge()}
    assert Stack(members, equal=0.0).fit(X, outcomes).weights_["memory"] < 0.3
    split_groups = outcomes_of(outcomes.scores)
    assert Stack(members, equal=0.0).fit(X, split_groups).weights_["memory"] > 0.7


def test_a_member_on_a_scale_of_its_own_is_brought_to_the_scores() -> None:
    rng = np.random.default_rng(3)
    chance = rng.random((3000, 3))
    X = np.concatenate([7 + 0.1 * chance, rng.random((3000, 3))], axis=1)
    members = {"own scale": Columns(0), "noise": Columns(3)}
    stack = Stack(members, equal=0.0).fit(X, outcomes_of(coins(rng, chance)))
    prediction = stack.predict(X)
    assert stack.weights_["own scale"] > 0.9
    assert np.abs(prediction.quality - chance).mean() < 0.05
    # Ten times the slope, ten times the standard error.
    assert (prediction.quality_se > 0.08).all()
    assert (prediction.quality_se < 0.15).all()


def test_the_graph_equals_predict_with_a_member_on_its_own_scale() -> None:
    X, outcomes = make_problem(120, observed=0.6)
    members = {"ridge": Ridge(), "own": Columns(2), "partition": Partition(4)}
    assert_parity(Head(Stack(members), Ridge()).fit(X, outcomes), make_problem(80, seed=1)[0])


def test_the_members_given_are_left_unfitted() -> None:
    ridge = Ridge()
    Stack({"ridge": ridge}).fit(*make_problem(40))
    assert not hasattr(ridge, "coef_")


@pytest.mark.parametrize(
    "stack",
    [Stack({}), Stack({"ridge": Ridge()}, n_folds=1), Stack({"ridge": Ridge()}, equal=-1.0)],
    ids=repr,
)
def test_hyperparameters_out_of_range_are_refused_in_a_sentence(stack: Stack) -> None:
    with pytest.raises(RouterError, match="Stack needs"):
        stack.fit(*make_problem(40))
