"""E2: the mean outcome in each cluster of queries, shrunk to the overall mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from typing import Self

import numpy as np
from joblib import Parallel, delayed
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit, overall_of
from router.estimators.graph import Graph
from router.estimators.shrinkage import ShrunkenMean
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

# Squared distances this small, beside the largest squared norm, are rounding.
SAME_PLACE = 1e-6


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
        """(n, 2m) statistics of each query's cluster, summed over the partitions."""
        affinity = (X @ self.centres.T).reshape(len(X), *self.offsets.shape) + self.offsets
        row = affinity.argmax(axis=2) + self._first_rows()
        return self.table[row].sum(axis=1, dtype=np.float64)

    def to_onnx(self, graph: Graph, vector: str) -> str:
        """The name of `lookup`'s result."""
        flat = graph.op("MatMul", vector, graph.constant(self.centres.T))
        shape = graph.constant([-1, *self.offsets.shape], np.int64)
        affinity = graph.op("Add", graph.op("Reshape", flat, shape), graph.constant(self.offsets))
        nearest = graph.op("ArgMax", affinity, axis=2, keepdims=0)
        row = graph.op("Add", nearest, graph.constant(self._first_rows(), np.int64))
        statistics = graph.op("Gather", graph.constant(self.table), row, axis=0)
        return graph.op("ReduceSum", statistics, graph.constant([1], np.int64), keepdims=0)

    def _first_rows(self) -> np.ndarray:
        n_partitions, size = self.offsets.shape
        return np.arange(n_partitions) * size


class Partition(Estimator):
    """k-means clusters with one shrunken mean per cluster and candidate; several partitions of
    different sizes and seeds are averaged.

    The standard errors are averaged too: the partitions see the same outcomes. Clusters as the
    router: Avengers (arXiv 2505.19797) and universal model routing (arXiv 2502.08773).

    n_clusters: number of clusters, or several numbers, one partition each. At most one cluster for
        two queries is made, and at most one for each different query.
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
        sizes = np.atleast_1d(np.asarray(self.n_clusters, dtype=int)).tolist()
        if not sizes or min(sizes) < 1 or self.n_repeats < 1 or not self.shrinkage >= 0:
            raise RouterError(
                "Partition needs n_clusters and n_repeats of at least 1 and shrinkage of at "
                "least 0."
            )
        X, outcomes, targets = check_fit(X, outcomes)
        self.candidates_ = outcomes.candidates
        # More clusters than half the queries would be memory, not a partition.
        sizes = sorted({min(size, max(1, len(X) // 2)) for size in sizes})
        runs = [(size, self.random_state + r) for size in sizes for r in range(self.n_repeats)]
        X = X.astype(np.float32)
        with threadpool_limits(1, user_api="blas"):
            clusterings = Parallel(n_jobs=-1, prefer="threads")(
                delayed(_cluster)(X, size, seed) for size, seed in runs
            )
        overall = overall_of(targets, outcomes.observed)
        shrunken = ShrunkenMean(overall, self.shrinkage)
        deviation = np.where(outcomes.observed, targets - overall.mean, 0.0)
        sums = np.concatenate([outcomes.observed, deviation, deviation**2], axis=1)
        by_size = sorted(clusterings, key=_size)
        self.blocks_ = [_block(list(same), sums, shrunken) for _, same in groupby(by_size, _size)]
        self.n_partitions_ = len(clusterings)
        return self

    def predict(self, X: np.ndarray) -> Prediction:
        X = np.asarray(X, dtype=np.float32)
        total = sum(block.lookup(X) for block in self.blocks_)
        quality, se = np.split(total / self.n_partitions_, 2, axis=1)
        return Prediction(self.candidates_, quality, se)

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        m = len(self.candidates_)
        total = reduce(
            lambda a, b: graph.op("Add", a, b),
            [block.to_onnx(graph, vector) for block in self.blocks_],
        )
        averaged = graph.op("Mul", total, graph.constant(1 / self.n_partitions_))
        quality, se = graph.op_with_outputs(
            "Split", 2, averaged, graph.constant([m, m], np.int64), axis=1
        )
        return quality, se


def _block(clusterings: list[KMeans], sums: np.ndarray, shrunken: ShrunkenMean) -> Block:
    centres = np.stack([kmeans.cluster_centers_ for kmeans in clusterings])
    tables = []
    for kmeans in clusterings:
        member = np.eye(_size(kmeans))[kmeans.labels_].T
        count, total, total2 = np.split(member @ sums, 3, axis=1)
        tables.append(np.concatenate(shrunken(count, count, total, total2), axis=1))
    return Block(
        centres.reshape(-1, centres.shape[2]),
        -0.5 * np.square(centres, dtype=np.float64).sum(axis=2).astype(np.float32),
        np.concatenate(tables).astype(np.float32),
    )


def _size(kmeans: KMeans) -> int:
    return len(kmeans.cluster_centers_)


def _cluster(X: np.ndarray, size: int, seed: int) -> KMeans:
    start = _starting_centres(X, size, np.random.default_rng([seed, size]))
    # OpenMP's limit holds for the calling thread alone. With one thread k-means is the same to the
    # last bit however many cores there are.
    with threadpool_limits(1, user_api="openmp"):
        return KMeans(len(start), init=start, n_init=1, random_state=seed).fit(X)


def _starting_centres(X: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ (Arthur and Vassilvitskii 2007): each further row is drawn by its squared distance
    to the nearest one taken. Fewer than `size` rows where X holds fewer different ones.

    scikit-learn's own tries several draws a step in float64, which takes longer than all of
    k-means after it and, averaged over partitions, changes nothing."""
    squares = np.einsum("nd,nd->n", X, X)
    rounding = SAME_PLACE * float(squares.max())
    rows = [int(rng.integers(len(X)))]
    distances = np.full(len(X), np.inf, dtype=X.dtype)
    while len(rows) < size:
        last = rows[-1]
        distances = np.minimum(distances, squares - 2 * (X @ X[last]) + squares[last])
        cumulative = np.where(distances > rounding, distances, 0.0).cumsum(dtype=np.float64)
        if cumulative[-1] == 0:
            break
        drawn = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
        rows.append(min(int(drawn), len(X) - 1))
    return X[rows]
