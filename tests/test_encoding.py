"""Encoders and the embedding cache."""

from __future__ import annotations

import logging
import multiprocessing
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from router.encoding.cache import encode_cached
from router.encoding.sentence_transformer import SentenceTransformerEncoder, minilm_folder
from router.errors import RouterError

TEXTS = [
    "What is 2 + 2?",
    "Explain the French Revolution to a child, in three sentences.",
    "مرحبا، كيف حالك؟",
    "🧮🚀 emoji only 🧵",
    "word " * 400,
]


class CountingEncoder:
    """Hashes texts into vectors and remembers which it was asked for."""

    def __init__(self, identity: str = "counting"):
        self.identity = identity
        self.asked: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked.append(list(texts))
        return np.array([[len(text), sum(map(ord, text)) % 97, 1.0] for text in texts], np.float32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROUTER_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformerEncoder:
    return SentenceTransformerEncoder(minilm_folder(), dtype="float32")


def test_vectors_come_back_in_the_order_of_the_texts(cache: Path) -> None:
    texts = ["ccc", "a", "bb", "a"]
    first = encode_cached(CountingEncoder(), texts)
    np.testing.assert_array_equal(first, CountingEncoder().encode(texts))
    assert first.dtype == np.float32


def test_a_text_is_encoded_once_and_by_rising_length(cache: Path) -> None:
    encoder = CountingEncoder()
    encode_cached(encoder, ["ccc", "a", "bb", "a"])
    assert encoder.asked == [["a", "bb", "ccc"]]
    encode_cached(encoder, ["bb", "dddd"])
    assert encoder.asked[1:] == [["dddd"]]


def test_another_identity_shares_nothing(cache: Path) -> None:
    encode_cached(CountingEncoder("one"), ["text"])
    other = CountingEncoder("two")
    encode_cached(other, ["text"])
    assert other.asked == [["text"]]


def test_an_interrupted_run_keeps_its_finished_chunks(cache: Path) -> None:
    class Interrupted(CountingEncoder):
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().encode(texts)

    texts = [f"{number:04d}" for number in range(700)]
    interrupted = Interrupted("same")
    with pytest.raises(KeyboardInterrupt):
        encode_cached(interrupted, texts)
    done = {text for asked in interrupted.asked for text in asked}
    resumed = CountingEncoder("same")
    vectors = encode_cached(resumed, texts)
    assert {text for asked in resumed.asked for text in asked} == set(texts) - done
    np.testing.assert_array_equal(vectors, CountingEncoder().encode(texts))


def _encode_many(start: int) -> float:
    texts = [f"text {number}" for number in range(start, start + 600)]
    return float(encode_cached(CountingEncoder("shared"), texts).sum())


def test_two_processes_share_one_cache(cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.map(_encode_many, [0, 300])
    alone = CountingEncoder("shared")
    texts = [f"text {number}" for number in range(900)]
    vectors = encode_cached(alone, texts)
    assert alone.asked == []
    np.testing.assert_array_equal(vectors, CountingEncoder().encode(texts))
    assert sums == [float(vectors[:600].sum()), float(vectors[300:].sum())]


def test_a_damaged_cache_file_is_told_and_costs_nothing_but_time(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encode_cached(CountingEncoder(), ["text"])
    (store,) = (cache / "embeddings").glob("*.sqlite")
    for extra in (cache / "embeddings").glob("*.sqlite-*"):
        extra.unlink()
    store.write_bytes(b"this is no database, and long enough to be read as one" * 100)
    with caplog.at_level(logging.WARNING):
        vectors = encode_cached(CountingEncoder(), ["text"])
    np.testing.assert_array_equal(vectors, CountingEncoder().encode(["text"]))
    assert caplog.text.count("the embedding cache cannot be used") == 1


def test_the_store_holds_one_float32_vector_per_text(cache: Path) -> None:
    encode_cached(CountingEncoder(), ["text", "other"])
    (store,) = (cache / "embeddings").glob("*.sqlite")
    with sqlite3.connect(store) as connection:
        stored = connection.execute("SELECT count(*), max(length(vector)) FROM vectors").fetchone()
    assert stored == (2, 12)


def test_the_cache_moves_with_its_variable(cache: Path) -> None:
    encode_cached(CountingEncoder(), ["text"])
    assert list((cache / "embeddings").glob("counting.sqlite"))


def test_a_cache_folder_that_cannot_be_made_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ROUTER_CACHE", str(tmp_path / "file"))
    with pytest.raises(RouterError, match="set ROUTER_CACHE to a folder that you may write"):
        encode_cached(CountingEncoder(), ["text"])


def test_minilm_gives_unit_vectors_that_know_meaning(minilm: SentenceTransformerEncoder) -> None:
    vectors = minilm.encode(
        ["A cat sits on the mat.", "A kitten rests on a rug.", "Solve x^2 = 2."]
    )
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_the_exported_graph_gives_the_same_vectors(minilm: SentenceTransformerEncoder) -> None:
    folder = minilm.export()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"))
    for text, expected in zip(TEXTS, minilm.encode(TEXTS), strict=True):
        encoding = tokenizer.encode(text)
        assert len(encoding.ids) <= 256
        (vector,) = session.run(
            None,
            {
                "input_ids": np.array([encoding.ids], dtype=np.int64),
                "attention_mask": np.array([encoding.attention_mask], dtype=np.int64),
            },
        )
        np.testing.assert_allclose(vector[0], expected, atol=1e-5)


def test_the_exported_graph_ignores_padding(minilm: SentenceTransformerEncoder) -> None:
    folder = minilm.export()
    session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"))
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXTS[0]).ids
    padded = np.array([ids + [0] * 9], dtype=np.int64)
    mask = (np.arange(padded.shape[1]) < len(ids)).astype(np.int64)[None]
    bare = {"input_ids": np.array([ids]), "attention_mask": mask[:, : len(ids)]}
    (alone,) = session.run(None, bare)
    (beside,) = session.run(None, {"input_ids": padded, "attention_mask": mask})
    np.testing.assert_allclose(alone, beside, atol=1e-5)


def test_bfloat16_stays_close_to_float32(minilm: SentenceTransformerEncoder) -> None:
    short = SentenceTransformerEncoder(minilm_folder(), dtype="bfloat16")
    cosine = (minilm.encode(TEXTS) * short.encode(TEXTS)).sum(axis=1)
    assert cosine.min() > 0.999


def test_identity_tells_precision_window_and_weights(tiny_encoder: Path) -> None:
    def identity(**options: object) -> str:
        return SentenceTransformerEncoder(str(tiny_encoder), **options).identity

    plain = identity(dtype="float32")
    assert plain == identity(dtype="float32")
    assert len({plain, identity(dtype="bfloat16"), identity(dtype="float32", max_tokens=16)}) == 3
    weights = tiny_encoder / "model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert identity(dtype="float32") != plain
    finally:
        weights.write_bytes(content)


def test_a_shorter_window_cuts_longer_prompts(tiny_encoder: Path) -> None:
    encoder = SentenceTransformerEncoder(str(tiny_encoder), dtype="float32", max_tokens=8)
    long, longer = "one two three four five six seven", "one two three four five six seven eight"
    np.testing.assert_array_equal(encoder.encode([long]), encoder.encode([longer]))


@pytest.mark.parametrize("name", ["no/such-model-anywhere", "./no-such-folder"])
def test_a_model_that_is_not_to_be_had_is_one_sentence(name: str) -> None:
    with pytest.raises(RouterError, match=r"neither a local folder nor to be had from the hub"):
        _ = SentenceTransformerEncoder(name).identity


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(RouterError, match="auto, float32 or bfloat16"):
        SentenceTransformerEncoder("x", dtype="int4")
