"""What went wrong with an upstream, by what can be done about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from router.serving.upstream_settings import FailureKind

MOST_SHOWN = 500  # characters of an upstream's own words


class UpstreamFailure(Exception):
    """An upstream gave no answer.

    kind: of failure; "request" where the upstream finds the request itself faulty.
    retries: further tries that failed too. status: of the upstream's last response, where it gave
    one. details: its own words on a faulty request: message, type, param, code. retry_after: when
    it may be asked again, in its own words. cause: the name of the exception behind it.
    """

    def __init__(
        self,
        kind: FailureKind | Literal["request"],
        retries: int = 0,
        status: int | None = None,
        details: dict[str, Any] | None = None,
        retry_after: str | None = None,
        cause: str = "none",
    ):
        super().__init__(kind)
        self.kind = kind
        self.retries = retries
        self.status = status
        self.details = details or {}
        self.retry_after = retry_after
        self.cause = cause


def failure_of(error: Exception, retries: int = 0, key: str | None = None) -> UpstreamFailure:
    """The failure that an exception of LiteLLM's stands for.

    Its own kinds of exception do not tell: a 401 may come as a faulty request. The status does, and
    so does what caused the exception.

    key: what must not be shown.
    """
    if isinstance(error, UpstreamFailure):
        error.retries = retries
        return error
    import httpx
    import litellm
    import openai

    causes = list(_causes(error))
    status = getattr(error, "status_code", None)
    status = status if isinstance(status, int) else None
    kind: FailureKind | Literal["request"] = "server_error"
    details: dict[str, Any] = {}
    silent = (TimeoutError, httpx.TimeoutException, openai.APITimeoutError)
    if status == 408 or any(isinstance(cause, silent) for cause in causes):
        kind = "timeout"
    elif status == 429:
        kind = "rate_limit"
    elif status in (401, 403, 404):
        kind = "denied"
    elif status is not None and 400 <= status < 500:
        kind, details = "request", _details(causes, key)
        if isinstance(error, litellm.UnsupportedParamsError):  # told before anybody was asked
            details = {"message": str(error).partition(" To drop these")[0][:MOST_SHOWN]}
    elif any(isinstance(cause, openai.APIConnectionError) for cause in causes):
        kind = "connection"
    cause = type(causes[-1]).__name__
    return UpstreamFailure(kind, retries, status, details, _retry_after(causes), cause)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception, what it was raised from or during, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _details(causes: list[BaseException], key: str | None) -> dict[str, Any]:
    """What the upstream itself said; nothing of LiteLLM's words, which quote the request."""
    for cause in causes:
        body = getattr(cause, "body", None)
        if isinstance(body, dict) and isinstance(body.get("message"), str):
            message = body["message"].replace(key, "***") if key else body["message"]
            told = {name: body.get(name) for name in ("type", "param", "code")}
            texts = {name: value for name, value in told.items() if isinstance(value, str)}
            return {"message": message[:MOST_SHOWN], **texts}
    return {}


def _retry_after(causes: list[BaseException]) -> str | None:
    for cause in causes:
        headers = getattr(getattr(cause, "response", None), "headers", None) or {}
        value = headers.get("retry-after")
        if isinstance(value, str) and value.isdecimal():
            return value
    return None
