"""A head as arrays computes what onnxruntime computes of its graph, for every estimator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from test_estimator_graphs import head_of
from test_estimators import every_estimator, make_problem

from router.artifact.head_program import as_program
from router.artifact.onnx_part import OnnxHead
from router.artifact.program import Program
from router.estimators import Estimator

CLOSE = 1e-6  # of float32 sums in another order, relative to the largest number of an output


def assert_alike(model: onnx.ModelProto, vectors: np.ndarray) -> None:
    content = as_program(model)
    assert content is not None
    program, session = Program(content), OnnxHead(model.SerializeToString())
    for rows in (vectors[:1], vectors[:0], vectors):
        computed, expected = program.run(rows), session.run(rows)
        assert list(computed) == list(expected)
        for name, values in expected.items():
            assert computed[name].dtype == values.dtype
            tolerance = CLOSE * np.abs(values).max(initial=1.0)
            np.testing.assert_allclose(computed[name], values, rtol=0, atol=tolerance)


def has_trees(model: onnx.ModelProto) -> bool:
    return any(node.op_type.startswith("TreeEnsemble") for node in model.graph.node)


@every_estimator
@pytest.mark.parametrize("costs", ["usd", "tokens", None])
def test_arrays_compute_what_the_graph_computes(estimator: Estimator, costs: str | None) -> None:
    X, outcomes = make_problem(120, costs=costs, observed=0.8)
    model = head_of(estimator).fit(X.astype(np.float32), outcomes).to_onnx()
    if has_trees(model):
        assert as_program(model) is None
    else:
        assert_alike(model, make_problem(200, seed=1)[0].astype(np.float32))
