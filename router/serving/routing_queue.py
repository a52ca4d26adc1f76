"""Back-pressure: little routing at a time, little of it waiting, and "busy" beyond that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from router.serving.faults import Busy
from router.serving.metrics import Metrics
from router.serving.settings import QueueSettings

T = TypeVar("T")


class RoutingQueue:
    """Runs the router in a few threads. Of one event loop."""

    def __init__(self, settings: QueueSettings, metrics: Metrics):
        self._settings = settings
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="router-route")
        self._inside = 0

    async def run(self, work: Callable[[], T], prompts: int = 1) -> T:
        """What the work returns.

        prompts: that it routes. What is larger than the whole queue finds room in an empty one.

        Raises Busy, at once, where there is no room.
        """
        most = self._settings.threads + self._settings.waiting
        if self._inside and self._inside + prompts > most:
            raise Busy(self._settings.retry_after_seconds)
        loop = asyncio.get_running_loop()
        self._enter(prompts)
        done = self._threads.submit(work)

        def leave(_: Future[T]) -> None:
            loop.call_soon_threadsafe(self._enter, -prompts)

        # Not when its caller gives up, but when the thread is free again.
        done.add_done_callback(leave)
        return await asyncio.wrap_future(done)

    async def close(self) -> None:
        """Wait for what runs."""
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)

    def _enter(self, prompts: int) -> None:
        self._inside += prompts
        self._metrics.queued.set(self._inside)
