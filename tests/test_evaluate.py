"""evaluate(): complete, paired, serialisable, and right where the answer is known."""

from __future__ import annotations

import dataclasses
import json
import logging
import math

import numpy as np
import pytest

from router.errors import RouterError
from router.evaluation.baselines import Baselines
from router.evaluation.bootstrap import Bootstrap
from router.evaluation.evaluate import Evaluation, evaluate
from router.evaluation.two_candidates import average_pgr, strong_share_curve
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.paretobandit import ParetoBanditData
from router.outcomes.splits import ColumnSplit
from router.outcomes.table import TableData
from router.policies import Budget, CheapestAdequate, HardCap, Threshold, Utility
from router.prediction import Prediction

QUALITY = {"poetry": [0.9, 0.9, 0.3], "algebra": [0.9, 0.3, 0.2]}
FRONTIER_FIGURES = {
    "aiq",
    "aiq_single_models",
    "aiq_gain",
    "aiq_oracle",
    "aiq_routerbench",
    "qnc",
    "perf_gain",
    "cost_save",
    "quality_at_cost",
    "routerarena",
}


def informed(outcomes: OutcomeMatrix, with_cost: bool = True) -> Prediction:
    """What make_table's own generator knows: the chance of each kind of prompt, the mean costs."""
    quality = np.array([QUALITY[task] for task in outcomes.tasks])
    quality = quality[:, [("large", "medium", "small").index(c) for c in outcomes.candidates]]
    cost = None
    if with_cost and outcomes.cost is not None:
        cost = np.tile(outcomes.mean_costs(), (len(outcomes), 1))
    return Prediction(outcomes.candidates, quality, np.full(quality.shape, 0.05), cost)


def constant(outcomes: OutcomeMatrix, like: OutcomeMatrix) -> Prediction:
    """The train side's means, whatever the query."""
    shape = outcomes.scores.shape
    cost = None if like.cost is None else np.broadcast_to(like.mean_costs(), shape)
    return Prediction(
        outcomes.candidates, np.broadcast_to(like.mean_scores(), shape), np.zeros(shape), cost
    )


def judge(train, test, policy=None, resamples=200) -> Evaluation:
    policy = (policy or Budget()).tune(informed(train), train)
    return evaluate(test, informed(test), policy, Baselines.fit(train, policy), resamples)


@pytest.fixture
def sides(problem):
    """(train, test) of a problem that was drawn twice."""

    def draw(n=200, **options):
        return problem(n, seed=1, **options)[1], problem(n, seed=2, **options)[1]

    return draw


def plain(metrics) -> dict:
    """The metrics as they come back from JSON, which proves that they can be written."""
    return json.loads(json.dumps(metrics))


def test_metrics_are_complete(sides):
    evaluation = judge(*sides())
    metrics = plain(evaluation.metrics)
    assert set(metrics) == {
        "queries",
        "evidence",
        "verdict",
        "router",
        "baselines",
        "differences",
        "calibration",
    }
    assert metrics["queries"] == 200
    assert metrics["verdict"] == evaluation.verdict.to_dict()
    router = metrics["router"]
    assert set(router) == {
        "quality",
        "cost",
        "shares",
        "oracle_gap_closed",
        "regret",
        *FRONTIER_FIGURES,
    }
    names = ["best single", "cheapest", "random", "prompt length", "task-label lookup", "oracle"]
    assert list(metrics["baselines"]) == names
    assert metrics["baselines"]["best single"]["candidate"] == "large"
    assert metrics["baselines"]["cheapest"]["candidate"] == "small"
    for judged in (router, *metrics["baselines"].values()):
        for figure in (judged["quality"], judged["cost"]):
            assert figure["low"] <= figure["value"] <= figure["high"]
    assert set(metrics["differences"]) == {
        "quality_vs_best_single",
        "quality_vs_cheapest",
        "quality_vs_random",
        "quality_vs_prompt_length",
        "quality_vs_task_label_lookup",
        "quality_vs_oracle",
        "relative_cost_vs_best_single",
    }
    assert sum(router["shares"].values()) == pytest.approx(1)
    assert set(metrics["calibration"]["candidates"]) == {"large", "medium", "small"}
    assert set(metrics["calibration"]["chosen"]) == {"brier", "ece"}


def test_figures_are_those_of_the_chosen_outcomes(sides):
    train, test = sides()
    policy = Utility(cost_weight=20.0)
    evaluation = evaluate(test, informed(test), policy, Baselines.fit(train, policy), 300)
    chosen = policy.choose(informed(test))
    rows = np.arange(len(test))
    score, cost = test.scores[rows, chosen], test.cost[rows, chosen]
    router = evaluation.metrics["router"]
    assert router["quality"]["value"] == pytest.approx(score.mean())
    assert router["cost"]["value"] == pytest.approx(cost.mean())
    best, oracle = test.scores[:, 0].mean(), test.scores.max(axis=1).mean()
    assert router["regret"] == pytest.approx(oracle - score.mean())
    assert router["oracle_gap_closed"] == pytest.approx((score.mean() - best) / (oracle - best))
    shares = np.bincount(chosen, minlength=3) / len(test)
    assert list(router["shares"].values()) == pytest.approx(shares.tolist())
    table = evaluation.predictions
    assert table["score"].to_numpy() == pytest.approx(score)
    assert table["cost_usd"].to_numpy() == pytest.approx(cost)


def test_differences_are_paired(sides):
    train, test = sides()
    policy = Utility(cost_weight=20.0)
    metrics = evaluate(test, informed(test), policy, Baselines.fit(train, policy), 300).metrics
    bootstrap = Bootstrap(test.groups, 300)
    rows, chosen = np.arange(len(test)), policy.choose(informed(test))
    expected = bootstrap.mean(test.scores[rows, chosen] - test.scores[:, 0]).to_dict()
    found = metrics["differences"]["quality_vs_best_single"]
    assert found == pytest.approx(expected)
    means = bootstrap.means(np.stack([test.cost[rows, chosen], test.cost[:, 0]], axis=1))
    low, high = np.quantile(means[:, 0] / means[:, 1] - 1, [0.025, 0.975])
    saving = metrics["differences"]["relative_cost_vs_best_single"]
    assert [saving["low"], saving["high"]] == pytest.approx([low, high])


def test_repeated_prompts_widen_the_intervals(sides):
    train, test = sides(60)
    twice = test.take(np.tile(np.arange(60), 4))
    grouped = judge(train, twice).metrics["router"]["quality"]
    fresh = dataclasses.replace(twice, queries=twice.queries.assign(group=np.arange(240)))
    apart = judge(train, fresh).metrics["router"]["quality"]
    assert grouped["value"] == apart["value"]
    ratio = (grouped["high"] - grouped["low"]) / (apart["high"] - apart["low"])
    assert ratio == pytest.approx(2, rel=0.3)


def test_without_costs(sides):
    evaluation = judge(*sides(costs=None))
    metrics = plain(evaluation.metrics)
    assert "cost" not in metrics["router"]
    assert not FRONTIER_FIGURES & set(metrics["router"])
    assert "relative_cost_vs_best_single" not in metrics["differences"]
    assert "cheapest" not in metrics["baselines"]
    assert evaluation.band is None
    assert set(evaluation.frontier["kind"]) == {"candidate", "router", "baseline"}
    assert evaluation.frontier["cost"].isna().all()
    assert "cost_usd" not in evaluation.predictions
    assert not [name for name in evaluation.predictions if name.startswith("cost:")]


def test_costs_that_only_one_side_knows(sides):
    """An artifact without costs on a log that has them, and the other way round."""
    train, test = sides()
    policy = Utility()
    baselines = Baselines.fit(train, policy)
    blind = evaluate(test, informed(test, with_cost=False), policy, baselines, 50)
    assert blind.metrics["router"]["aiq"]["value"] > 0
    bare = dataclasses.replace(test, cost=None)
    quality_only = evaluate(bare, informed(train.take(np.arange(200))), policy, baselines, 50)
    assert "aiq" not in quality_only.metrics["router"]


def test_two_candidates(sides):
    train, test = (side.select(["small", "large"]) for side in sides())
    evaluation = judge(train, test)
    two = plain(evaluation.metrics)["router"]["two_candidates"]
    assert (two["weak"], two["strong"]) == ("small", "large")
    weak, strong = test.scores.T
    gap = np.diff(informed(test).quality, axis=1)[:, 0]
    assert two["apgr"] == pytest.approx(average_pgr(strong_share_curve(gap, weak, strong)))
    router = evaluation.metrics["router"]["quality"]["value"]
    ends = weak.mean(), strong.mean()
    assert two["pgr"] == pytest.approx((router - ends[0]) / (ends[1] - ends[0]))
    assert 0 <= two["cpt20"] <= two["cpt50"] <= two["cpt80"] <= 100


def test_two_candidates_that_a_router_cannot_tell_apart(sides):
    train, test = (side.select(["small", "large"]) for side in sides())
    policy = Utility()
    baselines = Baselines.fit(train, policy)
    metrics = evaluate(test, constant(test, train), policy, baselines, 50).metrics
    assert metrics["router"]["two_candidates"]["apgr"] == pytest.approx(0.5)
    assert metrics["router"]["two_candidates"]["apgr_routellm"] == pytest.approx(0.5)


def test_two_candidates_whose_order_turns_on_the_test_side(sides):
    """Strong is what the train side says; where it is not stronger there is no gap to recover."""
    train, test = (side.select(["small", "large"]) for side in sides())
    turned = dataclasses.replace(test, scores=test.scores[:, ::-1])
    assert "two_candidates" not in judge(train, turned).metrics["router"]


def test_rows_with_a_missing_outcome_are_left_out_and_said(sides, caplog):
    train, test = sides(observed=0.8)
    whole = test.take(np.flatnonzero(test.fully_observed))
    assert 5 < len(whole) < len(test)
    with caplog.at_level(logging.WARNING):
        evaluation = judge(train, test)
    assert f"{len(test) - len(whole)} of 200 test queries left out" in caplog.text
    assert evaluation.metrics["queries"] == len(whole) == len(evaluation.predictions)
    assert evaluation.predictions["query_id"].tolist() == whole.queries["query_id"].tolist()
    assert evaluation.metrics["router"] == judge(train, whole).metrics["router"]


def test_nothing_fully_observed_is_one_clear_error(sides):
    train, test = sides()
    baselines = Baselines.fit(train, Utility())
    observed = np.ones((200, 3), dtype=bool)
    observed[4:, 1] = False
    masked = dataclasses.replace(test, observed=observed)
    with pytest.raises(RouterError, match=r"^4 of 200 test queries have an outcome of every cand"):
        evaluate(masked, informed(test), Utility(), baselines)
    nothing = dataclasses.replace(test, observed=observed & (np.arange(3) != 1))
    with pytest.raises(RouterError, match=r"^0 of 200 .* log the missing answers"):
        evaluate(nothing, informed(test), Utility(), baselines)


def test_prediction_table(sides):
    train, test = sides(40)
    policy = Budget(0.001).tune(informed(train), train)
    evaluation = evaluate(test, informed(test), policy, Baselines.fit(train, policy), 50)
    table = evaluation.predictions
    per_candidate = [
        f"{kind}:{name}" for name in test.candidates for kind in ("quality", "quality_se", "cost")
    ]
    assert list(table) == [
        "query_id",
        "chosen",
        "probability",
        "score",
        "cost_usd",
        *per_candidate,
    ]
    assert table["query_id"].tolist() == test.queries["query_id"].tolist()
    probabilities = policy.probabilities(informed(test))
    for i, row in table.iterrows():
        j = test.candidates.index(row["chosen"])
        assert row["probability"] == probabilities[i, j] > 0
        assert (row["score"], row["cost_usd"]) == (test.scores[i, j], test.cost[i, j])
    assert table["quality:medium"].to_numpy() == pytest.approx(informed(test).quality[:, 1])


def test_frontier_table(sides):
    evaluation = judge(*sides())
    table = evaluation.frontier
    settings = table[table["kind"] == "frontier"]
    assert settings["cost"].is_monotonic_increasing
    shares = settings[[f"share:{name}" for name in ("large", "medium", "small")]]
    assert shares.sum(axis=1).to_numpy() == pytest.approx(np.ones(len(settings)))
    assert table[table["kind"] == "candidate"]["name"].tolist() == ["large", "medium", "small"]
    router = table[table["kind"] == "router"].iloc[0]
    assert router["quality"] == evaluation.metrics["router"]["quality"]["value"]
    cheapest = table[(table["kind"] == "candidate") & (table["name"] == "small")].iloc[0]
    assert settings.iloc[0][["cost", "quality"]].tolist() == pytest.approx(
        cheapest[["cost", "quality"]].tolist()
    )
    cost, low, high = evaluation.band.T
    assert (np.diff(cost) >= 0).all()
    quality = np.interp(settings["cost"], cost, low), np.interp(settings["cost"], cost, high)
    assert (quality[0] <= settings["quality"] + 1e-9).all()
    assert (quality[1] >= settings["quality"] - 1e-9).all()


def test_task_table(sides):
    train, test = sides()
    lonely = test.queries["task"].to_numpy(dtype=object).copy()
    lonely[0] = "lonely"
    policy = Budget().tune(informed(train), train)
    baselines = Baselines.fit(train, policy)
    test = dataclasses.replace(test, queries=test.queries.assign(task=lonely))
    prediction = constant(test, train)
    table = evaluate(test, prediction, policy, baselines, 100).tasks.set_index("task")
    assert table.index.tolist() == ["algebra", "lonely", "poetry"]
    assert table["queries"].sum() == 200
    assert (table["difference"] - (table["router"] - table["best_single"])).abs().max() < 1e-12
    assert np.isnan(table.loc["lonely", ["low", "high"]].to_numpy(dtype=float)).all()
    of_task = np.flatnonzero(lonely == "algebra")
    assert table.loc["algebra", "best_single"] == pytest.approx(test.scores[of_task, 0].mean())


def test_without_tasks(sides):
    bare = [
        dataclasses.replace(side, queries=side.queries.drop(columns="task")) for side in sides()
    ]
    policy = Utility()
    baselines = Baselines.fit(bare[0], policy)
    evaluation = evaluate(bare[1], constant(bare[1], bare[0]), policy, baselines, 50)
    assert evaluation.tasks is None
    assert "task-label lookup" not in plain(evaluation.metrics)["baselines"]


@pytest.mark.parametrize(
    "policy",
    [
        Budget(0.002),
        Utility(30.0),
        CheapestAdequate(0.6),
        HardCap(cap=0.002),
        Threshold(strong_share=0.3),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_every_policy_is_judged(sides, policy):
    metrics = plain(judge(*sides(), policy=policy, resamples=50).metrics)
    assert set(metrics["router"]) >= FRONTIER_FIGURES
    assert 0 < metrics["router"]["aiq"]["value"] <= metrics["router"]["aiq_oracle"] + 0.02


def test_the_same_call_gives_the_same_figures(sides):
    train, test = sides(80)
    assert judge(train, test).metrics == judge(train, test).metrics


def test_a_router_that_is_the_best_single_model(sides):
    """Nothing gained, nothing saved, and no figure that rounding has tipped over."""
    train, test = sides()
    policy = Utility()
    always_large = dataclasses.replace(
        constant(test, train), quality=np.tile([0.9, 0.5, 0.1], (200, 1))
    )
    metrics = evaluate(test, always_large, policy, Baselines.fit(train, policy), 100).metrics
    assert metrics["differences"]["quality_vs_best_single"] == {"value": 0, "low": 0, "high": 0}
    assert metrics["differences"]["relative_cost_vs_best_single"] == {
        "value": 0,
        "low": 0,
        "high": 0,
    }
    assert metrics["verdict"]["decision"] == "does not pay"
    router = metrics["router"]
    assert router["oracle_gap_closed"] == 0
    assert router["qnc"] == pytest.approx(1, abs=1e-6)
    assert router["perf_gain"] == pytest.approx(0, abs=1e-12)
    assert router["cost_save"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dollars", [0.0, 0.001, 0.1 + 0.2])
def test_all_costs_equal(sides, dollars):
    train, test = (
        dataclasses.replace(side, cost=np.full(side.scores.shape, dollars)) for side in sides()
    )
    metrics = plain(judge(train, test, Utility(), resamples=50).metrics)
    best = max(
        metrics["router"]["quality"]["value"],
        metrics["baselines"]["best single"]["quality"]["value"],
    )
    assert metrics["router"]["aiq"]["value"] >= best - 1e-9
    assert metrics["router"]["aiq_single_models"]["value"] == pytest.approx(
        test.scores.mean(axis=0).max()
    )
    assert metrics["differences"]["relative_cost_vs_best_single"]["value"] == pytest.approx(0)
    assert metrics["router"]["qnc"] in (pytest.approx(1), math.inf)


def test_a_free_best_single_model(sides):
    """Whatever the router spends is infinitely more than nothing."""
    train, test = (dataclasses.replace(side, cost=side.cost * [0, 1, 1]) for side in sides())
    metrics = plain(judge(train, test, Threshold(strong="medium", weak="small")).metrics)
    assert metrics["baselines"]["best single"]["candidate"] == "large"
    saving = metrics["differences"]["relative_cost_vs_best_single"]
    assert saving == {"value": math.inf, "low": math.inf, "high": math.inf}
    assert metrics["verdict"]["decision"] == "does not pay"
    assert math.isnan(metrics["router"]["cost_save"])


def test_one_group_of_queries_decides_nothing(sides):
    train, test = sides(40)
    test = dataclasses.replace(test, queries=test.queries.assign(group=0))
    evaluation = judge(train, test)
    assert evaluation.verdict.decision == "cannot tell"
    assert math.isnan(evaluation.metrics["router"]["quality"]["low"])


def test_default_data_set():
    """The published wheel, train to test: figures that do not depend on any estimator."""
    outcomes = ParetoBanditData().load()
    split = ColumnSplit()(outcomes)
    train, test = outcomes.take(split.train), outcomes.take(split.test)
    policy = Utility()
    baselines = Baselines.fit(train, policy)
    evaluation = evaluate(test, constant(test, train), policy, baselines, 100)
    metrics = plain(evaluation.metrics)
    assert metrics["queries"] == 1824
    best = metrics["baselines"]["best single"]
    assert best["candidate"] == "google/gemini-2.5-pro"
    assert round(best["quality"]["value"], 4) == 0.9322
    assert round(metrics["router"]["aiq_single_models"]["value"], 4) == 0.9253
    assert metrics["router"]["aiq_oracle"] == pytest.approx(0.9602, abs=2e-4)
    # A router that cannot tell prompts apart has the single models' frontier, no more.
    gain = metrics["router"]["aiq_gain"]
    assert gain["value"] == pytest.approx(0, abs=1e-3)
    assert metrics["verdict"]["decision"] == "does not pay"


def test_nine_models_on_real_prompts(shared_table):
    """llmrouter_nine by its split column: best single .563, task-label lookup .587, no costs."""
    outcomes = TableData(shared_table("llmrouter_nine")).load()
    split = ColumnSplit()(outcomes)
    train, test = outcomes.take(split.train), outcomes.take(split.test)
    policy = Utility()
    baselines = Baselines.fit(train, policy)
    metrics = plain(evaluate(test, constant(test, train), policy, baselines, 100).metrics)
    assert metrics["queries"] == 500
    best = metrics["baselines"]["best single"]
    assert best["candidate"] == "llama-3.1-nemotron-51b-instruct"
    assert round(best["quality"]["value"], 3) == 0.563
    lookup = metrics["baselines"]["task-label lookup"]["quality"]["value"]
    assert lookup == pytest.approx(0.587, abs=2e-3)
    assert metrics["router"]["quality"] == best["quality"]  # the means choose the best single model
    assert metrics["router"]["oracle_gap_closed"] == 0
