"""Judge a router on full-information outcomes: one function, the same figures everywhere."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from router.errors import RouterError
from router.evaluation.baselines import Baselines
from router.evaluation.bootstrap import Bootstrap
from router.evaluation.completed import completed
from router.evaluation.crossfit import aiq_gain
from router.evaluation.frontier import (
    Curve,
    aiq,
    aiq_routerbench,
    curve_of,
    oracle_curve,
    quality_at,
    quality_neutral_cost,
)
from router.evaluation.metrics import (
    brier,
    cost_save,
    expected_calibration_error,
    oracle_gap_closed,
    perf_gain,
    routerarena_score,
)
from router.evaluation.overlap import (
    Overlap,
    difference_refusal,
    importance_weights,
    refusal,
)
from router.evaluation.tables import frontier_table, prediction_table, task_table
from router.evaluation.two_candidates import performance_gap_recovered, two_candidate_metrics
from router.evaluation.verdict import MARGIN, Verdict, judge
from router.outcomes.decisions import Decisions
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Policy, draw, uniform_of
from router.policies.expected import Expected
from router.prediction import Prediction

log = logging.getLogger(__name__)

LEAST_QUERIES = 5
FULL_INFORMATION: dict[str, Any] = {"kind": "full information"}


@dataclass(frozen=True)
class Evaluation:
    """What the test side says.

    metrics: nested figures, as in metrics.json. A figure that does not exist is NaN or infinite.
        router.aiq is drawn from the best settings on the test side, as RouterBench defines it;
        router.aiq_gain from settings that were chosen on other queries (see `crossfit`), so it is
        not the difference of aiq and aiq_single_models.
    verdict: does it pay.
    predictions: a row per query (see predictions.parquet).
    frontier: a row per setting of the budget (none without costs), and the reference points.
    band: (h, 3) cost, low and high quality of the router's frontier; None without costs.
    tasks: a row per task: size, best single, router, difference with its interval; None without.
    """

    metrics: dict[str, Any]
    verdict: Verdict
    predictions: pd.DataFrame
    frontier: pd.DataFrame
    band: np.ndarray | None
    tasks: pd.DataFrame | None


def evaluate(
    test: OutcomeMatrix,
    prediction: Prediction,
    policy: Policy,
    baselines: Baselines,
    resamples: int = 1000,
    margin: float = MARGIN,
) -> Evaluation:
    """Judge the policy's decisions on the test queries of which every outcome is known.

    A log of the chosen candidates' outcomes alone, with propensities, is judged by its doubly
    robust outcomes (see `completed`), less what they cannot tell: oracle, calibration, regret.

    prediction: of the test queries, with the test side's candidates in its order, learned from
        others.
    policy, baselines: tuned and chosen on other queries.
    resamples: of the bootstrap. margin: see `judge`.

    Raises RouterError where fewer than five queries can be judged.
    """
    decisions, test, prediction = _evidence(test, prediction, policy)
    full = decisions is None
    probabilities = policy.probabilities(prediction)
    bootstrap = Bootstrap(test.groups, resamples)
    expected = {
        "router": policy.expected(prediction, test.scores, test.cost, test.latency),
        **baselines.expected(test, probabilities, oracle=full),
    }
    alone = policy.without_answers()
    if alone is not policy:
        expected["router alone"] = alone.expected(prediction, test.scores, test.cost, test.latency)
        if full:  # what the very same steps would yield if the judge knew the scores
            knowing = replace(prediction, judged=test.scores)
            expected["perfect judge"] = policy.expected(
                knowing, test.scores, test.cost, test.latency
            )
    quality = {name: plan.score for name, plan in expected.items()}
    judged = {name: {"quality": bootstrap.mean(quality[name]).to_dict()} for name in expected}
    gains = {
        name: bootstrap.mean(quality["router"] - quality[name])
        for name in expected
        if name != "router"
    }
    saving, curve, band = None, None, None
    means = {name: float(values.mean()) for name, values in quality.items()}
    router: dict[str, Any] = {
        "shares": dict(zip(test.candidates, probabilities.mean(axis=0).tolist(), strict=True)),
    }
    if full:
        router["oracle_gap_closed"] = oracle_gap_closed(
            means["router"], means["best single"], means["oracle"]
        )
        router["regret"] = means["oracle"] - means["router"]
    if test.cost is not None:
        cost = {name: plan.cost for name, plan in expected.items() if plan.cost is not None}
        for name in cost:
            judged[name]["cost"] = bootstrap.mean(cost[name]).to_dict()
        saving = bootstrap.relative(cost["router"], cost["best single"])
        curve = curve_of(policy, prediction, test)
        resampled = bootstrap.means(np.stack([curve.cost.T, curve.quality.T], axis=2))
        reference = means["best single"], float(cost["best single"].mean())
        router |= _frontier_metrics(curve, resampled, test, bootstrap, *reference)
        if full:
            singles = np.column_stack([test.cost.mean(axis=0), test.scores.mean(axis=0)])
            router["aiq_oracle"] = _aiq(oracle_curve(test), singles)
        router["routerarena"] = routerarena_score(means["router"], float(cost["router"].mean()))
        band = _band(curve, resampled, bootstrap)
    for name, latency in _latencies(test, expected, resamples).items():
        judged[name]["latency"] = latency
    if full and len(test.candidates) == 2:
        router |= _two_candidates(prediction, test, baselines.best_single, means["router"])

    verdict = judge(gains["best single"], saving, baselines.best_single, margin)
    evidence = FULL_INFORMATION
    if decisions is not None:
        overlap = Overlap.of(decisions, probabilities)
        evidence = {"kind": "off-policy, doubly robust", **overlap.to_dict()}
        refused = _refusal(decisions, probabilities, baselines.best_single)
        if refused is not None:
            verdict = Verdict("cannot tell", f"{refused}.")
    votes = policy.votes(prediction, draw(probabilities, uniform_of(test.prompts)))
    drawn = votes.argmax(axis=1)
    chosen = {"best single": baselines.best_single, "cheapest": baselines.cheapest}
    metrics = {
        "queries": len(test),
        "evidence": evidence,
        "verdict": verdict.to_dict(),
        "router": {**judged["router"], **router},
        "baselines": {
            name: judged[name] | ({"candidate": chosen[name]} if name in chosen else {})
            for name in expected
            if name != "router"
        },
        "differences": {
            f"quality_vs_{name.replace(' ', '_').replace('-', '_')}": gain.to_dict()
            for name, gain in gains.items()
        }
        | ({} if saving is None else {"relative_cost_vs_best_single": saving.to_dict()}),
    }
    if full:
        metrics["calibration"] = _calibration(prediction, test, drawn, baselines.best_single)
    return Evaluation(
        metrics=metrics,
        verdict=verdict,
        predictions=prediction_table(test, prediction, probabilities, votes, estimated=not full),
        frontier=frontier_table(curve, test, judged),
        band=band,
        tasks=task_table(test, quality["router"], quality["best single"], resamples),
    )


def _evidence(
    test: OutcomeMatrix, prediction: Prediction, policy: Policy
) -> tuple[Decisions | None, OutcomeMatrix, Prediction]:
    """(The decisions of a log, None where the outcomes are known; the queries to judge; their
    prediction)."""
    if test.inverse_propensity is None or len(test.candidates) == 1:
        return (None, *_fully_observed(test, prediction))
    if policy.asks_several(prediction):
        raise RouterError(
            f"{type(policy).__name__} asks several candidates together, and a log of one answer "
            "per query cannot tell what they would score; choose another policy."
        )
    if len(test) < LEAST_QUERIES:
        raise RouterError(
            f"{len(test)} decisions on the test side; at least {LEAST_QUERIES} are needed."
        )
    return Decisions.of(test), completed(prediction, test), prediction


def _refusal(decisions: Decisions, router: np.ndarray, best_single: str) -> str | None:
    """Why the log cannot carry a verdict, as in the gate; None where it can.

    router: (n, m) probabilities."""
    always = np.eye(len(decisions.candidates))[decisions.candidates.index(best_single)]
    plans = {"the router": router, best_single: np.tile(always, (len(decisions), 1))}
    for name, plan in plans.items():
        refused = refusal(Overlap.of(decisions, plan))
        if refused is not None:
            return refused.replace("the target", name)
    return difference_refusal(*(importance_weights(decisions, plan) for plan in plans.values()))


def _fully_observed(
    test: OutcomeMatrix, prediction: Prediction
) -> tuple[OutcomeMatrix, Prediction]:
    rows = np.flatnonzero(test.fully_observed)
    if len(rows) < LEAST_QUERIES:
        raise RouterError(
            f"{len(rows)} of {len(test)} test queries have an outcome of every candidate; "
            f"full-information evaluation needs at least {LEAST_QUERIES}: log the missing "
            "answers, or leave candidates out with data.candidates."
        )
    if len(rows) < len(test):
        log.warning(
            "%d of %d test queries left out: they lack an outcome of some candidate.",
            len(test) - len(rows),
            len(test),
        )
    return test.take(rows), prediction.take(rows)


def _latencies(
    test: OutcomeMatrix, expected: dict[str, Expected], resamples: int
) -> dict[str, dict[str, float]]:
    """Name -> mean seconds, on the queries of which every latency is known; empty where none is."""
    if test.latency is None:
        return {}
    timed = np.flatnonzero(~np.isnan(test.latency).any(axis=1))
    if len(timed) == 0:
        return {}
    bootstrap = Bootstrap(test.groups[timed], resamples)
    return {
        name: bootstrap.mean(plan.latency[timed]).to_dict()
        for name, plan in expected.items()
        if plan.latency is not None
    }


def _frontier_metrics(
    curve: Curve,
    resampled: np.ndarray,
    test: OutcomeMatrix,
    bootstrap: Bootstrap,
    best_single: float,
    best_single_cost: float,
) -> dict[str, Any]:
    """Figures of the curve as its budget moves; resampled: (resamples, L, 2) means of it."""
    assert test.cost is not None
    models = np.stack([test.cost, test.scores], axis=2)  # (n, m, 2)
    resampled_models = bootstrap.means(models)
    pairs = zip(resampled, resampled_models, strict=True)
    areas = np.array([(_aiq(points, of), _aiq(of, of)) for points, of in pairs])
    points, singles = curve.points, models.mean(axis=0)
    return {
        "aiq": bootstrap.interval(_aiq(points, singles), areas[:, 0]).to_dict(),
        "aiq_single_models": bootstrap.interval(_aiq(singles, singles), areas[:, 1]).to_dict(),
        "aiq_gain": aiq_gain(
            curve.cost, curve.quality, test.cost.T, test.scores.T, bootstrap, test.groups
        ).to_dict(),
        "aiq_routerbench": aiq_routerbench(points, float(singles[:, 0].max())),
        "qnc": quality_neutral_cost(points, best_single, best_single_cost),
        "perf_gain": perf_gain(points, best_single),
        "cost_save": cost_save(points, best_single, best_single_cost),
        "quality_at_cost": {
            f"{share:.0%}": quality_at(points, share * best_single_cost)
            for share in (0.25, 0.5, 0.75, 1.0)
        },
    }


def _aiq(points: np.ndarray, models: np.ndarray) -> float:
    """AIQ over the range of the single models' costs."""
    return aiq(points, float(models[:, 0].min()), float(models[:, 0].max()))


def _band(curve: Curve, resampled: np.ndarray, bootstrap: Bootstrap) -> np.ndarray:
    """(L, 3) cost, low and high quality at every setting, by rising cost."""
    tail = (1 - bootstrap.level) / 2
    low, high = np.quantile(resampled[:, :, 1], [tail, 1 - tail], axis=0)
    cost, quality = curve.points.T
    return np.column_stack([cost, low, high])[np.lexsort((quality, cost))]


def _two_candidates(
    prediction: Prediction, test: OutcomeMatrix, best_single: str, quality: float
) -> dict[str, Any]:
    """RouteLLM's figures, where the model that was stronger on the train side still is."""
    strong = test.candidates.index(best_single)
    weak = 1 - strong
    gap = prediction.quality[:, strong] - prediction.quality[:, weak]
    metrics = two_candidate_metrics(gap, test.scores[:, weak], test.scores[:, strong])
    if not metrics:
        return {}
    ends = float(test.scores[:, weak].mean()), float(test.scores[:, strong].mean())
    names = {"weak": test.candidates[weak], "strong": best_single}
    return {
        "two_candidates": {**names, "pgr": performance_gap_recovered(quality, *ends), **metrics}
    }


def _calibration(
    prediction: Prediction, test: OutcomeMatrix, drawn: np.ndarray, best_single: str
) -> dict[str, Any]:
    rows = np.arange(len(test))

    def both(predicted: np.ndarray, score: np.ndarray) -> dict[str, float]:
        return {
            "brier": brier(predicted, score),
            "ece": expected_calibration_error(predicted, score),
        }

    reference = test.candidates.index(best_single)
    others = [j for j in range(len(test.candidates)) if j != reference]
    gaps = [
        matrix[:, others] - matrix[:, [reference]] for matrix in (prediction.quality, test.scores)
    ]
    return {
        "candidates": {
            name: both(prediction.quality[:, j], test.scores[:, j])
            for j, name in enumerate(test.candidates)
        },
        # The chosen model looks better than it is where its noise was flattering: winner's curse.
        "chosen": both(prediction.quality[rows, drawn], test.scores[rows, drawn]),
        "gap_to_best_single": both(gaps[0].ravel(), gaps[1].ravel()),
    }
