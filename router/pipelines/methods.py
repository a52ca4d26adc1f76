"""`router methods`: the published methods that a preset of conf/method/ composes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from rich.table import Table

from router.pipelines.console import console
from router.pipelines.options import config_folder

FAMILIES = (
    "similarity",
    "partition",
    "per candidate",
    "low rank",
    "pairwise",
    "direct",
    "online",
    "meta",
    "cascade",
)


@dataclass(frozen=True)
class Method:
    """A preset: `router train method=<name>`.

    estimator, policy, judge: options of these groups; a router has no judge. lite: a paper that
        fine-tunes its encoder, on a frozen one. simplified: what else differs from the paper.
    """

    name: str
    system: str
    paper: str
    family: str
    estimator: str
    policy: str
    simplified: str
    judge: str | None = None

    @property
    def parts(self) -> list[str]:
        """Estimator, judge where there is one, and policy."""
        return [part for part in (self.estimator, self.judge, self.policy) if part is not None]

    @property
    def lite(self) -> bool:
        return self.name.endswith("-lite")


def methods() -> list[Method]:
    """Every preset, by family and name."""
    files = sorted((config_folder() / "method").glob("*.yaml"))
    found = [_read(OmegaConf.to_container(OmegaConf.load(file))) for file in files]
    return sorted(found, key=lambda method: (FAMILIES.index(method.family), method.name))


def _read(content: Any) -> Method:
    chosen = {group: option for entry in content["defaults"] for group, option in entry.items()}
    return Method(
        estimator=chosen["override /estimator"],
        policy=chosen["override /policy"],
        judge=chosen.get("override /judge"),
        **content["method"],
    )


def show_methods(arguments: list[str]) -> None:
    """Print the presets as a table, or as Markdown with --markdown."""
    parser = argparse.ArgumentParser(
        prog="router methods", description="Published methods; train one with method=NAME."
    )
    parser.add_argument("--markdown", action="store_true", help="the table of docs/methods.md")
    if parser.parse_args(arguments).markdown:
        console.print(markdown(methods()), end="")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("method", "family", "estimator, judge", "policy", "paper"):
        table.add_column(heading, no_wrap=True)
    for method in methods():
        table.add_row(
            method.name,
            method.family,
            ", ".join(method.parts[:-1]),
            method.policy,
            method.paper,
        )
    console.print(table)
    console.print("\nTrain one:  router train method=NAME")
    console.print("-lite: on a frozen encoder, where the paper tunes it; more in docs/methods.md")


def markdown(rows: Sequence[Method]) -> str:
    """The table of docs/methods.md."""
    lines = [
        "| `method=` | system, paper | family | estimator (x judge) x policy | simplified |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{row.name}` | {row.system}, {row.paper} | {row.family} "
        f"| {' x '.join(f'`{part}`' for part in row.parts)} | {row.simplified} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
