"""The user's column names and ours."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from router.errors import RouterError
from router.outcomes.faults import listed
from router.outcomes.schema import OPTIONAL, REQUIRED

log = logging.getLogger(__name__)

COMMON_OTHER_NAMES = {
    "query_id": ("id", "qid", "sample_id", "question_id", "request_id", "doc_id"),
    "prompt": ("query", "question", "input", "text", "instruction", "user_prompt"),
    "model": ("llm", "model_name", "model_id", "candidate", "arm"),
    "score": ("reward", "quality", "accuracy", "correct", "performance", "rating"),
    "cost_usd": ("cost", "usd", "price", "dollars", "total_cost"),
    "input_tokens": ("prompt_tokens", "tokens_in", "n_input_tokens"),
    "output_tokens": ("completion_tokens", "tokens_out", "n_output_tokens"),
    "latency_s": ("latency", "duration", "seconds"),
    "task": ("category", "domain", "topic", "benchmark"),
    "group": ("user_id", "session_id", "conversation_id"),
    "timestamp": ("time", "created_at", "date", "datetime"),
}


def rename_columns(
    frame: pd.DataFrame,
    columns: Mapping[str, str | None] | None,
    source: str,
    known: Sequence[str] = REQUIRED + OPTIONAL,
) -> pd.DataFrame:
    """Give the user's columns our names; `columns` maps ours to theirs, None where they agree.

    One column may serve twice (the prompt as its own query_id). A column that already has our
    name gives way to the one that the user maps.

    known: all of our names.

    Raises RouterError where the file lacks a named column, or `known` has no such one.
    """
    frame = frame.set_axis([str(name) for name in frame.columns], axis="columns")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()].unique()
        raise RouterError(f"{source}: column {listed(twice)} stands twice; rename one of them.")
    named = {ours: theirs for ours, theirs in (columns or {}).items() if theirs is not None}
    unknown = [ours for ours in named if ours not in known]
    if unknown:
        raise RouterError(
            f"data.columns: {listed(unknown)} is no column of the outcome table; "
            f"its columns are {listed(known, most=30)}."
        )
    absent = [theirs for theirs in named.values() if theirs not in frame]
    if absent:
        raise RouterError(
            f"{source}: data.columns names {listed(absent)}, which the file does not have; "
            f"its columns are {listed(frame.columns)}."
        )
    replaced = {*named, *(theirs for theirs in named.values() if theirs not in known)}
    left = frame.drop(columns=[name for name in replaced if name in frame])
    return left.assign(**{ours: frame[theirs] for ours, theirs in named.items()})


def require_columns(names: Iterable[str], source: str) -> None:
    """Raise RouterError with the nearest names where a required column is missing; log the names
    of columns that look like an optional one and are not read."""
    present = list(names)
    missing = [column for column in REQUIRED if column not in present]
    likely = _likely_names(present)
    overrides = " ".join(f"data.columns.{ours}={_typed(theirs)}" for ours, theirs in likely.items())
    if missing:
        remedy = (
            f"map the nearest columns with {overrides}"
            if set(missing) & set(likely)
            else "rename the columns or map them with data.columns.<name>=<your column>"
        )
        if {"model", "score"} <= set(missing) - set(likely):
            remedy += ", and give one row per query and model (data/README.md turns wide into long)"
        raise RouterError(
            f"{source}: no column {listed(missing)} among {listed(present)}; {remedy}."
        )
    if likely:
        log.warning(
            "%s: column %s is not read; if it holds what its name says, add %s.",
            source,
            listed(likely.values()),
            overrides,
        )


def _likely_names(present: list[str]) -> dict[str, str]:
    """Our absent column -> the user's column most like it; each of theirs is named once."""
    absent = [column for column in REQUIRED + OPTIONAL if column not in present]
    free = {
        name.lower().replace(" ", "_"): name for name in present if name not in REQUIRED + OPTIONAL
    }
    likely = {}
    for column in absent:  # what others call it, before what is merely spelled alike
        known = [name for name in (column, *COMMON_OTHER_NAMES.get(column, ())) if name in free]
        if known:
            likely[column] = free.pop(known[0])
    for column in absent:
        alike = difflib.get_close_matches(column, free, n=1, cutoff=0.6)
        if column in REQUIRED and column not in likely and alike:
            likely[column] = free.pop(alike[0])
    if "query_id" in absent and "query_id" not in likely:
        # A log without ids still tells queries apart: by what was asked.
        prompt = "prompt" if "prompt" in present else likely.get("prompt")
        likely |= {"query_id": prompt} if prompt else {}
    return {column: likely[column] for column in absent if column in likely}


def _typed(name: str) -> str:
    """As one types it after an override's = sign in a shell."""
    return name if name.replace("_", "").isalnum() else f"\"'{name}'\""
