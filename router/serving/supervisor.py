"""Starts the workers, keeps them alive, ends them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from router.errors import RouterError
from router.serving.metrics import SHARED, forget_worker
from router.serving.settings import ServeSettings

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a dead worker is replaced
GRACE = 15  # seconds beyond shutdown_seconds, to flush the log

logger = logging.getLogger("router.supervisor")


@dataclass(frozen=True)
class _Worker:
    process: asyncio.subprocess.Process
    reports: asyncio.StreamReader
    line: asyncio.StreamWriter  # the worker ends with it

    async def fault(self) -> str | None:
        """Why it could not start; None once it serves."""
        report = await self.reports.readline()
        if not report:
            return f"A worker ended while it started (exit code {await self.process.wait()})."
        fault: str | None = json.loads(report)
        return fault

    def send(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)


class Supervisor:
    """Runs `settings.workers` workers on one listening socket.

    metrics: folder in which they count together.

    SIGTERM or Ctrl-C ends them when they have answered what they have accepted; a second one ends
    them at once.
    """

    def __init__(self, settings: ServeSettings, listening: socket.socket, metrics: Path):
        self._settings = settings
        self._listening = listening
        self._metrics = metrics
        self._workers: set[_Worker] = set()
        self._ending = asyncio.Event()
        self._killed = False

    async def run(self, on_ready: Callable[[], None]) -> int:
        """Serve until a signal comes; the exit code: 0 where every worker ended in peace.

        on_ready: called once when all workers serve.

        Raises RouterError where one of them cannot start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        workers = [await self._start() for _ in range(self._settings.workers)]
        faults = await asyncio.gather(*(worker.fault() for worker in workers))
        told = [fault for fault in faults if fault is not None]
        if told and not self._ending.is_set():
            self._end()
            for worker in workers:
                await worker.process.wait()
                worker.line.close()
                await worker.line.wait_closed()
            raise RouterError(told[0])
        if not self._ending.is_set():
            on_ready()
        codes = await asyncio.gather(*(self._keep(worker) for worker in workers))
        return int(self._killed or any(codes))

    async def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                # -P: nothing of the working directory is imported.
                *(sys.executable, "-P", "-m", "router.serving.worker"),
                str(self._listening.fileno()),
                stdin=theirs.fileno(),
                stdout=sys.__stderr__,
                pass_fds=[self._listening.fileno()],
                env={**os.environ, SHARED: str(self._metrics)},
            )
        reports, line = await asyncio.open_connection(sock=ours)
        line.write(self._settings.model_dump_json().encode() + b"\n")
        worker = _Worker(process, reports, line)
        self._workers.add(worker)
        if self._ending.is_set():
            worker.send(signal.SIGTERM)
        return worker

    async def _keep(self, worker: _Worker) -> int:
        """Replace the worker whenever it dies; the exit code of the last one."""
        pause = FIRST_PAUSE
        while True:
            code = await worker.process.wait()
            worker.line.close()
            self._workers.discard(worker)
            forget_worker(worker.process.pid, self._metrics)
            if self._ending.is_set():
                return code
            logger.error("Worker %d ended (%d); another takes over.", worker.process.pid, code)
            try:
                await asyncio.wait_for(self._ending.wait(), pause)
                return code
            except TimeoutError:
                worker = await self._start()
            fault = await worker.fault()
            if fault is None:
                pause = FIRST_PAUSE
            else:
                logger.error("The new worker cannot start: %s", fault)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _on_signal(self) -> None:
        if self._ending.is_set():
            self._kill()
        else:
            logger.info("Ending when all is answered; a second signal ends at once.")
            self._end()

    def _end(self) -> None:
        self._ending.set()
        self._listening.close()  # else callers would wait in its queue
        for worker in self._workers:
            worker.send(signal.SIGTERM)
        asyncio.get_running_loop().call_later(self._settings.shutdown_seconds + GRACE, self._kill)

    def _kill(self) -> None:
        self._killed = True
        for worker in self._workers:
            worker.send(signal.SIGKILL)
