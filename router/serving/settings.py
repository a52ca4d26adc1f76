"""The settings of the service (conf/serve.yaml): each with its bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from router.serving.live_settings import LiveSettings
from router.serving.upstream_settings import UpstreamSettings


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LogSettings(_Section):
    """The decision log (see `router.DecisionLog`).

    folder: several services may share it; None: nothing is logged, and outcomes are refused.
    keep: of a prompt: its SHA-256, or the text too.
    sync: an answer waits until its record is on the disk itself; records that wait together are
        written together. Without it a machine that goes down may lose the last seconds.
    max_bytes: size from which a new file is begun.
    required: what cannot be logged is not answered (503). Else it is answered, and counted.
    """

    folder: Path | None = Path("decisions")
    keep: Literal["hash", "text"] = "hash"
    sync: bool = True
    max_bytes: int = Field(default=64 * 2**20, ge=1, le=2**40)
    required: bool = True


class AccessSettings(_Section):
    """Who may ask. Without any token everybody may.

    tokens_file: file with one bearer token a line; blank lines and lines with # are left out.
    tokens_env: NAME of the environment variable that holds tokens with blanks between them.
    open_metrics: /metrics asks for no token, as /healthz and /readyz never do.
    """

    tokens_file: Path | None = None
    tokens_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    open_metrics: bool = False


class QueueSettings(_Section):
    """Back-pressure on routing, in each process.

    threads: routing calls that compute at one moment.
    waiting: prompts that wait for their turn; what is beyond them is turned away at once (429).
    retry_after_seconds: what such a caller is told.
    """

    threads: int = Field(default=2, ge=1, le=1_000)
    waiting: int = Field(default=200, ge=0, le=1_000_000)
    retry_after_seconds: int = Field(default=1, ge=1, le=3_600)


class LimitSettings(_Section):
    """What one request, and all of them together, may take in each process.

    requests: that are inside at one moment, conversations with upstreams too; more are 429.
    header_bytes: of a request's head. header_seconds: for it to arrive.
    body_bytes: of a request; more is 413. body_seconds: for it to arrive; more is 408.
    prompt_characters: of each prompt of /v1/route and its batches; more is 413.
    batch: prompts, or outcomes, in one request; more is 413.
    request_seconds: for a routing request or its outcomes, once the body is there; more is 503.
    keep_alive_seconds: that a connection may stand without a request.
    """

    requests: int = Field(default=1_000, ge=1, le=1_000_000)
    header_bytes: int = Field(default=32_768, ge=1_000, le=10_000_000)
    header_seconds: float = Field(default=10.0, gt=0, le=3_600)
    body_bytes: int = Field(default=2_000_000, ge=1_000, le=1_000_000_000)
    body_seconds: float = Field(default=10.0, gt=0, le=3_600)
    prompt_characters: int = Field(default=200_000, ge=1, le=100_000_000)
    batch: int = Field(default=256, ge=1, le=100_000)
    request_seconds: float = Field(default=10.0, gt=0, le=3_600)
    keep_alive_seconds: int = Field(default=30, ge=1, le=3_600)


class ConsoleSettings(_Section):
    """What is printed on standard error; never a prompt.

    form: plain lines, or one JSON object a line. requests: a line for each request.
    """

    form: Literal["text", "json"] = "text"
    requests: bool = False


class ServeSettings(_Section):
    """The service.

    host, port: where it listens; port 0: a free one, which it prints.
    workers: processes; each loads the artifact and has the limits for itself.
    docs: /openapi.json, and a page at /docs, whose scripts a browser fetches from elsewhere.
    shutdown_seconds: for requests in flight to end after SIGTERM.
    live: what is in service. upstreams: the OpenAI-compatible front; None: routing alone.
    """

    host: str = Field(default="127.0.0.1", min_length=1, max_length=255)
    port: int = Field(default=8080, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=256)
    docs: bool = True
    shutdown_seconds: int = Field(default=30, ge=1, le=3_600)
    live: LiveSettings
    upstreams: UpstreamSettings | None = None
    log: LogSettings = LogSettings()
    access: AccessSettings = AccessSettings()
    queue: QueueSettings = QueueSettings()
    limits: LimitSettings = LimitSettings()
    console: ConsoleSettings = ConsoleSettings()
