"""Reading and checking outcome tables: what is kept, and every fault told in one sentence."""

from __future__ import annotations

import csv
import json
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, make_table
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix, build_matrix
from router.outcomes.schema import OPTIONAL, REQUIRED
from router.outcomes.table import TableData, check_table, read_table

KINDS = ("csv", "jsonl", "parquet")
SAMPLES = ROOT / "data" / "samples"


def write(frame: pd.DataFrame, path: Path) -> Path:
    """The frame as a file of the kind that its name tells, as a user's program would write it."""
    if path.suffix == ".csv":
        # Left to itself, to_csv writes a lone carriage return bare, and there a line ends.
        frame.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)
    elif path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        cells = frame.astype(object).where(frame.notna(), None).to_dict("records")
        lines = [json.dumps(row, ensure_ascii=False, default=str) for row in cells]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def table(n: int = 20, **columns: Any) -> pd.DataFrame:
    """A good table of n queries x 3 models, with some columns replaced."""
    return make_table(n)[0].assign(**columns)


def with_cells(column: str, cells: dict[int, Any]) -> pd.DataFrame:
    """The good table with some cells of one column replaced."""
    values = table()[column].astype(object)
    for row, value in cells.items():
        values.iloc[row] = value
    return table(**{column: values})


def load(frame: pd.DataFrame, path: Path, **options: Any) -> OutcomeMatrix:
    return TableData(write(frame, path), **options).load()


def fault(frame: pd.DataFrame, source: str = "log.csv", **options: Any) -> str:
    """What check_table says of the frame."""
    with pytest.raises(RouterError) as told:
        check_table(frame, source, **options)
    return str(told.value)


# --- the samples of data/ ---


@pytest.mark.parametrize("kind", KINDS)
def test_the_samples_hold_the_same_outcomes(kind: str) -> None:
    outcomes = TableData(SAMPLES / f"outcomes.{kind}").load()
    reference = TableData(SAMPLES / "outcomes.csv").load()
    assert len(outcomes) == 12
    assert outcomes.candidates == ("acme/large", "acme/medium", "acme/small")
    assert outcomes.observed.sum() == 35
    assert outcomes.fingerprint == reference.fingerprint
    pd.testing.assert_frame_equal(outcomes.queries, reference.queries)
    for name in ("scores", "cost", "latency"):
        np.testing.assert_array_equal(getattr(outcomes, name), getattr(reference, name))
    assert outcomes.queries["query_id"].iloc[0] == "001"
    assert "None" in outcomes.prompts
    assert "Who wrote Don Quixote?\u2028Answer with the name only." in outcomes.prompts


@pytest.mark.parametrize("kind", KINDS)
def test_the_samples_prices_give_the_logged_dollars(kind: str) -> None:
    logged = TableData(SAMPLES / f"outcomes.{kind}").load()
    priced = TableData(SAMPLES / f"outcomes.{kind}", prices=SAMPLES / "prices.yaml").load()
    assert priced.cost is not None
    assert priced.price_dates == ("2026-03-01", "2026-03-01", "2026-01-15")
    np.testing.assert_allclose(priced.cost, logged.cost, rtol=1e-12)


def test_the_tokens_sample_gives_the_same_costs_by_names_of_its_own() -> None:
    columns = {
        "query_id": "id",
        "model": "llm",
        "score": "reward",
        "input_tokens": "prompt_tokens",
        "output_tokens": "completion_tokens",
    }
    data = TableData(SAMPLES / "tokens.csv", columns, prices=SAMPLES / "prices.yaml")
    logged = TableData(SAMPLES / "outcomes.csv").load()
    np.testing.assert_array_equal(data.load().scores, logged.scores)
    np.testing.assert_allclose(data.load().cost, logged.cost, rtol=1e-12)


def test_the_page_on_the_schema_names_every_column() -> None:
    page = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(REQUIRED + OPTIONAL) <= named


def test_the_pages_way_from_wide_to_long_works(tmp_path: Path) -> None:
    page = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    snippet = page.split("```python\n")[1].split("```")[0]
    ids = [f"q{i}" for i in range(10)]
    scores = [0.0, 1.0] * 5
    wide = pd.DataFrame({"query_id": ids, "prompt": ids, "a": scores, "b": [None, *scores[1:]]})
    names: dict[str, Any] = {"wide": wide}
    exec(snippet, names)
    assert load(names["long"], tmp_path / "long.csv").observed.sum() == 19


# --- what is read ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_table_is_read_back(tmp_path: Path, kind: str) -> None:
    outcomes = load(table(), tmp_path / f"log.{kind}")
    expected = build_matrix(table())
    assert outcomes.fingerprint == expected.fingerprint
    np.testing.assert_array_equal(outcomes.scores, expected.scores)
    np.testing.assert_array_equal(outcomes.cost, expected.cost)
    assert outcomes.prompts == expected.prompts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "prompt",
    [
        "None",
        "NA",
        "nan",
        "null",
        "-",
        "007",
        "  two blanks before and after  ",
        "🍂👩‍👩‍👧 emoji",
        'מה "שלום"? مرحبا',
        "one\u2028two\u2029three\x85four",
        'line\nbreak, comma; "quotes"',
        "Windows\r\nand an old Mac\rbreak lines",
        "é" * 1_000_000,
    ],
    ids=lambda prompt: ascii(prompt)[:20],
)
def test_real_prompts_stay_as_they_are(tmp_path: Path, kind: str, prompt: str) -> None:
    frame = with_cells("prompt", {0: prompt, 1: prompt, 2: prompt})
    assert load(frame, tmp_path / f"log.{kind}").prompts[0] == prompt


@given(
    prompts=st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text.strip()),
        min_size=10,
        max_size=12,
    ),
    kind=st.sampled_from(KINDS),
)
@settings(max_examples=60, deadline=None)
def test_any_text_survives_any_kind_of_file(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], kind: str
) -> None:
    rows = [
        {"query_id": i, "prompt": prompt, "model": model, "score": score}
        for i, prompt in enumerate(prompts)
        for model, score in (("a", 0.0), ("b", 1.0))
    ]
    path = tmp_path_factory.mktemp("text") / f"log.{kind}"
    assert load(pd.DataFrame(rows), path).prompts == prompts


@given(st.lists(st.floats(0, 1), min_size=20, max_size=20).filter(lambda s: len(set(s)) > 1))
@settings(max_examples=30, deadline=None)
def test_scores_are_read_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, scores: list[float]
) -> None:
    frame = pd.DataFrame(
        {
            "query_id": np.repeat(np.arange(10), 2),
            "prompt": np.repeat([f"question {i}" for i in range(10)], 2),
            "model": ["a", "b"] * 10,
            "score": scores,
        }
    )
    folder = tmp_path_factory.mktemp("scores")
    for kind in KINDS:
        assert load(frame, folder / f"log.{kind}").scores.ravel().tolist() == scores


@pytest.mark.parametrize("kind", KINDS)
def test_integer_query_ids_are_names_like_any_other(tmp_path: Path, kind: str) -> None:
    frame = table(query_id=[int(name[1:]) for name in table()["query_id"]])
    ids = load(frame, tmp_path / f"log.{kind}").queries["query_id"]
    assert ids.tolist() == [str(i) for i in range(20)]


def test_ids_with_leading_zeros_stay_apart_from_numbers(tmp_path: Path) -> None:
    frame = table(id=["0" + name[1:] for name in table()["query_id"]]).drop(columns="query_id")
    outcomes = load(frame, tmp_path / "log.csv", columns={"query_id": "id"})
    assert outcomes.queries["query_id"].iloc[7] == "07"


def test_float_ids_are_the_integers_that_they_were() -> None:
    ids = [float(name[1:]) for name in table()["query_id"]]
    assert check_table(table(query_id=ids), "log")["query_id"].iloc[-1] == "19"


@pytest.mark.parametrize("kind", KINDS)
def test_true_and_false_are_scores(tmp_path: Path, kind: str) -> None:
    outcomes = load(table(score=table()["score"] > 0.5), tmp_path / f"log.{kind}")
    np.testing.assert_array_equal(outcomes.scores, build_matrix(table()).scores)


def test_blanks_around_names_do_not_make_new_models(tmp_path: Path) -> None:
    frame = with_cells("model", {0: " large", 3: "large\t"})
    assert load(frame, tmp_path / "log.csv").candidates == ("large", "medium", "small")


@pytest.mark.parametrize("missing", ["", "NA", "nan", "null", "None", "n/a"])
def test_words_for_nothing_are_missing_numbers(missing: str) -> None:
    checked = check_table(with_cells("cost_usd", {4: missing}), "log.csv")
    assert math.isnan(checked["cost_usd"].iloc[4])


def test_a_spreadsheets_semicolons_and_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    table().to_csv(path, index=False, sep=";", encoding="utf-8-sig")
    assert TableData(path).load().fingerprint == build_matrix(table()).fingerprint


def test_blank_lines_between_records_are_no_records(tmp_path: Path) -> None:
    path = write(table(), tmp_path / "log.jsonl")
    path.write_text("\ufeff" + path.read_text("utf-8").replace("\n", "\n\n"), encoding="utf-8")
    assert len(read_table(path)) == 60


def test_a_pandas_index_named_query_id_is_the_column(tmp_path: Path) -> None:
    table().set_index("query_id").to_parquet(tmp_path / "log.parquet")
    outcomes = TableData(tmp_path / "log.parquet").load()
    assert outcomes.fingerprint == build_matrix(table()).fingerprint


def test_parquets_own_types_are_read(tmp_path: Path) -> None:
    frame = table(
        model=table()["model"].astype("category"),
        score=table()["score"].astype("Float32"),
        task=table()["task"].astype("string"),
        cost_usd=0.25,
        output_tokens=pd.array([7] * 60, dtype="Int64"),
        timestamp=pd.date_range("2026-01-01", periods=60, unit="us"),
    )
    outcomes = load(frame, tmp_path / "log.parquet")
    np.testing.assert_array_equal(outcomes.scores, build_matrix(table()).scores)
    assert outcomes.queries["timestamp"].iloc[1] == pd.Timestamp("2026-01-04", tz="UTC")


def test_free_columns_of_any_shape_do_no_harm(tmp_path: Path) -> None:
    frame = table(signals=[{"logprob": [-0.1, None], "tags": ["a"]}] * 60, note=None)
    outcomes = load(frame, tmp_path / "log.jsonl")
    assert outcomes.fingerprint == build_matrix(table()).fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_optional_columns_without_a_value_are_as_good_as_absent(tmp_path: Path, kind: str) -> None:
    hollow = table(
        task=None, group=None, split=None, timestamp=None, propensity=None, latency_s=None
    )
    outcomes = load(hollow, tmp_path / f"log.{kind}")
    assert list(outcomes.queries) == ["query_id", "prompt", "group"]
    assert outcomes.latency is None
    assert outcomes.propensity is None
    assert outcomes.tasks is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-03-01T09:30:00+02:00", "2026-03-01T07:30:00Z"),
        ("2026-03-01 09:30", "2026-03-01T09:30:00Z"),
        ("2026-03-01", "2026-03-01T00:00:00Z"),
        (1772357400, "2026-03-01T09:30:00Z"),
        (1772357400.5, "2026-03-01T09:30:00.5Z"),
    ],
)
def test_times_are_iso_8601_or_unix_seconds(
    tmp_path: Path, kind: str, written: object, read: str
) -> None:
    outcomes = load(table(timestamp=[written] * 60), tmp_path / f"log.{kind}")
    assert outcomes.queries["timestamp"].iloc[0] == pd.Timestamp(read)


def test_a_query_is_as_old_as_its_earliest_outcome() -> None:
    days = pd.date_range("2026-01-01", periods=60, tz="UTC")
    outcomes = build_matrix(check_table(table(timestamp=days).iloc[::-1], "log"))
    by_id = outcomes.queries.set_index("query_id")["timestamp"]
    assert by_id["q0"] == days[0]
    assert by_id["q19"] == days[57]


# --- files that cannot be read ---


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("log.csv", b"", "the file is empty; give one with rows."),
        ("log.csv", b"\n\n", "the file is empty; give one with rows."),
        ("log.jsonl", b" \n", "the file is empty; give one with rows."),
        ("log.parquet", b"", "the file is empty; give one with rows."),
        (
            "log.csv",
            b"query_id,prompt,model,score\n",
            "the file has no row below its header; give one with rows.",
        ),
        (
            "log.csv",
            "query_id,prompt,model,score\n1,naïve,a,1\n".encode("latin-1"),
            "line 2 is not UTF-8 text; save the file with the encoding UTF-8.",
        ),
        (
            "log.jsonl",
            '{"prompt": "plain"}\n{"prompt": "naïve"}'.encode("latin-1"),
            "line 2 is not UTF-8 text; save the file with the encoding UTF-8.",
        ),
        ("log.csv", bytes(range(256)) * 4, "line 2 is not UTF-8 text; save the file with"),
        ("log.parquet", bytes(range(256)) * 4, "cannot be read as parquet (Could not open"),
        ("log.jsonl", b'{"a": 1}\n{"a": ', "cannot be read as jsonl (line 2, column 7: Expecting"),
        ("log.jsonl", b'[{"a": 1}]', "(line 1 holds a list); write one JSON object per line."),
        ("log.jsonl", b"[" * 100_000, "cannot be read as jsonl (line 1: maximum recursion depth"),
        ("log.csv", b"a,b\n1,2\n1,2,3\n", "Expected 2 fields in line 3, saw 3); name each"),
        ("log.csv", b"a,b\n1,2,3\n1,2,3\n", "its rows have more fields than its header names"),
        ("log.csv", b'a,b\n1,"2\n', "EOF inside string"),
        ("log.csv", b"score,b,score\n1,2,3\n", "column 'score' stands twice in its header"),
        ("log.xlsx", b"PK", "unknown kind of file; give one that ends in .parquet, .csv, .jsonl."),
    ],
)
def test_an_unreadable_file_is_one_sentence(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RouterError) as told:
        read_table(path)
    message = str(told.value)
    assert message.startswith(f"{path}: ")
    assert sentence in message
    assert "\n" not in message
    assert message.endswith(".")


def test_an_absent_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match=r"no such file; give data\.path=FILE\.$"):
        read_table(tmp_path / "log.csv")
    with pytest.raises(RouterError, match="this is a folder; give the file in it"):
        read_table(tmp_path)


@given(st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_a_table_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for kind in KINDS:
        path = folder / f"log.{kind}"
        path.write_bytes(content)
        with pytest.raises(RouterError):  # four right column names do not come by chance
            TableData(path).load()


# --- faulty cells ---

FAULTS: list[tuple[str, dict[int, Any], str]] = [
    ("score", {3: None, 5: math.nan}, "row 4, column 'score' is missing; 2 rows concerned"),
    ("score", {3: 1.5}, "row 4, column 'score' lies outside [0, 1] (1.5); 1 row concerned"),
    ("score", {3: -0.1}, "row 4, column 'score' lies outside [0, 1] (-0.1); 1 row concerned"),
    ("score", {3: math.inf}, "row 4, column 'score' lies outside [0, 1] (inf)"),
    ("score", {3: "good"}, "row 4, column 'score' is not a number ('good'); 1 row concerned"),
    ("score", {3: "0,5"}, "row 4, column 'score' is not a number ('0,5'); 1 row concerned"),
    ("cost_usd", {3: -1.0, 9: -2.0}, "row 4, column 'cost_usd' is negative (-1.0); 2 rows"),
    ("cost_usd", {3: math.inf}, "row 4, column 'cost_usd' is infinite (inf); 1 row concerned"),
    ("cost_usd", {3: "$0.1"}, "row 4, column 'cost_usd' is not a number ('$0.1'); 1 row"),
    ("model", {3: ""}, "row 4, column 'model' is empty; 1 row concerned; fill it in or drop"),
    ("query_id", {3: None}, "row 4, column 'query_id' is missing; 1 row concerned; fill it in"),
    ("query_id", {3: " "}, "row 4, column 'query_id' is empty; 1 row concerned; fill it in"),
    ("prompt", {0: None}, "row 1, column 'prompt' is missing; 1 row concerned; fill it in"),
    ("prompt", {0: "", 1: " \n", 2: "\t"}, "row 1, column 'prompt' is empty; 3 rows concerned"),
    (
        "prompt",
        {4: "something else"},
        "row 5, column 'prompt' differs from an earlier row of the same query_id ('q1'); 1 row "
        "concerned; give each prompt a query_id of its own, with one task, group and split.",
    ),
    (
        "task",
        {4: "x"},
        "row 5, column 'task' differs from an earlier row of the same query_id ('q1'); 1 row",
    ),
    (
        "prompt",
        {0: "cut \ud83d", 1: "cut \ud83d", 2: "cut \ud83d"},
        "row 1, column 'prompt' holds half a character ('cut \\ud83d'); 3 rows concerned",
    ),
    (
        "prompt",
        {row: [{"role": "user"}] for row in (0, 1, 2)},
        "row 1, column 'prompt' is not text ([{'role': 'user'}]); 3 rows concerned",
    ),
]


@pytest.mark.parametrize(("column", "cells", "sentence"), FAULTS)
def test_a_fault_names_file_row_column_count_and_remedy(
    column: str, cells: dict[int, Any], sentence: str
) -> None:
    first, *others = fault(with_cells(column, cells)).splitlines()
    assert first.startswith(f"log.csv: {sentence}")
    assert first.endswith(".")
    assert others == ["Correct the rows, or leave them out with data.faults=drop."]


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("latency_s", -0.5, "column 'latency_s' is negative (-0.5)"),
        ("input_tokens", -1, "column 'input_tokens' is negative (-1.0)"),
        ("output_tokens", math.inf, "column 'output_tokens' is infinite (inf)"),
        ("propensity", 0, "column 'propensity' lies outside (0, 1] (0.0)"),
        ("propensity", 1.01, "column 'propensity' lies outside (0, 1] (1.01)"),
        ("timestamp", "yesterday", "column 'timestamp' is not a time ('yesterday')"),
        ("timestamp", "2026-13-01", "column 'timestamp' is not a time ('2026-13-01')"),
        ("timestamp", 1772357400000, "column 'timestamp' is not a time (1772357400000)"),
    ],
)
def test_optional_columns_are_checked_too(column: str, value: Any, sentence: str) -> None:
    cells = [None] * 7 + [value] + [None] * 52
    message = fault(table(**{column: pd.Series(cells, dtype=object)}))
    assert message.startswith(f"log.csv: row 8, {sentence}; 1 row concerned; give ")


@pytest.mark.parametrize("column", ["split", "group"])
def test_a_query_stands_on_one_side_and_in_one_group(column: str) -> None:
    values = ["train", "train", "test"] * 20
    message = fault(table(**{column: values}))
    assert f"row 3, column '{column}' differs from an earlier row" in message
    assert "20 rows concerned" in message


def test_an_outcome_logged_twice_is_told_with_its_names() -> None:
    frame = pd.concat([table(), table().iloc[[4, 5]]])
    assert (
        "log.csv: row 61, column 'model' is logged twice for one query_id (('q1', 'medium')); "
        "2 rows concerned; keep one row per query_id and model." in fault(frame)
    )


def test_every_fault_of_a_table_is_told_at_once() -> None:
    frame = with_cells("score", {0: 7, 1: "?", 2: None})
    frame["cost_usd"] = -1.0
    message = fault(frame)
    assert len(message.splitlines()) == 5
    assert "row 1, column 'score' lies outside [0, 1] (7.0); 1 row concerned" in message
    assert "row 2, column 'score' is not a number ('?'); 1 row concerned" in message
    assert "row 3, column 'score' is missing; 1 row concerned" in message
    assert "row 1, column 'cost_usd' is negative (-1.0); 60 rows concerned" in message


def test_rows_without_a_name_share_nothing() -> None:
    message = fault(table(query_id=""))
    assert message.splitlines()[0].endswith("60 rows concerned; fill it in or drop the row.")
    assert len(message.splitlines()) == 2


def test_a_megabyte_in_a_message_is_cut() -> None:
    assert len(fault(with_cells("score", {0: "x" * 1_000_000}))) < 300


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_counted_alike_in_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    path = write(with_cells("score", {41: 2.0}), tmp_path / f"log.{kind}")
    with pytest.raises(RouterError, match=r"row 42, column 'score' lies outside \[0, 1\] \(2\.0\)"):
        TableData(path).load()


@given(
    bad=st.dictionaries(st.integers(0, 59), st.sampled_from([None, 2.0, -1.0, "x"]), min_size=1),
)
@settings(max_examples=40, deadline=None)
def test_dropping_leaves_exactly_the_rows_without_a_fault(bad: dict[int, Any]) -> None:
    checked = check_table(with_cells("score", bad), "log.csv", faults="drop")
    assert sorted(checked.index) == sorted(set(range(60)) - set(bad))
    assert checked["score"].between(0, 1).all()


# --- data.faults=drop ---


def test_dropped_rows_are_counted_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = with_cells("score", {0: None, 4: 9})
    with caplog.at_level(logging.WARNING):
        outcomes = load(frame, tmp_path / "log.csv", faults="drop")
    assert not outcomes.observed[0, 0]
    assert np.isnan(outcomes.scores[0, 0])
    assert outcomes.observed.sum() == 58
    assert "row 1, column 'score' is missing" in caplog.text
    assert "2 of 60 rows left out." in caplog.text


def test_a_model_that_goes_with_its_faulty_rows_is_named(caplog: pytest.LogCaptureFixture) -> None:
    small = table()["model"] == "small"
    with caplog.at_level(logging.WARNING):
        left = check_table(table(score=table()["score"].mask(small)), "log.csv", faults="drop")
    assert set(left["model"]) == {"large", "medium"}
    assert "20 of 60 rows left out, and with them every row of 'small'." in caplog.text


def test_a_query_that_loses_all_its_outcomes_is_gone() -> None:
    frame = with_cells("score", dict.fromkeys((0, 1, 2)))
    outcomes = build_matrix(check_table(frame, "log.csv", faults="drop"))
    assert len(outcomes) == 19
    assert "q0" not in set(outcomes.queries["query_id"])


def test_dropping_every_row_is_a_fault() -> None:
    message = fault(table(score=2.0), faults="drop")
    assert message.endswith("No row is left once the faulty ones are dropped.")


def test_messages_after_a_drop_still_count_the_files_rows(tmp_path: Path) -> None:
    frame = with_cells("score", {0: None})
    frame.loc[7, "cost_usd"] = None
    with pytest.raises(RouterError, match=r"row 8, column 'cost_usd' is missing"):
        load(frame, tmp_path / "log.csv", faults="drop")


def test_another_word_than_error_or_drop_is_told() -> None:
    with pytest.raises(RouterError, match=r"data\.faults is 'ignore'; choose error or drop\."):
        TableData("log.csv", faults="ignore")  # type: ignore[arg-type]


# --- column names ---


@pytest.mark.parametrize(
    ("theirs", "hint"),
    [
        ({"score": "reward"}, "data.columns.score=reward"),
        ({"score": "Accuracy"}, "data.columns.score=Accuracy"),
        ({"score": "scores"}, "data.columns.score=scores"),
        ({"prompt": "question"}, "data.columns.prompt=question"),
        ({"model": "llm"}, "data.columns.model=llm"),
        ({"query_id": "qid"}, "data.columns.query_id=qid"),
        ({"query_id": "Query ID"}, "data.columns.query_id=\"'Query ID'\""),
        ({"query_id": "id", "prompt": "query"}, "query_id=id data.columns.prompt=query"),
        ({"score": "SCORE", "cost_usd": "Cost"}, "score=SCORE data.columns.cost_usd=Cost"),
    ],
)
def test_a_wrong_name_gets_the_nearest_one(theirs: dict[str, str], hint: str) -> None:
    message = fault(table().rename(columns=theirs))
    assert message.startswith(f"log.csv: no column '{next(iter(theirs))}'")
    assert message.endswith(f"; map the nearest columns with {_whole(hint)}.")
    assert "\n" not in message


def _whole(hint: str) -> str:
    return hint if hint.startswith("data.") else f"data.columns.{hint}"


def test_names_far_from_ours_are_listed() -> None:
    message = fault(pd.DataFrame({"x": [1], "y": [2]}))
    assert "no column 'query_id', 'prompt', 'model', 'score' among 'x', 'y'" in message
    assert "map them with data.columns.<name>=<your column>" in message


def test_a_column_per_model_is_told_to_become_long() -> None:
    message = fault(pd.DataFrame({"prompt": ["a"], "gpt": [1], "llama": [0]}))
    assert "give one row per query and model (data/README.md turns wide into long)." in message


def test_without_ids_the_prompt_is_the_suggested_one(tmp_path: Path) -> None:
    frame = table().drop(columns="query_id")
    assert fault(frame).endswith("map the nearest columns with data.columns.query_id=prompt.")
    outcomes = load(frame, tmp_path / "log.csv", columns={"query_id": "prompt"})
    assert outcomes.prompts == build_matrix(table()).prompts
    assert outcomes.queries["query_id"].tolist() == outcomes.prompts


def test_a_column_that_looks_like_an_optional_one_is_not_passed_over_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        check_table(table().rename(columns={"cost_usd": "cost"}), "log.csv")
    assert "log.csv: column 'cost' is not read; if it holds what its name says, add " in caplog.text
    assert "data.columns.cost_usd=cost." in caplog.text


def test_mapped_columns_take_our_names(tmp_path: Path) -> None:
    theirs = {"query_id": "id", "prompt": "question", "model": "llm", "score": "reward"}
    path = tmp_path / "log.csv"
    outcomes = load(table().rename(columns=theirs), path, columns={**theirs, "task": None})
    assert outcomes.fingerprint == build_matrix(table()).fingerprint


def test_a_mapped_column_wins_over_one_of_our_name(tmp_path: Path) -> None:
    frame = table(reward=1 - table()["score"])
    outcomes = load(frame, tmp_path / "log.csv", columns={"score": "reward"})
    np.testing.assert_array_equal(outcomes.scores, 1 - build_matrix(table()).scores)


def test_two_columns_may_change_names(tmp_path: Path) -> None:
    crossed = table().rename(columns={"prompt": "task", "task": "prompt"})
    columns = {"prompt": "task", "task": "prompt"}
    outcomes = load(crossed, tmp_path / "log.csv", columns=columns)
    assert outcomes.fingerprint == build_matrix(table()).fingerprint


def test_a_mapping_that_names_nothing_is_told() -> None:
    assert fault(table(), columns={"score": "reward"}).startswith(
        "log.csv: data.columns names 'reward', which the file does not have; its columns are "
        "'query_id', 'prompt', 'model', 'score'"
    )
    assert fault(table(), columns={"points": "score"}).startswith(
        "data.columns: 'points' is no column of the outcome table; its columns are 'query_id'"
    )


# --- candidates and prices ---


def test_the_named_candidates_come_in_their_order(tmp_path: Path) -> None:
    outcomes = load(table(), tmp_path / "log.csv", candidates=["small", "large"])
    assert outcomes.candidates == ("small", "large")
    everything = build_matrix(table())
    np.testing.assert_array_equal(outcomes.scores, everything.scores[:, [2, 0]])


@pytest.mark.parametrize(
    ("candidates", "sentence"),
    [
        (["large", "huge"], "log.csv: no outcome of 'huge'; its models are 'large', 'medium', "),
        (["large", "large"], "data.candidates names 'large' twice; name each once."),
        (["large"], "log.csv: 1 candidate (large); a router needs outcomes of at least two"),
        ("large", "data.candidates is 'large'; give a list: data.candidates=[a,b]."),
    ],
)
def test_wrong_candidates_are_told(tmp_path: Path, candidates: Any, sentence: str) -> None:
    with pytest.raises(RouterError) as told:
        load(table(), tmp_path / "log.csv", candidates=candidates)
    assert sentence in str(told.value)


# --- real tables ---


@pytest.mark.parametrize(
    ("name", "weak", "strong"),
    [("routellm_mmlu", 68.091, 80.587), ("routellm_gsm8k", 63.734, 85.769)],
)
def test_weak_and_strong_accuracy_of_routellm(
    shared_table: Callable[[str], Path], name: str, weak: float, strong: float
) -> None:
    outcomes = TableData(shared_table(name)).load()
    published = outcomes.take((outcomes.queries["split"] == "test_decontaminated").to_numpy())
    assert outcomes.cost is None
    assert outcomes.observed.all()
    accuracy = dict(zip(outcomes.candidates, 100 * published.mean_scores(), strict=True))
    assert round(accuracy["mistralai/Mixtral-8x7B-Instruct-v0.1"], 3) == weak
    assert round(accuracy["gpt-4-1106-preview"], 3) == strong


@pytest.mark.parametrize(
    ("name", "queries", "candidates"),
    [("llmrouter_nine", 6108, 9), ("routellm_mtbench", 80, 2)],
)
def test_real_tables_load_whole(
    shared_table: Callable[[str], Path], name: str, queries: int, candidates: int
) -> None:
    outcomes = TableData(shared_table(name)).load()
    assert (len(outcomes), len(outcomes.candidates)) == (queries, candidates)
    assert outcomes.observed.all()
    assert ((outcomes.scores >= 0) & (outcomes.scores <= 1)).all()
