"""The frames of an evaluation: a row per query, per point of the frontier, per task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from router.evaluation.bootstrap import Bootstrap
from router.evaluation.frontier import Curve
from router.outcomes.matrix import OutcomeMatrix
from router.policies.expected import expected_of_vote
from router.prediction import Prediction


def prediction_table(
    test: OutcomeMatrix,
    prediction: Prediction,
    probabilities: np.ndarray,
    votes: np.ndarray,
    estimated: bool = False,
) -> pd.DataFrame:
    """A row per query: the chosen candidate with its probability, the observed score, cost and
    latency of the answer, then the predicted quality, cost and latency of every candidate.

    votes: (n, m) weight of each candidate in the answer; the chosen one has the most.
    estimated: whether the outcomes are doubly robust; then so are the names of their columns.
    """
    kind = "doubly_robust_" if estimated else ""
    rows, drawn = np.arange(len(test)), votes.argmax(axis=1)
    answer = expected_of_vote(votes, test.scores, test.cost, test.latency)
    columns: dict[str, Any] = {
        "query_id": test.queries["query_id"].to_numpy(),
        "chosen": np.array(test.candidates, dtype=object)[drawn],
        "probability": probabilities[rows, drawn],
        f"{kind}score": answer.score,
    }
    if answer.cost is not None:
        columns[f"{kind}cost_usd"] = answer.cost
    if answer.latency is not None:
        columns[f"{kind}latency_s"] = answer.latency
    for j, name in enumerate(test.candidates):
        columns[f"quality:{name}"] = prediction.quality[:, j]
        columns[f"quality_se:{name}"] = prediction.quality_se[:, j]
        if prediction.cost is not None:
            columns[f"cost:{name}"] = prediction.cost[:, j]
        if prediction.latency is not None:
            columns[f"latency:{name}"] = prediction.latency[:, j]
    return pd.DataFrame(columns)


def frontier_table(
    curve: Curve | None, test: OutcomeMatrix, judged: dict[str, dict[str, Any]]
) -> pd.DataFrame:
    """Settings of the budget by rising cost, then single models, router and baselines."""
    columns = ["kind", "name", "cost", "quality"]
    parts = []
    if curve is not None:
        settings = pd.DataFrame(curve.points, columns=["cost", "quality"])
        settings = settings.assign(kind="frontier", name="router")[columns]
        for j, candidate in enumerate(test.candidates):
            settings[f"share:{candidate}"] = curve.shares[:, j]
        parts.append(settings.drop_duplicates().sort_values(["cost", "quality"]))
    costs = np.full(len(test.candidates), np.nan) if test.cost is None else test.cost.mean(axis=0)
    single = zip(test.candidates, costs, test.scores.mean(axis=0), strict=True)
    rows = [("candidate", *row) for row in single]
    rows += [
        (
            "router" if name == "router" else "baseline",
            name,
            values["cost"]["value"] if "cost" in values else np.nan,
            values["quality"]["value"],
        )
        for name, values in judged.items()
    ]
    return pd.concat([*parts, pd.DataFrame(rows, columns=columns)], ignore_index=True)


def task_table(
    test: OutcomeMatrix, router: np.ndarray, best_single: np.ndarray, resamples: int
) -> pd.DataFrame | None:
    """A row per task: queries, both means and their paired difference with its interval (NaN where
    the task is one group of queries alone); None where the log has no tasks.

    router, best_single: (n,) expected score of each query.
    """
    if test.tasks is None:
        return None
    rows = []
    codes, names = pd.factorize(test.tasks, sort=True)
    for code, task in enumerate(names):
        of_task = np.flatnonzero(codes == code)
        bootstrap = Bootstrap(test.groups[of_task], resamples)
        interval = bootstrap.mean((router - best_single)[of_task])
        rows.append(
            {
                "task": task,
                "queries": len(of_task),
                "best_single": best_single[of_task].mean(),
                "router": router[of_task].mean(),
                "difference": interval.value,
                "low": interval.low,
                "high": interval.high,
            }
        )
    return pd.DataFrame(rows)
