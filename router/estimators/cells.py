"""What partitions and labels share: a table of shrunken means, one row per cell of queries."""

from __future__ import annotations

import numpy as np

from router.estimators.base import Overall
from router.estimators.shrinkage import ShrunkenMean

MOST_PSEUDO_COUNT = 1e6  # cells that do not differ: the overall mean alone
PRIOR_LABELS = 10.0  # that the level of a new candidate is worth, were no other known
LEAST_SPREAD = 1e-12


def cell_table(
    overall: Overall,
    member: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    shrinkage: float | None,
) -> tuple[np.ndarray, float]:
    """((cells, 2m) mean and standard error of each cell and candidate, pseudo-count used).

    member: (n, cells) one where a query belongs. targets, weights: (n, m), see base.weights_of.
    shrinkage: pseudo-count of the overall mean; None learns it.
    """
    deviation = targets - overall.mean
    sums = np.concatenate([weights, weights * deviation, weights * deviation**2], axis=1)
    count, total, total2 = np.split(member.T @ sums, 3, axis=1)
    pseudo_count = learned_pseudo_count(count, total, total2) if shrinkage is None else shrinkage
    mean, se = ShrunkenMean(overall, pseudo_count)(count, member.T @ weights**2, total, total2)
    return np.concatenate([mean, se], axis=1), pseudo_count


def learned_pseudo_count(count: np.ndarray, total: np.ndarray, total2: np.ndarray) -> float:
    """Variance within cells over variance between them: how many outcomes the overall mean is
    worth in a cell.

    The variance between cells is the moment estimate of DerSimonian and Laird 1986 (Controlled
    Clinical Trials 7), here with one variance within; both are pooled over the candidates.

    count, total, total2: (cells, m) sums of 1, of deviations from the overall mean and of their
    squares.
    """
    n, cells = count.sum(axis=0), (count > 0).sum(axis=0)
    explained = np.divide(total**2, count, out=np.zeros_like(total), where=count > 0).sum(axis=0)
    freedom = np.maximum(n - cells, 0)
    # Outcomes that are equal in each cell leave a difference of rounding, on either side of 0.
    within = max((total2.sum(axis=0) - explained).sum(), 0.0) / max(freedom.sum(), 1)
    per_cell = n - np.divide((count**2).sum(axis=0), n, out=np.zeros_like(n), where=n > 0)
    between = (explained - (cells - 1) * within).sum() / max(per_cell.sum(), 1)
    return float(min(within / between, MOST_PSEUDO_COUNT)) if between > 0 else MOST_PSEUDO_COUNT


def candidate_columns(
    table: np.ndarray,
    pseudo_count: float,
    overall: Overall,
    weight: np.ndarray,
    scores: np.ndarray,
) -> np.ndarray:
    """(cells, 2) mean and standard error of a new candidate in every cell, from k labels.

    Its prior is a candidate like the others: in each cell the known candidates' average there, plus
    a level that is the same in all cells. The level is the mean of the labels above that average,
    drawn to 0 with the weight that the spread of the known candidates' levels gives (empirical
    Bayes, Efron and Morris 1975, JASA 70). The cell's own labels then correct the prior with the
    pseudo-count of the other candidates. Without the prior, a cell without a label would be taken
    for an average one, and a lucky level for skill.

    table: (cells, 2m) of the known candidates. overall: of the new candidate alone.
    weight: (k, cells) with which each labelled query belongs to each cell, rows summing to one.
    """
    known, _ = np.split(table.astype(np.float64), 2, axis=1)
    profile = known.mean(axis=1)
    levels = (known - profile[:, None]).mean(axis=0)
    # A pseudo-candidate beside the m: two that happen to be alike do not make the third certain.
    spread = ((levels**2).sum() + overall.variance / PRIOR_LABELS) / len(levels)
    worth = float((overall.variance / np.maximum(spread, LEAST_SPREAD)).item())
    count_of_level = overall.count + worth
    prior = (profile + (scores - weight @ profile).sum() / count_of_level)[:, None]
    deviation = scores[:, None] - weight @ prior
    count, total, total2 = (
        weight.T @ values for values in (np.ones_like(deviation), deviation, deviation**2)
    )
    shrunken = ShrunkenMean(Overall(prior, overall.variance, count_of_level), pseudo_count)
    mean, se = shrunken(count, (weight**2).sum(axis=0)[:, None], total, total2)
    return np.concatenate([mean, se], axis=1)
