"""What the log holds of the answers themselves, beside how good they were."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from router.answer_features import SIGNALS, signals_of
from router.outcomes.faults import Fault

LISTS = ("responses", "logprobs")


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of n queries and m candidates.

    text: (n, m) object array: the response; None where none was logged.
    signals: name -> (n, m) numbers, NaN where not told (see SIGNALS); every name is there.
    vectors: (n, m, d) float32 of the texts, once an encoder has read them (zeros where there is
        none), else None.
    """

    text: np.ndarray
    signals: Mapping[str, np.ndarray]
    vectors: np.ndarray | None = None

    @property
    def known(self) -> np.ndarray:
        """(n, m) whether anything of the answer was logged."""
        told = [~np.isnan(values) for values in self.signals.values()]
        return np.asarray((self.text != None) | np.any(told, axis=0))  # noqa: E711  # cell by cell

    def at(self, *where: Any) -> Answers:
        """The answers of some rows, or of some columns, as numpy indexes an array."""
        place = where if len(where) > 1 else where[0]
        return Answers(
            self.text[place],
            {name: values[place] for name, values in self.signals.items()},
            None if self.vectors is None else self.vectors[place],
        )


def read_answers(
    table: pd.DataFrame, rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]
) -> Answers | None:
    """The answers of a checked long table; None where it holds none.

    rows, columns: place of each of its rows in the (n, m) matrix.
    """
    names = [name for name in ("response", *LISTS, *SIGNALS) if name in table]
    if not any(table[name].notna().any() for name in names):
        return None
    text = np.full(shape, None, dtype=object)
    signals = {name: np.full(shape, np.nan) for name in SIGNALS}
    cells = [table[name].astype(object).where(table[name].notna(), None) for name in names]
    for row, column, *told in zip(rows, columns, *cells, strict=True):
        record = dict(zip(names, told, strict=True))
        answer = record.pop("response", None)
        text[row, column] = answer
        for name, value in signals_of(answer or "", record).items():
            signals[name][row, column] = value
    return Answers(text, signals)


def read_lists(raw: pd.Series, column: str) -> tuple[pd.Series, list[Fault]]:
    """The cells of `responses` (texts) or `logprobs` (numbers of at most 0) as lists, be they lists
    or JSON; None where empty."""
    cells = [None if _is_empty(cell) else _as_list(cell, column) for cell in raw]
    bad = [row for row, cell in enumerate(cells) if cell is not None and not len(cell)]
    for row in bad:
        cells[row] = None
    kind = "texts" if column == "responses" else "numbers of at most 0"
    found = [Fault(column, f"is no list of {kind}", bad, raw.iloc[bad[0]])] if bad else []
    return pd.Series(cells, index=raw.index, dtype=object), found


def _is_empty(cell: Any) -> bool:
    if isinstance(cell, str):
        return not cell.strip()
    return cell is None or (np.ndim(cell) == 0 and bool(pd.isna(cell)))


def _as_list(cell: Any, column: str) -> Sequence[Any]:
    """Empty where it is none."""
    try:
        values = json.loads(cell) if isinstance(cell, str) else list(cell)
        if not isinstance(values, list):
            return []
        if column == "responses":
            return values if all(isinstance(value, str) for value in values) else []
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return []
    return numbers if np.isfinite(numbers).all() and max(numbers, default=1) <= 0 else []
