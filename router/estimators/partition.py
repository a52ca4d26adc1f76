"""E2: the mean outcome in each cluster of queries, shrunk to the overall mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
from joblib import Parallel, delayed
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit, prior_of
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction


@dataclass(frozen=True)
class Block:
    """Partitions of one size, so that one matrix product finds the clusters of all of them.

    centres: (partitions x size, d). offsets: (partitions, size), half the squared norm, negative:
    the nearest centre has the largest x·centre + offset. table: (partitions x size, 2m) mean and
    standard error of each cluster and candidate.
    """

    centres: np.ndarray
    offsets: np.ndarray
    table: np.ndarray

    def lookup(self, X: np.ndarray) -> np.ndarray:
        """(n, 2m) statistics of each query's cluster, averaged over the partitions."""
        affinity = (X @ self.centres.T).reshape(len(X), *self.offsets.shape) + self.offsets
        row = affinity.argmax(axis=2) + self._first_rows()
        return self.table[row].astype(np.float64).mean(axis=1)

    def to_onnx(self, graph: Graph, vector: str) -> str:
        """The name of `lookup`'s result."""
        flat = graph.op("MatMul", vector, graph.constant(self.centres.T))
        shape = graph.constant([-1, *self.offsets.shape], np.int64)
        affinity = graph.op("Add", graph.op("Reshape", flat, shape), graph.constant(self.offsets))
        nearest = graph.op("ArgMax", affinity, axis=2, keepdims=0)
        row = graph.op("Add", nearest, graph.constant(self._first_rows(), np.int64))
        statistics = graph.op("Gather", graph.constant(self.table), row, axis=0)
        return graph.op("ReduceMean", statistics, axes=[1], keepdims=0)

    def _first_rows(self) -> np.ndarray:
        n_partitions, size = self.offsets.shape
        return np.arange(n_partitions) * size


class Partition(Estimator):
    """k-means clusters with one shrunken mean per cluster and candidate; several partitions of
    different sizes and seeds are averaged.

    Clusters as the router: Avengers (arXiv 2505.19797), section 3, and UniRouter (arXiv
    2502.08773), section 4; the shrinkage is the posterior mean under a normal prior.

    n_clusters: number of clusters, or several numbers, one partition each.
    n_repeats: partitions per number of clusters, from different seeds.
    shrinkage: pseudo-count of the candidate's overall mean in each cluster.
    random_state: seed of the first partition.
    """

    def __init__(
        self,
        n_clusters: int | Sequence[int] = 32,
        n_repeats: int = 1,
        shrinkage: float = 4.0,
        random_state: int = 0,
    ):
        self.n_clusters = n_clusters
        self.n_repeats = n_repeats
        self.shrinkage = shrinkage
        self.random_state = random_state

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        X, targets = check_fit(X, outcomes)
        self.candidates_ = outcomes.candidates
        sizes = [self.n_clusters] if isinstance(self.n_clusters, int) else list(self.n_clusters)
        if not sizes or min(sizes) < 1 or self.n_repeats < 1:
            raise RouterError("Partition needs n_clusters and n_repeats of at least 1.")
        # More clusters than half the queries would be memory, not a partition.
        sizes = sorted({min(size, max(1, len(X) // 2)) for size in sizes})
        runs = [(size, self.random_state + r) for size in sizes for r in range(self.n_repeats)]
        # One thread each: k-means is then the same to the last bit on every machine.
        with threadpool_limits(1):
            clusterings = Parallel(n_jobs=-1, prefer="threads")(
                delayed(_cluster)(X, size, seed) for size, seed in runs
            )
        prior = prior_of(targets, outcomes.observed)
        self.blocks_ = [
            self._block(
                [kmeans for kmeans in clusterings if kmeans.n_clusters == size],
                targets,
                outcomes.observed,
                prior,
            )
            for size in sizes
        ]
        return self

    def _block(
        self,
        clusterings: list[KMeans],
        targets: np.ndarray,
        observed: np.ndarray,
        prior: tuple[np.ndarray, np.ndarray],
    ) -> Block:
        centres = np.stack([kmeans.cluster_centers_ for kmeans in clusterings])
        tables = [
            self._cluster_statistics(kmeans.labels_, kmeans.n_clusters, targets, observed, *prior)
            for kmeans in clusterings
        ]
        return Block(
            centres.reshape(-1, centres.shape[2]).astype(np.float32),
            (-0.5 * (centres**2).sum(axis=2)).astype(np.float32),
            np.concatenate(tables).astype(np.float32),
        )

    def _cluster_statistics(
        self,
        labels: np.ndarray,
        size: int,
        targets: np.ndarray,
        observed: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
    ) -> np.ndarray:
        """(size, 2m) shrunken mean and standard error of each cluster and candidate."""
        member = np.eye(size)[labels].T
        n = member @ observed
        shrunk = n + self.shrinkage
        cluster_mean = (member @ targets + self.shrinkage * mean) / np.maximum(shrunk, 1e-12)
        cluster_mean = np.where(shrunk > 0, cluster_mean, mean)
        prior_square = self.shrinkage * (variance + mean**2)
        second = (member @ targets**2 + prior_square) / np.maximum(shrunk, 1e-12)
        spread = np.where(shrunk > 0, np.maximum(second - cluster_mean**2, 0.0), variance)
        return np.concatenate([cluster_mean, np.sqrt(spread / np.maximum(shrunk, 1.0))], axis=1)

    def predict(self, X: np.ndarray) -> Prediction:
        X = np.asarray(X, dtype=np.float32)
        statistics = [block.lookup(X) for block in self.blocks_]
        quality, se = np.split(np.mean(statistics, axis=0), 2, axis=1)
        return Prediction(self.candidates_, quality, se)

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        m = len(self.candidates_)
        total = reduce(
            lambda a, b: graph.op("Add", a, b),
            [block.to_onnx(graph, vector) for block in self.blocks_],
        )
        averaged = graph.op("Mul", total, graph.constant(1 / len(self.blocks_)))
        quality, se = graph.op_with_outputs(
            "Split", 2, averaged, graph.constant([m, m], np.int64), axis=1
        )
        return quality, se


def _cluster(X: np.ndarray, size: int, seed: int) -> KMeans:
    return KMeans(size, n_init=1, random_state=seed).fit(X)
