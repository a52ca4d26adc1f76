"""A decision on record: JSON that carries the hash of its own content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from router.errors import RouterError
from router.json_record import content_hash, text_of


def write_signed(path: Path, content: dict[str, Any]) -> None:
    """Write the content and its SHA-256. What does not exist (NaN, infinity) is null."""
    record = {**content, "sha256": content_hash(content)}
    path.write_text(text_of(record), encoding="utf-8")


def read_signed(path: Path) -> dict[str, Any]:
    """The content of a record that is as it was written.

    The hash shows a damaged or edited file. It is no proof against a forger, who can compute it
    too: keep the hash, or the record in MLflow, where only those who may sign can write.

    Raises RouterError where the file cannot be read or its content was changed.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RouterError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError:
        raise RouterError(f"{path}: no JSON; give a record that was written whole.") from None
    if not isinstance(record, dict) or record.get("sha256") != content_hash(record):
        raise RouterError(
            f"{path}: changed after it was signed (its checksum differs); run the gate again."
        )
    return record
