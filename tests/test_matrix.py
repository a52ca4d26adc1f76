"""OutcomeMatrix: what is not observed stays unseen, and parts stay true to the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import PRICES, make_problem, make_table
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix, build_matrix
from router.outcomes.table import check_table

ARRAYS = ("scores", "cost", "tokens", "latency", "propensity")


def rich_table(n: int = 30, seed: int = 0, observed: float = 0.7) -> pd.DataFrame:
    """A checked table with every column that the matrix holds, and unobserved cells."""
    frame, _ = make_table(n, seed, costs="tokens", observed=observed)
    rng = np.random.default_rng(seed)
    number = frame["query_id"].str[1:].astype(int)
    frame = frame.assign(
        latency_s=rng.random(len(frame)),
        propensity=rng.uniform(0.1, 1, len(frame)),
        split=np.where(number % 3 == 0, "test", "train"),
        group=np.where(number % 2 == 0, "g" + (number // 4).astype(str), None),
        timestamp=pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(number, unit="h"),
        response="an answer",
    )
    return check_table(frame, "the table")


def rich_matrix(n: int = 30, seed: int = 0, observed: float = 0.7) -> OutcomeMatrix:
    return build_matrix(rich_table(n, seed, observed), PRICES)


def assert_same_outcomes(one: OutcomeMatrix, other: OutcomeMatrix) -> None:
    assert one.candidates == other.candidates
    np.testing.assert_array_equal(one.observed, other.observed)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    own_columns = one.queries.columns.drop("group")
    pd.testing.assert_frame_equal(one.queries[own_columns], other.queries[own_columns])
    np.testing.assert_array_equal(pd.factorize(one.groups)[0], pd.factorize(other.groups)[0])


# --- the mask ---


def test_unobserved_cells_hold_nan_and_observed_ones_hold_numbers() -> None:
    outcomes = rich_matrix()
    assert 0 < outcomes.observed.mean() < 1
    for name in ARRAYS:
        values = getattr(outcomes, name)
        assert np.isnan(values[~outcomes.observed]).all()
        assert np.isfinite(values[outcomes.observed]).all()


def test_every_cell_holds_its_own_rows_values() -> None:
    frame, outcomes = rich_table(), rich_matrix()
    row = {query_id: i for i, query_id in enumerate(outcomes.queries["query_id"])}
    for record in frame.to_dict("records"):
        cell = row[record["query_id"]], outcomes.candidates.index(record["model"])
        assert outcomes.observed[cell]
        assert outcomes.scores[cell] == record["score"]
        assert outcomes.latency[cell] == record["latency_s"]
        assert outcomes.propensity[cell] == record["propensity"]
        assert outcomes.tokens[cell].tolist() == [record["input_tokens"], record["output_tokens"]]
    assert outcomes.observed.sum() == len(frame)


@pytest.mark.parametrize("part", ["whole", "take", "select", "with_target"])
def test_arrays_are_read_only(part: str) -> None:
    outcomes = rich_matrix()
    if part == "take":
        outcomes = outcomes.take(np.arange(5))
    elif part == "select":
        outcomes = outcomes.select(["small", "large"])
    elif part == "with_target":
        outcomes = outcomes.with_target(np.ones_like(outcomes.scores))
    for name in (*ARRAYS, "observed", "prices"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(outcomes, name)[0] = 0


def test_the_callers_arrays_stay_the_callers() -> None:
    scores, observed = np.ones((2, 2)), np.array([[True, False], [True, True]])
    queries = pd.DataFrame({"query_id": ["a", "b"], "prompt": ["x", "y"], "group": [0, 1]})
    outcomes = OutcomeMatrix(queries, ("a", "b"), scores, observed)
    scores[0, 0] = 7
    observed[0, 0] = False
    assert scores[0, 1] == 1
    assert outcomes.scores[0, 0] == 1
    assert outcomes.observed[0, 0]


def test_a_target_is_hidden_where_nothing_was_observed() -> None:
    outcomes = rich_matrix()
    target = outcomes.with_target(np.ones_like(outcomes.scores))
    np.testing.assert_array_equal(np.isnan(target.scores), ~outcomes.observed)


def test_means_are_over_observed_cells_alone() -> None:
    frame, outcomes = rich_table(), rich_matrix()
    expected = frame.groupby("model")["score"].mean()[list(outcomes.candidates)]
    np.testing.assert_allclose(outcomes.mean_scores(), expected, rtol=1e-12)
    costs = outcomes.to_table().groupby("model")["cost_usd"].mean()[list(outcomes.candidates)]
    np.testing.assert_allclose(outcomes.mean_costs(), costs, rtol=1e-12)


def test_a_candidate_that_a_part_never_saw_has_no_mean() -> None:
    outcomes = rich_matrix()
    without_small = np.flatnonzero(~outcomes.observed[:, 2])
    means = outcomes.take(without_small).mean_scores()
    assert np.isnan(means).tolist() == [False, False, True]


def test_fully_observed_queries_are_those_without_a_gap() -> None:
    outcomes = rich_matrix()
    complete = outcomes.take(outcomes.fully_observed)
    assert 0 < len(complete) < len(outcomes)
    assert complete.observed.all()


# --- parts ---

WHOLE = rich_matrix()


@given(st.lists(st.integers(0, 29), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_take_keeps_each_querys_row(rows: list[int]) -> None:
    outcomes = WHOLE
    part = outcomes.take(np.array(rows))
    assert len(part) == len(rows)
    assert part.prompts == [outcomes.prompts[row] for row in rows]
    np.testing.assert_array_equal(part.groups, outcomes.groups[rows])
    for name in (*ARRAYS, "observed"):
        np.testing.assert_array_equal(getattr(part, name), getattr(outcomes, name)[rows])


def test_take_reads_true_and_false_too() -> None:
    outcomes = rich_matrix()
    mask = np.arange(30) % 4 == 0
    assert_same_outcomes(outcomes.take(mask), outcomes.take(np.flatnonzero(mask)))


@pytest.mark.parametrize("names", [["small", "large"], ["medium"], ["small", "medium", "large"]])
def test_select_keeps_each_candidates_column(names: list[str]) -> None:
    outcomes = rich_matrix()
    part = outcomes.select(names)
    columns = [outcomes.candidates.index(name) for name in names]
    assert part.candidates == tuple(names)
    assert len(part) == len(outcomes)
    np.testing.assert_array_equal(part.prices, outcomes.prices[columns])
    for name in (*ARRAYS, "observed"):
        np.testing.assert_array_equal(getattr(part, name), getattr(outcomes, name)[:, columns])


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["large", "huge"], "no outcome of 'huge'; its models are 'large', 'medium', 'small'"),
        (["large", "large"], "names 'large' twice"),
    ],
)
def test_select_tells_what_it_does_not_know(names: list[str], sentence: str) -> None:
    with pytest.raises(RouterError, match=sentence):
        rich_matrix().select(names)


def test_select_undoes_another_order() -> None:
    outcomes = rich_matrix()
    turned = outcomes.select(["small", "medium", "large"]).select(outcomes.candidates)
    assert_same_outcomes(turned, outcomes)


@given(n=st.integers(10, 40), seed=st.integers(0, 50), observed=st.floats(0.4, 1))
@settings(max_examples=15, deadline=None)
def test_the_long_table_makes_the_same_matrix_again(n: int, seed: int, observed: float) -> None:
    assume(make_table(n, seed, "tokens", observed)[0]["score"].unique().size > 1)
    outcomes = rich_matrix(n, seed, observed)
    again = build_matrix(check_table(outcomes.to_table(), "the table"), PRICES)
    assert_same_outcomes(again, outcomes)
    assert len(outcomes.to_table()) == outcomes.observed.sum()


def test_a_table_of_what_the_matrix_holds_keeps_its_fingerprint() -> None:
    outcomes = make_problem(30, observed=0.8)[1]
    again = build_matrix(check_table(outcomes.to_table(), "the table"))
    assert again.fingerprint == outcomes.fingerprint


# --- the fingerprint ---


@given(st.permutations(range(30)), st.randoms())
@settings(max_examples=25, deadline=None)
def test_the_fingerprint_does_not_know_the_order(order: list[int], random: Any) -> None:
    frame = make_table(10)[0]
    columns = list(frame.columns)
    random.shuffle(columns)
    assert build_matrix(frame.iloc[order][columns]).fingerprint == build_matrix(frame).fingerprint


CHANGES = {
    "query_id": "q999",
    "prompt": "another question",
    "model": "huge",
    "score": 0.123,
    "cost_usd": 1e-9,
    "input_tokens": 999.0,
    "output_tokens": 999.0,
    "latency_s": 99.0,
    "task": "geometry",
    "group": "g999",
    "split": "validation",
    "timestamp": pd.Timestamp("2026-05-05", tz="UTC"),
    "propensity": 0.001,
    "response": "another answer",
}


@pytest.mark.parametrize("column", CHANGES)
@pytest.mark.parametrize("row", [0, 17, -1])
def test_the_fingerprint_knows_every_value(column: str, row: int) -> None:
    frame = rich_table().assign(cost_usd=0.5)
    changed = frame.copy()
    changed.iloc[row, changed.columns.get_loc(column)] = CHANGES[column]
    before, after = (
        build_matrix(table, cost_only(table)).fingerprint for table in (frame, changed)
    )
    assert before != after


def cost_only(table: pd.DataFrame) -> None:
    """No price table: the logged dollars count, whatever models the table holds."""
    assert "cost_usd" in table


def test_the_fingerprint_knows_a_missing_row_and_a_missing_column() -> None:
    frame = rich_table().assign(cost_usd=0.5)
    prints = {
        build_matrix(table).fingerprint
        for table in (frame, frame.iloc[1:], frame.drop(columns="task"), frame.assign(split=None))
    }
    assert len(prints) == 4


def test_the_fingerprint_does_not_confuse_neighbouring_columns() -> None:
    frame = make_table(10)[0]
    prints = {
        build_matrix(frame.assign(task=task, split=split)).fingerprint
        for task, split in (("a", "bc"), ("ab", "c"), ("abc", None), (None, "abc"))
    }
    assert len(prints) == 4


def test_the_fingerprint_does_not_know_free_columns_or_prices() -> None:
    frame = rich_table()
    reference = build_matrix(frame, PRICES).fingerprint
    assert build_matrix(frame.assign(note=range(len(frame))), PRICES).fingerprint == reference
    dearer = type(PRICES)({n: type(p)(2.0, 3.0, p.date) for n, p in PRICES.prices.items()})
    assert build_matrix(frame, dearer).fingerprint == reference


# --- what makes no matrix ---


@pytest.mark.parametrize("score", [0.0, 0.7, 1.0])
def test_equal_scores_teach_nothing(score: float) -> None:
    frame = make_table(20)[0].assign(score=score)
    with pytest.raises(RouterError, match=f"column 'score' is {score:g} in all 60 rows"):
        build_matrix(frame, source="log.csv")


def test_one_candidate_is_no_choice() -> None:
    frame = make_table(20)[0].query("model == 'large'")
    with pytest.raises(RouterError, match=r"log\.csv: 1 candidate \(large\); a router needs"):
        build_matrix(frame, source="log.csv")


def test_nine_queries_are_too_few() -> None:
    with pytest.raises(RouterError, match=r"log\.csv: 9 queries; log at least 10"):
        build_matrix(make_table(9)[0], source="log.csv")
    assert len(build_matrix(make_table(10)[0])) == 10


def test_candidates_drop_the_queries_that_none_of_them_answered() -> None:
    frame = rich_table()
    names = ["medium", "small"]
    answered = frame[frame["model"].isin(names)]["query_id"].nunique()
    outcomes = build_matrix(frame, PRICES, candidates=names)
    assert len(outcomes) == answered < 30
    assert outcomes.observed.any(axis=1).all()


def test_candidates_named_by_numbers_are_names() -> None:
    frame = make_table(12)[0].replace({"model": {"large": "70", "small": "7"}})
    outcomes = build_matrix(frame, candidates=[70, 7])  # type: ignore[list-item]  # as YAML reads
    assert outcomes.candidates == ("70", "7")


def test_a_query_without_a_task_says_so() -> None:
    frame = make_table(12)[0]
    frame["task"] = frame["task"].astype(object).mask(frame["query_id"] == "q3", None)
    tasks = build_matrix(frame).tasks
    assert tasks[3] == "(none)"
    assert set(tasks) == {"poetry", "algebra", "(none)"}


def test_a_task_that_one_row_tells_holds_for_its_query() -> None:
    frame = make_table(12)[0]
    rows = [9, 11]  # two of the three rows of q3
    expected = build_matrix(frame).tasks
    frame["task"] = frame["task"].astype(object).mask(frame.index.isin(rows), None)
    assert build_matrix(frame).tasks.tolist() == expected.tolist()
