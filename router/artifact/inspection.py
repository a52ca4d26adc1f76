"""What an artifact is, said without routing with it."""

from __future__ import annotations

import os
from typing import Any

from router.artifact.archive import open_artifact
from router.artifact.manifest import price_version
from router.artifact.runtime import load
from router.errors import RouterError

SIGNATURES = {
    "none": "none",
    "not checked": "there, not checked: no public key was given",
    "good": "good",
}
HEAD_KINDS = {"head.npz": "arrays", "head.onnx": "onnx"}


def inspect(
    place: str | os.PathLike[str], public_key: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """A record of the artifact in a folder or a zip file.

    signature: "none", "not checked", or "good" where it is one of `public_key`.
    golden: None where this machine computes the numbers of the one that exported it; otherwise why
        it is not to be used here.

    Raises RouterError where the artifact is damaged, or the signature is not good.
    """
    with open_artifact(place, public_key) as archive:
        archive.check()
        manifest = archive.manifest
        files = manifest["files"]
        facts = dict(manifest.get("encoder") or {})
        kind = "onnx" if archive.encoder == "encoder.onnx" else "static"
        # An artifact that tells no precision is of a time that knew one alone.
        precision = {"precision": "fp32"} if kind == "onnx" else {}
        signature = "none"
        if archive.signed:
            signature = "not checked" if public_key is None else "good"
        record = {
            "place": str(archive.place),
            "form": "folder" if archive.place.is_dir() else "zip file",
            "schema_version": manifest["schema_version"],
            "created": manifest.get("created"),
            "made_by": manifest.get("made_by"),
            "sha256": manifest["sha256"],
            "candidates": manifest["candidates"],
            "prices": manifest["prices"],
            "price_version": price_version(manifest["prices"]),
            "policy": manifest["policy"],
            "encoder": {"file": archive.encoder, "kind": kind, **precision, **facts},
            "head": {"file": archive.head, "kind": HEAD_KINDS[archive.head]},
            "files": files,
            "bytes": sum(told["bytes"] for told in files.values()),
            "signature": signature,
            "golden_prompts": len(manifest["golden"]),
            "data": manifest.get("data"),
            "validation": manifest.get("validation"),
            "metrics": manifest.get("metrics"),
            "verdict": manifest.get("verdict"),
        }
    return {**record, "golden": _golden_problem(place)}


def readable(record: dict[str, Any]) -> list[str]:
    """The record's lines for a terminal."""
    encoder, head, policy = record["encoder"], record["head"], record["policy"]
    form = f"a {record['form']} of schema version {record['schema_version']}"
    made = f"{record['made_by'] or 'unknown'}, {record['created'] or 'at an unknown time'}"
    golden = record["golden"] or f"{record['golden_prompts']} prompts computed alike here"
    facts = _told(encoder, without=("file", "kind"))

    def size(name: str) -> str:
        return _size(record["files"][name]["bytes"])

    lines = [
        ("Artifact", f"{record['place']}, {form}, {_size(record['bytes'])}"),
        ("Made by", made),
        ("SHA-256", f"{record['sha256']} (of the manifest)"),
        ("Files", f"all {len(record['files'])} as their hashes say"),
        ("Signature", SIGNATURES[record["signature"]]),
        ("Golden", golden),
        ("Encoder", ", ".join([encoder["file"], encoder["kind"], *facts, size(encoder["file"])])),
        ("Head", f"{head['file']}, {head['kind']}, {size(head['file'])}"),
        ("Policy", ", ".join([policy["name"], *_told(policy, without=("name",))])),
        *_candidates(record),
        *_figures(record),
    ]
    return [f"{title:<10} {text}" for title, text in lines]


def _told(content: dict[str, Any], without: tuple[str, ...]) -> list[str]:
    """The plain entries; lists and objects are left to JSON."""
    return [
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in content.items()
        if isinstance(value, str | int | float) and key not in without
    ]


def _golden_problem(place: str | os.PathLike[str]) -> str | None:
    try:
        load(place)
    except RouterError as error:
        return str(error)
    return None


def _candidates(record: dict[str, Any]) -> list[tuple[str, str]]:
    """One a line with its price, where there are prices."""
    names, prices = record["candidates"], record["prices"]
    if prices is None:
        return [("Candidates", ", ".join(names)), ("Prices", "none: costs are those of the log")]
    lines = []
    for name in names:
        price = prices[name]
        lines.append(
            f"{name}: ${price['input']:g} in, ${price['output']:g} out per million tokens, "
            f"of {price['date']}"
        )
    return [
        *zip(["Candidates", *[""] * (len(names) - 1)], lines, strict=True),
        ("Prices", f"version {record['price_version']}"),
    ]


def _figures(record: dict[str, Any]) -> list[tuple[str, str]]:
    """What it was trained on, and what came of it on the test side."""
    lines = []
    data, metrics, verdict = (record[key] or {} for key in ("data", "metrics", "verdict"))
    if "name" in data:
        lines.append(("Data", f"{data['name']}, SHA-256 {data['sha256'][:12]}"))
    if "quality" in metrics:
        text = f"quality {_interval(metrics['quality'])}"
        if metrics.get("cost"):
            text += f", USD {1000 * metrics['cost']['value']:.4f} per 1,000 queries"
        best = metrics.get("best_single_quality")
        if best:
            text += f"; best single {metrics['best_single']} {_interval(best)}"
        lines.append(("Test", text))
    text = f"{verdict['decision']}. {verdict['sentence']}" if verdict else "none: not judged yet"
    return [*lines, ("Verdict", text)]


def _interval(figure: dict[str, float]) -> str:
    """Of a test side of one query there is a value and no interval."""
    told = [f"{figure[key]:.4f}" for key in ("low", "high") if figure.get(key) is not None]
    interval = f" [{', '.join(told)}]" if told else ""
    return f"{figure['value']:.4f}{interval}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
