"""Files of a decision log as records, line by line; what a crash tore off is counted."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from router.errors import RouterError
from router.outcomes.log_records import DECISION, problem_of

log = logging.getLogger(__name__)

MOST_SENTENCES = 20


@dataclass(frozen=True)
class LogLines:
    """decisions, outcomes: sound records, in the order of files and lines.
    files: how many were read. torn: last lines that were never written whole. faulty: other lines
    that were left out.
    """

    decisions: list[dict[str, Any]]
    outcomes: list[dict[str, Any]]
    files: int
    torn: int
    faulty: int


def read_log(path: str | Path, faults: Literal["error", "drop"] = "error") -> LogLines:
    """The records of a folder's files *.jsonl, of one file, or of those that a pattern matches.

    faults: with "drop", faulty lines are left out and counted.

    Raises RouterError where there is no file, or that lists the faulty lines, a sentence each.
    """
    files = _files_of(path)
    decisions: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    sentences: list[str] = []
    torn = 0
    for file in files:
        try:
            lines = file.read_bytes().split(b"\n")  # prompts may hold other line separators
        except OSError as error:
            raise RouterError(f"{file}: cannot be read ({error.strerror}).") from None
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                problem = problem_of(record)
            except (ValueError, RecursionError):
                if number == len(lines):  # no line end behind it
                    torn += 1
                    continue
                problem = "is no JSON; write one record a line, in UTF-8"
            if problem:
                sentences.append(f"{file}: line {number} {problem}.")
            else:
                (decisions if record["kind"] == DECISION else outcomes).append(record)
    if sentences:
        told = "\n".join(sentences[:MOST_SENTENCES])
        if len(sentences) > MOST_SENTENCES:
            told += f"\n{len(sentences) - MOST_SENTENCES:,} more faulty lines."
        if faults == "error":
            raise RouterError(
                f"{told}\nCorrect the lines, or leave them out with data.faults=drop."
            )
        log.warning("%s\n%d faulty lines left out.", told, len(sentences))
    return LogLines(decisions, outcomes, len(files), torn, len(sentences))


def _files_of(path: str | Path) -> list[Path]:
    whole = Path(path)
    if whole.is_dir():
        files = sorted(whole.glob("*.jsonl"))
    elif whole.is_file():
        files = [whole]
    else:
        start = whole.anchor or "."
        files = sorted(Path(start).glob(str(whole.relative_to(start))))
    files = [file for file in files if file.is_file()]
    if not files:
        raise RouterError(
            f"{path}: no decision log here; give data.path= its folder with files *.jsonl, one of "
            "them, or a pattern."
        )
    return files
