"""E6: queries and candidates in one space, drawn together where the candidate does well."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from router.errors import RouterError
from router.estimators.direct import NEVER, cluster_labels
from router.estimators.gradient import descend, squared, tensors
from router.estimators.latent import LatentEstimator
from router.outcomes.matrix import OutcomeMatrix

if TYPE_CHECKING:
    import torch

PSEUDO_COUNT = 4.0  # outcomes of no merit, beside those of a candidate in a cluster


class Contrastive(LatentEstimator):
    """A projection of the query times a key of each candidate; `quality` is the softmax, which
    these losses teach: the probability of being the one to choose, and no score.

    Projections have a length below 1 in place of length 1, x / sqrt(1 + |x|^2): a query on which
    all candidates are alike may then be near 0. The mean vector's is fixed, so that under a strong
    penalty every query is the mean query.
    """

    activation = "ball"
    most_steps: int
    random_state: int

    @property
    def link(self) -> str:
        return "softmax"

    def _draw_together(
        self,
        Z: np.ndarray,
        keys: np.ndarray,
        keys_are_free: bool,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Learn the projection, and from (r, m) `keys` on the keys too where they are free.

        loss: mean loss, of (n, r) projected queries and (n, m) logits.
        """
        import torch

        rng = np.random.default_rng(self.random_state)
        r, m = keys.shape
        self.offset_ = np.full(r, 1 / np.sqrt(r))
        z, offset, fixed = tensors(Z, self.offset_, keys)

        def total(p: dict[str, torch.Tensor]) -> torch.Tensor:
            raw = z @ p["projection"] + offset
            query = raw / torch.sqrt(1 + (raw**2).sum(dim=1, keepdim=True))
            prior = self.penalty * squared(*p.values()) / len(Z)
            return loss(query, query @ p.get("keys", fixed)) + prior

        start = {"projection": rng.normal(size=(Z.shape[1], r)) / np.sqrt(r)}
        found = descend(start | ({"keys": keys} if keys_are_free else {}), total, self.most_steps)
        self.projection_ = found["projection"]
        return found.get("keys", keys), np.zeros(m)


class DualContrastive(Contrastive):
    """Each of a query's best candidates against its worst ones, and queries of one cluster against
    the other clusters.

    RouterDC (arXiv 2409.19886) on a frozen encoder: its sample-LLM and sample-sample losses.
    Queries are compared with the clusters' means in place of drawn queries, and a candidate's key
    has a prior in place of length 1.

    dimensions: of the shared space.
    n_best, n_worst: candidates per query on each side, and those that equal the last of them.
    sample_weight: weight of the sample-sample loss; temperature: of its products.
    n_clusters: groups of similar queries; at most one for two queries.
    penalty: precision of the normal prior of projection and keys.
    most_steps: of the descent. random_state: seed of clusters and initial values.
    """

    def __init__(
        self,
        dimensions: int = 32,
        n_best: int = 3,
        n_worst: int = 3,
        sample_weight: float = 0.5,
        temperature: float = 0.2,
        n_clusters: int = 16,
        penalty: float = 3.0,
        most_steps: int = 200,
        random_state: int = 0,
    ):
        self.dimensions = dimensions
        self.n_best = n_best
        self.n_worst = n_worst
        self.sample_weight = sample_weight
        self.temperature = temperature
        self.n_clusters = n_clusters
        self.penalty = penalty
        self.most_steps = most_steps
        self.random_state = random_state

    def _require_sound_hyperparameters(self) -> None:
        counts = (self.dimensions, self.n_best, self.n_worst, self.n_clusters, self.most_steps)
        if min(counts) < 1:
            raise RouterError(
                "DualContrastive needs dimensions, n_best, n_worst, n_clusters and most_steps of "
                "at least 1."
            )
        if not self.sample_weight >= 0 or not min(self.temperature, self.penalty) > 0:
            raise RouterError(
                "DualContrastive needs temperature and penalty above 0 and sample_weight of at "
                "least 0."
            )

    def _learn(
        self, Z: np.ndarray, targets: np.ndarray, observed: np.ndarray, outcomes: OutcomeMatrix
    ) -> tuple[np.ndarray, np.ndarray]:
        import torch

        best, worst = _sides(targets, observed, self.n_best, self.n_worst)
        cluster = cluster_labels(Z, self.n_clusters, self.random_state)
        member = np.eye(cluster.max() + 1)[cluster]
        near, rivals, mean, own = tensors(
            best, NEVER * ~worst, (member / member.sum(axis=0)).T, member
        )

        def loss(query: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            of_cluster = torch.log_softmax(query @ (mean @ query).T / self.temperature, dim=1)
            sample = -(own * of_cluster).sum() / len(query)
            return contrast(logits, near, rivals) + self.sample_weight * sample

        rng = np.random.default_rng([self.random_state, 1])
        shape = (self.dimensions, targets.shape[1])
        keys = rng.normal(size=shape) / np.sqrt(self.dimensions)
        return self._draw_together(Z, keys, True, loss)


class CostBandedContrastive(Contrastive):
    """The cheapest candidates that answer correctly against all others, the dearer ones first.

    CSCR (arXiv 2508.12491) on a frozen encoder. Candidates are divided by their mean cost into
    bands of equal size. On each query, those that answer correctly in the cheapest band that has
    one are drawn to it (InfoNCE); each other candidate is pushed away with weight 1 if it failed,
    plus cost_weight x its band from 0 (cheapest) to 1 (dearest). A log without costs has one band.

    A candidate's key is its fingerprint, and not learned: its merit in each cluster of queries, a
    mean of score less the query's mean score. The paper's fingerprints come from logits.

    n_clusters: length of a fingerprint; at most one for two queries.
    n_bands: bands of cost; at most one for each candidate.
    cost_weight: see above.
    correct: least score of a correct answer.
    temperature: of the fingerprints, whose root mean square length is 1.
    penalty: precision of the normal prior of the projection.
    most_steps: of the descent. random_state: seed of clusters and initial values.
    """

    def __init__(
        self,
        n_clusters: int = 32,
        n_bands: int = 3,
        cost_weight: float = 1.0,
        correct: float = 0.9,
        temperature: float = 0.2,
        penalty: float = 3.0,
        most_steps: int = 200,
        random_state: int = 0,
    ):
        self.n_clusters = n_clusters
        self.n_bands = n_bands
        self.cost_weight = cost_weight
        self.correct = correct
        self.temperature = temperature
        self.penalty = penalty
        self.most_steps = most_steps
        self.random_state = random_state

    def _require_sound_hyperparameters(self) -> None:
        if min(self.n_clusters, self.n_bands, self.most_steps) < 1:
            raise RouterError(
                "CostBandedContrastive needs n_clusters, n_bands and most_steps of at least 1."
            )
        if not self.cost_weight >= 0 or not min(self.temperature, self.penalty, self.correct) > 0:
            raise RouterError(
                "CostBandedContrastive needs temperature, penalty and correct above 0 and "
                "cost_weight of at least 0."
            )

    def _learn(
        self, Z: np.ndarray, targets: np.ndarray, observed: np.ndarray, outcomes: OutcomeMatrix
    ) -> tuple[np.ndarray, np.ndarray]:
        band = _bands(outcomes.mean_costs(), targets.shape[1], self.n_bands)
        right = observed & (targets >= self.correct)
        cheapest = np.where(right, band, np.inf).min(axis=1, keepdims=True)
        near = right & (band == cheapest)
        weight = (observed & ~near) * (~right + self.cost_weight * band)
        rivals = np.log(weight, out=np.full(weight.shape, NEVER), where=weight > 0)
        to_draw, to_push = tensors(near, rivals)

        cluster = cluster_labels(Z, self.n_clusters, self.random_state)
        keys = _fingerprints(targets, observed, cluster) / self.temperature
        return self._draw_together(
            Z, keys, False, lambda _, logits: contrast(logits, to_draw, to_push)
        )


def contrast(logits: torch.Tensor, near: torch.Tensor, rivals: torch.Tensor) -> torch.Tensor:
    """InfoNCE: minus log of a near candidate's share beside the query's rivals, the mean over near
    candidates.

    logits: (n, m). near: (n, m) 1 or 0. rivals: (n, m) log of each rival's weight, else NEVER.
    """
    import torch

    against = torch.logsumexp(logits + rivals, dim=1, keepdim=True)
    return (near * torch.nn.functional.softplus(against - logits)).sum() / near.sum().clamp(min=1)


def _sides(
    targets: np.ndarray, observed: np.ndarray, n_best: int, n_worst: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n, m) True for each query's best candidates, above the middle of its scores' range, and for
    its worst ones, below or on it. Those that equal the last one taken are taken too."""
    m = targets.shape[1]
    up = np.sort(np.where(observed, targets, np.inf), axis=1)
    down = -np.sort(np.where(observed, -targets, np.inf), axis=1)
    low, high = up[:, :1], down[:, :1]
    differs, middle = observed & (high > low), (low + high) / 2
    best = differs & (targets > middle) & (targets >= down[:, [min(n_best, m) - 1]])
    return best, differs & (targets <= middle) & (targets <= up[:, [min(n_worst, m) - 1]])


def _bands(mean_costs: np.ndarray | None, m: int, n_bands: int) -> np.ndarray:
    """(m,) band of each candidate, from 0 (cheapest) to 1 (dearest)."""
    n_bands = min(n_bands, m)
    if mean_costs is None or n_bands == 1:
        return np.zeros(m)
    return np.argsort(np.argsort(mean_costs, kind="stable")) * n_bands // m / (n_bands - 1)


def _fingerprints(targets: np.ndarray, observed: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """(clusters, m) shrunken mean merit of each candidate, of root mean square length 1."""
    level = targets.sum(axis=1, keepdims=True) / observed.sum(axis=1, keepdims=True)
    member = np.eye(cluster.max() + 1)[cluster].T
    merit = np.where(observed, targets - level, 0.0)
    keys = (member @ merit) / (member @ observed + PSEUDO_COUNT)
    return keys / max(np.sqrt((keys**2).sum(axis=0).mean()), 1e-12)
