"""E6: which candidate is best, learned directly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from router.errors import RouterError
from router.estimators.gradient import descend, squared, tensors
from router.estimators.graph import Graph
from router.estimators.latent import LatentEstimator
from router.estimators.partition import cluster
from router.outcomes.matrix import OutcomeMatrix

if TYPE_CHECKING:
    import torch

NEVER = -1e9  # logit of a candidate that does not compete


class BestCandidate(LatentEstimator):
    """Softmax regression on which candidate is best; `quality` is the probability of being it, a
    number in [0, 1] but no score.

    The target of a query is the softmax of its scores, under the KL loss (ZOOTER, arXiv 2311.08692;
    TO-Router, arXiv 2408.12320). With temperature 0 it is the label of the best candidate, shared
    among equals (Bench-CoE, arXiv 2412.04167, at query level). Tags smooth it as in ZOOTER, where a
    cluster of queries stands for a tag: the cluster's mean target is mixed in.

    temperature: of the targets, in units of score; 0 for hard labels.
    tag_share: weight of the cluster's mean target, in [0, 1].
    n_tags: clusters; at most one for two queries.
    penalty: precision of the normal prior of the coefficients; that of the intercepts is 1.
    most_steps: of the descent.
    se_rank: directions in which the standard error is kept exactly (see LinearUncertainty).
    random_state: seed of the clusters.
    """

    def __init__(
        self,
        temperature: float = 0.2,
        tag_share: float = 0.3,
        n_tags: int = 32,
        penalty: float = 3.0,
        most_steps: int = 200,
        se_rank: int = 32,
        random_state: int = 0,
    ):
        self.temperature = temperature
        self.tag_share = tag_share
        self.n_tags = n_tags
        self.penalty = penalty
        self.most_steps = most_steps
        self.se_rank = se_rank
        self.random_state = random_state

    @property
    def link(self) -> str:
        return "softmax"

    def _require_sound_hyperparameters(self) -> None:
        if not self.temperature >= 0 or not 0 <= self.tag_share <= 1 or not self.penalty > 0:
            raise RouterError(
                "BestCandidate needs temperature of at least 0, tag_share in [0, 1] and penalty "
                "above 0."
            )
        if min(self.n_tags, self.most_steps, self.se_rank) < 1:
            raise RouterError("BestCandidate needs n_tags, most_steps and se_rank of at least 1.")

    def _learn(
        self, Z: np.ndarray, targets: np.ndarray, observed: np.ndarray, outcomes: OutcomeMatrix
    ) -> tuple[np.ndarray, np.ndarray]:
        import torch

        labels = self._labels(Z, targets, observed)
        z, y, closed = tensors(Z, labels, NEVER * ~observed)

        def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
            # Only the candidates that were observed on a query compete there.
            logits = z @ p["coef"] + p["bias"] + closed
            divergence = -(y * torch.log_softmax(logits, dim=1)).sum()
            prior = self.penalty * squared(p["coef"]) + squared(p["bias"])
            return (divergence + prior) / len(Z)

        d, m = Z.shape[1], labels.shape[1]
        start = {"coef": np.zeros((d, m)), "bias": np.zeros(m)}
        found = descend(start, loss, self.most_steps)
        return found["coef"], found["bias"]

    def _labels(self, Z: np.ndarray, targets: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """(n, m) probability of each candidate being best, 0 where unobserved."""
        scores = np.where(observed, targets, -np.inf)
        short = scores - scores.max(axis=1, keepdims=True)
        labels = np.exp(short / self.temperature) if self.temperature > 0 else 1.0 * (short == 0)
        labels /= labels.sum(axis=1, keepdims=True)
        if self.tag_share == 0:
            return labels
        tag = cluster_labels(Z, self.n_tags, self.random_state)
        member = np.eye(tag.max() + 1)[tag]
        count = np.maximum(member.T @ observed, 1.0)
        smooth = np.where(observed, member @ ((member.T @ labels) / count), 0.0)
        smooth /= smooth.sum(axis=1, keepdims=True)
        return (1 - self.tag_share) * labels + self.tag_share * smooth

    def _se_rank(self) -> int:
        return self.se_rank

    def _latent(self, X: np.ndarray) -> np.ndarray:
        return X - self.mean_

    def _latent_to_onnx(self, graph: Graph, vector: str) -> str:
        return graph.op("Sub", vector, graph.constant(self.mean_[None]))


def cluster_labels(X: np.ndarray, n_clusters: int, random_state: int) -> np.ndarray:
    """(n,) number of each query's k-means cluster; at most one cluster for two queries."""
    size = min(n_clusters, max(1, len(X) // 2))
    with threadpool_limits(1):  # the same clusters on any number of cores
        return cluster(X.astype(np.float32), size, random_state).labels_
