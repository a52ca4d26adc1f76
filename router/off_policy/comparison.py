"""The target against the policy that made the log, in score, dollars, seconds and utility."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from router.estimators.base import Estimator
from router.evaluation.bootstrap import Bootstrap, Interval
from router.off_policy.reward_model import reward_model
from router.off_policy.values import METHODS, Reweighted, values
from router.outcomes.decisions import Decisions


@dataclass(frozen=True)
class Figure:
    """One mean. log: what the log's own decisions earned. target: estimates by method.
    difference: target less log, paired, by method."""

    log: Interval
    target: dict[str, Interval]
    difference: dict[str, Interval]


@dataclass(frozen=True, eq=False)
class Comparison:
    """figures: by "quality", and where known "cost", "latency" and "utility". relative_cost: the
    difference of cost as a share of the log's, by method. per_decision: (n,) by figure and method.
    """

    figures: dict[str, Figure]
    relative_cost: dict[str, Interval] | None
    per_decision: dict[str, dict[str, np.ndarray]]


def compare(
    decisions: Decisions,
    target: np.ndarray,
    vectors: np.ndarray,
    estimator: Estimator,
    cost_weight: float | None = None,
    n_folds: int = 5,
    random_state: int = 0,
    resamples: int = 1000,
) -> Comparison:
    """Estimate the target's value by every method, with intervals that keep sessions whole.

    target: (n, m) its probability of each candidate. vectors: (n, d) for the reward model.
    cost_weight: score that one US dollar is worth; None: no utility.
    """
    rewards = rewards_of(decisions)
    bootstrap = Bootstrap(decisions.groups, resamples)
    figures: dict[str, Figure] = {}
    per_decision: dict[str, dict[str, np.ndarray]] = {}
    for name, reward in rewards.items():
        model = reward_model(estimator, vectors, decisions, reward, n_folds, random_state)
        seen = Reweighted.of(decisions, target, reward, model)
        of_method = {method: values(method, seen) for method in METHODS}
        per_decision[name] = of_method
        figures[name] = _figure(bootstrap, reward, of_method)
    if "cost" in rewards and cost_weight is not None:
        per_decision["utility"] = {
            method: per_decision["quality"][method] - cost_weight * per_decision["cost"][method]
            for method in METHODS
        }
        earned = rewards["quality"] - cost_weight * rewards["cost"]
        figures["utility"] = _figure(bootstrap, earned, per_decision["utility"])
    relative = None
    if "cost" in rewards:
        spent = rewards["cost"]
        relative = {
            method: bootstrap.relative(found, spent)
            for method, found in per_decision["cost"].items()
        }
    return Comparison(figures, relative, per_decision)


def _figure(bootstrap: Bootstrap, reward: np.ndarray, of_method: dict[str, np.ndarray]) -> Figure:
    columns = np.column_stack([reward, *of_method.values()])
    drawn = zip(columns.mean(axis=0), bootstrap.means(columns).T, strict=True)
    log, *targets = drawn  # (mean, resampled means), all at once: a bootstrap is slow by column
    return Figure(
        log=bootstrap.interval(*log),
        target={
            method: bootstrap.interval(*target)
            for method, target in zip(of_method, targets, strict=True)
        },
        difference={
            method: bootstrap.interval(mean - log[0], resampled - log[1])
            for method, (mean, resampled) in zip(of_method, targets, strict=True)
        },
    )


def rewards_of(decisions: Decisions) -> dict[str, np.ndarray]:
    """Name -> (n,) what each decision earned, as far as the log knows it of every decision."""
    rewards = {"quality": decisions.score}
    if decisions.cost is not None:
        rewards["cost"] = decisions.cost
    if decisions.latency is not None and not np.isnan(decisions.latency).any():
        rewards["latency"] = decisions.latency
    return rewards
