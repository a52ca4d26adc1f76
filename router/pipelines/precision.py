"""In which precision the encoder ships: what each costs in quality, measured on validation.

Each precision encodes the validation prompts as the artifact will, one at a time; the heads that
predicted those queries for the policy, and that never saw them, predict them again from these
vectors; the policy is tuned on what they say. So each precision is judged on queries that its
predictions are new to, as the router itself is, and two precisions differ in their vectors alone:
same queries, same heads, same outcomes. The test side is not looked at.

The reference, fp32, is what the policy would be tuned on without any of this: predictions from the
training vectors (within cosine .999 of the served float32 ones, which would take three times as
long to compute as the 8-bit ones).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router.artifact.precision import quantised
from router.artifact.served import ServedEncoder
from router.encoding.encoder import Encoder
from router.errors import RouterError
from router.evaluation.bootstrap import Bootstrap
from router.evaluation.completed import completed
from router.evaluation.frontier import aiq, curve_of
from router.outcomes.matrix import OutcomeMatrix
from router.pipelines.console import console
from router.policies import Policy
from router.prediction import Prediction

PRECISIONS = ("auto", "fp32", "int8", "mixed")
TOLERANCE = 0.001  # of AIQ that auto may lose
KEPT = 6  # matrix products that stay in float32 in "mixed"
RESAMPLES = 200
TIMED = 60  # prompts


@dataclass(frozen=True)
class Tuning:
    """What tunes the policy.

    outcomes: the validation queries'. prediction: of them, from the training vectors.
    predict: an encoder's predictions of them, by heads that never saw them, from its own vectors.
    policy: before it is tuned.
    """

    outcomes: OutcomeMatrix
    prediction: Prediction
    predict: Callable[[Encoder], Prediction]
    policy: Policy


@dataclass(frozen=True)
class Encoding:
    """An encoder in the precision that ships.

    folder: its files. prediction: of the validation queries, as served.
    facts: what the manifest says under `encoder`; None leaves it to the folder.
    """

    folder: Path
    prediction: Prediction
    facts: dict[str, Any] | None

    def export(self) -> Path:
        """See ExportableEncoder."""
        return self.folder


@dataclass(frozen=True)
class Judged:
    """The policy, tuned on one precision's predictions, on the validation outcomes.

    choices: (n,) most probable candidates. value: AIQ of the frontier, or the mean score where the
    log has no costs. resampled: the same on every resample.
    """

    choices: np.ndarray
    value: float
    resampled: np.ndarray


def encoding_of(source: Path, precision: str, tuning: Tuning) -> Encoding:
    """The encoder that `source` holds (see ExportableEncoder), in the precision that ships.

    precision: "fp32"; "int8" (see quantised); "mixed", with the 6 most sensitive matrix products in
        float32; or "auto": the fastest of them that loses at most .001 of AIQ, or of mean score
        where the log has no costs. Faster is what computes less: int8, mixed, fp32. The clock would
        choose otherwise from run to run; what it showed here stands in the manifest.

    Raises RouterError where another precision is asked of an encoder that is no ONNX graph.
    """
    if not (source / "encoder.onnx").is_file():
        if precision in ("int8", "mixed"):
            raise RouterError(
                f"precision={precision}: this encoder is no network that could be rounded; "
                "leave precision=auto."
            )
        return Encoding(source, tuning.prediction, None)
    encoders, compared = {"fp32": ServedEncoder(source)}, {}
    shipped, prediction = "fp32", tuning.prediction
    if precision != "fp32":
        reference = judge(tuning.prediction, tuning)
        for name in ("int8", "mixed") if precision == "auto" else (precision,):
            kept = KEPT if name == "mixed" else 0
            encoders[name] = ServedEncoder(quantised(source, kept, tuning.outcomes.prompts))
            found = tuning.predict(encoders[name])
            judged = judge(found, tuning)
            compared[name] = compare(judged, reference, tuning)
            if precision != "auto" or judged.value >= reference.value - TOLERANCE:
                shipped, prediction = name, found
                break
    milliseconds = _milliseconds(list(encoders.values()), tuning.outcomes.prompts)
    tried = [
        {"precision": name, "p50_ms": p50, "bytes": encoder.size, **compared.get(name, {})}
        for (name, encoder), p50 in zip(encoders.items(), milliseconds, strict=True)
    ]
    print_precisions(shipped, tried)
    facts = {"kind": "onnx", "precision": shipped, "tried": tried}
    return Encoding(encoders[shipped].folder, prediction, facts)


def print_precisions(shipped: str, tried: list[dict[str, Any]]) -> None:
    """A line for each precision, the one that ships marked."""
    for number, entry in enumerate(tried):
        text = f"{entry['precision']:<5} {entry['p50_ms']:5.1f} ms, {entry['bytes'] / 1e6:5.1f} MB"
        for name, title in (("aiq_change", "AIQ"), ("quality_change", "quality")):
            if name in entry:
                change = entry[name]
                text += f", {title} {change['value']:+.4f}{_interval(change)} on validation"
                text += f", {entry['agreement']:.1%} of choices alike"
        mark = " <- ships" if entry["precision"] == shipped and len(tried) > 1 else ""
        console.print(f"{'Precision' if number == 0 else '':<10} {text}{mark}")


def _interval(change: dict[str, float | None]) -> str:
    return "" if change["low"] is None else f" [{change['low']:+.4f}, {change['high']:+.4f}]"


def judge(prediction: Prediction, tuning: Tuning) -> Judged:
    """The policy, tuned on one precision's predictions of the validation queries."""
    # Gaps are filled alike for every precision: only the choices shall differ.
    known = completed(tuning.prediction, tuning.outcomes)
    bootstrap = Bootstrap(known.groups, RESAMPLES)
    policy = tuning.policy.tune(prediction, tuning.outcomes)
    choices = policy.probabilities(prediction).argmax(axis=1)
    if known.cost is None:
        score = policy.expected(prediction, known.scores).score
        return Judged(choices, float(score.mean()), bootstrap.means(score))
    curve = curve_of(policy, prediction, known)
    points = bootstrap.means(np.stack([curve.cost.T, curve.quality.T], axis=2))
    ends = _ends(bootstrap.means(known.cost))
    resampled = [aiq(*resample) for resample in zip(points, *ends, strict=True)]
    value = aiq(curve.points, *(float(end) for end in _ends(known.cost.mean(axis=0))))
    return Judged(choices, value, np.array(resampled))


def _ends(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Range of costs of the single models, over which AIQ is the mean."""
    return means.min(axis=-1), means.max(axis=-1)


def compare(judged: Judged, reference: Judged, tuning: Tuning) -> dict[str, Any]:
    """Agreement of the choices with fp32, and the change of the figure with its paired interval;
    without one where there is one group alone."""
    bootstrap = Bootstrap(tuning.outcomes.groups, RESAMPLES)
    difference = judged.resampled - reference.resampled
    change = bootstrap.interval(judged.value - reference.value, difference).to_dict()
    name = "quality_change" if tuning.outcomes.cost is None else "aiq_change"
    return {
        "agreement": float((judged.choices == reference.choices).mean()),
        name: {key: value if np.isfinite(value) else None for key, value in change.items()},
    }


def _milliseconds(encoders: list[ServedEncoder], prompts: list[str]) -> list[float]:
    """Median of each from a prompt to its vector, on one thread. They take turns, so that whatever
    else the machine does meanwhile slows all of them."""
    some = [prompts[row] for row in np.linspace(0, len(prompts) - 1, TIMED).round().astype(int)]
    for encoder in encoders:
        encoder.encode_one(some[0])  # opens the graph
    taken = np.empty((len(some), len(encoders)))
    for row, prompt in enumerate(some):
        for column, encoder in enumerate(encoders):
            started = time.perf_counter()
            encoder.encode_one(prompt)
            taken[row, column] = 1000 * (time.perf_counter() - started)
    p50: list[float] = np.median(taken, axis=0).tolist()
    return p50
