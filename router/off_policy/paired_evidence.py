"""Two policies on one log of decisions: paired rows for the gate."""

from __future__ import annotations

import numpy as np

from router.evaluation.gate import Evidence
from router.evaluation.overlap import (
    Overlap,
    difference_refusal,
    importance_weights,
    refusal,
)
from router.off_policy.values import Reweighted, doubly_robust
from router.outcomes.decisions import Decisions
from router.prediction import Prediction


def paired_evidence(
    decisions: Decisions,
    candidate: np.ndarray,
    incumbent: np.ndarray,
    model: Prediction,
    least_ess: float,
    faults: tuple[str, ...] = (),
) -> Evidence:
    """Doubly robust values of both policies of every decision; their means are the policies' own.

    candidate, incumbent: (n, m) probabilities over the log's candidates.
    model: what each candidate is predicted to yield, learned from other decisions.
    least_ess: effective sample size, (sum w)^2 / sum w^2, below which a policy's weights carry no
        decision. faults: what speaks against the log already.
    """
    plans = {"candidate": candidate, "incumbent": incumbent}
    for name, plan in plans.items():
        refused = refusal(Overlap.of(decisions, plan), least_ess)
        faults += () if refused is None else (f"{refused.replace('the target', f'the {name}')}.",)
    weights = [importance_weights(decisions, plan) for plan in plans.values()]
    refused = difference_refusal(*weights)
    faults += () if refused is None else (f"{refused}.",)

    def values(reward: np.ndarray | None, predicted: np.ndarray | None) -> np.ndarray | None:
        if reward is None or predicted is None:
            return None
        seen = [Reweighted.of(decisions, plan, reward, predicted) for plan in plans.values()]
        return np.column_stack([doubly_robust(of) for of in seen])

    quality = values(decisions.score, model.quality)
    assert quality is not None
    return Evidence(
        quality=quality,
        cost=values(decisions.cost, model.cost),
        latency=values(decisions.latency, model.latency),
        groups=decisions.groups,
        tasks=decisions.tasks,
        kind="off-policy (estimated propensities)" if decisions.estimated else "off-policy",
        faults=faults,
    )
