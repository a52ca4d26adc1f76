"""Queries x candidates arrays with a mask of what was observed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from router.errors import RouterError
from router.outcomes.prices import PriceTable


@dataclass(frozen=True)
class OutcomeMatrix:
    """Outcomes of n queries and m candidates. Arrays are read-only; unobserved cells hold NaN.

    A missing outcome is never a zero: whoever reads a cell outside `observed` gets NaN, and the
    NaN shows in the result.

    queries: frame of n rows: query_id, prompt, group, and where logged task, split, timestamp.
    candidates: the m candidates.
    scores: (n, m) in [0, 1].
    observed: (n, m) True where an outcome was logged.
    cost: (n, m) USD per answer, or None where the log knows no cost.
    tokens: (n, m, 2) input and output tokens, or None; then cost = tokens x prices.
    prices: (m, 2) USD per input and output token, or None.
    price_dates: the day of each candidate's price, or empty.
    latency: (n, m) seconds, or None.
    propensity: (n, m) probability with which the candidate was chosen, or None.
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
    fingerprint: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in ("scores", "cost", "tokens", "latency", "propensity"):
            values = getattr(self, name)
            if values is not None:
                hidden = np.array(values, dtype=float)
                hidden[~self.observed] = np.nan
                hidden.setflags(write=False)
                object.__setattr__(self, name, hidden)
        self.observed.setflags(write=False)

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

    def take(self, rows: np.ndarray) -> OutcomeMatrix:
        """The outcomes of the given queries alone."""
        per_query = {
            name: getattr(self, name)[rows]
            for name in ("scores", "cost", "tokens", "latency", "propensity")
            if getattr(self, name) is not None
        }
        return replace(
            self,
            queries=self.queries.iloc[rows].reset_index(drop=True),
            observed=self.observed[rows],
            **per_query,
        )

    def select(self, candidates: Sequence[str]) -> OutcomeMatrix:
        """The outcomes of the given candidates alone, in the given order."""
        columns = [self.candidates.index(name) for name in candidates]
        per_cell = {
            name: getattr(self, name)[:, columns]
            for name in ("scores", "cost", "tokens", "latency", "propensity")
            if getattr(self, name) is not None
        }
        return replace(
            self,
            candidates=tuple(candidates),
            observed=self.observed[:, columns],
            prices=None if self.prices is None else self.prices[columns],
            price_dates=tuple(self.price_dates[j] for j in columns) if self.price_dates else (),
            **per_cell,
        )

    def to_table(self) -> pd.DataFrame:
        """The long table again: one row per observed outcome."""
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
        table["group"] = self.groups[row].astype(str)
        return table

    def with_target(self, values: np.ndarray) -> OutcomeMatrix:
        """The same queries with another (n, m) number in place of the score, for an estimator of
        cost or tokens."""
        return replace(self, scores=values)

    def mean_scores(self) -> np.ndarray:
        """(m,) mean observed score of each candidate."""
        return _observed_mean(self.scores, self.observed)

    def mean_costs(self) -> np.ndarray | None:
        """(m,) mean observed USD of each candidate."""
        return None if self.cost is None else _observed_mean(self.cost, self.observed)


def _observed_mean(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    return np.where(observed, values, 0.0).sum(axis=0) / observed.sum(axis=0)


def build_matrix(
    table: pd.DataFrame,
    prices: PriceTable | None = None,
    candidates: Sequence[str] | None = None,
    source: str = "the table",
) -> OutcomeMatrix:
    """The dense matrix of a checked long table.

    Costs are tokens x prices where prices are given, else the logged cost_usd; a table with
    neither is judged on quality alone.

    Raises RouterError where a candidate has no price or no cost, or fewer than two candidates or
    queries are left.
    """
    if candidates is not None:
        absent = sorted(set(candidates) - set(table["model"]))
        if absent:
            raise RouterError(
                f"{source}: no outcome of {', '.join(map(repr, absent))}; correct data.candidates."
            )
        table = table[table["model"].isin(candidates)]
    names = tuple(candidates) if candidates is not None else tuple(sorted(table["model"].unique()))
    if len(names) < 2:
        raise RouterError(
            f"{source}: {len(names)} candidate ({', '.join(names) or 'none'}); "
            "a router needs outcomes of at least two."
        )
    if table["score"].min() == table["score"].max():
        raise RouterError(
            f"{source}: all {len(table)} scores equal {table['score'].iloc[0]:g}; "
            "there is nothing to learn from a score that never differs."
        )
    row_of_query, query_ids = pd.factorize(table["query_id"])
    column_of_model = pd.Categorical(table["model"], categories=list(names)).codes
    if len(query_ids) < 10:
        raise RouterError(
            f"{source}: {len(query_ids)} queries; at least 10 are needed to train and judge."
        )

    def dense(column: str) -> np.ndarray:
        values = np.full((len(query_ids), len(names)), np.nan)
        values[row_of_query, column_of_model] = table[column].to_numpy(dtype=float)
        return values

    observed = np.zeros((len(query_ids), len(names)), dtype=bool)
    observed[row_of_query, column_of_model] = True

    cost = tokens = price_array = None
    price_dates: tuple[str, ...] = ()
    has_tokens = {"input_tokens", "output_tokens"} <= set(table.columns) and bool(
        table[["input_tokens", "output_tokens"]].notna().any().all()
    )
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
    elif "cost_usd" in table and table["cost_usd"].notna().any():
        _require_complete(table, ["cost_usd"], source)
        cost = dense("cost_usd")
    elif has_tokens:
        raise RouterError(
            f"{source}: the log has tokens but neither cost_usd nor prices; "
            "give data.prices=FILE.yaml, or drop the token columns to judge quality alone."
        )

    first_rows = ~table["query_id"].duplicated().to_numpy()
    kept = [c for c in ("query_id", "prompt", "task", "split", "timestamp") if c in table]
    queries = table.loc[first_rows, kept].reset_index(drop=True)
    logged_groups = (
        table.loc[first_rows, "group"].reset_index(drop=True) if "group" in table else None
    )
    queries["group"] = group_queries(queries["prompt"], logged_groups)
    if "task" in queries:
        queries["task"] = queries["task"].fillna("(none)")
    return OutcomeMatrix(
        queries=queries,
        candidates=names,
        scores=dense("score"),
        observed=observed,
        cost=cost,
        tokens=tokens,
        prices=price_array,
        price_dates=price_dates,
        latency=dense("latency_s") if "latency_s" in table else None,
        propensity=dense("propensity") if "propensity" in table else None,
        fingerprint=fingerprint(table),
    )


def _require_complete(table: pd.DataFrame, columns: list[str], source: str) -> None:
    """An unpriced candidate is an error, never free."""
    missing = table[columns].isna().any(axis=1)
    if missing.any():
        models = sorted(table.loc[missing, "model"].unique())
        raise RouterError(
            f"{source}: {int(missing.sum())} rows of {', '.join(map(repr, models[:5]))} have no "
            f"{' or '.join(columns)}; log them for every row, or leave these models out with "
            "data.candidates."
        )


def group_queries(prompts: pd.Series, logged_groups: pd.Series | None) -> np.ndarray:
    """(n,) integers: equal where prompts are identical or the logged group is the same."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(prompts)
    same_prompt, _ = pd.factorize(prompts.str.strip())
    if logged_groups is None or logged_groups.isna().all():
        return same_prompt
    same_group, unique_groups = pd.factorize(logged_groups)
    known = np.flatnonzero(same_group >= 0)
    nodes = n + same_prompt.max() + 1 + len(unique_groups)
    rows = np.concatenate([np.arange(n), known])
    columns = np.concatenate([n + same_prompt, n + same_prompt.max() + 1 + same_group[known]])
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(nodes, nodes))
    _, component = connected_components(links, directed=False)
    groups, _ = pd.factorize(component[:n])
    return groups


def fingerprint(table: pd.DataFrame) -> str:
    """SHA-256 of the outcomes, whatever the order of rows and columns."""
    columns = sorted(column for column in table.columns if column != "response")
    ordered = table.sort_values(["query_id", "model"])[columns].reset_index(drop=True)
    row_hashes = pd.util.hash_pandas_object(ordered, index=False)
    digest = hashlib.sha256(",".join(columns).encode())
    digest.update(row_hashes.to_numpy().tobytes())
    return digest.hexdigest()
