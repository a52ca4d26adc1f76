"""The training side's half: an ONNX head as a program of arrays, where that is the better."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from router.artifact.linear_steps import joined
from router.artifact.operators import bound
from router.artifact.program import packed
from router.artifact.steps import Step, aligned, merged, needed

# Of a program of so many steps numpy's calls take as long as onnxruntime does in all.
MOST_STEPS = 40


def as_program(model: onnx.ModelProto, most_steps: int | None = None) -> bytes | None:
    """The content of a head.npz that computes the model; None where an operator is not known to the
    program, as trees are not, or it takes more steps.

    What does not depend on the vector is computed here, once; what is linear in the same values
    becomes one matrix product; what no output needs goes.
    """
    names = [entry.name for entry in model.graph.input]
    if len(names) != 1:
        return None
    width = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    known = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    renamed: dict[str, str] = {}
    steps: list[Step] = []
    for node in model.graph.node:
        inputs = tuple(renamed.get(name, name) for name in node.input)
        if node.op_type == "Identity" or (node.op_type == "Concat" and len(inputs) == 1):
            renamed[node.output[0]] = inputs[0]
            continue
        if node.domain not in ("", "ai.onnx") or "" in inputs:
            return None
        for step in _steps_of(node, inputs, known):
            try:
                run, taken = bound(step.kind, step.attributes, [known.get(n) for n in step.inputs])
            except (KeyError, TypeError):
                return None
            if all(name in known for name in inputs):
                known[step.output] = np.asarray(run(*[known[n] for n in step.inputs[:taken]]))
            else:
                steps.append(step)
    outputs = {entry.name: renamed.get(entry.name, entry.name) for entry in model.graph.output}
    steps, again = merged(needed(steps, set(outputs.values())), known)
    outputs = {name: again.get(value, value) for name, value in outputs.items()}
    steps = joined(steps, known, set(outputs.values()), {names[0]: width})
    steps, _ = merged(needed(steps, set(outputs.values())), known)
    used = {name for step in steps for name in step.inputs} | set(outputs.values())
    aligned(steps, known)
    kept = [name for name in known if name in used]
    if most_steps is not None and len(steps) > most_steps:
        return None
    place = {name: i for i, name in enumerate([*names, *kept, *(step.output for step in steps)])}
    return packed(
        [known[name] for name in kept],
        [
            (step.kind, [place[n] for n in step.inputs], place[step.output], step.attributes)
            for step in steps
        ],
        {name: place[value] for name, value in outputs.items()},
    )


def _steps_of(
    node: onnx.NodeProto, inputs: tuple[str, ...], known: dict[str, np.ndarray]
) -> list[Step]:
    """One step for each result; those of a Split are slices. Adds the slices' bounds to what is
    known."""
    attributes = {entry.name: _plain(node, entry) for entry in node.attribute}
    if len(node.output) == 1:
        return [Step(node.op_type, inputs, node.output[0], attributes)]
    if node.op_type != "Split":
        return [
            Step(node.op_type, inputs, output, {**attributes, "output": i})
            for i, output in enumerate(node.output)
            if output
        ]
    ends = known[inputs[1]].cumsum()
    starts = ends - known[inputs[1]]
    steps = []
    for output, start, end in zip(node.output, starts, ends, strict=True):
        bounds = {"start": start, "end": end, "axis": attributes["axis"]}
        for name, value in bounds.items():
            known[f"{output}.{name}"] = np.array([value], dtype=np.int64)
        steps.append(Step("Slice", (inputs[0], *(f"{output}.{n}" for n in bounds)), output, {}))
    return steps


def _plain(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if node.op_type == "Cast":
        return helper.tensor_dtype_to_np_dtype(value).name
    return list(value) if isinstance(value, list | tuple) else value
