"""Figures of merit of one router at one operating point."""

from __future__ import annotations

import math

import numpy as np

ROUTERARENA_DEAREST = 200.0  # USD per 1,000 queries
ROUTERARENA_CHEAPEST = 0.0044
ROUTERARENA_BETA = 0.1
CALIBRATION_BINS = 10
ROUNDING = 1e-9  # means this close are equal: the order of a sum must not decide


def oracle_gap_closed(quality: float, best_single: float, oracle: float) -> float:
    """Share of the way from the best single model to the oracle; NaN where there is no gap."""
    gap = oracle - best_single
    return (quality - best_single) / gap if gap > ROUNDING else float("nan")


def routerarena_score(quality: float, cost_per_query: float) -> float:
    """RouterArena (arXiv 2510.00202), section 4: weighted harmonic mean of accuracy and the
    logarithmic cost score, with beta = 0.1; cost clipped to the score's range."""
    per_thousand = min(max(cost_per_query * 1000, ROUTERARENA_CHEAPEST), ROUTERARENA_DEAREST)
    dearest, cheapest = math.log2(ROUTERARENA_DEAREST), math.log2(ROUTERARENA_CHEAPEST)
    cost_score = (dearest - math.log2(per_thousand)) / (dearest - cheapest)
    weighted = ROUTERARENA_BETA * quality + cost_score
    return (1 + ROUTERARENA_BETA) * quality * cost_score / weighted if weighted > 0 else 0.0


def perf_gain(points: np.ndarray, best_single: float) -> float:
    """LLMRouterBench: largest quality of any setting over the best single model's, less one; NaN
    where the best single model never scores."""
    return float(points[:, 1].max() / best_single - 1) if best_single > 0 else float("nan")


def cost_save(points: np.ndarray, best_single: float, best_single_cost: float) -> float:
    """LLMRouterBench: share of the best single model's cost that the cheapest setting of at least
    its quality saves; NaN where no setting reaches it, or where that model is free."""
    reaching = points[points[:, 1] >= best_single - ROUNDING, 0]
    if len(reaching) == 0 or best_single_cost == 0:
        return float("nan")
    return float(1 - reaching.min() / best_single_cost)


def brier(predicted: np.ndarray, score: np.ndarray) -> float:
    """Mean squared difference of predicted and observed score."""
    return float(np.mean((predicted - score) ** 2))


def expected_calibration_error(predicted: np.ndarray, score: np.ndarray) -> float:
    """Mean distance of predicted and observed score over bins of about equal count, between the
    deciles of the predictions; equal predictions share a bin, so that order does not matter."""
    inner = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    edges = np.unique(np.quantile(predicted, inner))
    _, bins = np.unique(np.searchsorted(edges, predicted), return_inverse=True)
    return float(np.abs(np.bincount(bins, predicted - score)).sum() / len(predicted))


def effective_decisions(weight: np.ndarray) -> float:
    """(sum w)^2 / sum w^2 of the weights of logged decisions: how many decisions of its own would
    tell as much of a policy (Kish 1965); 0 where all weights are."""
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares > 0 else 0.0
