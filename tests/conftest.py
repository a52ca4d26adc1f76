"""What tests share: synthetic problems, a tiny encoder, the real tables."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from router.outcomes.matrix import OutcomeMatrix, build_matrix
from router.outcomes.prices import Price, PriceTable

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
CANDIDATES = ("large", "medium", "small")


@pytest.fixture
def shared_table() -> Callable[[str], Path]:
    """Path of a real development table; the test is skipped where the folder is absent."""

    def find(name: str) -> Path:
        path = SHARED / f"{name}.parquet"
        if not path.is_file():
            pytest.skip(f"{path} is not on this machine")
        return path

    return find


def make_table(
    n: int = 120, seed: int = 0, costs: str | None = "usd", observed: float = 1.0
) -> tuple[pd.DataFrame, np.ndarray]:
    """A long outcome table of n queries and its (n, 8) unit vectors.

    Two kinds of prompt lie on two sides of the vector space; "large" is good at both, "medium" at
    the first only, "small" at neither. costs: "usd", "tokens" or None. observed: share of cells.
    """
    rng = np.random.default_rng(seed)
    kind = rng.integers(2, size=n)
    vectors = rng.normal(size=(n, 8)) + 3 * np.where(kind[:, None] == 0, 1.0, -1.0) * np.eye(8)[0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chance = {"large": np.array([0.9, 0.9]), "medium": np.array([0.9, 0.3]), "small": [0.3, 0.2]}
    dollars = {"large": 0.01, "medium": 0.001, "small": 0.0001}
    topics = ("poetry", "algebra")
    rows = []
    for i in range(n):
        seen = [name for name in CANDIDATES if rng.random() < observed] or ["large"]
        for name in seen:
            row = {
                "query_id": f"q{i}",
                "prompt": f"{topics[kind[i]]} question number {i}",
                "model": name,
                "score": float(rng.random() < chance[name][kind[i]]),
                "task": topics[kind[i]],
            }
            scale = rng.lognormal(sigma=0.3)
            if costs == "usd":
                row["cost_usd"] = dollars[name] * scale
            elif costs == "tokens":
                row["input_tokens"] = int(20 * scale) + 1
                row["output_tokens"] = int(100 * scale) + 1
            rows.append(row)
    return pd.DataFrame(rows), vectors


PRICES = PriceTable(
    {
        "large": Price(10.0, 40.0, "2026-01-01"),
        "medium": Price(1.0, 4.0, "2026-01-01"),
        "small": Price(0.1, 0.4, "2026-01-01"),
    }
)


def make_problem(
    n: int = 120, seed: int = 0, costs: str | None = "usd", observed: float = 1.0
) -> tuple[np.ndarray, OutcomeMatrix]:
    """(vectors, outcomes) of make_table."""
    table, vectors = make_table(n, seed, costs, observed)
    return vectors, build_matrix(table, PRICES if costs == "tokens" else None)


@pytest.fixture
def problem() -> Callable[..., tuple[np.ndarray, OutcomeMatrix]]:
    """make_problem, as a fixture."""
    return make_problem


@pytest.fixture
def table() -> Callable[..., tuple[pd.DataFrame, np.ndarray]]:
    """make_table, as a fixture."""
    return make_table


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a sentence-transformers model with random weights that encodes in a blink; it has
    MiniLM's own tokenizer."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    from router.encoding.sentence_transformer import minilm_folder

    torch.manual_seed(0)
    bare = tmp_path_factory.mktemp("bert")
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    transformer = Transformer(str(bare), max_seq_length=64)
    pooling = Pooling(transformer.get_embedding_dimension())
    folder = tmp_path_factory.mktemp("encoder")
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder))
    return folder


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests of the pipelines never touch the user's cache, save for the default data set's wheel,
    which is fetched once."""
    os.environ.setdefault("ROUTER_CACHE", str(tmp_path_factory.mktemp("cache")))


# ---- The command line, the artifact and the runtime: one trained run, shared --------------------


@dataclass(frozen=True)
class Finished:
    """What a call of the command line left: exit code and both outputs."""

    code: int
    out: str
    err: str


@pytest.fixture
def run_router(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Call `router` inside this process: run_router("train", "policy=utility")."""
    from router.cli import main

    def run(*arguments: str | Path) -> Finished:
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


@dataclass(frozen=True)
class Workplace:
    """A folder with a small table in it, and the overrides that make a run of it take a second.

    data: the table. encoder: the tiny one. options: both, and a short evaluation.
    """

    folder: Path
    table: Path
    data: tuple[str, ...]
    encoder: tuple[str, ...]

    @property
    def options(self) -> tuple[str, ...]:
        return (*self.data, *self.encoder, "evaluation.resamples=20", "examples=[]")


def make_workplace(folder: Path, encoder: Path, n: int = 60) -> Workplace:
    """A workplace in an empty folder."""
    table, _ = make_table(n)
    table.to_csv(folder / "table.csv", index=False)
    return Workplace(
        folder,
        folder / "table.csv",
        ("data=table", f"data.path={folder / 'table.csv'}"),
        ("encoder=sentence_transformer", f"encoder.name={encoder}", "encoder.dtype=float32"),
    )


@pytest.fixture
def workplace(tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """An empty workplace, which is the working directory too."""
    monkeypatch.chdir(tmp_path)
    return make_workplace(tmp_path, tiny_encoder)


@dataclass(frozen=True)
class TrainedRun:
    """A finished run of `router train` with a ridge router and `policy=budget`, recorded in MLflow.
    Read only.

    out, err: what it printed; nothing was in any cache before.
    """

    workplace: Workplace
    folder: Path
    out: str
    err: str

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"


@pytest.fixture(scope="session")
def trained_run(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """One run, trained once for all tests that only look at it."""
    from router.cli import main

    place = make_workplace(tmp_path_factory.mktemp("trained"), tiny_encoder, n=120)
    folder = place.folder / "run"
    places = {
        "hydra.run.dir": folder,
        "latest": "null",
        "tracking.uri": f"sqlite:///{place.folder / 'mlflow.db'}",
        "tracking.artifacts": place.folder / "mlartifacts",
    }
    given = [f"{key}={value}" for key, value in places.items()]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        main(["train", *place.options, "estimator=ridge", "policy=budget", "name=shared", *given])
    return TrainedRun(place, folder, out.getvalue(), err.getvalue())


@pytest.fixture
def artifact_copy(trained_run: TrainedRun, tmp_path: Path) -> Path:
    """The shared run's artifact, to damage."""
    copy = shutil.copytree(
        trained_run.artifact, tmp_path / "artifact", copy_function=shutil.copyfile
    )
    return Path(copy)
