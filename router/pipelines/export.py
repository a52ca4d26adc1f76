"""`router export`: the artifact of a finished run, at the same or another operating point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from router.artifact.export import copy_artifact
from router.artifact.manifest import amend_manifest, read_manifest
from router.errors import RouterError
from router.evaluation.baselines import Baselines, Lookup
from router.evaluation.validation import validation_figures
from router.outcomes.matrix import OutcomeMatrix
from router.pipelines.add_candidate import Opened
from router.pipelines.console import console
from router.pipelines.parts import build
from router.pipelines.precision import PRECISIONS
from router.pipelines.run_folder import new_place, shown
from router.pipelines.train import export_trained, fit
from router.pipelines.values import one_of
from router.policies import Policy, policy_from_dict
from router.prediction import Prediction


def export(config: DictConfig) -> None:
    """Write the artifact of `run` to `out`, a folder or one zip file, with `policy` tuned anew on
    the run's validation predictions where one is given.

    precision: of the encoder; the run's own if None, and then no prompt is read and no model
    fitted. Another one needs the run's data: the policy is tuned on predictions that its vectors
    yield of queries that the heads never saw, so those are fitted again as `train` did.
    """
    if config.run is None:
        raise RouterError("A finished run is needed: give run=FOLDER.")
    if config.out is None:
        raise RouterError("A place for the artifact is needed: give out=FOLDER or out=FILE.zip.")
    run, out = Path(str(config.run)), Path(str(config.out))
    if not (run / "artifact").is_dir() or not (run / "validation.parquet").is_file():
        raise RouterError(f"{run}: no finished run with an artifact here; give run=FOLDER.")
    if config.precision is not None:
        _in_precision(config, run, out)
        return
    manifest = read_manifest(run / "artifact")
    policy: Policy = policy_from_dict(manifest["policy"])
    prediction, outcomes = read_validation(
        run / "validation.parquet", tuple(manifest["candidates"])
    )
    # Hydra leaves a group that is null in the defaults list out of the configuration.
    baselines = Baselines.from_dict(manifest["baselines"])
    if config.get("policy") is not None:
        policy = build(config.policy, "policy").tune(prediction, outcomes)
        baselines = retuned(baselines, policy, outcomes)
    expected = validation_figures(policy, prediction, outcomes)
    with new_place(out, option="out") as place:
        copy_artifact(run / "artifact", place, policy, baselines.to_dict(), expected)
    _show(policy, expected, out)


def _in_precision(config: DictConfig, run: Path, out: Path) -> None:
    precision = one_of(config, "precision", PRECISIONS)
    try:
        opened = Opened.of(run)
    except RouterError as error:
        raise RouterError(f"precision={precision} needs the run's prompts. {error}") from None
    if opened.outcomes.candidates != tuple(opened.manifest["candidates"]) or opened.added:
        raise RouterError(
            f"{run}: a candidate joined it after its training, so its precision stays; train anew."
        )
    parts, settings = opened.parts, replace(opened.settings, precision=precision, export=True)
    if config.get("policy") is not None:
        parts = replace(parts, policy=build(config.policy, "policy"))
    trained = fit(parts, settings, opened.outcomes, opened.split)
    prediction, validation = trained.validation_prediction, trained.validation
    expected = validation_figures(trained.policy, prediction, validation)
    with new_place(out, option="out") as place:
        export_trained(place, trained, opened.outcomes, opened.manifest["data"])
        amend_manifest(place, validation=expected)
    _show(trained.policy, expected, out)


def _show(policy: Policy, expected: dict[str, float | None], out: Path) -> None:
    console.print(f"Policy     {policy}")
    cost = "" if expected["cost"] is None else f", ${1000 * expected['cost']:.4f} per 1,000 queries"
    console.print(f"Expected   quality {expected['quality']:.4f}{cost} (on validation)")
    console.print(f"Artifact   {shown(out)}; judge it with router evaluate artifact={shown(out)}")


def read_validation(path: Path, candidates: tuple[str, ...]) -> tuple[Prediction, OutcomeMatrix]:
    """What `router train` wrote to validation.parquet."""
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RouterError(f"{path}: cannot be read ({error}); train again.") from None

    def matrix(kind: str) -> np.ndarray | None:
        columns = [f"{kind}:{name}" for name in candidates]
        return table[columns].to_numpy(dtype=float) if set(columns) <= set(table) else None

    quality, se, scores = matrix("quality"), matrix("quality_se"), matrix("observed_score")
    if quality is None or se is None or scores is None:
        raise RouterError(f"{path}: other candidates than the artifact's; train again.")
    # The lookup baselines read a prompt's length and nothing else of it.
    queries = table[[name for name in ("query_id", "task", "group") if name in table]].assign(
        prompt=["." * length for length in table["characters"]]
    )
    if "group" not in queries:  # of an older run: every query is one
        queries["group"] = np.arange(len(queries))
    outcomes = OutcomeMatrix(
        queries=queries,
        candidates=candidates,
        scores=scores,
        observed=~np.isnan(scores),
        cost=matrix("observed_cost"),
        latency=matrix("observed_latency"),
        propensity=matrix("propensity"),
    )
    costs = matrix("cost"), matrix("latency")
    return Prediction(candidates, quality, se, *costs, matrix("judged")), outcomes


def retuned(baselines: Baselines, policy: Policy, validation: OutcomeMatrix) -> Baselines:
    """The lookup baselines at the new policy's budget: what a router is judged against must be
    free to spend as much. One that cannot spend as little spends as little as it can."""

    policy = policy.without_answers()

    def tuned(lookup: Lookup) -> Lookup:
        prediction = lookup.predict(validation)
        try:
            return replace(lookup, policy=policy.tune(prediction, validation))
        except RouterError:
            return replace(lookup, policy=policy.path(prediction)[-1])

    lookups = {name: tuned(lookup) for name, lookup in baselines.lookups.items()}
    return replace(baselines, lookups=lookups)
