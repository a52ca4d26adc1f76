"""`router ope`: what another policy would have earned on a log of decisions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.table import Table
from rich.text import Text

from router.encoding.cache import encode_cached
from router.evaluation.bootstrap import Interval
from router.evaluation.overlap import (
    Overlap,
    difference_refusal,
    importance_weights,
    refusal,
)
from router.evaluation.verdict import Verdict
from router.json_record import text_of
from router.off_policy.comparison import Comparison, compare
from router.off_policy.diagnostics import (
    by_candidate,
    by_task,
    calibration,
    estimated_propensities,
    miscalibrated,
    recomputed,
)
from router.off_policy.plot import plot_values
from router.off_policy.values import DECIDING, METHODS
from router.off_policy.verdict import judge_against_log
from router.outcomes.decisions import Decisions
from router.outcomes.matrix import OutcomeMatrix
from router.pipelines.console import console, print_outcomes
from router.pipelines.contender import contender
from router.pipelines.evaluate import warn_of_familiar_queries
from router.pipelines.parts import build
from router.pipelines.run_folder import output_folder, run_folder, shown
from router.pipelines.values import amount_or_null, one_of, share, whole_number

STYLES = {
    "better": "bold green",
    "worse": "bold red",
    "cannot tell": "bold yellow",
    "refused": "bold red",
}
UNLIKELY = 0.001  # chance of so many choices, below which the propensities are doubted


@dataclass(frozen=True)
class Settings:
    """The run's own values, beside its parts."""

    propensity: str
    method: str
    cost_weight: float | None
    folds: int
    random_state: int
    resamples: int
    margin: float
    least_effective: int
    most_uncovered: float

    @classmethod
    def of(cls, config: DictConfig) -> Settings:
        """Raises RouterError for the first value that does not fit."""
        return cls(
            propensity=one_of(config, "propensity", ("logged", "estimated")),
            method=one_of(config, "evaluation.method", DECIDING),
            cost_weight=amount_or_null(config, "cost_weight"),
            folds=whole_number(config, "evaluation.folds", least=2),
            random_state=whole_number(config, "evaluation.random_state", least=0),
            resamples=whole_number(config, "evaluation.resamples", least=2),
            margin=share(config, "evaluation.margin"),
            least_effective=whole_number(config, "evaluation.least_effective", least=0),
            most_uncovered=share(config, "evaluation.most_uncovered"),
        )


def ope(config: DictConfig) -> float:
    """Judge the artifact on the log; returns its estimated mean quality there."""
    settings = Settings.of(config)
    data, split_by = build(config.data, "data"), build(config.split, "split")
    encoder, estimator = build(config.encoder, "encoder"), build(config.estimator, "estimator")
    outcomes: OutcomeMatrix = data.load()
    target = contender(config.artifact, "artifact", outcomes)
    logger = None
    if config.logged_by is not None:
        logger = contender(config.logged_by, "logged_by", outcomes)
    print_outcomes(data.name, outcomes)
    test = outcomes.take(split_by(outcomes).test)
    if target.router is not None:
        warn_of_familiar_queries(outcomes, test, target.router)
    vectors = encode_cached(encoder, test.prompts, "Embedding prompts")
    decisions = _decisions(test, vectors, settings)
    wanted = target.probabilities(test)
    with run_folder(output_folder()) as folder, console.status("Judging"):
        overlap = Overlap.of(decisions, wanted)
        found = compare(
            decisions,
            wanted,
            vectors,
            estimator,
            settings.cost_weight,
            settings.folds,
            settings.random_state,
            settings.resamples,
        )
        weight = importance_weights(decisions, wanted)
        refused = refusal(
            overlap, settings.least_effective, settings.most_uncovered
        ) or difference_refusal(weight, np.ones_like(weight))
        verdict = _verdict(found, refused, settings)
        chosen_as_told = calibration(decisions)
        again = None if logger is None else recomputed(decisions, logger.probabilities(test))
        report: dict[str, Any] = {
            "data": {"name": data.name, "sha256": outcomes.fingerprint, "decisions": len(test)},
            "target": target.to_dict(),
            "propensity": settings.propensity,
            "method": settings.method,
            "verdict": verdict.to_dict(),
            "overlap": overlap.to_dict(),
            "figures": {name: asdict(figure) for name, figure in found.figures.items()},
            "relative_cost": None
            if found.relative_cost is None
            else {method: asdict(interval) for method, interval in found.relative_cost.items()},
            "candidates": by_candidate(decisions, wanted).to_dict("records"),
            "tasks": _records(by_task(decisions, wanted)),
            "propensity_calibration": _records(chosen_as_told),
            "recomputed": again,
        }
        (folder / "ope.json").write_text(text_of(report), encoding="utf-8")
        _per_decision(decisions, wanted, found).to_parquet(folder / "decisions.parquet")
        plot_values(found, verdict, folder / "ope.png")
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    _print(report, found, overlap, chosen_as_told, settings)
    console.print(Text.assemble("Verdict    ", _styled(verdict), f". {verdict.sentence}"))
    console.print(f"Picture    {shown(output_folder()) / 'ope.png'}")
    return found.figures["quality"].target[settings.method].value


def _decisions(test: OutcomeMatrix, vectors: np.ndarray, settings: Settings) -> Decisions:
    if settings.propensity == "logged":
        return Decisions.of(test)
    return Decisions.of(
        test, estimated_propensities(vectors, test, settings.folds, settings.random_state)
    )


def _verdict(found: Comparison, refused: str | None, settings: Settings) -> Verdict:
    utility = found.figures.get("utility")
    relative = found.relative_cost
    return judge_against_log(
        found.figures["quality"].difference[settings.method],
        None if relative is None else relative[settings.method],
        None if utility is None else utility.difference[settings.method],
        refused,
        settings.margin,
    )


def _records(table: pd.DataFrame | None) -> list[dict[str, Any]] | None:
    return None if table is None else table.to_dict("records")  # type: ignore[return-value]


def _per_decision(decisions: Decisions, target: np.ndarray, found: Comparison) -> pd.DataFrame:
    """A row per decision: its weight, what it earned, and its values by method."""
    columns: dict[str, Any] = {
        "query_id": decisions.outcomes.queries["query_id"].to_numpy(),
        "chosen": np.array(decisions.candidates, dtype=object)[decisions.chosen],
        "propensity": decisions.propensity,
        "weight": importance_weights(decisions, target),
        "score": decisions.score,
    }
    for figure, of_method in found.per_decision.items():
        for method, values in of_method.items():
            columns[f"{figure}:{method}"] = values
    return pd.DataFrame(columns)


def _print(
    report: dict[str, Any],
    found: Comparison,
    overlap: Overlap,
    chosen_as_told: pd.DataFrame | None,
    settings: Settings,
) -> None:
    console.print(_estimates(found, settings.method))
    if settings.propensity == "estimated":
        console.print(
            "Caution    propensities are estimated from the queries: whatever else the log chose "
            "by biases every figure but the log's own"
        )
    console.print(
        f"Evidence   {overlap.decisions:,} decisions, worth {overlap.effective:,.0f} of the "
        f"target's own; mean weight {overlap.mean_weight:.3f} (1 if propensities are right), "
        f"largest {overlap.largest_weight:,.1f}, heaviest 1 % hold "
        f"{overlap.share_of_heaviest:.0%}; {overlap.uncovered:.1%} of the target's choices were "
        "never made"
    )
    console.print(_candidates(report["candidates"]))
    if chosen_as_told is not None and miscalibrated(chosen_as_told) < UNLIKELY:
        worst = min(chosen_as_told.dropna().to_dict("records"), key=lambda row: row["p"])
        console.print(
            f"Caution    the logged propensities do not hold: {worst['candidate']} was chosen "
            f"{worst['chosen']:,} times, {worst['expected']:,.0f} were to be expected",
            markup=False,
        )
    again = report["recomputed"]
    if again is not None:
        console.print(
            f"Logged by  {again['share_that_differs']:.1%} of the propensities differ from those "
            f"computed now, by up to {again['largest_difference']:.3g}"
        )


def _estimates(found: Comparison, deciding: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("", no_wrap=True)
    headers = ["quality", "target less log", "USD per 1,000", "target less log"]
    for header in headers[:2] if found.relative_cost is None else headers:
        table.add_column(header, justify="right", no_wrap=True)
    quality, cost = found.figures["quality"], found.figures.get("cost")
    row = ["the log", f"{quality.log.value:.4f}", ""]
    table.add_row(*row, *([] if cost is None else [f"{1000 * cost.log.value:,.4f}"]))
    for method in METHODS:
        row = [method, f"{quality.target[method].value:.4f}", _signed(quality.difference[method])]
        if cost is not None and found.relative_cost is not None:
            row.append(f"{1000 * cost.target[method].value:,.4f}")
            row.append(_percent(found.relative_cost[method]))
        table.add_row(*row, style="bold" if method == deciding else None)
    return table


def _candidates(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("candidate", no_wrap=True)
    for header in ("chosen", "log's share", "target's share", "effective", "uncovered"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["candidate"],
            f"{row['chosen']:,}",
            f"{row['log_share']:.1%}",
            f"{row['target_share']:.1%}",
            f"{row['effective']:,.0f}",
            f"{row['uncovered']:.1%}",
        )
    return table


def _signed(interval: Interval) -> str:
    return f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]"


def _percent(interval: Interval) -> str:
    return f"{interval.value:+.1%} [{interval.low:+.1%}, {interval.high:+.1%}]"


def _styled(verdict: Verdict) -> Text:
    return Text(verdict.decision, style=STYLES[verdict.decision])
