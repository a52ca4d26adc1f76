"""`router data`: check a table of outcomes and show what is in it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix
from router.pipelines.console import console, print_candidates, print_outcomes
from router.pipelines.parts import build
from router.staging import staged_file


def describe_data(config: DictConfig) -> None:
    """Read, check and summarise the outcomes; write the checked long table where `out` is given."""
    data = build(config.data, "data")
    outcomes: OutcomeMatrix = data.load()
    print_outcomes(data.name, outcomes)
    print_candidates(outcomes)
    split = build(config.split, "split")(outcomes)
    sides = {"train": split.train, "validation": split.validation, "test": split.test}
    sizes = [f"{side} {len(rows):,}" for side, rows in sides.items() if rows is not None]
    console.print(f"Split      {', '.join(sizes)} queries")
    if outcomes.tasks is not None:
        counts = outcomes.queries["task"].value_counts()
        largest = ", ".join(f"{task} {count:,}" for task, count in counts.head(5).items())
        console.print(f"Tasks      {len(counts)}: {largest}{' ...' if len(counts) > 5 else ''}")
    console.print(f"SHA-256    {outcomes.fingerprint}")
    if config.out is not None:
        out = Path(config.out)
        if out.suffix != ".parquet":
            raise RouterError(f"out={out}: the checked table is written as .parquet.")
        try:
            with staged_file(out) as staged:
                outcomes.to_table().to_parquet(staged, index=False)
        except OSError as error:
            raise RouterError(f"{out}: cannot be written ({error.strerror}).") from None
        console.print(f"Written    {out}")
