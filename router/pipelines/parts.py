"""Parts from the configuration, plugged in by `_target_` alone."""

from __future__ import annotations

from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from router.errors import RouterError


def build(node: DictConfig, name: str) -> Any:
    """Instantiate a node; a fault in it is told as a RouterError that names the config group."""
    missing = sorted(OmegaConf.missing_keys(node))
    if missing:
        keys = " ".join(f"{name}.{key}=..." for key in missing)
        raise RouterError(f"{name} needs a value: give {keys}")
    try:
        return hydra.utils.instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, RouterError):
                raise cause from None
            cause = cause.__cause__
        reason = " ".join(str(error.__cause__ or error).split())
        raise RouterError(f"{name}: cannot make {node.get('_target_')}: {reason}") from error
