"""The price table: what it reads, what it refuses, and that no candidate is ever free."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import PRICES, make_table
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import RouterError
from router.outcomes.matrix import build_matrix
from router.outcomes.prices import Price, PriceTable

GOOD = "models:\n  a: {input: 1.0, output: 2.0, date: 2026-01-01}\n"


def read(text: str | bytes, folder: Path) -> PriceTable:
    path = folder / "prices.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return PriceTable.read(path)


def test_a_price_table_is_read(tmp_path: Path) -> None:
    table = read(GOOD + "  b/c: {input: 0, output: 1e-3, date: '2026-02-28', note: x}\n", tmp_path)
    assert table.prices == {
        "a": Price(1.0, 2.0, "2026-01-01"),
        "b/c": Price(0.0, 0.001, "2026-02-28"),
    }
    np.testing.assert_allclose(table.of(["b/c", "a"]), [[0, 1e-9], [1e-6, 2e-6]], rtol=1e-15)


def test_a_time_of_day_is_no_part_of_a_date(tmp_path: Path) -> None:
    text = "models:\n  a: {input: 1, output: 2, date: 2026-01-01 10:30:00}\n"
    assert read(text, tmp_path).prices["a"].date == "2026-01-01"


def test_a_model_named_by_a_number_is_a_name(tmp_path: Path) -> None:
    assert list(
        read("models:\n  4: {input: 1, output: 2, date: 2026-01-01}\n", tmp_path).prices
    ) == ["4"]


@given(
    st.dictionaries(
        st.from_regex(r"[\w./:@ -]*\w", fullmatch=True),
        st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.dates()),
        max_size=4,
    )
)
@settings(max_examples=25, deadline=None)
def test_what_yaml_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    prices: dict[str, tuple[float, float, datetime.date]],
) -> None:
    entries = {
        name: {"input": amount_in, "output": amount_out, "date": date}
        for name, (amount_in, amount_out, date) in prices.items()
    }
    text = yaml.safe_dump({"models": entries}, allow_unicode=True)
    read_back = read(text, tmp_path_factory.mktemp("prices")).prices
    assert read_back == {
        name: Price(amount_in, amount_out, date.isoformat())
        for name, (amount_in, amount_out, date) in prices.items()
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a price table starts with the key 'models'; below it stand"),
        ("a: {input: 1}\n", "a price table starts with the key 'models'; below it stand"),
        ("models: [a, b]\n", "a price table starts with the key 'models'; below it stand"),
        ("models:\n  a: 3\n", "models.a has no input and no output and no date; it needs input"),
        ("models:\n  a:\n", "models.a has no input and no output and no date; it needs input"),
        ("models:\n  a: {input: 1, output: 2}\n", "models.a has no date; it needs input and out"),
        ("models:\n  a: {input: -1, output: 2, date: 2026-01-01}\n", "models.a.input is -1; give"),
        ("models:\n  a: {input: 1, output: .inf, date: 2026-01-01}\n", "models.a.output is inf; "),
        ("models:\n  a: {input: .nan, output: 1, date: 2026-01-01}\n", "models.a.input is nan; "),
        ("models:\n  a: {input: yes, output: 1, date: 2026-01-01}\n", "models.a.input is True; "),
        ("models:\n  a: {input: '0,5', output: 1, date: 2026-01-01}\n", "a.input is '0,5'; give"),
        ("models:\n  a: {input: [1], output: 1, date: 2026-01-01}\n", "models.a.input is [1]; "),
        ("models:\n  a: {input: 1, output: 1, date: May}\n", "models.a.date is 'May'; give YYYY"),
        ("models:\n  a: {input: 1, output: 1, date: null}\n", "models.a.date is None; give YYYY"),
        (
            "models:\n  a: {input: 1, output: 1, date: 2026-02-30}\n",
            "cannot be read as YAML (day is out of range for month); correct it there.",
        ),
        ("models:\n  a: {input: 1\n", "cannot be read as YAML (line 3: "),
        ("\tmodels:\n", "cannot be read as YAML (line 1: "),
        ("models: !!python/object/apply:os.getcwd []\n", "cannot be read as YAML (line 1: "),
        (b"models:\n  \xff: 1\n", "cannot be read as YAML ("),
        (
            GOOD + "  a: {input: 9, output: 9, date: 2026-02-01}\n",
            "cannot be read as YAML (line 3: 'a' stands twice); correct it there.",
        ),
    ],
)
def test_a_faulty_price_table_is_one_sentence(
    tmp_path: Path, text: str | bytes, sentence: str
) -> None:
    with pytest.raises(RouterError) as told:
        read(text, tmp_path)
    message = str(told.value)
    assert message.startswith(f"{tmp_path / 'prices.yaml'}: ")
    assert sentence in message
    assert message.endswith(".")
    assert "\n" not in message


def test_an_absent_table_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match=r"no such price table; give data\.prices=FILE\.yaml\."):
        PriceTable.read(tmp_path / "absent.yaml")
    with pytest.raises(RouterError, match=r"cannot be read \(Is a directory\)"):
        PriceTable.read(tmp_path)


def test_an_unpriced_candidate_is_an_error(tmp_path: Path) -> None:
    frame, _ = make_table(20, costs="tokens")
    with pytest.raises(RouterError) as told:
        build_matrix(frame, read(GOOD.replace(" a:", " large:"), tmp_path))
    assert str(told.value) == (
        f"{tmp_path / 'prices.yaml'}: no price for 'medium', 'small'; "
        "add input and output in USD per million tokens, with the date."
    )


def test_the_cost_is_tokens_times_price() -> None:
    frame, _ = make_table(20, costs="tokens", observed=0.7)
    outcomes = build_matrix(frame, PRICES)
    table = outcomes.to_table()
    per_million = [PRICES.prices[name] for name in table["model"]]
    expected = [
        (tokens_in * price.input + tokens_out * price.output) / 1e6
        for tokens_in, tokens_out, price in zip(
            table["input_tokens"], table["output_tokens"], per_million, strict=True
        )
    ]
    np.testing.assert_allclose(table["cost_usd"], expected, rtol=1e-12)
    assert outcomes.price_dates == ("2026-01-01",) * 3


def test_prices_without_tokens_are_an_error() -> None:
    frame, _ = make_table(20)
    with pytest.raises(RouterError, match="prices are given but the log has no input_tokens"):
        build_matrix(frame, PRICES)


def test_tokens_without_prices_are_an_error() -> None:
    frame, _ = make_table(20, costs="tokens")
    with pytest.raises(RouterError, match=r"neither cost_usd nor prices; give data\.prices=FILE"):
        build_matrix(frame)


@pytest.mark.parametrize("column", ["input_tokens", "output_tokens"])
def test_a_gap_in_the_tokens_is_told_with_its_models(column: str) -> None:
    frame, _ = make_table(20, costs="tokens")
    gap = frame["model"].eq("medium") & (frame.index > 5)
    with pytest.raises(RouterError) as told:
        build_matrix(frame.assign(**{column: frame[column].mask(gap)}), PRICES, source="log.csv")
    assert str(told.value) == (
        f"log.csv: row 8, column '{column}' is missing; 18 rows of 'medium' concerned; "
        "log it for every row, or leave these models out with data.candidates."
    )


def test_a_gap_in_the_dollars_is_told_with_its_models() -> None:
    frame, _ = make_table(20)
    holed = frame.assign(cost_usd=frame["cost_usd"].mask(frame.index == 4))
    with pytest.raises(RouterError) as told:
        build_matrix(holed, source="log.csv")
    assert "log.csv: row 5, column 'cost_usd' is missing; 1 row of 'medium' concerned" in str(
        told.value
    )
    assert build_matrix(holed, candidates=["large", "small"]).cost is not None


@pytest.mark.parametrize("prices", [None, {"large": 10.0, "medium": 0.0, "small": 0.1}])
def test_no_candidate_is_free(prices: dict[str, float] | None) -> None:
    frame, _ = make_table(20, costs="tokens" if prices else "usd")
    table = None
    if prices:
        table = PriceTable({name: Price(p, p, "2026-01-01") for name, p in prices.items()})
    else:
        frame["cost_usd"] = frame["cost_usd"].mask(frame["model"] == "medium", 0.0)
    with pytest.raises(RouterError) as told:
        build_matrix(frame, table, source="log.csv")
    assert str(told.value).startswith("log.csv: every answer of 'medium' costs 0 USD; no candidate")


def test_one_free_answer_is_no_fault() -> None:
    frame, _ = make_table(20)
    frame.loc[0, "cost_usd"] = 0.0  # a cached answer
    assert build_matrix(frame).cost[0, 0] == 0.0


def test_a_table_without_costs_is_judged_on_quality_alone() -> None:
    outcomes = build_matrix(make_table(20, costs=None)[0])
    assert outcomes.cost is None
    assert outcomes.mean_costs() is None
