"""The picture of a diagnosis: what simple plans score, and what more labels would bring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from router.evaluation.labels import drawable
from router.evaluation.plots import DPI, INK, MARKERS, ROUTER
from router.routability.diagnosis import SHUFFLED, Routability
from router.routability.labels_needed import LearningCurve
from router.routability.levels import BEST, QUICK

MUTED = "0.55"


def plot_routability(found: Routability, title: str, path: Path) -> None:
    """Levels with their intervals on the left, the learning curve on the right."""
    figure = Figure(figsize=(11, 4.8), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    figure.suptitle(title, x=0.01, ha="left", parse_math=False)
    _draw_levels(left, found)
    _draw_curve(right, found.curve)
    figure.savefig(path, dpi=DPI)


def _draw_levels(axes: Axes, found: Routability) -> None:
    # The cheapest lies so low that beside it no difference would be seen.
    names = [name for name in found.levels if name != "cheapest"][::-1]
    for y, name in enumerate(names):
        quality = found.levels[name].quality
        color = ROUTER if name == QUICK else MUTED if name == SHUFFLED else INK
        axes.plot([quality.low, quality.high], [y, y], color=color, lw=2)
        axes.plot(quality.value, y, MARKERS.get(name, "o"), color=color, ms=8)
    best = found.levels[BEST].quality.value
    axes.axvline(best, color=INK, lw=0.8, ls="--")
    if found.luck is not None:
        axes.axvline(found.luck, color=MUTED, lw=1.2, ls=":")
        axes.text(
            found.luck,
            len(names) - 0.45,
            "oracle by luck alone",
            ha="right",
            fontsize=8,
            color="0.35",
        )
    labels = [
        f"{name}\n({drawable(found.best_single, 30)})" if name == BEST else name for name in names
    ]
    axes.set_yticks(range(len(names)), labels, fontsize=8, parse_math=False)
    axes.set_ylim(-0.6, len(names) - 0.1)
    axes.set_xlabel("mean score, cross-validated, with 95 % interval")
    axes.grid(axis="x", alpha=0.25)


def _draw_curve(axes: Axes, curve: LearningCurve | None) -> None:
    axes.set_xlabel("labelled queries learned from (logarithmic)")
    axes.set_ylabel("quick router's gain over the best single model")
    axes.axhline(0, color=INK, lw=0.8, ls="--")
    if curve is None:
        axes.text(0.5, 0.5, "too few points", transform=axes.transAxes, ha="center")
        return
    low, high = np.array([[gain.low, gain.high] for gain in curve.gains]).T
    value = np.array([gain.value for gain in curve.gains])
    axes.vlines(curve.sizes, low, high, color=ROUTER, lw=2)
    axes.plot(curve.sizes, value, "o", color=ROUTER, ms=7, label="measured, 95 % interval")
    grid = np.geomspace(curve.sizes[0], 4 * curve.sizes[-1], 100)
    axes.plot(grid, curve.law.at(grid), color=ROUTER, lw=1, label="power law")
    last, ahead = 4 * curve.sizes[-1], curve.at_four_times
    axes.vlines(last, ahead.low, ahead.high, color=MUTED, lw=2)
    axes.plot(last, ahead.value, "o", color=MUTED, ms=7, mfc="white", label="foreseen at 4 times")
    axes.set_xscale("log")
    ticks = [*curve.sizes, last]
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], fontsize=8)
    axes.set_xticks([], minor=True)
    axes.margins(y=0.2)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    axes.grid(alpha=0.25)
