"""`router ope`: an artifact or a model, judged on a log of another policy's decisions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Finished, TrainedRun, Workplace, make_problem

from router.off_policy.replay import replay

RunRouter = Callable[..., Finished]
LOGGING = np.array([0.2, 0.3, 0.5])  # of large, medium and small


def make_log(path: Path, n: int = 600, logging: np.ndarray = LOGGING, told: bool = True) -> Path:
    """A decision log as a table: the chosen model's outcome alone, told with its propensity."""
    _, outcomes = make_problem(n, seed=1)
    log = replay(outcomes, np.tile(logging, (n, 1)))
    (log if told else replace(log, propensity=None)).to_table().to_csv(path, index=False)
    return path


@pytest.fixture
def ope(workplace: Workplace, run_router: RunRouter) -> Callable[..., Finished]:
    """router ope on a table, with the tiny encoder and few resamples, into the folder "out"."""

    def run(path: Path, *more: str | Path) -> Finished:
        return run_router(
            "ope", "data=table", f"data.path={path}", *workplace.encoder, "estimator=ridge",
            "evaluation.resamples=100", "evaluation.least_effective=50", "hydra.run.dir=out", *more,
        )  # fmt: skip

    return run


def report() -> dict:
    return json.loads(Path("out/ope.json").read_text(encoding="utf-8"))


def test_a_model_that_the_log_seldom_asked_is_found_better_and_dearer(
    ope: Callable[..., Finished], tmp_path: Path
) -> None:
    finished = ope(make_log(tmp_path / "log.csv"), "artifact=large")
    assert finished.code == 0, finished.err
    told = report()
    _, outcomes = make_problem(600, seed=1)
    truth = {"quality": outcomes.scores[:, 0].mean(), "cost": outcomes.cost[:, 0].mean()}
    for name, value in truth.items():
        for method in ("IPS", "SNIPS", "DR"):
            interval = told["figures"][name]["target"][method]
            assert interval["low"] < value < interval["high"], (name, method)
    quality = told["figures"]["quality"]
    assert quality["difference"]["DR"]["low"] > 0.2
    assert quality["difference"]["DR"]["value"] == pytest.approx(
        quality["target"]["DR"]["value"] - quality["log"]["value"]
    )
    assert told["relative_cost"]["DR"]["low"] > 1
    assert told["overlap"]["uncovered"] == 0
    assert told["verdict"]["decision"] == "cannot tell"  # what the gain is worth is not told
    assert "Verdict    cannot tell." in finished.out
    for method in ("DM", "IPS", "SNIPS", "DR", "Switch-DR", "DRos"):
        assert f"\n{method} " in finished.out
    assert Path("out/ope.png").stat().st_size > 1000


@pytest.mark.parametrize(("cost_weight", "decision"), [(1, "better"), (1000, "worse")])
def test_what_a_dollar_is_worth_decides(
    ope: Callable[..., Finished], tmp_path: Path, cost_weight: int, decision: str
) -> None:
    finished = ope(make_log(tmp_path / "log.csv"), "artifact=large", f"cost_weight={cost_weight}")
    assert finished.code == 0, finished.err
    told = report()
    assert told["verdict"]["decision"] == decision
    target = {name: of["target"]["IPS"]["value"] for name, of in told["figures"].items()}
    utility = target["quality"] - cost_weight * target["cost"]
    assert target["utility"] == pytest.approx(utility)


def test_every_decision_is_written_with_its_values(
    ope: Callable[..., Finished], tmp_path: Path
) -> None:
    path = make_log(tmp_path / "log.csv")
    assert ope(path, "artifact=medium").code == 0
    rows, log = pd.read_parquet("out/decisions.parquet"), pd.read_csv(path)
    assert rows["query_id"].tolist() == log["query_id"].tolist()
    assert rows["chosen"].tolist() == log["model"].tolist()
    expected = np.where(log["model"] == "medium", 1 / 0.3, 0.0)
    np.testing.assert_allclose(rows["weight"], expected)
    np.testing.assert_allclose(rows["quality:IPS"], expected * log["score"])
    for name, figure in report()["figures"].items():
        for method, interval in figure["target"].items():
            assert rows[f"{name}:{method}"].mean() == pytest.approx(interval["value"])


def test_an_artifact_is_judged_by_its_own_policy(
    ope: Callable[..., Finished], trained_run: TrainedRun, tmp_path: Path
) -> None:
    finished = ope(make_log(tmp_path / "log.csv"), f"artifact={trained_run.artifact}")
    assert finished.code == 0, finished.err
    told = report()
    manifest = json.loads((trained_run.artifact / "manifest.json").read_text(encoding="utf-8"))
    assert told["target"]["manifest_sha256"] == manifest["sha256"]
    assert sum(row["target_share"] for row in told["candidates"]) == pytest.approx(1)
    assert sum(row["log_share"] for row in told["candidates"]) == pytest.approx(1)
    assert [task["task"] for task in told["tasks"]] == ["algebra", "poetry"]
    assert "trained on these outcomes" not in finished.err


def test_the_log_of_ones_own_training_is_pointed_out(
    ope: Callable[..., Finished], workplace: Workplace, run_router: RunRouter, tmp_path: Path
) -> None:
    log = make_log(tmp_path / "log.csv", n=120)
    trained = run_router(
        "train", "data=table", f"data.path={log}", *workplace.encoder, "estimator=ridge",
        "tracking=none", "latest=null", "examples=[]", "evaluation.resamples=20",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    finished = ope(log, "artifact=run/artifact", "evaluation.least_effective=0")
    assert finished.code == 0, finished.err
    assert "The router was trained on these outcomes" in finished.err


def test_propensities_are_estimated_where_asked(
    ope: Callable[..., Finished], tmp_path: Path
) -> None:
    log = make_log(tmp_path / "log.csv", told=False)
    refused = ope(log, "artifact=large")
    assert refused.code == 2
    assert "propensity=estimated" in refused.err
    finished = ope(log, "artifact=large", "propensity=estimated")
    assert finished.code == 0, finished.err
    assert "Caution    propensities are estimated from the queries" in finished.out
    told = report()
    assert told["propensity"] == "estimated"
    assert told["overlap"]["mean_weight"] == pytest.approx(1, abs=0.2)
    _, outcomes = make_problem(600, seed=1)
    truth = outcomes.scores[:, 0].mean()
    assert told["figures"]["quality"]["target"]["DR"]["value"] == pytest.approx(truth, abs=0.1)


@pytest.mark.parametrize(
    ("logging", "model", "sentence"),
    [
        ([0.5, 0.5, 0.0], "large", None),
        ([0.94, 0.03, 0.03], "small", "are worth"),
    ],
)
def test_a_log_that_cannot_carry_a_verdict_refuses_it(
    ope: Callable[..., Finished],
    tmp_path: Path,
    logging: list[float],
    model: str,
    sentence: str | None,
) -> None:
    finished = ope(make_log(tmp_path / "log.csv", logging=np.array(logging)), f"artifact={model}")
    assert finished.code == 0, finished.err
    verdict = report()["verdict"]
    assert (verdict["decision"] == "refused") == (sentence is not None)
    if sentence is not None:
        assert sentence in verdict["sentence"]
        assert "Verdict    refused." in finished.out


def test_a_log_that_left_nothing_to_chance_is_refused(
    ope: Callable[..., Finished], tmp_path: Path
) -> None:
    path = make_log(tmp_path / "log.csv")
    pd.read_csv(path).assign(propensity=1.0).to_csv(path, index=False)
    finished = ope(path, "artifact=large")
    assert finished.code == 0, finished.err
    verdict = report()["verdict"]
    assert verdict["decision"] == "refused"
    assert "left nothing to chance" in verdict["sentence"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([], "artifact is needed"),
        (["artifact=nowhere"], "artifact=nowhere: neither the folder of an artifact nor a model"),
        (["artifact=large", "evaluation.method=DM"], "evaluation.method is 'DM'; give one of IPS,"),
        (["artifact=large", "propensity=guessed"], "propensity is 'guessed'"),
        (["artifact=large", "cost_weight=-1"], "cost_weight is -1"),
        (["artifact=large", "evaluation.most_uncovered=2"], "evaluation.most_uncovered is 2"),
        (["artifact=large", "logged_by=nowhere"], "logged_by=nowhere"),
    ],
)
def test_bad_input_gets_one_sentence_and_leaves_nothing(
    ope: Callable[..., Finished], tmp_path: Path, more: list[str], sentence: str
) -> None:
    finished = ope(make_log(tmp_path / "log.csv", n=30), *more)
    assert finished.code == 2
    assert sentence in finished.err
    assert "Traceback" not in finished.err
    assert not Path("out").exists()


def test_any_estimator_with_an_honest_interval_may_decide(
    ope: Callable[..., Finished], tmp_path: Path
) -> None:
    finished = ope(
        make_log(tmp_path / "log.csv"), "artifact=large", "evaluation.method=SNIPS", "cost_weight=1"
    )
    assert finished.code == 0, finished.err
    told = report()
    assert told["method"] == "SNIPS"
    gain = told["figures"]["utility"]["difference"]["SNIPS"]["value"]
    assert f"{gain:+.4f}" in told["verdict"]["sentence"]


def test_a_full_table_is_sent_to_evaluate(
    ope: Callable[..., Finished], workplace: Workplace
) -> None:
    finished = ope(workplace.table, "artifact=large")
    assert finished.code == 2
    assert "judge a full table with router evaluate" in finished.err
    assert not Path("out").exists()
