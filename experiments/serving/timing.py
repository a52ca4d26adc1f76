"""Clocks of the serving study."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

STARTS = 7
# The peak is the kernel's VmHWM: ru_maxrss of a new process begins at what its parent had, so it
# tells the size of who measures.
COLD = """
import sys, time
import router
router.load(sys.argv[1]).route(sys.argv[2])
ended = time.monotonic()
with open("/proc/self/status") as status:
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
print(ended, peak)
"""
Call = Callable[[Any], object]


def in_turns(calls: dict[str, Call], given: dict[str, list[Any]], rounds: int) -> dict[str, Any]:
    """Milliseconds of each call on everything that it is given, (rounds x n,). They take turns
    argument by argument, and who is first changes: each finds the caches as the others left them,
    and what slows the machine down slows all of them."""
    names = list(calls)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for warm_up in range(5):
        for name in names:
            calls[name](given[name][warm_up])
    for turn in range(rounds * len(given[names[0]])):
        place, first = turn % len(given[names[0]]), turn % len(names)
        for name in names[first:] + names[:first]:
            argument, call = given[name][place], calls[name]
            started = time.perf_counter()
            call(argument)
            taken[name].append(1000 * (time.perf_counter() - started))
    return {name: np.array(values) for name, values in taken.items()}


def in_loops(calls: dict[str, Call], arguments: list[Any], rounds: int) -> dict[str, Any]:
    """Milliseconds of each call on every argument, (rounds x n,), one call's arguments right after
    another: with warm caches, as heads are commonly timed. The calls take turns round by round."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call(arguments[0])
            for argument in arguments:
                started = time.perf_counter()
                call(argument)
                taken[name].append(1000 * (time.perf_counter() - started))
    return {name: np.array(values) for name, values in taken.items()}


def cold_start(artifact: Path, prompt: str) -> tuple[float, float]:
    """Seconds from the start of a new process to its first answer, and its peak memory in MB:
    medians of STARTS, after one that warms the disk's cache."""
    seconds, megabytes = [], []
    for _ in range(1 + STARTS):
        started = time.monotonic()  # one clock for all processes of a machine
        done = subprocess.run(
            [sys.executable, "-c", COLD, str(artifact), prompt],
            capture_output=True,
            text=True,
            check=True,
        )
        ended, peak = done.stdout.split()
        seconds.append(float(ended) - started)
        megabytes.append(int(peak) * 1024 / 1e6)
    return statistics.median(seconds[1:]), statistics.median(megabytes[1:])
