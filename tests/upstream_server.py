"""A local server that speaks OpenAI's chat completions, and fails in every way on demand."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn


@dataclass(frozen=True)
class Answers:
    """A good answer. usage: tokens told, or None. tool: name of a function that it calls instead.
    pause: seconds before it."""

    text: str = "Lima is the capital."
    usage: tuple[int, int] | None = (12, 5)
    tool: str | None = None
    pause: float = 0.0


@dataclass(frozen=True)
class Refuses:
    """An error response."""

    status: int
    message: str = "no"
    retry_after: str | None = None


@dataclass(frozen=True)
class Raw:
    """A body that is no answer."""

    body: bytes


@dataclass(frozen=True)
class Hangs:
    """Silence; in a stream after so many words, where 0 is the role alone."""

    words: int | None = None


@dataclass(frozen=True)
class Breaks:
    """The connection breaks in mid-stream, after so many words (0: the role alone)."""

    words: int = 2


Behaviour = Answers | Refuses | Raw | Hangs | Breaks


class _Broken(Exception):
    """Leaves a response half sent: the server then closes the connection."""


@dataclass
class Asked:
    """One request as it came. left: set once whoever asked went away from a hanging answer."""

    model: str
    body: dict[str, Any]
    headers: dict[str, str]
    left: threading.Event = field(default_factory=threading.Event)


class UpstreamServer:
    """script: of each model what it does: the requests take one behaviour after the other, and the
    last one for good; a model without a script answers. asked: the requests so far."""

    def __init__(self) -> None:
        self.script: dict[str, list[Behaviour]] = {}
        self.asked: list[Asked] = []
        self.url = ""

    @property
    def models(self) -> list[str]:
        """Of the requests so far, in order."""
        return [asked.model for asked in self.asked]

    def does(self, **script: Behaviour | list[Behaviour]) -> None:
        for model, behaviours in script.items():
            self.script[model] = behaviours if isinstance(behaviours, list) else [behaviours]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        request = json.loads(body)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        asked = Asked(request["model"], request, headers)
        self.asked.append(asked)
        behaviours = self.script.get(asked.model, [Answers()])
        behaviour = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]
        if isinstance(behaviour, Hangs) and behaviour.words is None:
            await _hang(asked, receive)
        elif isinstance(behaviour, Refuses):
            error = {"message": behaviour.message, "type": "made_up", "param": None, "code": None}
            extra = {"retry-after": behaviour.retry_after} if behaviour.retry_after else {}
            content = json.dumps({"error": error}).encode()
            await _respond(send, behaviour.status, content, **extra)
        elif isinstance(behaviour, Raw):
            await _respond(send, 200, behaviour.body)
        elif request.get("stream"):
            await _start(send, 200, {"content-type": "text/event-stream"})
            async for chunk in _chunks(behaviour, asked, receive):
                event = f"data: {chunk}\n\n".encode()
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        else:
            assert isinstance(behaviour, Answers)
            await asyncio.sleep(behaviour.pause)
            await _respond(send, 200, json.dumps(_whole(behaviour, asked)).encode())


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Run an ASGI app in a thread, on a free port of this machine; gives its address."""
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextmanager
def upstream_server() -> Iterator[UpstreamServer]:
    """A server that runs; its `url` ends with /v1."""
    server = UpstreamServer()
    with serving(server) as address:
        server.url = f"{address}/v1"
        yield server


def _named(model: str) -> str:
    """What the upstream calls the model in its answers."""
    return f"{model}-2026-01-01"


def _call(tool: str) -> dict[str, Any]:
    arguments = json.dumps({"city": "Lima"})
    return {
        "id": "call_1",
        "type": "function",
        "function": {"name": tool, "arguments": arguments},
    }


def _usage(usage: tuple[int, int]) -> dict[str, int]:
    read, written = usage
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _whole(behaviour: Answers, asked: Asked) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": behaviour.text}
    if behaviour.tool:
        message |= {"content": None, "tool_calls": [_call(behaviour.tool)]}
    answer: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_767_225_600,
        "model": _named(asked.model),
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": "tool_calls" if behaviour.tool else "stop",
            }
        ],
    }
    return answer | ({"usage": _usage(behaviour.usage)} if behaviour.usage else {})


async def _chunks(
    behaviour: Answers | Hangs | Breaks, asked: Asked, receive: Any
) -> AsyncIterator[str]:
    def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
        start = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_767_225_600}
        return json.dumps({**start, "model": _named(asked.model), "choices": choices, **more})

    def delta(content: dict[str, Any], finish: str | None = None) -> str:
        return chunk([{"index": 0, "delta": content, "finish_reason": finish}])

    yield delta({"role": "assistant", "content": ""})
    answer = behaviour if isinstance(behaviour, Answers) else Answers()
    await asyncio.sleep(answer.pause)
    if answer.tool:
        yield delta({"tool_calls": [{"index": 0, **_call(answer.tool)}]})
    else:
        words = answer.text.split(" ")
        for number, word in enumerate(words):
            if not isinstance(behaviour, Answers) and number == behaviour.words:
                if isinstance(behaviour, Breaks):
                    raise _Broken
                await _hang(asked, receive)
                return
            yield delta({"content": word if number == 0 else f" {word}"})
    yield delta({}, "tool_calls" if answer.tool else "stop")
    if (asked.body.get("stream_options") or {}).get("include_usage") and answer.usage:
        yield chunk([], usage=_usage(answer.usage))
    yield "[DONE]"


async def _hang(asked: Asked, receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    asked.left.set()


async def _start(send: Any, status: int, headers: dict[str, str]) -> None:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


async def _respond(send: Any, status: int, body: bytes, **headers: str) -> None:
    plain = {name.replace("_", "-"): value for name, value in headers.items()}
    await _start(send, status, {"content-type": "application/json", **plain})
    await send({"type": "http.response.body", "body": body})
