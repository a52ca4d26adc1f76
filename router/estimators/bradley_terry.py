"""E5: strengths that depend on the query, learned from which of two candidates did better."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from router.errors import RouterError
from router.estimators.base import Estimator, check_fit
from router.estimators.battles import Battles, chances_to_beat, chances_to_onnx
from router.estimators.graph import Graph
from router.estimators.linear_uncertainty import LinearUncertainty
from router.outcomes.matrix import OutcomeMatrix
from router.prediction import Prediction

TOLERANCE = 1e-6  # of the gradient of the mean loss
MOST_STEPS = 1000
PRIOR = 1.0  # battles, see BradleyTerry
COIN = 0.25  # variance of an even battle
START = 0.3  # log theta


class BradleyTerry(Estimator):
    """Strengths linear in the vector, with intercept, learned from battles with ties.

    P2L (arXiv 2502.14855) on a frozen encoder. Ties follow Rao and Kupper (1967): the first of two
    wins with chance sigmoid(its strength - the other's - log theta), theta at least 1 and one for
    all queries. Battles are all pairs of a query's outcomes (see Battles).

    Quality is the mean chance to beat another candidate, ties counted half: a number in [0, 1], but
    no score. Its standard error is that of the candidate's own strength, the others taken as known.

    One battle, half won and half lost, against a candidate of strength 0 stands beside those of
    each candidate, and one, half of it a tie, beside those that tell theta: both stay finite.

    C: inverse penalty.
    se_rank: directions in which the standard error is kept exactly (see LinearUncertainty).
    """

    def __init__(self, C: float = 0.3, se_rank: int = 32):
        self.C = C
        self.se_rank = se_rank

    def fit(self, X: np.ndarray, outcomes: OutcomeMatrix) -> Self:
        if not self.C > 0 or self.se_rank < 1:
            raise RouterError("BradleyTerry needs C above 0 and se_rank of at least 1.")
        X, outcomes, _ = check_fit(self, X, outcomes)
        self.candidates_ = outcomes.candidates
        battles = Battles.of(outcomes)
        self.coef_, self.intercept_, self.tie_ = _most_likely(X, battles, self.C)
        strength = X @ self.coef_ + self.intercept_
        edge = _edge(strength, battles)
        win, lose = expit(edge - self.tie_), expit(-edge - self.tie_)
        curvature = (1 - lose) * win * (1 - win) + (1 - win) * lose * (1 - lose)
        curvature *= battles.weight
        known = battles.totals(curvature, curvature)
        uncertainty = LinearUncertainty.fit(
            X, known, np.full(len(self.candidates_), 1 / self.C), self.se_rank
        )
        floor = 1 / (known.sum(axis=0) + PRIOR * COIN)
        self.uncertainty_ = replace(uncertainty, floor=floor)
        return self

    def predict(self, X: np.ndarray) -> Prediction:
        X = np.asarray(X, dtype=np.float64)
        quality, slope = chances_to_beat(X @ self.coef_ + self.intercept_, self.tie_)
        se = slope * np.sqrt(self.uncertainty_.variance(X))
        return Prediction(self.candidates_, quality, se)

    def to_onnx(self, graph: Graph, vector: str) -> tuple[str, str]:
        product = graph.op("MatMul", vector, graph.constant(self.coef_))
        strength = graph.op("Add", product, graph.constant(self.intercept_[None]))
        quality, slope = chances_to_onnx(graph, strength, len(self.candidates_), self.tie_)
        se = graph.op("Sqrt", self.uncertainty_.to_onnx(graph, vector))
        return quality, graph.op("Mul", slope, se)


def _edge(strength: np.ndarray, battles: Battles) -> np.ndarray:
    return strength[battles.query, battles.first] - strength[battles.query, battles.second]


def _most_likely(X: np.ndarray, battles: Battles, C: float) -> tuple[np.ndarray, np.ndarray, float]:
    """(d, m) coefficients, (m,) intercepts and log theta of least log loss + |coefficients|^2 / 2C.

    With log theta = t the chance of a tie is (e^2t - 1) sigmoid(edge - t) sigmoid(-edge - t), so a
    tie counts as a battle won and as one lost. The vectors are turned and scaled so that the
    curvature is about the same in every direction, which L-BFGS needs to be quick."""
    d, m = X.shape[1], battles.shape[1]
    centre = X.mean(axis=0)
    Z = X - centre
    values, directions = np.linalg.eigh(Z.T @ Z)
    per_query = 2 * battles.weight.sum() * COIN / (len(X) * m)
    scale = directions / np.sqrt(np.maximum(values, 0.0) * per_query + 1 / C)
    Z = Z @ scale
    penalty = (scale.T @ scale) / C
    tied = battles.weight * (battles.result == 0.5)
    not_lost = battles.weight * (battles.result > 0)
    not_won = battles.weight * (battles.result < 1)
    n_tied = tied.sum() + PRIOR / 2
    n_battles = battles.weight.sum()

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat[:-1].reshape(d + 1, m)
        scaled, intercept = weights[:-1], weights[-1]
        tie = np.exp(flat[-1])
        edge = _edge(Z @ scaled + intercept, battles)
        pull = penalty @ scaled
        value = -(not_lost * log_expit(edge - tie) + not_won * log_expit(-edge - tie)).sum()
        value += (scaled * pull).sum() / 2
        value -= PRIOR / 2 * (log_expit(intercept) + log_expit(-intercept)).sum()
        # The battle between equals that tells theta: half of it tied, a quarter won, one lost.
        value -= 1.5 * PRIOR * log_expit(-tie) + n_tied * (2 * tie + np.log(-np.expm1(-2 * tie)))
        up, down = not_lost * expit(tie - edge), not_won * expit(tie + edge)
        pulls = battles.totals(down - up, up - down)  # d value / d strength
        of_intercept = pulls.sum(axis=0) + PRIOR / 2 * (2 * expit(intercept) - 1)
        of_tie = (up + down).sum() + 1.5 * PRIOR * expit(tie) - 2 * n_tied / -np.expm1(-2 * tie)
        gradient = np.concatenate([Z.T @ pulls + pull, of_intercept[None]]).ravel()
        return value / n_battles, np.append(gradient, tie * of_tie) / n_battles

    start = np.zeros((d + 1) * m + 1)
    start[-1] = np.log(START)
    options = {"gtol": TOLERANCE, "ftol": 0.0, "maxiter": MOST_STEPS}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    weights = found[:-1].reshape(d + 1, m)
    coef = scale @ weights[:-1]
    return coef, weights[-1] - centre @ coef, float(np.exp(found[-1]))
