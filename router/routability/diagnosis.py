"""Everything that `router diagnose` finds out, before a router is trained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from router.estimators.head import Head
from router.evaluation.bootstrap import Bootstrap, Interval
from router.evaluation.overlap import LEAST_EFFECTIVE
from router.evaluation.verdict import Verdict
from router.outcomes.matrix import OutcomeMatrix
from router.routability.dominated import candidate_report
from router.routability.duplicates import Duplicates, find_duplicates
from router.routability.labels_needed import LearningCurve, labels_needed
from router.routability.levels import (
    BEST,
    QUICK,
    TASK_LABELS,
    cross_validate,
    explained,
    fraction_gains,
    frontier_gain,
    judge_routability,
    quality_only,
    shuffled,
)
from router.routability.log_over_time import LogOverTime, log_over_time
from router.routability.noise_ceiling import SplitHalf, luck_oracle, split_half

FEWEST_JUDGED = 10  # groups of judged queries; fewer tell nothing
SHUFFLED = "shuffled labels"
ORACLE = "oracle"
ORDER = (BEST, "cheapest", "random", "prompt length", TASK_LABELS, QUICK, ORACLE)


@dataclass(frozen=True)
class Level:
    """quality: mean score. gain: on the best single model, paired; None for that itself. cost: mean
    USD, None without costs."""

    quality: Interval
    gain: Interval | None
    cost: float | None


@dataclass(frozen=True, eq=False)
class Routability:
    """What choices are worth, on the fully observed queries.

    best_single: its name. levels: by name; the shuffled-label control's gain is on the model that
    is best in hindsight. frontier, neutral_cost: see `frontier_gain`; None without costs, infinite
    where the quality is never reached. curve, needed: see `labels_needed`. luck: see `luck_oracle`;
    None where there is no oracle.
    without_duplicates: the quick router's gain on queries without a near duplicate elsewhere; None
    where there are none, or nothing else.
    """

    best_single: str
    levels: dict[str, Level]
    frontier: Interval | None
    neutral_cost: float | None
    curve: LearningCurve | None
    needed: float | None
    luck: float | None
    without_duplicates: Interval | None


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """queries, judged: all, and those that judge (see `CrossValidated`, also for off_policy).
    routability: None where these are too few. candidates: see `candidate_report`, with a column
    `explained` (see there); without judged queries the observed means alone. over_time: None
    without timestamps."""

    queries: int
    judged: int
    candidate_names: tuple[str, ...]
    folds: int
    margin: float
    off_policy: bool
    verdict: Verdict
    routability: Routability | None
    repeats: SplitHalf | None
    duplicates: Duplicates
    candidates: pd.DataFrame
    over_time: LogOverTime | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and text, as JSON wants them: None where a figure does not exist."""
        return {
            "verdict": self.verdict.to_dict(),
            "queries": self.queries,
            "judged_queries": self.judged,
            "candidates": _records(self.candidates),
            "off_policy": self.off_policy,
            "folds": self.folds,
            "margin": self.margin,
            "routability": None if self.routability is None else _routability(self.routability),
            "repeats": None if self.repeats is None else asdict(self.repeats),
            "duplicates": _duplicates(self.duplicates),
            "over_time": None if self.over_time is None else self.over_time.to_dict(),
        }


def diagnose(
    outcomes: OutcomeMatrix,
    X: np.ndarray,
    head: Head,
    folds: int = 5,
    resamples: int = 1000,
    margin: float = 0.01,
) -> Diagnosis:
    """Look at every query of the log; nothing is tuned.

    X: (n, d) vectors of the prompts. head: the quick router's estimators. resamples: of the
    bootstrap. margin: of score, the least gain that counts.

    Raises RouterError where the quick router cannot be fitted, as where a candidate has too few
    outcomes.
    """
    duplicates = find_duplicates(outcomes, X)
    crossed = cross_validate(head, X, outcomes, folds)
    judged = crossed.test
    routability, verdict = None, _unjudged(outcomes)
    candidates = pd.DataFrame(
        {
            "candidate": outcomes.candidates,
            "outcomes": outcomes.observed.sum(axis=0),
            "mean": outcomes.mean_scores(),
            "usd": outcomes.mean_costs(),
        }
    )
    if len(np.unique(judged.groups)) >= FEWEST_JUDGED:
        bootstrap = Bootstrap(judged.groups, resamples)
        levels = {
            name: Level(
                bootstrap.mean(plan.score),
                None if name == BEST else bootstrap.mean(crossed.gain(name)),
                None if plan.cost is None else float(plan.cost.mean()),
            )
            for name, plan in crossed.expected.items()
        }
        levels = {name: levels[name] for name in ORDER if name in levels}
        levels[SHUFFLED] = _control(head, X, outcomes, folds, resamples)
        frontier = neutral = None
        if outcomes.cost is not None:
            frontier, neutral = frontier_gain(crossed, bootstrap)
        sizes, gains = fraction_gains(head.quality, X, outcomes, crossed, folds)
        curve = LearningCurve.of(sizes, gains, bootstrap)
        of_quick = levels[QUICK].gain
        assert of_quick is not None
        alone = ~duplicates.near[crossed.judged]
        some = not alone.all() and len(np.unique(judged.groups[alone])) >= FEWEST_JUDGED
        routability = Routability(
            crossed.best_single,
            levels,
            frontier,
            neutral,
            curve,
            labels_needed(curve, of_quick, len(judged), folds),
            None if crossed.off_policy else luck_oracle(judged),
            Bootstrap(judged.groups[alone], resamples).mean(crossed.gain(QUICK)[alone])
            if some
            else None,
        )
        oracle = levels[ORACLE].gain if ORACLE in levels else None
        widest = levels[BEST].quality if oracle is None else oracle
        simple = {name: levels[name].gain for name in (QUICK, TASK_LABELS) if name in levels}
        verdict = judge_routability(
            {name: gain for name, gain in simple.items() if gain is not None},
            {name: bootstrap.mean(crossed.gain_in_hindsight(name)) for name in simple},
            crossed.best_single,
            margin,
            (widest.high - widest.low) / 2,
            oracle,
            None if curve is None or not curve.rises else curve.at_four_times,
            frontier,
            math.inf if neutral is None else neutral,
        )
        if crossed.effective < LEAST_EFFECTIVE and crossed.off_policy:
            verdict = Verdict(
                "cannot tell",
                f"the log decides too seldom as the quick router would: {len(judged):,} decisions "
                f"are worth {crossed.effective:.0f} of its own, and a verdict needs "
                f"{LEAST_EFFECTIVE:.0f}.",
            )
        candidates = candidate_report(judged, bootstrap, oracle=not crossed.off_policy)
    return Diagnosis(
        queries=len(outcomes),
        judged=len(judged),
        candidate_names=outcomes.candidates,
        folds=folds,
        margin=margin,
        off_policy=crossed.off_policy,
        verdict=verdict,
        routability=routability,
        repeats=split_half(outcomes, resamples),
        duplicates=duplicates,
        candidates=candidates.assign(explained=explained(crossed.prediction, outcomes)),
        over_time=log_over_time(outcomes),
    )


def _unjudged(outcomes: OutcomeMatrix) -> Verdict:
    return Verdict(
        "cannot tell",
        f"{int(outcomes.fully_observed.sum()):,} of {len(outcomes):,} queries have an outcome of "
        "every candidate, too few to compare choices; ask every candidate on some queries, or log "
        "the propensity of each choice.",
    )


def _control(head: Head, X: np.ndarray, outcomes: OutcomeMatrix, folds: int, r: int) -> Level:
    """The whole procedure on shuffled outcomes, where nothing is to be learned."""
    without = shuffled(quality_only(outcomes))
    crossed = cross_validate(head, X, without, folds)
    bootstrap = Bootstrap(without.groups[crossed.judged], r)
    gain = bootstrap.mean(crossed.gain_in_hindsight(QUICK))
    return Level(bootstrap.mean(crossed.expected[QUICK].score), gain, None)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A dictionary a row; None for NaN."""
    plain = frame.astype(object)
    names = [str(name) for name in frame]
    rows = plain.where(plain.notna(), None).to_numpy().tolist()
    return [dict(zip(names, row, strict=True)) for row in rows]


def _routability(found: Routability) -> dict[str, Any]:
    curve, neutral = found.curve, found.neutral_cost
    return {
        "best_single": found.best_single,
        "levels": {name: asdict(level) for name, level in found.levels.items()},
        "aiq_gain": None if found.frontier is None else found.frontier.to_dict(),
        "neutral_cost": neutral if neutral is not None and math.isfinite(neutral) else None,
        "learning_curve": None
        if curve is None
        else {
            "queries": curve.sizes.tolist(),
            "gains": [gain.to_dict() for gain in curve.gains],
            "rises": bool(curve.rises),
            "limit": float(curve.law.limit),
            "scale": float(curve.law.scale),
            "exponent": float(curve.law.exponent),
            "at_four_times": curve.at_four_times.to_dict(),
        },
        "queries_needed": found.needed,
        "luck_oracle": found.luck,
        "quick_gain_without_duplicates": None
        if found.without_duplicates is None
        else found.without_duplicates.to_dict(),
    }


def _duplicates(found: Duplicates) -> dict[str, Any]:
    return {
        "repeated_prompts": found.repeated_prompts,
        "repeated_queries": found.repeated_queries,
        "repeated_pairs": found.repeated_pairs,
        "conflicting": found.conflicting,
        "near_queries": int(found.near.sum()),
        "compared_prompts": found.compared,
        "examples": [list(pair) for pair in found.examples],
        "split": None if found.sides is None else _records(found.sides),
    }
