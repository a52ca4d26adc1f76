"""ONNX operators, opset 17, as numpy functions: those that estimators without trees write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Operator = Callable[..., Any]
# Arrays, as numpy takes longer over scalars.
ZERO, HALF = np.array(0, dtype=np.float32), np.array(0.5, dtype=np.float32)


def bound(
    kind: str, attributes: Mapping[str, Any], constants: Sequence[np.ndarray | None]
) -> tuple[Operator, int]:
    """(function, how many of the inputs it takes: all, or the first where the others are settled).

    constants: the inputs that are known by now; None for others.

    Raises KeyError or TypeError where the operator is not known, or not with these attributes, or
    takes as an input what must be known by now.
    """
    if kind in PLAIN:
        if attributes:
            raise KeyError(kind)
        return PLAIN[kind], len(constants)
    if kind in MADE:
        return MADE[kind](**attributes), len(constants)
    if any(constant is None for constant in constants[1:]):
        raise KeyError(kind)
    return SETTLED[kind](*constants[1:], **attributes), 1


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return HALF + HALF * np.tanh(HALF * x)  # which cannot overflow


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, ZERO)


def _clip(x: np.ndarray, low: Any = None, high: Any = None) -> np.ndarray:
    if low is not None:
        x = np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _most(first: np.ndarray, *others: np.ndarray) -> np.ndarray:
    for value in others:
        first = np.maximum(first, value)
    return first


def _least(first: np.ndarray, *others: np.ndarray) -> np.ndarray:
    for value in others:
        first = np.minimum(first, value)
    return first


def _arg_max(axis: int = 0, keepdims: int = 1) -> Operator:
    if keepdims:
        return lambda x: x.argmax(axis=axis, keepdims=True)
    return lambda x: x.argmax(axis)


def _cast(to: str) -> Operator:
    dtype = np.dtype(to)
    return lambda x: x.astype(dtype)


def _concat(axis: int) -> Operator:
    return lambda *parts: np.concatenate(parts, axis=axis)


def _gather(axis: int = 0) -> Operator:
    return lambda x, places: x.take(places, axis=axis)


def _softmax(axis: int = -1) -> Operator:
    def run(x: np.ndarray) -> np.ndarray:
        exponential = np.exp(x - x.max(axis=axis, keepdims=True))
        return exponential / exponential.sum(axis=axis, keepdims=True)

    return run


def _transpose(perm: Sequence[int]) -> Operator:
    return lambda x: x.transpose(perm)


def _along(axes: Sequence[int]) -> Any:
    """One axis alone as a number, which numpy is quicker with."""
    return axes[0] if len(axes) == 1 else tuple(axes)


def _reduced(reduce: Operator) -> Callable[..., Operator]:
    def made(axes: Sequence[int], keepdims: int = 1) -> Operator:
        axis, keep = _along(axes), bool(keepdims)
        return lambda x: reduce(x, axis=axis, keepdims=keep)

    return made


def _length(axes: Sequence[int], keepdims: int = 1) -> Operator:
    axis, keep = _along(axes), bool(keepdims)
    return lambda x: np.sqrt((x * x).sum(axis=axis, keepdims=keep))


def _reduce_sum(axes: np.ndarray, keepdims: int = 1) -> Operator:
    axis, keep = _along(axes.tolist()), bool(keepdims)
    return lambda x: x.sum(axis=axis, keepdims=keep, dtype=x.dtype)


def _cum_sum(axis: np.ndarray) -> Operator:
    along = int(axis)
    return lambda x: x.cumsum(axis=along, dtype=x.dtype)


def _expand(shape: np.ndarray) -> Operator:
    wanted = tuple(shape.tolist())
    return lambda x: np.broadcast_to(x, np.broadcast_shapes(x.shape, wanted))


def _pad(pads: np.ndarray, value: Any = 0) -> Operator:
    sides, filling = pads.tolist(), np.asarray(value).item()
    before, after = sides[: len(sides) // 2], sides[len(sides) // 2 :]
    if min(sides) < 0:
        raise KeyError("Pad")

    def run(x: np.ndarray) -> np.ndarray:
        sizes = zip(before, x.shape, after, strict=True)
        padded = np.full([sum(size) for size in sizes], filling, dtype=x.dtype)
        inside = zip(before, x.shape, strict=True)
        padded[tuple(slice(start, start + size) for start, size in inside)] = x
        return padded

    return run


def _reshape(shape: np.ndarray) -> Operator:
    wanted = tuple(shape.tolist())
    if 0 not in wanted:
        return lambda x: x.reshape(wanted)
    # 0 keeps the axis as it is.
    return lambda x: x.reshape([n if n else x.shape[i] for i, n in enumerate(wanted)])


def _slice(starts: np.ndarray, ends: np.ndarray, axes: np.ndarray) -> Operator:
    """Of axes from 0 up, in steps of 1."""
    kept = [slice(None)] * (1 + int(axes.max()))
    if axes.min() < 0:
        raise KeyError("Slice")
    for axis, start, end in zip(axes.tolist(), starts.tolist(), ends.tolist(), strict=True):
        kept[axis] = slice(start, end)
    index = tuple(kept)
    return lambda x: x[index]


def _squeeze(axes: np.ndarray) -> Operator:
    gone = tuple(axes.tolist())
    return lambda x: x.squeeze(gone)


def _unsqueeze(axes: np.ndarray) -> Operator:
    new = axes.tolist()
    if min(new) < 0:
        return lambda x: np.expand_dims(x, tuple(new))
    index = tuple(None if i in new else slice(None) for i in range(max(new) + 1))
    return lambda x: x[index]


def _top_k(
    k: np.ndarray, output: int = 0, axis: int = -1, largest: int = 1, **sort: int
) -> Operator:
    """The greatest values (output 0) or their places (1), in falling order; among equals the first
    comes first."""
    if not largest or sort not in ({}, {"sorted": 1}):
        raise KeyError("TopK")
    count = int(k.item())

    def values(x: np.ndarray) -> np.ndarray:
        falling = -x
        if count < x.shape[axis]:
            falling = np.partition(falling, count, axis=axis).take(range(count), axis=axis)
        return -np.sort(falling, axis=axis)

    def places(x: np.ndarray) -> np.ndarray:
        return np.argsort(-x, axis=axis, kind="stable").take(range(count), axis=axis)

    return places if output else values


# Of the attributes and the inputs that are given when it runs.
PLAIN: dict[str, Operator] = {
    "Abs": np.abs,
    "Add": np.add,
    "Clip": _clip,
    "Div": np.divide,
    "Equal": np.equal,
    "Exp": np.exp,
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
    "Pow": np.power,
    "Relu": lambda x: np.maximum(x, ZERO),
    "Shape": lambda x: np.array(x.shape, dtype=np.int64),
    "Sigmoid": _sigmoid,
    "Softplus": _softplus,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Where": np.where,
}
# Of the attributes alone: they make the operator.
MADE: dict[str, Callable[..., Operator]] = {
    "ArgMax": _arg_max,
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "ReduceL2": _length,
    "ReduceMax": _reduced(np.maximum.reduce),
    "ReduceMean": _reduced(np.mean),
    "ReduceMin": _reduced(np.minimum.reduce),
    "Softmax": _softmax,
    "Transpose": _transpose,
}
# Of the attributes and all inputs but the first, which must be constants.
SETTLED: dict[str, Callable[..., Operator]] = {
    "CumSum": _cum_sum,
    "Expand": _expand,
    "Pad": _pad,
    "ReduceSum": _reduce_sum,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "TopK": _top_k,
    "Unsqueeze": _unsqueeze,
}
