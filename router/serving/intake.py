"""What is let in: so many requests at a time, and bodies that are JSON, small and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.serving.faults import busy, fault
from router.serving.settings import LimitSettings

CLOSE = {"connection": "close"}  # the rest of the body, which nobody reads, ends with it


class _Refused(Exception):
    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Intake:
    """Reads the whole body before anything else looks at the request.

    paths: those that take one.
    """

    def __init__(
        self,
        app: ASGIApp,
        paths: Collection[str],
        limits: LimitSettings,
        retry_after_seconds: int,
    ):
        self._app = app
        self._paths = paths
        self._limits = limits
        self._retry_after_seconds = retry_after_seconds
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        takes_body = scope["type"] == "http" and scope["path"] in self._paths
        if not takes_body or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        if self._inside >= self._limits.requests:
            refusal = busy(self._retry_after_seconds)
            refusal.headers.update(CLOSE)
            return await refusal(scope, receive, send)
        self._inside += 1
        try:
            await self._with_body(scope, receive, send)
        finally:
            self._inside -= 1
        return None

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._body(Headers(scope=scope), receive)
        except _Refused as refusal:
            return await fault(refusal.status, str(refusal), CLOSE)(scope, receive, send)
        if body is None:
            return None
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return whole.pop() if whole else await receive()

        return await self._app(scope, again, send)

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """All of it; None where the caller has gone."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise _Refused(415, "Send JSON, with Content-Type: application/json.")
        most = self._limits.body_bytes
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > most:
            raise _Refused(413, f"The body has more than {most} bytes.")
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise _Refused(413, f"The body has more than {most} bytes.")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            seconds = self._limits.body_seconds
            raise _Refused(408, f"The body was not there after {seconds:g} s.") from None
