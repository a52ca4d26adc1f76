"""A forward pass as a list of steps, and what can be left out of it."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

ELEMENTWISE = ("Add", "Div", "Max", "Min", "Mul", "Sub")


@dataclass(frozen=True)
class Step:
    """One operator with one output; inputs and output are names of values."""

    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


def needed(steps: Sequence[Step], wanted: Collection[str]) -> list[Step]:
    """The steps, in their order, on which a wanted value depends."""
    used = set(wanted)
    kept = []
    for step in reversed(steps):
        if step.output in used:
            kept.append(step)
            used.update(step.inputs)
    return kept[::-1]


def merged(
    steps: Sequence[Step], known: dict[str, np.ndarray]
) -> tuple[list[Step], dict[str, str]]:
    """(the steps without those that compute again what one did before, the name of each value that
    has another one now). Equal constants count as one.

    known: constants by name.
    """
    first_of: dict[Any, str] = {}
    name_of: dict[str, str] = {}
    for name, value in known.items():
        content: Any = (value.dtype.str, value.shape, value.tobytes())
        name_of[name] = first_of.setdefault(content, name)
    kept = []
    for step in steps:
        inputs = tuple(name_of.get(name, name) for name in step.inputs)
        key = (step.kind, inputs, json.dumps(step.attributes, sort_keys=True))
        name_of[step.output] = first_of.setdefault(key, step.output)
        if name_of[step.output] == step.output:
            kept.append(replace(step, inputs=inputs))
    return kept, name_of


def aligned(steps: Sequence[Step], known: dict[str, np.ndarray]) -> None:
    """Give each row that is added to a matrix, or multiplied with one, two axes, and each single
    number none: numpy needs less than half the time then.

    known: constants by name; changed.
    """
    others = {name for step in steps if step.kind not in ELEMENTWISE for name in step.inputs}
    for name in {name for step in steps for name in step.inputs} & set(known) - others:
        value = known[name]
        if value.size == 1:
            known[name] = value.reshape(())
        elif value.ndim == 1:
            # A row of several numbers meets no vector of one for each query.
            known[name] = value[None]
