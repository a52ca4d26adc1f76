"""`router export`: the artifact of a finished run, at the same or another operating point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from router.artifact.export import copy_artifact
from router.artifact.manifest import read_manifest
from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix
from router.pipelines.console import console
from router.pipelines.parts import build
from router.pipelines.run_folder import run_folder, shown
from router.policies import Policy, policy_from_dict
from router.prediction import Prediction


def export(config: DictConfig) -> None:
    """Write the artifact of `run` to `out`, with `policy` tuned anew on the run's validation
    predictions where one is given. No model is refitted."""
    for key in ("run", "out"):
        if config[key] is None:
            raise RouterError(f"router export needs {key}=FOLDER.")
    run, out = Path(config.run), Path(config.out)
    if not (run / "artifact").is_dir() or not (run / "validation.parquet").is_file():
        raise RouterError(f"{run}: no finished run with an artifact here; give run=FOLDER.")
    manifest = read_manifest(run / "artifact")
    prediction, outcomes = read_validation(
        run / "validation.parquet", tuple(manifest["candidates"])
    )
    policy: Policy = (
        policy_from_dict(manifest["policy"])
        if config.policy is None
        else build(config.policy, "policy").tune(prediction, outcomes)
    )
    expected = _expected(policy, prediction, outcomes)
    with run_folder(out) as folder:
        copy_artifact(run / "artifact", folder, policy, expected)
    console.print(f"Policy     {policy}", markup=False)
    cost = "" if expected["cost"] is None else f", ${1000 * expected['cost']:.4f} per 1,000 queries"
    console.print(f"Expected   quality {expected['quality']:.4f}{cost} (on validation)")
    console.print(f"Artifact   {shown(out)}; judge it with router evaluate artifact={shown(out)}")


def read_validation(path: Path, candidates: tuple[str, ...]) -> tuple[Prediction, OutcomeMatrix]:
    """What `router train` wrote to validation.parquet."""
    table = pd.read_parquet(path)

    def matrix(kind: str) -> np.ndarray | None:
        columns = [f"{kind}:{name}" for name in candidates]
        return table[columns].to_numpy(dtype=float) if set(columns) <= set(table) else None

    quality, se, scores = matrix("quality"), matrix("quality_se"), matrix("observed_score")
    if quality is None or se is None or scores is None:
        raise RouterError(f"{path}: other candidates than the artifact's; train again.")
    outcomes = OutcomeMatrix(
        queries=table[["query_id"]],
        candidates=candidates,
        scores=scores,
        observed=~np.isnan(scores),
        cost=matrix("observed_cost"),
    )
    return Prediction(candidates, quality, se, matrix("cost")), outcomes


def _expected(policy: Policy, prediction: Prediction, outcomes: OutcomeMatrix) -> dict[str, Any]:
    """Mean quality and cost of the policy's choices on validation; the prediction stands in for
    what was not observed."""
    chosen = policy.probabilities(prediction)
    score = np.where(outcomes.observed, outcomes.scores, prediction.quality)
    expected: dict[str, Any] = {
        "quality": float((chosen * score).sum(axis=1).mean()),
        "cost": None,
    }
    if prediction.cost is not None and outcomes.cost is not None:
        cost = np.where(outcomes.observed, outcomes.cost, prediction.cost)
        expected["cost"] = float((chosen * cost).sum(axis=1).mean())
    return expected
