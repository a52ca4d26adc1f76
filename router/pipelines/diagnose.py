"""`router diagnose`: is there anything to route in a log, before anything is trained?"""

from __future__ import annotations

import time

from omegaconf import DictConfig, OmegaConf

from router.encoding.cache import encode_cached
from router.encoding.encoder import learns
from router.errors import RouterError
from router.estimators.head import Head
from router.json_record import text_of
from router.outcomes.matrix import OutcomeMatrix
from router.pipelines.console import console, print_outcomes
from router.pipelines.diagnosis_report import markdown, print_report
from router.pipelines.parts import build
from router.pipelines.run_folder import output_folder, run_folder, shown
from router.pipelines.values import share, whole_number
from router.routability.diagnosis import diagnose
from router.routability.plot import plot_routability

PICTURE = "diagnose.png"


def diagnose_log(config: DictConfig) -> str:
    """Print and write the report; returns the verdict's decision.

    Every query of the table is looked at, its test side too, but nothing is tuned on it.
    """
    started = time.monotonic()
    folds = whole_number(config, "folds", least=2)
    resamples = whole_number(config, "resamples", least=2)
    margin = share(config, "margin")
    encoder, data = build(config.encoder, "encoder"), build(config.data, "data")
    head = Head(build(config.estimator, "estimator"), build(config.cost, "cost"))
    if learns(encoder):
        raise RouterError(
            "encoder: this one learns from outcomes, so its vectors know the answers that "
            "diagnose asks for; choose another, as encoder=minilm."
        )
    outcomes: OutcomeMatrix = data.load()
    with run_folder(output_folder()) as folder:
        vectors = encode_cached(encoder, outcomes.prompts, "Embedding prompts")
        with console.status("Diagnosing"):
            found = diagnose(outcomes, vectors, head, folds, resamples, margin)
        picture = None
        if found.routability is not None:
            picture = PICTURE
            title = f"{data.name}: {found.verdict.decision}"
            plot_routability(found.routability, title, folder / picture)
        metrics = {
            "data": {"name": data.name, "sha256": outcomes.fingerprint},
            **found.to_dict(),
            "seconds": time.monotonic() - started,
        }
        (folder / "diagnose.json").write_text(text_of(metrics), encoding="utf-8")
        page = markdown(found, data.name, picture)
        (folder / "diagnose.md").write_text(page, encoding="utf-8")
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    print_report(found)
    console.print()
    print_outcomes(data.name, outcomes)
    console.print(f"Report     {shown(output_folder()) / 'diagnose.md'}")
    if picture is not None:
        console.print(f"Picture    {shown(output_folder()) / picture}")
    return found.verdict.decision
