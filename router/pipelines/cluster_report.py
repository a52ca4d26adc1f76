"""How a new candidate does in each cluster of the log, beside the best of the others there."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from router.outcomes.matrix import OutcomeMatrix
from router.pipelines.console import console
from router.pipelines.label_first import Clusters

LONGEST_NAME = 28
Z95 = 1.959964
ALL = "all"


def cluster_names(clusters: Clusters, X: np.ndarray, outcomes: OutcomeMatrix) -> list[str]:
    """A name of each cluster: its most frequent task, or the prompt nearest to its centre."""
    if outcomes.tasks is None:
        distance = np.square(X).sum(axis=1)[:, None] - 2 * X @ clusters.centres.T
        distance[clusters.labels[:, None] != np.arange(len(clusters))] = np.inf
        prompts = [" ".join(outcomes.prompts[i].split()) for i in distance.argmin(axis=0)]
        names = [_shortened(prompt) for prompt in prompts]
    else:
        tasks = [outcomes.tasks[clusters.labels == c] for c in range(len(clusters))]
        names = [
            str(min(Counter(t).items(), key=lambda item: (-item[1], item[0]))[0]) for t in tasks
        ]
    before = [names[:c].count(name) for c, name in enumerate(names)]
    return [f"{name} ({n + 1})" if n else name for name, n in zip(names, before, strict=True)]


def wilson(mean: float, n: int) -> tuple[float, float]:
    """The 95 % interval of Wilson 1927 (JASA 22) around a mean score of n labels: exact enough for
    few labels, and too wide rather than too narrow where scores lie between 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    centre = (mean + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * np.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def cluster_report(
    clusters: Clusters,
    names: list[str],
    log: OutcomeMatrix,
    labelled: np.ndarray,
    scores: np.ndarray,
    validation: np.ndarray,
    chosen: np.ndarray,
) -> pd.DataFrame:
    """A row per cluster and one for all: queries, labels, the new candidate's mean and interval,
    the best known candidate and its mean there, and the new one's share of the choices.

    log: the known candidates' outcomes, row for row with clusters.labels. labelled: (k,) cluster of
    each label, scores: (k,) its score. validation: (v,) cluster of each validation query, chosen:
    (v,) probability with which the new candidate answers it.
    """

    def row(name: str, in_log: Any, in_labels: Any, in_validation: Any) -> dict[str, Any]:
        n = int(in_labels.sum())
        mean = float(scores[in_labels].mean()) if n else float("nan")
        low, high = wilson(mean, n)
        known = log.take(in_log).mean_scores()
        best = int(np.nanargmax(known))
        return {
            "cluster": name,
            "queries": int(in_log.sum()),
            "labels": n,
            "mean": mean,
            "low": low,
            "high": high,
            "best_known": log.candidates[best],
            "best_known_mean": float(known[best]),
            "share": float(chosen[in_validation].mean()) if in_validation.any() else float("nan"),
        }

    cells = [
        row(name, clusters.labels == c, labelled == c, validation == c)
        for c, name in enumerate(names)
    ]
    everything = (
        np.ones(len(all_), dtype=bool) for all_ in (clusters.labels, labelled, validation)
    )
    return pd.DataFrame([*cells, row(ALL, *everything)])


def print_cluster_report(candidate: str, report: pd.DataFrame) -> None:
    """The report as a table; the share is of the validation queries."""
    console.print(f"Labels     of {candidate}, and the share of queries that it will answer")
    table = Table(box=None, header_style="bold", pad_edge=False)
    headers = ["cluster", "queries", "labels", "mean", "95 % interval", "share", "best known", ""]
    for header in headers:
        left = header in ("cluster", "best known")
        table.add_column(header, justify="left" if left else "right", no_wrap=True)
    for row in report.to_dict("records"):
        table.add_row(
            _shortened(row["cluster"]),
            f"{row['queries']:,}",
            f"{row['labels']:,}",
            f"{row['mean']:.3f}" if row["labels"] else "",
            f"[{row['low']:.3f}, {row['high']:.3f}]",
            "" if np.isnan(row["share"]) else f"{row['share']:.1%}",
            _shortened(row["best_known"]),
            f"{row['best_known_mean']:.3f}",
        )
    console.print(table)


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
