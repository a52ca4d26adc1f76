"""A small builder of ONNX graphs, in which estimators write down their forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
ML_OPSET = 3
IR_VERSION = 9


class Graph:
    """Nodes and constants of one graph; every method returns the name of a tensor."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A constant tensor."""
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """One operator with one output."""
        return self.op_with_outputs(kind, 1, *inputs, domain=domain, **attributes)[0]

    def op_with_outputs(
        self, kind: str, n_outputs: int, *inputs: str, domain: str = "", **attributes: Any
    ) -> list[str]:
        """One operator with several outputs."""
        outputs = [f"n{len(self._nodes)}_{i}" for i in range(n_outputs)]
        self._nodes.append(
            helper.make_node(kind, list(inputs), outputs, domain=domain, **attributes)
        )
        return outputs

    def model(
        self, n_inputs: int, outputs: dict[str, str], axes: dict[str, list[str]]
    ) -> onnx.ModelProto:
        """The checked model `vector` (batch, n_inputs) -> the named outputs with their axes."""
        nodes = self._nodes + [
            helper.make_node("Identity", [tensor], [name]) for name, tensor in outputs.items()
        ]
        graph = helper.make_graph(
            nodes,
            "head",
            [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", n_inputs])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, axes[name])
                for name in outputs
            ],
            self._constants,
        )
        model = helper.make_model(
            graph,
            opset_imports=[
                helper.make_opsetid("", OPSET),
                helper.make_opsetid("ai.onnx.ml", ML_OPSET),
            ],
            producer_name="query-router",
            ir_version=IR_VERSION,
        )
        onnx.checker.check_model(model)
        return model
