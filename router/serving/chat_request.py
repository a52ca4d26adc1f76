"""A chat completion request: what is routed, what is passed on, what it asks of the router."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from router.errors import RouterError

HEADERS = {
    "budget": "x-router-budget",
    "quality_floor": "x-router-quality-floor",
    "candidates": "x-router-candidates",
    "session": "x-router-session",
    "seed": "x-router-seed",
    "user": "x-router-user",
}


def _name(text: str) -> str:
    """As a decision log takes it: without blanks around it."""
    if not text.strip():
        raise ValueError("give some text")
    return text.strip()


Name = Annotated[str, Field(max_length=1000), AfterValidator(_name)]
Json = dict[str, JsonValue]


class RoutingOptions(BaseModel):
    """What a request asks of the router: in its body as `router`, or in headers `x-router-*`.

    budget: USD that this one answer may be predicted to cost.
    quality_floor: predicted score below which no candidate is chosen, if any reaches it.
    candidates: those that may answer; in the header with commas between.
    session: names the conversation, which keeps its candidate.
    seed: what a policy's draw depends on, beside the prompt; drawn anew for each request if absent.
    user: whoever asks, for the decision log; the request's own `user` if absent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    budget: float | None = Field(default=None, gt=0)
    quality_floor: float | None = Field(default=None, ge=0, le=1)
    candidates: list[Name] | None = Field(default=None, min_length=1, max_length=1000)
    session: Name | None = None
    seed: Annotated[str, Field(max_length=1000)] | None = None
    user: Name | None = None

    def with_headers(self, headers: Mapping[str, str]) -> RoutingOptions:
        """These, and of the headers what these do not tell.

        Raises pydantic's ValidationError where a header holds no such value."""
        given: dict[str, Any] = {
            name: headers[header] for name, header in HEADERS.items() if header in headers
        }
        if "candidates" in given:
            given["candidates"] = [name.strip() for name in given["candidates"].split(",")]
        return RoutingOptions.model_validate({**given, **self.model_dump(exclude_none=True)})


class _Open(BaseModel):
    """Keeps what it does not know: the upstream may."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)


class ContentPart(_Open):
    """A part of a message: a text, a picture, a sound, a film, a file, a refusal. What it is stands
    in the field of that name."""

    type: Literal["text", "image_url", "input_audio", "video_url", "file", "refusal"]
    text: str | None = None
    image_url: str | Json | None = None
    input_audio: Json | None = None
    video_url: str | Json | None = None
    file: Json | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _holds_what_it_is(self) -> Self:
        if getattr(self, self.type) is None:
            raise ValueError(f"a part of type {self.type} needs the field {self.type}")
        return self


class Message(_Open):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    tool_calls: list[Json] | None = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> Self:
        if self.content is None and self.role not in ("assistant", "function"):
            raise ValueError(f"a message of role {self.role} needs content")
        parts = self.content if isinstance(self.content, list) else []
        if self.role != "assistant" and any(part.type == "refusal" for part in parts):
            raise ValueError("only the assistant refuses")
        return self

    @property
    def text(self) -> str:
        """Its text; pictures and sounds have none."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or () if part.text)


class StreamOptions(_Open):
    """include_usage: whether a last chunk shall tell the tokens."""

    include_usage: bool = False


class ChatRequest(_Open):
    """The body of `POST /v1/chat/completions`, as OpenAI's documentation has it, with `router`.

    Fields beyond these are refused, save those that the service was told to pass on.
    """

    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1)
    router: RoutingOptions | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = Field(default=None, ge=1, le=128)
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0)
    seed: int | None = None
    user: str | None = None
    tools: list[Json] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Json] | None = None
    function_call: str | Json | None = None
    response_format: Json | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: list[str] | None = None
    audio: Json | None = None
    prediction: Json | None = None
    service_tier: str | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    web_search_options: Json | None = None

    @model_validator(mode="after")
    def _is_text(self) -> Self:
        """Half a character cannot be sent on; JSON can hold one."""
        try:
            json.dumps(self.model_dump(exclude_unset=True), ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half a character (a lone surrogate) is no text") from None
        return self

    def prompt(self, rule: Literal["last_user", "conversation"]) -> str:
        """The text that is routed; raises RouterError where there is none.

        last_user: of the last message of the user. conversation: of all messages, in order, with an
        empty line between. What a tool call holds, and pictures, are left out.
        """
        if rule == "conversation":
            text = "\n\n".join(message.text for message in self.messages if message.text)
        else:
            asked = [message for message in self.messages if message.role == "user"]
            text = asked[-1].text if asked else ""
        if not text.strip():
            raise RouterError(
                "The messages hold no text of a user to route by; add some, or name a candidate "
                "as the model."
            )
        return text

    def parameters(self, extra: Sequence[str]) -> dict[str, Any]:
        """What is passed on, by the names of LiteLLM's arguments; raises RouterError where it
        holds a name beyond OpenAI's that is none of `extra`.

        Only known names become arguments: LiteLLM reads addresses, keys and more from others.
        """
        beyond = self.__pydantic_extra__
        unknown = sorted(set(beyond) - set(extra))
        if unknown:
            raise RouterError(f"The field {unknown[0]!r} is unknown here; leave it out.")
        told = self.model_dump(exclude_unset=True, exclude_none=True, exclude={"model", "router"})
        known = {name: value for name, value in told.items() if name not in beyond}
        # As they came: a null within a message may mean something.
        known["messages"] = [message.model_dump(exclude_unset=True) for message in self.messages]
        return {**known, "extra_body": dict(beyond)} if beyond else known
