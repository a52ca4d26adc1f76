"""One hash that names the outcomes, for records and comparisons."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pandas as pd

from router.outcomes.schema import OPTIONAL, REQUIRED


def fingerprint(table: pd.DataFrame) -> str:
    """SHA-256 of the outcomes, whatever the order of rows and columns or the kind of file.

    It covers the outcome table's own columns; free columns and empty ones do not change it.
    """
    ordered = table.sort_values(["query_id", "model"])
    digest = hashlib.sha256()
    for name in sorted(set(REQUIRED + OPTIONAL) & set(table.columns)):
        column = ordered[name]
        if column.notna().any():
            digest.update(json.dumps([name, _plain_cells(column)], default=_plain).encode())
    return digest.hexdigest()


def _plain_cells(column: pd.Series) -> list[Any]:
    number = pd.api.types.is_numeric_dtype(column)
    cells = (column.astype("float64") if number else column).astype(object)
    return cells.where(column.notna(), None).tolist()


def _plain(value: Any) -> Any:
    """What JSON has no word for: times, numpy's arrays and numbers (in a response from Parquet)."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)
