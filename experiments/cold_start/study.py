"""What does a new LLM cost in labels? Each candidate of llmrouter_nine is left out and added back.

In each of five folds, grouped by prompt, an estimator learns from the other eight candidates' full
log; the ninth joins with `with_candidate` from 50, 100 or 200 labelled queries of the train side,
drawn at random (three draws) or suggested by `router add-candidate` (each batch knows the labels
before it). The held-out queries then go to the candidate of best predicted quality. The figure is
their mean score less that of the same estimator with the full log of all nine, averaged over the
nine candidates left out, with a paired 95 % interval from a bootstrap over prompts.

    python experiments/cold_start/study.py path/to/llmrouter_nine.parquet
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np

from router.encoding.cache import encode_cached
from router.encoding.sentence_transformer import SentenceTransformerEncoder, minilm_folder
from router.estimators import KNN, Estimator, MatrixFactorisation, Partition
from router.evaluation.bootstrap import Bootstrap
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.splits import grouped_folds
from router.outcomes.table import TableData
from router.pipelines.label_first import Clusters, label_first

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "bagged partition": lambda: Partition([16, 32, 64, 128], n_repeats=6),
    "knn": KNN,
    "matrix factorisation": MatrixFactorisation,
}
SIZES = (50, 100, 200)
DRAWS = 3
FOLDS = 5
PICTURE = Path(__file__).with_name("cold_start.png")


def chosen_scores(fitted: Estimator, X: np.ndarray, outcomes: OutcomeMatrix) -> np.ndarray:
    """(n,) score of the candidate of best predicted quality."""
    prediction = fitted.predict(X)
    columns = [outcomes.candidates.index(name) for name in prediction.candidates]
    best = np.array(columns)[prediction.quality.argmax(axis=1)]
    return outcomes.scores[np.arange(len(X)), best]


def suggested(clusters: Clusters, known: np.ndarray, new: np.ndarray) -> dict[int, np.ndarray]:
    """Rows labelled after each batch of suggestions."""
    rows = np.array([], dtype=int)
    after = {}
    for size in SIZES:
        first = label_first(clusters, known, size - len(rows), rows, new[rows])
        rows = np.concatenate([rows, first])
        after[size] = rows
    return after


def labelled_rows(
    outcomes: OutcomeMatrix, clusters: Clusters, left_out: int, seed: int
) -> list[tuple[str, int, np.ndarray]]:
    """(way, size, rows) of every labelled set."""
    rng = np.random.default_rng([seed, left_out])
    known = np.delete(outcomes.scores, left_out, axis=1)
    sets = [
        ("random", size, order[:size])
        for order in (rng.permutation(len(outcomes)) for _ in range(DRAWS))
        for size in SIZES
    ]
    by_use = suggested(clusters, known, outcomes.scores[:, left_out])
    return [*sets, *(("suggested", size, rows) for size, rows in by_use.items())]


def run(X: np.ndarray, outcomes: OutcomeMatrix) -> dict[str, dict[tuple[str, int], np.ndarray]]:
    """estimator -> (way, labels) -> (n,) mean score of each query over left-out candidates and
    draws; ("full", 0) is the estimator with everything, ("without", 0) never has the ninth."""
    n, m = outcomes.scores.shape
    folds = grouped_folds(outcomes.groups, FOLDS)
    sets = {}
    for f, (fit, _) in enumerate(folds):
        clusters = Clusters.of(X[fit])
        for j in range(m):
            sets[f, j] = labelled_rows(outcomes.take(fit), clusters, j, f)
    results = {}
    for name, make in ESTIMATORS.items():
        started = time.monotonic()
        total: dict[tuple[str, int], np.ndarray] = {}
        times: dict[tuple[str, int], np.ndarray] = {}
        for f, (fit, held_out) in enumerate(folds):
            train, test = outcomes.take(fit), outcomes.take(held_out)
            fitted = [(("full", 0), make().fit(X[fit], train))]
            for j, candidate in enumerate(outcomes.candidates):
                others = [other for other in outcomes.candidates if other != candidate]
                eight = make().fit(X[fit], train.select(others))
                fitted.append((("without", 0), eight))
                for way, size, rows in sets[f, j]:
                    labels = train.scores[rows, j]
                    nine = eight.with_candidate(candidate, X[fit][rows], labels)
                    fitted.append(((way, size), nine))
            for key, estimator in fitted:
                scores = chosen_scores(estimator, X[held_out], test)
                total.setdefault(key, np.zeros(n))[held_out] += scores
                times.setdefault(key, np.zeros(n))[held_out] += 1
        results[name] = {key: total[key] / times[key] for key in total}
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return results


def main(path: str) -> None:
    """Run the study on a table."""
    outcomes = TableData(path).load()
    X = encode_cached(SentenceTransformerEncoder(minilm_folder()), outcomes.prompts)
    show(run(X, outcomes), outcomes)


def show(results: dict[str, dict[tuple[str, int], np.ndarray]], outcomes: OutcomeMatrix) -> None:
    """Print the table as Markdown and draw the picture."""
    bootstrap = Bootstrap(outcomes.groups)
    ways = [("without", 0), *((way, size) for way in ("random", "suggested") for size in SIZES)]
    print(
        "|estimator|full log|" + "|".join(f"{way} {size or ''}".strip() for way, size in ways) + "|"
    )
    print("|" + "---|" * (2 + len(ways)))
    figure, axes = plt.subplots(1, len(results), figsize=(4 * len(results), 3.6), sharey=True)
    for axis, (name, scores) in zip(np.atleast_1d(axes), results.items(), strict=True):
        full = scores["full", 0]
        losses = {key: bootstrap.mean(scores[key] - full) for key in ways}
        cells = [f"{x.value:+.4f} [{x.low:+.4f}, {x.high:+.4f}]" for x in losses.values()]
        print(f"|{name}|{full.mean():.4f}|" + "|".join(cells) + "|")
        without = losses["without", 0]
        axis.axhspan(without.low, without.high, color="0.9", lw=0)
        axis.axhline(without.value, color="0.5", lw=1, label="without the new candidate")
        for shift, way in ((0.97, "random"), (1.03, "suggested")):
            found = [losses[way, size] for size in SIZES]
            value = np.array([x.value for x in found])
            spread = np.abs(np.array([[x.low, x.high] for x in found]).T - value)
            axis.errorbar(
                np.array(SIZES) * shift, value, spread, marker="o", capsize=3, label=f"{way} labels"
            )
        axis.axhline(0, color="black", lw=1, ls=":")
        axis.set(title=name, xlabel="labels of the new candidate", xscale="log")
        axis.set_xticks(SIZES, [str(size) for size in SIZES])
        axis.minorticks_off()
    print("\n|estimator|gain|" + "|".join(str(size) for size in SIZES) + "|")
    print("|" + "---|" * (2 + len(SIZES)))
    for name, scores in results.items():
        for title, one, other in (
            ("suggested over random", "suggested", "random"),
            ("suggested over never adding it", "suggested", "without"),
        ):
            gains = [
                bootstrap.mean(scores[one, size] - scores[other, 0 if other == "without" else size])
                for size in SIZES
            ]
            cells = [f"{x.value:+.4f} [{x.low:+.4f}, {x.high:+.4f}]" for x in gains]
            print(f"|{name}|{title}|" + "|".join(cells) + "|")
    first = np.atleast_1d(axes)[0]
    first.set_ylabel("mean score less that of the full log")
    first.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
