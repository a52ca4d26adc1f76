"""A decision among some of the router's candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from router.errors import RouterError
from router.policies import Policy, draw
from router.policies.base import cheapest_best, one_hot
from router.prediction import Prediction


def eligible_of(candidates: Sequence[str], allowed: Sequence[str] | None) -> np.ndarray:
    """(m,) whether each candidate may be chosen.

    Raises RouterError where the allow-list is empty or names another than these.
    """
    if allowed is None:
        return np.ones(len(candidates), dtype=bool)
    if isinstance(allowed, str):
        raise RouterError(f"candidates is {allowed!r}; give a list of names.")
    unknown = [name for name in allowed if name not in candidates]
    if unknown or not allowed:
        named = f"names {unknown[0]!r}, which this router does not know" if unknown else "is empty"
        raise RouterError(f"The list of candidates {named}; name some of {', '.join(candidates)}.")
    return np.isin(candidates, list(allowed))


def narrowed(
    eligible: np.ndarray, prediction: Prediction, budget: float | None, floor: float | None
) -> tuple[np.ndarray, str]:
    """((m,) who of the eligible keeps the limits of one request, what there is to say of it).

    budget: USD that the answer may be predicted to cost. floor: of the predicted quality; where
        nobody reaches it, the best predicted is left.

    Raises RouterError where a limit is no number, or nobody keeps the budget.
    """
    said = ""
    if budget is not None:
        if not _is_number(budget) or not budget > 0:
            raise RouterError(f"budget is {budget!r}; give USD per query above 0.")
        if prediction.cost is None:
            raise RouterError("budget cannot be kept: this router knows no costs.")
        cost = np.where(eligible, prediction.cost[0], np.inf)
        if cost.min() > budget:
            raise RouterError(
                f"budget=${budget:g} is below what any eligible candidate is predicted to cost; "
                f"the cheapest is {prediction.candidates[int(cost.argmin())]} at "
                f"${cost.min():.6f}."
            )
        eligible = cost <= budget
    if floor is not None:
        if not _is_number(floor):
            raise RouterError(f"quality_floor is {floor!r}; give a score.")
        quality = np.where(eligible, prediction.quality[0], -np.inf)
        if quality.max() >= floor:
            eligible = quality >= floor
        else:
            eligible = quality == quality.max()
            said = f"nobody is predicted to reach the floor {floor:g}"
    return eligible, said


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def decide_among(
    eligible: np.ndarray, policy: Policy, prediction: Prediction, uniform: np.ndarray
) -> tuple[np.ndarray, np.ndarray, str]:
    """((m,) probability of each candidate, (m,) weights of those to ask, the reason) for the single
    query of `prediction`. Arguments are those of `choose_among`."""
    probabilities, votes, seen = choose_among(eligible, policy, prediction, uniform)
    if seen is None:
        reason = "the policy asks none of the eligible; the best predicted of them"
    else:
        reason = policy.reason(seen, int(votes.argmax()))
    return probabilities, votes, reason


def choose_among(
    eligible: np.ndarray, policy: Policy, prediction: Prediction, uniform: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Prediction | None]:
    """((m,) probability of each candidate, (m,) weights of those to ask, what the policy saw; None
    where it asks none of the eligible) for the single query of `prediction`.

    A policy may know candidates by name or place, so none is taken away from it. It decides as if
    the others were no good (see `_no_good`), and what chance it leaves them, to explore, is shared
    out in proportion. Where nothing is left, as of a threshold between two others, the best
    predicted of the eligible answers.

    eligible: (m,) at least one True. uniform: (1,) in [0, 1).
    """
    if np.count_nonzero(eligible) == len(eligible):
        probabilities = policy.probabilities(prediction)
        votes = policy.votes(prediction, draw(probabilities, uniform))
        return probabilities[0], votes[0], prediction
    seen = _no_good(prediction, ~eligible)
    left = _share_out(policy.probabilities(seen), eligible)
    if left is None:
        quality = np.where(eligible, prediction.quality, -np.inf)
        best = cheapest_best(quality, prediction.cost)
        alone = one_hot(best, len(eligible))[0]
        return alone, alone, None
    shared = _share_out(policy.votes(seen, draw(left, uniform)), eligible)
    assert shared is not None  # the drawn one has a vote
    return left[0], shared[0], seen


def _no_good(prediction: Prediction, barred: np.ndarray) -> Prediction:
    """The barred candidates as worse by 1 than the worst of the others, surely so, and as dear and
    slow as the dearest and the slowest: whoever weighs these prefers another, and the others' own
    numbers stay as they were."""

    def greatest(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.where(barred, values[:, ~barred].max(), values)

    worst = prediction.quality[:, ~barred].min() - 1
    return replace(
        prediction,
        quality=np.where(barred, worst, prediction.quality),
        quality_se=np.where(barred, 0.0, prediction.quality_se),
        cost=greatest(prediction.cost),
        latency=greatest(prediction.latency),
    )


def _share_out(shares: np.ndarray, eligible: np.ndarray) -> np.ndarray | None:
    """(1, m) shares of the eligible alone, summing to one; None where they have none."""
    kept = np.where(eligible, shares, 0.0)
    total = kept.sum()
    return kept / total if total > 0 else None
