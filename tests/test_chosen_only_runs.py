"""Logs of the chosen candidates' outcomes alone: trained on, tuned on, judged on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Finished, Workplace, make_problem

from router.errors import RouterError
from router.evaluation.baselines import Baselines
from router.evaluation.completed import completed
from router.evaluation.evaluate import evaluate
from router.off_policy.replay import replay
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Budget, Subset, Utility
from router.policies.base import filled
from router.prediction import Prediction

N = 600


def wrong_prediction(outcomes: OutcomeMatrix, seed: int = 0) -> Prediction:
    """Numbers that have nothing to do with the outcomes."""
    rng = np.random.default_rng(seed)
    shape = outcomes.scores.shape
    quality, cost = rng.uniform(0.2, 0.8, shape), rng.uniform(0.001, 0.002, shape)
    return Prediction(outcomes.candidates, quality, np.full(shape, 0.1), cost)


def propensities(n: int) -> np.ndarray:
    return np.tile([0.6, 0.3, 0.1], (n, 1))


def test_doubly_robust_scores_have_the_right_mean_whatever_was_predicted() -> None:
    outcomes = make_problem(N)[1]
    prediction = wrong_prediction(outcomes)
    means = []
    for seed in range(200):
        scores, cost = filled(prediction, replay(outcomes, propensities(N), seed))
        assert cost is not None
        means.append([scores.mean(axis=0), 100 * cost.mean(axis=0)])
    means = np.array(means)
    assert outcomes.cost is not None
    truth = np.array([outcomes.scores.mean(axis=0), 100 * outcomes.cost.mean(axis=0)])
    error = means.std(axis=0, ddof=1) / np.sqrt(len(means))
    assert (np.abs(means.mean(axis=0) - truth) < 4 * error).all()
    # The prediction alone is far off, so the correction is what is right.
    assert np.abs(prediction.quality.mean(axis=0) - truth[0]).max() > 20 * error[0].max()


def test_where_everything_was_observed_nothing_is_corrected() -> None:
    outcomes = make_problem(N)[1]
    known = replace(outcomes, propensity=np.full(outcomes.scores.shape, 0.5))
    scores, cost = filled(wrong_prediction(outcomes), known)
    np.testing.assert_array_equal(scores, outcomes.scores)
    np.testing.assert_array_equal(cost, outcomes.cost)


def test_without_propensities_the_prediction_stands_in() -> None:
    outcomes = make_problem(N)[1]
    prediction = wrong_prediction(outcomes)
    log = replace(replay(outcomes, propensities(N)), propensity=None)
    scores, _ = filled(prediction, log)
    np.testing.assert_array_equal(scores[log.observed], log.scores[log.observed])
    np.testing.assert_array_equal(scores[~log.observed], prediction.quality[~log.observed])


def test_means_and_the_best_single_model_are_those_of_all_queries() -> None:
    """The log asks the weak model where it is good, so its plain mean flatters it."""
    outcomes = make_problem(3000)[1]
    poetry = outcomes.tasks == "poetry"
    chance = np.where(poetry[:, None], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1])
    log = replay(outcomes, chance)
    large, medium = (outcomes.candidates.index(name) for name in ("large", "medium"))
    plain = [log.scores[log.observed[:, j], j].mean() for j in (large, medium)]
    truth = outcomes.scores.mean(axis=0)
    assert plain[1] > truth[medium] + 0.1
    np.testing.assert_allclose(log.mean_scores(), truth, atol=0.07)
    baselines = Baselines.fit(log, Utility())
    assert baselines.best_single == "large"
    by_length = baselines.lookups["prompt length"].quality[-1]
    assert by_length[large] > by_length[medium] + 0.1


def test_the_frontier_of_a_log_is_near_the_truth() -> None:
    outcomes = make_problem(4000)[1]
    prediction = Prediction(
        outcomes.candidates,
        np.where((outcomes.tasks == "poetry")[:, None], [0.9, 0.9, 0.3], [0.9, 0.3, 0.2]),
        np.full(outcomes.scores.shape, 0.01),
        np.tile([0.01, 0.001, 0.0001], (len(outcomes), 1)),
    )
    policy = Budget(0.004).tune(prediction, outcomes)
    baselines = Baselines.fit(outcomes, policy)
    full = evaluate(outcomes, prediction, policy, baselines, resamples=50).metrics
    log = replay(outcomes, propensities(len(outcomes)))
    logged = evaluate(log, prediction, policy, baselines, resamples=200).metrics
    assert full["evidence"] == {"kind": "full information"}
    assert logged["evidence"]["kind"] == "off-policy, doubly robust"
    assert 200 < logged["evidence"]["effective"] < len(log)
    for figure in ("quality", "cost", "aiq"):
        told, truth = logged["router"][figure], full["router"][figure]["value"]
        half = (told["high"] - told["low"]) / 2
        assert abs(told["value"] - truth) < 2 * half
    # What a log cannot tell is not told.
    assert "oracle" not in logged["baselines"]
    assert not {"regret", "oracle_gap_closed", "aiq_oracle"} & set(logged["router"])
    assert "calibration" not in logged


def test_the_budget_is_met_on_doubly_robust_costs() -> None:
    outcomes = make_problem(N)[1]
    log = replay(outcomes, propensities(N))
    cost = np.tile([0.02, 0.002, 0.0002], (N, 1))  # twice the truth
    prediction = replace(wrong_prediction(outcomes), cost=cost)
    policy = Budget(0.002).tune(prediction, log)
    everything = completed(prediction, log)
    spent = policy.expected(prediction, everything.scores, everything.cost).cost
    assert spent is not None
    assert spent.mean() == pytest.approx(0.002, rel=1e-9)


@pytest.mark.parametrize(
    ("chance", "best", "others", "why"),
    [
        ([0.01, 0.01, 0.98], "large", 0, "of the router's own, and at least 200 are asked for"),
        ([0.5, 0.5, 0.0], "small", 0, "100.0% of the router's choices are such as the log never"),
        ([0.6, 0.3, 0.1], "large", 20, "where the two policies differ, and at least 50 are asked"),
    ],
    ids=["few of its own", "never chosen", "few that differ"],
)
def test_a_log_that_tells_too_little_decides_nothing(
    chance: list[float], best: str, others: int, why: str
) -> None:
    """The router asks `best`, and medium on the first `others` queries."""
    outcomes = make_problem(N)[1]
    log = replay(outcomes, np.tile(chance, (N, 1)))
    quality = np.tile([0.9 if name == best else 0.1 for name in outcomes.candidates], (N, 1))
    quality[:others, outcomes.candidates.index("medium")] = 1.0
    prediction = replace(wrong_prediction(outcomes), quality=quality)
    evaluation = evaluate(log, prediction, Utility(), Baselines.fit(outcomes, Utility()))
    assert evaluation.verdict.decision == "cannot tell"
    assert why in evaluation.verdict.sentence
    assert "the target" not in evaluation.verdict.sentence


def test_a_log_of_certain_choices_decides_nothing_of_others() -> None:
    outcomes = make_problem(N)[1]
    log = replay(outcomes, np.eye(3)[np.arange(N) % 3])
    prediction = replace(wrong_prediction(outcomes), quality=np.tile([0.9, 0.5, 0.1], (N, 1)))
    evaluation = evaluate(log, prediction, Utility(), Baselines.fit(outcomes, Utility()))
    assert evaluation.verdict.decision == "cannot tell"
    assert "The log left nothing to chance" in evaluation.verdict.sentence


def test_a_vote_cannot_be_judged_from_one_answer_a_query() -> None:
    outcomes = make_problem(N)[1]
    log = replay(outcomes, propensities(N))
    with pytest.raises(RouterError, match="Subset asks several candidates together"):
        evaluate(log, wrong_prediction(outcomes), Subset(), Baselines.fit(log, Utility()))


def test_a_run_on_a_decision_log(
    workplace: Workplace, run_router: Callable[..., Finished], tmp_path: Path
) -> None:
    _, outcomes = make_problem(N)
    log = replay(outcomes, propensities(N))
    log.to_table().to_csv(tmp_path / "log.csv", index=False)
    options = (*workplace.encoder, "tracking=none", "examples=[]", "latest=null")
    data = ("data=table", f"data.path={tmp_path / 'log.csv'}")
    done = run_router(
        "train",
        *data,
        *options,
        "estimator=ridge",
        "policy=budget",
        "evaluation.resamples=50",
        "hydra.run.dir=run",
    )
    assert done.code == 0, done.err
    assert "Evidence   off-policy, doubly robust:" in done.out
    assert "oracle" not in done.out
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["baselines"]["best single"]["candidate"] == "large"
    judged = pd.read_parquet("run/predictions.parquet")
    assert {"doubly_robust_score", "doubly_robust_cost_usd"} <= set(judged)
    assert Path("run/frontier.png").stat().st_size > 10_000
    # Another budget from the same run is tuned on the same doubly robust outcomes.
    policy = metrics["policy"]
    again = run_router(
        "export", "run=run", "out=out", "policy=budget", f"policy.budget={policy['budget']}"
    )
    assert again.code == 0, again.err
    exported = json.loads(Path("out/manifest.json").read_text())
    assert exported["validation"]["cost"] == pytest.approx(policy["budget"], rel=1e-6)
    # And the exported one is judged by the same log, or by all outcomes.
    for table, kind in ((log, "off-policy, doubly robust"), (outcomes, "full information")):
        table.to_table().to_csv(tmp_path / "again.csv", index=False)
        judged_again = run_router(
            "evaluate",
            "artifact=out",
            "data=table",
            f"data.path={tmp_path / 'again.csv'}",
            "split=all",
            "evaluation.resamples=50",
            f"hydra.run.dir=judged-{kind[:3]}",
        )
        assert judged_again.code == 0, judged_again.err
        told = json.loads(Path(f"judged-{kind[:3]}/metrics.json").read_text())
        assert told["evidence"]["kind"] == kind
