"""A head as arrays computes what onnxruntime computes of its graph, for every estimator."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_estimator_graphs import head_of
from test_estimators import every_estimator, make_problem

from router.artifact.head_program import as_program
from router.artifact.onnx_part import OnnxHead
from router.artifact.program import Program
from router.errors import RouterError
from router.estimators import Estimator, ItemResponse, Partition, Ridge
from router.estimators.graph import Graph
from router.estimators.head import Head

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


# ---- What the program is ------------------------------------------------------------------------


def fitted(estimator: Estimator) -> onnx.ModelProto:
    X, outcomes = make_problem(120, costs="tokens")
    return Head(estimator, Ridge()).fit(X, outcomes).to_onnx()


def program_of(model: onnx.ModelProto) -> tuple[dict[str, Any], list[np.ndarray]]:
    """(the program's text, its constants)."""
    content = as_program(model)
    assert content is not None
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        told = json.loads(stored["program"].tobytes())
        return told, [stored[f"c{i}"] for i in range(len(stored.files) - 1)]


every_small_head = pytest.mark.parametrize(
    "estimator", [Ridge(), Partition(8), ItemResponse()], ids=lambda kind: type(kind).__name__
)


@every_small_head
def test_every_step_depends_on_the_vector_and_an_output_on_every_step(
    estimator: Estimator,
) -> None:
    told, constants = program_of(fitted(estimator))
    varying, used = {0}, set(told["outputs"].values())
    for _, inputs, output, _ in told["steps"]:
        assert varying.intersection(inputs)
        varying.add(output)
        used.update(inputs)
    assert used == set(range(1 + len(constants) + len(told["steps"])))


@every_small_head
def test_the_vector_meets_one_matrix(estimator: Estimator) -> None:
    told, _ = program_of(fitted(estimator))
    assert sum(kind == "MatMul" and 0 in inputs for kind, inputs, _, _ in told["steps"]) == 1


@every_small_head
def test_a_row_among_others_is_computed_as_alone(estimator: Estimator) -> None:
    program = Program(as_program(fitted(estimator)) or b"")
    vectors = make_problem(40, seed=1)[0].astype(np.float32)
    together = program.run(vectors)
    for i in range(len(vectors)):
        for name, values in program.run(vectors[i : i + 1]).items():
            np.testing.assert_array_equal(values, together[name][i : i + 1])


def test_a_program_of_more_steps_than_wanted_is_none() -> None:
    model = fitted(Ridge())
    steps = len(program_of(model)[0]["steps"])
    assert as_program(model, most_steps=steps) is not None
    assert as_program(model, most_steps=steps - 1) is None


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_is_no_program_is_refused_in_a_sentence(data: st.DataObject) -> None:
    value = st.integers(-2, 6)
    step = st.tuples(
        st.sampled_from(["MatMul", "Reshape", "ReduceSum", "Slice", "Loop", "Softmax"]),
        st.lists(value, max_size=3),
        value,
        st.dictionaries(st.sampled_from(["axis", "to"]), value, max_size=1),
    )
    junk = st.none() | st.integers() | st.text() | st.lists(st.integers(), max_size=2)
    steps = data.draw(st.lists(step | junk, max_size=3) | junk)
    told = {"steps": steps, "outputs": data.draw(st.just({"quality": 9}) | junk)}
    text = np.frombuffer(json.dumps(told).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, c0=np.ones((2, 2)), c1=np.array([1]), program=text)
    with pytest.raises(RouterError, match="not a head's program"):
        Program(buffer.getvalue())


# ---- Operators ----------------------------------------------------------------------------------

TIED = arrays(np.float32, (3, 4), elements=st.sampled_from([-200.0, -1.0, 0.0, 0.5, 1.0, 200.0]))


def of_rows(kind: str, graph: Graph) -> list[str]:
    """The operator's results of the vectors."""
    whole = [graph.constant(numbers, np.int64) for numbers in ([2], [1], [1, 3])]
    two, one, split = whole
    if kind in ("Sigmoid", "Softplus", "Softmax", "Relu", "Abs", "Neg"):
        return [graph.op(kind, "vector")]
    if kind == "TopK":
        values, places = graph.op_with_outputs("TopK", 2, "vector", two, axis=1)
        return [values, graph.op("Cast", places, to=onnx.TensorProto.FLOAT)]
    if kind == "Split":
        return graph.op_with_outputs("Split", 2, "vector", split, axis=1)
    if kind == "Clip":
        return [graph.op("Clip", "vector", graph.constant(-0.5), graph.constant(0.7))]
    if kind == "Pad":
        return [
            graph.op("Pad", "vector", graph.constant([0, 1, 0, 2], np.int64), graph.constant(3))
        ]
    if kind == "CumSum":
        return [graph.op("CumSum", "vector", graph.constant(1, np.int64))]
    if kind == "ArgMax":
        place = graph.op("ArgMax", "vector", axis=1, keepdims=1)
        table = graph.constant(np.arange(8).reshape(4, 2))
        return [graph.op("Squeeze", graph.op("Gather", table, place, axis=0), one)]
    if kind == "ReduceL2":
        return [graph.op("ReduceL2", "vector", axes=[1], keepdims=1)]
    first = graph.op("Less", "vector", graph.constant([0.0, 0.5, 1.0, -1.0]))
    return [graph.op("Where", first, "vector", graph.op("Max", "vector", graph.constant(0.25)))]


@pytest.mark.parametrize(
    "kind",
    [
        *("Sigmoid", "Softplus", "Softmax", "Relu", "Abs", "Neg", "TopK", "Split", "Clip", "Pad"),
        *("CumSum", "ArgMax", "ReduceL2", "Where"),
    ],
)
@settings(max_examples=30, deadline=None)
@given(vectors=TIED)
def test_an_operator_computes_what_onnxruntime_does(kind: str, vectors: np.ndarray) -> None:
    graph = Graph()
    results = of_rows(kind, graph)
    names = {f"result {i}": value for i, value in enumerate(results)}
    model = graph.model(4, names, {name: ["batch", "columns"] for name in names})
    assert_alike(model, vectors)
