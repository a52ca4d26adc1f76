"""The standard error of a linear predictor, in a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.estimators.graph import Graph


@dataclass(frozen=True)
class LinearUncertainty:
    """(n, m) variance of x·w under the Gaussian posterior of w, with intercept:
    1/sum(weight) + z'(Z'WZ + alpha)^-1 z for z = x - centre (Bishop 2006, section 3.3.2).

    The precision is kept along the leading directions of the queries, and as one mean value in the
    directions left over: a few KB in place of d x d numbers per candidate. It is exact where every
    query weighs the same and no direction is left over; else the terms between directions are
    left out.

    centre: (d,). basis: (d, r) orthonormal. inverse: (r, m). rest: (m,) inverse precision outside
    the basis. floor: (m,) variance of the intercept.
    """

    centre: np.ndarray
    basis: np.ndarray
    inverse: np.ndarray
    rest: np.ndarray
    floor: np.ndarray

    @classmethod
    def fit(
        cls, X: np.ndarray, weights: np.ndarray, alpha: np.ndarray, rank: int
    ) -> LinearUncertainty:
        """X: (n, d). weights: (n, m) precision of each outcome, 0 where unobserved.
        alpha: (m,) penalty."""
        centre = X.mean(axis=0)
        Z = X - centre
        _, directions = np.linalg.eigh(Z.T @ Z)
        d = X.shape[1]
        rank = min(rank, d)
        basis = directions[:, ::-1][:, :rank]
        precision = (Z @ basis).T ** 2 @ weights
        rest = np.zeros(len(alpha))  # without a direction left over, only rounding lies there
        if rank < d:
            total = (Z**2).sum(axis=1) @ weights
            rest = 1.0 / (np.maximum(total - precision.sum(axis=0), 0.0) / (d - rank) + alpha)
        return cls(
            centre=centre,
            basis=basis,
            inverse=1.0 / (precision + alpha),
            rest=rest,
            floor=1.0 / np.maximum(weights.sum(axis=0), 1e-12),
        )

    def variance(self, X: np.ndarray) -> np.ndarray:
        """(n, m) variance of the linear predictor."""
        Z = X - self.centre
        inside = (Z @ self.basis) ** 2
        outside = np.maximum((Z**2).sum(axis=1) - inside.sum(axis=1), 0.0)
        return self.floor + inside @ self.inverse + outside[:, None] * self.rest

    def to_onnx(self, graph: Graph, vector: str) -> str:
        """The name of the variance, (batch, m)."""
        Z = graph.op("Sub", vector, graph.constant(self.centre))
        projected = graph.op("MatMul", Z, graph.constant(self.basis))
        inside = graph.op("Mul", projected, projected)
        if not self.rest.any():
            explained = graph.op("MatMul", inside, graph.constant(self.inverse))
        else:
            # What lies outside the basis is what lies anywhere less what lies inside. The sum over
            # an axis is a product with ones, which is quicker on a single row.
            above = graph.op("MatMul", inside, graph.constant(self.inverse - self.rest))
            ones = graph.constant(np.ones((len(self.centre), 1)))
            norm = graph.op("MatMul", graph.op("Mul", Z, Z), ones)
            anywhere = graph.op("Mul", norm, graph.constant(self.rest[None]))
            explained = graph.op("Relu", graph.op("Add", above, anywhere))
        return graph.op("Add", explained, graph.constant(self.floor[None]))
