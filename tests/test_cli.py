"""The command `router` as a user meets it: help, faults, interrupts, two runs at once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from conftest import Finished, Workplace, make_table

from router.cli import HYDRA_VERBS, main
from router.pipelines.options import config_folder

RunRouter = Callable[..., Finished]


def left_in(folder: Path) -> list[str]:
    """Every file and folder below, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# ---- Help ---------------------------------------------------------------------------------------


def test_help_names_every_verb_and_the_exit_codes(run_router: RunRouter) -> None:
    finished = run_router("--help")
    assert finished.code == 0
    for verb in [*HYDRA_VERBS, "outcome", "route"]:
        assert f"\n  {verb} " in finished.out
        assert f"router {verb} " in finished.out or f"router {verb}\n" in finished.out
    assert "Exit codes: 0 done, 1 unexpected failure, 2 bad input" in finished.out
    assert run_router("-h") == run_router("help") == finished


def test_without_a_verb_the_help_is_shown_as_a_fault(run_router: RunRouter) -> None:
    finished = run_router()
    assert finished.code == 2
    assert finished.err == run_router("--help").out


def test_version(run_router: RunRouter) -> None:
    assert run_router("--version").out.startswith("query-router 0.")


@pytest.mark.parametrize("verb", sorted(HYDRA_VERBS))
def test_the_help_of_a_verb_lists_its_groups_options_and_values(
    run_router: RunRouter, verb: str
) -> None:
    finished = run_router(verb, "--help")
    assert finished.code == 0
    assert finished.out.startswith(f"router {verb}")
    assert f"router {verb} --cfg job" in finished.out
    assert "Powered by Hydra" not in finished.out
    assert max(map(len, finished.out.splitlines())) <= 100
    groups = {
        "train": ["data", "split", "encoder", "estimator", "cost", "judge", "policy", "tracking"],
        "evaluate": ["data", "split"],
        "export": ["policy"],
        "express": ["encoder"],
        "allocate": [],
        "serve": [],
        "add-candidate": [],
        "data": ["data", "split"],
        "ope": ["data", "split", "encoder", "estimator"],
        "gate": ["data", "split", "estimator", "tracking"],
        "plan-exploration": ["data", "split"],
        "diagnose": ["data", "encoder", "estimator", "cost"],
        "drift": ["data", "split"],
    }[verb]
    shown = [line[:-1] for line in finished.out.splitlines() if line.endswith("=")]
    assert shown[: len(groups)] == groups
    for group in groups:
        for file in (config_folder() / group).glob("*.yaml"):
            comment = file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
            assert f" {file.stem} " in finished.out
            assert comment[:40] in finished.out
    for value in ("cost_weight", "random_state", "least_quality"):
        seeds = verb not in ("export", "express", "allocate", "add-candidate", "serve")
        weighs = verb in ("ope", "train") and value == "cost_weight"  # train: inside the guard
        assert (f"{value}:" in finished.out) == ((seeds and value == "random_state") or weighs)


def test_help_marks_what_is_chosen(run_router: RunRouter) -> None:
    finished = run_router("train", "estimator=knn", "--help")
    assert "\n  * knn " in finished.out
    assert "\n    bagged_partition " in finished.out
    assert "n_neighbors: " in finished.out


def test_help_lists_options_of_ones_own(run_router: RunRouter, tmp_path: Path) -> None:
    (tmp_path / "estimator").mkdir()
    (tmp_path / "estimator" / "mine.yaml").write_text("# Costs $5 a query.\n_target_: a.B\n")
    finished = run_router("train", "--config-dir", tmp_path, "--help")
    assert finished.code == 0
    assert "Costs $5 a query." in finished.out
    assert " ridge " in finished.out


# ---- Faults in what was typed -------------------------------------------------------------------

TYPED = [
    (
        ["trian"],
        "'trian' is no verb of router; verbs are train, evaluate, ope, export, gate, ",
    ),
    (["train", "estimator=foo"], "estimator=foo: no such option; choose one of average, "),
    (["train", "estimator=rigde"], "(did you mean ridge?)."),
    (["train", "policy.bugdet=1"], "policy.bugdet: no such key; there are policy.policy, policy."),
    (
        ["train", "polcy=budget"],
        "polcy: no such key or group; choose one of data, split, encoder, ",
    ),
    (["train", "name.first=x"], "name.first: name holds a single value, not keys."),
    (
        ["train", "data.path=x.csv"],
        "data.path: a key of data=battles and data=decisions and data=table; give one",
    ),
    (["train", "my.csv"], "for a table: data=table data.path=my.csv."),
    (["train", "a prompt"], "'a prompt' is not of the form key=value."),
    (["train", "name=a (b"], "stands in two kinds of quotes: 'name=\"a (b\"'."),
    (["train", "estimator=ridge,knn"], "To sweep over it, add --multirun to your command line."),
    (["train", "data=table"], "data needs a value: give data.path=..."),
    (["train", "data=table", "data.path=missing.csv"], "missing.csv: no such file; give data.path"),
    (["train", "policy.budget=much"], "policy.budget is 'much'; give a number or null."),
    (["train", "policy.budget=${much}"], "Interpolation key 'much' not found"),
    (["train", "examples=3"], "examples is 3; give a list of texts, as in"),
    (["train", "latest=3"], "latest is 3; give text, or null."),
    (["train", "export=maybe"], "export is 'maybe'; give true or false."),
    (["train", "evaluation.resamples=0"], "evaluation.resamples is 0; give a whole number from 2"),
    (["train", "evaluation.margin=2"], "evaluation.margin is 2; give a number between 0 and 1."),
    (["train", "validation.folds=1.5"], "validation.folds is 1.5; give a whole number from 2"),
    (["train", "tracking.uri=sqlite:///there"], "there: no database that runs can be recorded in"),
    (["train", "hydra.run.dir=there"], "there: the output folder cannot be made (File exists); gi"),
    (
        ["train", "hydra.sweep.dir=there", "-m", "name=a,b", "tracking=none"],
        "there: the output folder cannot be made (File exists); give another with hydra.sweep.dir=",
    ),
    (["train", "--config-dir", "nowhere"], "nowhere' not found."),
    (["export", "policy.budget=1"], "policy: nothing is chosen; give policy=OPTION first, one of "),
    (["evaluate", "artifact=nowhere"], "nowhere: no artifact here (manifest.json is missing)."),
    (["data", "data=table", "data.path=there"], "there: "),
]


@pytest.mark.parametrize(("arguments", "sentence"), TYPED)
def test_a_fault_is_one_sentence_and_leaves_nothing_behind(
    run_router: RunRouter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("a file that is no database, no folder and no table\n" * 9)
    finished = run_router(*arguments)
    assert finished.code == 2
    assert finished.out == ""
    assert finished.err.startswith("router: ")
    assert sentence in finished.err
    assert finished.err.count("\n") == 1
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "there"]
    assert left == []
    assert not list(tmp_path.glob("outputs/*/*"))


def test_a_flag_that_does_not_exist(run_router: RunRouter) -> None:
    finished = run_router("train", "--foo")
    assert finished.code == 2
    assert "unrecognized arguments: --foo" in finished.err


def test_the_composed_configuration_is_shown_without_a_run(
    run_router: RunRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = run_router("train", "policy=hard_cap", "policy.cap=0.5", "--cfg", "job")
    assert finished.code == 0
    assert "cap: 0.5" in finished.out
    assert left_in(tmp_path) == []


# ---- Places that cannot be written --------------------------------------------------------------


def test_a_folder_that_is_not_empty_is_refused_and_untouched(
    workplace: Workplace, run_router: RunRouter
) -> None:
    full = workplace.folder / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    finished = run_router("train", *workplace.options, "tracking=none", "hydra.run.dir=full")
    assert finished.code == 2
    assert "full: not empty; give a new folder with hydra.run.dir=FOLDER." in finished.err
    assert left_in(workplace.folder) == ["full", "full/mine", "table.csv"]


def test_an_output_folder_below_a_file_is_refused(
    workplace: Workplace, run_router: RunRouter
) -> None:
    finished = run_router("train", *workplace.options, "hydra.run.dir=table.csv/run")
    assert finished.code == 2
    assert "table.csv/run: the output folder cannot be made (Not a directory)" in finished.err
    assert left_in(workplace.folder) == ["table.csv"]


@pytest.mark.parametrize("place", ["table.csv", "/proc/cache"])
def test_a_cache_that_cannot_be_made_is_told(
    workplace: Workplace, run_router: RunRouter, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("ROUTER_CACHE", place)
    finished = run_router("train", *workplace.options, "tracking=none", "hydra.run.dir=out/run")
    assert finished.code == 2
    assert f"{place}/" in finished.err
    assert "set ROUTER_CACHE to a folder that you may write." in finished.err
    assert set(left_in(workplace.folder)) <= {"table.csv", "out"}


# ---- Parts that fail or are interrupted ---------------------------------------------------------

OWN = '''
import hashlib
import os
import signal
import numpy as np
from router.estimators import Marginal

SIGNAL = getattr(signal, os.environ.get("SIGNAL", ""), None)


def interrupt():
    if SIGNAL is not None:
        os.kill(os.getpid(), SIGNAL)


class Hashes:
    """Vectors that are hashes of the text; the second batch is interrupted."""

    identity = "hashes"

    def __init__(self):
        self.batches = 0

    def encode(self, texts):
        self.batches += 1
        if self.batches == 2:
            interrupt()
        digests = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
        return np.array([list(digest) for digest in digests], dtype=np.float32) / 255


class Interrupted(Marginal):
    def fit(self, X, outcomes):
        interrupt()
        return super().fit(X, outcomes)


class Broken(Marginal):
    def fit(self, X, outcomes):
        raise ZeroDivisionError("a bug of my own")


class Slow(Marginal):
    def fit(self, X, outcomes):
        import time
        print("fitting", flush=True)
        time.sleep(60)
        return super().fit(X, outcomes)
'''


@pytest.fixture
def own(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parts of one's own that fail, slowly or at once; a cache and a table of their own."""
    folder = workplace.folder / "own"
    (folder / "estimator").mkdir(parents=True)
    (folder / "encoder").mkdir()
    (folder / "own_failing_parts.py").write_text(OWN)
    for name in ("Interrupted", "Broken", "Slow"):
        content = f"# My own.\n_target_: own_failing_parts.{name}\n"
        (folder / "estimator" / f"{name.lower()}.yaml").write_text(content)
    (folder / "encoder" / "hashes.yaml").write_text(
        "# My own.\n_target_: own_failing_parts.Hashes\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("ROUTER_CACHE", str(workplace.folder / "cache"))
    monkeypatch.delitem(sys.modules, "own_failing_parts", raising=False)
    table, _ = make_table(420)
    table.to_csv(workplace.table, index=False)
    return [
        "train", "--config-dir", str(folder), *workplace.data, "encoder=hashes", "cost=marginal",
        "tracking=none", "export=false", "hydra.run.dir=out/run", "evaluation.resamples=20",
    ]  # fmt: skip


INTERRUPTED = "router: interrupted; nothing half-written is left behind.\n"


def cached_vectors(folder: Path) -> list[bytes]:
    (database,) = folder.glob("cache/embeddings/*.sqlite")
    connection = sqlite3.connect(database)
    found = connection.execute("SELECT vector FROM vectors").fetchall()
    connection.close()
    return [row[0] for row in found]


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_an_interrupt_while_embedding_keeps_whole_batches_alone(
    workplace: Workplace,
    run_router: RunRouter,
    own: list[str],
    monkeypatch: pytest.MonkeyPatch,
    sent: str,
) -> None:
    monkeypatch.setenv("SIGNAL", sent)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    finished = run_router(*own, "estimator=marginal")
    assert finished.code == 130
    assert finished.err.endswith(INTERRUPTED)
    assert left_in(workplace.folder / "out") == []
    vectors = cached_vectors(workplace.folder)
    assert len(vectors) == 256  # the first batch, whole
    assert {len(vector) for vector in vectors} == {8 * 4}
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers

    monkeypatch.delenv("SIGNAL")
    monkeypatch.delitem(sys.modules, "own_failing_parts")
    assert run_router(*own, "estimator=marginal").code == 0
    assert len(cached_vectors(workplace.folder)) == 420
    assert (workplace.folder / "out" / "run" / "metrics.json").is_file()


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_an_interrupt_while_fitting_leaves_no_folder(
    workplace: Workplace,
    run_router: RunRouter,
    own: list[str],
    monkeypatch: pytest.MonkeyPatch,
    sent: str,
) -> None:
    monkeypatch.setenv("SIGNAL", sent)
    finished = run_router(*own, "estimator=interrupted", "encoder=hashes")
    assert finished.code == 130
    assert finished.err.endswith(INTERRUPTED)
    assert left_in(workplace.folder / "out") == []


def test_a_failure_of_ones_own_part_is_shown_whole_and_leaves_no_folder(
    workplace: Workplace, own: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug of my own"):
        main([*own, "estimator=broken"])
    assert "Error executing job with overrides" in capsys.readouterr().err
    assert left_in(workplace.folder / "out") == []


@pytest.fixture
def start(workplace: Workplace) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `router` as a process in the workplace; what still runs at the end is killed."""
    with ExitStack() as running:

        def popen(*arguments: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "router.cli", *arguments],
                cwd=workplace.folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            running.enter_context(process)
            running.callback(process.kill)
            return process

        yield popen


def test_signals_from_outside_end_a_process(
    workplace: Workplace, own: list[str], start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Ctrl-C and a bug, each in a process: what a script sees of them."""
    processes = {
        name: start(*own, f"hydra.run.dir=out/{name}", f"estimator={estimator}")
        for name, estimator in [("interrupt", "slow"), ("bug", "broken")]
    }
    output = processes["interrupt"].stdout
    assert output is not None
    assert "fitting\n" in iter(output.readline, "")
    processes["interrupt"].send_signal(signal.SIGINT)
    told = {name: process.communicate(timeout=120)[1] for name, process in processes.items()}
    codes = {name: process.returncode for name, process in processes.items()}
    assert codes == {"interrupt": 130, "bug": 1}
    assert told["interrupt"].endswith(INTERRUPTED)
    assert told["bug"].endswith("ZeroDivisionError: a bug of my own\n")
    assert left_in(workplace.folder / "out") == []


# ---- Two runs at once ---------------------------------------------------------------------------


def test_two_first_runs_at_once_share_database_and_cache(
    workplace: Workplace, own: list[str], start: Callable[..., subprocess.Popen[str]]
) -> None:
    names = ["one", "two"]
    given = [
        *own,
        "tracking=mlflow",
        "estimator=marginal",
        "hydra.run.dir=out/${name}",
        "latest=newest",
    ]
    processes = [start(*given, f"name={name}") for name in names]
    told = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    for out, err in told:
        assert "Verdict" in out
        assert "\x1b" not in out
        # Nobody's progress bars, warnings or log lines but our own.
        assert err == "No split column with train and test: a random 0.3 is held out.\n"
    runs = [workplace.folder / "out" / name for name in names]
    assert sorted((workplace.folder / "out").iterdir()) == runs
    tables = [pd.read_parquet(run / "predictions.parquet") for run in runs]
    pd.testing.assert_frame_equal(*tables)
    assert len(cached_vectors(workplace.folder)) == 420
    assert (workplace.folder / "newest").resolve() in runs
    assert list(workplace.folder.rglob(".*")) == []

    client = mlflow.MlflowClient(f"sqlite:///{workplace.folder / 'mlflow.db'}")
    experiments = client.search_experiments()
    assert {experiment.name for experiment in experiments} == {"Default", "router"}
    found = client.search_runs([experiment.experiment_id for experiment in experiments])
    assert {run.info.run_name: run.info.status for run in found} == dict.fromkeys(names, "FINISHED")


# ---- router data --------------------------------------------------------------------------------


def test_data_summarises_a_table_and_writes_the_checked_one(
    workplace: Workplace, run_router: RunRouter
) -> None:
    finished = run_router("data", *workplace.data, "out=checked.parquet")
    assert finished.code == 0, finished.err
    assert "60 queries x 3 candidates, 100% observed, with costs" in finished.out
    assert "Split      train 42, test 18 queries" in finished.out
    assert "Tasks      2: " in finished.out
    before = pd.read_csv(workplace.table).set_index(["query_id", "model"]).sort_index()
    after = pd.read_parquet("checked.parquet").set_index(["query_id", "model"]).sort_index()
    pd.testing.assert_series_equal(before["score"], after["score"])
    pd.testing.assert_series_equal(before["cost_usd"], after["cost_usd"])
    again = run_router("data", "data=table", "data.path=checked.parquet")
    assert again.code == 0, again.err
    assert not list(Path("outputs").glob("*/*"))


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("checked.csv", "out=checked.csv: the checked table is written as .parquet."),
        ("nowhere/x.parquet", "nowhere/x.parquet: cannot be written (No such file or directory)."),
    ],
)
def test_a_place_for_the_checked_table_that_does_not_do(
    workplace: Workplace, run_router: RunRouter, out: str, sentence: str
) -> None:
    finished = run_router("data", *workplace.data, f"out={out}")
    assert finished.code == 2
    assert sentence in finished.err
    assert [path for path in left_in(workplace.folder) if "/" not in path] == [
        "outputs", "table.csv",
    ]  # fmt: skip
