"""`router gate`: may the candidate take the incumbent's place? A signed verdict, an exit code."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, cast

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from rich.text import Text

from router.encoding.cache import encode_cached
from router.errors import RouterError
from router.estimators.base import Estimator
from router.evaluation.gate import KEEP, PROMOTE, REFUSED, Evidence, Rule, Ruling, decide
from router.evaluation.signed_record import write_signed
from router.off_policy.comparison import rewards_of
from router.off_policy.paired_evidence import paired_evidence
from router.off_policy.reward_model import reward_model
from router.outcomes.decisions import Decisions
from router.outcomes.faults import listed
from router.outcomes.matrix import OutcomeMatrix
from router.pipelines.console import console, print_outcomes
from router.pipelines.contender import Contender, contender
from router.pipelines.parts import build
from router.pipelines.run_folder import output_folder, run_folder, shown
from router.pipelines.train import query_hash
from router.pipelines.values import fits, share, text_or_null, whole_number
from router.policies.expected import Expected
from router.prediction import Prediction
from router.tracking.tracker import FinishedRun, Tracker

EXIT_CODES = {PROMOTE: 0, KEEP: 1, REFUSED: 2}
FOLDS = 5  # of the cross-fitted reward model
STYLES = {PROMOTE: "bold green", KEEP: "bold yellow", REFUSED: "bold red"}
SHOWN_TASKS = 12


def gate(config: DictConfig) -> None:
    """Judge both on the test side of the data; write, record and print the verdict.

    Raises SystemExit with the exit code of a verdict that is not a promotion, but in a sweep.
    """
    rule, signer = _rule(config), _signer(config)
    name = text_or_null(config, "name")
    least_ess = whole_number(config, "least_ess", least=0)
    estimator: Estimator = build(config.estimator, "estimator")
    tracker: Tracker = build(config.tracking, "tracking")
    data, split_by = build(config.data, "data"), build(config.split, "split")
    tracker.prepare()
    outcomes: OutcomeMatrix = data.load()
    candidate = contender(config.candidate, "candidate", outcomes)
    incumbent = contender(config.incumbent, "incumbent", outcomes)
    print_outcomes(data.name, outcomes)
    test = outcomes.take(split_by(outcomes).test)
    faults = tuple(
        f"{one.name} was trained on these outcomes with another split, so it knows some of the "
        "test queries; give its own split."
        for one in (candidate, incumbent)
        if _knows(one, outcomes, test)
    )
    if test.chosen_only:
        evidence = of_log(candidate, incumbent, test, estimator, least_ess, faults)
    else:
        evidence = of_table(candidate, incumbent, test, faults)
    ruling = decide(evidence, rule)
    record = {
        **ruling.to_dict(),
        "evidence": evidence.kind,
        "queries": len(evidence.quality),
        "groups": len(np.unique(evidence.groups)),
        "rule": {**asdict(rule), "least_ess": least_ess},
        "candidate": candidate.to_dict(),
        "incumbent": incumbent.to_dict(),
        "data": {
            "name": data.name,
            "sha256": outcomes.fingerprint,
            "test_queries": len(test),
            "test_sha256": query_hash(test),
        },
        "signed_off_by": signer,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": metadata.version("query-router"),
    }
    with run_folder(output_folder()) as folder:
        write_signed(folder / "gate.json", record)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    _print(ruling, evidence, rule)
    console.print(f"Record     {shown(output_folder()) / 'gate.json'}, signed off by {signer}")
    contest = f"{candidate.name} for {incumbent.name}"
    hint = tracker.record(
        FinishedRun(
            name=name or f"gate: {contest}",
            folder=output_folder(),
            config=cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)),
            metrics=_metrics(ruling),
            tags={
                "data.sha256": outcomes.fingerprint,
                "verdict": ruling.decision,
                "verdict.sentence": ruling.why,
                "signed_off_by": signer,
                "candidate": _identity(candidate),
                "incumbent": _identity(incumbent),
            },
        )
    )
    if hint:
        console.print(f"MLflow     {hint}")
    decision = Text(ruling.decision, style=STYLES[ruling.decision])
    console.print(Text.assemble("Verdict    ", decision, f" {contest}. {ruling.why}"))
    # A sweep over several candidates must not end at the first that is kept out.
    if EXIT_CODES[ruling.decision] and HydraConfig.get().mode == RunMode.RUN:
        raise SystemExit(EXIT_CODES[ruling.decision])


def of_table(
    candidate: Contender, incumbent: Contender, test: OutcomeMatrix, faults: tuple[str, ...]
) -> Evidence:
    """Full-information evidence, from the test queries of which every outcome is known.

    Raises RouterError where there is none.
    """
    names = list(dict.fromkeys((*candidate.candidates, *incumbent.candidates)))
    rows = np.flatnonzero(test.select(names).fully_observed)
    if len(rows) == 0:
        raise RouterError(
            f"None of the {len(test):,} test queries has an outcome of every model that the two "
            f"may ask ({', '.join(names)}); log the missing answers."
        )
    known = test.take(rows)
    left, right = candidate.expected(known), incumbent.expected(known)
    return Evidence(
        quality=np.column_stack([left.score, right.score]),
        cost=_columns(left, right, "cost"),
        latency=_columns(left, right, "latency"),
        groups=known.groups,
        tasks=known.tasks,
        faults=faults,
    )


def of_log(
    candidate: Contender,
    incumbent: Contender,
    test: OutcomeMatrix,
    estimator: Estimator,
    least_ess: float,
    faults: tuple[str, ...],
) -> Evidence:
    """Off-policy evidence, from decisions of which the chosen model's outcome alone is known; the
    reward model is cross-fitted on the vectors of whichever contender has some.

    Raises RouterError where the log has no propensities or never chose what the two may ask.
    """
    decisions = Decisions.of(test)
    asked = {*candidate.candidates, *incumbent.candidates}
    chosen = {test.candidates[j] for j in np.unique(decisions.chosen)}
    if asked - chosen:
        raise RouterError(
            f"The log never chose {listed(sorted(asked - chosen))}, which the two may ask, and so "
            "says nothing of it; log with exploration."
        )
    router = candidate.router or incumbent.router
    vectors = (
        np.zeros((len(test), 1), dtype=np.float32)
        if router is None
        else encode_cached(router, test.prompts, "Embedding for the reward model")
    )
    predicted = {
        name: reward_model(estimator, vectors, decisions, reward, FOLDS)
        for name, reward in rewards_of(decisions).items()
    }
    model = Prediction(
        decisions.candidates,
        predicted["quality"],
        np.zeros_like(predicted["quality"]),
        predicted.get("cost"),
        predicted.get("latency"),
    )
    plans = candidate.probabilities(test), incumbent.probabilities(test)
    return paired_evidence(decisions, *plans, model, least_ess, faults)


def _columns(left: Expected, right: Expected, name: str) -> np.ndarray | None:
    pair = getattr(left, name), getattr(right, name)
    return None if any(values is None for values in pair) else np.column_stack(pair)


def _knows(one: Contender, outcomes: OutcomeMatrix, test: OutcomeMatrix) -> bool:
    if one.router is None:
        return False
    trained_on = one.router.manifest["data"]
    same_table = trained_on["sha256"] == outcomes.fingerprint
    return bool(same_table and trained_on["test_sha256"] != query_hash(test))


def _rule(config: DictConfig) -> Rule:
    margins: dict[str, Any] = {}
    for name in ("quality", "cost", "latency", "task"):
        value = config.margins[name]
        if not fits(value, float if name == "quality" else float | None):
            raise RouterError(f"margins.{name} is {value!r}; give a number from 0 up.")
        margins[name] = value
    least = whole_number(config, "least_groups", least=2)
    return Rule(**margins, alpha=share(config, "alpha"), least_groups=least)


def _signer(config: DictConfig) -> str:
    given = text_or_null(config, "signed_off_by")
    if given is not None:
        return given
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        raise RouterError("Nobody is logged in by name; give signed_off_by=NAME.") from None


def _identity(one: Contender) -> str:
    return one.name if one.router is None else str(one.router.manifest["sha256"])


def _metrics(ruling: Ruling) -> dict[str, Any]:
    """The figures by their place: of the record itself, tasks are a list."""
    compared = {name: asdict(figure) for name, figure in ruling.comparisons.items()}
    return {**compared, "harmed_tasks": sum(task.harmed for task in ruling.tasks)}


def _print(ruling: Ruling, evidence: Evidence, rule: Rule) -> None:
    groups = len(np.unique(evidence.groups))
    console.print(
        f"Evidence   {evidence.kind}: {len(evidence.quality):,} queries in {groups:,} "
        f"independent groups"
    )
    level = f"{1 - 2 * rule.alpha:.0%} interval"
    table = _table("", "candidate", "incumbent", "difference", level, "margin")
    for name, figure in ruling.comparisons.items():
        label, scale = {"cost": ("USD per 1,000", 1000.0), "latency": ("seconds", 1.0)}.get(
            name, ("quality", 1.0)
        )
        style = "+z.4f" if name == "quality" else "+z.1%"
        ends = f"[{figure.difference.low:{style}}, {figure.difference.high:{style}}]"
        margin = "not asked" if figure.margin is None else f"{figure.margin:{style[2:]}}"
        table.add_row(
            label,
            f"{scale * figure.candidate:,.4f}",
            f"{scale * figure.incumbent:,.4f}",
            f"{figure.difference.value:{style}}",
            ends,
            margin,
        )
    console.print(table)
    if not ruling.tasks:
        return
    table = _table("task", "queries", "difference", level, "harm: p")
    worst = sorted(ruling.tasks, key=lambda task: (not task.harmed, task.difference.value))
    for task in worst[:SHOWN_TASKS]:
        table.add_row(
            task.task,
            f"{task.queries:,}",
            f"{task.difference.value:+z.4f}",
            # Of one group alone nothing is known but its mean.
            ""
            if np.isnan(task.difference.low)
            else f"[{task.difference.low:+z.4f}, {task.difference.high:+z.4f}]",
            f"{task.p_adjusted:.2g}",
            style="bold red" if task.harmed else None,
        )
    console.print(table)
    if len(worst) > SHOWN_TASKS:
        console.print(
            f"and {len(worst) - SHOWN_TASKS} tasks with a better difference, in gate.json"
        )


def _table(*headers: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, header in enumerate(headers):
        table.add_column(header, justify="right" if place else "left", no_wrap=True)
    return table
