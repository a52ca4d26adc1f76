"""Cascades on real answers: RouteLLM's GSM8K table, two models, grouped 5-fold.

    python experiments/cascades/gsm8k.py routellm_gsm8k.parquet

Everything is chosen on the four other folds: the judge, the thresholds and the cost weights on
out-of-fold predictions of them. Costs are tokens of the real texts (MiniLM's tokenizer) times the
prices below. Prints the tables of README.md and writes gsm8k.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import roc_auc_score
from tokenizers import Tokenizer
from tqdm import tqdm

from router.encoding.featured import FeaturedEncoder
from router.encoding.sentence_transformer import SentenceTransformerEncoder, minilm_folder
from router.estimators import Logistic, Ridge
from router.estimators.head import Head, cross_predict
from router.estimators.judge import Judge
from router.evaluation.bootstrap import Bootstrap
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.splits import grouped_folds
from router.outcomes.table import TableData
from router.policies import Budget, Cascade, CascadeRouting, LearnedStopping, Policy
from router.prediction import Prediction

# USD per million tokens, input and output, as LiteLLM 1.106.2's price map has them (November 2026).
PRICES = {
    "gpt-4-1106-preview": (10.0, 30.0),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": (0.6, 0.6),  # at Together AI
}
STRONG = "gpt-4-1106-preview"
SHARES = (0.5, 0.6, 0.7, 0.9)
FRONTIER = (0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
JUDGE_SKILL = (0.7, 0.8, 0.9, 1.0)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args()
    outcomes = read(options.table)
    encoder = FeaturedEncoder(SentenceTransformerEncoder(minilm_folder()))
    X = encoder.encode(outcomes.prompts)
    outcomes = with_vectors(outcomes, encoder)
    strong = outcomes.candidates.index(STRONG)
    top = float(outcomes.cost[:, strong].mean())
    judges = {
        "features": Judge(Logistic(C=1.0), reads=("features",)),
        "answer": Judge(Logistic(C=1.0), reads=("response", "features")),
        "all": Judge(Logistic(C=1.0), reads=("prompt", "response", "features")),
    }
    sides = {
        name: list(nested(X, outcomes, Head(Ridge(), Ridge(), judge), options.folds, name))
        for name, judge in judges.items()
    }
    print_judges(sides, outcomes)
    methods: dict[str, tuple[str, Callable[[float], Policy]]] = {
        "router alone": ("answer", Budget),
        "cascade (FrugalGPT)": ("answer", Cascade),
        "cascade, judge of features": ("features", Cascade),
        "learned stopping (DER-lite)": ("answer", LearnedStopping),
        "post-hoc deferral": ("answer", lambda b: CascadeRouting(b, depth=1, uncertainty=False)),
        "cascade routing": ("answer", CascadeRouting),
        "cascade routing, judge reads the prompt too": ("all", CascadeRouting),
        "cascade routing, weight by step": ("answer", lambda b: CascadeRouting(b, per_step=True)),
        "ideal cascade (a perfect judge)": ("perfect", Cascade),
    }
    sides["perfect"] = [
        (replace(v, judged=vo.scores), vo, replace(t, judged=to.scores), to)
        for v, vo, t, to in sides["answer"]
    ]
    bootstrap = Bootstrap(np.concatenate([side[3].groups for side in sides["answer"]]), 1000)
    alone = {s: played(Budget, sides["answer"], s * top) for s in FRONTIER}
    print("\n| method |", " | ".join(f"{share:.0%} of the cost" for share in SHARES), "|")
    print("|---|" + "---|" * len(SHARES))
    curves: dict[str, np.ndarray] = {}
    for name, (judge, policy) in methods.items():
        results = {s: played(policy, sides[judge], s * top) for s in FRONTIER}
        curves[name] = np.array([(c.mean() / top, q.mean()) for q, c in results.values()])
        cells = []
        for share in SHARES:
            quality, cost = results[share]
            cell = f"{quality.mean():.4f} at {cost.mean() / top:.0%}"
            if name != "router alone":
                gain = bootstrap.mean(quality - alone[share][0])
                cell += f" ({gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}])"
            cells.append(cell)
        print(f"| {name} | " + " | ".join(cells) + " |")
    print_levels(outcomes, curves, top)
    print_noisy(sides, outcomes, alone, top, bootstrap)
    draw(curves, outcomes, top, Path(__file__).parent / "gsm8k.png")


def read(path: Path) -> OutcomeMatrix:
    """The decontaminated queries, priced."""
    outcomes = TableData(path).load()
    outcomes = outcomes.take(
        np.flatnonzero(outcomes.queries["split"].to_numpy() == "test_decontaminated")
    )
    tokenizer = Tokenizer.from_file(f"{minilm_folder()}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def tokens(texts: list[str]) -> np.ndarray:
        return np.array([len(e.ids) - 2 for e in tokenizer.encode_batch(texts)])

    assert outcomes.answers is not None
    asked = tokens(outcomes.prompts)
    answered = [tokens(column.tolist()) for column in outcomes.answers.text.T]
    prices = np.array([PRICES[name] for name in outcomes.candidates]) / 1e6
    cost = asked[:, None] * prices[:, 0] + np.column_stack(answered) * prices[:, 1]
    return replace(outcomes, cost=cost)


def with_vectors(outcomes: OutcomeMatrix, encoder: FeaturedEncoder) -> OutcomeMatrix:
    """With vectors of the answers."""
    assert outcomes.answers is not None
    vectors = [encoder.encode(column.tolist()) for column in outcomes.answers.text.T]
    return replace(outcomes, answers=replace(outcomes.answers, vectors=np.stack(vectors, axis=1)))


Side = tuple[Prediction, OutcomeMatrix, Prediction, OutcomeMatrix]


def nested(X: np.ndarray, outcomes: OutcomeMatrix, head: Head, folds: int, name: str):
    """Per fold: (out-of-fold prediction of the other folds, their outcomes, prediction of the fold,
    its outcomes)."""
    for fit, test in tqdm(grouped_folds(outcomes.groups, folds, 0), f"Judge {name}", leave=False):
        train, held_out = outcomes.take(fit), outcomes.take(test)
        validation = cross_predict(head, X[fit], train, folds)
        fitted = head.fit(X[fit], train)
        yield validation, train, fitted.predict(X[test], held_out), held_out


def played(
    policy: Callable[[float], Policy], sides: list[Side], budget: float
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) score and cost of every query, from a policy tuned on the other folds."""
    scores, costs = [], []
    for validation, known, prediction, outcomes in sides:
        tuned = policy(budget).tune(validation, known)
        value = tuned.expected(prediction, outcomes.scores, outcomes.cost)
        scores.append(value.score)
        costs.append(value.cost)
    return np.concatenate(scores), np.concatenate(costs)


def print_judges(sides: dict[str, list[Side]], outcomes: OutcomeMatrix) -> None:
    """How well each judge, and the router before the answer, tells good answers from bad."""
    print("| who | " + " | ".join(f"AUC of {name}" for name in outcomes.candidates) + " |")
    print("|---|" + "---|" * len(outcomes.candidates))
    scores = np.concatenate([side[3].scores for side in sides["answer"]])
    before = np.concatenate([side[2].quality for side in sides["answer"]])
    rows = {"router, before the answer": before}
    for name, of in sides.items():
        rows[f"judge `{name}`"] = np.concatenate([side[2].judged for side in of])
    for name, values in rows.items():
        auc = [roc_auc_score(scores[:, j], values[:, j]) for j in range(scores.shape[1])]
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in auc) + " |")


def print_levels(outcomes: OutcomeMatrix, curves: dict[str, np.ndarray], top: float) -> None:
    """What the single models do, and the least cost at which each method reaches the strong one."""
    strong = outcomes.candidates.index(STRONG)
    for j, name in enumerate(outcomes.candidates):
        share = outcomes.cost[:, j].mean() / top
        print(f"\n{name}: {outcomes.scores[:, j].mean():.4f} at {share:.1%} of the cost")
    target = outcomes.scores[:, strong].mean()
    print(f"\nLeast cost at which a method scores {target:.4f}:\n")
    for name, points in curves.items():
        reached = points[points[:, 1] >= target - 1e-9, 0]
        print(f"- {name}: {f'{reached.min():.0%}' if len(reached) else 'not reached'}")


def print_noisy(
    sides: dict[str, list[Side]],
    outcomes: OutcomeMatrix,
    alone: dict[float, tuple[np.ndarray, np.ndarray]],
    top: float,
    bootstrap: Bootstrap,
) -> None:
    """Cascade routing under a judge that is right in a share of its verdicts."""
    print("\n| judge is right in | quality at 60 % of the cost | gain on the router alone |")
    print("|---|---|---|")
    for skill in JUDGE_SKILL:
        noisy = [
            (told(v, vo, skill, 0), vo, told(t, to, skill, 1), to)
            for v, vo, t, to in sides["answer"]
        ]
        quality, _ = played(CascadeRouting, noisy, 0.6 * top)
        gain = bootstrap.mean(quality - alone[0.6][0])
        print(
            f"| {skill:.0%} | {quality.mean():.4f} "
            f"| {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}] |"
        )


def told(prediction: Prediction, outcomes: OutcomeMatrix, skill: float, seed: int) -> Prediction:
    """Judged by a verdict that is right with probability `skill`, as the chance that the answer is
    right given verdict and prediction (Bayes)."""
    right = np.random.default_rng(seed).random(outcomes.scores.shape) < skill
    verdict = np.where(right, outcomes.scores, 1 - outcomes.scores) > 0.5
    before = np.clip(prediction.quality, 0.01, 0.99)
    yes, no = before * skill, (1 - before) * (1 - skill)
    up = yes / (yes + no)
    yes, no = before * (1 - skill), (1 - before) * skill
    down = np.divide(yes, yes + no, out=np.zeros_like(yes), where=yes + no > 0)
    return replace(prediction, judged=np.where(verdict, up, down))


def draw(curves: dict[str, np.ndarray], outcomes: OutcomeMatrix, top: float, path: Path) -> None:
    """The frontiers."""
    figure, axes = plt.subplots(figsize=(7.5, 5), layout="constrained")
    for name, points in curves.items():
        style = "--" if name.startswith("ideal") else "-"
        wide = 2.5 if name == "router alone" else 1.4
        axes.plot(points[:, 0], points[:, 1], style, marker=".", linewidth=wide, label=name)
    for j, name in enumerate(outcomes.candidates):
        point = outcomes.cost[:, j].mean() / top, outcomes.scores[:, j].mean()
        axes.plot(*point, "k*", markersize=11)
        axes.annotate(name.split("/")[-1], point, (6, -12), textcoords="offset points", fontsize=8)
    axes.set_xlabel("cost, as a share of always asking the strong model")
    axes.set_ylabel("accuracy")
    axes.set_title("GSM8K, 5-fold: routers and cascades", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7.5)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
