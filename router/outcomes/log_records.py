"""A record of the decision log and what it must hold; the standard library alone, since the runtime
writes what the training side reads. data/README.md tells the fields."""

from __future__ import annotations

import datetime
import hashlib
import math
import sys
from collections.abc import Callable
from typing import Any

SCHEMA_VERSION = 1
DECISION, OUTCOME = "decision", "outcome"
AMOUNTS = ("cost_usd", "input_tokens", "output_tokens", "latency_s", "retries")
TOLD = ("score", *AMOUNTS, "task")  # what an outcome may tell, each once or in several records
ROUNDING = 1e-6  # of a sum of probabilities


def prompt_sha256(prompt: str) -> str:
    """Names a prompt: SHA-256 of its UTF-8 bytes, in hexadecimal.

    The two halves of a character that stand side by side are that character, as in JSON."""
    whole = prompt.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


def time_of(text: str) -> datetime.datetime:
    """The UTC time of an ISO 8601 text, in UTC where it names no zone; ValueError if it is none."""
    try:
        time = datetime.datetime.fromisoformat(text)
        zoned = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
        return zoned.astimezone(datetime.UTC)
    except OverflowError as error:
        raise ValueError(str(error)) from None


def problem_of(record: Any) -> str | None:
    """What keeps a record from being read, with the remedy; None where it is sound."""
    if not isinstance(record, dict):
        return "holds no JSON object; write one record a line"
    version = record.get("schema")
    if isinstance(version, bool) or not isinstance(version, int):
        return f"has no schema number; write schema {SCHEMA_VERSION}"
    if version > SCHEMA_VERSION:
        return (
            f"has schema {version}, newer than the {SCHEMA_VERSION} that this installation knows; "
            "update query-router"
        )
    kind = record.get("kind")
    fields = {DECISION: DECISION_FIELDS, OUTCOME: OUTCOME_FIELDS}.get(str(kind))
    if fields is None:
        return f"has kind {_shown(kind)}; give {DECISION} or {OUTCOME}"
    for name, (is_sound, wanted) in fields.items():
        if not is_sound(record.get(name)):
            return f"has {name} {_shown(record.get(name))}; give {wanted}"
    return _problem_of_decision(record) if kind == DECISION else _problem_of_outcome(record)


def _problem_of_decision(record: dict[str, Any]) -> str | None:
    if record.get("prompt") is None and record.get("query_sha256") is None:
        return "has neither prompt nor query_sha256; log one of them"
    probabilities = record["probabilities"]
    total = math.fsum(probabilities.values())
    if abs(total - 1) > ROUNDING:
        return f"has probabilities that sum to {total:g}; give those of all candidates, sum 1"
    if not probabilities.get(record["chosen"], 0) > 0:
        return f"has chosen {_shown(record['chosen'])}; give a candidate of probability above 0"
    eligible = record.get("candidates")
    barred = [name for name, p in probabilities.items() if p > 0 and name not in (eligible or [])]
    if eligible is not None and barred:
        return f"gives a probability to {_shown(barred[0])}; list it among candidates"
    return None


def _problem_of_outcome(record: dict[str, Any]) -> str | None:
    if all(record.get(name) is None for name in TOLD):
        return f"tells nothing; give one of {', '.join(TOLD)}"
    return None


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_name(value: Any) -> bool:
    """Text that every file can hold: without blanks around it and without half a character."""
    try:
        return _is_text(value) and value == value.strip() and bool(value.encode())
    except UnicodeEncodeError:
        return False


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_number(value: Any, most: float = sys.float_info.max) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value <= most


def _is_share(value: Any) -> bool:
    return _is_number(value, most=1)


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(time_of(value))
    except ValueError:
        return False


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_name, value))


def _are_shares(value: Any) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    return all(map(_is_name, value)) and all(map(_is_share, value.values()))


def _or_null(is_sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_sound(value)


_Check = tuple[Callable[[Any], bool], str]
_NAME: _Check = (_is_name, "text without blanks around it")
_NAME_OR_NULL: _Check = (_or_null(_is_name), "text without blanks around it, or null")
_TIME: _Check = (_is_time, "an ISO 8601 time")
DECISION_FIELDS: dict[str, _Check] = {
    "request_id": _NAME,
    "time": _TIME,
    "query_sha256": (_or_null(_is_hash), "64 hexadecimal digits, or null"),
    "prompt": (_or_null(_is_text), "the text that was asked, or null"),
    "session": _NAME_OR_NULL,
    "user": _NAME_OR_NULL,
    "candidates": (_or_null(_are_names), "a list of names, or null"),
    "probabilities": (_are_shares, "each candidate's, from 0 to 1"),
    "chosen": _NAME,
    "ask": (_or_null(_are_shares), "the weight of each candidate asked, from 0 to 1, or null"),
    "policy": _NAME_OR_NULL,
    "artifact": _NAME_OR_NULL,
}
OUTCOME_FIELDS: dict[str, _Check] = {
    "request_id": _NAME,
    "time": _TIME,
    "score": (_or_null(_is_share), "a number from 0 to 1, or null"),
    **{name: (_or_null(_is_number), "a finite number of at least 0, or null") for name in AMOUNTS},
    "task": _NAME_OR_NULL,
    "source": _NAME_OR_NULL,
}
