"""JSON that others can rely on: no NaN, and a hash of the content (standard library only)."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any


def text_of(record: dict[str, Any]) -> str:
    """The record as a JSON file. JSON knows neither infinity nor NaN: null says that a figure does
    not exist."""
    return json.dumps(_finite(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def content_hash(record: dict[str, Any]) -> str:
    """SHA-256 of everything but the entry "sha256", whatever the order of keys and the blanks."""
    content = {key: value for key, value in record.items() if key != "sha256"}
    canonical = json.dumps(
        _finite(content), sort_keys=True, ensure_ascii=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
