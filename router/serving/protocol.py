"""HTTP as uvicorn speaks it, with limits on a request's head."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from router.serving.settings import LimitSettings


class LimitedProtocol(HttpToolsProtocol):
    """Closes a connection whose request's head is too long, or too long in coming: uvicorn would
    gather it without end. A faulty head is answered in the service's own form."""

    limits: LimitSettings

    def __init__(self, *given: Any, **named: Any):
        super().__init__(*given, **named)
        self._parsed = 0  # bytes of the head, and of what may follow the body
        self._unparsed = 0  # bytes that came before the head was whole
        self._head_ends: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type] # uvloop's are no Transport
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_awaiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_ends is not None:
            self._unparsed += len(data)  # of a line without an end, too
            self._require_short(self._unparsed)
        elif self.cycle is None or self.cycle.response_complete:
            self._await_head()  # blank lines between two requests, say, end no idle time

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._parsed = 0
        self._await_head()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._parsed += len(url)
        self._require_short(self._parsed)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._parsed += len(name) + len(value)
        self._require_short(self._parsed)

    def on_headers_complete(self) -> None:
        self._stop_awaiting()
        if not self.transport.is_closing():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.transport.is_closing():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self.transport.is_closing():
            return
        error = {"message": msg, "type": "invalid_request_error", "param": None, "code": None}
        body = json.dumps({"error": error}).encode()
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        lines = STATUS_LINE[400] + head.encode() + b"connection: close\r\n\r\n"
        self.transport.write(lines + body)
        self.transport.close()

    def _await_head(self) -> None:
        self._stop_awaiting()
        self._unparsed = 0
        self._head_ends = self.loop.call_later(self.limits.header_seconds, self.transport.close)

    def _stop_awaiting(self) -> None:
        if self._head_ends is not None:
            self._head_ends.cancel()
            self._head_ends = None

    def _require_short(self, size: int) -> None:
        most = self.limits.header_bytes
        if size > most:
            self.send_400_response(f"The request's head has more than {most} bytes.")


def protocol_of(limits: LimitSettings) -> type[LimitedProtocol]:
    """The protocol with these limits, as uvicorn takes a class."""
    return type("Protocol", (LimitedProtocol,), {"limits": limits})
