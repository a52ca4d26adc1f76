"""The quality bar on real data, and the README's own Python example."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from router.artifact.export import Description, check_parity, write_artifact
from router.encoding.cache import encode_cached
from router.estimators.head import Head, cross_predict
from router.evaluation.bootstrap import Bootstrap
from router.evaluation.evaluate import Evaluation, evaluate
from router.outcomes.paretobandit import ParetoBanditData
from router.outcomes.splits import AutoSplit
from router.outcomes.table import TableData
from router.pipelines.options import config_folder
from router.pipelines.parts import build
from router.pipelines.train import Parts, Settings, Trained, fit
from router.policies.base import cheapest_best

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config() -> DictConfig:
    """The configuration of a plain `router train`."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("train")


@pytest.fixture(scope="module")
def default_run(config: DictConfig) -> tuple[Trained, Evaluation]:
    """The default router on the default data set, judged on the holdout."""
    outcomes = ParetoBanditData().load()
    split = AutoSplit()(outcomes)
    parts = Parts.of(config)
    trained = fit(parts, Settings.of(config), outcomes, split)
    test = outcomes.take(split.test)
    prediction = trained.head.predict(encode_cached(parts.encoder, test.prompts))
    return trained, evaluate(test, prediction, trained.policy, trained.baselines, resamples=300)


def test_the_frontier_lies_above_the_hull_of_the_single_models(
    default_run: tuple[Trained, Evaluation],
) -> None:
    router = default_run[1].metrics["router"]
    assert router["aiq_single_models"]["value"] == pytest.approx(0.9253, abs=5e-5)
    assert router["aiq"]["value"] > 0.9253
    assert router["aiq_gain"]["low"] > 0


def test_the_default_router_pays_on_the_default_data(
    default_run: tuple[Trained, Evaluation],
) -> None:
    metrics = default_run[1].metrics
    assert metrics["verdict"]["decision"] == "pays"
    assert metrics["differences"]["relative_cost_vs_best_single"]["high"] < -0.1
    assert metrics["differences"]["quality_vs_best_single"]["low"] > 0


def test_the_artifact_decides_as_the_trained_router(
    default_run: tuple[Trained, Evaluation], config: DictConfig, tmp_path: Path
) -> None:
    trained, _ = default_run
    artifact = write_artifact(
        tmp_path,
        build(config.encoder, "encoder"),
        trained.head,
        trained.policy,
        trained.validation.candidates,
        Description(prices=None, data={}, baselines=trained.baselines.to_dict()),
    )
    prompts = trained.validation.prompts[:40]
    vectors = artifact.encode(prompts)
    parity = check_parity(
        artifact, trained.head, trained.policy, vectors, artifact.predict(vectors)
    )
    assert parity["decisions_equal"] == 40
    assert parity["largest_quality_difference"] < 1e-5


def test_the_default_estimator_beats_the_best_single_model_on_llmrouter_nine(
    config: DictConfig, shared_table: Callable[[str], Path]
) -> None:
    """Five folds over the train side: on its 500 test queries alone the interval holds zero."""
    outcomes = TableData(shared_table("llmrouter_nine")).load()
    train = outcomes.take(AutoSplit()(outcomes).train)
    vectors = encode_cached(build(config.encoder, "encoder"), train.prompts)
    head = Head(build(config.estimator, "estimator"), build(config.cost, "cost"))
    chosen = cheapest_best(cross_predict(head, vectors, train, 5).quality, None)
    best = train.mean_scores().argmax()
    gain = train.scores[np.arange(len(train)), chosen] - train.scores[:, best]
    assert Bootstrap(train.groups).mean(gain).low > 0.02


def test_the_python_example_of_the_readme_runs(
    default_run: tuple[Trained, Evaluation], capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    assert "quality" in capsys.readouterr().out
