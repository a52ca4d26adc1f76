"""`router drift`: are recent queries and outcomes still what the router was trained on?"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from rich.text import Text

from router.artifact.runtime import Router
from router.drift.compare import (
    CANNOT_TELL,
    DRIFT,
    NO_DRIFT,
    Comparison,
    Drift,
    Rule,
    Seen,
    Smallest,
    compare,
)
from router.drift.plot import plot_drift
from router.drift.task_shift import TaskShift
from router.encoding.cache import encode_cached
from router.errors import RouterError
from router.evaluation.labels import drawable
from router.json_record import text_of
from router.outcomes.matrix import PER_CELL, OutcomeMatrix
from router.pipelines.console import console
from router.pipelines.parts import build
from router.pipelines.run_folder import output_folder, run_folder, shown
from router.pipelines.train import query_hash
from router.pipelines.values import fits, share, whole_number

log = logging.getLogger(__name__)

EXIT_CODES = {NO_DRIFT: 0, DRIFT: 1, CANNOT_TELL: 2}
STYLES = {NO_DRIFT: "bold green", DRIFT: "bold red", CANNOT_TELL: "bold yellow"}
MOST_ROWS = 20
WIDTH_OF_NAME = 24


def drift(config: DictConfig) -> None:
    """Compare `data` with `reference`; write, draw and print what moved.

    Raises SystemExit with the exit code of a verdict other than "no drift", but in a sweep.
    """
    if config.artifact is None:
        raise RouterError("An artifact is needed: give artifact=FOLDER.")
    rule = _rule(config)
    router = Router(str(config.artifact))
    data, split_by = build(config.data, "data"), build(config.split, "split")
    known = build(config.reference, "reference")
    recent, reference = data.load(), known.load()
    if recent.fingerprint == reference.fingerprint:
        raise RouterError(
            f"{data.name}: data and reference are the same outcomes; give recent ones as data=... "
            "and those that the router was trained on as data@reference=..."
        )
    recent = aligned(recent, router.candidates, "data")
    reference = aligned(reference, router.candidates, "reference")
    held_out = reference.take(split_by(reference).test)
    _warn_of_other_reference(reference, held_out, router)
    _print_sizes(reference, held_out, recent)
    with run_folder(output_folder()) as folder:
        found = compare(
            reference,
            _seen(held_out, router, "Embedding reference prompts"),
            _seen(recent, router, "Embedding recent prompts"),
            router.policy,
            rule,
        )
        record = {
            "decision": found.decision,
            "sentence": found.sentence,
            "comparisons": [one.to_dict() for one in found.comparisons],
            "tasks": _task_rows(found.tasks),
            "rule": asdict(rule),
            "reference": {"name": known.name, **_identity(reference)},
            "held_out_queries": len(held_out),
            "recent": {"name": data.name, **_identity(recent)},
            "recent_prompts_in_reference": _familiar(reference, recent),
            "artifact": router.manifest["sha256"],
        }
        (folder / "drift.json").write_text(text_of(record), encoding="utf-8")
        _frame(found.comparisons).to_csv(folder / "drift.csv", index=False)
        plot_drift(found, f"{data.name} against {known.name}", folder / "drift.png")
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    _print(found)
    console.print(f"Picture    {shown(output_folder()) / 'drift.png'}")
    decision = Text(found.decision, style=STYLES[found.decision])
    console.print(Text.assemble("Verdict    ", decision, f". {found.sentence}"))
    # A sweep over several tables must not end at the first that drifted.
    if EXIT_CODES[found.decision] and HydraConfig.get().mode == RunMode.RUN:
        raise SystemExit(EXIT_CODES[found.decision])


def aligned(outcomes: OutcomeMatrix, candidates: tuple[str, ...], node: str) -> OutcomeMatrix:
    """The artifact's candidates in its order; one that the table lacks has no outcome.

    node: of the configuration that named the table. Raises RouterError where the table has a
    candidate that the artifact does not know.
    """
    extra = [name for name in outcomes.candidates if name not in candidates]
    if len(extra) == len(outcomes.candidates):
        raise RouterError(
            f"{node}: none of its models ({', '.join(extra)}) is one that the artifact may choose "
            f"({', '.join(candidates)}); give the table or log of this router."
        )
    if extra:
        raise RouterError(
            f"{node}: the artifact does not know {', '.join(extra)}; leave it out with "
            f"{node}.candidates=[{','.join(c for c in candidates if c in outcomes.candidates)}]."
        )
    missing = [name for name in candidates if name not in outcomes.candidates]
    if missing:
        log.warning("%s: no outcome of %s, so it cannot be compared.", node, ", ".join(missing))
    column = {name: place for place, name in enumerate(outcomes.candidates)}

    def spread(values: np.ndarray, empty: float) -> np.ndarray:
        absent = np.full(values[:, 0].shape, empty)
        return np.stack([values[:, column[c]] if c in column else absent for c in candidates], 1)

    given = {name: getattr(outcomes, name) for name in PER_CELL}
    cells: dict[str, Any] = {
        name: None if values is None else spread(values, np.nan) for name, values in given.items()
    }
    return replace(
        outcomes,
        candidates=candidates,
        observed=spread(outcomes.observed, False).astype(bool),
        prices=None,
        price_dates=(),
        **cells,
    )


def _rule(config: DictConfig) -> Rule:
    smallest = {}
    for field in fields(Smallest):
        value = config.smallest[field.name]
        if not fits(value, float):
            raise RouterError(f"smallest.{field.name} is {value!r}; give a number above 0.")
        smallest[field.name] = float(value)
    return Rule(
        Smallest(**smallest),
        share(config, "alpha"),
        whole_number(config, "least_groups", least=10),
        whole_number(config, "random_state", least=0),
    )


def _seen(outcomes: OutcomeMatrix, router: Router, label: str) -> Seen:
    vectors = encode_cached(router, outcomes.prompts, label)
    return Seen(outcomes, vectors, router.predict(vectors))


def _warn_of_other_reference(
    reference: OutcomeMatrix, held_out: OutcomeMatrix, router: Router
) -> None:
    trained_on = router.manifest["data"]
    if trained_on["sha256"] != reference.fingerprint:
        log.warning(
            "The reference is not the table that the router was trained on (%s): a drift may be "
            "as old as that difference.",
            trained_on["name"],
        )
    elif trained_on["test_sha256"] != query_hash(held_out):
        log.warning(
            "The router was trained on the reference with another split: it knows some of the "
            "held-out queries, so its predictions of them look too good; give its own split."
        )


def _print_sizes(reference: OutcomeMatrix, held_out: OutcomeMatrix, recent: OutcomeMatrix) -> None:
    what = "decisions" if recent.chosen_only else "queries"
    familiar = _familiar(reference, recent)
    console.print(
        f"Queries    {len(recent):,} recent {what} against {len(reference):,} of the reference "
        f"({len(held_out):,} held out, for vectors and predictions); "
        f"{familiar / len(recent):.0%} of the recent prompts are in the reference"
    )


def _familiar(reference: OutcomeMatrix, recent: OutcomeMatrix) -> int:
    return int(recent.queries["prompt"].isin(reference.queries["prompt"]).sum())


def _identity(outcomes: OutcomeMatrix) -> dict[str, Any]:
    return {"sha256": outcomes.fingerprint, "queries": len(outcomes)}


def _task_rows(tasks: TaskShift | None) -> list[dict[str, Any]]:
    if tasks is None:
        return []
    rows = zip(tasks.tasks, tasks.reference.tolist(), tasks.recent.tolist(), strict=True)
    return [{"task": task, "reference": before, "recent": now} for task, before, now in rows]


def _frame(comparisons: list[Comparison]) -> pd.DataFrame:
    rows = [one.to_dict() for one in comparisons]
    for row in rows:
        shift = row.pop("shift")
        row |= {"shift": shift["value"], "low": shift["low"], "high": shift["high"]}
    names = ["kind", "of", "reference", "recent", "shift", "low", "high", "smallest", "by_queries"]
    names += ["statistic", "p", "p_adjusted", "finding", "obstacle"]
    return pd.DataFrame(rows, columns=names)


def _print(found: Drift) -> None:
    if not found.comparisons:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    headers = ("", "of", "reference", "recent", "shift", "interval", "by tasks", "adj. p", "")
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if place in (0, 1, 8) else "right", no_wrap=True)
    # What moved first; of the rest the furthest from its smallest shift of interest.
    order = sorted(
        found.comparisons,
        key=lambda one: (one.finding != DRIFT, -_nan_last(abs(one.shift.value) / one.smallest)),
    )
    for one in order[:MOST_ROWS]:
        table.add_row(*_row(one), style="bold red" if one.finding == DRIFT else None)
    console.print(table)
    if len(order) > MOST_ROWS:
        console.print(f"and {len(order) - MOST_ROWS} figures that moved less, in drift.csv")
    if found.tasks is not None:
        told = [
            f"{found.tasks.tasks[place]} {found.tasks.reference[place]:.1%} -> "
            f"{found.tasks.recent[place]:.1%}"
            for place in found.tasks.most_moved[:4]
        ]
        console.print(f"Tasks      {', '.join(told)}")
    for reason in dict.fromkeys(one.obstacle for one in found.comparisons if one.obstacle):
        names = [one.name for one in found.comparisons if one.obstacle == reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        console.print(f"Not judged {', '.join(names[:3])}{more}: {reason}")


def _row(one: Comparison) -> list[str]:
    scale = 1000 if one.kind == "cost" else 1

    def figure(value: float, style: str) -> str:
        return "" if math.isnan(value) else format(value, style)

    style = {"vectors": ".3f", "tasks": ".3f", "cost": "+.1%"}.get(one.kind, "+.3f")
    ends = (
        "" if math.isnan(one.shift.low) else f"[{one.shift.low:{style}}, {one.shift.high:{style}}]"
    )
    of = {"vectors": "AUC", "tasks": "stability index"}.get(one.kind, one.of)
    return [
        "cost/1k" if one.kind == "cost" else one.kind,
        drawable(of, WIDTH_OF_NAME),
        figure(scale * one.reference, ",.4f"),
        figure(scale * one.recent, ",.4f"),
        figure(one.shift.value, style),
        ends,
        figure(one.by_queries, style),
        figure(one.p_adjusted, ".1g"),
        one.finding,
    ]


def _nan_last(value: float) -> float:
    return -math.inf if math.isnan(value) else value
