"""One worker process of the service; `router.serving.supervisor` starts it.

Its standard input is a socket to the supervisor: settings come in, a report goes out, and when it
ends, so does the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn

from router.errors import RouterError
from router.serving import console_log
from router.serving.app import create_app
from router.serving.protocol import protocol_of
from router.serving.settings import ServeSettings

BACKLOG = 4096


class _Server(uvicorn.Server):
    """on_started: called once it listens."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]):
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the worker's own handler stays


def main(number: int) -> int:
    """Serve on the listening socket of this number; the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the supervisor tells
    supervisor = socket.socket(fileno=0)
    with supervisor.makefile("r", encoding="utf-8") as told:
        settings = ServeSettings.model_validate_json(told.readline())
    console_log.set_up(settings.console)
    _allow_many_connections()
    try:
        app = create_app(settings)
    except RouterError as error:
        _report(supervisor, str(error))
        return 1
    config = uvicorn.Config(
        app,
        http=protocol_of(settings.limits),
        ws="none",
        lifespan="off",  # entered here, where what goes wrong can be told in one sentence
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.limits.keep_alive_seconds,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )

    async def serve() -> None:
        server = _Server(config, lambda: _report(supervisor, None))
        loop = asyncio.get_running_loop()

        def end() -> None:
            server.should_exit = True

        loop.add_signal_handler(signal.SIGTERM, end)
        async with app.router.lifespan_context(app):
            supervisor.setblocking(False)
            watching = asyncio.create_task(_until_gone(supervisor, end))
            await server.serve([socket.socket(fileno=number)])
            watching.cancel()

    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(serve())
    except RouterError as error:
        _report(supervisor, str(error))
        return 1
    return 0


def _report(supervisor: socket.socket, fault: str | None) -> None:
    """One line: what is wrong, or null."""
    with contextlib.suppress(OSError):  # gone
        supervisor.sendall(json.dumps(fault).encode() + b"\n")


async def _until_gone(supervisor: socket.socket, end: Callable[[], None]) -> None:
    """Without a supervisor nobody would end the worker, and it would keep the port."""
    while await asyncio.get_running_loop().sock_recv(supervisor, 1):
        pass
    end()


def _allow_many_connections() -> None:
    """Each is an open file, of which the usual limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
