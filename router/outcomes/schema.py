"""The outcome table's schema.

One row is one outcome: what one candidate answered to one query and how good that was.
data/README.md tells every column's meaning and unit.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pandera.pandas as pandera

from router.answer_features import LOGPROBS
from router.outcomes.faults import Fault

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
    "gold",
    "response",
    "responses",
    "logprobs",
    "self_verification",
    "consistency",
    "max_probability",
    *LOGPROBS,
)
SHARES = ("self_verification", "consistency", "max_probability")
NAMES = ("query_id", "model", "task", "group", "split")
NUMBERS = (
    "score",
    "cost_usd",
    "input_tokens",
    "output_tokens",
    "latency_s",
    "propensity",
    "gold",
    *SHARES,
    *LOGPROBS,
)
ONE_PER_QUERY = ("prompt", "task", "group", "split", "gold")


def _text() -> pandera.Column:
    not_blank = pandera.Check(lambda text: text.str.strip() != "", error="is empty")
    return pandera.Column(object, not_blank)


def _share() -> pandera.Column:
    inside = pandera.Check.in_range(0, 1, error="lies outside [0, 1]")
    return pandera.Column(float, inside, nullable=True, required=False)


def _log_probability() -> pandera.Column:
    at_most = pandera.Check.le(0, error="is above 0, which no log-probability is")
    finite = pandera.Check(lambda number: number != -np.inf, error="is infinite")
    return pandera.Column(float, [at_most, finite], nullable=True, required=False)


def _amount() -> pandera.Column:
    not_negative = pandera.Check.ge(0, error="is negative")
    finite = pandera.Check(lambda number: number != np.inf, error="is infinite")
    return pandera.Column(float, [not_negative, finite], nullable=True, required=False)


SCHEMA = pandera.DataFrameSchema(
    {
        "query_id": _text(),
        "prompt": _text(),
        "model": _text(),
        "score": pandera.Column(float, pandera.Check.in_range(0, 1, error="lies outside [0, 1]")),
        "cost_usd": _amount(),
        "input_tokens": _amount(),
        "output_tokens": _amount(),
        "latency_s": _amount(),
        "propensity": pandera.Column(
            float,
            pandera.Check.in_range(0, 1, include_min=False, error="lies outside (0, 1]"),
            nullable=True,
            required=False,
        ),
        "gold": pandera.Column(
            float,
            pandera.Check.isin([0, 1], error="is neither true nor false"),
            nullable=True,
            required=False,
        ),
        **{name: _share() for name in SHARES},
        **{name: _log_probability() for name in LOGPROBS},
    }
)


def find_faults(frame: pd.DataFrame) -> list[Fault]:
    """Every fault of a table whose cells were read by values.read_cells: values that the schema
    forbids, outcomes logged twice, and columns that differ within one query."""
    faults = []
    try:
        SCHEMA.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases.sort_values("index", kind="stable")
        for (column, check), found in cases.groupby(["column", "check"], sort=False):
            problem = "is missing" if check == "not_nullable" else str(check)
            faults.append(
                Fault(str(column), problem, found["index"], found["failure_case"].iloc[0])
            )
    named = frame["query_id"].where(frame["query_id"] != "")  # rows without a name share nothing
    keys = frame[["model"]].assign(query_id=named)[["query_id", "model"]]
    repeated = np.flatnonzero(keys.duplicated() & keys.notna().all(axis=1))
    if len(repeated):
        example = tuple(keys.iloc[repeated[0]])
        faults.append(Fault("model", "is logged twice for one query_id", repeated, example))
    for column in ONE_PER_QUERY:
        if column in frame:
            values = frame[column]
            if column not in NUMBERS:
                values = values.where(values.str.strip() != "")
            first = values.groupby(named).transform("first")
            rows = np.flatnonzero(values.notna() & first.notna() & (values != first))
            if len(rows):
                problem = "differs from an earlier row of the same query_id"
                faults.append(Fault(column, problem, rows, named.iloc[rows[0]]))
    return faults
