"""`router train`: outcomes -> vectors -> estimator -> policy -> judged, exported, recorded."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from router.artifact.export import Description, check_parity, write_artifact
from router.artifact.manifest import amend_manifest
from router.artifact.runtime import Router
from router.encoding.cache import Encoder, encode_cached
from router.estimators.head import Head, cross_predict
from router.evaluation.baselines import Baselines
from router.evaluation.evaluate import Evaluation, evaluate
from router.evaluation.plots import plot_frontier, plot_tasks
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.splits import Split
from router.pipelines.console import (
    console,
    print_comparison,
    print_examples,
    print_outcomes,
)
from router.pipelines.parts import build
from router.pipelines.run_folder import output_folder, point_to_latest, run_folder, shown
from router.policies import Policy
from router.prediction import Prediction
from router.tracking.tracker import FinishedRun


@dataclass(frozen=True)
class Trained:
    """What the train side yields: the fitted head, the tuned policy and what tuned it."""

    head: Head
    policy: Policy
    baselines: Baselines
    validation: OutcomeMatrix
    validation_prediction: Prediction


def train(config: DictConfig) -> float:
    """One training run; returns the figure that a sweep maximises: the frontier's AIQ on the test
    side, or the mean quality where the log has no costs."""
    started = time.monotonic()
    data = build(config.data, "data")
    encoder: Encoder = build(config.encoder, "encoder")
    tracker = build(config.tracking, "tracking")
    outcomes: OutcomeMatrix = data.load()
    print_outcomes(data.name, outcomes)
    split: Split = build(config.split, "split")(outcomes)
    with run_folder(output_folder()) as folder:
        trained = fit(config, encoder, outcomes, split)
        test = outcomes.take(split.test)
        router = None
        if config.export:
            with console.status("Exporting"):
                router = _export(folder / "artifact", encoder, trained, data.name, outcomes, split)
        prediction, parity = _predict_test(encoder, trained, router, test)
        with console.status("Judging"):
            evaluation = evaluate(
                test,
                prediction,
                trained.policy,
                trained.baselines,
                config.evaluation.resamples,
                config.evaluation.margin,
            )
        metrics = {
            "data": {
                "name": data.name,
                "sha256": outcomes.fingerprint,
                "train_queries": len(split.train),
                "test_queries": len(split.test),
            },
            **evaluation.metrics,
            "policy": trained.policy.to_dict(),
            "parity": parity,
            "seconds": time.monotonic() - started,
        }
        write_results(folder, evaluation, metrics)
        write_validation(folder / "validation.parquet", trained)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
        if router is not None:
            amend_manifest(
                folder / "artifact",
                metrics=headline(evaluation.metrics),
                verdict=evaluation.verdict.to_dict(),
            )
    return _report(config, tracker, output_folder(), metrics, evaluation)


def fit(config: DictConfig, encoder: Encoder, outcomes: OutcomeMatrix, split: Split) -> Trained:
    """Fit the head on the train side and tune the policy on validation.

    Without a validation side the policy is tuned on out-of-fold predictions of the train side.
    """
    head = Head(build(config.estimator, "estimator"), build(config.cost, "cost"))
    train_side = outcomes.take(split.train)
    vectors = encode_cached(encoder, train_side.prompts, "Embedding train prompts")
    if split.validation is None:
        validation = train_side
        predicted = cross_predict(
            head, vectors, train_side, config.validation.folds, config.validation.random_state
        )
        fitted = head.fit(vectors, train_side)
    else:
        validation = outcomes.take(split.validation)
        fitted = head.fit(vectors, train_side)
        held_out = encode_cached(encoder, validation.prompts, "Embedding validation prompts")
        predicted = fitted.predict(held_out)
    policy: Policy = build(config.policy, "policy").tune(predicted, validation)
    return Trained(fitted, policy, Baselines.fit(train_side, policy), validation, predicted)


def _export(
    folder: Path,
    encoder: Any,
    trained: Trained,
    name: str,
    outcomes: OutcomeMatrix,
    split: Split,
) -> Router:
    folder.mkdir()
    prices = None
    if outcomes.prices is not None:
        prices = {
            candidate: {"input": 1e6 * price[0], "output": 1e6 * price[1], "date": date}
            for candidate, price, date in zip(
                outcomes.candidates, outcomes.prices.tolist(), outcomes.price_dates, strict=True
            )
        }
    description = Description(
        prices=prices,
        data={
            "name": name,
            "sha256": outcomes.fingerprint,
            "train_queries": len(split.train),
            "test_queries": len(split.test),
        },
        baselines=trained.baselines.to_dict(),
    )
    return write_artifact(
        folder, encoder, trained.head, trained.policy, outcomes.candidates, description
    )


def _predict_test(
    encoder: Encoder, trained: Trained, router: Router | None, test: OutcomeMatrix
) -> tuple[Prediction, dict[str, Any] | None]:
    """What is judged is what ships: the artifact's own encoder and head, where there is one."""
    if router is None:
        vectors = encode_cached(encoder, test.prompts, "Embedding test prompts")
        return trained.head.predict(vectors), None
    vectors = encode_cached(router, test.prompts, "Embedding test prompts as served")
    prediction = router.predict(vectors)
    return prediction, check_parity(router, trained.head, trained.policy, vectors, prediction)


def headline(metrics: dict[str, Any]) -> dict[str, Any]:
    """The few figures that an artifact carries."""
    router, best = metrics["router"], metrics["baselines"]["best single"]
    figures = {
        "queries": metrics["queries"],
        "quality": router["quality"],
        "best_single": best["candidate"],
        "best_single_quality": best["quality"],
        "shares": router["shares"],
    }
    if "cost" in router:
        figures |= {"cost": router["cost"], "best_single_cost": best["cost"], "aiq": router["aiq"]}
    return figures


def write_results(folder: Path, evaluation: Evaluation, metrics: dict[str, Any]) -> None:
    """metrics.json, predictions.parquet, frontier.csv and the pictures."""
    text = json.dumps(_finite(metrics), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
    evaluation.predictions.to_parquet(folder / "predictions.parquet", index=False)
    evaluation.frontier.to_csv(folder / "frontier.csv", index=False)
    plot_frontier(evaluation, folder / "frontier.png")
    if evaluation.tasks is not None:
        evaluation.tasks.to_csv(folder / "tasks.csv", index=False)
        plot_tasks(evaluation.tasks, folder / "tasks.png")


def _finite(value: Any) -> Any:
    """JSON knows neither infinity nor NaN: null says that a figure does not exist."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_validation(path: Path, trained: Trained) -> None:
    """Validation predictions and outcomes, on which `router export` tunes other policies."""
    validation, prediction = trained.validation, trained.validation_prediction
    columns: dict[str, np.ndarray] = {"query_id": validation.queries["query_id"].to_numpy()}
    for j, name in enumerate(validation.candidates):
        columns[f"quality:{name}"] = prediction.quality[:, j]
        columns[f"quality_se:{name}"] = prediction.quality_se[:, j]
        columns[f"observed_score:{name}"] = validation.scores[:, j]
        if prediction.cost is not None and validation.cost is not None:
            columns[f"cost:{name}"] = prediction.cost[:, j]
            columns[f"observed_cost:{name}"] = validation.cost[:, j]
    pd.DataFrame(columns).to_parquet(path, index=False)


def _report(
    config: DictConfig,
    tracker: Any,
    folder: Path,
    metrics: dict[str, Any],
    evaluation: Evaluation,
) -> float:
    print_comparison(metrics)
    run = FinishedRun(
        name=config.name or f"{metrics['data']['name']} {folder.name}",
        folder=folder,
        config=cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)),
        metrics=metrics,
        tags={
            "data.sha256": metrics["data"]["sha256"],
            "verdict": evaluation.verdict.decision,
            "verdict.sentence": evaluation.verdict.sentence,
        },
    )
    with console.status("Recording"):
        hint = tracker.record(run)
    if config.export and config.examples:
        print_examples(Router(folder / "artifact"), config.examples)
    point_to_latest(config.latest, folder)
    console.print(f"Picture    {shown(folder) / 'frontier.png'}")
    if config.export:
        console.print(f"Artifact   {shown(folder) / 'artifact'}")
    if hint:
        console.print(f"MLflow     {hint}")
    router = metrics["router"]
    return float(router["aiq"]["value"] if "aiq" in router else router["quality"]["value"])
