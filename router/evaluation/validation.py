"""What a tuned policy promises: its figures on the validation outcomes that tuned it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from router.evaluation.frontier import aiq, curve_of
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Policy
from router.prediction import Prediction


def validation_figures(
    policy: Policy, prediction: Prediction, outcomes: OutcomeMatrix
) -> dict[str, float | None]:
    """Mean quality and cost of the policy's choices and AIQ of its frontier; cost and AIQ are None
    where the log has no costs. The prediction stands in for what was not observed.

    Trials of a sweep are compared by these figures, never by the test side's.
    """
    chosen = policy.probabilities(prediction)
    scores = np.where(outcomes.observed, outcomes.scores, prediction.quality)
    figures: dict[str, float | None] = {
        "quality": float((chosen * scores).sum(axis=1).mean()),
        "cost": None,
        "aiq": None,
    }
    if prediction.cost is not None and outcomes.cost is not None:
        cost = np.where(outcomes.observed, outcomes.cost, prediction.cost)
        figures["cost"] = float((chosen * cost).sum(axis=1).mean())
        everything = np.ones_like(outcomes.observed)
        filled = replace(
            outcomes,
            scores=scores,
            cost=cost,
            observed=everything,
            tokens=None,
            latency=None,
            propensity=None,
        )
        means = cost.mean(axis=0)
        points = curve_of(policy, prediction, filled).points
        figures["aiq"] = aiq(points, float(means.min()), float(means.max()))
    return figures
