"""May the candidate router take the incumbent's place? The rule, with its error rates."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from router.errors import RouterError
from router.evaluation.bootstrap import Interval
from router.evaluation.metrics import ROUNDING
from router.evaluation.paired import Paired, holm, rare_losses

PROMOTE, KEEP, REFUSED = "promote", "keep", "refused"


@dataclass(frozen=True)
class Rule:
    """What a promotion asks.

    quality: loss of mean score that counts as none.
    cost, latency: rise of the mean, as a share of the incumbent's, that counts as none; None: what
        the candidate costs, or how long it takes, does not matter.
    task: loss of mean score within one task from which on it is harm; None: no check.
    alpha: one-sided error rate of the gate, see `decide`.
    least_groups: fewer independent groups of queries cannot carry a decision.

    Non-inferiority is asked anew at every gate: small losses within the margin can add up over many
    promotions, so compare with a fixed reference model too from time to time.
    """

    quality: float = 0.01
    cost: float | None = 0.05
    latency: float | None = 0.1
    task: float | None = 0.02
    alpha: float = 0.05
    least_groups: int = 50

    def __post_init__(self) -> None:
        for name in ("quality", "cost", "latency", "task"):
            margin = getattr(self, name)
            if margin is not None and not 0 <= margin < np.inf:
                raise RouterError(f"The margin of {name} is {margin}; give a number from 0 up.")
        if not 0 < self.alpha < 0.5:
            raise RouterError(f"The error rate alpha is {self.alpha}; give one in (0, 0.5).")
        if self.least_groups < 2:
            raise RouterError(f"least_groups is {self.least_groups}; give at least 2.")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What candidate and incumbent yield on the same n queries: column 0 and column 1.

    quality, cost, latency: (n, 2) score, USD, seconds; cost and latency may be None, and rows of
        latency that hold NaN are left out. With full information they are the decisions' expected
        outcomes; of a decision log, per-decision values whose mean is the policy's value.
    groups: (n,) integers: queries that are not independent share a number.
    tasks: (n,) names, or None.
    kind: "full information" or "off-policy".
    faults: sentences on why this evidence can carry no decision, whatever its figures.
    """

    quality: np.ndarray
    cost: np.ndarray | None
    latency: np.ndarray | None
    groups: np.ndarray
    tasks: np.ndarray | None = None
    kind: str = "full information"
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """One figure of the two. Cost and latency are compared as shares of the incumbent's mean.

    difference: its ends are the one-sided bounds at alpha that are held against the margin.
    strict: likewise at the level that superiority asks.
    margin: None where the figure is shown but is no condition.
    """

    candidate: float
    incumbent: float
    difference: Interval
    strict: Interval
    margin: float | None


@dataclass(frozen=True)
class TaskHarm:
    """One task: the score's difference with its bounds at alpha, the p-value of "no harm", adjusted
    for the number of tasks, and whether harm is proven."""

    task: str
    queries: int
    candidate: float
    incumbent: float
    difference: Interval
    p_adjusted: float
    harmed: bool


@dataclass(frozen=True)
class Condition:
    """One thing that a promotion asks, and whether it is shown."""

    shown: bool
    sentence: str


@dataclass(frozen=True)
class Ruling:
    """decision: promote, keep or refused. conditions: what was asked; of a refusal, what the
    evidence lacks. comparisons: by "quality", "cost", "latency", as far as known. tasks: in order
    of name."""

    decision: str
    conditions: tuple[Condition, ...]
    comparisons: dict[str, Comparison]
    tasks: tuple[TaskHarm, ...]

    @property
    def why(self) -> str:
        """What decided: of a promotion all conditions, else those that are not shown."""
        return " ".join(
            condition.sentence
            for condition in self.conditions
            if self.decision == PROMOTE or not condition.shown
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def decide(evidence: Evidence, rule: Rule) -> Ruling:
    """Promote only what is surely not worse and surely better in something.

    Promoted is a candidate of which all of this is shown: its mean score is not lower than the
    incumbent's by the margin; its mean cost and latency, where known and asked for, are not higher
    by theirs; its score is higher, or its cost lower; and no task is proven to be harmed.

    Every condition but the last is a one-sided test at level alpha, and all must succeed: a
    candidate for which one of them does not hold is promoted with probability alpha at most, no
    matter how many conditions there are (intersection-union test; Berger, 1982). Higher score and
    lower cost are alternatives, so each is tested at alpha / 2.

    The check of the tasks can only keep. Its p-values are adjusted by Holm's method: one harmed
    task is enough to keep, so what must be bounded is the chance of any false alarm, not the share
    of false ones.

    Bounds are those of a t-test on sums by group. For the score, some spread is added for rare
    losses that few queries cannot show (see `paired`).
    """
    priced = evidence.cost is not None and rule.cost is not None
    comparisons = _comparisons(evidence, rule, rule.alpha / 2 if priced else rule.alpha)
    tasks = _tasks(evidence, rule)
    groups = len(np.unique(evidence.groups))
    faults = list(evidence.faults)
    if groups < rule.least_groups:
        faults.append(
            f"{groups} independent groups of queries are too few; at least {rule.least_groups} "
            "are asked for."
        )
    if faults:
        lacking = tuple(Condition(False, fault) for fault in faults)
        return Ruling(REFUSED, lacking, comparisons, tasks)
    conditions = (*_conditions(comparisons, rule), *_harms(tasks, rule))
    held = all(condition.shown for condition in conditions)
    return Ruling(PROMOTE if held else KEEP, conditions, comparisons, tasks)


def _comparisons(evidence: Evidence, rule: Rule, strict_tail: float) -> dict[str, Comparison]:
    quality = Paired.of(evidence.quality, evidence.groups)
    spread = rare_losses(len(evidence.quality))
    compared = {
        "quality": Comparison(
            candidate=float(quality.means[0]),
            incumbent=float(quality.means[1]),
            difference=quality.difference(rule.alpha, spread),
            strict=quality.difference(strict_tail, spread),
            margin=rule.quality,
        )
    }
    for name, margin in (("cost", rule.cost), ("latency", rule.latency)):
        values = getattr(evidence, name)
        if values is None or np.isnan(values).any(axis=1).all():
            continue
        known = ~np.isnan(values).any(axis=1)
        paired = Paired.of(values[known], evidence.groups[known])
        compared[name] = Comparison(
            candidate=float(paired.means[0]),
            incumbent=float(paired.means[1]),
            difference=paired.relative(rule.alpha),
            strict=paired.relative(strict_tail),
            margin=margin,
        )
    return compared


def _tasks(evidence: Evidence, rule: Rule) -> tuple[TaskHarm, ...]:
    if evidence.tasks is None or rule.task is None:
        return ()
    codes, names = pd.factorize(evidence.tasks, sort=True)
    rows = [np.flatnonzero(codes == code) for code in range(len(names))]
    paired = [Paired.of(evidence.quality[of], evidence.groups[of]) for of in rows]
    # A small task may hide a gain as large as the largest difference seen anywhere.
    largest = float(np.abs(evidence.quality[:, 0] - evidence.quality[:, 1]).max())
    spreads = [rare_losses(len(row), largest) for row in rows]
    p_values = [
        of.chance_of_loss_within(rule.task, spread)
        for of, spread in zip(paired, spreads, strict=True)
    ]
    adjusted = holm(np.array(p_values))
    return tuple(
        TaskHarm(
            task=str(name),
            queries=len(row),
            candidate=float(of.means[0]),
            incumbent=float(of.means[1]),
            difference=of.difference(rule.alpha, spread),
            p_adjusted=float(p),
            harmed=bool(p <= rule.alpha),
        )
        for name, row, of, spread, p in zip(names, rows, paired, spreads, adjusted, strict=True)
    )


def _conditions(comparisons: dict[str, Comparison], rule: Rule) -> list[Condition]:
    """All but those on the tasks."""
    quality, cost = comparisons["quality"], comparisons.get("cost")
    not_worse = quality.difference.low >= -rule.quality - ROUNDING
    says = "is not" if not_worse else "may be"
    figures = f"{_score(quality.difference)}, margin {rule.quality:g}"
    conditions = [Condition(not_worse, f"Quality {says} worse than the margin allows ({figures}).")]
    for name in ("cost", "latency"):
        figure = comparisons.get(name)
        if figure is None or figure.margin is None:
            continue
        not_higher = figure.difference.high <= figure.margin + ROUNDING
        says = "is not" if not_higher else "may be"
        figures = f"{_share(figure.difference)}, margin {figure.margin:.1%}"
        sentence = f"{name.capitalize()} {says} higher than the margin allows ({figures})."
        conditions.append(Condition(not_higher, sentence))
    priced = cost is not None and cost.margin is not None
    gains = ["better"] if quality.strict.low > ROUNDING else []
    gains += ["cheaper"] if cost is not None and priced and cost.strict.high < -ROUNDING else []
    if gains:
        sentence = f"The candidate is surely {' and '.join(gains)}."
    elif priced:
        sentence = "The candidate is neither surely better nor surely cheaper."
    else:
        sentence = "The candidate is not surely better."
    return [*conditions, Condition(bool(gains), sentence)]


def _harms(tasks: tuple[TaskHarm, ...], rule: Rule) -> list[Condition]:
    if not tasks:
        return []
    harms = [
        f"Task {task.task} is harmed ({_score(task.difference)} over {task.queries:,} queries, "
        f"adjusted p {task.p_adjusted:.2g}, margin {rule.task:g})."
        for task in tasks
        if task.harmed
    ]
    if harms:
        return [Condition(False, sentence) for sentence in harms]
    return [Condition(True, f"None of {len(tasks)} tasks is surely harmed.")]


def _score(interval: Interval) -> str:
    return f"{interval.value:+z.4f} [{interval.low:+z.4f}, {interval.high:+z.4f}]"


def _share(interval: Interval) -> str:
    return f"{interval.value:+z.1%} [{interval.low:+z.1%}, {interval.high:+z.1%}]"
