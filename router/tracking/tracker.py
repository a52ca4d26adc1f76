"""Record finished runs in MLflow, or nowhere."""

from __future__ import annotations

import logging
import math
import os
import posixpath
import shutil
import sqlite3
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from router.errors import RouterError

PARENT_RUN = "ROUTER_PARENT_RUN"
SQLITE = "sqlite:///"
LOCK_SECONDS = 120
ANSWER_SECONDS = 5
LONGEST_PARAMETER = 500
LONGEST_NAME = 250
INSTEAD = "or give tracking=none"


@dataclass(frozen=True)
class FinishedRun:
    """What a run leaves to a tracker: all of it is on disk and complete.

    folder: the run's files. config: the composed configuration. metrics: nested figures.
    tags: data fingerprint, verdict and the like.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    tags: Mapping[str, str]


class Tracker(Protocol):
    """Where runs are recorded."""

    def prepare(self) -> None:
        """Raise RouterError where nothing could be recorded: asked before hours of training."""

    def record(self, run: FinishedRun) -> str | None:
        """Record a finished run; a hint on how to see it."""


class NoTracking:
    """Runs live in their output folder alone (`tracking=none`)."""

    def prepare(self) -> None:
        return None

    def record(self, run: FinishedRun) -> str | None:
        return None


class MlflowTracking:
    """Runs in MLflow (`tracking=mlflow`): a SQLite database and a local artifact folder.

    uri: tracking URI; a server's address serves too.
    artifacts: folder of the artifacts of a local database.
    experiment: name of the experiment.
    """

    def __init__(self, uri: str, artifacts: str, experiment: str = "router"):
        self.uri = uri
        self.artifacts = artifacts
        self.experiment = experiment

    @property
    def database(self) -> Path | None:
        """The SQLite file, or None where the URI names something else."""
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None

    @property
    def absolute_uri(self) -> str:
        """The URI whatever the working directory: MLflow keeps a database open by its URI."""
        return self.uri if self.database is None else f"{SQLITE}{self.database.resolve()}"

    def prepare(self) -> None:
        """Looks without MLflow, which takes seconds to import and minutes to give up."""
        if self.database is not None:
            _require_writable(self.database.parent, "tracking.uri")
            _require_writable(Path(self.artifacts), "tracking.artifacts")
            _require_database(self.database)
        elif self.uri.startswith(("http://", "https://")):
            _require_answer(self.uri)

    def record(self, run: FinishedRun) -> str | None:
        import mlflow

        try:
            with self._experiment(), _run(run.name):
                mlflow.set_tags(dict(run.tags))
                mlflow.log_params(parameters(run.config))
                mlflow.log_metrics(flatten(run.metrics))
                frontier = run.folder / "frontier.csv"
                if frontier.is_file():
                    import pandas as pd

                    mlflow.log_table(pd.read_csv(frontier), "frontier.json")
                mlflow.log_artifacts(str(run.folder))
        except (mlflow.MlflowException, OSError, Timeout) as error:
            raise RouterError(
                f"The run is complete in {run.folder}, but MLflow at {self.uri} did not take it: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        return self._how_to_see()

    def start_parent(self, name: str) -> str:
        """The id of a run under which a sweep's runs are nested."""
        with self._experiment(), _run(name) as started:
            return str(started.info.run_id)

    @contextmanager
    def _experiment(self) -> Iterator[None]:
        """The experiment made ready; one process at a time, as the first one makes the database."""
        import mlflow

        for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        mlflow.set_tracking_uri(self.absolute_uri)
        location = None if self.database is None else Path(self.artifacts).resolve().as_uri()
        with self._lock():
            client = mlflow.MlflowClient()
            if client.get_experiment_by_name(self.experiment) is None:
                client.create_experiment(self.experiment, artifact_location=location)
        mlflow.set_experiment(self.experiment)
        yield

    def _lock(self) -> Any:
        if self.database is None:
            return nullcontext()
        self.database.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{self.database}.lock", timeout=LOCK_SECONDS)

    def _how_to_see(self) -> str:
        if self.uri.startswith(("http://", "https://")):
            return self.uri
        return f"{_command()} ui --backend-store-uri {self.uri}"


@contextmanager
def _run(name: str) -> Iterator[Any]:
    """An MLflow run, below the sweep's parent run where there is one."""
    import mlflow

    parent = os.environ.get(PARENT_RUN)
    with mlflow.start_run(
        run_name=name, parent_run_id=parent, nested=parent is not None
    ) as started:
        yield started


def _command() -> str:
    """`mlflow` as the user can type it: the one beside this Python may not be on the path."""
    beside = Path(sys.executable).with_name("mlflow")
    found = shutil.which("mlflow")
    if not beside.exists() or (found is not None and Path(found).resolve() == beside.resolve()):
        return "mlflow"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)


def _require_writable(folder: Path, option: str) -> None:
    """The folder, or the nearest one above that exists, takes a file."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return
    except OSError as error:
        raise RouterError(
            f"{folder}: runs cannot be recorded there ({error.strerror}); "
            f"give another place with {option}, {INSTEAD}."
        ) from None


def _require_database(file: Path) -> None:
    if not file.exists():
        return
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as database:
            database.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        raise RouterError(
            f"{file}: no database that runs can be recorded in ({error}); "
            f"move it away, give another with tracking.uri, {INSTEAD}."
        ) from None


def _require_answer(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS):  # noqa: S310
            return
    except urllib.error.HTTPError:
        return  # it answers; whether it lets us in, MLflow will find out
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise RouterError(
            f"{uri}: no MLflow server answers ({reason}); start it, {INSTEAD}."
        ) from None


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Finite numbers of a nested mapping by their dotted path, in names that MLflow allows."""
    flat: dict[str, float] = {}
    for key, value in nested.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat |= flatten(value, path)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            continue
        elif math.isfinite(value):
            flat[_metric_name(path)] = float(value)
    return flat


def _metric_name(path: str) -> str:
    """Letters, digits and _-. / alone, short, and no way out of a folder: what MLflow allows."""
    name = "".join(c if c.isalnum() or c in "_-. /" else "_" for c in path)[:LONGEST_NAME]
    if posixpath.normpath(name) == name and not name.startswith(("/", "..")) and name != ".":
        return name
    return "_" + name.replace("/", "_")[1:]


def parameters(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Leaves of the configuration by their dotted path, cut to what MLflow stores."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat |= parameters(value, path)
        else:
            flat[path] = str(value)[:LONGEST_PARAMETER]
    return flat
