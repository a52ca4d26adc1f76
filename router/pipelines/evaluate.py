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
from router.pipelines.train import query_hash, write_results
from router.pipelines.values import share, whole_number

log = logging.getLogger(__name__)


def evaluate_artifact(config: DictConfig) -> float:
    """Judge the artifact on the test side of the data; returns its mean quality there."""
    if config.artifact is None:
        raise RouterError("An artifact is needed: give artifact=FOLDER.")
    resamples = whole_number(config, "evaluation.resamples", least=2)
    margin = share(config, "evaluation.margin")
    router = Router(str(config.artifact))
    data, split_by = build(config.data, "data"), build(config.split, "split")
    outcomes = reordered(data.load(), router.candidates)
    print_outcomes(data.name, outcomes)
    test = outcomes.take(split_by(outcomes).test)
    warn_of_familiar_queries(outcomes, test, router)
    with run_folder(output_folder()) as folder:
        vectors = encode_cached(router, test.prompts, "Embedding test prompts as served")
        with console.status("Judging"):
            evaluation = evaluate(
                test,
                router.predict(vectors),
                router.policy,
                Baselines.from_dict(router.manifest["baselines"]),
                resamples,
                margin,
            )
        metrics = {
            "data": {
                "name": data.name,
                "sha256": outcomes.fingerprint,
                "test_queries": len(test),
                "test_sha256": query_hash(test),
            },
            **evaluation.metrics,
            "policy": router.policy.to_dict(),
        }
        write_results(folder, evaluation, metrics)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    print_comparison(metrics)
    console.print(f"Picture    {shown(output_folder()) / 'frontier.png'}")
    return float(metrics["router"]["quality"]["value"])


def reordered(outcomes: OutcomeMatrix, candidates: tuple[str, ...]) -> OutcomeMatrix:
    """The same candidates in the artifact's order; raises RouterError where they are others."""
    missing = [name for name in candidates if name not in outcomes.candidates]
    if missing:
        raise RouterError(
            f"The table has no outcome of {', '.join(missing)}, which the artifact may choose; "
            "log some, or train a router without."
        )
    extra = [name for name in outcomes.candidates if name not in candidates]
    if extra:
        raise RouterError(
            f"The artifact does not know {', '.join(extra)}; leave it out of the table with "
            f"data.candidates=[{','.join(candidates)}]."
        )
    return outcomes.select(candidates)


def warn_of_familiar_queries(outcomes: OutcomeMatrix, test: OutcomeMatrix, router: Router) -> None:
    """Say in the log where the router was trained on these outcomes and knows some of `test`."""
    trained_on = router.manifest["data"]
    if trained_on["sha256"] != outcomes.fingerprint:
        return
    if trained_on["test_sha256"] != query_hash(test):
        log.warning(
            "The router was trained on these outcomes, with another split: it knows some of the "
            "test queries and will look too good."
        )
