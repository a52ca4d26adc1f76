"""The training side's half: an ONNX head as a program of arrays, where that is the better."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from router.artifact.program import bound, packed

# Beyond so many steps numpy's calls take longer than a cold start of onnxruntime is worth.
MOST_STEPS = 100


def as_program(model: onnx.ModelProto) -> bytes | None:
    """The content of a head.npz that computes the model; None where an operator is not known to the
    program, as trees are not, or it takes too many steps.

    What does not depend on the vector is computed here, once.
    """
    names = {entry.name: 0 for entry in model.graph.input}
    if len(names) != 1:
        return None
    constants = [numpy_helper.to_array(entry) for entry in model.graph.initializer]
    known: dict[str, np.ndarray] = {
        entry.name: value for entry, value in zip(model.graph.initializer, constants, strict=True)
    }
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = []
    renamed: dict[str, str] = {}
    for node in model.graph.node:
        inputs = [renamed.get(name, name) for name in node.input]
        if node.op_type == "Identity":
            renamed[node.output[0]] = inputs[0]
            continue
        attributes = {entry.name: _plain(node, entry) for entry in node.attribute}
        if len(node.output) != 1 or node.domain not in ("", "ai.onnx") or "" in inputs:
            return None
        try:
            run = bound(node.op_type, attributes)
        except (KeyError, TypeError):
            return None
        if all(name in known for name in inputs):
            known[node.output[0]] = np.asarray(run(*[known[name] for name in inputs]))
        else:
            steps.append((node.op_type, inputs, node.output[0], attributes))
    if len(steps) > MOST_STEPS:
        return None
    outputs = {entry.name: renamed.get(entry.name, entry.name) for entry in model.graph.output}
    needed = {name for _, inputs, _, _ in steps for name in inputs} | set(outputs.values())
    kept = [name for name in known if name in needed]
    place = {**names, **{name: 1 + i for i, name in enumerate(kept)}}
    for _, _, output, _ in steps:
        place[output] = len(place)
    return packed(
        [known[name] for name in kept],
        [
            (kind, [place[n] for n in inputs], place[out], attrs)
            for kind, inputs, out, attrs in steps
        ],
        {name: place[value] for name, value in outputs.items()},
    )


def _plain(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if node.op_type == "Cast":
        return helper.tensor_dtype_to_np_dtype(value).name
    return list(value) if isinstance(value, list | tuple) else value
