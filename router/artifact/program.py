"""A head as arrays and a short program, run by numpy alone.

The program is the ONNX graph that the estimators write (router.estimators.graph), simplified, in
opset 17's meaning: one forward pass, and two that run it. It needs no onnxruntime, whose import
takes most of a cold start.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from router.artifact.operators import bound
from router.errors import RouterError

PROGRAM = "program"
MOST_STEPS = 10_000


class Program:
    """`vector` (batch, d) -> the named outputs. Thread-safe: nothing changes after loading.

    content: the bytes of a head.npz: arrays c0, c1, ... and a program, JSON as bytes:
        {"steps": [[operator, inputs, output, attributes], ...], "outputs": {name: value}}. A value
        is a number: 0 is the vector, then the constants, then the results.

    Raises RouterError where the content is not of this form.
    """

    def __init__(self, content: bytes):
        broken = RouterError("head.npz: not a head's program; export the router again.")
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as members:
                if sum(member.file_size for member in members.infolist()) > len(content):
                    raise broken  # deflated: it could unfold without bound
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                told = json.loads(arrays[PROGRAM].tobytes())
                constants = [arrays[f"c{i}"] for i in range(len(arrays.files) - 1)]
            steps, outputs = told["steps"], told["outputs"]
            if len(steps) > MOST_STEPS or not isinstance(outputs, dict) or not outputs:
                raise broken
            self._template: list[Any] = [None, *constants, *[None] * len(steps)]
            self._steps: list[tuple[Callable[..., Any], int, int, tuple[int, ...] | None, int]] = []
            self._outputs = dict(outputs)
            known = set(range(1 + len(constants)))
            for kind, inputs, output, attributes in steps:
                if not known.issuperset(inputs) or not len(constants) < output < len(
                    self._template
                ):
                    raise broken
                run, taken = bound(kind, attributes, [self._template[i] for i in inputs])
                self._steps.append((run, *_arguments(inputs[:taken]), output))
                known.add(output)
            if not known.issuperset(self._outputs.values()):
                raise broken
        except (
            LookupError,
            TypeError,
            ValueError,
            OSError,
            EOFError,
            AttributeError,
            ArithmeticError,
            zipfile.BadZipFile,
        ):
            raise broken from None

    def run(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name. Each row is computed alone: matrix products round a row otherwise
        among others, and what is served is a single one."""
        if len(vector) <= 1:
            return self._run(vector)
        rows = [self._run(vector[i : i + 1]) for i in range(len(vector))]
        return {name: np.concatenate([row[name] for row in rows]) for name in self._outputs}

    def _run(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        values = self._template.copy()
        values[0] = vector
        # A general call takes as long again as a short step does.
        for run, first, second, more, output in self._steps:
            if more is not None:
                values[output] = run(*[values[i] for i in more])
            elif second < 0:
                values[output] = run(values[first])
            else:
                values[output] = run(values[first], values[second])
        return {name: values[i] for name, i in self._outputs.items()}


def _arguments(inputs: Sequence[int]) -> tuple[int, int, tuple[int, ...] | None]:
    """(first, second or -1, None), or all of them where there are neither one nor two."""
    if len(inputs) == 1:
        return inputs[0], -1, None
    if len(inputs) == 2:
        return inputs[0], inputs[1], None
    return -1, -1, tuple(inputs)


def packed(
    constants: Sequence[np.ndarray],
    steps: Sequence[tuple[str, Sequence[int], int, Mapping[str, Any]]],
    outputs: Mapping[str, int],
) -> bytes:
    """The content of a head.npz, the same for the same program."""
    told = {"steps": [list(step) for step in steps], "outputs": dict(outputs)}
    text = np.frombuffer(json.dumps(told, separators=(",", ":")).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"c{i}": value for i, value in enumerate(constants)}
    np.savez(buffer, allow_pickle=False, **arrays, **{PROGRAM: text})
    return buffer.getvalue()
