"""The exported artifact: whole or refused, and exported anew at another operating point."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Finished, TrainedRun, make_problem, make_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import router
from router.artifact import manifest as manifests
from router.artifact.export import check_parity
from router.artifact.runtime import Router
from router.errors import RouterError
from router.estimators import Marginal, Ridge
from router.estimators.head import Head
from router.policies import Budget, Utility
from router.prediction import Prediction

RunRouter = Callable[..., Finished]


# ---- What is in it ------------------------------------------------------------------------------


def test_an_artifact_is_these_files(trained_run: TrainedRun) -> None:
    names = {path.name for path in trained_run.artifact.iterdir()}
    assert names == {"encoder.onnx", "head.npz", "tokenizer.json", "manifest.json"}


def test_the_manifest_says_what_the_router_is(trained_run: TrainedRun) -> None:
    content = json.loads((trained_run.artifact / "manifest.json").read_text(encoding="utf-8"))
    metrics = json.loads((trained_run.folder / "metrics.json").read_text(encoding="utf-8"))
    assert content["schema_version"] == 2
    assert content["candidates"] == ["large", "medium", "small"]
    assert content["policy"] == metrics["policy"]
    assert content["policy"]["name"] == "Budget"
    assert content["data"] == metrics["data"]
    assert content["prices"] is None  # the table logs dollars, not tokens
    assert content["verdict"] == metrics["verdict"]
    assert content["metrics"]["quality"] == metrics["router"]["quality"]
    assert len(content["golden"]) >= 3
    assert set(content["files"]) == {"encoder.onnx", "head.npz", "tokenizer.json"}


def test_the_large_files_cannot_be_written_through_the_link_to_the_cache(
    trained_run: TrainedRun,
) -> None:
    for name in ("encoder.onnx", "tokenizer.json"):
        assert (trained_run.artifact / name).stat().st_mode & 0o222 == 0


# ---- Damage -------------------------------------------------------------------------------------

SPOTS = (0.0, 0.1, 0.37, 0.5, 0.83, 0.999)


@pytest.mark.parametrize("spot", SPOTS)
@pytest.mark.parametrize("name", ["encoder.onnx", "head.npz", "tokenizer.json", "manifest.json"])
def test_one_flipped_byte_is_refused(artifact_copy: Path, name: str, spot: float) -> None:
    path = artifact_copy / name
    content = bytearray(path.read_bytes())
    content[int(spot * len(content))] ^= 0x01
    path.write_bytes(content)
    with pytest.raises(RouterError, match=rf"{name}: damaged \(.*\); export the router again\.$"):
        router.load(artifact_copy)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_other_manifest_is_refused(artifact_copy: Path, data: st.DataObject) -> None:
    path = artifact_copy / "manifest.json"
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[place]))
    try:
        path.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
        with pytest.raises(RouterError):
            manifests.read_manifest(artifact_copy)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["encoder.onnx", "head.npz", "tokenizer.json"])
def test_a_missing_file_is_named(artifact_copy: Path, name: str) -> None:
    (artifact_copy / name).unlink()
    with pytest.raises(RouterError, match=rf"{name}: missing from the artifact"):
        router.load(artifact_copy)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "damaged (no JSON)"),
        ("{", "damaged (no JSON)"),
        ("[1, 2]", "not a router's manifest"),
        ('"text"', "not a router's manifest"),
        ("null", "not a router's manifest"),
        ("{}", "not a router's manifest"),
        ('{"schema_version": "1"}', "not a router's manifest"),
        ('{"schema_version": 1}', "damaged (its checksum differs)"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(
    artifact_copy: Path, content: str, sentence: str
) -> None:
    (artifact_copy / "manifest.json").write_text(content)
    with pytest.raises(RouterError) as told:
        router.load(artifact_copy)
    assert sentence in str(told.value)


def test_a_newer_schema_is_refused_with_the_remedy(artifact_copy: Path) -> None:
    path = artifact_copy / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8")) | {"schema_version": 3}
    del content["sha256"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with pytest.raises(RouterError, match=r"schema version 3 is newer .* update query-router\.$"):
        router.load(artifact_copy)


def test_a_policy_of_a_newer_version_is_refused(artifact_copy: Path) -> None:
    manifests.amend_manifest(artifact_copy, policy={"name": "Clairvoyance"})
    with pytest.raises(RouterError, match="'Clairvoyance' is unknown to this version"):
        router.load(artifact_copy)


@pytest.mark.parametrize("wrong", ["vector", "quality", "cost"])
def test_other_golden_numbers_are_refused(artifact_copy: Path, wrong: str) -> None:
    golden = manifests.read_manifest(artifact_copy)["golden"]
    golden[-1][wrong][0] = 1.01 * golden[-1][wrong][0] + (0.0 if wrong == "cost" else 0.01)
    manifests.amend_manifest(artifact_copy, golden=golden)
    with pytest.raises(RouterError, match=r"golden vectors differ"):
        router.load(artifact_copy)
    assert Router(artifact_copy, verify=False).route("Hello").candidate


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("nowhere", "no artifact here"),
        ("table.csv", "neither a folder nor a whole zip"),
        ("run", "no artifact here"),
    ],
)
def test_a_place_without_an_artifact_is_told(
    trained_run: TrainedRun, place: str, sentence: str
) -> None:
    with pytest.raises(RouterError, match=sentence):
        router.load(trained_run.workplace.folder / place)


# ---- Parity -------------------------------------------------------------------------------------


def test_every_test_query_is_routed_as_the_run_says(trained_run: TrainedRun) -> None:
    table = pd.read_csv(trained_run.workplace.table).drop_duplicates("query_id")
    prompt_of = dict(zip(table["query_id"], table["prompt"], strict=True))
    predictions = pd.read_parquet(trained_run.folder / "predictions.parquet")
    artifact = router.load(trained_run.artifact)
    for row in predictions.to_dict("records"):
        decision = artifact.route(prompt_of[row["query_id"]])
        assert decision.candidate == row["chosen"]
        assert decision.probability == pytest.approx(row["probability"])
        for name in artifact.candidates:
            assert decision.quality[name] == pytest.approx(row[f"quality:{name}"], abs=1e-9)
            assert decision.quality_se[name] == pytest.approx(row[f"quality_se:{name}"], abs=1e-9)
            assert decision.cost is not None
            assert decision.cost[name] == pytest.approx(row[f"cost:{name}"], rel=1e-9)
    metrics = json.loads((trained_run.folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["parity"]["decisions_equal"] == metrics["parity"]["queries"] == len(predictions)


class Said:
    """What check_parity reads of a router: its policy."""

    policy = Utility()


def fitted_head() -> tuple[np.ndarray, Head]:
    vectors, outcomes = make_problem(40)
    return vectors, Head(Ridge(), Marginal()).fit(vectors, outcomes)


def test_parity_allows_a_tie_that_rounding_decides() -> None:
    vectors, head = fitted_head()
    said = head.predict(vectors)
    # All alike on the artifact's side up to rounding: a tie that the cheapest wins there.
    quality = said.quality.max(axis=1, keepdims=True) + np.zeros((1, 3))
    tied = Prediction(said.candidates, quality, said.quality_se, said.cost)

    class Twin(Head):
        def predict(self, X: np.ndarray, outcomes: object = None) -> Prediction:
            leading = quality + np.array([5e-5, 0.0, 0.0])
            return Prediction(said.candidates, leading, said.quality_se, said.cost)

    found = check_parity(Said(), Twin(Ridge(), Marginal()), Utility(), vectors, tied)  # type: ignore[arg-type]
    assert found["decisions_equal"] == 0
    assert found["largest_quality_difference"] == pytest.approx(5e-5)


def test_parity_refuses_a_head_that_says_something_else() -> None:
    vectors, head = fitted_head()
    said = head.predict(vectors)
    other = Prediction(said.candidates, said.quality[:, ::-1], said.quality_se, said.cost)
    with pytest.raises(RouterError, match=r"chooses otherwise .* on \d+ of 40 queries"):
        check_parity(Said(), head, Utility(), vectors, other)  # type: ignore[arg-type]


# ---- router export ------------------------------------------------------------------------------


def test_export_at_another_budget(
    trained_run: TrainedRun, run_router: RunRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = run_router(
        "export", f"run={trained_run.folder}", "out=cheap", "policy=budget", "policy.budget=0.002"
    )
    assert finished.code == 0, finished.err
    assert "router evaluate artifact=cheap" in finished.out
    loaded = router.load("cheap")
    assert isinstance(loaded.policy, Budget)
    assert loaded.policy.budget == 0.002
    assert loaded.manifest["validation"]["cost"] == pytest.approx(0.002)
    # The test side's figures belong to the old budget.
    assert loaded.manifest["metrics"] is None
    assert loaded.manifest["verdict"] is None
    # What it will be judged against may spend as much as it does.
    budgets = [
        lookup["policy"]["budget"] for lookup in loaded.manifest["baselines"]["lookups"].values()
    ]
    assert budgets == [0.002, 0.002]
    before = router.load(trained_run.artifact)
    prompt = "algebra question number 7"
    assert loaded.route(prompt).quality == before.route(prompt).quality
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_export_into_one_file(
    trained_run: TrainedRun, run_router: RunRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = run_router(
        "export", f"run={trained_run.folder}", "out=new/cheap.zip", "policy=budget",
        "policy.budget=0.002",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert "router evaluate artifact=new/cheap.zip" in finished.out
    loaded, before = router.load("new/cheap.zip"), router.load(trained_run.artifact)
    assert loaded.policy.to_dict()["budget"] == 0.002
    prompt = "algebra question number 7"
    assert loaded.route(prompt).quality == before.route(prompt).quality
    assert [path.name for path in Path("new").iterdir()] == ["cheap.zip"]


def test_a_budget_that_cannot_be_kept_leaves_no_file_behind(
    trained_run: TrainedRun, run_router: RunRouter, tmp_path: Path
) -> None:
    out = tmp_path / "out.zip"
    finished = run_router(
        "export", f"run={trained_run.folder}", f"out={out}", "policy=budget", "policy.budget=1e-9"
    )
    assert finished.code == 2
    assert list(tmp_path.iterdir()) == []


def test_export_without_a_policy_keeps_the_old_one(
    trained_run: TrainedRun, run_router: RunRouter, tmp_path: Path
) -> None:
    assert run_router("export", f"run={trained_run.folder}", f"out={tmp_path / 'same'}").code == 0
    assert router.load(tmp_path / "same").policy == router.load(trained_run.artifact).policy


@pytest.mark.parametrize("policy", ["cheapest_adequate", "hard_cap", "threshold", "utility"])
def test_export_under_every_policy(
    trained_run: TrainedRun, run_router: RunRouter, tmp_path: Path, policy: str
) -> None:
    out = tmp_path / "other"
    finished = run_router("export", f"run={trained_run.folder}", f"out={out}", f"policy={policy}")
    assert finished.code == 0, finished.err
    loaded = router.load(out)
    assert type(loaded.policy).__name__.lower() == policy.replace("_", "")
    assert loaded.route("Hello").reason


def test_a_budget_that_cannot_be_kept_leaves_nothing_behind(
    trained_run: TrainedRun, run_router: RunRouter, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    finished = run_router(
        "export", f"run={trained_run.folder}", f"out={out}", "policy=budget", "policy.budget=1e-9"
    )
    assert finished.code == 2
    assert "the mean cost of always asking the cheapest candidate" in finished.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "A finished run is needed: give run=FOLDER."),
        (["run={run}"], "A place for the artifact is needed: give out=FOLDER or"),
        (["run=nowhere", "out=new"], "nowhere: no finished run with an artifact here"),
        (["run={run}/artifact", "out=new"], "no finished run with an artifact here"),
        (["run={run}", "out=full"], "full: not empty; give a new folder with out=FOLDER."),
        (["run={run}", "out=file"], "file: not a folder; give a new folder with out=FOLDER."),
        (["run={run}", "out=file/new"], "file/new: cannot be written (File exists)"),
        (["run={run}", "out=file.zip"], "file.zip: there already; give a new file with out=FILE."),
        (["run={run}", "out=file/new.zip"], "file/new.zip: cannot be written (File exists)"),
        (["run={run}", "out=new", "policy.budget=1"], "policy: nothing is chosen; give policy="),
    ],
)
def test_export_says_what_is_missing(
    trained_run: TrainedRun,
    run_router: RunRouter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("kept")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "file.zip").write_text("kept")
    given_arguments = [argument.format(run=trained_run.folder) for argument in arguments]
    finished = run_router("export", *given_arguments)
    assert finished.code == 2
    assert sentence in finished.err
    assert (tmp_path / "full" / "kept").read_text() == (tmp_path / "file").read_text() == "kept"
    assert not (tmp_path / "new").exists()


def test_a_damaged_validation_file_is_told(
    trained_run: TrainedRun, run_router: RunRouter, artifact_copy: Path
) -> None:
    run = artifact_copy.parent
    (run / "validation.parquet").write_text("not parquet")
    finished = run_router("export", f"run={run}", f"out={run / 'new'}", "policy=utility")
    assert finished.code == 2
    assert "validation.parquet: cannot be read" in finished.err


# ---- router evaluate ----------------------------------------------------------------------------


def evaluate(run_router: RunRouter, run: TrainedRun, *arguments: str) -> Finished:
    return run_router(
        "evaluate",
        f"artifact={run.artifact}",
        "data=table",
        f"data.path={run.workplace.table}",
        "evaluation.resamples=20",
        "hydra.run.dir=judged",
        *arguments,
    )


@pytest.fixture
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_own_folder")
def test_the_same_table_gives_the_figures_of_the_training_run(
    trained_run: TrainedRun, run_router: RunRouter
) -> None:
    finished = evaluate(run_router, trained_run)
    assert finished.code == 0, finished.err
    assert "too good" not in finished.err
    names = {path.name for path in Path("judged").iterdir()}
    assert names == {
        "config.yaml", "frontier.csv", "frontier.png", "metrics.json", "predictions.parquet",
        "tasks.csv", "tasks.png",
    }  # fmt: skip
    trained = json.loads((trained_run.folder / "metrics.json").read_text(encoding="utf-8"))
    judged = json.loads(Path("judged/metrics.json").read_text(encoding="utf-8"))
    for part in ("router", "baselines", "differences", "verdict"):
        assert judged[part] == trained[part]


@pytest.mark.usefixtures("_own_folder")
def test_another_table_is_judged_without_a_warning(
    trained_run: TrainedRun, run_router: RunRouter, tmp_path: Path
) -> None:
    other, _ = make_table(40, seed=5)
    other.to_csv(tmp_path / "other.csv", index=False)
    finished = evaluate(run_router, trained_run, "data.path=other.csv", "split=all")
    assert finished.code == 0, finished.err
    assert finished.err == ""
    assert json.loads(Path("judged/metrics.json").read_text())["queries"] == 40


@pytest.mark.usefixtures("_own_folder")
@pytest.mark.parametrize("split", ["split=all", "split.random_state=3", "split.test_size=0.5"])
def test_queries_that_the_router_was_trained_on_are_pointed_out(
    trained_run: TrainedRun, run_router: RunRouter, split: str
) -> None:
    finished = evaluate(run_router, trained_run, split)
    assert finished.code == 0
    assert "will look too good" in finished.err


@pytest.mark.usefixtures("_own_folder")
def test_a_table_with_other_candidates_is_refused(
    trained_run: TrainedRun, run_router: RunRouter, tmp_path: Path
) -> None:
    table = pd.read_csv(trained_run.workplace.table)
    table[table["model"] != "medium"].to_csv("fewer.csv", index=False)
    extra = table[table["model"] == "small"].assign(model="tiny")
    pd.concat([table, extra]).to_csv("more.csv", index=False)

    finished = evaluate(run_router, trained_run, "data.path=fewer.csv")
    assert finished.code == 2
    assert "no outcome of medium, which the artifact may choose" in finished.err

    finished = evaluate(run_router, trained_run, "data.path=more.csv")
    assert finished.code == 2
    assert "does not know tiny" in finished.err
    remedy = finished.err.split("with ")[-1].strip().rstrip(".")
    assert evaluate(run_router, trained_run, "data.path=more.csv", remedy).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fewer.csv", "judged", "more.csv"]


@pytest.mark.usefixtures("_own_folder")
def test_a_table_without_costs_is_judged_on_quality(
    trained_run: TrainedRun, run_router: RunRouter
) -> None:
    table = pd.read_csv(trained_run.workplace.table).drop(columns="cost_usd")
    table.to_csv("bare.csv", index=False)
    finished = evaluate(run_router, trained_run, "data.path=bare.csv", "split=all")
    assert finished.code == 0, finished.err
    assert "USD" not in finished.out.split("Verdict")[0]


def test_evaluate_asks_for_the_artifact(run_router: RunRouter, tmp_path: Path) -> None:
    finished = run_router("evaluate", f"hydra.run.dir={tmp_path / 'out'}")
    assert finished.code == 2
    assert finished.err == "router: An artifact is needed: give artifact=FOLDER.\n"
    assert list(tmp_path.iterdir()) == []
