"""Sticky sessions: which candidate a session keeps."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable


class Sessions:
    """The candidate of each session; thread-safe, and of bounded size.

    A worker process remembers its own sessions alone: with several workers a session is sticky for
    as long as its requests reach the same one.

    seconds: for which a session is remembered after its last request. most: sessions remembered;
    the one longest unused is forgotten for another. clock: seconds that never go back.
    """

    def __init__(self, seconds: float, most: int, clock: Callable[[], float] = time.monotonic):
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[str, float]] = OrderedDict()  # candidate, last request

    def __len__(self) -> int:
        return len(self._kept)

    def candidate(self, session: str) -> str | None:
        """Whom the session keeps; None where it is new or forgotten."""
        with self._lock:
            candidate, last = self._kept.get(session, (None, 0.0))
            if candidate is not None and self._clock() - last >= self._seconds:
                del self._kept[session]
                return None
            return candidate

    def keep(self, session: str, candidate: str) -> None:
        """The session keeps this candidate from now on."""
        if self._seconds == 0:
            return
        with self._lock:
            self._kept[session] = (candidate, self._clock())
            self._kept.move_to_end(session)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
