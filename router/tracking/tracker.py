"""Record finished runs in MLflow, or nowhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock

if TYPE_CHECKING:
    from collections.abc import Iterator

PARENT_RUN = "ROUTER_PARENT_RUN"


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

    def record(self, run: FinishedRun) -> str | None:
        """Record a finished run; a hint on how to see it."""


class NoTracking:
    """Runs live in their output folder alone (`tracking=none`)."""

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

    def record(self, run: FinishedRun) -> str | None:
        import mlflow

        with self._experiment():
            parent = os.environ.get(PARENT_RUN)
            with mlflow.start_run(
                run_name=run.name, parent_run_id=parent, nested=parent is not None
            ):
                mlflow.set_tags(dict(run.tags))
                mlflow.log_params(_parameters(run.config))
                mlflow.log_metrics(flatten(run.metrics))
                frontier = run.folder / "frontier.csv"
                if frontier.is_file():
                    import pandas as pd

                    mlflow.log_table(pd.read_csv(frontier), "frontier.json")
                mlflow.log_artifacts(str(run.folder))
        return f"mlflow ui --backend-store-uri {self.uri}"

    def start_parent(self, name: str) -> str:
        """The id of a run under which a sweep's runs are nested."""
        import mlflow

        with self._experiment(), mlflow.start_run(run_name=name) as started:
            return str(started.info.run_id)

    @contextmanager
    def _experiment(self) -> Iterator[None]:
        """The experiment made ready; one process at a time, as the first one makes the database."""
        import mlflow

        for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        mlflow.set_tracking_uri(self.uri)
        folder = Path(self.artifacts).resolve()
        with FileLock(folder.parent / f".{folder.name}.lock"):
            client = mlflow.MlflowClient()
            if client.get_experiment_by_name(self.experiment) is None:
                location = folder.as_uri() if self.uri.startswith("sqlite:") else None
                client.create_experiment(self.experiment, artifact_location=location)
        mlflow.set_experiment(self.experiment)
        yield


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of a nested mapping by their dotted path; MLflow allows no other characters than
    letters, digits and _-. /"""
    flat: dict[str, float] = {}
    for key, value in nested.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat |= flatten(value, path)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat["".join(c if c.isalnum() or c in "_-. /" else "_" for c in path)] = float(value)
    return flat


def _parameters(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Leaves of the configuration by their dotted path, cut to what MLflow stores."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat |= _parameters(value, path)
        else:
            flat[path] = str(value)[:500]
    return flat
