"""The two pictures of a run; readable in black and white."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from router.evaluation.evaluate import Evaluation
from router.evaluation.frontier import hull

matplotlib.use("Agg")

MARKERS = {
    "best single": "*",
    "cheapest": "v",
    "random": "X",
    "prompt length": "d",
    "task-label lookup": "^",
    "oracle": "P",
}
DPI = 150
INK = "#1a1a1a"
ROUTER = "#0b5394"
MOST_TASKS = 40


def plot_frontier(evaluation: Evaluation, path: Path) -> None:
    """Quality against cost; without costs, the qualities side by side."""
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axes = figure.add_subplot()
    if evaluation.band is None:
        _draw_qualities(axes, evaluation)
    else:
        _draw_frontier(axes, evaluation)
    decision = evaluation.metrics["verdict"]["decision"]
    axes.set_title(
        f"Router on {evaluation.metrics['queries']:,} test queries: {decision}", loc="left"
    )
    figure.savefig(path, dpi=DPI)


def _draw_frontier(axes: Axes, evaluation: Evaluation) -> None:
    table = evaluation.frontier
    thousand = table.assign(cost=table["cost"] * 1000)
    settings, models, baselines, router = (
        thousand[thousand["kind"] == kind]
        for kind in ("frontier", "candidate", "baseline", "router")
    )

    assert evaluation.band is not None
    cost, low, high = evaluation.band.T
    axes.fill_between(cost * 1000, low, high, color=ROUTER, alpha=0.15, lw=0, label="95 % interval")
    axes.plot(settings["cost"], settings["quality"], color=ROUTER, lw=2, label="router, by budget")
    upper = hull(models[["cost", "quality"]].to_numpy())
    # A mix of two models is straight in dollars, hence a curve on the logarithmic axis.
    grid = np.geomspace(upper[0, 0], upper[-1, 0], 200)
    mixed = np.interp(grid, upper[:, 0], upper[:, 1])
    axes.plot(grid, mixed, "--", color=INK, lw=1, label="mixing single models at random")
    axes.plot(models["cost"], models["quality"], "o", color=INK, ms=6, label="single model")
    cheapest, dearest = models["cost"].min(), models["cost"].max()
    for name, cost, quality in _named_points(models):
        side = "left" if cost == cheapest else "right" if cost == dearest else "center"
        axes.annotate(
            name, (cost, quality), (0, -14), textcoords="offset points", ha=side, fontsize=8
        )
    for name, cost, quality in _named_points(baselines):
        if name in ("best single", "cheapest"):
            continue  # these are single models, drawn already
        axes.plot(
            cost,
            quality,
            MARKERS[name],
            color="white",
            mec=INK,
            ms=9,
            label=name,
            zorder=3,
            mew=1.3,
        )
    axes.plot(
        router["cost"], router["quality"], "s", color=ROUTER, ms=9, label="router, as exported"
    )
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.08)
    axes.set_xlabel("mean cost, USD per 1,000 queries (logarithmic)")
    axes.set_ylabel("mean score")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def _named_points(rows: pd.DataFrame) -> Iterator[tuple[str, float, float]]:
    return zip(rows["name"], rows["cost"], rows["quality"], strict=True)


def _draw_qualities(axes: Axes, evaluation: Evaluation) -> None:
    judged = {"router": evaluation.metrics["router"], **evaluation.metrics["baselines"]}
    names = list(judged)[::-1]
    for y, name in enumerate(names):
        quality = judged[name]["quality"]
        color = ROUTER if name == "router" else INK
        axes.plot([quality["low"], quality["high"]], [y, y], color=color, lw=2)
        axes.plot(quality["value"], y, MARKERS.get(name, "s"), color=color, ms=8)
    labels = [
        f"{name}\n({judged[name]['candidate']})" if "candidate" in judged[name] else name
        for name in names
    ]
    axes.set_yticks(range(len(names)), labels)
    axes.set_xlabel("mean score, with 95 % interval (the log has no costs)")
    axes.grid(axis="x", alpha=0.25)


def plot_tasks(tasks: pd.DataFrame, path: Path) -> None:
    """The router's gain over the best single model, task by task."""
    largest = tasks.nlargest(MOST_TASKS, "queries").sort_values("difference")
    figure = Figure(figsize=(8, 1.4 + 0.24 * len(largest)), layout="constrained")
    axes = figure.add_subplot()
    y = np.arange(len(largest))
    axes.hlines(y, largest["low"], largest["high"], color=INK, lw=1.5)
    axes.plot(largest["difference"], y, "s", color=ROUTER, ms=5)
    axes.axvline(0, color=INK, lw=0.8, ls="--")
    labels = [f"{row.task} ({row.queries})" for row in largest.itertuples()]
    axes.set_yticks(y, labels, fontsize=8)
    axes.set_ylim(-0.8, len(largest) - 0.2)
    axes.set_xlabel("mean score, router less best single model (95 % interval)")
    left_out = len(tasks) - len(largest)
    suffix = f"; {left_out} smaller tasks not shown" if left_out else ""
    axes.set_title(f"By task (test queries){suffix}", loc="left")
    axes.grid(axis="x", alpha=0.25)
    figure.savefig(path, dpi=DPI)
