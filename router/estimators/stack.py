"""Meta: a convex combination of estimators, weighted on out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Self

import numpy as np
from scipy.optimize import nnls
from sklearn.base import clone

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit, weights_of
from router.estimators.cross_fit import out_of_fold
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

LEAST_WEIGHT = 1e-3
LEAST_PULL = 1e-6  # towards equal weights: it decides between members that are all alike
LEAST_SPREAD = 1e-12
SUM_TO_ONE = 1e3  # weight of the constraint, beside squares of about 1


class Stack(Estimator):
    """Super learner (van der Laan et al. 2007, Breiman 1996): members fitted on folds predict the
    rest, and the convex weights that do best there combine the members fitted on everything.

    Best is judged by what routing rests on, the differences between candidates on one query: least
    squares between the scores and the mixture, both taken from their means over the query's
    outcomes. To be right about how hard a query is earns nothing, and a query with one outcome
    counts for nothing; where no query has two, the weights are equal. A query more or less moves
    these weights little, whereas the score of the candidate ranked first jumps.

    A member farther from the scores than their overall mean is on a scale of its own, such as
    shares of wins: a line common to all candidates takes it to the scores. Members of almost no
    weight are left out.

    The standard errors are averaged with the weights: the members err on the same queries.

    estimators: the members by name, fitted n_folds + 1 times.
    n_folds: of the out-of-fold predictions, at least 2.
    equal: pseudo-count of equal weights, in queries.
    random_state: seed of the folds.
    """

    def __init__(
        self,
        estimators: Mapping[str, Estimator],
        n_folds: int = 5,
        equal: float = 10.0,
        random_state: int = 0,
    ):
        self.estimators = estimators
        self.n_folds = n_folds
        self.equal = equal
        self.random_state = random_state

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if not self.estimators or self.n_folds < 2 or not self.equal >= 0:
            raise RouterError(
                "Stack needs at least one estimator, n_folds of at least 2 and equal of at least 0."
            )
        X, outcomes, targets = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        members = list(self.estimators.values())
        quality = out_of_fold(members, X, outcomes, self.n_folds, self.random_state)
        known = outcomes.observed & np.isfinite(quality).all(axis=0)
        counts = np.where(known, weights_of(outcomes), 0.0)
        lines = np.array([_line(own[known], targets[known], counts[known]) for own in quality])
        on_scale = lines[:, 0, None, None] + lines[:, 1, None, None] * quality
        weights = contrast_weights(on_scale, targets, counts, self.equal)
        weights = np.where(weights < LEAST_WEIGHT, 0.0, weights)
        weights /= weights.sum()
        self.weights_ = dict(zip(self.estimators, weights.tolist(), strict=True))
        kept = np.flatnonzero(weights)
        self.members_ = [clone(members[k]).fit(X, outcomes) for k in kept]
        self.slopes_ = (weights * lines[:, 1])[kept]
        self.shift_, self.shift_se_ = weights @ lines[:, 0], weights @ lines[:, 2]
        return self

    @property
    def takes_weights(self) -> bool:
        """Where every member does."""
        return all(member.takes_weights for member in self.estimators.values())

    def predict(self, X: np.ndarray) -> Prediction:
        predictions = [member.predict(X) for member in self.members_]
        quality = np.tensordot(self.slopes_, [p.quality for p in predictions], 1)
        se = np.tensordot(self.slopes_, [p.quality_se for p in predictions], 1)
        return Prediction(self.candidates_, quality + self.shift_, se + self.shift_se_)

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        written = [member.to_onnx(graph, vector) for member in self.members_]

        def mixed(tensors: Sequence[str], shift: float) -> str:
            terms = [
                graph.op("Mul", tensor, graph.constant(slope))
                for tensor, slope in zip(tensors, self.slopes_, strict=True)
            ]
            return reduce(lambda a, b: graph.op("Add", a, b), [*terms, graph.constant(shift)])

        qualities, errors = zip(*written, strict=True)
        return mixed(qualities, self.shift_), mixed(errors, self.shift_se_)


def contrast_weights(
    quality: np.ndarray, targets: np.ndarray, counts: np.ndarray, equal: float
) -> np.ndarray:
    """(members,) convex weights of least squared error of the score differences within queries.

    quality: (members, n, m). targets: (n, m). counts: (n, m) as base.weights_of, 0 where an outcome
    or a quality is not known. equal: pseudo-count of equal weights; one query of it counts as much
    as the mean query with two outcomes or more.
    """
    known = counts > 0
    total = counts.sum(axis=1, keepdims=True)
    total = np.where(total > 0, total, 1.0)

    def deviations(values: np.ndarray) -> np.ndarray:
        """Times the root of the weight, so that their squares are weighted ones."""
        seen = np.where(known, values, 0.0)
        mean = (counts * seen).sum(axis=-1, keepdims=True) / total
        return np.where(known, np.sqrt(counts) * (seen - mean), 0.0)

    k = len(quality)
    predicted = deviations(quality).reshape(k, -1)
    gram, match = predicted @ predicted.T, predicted @ deviations(targets).ravel()
    size = np.trace(gram) / k
    if size < LEAST_SPREAD * max(len(targets), 1):
        return np.full(k, 1 / k)
    pull = equal / (known.sum(axis=1) > 1).sum() + LEAST_PULL
    root = np.linalg.cholesky(gram / size + pull * np.eye(k))
    # |root' w - root^-1 target|^2 is the squared error; one more row holds the sum at 1.
    aim = np.linalg.solve(root, match / size + pull / k)
    rows = np.vstack([root.T, np.full(k, SUM_TO_ONE)])
    weights, _ = nnls(rows, np.append(aim, SUM_TO_ONE))
    return np.asarray(weights / weights.sum())


def _line(
    quality: np.ndarray, scores: np.ndarray, counts: np.ndarray
) -> tuple[float, float, float]:
    """(shift, slope, standard error of the shift) of a member's own scale; (0, 1, 0) where its
    qualities are nearer to the scores than the scores' mean is."""
    if len(scores) == 0:
        return 0.0, 1.0, 0.0

    def mean(values: np.ndarray) -> float:
        return float(np.average(values, weights=counts))

    level = mean(scores)
    if mean((scores - quality) ** 2) <= mean((scores - level) ** 2) + LEAST_SPREAD:
        return 0.0, 1.0, 0.0
    deviation = quality - mean(quality)
    spread = mean(deviation**2)
    slope = 0.0 if spread < LEAST_SPREAD else max(mean(deviation * scores) / spread, 0.0)
    shift = level - slope * mean(quality)
    error = np.sqrt(mean((scores - shift - slope * quality) ** 2) / counts.sum())
    return float(shift), float(slope), float(error)
