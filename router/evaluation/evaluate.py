"""Judge a router on full-information outcomes: one function, the same figures everywhere."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from router.errors import RouterError
from router.evaluation.baselines import Baselines
from router.evaluation.bootstrap import Bootstrap, Interval
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
from router.evaluation.two_candidates import two_candidate_metrics
from router.evaluation.verdict import MARGIN, Verdict, judge
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Policy, draw, uniform_of
from router.prediction import Prediction

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What the test side says.

    metrics: nested figures, as in metrics.json.
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

    Raises RouterError where no query is fully observed: such logs need off-policy evaluation.
    """
    test, prediction = _fully_observed(test, prediction)
    probabilities = policy.probabilities(prediction)
    bootstrap = Bootstrap(test.groups, resamples)
    plans = {"router": probabilities, **baselines.plans(test, probabilities)}
    judged = {name: _judge_plan(plan, test, bootstrap) for name, plan in plans.items()}
    quality = {name: (plan * test.scores).sum(axis=1) for name, plan in plans.items()}
    cost = (
        None
        if test.cost is None
        else {name: (plan * test.cost).sum(axis=1) for name, plan in plans.items()}
    )

    quality_gain = bootstrap.mean(quality["router"] - quality["best single"])
    saving = None if cost is None else _relative(bootstrap, cost["router"], cost["best single"])
    verdict = judge(quality_gain, saving, baselines.best_single, margin)

    means = {name: float(values.mean()) for name, values in quality.items()}
    router: dict[str, Any] = {
        **judged["router"],
        "shares": dict(zip(test.candidates, probabilities.mean(axis=0).tolist(), strict=True)),
        "oracle_gap_closed": oracle_gap_closed(
            means["router"], means["best single"], means["oracle"]
        ),
        "regret": means["oracle"] - means["router"],
    }
    curve, band = None, None
    if cost is not None:
        mean_cost = {name: float(values.mean()) for name, values in cost.items()}
        curve = curve_of(policy, prediction, test)
        router |= _frontier_metrics(
            curve, test, bootstrap, means["best single"], mean_cost["best single"]
        )
        router["routerarena"] = routerarena_score(means["router"], mean_cost["router"])
        band = _band(curve, bootstrap)
    if len(test.candidates) == 2:
        router |= _two_candidates(prediction, test)

    differences: dict[str, Any] = {
        f"quality_vs_{name.replace(' ', '_').replace('-', '_')}": bootstrap.mean(
            quality["router"] - quality[name]
        ).to_dict()
        for name in plans
        if name != "router"
    }
    if saving is not None:
        differences["relative_cost_vs_best_single"] = saving.to_dict()
    drawn = draw(probabilities, uniform_of(test.prompts))
    metrics = {
        "queries": len(test),
        "verdict": verdict.to_dict(),
        "router": router,
        "baselines": {
            name: {
                **judged[name],
                **({"candidate": baselines.best_single} if name == "best single" else {}),
                **({"candidate": baselines.cheapest} if name == "cheapest" else {}),
            }
            for name in plans
            if name != "router"
        },
        "differences": differences,
        "calibration": _calibration(prediction, test, drawn, baselines.best_single),
    }
    return Evaluation(
        metrics=metrics,
        verdict=verdict,
        predictions=_prediction_table(test, prediction, probabilities, drawn),
        frontier=_frontier_table(curve, test, judged),
        band=band,
        tasks=_task_table(test, quality),
    )


def _fully_observed(
    test: OutcomeMatrix, prediction: Prediction
) -> tuple[OutcomeMatrix, Prediction]:
    rows = np.flatnonzero(test.fully_observed)
    if len(rows) < 5:
        raise RouterError(
            f"{len(rows)} of {len(test)} test queries have an outcome of every candidate; "
            "full-information evaluation needs at least 5: log the missing answers, or leave "
            "candidates out with data.candidates."
        )
    if len(rows) < len(test):
        log.warning(
            "%d of %d test queries left out: they lack an outcome of some candidate.",
            len(test) - len(rows),
            len(test),
        )
    return test.take(rows), prediction.take(rows)


def _judge_plan(plan: np.ndarray, test: OutcomeMatrix, bootstrap: Bootstrap) -> dict[str, Any]:
    judged: dict[str, Any] = {"quality": bootstrap.mean((plan * test.scores).sum(axis=1)).to_dict()}
    if test.cost is not None:
        judged["cost"] = bootstrap.mean((plan * test.cost).sum(axis=1)).to_dict()
    return judged


def _relative(bootstrap: Bootstrap, cost: np.ndarray, reference: np.ndarray) -> Interval:
    """The paired relative difference of two mean costs."""
    resampled = bootstrap.means(np.stack([cost, reference], axis=1))
    return bootstrap.interval(
        float(cost.mean() / reference.mean() - 1), resampled[:, 0] / resampled[:, 1] - 1
    )


def _frontier_metrics(
    curve: Curve,
    test: OutcomeMatrix,
    bootstrap: Bootstrap,
    best_single: float,
    best_single_cost: float,
) -> dict[str, Any]:
    assert test.cost is not None
    single = np.stack([test.cost, test.scores], axis=2)  # (n, m, 2)
    settings = np.stack([curve.cost.T, curve.quality.T], axis=2)  # (n, L, 2)
    resampled_single = bootstrap.means(single)
    resampled = bootstrap.means(settings)
    areas = np.array(
        [
            [aiq(points, *_range(models)), aiq(models, *_range(models))]
            for points, models in zip(resampled, resampled_single, strict=True)
        ]
    )
    singles = single.mean(axis=0)
    points = curve.points
    area, hull_area = aiq(points, *_range(singles)), aiq(singles, *_range(singles))
    return {
        "aiq": bootstrap.interval(area, areas[:, 0]).to_dict(),
        "aiq_single_models": bootstrap.interval(hull_area, areas[:, 1]).to_dict(),
        "aiq_gain": bootstrap.interval(area - hull_area, areas[:, 0] - areas[:, 1]).to_dict(),
        "aiq_oracle": aiq(oracle_curve(test), *_range(singles)),
        "aiq_routerbench": aiq_routerbench(points, float(singles[:, 0].max())),
        "qnc": quality_neutral_cost(points, best_single, best_single_cost),
        "perf_gain": perf_gain(points, best_single),
        "cost_save": cost_save(points, best_single, best_single_cost),
        "quality_at_cost": {
            f"{share:.0%}": quality_at(points, share * best_single_cost)
            for share in (0.25, 0.5, 0.75, 1.0)
        },
    }


def _range(models: np.ndarray) -> tuple[float, float]:
    return float(models[:, 0].min()), float(models[:, 0].max())


def _band(curve: Curve, bootstrap: Bootstrap) -> np.ndarray:
    """(L, 3) cost, low and high quality at every setting, by rising cost."""
    resampled = bootstrap.means(curve.quality.T)
    tail = (1 - bootstrap.level) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    band = np.column_stack([curve.points[:, 0], low, high])
    return band[np.argsort(band[:, 0])]


def _frontier_table(
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


def _two_candidates(prediction: Prediction, test: OutcomeMatrix) -> dict[str, Any]:
    weak, strong = np.argsort(test.scores.mean(axis=0), kind="stable")
    gap = prediction.quality[:, strong] - prediction.quality[:, weak]
    metrics = two_candidate_metrics(gap, test.scores[:, weak], test.scores[:, strong])
    names = {"weak": test.candidates[weak], "strong": test.candidates[strong]}
    return {"two_candidates": {**names, **metrics}} if metrics else {}


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


def _prediction_table(
    test: OutcomeMatrix, prediction: Prediction, probabilities: np.ndarray, drawn: np.ndarray
) -> pd.DataFrame:
    rows = np.arange(len(test))
    columns: dict[str, Any] = {
        "query_id": test.queries["query_id"].to_numpy(),
        "chosen": np.array(test.candidates, dtype=object)[drawn],
        "probability": probabilities[rows, drawn],
        "score": test.scores[rows, drawn],
    }
    if test.cost is not None:
        columns["cost_usd"] = test.cost[rows, drawn]
    for j, name in enumerate(test.candidates):
        columns[f"quality:{name}"] = prediction.quality[:, j]
        columns[f"quality_se:{name}"] = prediction.quality_se[:, j]
        if prediction.cost is not None:
            columns[f"cost:{name}"] = prediction.cost[:, j]
    return pd.DataFrame(columns)


def _task_table(test: OutcomeMatrix, quality: dict[str, np.ndarray]) -> pd.DataFrame | None:
    if test.tasks is None:
        return None
    difference = quality["router"] - quality["best single"]
    rows = []
    for task in sorted(set(test.tasks)):
        of_task = np.flatnonzero(test.tasks == task)
        interval = Bootstrap(test.groups[of_task]).mean(difference[of_task])
        rows.append(
            {
                "task": task,
                "queries": len(of_task),
                "best_single": quality["best single"][of_task].mean(),
                "router": quality["router"][of_task].mean(),
                "difference": interval.value,
                "low": interval.low,
                "high": interval.high,
            }
        )
    return pd.DataFrame(rows)
