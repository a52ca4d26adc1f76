"""Bounds on means, and the policy whose settings are proven to keep a promise."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import CANDIDATES, Finished, Workplace
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

import router
from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix
from router.policies import (
    Allocation,
    Certified,
    CheapestAdequate,
    HardCap,
    Policy,
    Threshold,
    Utility,
    policy_from_dict,
)
from router.policies.base import one_hot
from router.policies.bounds import (
    MOST_QUERIES,
    betting_proves,
    binomial_proves,
    conformal_proves,
    greatest_proven,
    queries_needed,
)
from router.prediction import Prediction

many = settings(max_examples=60, deadline=None)
RUNS = 200
deltas = st.sampled_from([0.01, 0.05, 0.1, 0.3])
graded = st.lists(st.floats(0, 1), min_size=1, max_size=40).map(np.array)


def binomial_bound(successes: int, n: int, delta: float) -> float:
    values = (np.arange(n) < successes).astype(float)
    return greatest_proven(lambda least: binomial_proves(values, least, delta))


def betting_bound(values: np.ndarray, delta: float) -> float:
    return greatest_proven(lambda least: betting_proves(values, least, delta))


def most_broken(delta: float) -> float:
    """Share of RUNS that a promise broken with probability delta passes once in a thousand."""
    return delta + 3.1 * math.sqrt(delta * (1 - delta) / RUNS)


# Bounds


@many
@given(st.integers(1, 60), st.data(), deltas)
def test_zeros_and_ones_prove_clopper_and_pearsons_bound(
    n: int, data: st.DataObject, delta: float
) -> None:
    successes = data.draw(st.integers(0, n))
    bound = binomial_bound(successes, n, delta)
    exact = binomtest(successes, n, alternative="greater").proportion_ci(1 - delta, "exact")
    assert bound == pytest.approx(exact.low, abs=1e-9)
    if successes > 0:
        tail = sum(
            math.comb(n, k) * bound**k * (1 - bound) ** (n - k) for k in range(successes, n + 1)
        )
        assert tail == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize(
    ("successes", "n", "delta", "bound"),
    [
        (10, 10, 0.05, 0.05**0.1),
        (0, 10, 0.05, 0.0),
        (1, 10, 0.05, 1 - 0.95**0.1),
        (81, 263, 0.025, 0.2527),  # the two-sided 95 % interval in Newcombe 1998
    ],
)
def test_clopper_pearson_in_closed_form_and_in_print(
    successes: int, n: int, delta: float, bound: float
) -> None:
    assert binomial_bound(successes, n, delta) == pytest.approx(bound, abs=1e-4)


def most_capital(values: np.ndarray, mean: float, delta: float) -> float:
    """The greatest capital of the gambler who doubts the mean, one value after the other."""
    capital, most, seen, squares, variance = 1.0, 1.0, 0.5, 0.25, 0.25
    for i, value in enumerate(np.random.default_rng(0).permutation(values), start=1):
        stake = min(1.0, math.sqrt(2 * math.log(1 / delta) / (len(values) * variance)))
        capital *= 1 + stake * (value - mean)
        most = max(most, capital)
        seen += value
        squares += (value - seen / (i + 1)) ** 2
        variance = squares / (i + 1)
    return most


@many
@given(graded, deltas)
def test_betting_proves_up_to_where_the_capital_reaches_its_goal(
    values: np.ndarray, delta: float
) -> None:
    bound = betting_bound(values, delta)
    assert 0 <= bound < 1
    if bound > 0:
        assert most_capital(values, bound - 1e-9, delta) >= 1 / delta
    assert most_capital(values, min(bound + 1e-9, 1.0), delta) < 1 / delta


@pytest.mark.parametrize("delta", [0.1, 0.3])
@pytest.mark.parametrize("kind", ["even", "high", "rare", "u", "constant"])
def test_a_bound_passes_the_mean_as_rarely_as_it_says(kind: str, delta: float) -> None:
    rng = np.random.default_rng(0)
    shape = (RUNS, 80)
    values, mean, proves = {
        "even": ((rng.random(shape) < 0.5).astype(float), 0.5, binomial_proves),
        "high": ((rng.random(shape) < 0.93).astype(float), 0.93, binomial_proves),
        "rare": (0.9 * (rng.random(shape) < 0.95), 0.855, betting_proves),
        "u": (rng.beta(0.3, 0.1, shape), 0.75, betting_proves),
        "constant": (np.full(shape, 0.6), 0.6, betting_proves),
    }[kind]
    wrongly = [proves(sample, mean + 1e-9, delta) for sample in values]
    assert np.mean(wrongly) <= most_broken(delta)
    rightly = [proves(sample, mean - 0.25, delta) for sample in values]
    assert np.mean(rightly) > 0.9  # not valid by saying nothing


def test_a_steady_score_proves_more_than_a_wild_one_of_the_same_mean() -> None:
    rng = np.random.default_rng(0)
    steady = rng.uniform(0.65, 0.75, 500)
    wild = (rng.random(500) < 0.7).astype(float)
    hoeffding = 0.7 - math.sqrt(math.log(10) / 1000)
    assert betting_bound(steady, 0.1) > hoeffding + 0.02
    assert betting_bound(wild, 0.1) > hoeffding - 0.03


def test_the_conformal_bound_counts_the_next_value_as_the_worst() -> None:
    values = np.array([1.0, 1.0, 0.0, 1.0])
    bound = greatest_proven(lambda least: conformal_proves(values, least))
    assert bound == pytest.approx(3 / 5)


@pytest.mark.parametrize("proves", [binomial_proves, betting_proves])
def test_certainty_is_never_proven_and_nothing_always(proves: Callable[..., bool]) -> None:
    for values in (np.zeros(9), np.ones(9)):
        assert not proves(values, 1.0, 0.1)
        assert proves(values, 0.0, 0.1)


@many
@given(st.integers(5, 300), st.floats(0.5, 1), st.floats(0.4, 1), deltas)
def test_the_number_of_queries_needed_is_enough_and_not_far_too_many(
    n: int, rate: float, least: float, delta: float
) -> None:
    ones = round(rate * n)
    values = (np.arange(n) < ones).astype(float)[np.random.default_rng(0).permutation(n)]

    def proves(sample: np.ndarray) -> bool:
        return binomial_proves(sample, least, delta)

    needed = queries_needed(proves, values)
    if needed is None:
        assert not proves(np.resize(values, MOST_QUERIES // 2))
    else:
        assert proves(np.resize(values, needed))
        # Whether a number proves it does not rise evenly with the number: right answers are whole.
        fewer = [max(n, needed // share) for share in (2, 3, 4)]
        assert needed <= n or not all(proves(np.resize(values, number)) for number in fewer)


# The policy


@dataclass(frozen=True)
class Always(Policy):
    """One candidate answers everything."""

    column: int = 0

    def probabilities(self, prediction: Prediction) -> np.ndarray:
        return one_hot(np.full(len(prediction), self.column), len(prediction.candidates))

    def path(self, prediction: Prediction) -> list[Policy]:
        return [Always(j) for j in range(len(prediction.candidates))]

    def reason(self, prediction: Prediction, chosen: int) -> str:
        return "always"


def outcomes_of(
    scores: np.ndarray, cost: np.ndarray | None = None, groups: np.ndarray | None = None
) -> OutcomeMatrix:
    n, m = scores.shape
    rows = np.arange(n)
    queries = pd.DataFrame(
        {"query_id": rows, "prompt": "p", "group": rows if groups is None else groups}
    )
    names = tuple(f"c{j}" for j in range(m))
    return OutcomeMatrix(queries, names, scores, ~np.isnan(scores), cost)


def prediction_for(outcomes: OutcomeMatrix) -> Prediction:
    flat = np.full(outcomes.scores.shape, 0.5)
    return Prediction(outcomes.candidates, flat, 0 * flat, None if outcomes.cost is None else flat)


def tuned(policy: Certified, outcomes: OutcomeMatrix) -> Certified:
    return policy.tune(prediction_for(outcomes), outcomes)


def columns_of_means(*means: float, n: int = 200) -> np.ndarray:
    """(n, m) zeros and ones; each column has its mean as exactly as n allows."""
    return np.stack([(np.arange(n) < round(n * mean)).astype(float) for mean in means], axis=1)


def test_the_first_setting_that_is_not_proven_ends_the_test_of_quality() -> None:
    outcomes = outcomes_of(columns_of_means(0.95, 0.9, 0.6, 0.95))
    assert tuned(Certified(Always(), quality=0.8), outcomes).setting == Always(1)
    assert tuned(Certified(Always(), quality=0.5), outcomes).setting == Always(3)


def test_the_first_setting_that_is_not_proven_ends_the_test_of_spend() -> None:
    rng = np.random.default_rng(0)
    cost = np.array([0.001, 0.02, 0.002, 0.001]) * rng.uniform(0.5, 1.5, size=(200, 4))
    outcomes = outcomes_of(np.round(rng.random((200, 4))), cost)
    promise = Certified(Always(), quality=None, budget=0.004, largest_cost=0.04)
    assert tuned(promise, outcomes).setting == Always(2)
    dear = dataclasses.replace(promise, budget=0.03)
    assert tuned(dear, outcomes).setting == Always(0)


def test_with_both_promises_the_cheapest_of_the_quality_answers_within_the_budget() -> None:
    scores = columns_of_means(0.95, 0.9, 0.85, 0.6)
    cost = np.tile([0.01, 0.003, 0.002, 0.001], (200, 1))
    outcomes = outcomes_of(scores, cost)
    both = Certified(Always(), quality=0.75, budget=0.004, largest_cost=0.01)
    assert tuned(both, outcomes).setting == Always(2)
    with pytest.raises(RouterError, match=r"quality=0.85 takes \$0.003 per query, where "):
        tuned(dataclasses.replace(both, quality=0.85, budget=0.002), outcomes)


def test_two_promises_share_delta() -> None:
    scores = columns_of_means(0.9)
    outcomes = outcomes_of(scores, np.full(scores.shape, 0.001))
    alone, half = (binomial_bound(180, 200, delta) for delta in (0.1, 0.05))
    promise = Certified(Always(), quality=(alone + half) / 2, largest_cost=0.01)
    assert tuned(promise, outcomes).setting == Always(0)
    with pytest.raises(RouterError, match="cannot be promised"):
        tuned(dataclasses.replace(promise, budget=0.009), outcomes)


def test_a_group_of_queries_counts_once() -> None:
    rng = np.random.default_rng(0)
    scores = np.round(rng.random((60, 3)) < np.array([0.9, 0.8, 0.6])).astype(float)
    single = outcomes_of(scores)
    copies = outcomes_of(np.repeat(scores, 20, axis=0), groups=np.repeat(np.arange(60), 20))
    for quality in (0.5, 0.65, 0.75):
        promise = Certified(Always(), quality=quality)
        assert tuned(promise, copies) == tuned(promise, single)
    proven = Certified(Always(), quality=scores[:, 0].mean() - 0.02)
    assert tuned(proven, outcomes_of(copies.scores)).setting == Always(0)  # 1,200 of their own
    with pytest.raises(RouterError, match="on 60 independent validation queries"):
        tuned(proven, copies)


def test_queries_that_not_every_candidate_answered_are_left_out() -> None:
    scores = columns_of_means(0.9, 0.8)
    gaps = np.concatenate([scores, np.array([[1.0, np.nan], [np.nan, 1.0]] * 100)])
    promise = Certified(Always(), quality=0.74)
    assert tuned(promise, outcomes_of(gaps)) == tuned(promise, outcomes_of(scores))
    with pytest.raises(RouterError, match="queries with a score of every candidate"):
        tuned(promise, outcomes_of(gaps[200:]))


# Promises are kept


def chances(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 3) chance of each candidate's answer to be right; the first is the best on average."""
    return 1 / (1 + np.exp(rng.normal(size=(n, 1)) - [2.0, 1.4, 0.4] + 0.5 * rng.normal(size=3)))


LEVEL = np.array([0.01, 0.002, 0.0005])
LARGEST = 0.05


@dataclass(frozen=True)
class Coarse(Utility):
    """Every eighth setting is enough here."""

    def path(self, prediction: Prediction) -> list[Policy]:
        return super().path(prediction)[::8]


@pytest.mark.parametrize("method", ["fixed_sequence", "conformal"])
@pytest.mark.parametrize("kind", ["right or wrong", "graded", "grouped", "spend"])
def test_a_promise_is_kept_as_often_as_it_says(kind: str, method: str) -> None:
    rng = np.random.default_rng(1)
    population = chances(5000, rng)
    dollars = np.minimum(LEVEL * rng.lognormal(sigma=0.6, size=population.shape), LARGEST)
    names = ("c0", "c1", "c2")
    guess = np.clip(population + 0.1 * rng.normal(size=population.shape), 0, 1)
    everyone = Prediction(names, guess, 0 * guess, dollars * rng.lognormal(size=dollars.shape))
    target = float(population.max(axis=1).mean()) - 0.1
    spend = float(dollars.mean(axis=0)[0]) / 2
    promise = Certified(Coarse(), quality=target, delta=0.2, method=method)
    if kind == "spend":
        promise = dataclasses.replace(promise, quality=None, budget=spend, largest_cost=LARGEST)
    margin = []
    for _ in range(RUNS):
        rows = rng.integers(len(population), size=150)
        groups = np.arange(len(rows))
        if kind == "grouped":  # answers of one group are the same
            rows, groups = np.repeat(rows, 2), np.repeat(groups, 2)
        luck = rng.random((groups.max() + 1, 3))[groups]
        scores = (luck < population[rows]).astype(float)
        if kind == "graded":
            scores = 0.5 * scores + 0.5 * population[rows]
        outcomes = outcomes_of(scores, dollars[rows], groups)
        try:
            policy = promise.tune(everyone.take(rows), outcomes)
        except RouterError:
            margin.append(0.0)  # nothing was promised
            continue
        true = policy.expected(everyone, population, dollars)
        margin.append(spend - true.cost.mean() if kind == "spend" else true.score.mean() - target)
    found = np.array(margin)
    assert (found == 0).mean() < 0.5  # not kept by refusing
    if method == "fixed_sequence":
        assert (found < 0).mean() <= most_broken(0.2)
    else:
        assert found.mean() >= -3.1 * found.std() / math.sqrt(RUNS)


def test_conformal_counts_a_query_with_the_worst_setting_so_far() -> None:
    # Both settings are right for half of the queries, and never for the same.
    scores = np.tile([[1.0, 0.0], [0.0, 1.0]], (50, 1))
    outcomes = outcomes_of(scores)
    promise = Certified(Always(), quality=0.45, method="conformal")
    assert tuned(promise, outcomes).setting == Always(0)
    assert tuned(dataclasses.replace(promise, quality=0.0), outcomes).setting == Always(1)


# Faults


def number(pattern: str, sentence: str) -> float:
    found = re.search(pattern, sentence)
    assert found, sentence
    return float(found[1].replace(",", ""))


@pytest.mark.parametrize("method", ["fixed_sequence", "conformal"])
def test_an_impossible_quality_is_told_with_what_would_be_possible(method: str) -> None:
    scores = columns_of_means(0.92, 0.5, n=50)
    promise = Certified(Always(), quality=0.91, method=method)
    with pytest.raises(RouterError) as caught:
        tuned(promise, outcomes_of(scores))
    sentence = str(caught.value)
    assert sentence.startswith("policy.quality=0.91 cannot be promised ")
    assert "on 50 independent validation queries the safest setting scores 0.9200" in sentence
    # Both remedies work.
    proven = number(r"proves ([\d.]+);", sentence)
    assert tuned(dataclasses.replace(promise, quality=proven), outcomes_of(scores)).setting
    needed = int(1.05 * number(r"about ([\d,]+) queries", sentence))
    times = math.ceil(needed / 50)
    assert tuned(promise, outcomes_of(np.tile(scores, (times, 1)))).setting == Always(0)
    with pytest.raises(RouterError, match="train a better router: no sensible number of queries"):
        tuned(dataclasses.replace(promise, quality=0.95), outcomes_of(scores))


def test_an_impossible_budget_is_told_with_what_would_be_possible() -> None:
    rng = np.random.default_rng(0)
    cost = np.array([0.01, 0.001]) * rng.uniform(0.5, 1.5, size=(100, 2))
    outcomes = outcomes_of(np.round(rng.random((100, 2))), cost)
    promise = Certified(Always(), quality=None, budget=0.0011)
    with pytest.raises(RouterError) as caught:
        tuned(promise, outcomes)
    sentence = str(caught.value)
    assert sentence.startswith("policy.budget=$0.0011 cannot be promised with probability 0.9: ")
    assert number(r"one query may cost \$([\d.]+)", sentence) == pytest.approx(2 * cost.max(), 0.01)
    proven = number(r"no less than \$([\d.]+)", sentence)
    assert tuned(dataclasses.replace(promise, budget=proven), outcomes).setting == Always(1)
    assert tuned(
        dataclasses.replace(promise, budget=0.9 * proven, largest_cost=1.1 * cost.max()), outcomes
    )
    with pytest.raises(RouterError, match="add a cheaper candidate"):
        tuned(dataclasses.replace(promise, budget=0.0005), outcomes)
    with pytest.raises(RouterError, match=r"largest_cost=\$0.01 is below \$0.01\d+"):
        tuned(dataclasses.replace(promise, largest_cost=0.01), outcomes)
    with pytest.raises(RouterError, match="the log has no costs"):
        tuned(promise, outcomes_of(outcomes.scores))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"quality": None}, "policy=certified promises nothing"),
        ({"quality": 90.0}, r"policy.quality is 90.0"),
        ({"quality": math.nan}, r"policy.quality is nan"),
        ({"budget": 0.0}, r"policy.budget is 0.0"),
        ({"budget": math.inf}, r"policy.budget is inf"),
        ({"largest_cost": -1.0}, r"policy.largest_cost is -1.0"),
        ({"delta": 0.0}, r"policy.delta is 0.0"),
        ({"delta": 1.0}, r"policy.delta is 1.0"),
        ({"method": "hope"}, r"policy.method is 'hope'"),
        ({"policy": HardCap()}, "policy.policy is HardCap, whose settings depend"),
        ({"policy": Threshold()}, "policy.policy is Threshold, whose settings depend"),
        ({"policy": Threshold("a")}, "policy.policy is Threshold, whose settings depend"),
        ({"policy": Allocation()}, "policy.policy is Allocation, whose settings depend"),
        ({"policy": Certified()}, "policy.policy is Certified, whose settings depend"),
    ],
)
def test_faults_are_told(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RouterError, match=sentence):
        Certified(**given)


def test_a_promise_that_was_not_tested_does_not_decide() -> None:
    outcomes = outcomes_of(columns_of_means(0.9, 0.8))
    with pytest.raises(RouterError, match="not tested yet; call tune"):
        Certified().probabilities(prediction_for(outcomes))


# Travels


@pytest.mark.parametrize(
    "policy",
    [
        Certified(CheapestAdequate(0.5), 0.9, 0.01, setting=CheapestAdequate(0.7)),
        Certified(Threshold("a", "b"), method="conformal", setting=Threshold("a", "b", cut=-1.0)),
        Certified(quality=None, budget=0.1, setting=Utility(math.inf)),
    ],
    ids=lambda policy: type(policy.policy).__name__,
)
def test_a_promise_travels_through_json(policy: Certified) -> None:
    assert policy_from_dict(json.loads(json.dumps(policy.to_dict(), allow_nan=False))) == policy


RunRouter = Callable[..., Finished]


def test_an_exported_promise_decides_as_it_did_in_training(
    workplace: Workplace, run_router: RunRouter, tmp_path: Path
) -> None:
    folder, lower = tmp_path / "run", tmp_path / "lower"
    options = ["tracking=none", "latest=null", "estimator=ridge", f"hydra.run.dir={folder}"]
    promise = ["policy=certified", "policy@policy.policy=cheapest_adequate"]
    finished = run_router("train", *workplace.options, *options, *promise, "policy.quality=0.5")
    assert finished.code == 0, finished.err
    loaded = router.load(folder / "artifact")
    policy = loaded.policy
    assert isinstance(policy, Certified)
    assert isinstance(policy.setting, CheapestAdequate)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert policy_from_dict(metrics["policy"]) == policy
    assert metrics["validation"]["quality"] > 0.5
    decided = pd.read_parquet(folder / "predictions.parquet").set_index("query_id")["chosen"]
    prompts = pd.read_csv(workplace.table).drop_duplicates("query_id").set_index("query_id")
    for query, chosen in decided.items():
        decision = loaded.route(prompts.loc[query, "prompt"])
        assert decision.candidate == chosen
        assert "keeps a mean quality of at least 0.5 with probability 0.9" in decision.reason
    # A finished run takes another promise without learning anew.
    finished = run_router(
        "export", f"run={folder}", f"out={lower}", "policy=certified", "policy.quality=0.2",
        "policy.budget=0.01", "policy.delta=0.2",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert router.load(lower).route("algebra question number 3").candidate in CANDIDATES


def test_a_promise_that_cannot_be_kept_stops_the_run(
    workplace: Workplace, run_router: RunRouter, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    finished = run_router(
        "train", *workplace.options, "tracking=none", "estimator=ridge", "policy=certified",
        "policy.quality=0.99", f"hydra.run.dir={folder}",
    )  # fmt: skip
    assert finished.code == 2
    assert "policy.quality=0.99 cannot be promised with probability 0.9" in finished.err
    assert not (folder / "metrics.json").exists()
