"""Who may ask: bearer tokens, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from router.errors import RouterError
from router.serving.faults import fault
from router.serving.settings import AccessSettings

LEAST = 16  # characters of a token; a shorter one can be tried out
OPEN = ("/healthz", "/readyz")


def read_tokens(settings: AccessSettings) -> list[bytes]:
    """SHA-256 of every token; none where neither place is named.

    Raises RouterError where a named place cannot be read, holds none, or one is too short.
    """
    given = [
        *_of_file(settings),
        *_of_environment(settings),
    ]
    for place, token in given:
        if len(token) < LEAST or any(character.isspace() for character in token):
            raise RouterError(
                f"{place} holds a token of fewer than {LEAST} characters or with a blank in it; "
                "make one with: openssl rand -hex 32."
            )
    return [_digest(token.encode()) for _, token in given]


class Access:
    """Turns requests without a right token away (401). `scope["router.known"]` tells the app
    whether the caller is known; without any token everybody is.

    digests: of `read_tokens`.
    """

    def __init__(self, app: ASGIApp, digests: Sequence[bytes], open_metrics: bool):
        self._app = app
        self._digests = tuple(digests)
        self._open = {*OPEN, "/metrics"} if open_metrics else {*OPEN}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["router.known"] = not self._digests or self._is_known(scope)
            if not scope["router.known"] and scope["path"] not in self._open:
                message = "Give a right token: Authorization: Bearer TOKEN."
                denied = fault(401, message, {"www-authenticate": "Bearer"})
                await denied(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        kind, _, token = (given[0] if len(given) == 1 else b"").partition(b" ")
        digest = _digest(token.strip())
        # All are compared, whichever is right: the time tells nothing.
        right = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(right) and kind.lower() == b"bearer"


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _of_file(settings: AccessSettings) -> list[tuple[str, str]]:
    if settings.tokens_file is None:
        return []
    try:
        text = settings.tokens_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise RouterError(
            f"access.tokens_file: {settings.tokens_file} cannot be read ({reason})."
        ) from None
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise RouterError(
            f"access.tokens_file: {settings.tokens_file} holds no token; write one a line."
        )
    return [(f"access.tokens_file: {settings.tokens_file}", token) for token in found]


def _of_environment(settings: AccessSettings) -> list[tuple[str, str]]:
    if settings.tokens_env is None:
        return []
    found = os.environ.get(settings.tokens_env, "").split()
    if not found:
        raise RouterError(
            f"access.tokens_env names {settings.tokens_env}, in which the environment holds no "
            "token; set it, or leave access.tokens_env out."
        )
    return [(f"access.tokens_env: {settings.tokens_env}", token) for token in found]
