"""What the service prints on standard error: plain lines, or one JSON object a line."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from types import TracebackType

from router.serving.settings import ConsoleSettings

QUIET = ("LiteLLM", "httpx", "uvicorn.error")  # from their errors upwards


def set_up(settings: ConsoleSettings) -> None:
    """Our own remarks; other houses' from their warnings upwards."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if settings.form == "json" else _Text())
    for name, level in [("", logging.WARNING), ("router", logging.INFO)]:
        one = logging.getLogger(name)
        one.handlers = [handler]
        one.setLevel(level)
    logging.getLogger("router").propagate = False
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)


class _Text(logging.Formatter):
    """Of an exception the kind and the way, not its words, which may hold a prompt."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        kind, _, trace = ei
        way = []
        while trace is not None:
            code = trace.tb_frame.f_code
            way.append(f"{code.co_filename}:{trace.tb_lineno}")
            trace = trace.tb_next
        return f"{'' if kind is None else kind.__name__} at {' > '.join(way[-5:])}"


class _Json(_Text):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        told = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told)
