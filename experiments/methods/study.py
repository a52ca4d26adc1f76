"""Every preset of conf/method/ side by side: same queries, same folds, same encoder.

    python experiments/methods/study.py predict WORK [nine=FILE] [mmlu=FILE]
    python experiments/methods/study.py report WORK [nine=FILE] [mmlu=FILE]

`predict` writes out-of-fold predictions of every distinct estimator into the folder WORK, one file
each, and goes on where it was stopped. `report` reads them and prints the page's tables, and draws
its picture. Presets that differ in their policy alone share one estimator, and so one row.

- default: the default data set's train side, 5-fold; gain in AIQ over mixing the single models.
- nine: llmrouter_nine, 5-fold; gain in mean score over the best single model (no costs).
- mmlu, mmlu-subjects: routellm_mmlu, 5-fold over prompts, and over whole subjects; APGR.
"""

from __future__ import annotations

import hashlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from sklearn.base import clone

from router.encoding.cache import encode_cached
from router.estimators.head import Head
from router.evaluation.bootstrap import Bootstrap
from router.evaluation.crossfit import resampled_gain
from router.evaluation.frontier import curve_of
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.paretobandit import ParetoBanditData
from router.outcomes.splits import ColumnSplit, grouped_folds
from router.outcomes.table import TableData
from router.pipelines.methods import methods
from router.pipelines.options import config_folder
from router.pipelines.parts import build
from router.policies import Utility
from router.policies.base import cheapest_best
from router.prediction import Prediction

FOLDS = 5
RESAMPLES = 400
TAILS = (0.025, 0.975)
TITLES = {
    "default": "default data: AIQ, cross-fitted, over mixing the single models",
    "nine": "llmrouter_nine: mean score over the best single model",
    "mmlu": "RouteLLM's MMLU: APGR over .5, folds of prompts",
    "mmlu-subjects": "unseen MMLU subjects: APGR over .5, folds of whole subjects",
}
# Compositions beside the presets: the parts alone, and what was tried to do better.
OTHERS = {
    "marginal": ["estimator=marginal", "encoder=minilm"],
    "ridge": ["estimator=ridge", "encoder=minilm"],
    "kernel ridge": ["estimator=kernel_ridge", "encoder=minilm"],
    "LightGBM": ["estimator=lightgbm", "encoder=minilm"],
    "bagged partition": ["estimator=bagged_partition", "encoder=minilm"],
    "average of four": ["estimator=average", "encoder=minilm"],
    "stack": ["estimator=stack", "encoder=minilm"],
    "kNN + features": ["estimator=knn", "encoder=minilm_features"],
    "LightGBM + features": ["estimator=lightgbm", "encoder=minilm_features"],
    "matrix factorisation + features": [
        "estimator=matrix_factorisation",
        "encoder=minilm_features",
    ],
    "bagged partition + features": ["estimator=bagged_partition", "encoder=minilm_features"],
    "average of four + features": ["estimator=average", "encoder=minilm_features"],
    "stack + features": ["estimator=stack", "encoder=minilm_features"],
}


@dataclass(frozen=True)
class Entry:
    """One distinct estimator on one encoder, with the names of all that use it."""

    names: list[str]
    key: str
    config: Any


def entries() -> list[Entry]:
    """Presets and compositions, each distinct estimator once."""
    overrides = {method.name: [f"method={method.name}"] for method in methods()}
    found: dict[str, Entry] = {}
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for name, given in (overrides | OTHERS).items():
            config = compose("train", given)
            text = OmegaConf.to_yaml(config.encoder) + OmegaConf.to_yaml(config.estimator)
            key = hashlib.sha256(text.encode()).hexdigest()[:16]
            found.setdefault(key, Entry([], key, config)).names.append(name)
    return list(found.values())


def tables(given: dict[str, str]) -> dict[str, OutcomeMatrix]:
    """The data of each comparison; the default data set's test side is left out."""
    outcomes = ParetoBanditData().load()
    found = {"default": outcomes.take(ColumnSplit()(outcomes).train)}
    if "nine" in given:
        found["nine"] = TableData(given["nine"]).load()
    if "mmlu" in given:
        outcomes = TableData(given["mmlu"]).load()
        published = outcomes.queries["split"] == "test_decontaminated"
        found["mmlu"] = outcomes.take(np.flatnonzero(published))
        found["mmlu-subjects"] = found["mmlu"]
    return found


def folds_of(name: str, outcomes: OutcomeMatrix) -> list[tuple[np.ndarray, np.ndarray]]:
    """(fit rows, held-out rows) of each fold."""
    if name != "mmlu-subjects":
        return grouped_folds(outcomes.groups, FOLDS)
    _, subjects = np.unique(outcomes.tasks.astype(str), return_inverse=True)
    return grouped_folds(subjects, FOLDS)


def predict(work: Path, given: dict[str, str]) -> None:
    """Out-of-fold predictions, fit seconds and the size of the exported head."""
    for table, outcomes in tables(given).items():
        outcomes_of_fold = folds_of(table, outcomes)
        (work / table).mkdir(parents=True, exist_ok=True)
        for entry in entries():
            path = work / table / f"{entry.key}.npz"
            if path.is_file():
                continue
            vectors = encode_cached(build(entry.config.encoder, "encoder"), outcomes.prompts)
            estimator = build(entry.config.estimator, "estimator")
            head = Head(estimator, build(entry.config.cost, "cost"))
            quality = np.empty(outcomes.scores.shape)
            cost = np.zeros(outcomes.scores.shape)
            started = time.monotonic()
            for rows, held_out in outcomes_of_fold:
                fitted = clone(head).fit(vectors[rows], outcomes.take(rows))
                prediction = fitted.predict(vectors[held_out])
                quality[held_out] = prediction.quality
                if prediction.cost is not None:
                    cost[held_out] = prediction.cost
            seconds = (time.monotonic() - started) / len(outcomes_of_fold)
            size = len(fitted.to_onnx().SerializeToString())
            np.savez(path, quality=quality, cost=cost, seconds=seconds, size=size)
            print(table, ", ".join(entry.names), f"{seconds:.1f} s a fold", flush=True)


@dataclass(frozen=True)
class Judged:
    """A figure, and (resamples,) the same on every resample; resamples of one table are paired."""

    value: float
    resampled: np.ndarray


def judge(table: str, prediction: Prediction, outcomes: OutcomeMatrix) -> Judged:
    """The table's figure, less that of its reference: the best single model's score, the hull of
    the single models, or the .5 of random routing."""
    draw = Bootstrap(outcomes.groups, RESAMPLES)
    if table == "nine":
        rows = np.arange(len(outcomes))
        score = outcomes.scores[rows, cheapest_best(prediction.quality, None)]
        gain = score - outcomes.scores[:, outcomes.mean_scores().argmax()]
        return Judged(float(gain.mean()), draw.means(gain))
    if table == "default":
        curve = curve_of(Utility(), prediction, outcomes)
        singles = outcomes.cost.T, outcomes.scores.T
        return Judged(*resampled_gain(curve.cost, curve.quality, *singles, draw, outcomes.groups))
    strong = int(outcomes.mean_scores().argmax())
    order = np.argsort(
        prediction.quality[:, 1 - strong] - prediction.quality[:, strong], kind="stable"
    )
    gain = (outcomes.scores[:, strong] - outcomes.scores[:, 1 - strong])[order]
    rng = np.random.default_rng(0)
    n = len(outcomes)
    counts = [np.bincount(rng.integers(n, size=n), minlength=n)[order] for _ in range(RESAMPLES)]
    again = [weighted_apgr(gain, count) for count in counts]
    return Judged(weighted_apgr(gain, np.ones(n)) - 0.5, np.array(again) - 0.5)


def weighted_apgr(gain: np.ndarray, count: np.ndarray) -> float:
    """APGR of queries in their order of routing to the strong model: (n,) gain of the strong over
    the weak model, (n,) times that each query counts."""
    share = np.concatenate([[0.0], count.cumsum() / count.sum()])
    recovered = np.concatenate([[0.0], (count * gain).cumsum() / (count * gain).sum()])
    return float(np.trapezoid(recovered, share))


def results(work: Path, given: dict[str, str]) -> pd.DataFrame:
    """A row for each estimator and table: figure, interval, and the paired difference from the
    best other one."""
    rows = []
    for table, outcomes in tables(given).items():
        judged, saved = {}, {}
        for entry in entries():
            path = work / table / f"{entry.key}.npz"
            if not path.is_file():
                print("not yet predicted:", table, ", ".join(entry.names), file=sys.stderr)
                continue
            name = ", ".join(entry.names)
            saved[name] = np.load(path)
            quality = saved[name]["quality"]
            cost = saved[name]["cost"] if outcomes.cost is not None else None
            prediction = Prediction(outcomes.candidates, quality, np.zeros_like(quality), cost)
            judged[name] = judge(table, prediction, outcomes)
        for name, own in judged.items():
            other = max((n for n in judged if n != name), key=lambda n: judged[n].value)
            low, high = np.quantile(own.resampled, TAILS)
            behind = own.resampled - judged[other].resampled
            behind_low, behind_high = np.quantile(behind, TAILS)
            rows.append(
                {
                    "table": table,
                    "estimator of": name,
                    "gain": own.value,
                    "low": low,
                    "high": high,
                    "best other": other,
                    "to best other": own.value - judged[other].value,
                    "to best other, low": behind_low,
                    "to best other, high": behind_high,
                    "seconds a fold": float(saved[name]["seconds"]),
                    "head kB": float(saved[name]["size"]) / 1000,
                }
            )
    return pd.DataFrame(rows)


def page(frame: pd.DataFrame) -> str:
    """The tables as Markdown, best first."""
    parts = []
    for table, rows in frame.groupby("table", sort=False):
        parts.append(f"\n### {TITLES[table]}\n")
        parts.append("| estimator of | gain | to the best other | s a fold | head kB |")
        parts.append("|---|---|---|---|---|")
        for _, row in rows.sort_values("gain", ascending=False).iterrows():
            parts.append(
                f"| {row['estimator of']} | {row['gain']:+.4f} [{row['low']:+.4f}, "
                f"{row['high']:+.4f}] | {row['to best other']:+.4f} "
                f"[{row['to best other, low']:+.4f}, {row['to best other, high']:+.4f}] "
                f"| {row['seconds a fold']:.1f} | {row['head kB']:,.0f} |"
            )
    return "\n".join(parts) + "\n"


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Gains with their intervals, one panel a table, in the order of the first."""
    shown = list(frame["table"].unique())
    first = frame[frame["table"] == shown[0]].sort_values("gain")
    order = first["estimator of"].tolist()
    figure, panels = plt.subplots(
        1, len(shown), figsize=(4 + 3 * len(shown), 0.27 * len(order) + 1.2), sharey=True
    )
    for panel, table in zip(np.atleast_1d(panels), shown, strict=True):
        rows = frame[frame["table"] == table].set_index("estimator of").reindex(order)
        errors = [rows["gain"] - rows["low"], rows["high"] - rows["gain"]]
        panel.errorbar(rows["gain"], range(len(order)), xerr=errors, fmt="o", ms=4, lw=1.2)
        panel.axvline(0, color="black", lw=0.8)
        panel.set_title(TITLES[table].split(":")[0], fontsize=9)
        panel.grid(axis="x", alpha=0.3)
        panel.tick_params(labelsize=8)
    short = [name if len(name) < 45 else name[:42] + "..." for name in order]
    np.atleast_1d(panels)[0].set_yticks(range(len(order)), short)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(verb: str, folder: str, *pairs: str) -> None:
    """Run one of the two verbs."""
    given = dict(pair.split("=", 1) for pair in pairs)
    if verb == "predict":
        predict(Path(folder), given)
        return
    frame = results(Path(folder), given)
    here = Path(__file__).parent
    frame.to_csv(here / "results.csv", index=False, float_format="%.5f")
    draw(frame, here / "methods.png")
    print(page(frame))


if __name__ == "__main__":
    main(*sys.argv[1:])
