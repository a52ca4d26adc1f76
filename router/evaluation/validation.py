"""What a tuned policy promises: its figures on the validation outcomes that tuned it."""

from __future__ import annotations

from router.evaluation.completed import completed
from router.evaluation.frontier import aiq, curve_of
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Policy
from router.prediction import Prediction


def validation_figures(
    policy: Policy, prediction: Prediction, outcomes: OutcomeMatrix
) -> dict[str, float | None]:
    """Mean quality and cost of the policy's choices and AIQ of its frontier; cost and AIQ are None
    where the log has no costs. What was not observed is completed.

    Trials of a sweep are compared by these figures, never by the test side's.
    """
    everything = completed(prediction, outcomes)
    expected = policy.expected(prediction, everything.scores, everything.cost)
    figures: dict[str, float | None] = {
        "quality": float(expected.score.mean()),
        "cost": None,
        "aiq": None,
    }
    if everything.cost is not None and expected.cost is not None:
        figures["cost"] = float(expected.cost.mean())
        means = everything.cost.mean(axis=0)
        points = curve_of(policy, prediction, everything).points
        figures["aiq"] = aiq(points, float(means.min()), float(means.max()))
    return figures
