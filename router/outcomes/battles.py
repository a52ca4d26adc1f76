"""Read a table of battles: two models answered one prompt, and one answer was preferred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from router.errors import RouterError
from router.outcomes.columns import rename_columns
from router.outcomes.faults import Fault, listed
from router.outcomes.files import read_table
from router.outcomes.schema import find_faults
from router.outcomes.table import TableData, without_faults
from router.outcomes.values import read_cells

SIDES = ("a", "b")
REQUIRED = ("prompt", "model_a", "model_b", "winner")
PER_BATTLE = ("query_id", "prompt", "task", "group", "split", "timestamp", "gold")
PER_SIDE = ("model", "cost_usd", "input_tokens", "output_tokens", "latency_s", "response")
COLUMNS = ("winner", *PER_BATTLE, *(f"{name}_{side}" for name in PER_SIDE for side in SIDES))
SCORE_OF_A = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5, "both_bad": 0.5}
FLAGS = {"winner_model_a": "model_a", "winner_model_b": "model_b", "winner_tie": "tie"}
TRUE = {"1", "1.0", "true"}
EMPTY = {"", "nan", "none", "null", "<na>"}


class BattleData(TableData):
    """Battles of a file on disk (`data=battles data.path=FILE`) as outcomes.

    Each battle is a query with two outcomes: scores 1 and 0, or 0.5 twice for a tie. Battles with
    one prompt are several queries of one group. The parameters are TableData's, of a file with one
    row per battle; a battle with another model than `candidates` is left out. data/README.md tells
    the columns.
    """

    def table(self) -> pd.DataFrame:
        source = str(self.path)
        table = outcomes_of_battles(read_table(self.path), source, self.columns, self.faults)
        if self.candidates is not None and set(self.candidates) <= set(table["model"]):
            among = table["model"].isin(self.candidates).groupby(table["query_id"]).transform("all")
            table = table[among]
            if table.empty:
                raise RouterError(
                    f"{source}: no battle between two of {listed(self.candidates)}; log some, or "
                    "name others with data.candidates."
                )
        return table


def outcomes_of_battles(
    frame: pd.DataFrame,
    source: str,
    columns: Mapping[str, str] | None = None,
    faults: Literal["error", "drop"] = "error",
) -> pd.DataFrame:
    """The checked outcome table, two rows per battle; its index is the row in the file, from 0.

    Raises RouterError that lists every fault, a sentence each.
    """
    frame = rename_columns(frame, columns, source, COLUMNS).reset_index(drop=True)
    given = set(frame.columns) | ({"winner"} if set(FLAGS) <= set(frame.columns) else set())
    missing = [name for name in REQUIRED if name not in given]
    if missing:
        raise RouterError(
            f"{source}: no column {listed(missing)} among {listed(frame.columns)}; rename the "
            "columns or map them with data.columns.<name>=<your column>."
        )
    score, found = _scores_of_a(frame)
    if "query_id" not in frame:
        frame["query_id"] = [f"battle {row + 1}" for row in range(len(frame))]
    sides = []
    for side, scores in zip(SIDES, (score, 1 - score), strict=True):
        own = {f"{name}_{side}": name for name in PER_SIDE if f"{name}_{side}" in frame}
        shared = [name for name in PER_BATTLE if name in frame]
        sides.append(frame[[*shared, *own]].rename(columns=own).assign(score=scores))
    table, unread = read_cells(pd.concat(sides, ignore_index=True))
    same = np.flatnonzero(_same_model(table, len(frame)))
    if len(same):
        example = table["model"].iloc[same[0]]
        found.append(Fault("model_b", "is the same as model_a", same, example))
    ids = _unique(table["query_id"].iloc[: len(frame)])
    table["query_id"] = pd.concat([ids, ids], ignore_index=True)
    # Within one battle a model can stand twice in one way only, and that is told above.
    of_rows = [
        fault
        for fault in [*unread, *find_faults(table)]
        if fault.problem != "is logged twice for one query_id"
    ]
    table.index = pd.Index(np.tile(np.arange(len(frame)), 2))
    return without_faults(table, found + _in_file(of_rows, len(frame)), source, faults)


def _scores_of_a(frame: pd.DataFrame) -> tuple[np.ndarray, list[Fault]]:
    """((n,) score of model_a, faults); a row without a winner scores 1, so that no later check
    reports it again."""
    if "winner" not in frame:
        flags = frame[list(FLAGS)].astype(str)
        is_set = np.column_stack([_words(flags[name]).isin(TRUE) for name in FLAGS])
        bad = np.flatnonzero(is_set.sum(axis=1) != 1)
        score = np.array([SCORE_OF_A[word] for word in FLAGS.values()])[is_set.argmax(axis=1)]
        score[bad] = 1.0
        problems = {"is not one 1 and two 0": bad}
        column, shown = ", ".join(FLAGS), flags.agg(", ".join, axis=1)
    else:
        words = _words(frame["winner"])
        score = words.map(SCORE_OF_A).fillna(1.0).to_numpy(dtype=float)
        empty = frame["winner"].isna() | words.isin(EMPTY)
        unknown = ~empty & ~words.isin(SCORE_OF_A)
        problems = {"is missing": np.flatnonzero(empty), "is no winner": np.flatnonzero(unknown)}
        column, shown = "winner", frame["winner"]
    return score, [
        Fault(column, problem, rows, shown.iloc[rows[0]])
        for problem, rows in problems.items()
        if len(rows)
    ]


def _words(cells: pd.Series) -> pd.Series:
    return cells.astype(str).str.strip().str.lower()


def _same_model(table: pd.DataFrame, n_battles: int) -> np.ndarray:
    models = table["model"].to_numpy()
    pairs = zip(models[:n_battles], models[n_battles:], strict=True)
    return np.array([bool(first) and first == second for first, second in pairs])


def _unique(ids: pd.Series) -> pd.Series:
    """The ids, with the row's number behind one that stands before; empty ones stay."""
    ids = ids.copy()
    repeated = ids.duplicated() & ids.notna() & (ids != "")
    while repeated.any():
        numbers = pd.Series(np.flatnonzero(repeated) + 1, index=ids.index[repeated])
        ids[repeated] = ids[repeated] + " row " + numbers.astype(str)
        repeated = ids.duplicated() & ids.notna() & (ids != "")
    return ids


def _in_file(faults: Sequence[Fault], n_battles: int) -> list[Fault]:
    """Faults of the outcome table by the battles' own rows and columns, each told once."""
    told: dict[tuple[str, str], Fault] = {}
    for fault in faults:
        for number, side in enumerate(SIDES):
            rows = [row % n_battles for row in fault.rows if row // n_battles == number]
            column = f"{fault.column}_{side}" if fault.column in PER_SIDE else fault.column
            if rows and (column, fault.problem) not in told:
                example = fault.example if fault.rows[0] // n_battles == number else None
                told[column, fault.problem] = Fault(column, fault.problem, rows, example)
    return list(told.values())
