"""An exported encoder in 8-bit integers: a quarter of the size, more than twice the speed.

Weights of matrix products are rounded per column, their inputs at run time by the largest of the
prompt (dynamic quantisation); token tables are rounded per row. On the default data the rows matter
more than all else: with one scale for a whole table one choice in nine turns, with one for each row
one in 28 (experiments/serving/precision.md).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from router.artifact.served import ServedEncoder
from router.cache_folder import cache_folder
from router.staging import staged_folder

if TYPE_CHECKING:
    import onnx

FORM = 1  # of what is cached; raised whenever the code below would make something else
LEAST_ROWS = 64  # of a table that is worth rounding
PROBES = 16  # prompts on which sensitivity is measured


def quantised(source: Path, kept: int = 0, prompts: Sequence[str] = ()) -> Path:
    """Folder with encoder.onnx in 8-bit integers, tokenizer.json and encoder.json (what the
    manifest says of the encoder); made once and kept in the cache.

    source: folder with encoder.onnx in float32 and tokenizer.json, of any encoder.
    kept: matrix products that stay in float32: those that move the vectors furthest when they alone
        are rounded, measured on the first prompts.
    """
    prompts = list(prompts[:PROBES]) if kept else []
    made_of = hashlib.sha256(f"{FORM} {kept}".encode())
    for name in ("encoder.onnx", "tokenizer.json"):
        with (source / name).open("rb") as file:
            made_of.update(hashlib.file_digest(file, "sha256").digest())
    for prompt in prompts:
        made_of.update(hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest())
    folder = cache_folder("encoders") / f"int8-{made_of.hexdigest()[:32]}"
    if not folder.is_dir():
        with staged_folder(folder) as staged:
            shutil.copyfile(source / "tokenizer.json", staged / "tokenizer.json")
            _write(source, staged / "encoder.onnx", kept, prompts)
            facts = {"kind": "onnx", "precision": "mixed" if kept else "int8"}
            (staged / "encoder.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def _write(source: Path, target: Path, kept: int, prompts: list[str]) -> None:
    import onnx

    model = onnx.load(source / "encoder.onnx")
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{number}"  # by which it is told apart below
    _round_tables(model.graph)
    products = _weighted_products(model.graph)
    if kept >= len(products):
        products = []
    elif kept:
        moved = _moved(model, products, source, target, prompts)
        products = sorted(products, key=lambda name: moved[name])[: len(products) - kept]
    _round_products(model, products, target)


def _weighted_products(graph: onnx.GraphProto) -> list[str]:
    """Names of the matrix products with fixed weights."""
    fixed = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in fixed]


def _round_products(model: onnx.ModelProto, products: Iterable[str], target: Path) -> None:
    """Write the model with these products in 8-bit integers."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    names = list(products)
    if not names:  # to the quantiser an empty list means all
        onnx.save(model, target)
        return
    # Preparing the graph would fuse what the quantiser looks for; that it was not done is no news.
    add_pre_process_metadata(model)
    quantize_dynamic(
        model, target, per_channel=True, weight_type=QuantType.QInt8, nodes_to_quantize=names
    )


def _moved(
    model: onnx.ModelProto, products: list[str], source: Path, target: Path, prompts: list[str]
) -> dict[str, float]:
    """Mean squared distance that the prompts' vectors move where one product alone is rounded."""
    exact = ServedEncoder(source).encode(prompts)
    moved = {}
    for name in tqdm(products, "Measuring", unit="product", leave=False, disable=None):
        with TemporaryDirectory(dir=target.parent) as aside:
            folder = Path(aside)
            shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
            _round_products(model, [name], folder / "encoder.onnx")
            vectors = ServedEncoder(folder).encode(prompts)
        moved[name] = float(((vectors - exact) ** 2).sum(axis=1).mean())
    return moved


def _round_tables(graph: onnx.GraphProto) -> None:
    """Hold every table of which rows are looked up, as of tokens and positions, in 8-bit integers
    with a scale for each row."""
    from onnx import helper, numpy_helper

    tables = _tables(graph)
    nodes = []  # with names of their own: the quantiser's end in _quantized, _scale and _zero_point
    for node in graph.node:
        if node.op_type != "Gather" or node.input[0] not in tables:
            nodes.append(node)
            continue
        tensor = tables[node.input[0]]
        rows = numpy_helper.to_array(tensor)
        scale = np.abs(rows).max(axis=1, keepdims=True) / 127
        scale[scale == 0] = 1
        graph.initializer.remove(tensor)
        name, which, found = tensor.name, node.input[1], node.output[0]
        rounded = np.rint(rows / scale).astype(np.int8)
        graph.initializer.append(numpy_helper.from_array(rounded, f"{name}_row_int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_row_scale"))
        nodes += [
            helper.make_node("Gather", [f"{name}_row_int8", which], [f"{found}_row_int8"]),
            helper.make_node("Cast", [f"{found}_row_int8"], [f"{found}_row"], to=tensor.data_type),
            helper.make_node("Gather", [f"{name}_row_scale", which], [f"{found}_row_scale"]),
            helper.make_node("Mul", [f"{found}_row", f"{found}_row_scale"], [found]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def _tables(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Tables of float32 rows that one node looks up, and that nothing else reads."""
    from onnx import TensorProto

    uses = Counter(name for node in graph.node for name in node.input)
    by_row = {
        node.input[0]
        for node in graph.node
        if node.op_type == "Gather" and all(given.i == 0 for given in node.attribute)  # the axis
    }
    return {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.name in by_row
        and uses[tensor.name] == 1
        and tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) == 2
        and tensor.dims[0] >= LEAST_ROWS
    }
