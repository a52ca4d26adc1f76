"""Nest the runs of a sweep under one parent run."""

from __future__ import annotations

import os
from typing import Any

import hydra
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from router.tracking.tracker import PARENT_RUN, MlflowTracking


class ParentRun(Callback):
    """Hydra callback: starts the parent run before a sweep. Its id travels in the environment,
    which launchers hand to their worker processes."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        tracker = hydra.utils.instantiate(config.tracking)
        if isinstance(tracker, MlflowTracking):
            overrides = " ".join(config.hydra.overrides.task)
            os.environ[PARENT_RUN] = tracker.start_parent(f"sweep {overrides}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        os.environ.pop(PARENT_RUN, None)
