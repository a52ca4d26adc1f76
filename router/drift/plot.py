"""The picture of a drift report: where recent queries and outcomes moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from router.drift.compare import CANNOT_TELL, DRIFT, NO_DRIFT, Comparison, Drift
from router.drift.task_shift import TaskShift
from router.drift.two_samples import Separation
from router.evaluation.labels import drawable
from router.evaluation.plots import DPI, INK, ROUTER

ALARM, MUTED = "#b3261e", "0.6"
COLORS = {DRIFT: ALARM, NO_DRIFT: ROUTER, CANNOT_TELL: MUTED}
MOST_ROWS = 12
BINS = 10
TITLES = {
    "score": "score within tasks",
    "cost": "cost within tasks",
    "bias": "bias: predicted less observed score",
    "error": "error: mean square of the bias, within tasks",
}


def plot_drift(found: Drift, title: str, path: Path) -> None:
    """Queries on the left, outcomes in the middle, predictions on the right. In the shaded range a
    shift is smaller than what is of interest."""
    figure = Figure(figsize=(15, 7.6), dpi=DPI, layout="constrained")
    figure.suptitle(f"{title}: {found.decision}", x=0.01, ha="left", parse_math=False)
    axes = figure.subplots(2, 3)
    _draw_vectors(axes[0, 0], found)
    _draw_tasks(axes[1, 0], found)
    for place, kind in ((axes[0, 1], "score"), (axes[1, 1], "cost"), (axes[0, 2], "bias"),
                        (axes[1, 2], "error")):  # fmt: skip
        _draw_shifts(place, kind, [one for one in found.comparisons if one.kind == kind])
    key = [Line2D([], [], ls="", marker="o", color=COLORS[of], label=of) for of in COLORS]
    key.append(Line2D([], [], ls="", marker="|", color=INK, ms=11, label="by other tasks alone"))
    figure.legend(handles=key, loc="outside upper right", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=DPI)


def _draw_vectors(axes: Axes, found: Drift) -> None:
    separation: Separation | None = found.separation
    of_vectors = [one for one in found.comparisons if one.kind == "vectors"]
    _heading(axes, of_vectors, "vectors")
    if separation is None:
        _say(axes, "too few queries")
        return
    color = COLORS[of_vectors[0].finding]
    edges = np.linspace(0, 1, BINS + 1)
    for name, values, ink, width in (
        ("reference", separation.reference, MUTED, 1.5),
        ("recent", separation.recent, color, 2.5),
    ):
        shares = np.histogram(values, edges)[0] / len(values)
        axes.stairs(shares, edges, color=ink, lw=width, label=name)
    axes.set_xlabel("how recent a query looks to a classifier")
    axes.set_ylabel("share of queries")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)


def _draw_tasks(axes: Axes, found: Drift) -> None:
    tasks: TaskShift | None = found.tasks
    of_tasks = [one for one in found.comparisons if one.kind == "tasks"]
    _heading(axes, of_tasks, "tasks")
    if tasks is None:
        _say(axes, "fewer than two tasks to compare")
        return
    color = COLORS[of_tasks[0].finding]
    shown = tasks.most_moved[:MOST_ROWS][::-1]
    rows = np.arange(len(shown))
    before, now = tasks.reference[shown], tasks.recent[shown]
    axes.hlines(rows, before, now, color=color, lw=2)
    axes.plot(before, rows, "o", color=color, mfc="white", ms=7, label="reference")
    axes.plot(now, rows, "o", color=color, ms=7, label="recent")
    names = [drawable(tasks.tasks[place], 28) for place in shown]
    axes.set_yticks(rows, names, fontsize=8, parse_math=False)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlim(left=0)
    axes.set_xlabel(_of_all("share of queries", len(shown), len(tasks.tasks), "tasks"))
    axes.grid(axis="x", alpha=0.25)
    axes.legend(fontsize=8, frameon=False)


def _draw_shifts(axes: Axes, kind: str, compared: list[Comparison]) -> None:
    axes.set_title(TITLES[kind], loc="left", fontsize=10)
    known = [one for one in compared if not np.isnan(one.shift.value)]
    if not known:
        _say(axes, "not compared")
        return
    smallest = known[0].smallest
    largest = sorted(known, key=lambda one: (one.finding != DRIFT, -abs(one.shift.value)))
    shown = [one for one in known if one in largest[:MOST_ROWS]][::-1]
    axes.axvspan(-smallest, smallest, color="0.93", lw=0)
    axes.axvline(0, color=INK, lw=0.8)
    for row, one in enumerate(shown):
        color = COLORS[one.finding]
        axes.plot([one.shift.low, one.shift.high], [row, row], color=color, lw=2)
        axes.plot(one.shift.value, row, "o", color=color, ms=7)
        if not np.isnan(one.by_queries):
            axes.plot(one.by_queries, row, "|", color=INK, ms=11, mew=1.5)
    labels = [drawable(one.of, 28) for one in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=8, parse_math=False)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    change = "change, as a share" if kind == "cost" else "recent less reference"
    axes.set_xlabel(_of_all(change, len(shown), len(known), "figures"))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="x", alpha=0.25)
    if kind == "cost":
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:+.0%}")


def _heading(axes: Axes, compared: list[Comparison], kind: str) -> None:
    what = compared[0].sentence if compared else kind
    axes.set_title(what, loc="left", fontsize=10)


def _of_all(label: str, shown: int, count: int, what: str) -> str:
    return label if shown == count else f"{label} ({shown} of {count} {what})"


def _say(axes: Axes, what: str) -> None:
    axes.text(0.5, 0.5, what, transform=axes.transAxes, ha="center", va="center", color="0.35")
    axes.set_xticks([])
    axes.set_yticks([])
