"""When does a router need more than masks to learn from a log of chosen answers alone?

Full-information tables are replayed as logs whose policy is biased by design:

    length, task   an incumbent rule with 90 %, any candidate at random with 10 %. Long prompts, or
                   those of hard tasks, go to the best candidate, the others to a weak one.
    softmax        a softmax over what ridge learned from a hundred queries.

Marginal, ridge and bagged partitions are fitted to the seen outcomes as they are (naive), weighed
by inverse propensity (IPW) and through doubly robust pseudo-outcomes (DR), and judged on test
queries with every outcome known: mean score of the candidate of best predicted quality, or, where
the table has costs, AIQ. `full` is the member with every outcome of the same queries. Differences
are means over five replays, with their standard error; each replay of a table without its own test
side holds out another fifth of the prompts. `off` is how far the mean predicted quality of a
candidate lies from its mean score on the test queries, averaged over candidates.

    python experiments/off_policy/training.py path/to/llmrouter_nine.parquet
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np
from sklearn.base import clone

from router.encoding.cache import encode_cached
from router.encoding.sentence_transformer import SentenceTransformerEncoder, minilm_folder
from router.estimators import (
    DoublyRobust,
    Estimator,
    InversePropensity,
    Marginal,
    Partition,
    Ridge,
)
from router.evaluation.frontier import aiq, curve_of
from router.off_policy.replay import replay
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.paretobandit import ParetoBanditData
from router.outcomes.splits import AutoSplit, grouped_folds
from router.outcomes.table import TableData
from router.policies import Utility
from router.prediction import Prediction

MEMBERS: dict[str, Estimator] = {
    "marginal": Marginal(),
    "ridge": Ridge(),
    # Learned shrinkage: pseudo-outcomes scatter more than scores do.
    "bagged partition": Partition([16, 32, 64, 128], n_repeats=2, shrinkage=None),
}
WAYS = ("naive", "IPW", "DR")
SIZES = (1000, None)  # of the log; None: all of the train side
REPLAYS = 5
EXPLORED = 0.1
KNOWN = 100  # queries that the softmax policy learned from
TEMPERATURE = 0.1

Sides = list[tuple[np.ndarray, np.ndarray]]


def estimator_of(way: str, member: Estimator) -> Estimator:
    """The member, fitted to chosen-only outcomes in one of three ways."""
    if way == "IPW":
        return InversePropensity(member)
    return DoublyRobust(member, Ridge()) if way == "DR" else member


def incumbent(train: OutcomeMatrix, to_best: np.ndarray) -> np.ndarray:
    """(n, m) propensities of sending the queries of `to_best` to the best candidate and the others
    to the cheapest, or where no cost is known to the middling one, save for what is explored."""
    means, costs = train.mean_scores(), train.mean_costs()
    m = len(means)
    weak = np.argsort(means)[m // 2] if costs is None else costs.argmin()
    chosen = np.where(to_best, means.argmax(), weak)
    return (1 - EXPLORED) * np.eye(m)[chosen] + EXPLORED / m


def propensities_of(
    log: str, X: np.ndarray, train: OutcomeMatrix, rng: np.random.Generator
) -> np.ndarray:
    """(n, m) of the logging policy."""
    if log == "length":
        length = np.array([len(prompt) for prompt in train.prompts])
        return incumbent(train, length > np.median(length))
    if log == "task":
        tasks = train.tasks
        assert tasks is not None
        level = {task: np.nanmean(train.scores[tasks == task]) for task in np.unique(tasks)}
        of_query = np.array([level[task] for task in tasks])
        return incumbent(train, of_query < np.median(of_query))
    rows = rng.choice(len(train), KNOWN, replace=False)
    liked = Ridge().fit(X[rows], train.take(rows)).predict(X).quality / TEMPERATURE
    odds = np.exp(liked - liked.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def value_of(prediction: Prediction, costs: np.ndarray | None, test: OutcomeMatrix) -> float:
    """AIQ where costs (m,) are known, else the mean score of the candidates predicted best."""
    if costs is None:
        best = prediction.quality.argmax(axis=1)
        return float(test.scores[np.arange(len(test)), best].mean())
    priced = Prediction(
        prediction.candidates,
        prediction.quality,
        prediction.quality_se,
        cost=np.tile(costs, (len(test), 1)),
    )
    models = test.mean_costs()
    assert models is not None
    return aiq(curve_of(Utility(), priced, test).points, models.min(), models.max())


def measured(
    log: str, size: int | None, X: np.ndarray, outcomes: OutcomeMatrix, sides: Sides
) -> Iterator[tuple[str, str, float, float]]:
    """(member, way, value, how far off the means are) of every replay."""
    for seed, (train_rows, test_rows) in enumerate(sides):
        rng = np.random.default_rng(seed)
        if size is not None:
            train_rows = np.sort(rng.choice(train_rows, size, replace=False))
        train, test = outcomes.take(train_rows), outcomes.take(test_rows)
        propensities = propensities_of(log, X[train_rows], train, rng)
        chosen = replay(train, propensities, random_state=seed)
        for name, member in MEMBERS.items():
            for way in (*WAYS, "full"):
                seen = train if way == "full" else chosen
                fitted = clone(estimator_of(way, member)).fit(X[train_rows], seen)
                prediction = fitted.predict(X[test_rows])
                off = np.abs(prediction.quality.mean(axis=0) - test.mean_scores()).mean()
                yield name, way, value_of(prediction, seen.mean_costs(), test), float(off)


def study(data: str, X: np.ndarray, outcomes: OutcomeMatrix, sides: Sides) -> None:
    """Print the rows of one table."""
    for log in ("length", "task", "softmax"):
        for size in SIZES:
            started = time.monotonic()
            found = list(measured(log, size, X, outcomes, sides))
            for name in MEMBERS:
                value, off = (
                    {way: np.array([f[k] for f in found if f[:2] == (name, way)])
                     for way in (*WAYS, "full")}
                    for k in (2, 3)
                )  # fmt: skip
                gains = [
                    f"{gain.mean():+.3f} ± {gain.std(ddof=1) / np.sqrt(len(gain)):.3f}"
                    for gain in (value[way] - value["naive"] for way in ("IPW", "DR"))
                ]
                n = size or len(sides[0][0])
                levels = [f"{value[way].mean():.3f}" for way in ("naive", "full")]
                offs = [f"{off[way].mean():.3f}" for way in WAYS]
                cells = [data, log, f"{n:,}", name, levels[0], *gains, levels[1], *offs]
                print(f"| {' | '.join(cells)} |", flush=True)
            print(f"{data} {log}: {time.monotonic() - started:.0f} s", file=sys.stderr)


def main(nine: str) -> None:
    """Run the study on the default data set and on a table without costs."""
    encoder = SentenceTransformerEncoder(minilm_folder())
    heads = [
        "data", "log", "queries", "member", "naive", "IPW - naive", "DR - naive", "full",
        "off, naive", "off, IPW", "off, DR",
    ]  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    table = TableData(nine).load()
    X = encode_cached(encoder, table.prompts)
    study("nine", X, table, grouped_folds(table.groups, REPLAYS))
    default = ParetoBanditData().load()
    split = AutoSplit()(default)
    X = encode_cached(encoder, default.prompts)
    study("default", X, default, [(split.train, split.test)] * REPLAYS)


if __name__ == "__main__":
    main(*sys.argv[1:])
