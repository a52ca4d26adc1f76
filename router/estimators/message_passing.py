"""E4: states of queries, tasks and candidates that hear from each other over a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from router.errors import RouterError
from router.estimators.direct import cluster_labels
from router.estimators.gradient import cross_entropy, descend, squared, tensors
from router.estimators.graph import Graph
from router.estimators.latent import LatentEstimator, start_bias
from router.outcomes.matrix import OutcomeMatrix

if TYPE_CHECKING:
    import torch


class MessagePassing(LatentEstimator):
    """P(correct) of the edge between a query and a candidate, in a graph of queries, tasks and
    candidates.

    GraphRouter (arXiv 2410.03834) made small: two rounds of mean aggregation, over the observed
    edges weighted by score. In the first, queries hear their candidates and candidates their
    queries; in the second, tasks and candidates hear what the queries heard. An edge's logit is the
    product of the candidate's state and the query's, where the query has heard its task (its own
    part left out) but none of its own outcomes, as a new query will not have any.

    A new query joins through the task with the nearest mean vector. Task and candidate states are
    constants after `fit`. The standard error is that of the product, the states held fixed.

    n_tasks: k-means clusters that stand for tasks where the log has no tasks; at most one for two
        queries.
    hidden: length of a state.
    penalty: precision of the normal prior of every parameter save the biases.
    most_steps: of the descent. random_state: seed of clusters and initial values.
    """

    activation = "relu"

    def __init__(
        self,
        n_tasks: int = 32,
        hidden: int = 32,
        penalty: float = 20.0,
        most_steps: int = 200,
        random_state: int = 0,
    ):
        self.n_tasks = n_tasks
        self.hidden = hidden
        self.penalty = penalty
        self.most_steps = most_steps
        self.random_state = random_state

    def _require_sound_hyperparameters(self) -> None:
        if min(self.n_tasks, self.hidden, self.most_steps) < 1 or not self.penalty > 0:
            raise RouterError(
                "MessagePassing needs n_tasks, hidden and most_steps of at least 1 and penalty "
                "above 0."
            )

    def _learn(
        self, Z: np.ndarray, targets: np.ndarray, observed: np.ndarray, outcomes: OutcomeMatrix
    ) -> tuple[np.ndarray, np.ndarray]:
        import torch

        rng = np.random.default_rng(self.random_state)
        (_, d), m, h = Z.shape, targets.shape[1], self.hidden
        if outcomes.tasks is not None:
            task = np.unique(outcomes.tasks.astype(str), return_inverse=True)[1]
        else:
            task = cluster_labels(Z, self.n_tasks, self.random_state)
        mean = (np.eye(task.max() + 1)[task] / np.bincount(task)).T @ Z
        # Tasks at one place are one: no query would be nearer to either.
        self.centres_, place = np.unique(mean.round(6), axis=0, return_inverse=True)
        member = np.eye(len(self.centres_))[place.ravel()[task]]
        size = member.sum(axis=0)
        seen = outcomes.observed  # equal scores too are heard, though there is no slope to learn
        z, y, known, joins, count = tensors(Z, targets, observed, member, size[:, None])
        to_query, to_candidate = tensors(
            np.where(seen, targets, 0.0) / seen.sum(axis=1, keepdims=True),
            np.where(seen, targets, 0.0).T / seen.sum(axis=0)[:, None],
        )
        others = (joins @ count - 1).clamp(min=1)
        n = max(float(observed.sum()), 1.0)

        def states(p: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
            """Projected queries, what they heard, its sum over each task, candidates."""
            projected = z @ p["projection"]
            heard = torch.relu(projected + to_query @ p["candidate"] + p["query_bias"])
            first = torch.relu(p["candidate"] + to_candidate @ projected)
            second = first @ p["candidate_keeps"] + (to_candidate @ heard) @ p["candidate_hears"]
            return projected, heard, joins.T @ heard, second

        def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
            projected, heard, of_task, candidate = states(p)
            from_task = ((joins @ of_task - heard) / others) @ p["query_hears"]
            query = torch.relu(projected + from_task + p["offset"])
            logits = query @ candidate.T + p["bias"]
            weights = [value for name, value in p.items() if not name.endswith(("bias", "offset"))]
            return (cross_entropy(logits, y, known) + self.prior_ * squared(*weights)) / n

        start = {
            "projection": rng.normal(size=(d, h)) / np.sqrt(h),
            "candidate": rng.normal(size=(m, h)) / np.sqrt(h),
            "candidate_keeps": rng.normal(size=(h, h)) / np.sqrt(h),
            "candidate_hears": rng.normal(size=(h, h)) / np.sqrt(h),
            "query_hears": rng.normal(size=(h, h)) / np.sqrt(h),
            "query_bias": np.zeros(h),
            "offset": np.zeros(h),
            "bias": start_bias(targets, observed),
        }
        found = descend(start, loss, self.most_steps)
        _, _, of_task, candidate = states(dict(zip(found, tensors(*found.values()), strict=True)))
        self.projection_ = found["projection"]
        self.offset_ = (of_task / count).numpy() @ found["query_hears"] + found["offset"]
        return candidate.numpy().T, found["bias"]

    def _offset(self, Z: np.ndarray) -> np.ndarray:
        affinity = Z @ self.centres_.T - 0.5 * (self.centres_**2).sum(axis=1)
        return self.offset_[affinity.argmax(axis=1)]

    def _offset_to_onnx(self, graph: Graph, Z: str) -> str:
        product = graph.op("MatMul", Z, graph.constant(self.centres_.T))
        half = graph.constant(0.5 * (self.centres_**2).sum(axis=1)[None])
        nearest = graph.op("ArgMax", graph.op("Sub", product, half), axis=1, keepdims=0)
        return graph.op("Gather", graph.constant(self.offset_), nearest, axis=0)
