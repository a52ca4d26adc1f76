"""Cells as text, numbers and times, whatever the file's kind; what cannot be read is a fault."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from router.outcomes.answers import LISTS, read_lists
from router.outcomes.faults import Fault
from router.outcomes.schema import NAMES, NUMBERS, REQUIRED

# How logs write "no number". In text columns these are words like any other: somebody did ask
# an LLM about "None".
NO_NUMBER = {"", "nan", "null", "none", "na", "n/a", "#n/a", "<na>"}
NESTED = (list, dict, tuple, np.ndarray)  # a list of chat messages, say
TRUTH = {"true": 1.0, "false": 0.0}
LATEST_SECONDS = 1e10  # the year 2286; beyond it a log counts in milliseconds


def read_cells(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Fault]]:
    """(the frame with its columns in their own types, faults).

    query_id, model, task, group and split become text without blanks around it, the prompt text
    as it stands, numbers float64, timestamp UTC time. An unreadable cell becomes a value that no
    later check reports again.
    """
    frame = frame.reset_index(drop=True).copy()
    faults = []
    for column in ("prompt", "response", *NAMES):
        if column in frame:
            frame[column], found = _texts(frame[column], column)
            faults += found
    for column in NUMBERS:
        if column in frame:
            frame[column], found = _numbers(frame[column], column)
            faults += found
    for column in LISTS:
        if column in frame:
            frame[column], found = read_lists(frame[column], column)
            faults += found
    if "timestamp" in frame:
        frame["timestamp"], found = _times(frame["timestamp"])
        faults += found
    return frame, faults


def _texts(raw: pd.Series, column: str) -> tuple[pd.Series, list[Fault]]:
    cells = raw.astype(object).where(raw.notna(), None).tolist()
    texts = [None if cell is None else _as_text(cell) for cell in cells]
    if column in NAMES:
        texts = [text.strip() if text else text for text in texts]
    if column not in REQUIRED:
        texts = [text or None for text in texts]
    halved = [row for row, text in enumerate(texts) if _is_halved(text)]
    nested = [row for row, cell in enumerate(cells) if isinstance(cell, NESTED)]
    for row in halved:  # pandas hashes text as UTF-8, which has no bytes for it
        texts[row] = str(texts[row]).encode(errors="replace").decode()
    bad = {"is not text": nested, "holds half a character": halved}
    found = [Fault(column, why, rows, cells[rows[0]]) for why, rows in bad.items() if rows]
    return pd.Series(texts, index=raw.index, dtype=object), found


def _as_text(value: object) -> str:
    """An id that was read as a float (1.0) is the same id as the integer (1)."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _is_halved(text: str | None) -> bool:
    """Whether a lone surrogate stands in the text."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        return True
    return False


def _numbers(raw: pd.Series, column: str) -> tuple[pd.Series, list[Fault]]:
    if pd.api.types.is_numeric_dtype(raw):
        return raw.astype("float64"), []
    readings = [_as_number(cell) for cell in raw.astype(object).where(raw.notna(), None)]
    bad = [row for row, reading in enumerate(readings) if reading is None]
    harmless = [1.0 if reading is None else reading for reading in readings]
    found = [Fault(column, "is not a number", bad, raw.iloc[bad[0]])] if bad else []
    return pd.Series(harmless, index=raw.index, dtype="float64"), found


def _as_number(value: object) -> float | None:
    """The number; NaN where the cell holds none; None where it cannot be read."""
    if value is None:
        return math.nan
    if isinstance(value, str):
        word = value.strip().lower()
        if word in NO_NUMBER:
            return math.nan
        if word in TRUTH:
            return TRUTH[word]
    try:
        return float(value)  # type: ignore[arg-type]  # what float() takes is what can be read
    except (TypeError, ValueError, OverflowError):
        return None


def _times(raw: pd.Series) -> tuple[pd.Series, list[Fault]]:
    """UTC times; NaT where the cell is empty. A number is Unix seconds, text is ISO 8601, and UTC
    where it names no zone."""
    if pd.api.types.is_datetime64_any_dtype(raw):
        return pd.to_datetime(raw, utc=True).astype("datetime64[us, UTC]"), []
    cells = raw.astype(object).where(raw.notna(), None)
    words = cells.astype(str).str.strip().where(cells.notna(), "")
    seconds = words.map(_seconds).astype("float64")
    seconds = seconds.where(seconds.abs() < LATEST_SECONDS)
    iso = words.where(words.map(_seconds).isna())
    times = pd.to_datetime(seconds, unit="s", utc=True).astype("datetime64[us, UTC]")
    times = times.fillna(pd.to_datetime(iso, utc=True, errors="coerce", format="ISO8601"))
    bad = np.flatnonzero(times.isna() & ~words.str.lower().isin(NO_NUMBER))
    found = [Fault("timestamp", "is not a time", bad, raw.iloc[bad[0]])] if len(bad) else []
    return times, found


def _seconds(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan
