"""The verb `router serve`: check everything, listen, serve until told to stop."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from router.errors import RouterError
from router.serving import console_log
from router.serving.access import read_tokens
from router.serving.plans import plan_key
from router.serving.settings import ServeSettings
from router.serving.supervisor import Supervisor

logger = logging.getLogger("router.serve")


def serve(config: DictConfig) -> None:
    """Serve until SIGTERM or Ctrl-C, then let what is in flight end. Ends with SystemExit where a
    worker did not end in peace.

    Raises RouterError where the configuration, a token, the port, the artifact, the log or an
    upstream is at fault.
    """
    settings = settings_of(config)
    console_log.set_up(settings.console)
    tokens = read_tokens(settings.access)
    plan_key()  # one for all workers
    with _listening(settings) as listener:
        if not tokens and not _is_loopback(settings.host):
            logger.warning(
                "Everybody who reaches %s may ask: give access.tokens_file or access.tokens_env.",
                settings.host,
            )
        address = _address(settings.host, listener.getsockname()[1])

        def on_ready() -> None:
            sys.stdout.write(f"Serving    {settings.live.artifact} on {address}\n")
            sys.stdout.flush()

        with tempfile.TemporaryDirectory(prefix="router-serve-") as metrics:
            code = asyncio.run(Supervisor(settings, listener, Path(metrics)).run(on_ready))
    if code:
        raise SystemExit(code)


def settings_of(config: DictConfig) -> ServeSettings:
    """The settings; raises RouterError, which names the key, where they are unsound."""
    missing = OmegaConf.missing_keys(config)
    if missing:
        raise RouterError("artifact is missing; give artifact=PATH, what router train exported.")
    values: Any = OmegaConf.to_container(config, resolve=True)
    values.pop("artifact", None)  # it is live.artifact
    try:
        return ServeSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise RouterError(f"{place}: {message}; conf/serve.yaml tells of each key.") from None


def _listening(settings: ServeSettings) -> socket.socket:
    """The socket that all workers share; raises RouterError where the port cannot be had."""
    listener = None
    try:
        [(family, kind, protocol, _, place), *_] = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise RouterError(
            f"host={settings.host} port={settings.port}: cannot listen there ({error.strerror}); "
            "give another with host=ADDRESS or port=NUMBER."
        ) from None
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
