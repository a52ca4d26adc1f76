"""Can a classifier tell recent vectors from those of the reference?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from router.drift.shift import Estimate, clustered_variance, effective_groups

CHANCE = 0.5


@dataclass(frozen=True, eq=False)
class Separation:
    """auc: area under the ROC curve, 0.5 where the two cannot be told apart.

    reference, recent: how recent each judged vector looks: the share of the reference's judged
        vectors that look less so. Without a shift both are uniform between 0 and 1.
    """

    auc: Estimate
    reference: np.ndarray
    recent: np.ndarray


def tell_apart(
    reference: np.ndarray, recent: np.ndarray, groups: np.ndarray, random_state: int = 0
) -> Separation:
    """Classifier two-sample test (Lopez-Paz and Oquab, arXiv 1610.06545): a classifier learns from
    one half of the groups to tell the samples apart, and is judged on the other half.

    reference, recent: (n0, d), (n1, d) vectors. groups: (n0 + n1,) integers, the reference's first;
        each sample has four groups at least. random_state: of the halves.

    One split, not cross-validation: the folds of that share their vectors, so their AUCs go up and
    down together, and an error that takes them as independent is too small.

    The classifier is linear discriminant analysis with Ledoit-Wolf shrinkage: it has nothing to
    tune and sees shifts of the mean. The AUC needs no threshold, whatever the two sizes are. Its
    error is DeLong's (1988), for groups of vectors (Obuchowski, 1997).
    """
    vectors = np.concatenate([reference, recent])
    is_recent = np.repeat([False, True], [len(reference), len(recent)])
    judged = _half(groups, is_recent, random_state)
    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    classifier.fit(vectors[~judged], is_recent[~judged])
    score, is_recent, groups = (
        classifier.decision_function(vectors[judged]), is_recent[judged], groups[judged]
    )  # fmt: skip
    look = _share_below(score, score[~is_recent])
    # The share of the other sample on its right side: its mean over either sample is the AUC.
    placement = np.where(is_recent, look, 1 - _share_below(score, score[is_recent]))
    auc = float(placement[is_recent].mean())
    influence = (placement - auc) / np.where(is_recent, is_recent.sum(), (~is_recent).sum())
    fewer = min(effective_groups(side.astype(float), groups) for side in (is_recent, ~is_recent))
    error = math.sqrt(clustered_variance(influence, groups))
    return Separation(Estimate(auc, error, fewer - 1), look[~is_recent], look[is_recent])


def _half(groups: np.ndarray, is_recent: np.ndarray, random_state: int) -> np.ndarray:
    """(n,) True in half of the groups, of those with recent queries and of the others alike."""
    count = int(groups.max()) + 1
    order = np.random.default_rng(random_state).permutation(count)
    has_recent = np.bincount(groups, is_recent, minlength=count)[order] > 0
    half = np.empty(count, dtype=bool)
    half[order[np.argsort(~has_recent, kind="stable")]] = np.arange(count) % 2 == 0
    return np.asarray(half[groups])


def _share_below(score: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(n,) share of `among` that is lower than each score; ties count half."""
    ordered = np.sort(among)
    below = np.searchsorted(ordered, score, side="left")
    up_to = np.searchsorted(ordered, score, side="right")
    return np.asarray((below + up_to) / (2 * len(among)))
