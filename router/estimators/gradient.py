"""Fit a few arrays by gradient descent: what the small neural estimators share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:  # torch takes seconds to import, which only a fit should pay
    import torch

TOLERANCE = 1e-6  # of the gradient of the mean loss


def descend(
    start: dict[str, np.ndarray],
    loss: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    most_steps: int,
) -> dict[str, np.ndarray]:
    """The arrays after at most `most_steps` full-batch L-BFGS steps; without a learning rate.

    One thread computes it, so that the result is the same to the last bit on any number of cores.

    start: initial values. loss: of the arrays as float64 tensors, a mean over outcomes or queries
    with the penalties included.
    """
    import torch

    ends = np.cumsum([array.size for array in start.values()])

    def named(flat: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = torch.tensor_split(flat, ends[:-1].tolist())
        return {
            name: part.reshape(array.shape)
            for (name, array), part in zip(start.items(), parts, strict=True)
        }

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = torch.tensor(flat, requires_grad=True)
        value = loss(named(parameters))
        (gradient,) = torch.autograd.grad(value, parameters)
        return value.item(), gradient.numpy()

    beginning = np.concatenate([np.ravel(array).astype(float) for array in start.values()])
    options = {"gtol": TOLERANCE, "ftol": 0.0, "maxiter": most_steps, "maxfun": 2 * most_steps}
    with threadpool_limits(1):
        found = minimize(
            value_and_gradient, beginning, jac=True, method="L-BFGS-B", options=options
        )
    return {name: part.numpy() for name, part in named(torch.tensor(found.x)).items()}


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    """The arrays as float64 tensors."""
    import torch

    return [torch.tensor(np.asarray(array, dtype=float)) for array in arrays]


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, observed: torch.Tensor
) -> torch.Tensor:
    """Binary cross-entropy summed over the observed cells; a graded score is a soft label."""
    import torch

    return torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets, weight=observed, reduction="sum"
    )


def squared(*parameters: torch.Tensor) -> torch.Tensor:
    """Half the sum of squares: minus the log density of a standard normal prior."""
    import torch

    return 0.5 * torch.stack([(array**2).sum() for array in parameters]).sum()
