"""Read a table of logged outcomes from Parquet, CSV or JSONL and check it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from router.errors import RouterError
from router.outcomes.columns import rename_columns, require_columns
from router.outcomes.faults import Fault, listed
from router.outcomes.files import read_table
from router.outcomes.matrix import OutcomeMatrix, build_matrix
from router.outcomes.prices import PriceTable
from router.outcomes.schema import find_faults
from router.outcomes.values import read_cells

log = logging.getLogger(__name__)


def check_table(
    frame: pd.DataFrame,
    source: str,
    columns: Mapping[str, str] | None = None,
    faults: Literal["error", "drop"] = "error",
) -> pd.DataFrame:
    """The checked table; its index is the row in the file, from 0.

    columns: our column name -> the file's, where they differ.
    faults: with "drop", faulty rows are left out and counted in the log.

    Raises RouterError that lists every fault, a sentence each.
    """
    frame = rename_columns(frame, columns, source)
    require_columns(frame.columns, source)
    frame, found = read_cells(frame)
    return without_faults(frame, found + find_faults(frame), source, faults)


def without_faults(
    frame: pd.DataFrame, found: Sequence[Fault], source: str, faults: Literal["error", "drop"]
) -> pd.DataFrame:
    """The frame less its faulty rows, or RouterError with a sentence for each fault.

    frame: its index is the row in the file, from 0.
    """
    if not found:
        return frame
    sentences = "\n".join(fault.sentence(source) for fault in found)
    if faults == "error":
        raise RouterError(
            f"{sentences}\nCorrect the rows, or leave them out with data.faults=drop."
        )
    bad_rows = sorted({row for fault in found for row in fault.rows})
    left = frame.drop(index=bad_rows)
    if left.empty:
        raise RouterError(f"{sentences}\nNo row is left once the faulty ones are dropped.")
    lost = sorted(set(frame["model"].dropna()) - {"", *left["model"]})
    of_lost = f", and with them every row of {listed(lost)}" if lost else ""
    n_rows = frame.index.nunique()
    log.warning("%s\n%d of %d rows left out%s.", sentences, len(bad_rows), n_rows, of_lost)
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
        return build_matrix(self.table(), prices, self.candidates, str(self.path))

    def table(self) -> pd.DataFrame:
        """The file as a checked table of outcomes."""
        return check_table(read_table(self.path), str(self.path), self.columns, self.faults)
