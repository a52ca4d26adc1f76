"""The pacer: holds the average spend at a budget, over all workers of the service."""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from router.artifact.runtime import Decision, Router
from router.policies.utility import cost_weights
from router.prediction import Prediction
from router.serving.live_settings import PacerSettings
from router.serving.state_file import StateFile

log = logging.getLogger(__name__)

HORIZON = 1000  # queries over which what is owed shall be made good
MOST_OWED = 100  # budgets of one query: neither a quiet night nor an outage is remembered for long
REMEMBERED = 100_000  # decisions whose real cost may still be told
FORGET_EVERY = 1000  # decisions
FIRST_CEILING = 4.0  # times the dearest typical answer
TYPICAL_PROMPTS = (
    "Hello!",
    "Prove that the square root of 2 is irrational.",
    "Write a function that merges two sorted lists, and explain how long it takes.",
    "Summarise the causes of the First World War in one paragraph.",
    "A train leaves at 9:40 and arrives at 13:05. How long does the journey take?",
)
TABLES = """
CREATE TABLE IF NOT EXISTS pace (
    one INTEGER PRIMARY KEY CHECK (one = 1), budget REAL, decided INTEGER, spent REAL,
    average REAL, owed REAL, charge REAL);
CREATE TABLE IF NOT EXISTS booked (
    number INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE, cost REAL NOT NULL)
"""


@dataclass(frozen=True)
class Pace:
    """Where the pacer stands after so many decisions.

    decided: decisions, the pacer's only clock. spent: USD in all. average: exponential moving
    average of the cost of a query, USD. owed: USD spent above the budget less USD saved, within
    bounds. charge: lambda.
    """

    decided: int
    spent: float
    average: float
    owed: float
    charge: float


class Pacer:
    """Raises the charge on cost while the spend is above the budget, and lowers it below:

    lambda <- clip(lambda + rate x (EMA(cost) / B - 1 + owed / (1000 B)), 0, most)

    after every query: the rule of budget-paced bandits (ParetoBandit; Agarwal et al. 2014, KDD, for
    pacing by feedback), with a second term. Without it the total stays off the budget by what
    lambda's own way cost, B x (lambda's end - its start) / rate, and by what was saved at lambda 0.

    lambda has no unit. The score charged per USD is scale x (exp(lambda) - 1), see `Scale`: near 0
    in proportion, then by factors, as the rates at which different queries change sides span orders
    of magnitude.

    A decision is booked at its predicted cost at once. What is paid later corrects it, exactly as
    if it had been known when booked (but for the bounds). No clock is read: decisions are counted.

    The state is one row of a SQLite file that all workers share. Where the file fails while in
    service, the charge stays as it was and the failure is counted: no request fails for the pacer.

    Raises RouterError where the file cannot be opened.
    """

    def __init__(self, settings: PacerSettings):
        if settings.budget is None:
            raise ValueError("a pacer needs a budget")
        self.budget = settings.budget
        self._decay = 1 - 1 / settings.window
        self._rate, self._most = settings.rate, settings.most
        self.failures = 0
        self._told: set[str] = set()
        self._file = StateFile(settings.state, "live.pacer.state", TABLES)
        with self._file.transaction() as database:
            database.execute(
                "INSERT OR IGNORE INTO pace VALUES (1, ?, 0, 0, ?, 0, 0)",
                (self.budget, self.budget),
            )
            # What is owed is owed to a budget: under another one the account begins anew.
            database.execute(
                "UPDATE pace SET owed = 0, budget = ? WHERE budget <> ?",
                (self.budget, self.budget),
            )
            self._pace = _read(database)

    @property
    def charge(self) -> float:
        """lambda as of this worker's last look at the shared state."""
        return self._pace.charge

    def book(self, decisions: Sequence[tuple[str, float]]) -> None:
        """Count decisions, each by its request id, at the predicted USD."""
        try:
            with self._file.transaction() as database:
                pace = _read(database)
                for request_id, cost in decisions:
                    pace = self._after(pace, cost)
                    database.execute(
                        "INSERT OR REPLACE INTO booked VALUES (?, ?, ?)",
                        (pace.decided, request_id, cost),
                    )
                    if pace.decided % FORGET_EVERY == 0:
                        oldest = pace.decided - REMEMBERED
                        database.execute("DELETE FROM booked WHERE number <= ?", (oldest,))
                _write(database, pace)
        except sqlite3.Error as error:
            self._fail(error)
        else:
            self._pace = pace

    def paid(self, request_id: str, cost: float) -> bool:
        """The USD that a decision really cost, told by any worker; what is told again replaces the
        earlier. False where the decision is unknown, or too long ago."""
        try:
            with self._file.transaction() as database:
                row = database.execute(
                    "SELECT number, cost FROM booked WHERE request_id = ?", (request_id,)
                ).fetchone()
                if row is None:
                    return False
                number, booked = row
                pace = self._corrected(_read(database), number, cost - booked)
                database.execute("UPDATE booked SET cost = ? WHERE number = ?", (cost, number))
                _write(database, pace)
        except sqlite3.Error as error:
            self._fail(error)
            return False
        self._pace = pace
        return True

    def look(self) -> Pace:
        """The shared state as it is now."""
        try:
            with self._file.transaction() as database:
                self._pace = _read(database)
        except sqlite3.Error as error:
            self._fail(error)
        return self._pace

    def describe(self) -> dict[str, Any]:
        """Budget and state, as plain JSON."""
        pace = self.look()
        return {
            "budget": self.budget,
            "decided": pace.decided,
            "mean_cost": pace.spent / pace.decided if pace.decided else None,
            "recent_cost": pace.average,
            "owed": pace.owed,
            "lambda": pace.charge,
            "at_most": pace.charge >= self._most,
            "failures": self.failures,
        }

    def close(self) -> None:
        """Close the file; the state stays for the next start."""
        self._file.close()

    def _after(self, pace: Pace, cost: float) -> Pace:
        average = self._decay * pace.average + (1 - self._decay) * cost
        owed = self._bounded(pace.owed + cost - self.budget)
        step = average - self.budget + owed / HORIZON
        return Pace(
            pace.decided + 1, pace.spent + cost, average, owed, self._moved(pace.charge, step)
        )

    def _corrected(self, pace: Pace, number: int, more: float) -> Pace:
        """The state had decision `number` cost so much more when it was booked."""
        age = pace.decided - number
        # The parts of it that have gone into lambda, at each decision since.
        averaged = 1 - self._decay ** (age + 1)
        step = more * (averaged + (age + 1) / HORIZON)
        return Pace(
            pace.decided,
            pace.spent + more,
            pace.average + more * (1 - self._decay) * self._decay**age,
            self._bounded(pace.owed + more),
            self._moved(pace.charge, step),
        )

    def _moved(self, charge: float, usd: float) -> float:
        return min(max(charge + self._rate * usd / self.budget, 0.0), self._most)

    def _bounded(self, owed: float) -> float:
        most = MOST_OWED * self.budget
        return min(max(owed, -most), most)

    def _fail(self, error: sqlite3.Error) -> None:
        self.failures += 1
        if str(error) not in self._told:
            self._told.add(str(error))
            log.warning("The pacer's state cannot be kept (%s); lambda stays as it is.", error)


@dataclass(frozen=True)
class Scale:
    """What lambda means to one router.

    per_usd: score per USD of typical trade-offs: over a few everyday prompts, the median of the
        weights at which the choice leaves the best predicted candidate. So lambda is about 1 where
        about half of the queries move to a cheaper one, in whatever unit scores and costs come.
    ceiling: None where the policy heeds costs. A policy that does not (a guard that always keeps
        its incumbent, prices all alike) chooses alike at any charge; it is bound by eligibility
        instead: candidates predicted dearer than ceiling x exp(-lambda) USD cannot be chosen,
        unless they are the cheapest.
    """

    per_usd: float
    ceiling: float | None

    @classmethod
    def of(cls, router: Router, most: float) -> Scale | None:
        """Tried out on the router itself; None where it predicts no costs."""
        free = [router.route(prompt) for prompt in TYPICAL_PROMPTS]
        if any(decision.cost is None for decision in free):
            return None
        prediction = Prediction(
            router.candidates,
            np.array([list(decision.quality.values()) for decision in free]),
            np.array([list(decision.quality_se.values()) for decision in free]),
            np.array([list((decision.cost or {}).values()) for decision in free]),
        )
        leaves = [cost_weights(prediction.take(slice(i, i + 1)))[1:2] for i in range(len(free))]
        finite = [weight for (weight,) in filter(None, leaves) if math.isfinite(weight)]
        per_usd = float(np.median(finite)) if finite else 1 / _dearest(prediction)
        scale = cls(per_usd, None)
        charged = [
            router.route(prompt, cost_weight=scale.cost_weight(most)) for prompt in TYPICAL_PROMPTS
        ]
        if sum(map(expected_cost, charged)) < sum(map(expected_cost, free)):
            return scale
        return cls(per_usd, FIRST_CEILING * _dearest(prediction))

    def cost_weight(self, charge: float) -> float:
        """Score per USD at lambda."""
        return self.per_usd * math.expm1(charge)

    def affordable(self, decision: Decision, charge: float) -> list[str] | None:
        """The candidates that a decision had to be among; None where it was among them."""
        if self.ceiling is None or charge == 0 or decision.cost is None:
            return None
        cost = decision.cost
        least = min(cost[name] for name in decision.eligible)
        most = max(self.ceiling * math.exp(-charge), least)
        kept = [name for name in decision.eligible if cost[name] <= most]
        dear = [p for name, p in decision.probabilities.items() if p > 0 and name not in kept]
        return kept if dear else None


def expected_cost(decision: Decision) -> float:
    """USD that the decision is expected to cost, over its draw."""
    assert decision.cost is not None
    return sum(p * decision.cost[name] for name, p in decision.probabilities.items() if p > 0)


def predicted_cost(decision: Decision) -> float | None:
    """USD that the candidates to be asked are predicted to cost together; None where unknown."""
    if decision.cost is None:
        return None
    return sum(decision.cost[name] for name in decision.ask)


def _dearest(prediction: Prediction) -> float:
    assert prediction.cost is not None
    return max(float(prediction.cost.max()), 1e-12)


def _read(database: sqlite3.Connection) -> Pace:
    row = database.execute("SELECT decided, spent, average, owed, charge FROM pace").fetchone()
    return Pace(*row)


def _write(database: sqlite3.Connection, pace: Pace) -> None:
    database.execute(
        "UPDATE pace SET decided = ?, spent = ?, average = ?, owed = ?, charge = ?",
        (pace.decided, pace.spent, pace.average, pace.owed, pace.charge),
    )
