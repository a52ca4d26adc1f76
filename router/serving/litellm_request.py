"""What a request to LiteLLM's proxy asks, and what it asks of the router."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from router.errors import RouterError
from router.serving.chat_request import RoutingOptions

# The field with the text of each kind of call that can be routed, by LiteLLM's name of the kind.
TEXT_FIELDS = {
    "acompletion": "messages",
    "anthropic_messages": "messages",
    "aresponses": "input",
    "atext_completion": "prompt",
}


def binds(options: RoutingOptions) -> bool:
    """Whether they ask for a promise: then no other candidate may stand in."""
    promises = (options.budget, options.quality_floor, options.candidates)
    return any(promise is not None for promise in promises)


def options_of(data: dict[str, Any]) -> RoutingOptions:
    """`metadata.router` of a request's body, which it leaves: no upstream knows it.

    Raises RouterError where they are no such options.
    """
    metadata = data.get("metadata")
    given = metadata.pop("router", None) if isinstance(metadata, dict) else None
    try:
        return RoutingOptions() if given is None else RoutingOptions.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("metadata", "router", *first["loc"])))
        raise RouterError(f"{place}: {first['msg']}.") from None


def prompt_of(data: dict[str, Any], kind: str) -> str:
    """What the user asked last, as text: of a conversation the last message of the user.

    Raises RouterError where the request holds no text.
    """
    content = data.get(TEXT_FIELDS[kind])
    if isinstance(content, list) and any(_is_message(part) for part in content):
        asked = [part for part in content if _is_message(part) and part.get("role") == "user"]
        content = asked[-1].get("content") if asked else None
    text = _text_of(content)
    if not text.strip():
        raise RouterError("The request holds no text of a user.")
    return text


def _is_message(part: Any) -> bool:
    return isinstance(part, dict) and "role" in part


def _text_of(content: Any) -> str:
    """Of a text or of a list of parts, whose pictures and sounds are left out."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "\n".join(text for text in texts if isinstance(text, str))
