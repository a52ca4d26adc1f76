"""E3: one hidden layer shared by all candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from router.errors import RouterError
from router.estimators.gradient import cross_entropy, descend, squared, tensors
from router.estimators.latent import LatentEstimator, start_bias
from router.outcomes.matrix import OutcomeMatrix

if TYPE_CHECKING:
    import torch


class MLP(LatentEstimator):
    """P(correct) of every candidate from one network: a multi-label head with a hidden layer.

    The multi-label classifiers of Srivatsa et al. 2024 (arXiv 2405.00467) and SelectLLM (arXiv
    2408.08545), on a frozen encoder; with the squared loss the score regression of HomoRouter.

    hidden: units of the hidden layer (ReLU).
    loss: cross_entropy, where a graded score is a soft label, or squared (the Brier score).
    penalty: precision of the normal prior of every weight; the biases have none.
    most_steps: of the descent. random_state: seed of the initial values.
    """

    activation = "relu"

    def __init__(
        self,
        hidden: int = 32,
        loss: Literal["cross_entropy", "squared"] = "cross_entropy",
        penalty: float = 10.0,
        most_steps: int = 200,
        random_state: int = 0,
    ):
        self.hidden = hidden
        self.loss = loss
        self.penalty = penalty
        self.most_steps = most_steps
        self.random_state = random_state

    def _require_sound_hyperparameters(self) -> None:
        if min(self.hidden, self.most_steps) < 1 or not self.penalty > 0:
            raise RouterError("MLP needs hidden and most_steps of at least 1 and penalty above 0.")
        if self.loss not in ("cross_entropy", "squared"):
            raise RouterError(f"MLP needs loss cross_entropy or squared, not {self.loss!r}.")

    def _learn(
        self, Z: np.ndarray, targets: np.ndarray, observed: np.ndarray, outcomes: OutcomeMatrix
    ) -> tuple[np.ndarray, np.ndarray]:
        import torch

        rng = np.random.default_rng(self.random_state)
        z, y, seen = tensors(Z, targets, observed)
        n = max(float(seen.sum()), 1.0)

        def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
            hidden = torch.relu(z @ p["projection"] + p["offset"])
            logits = hidden @ p["outer"] + p["bias"]
            if self.loss == "cross_entropy":
                error = cross_entropy(logits, y, seen)
            else:
                error = (seen * (torch.sigmoid(logits) - y) ** 2).sum()
            return (error + self.prior_ * squared(p["projection"], p["outer"])) / n

        start = {
            "projection": rng.normal(size=(Z.shape[1], self.hidden)) / np.sqrt(self.hidden),
            "offset": np.zeros(self.hidden),
            "outer": rng.normal(size=(self.hidden, targets.shape[1])) / np.sqrt(self.hidden),
            "bias": start_bias(targets, observed),
        }
        found = descend(start, loss, self.most_steps)
        self.projection_, self.offset_ = found["projection"], found["offset"]
        return found["outer"], found["bias"]
