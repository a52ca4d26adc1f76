"""Files of outcomes as frames: Parquet, CSV or JSONL, cells as they stand."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa

from router.errors import RouterError
from router.outcomes.faults import listed


def read_table(path: str | Path) -> pd.DataFrame:
    """The file as a frame, unchecked: see values.read_cells for what its cells then become.

    Raises RouterError where the file is missing, empty, of an unknown kind or unreadable.
    """
    path = Path(path)
    if path.is_dir():
        raise RouterError(f"{path}: this is a folder; give the file in it with data.path=FILE.")
    if not path.is_file():
        raise RouterError(f"{path}: no such file; give data.path=FILE.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise RouterError(
            f"{path}: unknown kind of file; give one that ends in {', '.join(READERS)}."
        )
    try:
        frame = reader(path)
    except UnicodeDecodeError:
        raise RouterError(
            f"{path}: line {_first_line_not_utf8(path)} is not UTF-8 text; "
            "save the file with the encoding UTF-8."
        ) from None
    except (ValueError, OSError, pa.ArrowException) as error:
        kind = path.suffix.lower()
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise RouterError(
            f"{path}: cannot be read as {kind.removeprefix('.')} ({reason}); {REMEDIES[kind]}."
        ) from None
    if frame.empty:
        what = "has no row below its header" if len(frame.columns) else "is empty"
        raise RouterError(f"{path}: the file {what}; give one with rows.")
    return frame


def _read_parquet(path: Path) -> pd.DataFrame:
    if path.stat().st_size == 0:
        return pd.DataFrame()
    frame = pd.read_parquet(path)
    # A pandas user may have kept query_id as the index.
    named = [name for name in frame.index.names if name is not None and name not in frame]
    return frame.reset_index(level=named) if named else frame


def _read_csv(path: Path) -> pd.DataFrame:
    """Every cell is text: "NA" and "None" are real prompts, and 007 is not the id 7."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
    # Spreadsheets of many countries write semicolons.
    separator = max(",;\t", key=header.count)
    names = next(csv.reader([header], delimiter=separator), [])
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"column {listed(twice)} stands twice in its header")
    try:
        with warnings.catch_warnings():
            # Rows longer than the header would be cut with no more than a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                path, sep=separator, dtype=object, keep_default_na=False, index_col=False
            )
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except pd.errors.ParserWarning:
        raise ValueError("its rows have more fields than its header names") from None


def _read_jsonl(path: Path) -> pd.DataFrame:
    """Only b"\\n" ends a record: prompts hold U+2028, at which str.splitlines would cut."""
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(record, dict):
            raise ValueError(f"line {number} holds a {type(record).__name__}")
        records.append(record)
    # Types stay those of the cells: an integer id beside a missing one is no float.
    return pd.DataFrame(records, dtype=object)


def _first_line_not_utf8(path: Path) -> int:
    content = path.read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return content.count(b"\n", 0, error.start) + 1
    return 1


REMEDIES = {
    ".parquet": "write the file anew",
    ".csv": "name each column once, and quote cells with separators, quotes or line breaks",
    ".jsonl": "write one JSON object per line",
}
READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
}
