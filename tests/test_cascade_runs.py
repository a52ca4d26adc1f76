"""Cascades from the command line: a table with answers, a judge, a policy that looks at them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import make_table

from router.answer_features import LOGPROBS
from router.errors import RouterError
from router.estimators import Ridge
from router.estimators.judge import Judge
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.table import TableData

GOOD = "First 3 + 4 = 7, so the result is seven.\n#### 7"
BAD = "I think it might be 3 + 4 = 9, but I am not sure"


def table_with_answers(n: int = 300) -> pd.DataFrame:
    """Good answers look otherwise than bad ones, in nine of ten cases."""
    table, _ = make_table(n)
    rng = np.random.default_rng(0)
    looks_good = np.where(rng.random(len(table)) < 0.9, table["score"] == 1, table["score"] == 0)
    table["response"] = np.where(looks_good, GOOD, BAD)
    table["consistency"] = np.where(looks_good, 0.9, 0.4)
    table["logprobs"] = [json.dumps([-0.1, -0.2] if good else [-0.1, -3.0]) for good in looks_good]
    return table


@pytest.fixture
def with_answers(tmp_path: Path) -> Path:
    path = tmp_path / "answers.parquet"
    table_with_answers().to_parquet(path)
    return path


def run(
    run_router: Callable[..., Any], folder: Path, table: Path, encoder: Path, *options: str
) -> dict[str, Any]:
    finished = run_router(
        "train",
        "data=table",
        f"data.path={table}",
        "encoder=sentence_transformer",
        f"encoder.name={encoder}",
        "encoder.dtype=float32",
        "estimator=ridge",
        "tracking=none",
        "examples=[]",
        "latest=null",
        "evaluation.resamples=20",
        f"hydra.run.dir={folder}",
        *options,
    )
    assert finished.code == 0, finished.err
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


@pytest.mark.parametrize("policy", ["cascade", "cascade_routing"])
@pytest.mark.parametrize("judge", ["answer", "consistency", "token_uncertainty", "boosted"])
def test_a_cascade_is_trained_judged_and_exported(
    run_router: Callable[..., Any],
    tmp_path: Path,
    with_answers: Path,
    tiny_encoder: Path,
    judge: str,
    policy: str,
) -> None:
    options = [f"judge={judge}", f"policy={policy}", "policy.budget=0.004"]
    metrics = run(run_router, tmp_path / "run", with_answers, tiny_encoder, *options)
    assert metrics["parity"]["queries"] == metrics["queries"]
    alone = metrics["baselines"]["router alone"]
    # With a good judge a cascade must beat the router that may not look.
    assert metrics["router"]["quality"]["value"] > alone["quality"]["value"], policy
    assert metrics["baselines"]["perfect judge"]["quality"]["value"] > alone["quality"]["value"]
    assert metrics["validation"]["cost"] <= 0.004 * (1 + 1e-9)


def test_another_cascade_of_a_finished_run(
    run_router: Callable[..., Any], tmp_path: Path, with_answers: Path, tiny_encoder: Path
) -> None:
    """Validation judgements are kept, so that a budget can be set without training."""
    folder = tmp_path / "run"
    run(run_router, folder, with_answers, tiny_encoder, "judge=answer", "policy=cascade")
    finished = run_router(
        "export",
        f"run={folder}",
        f"out={tmp_path / 'out'}",
        "policy=cascade",
        "policy.budget=0.003",
        "policy.order=rising",
    )
    assert finished.code == 0, finished.err
    policy = json.loads((tmp_path / "out" / "manifest.json").read_text())["policy"]
    assert policy["steps"] == ["small", "medium", "large"]


def test_a_log_without_answers_says_so(
    run_router: Callable[..., Any], tmp_path: Path, tiny_encoder: Path
) -> None:
    table, _ = make_table(60)
    table.to_csv(tmp_path / "table.csv", index=False)
    options = ["data=table", f"data.path={tmp_path / 'table.csv'}", "tracking=none", "latest=null"]
    encoder = ["encoder=sentence_transformer", f"encoder.name={tiny_encoder}"]
    finished = run_router(
        "train", *options, *encoder, "judge=answer", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert finished.code == 2
    assert "the log has no answers; log response" in finished.err
    finished = run_router(
        "train", *options, *encoder, "policy=cascade", f"hydra.run.dir={tmp_path / 'run2'}"
    )
    assert finished.code == 2
    assert "train with judge=answer" in finished.err


def outcomes(table: pd.DataFrame, tmp_path: Path) -> OutcomeMatrix:
    path = tmp_path / "t.jsonl"
    table.to_json(path, orient="records", lines=True)
    return TableData(path).load()


def test_the_signals_of_a_log_are_read(tmp_path: Path) -> None:
    table = table_with_answers(30)
    table["responses"] = [[GOOD, GOOD, BAD]] * len(table)
    loaded = outcomes(table, tmp_path)
    assert loaded.answers is not None
    assert loaded.answers.known.all()
    consistency = loaded.answers.signals["consistency"]
    assert set(np.unique(consistency)) == {0.4, 0.9}  # what is told goes before what is computed
    mean = loaded.answers.signals["logprob_mean"]
    assert set(np.unique(mean.round(6))) == {-0.15, -1.55}
    again = outcomes(loaded.to_table(), tmp_path)
    for name in LOGPROBS:
        np.testing.assert_allclose(again.answers.signals[name], loaded.answers.signals[name])


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("logprobs", "[0.5]", "is no list of numbers of at most 0"),
        ("logprobs", "none", "is no list of numbers of at most 0"),
        ("responses", "[1, 2]", "is no list of texts"),
        ("consistency", "1.5", "lies outside"),
        ("logprob_mean", "0.5", "is above 0"),
    ],
)
def test_a_bad_signal_is_told_with_its_row(
    tmp_path: Path, column: str, cell: str, message: str
) -> None:
    table = table_with_answers(30)
    table[column] = None
    table.loc[4, column] = cell
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(RouterError, match=f"row 5, column '{column}'.*{message}"):
        TableData(tmp_path / "t.csv").load()


def test_a_judge_tells_good_answers_from_bad(tmp_path: Path) -> None:
    loaded = outcomes(table_with_answers(120), tmp_path)
    X = np.zeros((len(loaded), 1))
    judge = Judge(Ridge(), reads=("features",)).fit(X, loaded)
    judged = judge.predict(X, loaded)
    for j in range(3):
        good = loaded.answers.text[:, j] == GOOD
        assert judged[good, j].min() > judged[~good, j].max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reads": ("vibes",)}, "choose at least one of prompt, response, features, signals"),
        ({"reads": ()}, "choose at least one of"),
        ({"reads": ("signals",), "signals": ["mood"]}, "judge.signals names 'mood'"),
        ({"reads": ("signals",), "signals": ["max_probability"]}, "has no max_probability"),
    ],
)
def test_a_judge_that_cannot_read_says_so(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    loaded = outcomes(table_with_answers(30), tmp_path)
    with pytest.raises(RouterError, match=message):
        Judge(Ridge(), **options).fit(np.zeros((len(loaded), 1)), loaded)
