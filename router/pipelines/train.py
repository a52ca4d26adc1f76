"""`router train`: outcomes -> vectors -> estimator -> policy -> judged, exported, recorded."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from router.artifact.export import Description, check_parity, require_exportable, write_artifact
from router.artifact.manifest import amend_manifest
from router.artifact.runtime import Router
from router.encoding.cache import encode_cached
from router.encoding.encoder import Encoder, learns
from router.estimators.head import FoldHeads, Head
from router.estimators.judge import Judge
from router.evaluation.baselines import Baselines
from router.evaluation.evaluate import Evaluation, evaluate
from router.evaluation.plots import plot_frontier, plot_tasks
from router.evaluation.validation import validation_figures
from router.json_record import text_of
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.splits import Split, grouped_folds
from router.pipelines.console import (
    console,
    print_comparison,
    print_examples,
    print_outcomes,
)
from router.pipelines.parts import build
from router.pipelines.precision import PRECISIONS, Encoding, Tuning, encoding_of
from router.pipelines.run_folder import output_folder, point_to_latest, run_folder, shown
from router.pipelines.values import (
    one_of,
    share,
    text_or_null,
    texts,
    true_or_false,
    whole_number,
)
from router.policies import Policy
from router.prediction import Prediction
from router.tracking.tracker import FinishedRun, Tracker


@dataclass(frozen=True)
class Parts:
    """Everything that the configuration names, built before the first second of work."""

    data: Any
    split: Callable[[OutcomeMatrix], Split]
    encoder: Encoder
    head: Head
    policy: Policy
    tracker: Tracker

    @classmethod
    def of(cls, config: DictConfig) -> Parts:
        """Raises RouterError for the first value that does not fit."""
        return cls(
            data=build(config.data, "data"),
            split=build(config.split, "split"),
            encoder=build(config.encoder, "encoder"),
            head=Head(
                build(config.estimator, "estimator"),
                build(config.cost, "cost"),
                # Hydra leaves a group that is null out of the configuration.
                build(config.judge, "judge") if config.get("judge") is not None else None,
            ),
            policy=build(config.policy, "policy"),
            tracker=build(config.tracking, "tracking"),
        )


@dataclass(frozen=True)
class Settings:
    """The run's own values, beside those of its parts."""

    folds: int
    random_state: int
    resamples: int
    margin: float
    export: bool
    precision: str
    examples: list[str]
    latest: str | None
    name: str | None

    @classmethod
    def of(cls, config: DictConfig) -> Settings:
        """Raises RouterError for the first value that does not fit."""
        return cls(
            folds=whole_number(config, "validation.folds", least=2),
            random_state=whole_number(config, "validation.random_state", least=0),
            resamples=whole_number(config, "evaluation.resamples", least=2),
            margin=share(config, "evaluation.margin"),
            export=true_or_false(config, "export"),
            # A run of an earlier version knows no other.
            precision=one_of(config, "precision", PRECISIONS) if "precision" in config else "fp32",
            examples=texts(config, "examples"),
            latest=text_or_null(config, "latest"),
            name=text_or_null(config, "name"),
        )


@dataclass(frozen=True)
class Trained:
    """What the train side yields: the fitted head, the tuned policy and what tuned it.

    encoding: the encoder as it ships, on whose predictions the policy was tuned; None where there
        is to be no artifact.
    """

    head: Head
    policy: Policy
    baselines: Baselines
    validation: OutcomeMatrix
    validation_prediction: Prediction
    encoding: Encoding | None = None


def train(config: DictConfig) -> float:
    """One training run; returns the figure that a sweep maximises: AIQ of the frontier on
    validation, or the mean quality there where the log has no costs."""
    started = time.monotonic()
    settings, parts = Settings.of(config), Parts.of(config)
    if settings.export:
        require_exportable(parts.encoder, parts.head, parts.policy)
    parts.tracker.prepare()
    outcomes: OutcomeMatrix = parts.data.load()
    print_outcomes(parts.data.name, outcomes)
    split = parts.split(outcomes)
    with run_folder(output_folder()) as folder:
        trained = fit(parts, settings, outcomes, split)
        validation = validation_figures(
            trained.policy, trained.validation_prediction, trained.validation
        )
        test = outcomes.take(split.test)
        data = {
            "name": parts.data.name,
            "sha256": outcomes.fingerprint,
            "train_queries": len(split.train),
            "test_queries": len(split.test),
            "test_sha256": query_hash(test),
        }
        router = None
        if settings.export:
            with console.status("Exporting"):
                (folder / "artifact").mkdir()
                router = export_trained(folder / "artifact", trained, outcomes, data)
        prediction, parity = _predict_test(parts.encoder, trained, router, test)
        with console.status("Judging"):
            evaluation = evaluate(
                test,
                prediction,
                trained.policy,
                trained.baselines,
                settings.resamples,
                settings.margin,
            )
        metrics = {
            "data": data,
            **evaluation.metrics,
            "validation": validation,
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
    print_comparison(metrics)
    _show(output_folder(), settings, exported=router is not None)
    _record(parts.tracker, output_folder(), settings, config, metrics, evaluation)
    return cast(float, validation["quality"] if validation["aiq"] is None else validation["aiq"])


def fit(parts: Parts, settings: Settings, outcomes: OutcomeMatrix, split: Split) -> Trained:
    """Fit the head on the train side and tune the policy on validation.

    Without a validation side the policy is tuned on out-of-fold predictions of the train side. An
    encoder that learns from outcomes has no out-of-fold vectors: it is given a held-out fold as
    validation side. Where there is to be an artifact, the policy is tuned on predictions from the
    vectors that its encoder will serve (see router.pipelines.precision).
    """
    head, encoder = parts.head, parts.encoder
    if learns(encoder):
        split = _with_validation(split, outcomes, settings)
        learned = outcomes.take(split.train)
        encoder.fit(learned.prompts, learned.scores, learned.observed)
    train_side = with_answer_vectors(outcomes.take(split.train), encoder, head.judge)
    vectors = encode_cached(encoder, train_side.prompts, "Embedding train prompts")
    if split.validation is None:
        validation, held_out = train_side, vectors
        unseen = FoldHeads(head, vectors, train_side, settings.folds, settings.random_state)
        with console.status("Fitting"):
            fitted = head.fit(vectors, train_side)
    else:
        validation = with_answer_vectors(outcomes.take(split.validation), encoder, head.judge)
        with console.status("Fitting"):
            unseen = fitted = head.fit(vectors, train_side)
        held_out = encode_cached(encoder, validation.prompts, "Embedding validation prompts")
    predicted, encoding = unseen.predict(held_out, validation), None

    def predict(served: Encoder) -> Prediction:
        vectors = encode_cached(
            served, validation.prompts, "Embedding validation prompts as served"
        )
        return unseen.predict(vectors, with_answer_vectors(validation, served, head.judge))

    if settings.export:
        tuning = Tuning(validation, predicted, predict, parts.policy)
        encoding = encoding_of(encoder.export(), settings.precision, tuning)  # type: ignore[attr-defined]
        predicted = encoding.prediction
    policy = parts.policy.tune(predicted, validation)
    baselines = Baselines.fit(train_side, policy)
    return Trained(fitted, policy, baselines, validation, predicted, encoding)


def _with_validation(split: Split, outcomes: OutcomeMatrix, settings: Settings) -> Split:
    if split.validation is not None:
        return split
    groups = outcomes.groups[split.train]
    rows, held_out = grouped_folds(groups, settings.folds, settings.random_state)[0]
    return Split(split.train[rows], split.test, split.train[held_out])


def query_hash(outcomes: OutcomeMatrix) -> str:
    """SHA-256 of the queries' prompts, whatever their order: tells one test side from another."""
    digests = sorted(
        hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
        for prompt in outcomes.prompts
    )
    return hashlib.sha256(b"".join(digests)).hexdigest()


def export_trained(
    place: Path, trained: Trained, outcomes: OutcomeMatrix, data: dict[str, Any]
) -> Router:
    """Write what was fitted with export=true into an empty folder, or into a zip file.

    data: what the manifest says of the outcomes.
    """
    assert trained.encoding is not None
    prices = None
    if outcomes.prices is not None:
        prices = {
            candidate: {"input": 1e6 * price[0], "output": 1e6 * price[1], "date": date}
            for candidate, price, date in zip(
                outcomes.candidates, outcomes.prices.tolist(), outcomes.price_dates, strict=True
            )
        }
    description = Description(prices=prices, data=data, baselines=trained.baselines.to_dict())
    encoding = trained.encoding
    router = write_artifact(
        place, encoding, trained.head, trained.policy, outcomes.candidates, description
    )
    if encoding.facts is None:
        return router
    amend_manifest(place, encoder=encoding.facts)
    return Router(place)


def with_answer_vectors(
    outcomes: OutcomeMatrix, encoder: Encoder, judge: Judge | None
) -> OutcomeMatrix:
    """The outcomes with vectors of their answers, where a judge reads them."""
    answers = outcomes.answers
    if judge is None or answers is None or "response" not in judge.reads:
        return outcomes
    texts = sorted({text for text in answers.text.ravel() if text is not None})
    if not texts:
        return outcomes
    encoded = encode_cached(encoder, texts, "Embedding answers")
    place = {text: row for row, text in enumerate(texts, 1)} | {None: 0}
    rows = np.array([place[text] for text in answers.text.ravel()]).reshape(answers.text.shape)
    vectors = np.vstack([np.zeros_like(encoded[:1]), encoded])[rows]
    return replace(outcomes, answers=replace(answers, vectors=vectors))


def _predict_test(
    encoder: Encoder, trained: Trained, router: Router | None, test: OutcomeMatrix
) -> tuple[Prediction, dict[str, Any] | None]:
    """What is judged is what ships: the artifact's own encoder and head, where there is one."""
    judge = trained.head.judge
    if router is None:
        vectors = encode_cached(encoder, test.prompts, "Embedding test prompts")
        seen = with_answer_vectors(test, encoder, judge)
        return trained.head.predict(vectors, seen), None
    vectors = encode_cached(router, test.prompts, "Embedding test prompts as served")
    seen = with_answer_vectors(test, router, judge)
    prediction = router.predict(vectors)
    if router.judge is not None and seen.answers is not None:
        prediction = replace(
            prediction, judged=router.judge.judged(vectors, seen.prompts, seen.answers)
        )
    parity = check_parity(router, trained.head, trained.policy, vectors, prediction, seen)
    return prediction, parity


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
    (folder / "metrics.json").write_text(text_of(metrics), encoding="utf-8")
    evaluation.predictions.to_parquet(folder / "predictions.parquet", index=False)
    evaluation.frontier.to_csv(folder / "frontier.csv", index=False)
    plot_frontier(evaluation, folder / "frontier.png")
    if evaluation.tasks is not None:
        evaluation.tasks.to_csv(folder / "tasks.csv", index=False)
        plot_tasks(evaluation.tasks, folder / "tasks.png")


def write_validation(path: Path, trained: Trained) -> None:
    """Validation predictions and outcomes, on which `router export` tunes other policies. Of the
    prompts it holds the length alone: a run's folder may travel further than the log."""
    validation, prediction = trained.validation, trained.validation_prediction
    columns: dict[str, Any] = {
        "query_id": validation.queries["query_id"].to_numpy(),
        "group": validation.groups,
        "characters": [len(prompt) for prompt in validation.prompts],
    }
    if validation.tasks is not None:
        columns["task"] = validation.tasks
    for j, name in enumerate(validation.candidates):
        columns[f"quality:{name}"] = prediction.quality[:, j]
        columns[f"quality_se:{name}"] = prediction.quality_se[:, j]
        columns[f"observed_score:{name}"] = validation.scores[:, j]
        if prediction.cost is not None and validation.cost is not None:
            columns[f"cost:{name}"] = prediction.cost[:, j]
            columns[f"observed_cost:{name}"] = validation.cost[:, j]
        if prediction.latency is not None and validation.latency is not None:
            columns[f"latency:{name}"] = prediction.latency[:, j]
            columns[f"observed_latency:{name}"] = validation.latency[:, j]
        if prediction.judged is not None:
            columns[f"judged:{name}"] = prediction.judged[:, j]
        if validation.propensity is not None:
            columns[f"propensity:{name}"] = validation.propensity[:, j]
    pd.DataFrame(columns).to_parquet(path, index=False)


def _show(folder: Path, settings: Settings, exported: bool) -> None:
    """Where the run's files are, and what its artifact says to the example prompts."""
    if exported and settings.examples:
        print_examples(Router(folder / "artifact", verify=False), settings.examples)
    point_to_latest(settings.latest, folder)
    console.print(f"Picture    {shown(folder) / 'frontier.png'}")
    if exported:
        console.print(f"Artifact   {shown(folder) / 'artifact'}")


def _record(
    tracker: Tracker,
    folder: Path,
    settings: Settings,
    config: DictConfig,
    metrics: dict[str, Any],
    evaluation: Evaluation,
) -> None:
    run = FinishedRun(
        name=settings.name or f"{metrics['data']['name']} {folder.name}",
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
    if hint:
        console.print(f"MLflow     {hint}")
