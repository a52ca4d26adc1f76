"""Are recent queries and outcomes still what the router was trained on?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from router.drift.observed import Observed, of_candidate, of_choice
from router.drift.outcome_shift import OutcomeShift, Strata, outcome_shift
from router.drift.shift import joint_groups
from router.drift.task_shift import TaskShift, task_shift
from router.drift.two_samples import CHANCE, Separation, tell_apart
from router.errors import RouterError
from router.evaluation.bootstrap import Interval
from router.evaluation.paired import holm
from router.outcomes.matrix import OutcomeMatrix
from router.policies.base import Policy
from router.prediction import Prediction

DRIFT, NO_DRIFT, CANNOT_TELL = "drift", "no drift", "cannot tell"
CHOICE = "router's choice"
OF_QUERIES, OF_OUTCOMES = ("vectors", "tasks"), ("score", "cost", "bias", "error")
# What a shift of some kinds says.
SUBJECTS = {
    "the queries changed": OF_QUERIES,
    "the models' scores or costs changed": OF_OUTCOMES[:2],
    "the predictions' errors changed": OF_OUTCOMES[2:],
}


@dataclass(frozen=True)
class Smallest:
    """The smallest shifts of interest: what is smaller is no drift, however sure.

    vectors: AUC of a classifier between recent and reference; where a share s of the queries is of
        a kind that was never seen, it is 0.5 + s / 2 at most. tasks: population stability index.
    score, bias, error: of the mean score, of predicted less observed score, of its mean square.
    cost: share of the mean cost.
    """

    vectors: float = 0.55
    tasks: float = 0.1
    score: float = 0.03
    cost: float = 0.1
    bias: float = 0.03
    error: float = 0.02

    def __post_init__(self) -> None:
        if not CHANCE < self.vectors < 1:
            raise RouterError(f"smallest.vectors is {self.vectors}; give an AUC between 0.5 and 1.")
        for field in fields(self):
            if not 0 < getattr(self, field.name) < math.inf:
                raise RouterError(
                    f"smallest.{field.name} is {getattr(self, field.name)}; give a number above 0."
                )


@dataclass(frozen=True)
class Rule:
    """alpha: most often any drift is called where there is none. least_groups: independent queries
    that a comparison needs on either side. random_state: of the halves that the classifier learns
    from and is judged on."""

    smallest: Smallest = Smallest()
    alpha: float = 0.05
    least_groups: int = 50
    random_state: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise RouterError(f"The error rate alpha is {self.alpha}; give one in (0, 0.5).")
        if self.least_groups < 10:
            raise RouterError(f"least_groups is {self.least_groups}; give at least 10.")


@dataclass(frozen=True, eq=False)
class Seen:
    """Outcomes of n queries as the artifact sees them. vectors: (n, d). prediction: of n queries
    and the same candidates."""

    outcomes: OutcomeMatrix
    vectors: np.ndarray
    prediction: Prediction


@dataclass(frozen=True)
class Comparison:
    """One figure in both tables.

    kind: vectors, tasks, score, cost, bias or error. of: the candidate, or the router's choice.
    reference, recent: its means, NaN where the figure is of both tables together.
    shift: what is held against `smallest`: the AUC, the stability index, or the difference (of
        cost: as a share), of score, cost and error on the recent tasks' shares. Its ends are missed
        with probability alpha / 2 each.
    by_queries: what other shares of the tasks change in a score, cost or error; NaN
        where they are not told apart.
    statistic, p, p_adjusted: of "nothing moved", adjusted for all comparisons that could be made.
    finding: "drift" where p_adjusted is at most alpha and the shift at least `smallest`; "no drift"
        where the interval rules such a shift out; else "cannot tell".
    obstacle: why it could not be judged; None where it could.
    """

    kind: str
    of: str
    reference: float
    recent: float
    shift: Interval
    smallest: float
    by_queries: float
    statistic: float
    p: float
    p_adjusted: float = math.nan
    finding: str = CANNOT_TELL
    obstacle: str | None = None

    @property
    def name(self) -> str:
        return f"{self.kind} of {self.of}" if self.of else self.kind

    @property
    def sentence(self) -> str:
        """The figures in words."""
        if math.isnan(self.shift.value):
            return f"{self.name}: {self.obstacle}"
        style = {"vectors": ".3f", "tasks": ".3f", "cost": "+.1%"}.get(self.kind, "+.4f")
        what = {"vectors": "AUC ", "tasks": "stability index "}.get(self.kind, "")
        ends = f"[{self.shift.low:{style}}, {self.shift.high:{style}}]"
        why = f" ({self.obstacle})" if self.obstacle else ""
        return f"{self.name} {what}{self.shift.value:{style}} {ends}{why}"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "sentence": self.sentence}


@dataclass(frozen=True, eq=False)
class Drift:
    """decision: drift; else cannot tell, where no figure of the queries, or none of the outcomes,
    is certain; else no drift. sentence: which and why. tasks, separation: None where there were too
    few queries, or no tasks."""

    decision: str
    sentence: str
    comparisons: list[Comparison]
    tasks: TaskShift | None
    separation: Separation | None


def compare(
    reference: OutcomeMatrix, held_out: Seen, recent: Seen, policy: Policy, rule: Rule
) -> Drift:
    """Recent queries and outcomes against those of the training table.

    reference: the whole table. held_out: those of its queries from which nothing in the artifact
        was learned; what the artifact says of others (vectors of a fine-tuned encoder, predictions)
        flatters it, and so would differ from what it says of recent ones without any drift.
    recent: of other queries, or the same asked again; all three with the artifact's candidates in
        its order, of which some may have no outcome.

    Of a decision log each outcome counts 1 / propensity times, so that scores and costs are of all
    queries, not of those that its policy gave the candidate. Without propensities such figures are
    shown, but never called drift.

    Drift is called where Holm's method, over all comparisons, rejects that nothing moved and the
    shift is at least the smallest of interest: with many queries everything is significant, with
    few, large shifts are chance. Where a true shift is just the smallest of interest, it is called
    about every second time.
    """
    groups = joint_groups(reference, recent.outcomes)
    independent = [len(np.unique(side)) for side in np.split(groups, [len(reference)])]
    held_groups = joint_groups(held_out.outcomes, recent.outcomes)
    judged = len(np.unique(held_groups[: len(held_out.outcomes)]))
    for count, side in (
        (independent[1], "recent"),
        (judged, "reference (held-out)"),
    ):
        if count < rule.least_groups:
            return Drift(
                CANNOT_TELL,
                f"{count} independent {side} queries are too few; at least {rule.least_groups} "
                "are asked for.",
                [],
                None,
                None,
            )
    separation = tell_apart(held_out.vectors, recent.vectors, held_groups, rule.random_state)
    found = [_of_vectors(separation, rule)]
    tasks = None
    if reference.tasks is not None and recent.outcomes.tasks is not None:
        tasks = task_shift(reference.tasks, recent.outcomes.tasks, groups, min(independent) - 1)
    if tasks is not None:
        found.append(_of_tasks(tasks, rule))
    found += _of_outcomes(reference, recent.outcomes, groups, rule)
    found += _of_calibration(held_out, recent, policy, held_groups, rule)
    found = _with_findings(found, rule.alpha)
    return Drift(*_verdict(found), found, tasks, separation)


def _of_vectors(separation: Separation, rule: Rule) -> Comparison:
    # Only an AUC above chance tells the samples apart.
    return Comparison(
        "vectors", "", math.nan, math.nan, separation.auc.interval(rule.alpha / 2),
        rule.smallest.vectors, math.nan, separation.auc.t(CHANCE), separation.auc.p_above(CHANCE),
    )  # fmt: skip


def _of_tasks(tasks: TaskShift, rule: Rule) -> Comparison:
    return Comparison(
        "tasks", "", math.nan, math.nan, tasks.psi.interval(rule.alpha / 2), rule.smallest.tasks,
        math.nan, tasks.statistic, tasks.p,
    )  # fmt: skip


def _of_outcomes(
    reference: OutcomeMatrix, recent: OutcomeMatrix, groups: np.ndarray, rule: Rule
) -> list[Comparison]:
    """Score and cost of every candidate."""
    strata = Strata.of(reference.tasks, recent.tasks, [len(reference), len(recent)])
    kinds: list[tuple[str, np.ndarray, np.ndarray]] = [("score", reference.scores, recent.scores)]
    if reference.cost is not None and recent.cost is not None:
        kinds.append(("cost", reference.cost, recent.cost))
    found = []
    for kind, before, now in kinds:
        for j, name in enumerate(reference.candidates):
            shift = outcome_shift(
                of_candidate(reference, before, j),
                of_candidate(recent, now, j),
                strata,
                groups,
                rule.least_groups,
                relative=kind == "cost",
                tail=rule.alpha / 2,
            )
            found.append(_comparison(kind, name, shift, rule))
    return found


def _of_calibration(
    held_out: Seen, recent: Seen, policy: Policy, groups: np.ndarray, rule: Rule
) -> list[Comparison]:
    """Predicted less observed score, and its square, of every candidate and of what the router
    chooses.

    The bias is compared over all tasks at once: a prediction knows the query, so other queries are
    no reason for it to be wrong. The square also holds the luck of an answer, which is greater in
    some tasks than in others, so it is compared within tasks.
    """
    sides = (held_out, recent)
    sizes = [len(seen.outcomes) for seen in sides]
    all_tasks = Strata.of(None, None, sizes)
    strata = Strata.of(held_out.outcomes.tasks, recent.outcomes.tasks, sizes)
    off = [seen.prediction.quality - seen.outcomes.scores for seen in sides]
    names = list(held_out.outcomes.candidates)
    # Of an answer that several models vote on, no single model's outcome tells.
    if not any(policy.asks_several(seen.prediction) for seen in sides):
        names.append(CHOICE)

    def observed(seen: Seen, values: np.ndarray, name: str) -> Observed:
        if name == CHOICE:
            return of_choice(seen.outcomes, values, policy, seen.prediction)
        return of_candidate(seen.outcomes, values, seen.outcomes.candidates.index(name))

    found = []
    for kind, power, within in (("bias", 1, all_tasks), ("error", 2, strata)):
        for name in names:
            before, now = (
                observed(seen, values**power, name) for seen, values in zip(sides, off, strict=True)
            )
            shift = outcome_shift(
                before, now, within, groups, rule.least_groups, tail=rule.alpha / 2
            )
            found.append(_comparison(kind, name, shift, rule))
    return found


def _comparison(kind: str, name: str, shift: OutcomeShift, rule: Rule) -> Comparison:
    return Comparison(
        kind, name, shift.reference, shift.recent, shift.shift, getattr(rule.smallest, kind),
        shift.by_queries, shift.t, shift.p, obstacle=shift.obstacle,
    )  # fmt: skip


def _with_findings(found: list[Comparison], alpha: float) -> list[Comparison]:
    tested = [i for i, one in enumerate(found) if one.obstacle is None]
    adjusted = holm(np.array([found[i].p for i in tested]))
    for i, p in zip(tested, adjusted.tolist(), strict=True):
        one = found[i]
        if p <= alpha and abs(one.shift.value) >= one.smallest:
            finding = DRIFT
        elif max(abs(one.shift.low), abs(one.shift.high)) < one.smallest:
            finding = NO_DRIFT
        else:
            finding = CANNOT_TELL
        found[i] = replace(one, p_adjusted=p, finding=finding)
    return found


def _verdict(found: list[Comparison]) -> tuple[str, str]:
    moved = [one for one in found if one.finding == DRIFT]
    count = f"{len(moved)} of {len(found)} figures"
    if not moved:
        unsure = [one for one in found if one.finding == CANNOT_TELL]
        for side, kinds in (("queries", OF_QUERIES), ("outcomes", OF_OUTCOMES)):
            figures = [one for one in found if one.kind in kinds]
            if all(one in unsure for one in figures):
                obstacle, *others = {one.obstacle for one in figures}
                why = f": {obstacle}" if obstacle and not others else ""
                return CANNOT_TELL, f"No figure of the {side} is certain enough{why}."
        doubt = f"; {len(unsure)} of them could hide one, as they are uncertain" if unsure else ""
        return NO_DRIFT, f"No shift of interest is seen in {len(found)} figures{doubt}."
    moved_kinds = {one.kind for one in moved}
    what = [subject for subject, of in SUBJECTS.items() if moved_kinds & set(of)]
    told = f"{', '.join(what[:-1])} and {what[-1]}" if len(what) > 1 else what[0]
    sentences = "; ".join(one.sentence for one in moved)
    return DRIFT, f"{told[0].upper()}{told[1:]}, in {count}: {sentences}."
