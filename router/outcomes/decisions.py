"""Decisions of a logging policy: of each query the chosen candidate's outcome alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix


@dataclass(frozen=True, eq=False)
class Decisions:
    """n decisions between m candidates, as a log with partial feedback tells them.

    outcomes: the matrix that they come from; one observed cell in every row.
    chosen: (n,) position of the chosen candidate.
    score, cost, latency: (n,) of the chosen candidate's answer; cost and latency may be None.
    propensity: (n,) probability with which it was chosen, above 0.
    propensities: (n, m) of every candidate: 0 where it could not be chosen, NaN where the log does
        not tell.
    estimated: whether the propensities were not logged but estimated from the log.
    """

    outcomes: OutcomeMatrix
    chosen: np.ndarray
    score: np.ndarray
    cost: np.ndarray | None
    latency: np.ndarray | None
    propensity: np.ndarray
    propensities: np.ndarray
    estimated: bool = False

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def candidates(self) -> tuple[str, ...]:
        return self.outcomes.candidates

    @property
    def groups(self) -> np.ndarray:
        """(n,) integers: decisions of one session, user or prompt share a number."""
        return self.outcomes.groups

    @property
    def tasks(self) -> np.ndarray | None:
        return self.outcomes.tasks

    def take(self, rows: np.ndarray) -> Decisions:
        """The given decisions alone; rows: positions, or n True and False."""
        return Decisions(
            self.outcomes.take(rows),
            self.chosen[rows],
            self.score[rows],
            None if self.cost is None else self.cost[rows],
            None if self.latency is None else self.latency[rows],
            self.propensity[rows],
            self.propensities[rows],
            self.estimated,
        )

    @classmethod
    def of(cls, outcomes: OutcomeMatrix, propensities: np.ndarray | None = None) -> Decisions:
        """The decisions that a matrix holds.

        propensities: (n, m) estimated afterwards, where the log has none.

        Raises RouterError where a query has several outcomes, or a propensity is missing or 0.
        """
        several = np.flatnonzero(outcomes.observed.sum(axis=1) != 1)
        if len(several):
            first = outcomes.queries["query_id"].iloc[several[0]]
            raise RouterError(
                f"{len(several):,} of {len(outcomes):,} queries have outcomes of several models, "
                f"'{first}' first; a decision log has the chosen model's alone, so give each "
                "request a query_id of its own, or judge a full table with router evaluate."
            )
        estimated = propensities is not None
        logged = outcomes.propensity if propensities is None else propensities
        if logged is None:
            raise RouterError(
                "The log has no propensity of the chosen model; log it (column 'propensity'), or "
                "have it estimated with propensity=estimated."
            )
        rows, chosen = np.arange(len(outcomes)), outcomes.observed.argmax(axis=1)
        propensity = logged[rows, chosen]
        bad = np.flatnonzero(~(propensity > 0))
        if len(bad):
            first = outcomes.queries["query_id"].iloc[bad[0]]
            raise RouterError(
                f"{len(bad):,} of {len(outcomes):,} decisions have no propensity above 0, "
                f"'{first}' first; log the probability with which the model was chosen, or leave "
                "these rows out."
            )
        return cls(
            outcomes=outcomes,
            chosen=chosen,
            score=outcomes.scores[rows, chosen],
            cost=None if outcomes.cost is None else outcomes.cost[rows, chosen],
            latency=None if outcomes.latency is None else outcomes.latency[rows, chosen],
            propensity=propensity,
            propensities=logged,
            estimated=estimated,
        )
