"""Latency, the third term beside quality and cost: learned, exported, weighed, reported."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from conftest import Finished, Workplace, make_problem, make_table
from hypothesis import given
from hypothesis import strategies as st
from test_policies import many, outcomes_of, problems

import router
from router.artifact.manifest import amend_manifest, read_manifest
from router.errors import RouterError
from router.estimators import KNN, Marginal, Ridge
from router.estimators.head import Head, cross_predict
from router.evaluation.baselines import Baselines
from router.evaluation.evaluate import evaluate
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Budget, Policy, Utility
from router.prediction import Prediction

SECONDS = np.array([8.0, 2.0, 0.5])  # large, medium, small


def timed_problem(n: int = 120, **options: object) -> tuple[np.ndarray, OutcomeMatrix]:
    """make_problem with seconds that are twice as many on one side of the vector space."""
    X, outcomes = make_problem(n, **options)  # type: ignore[arg-type]
    noise = np.random.default_rng(7).lognormal(sigma=0.1, size=(n, 3))
    latency = SECONDS * np.where(X[:, :1] > 0, 2.0, 1.0) * noise
    return X, dataclasses.replace(outcomes, latency=latency)


def timed(prediction: Prediction, seed: int) -> Prediction:
    rng = np.random.default_rng(seed)
    return dataclasses.replace(prediction, latency=rng.lognormal(size=prediction.quality.shape))


# Learned and exported


def test_seconds_follow_the_query() -> None:
    X, outcomes = timed_problem(400)
    for estimator in (Ridge(), KNN()):
        latency = Head(Marginal(), estimator).fit(X, outcomes).predict(X).latency
        assert latency is not None
        ratio = latency[X[:, 0] > 0.5].mean(axis=0) / latency[X[:, 0] < -0.5].mean(axis=0)
        np.testing.assert_allclose(ratio, 2, rtol=0.1)
        np.testing.assert_allclose(latency.mean(axis=0), outcomes.latency.mean(axis=0), rtol=0.05)


@pytest.mark.parametrize("costs", ["usd", "tokens", None])
def test_quality_and_cost_do_not_depend_on_it(costs: str | None) -> None:
    X, outcomes = timed_problem(80, costs=costs)
    with_it = Head(Ridge(), KNN()).fit(X, outcomes).predict(X)
    without = Head(Ridge(), KNN()).fit(X, dataclasses.replace(outcomes, latency=None)).predict(X)
    assert with_it.latency is not None
    assert without.latency is None
    np.testing.assert_array_equal(with_it.quality, without.quality)
    np.testing.assert_array_equal(with_it.cost, without.cost)


@pytest.mark.parametrize("costs", ["usd", "tokens", None])
def test_the_graph_says_the_same_seconds(costs: str | None) -> None:
    X, outcomes = timed_problem(80, costs=costs)
    head = Head(Marginal(), Ridge()).fit(X, outcomes)
    session = onnxruntime.InferenceSession(head.to_onnx().SerializeToString())
    (latency,) = session.run(["latency"], {"vector": X.astype(np.float32)})
    np.testing.assert_allclose(latency, head.predict(X).latency, rtol=1e-5)
    bare = Head(Marginal(), Ridge()).fit(X, dataclasses.replace(outcomes, latency=None))
    assert "latency" not in [output.name for output in bare.to_onnx().graph.output]


def test_an_outcome_without_a_latency_teaches_quality_alone() -> None:
    X, outcomes = timed_problem(100)
    latency = outcomes.latency.copy()
    latency[:60, 0] = np.nan
    holes = dataclasses.replace(outcomes, latency=latency)
    prediction = Head(Ridge(), Marginal()).fit(X, holes).predict(X)
    expected = np.tile(np.nanmean(latency, axis=0), (100, 1))
    np.testing.assert_allclose(prediction.latency, expected)
    full = Head(Ridge(), Marginal()).fit(X, outcomes).predict(X)
    np.testing.assert_array_equal(prediction.quality, full.quality)
    latency[:, 2] = np.nan
    with pytest.raises(RouterError, match=r"No latency_s of 'small' among the 100 queries"):
        Head(Ridge(), Marginal()).fit(X, dataclasses.replace(outcomes, latency=latency))


def test_cross_prediction_holds_seconds_of_every_query() -> None:
    X, outcomes = timed_problem(60)
    latency = cross_predict(Head(Ridge(), Ridge()), X, outcomes, n_folds=3).latency
    assert latency is not None
    assert (latency > 0).all()


# Weighed


@many
@given(problems(), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 1e3]))
def test_more_weight_never_buys_more_seconds(
    problem: tuple[Prediction, OutcomeMatrix], seed: int, cost_weight: float
) -> None:
    prediction = timed(problem[0], seed)
    rows = np.arange(len(prediction))
    seconds = [
        prediction.latency[rows, Utility(cost_weight, weight).choose(prediction)]
        for weight in (0.0, 0.1, 1.0, 10.0, 1e4)
    ]
    # Ties go to the cheaper, not to the faster: as much as a tie is apart.
    slack = 1e-4 * (1 + cost_weight * prediction.cost.min(axis=1))
    assert (np.diff(seconds, axis=0) <= slack).all()
    np.testing.assert_allclose(seconds[-1], prediction.latency.min(axis=1), atol=0.3)


@many
@given(problems(), st.integers(0, 2**32 - 1), st.floats(0.01, 10))
def test_it_is_quality_less_the_weighted_seconds(
    problem: tuple[Prediction, OutcomeMatrix], seed: int, weight: float
) -> None:
    prediction = timed(problem[0], seed)
    net = dataclasses.replace(
        prediction, quality=prediction.quality - weight * prediction.latency, latency=None
    )
    dear = float(prediction.cost.mean())
    for with_it, without in (
        (Utility(1 / dear, weight), Utility(1 / dear)),
        (Utility(np.inf, weight), Utility(np.inf)),
    ):
        np.testing.assert_array_equal(with_it.probabilities(prediction), without.probabilities(net))
        assert len(with_it.path(prediction)) == len(without.path(net))
    # A budget is kept whatever a second is worth.
    scores, cost = prediction.quality, prediction.cost
    everything = outcomes_of(scores, cost)
    budget = float(cost.min(axis=1).mean() + 0.3 * (cost.max(axis=1) - cost.min(axis=1)).mean())
    tuned = Budget(budget, latency_weight=weight).tune(prediction, everything)
    assert tuned.expected(prediction, scores, cost).cost.mean() <= budget * (1 + 1e-9)
    np.testing.assert_array_equal(
        tuned.probabilities(prediction), Budget(budget).tune(net, everything).probabilities(net)
    )


def test_the_reason_names_what_a_second_is_worth() -> None:
    prediction = Prediction(
        ("slow", "fast"), np.array([[0.9, 0.8]]), np.zeros((1, 2)), None, np.array([[5.0, 1.0]])
    )
    assert Utility().reason(prediction, 0) == "best predicted quality (0.900)"
    policy = Utility(latency_weight=0.05)
    assert policy.choose(prediction).tolist() == [1]
    reason = "best predicted quality less 0.05 per second (0.750)"
    assert policy.reason(prediction, 1) == reason


def test_the_one_standard_error_rule_counts_seconds_too() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.random((200, 2)) < [0.9, 0.6]).astype(float)
    cost = np.tile([1.0, 0.5], (200, 1))
    latency = np.tile([9.0, 1.0], (200, 1))
    outcomes = dataclasses.replace(outcomes_of(scores, cost), latency=latency)
    quality = np.tile([0.9, 0.6], (200, 1))
    prediction = Prediction(("c0", "c1"), quality, quality * 0, cost, latency)
    assert Budget().tune(prediction, outcomes).budget == pytest.approx(1.0)
    hasty = Budget(latency_weight=0.1).tune(prediction, outcomes)
    assert hasty.budget == pytest.approx(0.5)


@pytest.mark.parametrize("policy", [Utility(latency_weight=0.1), Budget(latency_weight=0.1)])
def test_a_log_without_latency_is_told(policy: Policy) -> None:
    X, outcomes = make_problem(40)
    prediction = Head(Ridge(), Ridge()).fit(X, outcomes).predict(X)
    with pytest.raises(RouterError, match=r"policy\.latency_weight=0\.1 weighs seconds, but"):
        policy.tune(prediction, outcomes)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_a_weight_out_of_range_is_refused(bad: float) -> None:
    for kind in (Utility, Budget):
        with pytest.raises(RouterError, match=r"policy\.latency_weight is"):
            kind(latency_weight=bad)


# Judged


def test_mean_latency_is_judged_where_it_is_known() -> None:
    X, outcomes = timed_problem(200)
    latency = outcomes.latency.copy()
    latency[:50, 1] = np.nan
    test = dataclasses.replace(outcomes, latency=latency)
    prediction = Head(Ridge(), Ridge()).fit(X, outcomes).predict(X)
    policy = Utility(latency_weight=0.02)
    evaluation = evaluate(test, prediction, policy, Baselines.fit(test, Utility()), resamples=30)
    chosen = policy.choose(prediction)
    router_, baselines = evaluation.metrics["router"], evaluation.metrics["baselines"]
    expected = latency[np.arange(200), chosen][50:].mean()
    assert router_["latency"]["value"] == pytest.approx(expected)
    assert router_["latency"]["low"] <= expected <= router_["latency"]["high"]
    assert baselines["best single"]["latency"]["value"] == pytest.approx(latency[50:, 0].mean())
    assert router_["latency"]["value"] < baselines["best single"]["latency"]["value"]
    assert set(baselines) == {name for name in baselines if "latency" in baselines[name]}
    table = evaluation.predictions
    np.testing.assert_array_equal(table["latency_s"], latency[np.arange(200), chosen])
    np.testing.assert_array_equal(table["latency:small"], prediction.latency[:, 2])
    untimed = dataclasses.replace(test, latency=np.where(np.arange(3) == 1, np.nan, latency))
    bare = evaluate(untimed, prediction, policy, Baselines.fit(test, Utility()), resamples=30)
    assert "latency" not in bare.metrics["router"]


# From the table to the decision


def test_a_log_with_latency_is_trained_printed_and_served(
    workplace: Workplace, run_router: Callable[..., Finished]
) -> None:
    table, _ = make_table(60)
    seconds = table["model"].map(dict(zip(("large", "medium", "small"), SECONDS, strict=True)))
    table.assign(latency_s=seconds).to_csv(workplace.table, index=False)
    folder = workplace.folder / "run"
    done = run_router(
        "train", *workplace.options, "tracking=none", "estimator=ridge", "policy=utility",
        "policy.latency_weight=0.03", f"hydra.run.dir={folder}",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "seconds" in done.out
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["router"]["latency"]["value"] < SECONDS[0]
    assert metrics["parity"]["decisions_equal"] == metrics["queries"]
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert set(predictions["latency_s"]) <= set(SECONDS)
    artifact = folder / "artifact"
    decision = router.load(artifact).route("poetry question number 1")
    assert decision.latency == pytest.approx(dict(zip(decision.quality, SECONDS, strict=True)))
    assert decision.to_dict()["latency"] == decision.latency
    shown = run_router("route", "--artifact", artifact, "poetry question number 1")
    assert "  8.00 s" in shown.out
    slower = workplace.folder / "slower"
    done = run_router(
        "export", f"run={folder}", f"out={slower}", "policy=budget", "policy.latency_weight=0.1"
    )
    assert done.code == 0, done.err
    assert read_manifest(slower)["policy"]["latency_weight"] == 0.1
    _other_golden_seconds_are_refused(artifact)


def _other_golden_seconds_are_refused(artifact: Path) -> None:
    golden = read_manifest(artifact)["golden"]
    golden[0]["latency"][0] *= 1.01
    amend_manifest(artifact, golden=golden)
    with pytest.raises(RouterError, match="golden vectors differ"):
        router.load(artifact)


def test_an_artifact_from_before_latency_still_loads(artifact_copy: Path) -> None:
    manifest = read_manifest(artifact_copy)
    for golden in manifest["golden"]:
        del golden["latency"]
    del manifest["policy"]["latency_weight"]
    amend_manifest(artifact_copy, golden=manifest["golden"], policy=manifest["policy"])
    decision = router.load(artifact_copy).route("poetry question number 1")
    assert decision.latency is None
    assert decision.ask == {decision.candidate: 1.0}
