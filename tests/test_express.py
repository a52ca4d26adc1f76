"""The express variant: a sentence encoder distilled into a table, trained, exported and served."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished, TrainedRun, Workplace
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tokenizers import Tokenizer

from router.artifact.runtime import Router
from router.artifact.static_encoder import StaticEncoder as ServedEncoder
from router.encoding.featured import FeaturedEncoder
from router.encoding.sentence_transformer import SentenceTransformerEncoder, minilm_folder
from router.encoding.static_encoder import StaticEncoder, tokens_in_use
from router.encoding.static_table import StaticTable, quantised
from router.errors import RouterError

TEXTS = st.one_of(
    st.text(max_size=300),
    st.text(st.characters(categories=["Cs", "So", "Lo", "Zs", "Cc"]), max_size=30),
    st.sampled_from(["", " ", "\x00", "\ud800", "🤖🤖", "[UNK]", "a " * 5000, "x" * 100_000]),
)


@pytest.fixture(scope="session")
def teacher(tiny_encoder: Path) -> SentenceTransformerEncoder:
    return SentenceTransformerEncoder(str(tiny_encoder), dtype="float32")


@pytest.fixture(scope="session")
def express(teacher: SentenceTransformerEncoder) -> StaticEncoder:
    return StaticEncoder(teacher, dimension=16)


def served(exported: Path) -> ServedEncoder:
    """The encoder as the runtime makes it of an exported folder."""
    return ServedEncoder(
        np.load(exported / "encoder.npy", allow_pickle=False),
        Tokenizer.from_file(str(exported / "tokenizer.json")),
        json.loads((exported / "encoder.json").read_text(encoding="utf-8")),
    )


# ---- The forward pass ---------------------------------------------------------------------------


@pytest.mark.parametrize("features", [False, True])
def test_training_and_serving_compute_the_same_vectors(
    express: StaticEncoder, features: bool
) -> None:
    trained = FeaturedEncoder(express, weight=0.2) if features else express
    runtime = served(trained.export())

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.lists(TEXTS, min_size=1, max_size=4))
    def check(texts: list[str]) -> None:
        vectors = trained.encode(texts)
        assert vectors.dtype == np.float32
        assert np.array_equal(vectors, np.vstack([runtime.encode_one(text) for text in texts]))
        assert np.allclose(np.linalg.norm(vectors[:, :16], axis=1), 1, atol=1e-5)

    check()


def test_a_vector_is_the_mean_of_the_token_vectors_as_in_the_reference(
    express: StaticEncoder,
) -> None:
    from model2vec import StaticModel

    folder = express.export()
    records = np.load(folder / "encoder.npy", allow_pickle=False)
    tokens = (records["scale"][:, None] * records["row"])[:-1]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference = StaticModel(tokens, tokenizer, normalize=True, max_length=256)
    texts = ["poetry question number 7", "What is 2 + 2?", "def f(x):\n    return x", "Résumé!"]
    assert np.allclose(express.encode(texts), reference.encode(texts), atol=1e-5)


def test_the_first_tokens_of_the_first_characters_are_read(
    teacher: SentenceTransformerEncoder,
) -> None:
    short = StaticEncoder(teacher, dimension=16, max_tokens=4)
    four, five = short.encode(["one two three four", "one two three four five"])
    assert np.array_equal(four, five)
    assert not np.array_equal(four, short.encode(["one two three five"])[0])
    # 16 characters a token: after 64 blanks nothing is read any more.
    assert np.array_equal(*short.encode([" " * 64, " " * 64 + "one"]))


def test_no_text_at_all_has_a_vector_of_its_own(express: StaticEncoder) -> None:
    none = express.encode([""])[0]
    assert np.array_equal(none, express.encode(["\x00"])[0])
    assert not np.allclose(none, express.encode(["poetry"])[0])
    assert express.encode([]).shape == (0, 16)


def test_token_vectors_that_cancel_out_count_as_none(express: StaticEncoder) -> None:
    tokenizer = Tokenizer.from_file(str(express.export() / "tokenizer.json"))
    vectors = np.zeros((tokenizer.get_vocab_size() + 1, 2))
    first, second = tokenizer.encode("left right").ids
    vectors[first], vectors[second], vectors[-1] = [1, 2], [-1, -2], [0, 3]
    table = StaticTable(quantised(vectors), tokenizer, 100)
    assert np.allclose(table.encode_one("left right"), [0, 1])
    assert np.allclose(table.encode_one("left"), np.array([1, 2]) / np.sqrt(5), atol=0.01)


@settings(deadline=None)
@given(arrays(np.float64, (7, 5), elements=st.floats(-1e6, 1e6)))
def test_quantising_errs_by_half_a_step_at_most(vectors: np.ndarray) -> None:
    records = quantised(vectors)
    restored = records["scale"][:, None].astype(float) * records["row"]
    step = np.abs(vectors).max(axis=1, keepdims=True) / 127
    assert (np.abs(restored - vectors) <= 0.501 * step + 1e-30).all()


def test_vectors_that_are_not_finite_are_refused() -> None:
    with pytest.raises(RouterError, match="not finite"):
        quantised(np.array([[0.0, np.nan]]))


# ---- The distillation ---------------------------------------------------------------------------


def test_a_word_alone_lies_where_the_teacher_puts_it(
    teacher: SentenceTransformerEncoder,
) -> None:
    words = ["poetry", "algebra", "train", "python", "number", "capital", "hello"]
    everything = StaticEncoder(teacher, dimension=32, sif=None)
    records = np.load(everything.export() / "encoder.npy", allow_pickle=False)
    tokenizer = Tokenizer.from_file(str(everything.export() / "tokenizer.json"))
    ids = [tokenizer.encode(word).ids for word in words]
    assert all(len(found) == 1 for found in ids)
    rows = np.array([records["scale"][i] * records["row"][i].astype(float) for (i,) in ids])
    taught = teacher.encode(words)
    # Principal components turn the space about its mean: distances stay.
    for a in (rows, taught):
        assert a.shape == (7, 32)
    ours, theirs = (
        np.linalg.norm(points[:, None] - points[None], axis=2) for points in (rows, taught)
    )
    assert np.allclose(ours, theirs, atol=0.02)


def test_frequent_tokens_count_less(teacher: SentenceTransformerEncoder) -> None:
    weighed, plain = (
        np.load(StaticEncoder(teacher, 16, sif).export() / "encoder.npy", allow_pickle=False)
        for sif in (1e-3, None)
    )
    assert np.array_equal(weighed["row"], plain["row"])
    tokenizer = Tokenizer.from_file(str(StaticEncoder(teacher, 16).export() / "tokenizer.json"))
    used = tokens_in_use(tokenizer)
    ratio = weighed["scale"][:-1][used] / plain["scale"][:-1][used]
    harmonic = (1 / np.arange(2, used.sum() + 2)).sum()
    for place in (0, 1, 1000, used.sum() - 1):  # Zipf: the n-th most frequent has share ~ 1 / n
        share = 1 / (place + 2) / harmonic
        assert ratio[place] == pytest.approx(1e-3 / (1e-3 + share), rel=1e-4)
    assert used.sum() == len(used) - 994  # the places that BERT's vocabulary keeps free


def test_a_distilled_table_is_kept_and_named_by_what_made_it(
    teacher: SentenceTransformerEncoder,
) -> None:
    folder = StaticEncoder(teacher, 16).export()
    before = (folder / "encoder.npy").stat().st_mtime_ns
    assert StaticEncoder(teacher, 16).export() == folder
    assert (folder / "encoder.npy").stat().st_mtime_ns == before
    others = [StaticEncoder(teacher, 8), StaticEncoder(teacher, 16, max_tokens=8)]
    assert len({folder, *(other.export() for other in others)}) == 3


def test_the_table_of_a_minilm_is_small(tmp_path: Path) -> None:
    """MiniLM's own vocabulary, width and weights; of its six layers the first alone, for time."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(minilm_folder(), device="cpu")
    bert: Any = model[0].model
    del bert.encoder.layer[1:]
    bert.config.num_hidden_layers = 1
    model.save(str(tmp_path / "shallow"))
    encoder = StaticEncoder(SentenceTransformerEncoder(str(tmp_path / "shallow"), dtype="float32"))
    sizes = {path.name: path.stat().st_size for path in encoder.export().iterdir()}
    assert set(sizes) == {"encoder.npy", "encoder.json", "tokenizer.json"}
    assert 7e6 < sizes["encoder.npy"] < 8.1e6
    assert sum(sizes.values()) < 9e6
    cat, dog, stocks = encoder.encode(
        ["a cat sat on the mat", "a dog sat on the mat", "the stock market fell"]
    )
    assert cat @ dog > cat @ stocks


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        ({"dimension": 0}, "dimension and max_tokens of at least 1"),
        ({"sif": 1.0}, "encoder.sif is 1.0; give a number between 0 and 1, or null"),
        ({"sif": 0.0}, "encoder.sif is 0.0"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(
    teacher: SentenceTransformerEncoder, parameters: dict[str, float], fault: str
) -> None:
    with pytest.raises(RouterError, match=fault):
        StaticEncoder(teacher, **parameters)  # type: ignore[arg-type]


def test_features_cannot_teach(teacher: SentenceTransformerEncoder) -> None:
    with pytest.raises(RouterError, match="is a FeaturedEncoder, which has no weights to distil"):
        StaticEncoder(FeaturedEncoder(teacher))


@pytest.mark.parametrize(
    "facts",
    [None, {"kind": "static"}, {"kind": "other", "characters": 9}, {"kind": "static", "new": 1}],
)
def test_an_encoder_of_another_kind_is_refused(express: StaticEncoder, facts: object) -> None:
    folder = express.export()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with pytest.raises(RouterError, match="update query-router"):
        ServedEncoder(np.load(folder / "encoder.npy"), tokenizer, facts)  # type: ignore[arg-type]


def test_a_table_of_another_tokenizer_is_refused(express: StaticEncoder) -> None:
    folder = express.export()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = np.load(folder / "encoder.npy", allow_pickle=False)
    for wrong in (rows[:-1], rows["row"]):
        with pytest.raises(RouterError, match=r"encoder.npy does not fit tokenizer.json"):
            StaticTable(wrong, tokenizer, 100)


# ---- The pipelines ------------------------------------------------------------------------------

RunRouter = Callable[..., Finished]


def distilling(encoder: str, where: str, workplace: Workplace) -> list[str]:
    """Overrides of an express encoder with the workplace's tiny teacher."""
    _, name, dtype = workplace.encoder
    return [
        f"encoder={encoder}",
        f"encoder@{where}=sentence_transformer",
        name.replace("encoder", where, 1),
        dtype.replace("encoder", where, 1),
    ]


@pytest.mark.parametrize(
    ("encoder", "where", "dimension"),
    [
        ("express", "encoder.teacher", 32),
        ("express_features", "encoder.encoder.teacher", 32 + 25),
    ],
)
def test_a_run_with_an_express_encoder_ends_in_an_artifact_that_routes(
    run_router: RunRouter, workplace: Workplace, encoder: str, where: str, dimension: int
) -> None:
    finished = run_router(
        "train", *workplace.data, *distilling(encoder, where, workplace),
        "evaluation.resamples=20", "examples=[]", "estimator=ridge", "policy=budget",
        "tracking=none", "hydra.run.dir=run",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    artifact = Path("run/artifact")
    names = {path.name for path in artifact.iterdir()}
    assert {"encoder.npy", "tokenizer.json", "manifest.json"} < names
    assert not names & {"encoder.onnx", "encoder.json"}
    metrics = json.loads(Path("run/metrics.json").read_text(encoding="utf-8"))
    assert metrics["parity"]["decisions_equal"] == metrics["queries"]
    router = Router(artifact)
    assert router.encode(["poetry question"]).shape == (1, dimension)
    decision = router.route("poetry question number 5")
    assert decision.candidate in {"large", "medium", "small"}
    without_onnxruntime(artifact, decision.candidate)


def without_onnxruntime(artifact: Path, candidate: str) -> None:
    """A linear head and a table need numpy and tokenizers alone."""
    code = (
        "import sys, router\n"
        "print(router.load(sys.argv[1]).route('poetry question number 5').candidate)\n"
        "print('onnxruntime' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(artifact)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [candidate, "False"]


def test_express_trains_a_finished_run_anew_and_compares(
    run_router: RunRouter, trained_run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = run_router(
        "express", f"run={trained_run.folder}", "encoder.dimension=8", "hydra.run.dir=fast",
        "latest=null",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    told = json.loads(Path("fast/express.json").read_text(encoding="utf-8"))
    before, after = told["before"], told["after"]
    figures = json.loads((trained_run.folder / "metrics.json").read_text(encoding="utf-8"))
    assert before["test_aiq"] == figures["router"]["aiq"]["value"]
    assert before["validation_aiq"] == figures["validation"]["aiq"]
    figures = json.loads(Path("fast/metrics.json").read_text(encoding="utf-8"))
    assert after["test_aiq"] == figures["router"]["aiq"]["value"]
    change = after["test_aiq"] - before["test_aiq"]
    line = f"AIQ on test: {before['test_aiq']:.4f} -> {after['test_aiq']:.4f} ({change:+.4f})"
    assert line in finished.out
    assert 0 < after["p50_ms"] <= after["p99_ms"]
    size = sum(path.stat().st_size for path in Path("fast/artifact").iterdir())
    assert after["bytes"] == size
    assert Router("fast/artifact").encode(["poetry"]).shape == (1, 8)


def test_features_are_kept_where_that_is_asked_for() -> None:
    from router.pipelines.express import FEATURED, STATIC, distilled

    inner = {"_target_": "router.encoding.sentence_transformer.SentenceTransformerEncoder"}
    options = {"_target_": STATIC, "dimension": 8, "teacher": {"_target_": "another"}}
    run = {"_target_": FEATURED, "encoder": inner, "weight": 0.1}
    static = {"_target_": STATIC, "dimension": 8, "teacher": inner}
    assert distilled(inner, options, True) == static
    assert distilled(run, options, False) == static
    assert distilled(run, options, True) == {**run, "encoder": static}
    with pytest.raises(RouterError, match="express already"):
        distilled(static, options, False)


def test_express_says_what_it_needs(
    run_router: RunRouter, trained_run: TrainedRun, tmp_path: Path
) -> None:
    for arguments, fault in [
        ([], "A finished run is needed: give run=FOLDER."),
        ([f"run={tmp_path}"], "no finished run with an artifact here; give run=FOLDER."),
        ([f"run={trained_run.folder}", "encoder=minilm"], "distils the run's own encoder"),
        ([f"run={trained_run.folder}", "features=perhaps"], "give true or false"),
    ]:
        finished = run_router("express", *arguments)
        assert finished.code == 2
        assert fault in finished.err
