"""What a log has of each candidate and task, and whether its propensities hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from router.errors import RouterError
from router.evaluation.metrics import effective_decisions
from router.evaluation.overlap import covered, importance_weights
from router.outcomes.decisions import Decisions
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.splits import grouped_folds

ALIKE = 1e-6  # a propensity that is computed again may differ by this much
LEAST_PROPENSITY = 1e-3  # an estimated one below this would be made up of the model's tail
FEW = 5  # expected choices, below which a candidate's count tells nothing of its propensity


def by_candidate(decisions: Decisions, target: np.ndarray) -> pd.DataFrame:
    """A row per candidate: times chosen, share of the log's and of the target's choices, effective
    decisions among those that chose it, and the share of the target's choices of it that the log
    never makes."""
    weight, may = importance_weights(decisions, target), covered(decisions)
    rows = []
    for j, name in enumerate(decisions.candidates):
        own = decisions.chosen == j
        asked = target[:, j].sum()
        rows.append(
            {
                "candidate": name,
                "chosen": int(own.sum()),
                "log_share": float(own.mean()),
                "target_share": float(target[:, j].mean()),
                "effective": effective_decisions(weight[own]),
                "uncovered": float((target[:, j] * ~may[:, j]).sum() / asked) if asked else 0.0,
            }
        )
    return pd.DataFrame(rows)


def by_task(decisions: Decisions, target: np.ndarray) -> pd.DataFrame | None:
    """A row per task: decisions, effective ones, and the uncovered share; None without tasks."""
    if decisions.tasks is None:
        return None
    weight, may = importance_weights(decisions, target), covered(decisions)
    missed = (target * ~may).sum(axis=1)
    codes, names = pd.factorize(decisions.tasks, sort=True)
    return pd.DataFrame(
        [
            {
                "task": name,
                "decisions": int((codes == code).sum()),
                "effective": effective_decisions(weight[codes == code]),
                "uncovered": float(missed[codes == code].mean()),
            }
            for code, name in enumerate(names)
        ]
    )


def calibration(decisions: Decisions) -> pd.DataFrame | None:
    """A row per candidate: how often it was chosen, how often its propensities say it should have
    been, and the two-sided p-value of the difference; None where the log tells the chosen one's
    alone.

    Choices of one group are taken as one draw, as a router draws by the prompt. p is NaN where
    fewer than five choices were expected, or nothing was left to chance.
    """
    if np.isnan(decisions.propensities).any():
        return None
    _, group = np.unique(decisions.groups, return_inverse=True)
    rows = []
    for j, name in enumerate(decisions.candidates):
        propensity = decisions.propensities[:, j]
        surprise = np.bincount(group, (decisions.chosen == j) - propensity)
        expected, spread = propensity.sum(), np.sqrt((surprise**2).sum())
        chance = (propensity * (1 - propensity)).sum()
        p = float("nan")
        if min(expected, len(propensity) - expected) >= FEW and chance > 0:
            # The larger of both spreads: choices of one prompt repeat, and rare ones scatter less
            # than they should where none happened.
            p = 2 * norm.sf(abs(surprise.sum()) / max(spread, np.sqrt(chance)))
        rows.append(
            {
                "candidate": name,
                "chosen": int((decisions.chosen == j).sum()),
                "expected": float(expected),
                "p": float(p),
            }
        )
    return pd.DataFrame(rows)


def miscalibrated(table: pd.DataFrame) -> float:
    """p-value that all candidates are chosen as often as told (Bonferroni, as the counts of one
    follow from the others'); NaN where none tells."""
    p = table["p"].dropna().to_numpy()
    return float(min(1.0, len(p) * p.min())) if len(p) else float("nan")


def recomputed(decisions: Decisions, probabilities: np.ndarray) -> dict[str, float]:
    """The logged propensities of the chosen against those that the logging policy computes now,
    (n, m): share of decisions that differ, and by how much at most."""
    again = probabilities[np.arange(len(decisions)), decisions.chosen]
    difference = np.abs(again - decisions.propensity)
    return {
        "share_that_differs": float((difference > ALIKE).mean()),
        "largest_difference": float(difference.max()),
    }


def estimated_propensities(
    vectors: np.ndarray, outcomes: OutcomeMatrix, n_folds: int = 5, random_state: int = 0
) -> np.ndarray:
    """(n, m) chance of each candidate, of a log that has none: multinomial logistic regression on
    the vectors, each query's from folds that did not see its group.

    Right only where the log chose by the query alone: whatever else it chose by is not seen here.

    Raises RouterError where a query has several outcomes, or only one candidate was ever chosen.
    """
    if not outcomes.chosen_only:
        raise RouterError(
            "Propensities can be estimated of a log with one outcome per query alone; judge a "
            "full table with router evaluate."
        )
    chosen = outcomes.observed.argmax(axis=1)
    if len(np.unique(chosen)) < 2:
        raise RouterError(
            f"The log always chose {outcomes.candidates[chosen[0]]!r}: it cannot tell what another "
            "would have earned; let the router explore (policy=epsilon_greedy) and log that."
        )
    propensities = np.zeros(outcomes.scores.shape)
    for rows, held_out in grouped_folds(outcomes.groups, n_folds, random_state):
        seen = np.unique(chosen[rows])
        if len(seen) == 1:
            propensities[held_out, seen[0]] = 1.0
            continue
        model = LogisticRegression(max_iter=1000).fit(vectors[rows], chosen[rows])
        propensities[np.ix_(held_out, seen)] = model.predict_proba(vectors[held_out])
    chosen_ever = outcomes.observed.any(axis=0)
    floored = np.where(chosen_ever, np.maximum(propensities, LEAST_PROPENSITY), 0.0)
    return np.asarray(floored / floored.sum(axis=1, keepdims=True))
