"""Which queries to label first for a new candidate: spread over the log, then where it matters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from router.errors import RouterError

N_CLUSTERS = 8
LEAST_SPREAD = 0.05  # of candidates within a cluster: a new one may always be a little different


@dataclass(frozen=True)
class Clusters:
    """A coarse map of the log's queries, for reports and for spreading labels.

    labels: (n,) cluster of each query. centres: (clusters, d).
    """

    labels: np.ndarray
    centres: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray, n_clusters: int = N_CLUSTERS) -> Clusters:
        """k-means of (n, d) vectors, the best of ten; the same at every call."""
        X = np.asarray(X, dtype=np.float64)
        n_clusters = min(n_clusters, len(np.unique(X, axis=0)))
        with threadpool_limits(1):
            kmeans = KMeans(n_clusters, n_init=10, random_state=0).fit(X)
        return cls(kmeans.labels_, kmeans.cluster_centers_)

    def __len__(self) -> int:
        return len(self.centres)

    def nearest(self, X: np.ndarray) -> np.ndarray:
        """(n,) cluster of (n, d) vectors."""
        offsets = 0.5 * np.square(self.centres).sum(axis=1)
        return np.asarray((X @ self.centres.T - offsets).argmax(axis=1))


@dataclass(frozen=True)
class Belief:
    """What is known of a new candidate before and after its first labels, cluster by cluster.

    Before any label it is a candidate like the others: in a cluster its mean score is normal around
    the known candidates' average there, with their spread. Its labels first shift all clusters
    alike, then correct their own cluster.

    mean: (clusters,) expected mean score. spread: (clusters,) standard deviation of the belief
    before any label. noise: variance of one score around its cluster's mean. best: (clusters,) mean
    score of the best known candidate.
    """

    mean: np.ndarray
    spread: np.ndarray
    noise: float
    best: np.ndarray

    @classmethod
    def of(
        cls,
        cluster: np.ndarray,
        n_clusters: int,
        scores: np.ndarray,
        labelled: np.ndarray,
        new_scores: np.ndarray,
    ) -> Belief:
        """cluster: (n,) of the log's queries. scores: (n, m) of the known candidates, NaN where
        unobserved. labelled, new_scores: (k,) cluster and score of the labels so far."""
        means = np.full((n_clusters, scores.shape[1]), np.nan)
        noise = []
        overall = np.nanmean(scores, axis=0)
        for c in range(n_clusters):
            here = scores[cluster == c]
            seen = ~np.isnan(here)
            # One pseudo-outcome of the overall mean: a cluster may lack a candidate's outcomes.
            means[c] = (np.nansum(here, axis=0) + overall) / (seen.sum(axis=0) + 1)
            noise.append(((here - means[c])[seen]) ** 2)
        variance = float(np.concatenate(noise).mean())
        average = means.mean(axis=1)
        spread = np.maximum(means.std(axis=1), LEAST_SPREAD)
        worth = variance / spread**2  # labels that the belief is worth, in each cluster
        count = np.bincount(labelled, minlength=n_clusters)
        above = new_scores - average[labelled]
        shift = above.sum() / (len(above) + worth.mean())
        total = np.bincount(labelled, weights=above - shift, minlength=n_clusters)
        mean = average + shift + total / (count + worth)
        return cls(mean, spread, variance, means.max(axis=1))

    def expected_loss(self, count: np.ndarray) -> np.ndarray:
        """(clusters,) score that a query there may lose by taking the wrong one of the new and the
        best known candidate, if `count` labels stand in the cluster and the means stay as believed:
        the expected opportunity cost of Chick and Inoue 2001 (Operations Research 49)."""
        deviation = np.sqrt(self.noise / (count + self.noise / self.spread**2))
        z = np.abs(self.mean - self.best) / deviation
        return np.asarray(deviation * (norm.pdf(z) - z * norm.sf(z)))


def allocation(belief: Belief, size: np.ndarray, count: np.ndarray, n_labels: int) -> np.ndarray:
    """(clusters,) how many of `n_labels` further labels each cluster gets, one after the other.

    Without a label so far all go by size: nothing is known that could tell better. Afterwards the
    first half evens out the shares by size, as a belief may be wrong and a candidate's level is
    learned from all labels alike; the second half goes where a label saves the most: size of the
    cluster times the fall of the expected loss.

    size: (clusters,) queries of each. count: (clusters,) labels so far.
    """
    share = size / size.sum()
    given = np.zeros_like(size)
    n_labels = min(n_labels, int((size - count).sum()))
    by_size = n_labels // 2 if count.any() else n_labels
    for i in range(n_labels):
        now = count + given
        if i < by_size:
            worth = share * (now.sum() + 1) - now
        else:
            worth = share * (belief.expected_loss(now) - belief.expected_loss(now + 1))
        given[np.where(now < size, worth, -np.inf).argmax()] += 1
    return given


def label_first(
    clusters: Clusters,
    scores: np.ndarray,
    n_labels: int,
    labelled: np.ndarray,
    new_scores: np.ndarray,
) -> np.ndarray:
    """Rows of the queries to label next, in turn from every cluster: who labels the first few alone
    has them spread too.

    `allocation` says how many of each cluster. Within a cluster they are drawn at random, the same
    at every call.

    clusters: of the log's n queries. scores: (n, m) of the known candidates, NaN where unobserved.
    labelled: (k,) rows labelled so far, which are not named again; new_scores: (k,) their scores.
    """
    if n_labels < 1:
        raise RouterError(f"suggest is {n_labels}; give a whole number from 1 upwards.")
    cluster = clusters.labels
    size = np.bincount(cluster, minlength=len(clusters))
    count = np.bincount(cluster[labelled], minlength=len(clusters))
    belief = Belief.of(cluster, len(clusters), scores, cluster[labelled], new_scores)
    free = np.ones(len(cluster), dtype=bool)
    free[labelled] = False
    # Drawn, not picked: what is wanted is the cluster's mean, not that of its typical queries.
    rng = np.random.default_rng(len(labelled))
    chosen = [
        rng.permutation(np.flatnonzero((cluster == c) & free))[:n]
        for c, n in enumerate(allocation(belief, size, count, n_labels))
    ]
    turn = np.concatenate([np.arange(len(rows)) for rows in chosen])
    return np.concatenate(chosen)[np.argsort(turn, kind="stable")]
