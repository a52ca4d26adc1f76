"""The search for the cost weight that spends a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

HALVINGS = 100
MARGINS = (1e-2, 1e-3, 1e-4, 1e-5)


def mixture_of_two(
    choices: Callable[[float], np.ndarray],
    spent: Callable[[float], float],
    budget: float,
    steps: Sequence[float],
    halvings: int = HALVINGS,
) -> tuple[float, float, float]:
    """(dear weight, cheap weight, share of the dear one) that spend the budget exactly: with
    Pr(dear) = (budget - C_cheap) / (C_dear - C_cheap).

    choices: what is decided at a weight. The rest as in `neighbours`.
    """
    dear, cheap = neighbours(spent, budget, steps, halvings)
    dear = off_the_switch(choices, dear, -1)
    cheap = off_the_switch(choices, cheap, +1)
    above, below = spent(dear), spent(cheap)
    return dear, cheap, (budget - below) / (above - below)


def neighbours(
    spent: Callable[[float], float],
    budget: float,
    steps: Sequence[float],
    halvings: int = HALVINGS,
) -> tuple[float, float]:
    """Two neighbouring cost weights of which the first spends more than the budget and the second
    does not, found by bisection of the logarithm.

    spent: USD per query at a weight. Logged costs need not fall with the weight, as predicted ones
    do: where they do not, the pair is one of several.
    steps: ascending weights to begin with; the first spends more than the budget, the last does
        not.
    """
    first_within = next(i for i, weight in enumerate(steps) if spent(weight) <= budget)
    dear, cheap = steps[first_within - 1 : first_within + 1]
    for _ in range(halvings):
        middle = float(np.sqrt(dear) * np.sqrt(cheap))
        if not dear < middle < cheap:
            break  # neighbours, or a step at an end, where no choice changes in between
        if spent(middle) > budget:
            dear = middle
        else:
            cheap = middle
    return dear, cheap


def off_the_switch(choices: Callable[[float], np.ndarray], weight: float, sign: int) -> float:
    """A weight of the same choices some way off the one at which a query switches: rounding in the
    artifact must not decide for the queries that are alike."""
    chosen = choices(weight)
    for margin in MARGINS:
        moved = weight * (1 + sign * margin)
        if np.array_equal(choices(moved), chosen):
            return moved
    return weight
