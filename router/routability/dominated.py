"""Candidates that another one dominates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from router.evaluation.bootstrap import Bootstrap
from router.evaluation.metrics import ROUNDING
from router.outcomes.matrix import OutcomeMatrix

IDLE = 0.005  # mean score: a candidate whose loss costs the oracle less is not missed


def candidate_report(
    outcomes: OutcomeMatrix, bootstrap: Bootstrap, oracle: bool = True
) -> pd.DataFrame:
    """A row per candidate: mean score, USD, unique wins (queries on which it alone is best), what
    the oracle loses without it, and who dominates it.

    A candidate is dominated by another whose mean score is surely not lower (paired interval) and
    whose mean cost is surely not higher; without costs the score alone decides. It is idle if it is
    dominated and the oracle loses less than 0.005 without it. Single outcomes win by luck too, so
    the loss is too large rather than too small.

    outcomes: fully observed, the queries of the bootstrap. oracle: False where they are estimates,
        of which the best is not the best: then wins, loss and idleness are None.
    """
    scores, cost = outcomes.scores, outcomes.cost
    best = scores.max(axis=1)
    rows: list[dict[str, Any]] = []
    for j, name in enumerate(outcomes.candidates):
        without = np.delete(scores, j, axis=1).max(axis=1)
        surely = bootstrap.means(scores - scores[:, [j]])
        not_worse = np.quantile(surely, 0.025, axis=0) >= -ROUNDING
        if cost is not None:
            dearer = bootstrap.means(cost - cost[:, [j]])
            not_worse &= np.quantile(dearer, 0.975, axis=0) <= 0
        not_worse[j] = False
        by = int(np.where(not_worse, scores.mean(axis=0), -np.inf).argmax())
        # Twins dominate each other: the first of them stays.
        twin = np.array_equal(scores[:, by], scores[:, j]) and j < by
        loss = float((best - without).mean())
        dominated = bool(not_worse.any()) and not twin
        rows.append(
            {
                "candidate": name,
                "mean": float(scores[:, j].mean()),
                "usd": None if cost is None else float(cost[:, j].mean()),
                "unique_wins": int((scores[:, j] > without + ROUNDING).sum()) if oracle else None,
                "oracle_loss": loss if oracle else None,
                "dominated_by": outcomes.candidates[by] if dominated else None,
                "idle": dominated and loss < IDLE if oracle else None,
            }
        )
    return pd.DataFrame(rows)
