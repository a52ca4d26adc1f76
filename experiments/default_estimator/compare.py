"""Which estimator and encoder should `router train` use by default? Judged on train sides alone.

Each estimator below predicts each training query from folds that did not see it; the
test sides are never read. On the default data set the figure is the gain in AIQ over the hull of
the single models, on llmrouter_nine (no costs) the gain in mean score over the best single model,
each with a paired 95 % interval from a bootstrap over prompts.

    python experiments/default_estimator/compare.py [path of llmrouter_nine.parquet]
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from router.encoding.cache import encode_cached
from router.estimators.head import Head, cross_predict
from router.evaluation.bootstrap import Bootstrap, Interval
from router.evaluation.crossfit import aiq_gain
from router.evaluation.frontier import curve_of
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.paretobandit import ParetoBanditData
from router.outcomes.splits import ColumnSplit
from router.outcomes.table import TableData
from router.pipelines.options import config_folder
from router.pipelines.parts import build
from router.policies import Utility
from router.policies.base import cheapest_best
from router.prediction import Prediction

ESTIMATORS = (
    "marginal",
    "knn",
    "ridge",
    "logistic",
    "lightgbm",
    "partition",
    "bagged_partition",
    "average",
)
ENCODERS = {"": "minilm", " + features": "minilm_features"}
FOLDS = 5


def quality_gain(prediction: Prediction, outcomes: OutcomeMatrix) -> Interval:
    """Mean score of the best predicted candidate, less the best single model's."""
    rows = np.arange(len(outcomes))
    chosen = cheapest_best(prediction.quality, None)
    best = outcomes.mean_scores().argmax()
    return Bootstrap(outcomes.groups).mean(outcomes.scores[rows, chosen] - outcomes.scores[:, best])


def frontier_gain(prediction: Prediction, outcomes: OutcomeMatrix) -> Interval:
    """AIQ of the utility policy's frontier, less that of the single models' hull; cross-fitted."""
    assert outcomes.cost is not None
    curve = curve_of(Utility(), prediction, outcomes)
    return aiq_gain(
        curve.cost,
        curve.quality,
        outcomes.cost.T,
        outcomes.scores.T,
        Bootstrap(outcomes.groups),
        outcomes.groups,
    )


def composed(*overrides: str) -> DictConfig:
    """The configuration of `router train` with these overrides."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("train", list(overrides))


def main(nine: str | None) -> None:
    """Print the table as Markdown."""
    tables = {"default data set, AIQ gain": (ParetoBanditData().load(), frontier_gain)}
    if nine is not None:
        tables["llmrouter_nine, quality gain"] = (TableData(nine).load(), quality_gain)
    results: dict[str, dict[str, str]] = {}
    for title, (outcomes, judge) in tables.items():
        train = outcomes.take(ColumnSplit()(outcomes).train)
        for suffix, encoder in ENCODERS.items():
            part = build(composed(f"encoder={encoder}").encoder, "encoder")
            vectors = encode_cached(part, train.prompts)
            for name in ESTIMATORS:
                config = composed(f"estimator={name}")
                head = Head(build(config.estimator, "estimator"), build(config.cost, "cost"))
                found = judge(cross_predict(head, vectors, train, FOLDS), train)
                figure = f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
                results.setdefault(name + suffix, {})[title] = figure
                print(name + suffix, title, figure, file=sys.stderr, flush=True)
    table = pd.DataFrame.from_dict(results, orient="index")
    header = ["estimator", *table.columns]
    print("|".join(["", *header, ""]))
    print("|".join(["", *["---"] * len(header), ""]))
    for name, row in table.iterrows():
        print("|".join(["", str(name), *row, ""]))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
