"""Does a configured value fit the parameter that it is meant for?"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from router.errors import RouterError

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}


def check_parameters(part: type, parameters: Mapping[str, Any], name: str) -> None:
    """Compare plain values with the type hints of the part's constructor.

    Raises RouterError for the first misfit. Parameters without a hint, or with one that is not
    made of numbers, text, lists and null, are left to the part itself.
    """
    try:
        hints = get_type_hints(part.__init__)  # type: ignore[misc]
    except (NameError, TypeError):  # a hint that is imported for the type checker alone
        return
    for key, value in parameters.items():
        if key in hints and not fits(value, hints[key]):
            raise RouterError(f"{name}.{key} is {value!r}; give {described(hints[key])}.")


def whole_number(config: DictConfig, key: str, least: int) -> int:
    """A setting of the run itself; raises RouterError where it is no whole number >= least."""
    value = OmegaConf.select(config, key)
    if not fits(value, int) or value < least:
        raise RouterError(f"{key} is {value!r}; give a whole number from {least} upwards.")
    return int(value)


def share(config: DictConfig, key: str) -> float:
    """Likewise a number in [0, 1]."""
    value = OmegaConf.select(config, key)
    if not fits(value, float) or not 0 <= value <= 1:
        raise RouterError(f"{key} is {value!r}; give a number between 0 and 1.")
    return float(value)


def amount_or_null(config: DictConfig, key: str) -> float | None:
    """Likewise a finite number from 0 up, or null."""
    value = OmegaConf.select(config, key)
    if value is not None and (not fits(value, float) or not 0 <= value < math.inf):
        raise RouterError(f"{key} is {value!r}; give a number from 0 upwards, or null.")
    return None if value is None else float(value)


def one_of(config: DictConfig, key: str, options: Sequence[str]) -> str:
    """Likewise one of some words."""
    value = OmegaConf.select(config, key)
    if value not in options:
        raise RouterError(f"{key} is {value!r}; give one of {', '.join(options)}.")
    return str(value)


def true_or_false(config: DictConfig, key: str) -> bool:
    """Likewise true or false."""
    value = OmegaConf.select(config, key)
    if not fits(value, bool):
        raise RouterError(f"{key} is {value!r}; give true or false.")
    return bool(value)


def text_or_null(config: DictConfig, key: str) -> str | None:
    """Likewise text, or null."""
    value = OmegaConf.select(config, key)
    if not fits(value, str | None):
        raise RouterError(f"{key} is {value!r}; give text, or null.")
    return value


def texts(config: DictConfig, key: str) -> list[str]:
    """Likewise a list of texts."""
    value: Any = OmegaConf.select(config, key)
    value = OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
    if not fits(value, list[str]):
        raise RouterError(f"{key} is {value!r}; give a list of texts, as in {key}=['one','two'].")
    return value


def fits(value: Any, hint: Any) -> bool:
    """Whether a value read from YAML may stand for a type hint."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in inner)
    if origin is Literal:
        return value in inner
    if hint in WORDS:
        if isinstance(value, bool):
            return hint is bool
        return isinstance(value, (int, float) if hint is float else hint)
    if _is_list(hint):
        if not isinstance(value, list):
            return False
        entry = inner[0] if inner else Any
        return all(fits(one, entry) for one in value)
    return True


def described(hint: Any) -> str:
    """The hint in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(described(option) for option in inner)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if _is_list(hint):
        return "a list, as in [one,two]"
    return WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _is_list(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return kind in (list, tuple, Sequence)
