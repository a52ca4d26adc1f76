"""What does the encoder's precision cost in choices, and gain in time and size?

Every encoder's vectors of the train side's prompts, computed one at a time, go through the heads of
five folds that never saw them (see router.pipelines.precision): the default head, fitted on the
training vectors. A shallower encoder has vectors of its own, so its heads are fitted on these. The
test side is not looked at. Times are of the train side's prompts of 55 to 66 tokens, one thread,
all encoders taking turns: from text to vector, and of the graph alone.

    python experiments/serving/precision.py [--table FILE] [--queries N]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from hydra import compose, initialize_config_dir
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from tokenizers import Tokenizer

from router.artifact.onnx_part import session
from router.artifact.precision import quantised
from router.artifact.served import ServedEncoder
from router.cache_folder import cache_folder
from router.encoding.cache import encode_cached
from router.encoding.encoder import Encoder
from router.encoding.featured import FeaturedEncoder
from router.encoding.query_features import query_features
from router.encoding.sentence_transformer import SentenceTransformerEncoder, minilm_folder
from router.estimators.head import FoldHeads, Head
from router.outcomes.paretobandit import ParetoBanditData
from router.outcomes.splits import AutoSplit
from router.outcomes.table import TableData
from router.pipelines.options import config_folder
from router.pipelines.parts import build
from router.pipelines.precision import Judged, Tuning, compare, judge
from router.prediction import Prediction
from router.staging import staged_folder

FOLDS = 5
TOKENS = (55, 66)
PROMPTS, ROUNDS = 50, 4  # of which the times are taken
CALIBRATION = 100  # prompts
ALL = 10_000  # products: more than there are
BLOCK = 128  # weights that share a scale


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--table", type=Path, help="outcomes; the default data set if left out")
    parser.add_argument("--queries", type=int, help="of the train side, the first ones")
    options = parser.parse_args()
    data = ParetoBanditData() if options.table is None else TableData(str(options.table))
    outcomes = data.load()
    side = outcomes.take(AutoSplit()(outcomes).train[: options.queries])
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train")
    encoder: FeaturedEncoder = build(config.encoder, "encoder")
    head = Head(build(config.estimator, "estimator"), build(config.cost, "cost"))
    vectors = encode_cached(encoder, side.prompts)
    unseen = FoldHeads(head, vectors, side, FOLDS)

    def predict(served: Encoder) -> Prediction:
        return unseen.predict(encode_cached(served, side.prompts), side)

    reference = unseen.predict(vectors, side)
    tuning = Tuning(side, reference, predict, build(config.policy, "policy"))
    encoders = dict(encoders_of(encoder.export(), side.prompts))
    judged = {}
    for name, served in encoders.items():
        if "layers" in name:  # other vectors, not the same rounded: with heads of their own
            own = encode_cached(served, side.prompts)
            judged[name] = judge(FoldHeads(head, own, side, FOLDS).predict(own, side), tuning)
        else:
            judged[name] = judge(predict(served), tuning)
        print(name, file=sys.stderr)
    show(encoders, judged, judge(reference, tuning), tuning)


def encoders_of(source: Path, prompts: list[str]) -> Iterator[tuple[str, ServedEncoder]]:
    """The precisions that ship, and what was tried beside them."""
    yield "fp32", ServedEncoder(source)
    yield "int8", ServedEncoder(quantised(source))
    yield "int8, 2 products in fp32", ServedEncoder(quantised(source, 2, prompts))
    yield "mixed: int8, 6 products in fp32", ServedEncoder(quantised(source, 6, prompts))
    yield "int8, one scale for each table", made(source, one_scale)
    yield f"int8, calibrated on {CALIBRATION} prompts", made(source, calibrated, prompts)
    yield f"int8, scales for {BLOCK} weights and each token", made(source, in_blocks)
    for layers in (2, 3, 4):
        yield f"int8, first {layers} of 6 layers", ServedEncoder(quantised(shallow(layers)))


def made(source: Path, write, *arguments) -> ServedEncoder:  # type: ignore[no-untyped-def]
    """An encoder that `write(source, target, ...)` makes, kept in the cache."""
    said = f"{write.__name__} {ServedEncoder(source).identity} {arguments!r}"
    folder = cache_folder("encoders") / f"study-{hashlib.sha256(said.encode()).hexdigest()[:32]}"
    if not folder.is_dir():
        with staged_folder(folder) as staged:
            shutil.copyfile(source / "tokenizer.json", staged / "tokenizer.json")
            write(source, staged / "encoder.onnx", *arguments)
    return ServedEncoder(folder)


def one_scale(source: Path, target: Path) -> None:
    """As the quantiser rounds tables by itself: one scale for all rows."""
    quantize_dynamic(
        source / "encoder.onnx",
        target,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gather"],
    )


class Prompts(CalibrationDataReader):  # type: ignore[misc]
    """Feeds of an encoder's graph."""

    def __init__(self, source: Path, prompts: list[str]):
        self._feeds = iter([feed_of(source, prompt) for prompt in prompts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def feed_of(source: Path, prompt: str) -> dict[str, np.ndarray]:
    """What the graph of an encoder with query features is given."""
    tokens = Tokenizer.from_file(str(source / "tokenizer.json")).encode(prompt)
    return {
        "input_ids": np.array([tokens.ids], dtype=np.int64),
        "attention_mask": np.array([tokens.attention_mask], dtype=np.int64),
        "features": query_features([prompt]),
    }


def weighted(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Matrix products with fixed weights."""
    fixed = {tensor.name for tensor in graph.initializer}
    return [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in fixed]


def calibrated(source: Path, target: Path, prompts: list[str]) -> None:
    """Inputs of the products in a range that was measured beforehand; tables rounded by row."""
    tables = quantised(source, kept=ALL)
    names = [node.name for node in weighted(onnx.load(tables / "encoder.onnx").graph)]
    quantize_static(
        tables / "encoder.onnx",
        target,
        Prompts(source, prompts[:CALIBRATION]),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,  # signed ones are three times slower here
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=names,
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )


def in_blocks(source: Path, target: Path) -> None:
    """Weights and inputs with a scale for every block along the sum; tables rounded by row."""
    tables = quantised(source, kept=ALL)
    model = onnx.load(tables / "encoder.onnx")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in weighted(model.graph):
        tensor = weights[node.input[1]]
        columns = numpy_helper.to_array(tensor).T
        n, k = columns.shape
        blocks = np.pad(columns, ((0, 0), (0, -k % BLOCK))).reshape(n, -1, BLOCK)
        scale = np.maximum(np.abs(blocks).max(axis=2, keepdims=True) / 127, 1e-12)
        whole = (np.rint(blocks / scale) + 128).astype(np.uint8)
        rounded = numpy_helper.from_array(whole, f"{tensor.name}_blocks")
        scales = numpy_helper.from_array(scale.ravel(), f"{tensor.name}_scales")
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend([rounded, scales])
        product = helper.make_node(
            "MatMulNBits",
            [node.input[0], rounded.name, scales.name],
            list(node.output),
            domain="com.microsoft",
            K=k,
            N=n,
            bits=8,
            block_size=BLOCK,
            accuracy_level=4,  # inputs in 8 bits too
        )
        node.CopyFrom(product)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, target)


def shallow(layers: int) -> Path:
    """MiniLM without its last layers, with query features beside it, exported."""
    from sentence_transformers import SentenceTransformer

    folder = cache_folder("encoders") / f"study-minilm-{layers}"
    if not folder.is_dir():
        model = SentenceTransformer(minilm_folder(), device="cpu")
        bert = model[0].auto_model
        bert.encoder.layer = bert.encoder.layer[:layers]
        bert.config.num_hidden_layers = layers
        with staged_folder(folder) as staged:
            model.save(str(staged))
    return FeaturedEncoder(SentenceTransformerEncoder(str(folder), dtype="float32")).export()


def show(
    encoders: dict[str, ServedEncoder],
    judged: dict[str, Judged],
    reference: Judged,
    tuning: Tuning,
) -> None:
    """The table, as Markdown."""
    whole, bare = timed(list(encoders.values()), tuning.outcomes.prompts)
    figure = "quality" if tuning.outcomes.cost is None else "AIQ"
    print(f"| encoder | MB | p50 ms | p99 | graph alone p50 | p99 | choices alike | {figure} |")
    print("|---|---|---|---|---|---|---|---|")
    for place, (name, encoder) in enumerate(encoders.items()):
        compared = compare(judged[name], reference, tuning)
        (change,) = (value for key, value in compared.items() if key.endswith("_change"))
        times = [np.percentile(taken[:, place], q) for taken in (whole, bare) for q in (50, 99)]
        print(
            f"| {name} | {encoder.size / 1e6:.1f} | "
            + " | ".join(f"{1000 * seconds:.1f}" for seconds in times)
            + f" | {compared['agreement']:.1%} | {change['value']:+.5f} "
            f"[{change['low']:+.5f}, {change['high']:+.5f}] |"
        )
    print(json.dumps({figure: reference.value, "queries": len(tuning.outcomes)}))


def timed(encoders: list[ServedEncoder], prompts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(runs, encoders) seconds from text to vector, and of the graph alone."""
    least, most = TOKENS
    feeds = [feed_of(encoders[0].folder, prompt) for prompt in prompts]
    some = [place for place, feed in enumerate(feeds) if least <= feed["input_ids"].size <= most]
    graphs = [session(encoder.folder / "encoder.onnx") for encoder in encoders]
    whole, bare = np.empty((2, ROUNDS * len(some[:PROMPTS]), len(encoders)))
    for row, place in enumerate(ROUNDS * some[:PROMPTS]):
        for column, (encoder, graph) in enumerate(zip(encoders, graphs, strict=True)):
            started = time.perf_counter()
            encoder.encode_one(prompts[place])
            between = time.perf_counter()
            graph.run(None, feeds[place])
            whole[row, column] = between - started
            bare[row, column] = time.perf_counter() - between
    return whole, bare


if __name__ == "__main__":
    main()
