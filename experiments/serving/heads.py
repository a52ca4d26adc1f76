"""Time of head and policy together on a ready vector, beside the same model in its own library.

    python experiments/serving/heads.py

One process, one thread, one vector of 384 numbers at a time, 11 candidates. Head and policy is what
`Router.route` does after the encoder, up to the choice; the reason and the record follow. The
contenders take turns in every round, so that what else the machine does meets all of them alike.
Prints Markdown.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.linear_model import Ridge as LinearRegression

import router
from router.artifact.allow_list import choose_among, eligible_of
from router.artifact.export import Description, write_artifact
from router.encoding.sentence_transformer import SentenceTransformerEncoder, minilm_folder
from router.estimators import Estimator, ItemResponse, LightGBM, Partition, Ridge
from router.estimators.head import Head
from router.outcomes.matrix import OutcomeMatrix
from router.policies import Budget, Policy, Utility, uniform_of

QUERIES, DIMENSIONS, CANDIDATES, TREES = 1500, 384, 11, 200
ROUNDS, CALLS = 20, 100
Call = Callable[[np.ndarray], object]


def main() -> None:
    """Fit, export and load every head, time all of them, print the table."""
    warnings.simplefilter("ignore")
    X, outcomes = problem()
    rows = [X[i : i + 1] for i in range(CALLS)]
    heads: dict[str, tuple[Estimator, Call | None]] = {
        "linear (ridge)": (Ridge(), linear(X, outcomes)),
        "partition, 64 clusters": (Partition(64), partition(X)),
        "item response": (ItemResponse(), None),
        "bagged partition (default)": (Partition([16, 32, 64, 128], n_repeats=6), None),
        f"LightGBM, {CANDIDATES} x {TREES} trees": (
            LightGBM(n_estimators=TREES),
            trees(X, outcomes),
        ),
    }
    contenders: dict[tuple[str, str], Call] = {}
    sizes: dict[str, tuple[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (estimator, library) in heads.items():
            print(f"fitting {name}", end="\r", flush=True)
            head = Head(estimator, Ridge()).fit(X, outcomes)
            opened = exported(Path(folder) / str(len(sizes)), head, outcomes)
            part = next(file for file in opened.manifest["files"] if file.startswith("head."))
            sizes[name] = part, opened.manifest["files"][part]["bytes"]
            prediction = head.predict(X)
            spent = outcomes.cost
            assert spent is not None
            budget = Budget(float(np.median(spent.mean(axis=0)))).tune(prediction, outcomes)
            contenders[name, "head"] = opened.predict
            contenders[name, "utility"] = choice(opened, Utility(0.5))
            contenders[name, "budget"] = choice(opened, budget)
            contenders[name, "training"] = head.predict
            if library is not None:
                contenders[name, "library"] = library
        times = measured(contenders, rows)
    print("| head | file | KB | head p50 | + utility p50 | p99 | + budget p50 | p99 |", end="")
    print(" `Head.predict` p50 | library p50 | library / (head + utility) |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, (part, size) in sizes.items():
        p50 = {
            kind: np.percentile(times[name, kind], 50) for _, kind in times if (name, kind) in times
        }
        p99 = {kind: np.percentile(times[name, kind], 99) for kind in ("utility", "budget")}
        known = "library" in p50
        cells = [
            part,
            f"{size / 1e3:.0f}",
            f"{p50['head']:.1f}",
            *(f"{figure[kind]:.1f}" for kind in ("utility", "budget") for figure in (p50, p99)),
            f"{p50['training']:.0f}",
            f"{p50['library']:.0f}" if known else "none",
            f"{p50['library'] / p50['utility']:.1f}" if known else "",
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print("\nTimes in microseconds.")


def problem() -> tuple[np.ndarray, OutcomeMatrix]:
    """Unit vectors and their outcomes by a random linear rule."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(QUERIES, DIMENSIONS)).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    names = tuple(f"candidate {j}" for j in range(CANDIDATES))
    chance = 0.5 + X @ rng.normal(size=(DIMENSIONS, CANDIDATES)) / 3
    scores = (rng.random(chance.shape) < chance).astype(float)
    dollars = 10.0 ** rng.uniform(-5, -2, size=CANDIDATES)
    cost = dollars * rng.lognormal(sigma=0.3, size=scores.shape)
    queries = pd.DataFrame(
        {"query_id": range(QUERIES), "prompt": "a prompt", "group": range(QUERIES)}
    )
    return X, OutcomeMatrix(queries, names, scores, np.ones(scores.shape, dtype=bool), cost)


def exported(place: Path, head: Head, outcomes: OutcomeMatrix) -> router.Router:
    """The head's artifact, loaded."""
    encoder = SentenceTransformerEncoder(minilm_folder())
    place.mkdir()
    about = Description(prices=None, data={}, baselines={})
    return write_artifact(place, encoder, head, Utility(), outcomes.candidates, about)


def choice(opened: router.Router, policy: Policy) -> Call:
    """What the router does with a vector until it knows whom to ask."""
    eligible = eligible_of(opened.candidates, None)

    def decide(vector: np.ndarray) -> int:
        prediction = opened.predict(vector)
        _, votes, _ = choose_among(eligible, policy, prediction, uniform_of(["a prompt"]))
        return int(votes.argmax())

    return decide


def linear(X: np.ndarray, outcomes: OutcomeMatrix) -> Call:
    """scikit-learn's ridge regression of all scores: no standard errors, no costs."""
    return LinearRegression().fit(X, outcomes.scores).predict


def partition(X: np.ndarray) -> Call:
    """scikit-learn's k-means: the cluster alone."""
    return KMeans(64, n_init=1, random_state=0).fit(X).predict


def trees(X: np.ndarray, outcomes: OutcomeMatrix) -> Call:
    """A LightGBM model for each candidate: no standard errors, no costs."""
    models = [
        lightgbm.LGBMRegressor(n_estimators=TREES, num_leaves=15, n_jobs=1, verbose=-1).fit(X, y)
        for y in outcomes.scores.T
    ]
    boosters = [model.booster_ for model in models]
    return lambda vector: [booster.predict(vector, num_threads=1) for booster in boosters]


def measured(
    contenders: dict[tuple[str, str], Call], rows: list[np.ndarray]
) -> dict[tuple[str, str], np.ndarray]:
    """Microseconds of every call of each contender."""
    times: dict[tuple[str, str], list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS):
        print(f"round {turn + 1} of {ROUNDS}   ", end="\r", flush=True)
        for name, call in contenders.items():
            call(rows[0])
            for row in rows:
                started = time.perf_counter()
                call(row)
                times[name].append(1e6 * (time.perf_counter() - started))
    return {name: np.array(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
