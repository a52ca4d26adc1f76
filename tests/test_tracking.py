"""Runs on record: what MLflow holds of them, and what is said where it cannot."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import Finished, TrainedRun, Workplace
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.entities import Run
from mlflow.utils.validation import _validate_metric_name
from omegaconf import OmegaConf

from router.errors import RouterError
from router.tracking.tracker import (
    FinishedRun,
    MlflowTracking,
    NoTracking,
    flatten,
    parameters,
)

RunRouter = Callable[..., Finished]


def recorded(database: Path, experiment_name: str = "router") -> list[Run]:
    """All runs of the experiment, the newest first."""
    client = mlflow.MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name(experiment_name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


@pytest.fixture(scope="module")
def shared(trained_run: TrainedRun) -> Run:
    runs = recorded(trained_run.workplace.folder / "mlflow.db")
    return next(run for run in runs if run.info.run_name == "shared")


@pytest.fixture
def database(trained_run: TrainedRun, tmp_path: Path) -> Path:
    """A database that MLflow has made already, which takes it seconds, and filled."""
    return shutil.copy(trained_run.workplace.folder / "mlflow.db", tmp_path / "mlflow.db")


# ---- What is in MLflow --------------------------------------------------------------------------


def test_the_composed_configuration_is_there_as_parameters(
    shared: Run, trained_run: TrainedRun
) -> None:
    config = OmegaConf.load(trained_run.folder / "config.yaml")
    assert shared.data.params["estimator._target_"] == "router.estimators.Ridge"
    assert shared.data.params["data.path"] == str(trained_run.workplace.table)
    assert shared.data.params["policy.budget"] == "None"
    leaves = parameters(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    assert shared.data.params == leaves


def test_the_metrics_of_the_run_are_there(shared: Run, trained_run: TrainedRun) -> None:
    metrics = json.loads((trained_run.folder / "metrics.json").read_text(encoding="utf-8"))
    found = shared.data.metrics
    assert found["router.quality.value"] == metrics["router"]["quality"]["value"]
    assert found["router.aiq.low"] == metrics["router"]["aiq"]["low"]
    best = metrics["baselines"]["best single"]
    assert found["baselines.best single.cost.value"] == best["cost"]["value"]
    assert found["router.shares.large"] == metrics["router"]["shares"]["large"]
    assert set(flatten(metrics)) == set(found)
    assert np.isfinite(list(found.values())).all()


def test_data_hash_and_verdict_are_tags(shared: Run, trained_run: TrainedRun) -> None:
    metrics = json.loads((trained_run.folder / "metrics.json").read_text(encoding="utf-8"))
    assert shared.info.status == "FINISHED"
    assert shared.data.tags["data.sha256"] == metrics["data"]["sha256"]
    assert shared.data.tags["verdict"] == metrics["verdict"]["decision"]
    assert shared.data.tags["verdict.sentence"] == metrics["verdict"]["sentence"]
    assert "mlflow.parentRunId" not in shared.data.tags


def test_frontier_figures_and_artifact_are_there(shared: Run, trained_run: TrainedRun) -> None:
    place = trained_run.workplace.folder
    mlflow.set_tracking_uri(f"sqlite:///{place / 'mlflow.db'}")
    table = mlflow.load_table("frontier.json", run_ids=[shared.info.run_id])
    written = pd.read_csv(trained_run.folder / "frontier.csv")
    np.testing.assert_allclose(table["quality"], written["quality"])
    kept = place / "mlartifacts" / shared.info.run_id / "artifacts"
    for path in trained_run.folder.rglob("*"):
        if path.is_file():
            copy = kept / path.relative_to(trained_run.folder)
            assert copy.read_bytes() == path.read_bytes()


# ---- Sweeps -------------------------------------------------------------------------------------


def test_a_sweep_nests_its_runs_and_a_run_after_it_stands_alone(
    workplace: Workplace, run_router: RunRouter, database: Path
) -> None:
    options = [*workplace.options, "export=false", "tracking.experiment=sweeps"]
    sweep = run_router("train", "-m", *options, "estimator=ridge,marginal")
    assert sweep.code == 0, sweep.err
    # Nor does a sweep whose jobs fail leave its parent behind; its other jobs run.
    failing = run_router("train", "-m", *options, "estimator=marginal", "policy.budget=1e-9,0.005")
    assert failing.code == 2
    assert "Job 0 failed: policy.budget=$1e-09 per query is below" in failing.err
    alone = run_router("train", *options, "estimator=marginal", "name=alone")
    assert alone.code == 0, alone.err

    runs = recorded(database, "sweeps")
    assert {run.info.status for run in runs} == {"FINISHED"}
    parents = {
        run.info.run_id: run.info.run_name for run in runs if run.info.run_name.startswith("sweep ")
    }
    nested: dict[str, list[str]] = {parent: [] for parent in parents}
    for run in runs:
        if "mlflow.parentRunId" in run.data.tags:
            nested[run.data.tags["mlflow.parentRunId"]].append(
                run.data.params["estimator._target_"]
            )
    prefix = "router.estimators."
    found = {
        parents[parent].split()[-1]: sorted(target.removeprefix(prefix) for target in targets)
        for parent, targets in nested.items()
    }
    assert found == {
        "estimator=ridge,marginal": ["Marginal", "Ridge"],
        "policy.budget=1e-9,0.005": ["Marginal"],
    }
    (single,) = [run for run in runs if run.info.run_name == "alone"]
    assert "mlflow.parentRunId" not in single.data.tags
    assert len(runs) == 2 + 3 + 1
    jobs = sorted((workplace.folder / "outputs" / "sweep").glob("*/*/metrics.json"))
    assert [job.parent.name for job in jobs] == ["0", "1", "1"]


# ---- No record, or none possible ----------------------------------------------------------------


def test_without_tracking_nothing_is_recorded(workplace: Workplace, run_router: RunRouter) -> None:
    finished = run_router(
        "train", *workplace.options, "tracking=none", "export=false", "estimator=marginal"
    )
    assert finished.code == 0, finished.err
    assert "MLflow" not in finished.out
    assert {path.name for path in workplace.folder.iterdir()} == {"table.csv", "outputs"}
    assert NoTracking().prepare() is None


@pytest.mark.parametrize(
    ("uri", "artifacts", "sentence"),
    [
        ("sqlite:///file/mlflow.db", "art", r"^file: runs cannot be recorded there \(Not a dir"),
        ("sqlite:///mlflow.db", "file/art", r"^file/art: runs cannot be recorded there"),
        ("sqlite:///mlflow.db", "/proc/art", r"^/proc/art: .* give tracking=none\.$"),
        ("sqlite:///file", "art", r"^file: no database that runs can be recorded in"),
        ("http://127.0.0.1:{free}", "art", r"no MLflow server answers \(.*refused\); start it"),
        ("http://", "art", r"no MLflow server answers"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uri: str,
    artifacts: str,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("this is no database, and long enough to have a header" * 10)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        free = unused.getsockname()[1]
    with pytest.raises(RouterError, match=sentence):
        MlflowTracking(uri.format(free=free), artifacts).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def deaf_server() -> Iterator[str]:
    """Address of a server that is no MLflow, and answers 404 to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_answers_anything_is_left_to_mlflow(deaf_server: str) -> None:
    MlflowTracking(deaf_server, "art").prepare()


def finished_run(folder: Path, **metrics: object) -> FinishedRun:
    folder.mkdir()
    (folder / "note.txt").write_text("kept")
    return FinishedRun("one", folder, {"a": {"b": 1}}, metrics, {"verdict": "pays"})


def test_a_run_that_mlflow_does_not_take_is_told_to_be_complete(
    tmp_path: Path, deaf_server: str
) -> None:
    with pytest.raises(RouterError, match=r"^The run is complete in .*/run, but MLflow at http"):
        MlflowTracking(deaf_server, "art").record(finished_run(tmp_path / "run"))


def test_awkward_names_and_figures_are_recorded(tmp_path: Path, database: Path) -> None:
    metrics = {
        "shares": {"a/b:c@1 (x)": 0.25, "//x/../y": 0.5, "模型": 0.25},
        "qnc": float("inf"),
        "none": float("nan"),
        "flag": True,
        "text": "long",
    }
    tracker = MlflowTracking(f"sqlite:///{database}", str(tmp_path / "art"), "awkward")
    tracker.prepare()
    hint = tracker.record(finished_run(tmp_path / "run", **metrics))
    assert hint is not None
    assert hint.endswith(f"mlflow ui --backend-store-uri sqlite:///{database}")
    (run,) = recorded(database, "awkward")
    assert sorted(run.data.metrics.values()) == [0.25, 0.25, 0.5]
    assert run.data.params == {"a.b": "1"}
    assert (tmp_path / "art" / run.info.run_id / "artifacts" / "note.txt").read_text() == "kept"


NESTED = st.recursive(
    st.floats(allow_nan=True) | st.integers(-5, 5) | st.booleans() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=3),
    max_leaves=8,
)


@example(nested={"": 1.0})
@example(nested={".": 1.0, "..": 2.0, "/": 3.0, "//": 4.0})
@example(nested={"../x": 1.0, "/x": 2.0, "x/": 3.0, "a//b": {"c": 4.0}, "./y": 5.0})
@example(nested={"long" * 100: {"deep" * 100: 1.0}})
@given(nested=st.dictionaries(st.text(min_size=1, max_size=12), NESTED, max_size=4))
def test_flat_names_are_allowed_by_mlflow_and_values_are_finite(nested: dict[str, object]) -> None:
    flat = flatten(nested)
    for name, value in flat.items():
        _validate_metric_name(name)
        assert np.isfinite(value)


def test_parameters_are_cut_to_what_mlflow_stores() -> None:
    found = parameters({"a": {"b": "x" * 9000, "c": None}, "d": [1, 2]})
    assert found == {"a.b": "x" * 500, "a.c": "None", "d": "[1, 2]"}
