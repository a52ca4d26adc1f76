"""The picture of an off-policy evaluation."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure as Picture

from router.evaluation.verdict import Verdict
from router.off_policy.comparison import Comparison

INK, BLUE = "#1a1a1a", "#0b5394"
DPI = 150


def plot_values(found: Comparison, verdict: Verdict, path: Path) -> None:
    """Estimates of the target by every method beside the log's own mean: quality, and cost where
    the log knows it."""
    names = [name for name in ("quality", "cost") if name in found.figures]
    picture = Picture(figsize=(4.8 * len(names), 3.6), dpi=DPI, layout="constrained")
    panels = picture.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axes, name in zip(panels, names, strict=True):
        figure = found.figures[name]
        scale = 1000 if name == "cost" else 1
        axes.axvspan(scale * figure.log.low, scale * figure.log.high, color=INK, alpha=0.12, lw=0)
        axes.axvline(scale * figure.log.value, color=INK, lw=1, label="the log's policy")
        methods = list(figure.target)[::-1]
        for row, method in enumerate(methods):
            interval = figure.target[method]
            axes.plot([scale * interval.low, scale * interval.high], [row, row], color=BLUE, lw=1.6)
            axes.plot(scale * interval.value, row, "o", color=BLUE, ms=5)
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(-0.6, len(methods) - 0.4)
        axes.set_xlabel("mean score" if name == "quality" else "USD per 1,000 queries")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].legend(loc="best", frameon=False, fontsize=8)
    picture.suptitle(f"The target policy, judged on the log: {verdict.decision}", fontsize=11)
    picture.savefig(path, dpi=DPI)
