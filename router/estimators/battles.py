"""Battles: which of two candidates did better on one query, and what strengths say of the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from router.errors import RouterError
from router.estimators.graph import Graph
from router.outcomes.matrix import OutcomeMatrix

CONVERGED = 1e-4  # change of a log strength in one round
MOST_ROUNDS = 300
STEP = 2 / 3  # see `Rounds`
TO_CONVERGENCE = 10_000  # rounds at most, where no graph has to do them too
SETTLED = 1e-10


@dataclass(frozen=True)
class Battles:
    """Every pair of observed candidates of every query; the higher score wins, equal ones tie.

    A table of battles is read as outcomes with scores 1 and 0, or 0.5 twice. A query with more
    outcomes holds all their pairs.

    query, first, second: (b,) row of the query and numbers of the two candidates.
    result: (b,) 1 where the first won, 0 where the second did, 0.5 for a tie.
    weight: (b,) 1 / (the query's candidates - 1), so that an outcome counts once, however many
        others it is compared with.
    shape: (queries, candidates).
    """

    query: np.ndarray
    first: np.ndarray
    second: np.ndarray
    result: np.ndarray
    weight: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def of(cls, outcomes: OutcomeMatrix) -> Battles:
        """Raises RouterError where no query has the outcomes of two candidates."""
        observed, scores = outcomes.observed, outcomes.scores
        n, m = observed.shape
        parts = []
        for i in range(m):
            for j in range(i + 1, m):
                rows = np.flatnonzero(observed[:, i] & observed[:, j])
                result = 0.5 + 0.5 * np.sign(scores[rows, i] - scores[rows, j])
                parts.append((rows, np.full(len(rows), i), np.full(len(rows), j), result))
        if not any(len(part[0]) for part in parts):
            raise RouterError(
                f"None of the {n} queries has outcomes of two candidates, so none is preferred; "
                "log both answers to a query, or choose another estimator."
            )
        query, first, second, result = (np.concatenate(part) for part in zip(*parts, strict=True))
        weight = 1 / (observed.sum(axis=1)[query] - 1)
        return cls(query, first, second, result, weight, (n, m))

    def totals(self, of_first: np.ndarray, of_second: np.ndarray) -> np.ndarray:
        """(n, m) sums of a number of each battle's first and second candidate."""
        n, m = self.shape
        cells = np.concatenate([self.query * m + self.first, self.query * m + self.second])
        values = np.concatenate([of_first, of_second])
        return np.bincount(cells, values, minlength=n * m).reshape(n, m)

    def total_wins(self) -> np.ndarray:
        """(m, m) weight with which the row's candidate beat the column's, ties half."""
        m = self.shape[1]
        cells = np.concatenate([self.first * m + self.second, self.second * m + self.first])
        values = np.concatenate([self.weight * self.result, self.weight * (1 - self.result)])
        return np.bincount(cells, values, minlength=m * m).reshape(m, m)

    def wins(self) -> np.ndarray:
        """(n, m, m) float32: the same for each query."""
        n, m = self.shape
        wins = np.zeros((n, m, m), dtype=np.float32)
        wins[self.query, self.first, self.second] = self.weight * self.result
        wins[self.query, self.second, self.first] = self.weight * (1 - self.result)
        return wins


def chances_to_beat(strength: np.ndarray, tie: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(n, m) mean chance to beat another candidate, ties counted half, of (n, m) strengths, and how
    steeply it rises with the candidate's own strength.

    tie: a candidate wins with chance sigmoid(edge - tie) (Rao and Kupper 1967); 0 leaves no tie.
    """
    m = strength.shape[1]
    chance, slope = np.zeros_like(strength), np.zeros_like(strength)
    for j in range(m):  # one opponent at a time: (n, m, m) numbers may be too many
        edge = strength - strength[:, [j]]
        win, lose = expit(edge - tie), expit(-edge - tie)
        others = np.arange(m) != j
        chance += others * (1 + win - lose) / 2
        slope += others * (win * (1 - win) + lose * (1 - lose)) / 2
    return chance / (m - 1), slope / (m - 1)


def chances_to_onnx(graph: Graph, strength: str, m: int, tie: float = 0.0) -> tuple[str, str]:
    """`chances_to_beat` in the graph."""
    edge = edges_to_onnx(graph, strength)
    one, half = graph.constant(1.0), graph.constant(0.5)
    margin = graph.constant(tie)
    win = graph.op("Sigmoid", graph.op("Sub", edge, margin))
    lose = graph.op("Sigmoid", graph.op("Sub", graph.op("Neg", edge), margin))
    lead = graph.op("Add", graph.op("Sub", win, lose), one)
    slopes = [graph.op("Mul", p, graph.op("Sub", one, p)) for p in (win, lose)]
    others = graph.constant((1 - np.eye(m))[None] / (m - 1))
    last = graph.constant([2], np.int64)

    def mean(matrix: str) -> str:
        halved = graph.op("Mul", graph.op("Mul", matrix, half), others)
        return graph.op("ReduceSum", halved, last, keepdims=0)

    return mean(lead), mean(graph.op("Add", *slopes))


def edges_to_onnx(graph: Graph, strength: str) -> str:
    """(batch, m, m) own strength less the other's."""
    row = graph.op("Unsqueeze", strength, graph.constant([2], np.int64))
    column = graph.op("Unsqueeze", strength, graph.constant([1], np.int64))
    return graph.op("Sub", row, column)


def prior_wins(m: int, prior: float) -> np.ndarray:
    """(m, m) wins of `prior` battles of each candidate, half of them won, spread evenly over the
    others: a candidate that never lost, or never fought, gets a finite strength."""
    return prior / (2 * max(m - 1, 1)) * (1 - np.eye(m))


@dataclass(frozen=True)
class Rounds:
    """Maximum of the Bradley-Terry likelihood, one for each row of a batch, by a fixed number of
    rounds that numpy and the graph do alike.

    Newman's iteration (JMLR 2023, arXiv 2207.00076), which needs far fewer rounds than Zermelo's
    where a candidate hardly ever loses. He moves one candidate after the other; all move at once
    here, by two thirds of the way, since by the whole way two candidates would swap for ever.

    start: (m,) log strengths.
    count: rounds.
    """

    start: np.ndarray
    count: int

    @classmethod
    def fit(cls, wins: np.ndarray, start: np.ndarray) -> Rounds:
        """As many rounds as settle (batch, m, m) wins, MOST_ROUNDS at most, and half as many again
        for those that are still to come."""
        strength, change, count = np.tile(start, (len(wins), 1)), np.inf, 0
        while change > CONVERGED and count < MOST_ROUNDS:
            moved = _next(strength, wins)
            change = np.abs(moved - strength).max()
            strength, count = moved, count + 1
        return cls(start, min(count + (count + 1) // 2, MOST_ROUNDS))

    def strengths(self, wins: np.ndarray) -> np.ndarray:
        """(batch, m) log strengths of (batch, m, m) wins."""
        strength = np.tile(self.start, (len(wins), 1))
        for _ in range(self.count):
            strength = _next(strength, wins)
        return strength

    def to_onnx(self, graph: Graph, wins: str) -> str:
        """`strengths` in the graph."""
        axes = {place: graph.constant([place], np.int64) for place in (1, 2)}
        step = graph.constant(STEP)
        strength = graph.constant(self.start[None])
        for _ in range(self.count):
            gamma = graph.op("Exp", strength)
            row = graph.op("Unsqueeze", gamma, axes[2])
            column = graph.op("Unsqueeze", gamma, axes[1])
            share = graph.op("Div", wins, graph.op("Add", row, column))
            beaten = graph.op("ReduceSum", graph.op("Mul", share, column), axes[2], keepdims=0)
            beaten_by = graph.op("ReduceSum", share, axes[1], keepdims=0)
            target = graph.op("Log", graph.op("Div", beaten, beaten_by))
            way = graph.op("Sub", target, strength)
            strength = graph.op("Add", strength, graph.op("Mul", way, step))
        return strength


def _next(strength: np.ndarray, wins: np.ndarray) -> np.ndarray:
    gamma = np.exp(strength)
    share = wins / (gamma[:, :, None] + gamma[:, None, :])
    beaten = (share * gamma[:, None, :]).sum(axis=2)
    return strength + STEP * (np.log(beaten / share.sum(axis=1)) - strength)


def overall_strengths(wins: np.ndarray) -> np.ndarray:
    """(m,) log strengths of all (m, m) wins together, from equal ones until they have settled."""
    strength = np.zeros((1, len(wins)))
    for _ in range(TO_CONVERGENCE):
        moved = _next(strength, wins[None])
        settled = np.abs(moved - strength).max() < SETTLED
        strength = moved
        if settled:
            break
    return strength[0] - strength[0].mean()


def information(strength: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(batch, m) information on a candidate's own strength, the others taken as known, in
    (batch, m, m) counts of battles."""
    edge = strength[:, :, None] - strength[:, None, :]
    p = expit(edge)
    return (counts * p * (1 - p)).sum(axis=2)
