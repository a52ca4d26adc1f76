"""How far can a decision log be trusted to judge another router, and to promote it?

The test side of a full table is the world: a log draws its queries with replacement and lets an
epsilon-greedy policy around the best single model choose, so every truth is known. A router that
was trained on the train side is the target.

values    error and coverage of every estimator of the target's mean score over the replays.
gate      how often `router gate` promotes, on the same logs and with full information: the target;
          one that is worse by the whole margin (cheaper, so that there is something to gain); the
          incumbent itself.

    python experiments/off_policy/values.py path/to/llmrouter_nine.parquet
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from router.encoding.cache import encode_cached
from router.encoding.sentence_transformer import SentenceTransformerEncoder, minilm_folder
from router.estimators import Partition, Ridge
from router.estimators.head import Head, cross_predict
from router.evaluation.bootstrap import Bootstrap
from router.evaluation.gate import PROMOTE, REFUSED, Evidence, Rule, decide
from router.evaluation.metrics import effective_decisions
from router.off_policy.paired_evidence import paired_evidence
from router.off_policy.replay import replay
from router.off_policy.reward_model import reward_model
from router.off_policy.values import METHODS, Reweighted, values
from router.outcomes.decisions import Decisions
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.paretobandit import ParetoBanditData
from router.outcomes.splits import ColumnSplit, RandomSplit
from router.outcomes.table import TableData
from router.policies import Budget
from router.prediction import Prediction

RATES = (0.05, 0.2, 0.5)
SIZES = (500, 2000)
REPLAYS = 100
RESAMPLES = 200
FOLDS = 3  # of the reward model
PICTURE = Path(__file__).with_name("values.png")


@dataclass(frozen=True, eq=False)
class World:
    """A test side with every outcome known, the target's probabilities on it, and the incumbent's
    column."""

    name: str
    outcomes: OutcomeMatrix
    vectors: np.ndarray
    target: np.ndarray
    incumbent: int

    @property
    def always(self) -> np.ndarray:
        """(n, m) the incumbent, always."""
        return np.tile(np.eye(self.target.shape[1])[self.incumbent], (len(self.outcomes), 1))

    def worse_by(self, margin: float) -> np.ndarray:
        """(n, m) the incumbent mixed with the weakest candidate, worse than it by the margin."""
        means = self.outcomes.scores.mean(axis=0)
        weakest = int(means.argmin())
        share = margin / (means[self.incumbent] - means[weakest])
        return (1 - share) * self.always + share * np.eye(len(means))[weakest]


def worlds(nine: str | None) -> Iterator[World]:
    """The default data set, and llmrouter_nine where its path is given."""
    tables = {"default": (ParetoBanditData().load(), ColumnSplit())}
    if nine is not None:
        tables["nine"] = (TableData(nine).load(), RandomSplit(0.5))
    for name, (outcomes, split) in tables.items():
        sides = split(outcomes)
        train, test = outcomes.take(sides.train), outcomes.take(sides.test)
        vectors = encode_cached(SentenceTransformerEncoder(minilm_folder()), outcomes.prompts)
        head = Head(Partition([16, 32, 64, 128]), Ridge())
        policy = Budget().tune(cross_predict(head, vectors[sides.train], train, 5), train)
        prediction = head.fit(vectors[sides.train], train).predict(vectors[sides.test])
        best = int(train.mean_scores().argmax())
        target = policy.probabilities(prediction)
        yield World(name, test, vectors[sides.test], target, best)


def logs(world: World, rate: float, size: int) -> Iterator[tuple[np.ndarray, Decisions]]:
    """(rows of the world, the decisions that a log of them holds), again and again."""
    m = world.target.shape[1]
    propensities = (1 - rate) * world.always + rate / m
    for seed in range(REPLAYS):
        rows = np.random.default_rng(seed).integers(len(world.outcomes), size=size)
        drawn = world.outcomes.take(rows)
        # Drawn with replacement, the queries are independent, and the same one twice is two.
        drawn = replace(drawn, queries=drawn.queries.assign(group=np.arange(size)))
        yield rows, Decisions.of(replay(drawn, propensities[rows], seed))


def modelled(decisions: Decisions, vectors: np.ndarray) -> Prediction:
    """What each candidate is predicted to yield, from other decisions."""
    quality = reward_model(Ridge(), vectors, decisions, decisions.score, FOLDS)
    cost = None
    if decisions.cost is not None:
        cost = reward_model(Ridge(), vectors, decisions, decisions.cost, FOLDS)
    return Prediction(decisions.candidates, quality, np.zeros_like(quality), cost)


def evidence_of_table(world: World, rows: np.ndarray, plan: np.ndarray) -> Evidence:
    """The same contest with every outcome known."""
    known = world.outcomes.take(rows)
    plans = plan[rows], world.always[rows]

    def columns(of: np.ndarray | None) -> np.ndarray | None:
        return None if of is None else np.column_stack([(own * of).sum(axis=1) for own in plans])

    quality = columns(known.scores)
    assert quality is not None
    return Evidence(quality, columns(known.cost), None, np.arange(len(rows)))


def judged(world: World, rate: float, size: int) -> tuple[list[dict], list[dict]]:
    """Rows of both tables for one kind of log."""
    truth = float((world.target * world.outcomes.scores).sum(axis=1).mean())
    priced = world.outcomes.cost is not None
    rule = Rule(cost=0.05 if priced else None, task=None)
    contests = {
        "target": world.target,
        "worse by the margin": world.worse_by(rule.quality),
        "the incumbent": world.always,
    }
    errors: dict[str, list[float]] = {method: [] for method in METHODS}
    held: dict[str, list[bool]] = {method: [] for method in METHODS}
    effective: list[float] = []
    promoted: dict[tuple[str, str], list[str]] = {}
    for rows, decisions in logs(world, rate, size):
        model = modelled(decisions, world.vectors[rows])
        seen = Reweighted.of(decisions, world.target[rows], decisions.score, model.quality)
        effective.append(effective_decisions(seen.weight))
        bootstrap = Bootstrap(decisions.groups, RESAMPLES)
        for method in METHODS:
            interval = bootstrap.mean(values(method, seen))
            errors[method].append(interval.value - truth)
            held[method].append(interval.low <= truth <= interval.high)
        for name, plan in contests.items():
            logged = paired_evidence(decisions, plan[rows], world.always[rows], model, 200)
            full = evidence_of_table(world, rows, plan)
            for kind, evidence in (("log", logged), ("full", full)):
                promoted.setdefault((name, kind), []).append(decide(evidence, rule).decision)
    at = {"data": world.name, "explored": rate, "decisions": size}
    told = [
        {
            **at,
            "effective": np.mean(effective),
            "method": method,
            "bias": np.mean(errors[method]),
            "error": np.sqrt(np.mean(np.square(errors[method]))),
            "covered": np.mean(held[method]),
        }
        for method in METHODS
    ]
    gated = [
        {
            **at,
            "candidate": name,
            "promoted by the log": np.mean(np.array(promoted[name, "log"]) == PROMOTE),
            "refused": np.mean(np.array(promoted[name, "log"]) == REFUSED),
            "promoted by the full table": np.mean(np.array(promoted[name, "full"]) == PROMOTE),
        }
        for name in contests
    ]
    return told, gated


def markdown(table: pd.DataFrame) -> str:
    """The table, with floats of three or four decimals."""
    form = {"effective": "{:,.0f}", "bias": "{:+.4f}", "error": "{:.4f}", "decisions": "{:,}"}
    rows = ["| " + " | ".join(table) + " |", "|" + "---|" * len(table.columns)]
    for record in table.to_dict("records"):
        cells = [
            form.get(name, "{:.2f}").format(value) if not isinstance(value, str) else value
            for name, value in record.items()
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def draw(table: pd.DataFrame) -> None:
    """Error and coverage of every method as the log explores more."""
    names = list(dict.fromkeys(table["data"]))
    figure, panels = plt.subplots(
        2, len(names), figsize=(5 * len(names), 6.4), layout="constrained", squeeze=False
    )
    for column, name in enumerate(names):
        own = table[(table["data"] == name) & (table["decisions"] == max(SIZES))]
        for marker, method in zip("ovs^Dx", METHODS, strict=True):
            of = own[own["method"] == method]
            for row, value in enumerate(("error", "covered")):
                panels[row, column].plot(of["explored"], of[value], marker=marker, label=method)
        panels[0, column].set_title(f"{name}, {max(SIZES):,} decisions")
        panels[0, column].set_yscale("log")
        panels[1, column].axhline(0.95, color="k", lw=1, ls=":")
        panels[1, column].set_ylim(0, 1.02)
        panels[1, column].set_xlabel("share of decisions explored")
    panels[0, 0].set_ylabel("root mean squared error")
    panels[1, 0].set_ylabel("95 % intervals that hold the truth")
    panels[0, -1].legend(frameon=False, ncols=2, fontsize=8)
    figure.savefig(PICTURE, dpi=120)


def main(nine: str | None) -> None:
    """Print both tables as Markdown and draw the picture."""
    told: list[dict] = []
    gated: list[dict] = []
    for world in worlds(nine):
        gain = ((world.target - world.always) * world.outcomes.scores).sum(axis=1).mean()
        print(f"{world.name}: the target's true gain is {gain:+.4f}", file=sys.stderr)
        for rate in RATES:
            for size in SIZES:
                started = time.monotonic()
                of_values, of_gate = judged(world, rate, size)
                told += of_values
                gated += of_gate
                seconds = time.monotonic() - started
                print(f"{world.name} {rate} {size}: {seconds:.0f} s", file=sys.stderr, flush=True)
    table = pd.DataFrame(told)
    draw(table)
    print(markdown(table), markdown(pd.DataFrame(gated)), sep="\n\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
