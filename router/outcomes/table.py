"""Read a table of logged outcomes from Parquet, CSV or JSONL and check it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix, build_matrix
from router.outcomes.prices import PriceTable
from router.outcomes.schema import (
    find_faults,
    normalise_types,
    rename_columns,
    require_columns,
)

log = logging.getLogger(__name__)

READERS = {
    ".parquet": lambda path: pd.read_parquet(path),
    ".csv": lambda path: pd.read_csv(path, dtype={"query_id": str, "prompt": str}, na_values=[""]),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False, convert_dates=False),
}


def read_table(path: str | Path) -> pd.DataFrame:
    """The file as a frame, unchecked.

    Raises RouterError where the file is missing, empty, of an unknown kind or unreadable.
    """
    path = Path(path)
    if not path.is_file():
        raise RouterError(f"{path}: no such file; give data.path=FILE.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise RouterError(f"{path}: unknown kind of file; known are {', '.join(READERS)}.")
    if path.stat().st_size == 0:
        raise RouterError(f"{path}: the file is empty; it needs one row per outcome.")
    try:
        frame = reader(path)
    except pd.errors.EmptyDataError:
        raise RouterError(f"{path}: the file is empty; it needs one row per outcome.") from None
    except (ValueError, OSError, UnicodeDecodeError) as error:
        kind = path.suffix.lower().removeprefix(".")
        reason = " ".join(str(error).split())[:200]
        raise RouterError(f"{path}: cannot be read as {kind}: {reason}.") from None
    if frame.empty:
        raise RouterError(f"{path}: the file has no rows; it needs one row per outcome.")
    return frame


def check_table(
    frame: pd.DataFrame,
    source: str,
    columns: Mapping[str, str] | None = None,
    faults: Literal["error", "drop"] = "error",
) -> pd.DataFrame:
    """The checked table. With faults="drop", faulty rows are left out and counted in the log.

    Raises RouterError that lists every fault, a sentence each.
    """
    frame = rename_columns(frame, columns, source)
    require_columns(map(str, frame.columns), source)
    frame, found = normalise_types(frame)
    found = found + find_faults(frame)
    if not found:
        return frame
    sentences = "\n".join(fault.sentence(source) for fault in found)
    if faults == "error":
        raise RouterError(
            f"{sentences}\nCorrect the rows, or leave them out with data.faults=drop."
        )
    bad_rows = sorted({row for fault in found for row in fault.rows})
    log.warning("%s\n%d of %d rows left out.", sentences, len(bad_rows), len(frame))
    left = frame.drop(index=bad_rows).reset_index(drop=True)
    if left.empty:
        raise RouterError(f"{source}: no row is left once the faulty ones are dropped.")
    return left


class TableData:
    """Outcomes of a file on disk (`data=table data.path=FILE`).

    path: Parquet, CSV or JSONL file, one row per outcome.
    columns: our column name -> the file's, where they differ.
    candidates: the models to route between; all in the file if None.
    prices: YAML price table; then costs are tokens x prices.
    faults: "error" stops at faulty rows, "drop" leaves them out.
    """

    def __init__(
        self,
        path: str | Path,
        columns: Mapping[str, str] | None = None,
        candidates: Sequence[str] | None = None,
        prices: str | Path | None = None,
        faults: Literal["error", "drop"] = "error",
    ):
        if faults not in ("error", "drop"):
            raise RouterError(f"data.faults is {faults!r}; choose error or drop.")
        self.path = Path(path)
        self.columns = columns
        self.candidates = candidates
        self.prices = prices
        self.faults: Literal["error", "drop"] = faults

    @property
    def name(self) -> str:
        return self.path.stem

    def load(self) -> OutcomeMatrix:
        """Read, check and price the outcomes."""
        prices = PriceTable.read(self.prices) if self.prices else None
        source = str(self.path)
        table = check_table(read_table(self.path), source, self.columns, self.faults)
        return build_matrix(table, prices, self.candidates, source)
