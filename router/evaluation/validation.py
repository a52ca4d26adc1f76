"""What a tuned policy promises: its figures on the validation outcomes that tuned it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from router.evaluation.frontier import aiq, curve_of
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Policy
from router.policies.base import filled
from router.prediction import Prediction


def validation_figures(
    policy: Policy, prediction: Prediction, outcomes: OutcomeMatrix
) -> dict[str, float | None]:
    """Mean quality and cost of the policy's choices and AIQ of its frontier; cost and AIQ are None
    where the log has no costs. The prediction stands in for what was not observed.

    Trials of a sweep are compared by these figures, never by the test side's.
    """
    scores, cost = filled(prediction, outcomes)
    expected = policy.expected(prediction, scores, cost)
    figures: dict[str, float | None] = {
        "quality": float(expected.score.mean()),
        "cost": None,
        "aiq": None,
    }
    if cost is not None and expected.cost is not None:
        figures["cost"] = float(expected.cost.mean())
        everything = np.ones_like(outcomes.observed)
        complete = replace(
            outcomes,
            scores=scores,
            cost=cost,
            observed=everything,
            tokens=None,
            latency=None,
            propensity=None,
        )
        means = cost.mean(axis=0)
        points = curve_of(policy, prediction, complete).points
        figures["aiq"] = aiq(points, float(means.min()), float(means.max()))
    return figures
