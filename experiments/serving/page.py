"""The page of the serving study: each script writes its own part of it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

PAGE = Path(__file__).with_name("README.md")


def table(titles: list[str], rows: list[list[str]]) -> str:
    """As Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def written(script: str, text: str) -> None:
    """Put the text between the script's two marks, in place of what is there."""
    page = PAGE.read_text(encoding="utf-8")
    opening, closing = f"<!-- {script} -->", f"<!-- /{script} -->"
    before, found, rest = page.partition(opening)
    _, ended, after = rest.partition(closing)
    if not found or not ended:
        raise SystemExit(f"{PAGE}: the marks {opening} and {closing} are missing; put them back.")
    PAGE.write_text(f"{before}{opening}\n{text}\n{closing}{after}", encoding="utf-8")


def milliseconds(taken: np.ndarray, percentile: int) -> str:
    """A percentile with three digits that count."""
    value = float(np.percentile(taken, percentile))
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def microseconds(taken: np.ndarray, percentile: int) -> str:
    """A percentile of microseconds."""
    value = float(np.percentile(taken, percentile))
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def say(text: str) -> None:
    """How far it is."""
    print(text, file=sys.stderr, flush=True)
