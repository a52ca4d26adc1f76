"""A log in the order of time: do scores and tasks stay what they were?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2_contingency, linregress

from router.outcomes.matrix import OutcomeMatrix

PARTS = 4  # of a log in time
MOST_TASKS = 6


@dataclass(frozen=True, eq=False)
class LogOverTime:
    """The log in up to four parts of equal size, by time.

    starts: when each part begins. scores: (m, parts) mean observed score. change: (m,) rise of the
    score from the first to the last query, by linear regression on the order in time; p: (m,) of
    that slope, None where it cannot be told. tasks: the largest tasks; shares: (tasks, parts);
    tasks_p: of the chi-square test that all parts have the same shares. Without tasks: none.
    """

    starts: list[str]
    scores: np.ndarray
    change: list[float | None]
    p: list[float | None]
    tasks: list[str]
    shares: np.ndarray
    tasks_p: float | None

    def to_dict(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    """Arrays as lists; None where no score was observed."""
    if isinstance(value, np.ndarray):
        return [[None if np.isnan(x) else float(x) for x in row] for row in value]
    return value


def log_over_time(outcomes: OutcomeMatrix) -> LogOverTime | None:
    """None without timestamps, or where all are one. The tests take queries as independent: groups
    of like queries make them too ready to see a drift."""
    if "timestamp" not in outcomes.queries:
        return None
    outcomes = outcomes.take(outcomes.queries["timestamp"].notna().to_numpy())
    times = outcomes.queries["timestamp"]
    rank = times.rank(method="average").to_numpy()
    if len(np.unique(rank)) < 2:
        return None
    # Queries of one instant stay together.
    part = np.unique(np.minimum(rank * PARTS // (len(rank) + 1), PARTS - 1), return_inverse=True)[1]
    n_parts = int(part.max()) + 1
    frame = pd.DataFrame(outcomes.scores).groupby(part).mean()
    change, p = zip(
        *(_slope(rank, outcomes.scores[:, j]) for j in range(len(outcomes.candidates))),
        strict=True,
    )
    tasks, shares, tasks_p = _task_shares(outcomes.tasks, part)
    return LogOverTime(
        starts=[str(times[part == i].min())[:19] for i in range(n_parts)],
        scores=frame.to_numpy().T,
        change=list(change),
        p=list(p),
        tasks=tasks,
        shares=shares,
        tasks_p=tasks_p,
    )


def _slope(rank: np.ndarray, score: np.ndarray) -> tuple[float | None, float | None]:
    seen = ~np.isnan(score)
    if seen.sum() < 3 or np.ptp(score[seen]) == 0 or np.ptp(rank[seen]) == 0:
        return None, None
    line = linregress(rank[seen], score[seen])
    return float(line.slope * np.ptp(rank)), float(line.pvalue)


def _task_shares(
    tasks: np.ndarray | None, part: np.ndarray
) -> tuple[list[str], np.ndarray, float | None]:
    n_parts = int(part.max()) + 1
    if tasks is None or len(set(tasks)) < 2 or n_parts < 2:
        return [], np.empty((0, n_parts)), None
    counts = pd.crosstab(tasks, part)
    largest = counts.sum(axis=1).nlargest(MOST_TASKS).index
    shares = (counts / counts.sum(axis=0)).loc[largest]
    return [str(t) for t in largest], shares.to_numpy(), float(chi2_contingency(counts).pvalue)
