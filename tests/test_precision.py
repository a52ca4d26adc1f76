"""The encoder's precision: 8-bit graphs, and the choice between them on validation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper

from router.artifact.precision import quantised
from router.artifact.runtime import Router
from router.artifact.served import ServedEncoder
from router.encoding.encoder import Encoder
from router.encoding.featured import FeaturedEncoder
from router.encoding.query_features import query_features
from router.encoding.sentence_transformer import PROBES, SentenceTransformerEncoder, minilm_folder
from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix
from router.pipelines.precision import Encoding, Tuning, encoding_of
from router.policies import Utility
from router.prediction import Prediction

TEXTS = ["Hi", "¿Qué hora es? 🕐", *PROBES, "word " * 400, "half a pair: \ud800"]


@pytest.fixture
def exported(tiny_encoder: Path) -> Path:
    return SentenceTransformerEncoder(str(tiny_encoder), dtype="float32").export()


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def products(folder: Path) -> tuple[int, int]:
    """Matrix products with fixed weights in float32, and in integers."""
    graph = onnx.load(folder / "encoder.onnx").graph
    fixed = {tensor.name for tensor in graph.initializer}
    kinds = [node.op_type for node in graph.node if fixed & set(node.input)]
    return kinds.count("MatMul"), kinds.count("MatMulInteger")


def test_an_8_bit_encoder_is_a_quarter_as_large_and_says_nearly_the_same(exported: Path) -> None:
    exact, rounded = ServedEncoder(exported), ServedEncoder(quantised(exported))
    assert rounded.size < 0.35 * exact.size  # a tiny encoder's graph is not all weights
    assert cosines(exact.encode(TEXTS), rounded.encode(TEXTS)).min() > 0.98
    floats, integers = products(rounded.folder)
    assert floats == 0
    assert integers == products(exact.folder)[0] > 0
    facts = json.loads((rounded.folder / "encoder.json").read_text(encoding="utf-8"))
    assert facts == {"kind": "onnx", "precision": "int8"}


def test_query_features_beside_the_vector_stay_exact(tiny_encoder: Path) -> None:
    encoder = FeaturedEncoder(SentenceTransformerEncoder(str(tiny_encoder), dtype="float32"))
    exact, rounded = (
        ServedEncoder(folder).encode(TEXTS[:-1])
        for folder in (encoder.export(), quantised(encoder.export()))
    )
    features = np.float32(encoder.weight) * query_features(TEXTS[:-1])
    width = features.shape[1]
    np.testing.assert_array_equal(rounded[:, -width:], features)
    assert cosines(exact[:, :-width], rounded[:, :-width]).min() > 0.98


def outlying(folder: Path, exported: Path) -> Path:
    """Folder of an encoder with two products of the same rows, of which "fragile" has one weight in
    each column that dwarfs the others and meets zeros alone."""
    rng = np.random.default_rng(0)
    table, robust, fragile = (rng.normal(size=(n, 8)).astype(np.float32) for n in (30522, 8, 8))
    table[:, -1], fragile[-1] = 0, 1000
    text = {"ids": ["input_ids"], "mask": ["attention_mask"]}
    nodes = [
        helper.make_node("Gather", ["table", *text["ids"]], ["rows"]),
        helper.make_node("MatMul", ["rows", "robust"], ["robust_rows"], name="robust"),
        helper.make_node("MatMul", ["rows", "fragile"], ["fragile_rows"], name="fragile"),
        helper.make_node("Concat", ["robust_rows", "fragile_rows"], ["both"], axis=2),
        helper.make_node("Cast", text["mask"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["seen", "last"], ["column"]),
        helper.make_node("Mul", ["both", "column"], ["masked"]),
        helper.make_node("ReduceMean", ["masked"], ["vector"], axes=[1], keepdims=0),
    ]
    arrays = {"table": table, "robust": robust, "fragile": fragile, "last": np.array([2])}
    tokens = ["batch", "tokens"]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, tokens)
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    folder.mkdir()
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "encoder.onnx")
    shutil.copyfile(exported / "tokenizer.json", folder / "tokenizer.json")
    return folder


def test_the_most_sensitive_products_are_kept_in_float32(exported: Path, tmp_path: Path) -> None:
    source = outlying(tmp_path / "outlying", exported)
    exact = ServedEncoder(source).encode(TEXTS)
    worst = []
    for kept, left in ((0, set()), (1, {"fragile"}), (9, {"fragile", "robust"})):
        folder = quantised(source, kept, TEXTS)
        graph = onnx.load(folder / "encoder.onnx").graph
        assert {node.name for node in graph.node if node.op_type == "MatMul"} == left
        worst.append(np.abs(ServedEncoder(folder).encode(TEXTS) - exact).max())
    assert worst[0] > 10 * worst[1] > worst[2]


def test_a_precision_is_made_once_and_each_has_an_identity_of_its_own(exported: Path) -> None:
    first = quantised(exported)
    made = (first / "encoder.onnx").stat().st_mtime_ns
    assert quantised(exported) == first
    assert (first / "encoder.onnx").stat().st_mtime_ns == made
    folders = [exported, first, quantised(exported, 2, TEXTS), quantised(exported, 3, TEXTS)]
    assert len({ServedEncoder(folder).identity for folder in folders}) == len(folders)
    assert not [path for path in first.parent.iterdir() if path.name.startswith(".")]


def test_a_vector_does_not_depend_on_what_is_encoded_beside_it(exported: Path) -> None:
    encoder = ServedEncoder(quantised(exported))
    together = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in reversed(TEXTS)])[::-1]
    np.testing.assert_array_equal(together, alone)


def test_minilm_in_8_bits_keeps_its_size_and_its_meaning() -> None:
    exported = SentenceTransformerEncoder(minilm_folder(), dtype="float32").export()
    rounded = quantised(exported)
    files = sum(path.stat().st_size for path in rounded.iterdir())
    assert (
        files < 23.8e6
    )  # a linear head has .2 MB to stay within 24, boosted trees have 5 within 29
    texts = list(PROBES)
    exact, found = (ServedEncoder(folder).encode(texts) for folder in (exported, rounded))
    assert cosines(exact, found).min() > 0.985


# ---- The choice on validation --------------------------------------------------------------------


@pytest.fixture
def tuning(problem: Callable[..., tuple[np.ndarray, OutcomeMatrix]]) -> Tuning:
    """Validation queries of which the reference predicts the outcomes themselves."""
    _, outcomes = problem(60)
    assert outcomes.cost is not None
    known = Prediction(
        outcomes.candidates, outcomes.scores, np.zeros_like(outcomes.scores), outcomes.cost
    )
    return Tuning(outcomes, known, lambda encoder: known, Utility())


def spoiled(known: Prediction) -> Prediction:
    """Says the opposite of the truth."""
    return replace(known, quality=1 - known.quality)


def shipped(encoding: Encoding) -> tuple[str, list[str]]:
    assert encoding.facts is not None
    facts: dict[str, Any] = encoding.facts
    return facts["precision"], [entry["precision"] for entry in facts["tried"]]


def precision_of(encoder: Encoder) -> str:
    assert isinstance(encoder, ServedEncoder)
    facts = json.loads((encoder.folder / "encoder.json").read_text(encoding="utf-8"))
    return str(facts["precision"])


def test_auto_ships_the_fastest_that_loses_nothing(exported: Path, tuning: Tuning) -> None:
    encoding = encoding_of(exported, "auto", tuning)
    assert shipped(encoding) == ("int8", ["fp32", "int8"])
    assert encoding.export() == quantised(exported)
    assert encoding.facts is not None
    exact, rounded = encoding.facts["tried"]
    assert set(exact) == {"precision", "p50_ms", "bytes"}
    assert rounded["agreement"] == 1.0
    assert rounded["aiq_change"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert rounded["bytes"] < exact["bytes"]
    assert min(exact["p50_ms"], rounded["p50_ms"]) > 0


@pytest.mark.parametrize(("bad", "expected"), [({"int8"}, "mixed"), ({"int8", "mixed"}, "fp32")])
def test_auto_passes_over_what_loses(
    exported: Path, tuning: Tuning, bad: set[str], expected: str
) -> None:
    known = tuning.prediction

    def predict(encoder: Encoder) -> Prediction:
        return spoiled(known) if precision_of(encoder) in bad else known

    encoding = encoding_of(exported, "auto", replace(tuning, predict=predict))
    assert shipped(encoding) == (expected, ["fp32", "int8", "mixed"])
    assert encoding.prediction is known
    assert encoding.facts is not None
    change = encoding.facts["tried"][1]["aiq_change"]
    assert change["low"] <= change["value"] <= change["high"] < 0
    assert encoding.facts["tried"][1]["agreement"] < 1
    assert (encoding.folder == exported) == (expected == "fp32")


def test_a_named_precision_ships_whatever_it_costs(exported: Path, tuning: Tuning) -> None:
    bad = spoiled(tuning.prediction)
    asked = replace(tuning, predict=lambda encoder: bad)
    encoding = encoding_of(exported, "int8", asked)
    assert shipped(encoding) == ("int8", ["fp32", "int8"])
    assert encoding.prediction is bad
    assert shipped(encoding_of(exported, "fp32", asked)) == ("fp32", ["fp32"])


def test_without_costs_the_mean_score_decides(exported: Path, tuning: Tuning) -> None:
    known = replace(tuning.prediction, cost=None)
    free = replace(
        tuning,
        outcomes=replace(tuning.outcomes, cost=None),
        prediction=known,
        predict=lambda encoder: spoiled(known) if precision_of(encoder) == "int8" else known,
    )
    encoding = encoding_of(exported, "auto", free)
    assert shipped(encoding) == ("mixed", ["fp32", "int8", "mixed"])
    assert encoding.facts is not None
    assert encoding.facts["tried"][1]["quality_change"]["value"] < 0


def test_one_group_alone_has_no_interval(exported: Path, tuning: Tuning) -> None:
    queries = tuning.outcomes.queries.assign(group=0)
    encoding = encoding_of(
        exported, "auto", replace(tuning, outcomes=replace(tuning.outcomes, queries=queries))
    )
    assert encoding.facts is not None
    change = encoding.facts["tried"][1]["aiq_change"]
    assert change == {"value": 0.0, "low": None, "high": None}
    json.dumps(encoding.facts, allow_nan=False)


def test_an_encoder_that_is_no_graph_ships_as_it_is(tmp_path: Path, tuning: Tuning) -> None:
    (tmp_path / "encoder.npy").touch()
    assert encoding_of(tmp_path, "auto", tuning) == Encoding(tmp_path, tuning.prediction, None)
    with pytest.raises(RouterError, match=r"^precision=int8: .* leave precision=auto\.$"):
        encoding_of(tmp_path, "int8", tuning)


# ---- The verbs -----------------------------------------------------------------------------------

FAST = ("estimator=ridge", "policy=budget", "tracking=none", "latest=null")


@pytest.fixture
def train(run_router: Callable[..., Any], workplace: Any) -> Callable[..., Path]:
    """Train in a folder of the workplace; returns the run."""

    def run(name: str, *options: str) -> Path:
        folder = workplace.folder / name
        done = run_router("train", *workplace.options, *FAST, f"hydra.run.dir={folder}", *options)
        assert done.code == 0, done.err
        return Path(folder)

    return run


def test_what_is_judged_is_what_ships(train: Callable[..., Path], workplace: Any) -> None:
    router = Router(train("run", "precision=int8") / "artifact")
    assert router.manifest["encoder"]["precision"] == "int8"
    encoder = router.manifest["files"]["encoder.onnx"]
    assert encoder["bytes"] == router.manifest["encoder"]["tried"][1]["bytes"]
    judged = pd.read_parquet(workplace.folder / "run" / "predictions.parquet")
    prompts = pd.read_csv(workplace.table).drop_duplicates("query_id").set_index("query_id").prompt
    served = router.predict(router.encode(prompts[judged["query_id"]].tolist()))
    for j, name in enumerate(router.candidates):
        np.testing.assert_array_equal(judged[f"quality:{name}"], served.quality[:, j])


def test_the_artifact_computes_the_vectors_on_which_the_policy_was_tuned(
    train: Callable[..., Path], tiny_encoder: Path
) -> None:
    router = Router(train("run", "precision=int8") / "artifact")
    exported = SentenceTransformerEncoder(str(tiny_encoder), dtype="float32").export()
    encoder = ServedEncoder(quantised(exported))
    assert router.identity == encoder.identity
    np.testing.assert_array_equal(router.encode(TEXTS), encoder.encode(TEXTS))


def test_auto_is_the_default_and_prints_what_it_tried(
    run_router: Callable[..., Any], workplace: Any
) -> None:
    done = run_router("train", *workplace.options, *FAST, "hydra.run.dir=run")
    assert done.code == 0, done.err
    assert "Precision  fp32 " in done.out
    assert "of choices alike <- ships" in done.out
    assert json.loads(Path("run/artifact/manifest.json").read_text())["encoder"]["tried"]


def test_another_precision_of_a_run_is_the_one_that_training_would_have_made(
    train: Callable[..., Path], run_router: Callable[..., Any], workplace: Any
) -> None:
    exact, rounded = train("exact", "precision=fp32"), train("rounded", "precision=int8")
    assert Router(exact / "artifact").manifest["encoder"]["precision"] == "fp32"
    done = run_router("export", f"run={exact}", "out=again", "precision=int8")
    assert done.code == 0, done.err
    again, there = Router("again").manifest, Router(rounded / "artifact").manifest
    assert again["files"] == there["files"]
    assert again["policy"] == there["policy"]
    assert again["golden"] == there["golden"]
    expected = json.loads((rounded / "metrics.json").read_text())["validation"]
    assert again["validation"] == expected
    assert again["metrics"] is None
    assert Router(exact / "artifact").manifest["encoder"]["precision"] == "fp32"


def test_export_takes_another_policy_and_a_zip_file_with_another_precision(
    train: Callable[..., Path], run_router: Callable[..., Any]
) -> None:
    run = train("run", "precision=int8")
    done = run_router("export", f"run={run}", "out=r.zip", "precision=fp32", "policy=utility")
    assert done.code == 0, done.err
    manifest = Router("r.zip").manifest
    assert manifest["encoder"]["precision"] == "fp32"
    assert manifest["policy"]["name"] == "Utility"


def test_export_says_what_is_missing_where_the_data_is_gone(
    train: Callable[..., Path], run_router: Callable[..., Any], workplace: Any
) -> None:
    run = train("run", "precision=fp32")
    workplace.table.unlink()
    done = run_router("export", f"run={run}", "out=again", "precision=auto")
    assert done.code == 2
    assert done.err.startswith("router: precision=auto needs the run's prompts. ")
    assert str(workplace.table) in done.err
    assert not Path("again").exists()


@pytest.mark.parametrize("verb", ["train", "export"])
def test_an_unknown_precision_is_refused_before_any_work(
    verb: str, run_router: Callable[..., Any], workplace: Any, trained_run: Any
) -> None:
    options = workplace.options if verb == "train" else (f"run={trained_run.folder}", "out=again")
    done = run_router(verb, *options, "precision=int4")
    assert done.code == 2
    assert done.err == "router: precision is 'int4'; give one of auto, fp32, int8, mixed.\n"
