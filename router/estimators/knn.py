"""E1: the outcomes of the most similar queries."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import csr_array

from router.errors import RouterError
from router.estimators.base import (
    Estimator,
    Overall,
    check_fit,
    check_labels,
    overall_of,
    weights_of,
)
from router.estimators.graph import Graph
from router.estimators.neighbours import (
    TIE,
    Exact,
    InvertedFile,
    Neighbours,
    kth_largest,
)
from router.estimators.shrinkage import ShrunkenMean
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

CHUNK = 512  # queries at a time: their similarities to all training queries lie in memory
LEAST_NORM = 1e-12


@dataclass(frozen=True)
class Vote:
    """Candidates whose outcomes stand beside the same training queries.

    neighbours: of the n queries. sums: (n, 3m) weight (base.weights_of), and this times the
    deviation from the overall mean and times its square. squares: (n, m) of the weights. mean: what
    they are shrunk to.
    """

    neighbours: Neighbours
    sums: np.ndarray
    squares: np.ndarray
    mean: ShrunkenMean

    @property
    def n_candidates(self) -> int:
        return self.squares.shape[1]

    def at(self, X: np.ndarray, k: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard error of (b, d) vectors, (b, m)."""
        k = min(k, len(self.sums))
        return self.count(*self.neighbours.nearest(_unit(X), k), k, temperature)

    def count(
        self, cosine: np.ndarray, rows: np.ndarray, k: int, temperature: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same from what `nearest` found."""
        largest = cosine.max(axis=1, keepdims=True)
        above = cosine - np.where(np.isfinite(largest), largest, 0)
        weight = np.exp(above / np.float32(temperature))
        weight *= cosine >= kth_largest(cosine, k)[:, None] - np.float32(TIE)
        ends = np.arange(len(rows) + 1) * rows.shape[1]

        def weighted(weight: np.ndarray, table: np.ndarray) -> np.ndarray:
            shape = (len(rows), len(table))
            total = csr_array((weight.ravel(), rows.ravel(), ends), shape=shape) @ table
            return total.astype(np.float64)

        count, total, total2 = np.split(weighted(weight, self.sums), 3, axis=1)
        squares = weighted(weight**2, self.squares)
        return self.mean(count, squares, total, total2)

    def to_onnx(self, graph: Graph, unit: str, k: int, temperature: float) -> tuple[str, str]:
        m = self.n_candidates
        k = min(k, len(self.sums))
        cosine, rows = self.neighbours.to_onnx(graph, unit, k)
        nearest, _ = graph.op_with_outputs("TopK", 2, cosine, graph.constant([k], np.int64), axis=1)
        least = graph.op(
            "Sub", graph.op("ReduceMin", nearest, axes=[1], keepdims=1), graph.constant(TIE)
        )
        largest = graph.op("ReduceMax", nearest, axes=[1], keepdims=1)
        scaled = graph.op("Div", graph.op("Sub", cosine, largest), graph.constant(temperature))
        counts = graph.op("GreaterOrEqual", cosine, least)
        weight = graph.op("Where", counts, graph.op("Exp", scaled), graph.constant(0.0))

        def weighted(weight: str, table: np.ndarray) -> str:
            if rows is None:
                return graph.op("MatMul", weight, graph.constant(table))
            axis = graph.constant([1], np.int64)
            found = graph.op("Gather", graph.constant(table), rows)
            return graph.op(
                "Squeeze", graph.op("MatMul", graph.op("Unsqueeze", weight, axis), found), axis
            )

        count, total, total2 = graph.op_with_outputs(
            "Split", 3, weighted(weight, self.sums), graph.constant([m, m, m], np.int64), axis=1
        )
        squares = weighted(graph.op("Mul", weight, weight), self.squares)
        return self.mean.to_onnx(graph, count, squares, total, total2)


class KNN(Estimator):
    """Similarity-weighted mean over the nearest training queries.

    Whoever is as near as the last of the nearest counts too, so that neither the order of the log
    nor rounding decides between duplicates.

    Benchmark routing by k nearest neighbours: Shnitzer et al. 2023 (arXiv 2309.15789); well-tuned
    kNN as the router to beat: Li 2025 (arXiv 2505.12601); approximate neighbours: Wu and Silwal
    2025.

    Several values of n_neighbors or temperature are tried in every combination: each training query
    is predicted from those outside its group, and the combination is taken whose candidates ranked
    first scored the most, which is what a router is for; ties go to the least squared error.

    n_neighbors: how many of the nearest queries count, or several numbers to choose from.
    temperature: weight = exp((cosine - largest cosine) / temperature); one, or several.
    shrinkage: pseudo-count of the candidate's overall mean beside the neighbours.
    approximate_above: number of training queries above which the search is approximate (see
        InvertedFile).
    n_probe: lists searched by the approximate search; more find more of the nearest and take
        longer.
    """

    takes_weights = True

    def __init__(
        self,
        n_neighbors: int | Sequence[int] = 40,
        temperature: float | Sequence[float] = 0.1,
        shrinkage: float = 1.0,
        approximate_above: int = 20_000,
        n_probe: int = 48,
    ):
        self.n_neighbors = n_neighbors
        self.temperature = temperature
        self.shrinkage = shrinkage
        self.approximate_above = approximate_above
        self.n_probe = n_probe

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        settings = [
            (int(k), float(temperature))
            for k in np.atleast_1d(self.n_neighbors)
            for temperature in np.atleast_1d(self.temperature)
        ]
        if (
            not settings
            or min(k for k, _ in settings) < 1
            or not min(temperature for _, temperature in settings) > 0
            or not self.shrinkage >= 0
            or self.n_probe < 1
        ):
            raise RouterError(
                "KNN needs n_neighbors and n_probe of at least 1, temperature above 0 and "
                "shrinkage of at least 0."
            )
        X, outcomes, targets = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        weights = weights_of(outcomes)
        vote = self._vote(X, targets, weights, overall_of(targets, weights))
        self.votes_ = [vote]
        self.n_neighbors_, self.temperature_ = (
            settings[0]
            if len(settings) == 1
            else _best(settings, vote, X, outcomes.groups, targets, weights)
        )
        return self

    def _vote(
        self, X: np.ndarray, targets: np.ndarray, weights: np.ndarray, overall: Overall
    ) -> Vote:
        deviation = targets - overall.mean
        columns = [weights, weights * deviation, weights * deviation**2]
        sums = np.concatenate(columns, axis=1, dtype=np.float32)
        unit = _unit(X)
        is_large = len(unit) > self.approximate_above
        neighbours = InvertedFile(unit, self.n_probe) if is_large else Exact(unit)
        return Vote(
            neighbours,
            sums,
            np.square(weights, dtype=np.float32),
            ShrunkenMean(overall, self.shrinkage),
        )

    def with_candidate(self, name: str, X: np.ndarray, scores: np.ndarray) -> Self:
        """As in Estimator; the new candidate's neighbours are sought among its own k labelled
        queries, in the number and at the temperature of the others."""
        X, scores = check_labels(self, name, X, scores)
        targets = scores[:, None]
        overall = self.votes_[0].mean.overall.with_candidate(scores).last()
        grown = copy.copy(self)
        grown.candidates_ = (*self.candidates_, name)
        vote = self._vote(X, targets, np.ones_like(targets), overall)
        grown.votes_ = [*self.votes_, vote]
        return grown

    def predict(self, X: np.ndarray) -> Prediction:
        parts = [self._predict(X[i : i + CHUNK]) for i in range(0, max(len(X), 1), CHUNK)]
        quality, se = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Prediction(self.candidates_, quality, se)

    def _predict(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [vote.at(X, self.n_neighbors_, self.temperature_) for vote in self.votes_]
        quality, se = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
        return quality, se

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        norm = graph.op("ReduceL2", vector, axes=[1], keepdims=1)
        unit = graph.op("Div", vector, graph.op("Max", norm, graph.constant(LEAST_NORM)))
        written = [
            v.to_onnx(graph, unit, self.n_neighbors_, self.temperature_) for v in self.votes_
        ]
        quality, se = (
            parts[0] if len(parts) == 1 else graph.op("Concat", *parts, axis=1)
            for parts in zip(*written, strict=True)
        )
        return quality, se


def _unit(X: np.ndarray) -> np.ndarray:
    """float32 rows of unit length; a row of zeros stays."""
    X = np.asarray(X, dtype=np.float32)
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), LEAST_NORM)


def _best(
    settings: Sequence[tuple[int, float]],
    vote: Vote,
    X: np.ndarray,
    groups: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
) -> tuple[int, float]:
    """The setting whose candidates ranked first score the most, each query being predicted from
    the other groups. What a query's own score adds to the overall mean is neglected."""
    n = len(X)
    most = min(max(k for k, _ in settings), n)
    quality = np.empty((len(settings), *targets.shape))
    for i in range(0, n, CHUNK):
        part = slice(i, i + CHUNK)
        found = vote.neighbours.nearest(_unit(X[part]), most, groups[part], groups)
        for s, (k, temperature) in enumerate(settings):
            quality[s, part], _ = vote.count(*found, min(k, n), temperature)
    error = (weights * (quality - targets) ** 2).sum(axis=(1, 2))
    first = quality.argmax(axis=2)[:, :, None]
    seen = np.take_along_axis(weights[None], first, axis=2).sum(axis=(1, 2))
    score = np.take_along_axis((weights * targets)[None], first, axis=2).sum(axis=(1, 2))
    return settings[np.lexsort((error, -score / np.where(seen > 0, seen, 1)))[0]]
