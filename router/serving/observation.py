"""What is seen of every request: its name, how long it took, how it ended; never what it said."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.serving.faults import fault
from router.serving.metrics import Metrics

DECISION = "x-router-request-id"  # of a routed request: names its decision
REQUEST = "x-request-id"  # of every answer

logger = logging.getLogger("router.requests")


@dataclass
class _Seen:
    """status: 0 until the answer begins."""

    status: int = 0
    name: str = field(default_factory=lambda: uuid4().hex)


class Observation:
    """Counts, times and names each request, and turns what nobody caught into a 500.

    paths: those that are served; any other is one to the metrics and the log, which a caller could
    else fill with what he likes.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str], log: bool):
        self._app = app
        self._metrics = metrics
        self._paths = paths
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began = time.perf_counter()
        seen = _Seen()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                seen.status, seen.name = message["status"], headers.get(DECISION, seen.name)
                headers[REQUEST] = seen.name
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, sending)
        except Exception:
            # Its words may hold a prompt: the log tells its kind and its place alone.
            logger.error("Request %s failed.", seen.name, exc_info=True)
            if not seen.status:
                message = f"Something went wrong; the log tells more of request {seen.name}."
                await fault(500, message)(scope, receive, sending)
        finally:
            self._metrics.in_flight.dec()
            self._tell(scope, seen, time.perf_counter() - began)
        return None

    def _tell(self, scope: Scope, seen: _Seen, seconds: float) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        self._metrics.requests.labels(path, str(seen.status)).inc()
        self._metrics.request_seconds.labels(path).observe(seconds)
        if self._log:
            told = {
                "method": scope["method"],
                "path": path,
                "status": seen.status,  # 0: the caller went away first
                "milliseconds": round(1000 * seconds, 2),
                "request_id": seen.name,
            }
            logger.info(" ".join(map(str, told.values())), extra={"fields": told})
