"""E2: the mean outcome in each cluster of queries, shrunk to the overall mean."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import groupby
from typing import Self

import numpy as np
from joblib import Parallel, delayed
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from router.errors import RouterError
from router.estimators.base import (
    Estimator,
    Overall,
    check_fit,
    check_labels,
    overall_of,
    weights_of,
)
from router.estimators.cells import candidate_columns, cell_table
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

# Squared distances this small, beside the largest squared norm, are rounding.
SAME_PLACE = 1e-6


@dataclass(frozen=True)
class Block:
    """Partitions of one size, so that one matrix product finds the clusters of all of them.

    centres: (partitions x size, d). offsets: (partitions, size), half the squared norm, negative:
    the nearest centre has the largest x·centre + offset. table: (partitions x size, 2m) mean and
    standard error of each cluster and candidate. pseudo_counts: of the prior mean, one for each
    partition. n_nearest, temperature: see Partition.
    """

    centres: np.ndarray
    offsets: np.ndarray
    table: np.ndarray
    pseudo_counts: tuple[float, ...]
    n_nearest: int
    temperature: float

    def lookup(self, X: np.ndarray) -> np.ndarray:
        """(n, 2m) statistics of each query's clusters, summed over the partitions."""
        affinity = self._affinity(X)
        nearest = _largest(affinity, self.n_nearest)
        closeness = np.take_along_axis(affinity, nearest, axis=2)
        # The nearest comes first, so no power overflows; a single one weighs 1 exactly.
        weight = np.exp((closeness - closeness[:, :, :1]) / np.float32(self.temperature))
        weight /= weight.sum(axis=2, keepdims=True)
        row = nearest + self._first_rows()[:, None]
        flat = (len(X), row.shape[1] * row.shape[2])
        statistics = self.table[row.reshape(flat)] * weight.reshape(flat)[:, :, None]
        return statistics.sum(axis=1, dtype=np.float64)

    def with_candidate(self, X: np.ndarray, scores: np.ndarray, overall: Overall) -> Block:
        """The block with one candidate more, from (k, d) vectors, (k,) scores and the candidate's
        overall statistics."""
        n_partitions, size = self.offsets.shape
        tables = self.table.reshape(n_partitions, size, -1)
        nearest = self._affinity(X).argmax(axis=2)
        columns = [
            candidate_columns(table, pseudo_count, overall, np.eye(size)[cluster], scores)
            for table, pseudo_count, cluster in zip(
                tables, self.pseudo_counts, nearest.T, strict=True
            )
        ]
        new = np.concatenate(columns).astype(np.float32)
        mean, se = np.split(self.table, 2, axis=1)
        return replace(self, table=np.concatenate([mean, new[:, :1], se, new[:, 1:]], axis=1))

    def _affinity(self, X: np.ndarray) -> np.ndarray:
        return (X @ self.centres.T).reshape(len(X), *self.offsets.shape) + self.offsets

    def to_onnx(self, graph: Graph, vector: str) -> str:
        """The name of `lookup`'s result."""
        product = graph.op("MatMul", vector, graph.constant(self.centres.T))
        flat = graph.op("Add", product, graph.constant(self.offsets.reshape(1, -1)))
        table = graph.constant(self.table)
        if self.n_nearest == 1 and len(self.offsets) == 1:
            return graph.op("Gather", table, graph.op("ArgMax", flat, axis=1, keepdims=0), axis=0)
        shape = graph.constant([-1, *self.offsets.shape], np.int64)
        affinity = graph.op("Reshape", flat, shape)
        if self.n_nearest == 1:
            nearest = graph.op("ArgMax", affinity, axis=2, keepdims=0)
            row = graph.op("Add", nearest, graph.constant(self._first_rows(), np.int64))
            statistics = graph.op("Gather", table, row, axis=0)
            return graph.op("ReduceSum", statistics, graph.constant([1], np.int64), keepdims=0)
        closeness, nearest = graph.op_with_outputs(
            "TopK", 2, affinity, graph.constant([self.n_nearest], np.int64), axis=2
        )
        scaled = graph.op("Div", closeness, graph.constant(self.temperature))
        weight = graph.op("Unsqueeze", graph.op("Softmax", scaled), graph.constant([3], np.int64))
        first_rows = graph.constant(self._first_rows()[:, None], np.int64)
        statistics = graph.op("Gather", table, graph.op("Add", nearest, first_rows), axis=0)
        weighted = graph.op("Mul", statistics, weight)
        return graph.op("ReduceSum", weighted, graph.constant([1, 2], np.int64), keepdims=0)

    def _first_rows(self) -> np.ndarray:
        n_partitions, size = self.offsets.shape
        return np.arange(n_partitions) * size


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """(n, partitions, k) places of the largest values, in falling order; among equals the first."""
    if k == 1:
        return values.argmax(axis=2)[:, :, None]
    return np.argsort(-values, axis=2, kind="stable")[:, :, :k]


class Partition(Estimator):
    """k-means clusters with one shrunken mean per cluster and candidate; several partitions of
    different sizes and seeds are averaged.

    The standard errors are averaged too: the partitions see the same outcomes. Clusters as the
    router: Avengers (arXiv 2505.19797, arXiv 2508.12631) and universal model routing (arXiv
    2502.08773), whose per-cluster errors of a new candidate are `with_candidate`.

    n_clusters: number of clusters, or several numbers, one partition each. At most one cluster for
        two queries is made, and at most one for each different query.
    n_repeats: partitions per number of clusters, from different seeds.
    shrinkage: pseudo-count of the candidate's overall mean in each cluster; None learns one for
        each partition from how far its clusters differ (cells.learned_pseudo_count).
    n_nearest: how many of a partition's nearest clusters are averaged; 1 takes the nearest alone.
    temperature: cluster's weight = exp(-squared distance / (2 temperature)), summing to one.
    random_state: seed of the first partition.
    """

    takes_weights = True

    def __init__(
        self,
        n_clusters: int | Sequence[int] = 32,
        n_repeats: int = 1,
        shrinkage: float | None = 4.0,
        n_nearest: int = 1,
        temperature: float = 0.1,
        random_state: int = 0,
    ):
        self.n_clusters = n_clusters
        self.n_repeats = n_repeats
        self.shrinkage = shrinkage
        self.n_nearest = n_nearest
        self.temperature = temperature
        self.random_state = random_state

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        sizes = np.atleast_1d(np.asarray(self.n_clusters, dtype=int)).tolist()
        if not sizes or min(sizes) < 1 or self.n_repeats < 1:
            raise RouterError("Partition needs n_clusters and n_repeats of at least 1.")
        if self.shrinkage is not None and not self.shrinkage >= 0:
            raise RouterError("Partition needs shrinkage of at least 0, or null to learn it.")
        if self.n_nearest < 1 or not self.temperature > 0:
            raise RouterError("Partition needs n_nearest of at least 1 and temperature above 0.")
        X, outcomes, targets = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        # More clusters than half the queries would be memory, not a partition.
        sizes = sorted({min(size, max(1, len(X) // 2)) for size in sizes})
        runs = [(size, self.random_state + r) for size in sizes for r in range(self.n_repeats)]
        X = X.astype(np.float32)
        with threadpool_limits(1, user_api="blas"):
            clusterings = Parallel(n_jobs=-1, prefer="threads")(
                delayed(cluster)(X, size, seed) for size, seed in runs
            )
        weights = weights_of(outcomes)
        self.overall_ = overall_of(targets, weights)
        by_size = sorted(clusterings, key=_size)
        self.blocks_ = [
            self._block(list(same), targets, weights) for _, same in groupby(by_size, _size)
        ]
        self.n_partitions_ = len(clusterings)
        return self

    def _block(self, same: list[KMeans], targets: np.ndarray, weights: np.ndarray) -> Block:
        centres = np.stack([kmeans.cluster_centers_ for kmeans in same])
        size = centres.shape[1]
        tables, pseudo_counts = zip(
            *(
                cell_table(
                    self.overall_, np.eye(size)[kmeans.labels_], targets, weights, self.shrinkage
                )
                for kmeans in same
            ),
            strict=True,
        )
        return Block(
            centres.reshape(-1, centres.shape[2]),
            -0.5 * np.square(centres, dtype=np.float64).sum(axis=2).astype(np.float32),
            np.concatenate(tables).astype(np.float32),
            pseudo_counts,
            min(self.n_nearest, size),
            self.temperature,
        )

    def with_candidate(self, name: str, X: np.ndarray, scores: np.ndarray) -> Self:
        """As in Estimator: the new candidate's mean in every cluster, drawn to what the known
        candidates do there (cells.candidate_columns)."""
        X, scores = check_labels(self, name, X, scores)
        grown = copy.copy(self)
        grown.candidates_ = (*self.candidates_, name)
        grown.overall_ = self.overall_.with_candidate(scores)
        new = grown.overall_.last()
        X = X.astype(np.float32)
        grown.blocks_ = [block.with_candidate(X, scores, new) for block in self.blocks_]
        return grown

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
        if self.n_partitions_ > 1:
            total = graph.op("Mul", total, graph.constant(1 / self.n_partitions_))
        quality, se = graph.op_with_outputs(
            "Split", 2, total, graph.constant([m, m], np.int64), axis=1
        )
        return quality, se


def _size(kmeans: KMeans) -> int:
    return len(kmeans.cluster_centers_)


def cluster(X: np.ndarray, size: int, seed: int) -> KMeans:
    """k-means of float32 vectors, the same to the last bit on any number of cores."""
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
