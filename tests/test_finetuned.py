"""An encoder that learns from outcomes before it encodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished, Workplace

from router.artifact.runtime import load
from router.encoding.finetuned import FinetunedEncoder
from router.encoding.sentence_transformer import SentenceTransformerEncoder
from router.errors import RouterError

TEXTS = [f"{kind} number {i}" for i in range(48) for kind in ("sort the list", "name the capital")]
KIND = np.arange(len(TEXTS)) % 2
# One candidate is good at the first kind, the other at the second.
SCORES = np.stack([KIND == 0, KIND == 1], axis=1).astype(float)
OBSERVED = np.ones_like(SCORES, dtype=bool)


@pytest.fixture
def start(tiny_encoder: Path) -> SentenceTransformerEncoder:
    return SentenceTransformerEncoder(str(tiny_encoder), dtype="float32")


def gap_between_kinds(vectors: np.ndarray) -> float:
    """Mean cosine within a kind less that between the kinds."""
    cosine = vectors @ vectors.T
    same = KIND[:, None] == KIND
    return float(cosine[same].mean() - cosine[~same].mean())


@pytest.mark.parametrize("loss", ["classifier", "contrastive"])
def test_queries_that_want_another_candidate_move_apart(
    start: SentenceTransformerEncoder, loss: str
) -> None:
    tuned = FinetunedEncoder(start, loss, epochs=10, learning_rate=3e-3)  # type: ignore[arg-type]
    tuned.fit(TEXTS, SCORES, OBSERVED)
    before, after = start.encode(TEXTS), tuned.encode(TEXTS)
    assert gap_between_kinds(after) > gap_between_kinds(before) + 0.2
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1.0, atol=1e-5)


def test_the_same_outcomes_give_the_same_encoder_and_others_another(
    start: SentenceTransformerEncoder,
) -> None:
    one, again, other = (FinetunedEncoder(start) for _ in range(3))
    one.fit(TEXTS, SCORES, OBSERVED)
    again.fit(TEXTS, SCORES, OBSERVED)
    other.fit(TEXTS, 1 - SCORES, OBSERVED)
    assert one.identity == again.identity != other.identity
    assert one.identity != start.identity


def test_what_an_unobserved_cell_holds_makes_no_difference(
    start: SentenceTransformerEncoder,
) -> None:
    observed = OBSERVED.copy()
    observed[::3, 1] = False
    hidden = np.where(observed, SCORES, np.nan)
    one, two = FinetunedEncoder(start), FinetunedEncoder(start)
    one.fit(TEXTS, hidden, observed)
    two.fit(TEXTS, np.where(observed, SCORES, 1.0), observed)
    assert one.identity == two.identity


def test_it_must_be_fitted_and_its_values_must_be_sound(start: SentenceTransformerEncoder) -> None:
    with pytest.raises(RouterError, match="not fine-tuned yet"):
        FinetunedEncoder(start).encode(["a"])
    with pytest.raises(RouterError, match="choose classifier or contrastive"):
        FinetunedEncoder(start, "triplet")  # type: ignore[arg-type]
    with pytest.raises(RouterError, match="epochs"):
        FinetunedEncoder(start, epochs=0)


@pytest.mark.parametrize("encoder", ["finetuned", "minilm_features"])
def test_a_run_trains_it_and_tunes_the_policy_on_queries_that_it_never_saw(
    encoder: str,
    tiny_encoder: Path,
    workplace: Workplace,
    run_router: Callable[..., Finished],
) -> None:
    path = "encoder.encoder" if encoder == "finetuned" else "encoder.encoder.encoder"
    options = [f"encoder={encoder}", f"{path}.name={tiny_encoder}", f"{path}.dtype=float32"]
    if encoder == "minilm_features":  # a learning encoder inside one that joins features
        options[:1] = ["encoder=minilm_features", "encoder@encoder.encoder=finetuned"]
    finished = run_router(
        "train",
        *workplace.data,
        *options,
        "estimator=ridge",
        "tracking=none",
        "evaluation.resamples=20",
        "examples=[]",
    )
    assert finished.code == 0, finished.err
    run = workplace.folder / "outputs" / "latest"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["parity"]["decisions_equal"] == metrics["parity"]["queries"]
    # A fifth of the train side tuned the policy.
    import pandas as pd

    n_train = metrics["data"]["train_queries"]
    assert len(pd.read_parquet(run / "validation.parquet")) == pytest.approx(n_train / 5, abs=2)
    assert load(run / "artifact").route("sort the list").candidate
