"""Throughput and latency of POST /v1/route against the number of clients, to saturation.

    python experiments/serving/load.py [--seconds S] [--write]

Starts `router serve` with its defaults (its decision log on the disk before it answers) on
artifacts of the default data's train side, with one worker and with two. Every client keeps its
connection and asks again as soon as it is answered. Prints Markdown; --write puts it into README.md
and draws load.png.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from artifacts import EXPRESS, INT8, TOKENS, Workshop, sixty_tokens
from page import table, written

CLIENTS = (1, 2, 4, 8, 16, 32, 64, 128)
WORKERS = (1, 2)
WARM_UP = 1.0  # seconds of every step that are left out
HEAD = ["estimator=bagged_partition", "policy=guarded"]
PICTURE = Path(__file__).with_name("load.png")


@dataclass
class Answers:
    """What came back in a step: (end, seconds, status) of every request."""

    taken: list[tuple[float, float, int]] = field(default_factory=list)
    over: bool = False


@dataclass(frozen=True)
class Step:
    """A number of clients, and what they got. Latencies in ms; refused: answers other than 200."""

    clients: int
    per_second: float
    p50: float
    p99: float
    refused: int


class Client(asyncio.Protocol):
    """One connection that always has one request under way."""

    def __init__(self, requests: list[bytes], first: int, answers: Answers):
        self._requests, self._next, self._answers = requests, first, answers
        self._gathered = b""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._started = time.perf_counter()
        self._transport.write(self._requests[self._next % len(self._requests)])
        self._next += 1

    def data_received(self, data: bytes) -> None:
        self._gathered += data
        head, found, body = self._gathered.partition(b"\r\n\r\n")
        if not found:
            return
        [length] = [
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        ]
        if len(body) < length:
            return
        ended = time.perf_counter()
        self._answers.taken.append((ended, ended - self._started, int(head[9:12])))
        self._gathered = b""
        if self._answers.over:
            self._transport.close()
        else:
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None or not self._answers.over:
            self.closed.set_exception(exc or ConnectionError("The service hung up."))
        else:
            self.closed.set_result(None)


def main() -> None:
    """Make, serve, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3.0, help="that each step is measured")
    parser.add_argument("--write", action="store_true", help="into README.md, and load.png")
    options = parser.parse_args()
    curves: dict[str, list[Step]] = {}
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder))
        made = {encoder: workshop.make(encoder, HEAD) for encoder in (INT8, EXPRESS)}
        prompts = sixty_tokens(workshop.outcomes.prompts, made[INT8].tokenizer)
        for encoder, artifact in made.items():
            for workers in WORKERS:
                name = f"{encoder}, {workers} worker{'s' if workers > 1 else ''}"
                print(name, file=sys.stderr, flush=True)
                with served(artifact.place, workers, Path(folder)) as address:
                    curves[name] = curve(address, prompts, options.seconds)
    text = report(curves, options.seconds)
    print(text)
    if options.write:
        draw(curves)
        written("load.py", text)


@contextmanager
def served(artifact: Path, workers: int, folder: Path) -> Iterator[str]:
    """The address of a running service. It has as many cores as workers, from the first on; who
    asks has the last one: with two cores and two workers they share it."""
    cores = sorted(os.sched_getaffinity(0))
    log, runs = folder / f"log-{artifact.name}-{workers}", folder / "runs"
    command = [sys.executable, "-m", "router.cli", "serve", f"artifact='{artifact}'", "port=0"]
    command += [f"workers={workers}", f"log.folder='{log}'", f"hydra.run.dir='{runs}'"]
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    os.sched_setaffinity(0, cores[:workers])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | one)
    os.sched_setaffinity(0, cores[-1:])
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("Serving"):
            raise SystemExit(f"The service did not start: {line}")
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait()
        os.sched_setaffinity(0, cores)


def curve(address: str, prompts: list[str], seconds: float) -> list[Step]:
    """A step for every number of clients."""
    place = urlsplit(address)
    assert place.hostname is not None
    assert place.port is not None
    requests = [request_of(prompt, place.netloc) for prompt in prompts]
    return [
        asyncio.run(step(place.hostname, place.port, requests, clients, seconds))
        for clients in CLIENTS
    ]


def request_of(prompt: str, host: str) -> bytes:
    """As it goes over the wire."""
    body = json.dumps({"prompt": prompt}).encode()
    head = f"POST /v1/route HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def step(host: str, port: int, requests: list[bytes], clients: int, seconds: float) -> Step:
    """Ask for some seconds, after a warm-up."""
    answers, loop = Answers(), asyncio.get_running_loop()
    opened = []
    for number in range(clients):
        first = number * len(requests) // clients  # each elsewhere in the list
        made = partial(Client, requests, first, answers)
        _, client = await loop.create_connection(made, host, port)
        opened.append(client)
    begun = time.perf_counter() + WARM_UP
    ends = begun + seconds
    await asyncio.sleep(WARM_UP + seconds)
    answers.over = True
    await asyncio.gather(*(client.closed for client in opened))
    inside = [(took, status) for ended, took, status in answers.taken if begun <= ended < ends]
    good = 1000 * np.array([took for took, status in inside if status == 200])
    if not len(good):
        raise SystemExit(f"{clients} clients: nothing was answered in {seconds:g} s.")
    p50, p99 = (float(value) for value in np.percentile(good, [50, 99]))
    return Step(clients, len(good) / seconds, p50, p99, len(inside) - len(good))


def report(curves: dict[str, list[Step]], seconds: float) -> str:
    """The best of each, and a row for each number of clients."""
    rows = []
    for place, clients in enumerate(CLIENTS):
        row = [str(clients)]
        for steps in curves.values():
            one = steps[place]
            row.append(f"{one.per_second:,.0f}: {one.p50:.1f} / {one.p99:.1f}")
        rows.append(row)
    best = [max(steps, key=lambda one: one.per_second) for steps in curves.values()]
    most = [f"{one.per_second:,.0f}/s at {one.clients}" for one in best]
    refused = sum(one.refused for steps in curves.values() for one in steps)
    cores = len(os.sched_getaffinity(0))
    return (
        f"Requests per second: p50 / p99 in ms, {seconds:g} s each, {TOKENS}-token prompts, "
        f"default head; {cores} cores, of which the service has as many as workers and who asks "
        f"has the last. Answers other than 200: {refused}.\n\n"
        + table(["clients", *curves], [*rows, ["most", *most]])
        + "\n\n![Throughput and latency against clients](load.png)"
    )


def draw(curves: dict[str, list[Step]]) -> None:
    """load.png."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for number, (name, steps) in enumerate(curves.items()):
        clients, colour = [one.clients for one in steps], f"C{number}"
        left.plot(clients, [one.per_second for one in steps], "o-", color=colour, label=name)
        right.plot(clients, [one.p50 for one in steps], "o-", color=colour)
        right.plot(clients, [one.p99 for one in steps], "o--", color=colour, fillstyle="none")
    left.set(title="Throughput", ylabel="requests per second", yscale="log")
    right.set(title="Latency: p50 (solid), p99 (dashed)", ylabel="milliseconds", yscale="log")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(CLIENTS, [str(number) for number in CLIENTS])
        axes.set_xlabel("clients")
        axes.grid(alpha=0.3)
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside lower center", ncols=len(curves))
    figure.savefig(PICTURE, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
