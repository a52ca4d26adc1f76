"""What a run prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from router.artifact.runtime import Decision, Router
from router.outcomes.matrix import OutcomeMatrix

WIDE_ENOUGH = 110
# No markup: names of models, tasks and files may hold brackets and colons.
console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
if not console.is_terminal:
    console.width = WIDE_ENOUGH

STYLES = {"pays": "bold green", "does not pay": "bold red", "cannot tell": "bold yellow"}


def print_outcomes(name: str, outcomes: OutcomeMatrix) -> None:
    """One line: size, candidates, share observed."""
    observed = outcomes.observed.mean()
    costs = "quality only, no costs" if outcomes.cost is None else "with costs"
    console.print(
        f"Outcomes   {name}: {len(outcomes):,} queries x {len(outcomes.candidates)} candidates, "
        f"{observed:.0%} observed, {costs}"
    )


def print_candidates(outcomes: OutcomeMatrix) -> None:
    """A row per candidate."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for header in (
        "candidate",
        "outcomes",
        "mean score",
        "USD per 1,000",
        "input tok",
        "output tok",
    ):
        table.add_column(header, justify="left" if header == "candidate" else "right")
    costs = outcomes.mean_costs()
    for j, name in enumerate(outcomes.candidates):
        tokens = ("", "")
        if outcomes.tokens is not None:
            mean = np.nanmean(outcomes.tokens[:, j], axis=0)
            tokens = (f"{mean[0]:,.0f}", f"{mean[1]:,.0f}")
        table.add_row(
            name,
            f"{int(outcomes.observed[:, j].sum()):,}",
            f"{outcomes.mean_scores()[j]:.4f}",
            "" if costs is None else f"{1000 * costs[j]:,.4f}",
            *tokens,
        )
    console.print(table)


def print_comparison(metrics: dict[str, Any]) -> None:
    """The router and its baselines, side by side."""
    router = metrics["router"]
    priced, timed = "cost" in router, "latency" in router
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("", no_wrap=True)
    headers = ["quality", "95 % interval", "gain on best single"]
    headers += ["USD per 1,000", "cost"] if priced else []
    for header in [*headers, *(["seconds"] if timed else [])]:
        table.add_column(header, justify="right", no_wrap=True)
    reference = metrics["baselines"]["best single"]
    for name, judged in {"router": router, **metrics["baselines"]}.items():
        quality = judged["quality"]
        gain = quality["value"] - reference["quality"]["value"]
        row = [
            name,
            f"{quality['value']:.4f}",
            f"[{quality['low']:.4f}, {quality['high']:.4f}]",
            "" if name == "best single" else f"{gain:+.4f}",
        ]
        if priced:
            cost, full = judged["cost"]["value"], reference["cost"]["value"]
            row += [f"{1000 * cost:,.4f}", f"{cost / full:.0%}" if full > 0 else ""]
        if timed:
            row.append(f"{judged['latency']['value']:,.3f}")
        table.add_row(*row, style="bold" if name == "router" else None)
    console.print(table)
    evidence = metrics["evidence"]
    if "decisions" in evidence:
        console.print(
            f"Evidence   {evidence['kind']}: {evidence['decisions']:,} logged decisions, worth "
            f"{evidence['effective']:,.0f} of the router's own"
        )
    named = {name: metrics["baselines"].get(name, {}) for name in ("best single", "cheapest")}
    models = [f"{name} is {of['candidate']}" for name, of in named.items() if of]
    console.print(f"Models     {', '.join(models)}")
    shares = sorted(router["shares"].items(), key=lambda item: -item[1])
    traffic = ", ".join(f"{name} {share:.1%}" for name, share in shares)
    console.print(f"Traffic    {traffic}")
    if priced:
        area, single = router["aiq"], router["aiq_single_models"]
        gain = router["aiq_gain"]
        oracle = f"oracle {router['aiq_oracle']:.4f}; " if "aiq_oracle" in router else ""
        console.print(
            f"Frontier   AIQ {area['value']:.4f} [{area['low']:.4f}, {area['high']:.4f}], "
            f"single models {single['value']:.4f}, "
            f"gain (cross-fitted) {gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}], "
            f"{oracle}QNC {_figure(router['qnc'], 2)}"
        )
    if "two_candidates" in router:
        two = router["two_candidates"]
        console.print(
            f"RouteLLM   APGR {_figure(two['apgr'], 3)}, CPT 20/50/80 % "
            f"{'/'.join(_figure(two[name], 1) for name in ('cpt20', 'cpt50', 'cpt80'))} "
            "% strong calls"
        )
    budget = metrics["policy"].get("budget")
    if priced and budget is not None:
        spent = router["cost"]
        kept = "kept" if spent["low"] <= budget else "exceeded"
        console.print(
            f"Budget     {kept}: USD {1000 * budget:,.4f} per 1,000 promised, "
            f"{1000 * spent['value']:,.4f} "
            f"[{1000 * spent['low']:,.4f}, {1000 * spent['high']:,.4f}] spent on the test side",
            markup=False,
        )
    verdict = metrics["verdict"]
    style = STYLES[verdict["decision"]]
    decision = Text(verdict["decision"], style=style)
    console.print(Text.assemble("Verdict    ", decision, f". {verdict['sentence']}"))


def _figure(value: float, digits: int) -> str:
    """A figure that need not exist, such as the cost of a quality that is never reached."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "none"


def print_examples(router: Router, prompts: Sequence[str]) -> None:
    """Route some prompts with the artifact."""
    for prompt in prompts:
        decision = router.route(prompt)
        console.print(f"Example    {prompt!r}\n           -> {describe(decision)}")


def describe(decision: Decision) -> str:
    """A decision in one line."""
    figures = f"predicted quality {decision.quality[decision.candidate]:.3f}"
    if decision.cost is not None:
        figures += f", ${decision.cost[decision.candidate]:.6f}"
    return f"{decision.candidate} ({figures}): {decision.reason}"
