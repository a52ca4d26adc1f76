"""Query features beside the vector: what they read, and that the artifact reads the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished, Workplace
from hypothesis import given
from hypothesis import strategies as st

from router.artifact.runtime import load
from router.encoding.cache import encode_cached
from router.encoding.featured import FeaturedEncoder
from router.encoding.query_features import FEATURES, LIMIT, query_features
from router.encoding.sentence_transformer import SentenceTransformerEncoder
from router.errors import RouterError

PROMPTS = [
    "who wrote Faust",
    "def add(a, b):\n    return a + b\n\nWhat does it return for add(2, 3)?",
    " ¿Cuál es la capital de Perú? 🇵🇪",
]


@given(st.lists(st.text(st.characters(), max_size=200), max_size=5))
def test_every_text_has_features_within_the_limit(texts: list[str]) -> None:
    features = query_features(texts)
    assert features.shape == (len(texts), len(FEATURES))
    assert features.dtype == np.float32
    assert (np.abs(features) <= LIMIT).all()


# name of the feature, a prompt that has more of it, one that has less
CONTRASTS = [
    ("log characters", "a long question about many things", "short"),
    ("log words", "one two three four", "one"),
    ("log lines", "one\ntwo\nthree", "one two three"),
    ("log numbers", "add 3, 14.5 and 1,000", "add them"),
    ("characters per word", "internationalisation", "a b c d"),
    ("commas per word", "red, green, blue", "red green blue"),
    ("share of digits", "12345", "abcde"),
    ("share of capitals", "NASA", "nasa"),
    ("share of punctuation", "Well; then: stop.", "well then stop"),
    ("share of symbols", "x = y / (z + 1)", "x is y over z"),
    ("share beyond Latin", "столица Перу", "the capital of Peru"),
    ("English words per word", "what is the capital of it", "wie heisst die Hauptstadt"),
    ("begins with a capital", "Name it", "name it"),
    ("begins by asking", '"Who wrote it"', "they know who wrote it"),
    ("ends with a question mark", "is it? ", "it is? yes"),
    ("ends with a full stop", "It is.", "It is"),
    ("ends without a mark", "who is it", "who is it?"),
    ("has blanks around it", " name it", "name it"),
    ("holds a question mark", "is it? yes", "it is"),
    ("holds a formula", r"solve $x^2 = 4$ for x", "costs 5$"),
    ("holds code", "import os", "the import of goods"),
    ("holds answer options", "Which?\nA. one\nB. two", "Which? one or two"),
    ("holds a blank to fill", "the ____ is blue", "the sky is blue"),
    ("holds a double space", "One.  Two.", "One. Two."),
    ("holds an empty line", "one\n\ntwo", "one\ntwo"),
]


def test_every_feature_has_its_contrast() -> None:
    assert [name for name, _, _ in CONTRASTS] == list(FEATURES)


@pytest.mark.parametrize(("name", "more", "less"), CONTRASTS, ids=[row[0] for row in CONTRASTS])
def test_a_feature_reads_what_its_name_says(name: str, more: str, less: str) -> None:
    column = list(FEATURES).index(name)
    high, low = query_features([more, less])[:, column]
    assert high > low


def test_the_vector_stands_first_and_the_weighted_features_behind(tiny_encoder: Path) -> None:
    plain = SentenceTransformerEncoder(str(tiny_encoder), dtype="float32")
    joined = encode_cached(FeaturedEncoder(plain, weight=0.5), PROMPTS)
    np.testing.assert_array_equal(joined[:, : -len(FEATURES)], encode_cached(plain, PROMPTS))
    np.testing.assert_array_equal(joined[:, -len(FEATURES) :], 0.5 * query_features(PROMPTS))


def test_another_weight_encodes_no_prompt_again(tiny_encoder: Path) -> None:
    class Counting(SentenceTransformerEncoder):
        encoded = 0
        identity = "counting"

        def encode(self, texts: list[str]) -> np.ndarray:  # type: ignore[override]
            self.encoded += len(texts)
            return super().encode(texts)

    encoder = Counting(str(tiny_encoder), dtype="float32")
    texts = [f"only here {number}" for number in range(3)]
    for weight in (0.1, 0.2):
        encode_cached(FeaturedEncoder(encoder, weight), texts)
    assert encoder.encoded == len(texts)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_no_weight_is_refused(tiny_encoder: Path, weight: float) -> None:
    with pytest.raises(RouterError, match=r"encoder\.weight"):
        FeaturedEncoder(SentenceTransformerEncoder(str(tiny_encoder)), weight)


def test_the_artifact_computes_the_same_vectors(
    tiny_encoder: Path, workplace: Workplace, run_router: Callable[..., Finished]
) -> None:
    finished = run_router(
        "train",
        *workplace.data,
        "encoder=minilm_features",
        f"encoder.encoder.name={tiny_encoder}",
        "encoder.encoder.dtype=float32",
        "encoder.weight=0.3",
        "estimator=ridge",
        "precision=fp32",
        "tracking=none",
        "evaluation.resamples=20",
    )
    assert finished.code == 0, finished.err
    router = load(workplace.folder / "outputs" / "latest" / "artifact")
    plain = SentenceTransformerEncoder(str(tiny_encoder), dtype="float32")
    expected = FeaturedEncoder(plain, weight=0.3).encode(PROMPTS)
    np.testing.assert_allclose(router.encode(PROMPTS), expected, atol=1e-5)
    assert router.route(PROMPTS[1]).candidate in router.candidates
