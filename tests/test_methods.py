"""Every preset of conf/method/ trains on real outcomes, and its artifact chooses as trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished

from router.artifact.runtime import load
from router.outcomes.paretobandit import ParetoBanditData
from router.pipelines.methods import FAMILIES, Method, markdown, methods

METHODS = methods()
DOCS = Path(__file__).parents[1] / "docs" / "methods.md"
PROMPT = "Write a function that reverses a list, and prove that it is right."


@pytest.fixture(scope="module")
def real_slice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 queries of the default data set, from all over it. Their answers, for the judges of
    cascades, are made up: longer, and with more agreement, where the score is high."""
    outcomes = ParetoBanditData().load()
    rows = np.linspace(0, len(outcomes) - 1, 160).astype(int)
    path = tmp_path_factory.mktemp("slice") / "outcomes.parquet"
    table = outcomes.take(rows).to_table()
    rng = np.random.default_rng(0)
    signal = np.clip(table["score"] + rng.normal(scale=0.3, size=len(table)), 0, 1)
    table["response"] = ["The answer is " + "clear " * round(20 * value) for value in signal]
    table["logprobs"] = [[float(value) - 1, -0.5] for value in signal]
    for name in ("self_verification", "consistency", "max_probability"):
        table[name] = signal
    table.to_parquet(path)
    return path


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_preset_trains_exports_and_serves_what_it_trained(
    method: Method,
    real_slice: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_router: Callable[..., Finished],
) -> None:
    monkeypatch.chdir(tmp_path)
    two = "[google/gemini-2.5-pro,meta-llama/llama-3.1-8b-instruct]"
    finished = run_router(
        "train",
        f"method={method.name}",
        "data=table",
        f"data.path={real_slice}",
        *([f"data.candidates={two}"] if method.policy == "threshold" else []),
        "encoder=sentence_transformer",
        f"encoder.name={tiny_encoder}",
        "encoder.dtype=float32",
        "tracking=none",
        "evaluation.resamples=20",
        "examples=[]",
    )
    assert finished.code == 0, finished.err
    run = tmp_path / "outputs" / "latest"
    parity = json.loads((run / "metrics.json").read_text())["parity"]
    assert parity["decisions_equal"] == parity["queries"]
    assert parity["largest_quality_difference"] < 1e-4
    assert "name: " + method.name in (run / "config.yaml").read_text()
    router = load(run / "artifact")
    decision = router.route(PROMPT)
    assert 0 < decision.probability <= 1
    assert decision.candidate in decision.ask


def test_every_family_has_a_preset_and_every_name_is_a_file_name() -> None:
    assert {method.family for method in METHODS} == set(FAMILIES)
    for method in METHODS:
        assert method.name == method.name.lower().replace(" ", "-")
        assert method.simplified
        assert "arXiv" in method.paper


def test_the_page_of_methods_is_the_presets_own_table() -> None:
    assert DOCS.read_text(encoding="utf-8").endswith("\n\n" + markdown(METHODS))


def test_the_list_names_every_method(run_router: Callable[..., Finished]) -> None:
    finished = run_router("methods")
    assert finished.code == 0
    for method in METHODS:
        assert f"\n{method.name} " in finished.out
    assert run_router("methods", "--markdown").out == markdown(METHODS)


def test_a_part_given_beside_a_method_replaces_the_methods_own(
    run_router: Callable[..., Finished],
) -> None:
    finished = run_router("train", "method=avengers-pro", "policy=utility", "--cfg", "job")
    assert "router.policies.Utility" in finished.out
    assert "n_clusters: 60" in finished.out


def test_an_unknown_method_is_told_with_those_that_exist(
    run_router: Callable[..., Finished],
) -> None:
    finished = run_router("train", "method=avengers-max")
    assert finished.code == 2
    assert "avengers-pro" in finished.err
