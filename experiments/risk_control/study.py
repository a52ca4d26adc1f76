"""Are promises kept as often as `policy=certified` says?

Predictions are made once, out of fold; then the queries are split 500 times at random into a part
that certifies a setting and a part that tells how the setting does. On real tables that part is
held out of the certification, and is itself a sample; in the simulation it is the whole population
with its true chances and costs, so there the answer is exact up to the 500 draws. "Naive" is the
same walk along the settings with plain means in place of bounds.

    python experiments/risk_control/study.py path/to/llmrouter_nine.parquet
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from router.encoding.cache import encode_cached
from router.encoding.sentence_transformer import SentenceTransformerEncoder, minilm_folder
from router.errors import RouterError
from router.estimators import Partition, Ridge
from router.estimators.head import Head, cross_predict
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.paretobandit import ParetoBanditData
from router.outcomes.splits import ColumnSplit
from router.outcomes.table import TableData
from router.policies import Certified, Policy, Threshold
from router.prediction import Prediction

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESAMPLINGS = 500
DELTA = 0.1
POPULATION = 20_000
PICTURE = Path(__file__).with_name("risk_control.png")
RULES = ("naive", "fixed sequence", "conformal")


@dataclass(frozen=True, eq=False)
class Sample:
    """One resampling: what certifies, and what tells the truth."""

    prediction: Prediction
    outcomes: OutcomeMatrix
    elsewhere: Prediction
    truth: OutcomeMatrix


@dataclass(frozen=True, eq=False)
class Problem:
    """name: of the row. promise: what is certified. samples: seed -> one resampling."""

    name: str
    promise: Certified
    samples: Callable[[int], Sample]


@dataclass(frozen=True, eq=False)
class Result:
    """Of each resampling: mean score and USD on the truth, NaN where the promise was refused."""

    score: np.ndarray
    cost: np.ndarray

    def excess(self, promise: Certified) -> np.ndarray:
        """(resamplings,) how far beyond its promise the setting is, in proportion to the promise;
        negative where it is broken, zero where it was refused."""
        if promise.quality is not None:
            found = self.score / promise.quality - 1
        else:
            assert promise.budget is not None
            found = 1 - self.cost / promise.budget
        return np.nan_to_num(found)


def held_out(prediction: Prediction, outcomes: OutcomeMatrix, n: int) -> Callable[[int], Sample]:
    """n queries certify, the others tell the truth; the groups of a prompt stay together."""
    groups = np.unique(outcomes.groups)

    def sample(seed: int) -> Sample:
        drawn = np.random.default_rng(seed).permutation(groups)[
            : round(n / len(outcomes) * len(groups))
        ]
        certifies = np.isin(outcomes.groups, drawn)
        return Sample(
            prediction.take(certifies),
            outcomes.take(certifies),
            prediction.take(~certifies),
            outcomes.take(~certifies),
        )

    return sample


def simulated(n: int, graded: bool) -> Callable[[int], Sample]:
    """Three candidates, a population of queries with known chances, predictions with an error."""
    rng = np.random.default_rng(0)
    names = ("large", "medium", "small")
    difficulty = rng.normal(size=(POPULATION, 1))
    logit = np.array([2.2, 1.4, 0.2]) - difficulty + 0.5 * rng.normal(size=(POPULATION, 3))
    chance = 1 / (1 + np.exp(-logit))
    dollars = np.array([0.01, 0.001, 0.0001]) * rng.lognormal(sigma=0.5, size=(POPULATION, 3))
    dollars = np.minimum(dollars, 0.05)
    predicted = np.clip(chance + 0.1 * rng.normal(size=chance.shape), 0, 1)
    spent = dollars * rng.lognormal(sigma=0.2, size=dollars.shape)
    prediction = Prediction(names, predicted, np.zeros_like(predicted), spent)

    def matrix(scores: np.ndarray, cost: np.ndarray) -> OutcomeMatrix:
        rows = np.arange(len(scores))
        queries = pd.DataFrame({"query_id": rows, "prompt": "simulated", "group": rows})
        return OutcomeMatrix(queries, names, scores, np.ones(scores.shape, dtype=bool), cost)

    truth = matrix(chance, dollars)

    def sample(seed: int) -> Sample:
        rng = np.random.default_rng([seed, 1])
        rows = rng.integers(POPULATION, size=n)
        if graded:
            scores = rng.beta(2 * chance[rows], 2 * (1 - chance[rows]))
        else:
            scores = (rng.random((n, 3)) < chance[rows]).astype(float)
        return Sample(prediction.take(rows), matrix(scores, dollars[rows]), prediction, truth)

    return sample


def naive(promise: Certified, sample: Sample) -> Policy:
    """The last setting before plain means break the promise."""
    path = promise.policy.path(sample.prediction)
    if promise.quality is None:
        path = path[::-1]
    kept = None
    for setting in path:
        seen = setting.expected(sample.prediction, sample.outcomes.scores, sample.outcomes.cost)
        if promise.quality is not None and seen.score.mean() < promise.quality:
            break
        if promise.budget is not None and seen.cost.mean() > promise.budget:
            break
        kept = setting
    if kept is None:
        raise RouterError("No setting keeps the promise.")
    return kept


def chosen(rule: str, promise: Certified, sample: Sample) -> Policy:
    """The rule's setting; raises RouterError where it refuses the promise."""
    if rule == "naive":
        return naive(promise, sample)
    policy = replace(promise, method=rule.replace(" ", "_"))
    return policy.tune(sample.prediction, sample.outcomes)


def run(problem: Problem) -> dict[str, Result]:
    """rule -> what became of each resampling."""
    found = {rule: Result(*np.full((2, RESAMPLINGS), np.nan)) for rule in RULES}
    for seed in range(RESAMPLINGS):
        sample = problem.samples(seed)
        for rule, result in found.items():
            try:
                policy = chosen(rule, problem.promise, sample)
            except RouterError:
                continue
            true = policy.expected(sample.elsewhere, sample.truth.scores, sample.truth.cost)
            result.score[seed] = true.score.mean()
            if true.cost is not None:
                result.cost[seed] = true.cost.mean()
    return found


def out_of_fold(outcomes: OutcomeMatrix) -> Prediction:
    """Predictions of every query by a head that never saw it."""
    vectors = encode_cached(SentenceTransformerEncoder(minilm_folder()), outcomes.prompts)
    return cross_predict(Head(Partition([16, 32, 64]), Ridge()), vectors, outcomes, 5)


def problems(nine: str) -> Iterator[Problem]:
    """Every promise of the study."""
    for graded, name in ((False, "0/1 scores"), (True, "graded scores")):
        samples = simulated(500, graded)
        yield Problem(f"simulation, {name}: quality .78", Certified(quality=0.78), samples)
    spend = Certified(quality=None, budget=0.003, largest_cost=0.05)
    yield Problem("simulation: $.003 per query", spend, simulated(500, graded=False))

    outcomes = ParetoBanditData().load()
    outcomes = outcomes.take(ColumnSplit()(outcomes).train)  # the holdout is never read
    samples = held_out(out_of_fold(outcomes), outcomes, 600)
    yield Problem("default data, graded: quality .90", Certified(quality=0.9), samples)
    spend = Certified(quality=None, budget=0.004)
    yield Problem("default data: $.004 per query", spend, samples)

    outcomes = TableData(nine).load()
    prediction = out_of_fold(outcomes)
    pair = Threshold("llama-3.1-nemotron-51b-instruct", "llama-3.1-8b-instruct")
    promise = Certified(policy=pair, quality=0.58)
    samples = held_out(prediction, outcomes, 1000)
    yield Problem("nine models, graded: quality .58", promise, samples)
    right = replace(outcomes, scores=(outcomes.scores >= 0.5).astype(float))
    samples = held_out(prediction, right, 1000)
    yield Problem("nine models, right or wrong: quality .58", promise, samples)


def main(nine: str) -> None:
    """Run the study, print its table as Markdown and draw its picture."""
    results = []
    print("|promise|rule|broken|refused|mean score|$ per 1,000|mean excess over the promise|")
    print("|---|---|---|---|---|---|---|")
    for problem in problems(nine):
        started = time.monotonic()
        found = run(problem)
        results.append((problem, found))
        for rule, result in found.items():
            excess = result.excess(problem.promise)
            error = 1.96 * excess.std() / np.sqrt(RESAMPLINGS)
            dollars = "" if np.isnan(result.cost).all() else f"{1000 * np.nanmean(result.cost):.3f}"
            print(
                f"|{problem.name}|{rule}|{(excess < 0).mean():.3f}|"
                f"{np.isnan(result.score).mean():.3f}|{np.nanmean(result.score):.4f}|{dollars}|"
                f"{excess.mean():+.2%} ± {error:.2%}|"
            )
        print(f"{problem.name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    draw(results)


def draw(results: list[tuple[Problem, dict[str, Result]]]) -> None:
    """Left: share of broken promises. Right: what is left of the promise on average."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    rows = np.arange(len(results))[::-1]
    for shift, rule, colour in zip((0.25, 0, -0.25), RULES, ("0.6", "C0", "C1"), strict=True):
        excess = np.array([found[rule].excess(problem.promise) for problem, found in results])
        broken = (excess < 0).mean(axis=1)
        error = 1.96 * np.sqrt(np.maximum(broken * (1 - broken), 1e-4) / RESAMPLINGS)
        left.errorbar(broken, rows + shift, xerr=error, fmt="o", color=colour, label=rule)
        spread = 196 * excess.std(axis=1) / np.sqrt(RESAMPLINGS)
        right.errorbar(100 * excess.mean(axis=1), rows + shift, xerr=spread, fmt="o", color=colour)
    left.axvline(DELTA, color="black", lw=1, ls=":")
    left.set(xlabel=f"share of {RESAMPLINGS} resamplings that broke the promise (dots: delta)")
    left.set_xlim(-0.02, None)
    left.set_yticks(rows, [problem.name for problem, _ in results])
    right.axvline(0, color="black", lw=1, ls=":")
    right.set(xlabel="mean excess over the promise, %")
    figure.legend(*left.get_legend_handles_labels(), loc="upper center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    figure.savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
