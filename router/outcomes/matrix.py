"""Queries x candidates arrays with a mask of what was observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from router.errors import RouterError
from router.outcomes.answers import Answers, read_answers
from router.outcomes.faults import listed
from router.outcomes.fingerprint import fingerprint
from router.outcomes.grouping import group_queries
from router.outcomes.prices import PriceTable

PER_CELL = ("scores", "cost", "tokens", "latency", "propensity", "weights")
PER_QUERY = ("prompt", "task", "split", "gold")


@dataclass(frozen=True, eq=False)
class OutcomeMatrix:
    """Outcomes of n queries and m candidates. Arrays are read-only; unobserved cells hold NaN.

    A missing outcome is never a zero: whoever reads a cell outside `observed` gets NaN, and the
    NaN shows in the result.

    queries: frame of n rows: query_id, prompt, group, and where logged task, split, timestamp,
        gold (whether its scores are gold).
    candidates: the m candidates.
    scores: (n, m) in [0, 1].
    observed: (n, m) True where an outcome was logged.
    cost: (n, m) USD per answer, or None where the log knows no cost.
    tokens: (n, m, 2) input and output tokens, or None; then cost = tokens x prices.
    prices: (m, 2) USD per input and output token, or None.
    price_dates: the day of each candidate's price, or empty.
    latency: (n, m) seconds, or None.
    propensity: (n, m) probability with which the log's policy chose each candidate, or None. It
        may be known of a candidate that was not chosen too; NaN where it is not.
    weights: (n, m) how much each outcome counts in a fit, from 0 up; None where all count alike.
        Only estimators read it (see Estimator.takes_weights); no table holds it.
    fingerprint: SHA-256 of the table that was read; a part of the matrix keeps the whole's.
    answers: the answers themselves, or None where none was logged.
    """

    queries: pd.DataFrame
    candidates: tuple[str, ...]
    scores: np.ndarray
    observed: np.ndarray
    cost: np.ndarray | None = None
    tokens: np.ndarray | None = None
    prices: np.ndarray | None = None
    price_dates: tuple[str, ...] = ()
    latency: np.ndarray | None = None
    propensity: np.ndarray | None = None
    weights: np.ndarray | None = None
    fingerprint: str = ""
    answers: Answers | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "observed", _read_only(self.observed, bool))
        for name in PER_CELL:
            values = getattr(self, name)
            if values is not None:
                hidden = np.array(values, dtype=float)
                if name != "propensity":
                    hidden[~self.observed] = np.nan
                object.__setattr__(self, name, _read_only(hidden, float))
        if self.prices is not None:
            object.__setattr__(self, "prices", _read_only(self.prices, float))

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def prompts(self) -> list[str]:
        return self.queries["prompt"].tolist()

    @property
    def groups(self) -> np.ndarray:
        """(n,) integers: queries of one group stand on one side of every split."""
        return self.queries["group"].to_numpy()

    @property
    def tasks(self) -> np.ndarray | None:
        """(n,) task names, or None where the log has no tasks."""
        return self.queries["task"].to_numpy(dtype=object) if "task" in self.queries else None

    @property
    def fully_observed(self) -> np.ndarray:
        """(n,) True where every candidate's outcome is known."""
        return np.asarray(self.observed.all(axis=1))

    @property
    def chosen_only(self) -> bool:
        """Whether every query has one outcome alone, as in a log of decisions."""
        return bool((self.observed.sum(axis=1) == 1).all())

    @property
    def inverse_propensity(self) -> np.ndarray | None:
        """(n, m) how many decisions each observed outcome stands for: 1 / propensity in a log of
        the chosen candidates' outcomes alone; None where some query has several outcomes, or the
        propensity of a chosen candidate is not known."""
        if self.propensity is None or not self.chosen_only:
            return None
        propensity = np.where(self.observed, self.propensity, 1.0)
        return 1 / propensity if (propensity > 0).all() else None

    def take(self, rows: np.ndarray) -> OutcomeMatrix:
        """The outcomes of the given queries alone; rows: positions, or n True and False."""
        return replace(
            self,
            queries=self.queries.iloc[rows].reset_index(drop=True),
            observed=self.observed[rows],
            answers=None if self.answers is None else self.answers.at(rows),
            **{name: values[rows] for name, values in self._per_cell().items()},
        )

    def select(self, candidates: Sequence[str]) -> OutcomeMatrix:
        """The outcomes of the given candidates alone, in the given order; all queries stay.

        Raises RouterError where a name is no candidate or stands twice.
        """
        _require_candidates(candidates, self.candidates, "the outcomes")
        columns = [self.candidates.index(name) for name in candidates]
        return replace(
            self,
            candidates=tuple(candidates),
            observed=self.observed[:, columns],
            answers=None if self.answers is None else self.answers.at(slice(None), columns),
            prices=None if self.prices is None else self.prices[columns],
            price_dates=tuple(self.price_dates[j] for j in columns) if self.price_dates else (),
            **{name: values[:, columns] for name, values in self._per_cell().items()},
        )

    def _per_cell(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in PER_CELL}
        return {name: array for name, array in values.items() if array is not None}

    def to_table(self) -> pd.DataFrame:
        """The long table again: one row per observed outcome. Of further samples, and of tokens'
        log-probabilities, it has the signals that were made of them; free columns it has not."""
        row, column = np.nonzero(self.observed)
        table = self.queries.iloc[row].reset_index(drop=True).drop(columns="group")
        table.insert(2, "model", np.array(self.candidates, dtype=object)[column])
        table.insert(3, "score", self.scores[row, column])
        numbers = {"cost_usd": self.cost, "latency_s": self.latency, "propensity": self.propensity}
        if self.tokens is not None:
            numbers["input_tokens"] = self.tokens[:, :, 0]
            numbers["output_tokens"] = self.tokens[:, :, 1]
        for name, values in numbers.items():
            if values is not None:
                table[name] = values[row, column]
        if self.answers is not None:
            told = {"response": self.answers.text, **self.answers.signals}
            for name, values in told.items():
                if pd.notna(values).any():
                    table[name] = values[row, column]
        if not np.array_equal(pd.factorize(self.groups)[0], group_queries(self.queries["prompt"])):
            table["group"] = self.groups[row].astype(str)
        return table

    def with_target(self, values: np.ndarray) -> OutcomeMatrix:
        """The same queries with another (n, m) number in place of the score, for an estimator of
        cost or tokens."""
        return replace(self, scores=values)

    def mean_scores(self) -> np.ndarray:
        """(m,) mean observed score of each candidate, by `inverse_propensity` where that is known:
        so it is of all queries, not of those alone that the log's policy gave the candidate."""
        return self._observed_mean(self.scores)

    def mean_costs(self) -> np.ndarray | None:
        """(m,) mean observed USD of each candidate, likewise."""
        return None if self.cost is None else self._observed_mean(self.cost)

    def _observed_mean(self, values: np.ndarray) -> np.ndarray:
        """NaN for a candidate without an outcome."""
        stands_for = self.inverse_propensity
        weight = np.where(self.observed, 1.0 if stands_for is None else stands_for, 0.0)
        count = weight.sum(axis=0)
        total = np.where(self.observed, weight * values, 0.0).sum(axis=0)
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def _read_only(values: np.ndarray, dtype: type) -> np.ndarray:
    copy: np.ndarray = np.array(values, dtype=dtype)
    copy.setflags(write=False)
    return copy


def build_matrix(
    table: pd.DataFrame,
    prices: PriceTable | None = None,
    candidates: Sequence[str] | None = None,
    source: str = "the table",
) -> OutcomeMatrix:
    """The dense matrix of a checked long table.

    Costs are tokens x prices where prices are given, else the logged cost_usd; a table with
    neither is judged on quality alone.

    table: as check_table gives it; its index tells the file's rows in messages.
    candidates: the models to route between, in this order; all, sorted by name, if None.

    Raises RouterError where a candidate has no price or no cost, fewer than two candidates or ten
    queries are left, or the scores are all the same.
    """
    if candidates is not None:
        candidates = candidates if isinstance(candidates, str) else [str(c) for c in candidates]
        _require_candidates(candidates, sorted(table["model"].unique()), source)
        table = table[table["model"].isin(candidates)]
    names = tuple(candidates) if candidates is not None else tuple(sorted(table["model"].unique()))
    if len(names) < 2:
        raise RouterError(
            f"{source}: {len(names)} candidate ({', '.join(names) or 'none'}); "
            "a router needs outcomes of at least two, so log another model's answers too."
        )
    if table["score"].min() == table["score"].max():
        raise RouterError(
            f"{source}: column 'score' is {table['score'].iloc[0]:g} in all {len(table):,} rows; "
            "a score that never differs teaches nothing, so log one that tells answers apart."
        )
    row_of_query, query_ids = pd.factorize(table["query_id"])
    column_of_model = pd.Categorical(table["model"], categories=list(names)).codes
    if len(query_ids) < 10:
        raise RouterError(
            f"{source}: {len(query_ids)} queries; log at least 10, as fewer neither train nor "
            "judge a router."
        )

    def is_logged(column: str) -> bool:
        return column in table and bool(table[column].notna().any())

    def dense(column: str) -> np.ndarray:
        values = np.full((len(query_ids), len(names)), np.nan)
        values[row_of_query, column_of_model] = table[column].to_numpy(dtype=float)
        return values

    observed = np.zeros((len(query_ids), len(names)), dtype=bool)
    observed[row_of_query, column_of_model] = True

    cost = tokens = price_array = None
    price_dates: tuple[str, ...] = ()
    has_tokens = is_logged("input_tokens") and is_logged("output_tokens")
    if prices is not None:
        if not has_tokens:
            raise RouterError(
                f"{source}: prices are given but the log has no input_tokens and output_tokens; "
                "add them or log cost_usd."
            )
        _require_complete(table, ["input_tokens", "output_tokens"], source)
        price_array = prices.of(names)
        price_dates = tuple(prices.prices[name].date for name in names)
        tokens = np.stack([dense("input_tokens"), dense("output_tokens")], axis=2)
        cost = np.einsum("nmt,mt->nm", tokens, price_array)
    elif is_logged("cost_usd"):
        _require_complete(table, ["cost_usd"], source)
        cost = dense("cost_usd")
    elif has_tokens:
        raise RouterError(
            f"{source}: the log has tokens but neither cost_usd nor prices; "
            "give data.prices=FILE.yaml, or drop the token columns to judge quality alone."
        )

    if cost is not None:
        _require_priced(cost, names, source)
    queries, logged_groups = _per_query(table)
    queries["group"] = group_queries(queries["prompt"], logged_groups)
    return OutcomeMatrix(
        queries=queries,
        candidates=names,
        scores=dense("score"),
        observed=observed,
        cost=cost,
        tokens=tokens,
        prices=price_array,
        price_dates=price_dates,
        latency=dense("latency_s") if is_logged("latency_s") else None,
        propensity=dense("propensity") if is_logged("propensity") else None,
        fingerprint=fingerprint(table),
        answers=read_answers(table, row_of_query, column_of_model, observed.shape),
    )


def _per_query(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series | None]:
    """(one row per query with what is logged about it, its logged group or None).

    A query is as old as its earliest outcome. Columns that hold nothing are left out.
    """
    by_query = table.groupby("query_id", sort=False)
    logged = [name for name in PER_QUERY if name in table and table[name].notna().any()]
    queries = by_query[logged].first().reset_index()
    if "timestamp" in table and table["timestamp"].notna().any():
        queries["timestamp"] = by_query["timestamp"].min().to_numpy()
    if "task" in queries:
        queries["task"] = queries["task"].fillna("(none)")
    if "gold" in queries:
        queries["gold"] = queries["gold"].eq(1)
    if "group" not in table or table["group"].isna().all():
        return queries, None
    return queries, by_query["group"].first().reset_index(drop=True)


def _require_candidates(wanted: Sequence[str], known: Sequence[str], source: str) -> None:
    if isinstance(wanted, str):
        raise RouterError(f"data.candidates is {wanted!r}; give a list: data.candidates=[a,b].")
    twice = sorted({name for name in wanted if list(wanted).count(name) > 1})
    if twice:
        raise RouterError(f"data.candidates names {listed(twice)} twice; name each once.")
    absent = [name for name in wanted if name not in known]
    if absent:
        raise RouterError(
            f"{source}: no outcome of {listed(absent)}; its models are {listed(known)}; "
            "correct data.candidates."
        )


def _require_complete(table: pd.DataFrame, columns: list[str], source: str) -> None:
    """An unpriced candidate is an error, never free."""
    missing = table[columns].isna().any(axis=1)
    if missing.any():
        models = sorted(table.loc[missing, "model"].unique())
        column = next(name for name in columns if table[name].isna().any())
        rows = table.index[table[column].isna()]
        raise RouterError(
            f"{source}: row {rows[0] + 1}, column '{column}' is missing; "
            f"{missing.sum():,} row{'' if missing.sum() == 1 else 's'} of {listed(models, most=5)} "
            "concerned; log it for every row, or leave these models out with data.candidates."
        )


def _require_priced(cost: np.ndarray, names: Sequence[str], source: str) -> None:
    """A log that writes 0 for "unknown" would make its dearest model the cheapest."""
    free = [name for name, costs in zip(names, cost.T, strict=True) if not np.nansum(costs) > 0]
    if free:
        raise RouterError(
            f"{source}: every answer of {listed(free, most=5)} costs 0 USD; no candidate is free, "
            "so give its price, however small, or leave it out with data.candidates."
        )
