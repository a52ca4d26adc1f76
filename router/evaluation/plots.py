"""The two pictures of a run; readable in black and white."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter

from router.evaluation.evaluate import Evaluation
from router.evaluation.frontier import hull
from router.evaluation.labels import drawable, place_labels

MARKERS = {
    "best single": "*",
    "cheapest": "v",
    "random": "X",
    "prompt length": "d",
    "task-label lookup": "^",
    "oracle": "P",
    "router alone": "p",
    "perfect judge": "h",
}
DPI = 150
INK = "#1a1a1a"
ROUTER = "#0b5394"
MOST_NAMES = 8  # more single models than this are numbered, with a key beside the picture
MOST_IN_KEY = 60
MOST_TASKS = 40


def plot_frontier(evaluation: Evaluation, path: Path) -> None:
    """Quality against cost; without costs, the qualities side by side."""
    n_models = int((evaluation.frontier["kind"] == "candidate").sum())
    numbered = evaluation.band is not None and n_models > MOST_NAMES
    height = max(5.4, 0.19 * (12 + min(n_models, MOST_IN_KEY))) if numbered else 5.4
    figure = Figure(figsize=(9.6, height), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    decision = evaluation.metrics["verdict"]["decision"]
    axes.set_title(
        f"Router on {evaluation.metrics['queries']:,} test queries: {decision}", loc="left"
    )
    if evaluation.band is None:
        _draw_qualities(axes, evaluation)
    else:
        _draw_frontier(axes, evaluation.frontier, evaluation.band, numbered)
    figure.savefig(path, dpi=DPI)


def _draw_frontier(axes: Axes, table: pd.DataFrame, band: np.ndarray, numbered: bool) -> None:
    table = table.assign(cost=table["cost"] * 1000)
    settings, models, baselines, router = (
        table[table["kind"] == kind] for kind in ("frontier", "candidate", "baseline", "router")
    )
    cost, low, high = band.T
    axes.fill_between(cost * 1000, low, high, color=ROUTER, alpha=0.15, lw=0, label="95 % interval")
    axes.plot(settings["cost"], settings["quality"], color=ROUTER, lw=2, label="router, by budget")
    mixed = _mixtures(models[["cost", "quality"]].to_numpy())
    axes.plot(*mixed.T, "--", color=INK, lw=1, label="mixing single models")
    axes.plot(
        models["cost"], models["quality"], "o", color=INK, ms=5, label="single model", zorder=5
    )
    for name, cost, quality in baselines[["name", "cost", "quality"]].itertuples(index=False):
        if name != "cheapest":  # plain to see: it is the single model furthest left
            star = name == "best single"
            axes.plot(
                cost,
                quality,
                MARKERS[name],
                mfc=INK if star else "none",
                mec=INK,
                mew=1.4,
                ms=13 if star else 10,
                label="best single, by train" if star else name,
                zorder=4,
                path_effects=None if star else [withStroke(linewidth=3, foreground="white")],
            )
    axes.plot(  # hollow, so that it hides no other marker
        router["cost"],
        router["quality"],
        "s",
        mfc="none",
        mec=ROUTER,
        mew=2.2,
        ms=14,
        label="router, as exported",
        zorder=6,
    )
    _scale_costs(axes, table["cost"].to_numpy())
    axes.margins(x=0.08, y=0.08)
    axes.set_ylabel("mean score")
    axes.grid(alpha=0.25)

    names = [drawable(name) for name in models["name"]]
    labels = [str(i + 1) for i in range(len(names))] if numbered else names
    key = [f"{i + 1}  {name}" for i, name in enumerate(names)] if numbered else []
    _legend(axes, key)
    points = models[["cost", "quality"]].to_numpy()
    others = pd.concat([settings, baselines, router])[["cost", "quality"]].to_numpy()
    place_labels(axes, labels, points, np.vstack([others, mixed]))


def _mixtures(points: np.ndarray) -> np.ndarray:
    """(g, 2) points of the single models' hull: straight in dollars, hence a curve on a logarithmic
    axis."""
    upper = hull(points)
    cost, quality = upper.T
    steps = np.geomspace(max(cost[0], cost[-1] * 1e-6, 1e-300), max(cost[-1], 1e-300), 200)
    grid = np.unique(np.concatenate([cost, np.clip(steps, cost[0], cost[-1])]))
    return np.column_stack([grid, np.interp(grid, cost, quality)])


def _scale_costs(axes: Axes, costs: np.ndarray) -> None:
    """A logarithmic axis of plain numbers; linear where costs hardly differ, and below the least
    cost where some are zero."""
    label = "mean cost, USD per 1,000 queries"
    positive = costs[costs > 0]
    span = positive.max() / positive.min() if len(positive) else 1.0
    if costs.min() == 0 and len(positive):
        least = float(positive.min())
        axes.set_xscale("symlog", linthresh=least, linscale=0.5)
        label += f" (logarithmic above {least:.2g})"
    elif span > 2:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if span > 300 else (1, 2, 5)))
        label += " (logarithmic)"
    axes.xaxis.set_major_formatter(lambda dollars, _: f"{dollars:g}" if dollars >= 0 else "")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)


def _legend(axes: Axes, key: list[str]) -> None:
    """Beside the axes, where it hides no data; with the key to numbered models, if any."""
    handles, labels = axes.get_legend_handles_labels()
    left_out = len(key) - MOST_IN_KEY
    key = [*key[:MOST_IN_KEY], *([f"and {left_out} more"] if left_out > 0 else [])]
    handles += [Line2D([], [], ls="none") for _ in key]
    legend = axes.figure.legend(
        handles,
        [*labels, *key],
        loc="outside right upper",
        fontsize=8,
        frameon=False,
        markerscale=0.8,
        labelspacing=0.6,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_qualities(axes: Axes, evaluation: Evaluation) -> None:
    judged = {"router": evaluation.metrics["router"], **evaluation.metrics["baselines"]}
    names = list(judged)[::-1]
    for y, name in enumerate(names):
        quality = judged[name]["quality"]
        color = ROUTER if name == "router" else INK
        axes.plot([quality["low"], quality["high"]], [y, y], color=color, lw=2)
        axes.plot(quality["value"], y, MARKERS.get(name, "s"), color=color, ms=8)
    axes.axvline(judged["best single"]["quality"]["value"], color=INK, lw=0.8, ls="--")
    models = {name: judged[name].get("candidate") for name in names}
    _name_rows(axes, [f"{name}\n({drawable(of)})" if of else name for name, of in models.items()])
    axes.set_xlabel("mean score, with 95 % interval (the log has no costs)")
    axes.grid(axis="x", alpha=0.25)


def plot_tasks(tasks: pd.DataFrame, path: Path) -> None:
    """The router's gain over the best single model, task by task."""
    largest = tasks.nlargest(MOST_TASKS, "queries").sort_values("difference")
    figure = Figure(figsize=(8, 1.4 + 0.24 * len(largest)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    y = np.arange(len(largest))
    axes.hlines(y, largest["low"], largest["high"], color=INK, lw=1.5)
    axes.plot(largest["difference"], y, "s", color=ROUTER, ms=5)
    axes.axvline(0, color=INK, lw=0.8, ls="--")
    sizes = zip(largest["task"], largest["queries"], strict=True)
    _name_rows(axes, [f"{drawable(task)} ({n:,})" for task, n in sizes])
    axes.set_ylim(-0.8, len(largest) - 0.2)
    axes.set_xlabel("mean score, router less best single model (95 % interval)")
    left_out = len(tasks) - len(largest)
    suffix = f"; {left_out} smaller tasks not shown" if left_out else ""
    axes.set_title(f"By task (test queries){suffix}", loc="left")
    axes.grid(axis="x", alpha=0.25)
    figure.savefig(path, dpi=DPI)


def _name_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
