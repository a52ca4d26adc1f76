"""A head as arrays and a short program, run by numpy alone.

The program is the ONNX graph that the estimators write (router.estimators.graph), node by node, in
opset 17's meaning: one forward pass, and two that run it. An artifact whose encoder is a table has
its head so: it then needs no onnxruntime, whose import takes most of a cold start. Beside an ONNX
encoder the head is ONNX too, as onnxruntime needs about half the time of numpy's calls.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from router.errors import RouterError

Operator = Callable[..., Any]
PROGRAM = "program"
MOST_STEPS = 10_000


class Program:
    """`vector` (batch, d) -> the named outputs.

    content: the bytes of a head.npz: arrays c0, c1, ... and a program, JSON as bytes:
        {"steps": [[operator, inputs, output, attributes], ...], "outputs": {name: value}}. A value
        is a number: 0 is the vector, then the constants, then the results.

    Raises RouterError where the content is not of this form.
    """

    def __init__(self, content: bytes):
        broken = RouterError("head.npz: not a head's program; export the router again.")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                told = json.loads(arrays[PROGRAM].tobytes())
                constants = [arrays[f"c{i}"] for i in range(len(arrays.files) - 1)]
            steps, outputs = told["steps"], told["outputs"]
            self._template: list[Any] = [None, *constants, *[None] * len(steps)]
            self._steps = [
                (bound(kind, attributes), tuple(inputs), output)
                for kind, inputs, output, attributes in steps
            ]
            self._outputs = dict(outputs)
            known = set(range(1 + len(constants)))
            for _, inputs, output in self._steps:
                if not known.issuperset(inputs) or not 0 < output < len(self._template):
                    raise broken
                known.add(output)
            if not known.issuperset(self._outputs.values()) or len(steps) > MOST_STEPS:
                raise broken
        except (KeyError, TypeError, ValueError, OSError, EOFError, AttributeError):
            raise broken from None

    def run(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name."""
        values = self._template.copy()
        values[0] = vector
        for run, inputs, output in self._steps:
            values[output] = run(*[values[i] for i in inputs])
        return {name: values[i] for name, i in self._outputs.items()}


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


def bound(kind: str, attributes: Mapping[str, Any]) -> Operator:
    """The operator with its attributes; raises KeyError where it is not known."""
    if kind in PLAIN:
        if attributes:
            raise KeyError(kind)
        return PLAIN[kind]
    return MADE[kind](**attributes)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, np.zeros((), dtype=x.dtype))


def _softmax(axis: int = -1) -> Operator:
    def run(x: np.ndarray) -> np.ndarray:
        exponential = np.exp(x - x.max(axis=axis, keepdims=True))
        return exponential / exponential.sum(axis=axis, keepdims=True)

    return run


def _clip(x: np.ndarray, low: Any = None, high: Any = None) -> np.ndarray:
    if low is not None:
        x = np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _most(*values: np.ndarray) -> np.ndarray:
    found = values[0]
    for value in values[1:]:
        found = np.maximum(found, value)
    return found


def _least(*values: np.ndarray) -> np.ndarray:
    found = values[0]
    for value in values[1:]:
        found = np.minimum(found, value)
    return found


def _reshape(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    # 0 keeps the axis as it is.
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())])


def _expand(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _squeeze(x: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return x.squeeze(tuple(axes.tolist()))


def _unsqueeze(x: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return np.expand_dims(x, tuple(axes.tolist()))


def _pad(x: np.ndarray, pads: np.ndarray, value: Any = 0) -> np.ndarray:
    sides = pads.tolist()
    half = len(sides) // 2
    wide = list(zip(sides[:half], sides[half:], strict=True))
    return np.pad(x, wide, constant_values=np.asarray(value).item())


def _cum_sum(x: np.ndarray, axis: np.ndarray) -> np.ndarray:
    return x.cumsum(axis=int(axis), dtype=x.dtype)


def _gather(axis: int = 0) -> Operator:
    return lambda x, places: np.take(x, places, axis=axis)


def _concat(axis: int) -> Operator:
    return lambda *parts: np.concatenate(parts, axis=axis)


def _transpose(perm: Sequence[int]) -> Operator:
    return lambda x: x.transpose(perm)


def _arg_max(axis: int = 0, keepdims: int = 1) -> Operator:
    return lambda x: x.argmax(axis=axis, keepdims=bool(keepdims))


def _cast(to: str) -> Operator:
    dtype = np.dtype(to)
    return lambda x: x.astype(dtype)


def _reduce_sum(keepdims: int = 1) -> Operator:
    keep = bool(keepdims)
    return lambda x, axes: x.sum(axis=tuple(axes.tolist()), keepdims=keep, dtype=x.dtype)


def _reduced(name: str) -> Callable[..., Operator]:
    def made(axes: Sequence[int], keepdims: int = 1) -> Operator:
        along, keep = tuple(axes), bool(keepdims)
        return lambda x: getattr(x, name)(axis=along, keepdims=keep)

    return made


PLAIN: dict[str, Operator] = {
    "Abs": np.abs,
    "Add": np.add,
    "Clip": _clip,
    "CumSum": _cum_sum,
    "Div": np.divide,
    "Equal": np.equal,
    "Exp": np.exp,
    "Expand": _expand,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Log": np.log,
    "MatMul": np.matmul,
    "Max": _most,
    "Min": _least,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pad": _pad,
    "Pow": np.power,
    "Relu": lambda x: np.maximum(x, 0),
    "Reshape": _reshape,
    "Shape": lambda x: np.array(x.shape, dtype=np.int64),
    "Sigmoid": _sigmoid,
    "Softplus": _softplus,
    "Sqrt": np.sqrt,
    "Squeeze": _squeeze,
    "Sub": np.subtract,
    "Unsqueeze": _unsqueeze,
    "Where": np.where,
}
MADE: dict[str, Callable[..., Operator]] = {
    "ArgMax": _arg_max,
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "ReduceMax": _reduced("max"),
    "ReduceMean": _reduced("mean"),
    "ReduceMin": _reduced("min"),
    "ReduceSum": _reduce_sum,
    "Softmax": _softmax,
    "Transpose": _transpose,
}
