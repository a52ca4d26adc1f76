"""Does the guard keep the default router from being worse than the best single model?

Five folds over each table's train side (over all of it where it has none): the head is fitted and
the policy tuned on four, by out-of-fold predictions as `router train` does, and judged on the
fifth. The best single model is chosen on the four too. Intervals are paired, 95 %, over prompts.

    python experiments/guard/study.py [--encoder NAME] [--holdout] [--no-default] [TABLE ...]

--holdout judges on the tables' test sides instead, where they have one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from router.encoding.cache import encode_cached
from router.estimators.head import Head, cross_predict
from router.evaluation.bootstrap import Bootstrap, Interval
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.paretobandit import ParetoBanditData
from router.outcomes.splits import ColumnSplit, grouped_folds
from router.outcomes.table import TableData
from router.pipelines.options import config_folder
from router.pipelines.parts import build
from router.policies import Budget, Guarded, Policy, Utility
from router.prediction import Prediction

POLICIES: dict[str, Policy] = {
    "best predicted": Utility(),
    "budget": Budget(),
    "guarded": Guarded(),
    "guarded, width=0": Guarded(width=0.0),
    "guarded, confidence=0.5": Guarded(confidence=0.5),
}
FOLDS = 5
# The tables that are not this project's have no costs. To see how the guard treats costs, one
# answer is assumed to cost in proportion to the prices per token of RouteLLM's paper (arXiv
# 2406.18665), and to the billions of parameters on llmrouter_nine.
ASSUMED = {
    "gpt-4-1106-preview": 24.7,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": 0.24,
    "codegemma-7b": 7,
    "gemma-2-9b-it": 9,
    "llama-3.1-8b-instruct": 8,
    "llama-3.1-nemotron-51b-instruct": 51,
    "llama-3.3-nemotron-super-49b-v1": 49,
    "llama3-chatqa-1.5-70b": 70,
    "llama3-chatqa-1.5-8b": 8,
    "mistral-7b-instruct-v0.3": 7,
    "qwen2.5-7b-instruct": 7,
}


@dataclass(frozen=True, eq=False)
class Fold:
    """What tunes and what judges, both with predictions from other queries."""

    tuning: OutcomeMatrix
    tuning_prediction: Prediction
    judging: OutcomeMatrix
    judging_prediction: Prediction

    def with_costs(self, cost: np.ndarray) -> Fold:
        """The same fold where each answer of a candidate costs the same, which is known."""

        def spread(outcomes: OutcomeMatrix) -> np.ndarray:
            return np.tile(cost, (len(outcomes), 1))

        return Fold(
            replace(self.tuning, cost=spread(self.tuning)),
            replace(self.tuning_prediction, cost=spread(self.tuning)),
            replace(self.judging, cost=spread(self.judging)),
            replace(self.judging_prediction, cost=spread(self.judging)),
        )


def folds_of(outcomes: OutcomeMatrix, encoder: str, holdout: bool) -> Iterator[Fold]:
    """The table's folds, of which the holdout is one, with predictions of the default head."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", [f"encoder={encoder}"])
    head = Head(build(config.estimator, "estimator"), build(config.cost, "cost"))
    has_test = {"train", "test"} <= set(outcomes.queries.get("split", ()))
    if holdout:
        split = ColumnSplit()(outcomes)
        sides = [(split.train, split.test)]
    else:
        rows = ColumnSplit()(outcomes).train if has_test else np.arange(len(outcomes))
        pairs = grouped_folds(outcomes.groups[rows], FOLDS)
        sides = [(rows[tuning], rows[judging]) for tuning, judging in pairs]
    vectors = encode_cached(build(config.encoder, "encoder"), outcomes.prompts)
    for tuning, judging in sides:
        side = outcomes.take(tuning)
        out_of_fold = cross_predict(head, vectors[tuning], side, FOLDS)
        predicted = head.fit(vectors[tuning], side).predict(vectors[judging])
        yield Fold(side, out_of_fold, outcomes.take(judging), predicted)


def judged(policy: Policy, folds: list[Fold]) -> list[str]:
    """Figures against the best single model: gain in mean score, cost as a share of its cost, and
    how often the policy answers with another candidate."""
    gains, spent, single, leaves, groups = [], [], [], [], []
    for fold in folds:
        tuned = policy.tune(fold.tuning_prediction, fold.tuning)
        best = int(fold.tuning.mean_scores().argmax())
        found = tuned.expected(fold.judging_prediction, fold.judging.scores, fold.judging.cost)
        gains.append(found.score - fold.judging.scores[:, best])
        leaves.append(1 - tuned.probabilities(fold.judging_prediction)[:, best])
        groups.append(fold.judging.groups)
        if fold.judging.cost is not None and found.cost is not None:
            spent.append(found.cost)
            single.append(fold.judging.cost[:, best])
    bootstrap = Bootstrap(np.concatenate(groups))
    figures = [shown(bootstrap.mean(np.concatenate(gains)), "+.4f"), ""]
    if spent:
        pair = np.column_stack([np.concatenate(spent), np.concatenate(single)])
        value, resampled = pair.mean(axis=0), bootstrap.means(pair)
        share = bootstrap.interval(value[0] / value[1], resampled[:, 0] / resampled[:, 1])
        figures[1] = shown(share, ".1%")
    worst = min(float(gain.mean()) for gain in gains)
    return [*figures, f"{np.concatenate(leaves).mean():.1%}", f"{worst:+.4f}"]


def shown(found: Interval, form: str) -> str:
    """A figure and its interval in Python's number format."""
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tables", nargs="*", type=Path)
    parser.add_argument("--encoder", default="minilm_features")
    parser.add_argument("--holdout", action="store_true")
    parser.add_argument("--no-default", action="store_true")
    given = parser.parse_args()
    tables = {} if given.no_default else {"default data set": ParetoBanditData().load()}
    tables |= {path.stem: TableData(path).load() for path in given.tables}
    header = ["table", "policy", "quality gain", "share of the cost", "leaves it", "worst fold"]
    print("|".join(["", *header, ""]))
    print("|".join(["", *["---"] * len(header), ""]))
    for name, outcomes in tables.items():
        print(name, file=sys.stderr, flush=True)
        folds = list(folds_of(outcomes, given.encoder, given.holdout))
        kinds = {name: folds}
        if outcomes.cost is None:
            cost = np.array([ASSUMED[candidate] for candidate in outcomes.candidates])
            kinds[f"{name}, costs assumed"] = [fold.with_costs(cost) for fold in folds]
        for title, parts in kinds.items():
            for policy_name, policy in POLICIES.items():
                print("|".join(["", title, policy_name, *judged(policy, parts), ""]), flush=True)


if __name__ == "__main__":
    main()
