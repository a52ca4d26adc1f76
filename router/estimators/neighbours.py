"""The most similar training queries: by exact search, or in an inverted file."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from router.estimators.graph import Graph

TIE = 1e-6  # cosines this close are one
ROOM = 32  # found beyond the nearest asked for, in case they are ties
TRAINING_STEPS = 10  # of k-means
SEED = 0


class Neighbours(ABC):
    """Unit vectors, searched by cosine; `predict` and the exported graph find the same ones.

    vectors: (n, d) float32 of unit length.
    """

    def __init__(self, vectors: np.ndarray):
        self.vectors = vectors

    @abstractmethod
    def search(self, unit: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """(b, width) cosines of the nearest, in any order, and their row numbers; a cosine of -inf
        where no more were found."""

    @abstractmethod
    def to_onnx(self, graph: Graph, unit: str, k: int) -> tuple[str, str | None]:
        """Write the search; the cosines, (batch, c) with c of at least k <= n, -inf where none was
        found, and their row numbers, None where these are 0 to n - 1."""

    def nearest(
        self,
        unit: np.ndarray,
        k: int,
        own: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(b, c) cosines and row numbers that hold the k nearest and whoever ties with the k-th.

        own: (b,) groups of the queries, groups: (n,) those of the vectors; a vector of the query's
        own group gets cosine -inf.
        """
        n = len(self.vectors)
        width = min(k + ROOM, n)
        while True:
            cosine, rows = self.search(unit, width)
            last = cosine.min(axis=1)
            if own is not None and groups is not None:
                cosine[groups[rows] == own[:, None]] = -np.inf
            complete = (last < kth_largest(cosine, k) - TIE) | np.isneginf(last)
            if width == n or complete.all():
                return cosine, rows
            width = min(4 * width, n)


def kth_largest(values: np.ndarray, k: int) -> np.ndarray:
    """(b,) k-th largest number of each row."""
    last = values.shape[1] - k
    return np.partition(values, last, axis=1)[:, last]


class Exact(Neighbours):
    """Every vector is compared."""

    def search(self, unit: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        cosine = unit @ self.vectors.T
        last = cosine.shape[1] - width
        rows = np.argpartition(cosine, last, axis=1)[:, last:]
        return np.take_along_axis(cosine, rows, axis=1), rows

    def to_onnx(self, graph: Graph, unit: str, k: int) -> tuple[str, str | None]:
        return graph.op("MatMul", unit, graph.constant(self.vectors.T)), None


class InvertedFile(Neighbours):
    """k-means lists, of which only the nearest few are searched (Sivic & Zisserman 2003; Faiss:
    Douze et al. 2024, arXiv 2401.08281), 4 sqrt(n) of them.

    Faiss trains and searches the lists; the graph holds the same ones and searches them likewise.

    n_probe: lists that are searched.
    """

    def __init__(self, vectors: np.ndarray, n_probe: int):
        super().__init__(vectors)
        import faiss  # slow to import, and needed by large logs alone
        from faiss.contrib.inspect_tools import get_invlist

        n, d = vectors.shape
        kmeans = faiss.Kmeans(
            d,
            round(4 * np.sqrt(n)),
            niter=TRAINING_STEPS,
            seed=SEED,
            spherical=True,
            min_points_per_centroid=1,  # as many lists as asked for, without a warning
        )
        kmeans.train(vectors)
        assert kmeans.centroids is not None
        # Lists that stay empty, as where the log repeats a few queries, go: they would lie so near
        # to others that rounding decides which are searched.
        _, nearest = kmeans.index.search(vectors, 1)
        self.centres = kmeans.centroids[np.unique(nearest)]
        n_lists = len(self.centres)
        self.n_probe = min(n_probe, n_lists)
        self._quantizer = faiss.IndexFlatIP(d)  # of which the index holds no reference
        self._quantizer.add(self.centres)
        self._index = faiss.IndexIVFFlat(self._quantizer, d, n_lists, faiss.METRIC_INNER_PRODUCT)
        self._index.train(vectors)  # its lists are there already
        self._index.add(vectors)
        self._index.nprobe = self.n_probe
        lists = [get_invlist(self._index.invlists, i)[0] for i in range(n_lists)]
        self.order = np.concatenate(lists).astype(np.int64)
        self.lengths = np.array([len(rows) for rows in lists])

    def search(self, unit: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        cosine, rows = self._index.search(np.ascontiguousarray(unit), width)
        cosine[rows < 0] = -np.inf
        return cosine, np.maximum(rows, 0)

    def to_onnx(self, graph: Graph, unit: str, k: int) -> tuple[str, str | None]:
        def whole(*numbers: int) -> str:
            return graph.constant(numbers, np.int64)

        affinity = graph.op("MatMul", unit, graph.constant(self.centres.T))
        _, probed = graph.op_with_outputs("TopK", 2, affinity, whole(self.n_probe), axis=1)
        starts = graph.constant(self.lengths.cumsum() - self.lengths, np.int64)
        length = graph.op("Gather", graph.constant(self.lengths, np.int64), probed)
        end = graph.op("CumSum", length, graph.constant(1, np.int64))
        begin = graph.op("Sub", end, length)
        # The probed lists are laid end to end. What lies at a position there lies `shift` further
        # on among all vectors; the shift changes where a list begins.
        shift = graph.op("Sub", graph.op("Gather", starts, probed), begin)
        before = graph.op("Pad", shift, whole(0, 1, 0, -1))
        change = graph.op("Sub", shift, before)
        # One position more than the longest row needs: empty lists may begin there.
        width = graph.op("Add", graph.op("ReduceMax", end, keepdims=0), graph.constant(1, np.int64))
        width = graph.op("Max", width, graph.constant(k, np.int64))
        batch = graph.op("Shape", unit, start=0, end=1)
        shape = graph.op("Concat", batch, graph.op("Unsqueeze", width, whole(0)), axis=0)
        changes = graph.op(
            "ScatterElements",
            graph.op("Expand", whole(0), shape),
            begin,
            change,
            axis=1,
            reduction="add",
        )
        position = graph.op(
            "Range", graph.constant(0, np.int64), width, graph.constant(1, np.int64)
        )
        shifts = graph.op("CumSum", changes, graph.constant(1, np.int64))
        beyond = graph.op("Add", position, shifts)
        place = graph.op("Min", beyond, whole(len(self.order) - 1))
        # Vectors lie list by list, so that a list is read in one go.
        vectors = graph.op("Gather", graph.constant(self.vectors[self.order]), place)
        product = graph.op("MatMul", vectors, graph.op("Unsqueeze", unit, whole(2)))
        cosine = graph.op("Squeeze", product, whole(2))
        is_found = graph.op("Less", position, graph.op("ReduceMax", end, axes=[1], keepdims=1))
        found = graph.op("Where", is_found, cosine, graph.constant(-np.inf))
        return found, graph.op("Gather", graph.constant(self.order, np.int64), place)
