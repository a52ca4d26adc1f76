"""Write the artifact: the training side's half."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from router import policies
from router.artifact.archive import open_artifact
from router.artifact.head_program import MOST_STEPS, as_program
from router.artifact.manifest import MANIFEST, amend_manifest, read_manifest, write_manifest
from router.artifact.manifest_form import JUDGE, KINDS
from router.artifact.runtime import Router
from router.artifact.storage import is_zip, pack
from router.errors import RouterError
from router.estimators.head import Head
from router.estimators.judge import Judge
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Policy
from router.prediction import Prediction

GOLDEN_PROMPTS = (
    "Hello!",
    "Prove that the square root of 2 is irrational.",
    "¿Cuál es la capital de Perú? 🇵🇪",
)
GOLDEN_DIMENSIONS = 8
ROUNDING = 1e-4  # of float32 through a head: in score, and as a share of cost and latency
SHARE = 1e-3  # of a randomised choice: smooth probabilities round as the predictions do


class ExportableEncoder(Protocol):
    """An encoder that can leave for production."""

    def export(self) -> Path:
        """Folder with tokenizer.json; with encoder.onnx (input_ids, attention_mask -> vector) or
        encoder.npy (a table of token vectors); and where there are some, with encoder.json: an
        object of facts that the manifest shall tell under `encoder`."""


def require_exportable(encoder: Any, head: Head, policy: Policy) -> None:
    """Raise RouterError for a part that an artifact cannot hold: asked before it is fitted."""
    needed = [(encoder, "export"), (head.quality, "to_onnx"), (head.cost, "to_onnx")]
    for part, method in needed:
        if not hasattr(part, method):
            raise RouterError(
                f"{type(part).__name__} has no method {method}, so no artifact can be made; "
                "train with export=false."
            )
    # It knows this package's own policies alone: an artifact never runs foreign code.
    if getattr(policies, type(policy).__name__, None) is not type(policy):
        raise RouterError(
            f"{type(policy).__name__} is not one of router.policies, so an artifact cannot hold "
            "it; train with export=false."
        )


@dataclass(frozen=True)
class Description:
    """What the manifest says beside the model itself."""

    prices: dict[str, dict[str, Any]] | None
    data: dict[str, Any]
    baselines: dict[str, Any]


def write_artifact(
    place: Path,
    encoder: ExportableEncoder,
    head: Head,
    policy: Policy,
    candidates: tuple[str, ...],
    description: Description,
) -> Router:
    """Write encoder, head, tokenizer and manifest into an empty folder, or into one zip file where
    the name ends so, and load them.

    Raises RouterError where a part cannot be exported.
    """
    require_exportable(encoder, head, policy)
    exported = encoder.export()
    with _filled(place) as folder:
        for name in _encoder_parts(exported):
            link_or_copy(exported / name, folder / name)
        _write_head(folder, head)
        content = {
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "made_by": f"query-router {_version()}",
            "candidates": list(candidates),
            "prices": description.prices,
            "policy": policy.to_dict(),
            "encoder": _encoder_facts(exported),
            "judge": _write_judge(folder, head.judge_),
            "data": description.data,
            "baselines": description.baselines,
            "validation": None,
            "metrics": None,
            "verdict": None,
        }
        write_manifest(folder, {**content, "golden": []})
        write_manifest(folder, {**content, "golden": _golden(Router(folder, verify=False))})
    return Router(place)


def _write_head(folder: Path, head: Head) -> None:
    """head.npz where the head can be a program that is not slower than onnxruntime; beside a table
    of token vectors always where it can be one, so that onnxruntime is not needed at all. Else
    head.onnx."""
    model = head.to_onnx()
    alone = (folder / "encoder.npy").is_file()
    program = as_program(model, most_steps=None if alone else MOST_STEPS)
    if program is None:
        (folder / "head.onnx").write_bytes(model.SerializeToString())
    else:
        (folder / "head.npz").write_bytes(program)


def _write_judge(folder: Path, judge: Judge | None) -> dict[str, Any] | None:
    """Write judge.onnx; returns what the manifest tells of it, None without one."""
    if judge is None:
        return None
    (folder / JUDGE).write_bytes(judge.to_onnx().SerializeToString())
    reads = judge.input_
    return {
        "reads": list(reads.reads),
        "signals": list(reads.signals),
        "means": list(reads.means),
    }


def copy_artifact(
    source: Path,
    place: Path,
    policy: Policy,
    baselines: dict[str, Any],
    validation: dict[str, Any],
) -> Router:
    """The same encoder and head under another policy, in an empty folder, or in one zip file where
    the name ends so; the test side's figures belong to the old one and are left out.

    source: the folder of an artifact.
    """
    with _filled(place) as folder:
        for name in read_manifest(source)["files"]:
            link_or_copy(source / name, folder / name)
        shutil.copyfile(source / MANIFEST, folder / MANIFEST)
        amend_manifest(
            folder,
            policy=policy.to_dict(),
            baselines=baselines,
            validation=validation,
            metrics=None,
            verdict=None,
        )
    return Router(place)


def check_parity(
    router: Router,
    head: Head,
    policy: Policy,
    vectors: np.ndarray,
    prediction: Prediction,
    outcomes: OutcomeMatrix | None = None,
) -> dict[str, Any]:
    """Training side and artifact on the same vectors: they must choose alike on every query.

    prediction: what the artifact said. Where both say the same numbers up to float32's rounding
    and yet choose otherwise, two candidates are tied, and either choice is right.
    outcomes: of the same queries with their answers, where a judge reads them.

    Raises RouterError where a decision differs otherwise.
    """
    trained = head.predict(vectors, outcomes)
    ours, theirs = policy.probabilities(trained), router.policy.probabilities(prediction)
    # The shares of a mixture, or of a vote, follow the predictions and so their rounding.
    agree = np.isclose(ours, theirs, rtol=0, atol=ROUNDING).all(axis=1)
    alike = np.isclose(trained.quality, prediction.quality, rtol=0, atol=ROUNDING).all(axis=1)
    for said, served in (
        (trained.cost, prediction.cost),
        (trained.latency, prediction.latency),
    ):
        if said is not None and served is not None:
            alike &= np.isclose(said, served, rtol=ROUNDING, atol=0).all(axis=1)
    if trained.judged is not None and prediction.judged is not None:
        apart = np.abs(trained.judged - prediction.judged) > ROUNDING
        alike &= ~apart.any(axis=1)
    wrong = np.flatnonzero(~agree & ~alike)
    if len(wrong):
        raise RouterError(
            f"The exported head chooses otherwise than the trained one on {len(wrong)} of "
            f"{len(agree)} queries (first: row {wrong[0]}); check the estimator's to_onnx."
        )
    return {
        "queries": len(vectors),
        "decisions_equal": int(agree.sum()),
        "largest_quality_difference": float(np.abs(trained.quality - prediction.quality).max()),
    }


def link_or_copy(source: Path, target: Path) -> None:
    """The encoder is large and never changes: one copy on disk where the file system can. Read
    only, as who writes to it here would change the cache and every other artifact too."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    target.chmod(0o444)


@contextmanager
def _filled(place: Path) -> Iterator[Path]:
    """The folder to fill: the place itself, or one that becomes a zip file there."""
    if not is_zip(place):
        yield place
        return
    # Beside its place, where the large files can be linked.
    with tempfile.TemporaryDirectory(prefix=".artifact-", dir=place.parent) as scratch:
        folder = Path(scratch)
        yield folder
        with open_artifact(folder) as archive:
            pack(folder, [MANIFEST, *archive.names], place)


def _encoder_parts(folder: Path) -> list[str]:
    """Names of what an encoder exported, as far as they are the artifact's."""
    return [
        name
        for kind in ("encoder", "tokenizer")
        for name in KINDS[kind]
        if (folder / name).is_file()
    ]


def _encoder_facts(folder: Path) -> dict[str, Any] | None:
    """What the encoder tells of itself; an artifact that gives its encoder again tells it in its
    manifest."""
    if (folder / MANIFEST).is_file():
        facts = read_manifest(folder).get("encoder")
    elif (folder / "encoder.json").is_file():
        facts = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    else:
        facts = None
    return facts


def _golden(router: Router) -> list[dict[str, Any]]:
    vectors = router.encode(GOLDEN_PROMPTS)
    golden = []
    for prompt, vector in zip(GOLDEN_PROMPTS, vectors, strict=True):
        prediction = router.predict(vector[None])
        golden.append(
            {
                "prompt": prompt,
                "vector": vector[:GOLDEN_DIMENSIONS].tolist(),
                "quality": prediction.quality[0].tolist(),
                "cost": None if prediction.cost is None else prediction.cost[0].tolist(),
                "latency": None if prediction.latency is None else prediction.latency[0].tolist(),
            }
        )
    return golden


def _version() -> str:
    try:
        return version("query-router")
    except PackageNotFoundError:
        return "(not installed)"
