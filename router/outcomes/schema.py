"""The outcome table's schema, and its faults told in sentences.

One row is one outcome: what one candidate answered to one query and how good that was.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pandera

from router.errors import RouterError

REQUIRED = ("query_id", "prompt", "model", "score")
OPTIONAL = (
    "cost_usd",
    "input_tokens",
    "output_tokens",
    "latency_s",
    "task",
    "group",
    "split",
    "timestamp",
    "propensity",
    "response",
)
COMMON_OTHER_NAMES = {
    "query_id": ("id", "qid", "sample_id", "question_id", "request_id", "doc_id"),
    "prompt": ("query", "question", "input", "text", "instruction", "user_prompt"),
    "model": ("llm", "model_name", "model_id", "candidate", "arm"),
    "score": ("reward", "quality", "accuracy", "correct", "performance", "rating"),
    "cost_usd": ("cost", "usd", "price", "dollars"),
    "input_tokens": ("prompt_tokens", "tokens_in", "n_input_tokens"),
    "output_tokens": ("completion_tokens", "tokens_out", "n_output_tokens"),
    "latency_s": ("latency", "duration", "seconds"),
}

_not_negative = pandera.Check.ge(0, error="is negative")
_finite = pandera.Check(np.isfinite, error="is infinite")
_not_blank = pandera.Check(lambda text: text.str.strip() != "", error="is empty")


def _text(required: bool, *checks: pandera.Check) -> pandera.Column:
    return pandera.Column(object, list(checks), nullable=not required, required=required)


def _number(*checks: pandera.Check, required: bool = False) -> pandera.Column:
    return pandera.Column(float, list(checks), nullable=not required, required=required)


SCHEMA = pandera.DataFrameSchema(
    {
        "query_id": _text(True, _not_blank),
        "prompt": _text(True, _not_blank),
        "model": _text(True, _not_blank),
        "score": _number(pandera.Check.in_range(0, 1, error="lies outside [0, 1]"), required=True),
        "cost_usd": _number(_not_negative, _finite),
        "input_tokens": _number(_not_negative, _finite),
        "output_tokens": _number(_not_negative, _finite),
        "latency_s": _number(_not_negative, _finite),
        "propensity": _number(
            pandera.Check.in_range(0, 1, include_min=False, error="lies outside (0, 1]")
        ),
    }
)

REMEDIES = {
    "is empty": "fill it in or drop the row",
    "is missing": "fill it in or drop the row",
    "lies outside [0, 1]": "rescale the scores to [0, 1]",
    "lies outside (0, 1]": "give the probability with which the model was chosen",
    "is negative": "give a number of at least 0",
    "is infinite": "give a finite number or leave it out",
    "is not a number": "give a number",
    "is not a time": "give ISO 8601 or Unix seconds",
    "is logged twice": "keep one row per query_id and model",
    "differs from an earlier prompt of the same query_id": "give each prompt a query_id of its own",
}


class Fault:
    """One kind of fault in one column: where it first stands and how many rows have it."""

    def __init__(self, column: str, problem: str, rows: Iterable[int], example: Any = None):
        self.column = column
        self.problem = problem
        self.rows = sorted({int(row) for row in rows})
        self.example = example

    def sentence(self, source: str) -> str:
        """The fault in one sentence; rows count from 1, the header not included."""
        shown = ""
        if self.example is not None and not pd.isna(self.example):
            shown = f" ({_short(self.example)})"
        n = len(self.rows)
        return (
            f"{source}: row {self.rows[0] + 1}, column '{self.column}' {self.problem}{shown}; "
            f"{n} row{'' if n == 1 else 's'} concerned; {REMEDIES[self.problem]}."
        )


def _short(value: object, width: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def require_columns(names: Iterable[str], source: str) -> None:
    """Raise with the nearest names where a required column is missing."""
    present = list(names)
    missing = [column for column in REQUIRED if column not in present]
    if not missing:
        return
    hints = []
    for column in missing:
        lowered = {str(name).lower(): str(name) for name in present}
        known = [lowered[other] for other in COMMON_OTHER_NAMES[column] if other in lowered]
        near = known or [
            lowered[name] for name in difflib.get_close_matches(column, lowered, n=1, cutoff=0.6)
        ]
        if near:
            hints.append(f"data.columns.{column}={near[0]}")
    remedy = (
        f"map the nearest columns with {' '.join(hints)}"
        if hints
        else "rename the columns or map them with data.columns.<name>=<your column>"
    )
    raise RouterError(f"{source}: no column {_listed(missing)} among {_listed(present)}; {remedy}.")


def _listed(names: Iterable[str], most: int = 12) -> str:
    quoted = [f"'{name}'" for name in names]
    return ", ".join(quoted[:most]) + (f" and {len(quoted) - most} more" if quoted[most:] else "")


def normalise_types(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Fault]]:
    """Columns in their own types: text, float64, UTC time. What cannot be read becomes a fault."""
    frame = frame.reset_index(drop=True).copy()
    faults = []
    for column in ("query_id", "prompt", "model", "task", "group", "split"):
        if column in frame:
            values = frame[column]
            as_text = values.astype(object).where(values.notna(), None)
            frame[column] = as_text.map(_as_text, na_action="ignore").astype(object)
    for column, spec in SCHEMA.columns.items():
        if column in frame and spec.dtype is not None and spec.dtype.type == np.dtype(float):
            raw = frame[column]
            number = pd.to_numeric(raw, errors="coerce").astype("float64")
            unreadable = number.isna() & raw.notna() & ~_is_nan_text(raw)
            if unreadable.any():
                rows = np.flatnonzero(unreadable)
                faults.append(Fault(column, "is not a number", rows, raw.iloc[rows[0]]))
                number[unreadable] = 0.0  # reported once, as unreadable, not again as missing
            frame[column] = number
    if "timestamp" in frame:
        frame["timestamp"], fault = _times(frame["timestamp"])
        faults += fault
    return frame, faults


def _as_text(value: object) -> str:
    """An id that was read as a float (1.0) is the same id as the integer (1)."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _is_nan_text(values: pd.Series) -> pd.Series:
    return values.astype(str).str.strip().str.lower().isin(["", "nan", "null", "none", "<na>"])


def _times(raw: pd.Series) -> tuple[pd.Series, list[Fault]]:
    if pd.api.types.is_numeric_dtype(raw):
        times = pd.to_datetime(raw, unit="s", utc=True, errors="coerce")
    else:
        times = pd.to_datetime(raw, utc=True, errors="coerce", format="ISO8601")
    bad = np.flatnonzero(times.isna())
    if len(bad) == 0:
        return times, []
    problem = "is missing" if pd.isna(raw.iloc[bad[0]]) else "is not a time"
    return times, [Fault("timestamp", problem, bad, raw.iloc[bad[0]])]


def find_faults(frame: pd.DataFrame) -> list[Fault]:
    """Every fault of a table whose columns have their own types (see normalise_types)."""
    faults = []
    try:
        SCHEMA.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
        for (column, check), found in cases.groupby(["column", "check"], sort=False):
            problem = "is missing" if check == "not_nullable" else str(check)
            rows = found["index"].dropna()
            faults.append(Fault(str(column), problem, rows, found["failure_case"].iloc[0]))
    keys = frame[["query_id", "model"]]
    repeated = np.flatnonzero(keys.duplicated() & keys.notna().all(axis=1))
    if len(repeated):
        faults.append(Fault("model", "is logged twice", repeated, frame["model"].iloc[repeated[0]]))
    first_prompt = frame.groupby("query_id")["prompt"].transform("first")
    differing = np.flatnonzero((frame["prompt"] != first_prompt) & frame["prompt"].notna())
    if len(differing):
        faults.append(
            Fault(
                "prompt",
                "differs from an earlier prompt of the same query_id",
                differing,
                frame["query_id"].iloc[differing[0]],
            )
        )
    return faults


def rename_columns(
    frame: pd.DataFrame, columns: Mapping[str, str | None] | None, source: str
) -> pd.DataFrame:
    """Give the user's columns our names; `columns` maps ours to theirs, None where they agree."""
    named = {ours: theirs for ours, theirs in (columns or {}).items() if theirs is not None}
    absent = [theirs for theirs in named.values() if theirs not in frame]
    if absent:
        raise RouterError(
            f"{source}: data.columns names {_listed(absent)}, which the file does not have; "
            f"its columns are {_listed(map(str, frame.columns))}."
        )
    unknown = [ours for ours in named if ours not in REQUIRED + OPTIONAL]
    if unknown:
        raise RouterError(
            f"data.columns: {_listed(unknown)} is no column of the outcome table; "
            f"its columns are {_listed(REQUIRED + OPTIONAL, most=20)}."
        )
    return frame.rename(columns={theirs: ours for ours, theirs in named.items()})
