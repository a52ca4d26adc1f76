"""Splits: every side where it belongs, and no prompt or group on two of them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import make_problem
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from router.errors import RouterError
from router.outcomes.grouping import group_queries
from router.outcomes.matrix import OutcomeMatrix, build_matrix
from router.outcomes.splits import (
    AutoSplit,
    ColumnSplit,
    Everything,
    LeaveOneTaskOut,
    RandomSplit,
    Split,
    TimeSplit,
    grouped_folds,
)

MARCH = pd.Timestamp("2026-03-01", tz="UTC")


def log_of(n: int, **per_query: Any) -> OutcomeMatrix:
    """n queries x 2 models; per_query: columns with one value per query."""
    queries = pd.DataFrame(
        {"query_id": [f"q{i}" for i in range(n)], "prompt": [f"question {i}" for i in range(n)]}
    ).assign(**per_query)
    models = pd.DataFrame({"model": ["large", "small"], "score": [1.0, 0.0]})
    return build_matrix(queries.merge(models, how="cross"))


@st.composite
def logs(draw: st.DrawFn) -> OutcomeMatrix:
    """Logs with repeated prompts, groups, tasks, splits and times of any kind."""
    n = draw(st.integers(40, 60))
    row = st.integers(0, n - 1)

    def column(values: list[Any]) -> list[Any]:
        return draw(st.lists(st.sampled_from(values), min_size=n, max_size=n))

    prompts = [f"question {i}" for i in range(n)]
    for copy, original in draw(st.lists(st.tuples(row, row), max_size=8)):
        prompts[copy] = prompts[original] + draw(st.sampled_from(["", " ", "\n"]))
    groups: list[str | None] = [None] * n
    for member, name in draw(st.lists(st.tuples(row, st.sampled_from("abc")), max_size=8)):
        groups[member] = name
    return log_of(
        n,
        prompt=prompts,
        group=groups,
        task=column(["poetry", "algebra"]),
        split=column(["train", "test", "validation"]),
        timestamp=[MARCH + pd.Timedelta(hours=hour) for hour in column(list(range(24)))],
    )


SPLITS: dict[str, Callable[[OutcomeMatrix], Split]] = {
    "column": ColumnSplit(),
    "auto": AutoSplit(),
    "random": RandomSplit(0.4, random_state=1),
    "time": TimeSplit(0.4),
    "task": LeaveOneTaskOut("poetry"),
    "all": Everything(),
}


@pytest.mark.parametrize("name", SPLITS)
@given(outcomes=logs())
@settings(max_examples=40, deadline=None)
def test_no_prompt_and_no_group_stands_on_two_sides(name: str, outcomes: OutcomeMatrix) -> None:
    try:
        split = SPLITS[name](outcomes)
    except RouterError:
        assume(False)
    sides = [rows for rows in (split.train, split.validation, split.test) if rows is not None]
    prompts = outcomes.queries["prompt"].str.strip().to_numpy()
    for one, other in itertools.combinations(sides, 2):
        assert not set(one) & set(other)
        assert not set(outcomes.groups[one]) & set(outcomes.groups[other])
        assert not set(prompts[one]) & set(prompts[other])
    for rows in sides:
        assert (np.diff(rows) > 0).all()


# --- groups ---


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c", "d", "e", "f", "g"]),
            st.sampled_from([None, "1", "2", "3"]),
        ),
        min_size=1,
        max_size=25,
    )
)
def test_groups_are_the_connected_components(pairs: list[tuple[str, str | None]]) -> None:
    prompts, logged = (list(column) for column in zip(*pairs, strict=True))
    groups = group_queries(pd.Series(prompts, dtype=object), pd.Series(logged, dtype=object))
    # The slow way: join labels until nothing moves any more.
    labels = list(range(len(pairs)))
    for _ in pairs:
        for i, j in itertools.combinations(range(len(pairs)), 2):
            linked = prompts[i] == prompts[j] or (logged[i] == logged[j] and logged[i] is not None)
            if linked:
                labels[i] = labels[j] = min(labels[i], labels[j])
    assert groups.tolist() == pd.factorize(np.array(labels))[0].tolist()


def test_a_chain_of_prompts_and_groups_is_one_group() -> None:
    prompts = pd.Series(["x", "x ", "y", "y", "z"])
    logged = pd.Series([None, "chat", "chat", None, None], dtype=object)
    assert group_queries(prompts, logged).tolist() == [0, 0, 0, 0, 1]


def test_prompts_that_differ_in_more_than_blanks_around_them_are_two() -> None:
    assert group_queries(pd.Series(["x y", " x y\n", "x  y", "X y"])).tolist() == [0, 0, 1, 2]


def test_a_group_of_one_name_and_a_prompt_of_that_name_are_no_link() -> None:
    logged = pd.Series(["b", None], dtype=object)
    assert group_queries(pd.Series(["a", "b"]), logged).tolist() == [0, 1]


# --- by column ---


def sided(*sides: str, times: int = 5, **columns: Any) -> OutcomeMatrix:
    """A log whose split column holds each side `times` times, in turn."""
    return log_of(len(sides) * times, split=list(sides) * times, **columns)


def labels_of(outcomes: OutcomeMatrix, rows: np.ndarray) -> set[str]:
    return set(outcomes.queries["split"].iloc[rows])


def test_the_split_column_decides() -> None:
    outcomes = sided("train", "test", "validation")
    split = ColumnSplit()(outcomes)
    assert split.train.tolist() == list(range(0, 15, 3))
    assert split.test.tolist() == list(range(1, 15, 3))
    assert split.validation.tolist() == list(range(2, 15, 3))


def test_without_validation_rows_there_is_no_validation_side() -> None:
    assert ColumnSplit()(sided("train", "test")).validation is None


def test_values_of_the_split_column_may_be_named() -> None:
    outcomes = sided("dev", "tune", "eval", "exam")
    split = ColumnSplit(train="dev", test=["eval", "exam"], validation=["tune"])(outcomes)
    assert labels_of(outcomes, split.train) == {"dev"}
    assert labels_of(outcomes, split.test) == {"eval", "exam"}
    assert labels_of(outcomes, split.validation) == {"tune"}


def test_queries_on_no_side_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        split = ColumnSplit()(sided("train", "test", "val"))
    assert len(split.train) + len(split.test) == 10
    assert "5 queries left out: split.train, split.test and split.validation do not" in caplog.text
    assert "name their split 'val'." in caplog.text


def test_train_gives_way_to_validation_and_both_to_test(caplog: pytest.LogCaptureFixture) -> None:
    prompts = [f"question {i}" for i in range(21)]
    prompts[3] = prompts[1]  # train, test
    prompts[6] = prompts[2]  # train, validation
    prompts[8] = prompts[4]  # validation, test
    with caplog.at_level(logging.INFO):
        split = ColumnSplit()(sided("train", "test", "validation", times=7, prompt=prompts))
    assert split.test.tolist() == list(range(1, 21, 3))
    assert split.validation.tolist() == [2, 5, 11, 14, 17, 20]
    assert split.train.tolist() == [0, 9, 12, 15, 18]
    for side, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        expected = f"1 {side} queries left out: their prompt or group stands in {other} too."
        assert expected in caplog.text


@pytest.mark.parametrize(
    ("split", "sentence"),
    [
        (
            ColumnSplit(train=["learn"]),
            r"split\.train=\[learn\] matches no query; the split column holds 'test', 'train'\.",
        ),
        (ColumnSplit(test=["exam"]), r"split\.test=\[exam\] matches no query; the split column"),
        (ColumnSplit(test=["train"]), r"name 'train' twice; give each value .* one side\."),
        (ColumnSplit(train=["train", "test"]), r"name 'test' twice; give each value .* one side\."),
    ],
)
def test_a_wrong_value_of_the_split_column_is_told(split: ColumnSplit, sentence: str) -> None:
    with pytest.raises(RouterError, match=sentence):
        split(sided("train", "test"))


@pytest.mark.parametrize("side", ["train", "validation", "test"])
def test_a_side_of_less_than_five_queries_is_told(side: str) -> None:
    sides = {"train": 6, "validation": 6, "test": 6} | {side: 4}
    outcomes = log_of(16, split=[name for name, n in sides.items() for _ in range(n)])
    with pytest.raises(RouterError, match=f"The split leaves 4 queries to {side}; at least 5 are"):
        ColumnSplit()(outcomes)


# --- auto ---


def test_auto_follows_a_split_column_with_train_and_test() -> None:
    outcomes = sided("train", "test", "validation")
    auto, column = AutoSplit()(outcomes), ColumnSplit()(outcomes)
    for side in ("train", "test", "validation"):
        np.testing.assert_array_equal(getattr(auto, side), getattr(column, side))


@pytest.mark.parametrize("sides", [None, ("train", "exam"), ("test_clean", "test_dirty")])
def test_auto_is_random_where_no_column_tells(
    sides: tuple[str, ...] | None, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = sided(*sides, times=20) if sides else log_of(40)
    with caplog.at_level(logging.INFO):
        auto = AutoSplit(0.3, random_state=4)(outcomes)
    random = RandomSplit(0.3, random_state=4)(outcomes)
    np.testing.assert_array_equal(auto.train, random.train)
    np.testing.assert_array_equal(auto.test, random.test)
    assert "No split column with train and test: a random 0.3 is held out." in caplog.text


# --- at random ---


@given(share=st.floats(0.15, 0.85), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_a_random_share_is_held_out(share: float, seed: int) -> None:
    outcomes = log_of(60)
    split = RandomSplit(share, seed)(outcomes)
    assert sorted([*split.train, *split.test]) == list(range(60))
    assert abs(len(split.test) - 60 * share) <= 1
    np.testing.assert_array_equal(split.test, RandomSplit(share, seed)(outcomes).test)


def test_another_seed_is_another_split() -> None:
    outcomes = log_of(60)
    tests = {tuple(RandomSplit(0.3, seed)(outcomes).test) for seed in range(5)}
    assert len(tests) == 5


def test_everything_on_one_side_is_told() -> None:
    with pytest.raises(RouterError, match="all queries share a prompt or a group"):
        RandomSplit()(log_of(20, group="one chat"))


@pytest.mark.parametrize("split", [RandomSplit, TimeSplit, AutoSplit])
@pytest.mark.parametrize("share", [0, 1, -0.1, 30])
def test_a_share_lies_between_0_and_1(split: Callable[..., Any], share: float) -> None:
    with pytest.raises(RouterError, match=f"split.test_size is {share}; give a share between 0"):
        split(test_size=share)(log_of(20, timestamp=MARCH))


# --- by time ---


def test_the_latest_queries_are_the_test_side() -> None:
    hours = np.random.default_rng(0).permutation(40)
    outcomes = log_of(40, timestamp=[MARCH + pd.Timedelta(hours=int(h)) for h in hours])
    split = TimeSplit(0.25)(outcomes)
    assert len(split.test) == 10
    assert len(split.train) == 30
    assert hours[split.train].max() < hours[split.test].min()


def test_a_prompt_asked_again_later_is_no_train_query() -> None:
    prompts = [f"question {i}" for i in range(40)]
    prompts[2] = prompts[39]
    times = [MARCH + pd.Timedelta(hours=i) for i in range(40)]
    split = TimeSplit(0.25)(log_of(40, prompt=prompts, timestamp=times))
    assert split.test.tolist() == list(range(30, 40))
    assert split.train.tolist() == [0, 1, *range(3, 30)]


def test_a_query_without_a_time_is_told() -> None:
    times = [MARCH, pd.NaT, pd.NaT] + [MARCH] * 17
    with pytest.raises(RouterError, match=r"2 have none, 'q1' first; log it, or choose"):
        TimeSplit()(log_of(20, timestamp=times))


# --- one task left out ---


def test_the_left_out_task_is_the_test_side() -> None:
    outcomes = make_problem(60)[1]
    split = LeaveOneTaskOut("algebra")(outcomes)
    assert set(outcomes.tasks[split.test]) == {"algebra"}
    assert set(outcomes.tasks[split.train]) == {"poetry"}
    assert len(split.train) + len(split.test) == 60


def test_a_task_named_by_a_number_is_a_name() -> None:
    outcomes = log_of(20, task=["7", "8"] * 10)
    assert len(LeaveOneTaskOut(7)(outcomes).test) == 10  # type: ignore[arg-type]  # as YAML reads


@pytest.mark.parametrize("task", ["geometry", ""])
def test_an_unknown_task_is_told_with_those_that_are_there(task: str) -> None:
    with pytest.raises(RouterError, match=r"leaves one side empty; tasks are 'algebra', 'poetry'"):
        LeaveOneTaskOut(task)(make_problem(60)[1])


@pytest.mark.parametrize(
    ("split", "column"),
    [(ColumnSplit(), "split"), (TimeSplit(), "timestamp"), (LeaveOneTaskOut("x"), "task")],
)
def test_a_split_without_its_column_is_told(
    split: Callable[[OutcomeMatrix], Split], column: str
) -> None:
    with pytest.raises(RouterError, match=f"needs a column '{column}' in the table; .*choose"):
        split(log_of(20))


# --- everything, folds ---


def test_everything_is_the_test_side() -> None:
    split = Everything()(log_of(12))
    assert split.test.tolist() == list(range(12))
    assert len(split.train) == 0
    assert split.validation is None


@given(
    groups=st.lists(st.integers(0, 12), min_size=4, max_size=60).filter(lambda g: len(set(g)) > 1),
    n_folds=st.integers(2, 8),
    seed=st.integers(0, 5),
)
@settings(deadline=None)
def test_folds_hold_every_row_out_once_and_never_part_a_group(
    groups: list[int], n_folds: int, seed: int
) -> None:
    numbers = np.array(groups)
    folds = grouped_folds(numbers, n_folds, seed)
    assert len(folds) == min(n_folds, len(set(groups)))
    held_out = np.concatenate([rows for _, rows in folds])
    assert sorted(held_out) == list(range(len(groups)))
    for fit, rows in folds:
        assert sorted([*fit, *rows]) == list(range(len(groups)))
        assert not set(numbers[fit]) & set(numbers[rows])
    again = grouped_folds(numbers, n_folds, seed)
    for (_, rows), (_, same) in zip(folds, again, strict=True):
        np.testing.assert_array_equal(rows, same)


@pytest.mark.parametrize(("groups", "n_folds"), [([3, 3, 3], 5), ([1, 2, 3], 1)])
def test_folds_need_two_groups(groups: list[int], n_folds: int) -> None:
    with pytest.raises(RouterError, match="at least two folds, and two groups of prompts"):
        grouped_folds(np.array(groups), n_folds)
