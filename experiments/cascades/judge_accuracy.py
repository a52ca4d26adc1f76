"""What a cascade could gain on the default data set, by how often its judge is right.

    python experiments/cascades/judge_accuracy.py

The default data set has costs and scores and no answers, so the judge is made up: it says of every
answer whether it scores at least GOOD, and is right with the probability at the left. What that
verdict is worth is learned like any other signal (Judge). 5-fold on the train side; the holdout is
not read. Gains are paired, against the router alone at the same budget.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tqdm import tqdm

from router.answer_features import SIGNALS
from router.encoding.featured import FeaturedEncoder
from router.encoding.sentence_transformer import SentenceTransformerEncoder, minilm_folder
from router.estimators import Partition, Ridge
from router.estimators.head import Head, cross_predict
from router.estimators.judge import Judge
from router.evaluation.bootstrap import Bootstrap
from router.outcomes.answers import Answers
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.paretobandit import ParetoBanditData
from router.outcomes.splits import AutoSplit, grouped_folds
from router.policies import Budget, Cascade, CascadeRouting, Policy
from router.prediction import Prediction

GOOD = 0.9
SKILLS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
SHARES = (0.1, 0.25, 0.5, 0.75)
FOLDS = 5
Side = tuple[Prediction, OutcomeMatrix, Prediction, OutcomeMatrix]


def main() -> None:
    """Run the study."""
    outcomes = ParetoBanditData().load()
    outcomes = outcomes.take(AutoSplit()(outcomes).train)
    X = FeaturedEncoder(SentenceTransformerEncoder(minilm_folder())).encode(outcomes.prompts)
    best = int(outcomes.scores.mean(axis=0).argmax())
    top = float(outcomes.cost[:, best].mean())
    good = (outcomes.scores >= GOOD).mean(axis=0)
    told = ", ".join(
        f"{name} {share:.0%}" for name, share in zip(outcomes.candidates, good, strict=True)
    )
    print(f"Answers that score at least {GOOD}: {told}; best single {outcomes.candidates[best]}.\n")
    print("| judge is right in | policy |", " | ".join(f"{s:.0%} of the cost" for s in SHARES), "|")
    print("|---|---|" + "---|" * len(SHARES))
    for skill in tqdm(SKILLS, "Judges", leave=False):
        sides = list(
            nested(
                X,
                judged_by(outcomes, skill),
                Head(Partition(n_clusters=(16, 32, 64, 128), n_repeats=6), Ridge()),
            )
        )
        bootstrap = Bootstrap(np.concatenate([side[3].groups for side in sides]), 1000)
        alone = {share: played(Budget(share * top), sides) for share in SHARES}
        if skill == SKILLS[0]:
            cells = [f"{score.mean():.4f}" for score in alone.values()]
            print("| | router alone | " + " | ".join(cells) + " |")
        for name, kind in (("cascade", Cascade), ("cascade routing", CascadeRouting)):
            cells = []
            for share in SHARES:
                gain = bootstrap.mean(played(kind(share * top), sides) - alone[share])
                cells.append(f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
            print(f"| {skill:.0%} | {name} | " + " | ".join(cells) + " |", flush=True)


def judged_by(outcomes: OutcomeMatrix, skill: float) -> OutcomeMatrix:
    """The outcomes with the made-up judge's verdicts as a signal of every answer."""
    right = np.random.default_rng(0).random(outcomes.scores.shape) < skill
    verdict = (outcomes.scores >= GOOD) == right
    signals = {name: np.full(outcomes.scores.shape, np.nan) for name in SIGNALS}
    signals["self_verification"] = verdict.astype(float)
    return replace(
        outcomes, answers=Answers(np.full(outcomes.scores.shape, None, dtype=object), signals)
    )


def nested(X: np.ndarray, outcomes: OutcomeMatrix, head: Head) -> list[Side]:
    """Per fold: (out-of-fold prediction of the other folds, their outcomes, prediction of the fold,
    its outcomes)."""
    head.judge = Judge(Ridge(), reads=("prompt", "signals"))
    sides = []
    for fit, test in grouped_folds(outcomes.groups, FOLDS, 0):
        train, held_out = outcomes.take(fit), outcomes.take(test)
        validation = cross_predict(head, X[fit], train, FOLDS)
        prediction = head.fit(X[fit], train).predict(X[test], held_out)
        sides.append((validation, train, prediction, held_out))
    return sides


def played(policy: Policy, sides: list[Side]) -> np.ndarray:
    """(n,) score of every query, from a policy tuned on the other folds."""
    scores = []
    for validation, known, prediction, outcomes in sides:
        tuned = policy.tune(validation, known)
        scores.append(tuned.expected(prediction, outcomes.scores, outcomes.cost).score)
    return np.concatenate(scores)


if __name__ == "__main__":
    main()
