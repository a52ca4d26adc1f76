"""What a manifest may say: its entries, their kinds and their bounds."""

from __future__ import annotations

import math
import re
from typing import Any

MOST_CANDIDATES = 1000
MOST_GOLDEN = 100
MOST_PART_BYTES = 2**31 - 1  # of one part; an ONNX graph cannot be larger
MOST_DEPTH = 32  # of lists and objects within each other
SHA256 = re.compile("[0-9a-f]{64}")
# Each kind of part, and the names of those of which there is one.
KINDS = {
    "encoder": ("encoder.onnx", "encoder.npy"),
    "head": ("head.npz", "head.onnx"),
    "tokenizer": ("tokenizer.json",),
}
JUDGE = "judge.onnx"  # of a cascade alone
PARTS = (*(name for names in KINDS.values() for name in names), JUDGE)


def problem_of(manifest: dict[str, Any]) -> str | None:
    """Why the manifest is no router's, in words that follow its name; None where it is one.

    It may be well formed and wrong still: hashes, golden vectors and a signature tell that.
    """
    if _depth(manifest) > MOST_DEPTH:
        return f"its content stands more than {MOST_DEPTH} levels deep"
    checks = {
        "files": _is_files,
        "candidates": _is_candidates,
        "policy": lambda value: isinstance(value, dict) and isinstance(value.get("name"), str),
        "prices": lambda value: value is None or _is_prices(value, manifest["candidates"]),
        "golden": lambda value: _is_golden(value, len(manifest["candidates"])),
        "encoder": lambda value: value is None or isinstance(value, dict),
        "judge": lambda value: _is_judge(value, manifest["files"]),
    }
    for key, is_sound in checks.items():
        if not is_sound(manifest.get(key)):
            return f"its entry {key!r} is not one of a router's manifest"
    return None


def _depth(value: Any) -> int:
    """Levels of lists and objects, counted to just beyond the bound."""
    level, depth = [value], 0
    while depth <= MOST_DEPTH:
        level = [entry for entry in level if isinstance(entry, dict | list | tuple)]
        if not level:
            break
        depth += 1
        level = [
            inner
            for entry in level
            for inner in (entry.values() if isinstance(entry, dict) else entry)
        ]
    return depth


def _is_files(value: Any) -> bool:
    """Known names alone, so that none leads out of the artifact."""
    if not isinstance(value, dict):
        return False
    one_of_each = all(sum(name in value for name in names) == 1 for names in KINDS.values())
    return one_of_each and all(
        name in PARTS
        and isinstance(told, dict)
        and isinstance(told.get("sha256"), str)
        and SHA256.fullmatch(told["sha256"]) is not None
        and type(told.get("bytes")) is int
        and 0 <= told["bytes"] <= MOST_PART_BYTES
        for name, told in value.items()
    )


def _is_judge(value: Any, files: dict[str, Any]) -> bool:
    """What a judge reads, where the artifact has one."""
    if value is None:
        return JUDGE not in files
    return (
        JUDGE in files
        and isinstance(value, dict)
        and all(isinstance(value.get(key), list | tuple) for key in ("reads", "signals", "means"))
        and all(isinstance(name, str) for key in ("reads", "signals") for name in value[key])
        and _is_numbers(value["means"], len(value["signals"]))
    )


def _is_candidates(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and 1 <= len(value) <= MOST_CANDIDATES
        and all(isinstance(name, str) and name for name in value)
        and len(set(value)) == len(value)
    )


def _is_prices(value: Any, candidates: list[str]) -> bool:
    """USD per million tokens of every candidate, and their day."""
    return isinstance(value, dict) and all(
        isinstance(value.get(name), dict)
        and isinstance(value[name].get("date"), str)
        and all(_is_number(value[name].get(kind), least=0.0) for kind in ("input", "output"))
        for name in candidates
    )


def _is_golden(value: Any, count: int) -> bool:
    """Prompts, each with the numbers that the router must compute for it."""
    return (
        isinstance(value, list | tuple)
        and len(value) <= MOST_GOLDEN
        and all(
            isinstance(golden, dict)
            and isinstance(golden.get("prompt"), str)
            and _is_numbers(golden.get("vector"), None)
            and _is_numbers(golden.get("quality"), count)
            and all(
                golden.get(kind) is None or _is_numbers(golden[kind], count)
                for kind in ("cost", "latency")
            )
            for golden in value
        )
    )


def _is_numbers(value: Any, count: int | None) -> bool:
    return (
        isinstance(value, list | tuple)
        and count in (None, len(value))
        and all(_is_number(number) for number in value)
    )


def _is_number(value: Any, least: float = -math.inf) -> bool:
    """Finite, and no integer that an array of numbers cannot hold."""
    if type(value) is int:
        return least <= value and abs(value) < 2**53
    return type(value) is float and math.isfinite(value) and value >= least
