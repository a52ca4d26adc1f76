"""Read a decision log as an outcome matrix: one observed cell a row, and all propensities."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from router.errors import RouterError
from router.outcomes.faults import listed
from router.outcomes.files import read_table
from router.outcomes.grouping import group_queries
from router.outcomes.log_join import join_outcomes
from router.outcomes.log_lines import read_log
from router.outcomes.log_records import TOLD, prompt_sha256
from router.outcomes.matrix import OutcomeMatrix, build_matrix
from router.outcomes.prices import PriceTable
from router.outcomes.table import check_table

log = logging.getLogger(__name__)

Faults = Literal["error", "drop"]


class DecisionData:
    """Decisions of a router in production (`data=decisions data.path=FOLDER`), each with its chosen
    candidate's outcome and every candidate's propensity.

    Its candidates are all that the log's router knew, chosen or not: of one that was never chosen
    no outcome is observed. Decisions of one prompt, session or user form a group. What cannot be
    used is left out and counted in the log: decisions without a score, or of several candidates
    that were asked together, and outcomes of unknown requests.

    path: the log's folder, one of its files, or a pattern that matches some.
    candidates: the models to route between; all if None. Decisions for others are left out, and
        propensities are then given that the choice fell on one of these.
    prices: YAML price table; then costs are tokens x prices.
    prompts: Parquet, CSV or JSONL file with a column prompt, to find the prompts of a log that kept
        hashes.
    faults: "error" stops at faulty lines and at scores without a cost (where others have one),
        "drop" leaves them out.
    """

    def __init__(
        self,
        path: str | Path,
        candidates: Sequence[str] | None = None,
        prices: str | Path | None = None,
        prompts: str | Path | None = None,
        faults: Faults = "error",
    ):
        if faults not in ("error", "drop"):
            raise RouterError(f"data.faults is {faults!r}; choose error or drop.")
        self.path = path
        self.candidates = candidates
        self.prices = prices
        self.prompts = prompts
        self.faults: Faults = faults

    @property
    def name(self) -> str:
        return Path(self.path).stem

    def load(self) -> OutcomeMatrix:
        """Read, join, check and price the decisions.

        Raises RouterError where a line is faulty, no decision has a score, or a prompt is unknown.
        """
        joined = join_outcomes(read_log(self.path, self.faults))
        log.info("%s: %s", self.path, joined.summary())
        records = joined.decisions
        if not records:
            raise RouterError(
                f"{self.path}: none of {joined.chosen.total():,} decisions has a score; log "
                "outcomes with the request_id of their decisions."
            )
        names = sorted({name for record in records for name in record["probabilities"]})
        if self.candidates is not None:
            names = self._wanted(names)
            records = [record for record in records if record["chosen"] in names]
            if not records:
                raise RouterError(f"{self.path}: no decision with a score chose {listed(names)}.")
            if len(records) < len(joined.decisions):
                left_out = len(joined.decisions) - len(records)
                log.info("%d decisions left out: they chose other candidates.", left_out)
        prices = PriceTable.read(self.prices) if self.prices else None
        records = self._priced(self._with_prompts(records), prices is not None)
        table = check_table(_table(records), str(self.path))
        outcomes = build_matrix(table, prices, source=str(self.path))
        propensity = _propensities(records, names)
        complete = _with_candidates(outcomes, names, prices)
        queries = complete.queries.assign(group=_groups(complete.prompts, records))
        return replace(complete, queries=queries, propensity=propensity)

    def _wanted(self, known: Sequence[str]) -> list[str]:
        names = [str(name) for name in self.candidates or ()]
        absent = [name for name in names if name not in known]
        if absent or len(set(names)) < len(names):
            raise RouterError(
                f"data.candidates is {listed(names)}; name each once, of {listed(known)}."
            )
        return names

    def _with_prompts(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if all(record.get("prompt") for record in records):
            return records
        known: dict[str, str] = {}
        if self.prompts is not None:
            table = read_table(self.prompts)
            if "prompt" not in table:
                raise RouterError(f"{self.prompts}: no column 'prompt'; give one with the prompts.")
            known = {prompt_sha256(text): text for text in table["prompt"].dropna().astype(str)}
        found = [
            {**record, "prompt": record.get("prompt") or known.get(record["query_sha256"])}
            for record in records
        ]
        with_prompt = [record for record in found if record["prompt"]]
        lacking = len(found) - len(with_prompt)
        if lacking and (self.faults == "error" or not with_prompt):
            remedy = (
                "give data.prompts=FILE with a column prompt, or log with keep=text"
                if self.prompts is None
                else f"add them to {self.prompts}, or leave these out with data.faults=drop"
            )
            raise RouterError(
                f"{self.path}: the log has the hash alone of {lacking:,} of {len(found):,} "
                f"prompts; {remedy}."
            )
        if lacking:
            log.warning("%d decisions left out: their prompt is not known.", lacking)
        return with_prompt

    def _priced(self, records: list[dict[str, Any]], by_tokens: bool) -> list[dict[str, Any]]:
        """Costs are known of all decisions or of none."""
        needed = ("input_tokens", "output_tokens") if by_tokens else ("cost_usd",)
        known = [all(record[name] is not None for name in needed) for record in records]
        if all(known) or not any(known):
            return records
        sentence = (
            f"{self.path}: request '{records[known.index(False)]['request_id']}' has a score but "
            f"no {' and '.join(needed)}; {known.count(False):,} of {len(records):,} decisions "
            "concerned"
        )
        if self.faults == "error":
            raise RouterError(f"{sentence}; log it, or leave them out with data.faults=drop.")
        log.warning("%s; they are left out.", sentence)
        return list(compress(records, known))


def _table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The outcome table: a row per decision."""
    renamed = {"request_id": "query_id", "time": "timestamp", "chosen": "model"}
    columns = [*renamed, "prompt", *TOLD]
    rows = [{renamed.get(name, name): record[name] for name in columns} for record in records]
    table = pd.DataFrame(rows, dtype=object).drop(columns="retries")
    # What is no Unicode text was read as the replacement character when it was routed.
    table["prompt"] = [text.encode("utf-8", "replace").decode() for text in table["prompt"]]
    table["propensity"] = [record["probabilities"][record["chosen"]] for record in records]
    return table


def _propensities(records: Sequence[dict[str, Any]], names: Sequence[str]) -> np.ndarray:
    """(n, m) summing to one: given that the choice fell on one of the names."""
    logged = [[record["probabilities"].get(name, 0.0) for name in names] for record in records]
    propensity = np.array(logged, dtype=float)
    return np.asarray(propensity / propensity.sum(axis=1, keepdims=True))


def _groups(prompts: Sequence[str], records: Sequence[dict[str, Any]]) -> np.ndarray:
    """(n,) integers: equal where prompt, session or user are."""
    groups = pd.Series(prompts)
    for name in ("session", "user"):
        logged = pd.Series([record.get(name) for record in records], dtype=object)
        groups = pd.Series(group_queries(groups, logged)).astype(str)
    return groups.astype(int).to_numpy()


def _with_candidates(
    outcomes: OutcomeMatrix, names: Sequence[str], prices: PriceTable | None
) -> OutcomeMatrix:
    """The outcomes among all named candidates, in this order; of the new ones none is observed."""
    columns = [names.index(name) for name in outcomes.candidates]

    def spread(values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        wide = np.full((len(values), len(names), *values.shape[2:]), np.nan)
        wide[:, columns] = values
        return wide

    observed = np.zeros((len(outcomes), len(names)), dtype=bool)
    observed[:, columns] = outcomes.observed
    scores = spread(outcomes.scores)
    assert scores is not None
    return replace(
        outcomes,
        candidates=tuple(names),
        scores=scores,
        observed=observed,
        cost=spread(outcomes.cost),
        tokens=spread(outcomes.tokens),
        latency=spread(outcomes.latency),
        propensity=None,
        prices=None if prices is None else prices.of(names),
        price_dates=() if prices is None else tuple(prices.prices[name].date for name in names),
    )
