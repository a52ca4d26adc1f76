"""What one table tells of one number of one candidate, and how far it may be a selection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.drift.shift import clustered_variance
from router.outcomes.matrix import OutcomeMatrix
from router.policies.base import Policy
from router.prediction import Prediction

FULL_REACH = 0.95  # of the queries; a log that asked a candidate on as many speaks for all
NO_PROPENSITY = (
    "the log tells the chosen model's outcome alone and not with which probability it was chosen, "
    "so selection and drift cannot be told apart"
)


@dataclass(frozen=True, eq=False)
class Observed:
    """values: (n,) NaN where nothing was observed. weights: (n,) 1 / propensity in a decision log,
    else 1; 0 where nothing was observed. selected: why the values may be of a selection of the
    queries; None where they speak for all."""

    values: np.ndarray
    weights: np.ndarray
    selected: str | None = None


def of_candidate(outcomes: OutcomeMatrix, values: np.ndarray, candidate: int) -> Observed:
    """values: (n, m), NaN where nothing was observed."""
    column = values[:, candidate]
    seen = ~np.isnan(column)
    if not outcomes.chosen_only:
        return Observed(column, seen.astype(float))
    stands_for = outcomes.inverse_propensity
    if stands_for is None:
        return Observed(column, seen.astype(float), NO_PROPENSITY)
    weights = np.where(seen, stands_for[:, candidate], 0.0)
    return Observed(column, weights, _unreached(weights, outcomes.groups))


def of_choice(
    outcomes: OutcomeMatrix, values: np.ndarray, policy: Policy, prediction: Prediction
) -> Observed:
    """The mean of values (n, m) over what the policy would choose, likewise."""
    chance = policy.probabilities(prediction)
    if not outcomes.chosen_only:
        known = ~np.isnan(values).any(axis=1)
        return Observed((chance * values).sum(axis=1), known.astype(float))
    rows, chosen = np.arange(len(outcomes)), outcomes.observed.argmax(axis=1)
    column, share = values[rows, chosen], chance[rows, chosen]
    stands_for = outcomes.inverse_propensity
    if stands_for is None:
        return Observed(column, share, NO_PROPENSITY)
    weights = share * stands_for[rows, chosen]
    return Observed(column, weights, _unreached(weights, outcomes.groups))


def _unreached(weights: np.ndarray, groups: np.ndarray) -> str | None:
    """Weights of a log that may ask the candidate on every query have a mean of one: what it lacks
    is the share of the queries that are never seen (no overlap)."""
    reach = float(weights.mean())
    group = np.unique(groups, return_inverse=True)[1]
    error = clustered_variance((weights - reach) / len(weights), group) ** 0.5
    if reach + 2 * error >= FULL_REACH:
        return None
    return f"the log never asks it on about {max(1 - reach, 0):.0%} of the queries"
