"""A log with gaps, completed by what was predicted, so that any plan can be judged on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from router.outcomes.matrix import OutcomeMatrix
from router.policies.base import filled, filled_latency
from router.prediction import Prediction


def completed(prediction: Prediction, outcomes: OutcomeMatrix) -> OutcomeMatrix:
    """The outcomes with every cell known: doubly robust where the log knows propensities (see
    `filled`), else observed or predicted.

    The mean of any mixture of candidates over doubly robust outcomes is the doubly robust estimate
    of its value. That holds for means alone: the best of several noisy cells is not the best.

    prediction: of the same queries, learned from others.
    """
    scores, cost = filled(prediction, outcomes)
    latency = None if prediction.latency is None else filled_latency(prediction, outcomes)
    return replace(
        outcomes,
        scores=scores,
        cost=cost,
        latency=latency,
        observed=np.ones_like(outcomes.observed),
        tokens=None,
        propensity=None,
    )
