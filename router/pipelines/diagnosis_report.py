"""A diagnosis on the terminal and as a page."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from router.pipelines.console import console
from router.pipelines.diagnosis_sections import sections
from router.routability.diagnosis import Diagnosis

STYLES = {
    "worth training": "bold green",
    "little to gain": "bold red",
    "cannot tell": "bold yellow",
}
WIDEST = 26  # characters of a cell on the terminal; the page has them whole


def print_report(found: Diagnosis) -> None:
    """The answer first, then its reasons."""
    verdict = found.verdict
    decision = Text(verdict.decision, style=STYLES[verdict.decision])
    console.print(
        Text.assemble("Anything to route here?  ", decision, f": {verdict.sentence}"), style=None
    )
    for section in sections(found):
        console.print()
        console.print(Text(section.title, style="bold"))
        for sentence in section.sentences:
            console.print(sentence)
        if section.rows:
            table = Table(box=None, header_style="bold", pad_edge=False)
            for i, header in enumerate(section.headers):
                table.add_column(header, justify="right" if i else "left", no_wrap=True)
            for row in section.rows:
                table.add_row(*map(_short, row))
            console.print(table)


def markdown(found: Diagnosis, name: str, picture: str | None) -> str:
    """The same as a page. picture: its file name, if there is one."""
    verdict = found.verdict
    lines = [f"# Is there anything to route in {_cell(name)}?", ""]
    lines += [f"**{verdict.decision}**: {verdict.sentence}", ""]
    lines += [f"![levels and learning curve]({picture})", ""] if picture else []
    for section in sections(found):
        lines += [f"## {section.title}", "", *(f"{text}  " for text in section.sentences), ""]
        if section.rows:
            lines.append("| " + " | ".join(section.headers) + " |")
            lines.append("|---|" + "---:|" * (len(section.headers) - 1))
            lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in section.rows]
            lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
