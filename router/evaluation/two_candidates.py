"""RouteLLM's metrics for a strong and a weak model (arXiv 2406.18665, section 4.1)."""

from __future__ import annotations

import numpy as np
import pandas as pd


def strong_share_curve(gap: np.ndarray, weak: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """(n + 1, 2) share of strong calls and mean score, as the queries of largest gap go to the
    strong model first; rising in share. Queries of equal gap count in their expected order."""
    order = np.argsort(-gap, kind="stable")
    gains = (strong - weak)[order]
    _, tie = np.unique(-gap[order], return_inverse=True)
    expected = (np.bincount(tie, gains) / np.bincount(tie))[tie]
    scores = weak.mean() + np.concatenate([[0.0], expected.cumsum()]) / len(gap)
    return np.stack([np.linspace(0, 1, len(gap) + 1), scores], axis=1)


def decile_curve(gap: np.ndarray, weak: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """(11, 2) the same curve at the eleven thresholds of RouteLLM's released code: the decile edges
    of the gap, strong where gap >= edge, and > at the last edge. Where edges coincide, which that
    code refuses, they count once."""
    _, edges = pd.qcut(pd.Series(gap), 10, retbins=True, duplicates="drop")
    # At the first edge every call is strong, beyond the last none is.
    points = [(0.0, weak.mean())]
    for edge in edges[-2:0:-1]:
        to_strong = gap >= edge
        points.append((to_strong.mean(), np.where(to_strong, strong, weak).mean()))
    return np.array([*points, (1.0, strong.mean())])


def performance_gap_recovered(score: float, weak: float, strong: float) -> float:
    """PGR: 0 at the weak, 1 at the strong model's mean score."""
    return (score - weak) / (strong - weak)


def average_pgr(curve: np.ndarray) -> float:
    """APGR: PGR averaged over the share of strong calls, by the trapezoid rule."""
    weak, strong = curve[0, 1], curve[-1, 1]
    area = np.trapezoid(curve[:, 1], curve[:, 0])
    return float((area - weak) / (strong - weak))


def call_performance_threshold(curve: np.ndarray, pgr: float) -> float:
    """CPT: the least share of strong calls whose PGR is at least `pgr`."""
    weak, strong = curve[0, 1], curve[-1, 1]
    recovered = (curve[:, 1] - weak) / (strong - weak)
    return float(curve[np.flatnonzero(recovered >= pgr - 1e-12)[0], 0])


def call_performance_threshold_routellm(curve: np.ndarray, pgr: float) -> float:
    """CPT as RouteLLM's released code interpolates it, which needs a score that rises with the
    share; kept for comparison with published figures."""
    wanted = curve[0, 1] + pgr * (curve[-1, 1] - curve[0, 1])
    return float(np.interp(wanted, curve[:, 1], curve[:, 0]))


def two_candidate_metrics(
    gap: np.ndarray, weak: np.ndarray, strong: np.ndarray
) -> dict[str, float]:
    """APGR, CPT and their RouteLLM-compatible variants; shares in percent, as published."""
    curve, deciles = strong_share_curve(gap, weak, strong), decile_curve(gap, weak, strong)
    if curve[-1, 1] <= curve[0, 1]:
        return {}
    metrics = {"apgr": average_pgr(curve), "apgr_routellm": average_pgr(deciles)}
    for level in (0.2, 0.5, 0.8):
        name = f"cpt{level:.0%}".replace("%", "")
        metrics[name] = 100 * call_performance_threshold(curve, level)
        metrics[f"{name}_routellm"] = 100 * call_performance_threshold_routellm(deciles, level)
    return metrics
