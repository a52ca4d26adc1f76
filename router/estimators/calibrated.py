"""Meta: an estimator's qualities, mapped to what was scored where they were predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.isotonic import IsotonicRegression

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit, overall_of, weights_of
from router.estimators.cross_fit import out_of_fold
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

KINDS = ("isotonic", "platt", "beta")
# Steeper steps than this would turn float32 rounding into another quality.
STEEPEST = 25.0
# Beta calibration takes logarithms; linear estimators leave [0, 1].
NEAREST_EDGE = 1e-3
LEAST_SPREAD = 1e-9

# Qualities and scores to fit a map on, and how much each counts.
Cells = tuple[np.ndarray, np.ndarray, np.ndarray]


class Calibrated(Estimator):
    """An estimator whose qualities are passed through one increasing map per candidate, fitted on
    out-of-fold predictions; the estimator itself is then fitted on everything.

    kind "isotonic": Zadrozny & Elkan 2002, with straight lines between the centres of the pooled
    blocks (centred isotonic regression, Oron & Flournoy 2017), so that two queries do not become
    alike, save beyond the outermost centres. It alone serves for cost, which has no upper limit.
    "platt": sigmoid(a q + c), with Platt's (1999) smoothed labels. "beta": Kull et al. 2017,
    sigmoid(a log q - b log(1 - q) + c), which holds the identity (a = b = 1, c = 0). Scores between
    0 and 1 count as that share of a correct answer.

    A candidate with few outcomes takes the map of all candidates together; one whose scores are
    all equal, and a log too small for any map, keep the estimator's own qualities, cut to [0, 1].
    The standard error is half the image of the interval of one standard error to both sides (the
    delta method, where the map is straight), but never below that of the candidate's overall mean.

    estimator: whose qualities are mapped; fitted n_folds + 1 times.
    kind: "isotonic", "platt" or "beta".
    n_folds: of the out-of-fold predictions, at least 2.
    least_outcomes: fewest outcomes for a map, and in a block of the isotonic one.
    random_state: seed of the folds.
    """

    def __init__(
        self,
        estimator: Estimator,
        kind: str = "isotonic",
        n_folds: int = 5,
        least_outcomes: int = 20,
        random_state: int = 0,
    ):
        self.estimator = estimator
        self.kind = kind
        self.n_folds = n_folds
        self.least_outcomes = least_outcomes
        self.random_state = random_state

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if self.kind not in KINDS or self.n_folds < 2 or self.least_outcomes < 2:
            raise RouterError(
                f"Calibrated needs kind to be one of {', '.join(KINDS)}, and n_folds and "
                "least_outcomes of at least 2."
            )
        X, outcomes, targets = check_fit(self, X, outcomes)
        low, high = min(0.0, float(targets.min())), max(1.0, float(targets.max()))
        if self.kind != "isotonic" and (low, high) != (0, 1):
            raise RouterError(
                f"Calibrated needs targets in [0, 1] for kind={self.kind}; choose isotonic, or "
                "another estimator for cost."
            )
        self.candidates_ = outcomes.candidates
        (quality,) = out_of_fold([self.estimator], X, outcomes, self.n_folds, self.random_state)
        weights = weights_of(outcomes)
        chosen = self._cells(quality, targets, weights)
        self.map_: Interpolation | Sigmoid = (
            Interpolation.fit(chosen, self.least_outcomes, low, high)
            if self.kind == "isotonic"
            else Sigmoid.fit(chosen, of_logs=self.kind == "beta")
        )
        self.least_se_ = overall_of(targets, weights).se
        self.fitted_ = clone(self.estimator).fit(X, outcomes)
        return self

    @property
    def takes_weights(self) -> bool:
        """Where the estimator does."""
        return self.estimator.takes_weights

    def _cells(
        self, quality: np.ndarray, targets: np.ndarray, weights: np.ndarray
    ) -> list[Cells | None]:
        """What each candidate's map is fitted on; None for the identity."""
        observed = weights > 0
        known = observed & np.isfinite(quality)
        together = (quality[known], targets[known], weights[known])
        chosen: list[Cells | None] = []
        for j in range(len(self.candidates_)):
            own = (quality[known[:, j], j], targets[known[:, j], j], weights[known[:, j], j])
            scores = targets[observed[:, j], j]
            many = len(scores) >= self.least_outcomes
            cells = own if many and len(own[0]) >= self.least_outcomes else together
            enough = len(cells[0]) >= self.least_outcomes
            chosen.append(None if not enough or (many and np.ptp(scores) == 0) else cells)
        return chosen

    def predict(self, X: np.ndarray) -> Prediction:
        inner = self.fitted_.predict(X)
        quality, se = inner.quality, inner.quality_se
        width = self.map_(quality + se) - self.map_(quality - se)
        return Prediction(
            self.candidates_, self.map_(quality), np.maximum(width / 2, self.least_se_)
        )

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        quality, se = self.fitted_.to_onnx(graph, vector)
        above = self.map_.to_onnx(graph, graph.op("Add", quality, se))
        below = self.map_.to_onnx(graph, graph.op("Sub", quality, se))
        half = graph.op("Mul", graph.op("Sub", above, below), graph.constant(0.5))
        least = graph.op("Max", half, graph.constant(self.least_se_))
        return self.map_.to_onnx(graph, quality), least


@dataclass(frozen=True)
class Interpolation:
    """Straight lines between knots, level outside; all candidates' knots side by side.

    knots, widths, slopes: (m, segments) where a segment begins, its width and its slope; width and
    slope of a missing one are 0. start: (m,) value at and below the first knot. low, high: limits.
    """

    knots: np.ndarray
    widths: np.ndarray
    slopes: np.ndarray
    start: np.ndarray
    low: float
    high: float

    @classmethod
    def fit(
        cls, chosen: Sequence[Cells | None], least_outcomes: int, low: float, high: float
    ) -> Interpolation:
        """Isotonic regression of each candidate's cells; blocks hold least_outcomes at least."""
        curves = [
            (np.array([low, high]), np.array([low, high]))
            if cells is None
            else _isotonic(*cells, least_outcomes)
            for cells in chosen
        ]
        shape = (len(curves), max(1, *(len(x) - 1 for x, _ in curves)))
        knots, widths, slopes = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for j, (x, y) in enumerate(curves):
            segments = len(x) - 1
            knots[j, :segments], widths[j, :segments] = x[:-1], np.diff(x)
            slopes[j, :segments] = np.diff(y) / np.diff(x)
        return cls(knots, widths, slopes, np.array([y[0] for _, y in curves]), low, high)

    def __call__(self, quality: np.ndarray) -> np.ndarray:
        along = np.clip(quality[:, :, None] - self.knots, 0.0, self.widths)
        return np.clip(self.start + (along * self.slopes).sum(axis=2), self.low, self.high)

    def to_onnx(self, graph: Graph, quality: str) -> str:
        """The name of the mapped quality."""
        last = graph.constant([2], np.int64)
        beyond = graph.op(
            "Sub", graph.op("Unsqueeze", quality, last), graph.constant(self.knots[None])
        )
        along = graph.op("Min", graph.op("Relu", beyond), graph.constant(self.widths[None]))
        risen = graph.op("Mul", along, graph.constant(self.slopes[None]))
        total = graph.op(
            "Add", graph.op("ReduceSum", risen, last, keepdims=0), graph.constant(self.start)
        )
        return graph.op("Clip", total, graph.constant(self.low), graph.constant(self.high))


def _isotonic(
    quality: np.ndarray, scores: np.ndarray, weights: np.ndarray, least_outcomes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Knots: mean quality and mean score of each pooled block, both ascending.

    A block with few outcomes, as isotonic regression leaves at both ends, is pooled with the one
    nearest in score, and so are two with a step too steep between them."""
    fitted = IsotonicRegression().fit_transform(quality, scores, sample_weight=weights)
    _, block = np.unique(fitted, return_inverse=True)
    n: np.ndarray = np.bincount(block, weights)
    x: np.ndarray = np.bincount(block, weights * quality) / n
    y: np.ndarray = np.bincount(block, weights * scores) / n
    while len(n) > 1:
        small = int(n.argmin())
        steep = int((np.diff(y) / np.maximum(np.diff(x), LEAST_SPREAD)).argmax())
        if n[small] < least_outcomes:
            neighbours = [i for i in (small - 1, small) if 0 <= i < len(n) - 1]
            first = min(neighbours, key=lambda i: y[i + 1] - y[i])
        elif y[steep + 1] - y[steep] > STEEPEST * (x[steep + 1] - x[steep]):
            first = steep
        else:
            break
        pair = slice(first, first + 2)
        for values in (x, y):
            values[first + 1] = np.average(values[pair], weights=n[pair])
        n[first + 1] = n[pair].sum()
        x, y, n = (np.delete(values, first) for values in (x, y, n))
    return x, y


@dataclass(frozen=True)
class Sigmoid:
    """sigmoid(slopes · features + intercept), where the features are the quality (Platt) or
    (log quality, -log(1 - quality)) (beta).

    of_logs: True for beta. slopes: (features, m), not negative. intercept: (m,). same: (m,) True
    where the quality is kept, cut to [0, 1].
    """

    of_logs: bool
    slopes: np.ndarray
    intercept: np.ndarray
    same: np.ndarray

    @classmethod
    def fit(cls, chosen: Sequence[Cells | None], of_logs: bool) -> Sigmoid:
        """Logistic regression of each candidate's scores on the features of its qualities."""
        slopes = np.zeros((2 if of_logs else 1, len(chosen)))
        intercept = np.zeros(len(chosen))
        for j, cells in enumerate(chosen):
            if cells is not None:
                slopes[:, j], intercept[j] = _logistic(
                    _features(cells[0], of_logs), cells[1], cells[2]
                )
        return cls(of_logs, slopes, intercept, np.array([cells is None for cells in chosen]))

    def __call__(self, quality: np.ndarray) -> np.ndarray:
        features = _features(quality, self.of_logs)
        mapped = expit((features * self.slopes[:, None]).sum(axis=0) + self.intercept)
        return np.where(self.same, np.clip(quality, 0.0, 1.0), mapped)

    def to_onnx(self, graph: Graph, quality: str) -> str:
        """The name of the mapped quality."""
        if self.of_logs:
            edges = graph.constant(NEAREST_EDGE), graph.constant(1 - NEAREST_EDGE)
            inside = graph.op("Clip", quality, *edges)
            missing = graph.op("Sub", graph.constant(1.0), inside)
            features = [graph.op("Log", inside), graph.op("Neg", graph.op("Log", missing))]
        else:
            features = [quality]
        total = graph.constant(self.intercept)
        for feature, slope in zip(features, self.slopes, strict=True):
            total = graph.op("Add", graph.op("Mul", feature, graph.constant(slope)), total)
        cut = graph.op("Clip", quality, graph.constant(0.0), graph.constant(1.0))
        return graph.op("Where", graph.constant(self.same, bool), cut, graph.op("Sigmoid", total))


def _features(quality: np.ndarray, of_logs: bool) -> np.ndarray:
    """(features, ...) of any array of qualities."""
    if not of_logs:
        return quality[None]
    inside = np.clip(quality, NEAREST_EDGE, 1 - NEAREST_EDGE)
    return np.stack([np.log(inside), -np.log1p(-inside)])


def _logistic(
    features: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, float]:
    """(features,) slopes of at least 0 and intercept of least log loss.

    Platt's labels keep off 0 and 1, so that the loss is least at finite slopes."""
    right, wrong = (weights * scores).sum(), (weights * (1 - scores)).sum()
    labels = scores * (right + 1) / (right + 2) + (1 - scores) / (wrong + 2)
    centre = features.mean(axis=1, keepdims=True)
    spread = np.maximum(features.std(axis=1, keepdims=True), LEAST_SPREAD)
    Z = np.concatenate([(features - centre) / spread, np.ones((1, len(scores)))])

    def loss(coef: np.ndarray) -> tuple[float, np.ndarray]:
        log_odds = coef @ Z
        value = (weights * (np.logaddexp(0, log_odds) - labels * log_odds)).sum() / total
        return float(value), Z @ (weights * (expit(log_odds) - labels)) / total

    total = weights.sum()
    start = np.append(np.zeros(len(features)), logit(np.average(labels, weights=weights)))
    bounds = [(0, None)] * len(features) + [(None, None)]
    options = {"gtol": 1e-8, "ftol": 0.0}
    coef = minimize(loss, start, jac=True, bounds=bounds, options=options).x
    slopes = coef[:-1] / spread[:, 0]
    return slopes, float(coef[-1] - slopes @ centre[:, 0])
