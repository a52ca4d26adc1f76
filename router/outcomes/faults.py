"""A fault of the outcome table, told in one sentence with its place, its size and its remedy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

REMEDIES = {
    "is empty": "fill it in or drop the row",
    "is missing": "fill it in or drop the row",
    "is not text": "give one string",
    "holds half a character": "drop the lone surrogate, where a cut went through an emoji",
    "lies outside [0, 1]": "rescale the scores to [0, 1]",
    "lies outside (0, 1]": "give the probability with which the model was chosen",
    "is negative": "give a number of at least 0",
    "is neither true nor false": "give true or false",
    "is infinite": "give a finite number or leave it out",
    "is not a number": "give a number",
    "is not a time": "give ISO 8601 or Unix seconds",
    "is above 0, which no log-probability is": "give natural logarithms of probabilities",
    "is no list of texts": "give a list, or its JSON",
    "is no list of numbers of at most 0": "give a list of log-probabilities, or its JSON",
    "is no winner": "give model_a, model_b, tie or tie (bothbad)",
    "is not one 1 and two 0": "give 1 to the winner alone",
    "is the same as model_a": "give two models",
    "is logged twice for one query_id": "keep one row per query_id and model",
    "differs from an earlier row of the same query_id": "give each prompt a query_id of its own, "
    "with one task, group and split",
}


class Fault:
    """One kind of fault in one column.

    problem: a key of REMEDIES.
    rows: positions of all rows that have it, from 0.
    example: the value in the first of them, or what else helps to find it.
    """

    def __init__(self, column: str, problem: str, rows: Iterable[int], example: Any = None):
        self.column = column
        self.problem = problem
        self.rows = sorted({int(row) for row in rows})
        self.example = example

    def sentence(self, source: str) -> str:
        """The fault in one sentence; rows count from 1, the header not included."""
        n = len(self.rows)
        return (
            f"{source}: row {self.rows[0] + 1}, column '{self.column}' {self.problem}"
            f"{_shown(self.example)}; {n:,} row{'' if n == 1 else 's'} concerned; "
            f"{REMEDIES[self.problem]}."
        )


def _shown(example: Any, width: int = 60) -> str:
    if example is None or (pd.api.types.is_scalar(example) and pd.isna(example)):
        return ""
    if isinstance(example, str) and not example.strip():
        return ""
    value = example.item() if isinstance(example, np.generic) else example
    start = value[:width] if isinstance(value, str) else value  # a prompt may have a megabyte
    text = repr(start).encode("utf-8", "backslashreplace").decode()  # a lone surrogate, printable
    cut = len(text) > width or (isinstance(value, str) and len(value) > width)
    return f" ({text[: width - 1]}…)" if cut else f" ({text})"


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names in quotes, the first few of many."""
    quoted = [f"'{name}'" for name in names]
    return ", ".join(quoted[:most]) + (f" and {len(quoted) - most} more" if quoted[most:] else "")
