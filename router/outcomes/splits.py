"""Train, validation and test sides; a prompt never stands on two of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold, GroupShuffleSplit

from router.errors import RouterError
from router.outcomes.faults import listed
from router.outcomes.matrix import OutcomeMatrix

log = logging.getLogger(__name__)

FEWEST_QUERIES = 5


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of each side, ascending. Without a validation side, budgets are tuned on
    out-of-fold predictions of the train side."""

    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray | None = None


class ColumnSplit:
    """By the values of the table's split column."""

    def __init__(
        self,
        train: Sequence[str] = ("train",),
        test: Sequence[str] = ("test",),
        validation: Sequence[str] = ("validation",),
    ):
        self.train = _labels(train)
        self.test = _labels(test)
        self.validation = _labels(validation)

    def __call__(self, outcomes: OutcomeMatrix) -> Split:
        if "split" not in outcomes.queries:
            raise RouterError(
                "split=column needs a column 'split' in the table; "
                "choose split=random, split=time or split=leave_one_task_out."
            )
        wanted = {side: getattr(self, side) for side in ("train", "test", "validation")}
        named = [label for side in wanted.values() for label in side]
        twice = sorted({label for label in named if named.count(label) > 1})
        if twice:
            raise RouterError(
                f"split.train, split.test and split.validation name {listed(twice)} twice; "
                "give each value of the split column one side."
            )
        labels = outcomes.queries["split"]
        sides = {side: np.flatnonzero(labels.isin(wanted[side])) for side in wanted}
        known = listed(sorted(labels.dropna().unique()))
        for side in ("train", "test"):
            if len(sides[side]) == 0:
                raise RouterError(
                    f"split.{side}=[{','.join(wanted[side])}] matches no query; "
                    f"the split column holds {known}."
                )
        on_no_side = ~labels.isin(named)
        if on_no_side.any():
            log.info(
                "%d queries left out: split.train, split.test and split.validation do not name "
                "their split %s.",
                int(on_no_side.sum()),
                listed(sorted(labels[on_no_side].fillna("(none)").unique())),
            )
        validation = sides["validation"] if len(sides["validation"]) else None
        return separate(outcomes, sides["train"], sides["test"], validation)


def _labels(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else [str(name) for name in names]


class AutoSplit:
    """By the split column where it tells train from test, else at random."""

    def __init__(self, test_size: float = 0.3, random_state: int = 0):
        self.test_size = test_size
        self.random_state = random_state

    def __call__(self, outcomes: OutcomeMatrix) -> Split:
        if {"train", "test"} <= set(outcomes.queries.get("split", ())):
            return ColumnSplit()(outcomes)
        log.info("No split column with train and test: a random %g is held out.", self.test_size)
        return RandomSplit(self.test_size, self.random_state)(outcomes)


class Everything:
    """Every query is on the test side: to judge an artifact on a table that it never saw."""

    def __call__(self, outcomes: OutcomeMatrix) -> Split:
        return Split(np.array([], dtype=int), np.arange(len(outcomes)))


class RandomSplit:
    """A random share of the prompts, whole groups at a time."""

    def __init__(self, test_size: float = 0.3, random_state: int = 0):
        self.test_size = test_size
        self.random_state = random_state

    def __call__(self, outcomes: OutcomeMatrix) -> Split:
        _require_share(self.test_size)
        if len(np.unique(outcomes.groups)) < 2:
            raise RouterError(
                "split=random needs at least two groups: all queries share a prompt or a group."
            )
        splitter = GroupShuffleSplit(
            n_splits=1, test_size=self.test_size, random_state=self.random_state
        )
        train, test = next(splitter.split(outcomes.scores, groups=outcomes.groups))
        return separate(outcomes, train, test)


class TimeSplit:
    """The latest share of the queries is the test side, as production will see it."""

    def __init__(self, test_size: float = 0.3):
        self.test_size = test_size

    def __call__(self, outcomes: OutcomeMatrix) -> Split:
        _require_share(self.test_size)
        if "timestamp" not in outcomes.queries:
            raise RouterError(
                "split=time needs a column 'timestamp' in the table; "
                "log it, or choose split=random."
            )
        times = outcomes.queries["timestamp"]
        if times.isna().any():
            first = outcomes.queries["query_id"][times.isna()].iloc[0]
            raise RouterError(
                f"split=time needs a timestamp for every query; {int(times.isna().sum()):,} have "
                f"none, '{first}' first; log it, or choose split=random."
            )
        order = np.argsort(times.to_numpy(), kind="stable")
        first_test = round(len(order) * (1 - self.test_size))
        return separate(outcomes, np.sort(order[:first_test]), np.sort(order[first_test:]))


class LeaveOneTaskOut:
    """All queries of one task are the test side: how the router does on a task it never saw."""

    def __init__(self, task: str):
        self.task = task

    def __call__(self, outcomes: OutcomeMatrix) -> Split:
        if outcomes.tasks is None:
            raise RouterError(
                "split=leave_one_task_out needs a column 'task' in the table; log it, or choose "
                "split=random."
            )
        is_test = outcomes.tasks == str(self.task)
        if not is_test.any() or is_test.all():
            known = listed(sorted(set(outcomes.tasks)))
            raise RouterError(f"split.task={self.task} leaves one side empty; tasks are {known}.")
        return separate(outcomes, np.flatnonzero(~is_test), np.flatnonzero(is_test))


def separate(
    outcomes: OutcomeMatrix,
    train: np.ndarray,
    test: np.ndarray,
    validation: np.ndarray | None = None,
) -> Split:
    """Drop from train (and validation) what shares a group with a later side."""
    groups = outcomes.groups
    if validation is not None:
        validation = _without(validation, groups, test, "validation", "test")
        train = _without(train, groups, validation, "train", "validation")
    train = _without(train, groups, test, "train", "test")
    sides = {"train": train, "validation": validation, "test": test}
    for side, rows in sides.items():
        if rows is not None and len(rows) < FEWEST_QUERIES:
            raise RouterError(
                f"The split leaves {len(rows)} queries to {side}; at least {FEWEST_QUERIES} are "
                "needed, so choose another split or log more queries."
            )
    return Split(train, test, validation)


def _without(
    rows: np.ndarray, groups: np.ndarray, others: np.ndarray, side: str, other_side: str
) -> np.ndarray:
    shared = np.isin(groups[rows], groups[others])
    if shared.any():
        log.info(
            "%d %s queries left out: their prompt or group stands in %s too.",
            int(shared.sum()),
            side,
            other_side,
        )
    return rows[~shared]


def grouped_folds(
    groups: np.ndarray, n_folds: int, random_state: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(fit rows, held-out rows) of each fold; a group is never split."""
    n_folds = min(n_folds, len(np.unique(groups)))
    if n_folds < 2:
        raise RouterError(
            "Cross-fitting needs at least two folds, and two groups of prompts on the train side."
        )
    splitter = GroupKFold(n_splits=n_folds, shuffle=True, random_state=random_state)
    return list(splitter.split(groups, groups=groups))


def _require_share(test_size: float) -> None:
    if not 0 < test_size < 1:
        raise RouterError(f"split.test_size is {test_size}; give a share between 0 and 1.")
