"""The service's decision log: many requests' records are written with one wait for the disk."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack

from router.artifact.decision_log import DecisionLog, Told
from router.artifact.runtime import Decision
from router.errors import RouterError
from router.serving.metrics import Metrics
from router.serving.settings import LogSettings

PROBE_BYTES = 65_536
PROBE_SECONDS = 1.0  # between two tries of a log that failed

logger = logging.getLogger("router.log")


class LogUnavailable(RouterError):
    """The decision log cannot be written to now."""


class Recorder:
    """Writes decisions and outcomes; a call returns once its record is on disk.

    While one group of records is on its way to the disk, the next gathers: the busier the service,
    the larger the groups. Everything but the writing happens on the event loop; the writing has a
    thread of its own.

    Where the log cannot be written, `decision` raises LogUnavailable if `settings.required`, and
    else returns all the same: the loss is counted, and told once until it is mended. An outcome has
    no other purpose than to be written, so that always raises.

    Raises RouterError where the folder cannot be made.
    """

    def __init__(self, settings: LogSettings, metrics: Metrics):
        self._settings = settings
        self._metrics = metrics
        assert settings.folder is not None  # else there is `NoLog`
        self._log = DecisionLog(
            settings.folder, settings.keep, max_bytes=settings.max_bytes, sync=settings.sync
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="router-log")
        self._waiting: list[tuple[Sequence[bytes], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._problem: str | None = None
        self._probed = 0.0

    async def decision(self, decision: Decision, prompt: str, user: str | None = None) -> None:
        """Log what was chosen for the prompt.

        Raises RouterError where the record is unsound, LogUnavailable where it cannot be written.
        """
        await self.decisions([decision], [prompt], user)

    async def decisions(
        self, decisions: Sequence[Decision], prompts: Sequence[str], user: str | None = None
    ) -> None:
        """Log what was chosen for each prompt: all of it, or nothing."""
        pairs = zip(decisions, prompts, strict=True)
        lines = [self._log.decision_line(chosen, prompt, user=user) for chosen, prompt in pairs]
        try:
            await self._written(lines)
        except LogUnavailable:
            if self._settings.required:
                raise

    async def outcome(self, request_id: str, **told: Unpack[Told]) -> None:
        """Log what became known of a decision; raises as `decision` does."""
        await self._written([self._log.outcome_line(request_id, **told)])

    async def outcomes(self, outcomes: Sequence[Mapping[str, Any]]) -> None:
        """Log several outcomes, each with its `request_id`: all of them, or none."""
        await self._written([self._log.outcome_line(**outcome) for outcome in outcomes])

    async def problem(self) -> str | None:
        """Why the log cannot be written to; None where it can. What failed is tried again."""
        if self._problem is not None and time.monotonic() - self._probed >= PROBE_SECONDS:
            self._probed = time.monotonic()
            await asyncio.get_running_loop().run_in_executor(self._thread, self._probe)
        return self._problem

    async def close(self) -> None:
        """Write what waits, and close the file."""
        while self._writing is not None:
            await self._writing
        await asyncio.get_running_loop().run_in_executor(self._thread, self._log.close)
        self._thread.shutdown()

    async def _written(self, lines: Sequence[bytes]) -> None:
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((lines, written))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await written

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                lines = [line for entry, _ in group for line in entry]
                fault = await loop.run_in_executor(self._thread, self._append, lines)
                for _, written in group:
                    if written.done():  # nobody waits for it any more
                        continue
                    if fault is None:
                        written.set_result(None)
                    else:
                        written.set_exception(fault)
        finally:
            self._writing = None

    def _append(self, lines: Sequence[bytes]) -> LogUnavailable | None:
        began = time.perf_counter()
        try:
            self._log.append(lines)
        except Exception as error:  # whatever it is, those who wait must hear of it
            self._metrics.records_lost.inc(len(lines))
            self._failed(str(error) if isinstance(error, RouterError) else type(error).__name__)
            return LogUnavailable("The decision log cannot be written to now; try again later.")
        self._metrics.records.inc(len(lines))
        self._metrics.commit_seconds.observe(time.perf_counter() - began)
        self._mended()
        return None

    def _probe(self) -> None:
        """A file without a name is written, and gone at once."""
        try:
            with tempfile.TemporaryFile(dir=self._settings.folder) as file:
                file.write(bytes(PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._failed(str(error.strerror))
        else:
            self._mended()

    def _failed(self, problem: str) -> None:
        if self._problem is None:
            logger.error("%s", problem)
        self._problem = problem

    def _mended(self) -> None:
        if self._problem is not None:
            logger.warning("The decision log can be written to again.")
        self._problem = None
