"""A weighted mean of outcomes, shrunk to the candidate's overall mean, with its standard error."""

from __future__ import annotations

import numpy as np

from router.estimators.base import Overall
from router.estimators.graph import Graph

# Beside no outcome at all, a pseudo-count of zero would leave 0/0 in place of the overall mean.
LEAST_PSEUDO_COUNT = 1e-9


class ShrunkenMean:
    """Posterior mean and standard error of a local mean under a normal prior around the overall
    mean (Gelman et al. 2013, section 2.5), where the local outcomes carry weights.

    Sums over local outcomes are taken of deviations from the overall mean, which float32 keeps
    apart where the outcomes themselves would cancel. The effective sample size is Kish's,
    (sum of weights)^2 / sum of squared weights, with the prior as a sample of its own; it is at
    least 1, since local means spread no more than outcomes do. The overall mean's own variance is
    added in the share in which that mean enters.

    overall: the candidates' statistics. pseudo_count: weight of the overall mean.
    """

    def __init__(self, overall: Overall, pseudo_count: float):
        self.overall = overall
        self.pseudo_count = max(pseudo_count, LEAST_PSEUDO_COUNT)

    def __call__(
        self, weight: np.ndarray, square: np.ndarray, total: np.ndarray, total2: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard error, (n, m), from sums over local outcomes, each (n, m): of weights,
        of squared weights, of weighted deviations and of weighted squared deviations."""
        prior, variance = self.pseudo_count, self.overall.variance
        shrunk = weight + prior
        shift = total / shrunk
        spread = np.maximum((total2 + prior * variance) / shrunk - shift**2, 0.0)
        effective = np.maximum(shrunk**2 / (square + prior), 1.0)
        of_overall = (prior / shrunk) ** 2 * (variance / self.overall.count)
        return self.overall.mean + shift, np.sqrt(spread / effective + of_overall)

    def to_onnx(
        self, graph: Graph, weight: str, square: str, total: str, total2: str
    ) -> tuple[str, str]:
        """The same in the graph."""
        prior = graph.constant(self.pseudo_count)
        shrunk = graph.op("Add", weight, prior)
        shift = graph.op("Div", total, shrunk)
        prior_square = graph.constant(self.pseudo_count * self.overall.variance)
        second = graph.op("Div", graph.op("Add", total2, prior_square), shrunk)
        spread = graph.op("Relu", graph.op("Sub", second, graph.op("Mul", shift, shift)))
        kish = graph.op("Div", graph.op("Mul", shrunk, shrunk), graph.op("Add", square, prior))
        effective = graph.op("Max", kish, graph.constant(1.0))
        share = graph.op("Div", prior, shrunk)
        of_overall = graph.op(
            "Mul", graph.op("Mul", share, share), graph.constant(self.overall.se**2)
        )
        variance = graph.op("Add", graph.op("Div", spread, effective), of_overall)
        mean = graph.op("Add", shift, graph.constant(self.overall.mean))
        return mean, graph.op("Sqrt", variance)
