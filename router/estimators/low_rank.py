"""E4: candidates as vectors in a small space of query traits."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from scipy.special import expit

from router.errors import RouterError
from router.estimators.base import check_labels
from router.estimators.gradient import cross_entropy, descend, squared, tensors
from router.estimators.latent import LastLayer, LatentEstimator, start_bias
from router.estimators.linear_uncertainty import LinearUncertainty
from router.outcomes.matrix import OutcomeMatrix

if TYPE_CHECKING:
    import torch

MOST_NEWTON_STEPS = 50
CONVERGED = 1e-12  # twice what a further Newton step would gain


class LowRank(LatentEstimator):
    """What a candidate's vector in a small space allows: a new candidate learns its own alone."""

    def with_candidate(self, name: str, X: np.ndarray, scores: np.ndarray) -> Self:
        """A copy with one more candidate, learned from its scores on k labelled queries alone.

        Its vector and bias are the most probable ones under the labels and a normal prior: the
        known candidates' mean and covariance, to which one candidate from the prior of `fit` is
        added. The query side and the known candidates stay as they are.
        """
        X, scores = check_labels(self, name, X, scores)
        if scores.min() < 0 or scores.max() > 1:
            raise RouterError(f"The labels of {name!r} hold scores outside [0, 1].")
        known = np.hstack([np.vstack([layer.coef, layer.bias]) for layer in self.layers_])
        sloped = known[:-1].any(axis=0)  # those without a slope say nothing about slopes
        known = known[:, sloped] if sloped.any() else known
        mean = known.mean(axis=1)
        own = np.append(np.full(len(mean) - 1, 1 / self.penalty), 1.0)
        spread = known - mean[:, None]
        precision = np.linalg.inv((spread @ spread.T + np.diag(own)) / known.shape[1])
        added = copy.copy(self)
        added.candidates_ = (*self.candidates_, name)
        layer = _most_probable(self._latent(X), scores, mean, precision, self.dispersion_)
        added.layers_ = [*self.layers_, layer]
        return added


class MatrixFactorisation(LowRank):
    """Candidate vector times a projection of the query, plus a bias.

    loss="scores": sigmoid of it is P(correct), learned from scores (EmbedLLM, arXiv 2410.02223).
    loss="wins": the difference between two candidates is the logit of the one scoring higher than
    the other on that query (the matrix factorisation of RouteLLM, arXiv 2406.18665). Queries on
    which two candidates tie say nothing of them. `quality` is the mean chance to beat another
    candidate: a number in [0, 1], but no score. No candidate can be added from scores alone.

    rank: dimensions of the shared space.
    penalty: precision of the normal prior of every parameter save the bias.
    most_steps: of the descent. random_state: seed of the initial values.
    """

    def __init__(
        self,
        rank: int = 16,
        loss: Literal["scores", "wins"] = "scores",
        penalty: float = 15.0,
        most_steps: int = 200,
        random_state: int = 0,
    ):
        self.rank = rank
        self.loss = loss
        self.penalty = penalty
        self.most_steps = most_steps
        self.random_state = random_state

    @property
    def link(self) -> str:
        return "sigmoid" if self.loss == "scores" else "beats"

    @property
    def takes_candidates(self) -> bool:
        return self.loss == "scores"

    def with_candidate(self, name: str, X: np.ndarray, scores: np.ndarray) -> Self:
        if not self.takes_candidates:
            raise RouterError(
                "MatrixFactorisation cannot take in a candidate after loss=wins; train with "
                "loss=scores."
            )
        return super().with_candidate(name, X, scores)

    def _require_sound_hyperparameters(self) -> None:
        if self.loss not in ("scores", "wins") or min(self.rank, self.most_steps) < 1:
            raise RouterError(
                "MatrixFactorisation needs loss scores or wins, and rank and most_steps of at "
                "least 1."
            )
        if not self.penalty > 0:
            raise RouterError("MatrixFactorisation needs penalty above 0.")

    def _learn(
        self, Z: np.ndarray, targets: np.ndarray, observed: np.ndarray, outcomes: OutcomeMatrix
    ) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.random_state)
        m = targets.shape[1]
        z, y, seen = tensors(Z, targets, observed)
        if self.loss == "wins":
            first, second = np.triu_indices(m, 1)
            gap = targets[:, first] - targets[:, second]
            decided = observed[:, first] & observed[:, second] & (gap != 0)
            won, fought = tensors(gap > 0, decided)
            bias = np.zeros(m)
        else:
            fought = seen
            bias = start_bias(targets, observed)
        n = max(float(fought.sum()), 1.0)

        def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
            logits = (z @ p["projection"]) @ p["vectors"] + p["bias"]
            prior = self.prior_ * squared(p["projection"], p["vectors"])
            if self.loss == "scores":
                return (cross_entropy(logits, y, seen) + prior) / n
            edge = logits[:, first] - logits[:, second]
            # A candidate that always wins has a finite bias under a standard normal prior.
            return (cross_entropy(edge, won, fought) + prior + squared(p["bias"])) / n

        start = {
            "projection": rng.normal(size=(Z.shape[1], self.rank)) / np.sqrt(self.rank),
            "vectors": rng.normal(size=(self.rank, m)) / np.sqrt(self.rank),
            "bias": bias,
        }
        found = descend(start, loss, self.most_steps)
        self.projection_, self.offset_ = found["projection"], np.zeros(self.rank)
        return found["vectors"], found["bias"]


class ItemResponse(LowRank):
    """P(correct) = sigmoid(bias_m + a(x) · theta_m - b(x)): the query has a discrimination a > 0 in
    every dimension and a difficulty b, the candidate an ability theta.

    The multidimensional two-parameter logistic model on vectors: IRT-Router (arXiv 2506.01048),
    RADAR (arXiv 2509.25426), the candidates of LLM Bandit (arXiv 2502.02743). The bias is an
    ability that counts the same on every query, so that mean scores are met. Discrimination and
    difficulty are softplus functions of a linear map of the vector.

    dimensions: of ability.
    effort_separator: a candidate named "model<separator>effort" has the ability of its model plus
        that of its effort, both shared with its siblings; None gives every candidate its own.
    penalty: precision of the normal prior of every parameter save the biases.
    most_steps: of the descent. random_state: seed of the initial values.
    """

    activation = "softplus"

    def __init__(
        self,
        dimensions: int = 8,
        effort_separator: str | None = "@",
        penalty: float = 10.0,
        most_steps: int = 200,
        random_state: int = 0,
    ):
        self.dimensions = dimensions
        self.effort_separator = effort_separator
        self.penalty = penalty
        self.most_steps = most_steps
        self.random_state = random_state

    def _require_sound_hyperparameters(self) -> None:
        if min(self.dimensions, self.most_steps) < 1 or not self.penalty > 0:
            raise RouterError(
                "ItemResponse needs dimensions and most_steps of at least 1 and penalty above 0."
            )
        if self.effort_separator == "":
            raise RouterError("ItemResponse needs an effort_separator that is not empty, or null.")

    def _learn(
        self, Z: np.ndarray, targets: np.ndarray, observed: np.ndarray, outcomes: OutcomeMatrix
    ) -> tuple[np.ndarray, np.ndarray]:
        import torch

        rng = np.random.default_rng(self.random_state)
        k = self.dimensions
        membership = _abilities(outcomes.candidates, self.effort_separator)  # (abilities, m)
        bias = np.linalg.lstsq(membership.T, start_bias(targets, observed), rcond=None)[0]
        z, y, seen, member = tensors(Z, targets, observed, membership)
        minus = torch.full((1, targets.shape[1]), -1.0, dtype=torch.float64)
        n = max(float(seen.sum()), 1.0)

        def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
            latent = torch.nn.functional.softplus(z @ p["projection"] + p["offset"])
            logits = latent @ torch.cat([p["ability"] @ member, minus]) + p["bias"] @ member
            prior = self.prior_ * squared(p["projection"], p["ability"])
            return (cross_entropy(logits, y, seen) + prior) / n

        start = {
            "projection": rng.normal(size=(Z.shape[1], k + 1)),
            "offset": np.zeros(k + 1),
            "ability": rng.normal(size=(k, len(membership))) / np.sqrt(k),
            "bias": bias,
        }
        found = descend(start, loss, self.most_steps)
        self.projection_, self.offset_ = found["projection"], found["offset"]
        return (
            np.vstack([found["ability"] @ membership, minus.numpy()]),
            found["bias"] @ membership,
        )


def _abilities(candidates: tuple[str, ...], separator: str | None) -> np.ndarray:
    """(abilities, m) 1 where an ability, of a model or of an effort, is part of a candidate's."""
    parts = [name.split(separator, 1) if separator else [name] for name in candidates]
    keys = sorted({(place, part) for split in parts for place, part in enumerate(split)})
    return np.array(
        [[float(split[place : place + 1] == [part]) for split in parts] for place, part in keys]
    )


def _most_probable(
    latent: np.ndarray,
    scores: np.ndarray,
    mean: np.ndarray,
    precision: np.ndarray,
    dispersion: float,
) -> LastLayer:
    """Logistic regression of (k,) scores on the (k, r) latent under a normal prior of the (r + 1)
    coefficients and bias, by Newton's method, with Laplace's posterior."""
    design = np.column_stack([latent, np.ones(len(latent))])

    def objective(weights: np.ndarray) -> float:
        logits, shift = design @ weights, weights - mean
        deviance = (np.logaddexp(0.0, logits) - scores * logits).sum()
        return deviance / dispersion + shift @ precision @ shift / 2

    weights = mean
    for _ in range(MOST_NEWTON_STEPS):
        p = expit(design @ weights)
        gradient = design.T @ (p - scores) / dispersion + precision @ (weights - mean)
        curvature = (design.T * (p * (1 - p) / dispersion)) @ design + precision
        step = np.linalg.solve(curvature, gradient)
        if gradient @ step < CONVERGED:
            break
        while objective(weights - step) > objective(weights):  # too far: half of it
            step = step / 2
        weights = weights - step
    # (z, 1)' curvature^-1 (z, 1) = 1 / last + (z - centre)' schur^-1 (z - centre)
    cross, last = curvature[:-1, -1], curvature[-1, -1]
    values, directions = np.linalg.eigh(curvature[:-1, :-1] - np.outer(cross, cross) / last)
    uncertainty = LinearUncertainty(
        centre=-cross / last,
        basis=directions,
        inverse=1 / values[:, None],
        rest=np.zeros(1),
        floor=np.array([1 / last]),
    )
    return LastLayer(weights[:-1, None], weights[-1:], uncertainty)
