"""Steps that are linear in the same value, as one matrix product."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router.artifact.steps import Step

# Of one value, and as wide as it is.
ALONG = ("Abs", "Exp", "Neg", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt")


@dataclass(frozen=True)
class Linear:
    """source @ weights + bias, along the last axis; without weights, source + bias."""

    source: str
    weights: np.ndarray | None
    bias: np.ndarray

    def times(self, matrix: np.ndarray) -> Linear:
        """Of a form without weights."""
        shift = np.broadcast_to(self.bias, matrix.shape[:1]) @ matrix
        return Linear(self.source, matrix, shift)

    def scaled(self, factor: np.ndarray) -> Linear:
        assert self.weights is not None
        return Linear(self.source, self.weights * factor, self.bias * factor)

    def shift(self) -> np.ndarray:
        """The bias of each column of the weights."""
        assert self.weights is not None
        return np.broadcast_to(self.bias, self.weights.shape[1:])

    def moved(self, shift: np.ndarray) -> Linear:
        return Linear(self.source, self.weights, self.bias + shift)


def joined(
    steps: Sequence[Step],
    known: dict[str, np.ndarray],
    wanted: Collection[str],
    widths: Mapping[str, int],
) -> list[Step]:
    """The steps with one matrix product, and one sum, in place of all that are linear in the same
    value. What no step needs any more may be left in.

    known: constants by name; the new ones are added. wanted: the outputs. widths: of the inputs,
    matrices.
    """
    matrices = dict(widths)
    uses = Counter(name for step in steps for name in step.inputs)
    uses.update(wanted)
    forms: dict[str, Linear] = {}
    inner: set[str] = set()  # that are a part of another form, and used nowhere else
    for step in steps:
        if step.kind in ALONG and step.inputs[0] in matrices:
            matrices[step.output] = matrices[step.inputs[0]]
        form, of = _form(step, forms, known, uses, matrices)
        if form is not None:
            forms[step.output] = form
            matrices[step.output] = (
                matrices[form.source] if form.weights is None else form.weights.shape[1]
            )
        inner.update(of)
    products: dict[str, list[str]] = {}
    for name, form in forms.items():
        if form.weights is not None and name not in inner:
            products.setdefault(form.source, []).append(name)
    left: list[Step] = []
    for step in steps:
        known_form = forms.get(step.output)
        if known_form is None or known_form.weights is None:
            left.append(step)
        elif step.output not in inner and known_form.source in products:
            names = products.pop(known_form.source)
            left += _product([(name, forms[name]) for name in names], known)
    return left


def _form(
    step: Step,
    forms: dict[str, Linear],
    known: dict[str, np.ndarray],
    uses: Counter[str],
    widths: dict[str, int],
) -> tuple[Linear | None, tuple[str, ...]]:
    """(how the output is linear in some matrix, if it is, the values that are parts of it alone)"""
    if step.kind == "Concat" and step.attributes == {"axis": 1}:
        return _side_by_side(step.inputs, forms, uses)
    if len(step.inputs) != 2 or step.kind not in ("MatMul", "Add", "Sub", "Mul", "Div"):
        return None, ()
    value, other = step.inputs
    if value in known and step.kind in ("Add", "Mul"):
        value, other = other, value
    if value not in widths or other not in known or known[other].dtype != np.float32:
        return None, ()
    constant = known[other].astype(np.float64)
    form = forms.get(value, Linear(value, None, np.zeros(1)))
    if form.weights is not None and (step.kind == "MatMul" or uses[value] > 1):
        form = Linear(value, None, np.zeros(1))
    if step.kind == "MatMul":
        return (form.times(constant), ()) if constant.ndim == 2 else (None, ())
    inner = () if form.weights is None else (value,)
    row = constant.reshape(-1)
    flat = constant.size == max(constant.shape[-1:], default=1)
    if constant.ndim > 2 or not flat or len(row) not in (1, widths[value]):
        return None, ()
    if step.kind in ("Add", "Sub"):
        return form.moved(row if step.kind == "Add" else -row), inner
    if form.weights is None:
        return None, ()
    return form.scaled(row if step.kind == "Mul" else 1 / row), inner


def _side_by_side(
    names: tuple[str, ...], forms: dict[str, Linear], uses: Counter[str]
) -> tuple[Linear | None, tuple[str, ...]]:
    parts = [forms[name] for name in names if name in forms and uses[name] == 1]
    matrices = [part.weights for part in parts if part.weights is not None]
    if len(matrices) < len(names) or len({part.source for part in parts}) > 1:
        return None, ()
    shifts = [part.shift() for part in parts]
    return Linear(parts[0].source, np.hstack(matrices), np.concatenate(shifts)), names


def _product(parts: Sequence[tuple[str, Linear]], known: dict[str, np.ndarray]) -> list[Step]:
    """The steps that compute all parts, each linear in the same source."""
    first = parts[0][0]

    def constant(name: str, value: np.ndarray) -> str:
        known[f"{first}.{name}"] = value
        return f"{first}.{name}"

    matrices = [form.weights for _, form in parts if form.weights is not None]
    weights = np.concatenate(matrices, axis=1).astype(np.float32)
    bias = np.concatenate([form.shift() for _, form in parts]).astype(np.float32)
    whole = first if len(parts) == 1 else f"{first}.joined"
    source = parts[0][1].source
    product = f"{whole}.product" if bias.any() else whole
    steps = [Step("MatMul", (source, constant("weights", weights)), product, {})]
    if bias.any():
        steps.append(Step("Add", (product, constant("bias", bias)), whole, {}))
    if len(parts) == 1:
        return steps
    end = 0
    for i, ((name, _), matrix) in enumerate(zip(parts, matrices, strict=True)):
        start, end = end, end + matrix.shape[1]
        bounds = (
            constant(f"start{i}", np.array([start])),
            constant(f"end{i}", np.array([end])),
            constant("axis", np.array([1])),
        )
        steps.append(Step("Slice", (whole, *bounds), name, {}))
    return steps
