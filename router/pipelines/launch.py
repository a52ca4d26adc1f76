"""Run a verb under Hydra: compose, make the output folder, run once or as a sweep."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from router.errors import RouterError
from router.pipelines.options import config_folder, describe_options
from router.pipelines.override_errors import sentence
from router.pipelines.run_folder import output_folder, remove_if_empty

log = logging.getLogger(__name__)

FULL_ERROR = "HYDRA_FULL_ERROR"
LOGGERS = ("router", "hydra")  # those that conf/output.yaml gives a handler


class _Stopped(BaseException):
    """Carries a RouterError out of a single run: Hydra would print every Exception's overrides."""

    def __init__(self, error: RouterError):
        self.error = error


def launch(verb: str, function: str, overrides: list[str]) -> None:
    """Compose conf/<verb>.yaml with the overrides and call the function with the configuration.

    function: "module.name"; imported only after the overrides are known to be right.
    Raises RouterError where the overrides or what they name are at fault. In a sweep the other
    jobs run first.
    """
    started = False

    def task(config: DictConfig) -> Any:
        nonlocal started
        started = True
        # Else the tokenizers, once they have used threads, warn at every later fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            module, _, name = function.rpartition(".")
            return getattr(import_module(module), name)(config)
        except (RouterError, InterpolationResolutionError) as fault:
            # A ${reference} is resolved when it is read, so only now its fault shows.
            error = fault if isinstance(fault, RouterError) else RouterError(sentence(fault))
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                log.error("Job %s failed: %s", HydraConfig.get().job.num, error)
                raise error from None
            raise _Stopped(error) from None
        finally:
            remove_if_empty(output_folder())

    OmegaConf.register_new_resolver("router_options", describe_options, replace=True)
    run = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=verb)(task)
    wants_traceback = os.environ.get(FULL_ERROR) == "1"
    with _command_line(f"router {verb}", overrides):
        try:
            run()
        except _Stopped as stopped:
            raise stopped.error from None
        except (HydraException, OmegaConfBaseException) as error:
            if started or wants_traceback:
                raise
            raise RouterError(sentence(error)) from None
        except OSError as error:
            if started or isinstance(error, BrokenPipeError):
                raise
            option = "hydra.sweep.dir" if {"-m", "--multirun"} & set(overrides) else "hydra.run.dir"
            raise RouterError(
                f"{error.filename}: the output folder cannot be made ({error.strerror}); "
                f"give another with {option}=FOLDER."
            ) from None


@contextmanager
def _command_line(program: str, overrides: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv, prints most exceptions itself unless told otherwise by the environment,
    and leaves its log handlers behind: all of it lent for one run, for callers from Python."""
    arguments, full_error = sys.argv, os.environ.get(FULL_ERROR)
    # argparse wants flags such as -m first, wherever the user put them.
    sys.argv = [program, *sorted(overrides, key=_is_override)]
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        sys.argv = arguments
        if full_error is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = full_error
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)


def _is_override(argument: str) -> bool:
    return not argument.startswith("-") and "=" in argument
