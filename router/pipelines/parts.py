"""Parts from the configuration, plugged in by `_target_` alone."""

from __future__ import annotations

import inspect
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from router.errors import RouterError
from router.pipelines.values import check_parameters


def build(node: DictConfig, name: str) -> Any:
    """Instantiate a node; a fault in it is told as a RouterError that names the config group."""
    missing = sorted(OmegaConf.missing_keys(node))
    if missing:
        keys = " ".join(f"{key}=..." for key in missing)
        raise RouterError(f"{name} needs a value: give {keys}")
    try:
        _check(node, name)
        return hydra.utils.instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, RouterError):
                raise cause from None
            cause = cause.__cause__
        reason = " ".join(str(error.__cause__ or error).split())
        raise RouterError(f"{name}: cannot make {node.get('_target_')}: {reason}") from error


def _check(node: DictConfig, name: str) -> None:
    """Compare the plain values of the node, and of the parts inside it, with their type hints."""
    plain = {}
    for key in map(str, node):
        value = node[key]
        if isinstance(value, DictConfig):
            _check(value, f"{name}.{key}")
        else:
            plain[key] = OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
    if "_target_" not in plain:
        return
    try:
        target = hydra.utils.get_object(str(plain["_target_"]))
    except Exception:  # a wrong name: instantiate says what is the matter
        return
    if inspect.isclass(target):
        check_parameters(target, plain, name)
