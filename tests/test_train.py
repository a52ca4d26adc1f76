"""`router train`: from a table of outcomes to a judged and exported router."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import CANDIDATES, PRICES, Finished, TrainedRun, Workplace, make_table
from omegaconf import OmegaConf

import router
from router.artifact.manifest import amend_manifest
from router.artifact.runtime import Router
from router.pipelines.options import config_folder
from router.pipelines.run_folder import point_to_latest

RunRouter = Callable[..., Finished]
CONF = config_folder()


def options_of(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def read_metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture
def train(workplace: Workplace, run_router: RunRouter) -> Callable[..., Path]:
    """Train in the workplace without a record; the run's folder."""

    def run(*overrides: str) -> Path:
        folder = workplace.folder / "run"
        finished = run_router(
            "train", *workplace.options, "tracking=none", f"hydra.run.dir={folder}", *overrides
        )
        assert finished.code == 0, finished.err
        return folder

    return run


# ---- The files of a run -------------------------------------------------------------------------


def test_a_run_is_these_files(trained_run: TrainedRun) -> None:
    assert {path.name for path in trained_run.folder.iterdir()} == {
        "artifact", "config.yaml", "frontier.csv", "frontier.png", "metrics.json",
        "predictions.parquet", "tasks.csv", "tasks.png", "validation.parquet",
    }  # fmt: skip


def test_predictions_hold_what_was_predicted_and_what_came(trained_run: TrainedRun) -> None:
    predictions = pd.read_parquet(trained_run.folder / "predictions.parquet")
    assert list(predictions.columns) == [
        "query_id", "chosen", "probability", "score", "cost_usd",
        *[f"{kind}:{name}" for name in CANDIDATES for kind in ("quality", "quality_se", "cost")],
    ]  # fmt: skip
    assert len(predictions) == read_metrics(trained_run.folder)["queries"] == 36
    logged = pd.read_csv(trained_run.workplace.table).set_index(["query_id", "model"])
    chosen = logged.loc[list(zip(predictions["query_id"], predictions["chosen"], strict=True))]
    np.testing.assert_array_equal(chosen["score"], predictions["score"])
    np.testing.assert_allclose(chosen["cost_usd"], predictions["cost_usd"])


def test_the_frontier_is_a_table_of_settings_and_references(trained_run: TrainedRun) -> None:
    frontier = pd.read_csv(trained_run.folder / "frontier.csv")
    shares = [f"share:{name}" for name in CANDIDATES]
    assert list(frontier.columns) == ["kind", "name", "cost", "quality", *shares]
    settings = frontier[frontier["kind"] == "frontier"]
    assert len(settings) > 3
    assert settings["cost"].is_monotonic_increasing
    np.testing.assert_allclose(settings[shares].sum(axis=1), 1)
    assert set(frontier["name"][frontier["kind"] == "candidate"]) == set(CANDIDATES)
    assert {"best single", "cheapest", "random", "oracle"} <= set(frontier["name"])


@pytest.mark.parametrize("name", ["frontier.png", "tasks.png"])
def test_the_pictures_are_png(trained_run: TrainedRun, name: str) -> None:
    content = (trained_run.folder / name).read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")


def test_metrics_are_nested_and_their_intervals_hold_the_value(trained_run: TrainedRun) -> None:
    metrics = read_metrics(trained_run.folder)
    assert {"router", "baselines", "differences", "verdict", "data", "policy"} <= set(metrics)
    assert metrics["data"]["train_queries"] + metrics["data"]["test_queries"] == 120
    gains = [name for name in metrics["differences"] if name.startswith("quality_vs_")]
    assert len(gains) == len(metrics["baselines"])
    for name in gains:
        gain = metrics["differences"][name]
        assert gain["low"] <= gain["value"] <= gain["high"]
    best = metrics["baselines"]["best single"]
    gain = metrics["differences"]["quality_vs_best_single"]["value"]
    router_quality = metrics["router"]["quality"]["value"]
    assert gain == pytest.approx(router_quality - best["quality"]["value"])


def test_the_configuration_is_kept_as_it_was_composed(trained_run: TrainedRun) -> None:
    config = OmegaConf.load(trained_run.folder / "config.yaml")
    assert config.estimator == OmegaConf.load(CONF / "estimator" / "ridge.yaml")
    assert config.data.path == str(trained_run.workplace.table)
    assert config.name == "shared"


def test_the_same_configuration_gives_the_same_run(
    trained_run: TrainedRun, run_router: RunRouter, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    finished = run_router(
        "train", *trained_run.workplace.options, "estimator=ridge", "policy=budget",
        "tracking=none", "latest=null", f"hydra.run.dir={again}",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    figures = [read_metrics(folder) for folder in (trained_run.folder, again)]
    for one in figures:
        assert one.pop("seconds") > 0
    assert figures[0] == figures[1]
    for name in ("predictions.parquet", "validation.parquet"):
        tables = [pd.read_parquet(folder / name) for folder in (trained_run.folder, again)]
        pd.testing.assert_frame_equal(*tables)
    heads = [folder / "artifact" / "head.npz" for folder in (trained_run.folder, again)]
    assert heads[0].read_bytes() == heads[1].read_bytes()


# ---- Every part ---------------------------------------------------------------------------------


def check_run(folder: Path) -> dict[str, Any]:
    """A run of 60 queries whose artifact decides as the run says."""
    metrics = read_metrics(folder)
    assert metrics["queries"] == metrics["parity"]["queries"] == 18
    assert metrics["parity"]["decisions_equal"] == 18
    assert metrics["parity"]["largest_quality_difference"] < 1e-4
    assert metrics["verdict"]["decision"] in ("pays", "does not pay", "cannot tell")
    assert router.load(folder / "artifact").route("algebra question number 3").reason
    return metrics


# Every estimator, and beside it every estimator of cost and every policy in turn.
PARTS = list(
    zip(
        options_of("estimator"),
        cycle(options_of("cost")),
        cycle(options_of("policy")[::-1]),
        strict=False,
    )
)


def test_the_list_of_parts_leaves_none_out() -> None:
    for place, group in enumerate(("estimator", "cost", "policy")):
        assert {parts[place] for parts in PARTS} == set(options_of(group))


@pytest.mark.parametrize(("estimator", "cost", "policy"), PARTS)
def test_every_part_is_fitted_and_exported(
    workplace: Workplace, train: Callable[..., Path], estimator: str, cost: str, policy: str
) -> None:
    small = ["estimator.n_repeats=1"] if estimator == "bagged_partition" else []
    needed = ["policy.quality=0.2"] if policy == "certified" else []
    if policy in ("cascade", "cascade_routing", "learned_stopping"):
        table = pd.read_csv(workplace.table)
        table["response"] = np.where(table["score"] == 1, "#### 7", "I am not sure")
        table.to_csv(workplace.table, index=False)
        needed = ["judge=answer", "judge.reads=[features]"]
    parts = (f"estimator={estimator}", f"cost={cost}", f"policy={policy}")
    metrics = check_run(train(*parts, *small, *needed))
    assert metrics["router"]["cost"]["value"] > 0
    assert metrics["policy"]["name"].lower() == policy.replace("_", "")


def test_the_latest_queries_may_be_the_test_side(
    workplace: Workplace, train: Callable[..., Path]
) -> None:
    table = pd.read_csv(workplace.table)
    hours = pd.to_timedelta(table["query_id"].str[1:].astype(int), unit="h")
    table.assign(timestamp=pd.Timestamp("2026-01-01") + hours).to_csv(workplace.table, index=False)
    folder = train("estimator=marginal", "cost=marginal", "split=time", "export=false")
    judged = pd.read_parquet(folder / "predictions.parquet")["query_id"]
    assert set(judged) == {f"q{i}" for i in range(42, 60)}


def test_a_task_may_be_the_test_side(workplace: Workplace, train: Callable[..., Path]) -> None:
    parts = ["estimator=marginal", "cost=marginal", "export=false"]
    folder = train(*parts, "split=leave_one_task_out", "split.task=algebra")
    judged = pd.read_parquet(folder / "predictions.parquet")["query_id"]
    task = pd.read_csv(workplace.table).drop_duplicates("query_id").set_index("query_id")["task"]
    assert set(judged) == set(task.index[task == "algebra"])


def test_an_experiment_sets_several_parts(train: Callable[..., Path]) -> None:
    folder = train("experiment=strong_weak", "data.candidates=[large,small]")
    metrics = check_run(folder)
    assert metrics["policy"]["name"] == "Threshold"
    assert 0 < metrics["router"]["two_candidates"]["apgr"] < 2
    assert router.load(folder / "artifact").candidates == ("large", "small")


# ---- Kinds of log -------------------------------------------------------------------------------


def test_a_validation_column_tunes_the_policy_on_those_queries(
    workplace: Workplace, train: Callable[..., Path]
) -> None:
    table = pd.read_csv(workplace.table)
    number = table["query_id"].str[1:].astype(int)
    sides = np.select([number < 30, number < 45], ["train", "validation"], "test")
    table.assign(split=sides).to_csv(workplace.table, index=False)
    folder = train("estimator=ridge", "policy.budget=0.003", "policy=budget")
    validation = pd.read_parquet(folder / "validation.parquet")
    assert set(validation["query_id"]) == {f"q{i}" for i in range(30, 45)}
    judged = pd.read_parquet(folder / "predictions.parquet")
    assert set(judged["query_id"]) == {f"q{i}" for i in range(45, 60)}
    # The promise in dollars is met on the validation side exactly.
    loaded = router.load(folder / "artifact")
    prompts = table.drop_duplicates("query_id").set_index("query_id")["prompt"]
    plan = loaded.policy.probabilities(
        loaded.predict(loaded.encode(prompts[validation["query_id"]].tolist()))
    )
    observed = validation[[f"observed_cost:{name}" for name in loaded.candidates]].to_numpy()
    assert (plan * observed).sum(axis=1).mean() == pytest.approx(0.003, rel=1e-6)


def test_the_validation_file_holds_no_prompt(trained_run: TrainedRun) -> None:
    validation = pd.read_parquet(trained_run.folder / "validation.parquet")
    # Without a validation side: the train side's queries, predicted out of fold.
    assert len(validation) == read_metrics(trained_run.folder)["data"]["train_queries"]
    texts = validation.select_dtypes(exclude="number")
    assert sorted(texts.columns) == ["query_id", "task"]


def test_without_costs_the_router_is_judged_on_quality(
    workplace: Workplace, train: Callable[..., Path]
) -> None:
    table, _ = make_table(60, costs=None)
    table.to_csv(workplace.table, index=False)
    folder = train("estimator=ridge")
    metrics = check_run(folder)
    assert "cost" not in metrics["router"]
    assert "cheapest" not in metrics["baselines"]
    assert router.load(folder / "artifact").route("Hello").cost is None


def test_prices_make_costs_of_tokens_and_may_change_without_a_refit(
    workplace: Workplace, train: Callable[..., Path]
) -> None:
    table, _ = make_table(60, costs="tokens")
    table.to_csv(workplace.table, index=False)
    lines = ["models:"]
    for name, price in PRICES.prices.items():
        lines.append(
            f"  {name}: {{input: {price.input}, output: {price.output}, date: {price.date}}}"
        )
    (workplace.folder / "prices.yaml").write_text("\n".join(lines))
    folder = train("estimator=ridge", f"data.prices={workplace.folder / 'prices.yaml'}")
    check_run(folder)
    before = router.load(folder / "artifact")
    prices = before.manifest["prices"]
    assert prices["large"] == {"input": 10.0, "output": 40.0, "date": "2026-01-01"}
    amend_manifest(
        folder / "artifact",
        prices={
            name: {**price, "input": 2 * price["input"], "output": 2 * price["output"]}
            for name, price in prices.items()
        },
    )
    dearer = Router(folder / "artifact", verify=False).route("Hello").cost
    assert dearer == pytest.approx(
        {name: 2 * cost for name, cost in before.route("Hello").cost.items()}  # type: ignore[union-attr]
    )


def test_a_log_with_holes_is_judged_where_it_is_whole(
    workplace: Workplace, run_router: RunRouter
) -> None:
    table, _ = make_table(120, observed=0.8)
    table.to_csv(workplace.table, index=False)
    finished = run_router(
        "train", *workplace.options, "tracking=none", "estimator=ridge", "hydra.run.dir=run"
    )
    assert finished.code == 0, finished.err
    assert "test queries left out: they lack an outcome" in finished.err
    metrics = read_metrics(Path("run"))
    assert 5 <= metrics["queries"] < metrics["data"]["test_queries"]


def test_names_are_printed_and_recorded_as_they_are(
    workplace: Workplace, run_router: RunRouter
) -> None:
    """Brackets are no markup, colons no smileys, slashes no folders."""
    table = pd.read_csv(workplace.table)
    names = {"large": "[/bold]", "medium": "org/model:free:smile:[i]x", "small": "ملك 🎉"}
    table.assign(model=table["model"].map(names)).to_csv("a[b].csv", index=False)
    finished = run_router(
        "train", *workplace.options, "data.path='a[b].csv'", "tracking=none", "estimator=marginal",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert "Outcomes   a[b]: 60 queries" in finished.out
    traffic = next(line for line in finished.out.splitlines() if line.startswith("Traffic"))
    for name in names.values():
        assert name in traffic
    chosen = set(pd.read_parquet("run/predictions.parquet")["chosen"])
    assert chosen <= set(names.values())
    assert router.load("run/artifact").route("Hello").candidate in names.values()


# ---- Without an artifact, and with parts of one's own -------------------------------------------


def test_without_export_there_is_no_artifact(train: Callable[..., Path]) -> None:
    folder = train("estimator=marginal", "export=false", 'examples=["Hello"]')
    assert not (folder / "artifact").exists()
    assert read_metrics(folder)["parity"] is None
    assert len(pd.read_parquet(folder / "predictions.parquet")) == 18


OWN = '''
import hashlib
import numpy as np
from sklearn.base import BaseEstimator
from router.policies import Policy
from router.prediction import Prediction


class Dummy(BaseEstimator):
    """The mean score, in two methods."""

    def __init__(self, bonus: float = 0.0):
        self.bonus = bonus

    def fit(self, X, outcomes):
        self.candidates_, self.mean_ = outcomes.candidates, outcomes.mean_scores() + self.bonus
        return self

    def predict(self, X):
        quality = np.tile(self.mean_, (len(X), 1))
        return Prediction(self.candidates_, quality, np.zeros_like(quality))


class Hashes:
    """Vectors that are hashes of the text."""

    identity = "hashes"

    def encode(self, texts):
        digests = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
        return np.array([list(digest) for digest in digests], dtype=np.float32) / 255


class First(Policy):
    """Always the first candidate."""

    def probabilities(self, prediction):
        return np.eye(len(prediction.candidates))[np.zeros(len(prediction), dtype=int)]

    def path(self, prediction):
        return [self]

    def reason(self, prediction, chosen):
        return "it is the first"
'''
OWN_OPTIONS = {
    "estimator": "# My own.\n_target_: own_parts.Dummy\nbonus: 0.1\n",
    "encoder": "# My own.\n_target_: own_parts.Hashes\n",
    "policy": "# My own.\n_target_: own_parts.First\n",
}


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parts in a module of one's own, each with a YAML file: the overrides that find them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_parts.py").write_text(OWN)
    for group, content in OWN_OPTIONS.items():
        (folder / "conf" / group).mkdir(parents=True)
        (folder / "conf" / group / "mine.yaml").write_text(content)
    monkeypatch.syspath_prepend(folder)
    return ["--config-dir", str(folder / "conf")]


def test_parts_of_ones_own_need_a_class_and_a_yaml_file(
    workplace: Workplace, run_router: RunRouter, own: list[str]
) -> None:
    mine = [f"{group}=mine" for group in OWN_OPTIONS]
    finished = run_router(
        "train", *own, *workplace.data, *mine, "cost=marginal", "tracking=none", "export=false",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    folder = Path("run")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert set(predictions["chosen"]) == {"large"}
    config = OmegaConf.load(folder / "config.yaml")
    assert config.estimator == {"_target_": "own_parts.Dummy", "bonus": 0.1}


@pytest.mark.parametrize(
    ("group", "sentence"),
    [
        ("encoder", "Hashes has no method export, so no artifact can be made; train with"),
        ("policy", "First is not one of router.policies, so an artifact cannot hold it; train"),
        ("estimator", "Dummy has no method to_onnx, so no artifact can be made; train with"),
    ],
)
def test_a_part_that_cannot_be_exported_is_told(
    workplace: Workplace, run_router: RunRouter, own: list[str], group: str, sentence: str
) -> None:
    rest = [] if group == "encoder" else [*workplace.encoder]
    rest += [] if group == "estimator" else ["estimator=marginal"]
    finished = run_router(
        "train", *own, *workplace.data, *rest, f"{group}=mine", "cost=marginal", "tracking=none",
        "hydra.run.dir=out/run",
    )  # fmt: skip
    assert finished.code == 2
    assert sentence in finished.err
    assert not list(Path().glob("out/*"))


# ---- What is printed, and where the newest run is -----------------------------------------------


def test_what_a_run_prints(trained_run: TrainedRun) -> None:
    lines = trained_run.out.splitlines()
    names = [line.split("  ")[0] for line in lines]
    for name in (
        "router", "best single", "cheapest", "random", "prompt length", "task-label lookup",
        "oracle", "Outcomes", "Verdict", "Picture", "Artifact", "MLflow",
    ):  # fmt: skip
        assert name in names
    assert "\x1b" not in trained_run.out + trained_run.err  # no terminal, no colours
    assert "\r" not in trained_run.out + trained_run.err  # nor progress bars
    # Nor anyone else's warnings and log lines.
    assert trained_run.err == "No split column with train and test: a random 0.3 is held out.\n"
    picture = next(line for line in lines if line.startswith("Picture"))
    assert Path(picture.split()[-1]).is_file()


def test_examples_are_routed_with_the_new_artifact(
    workplace: Workplace, run_router: RunRouter
) -> None:
    prompt = "What is [bold]2 + 2[/]?"
    finished = run_router(
        "train", *workplace.options, "tracking=none", "estimator=marginal", "hydra.run.dir=run",
        f'examples=["{prompt}"]',
    )  # fmt: skip
    assert finished.code == 0, finished.err
    decision = router.load("run/artifact").route(prompt)
    assert f"Example    {prompt!r}\n           -> {decision.candidate} (" in finished.out
    assert decision.reason in finished.out


def test_latest_is_a_link_to_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        point_to_latest("runs/latest", tmp_path / "runs" / name)
        assert (tmp_path / "runs" / "latest").readlink() == Path(name)
    # What the user made is left as it is, and a place without a folder is no fault.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").write_text("kept")
    point_to_latest("mine", tmp_path / "runs" / "one")
    point_to_latest("nowhere/latest", tmp_path / "runs" / "one")
    point_to_latest(None, tmp_path / "runs" / "one")
    assert (tmp_path / "mine" / "kept").read_text() == "kept"
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "mine"}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"one", "two", "latest"}


def test_many_runs_that_end_at_once_leave_one_whole_link(tmp_path: Path) -> None:
    folders = [tmp_path / f"run{i}" for i in range(8)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(lambda folder: point_to_latest(str(tmp_path / "latest"), folder), folders * 9)
        )
    assert (tmp_path / "latest").resolve() in folders
    assert len(list(tmp_path.iterdir())) == 9


# ---- Real data ----------------------------------------------------------------------------------


def test_a_real_log_is_decided_alike_by_run_and_artifact(
    workplace: Workplace, train: Callable[..., Path], shared_table: Callable[[str], Path]
) -> None:
    whole = pd.read_parquet(shared_table("llmrouter_nine"))
    queries = whole["query_id"].drop_duplicates().sample(300, random_state=0)
    whole[whole["query_id"].isin(queries)].to_csv(workplace.table, index=False)
    folder = train("estimator=partition", "policy=utility", "split=random")
    metrics = read_metrics(folder)
    assert metrics["parity"]["decisions_equal"] == metrics["parity"]["queries"] == 90
    table = pd.read_csv(workplace.table).drop_duplicates("query_id").set_index("query_id")
    artifact = router.load(folder / "artifact")
    predictions = pd.read_parquet(folder / "predictions.parquet")
    for row in predictions.head(30).to_dict("records"):
        assert artifact.route(table.loc[row["query_id"], "prompt"]).candidate == row["chosen"]
