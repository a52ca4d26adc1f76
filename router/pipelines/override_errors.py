"""What is wrong with an override, in one sentence with the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from router.pipelines.options import config_folder, files_of_group, top_level_keys

TABLES = (".csv", ".jsonl", ".json", ".parquet")


def sentence(error: HydraException | OmegaConfBaseException) -> str:
    """The fault that Hydra or OmegaConf raised, for a reader who knows neither."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option}: no such option; {_choices(option, error.options)}."
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    cause = error.__cause__
    key = getattr(cause, "full_key", None)
    if key and "not in" in str(cause):
        return _unknown_key(key, getattr(cause, "parent_node", None))
    told = error if str(error) else cause
    return " ".join(str(told).replace("\\'", "'").split()) + "."


def nearest(word: str, known: Iterable[str]) -> str:
    """ " (did you mean ...?)", or nothing where no known word is alike."""
    alike = get_close_matches(word, list(known), n=1)
    return f" (did you mean {alike[0]}?)" if alike else ""


def _choices(word: str, known: Iterable[str]) -> str:
    return f"choose one of {', '.join(known)}{nearest(word, known)}"


def _unreadable(override: str) -> str:
    if override.lower().endswith(TABLES) and "=" not in override:
        return f"{override!r} is not key=value; for a table: data=table data.path={override}."
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override!r} is not of the form key=value."
    return (
        f"{override!r} cannot be read; a value with blanks or signs stands in two kinds of "
        f"quotes: '{key}=\"{value}\"'."
    )


def _unknown_key(full_key: str, parent: object) -> str:
    path, _, key = full_key.rpartition(".")
    known = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
    options = files_of_group(full_key.split(".")[0], [config_folder()])
    if not path:
        if options:
            names = ", ".join(file.stem for file in options)
            return f"{key}: nothing is chosen; give {key}=OPTION first, one of {names}."
        known.remove("hydra")
        return f"{key}: no such key or group; {_choices(key, known)}."
    owners = [file.stem for file in options if key in top_level_keys(file)]
    if owners and "." not in path:
        named = [f"{path}={owner}" for owner in owners]
        remedy = named[0] if len(named) == 1 else "one of them"
        return f"{full_key}: a key of {' and '.join(named)}; give {remedy} as well."
    if not known:
        return f"{full_key}: {path} holds a single value, not keys."
    full = [f"{path}.{name}" for name in known if name != "_target_"]
    return f"{full_key}: no such key; there are {', '.join(full)}{nearest(full_key, full)}."
