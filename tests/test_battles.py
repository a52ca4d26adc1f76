"""Tables of battles: read as outcomes, every fault told in one sentence, trained end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Finished, Workplace
from hypothesis import given, settings
from hypothesis import strategies as st

import router
from router.errors import RouterError
from router.outcomes.battles import BattleData, outcomes_of_battles
from router.outcomes.table import TableData

SAMPLE = ROOT / "data" / "samples" / "battles.csv"
OUTCOMES = ROOT / "data" / "samples" / "outcomes.csv"
WORDS = ("model_a", "model_b", "tie", "tie (bothbad)", "both_bad")


def battles(n: int = 12, **columns: object) -> pd.DataFrame:
    """A good table of n battles, with some columns replaced."""
    frame = pd.DataFrame(
        {
            "prompt": [f"question {i}" for i in range(n)],
            "model_a": ["x", "y", "z"] * (n // 3),
            "model_b": ["y", "z", "x"] * (n // 3),
            "winner": ["model_a", "model_b", "tie"] * (n // 3),
        }
    )
    return frame.assign(**columns)


def with_cell(column: str, row: int, value: object, **columns: object) -> pd.DataFrame:
    frame = battles(**columns).astype({column: object})
    frame.loc[row, column] = value
    return frame


def fault(frame: pd.DataFrame) -> str:
    """What is said of the frame, less the closing line that every fault has."""
    with pytest.raises(RouterError) as told:
        outcomes_of_battles(frame, "log.csv")
    return str(told.value).removesuffix(
        "\nCorrect the rows, or leave them out with data.faults=drop."
    )


# --- what is read ---


def test_a_battle_is_a_query_with_two_outcomes() -> None:
    table = outcomes_of_battles(battles(), "log.csv")
    assert len(table) == 24
    first = table[table["query_id"] == "battle 1"].set_index("model")["score"]
    assert first.to_dict() == {"x": 1.0, "y": 0.0}
    assert table.loc[1].set_index("model")["score"].to_dict() == {"y": 0.0, "z": 1.0}
    assert table.loc[2, "score"].tolist() == [0.5, 0.5]


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("xyz"), st.sampled_from(WORDS))))
@settings(max_examples=50, deadline=None)
def test_every_battle_hands_out_one_point(drawn: list[tuple[str, str, str]]) -> None:
    fought = [battle for battle in drawn if battle[0] != battle[1]] + [("x", "y", "tie")]
    frame = pd.DataFrame(fought, columns=["model_a", "model_b", "winner"]).assign(prompt="p")
    table = outcomes_of_battles(frame, "log.csv")
    by_battle = table.groupby("query_id", sort=False)
    assert (by_battle["score"].sum() == 1).all()
    assert (by_battle.size() == 2).all()
    for (a, b, winner), (_, rows) in zip(fought, by_battle, strict=True):
        best = set(rows.loc[rows["score"] == rows["score"].max(), "model"])
        assert best == {"model_a": {a}, "model_b": {b}}.get(winner, {a, b})


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_every_kind_of_file_is_read_alike(tmp_path: Path, kind: str) -> None:
    frame, path = pd.read_csv(SAMPLE), tmp_path / f"battles.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        frame.to_parquet(path, index=False)
    assert BattleData(path).load().fingerprint == BattleData(SAMPLE).load().fingerprint


def test_the_sample() -> None:
    outcomes = BattleData(SAMPLE).load()
    assert outcomes.candidates == ("acme/large", "acme/medium", "acme/small")
    assert len(outcomes) == 31
    assert (outcomes.observed.sum(axis=1) == 2).all()
    assert outcomes.cost is not None
    assert len(set(outcomes.groups)) == 22  # battles with one prompt stand together
    two = BattleData(SAMPLE, candidates=["acme/large", "acme/small"]).load()
    assert len(two) == 22
    assert two.fully_observed.all()


def test_the_arenas_flags_say_who_won() -> None:
    flags = pd.DataFrame(np.eye(3, dtype=int)[[0, 1, 2] * 4])
    flags.columns = ["winner_model_a", "winner_model_b", "winner_tie"]
    by_flags = outcomes_of_battles(battles().drop(columns="winner").join(flags), "log.csv")
    assert by_flags["score"].tolist() == outcomes_of_battles(battles(), "log.csv")["score"].tolist()


def test_what_was_logged_of_each_side_and_of_the_battle_is_kept(tmp_path: Path) -> None:
    frame = battles(
        query_id=[f"b{i}" for i in range(12)],
        task="poetry",
        split=["train"] * 6 + ["test"] * 6,
        gold=[True, False] * 6,
        cost_usd_a=0.01,
        cost_usd_b=0.02,
        latency_s_b=3.0,
    )
    frame.to_parquet(tmp_path / "log.parquet")
    outcomes = BattleData(tmp_path / "log.parquet").load()
    x, y, z = range(3)
    assert outcomes.cost is not None
    assert outcomes.latency is not None
    assert outcomes.cost[0, [x, y]].tolist() == [0.01, 0.02]
    assert outcomes.cost[2, [z, x]].tolist() == [0.01, 0.02]
    assert np.isnan(outcomes.latency[0, x])
    assert outcomes.latency[0, y] == 3.0
    assert outcomes.queries["query_id"].tolist() == [f"b{i}" for i in range(12)]
    assert outcomes.queries["gold"].tolist() == [True, False] * 6
    assert set(outcomes.queries["split"]) == {"train", "test"}


def test_tokens_are_priced(tmp_path: Path) -> None:
    prices = "models:\n" + "".join(
        f"  {name}: {{input: 1, output: 2, date: 2026-01-01}}\n" for name in "xyz"
    )
    (tmp_path / "prices.yaml").write_text(prices)
    tokens = {f"{kind}_tokens_{side}": 500_000 for kind in ("input", "output") for side in "ab"}
    battles(**tokens).to_csv(tmp_path / "log.csv", index=False)
    outcomes = BattleData(tmp_path / "log.csv", prices=tmp_path / "prices.yaml").load()
    assert outcomes.cost is not None
    np.testing.assert_allclose(outcomes.cost[outcomes.observed], 1.5)


def test_columns_of_other_names_are_mapped() -> None:
    theirs = battles().rename(columns={"prompt": "question", "winner": "verdict"})
    mapped = outcomes_of_battles(theirs, "log.csv", {"prompt": "question", "winner": "verdict"})
    pd.testing.assert_frame_equal(
        mapped, outcomes_of_battles(battles(), "log.csv"), check_like=True
    )


def test_battles_with_one_query_id_are_queries_of_their_own() -> None:
    table = outcomes_of_battles(battles(prompt="p", query_id=["q"] * 11 + ["q row 2"]), "log.csv")
    assert table["query_id"].nunique() == 12
    assert table["query_id"].iloc[0] == "q"


# --- faults ---


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (
            with_cell("winner", 2, "x"),
            "row 3, column 'winner' is no winner ('x'); 1 row concerned; "
            "give model_a, model_b, tie or tie (bothbad).",
        ),
        (
            with_cell("winner", 2, None),
            "row 3, column 'winner' is missing; 1 row concerned; fill it in or drop the row.",
        ),
        (
            with_cell("model_b", 4, "y"),
            "row 5, column 'model_b' is the same as model_a ('y'); 1 row concerned; "
            "give two models.",
        ),
        (
            with_cell("model_a", 3, None),
            "row 4, column 'model_a' is missing; 1 row concerned; fill it in or drop the row.",
        ),
        (
            with_cell("prompt", 11, "  "),
            "row 12, column 'prompt' is empty; 1 row concerned; fill it in or drop the row.",
        ),
        (
            with_cell("cost_usd_b", 7, -1.0, cost_usd_a=1.0, cost_usd_b=1.0),
            "row 8, column 'cost_usd_b' is negative (-1.0); 1 row concerned; "
            "give a number of at least 0.",
        ),
        (
            with_cell("latency_s_a", 0, "soon", latency_s_a=1.0),
            "row 1, column 'latency_s_a' is not a number ('soon'); 1 row concerned; give a number.",
        ),
        (
            with_cell("gold", 1, 2, gold=0),
            "row 2, column 'gold' is neither true nor false (2.0); 1 row concerned; "
            "give true or false.",
        ),
        (
            battles()
            .drop(columns="winner")
            .assign(winner_model_a=[1] * 11 + [0], winner_model_b=0, winner_tie=[0] * 10 + [1, 0]),
            "row 11, column 'winner_model_a, winner_model_b, winner_tie' is not one 1 and two 0 "
            "('1, 0, 1'); 2 rows concerned; give 1 to the winner alone.",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_fault_is_told_by_the_battles_own_row_and_column(
    frame: pd.DataFrame, sentence: str
) -> None:
    assert fault(frame) == f"log.csv: {sentence}"


@pytest.mark.parametrize("missing", ["prompt", "model_a", "winner"])
def test_a_missing_column_is_named(missing: str) -> None:
    with pytest.raises(RouterError, match=rf"^log.csv: no column '{missing}' among "):
        outcomes_of_battles(battles().drop(columns=missing), "log.csv")


def test_a_column_that_no_battle_has_is_refused() -> None:
    with pytest.raises(RouterError, match="'score' is no column"):
        outcomes_of_battles(battles(), "log.csv", {"score": "winner"})


def test_faulty_battles_are_left_out_whole(caplog: pytest.LogCaptureFixture) -> None:
    frame = with_cell("latency_s_b", 5, -1.0, latency_s_b=1.0)
    frame.loc[8, "winner"] = "nobody"
    table = outcomes_of_battles(frame, "log.csv", faults="drop")
    assert sorted(set(table.index)) == [row for row in range(12) if row not in (5, 8)]
    assert len(table) == 20
    assert "2 of 12 rows left out." in caplog.text


def test_a_candidate_in_no_battle_is_told(tmp_path: Path) -> None:
    battles().to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(RouterError, match="no outcome of 'w'"):
        BattleData(tmp_path / "log.csv", candidates=["x", "w"]).load()


def test_candidates_that_never_met_are_told(tmp_path: Path) -> None:
    frame = battles()
    frame[frame["model_a"] != "x"].to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(RouterError, match="no battle between two of 'x', 'y'"):
        BattleData(tmp_path / "log.csv", candidates=["x", "y"]).load()


def test_an_unknown_way_with_faults_is_refused() -> None:
    with pytest.raises(RouterError, match=r"data\.faults is 'ignore'"):
        BattleData(SAMPLE, faults="ignore")  # type: ignore[arg-type]


# --- gold, in a table of outcomes ---


def test_gold_reaches_the_queries_and_comes_back(tmp_path: Path) -> None:
    frame = pd.read_csv(OUTCOMES, dtype=object, keep_default_na=False)
    frame["gold"] = frame["query_id"].map(lambda name: {"001": "true", "002": "1"}.get(name, ""))
    frame.to_csv(tmp_path / "log.csv", index=False)
    outcomes = TableData(tmp_path / "log.csv").load()
    assert outcomes.queries["gold"].tolist() == [True, True] + [False] * 10
    outcomes.to_table().to_parquet(tmp_path / "again.parquet")
    again = TableData(tmp_path / "again.parquet").load()
    assert again.queries["gold"].tolist() == outcomes.queries["gold"].tolist()


def test_one_query_is_not_gold_and_not_gold(tmp_path: Path) -> None:
    frame = pd.read_csv(OUTCOMES, dtype=object, keep_default_na=False)
    frame.assign(gold=["1", *["0"] * 34]).to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(RouterError, match="row 2, column 'gold' differs from an earlier row"):
        TableData(tmp_path / "log.csv").load()


# --- end to end ---


def test_a_router_is_trained_on_the_sample(
    run_router: Callable[..., Finished], workplace: Workplace
) -> None:
    finished = run_router(
        "train",
        "data=battles",
        f"data.path={SAMPLE}",
        "data.candidates=[acme/large,acme/small]",
        "estimator=bradley_terry",
        "cost=marginal",
        "tracking=none",
        *workplace.encoder,
        "evaluation.resamples=20",
        "examples=[]",
        "hydra.run.dir=run",
        "latest=null",
    )
    assert finished.code == 0, finished.err
    metrics = json.loads((workplace.folder / "run" / "metrics.json").read_text())
    assert metrics["data"]["name"] == "battles"
    assert set(metrics["router"]["shares"]) == {"acme/large", "acme/small"}
    routed = router.load(workplace.folder / "run" / "artifact").route("Prove it.")
    assert routed.candidate in ("acme/large", "acme/small")
