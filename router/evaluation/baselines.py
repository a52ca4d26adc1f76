"""What every router is measured against: plans that need no model of the query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Policy, policy_from_dict
from router.policies.expected import Expected, expected_of_mixture
from router.prediction import Prediction

LENGTH_BINS = 10
SHRINKAGE = 4.0


@dataclass(frozen=True)
class Lookup:
    """A table of each candidate's mean score, cost and latency per cell; the policy tuned on it.

    kind: "length" (cells are bins of the prompt's characters) or "task" (cells are task labels).
    cells: upper bin edges, or labels. The tables have one row more: for prompts beyond the last
        edge, or of an unknown task.
    """

    kind: str
    cells: tuple[Any, ...]
    quality: np.ndarray
    cost: np.ndarray | None
    policy: Policy
    latency: np.ndarray | None = None

    def predict(self, outcomes: OutcomeMatrix) -> Prediction:
        row = _rows(self.kind, self.cells, outcomes)
        return Prediction(
            outcomes.candidates,
            self.quality[row],
            np.zeros_like(self.quality[row]),
            None if self.cost is None else self.cost[row],
            None if self.latency is None else self.latency[row],
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "cells": list(self.cells),
            "quality": self.quality.tolist(),
            "cost": None if self.cost is None else self.cost.tolist(),
            "latency": None if self.latency is None else self.latency.tolist(),
            "policy": self.policy.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Lookup:
        cost, latency = content["cost"], content.get("latency")  # absent from an old artifact
        return cls(
            content["kind"],
            tuple(content["cells"]),
            np.array(content["quality"]),
            None if cost is None else np.array(cost),
            policy_from_dict(content["policy"]),
            None if latency is None else np.array(latency),
        )


@dataclass(frozen=True)
class Baselines:
    """Chosen on the train side, judged on the test side.

    best_single, cheapest: candidates by mean train score and mean train cost (None without costs).
    lookups: name -> Lookup.
    """

    best_single: str
    cheapest: str | None
    lookups: dict[str, Lookup]

    @classmethod
    def fit(cls, train: OutcomeMatrix, policy: Policy) -> Baselines:
        """policy: the router's own, with its budget settled; each lookup is tuned to the same. Of a
        cascade it is the router without, as a lookup sees no answers."""
        policy = policy.without_answers()
        costs = train.mean_costs()
        lengths = _lengths(train)
        edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_BINS + 1)[1:-1]))
        edges = edges[edges < lengths.max()]  # so that no bin is empty
        lookups = {"prompt length": _lookup("length", tuple(edges.tolist()), train, policy)}
        if train.tasks is not None:
            labels = tuple(sorted(set(train.tasks)))
            lookups["task-label lookup"] = _lookup("task", labels, train, policy)
        return cls(
            best_single=train.candidates[int(train.mean_scores().argmax())],
            cheapest=None if costs is None else train.candidates[int(costs.argmin())],
            lookups=lookups,
        )

    def plans(
        self, test: OutcomeMatrix, router: np.ndarray, oracle: bool = True
    ) -> dict[str, np.ndarray]:
        """Name -> (n, m) probabilities on the test side; `router` are the router's own.

        "random" is a shuffle of the router's own choices; "oracle" knows the outcomes, and takes
        the cheapest of the best.

        oracle: False where the outcomes are estimates, of which the best is not the best.
        """
        n, m = router.shape
        single = {"best single": self.best_single}
        if self.cheapest is not None:
            single["cheapest"] = self.cheapest
        plans = {
            name: np.tile(np.eye(m)[test.candidates.index(candidate)], (n, 1))
            for name, candidate in single.items()
        }
        plans["random"] = np.tile(router.mean(axis=0), (n, 1))
        for name, lookup in self.lookups.items():
            if lookup.kind != "task" or test.tasks is not None:
                plans[name] = lookup.policy.probabilities(lookup.predict(test))
        if oracle:
            best = test.scores >= test.scores.max(axis=1, keepdims=True)
            rank = np.zeros_like(test.scores) if test.cost is None else test.cost
            plans["oracle"] = np.eye(m)[np.where(best, rank, np.inf).argmin(axis=1)]
        return plans

    def expected(
        self, test: OutcomeMatrix, router: np.ndarray, oracle: bool = True
    ) -> dict[str, Expected]:
        """Name -> what the plan yields on each test query; `router` and `oracle` as in `plans`."""
        outcomes = (test.scores, test.cost, test.latency)
        return {
            name: self.lookups[name].policy.expected(self.lookups[name].predict(test), *outcomes)
            if name in self.lookups
            else expected_of_mixture(plan, *outcomes)
            for name, plan in self.plans(test, router, oracle).items()
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "best_single": self.best_single,
            "cheapest": self.cheapest,
            "lookups": {name: lookup.to_dict() for name, lookup in self.lookups.items()},
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Baselines:
        return cls(
            content["best_single"],
            content["cheapest"],
            {name: Lookup.from_dict(lookup) for name, lookup in content["lookups"].items()},
        )


def _rows(kind: str, cells: tuple[Any, ...], outcomes: OutcomeMatrix) -> np.ndarray:
    """(n,) row of each query in a lookup's tables."""
    if kind == "length":
        return np.searchsorted(np.array(cells), _lengths(outcomes), side="left")
    number = {label: row for row, label in enumerate(cells)}
    assert outcomes.tasks is not None
    return np.array([number.get(task, len(cells)) for task in outcomes.tasks])


def _lengths(outcomes: OutcomeMatrix) -> np.ndarray:
    """(n,) characters of each prompt."""
    return np.array([len(prompt) for prompt in outcomes.prompts])


def _lookup(kind: str, cells: tuple[Any, ...], train: OutcomeMatrix, policy: Policy) -> Lookup:
    row = _rows(kind, cells, train)
    n_rows = len(cells) + 1
    weight = train.observed.astype(float)
    if train.inverse_propensity is not None:  # a decision stands for those that chose otherwise
        weight *= train.inverse_propensity
    quality = _shrunken_means(row, n_rows, train.scores, weight)
    cost = None if train.cost is None else _shrunken_means(row, n_rows, train.cost, weight)
    latency = None
    if train.latency is not None:
        known = ~np.isnan(train.latency)
        if known.any(axis=0).all():
            latency = _shrunken_means(row, n_rows, train.latency, weight * known)
    lookup = Lookup(kind, cells, quality, cost, policy, latency)
    prediction = lookup.predict(train)
    try:
        tuned = policy.tune(prediction, train)
    except RouterError:
        # The router's budget is out of a lookup's reach: it spends as little as it can.
        tuned = policy.path(prediction)[-1]
    return replace(lookup, policy=tuned)


def _shrunken_means(
    row: np.ndarray, n_rows: int, values: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """(n_rows, m) weighted means; weight: (n, m), 0 where a value is not known."""
    known = np.where(weight > 0, weight * values, 0.0)
    overall = known.sum(axis=0) / weight.sum(axis=0)
    member = np.eye(n_rows)[row].T
    return (member @ known + SHRINKAGE * overall) / (member @ weight + SHRINKAGE)
