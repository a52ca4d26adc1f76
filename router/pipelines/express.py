"""`router express`: a finished run again, with its encoder distilled into a static one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import DictConfig, OmegaConf

from router.artifact.runtime import Router
from router.errors import RouterError
from router.json_record import text_of
from router.pipelines.console import console
from router.pipelines.parts import build
from router.pipelines.run_folder import output_folder
from router.pipelines.train import train
from router.pipelines.values import true_or_false
from router.staging import staged_file

STATIC = "router.encoding.static_encoder.StaticEncoder"
FEATURED = "router.encoding.featured.FeaturedEncoder"
TIMED = 200  # prompts
WARM_UP = 5


def express(config: DictConfig) -> float:
    """Train the router of `run` anew on its own data, with the distilled encoder in place of its
    own, and print what that costs in AIQ and gains in time; returns what `train` does.

    Raises RouterError where there is no finished run, or its data has changed since.
    """
    run, folder = _finished(config), output_folder()
    keep_features = true_or_false(config, "features")
    if OmegaConf.select(config, "encoder._target_") != STATIC:
        raise RouterError(
            "router express distils the run's own encoder: leave encoder=express, and change "
            "encoder.dimension, encoder.sif or encoder.max_tokens."
        )
    before = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    again = OmegaConf.load(run / "config.yaml")
    assert isinstance(again, DictConfig)
    outcomes = build(again.data, "data").load()
    if outcomes.fingerprint != before["data"]["sha256"]:
        raise RouterError(
            f"{run}: its data has changed since, so the two could not be compared; "
            "train it again first."
        )
    own, options = (_plain(node) for node in (again.encoder, config.encoder))
    again.encoder = distilled(own, options, keep_features)
    again.export, again.name, again.latest = True, config.name, config.latest
    again.precision = "auto"  # a table is int8 already; the run's own may be of a network alone
    figure = train(again)
    after = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    prompts = outcomes.prompts[:TIMED]
    old = {**figures_of(before), **measured(run / "artifact", prompts)}
    new = {**figures_of(after), **measured(folder / "artifact", prompts)}
    with staged_file(folder / "express.json") as staged:
        content = {"run": str(run), "before": old, "after": new}
        staged.write_text(text_of(content), encoding="utf-8")
    _show(old, new)
    return figure


def distilled(
    encoder: dict[str, Any], options: dict[str, Any], keep_features: bool
) -> dict[str, Any]:
    """The configuration of an encoder, distilled with the `options` of a StaticEncoder.

    Raises RouterError where it is distilled already.
    """
    if encoder["_target_"] == STATIC:
        raise RouterError("The run's encoder is express already; nothing is left to distil.")
    if encoder["_target_"] == FEATURED:
        inner = distilled(encoder["encoder"], options, keep_features)
        return {**encoder, "encoder": inner} if keep_features else inner
    return {**options, "teacher": encoder}


def figures_of(metrics: dict[str, Any]) -> dict[str, float]:
    """AIQ on validation and test, or mean quality where the log knows no costs."""
    validation = metrics["validation"]
    name = "quality" if validation["aiq"] is None else "aiq"
    test = metrics["router"][name]["value"]
    return {f"validation_{name}": validation[name], f"test_{name}": test}


def measured(artifact: Path, prompts: list[str]) -> dict[str, float]:
    """Milliseconds from prompt to decision, one at a time, and the artifact's size in bytes."""
    router = Router(artifact)
    for prompt in prompts[:WARM_UP]:
        router.route(prompt)
    seconds = []
    for prompt in prompts:
        started = time.perf_counter()
        router.route(prompt)
        seconds.append(time.perf_counter() - started)
    p50, p99 = 1000 * np.percentile(seconds, [50, 99])
    size = sum(path.stat().st_size for path in artifact.iterdir())
    return {"p50_ms": float(p50), "p99_ms": float(p99), "bytes": size}


def _plain(node: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(node))


def _finished(config: DictConfig) -> Path:
    if config.run is None:
        raise RouterError("A finished run is needed: give run=FOLDER.")
    run = Path(str(config.run))
    if not (run / "artifact").is_dir() or not (run / "config.yaml").is_file():
        raise RouterError(f"{run}: no finished run with an artifact here; give run=FOLDER.")
    return run


def _show(before: dict[str, float], after: dict[str, float]) -> None:
    for side in ("validation", "test"):
        (name,) = (key for key in after if key.startswith(side))
        word = "AIQ" if name.endswith("aiq") else "quality"
        change = after[name] - before[name]
        title = "Express" if side == "validation" else ""
        console.print(
            f"{title:<10} {word} on {side}: {before[name]:.4f} -> {after[name]:.4f} ({change:+.4f})"
        )
    console.print(
        f"{'':<10} a decision: p50 {before['p50_ms']:.2f} -> {after['p50_ms']:.2f} ms, "
        f"p99 {before['p99_ms']:.2f} -> {after['p99_ms']:.2f} ms; "
        f"artifact {before['bytes'] / 1e6:.1f} -> {after['bytes'] / 1e6:.1f} MB"
    )
