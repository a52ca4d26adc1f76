"""Policies that explore: what they log is what they do, and exploring pays."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri
from test_policies import many, outcomes_of, problems

from router.artifact.manifest import amend_manifest
from router.artifact.runtime import load
from router.errors import RouterError
from router.estimators import LinearBandit
from router.outcomes.matrix import OutcomeMatrix
from router.policies import (
    EpsilonGreedy,
    Policy,
    Thompson,
    UpperConfidence,
    Utility,
    draw,
    uniform_of,
)
from router.policies.base import filled
from router.policies.thompson import chance_of_the_greatest
from router.prediction import Prediction

EXPLORING = (EpsilonGreedy, Thompson, UpperConfidence)
every_kind = pytest.mark.parametrize("kind", EXPLORING, ids=lambda kind: kind.__name__)


def prediction_of(
    quality: object, error: object = 0.05, cost: object = None, latency: object = None
) -> Prediction:
    quality = np.atleast_2d(np.asarray(quality, dtype=float))

    def full(values: object) -> np.ndarray | None:
        return None if values is None else np.broadcast_to(values, quality.shape).astype(float)

    names = tuple(f"c{j}" for j in range(quality.shape[1]))
    return Prediction(names, quality, full(error), full(cost), full(latency))


def phi(z: float) -> float:
    """The standard normal's distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def with_doubt(
    problem: tuple[Prediction, OutcomeMatrix], seed: int
) -> tuple[Prediction, OutcomeMatrix]:
    prediction, outcomes = problem
    error = np.random.default_rng(seed).lognormal(-3, 1, size=prediction.quality.shape)
    return replace(prediction, quality_se=error), outcomes


def spent(policy: Policy, prediction: Prediction, outcomes: OutcomeMatrix) -> float:
    _, cost = filled(prediction, outcomes)
    return float((policy.probabilities(prediction) * cost).sum(axis=1).mean())


# The propensity


@pytest.mark.parametrize(
    "policy",
    [
        EpsilonGreedy(epsilon=0.3),
        EpsilonGreedy(epsilon=0.6, cost_aware=True, cost_weight=10.0),
        UpperConfidence(least_probability=0.1),
        UpperConfidence(cost_weight=0.0, cheap_weight=100.0, dear_share=0.7),
        Thompson(),
        Thompson(width=3.0, cost_weight=5.0, least_probability=0.05),
    ],
    ids=repr,
)
def test_draws_hit_the_logged_propensity(policy: Policy) -> None:
    query = prediction_of([0.62, 0.6, 0.5], [0.05, 0.1, 0.05], [0.02, 0.01, 0.002])
    propensity = policy.probabilities(query)
    n = 20_000
    prompts = [f"prompt {i}" for i in range(n)]
    chosen = draw(np.tile(propensity, (n, 1)), uniform_of(prompts))
    counts = np.bincount(chosen, minlength=3)
    error = np.sqrt(n * propensity[0] * (1 - propensity[0]))
    assert (propensity[0] > 0).sum() > 1
    assert (np.abs(counts - n * propensity[0]) <= 4 * error).all()
    # The same prompt explores the same way.
    again = draw(np.tile(propensity, (n, 1)), uniform_of(prompts))
    np.testing.assert_array_equal(again, chosen)


@every_kind
@many
@given(problems(), st.integers(0, 99), st.floats(0, 0.2))
def test_the_floor_is_exact(
    kind: type, problem: tuple[Prediction, OutcomeMatrix], seed: int, floor: float
) -> None:
    prediction, _ = with_doubt(problem, seed)
    m = len(prediction.candidates)
    without = kind(cost_weight=3.0).probabilities(prediction)
    floored = kind(cost_weight=3.0, least_probability=floor).probabilities(prediction)
    assert (floored >= floor).all()
    np.testing.assert_allclose(floored, floor + (1 - m * floor) * without, atol=1e-12)
    everyone = kind(least_probability=1 / m).probabilities(prediction)
    np.testing.assert_allclose(everyone, 1 / m)


@every_kind
def test_a_floor_that_leaves_nothing_to_choose_is_refused(kind: type) -> None:
    query = prediction_of([0.5, 0.4, 0.3])
    policy = kind(least_probability=0.4)
    with pytest.raises(RouterError, match=r"3 candidates can have at most 0\.333 each"):
        policy.probabilities(query)
    with pytest.raises(RouterError, match=r"at most 0\.333 each"):
        policy.tune(query, outcomes_of(np.ones((1, 3)), None))


def test_an_exported_router_reports_the_propensity_to_log(artifact_copy: Path) -> None:
    policy = Thompson(width=2.0, cost_weight=5.0, least_probability=0.1)
    amend_manifest(artifact_copy, policy=policy.to_dict())
    router = load(artifact_copy)
    assert router.policy == policy
    chosen = set()
    for prompt in (f"poetry question number {i}" for i in range(12)):
        decision = router.route(prompt)
        propensity = policy.probabilities(router.predict(router.encode([prompt])))[0]
        assert decision.probability == propensity[router.candidates.index(decision.candidate)]
        assert router.route(prompt) == decision
        chosen.add(decision.candidate)
    assert len(chosen) > 1


# Epsilon-greedy


@many
@given(problems(), st.floats(0, 1), st.sampled_from([0.0, 10.0, math.inf]))
def test_epsilon_is_shared_by_all_and_the_rest_is_the_best_ones(
    problem: tuple[Prediction, OutcomeMatrix], epsilon: float, weight: float
) -> None:
    prediction, _ = problem
    m = len(prediction.candidates)
    greedy = Utility(weight).probabilities(prediction)
    found = EpsilonGreedy(epsilon=epsilon, cost_weight=weight).probabilities(prediction)
    np.testing.assert_allclose(found, (1 - epsilon) * greedy + epsilon / m, atol=1e-12)


def test_cost_aware_exploration_spends_the_same_on_each_candidate() -> None:
    cost = np.array([0.02, 0.01, 0.002])
    query = prediction_of([0.9, 0.8, 0.7], cost=cost)
    random = EpsilonGreedy(epsilon=1.0, cost_aware=True).probabilities(query)[0]
    np.testing.assert_allclose(random * cost, (random * cost)[0])
    uniform = EpsilonGreedy(epsilon=1.0).probabilities(query)[0]
    assert random @ cost < uniform @ cost


@pytest.mark.parametrize("cost", [[0.0, 0.01, 0.02], [0.0, 0.0, 0.0]])
def test_a_free_candidate_does_not_take_all_exploration(cost: list[float]) -> None:
    query = prediction_of([0.9, 0.8, 0.7], cost=cost)
    random = EpsilonGreedy(epsilon=1.0, cost_aware=True).probabilities(query)[0]
    assert (random > 5e-4).all()
    assert random.sum() == pytest.approx(1)
    if not any(cost):
        np.testing.assert_allclose(random, 1 / 3)


# Upper confidence


@many
@given(problems(), st.integers(0, 99), st.sampled_from([0.0, 10.0, math.inf]))
def test_without_width_the_upper_bound_is_the_utility(
    problem: tuple[Prediction, OutcomeMatrix], seed: int, weight: float
) -> None:
    prediction, _ = with_doubt(problem, seed)
    found = UpperConfidence(width=0.0, cost_weight=weight).probabilities(prediction)
    np.testing.assert_array_equal(found, Utility(weight).probabilities(prediction))
    doubtful = UpperConfidence(width=1e6).probabilities(prediction)
    np.testing.assert_array_equal(doubtful.argmax(axis=1), prediction.quality_se.argmax(axis=1))


def test_the_upper_bound_weighs_quality_doubt_and_cost() -> None:
    query = prediction_of([0.8, 0.7, 0.6], [0.01, 0.2, 0.2], [1.0, 1.0, 0.5])
    for width, weight, best in ((0.0, 0.0, 0), (1.0, 0.0, 1), (1.0, 0.5, 2), (0.1, 0.1, 0)):
        policy = UpperConfidence(width=width, cost_weight=weight)
        assert policy.probabilities(query)[0].argmax() == best
    assert UpperConfidence().reason(query, 1) == (
        "greatest upper bound of predicted quality (0.700 + 0.200); drawn with probability 1"
    )
    assert UpperConfidence(cost_weight=0.5).reason(query, 2) == (
        "greatest upper bound of predicted quality (0.600 + 0.200 - 0.25 for its cost); "
        "drawn with probability 1"
    )


# Thompson

means = st.floats(-2, 2)
deviations = st.floats(-6, 1).map(lambda exponent: 10.0**exponent)


@settings(max_examples=200, deadline=None)
@given(means, means, deviations, deviations)
def test_the_chance_of_two_normals_has_a_closed_form(
    one: float, two: float, of_one: float, of_two: float
) -> None:
    found = chance_of_the_greatest(np.array([[one, two]]), np.array([[of_one, of_two]]))[0]
    expected = phi((one - two) / math.hypot(of_one, of_two))
    np.testing.assert_allclose(found, [expected, 1 - expected], atol=1e-8)


@pytest.mark.parametrize("m", [3, 6, 12])
def test_the_chance_of_the_greatest_agrees_with_draws(m: int) -> None:
    rng = np.random.default_rng(m)
    mean, deviation = rng.normal(size=(4, m)), rng.lognormal(sigma=1.0, size=(4, m))
    found = chance_of_the_greatest(mean, deviation)
    n = 40_000
    for i in range(4):
        drawn = (mean[i] + deviation[i] * rng.normal(size=(n, m))).argmax(axis=1)
        share = np.bincount(drawn, minlength=m) / n
        error = np.sqrt(found[i] * (1 - found[i]) / n)
        assert (np.abs(share - found[i]) <= 4.5 * error + 1e-4).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 4.0]))
def test_the_chance_of_the_greatest_agrees_with_a_fine_sum(
    m: int, seed: int, scales: float
) -> None:
    rng = np.random.default_rng(seed)
    mean, deviation = rng.normal(size=m), rng.lognormal(sigma=scales, size=m)
    found = chance_of_the_greatest(mean[None], deviation[None])[0]
    z = ndtri((np.arange(20_000) + 0.5) / 20_000)
    for j in range(m):
        x = mean[j] + deviation[j] * z
        others = np.delete(np.arange(m), j)
        below = ndtr((x[:, None] - mean[others]) / deviation[others])
        assert found[j] == pytest.approx(below.prod(axis=1).mean(), abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 20), deviations, means)
def test_alike_candidates_have_alike_chances(m: int, deviation: float, mean: float) -> None:
    found = chance_of_the_greatest(np.full((1, m), mean), np.full((1, m), deviation))
    np.testing.assert_allclose(found, 1 / m, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.floats(0.01, 100))
def test_chances_do_not_depend_on_place_and_scale(seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    mean, deviation = rng.normal(size=(5, 4)), rng.lognormal(size=(5, 4))
    found = chance_of_the_greatest(mean, deviation)
    moved = chance_of_the_greatest(shift + scale * mean, scale * deviation)
    np.testing.assert_allclose(moved, found, atol=1e-8)
    better = mean.copy()
    better[:, 0] += 0.1
    gain = chance_of_the_greatest(better, deviation)[:, 0] - found[:, 0]
    assert (gain >= -1e-8).all()
    assert (gain[(found[:, 0] > 0.01) & (found[:, 0] < 0.99)] > 1e-4).all()


def test_chances_in_many_rows_are_those_of_each_row() -> None:
    rng = np.random.default_rng(0)
    mean, deviation = rng.normal(size=(3000, 9)), rng.lognormal(size=(3000, 9))
    together = chance_of_the_greatest(mean, deviation)
    for i in (0, 1499, 2999):
        alone = chance_of_the_greatest(mean[[i]], deviation[[i]])
        np.testing.assert_array_equal(alone[0], together[i])
    assert chance_of_the_greatest(mean[:0], deviation[:0]).shape == (0, 9)


def test_thompson_reads_quality_cost_and_doubt() -> None:
    query = prediction_of([0.7, 0.6], [0.1, 0.2], [0.3, 0.1])
    for width, weight in ((1.0, 0.0), (2.0, 0.0), (1.0, 0.5), (0.5, 2.0)):
        expected = phi((0.1 - weight * 0.2) / (width * math.hypot(0.1, 0.2)))
        found = Thompson(width=width, cost_weight=weight).probabilities(query)[0]
        np.testing.assert_allclose(found, [expected, 1 - expected], atol=1e-8)


def test_thompson_without_doubt_is_the_utility() -> None:
    rng = np.random.default_rng(0)
    prediction = prediction_of(rng.random((50, 4)), 0.0, rng.random((50, 4)))
    for weight in (0.0, 1.0, 1e6, math.inf):
        found = Thompson(cost_weight=weight).probabilities(prediction)
        np.testing.assert_allclose(found, Utility(weight).probabilities(prediction), atol=1e-12)


def test_at_an_infinite_weight_thompson_explores_among_the_cheapest_alone() -> None:
    query = prediction_of([0.6, 0.5, 0.9], 0.1, [1.0, 1.0, 2.0])
    found = Thompson(cost_weight=math.inf).probabilities(query)[0]
    expected = phi(0.1 / math.hypot(0.1, 0.1))
    np.testing.assert_allclose(found, [expected, 1 - expected, 0.0], atol=1e-8)


# Latency, budget, faults


@every_kind
def test_seconds_count_by_their_weight(kind: type) -> None:
    slow = prediction_of([[0.7, 0.6]] * 6, 0.1, [0.3, 0.1], [2.0, 1.0])
    net = replace(slow, quality=slow.quality - 0.2 * slow.latency)
    found = kind(cost_weight=0.1, latency_weight=0.2)
    plain = kind(cost_weight=0.1)
    np.testing.assert_allclose(found.probabilities(slow), plain.probabilities(net))
    assert not np.allclose(found.probabilities(slow), plain.probabilities(slow))
    for policy, weighed in zip(found.path(slow), plain.path(net), strict=True):
        np.testing.assert_allclose(policy.probabilities(slow), weighed.probabilities(net))
    with pytest.raises(RouterError, match="weighs seconds, but the log has none"):
        found.probabilities(replace(slow, latency=None))


@every_kind
@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(0, 99), st.floats(0, 1), st.sampled_from([0.0, 0.05]))
def test_a_budget_includes_the_exploration_and_is_met_exactly(
    kind: type,
    problem: tuple[Prediction, OutcomeMatrix],
    seed: int,
    share: float,
    floor: float,
) -> None:
    prediction, outcomes = with_doubt(problem, seed)
    dear, cheap = (
        spent(kind(cost_weight=w, least_probability=floor), prediction, outcomes)
        for w in (0.0, math.inf)
    )
    assume(cheap < dear)
    budget = cheap + share * (dear - cheap)
    policy = kind(budget=budget, least_probability=floor).tune(prediction, outcomes)
    assert spent(policy, prediction, outcomes) == pytest.approx(budget, rel=1e-9)
    assert 0 <= policy.dear_share <= 1
    assert policy.cost_weight <= policy.cheap_weight
    assert (policy.probabilities(prediction) >= floor).all()


@every_kind
def test_the_two_weights_are_close_together(kind: type) -> None:
    rng = np.random.default_rng(0)
    cost = np.array([1e-2, 1e-3, 1e-4]) * rng.lognormal(sigma=0.3, size=(80, 3))
    prediction = prediction_of(rng.random((80, 3)), 0.1, cost)
    outcomes = outcomes_of(rng.random((80, 3)), cost)
    policy = kind(budget=3e-3).tune(prediction, outcomes)
    assert policy.cost_weight > 0
    assert policy.cheap_weight < 1.03 * policy.cost_weight


@every_kind
def test_a_budget_that_is_never_reached_costs_no_quality(kind: type) -> None:
    prediction = prediction_of([[0.7, 0.6]] * 6, 0.1, [2.0, 1.0])
    outcomes = outcomes_of(np.ones((6, 2)), np.tile([2.0, 1.0], (6, 1)))
    policy = kind(budget=2.5).tune(prediction, outcomes)
    np.testing.assert_array_equal(
        policy.probabilities(prediction), kind().probabilities(prediction)
    )


@every_kind
def test_a_budget_below_the_least_is_refused_with_the_least(kind: type) -> None:
    prediction = prediction_of([[0.7, 0.6]] * 6, 0.1, [2.0, 1.0])
    outcomes = outcomes_of(np.ones((6, 2)), np.tile([2.0, 1.0], (6, 1)))
    others = {"epsilon": 0.0} if kind is EpsilonGreedy else {}
    policy = kind(budget=1.1, least_probability=0.2, **others)
    with pytest.raises(RouterError, match=r"below \$1\.2, the mean cost of this exploration"):
        policy.tune(prediction, outcomes)


@every_kind
def test_a_budget_needs_costs_and_tuning(kind: type) -> None:
    prediction = prediction_of([[0.7, 0.6]] * 6)
    with pytest.raises(RouterError, match="cannot be kept: the log has no costs"):
        kind(budget=1.0).tune(prediction, outcomes_of(np.ones((6, 2)), None))
    with pytest.raises(RouterError, match="not tuned"):
        kind(budget=1.0).probabilities(prediction)


@every_kind
def test_equal_costs_leave_the_budget_no_choice(kind: type) -> None:
    prediction = prediction_of([[0.7, 0.6]] * 6, 0.1, 1.0)
    outcomes = outcomes_of(np.ones((6, 2)), np.tile([2.0, 1.0], (6, 1)))
    dear = spent(kind(), prediction, outcomes)
    assert kind(budget=dear).tune(prediction, outcomes).cost_weight == 0
    with pytest.raises(RouterError, match="mean cost of this exploration"):
        kind(budget=0.9 * dear).tune(prediction, outcomes)


@pytest.mark.parametrize(
    ("kind", "name", "bad"),
    [
        (EpsilonGreedy, "epsilon", 1.1),
        (Thompson, "width", 0.0),
        (Thompson, "width", math.inf),
        (UpperConfidence, "width", math.inf),
        (Thompson, "latency_weight", math.inf),
        (UpperConfidence, "least_probability", 0.6),
    ],
)
def test_parameters_out_of_range_are_refused(kind: type, name: str, bad: float) -> None:
    with pytest.raises(RouterError, match=f"policy.{name} is"):
        kind(**{name: bad})


def test_reasons_tell_exploration_from_choice() -> None:
    query = prediction_of([0.8, 0.7], 0.1, [0.2, 0.1])
    epsilon = EpsilonGreedy(epsilon=0.2)
    assert epsilon.reason(query, 0) == (
        "best predicted quality (0.800); drawn with probability 0.9"
    )
    assert epsilon.reason(query, 1) == "explores; drawn with probability 0.1"
    upper = UpperConfidence(least_probability=0.1)
    assert upper.reason(query, 1) == "explores; drawn with probability 0.1"
    assert Thompson().reason(query, 1) == (
        "the best with probability 0.24 (quality 0.700 ± 0.100); drawn with probability 0.24"
    )


# Exploring pays: a stream of queries, of which only the chosen candidate's score is seen


class Stream:
    """Queries whose candidates' mean scores are linear in the vector, and Bernoulli scores.

    turn: the query from which on the candidates' slopes are exchanged; never if None."""

    def __init__(self, n: int, seed: int, turn: int | None = None):
        rng = np.random.default_rng(seed)
        self.rng = rng
        self.X = rng.normal(size=(n, 3))
        slopes = 0.3 * np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        mean = np.clip(0.5 + self.X @ slopes.T, 0, 1)
        if turn is not None:
            mean[turn:] = mean[turn:, [1, 0, 2]]
        self.mean = mean
        self.scores = (rng.random(mean.shape) < mean).astype(float)

    def run(self, bandit: LinearBandit, policy: Policy, warm: int = 20) -> np.ndarray:
        """(n - warm,) mean score of what was chosen, after a start in which all answer."""
        queries = pd.DataFrame(
            {"query_id": np.arange(warm), "prompt": "p", "group": np.arange(warm)}
        )
        seen = np.ones((warm, 3), dtype=bool)
        log = OutcomeMatrix(queries, ("a", "b", "c"), self.scores[:warm], seen)
        bandit.fit(self.X[:warm], log)
        earned = []
        for i in range(warm, len(self.X)):
            probabilities = policy.probabilities(bandit.predict(self.X[[i]]))
            chosen = int(draw(probabilities, self.rng.random(1))[0])
            bandit.update(self.X[i], log.candidates[chosen], self.scores[i, chosen])
            earned.append(self.mean[i, chosen])
        return np.array(earned)


@pytest.mark.parametrize(
    "policy", [Thompson(), UpperConfidence(), EpsilonGreedy(epsilon=0.05)], ids=repr
)
def test_a_bandit_beats_the_uniform_choice_and_approaches_the_oracle(policy: Policy) -> None:
    stream = Stream(900, seed=0)
    earned = stream.run(LinearBandit(), policy)
    uniform, oracle = stream.mean[20:].mean(), stream.mean[20:].max(axis=1)
    assert earned.mean() > uniform + 0.7 * (oracle.mean() - uniform)
    late = slice(-300, None)
    assert earned[late].mean() > 0.95 * oracle[late].mean()
    assert (oracle - earned)[late].mean() < (oracle - earned)[:300].mean()


def test_with_drift_forgetting_earns_more_than_remembering() -> None:
    after = slice(-500, None)
    remembers, forgets = (
        np.mean(
            [
                Stream(1000, seed, turn=500).run(LinearBandit(forgetting=f), Thompson())[after]
                for seed in (0, 1)
            ]
        )
        for f in (1.0, 0.97)
    )
    assert forgets > remembers + 0.05


def test_a_logged_propensity_gives_an_unbiased_value_of_another_policy() -> None:
    rng = np.random.default_rng(0)
    n = 4000
    prediction = prediction_of(rng.random((n, 3)), 0.3)
    scores = (rng.random((n, 3)) < prediction.quality).astype(float)
    propensity = Thompson(least_probability=0.05).probabilities(prediction)
    chosen = draw(propensity, uniform_of([f"prompt {i}" for i in range(n)]))
    rows = np.arange(n)
    target = Utility().probabilities(prediction)
    weight = target[rows, chosen] / propensity[rows, chosen]
    assert weight.max() <= 1 / 0.05
    estimates = weight * scores[rows, chosen]
    truth = (target * scores).sum(axis=1).mean()
    assert abs(estimates.mean() - truth) < 4 * estimates.std() / math.sqrt(n)


@every_kind
def test_parameters_are_given_by_name(kind: type) -> None:
    with pytest.raises(TypeError):
        kind(0.5)
    assert {field.name for field in dataclasses.fields(kind)} > {"cost_weight", "budget"}
