"""`router evaluate`: judge an exported artifact on a table of outcomes."""

from __future__ import annotations

import logging

from omegaconf import DictConfig, OmegaConf

from router.artifact.runtime import Router
from router.encoding.cache import encode_cached
from router.errors import RouterError
from router.evaluation.baselines import Baselines
from router.evaluation.evaluate import evaluate
from router.outcomes.matrix import OutcomeMatrix
from router.pipelines.console import console, print_comparison, print_outcomes
from router.pipelines.parts import build
from router.pipelines.run_folder import output_folder, run_folder, shown
from router.pipelines.train import write_results

log = logging.getLogger(__name__)


def evaluate_artifact(config: DictConfig) -> float:
    """Judge the artifact on the test side of the data; returns its mean quality there."""
    if config.artifact is None:
        raise RouterError("router evaluate needs an artifact: give artifact=FOLDER.")
    router = Router(config.artifact)
    data = build(config.data, "data")
    outcomes = _reordered(data.load(), router)
    print_outcomes(data.name, outcomes)
    split = build(config.split, "split")(outcomes)
    test = outcomes.take(split.test)
    trained_on = router.manifest["data"]
    if len(split.train) == 0 and trained_on["sha256"] == outcomes.fingerprint:
        log.warning("These are the outcomes that the router was trained on; it will look too good.")
    with run_folder(output_folder()) as folder:
        vectors = encode_cached(router, test.prompts, "Embedding test prompts as served")
        with console.status("Judging"):
            evaluation = evaluate(
                test,
                router.predict(vectors),
                router.policy,
                Baselines.from_dict(router.manifest["baselines"]),
                config.evaluation.resamples,
                config.evaluation.margin,
            )
        metrics = {
            "data": {
                "name": data.name,
                "sha256": outcomes.fingerprint,
                "test_queries": len(split.test),
            },
            **evaluation.metrics,
            "policy": router.policy.to_dict(),
        }
        write_results(folder, evaluation, metrics)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    print_comparison(metrics)
    console.print(f"Picture    {shown(output_folder()) / 'frontier.png'}")
    return float(metrics["router"]["quality"]["value"])


def _reordered(outcomes: OutcomeMatrix, router: Router) -> OutcomeMatrix:
    """The same candidates in the artifact's order."""
    if set(outcomes.candidates) != set(router.candidates):
        raise RouterError(
            f"The artifact chooses between {', '.join(router.candidates)}, the table holds "
            f"{', '.join(outcomes.candidates)}; name the artifact's with data.candidates=[...]."
        )
    return outcomes.select(router.candidates)
