"""Nest the runs of a sweep under one parent run."""

from __future__ import annotations

import os
from typing import Any

import hydra
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from router.errors import RouterError
from router.tracking.tracker import PARENT_RUN, MlflowTracking


class ParentRun(Callback):
    """Hydra callback: starts the parent run before a sweep. Its id travels in the environment,
    which launchers hand to their worker processes."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        # A sweep of this process that failed did not come to its end.
        os.environ.pop(PARENT_RUN, None)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        os.environ.pop(PARENT_RUN, None)
        tracker = hydra.utils.instantiate(config.tracking)
        if not isinstance(tracker, MlflowTracking):
            return
        overrides = " ".join(config.hydra.overrides.task)
        try:
            tracker.prepare()
            os.environ[PARENT_RUN] = tracker.start_parent(f"sweep {overrides}")
        except RouterError:
            return  # Hydra would warn of a callback; each job says what is the matter

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        os.environ.pop(PARENT_RUN, None)
