"""The upstreams behind the front: asked through LiteLLM, left in time, their failures named."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from router.errors import RouterError
from router.serving.upstream_failure import UpstreamFailure, failure_of
from router.serving.upstream_settings import Upstream, UpstreamSettings

RETRIED = {"rate_limit", "server_error", "connection"}
FIRST_PAUSE = 0.25  # seconds before the second try; twice as long before each further one
# Their own lines hold requests and answers at levels that an operator may well switch on.
TALKATIVE = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "openai", "httpx", "httpcore")


@dataclass(frozen=True)
class Usage:
    """Tokens as the upstream counted them. cost_usd: by LiteLLM's own prices; None where it knows
    none for the model."""

    input_tokens: int
    output_tokens: int
    cost_usd: float | None


@dataclass(frozen=True)
class Whole:
    """A whole answer. body: as OpenAI's documentation has it. retries: tries that failed before.
    usage: None where the upstream told none."""

    body: dict[str, Any]
    usage: Usage | None
    retries: int


class Streamed:
    """An answer that comes in chunks, the first of which is there: iterate once, then `close`.

    retries: tries that failed before. usage: once the last chunk came; None where the upstream told
    none. A chunk that tells the usage and nothing else is passed on where the caller asked for it.

    Iterating raises UpstreamFailure where the upstream fails in between.
    """

    def __init__(
        self, stream: Any, upstream: Upstream, until: float, wants_usage: bool, retries: int
    ):
        self.retries = retries
        self.usage: Usage | None = None
        self._stream = stream
        self._upstream = upstream
        self._until = until
        self._wants_usage = wants_usage
        self._opening: list[dict[str, Any]] = []

    async def open(self) -> None:
        """Wait for the first chunk that says something: a role alone is sent before any thinking,
        and an upstream may well fail after it."""
        while (chunk := await self._next()) is not None:
            self._opening.append(chunk)
            if any(_says_something(choice) for choice in chunk["choices"]):
                break
        if not self._stream.chunks:  # what is no stream ends for LiteLLM as if it were an empty one
            raise UpstreamFailure("server_error", cause="NoStream")

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        for chunk in self._opening:
            yield chunk
        loop = asyncio.get_running_loop()
        while True:
            silent = loop.time() + self._upstream.timeout_seconds
            try:
                async with asyncio.timeout_at(min(silent, self._until)):
                    following = await self._next()
            except Exception as error:
                raise failure_of(error) from None
            if following is None:
                return
            yield following

    async def close(self) -> None:
        """Let the upstream go, whether it has ended or not."""
        await self._stream.aclose()

    async def _next(self) -> dict[str, Any] | None:
        """The next chunk that the caller shall see; None at the end."""
        while (chunk := await anext(self._stream, None)) is not None:
            body = _openai_form(chunk)
            if "usage" not in body:
                return body
            # LiteLLM counts for itself where the upstream does not; only the latter is true.
            if any(getattr(seen, "usage", None) for seen in self._stream.chunks):
                self.usage = _usage_of(chunk.usage, self._upstream.model)
            body["choices"] = [choice for choice in body["choices"] if _says_something(choice)]
            if self.usage is None or not self._wants_usage:
                del body["usage"]
            if body["choices"] or "usage" in body:
                return body
        return None


class Upstreams:
    """All upstreams; for one event loop.

    Raises RouterError where the settings are at odds with themselves.
    """

    def __init__(self, settings: UpstreamSettings):
        self.settings = settings
        self.candidates: Mapping[str, Upstream] = settings.read_candidates()
        self._keys: dict[str, str | None] = {}

    def start(self) -> None:
        """Import LiteLLM, which takes seconds, and read the keys; raises RouterError where one is
        missing."""
        self._keys = {
            name: upstream.api_key(f"upstreams.candidates.{name}")
            for name, upstream in self.candidates.items()
        }
        _import_litellm()

    async def close(self) -> None:
        """Close every connection."""
        import litellm

        await litellm.close_litellm_async_clients()
        litellm.in_memory_llm_clients_cache.flush_cache()  # a closed client is no good to anybody

    async def ask(
        self, candidate: str, parameters: Mapping[str, Any], deadline: float
    ) -> Whole | Streamed:
        """One candidate's answer, or the beginning of its stream.

        parameters: of the request, by LiteLLM's names. deadline: time of the event loop.

        Raises UpstreamFailure once it failed too often.
        """
        upstream = self.candidates[candidate]
        loop = asyncio.get_running_loop()
        for retries in range(upstream.max_retries + 1):
            try:
                async with asyncio.timeout_at(
                    min(deadline, loop.time() + upstream.timeout_seconds)
                ):
                    return await self._try(candidate, parameters, retries)
            except Exception as error:
                failure = failure_of(error, retries, self._keys[candidate])
            pause = FIRST_PAUSE * 2**retries * random.uniform(0.5, 1.0)
            if (
                failure.kind not in RETRIED
                or retries == upstream.max_retries
                or loop.time() + pause >= deadline
            ):
                raise failure
            await asyncio.sleep(pause)
        raise AssertionError("unreachable: the last try returns or raises")

    async def _try(
        self, candidate: str, parameters: Mapping[str, Any], retries: int
    ) -> Whole | Streamed:
        import httpx
        import litellm

        upstream = self.candidates[candidate]
        arguments = dict(parameters)
        options = arguments.pop("stream_options", None) or {}
        wants_usage = bool(options.get("include_usage"))
        if arguments.get("stream") and (upstream.stream_usage or wants_usage):
            arguments["stream_options"] = {**options, "include_usage": True}
        response = await litellm.acompletion(
            **arguments,
            model=upstream.model,
            api_base=upstream.api_base,
            api_key=self._keys[candidate],
            extra_headers=dict(upstream.headers) or None,
            # One value for each upstream: LiteLLM keeps a client for every value that it sees.
            timeout=httpx.Timeout(upstream.timeout_seconds, connect=upstream.connect_seconds),
            max_retries=0,
            num_retries=0,
            drop_params=self.settings.drop_params,
            allowed_openai_params=list(upstream.known_parameters) or None,
        )
        if not arguments.get("stream"):
            body = _openai_form(response)
            usage = _usage_of(getattr(response, "usage", None), upstream.model)
            if usage is None:
                body.pop("usage", None)
            return Whole(body, usage, retries)
        until = asyncio.get_running_loop().time() + self.settings.stream_seconds
        streamed = Streamed(response, upstream, until, wants_usage, retries)
        try:
            await streamed.open()
        except BaseException:
            await streamed.close()
            raise
        return streamed


def _import_litellm() -> None:
    """Without a look into the network or a file of the working directory; silent and alone."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("LITELLM_MODE", "PRODUCTION")  # else it reads a .env file
    try:
        import litellm
    except ModuleNotFoundError as error:
        if error.name != "litellm":
            raise
        raise RouterError(
            "upstreams needs LiteLLM: pip install 'query-router[serve]', or leave upstreams out."
        ) from None
    litellm.telemetry = False  # of older versions; the newer ones have none
    litellm.suppress_debug_info = True
    litellm.set_verbose = False
    litellm.turn_off_message_logging = True
    litellm.redact_messages_in_exceptions = True
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _openai_form(response: Any) -> dict[str, Any]:
    """LiteLLM's answer or chunk as OpenAI's documentation has it."""
    body: dict[str, Any] = response.model_dump(exclude_none=True)
    body.setdefault("choices", [])
    for choice in body["choices"]:
        choice.pop("provider_specific_fields", None)
        choice.setdefault("finish_reason", None)
        said = choice.get("message") or choice.get("delta") or {}
        for name, value in said.pop("provider_specific_fields", {}).items():
            said.setdefault(name, value)  # refusal and the like
        if "message" in choice:
            said.setdefault("content", None)
    return body


def _says_something(choice: dict[str, Any]) -> bool:
    said = choice.get("delta") or {}
    return bool(choice.get("finish_reason")) or any(
        value for name, value in said.items() if name != "role"
    )


def _usage_of(usage: Any, model: str) -> Usage | None:
    """None where there are no tokens: LiteLLM writes zeros for what the upstream did not tell."""
    if usage is None or not (usage.prompt_tokens or usage.completion_tokens):
        return None
    import litellm

    try:
        cost = sum(litellm.cost_per_token(model=model, usage_object=usage))
    except Exception:  # it knows no price, and says so by kinds of its own
        cost = 0.0
    # Nothing is free: a price of zero is one that nobody entered.
    return Usage(usage.prompt_tokens, usage.completion_tokens, cost if cost > 0 else None)
