"""Several candidates asked together: who is asked, what a vote is worth, how it is judged."""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from conftest import TrainedRun
from hypothesis import given
from hypothesis import strategies as st
from test_policies import many, outcomes_of, prediction_of, problems

import router
from router.artifact.manifest import amend_manifest
from router.errors import RouterError
from router.evaluation.baselines import Baselines
from router.evaluation.evaluate import evaluate
from router.evaluation.frontier import curve_of
from router.evaluation.validation import validation_figures
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Subset, Utility
from router.policies.expected import expected_of_mixture, expected_of_vote
from router.prediction import Prediction

# Who is asked


@many
@given(problems(), st.sampled_from([0.0, 1.0, 100.0, np.inf]))
def test_a_subset_of_one_is_the_policy_utility(
    problem: tuple[Prediction, OutcomeMatrix], weight: float
) -> None:
    prediction, _ = problem
    alone = Subset(max_size=1, cost_weight=weight).probabilities(prediction)
    np.testing.assert_array_equal(alone, Utility(weight).probabilities(prediction))


@many
@given(problems(), st.integers(1, 5), st.floats(0, 1))
def test_the_likely_right_are_asked_and_no_more_than_allowed(
    problem: tuple[Prediction, OutcomeMatrix], size: int, level: float
) -> None:
    prediction, _ = problem
    shares = Subset(size, level).probabilities(prediction)
    asked = shares > 0
    assert (asked.sum(axis=1) <= size).all()
    assert (asked.sum(axis=1) != 2).all()  # of two, one always outvotes the other
    several = asked.sum(axis=1) > 1
    assert (prediction.quality[several][asked[several]] >= level - 1e-6).all()
    # No one alone decides a vote that is held.
    assert (shares[several].max(axis=1) < 0.5).all()


def test_votes_are_shares_of_confidence() -> None:
    prediction = prediction_of([[0.9, 0.6, 0.5, 0.4, 0.1]], [[5.0, 4.0, 3.0, 2.0, 1.0]])
    shares = Subset(3, 0.3).probabilities(prediction)
    np.testing.assert_allclose(shares, [[0.45, 0.3, 0.25, 0.0, 0.0]])
    # 0.9 outweighs 0.5 and 0.35 together.
    outvoted = prediction_of([[0.9, 0.5, 0.35]])
    np.testing.assert_array_equal(Subset(3, 0.3).probabilities(outvoted), [[1, 0, 0]])
    # None reaches the level: the best answers.
    np.testing.assert_array_equal(Subset(3, 0.95).probabilities(prediction), [[1, 0, 0, 0, 0]])


def test_a_weight_on_cost_leaves_out_the_dear_ones() -> None:
    prediction = prediction_of([[0.8, 0.8, 0.8, 0.7]], [[9.0, 1.0, 1.0, 1.0]])
    np.testing.assert_allclose(Subset().probabilities(prediction), [[1 / 3, 1 / 3, 1 / 3, 0]])
    spared = Subset(cost_weight=0.05).probabilities(prediction)
    assert spared[0, 0] == 0
    np.testing.assert_array_equal(spared > 0, [[False, True, True, True]])


def test_every_setting_on_the_path_is_within_its_size_and_it_ends_with_the_cheapest() -> None:
    rng = np.random.default_rng(0)
    prediction = prediction_of(rng.random((50, 4)), 10.0 ** rng.uniform(-4, -1, size=(50, 4)))
    costs = []
    for setting in Subset().path(prediction):
        assert ((setting.probabilities(prediction) > 0).sum(axis=1) <= 3).all()
        cost = setting.expected(prediction, prediction.quality, prediction.cost).cost
        assert cost is not None
        costs.append(cost.mean())
    assert costs[-1] == pytest.approx(prediction.cost.min(axis=1).mean())
    assert costs[0] == max(costs)


# What a vote is worth


def plurality(votes: np.ndarray, answers: tuple[int, ...]) -> int:
    """The answer of most weight."""
    weight: dict[int, float] = defaultdict(float)
    for vote, answer in zip(votes, answers, strict=True):
        weight[answer] += vote
    return max(weight, key=lambda answer: weight[answer])


@many
@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_the_score_is_the_least_that_a_plurality_vote_can_reach(seed: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    votes = rng.dirichlet(np.ones(m))
    right = rng.random(m) < 0.6
    # Answer 0 is right; every way in which the wrong ones may agree.
    ways = itertools.product(*[[0] if good else range(1, m + 1) for good in right])
    least = min(float(plurality(votes, answers) == 0) for answers in ways)
    score = expected_of_vote(votes[None], right[None].astype(float)).score
    assert score[0] == least


def test_graded_scores_give_the_score_that_more_than_half_of_the_weight_reaches() -> None:
    votes = np.array([[0.4, 0.35, 0.25], [0.4, 0.35, 0.25], [1.0, 0.0, 0.0]])
    scores = np.array([[0.9, 0.2, 0.7], [0.1, 0.8, 0.6], [0.3, 1.0, 1.0]])
    np.testing.assert_array_equal(expected_of_vote(votes, scores).score, [0.7, 0.6, 0.3])


def test_a_vote_costs_all_that_are_asked_and_waits_for_the_slowest() -> None:
    votes = np.array([[0.4, 0.35, 0.25, 0.0]])
    outcomes = np.array([[1.0, 2.0, 4.0, 8.0]])
    yields = expected_of_vote(votes, np.ones((1, 4)), outcomes, outcomes)
    assert yields.cost == [7.0]
    assert yields.latency == [4.0]
    assert expected_of_vote(votes, np.ones((1, 4))).cost is None


def test_one_candidate_alone_is_a_mixture_without_chance() -> None:
    rng = np.random.default_rng(0)
    scores, cost = rng.random((2, 20, 3))
    plan = np.eye(3)[rng.integers(3, size=20)]
    vote, mixture = (
        yields(plan, scores, cost, cost) for yields in (expected_of_vote, expected_of_mixture)
    )
    for one, other in zip(vote, mixture, strict=True):
        np.testing.assert_array_equal(one, other)


# The property that the method exists for


def independent(n: int, seed: int) -> tuple[Prediction, OutcomeMatrix]:
    """Five candidates that are right independently of one another, and what they are predicted."""
    rng = np.random.default_rng(seed)
    chance = rng.uniform(0.6, 0.75, size=(n, 5))
    outcomes = outcomes_of((rng.random((n, 5)) < chance).astype(float), np.ones((n, 5)))
    return prediction_of(chance, np.ones((n, 5))), outcomes


def test_a_vote_of_independent_candidates_beats_the_best_of_them() -> None:
    prediction, outcomes = independent(4000, 0)
    vote = Subset(max_size=5).expected(prediction, outcomes.scores).score
    best = Utility().expected(prediction, outcomes.scores).score
    gain = vote - best
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))


# Judged and served as what it is


def test_evaluation_counts_every_answer_that_is_paid_for() -> None:
    prediction, outcomes = independent(200, 1)
    policy = Subset(max_size=5)
    baselines = Baselines.fit(outcomes, policy)
    evaluation = evaluate(outcomes, prediction, policy, baselines, resamples=20)
    asked = (policy.probabilities(prediction) > 0).sum(axis=1)
    yields = policy.expected(prediction, outcomes.scores, outcomes.cost)
    assert asked.mean() > 2
    metrics = evaluation.metrics
    assert metrics["router"]["cost"]["value"] == pytest.approx(asked.mean())
    assert metrics["router"]["quality"]["value"] == pytest.approx(yields.score.mean())
    np.testing.assert_array_equal(evaluation.predictions["cost_usd"], asked)
    np.testing.assert_array_equal(evaluation.predictions["score"], yields.score)
    # The lookups hold votes too, and pay for them.
    lookup = baselines.lookups["prompt length"]
    theirs = (lookup.policy.probabilities(lookup.predict(outcomes)) > 0).sum(axis=1)
    assert theirs.mean() > 2
    assert metrics["baselines"]["prompt length"]["cost"]["value"] == pytest.approx(theirs.mean())
    figures = validation_figures(policy, prediction, outcomes)
    assert figures["cost"] == pytest.approx(asked.mean())
    assert curve_of(policy, prediction, outcomes).cost[0].mean() == pytest.approx(asked.mean())


def test_a_decision_names_all_that_are_asked(artifact_copy: Path, trained_run: TrainedRun) -> None:
    before = router.load(artifact_copy).route("poetry question number 1")
    assert before.ask == {before.candidate: 1.0}
    policy = Subset(max_size=3, least_confidence=0.0)
    amend_manifest(artifact_copy, policy=policy.to_dict())
    loaded = router.load(artifact_copy)
    prompts = [f"{topic} question number {i}" for topic in ("poetry", "algebra") for i in range(9)]
    decisions = [loaded.route(prompt) for prompt in prompts]
    assert {len(decision.ask) for decision in decisions} <= {1, 3}
    several = [decision for decision in decisions if len(decision.ask) == 3]
    assert several
    for decision in several:
        assert sum(decision.ask.values()) == pytest.approx(1)
        assert decision.ask[decision.candidate] == max(decision.ask.values())
        assert decision.probability == decision.ask[decision.candidate]
        assert "asked together, votes" in decision.reason
        assert decision.to_dict()["ask"] == decision.ask


def test_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(RouterError, match=r"policy\.max_size is 0"):
        Subset(max_size=0)
    with pytest.raises(RouterError, match=r"policy\.least_confidence is 1\.5"):
        Subset(least_confidence=1.5)
    with pytest.raises(RouterError, match=r"policy\.cost_weight is -1"):
        Subset(cost_weight=-1.0)
    dear = Subset(cost_weight=1.0)
    with pytest.raises(RouterError, match="weighs costs, but the log has none"):
        dear.probabilities(prediction_of([[0.5, 0.4]]))
