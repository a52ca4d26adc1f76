"""`router serve` under ten thousand odd requests, which are made from its own description."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import schemathesis
from conftest import TrainedRun
from hypothesis import HealthCheck, given, settings
from prometheus_client.parser import text_string_to_metric_families
from schemathesis import GenerationMode
from test_serving import PATIENCE, PROMPT, Running, running

from router.outcomes.log_lines import read_log

WARM_UP, REQUESTS = 2_000, 10_000
CONNECTIONS = 16
EXAMPLES = 15  # of the description, for each operation and mode
GROWTH_BYTES = 4 * 2**20  # 0.5 MB was seen
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
ODD: list[Any] = [None, True, -1, 0, 1e308, 10**30, "", " ", "\ud800", "\x00", "x" * 300, [], {},
                  [[]], "large"]  # fmt: skip
HEADERS = ["authorization: Bearer", "accept: \xff", "cookie: =;;", "x-request-id: 1",
           "expect: 100-continue", "content-encoding: gzip", "content-type: text/\xe9"]  # fmt: skip


def described_bodies(operation: Any, mode: GenerationMode) -> list[Any]:
    """What its description makes sound, or faulty."""
    found: list[Any] = []

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def keep(case: Any) -> None:
        if isinstance(case.body, dict | list | str | int | float):
            found.append(case.body)

    keep()
    return found


def described_requests(service: Running) -> list[tuple[str, str, Any]]:
    """(method, path, body) of every operation; body None: it takes none."""
    schema = schemathesis.openapi.from_url(f"{service.address}/openapi.json")
    found: list[tuple[str, str, Any]] = []
    for result in schema.get_all_operations():
        operation = result.ok()
        method, path = operation.method.upper(), operation.path
        if method == "GET":
            found.append((method, path, None))
            continue
        for mode in GenerationMode:
            found += [(method, path, body) for body in described_bodies(operation, mode)]
    assert len({path for _, path, _ in found}) >= 6
    return found + [("POST", "/v1/route", {"prompt": PROMPT})] * (len(found) // 10)


class Mutations:
    """Requests as bytes, drawn from others; the same ones in every run."""

    def __init__(self, requests: Sequence[tuple[str, str, Any]]):
        self._requests = requests
        self._draw = random.Random(0)

    def request(self) -> bytes:
        """One, after which the connection is of no more use where it says so, or is no HTTP."""
        draw = self._draw
        method, path, body = draw.choice(self._requests)
        if draw.random() < 0.6:
            body = self._value(body)
        content = b"" if body is None else json.dumps(body).encode()
        if draw.random() < 0.2:
            content = self._bytes(content)
        if draw.random() < 0.05:
            method = draw.choice(["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
        if draw.random() < 0.05:
            path = draw.choice(["/", path + "/", path + "?a=%ff", path[:-1], "//", "/%00", "*"])
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\n"
        if draw.random() < 0.95:
            head += "content-type: application/json\r\n"
        if draw.random() < 0.1:
            head += draw.choice(HEADERS) + "\r\n"
        if draw.random() < 0.02:  # what does not fit, or is no number
            length = draw.choice([len(content) + 9, len(content) // 2, -1, 10**25, "x"])
            head += f"connection: close\r\ncontent-length: {length}\r\n"
        else:
            head += f"content-length: {len(content)}\r\n"
        whole = head.encode("latin-1") + b"\r\n" + content
        return self._bytes(whole) if draw.random() < 0.02 else whole

    def _value(self, value: Any) -> Any:
        """With one part of it replaced, left out or added."""
        draw = self._draw
        if isinstance(value, dict) and value and draw.random() < 0.9:
            key = draw.choice(list(value))
            changed = dict(value)
            if draw.random() < 0.2:
                del changed[key]
            elif draw.random() < 0.1:
                changed[str(draw.choice(ODD))] = draw.choice(ODD)
            else:
                changed[key] = self._value(value[key])
            return changed
        if isinstance(value, list) and value and draw.random() < 0.8:
            place = draw.randrange(len(value))
            return [*value[:place], self._value(value[place]), *value[place + 1 :]]
        return draw.choice(ODD)

    def _bytes(self, content: bytes) -> bytes:
        """With a few bytes changed, cut off or doubled."""
        draw = self._draw
        place = draw.randrange(len(content) + 1)
        kind = draw.randrange(3)
        if kind == 0:
            return content[:place] + draw.randbytes(draw.randrange(1, 5)) + content[place + 1 :]
        return content[:place] if kind == 1 else content[:place] + content


async def answers_to(service: Running, requests: Sequence[bytes]) -> Counter[int]:
    """The status of each answer; 0: the connection was closed without one."""
    host, port = service.address.removeprefix("http://").split(":")
    waiting = list(reversed(requests))
    answered: Counter[int] = Counter()

    async def answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
        """Its status, and whether the connection stays."""
        head = await reader.readuntil(b"\r\n\r\n")
        [status] = STATUS.findall(head)
        if status == b"100":
            return await answer(reader)
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        assert length, head
        await reader.readexactly(int(length[1]))
        return int(status), b"connection: close" not in head.lower()

    async def ask() -> None:
        stays = False
        while waiting:
            request = waiting.pop()
            if not stays:
                reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(request)
                status, stays = await asyncio.wait_for(answer(reader), PATIENCE)
            except (ConnectionError, asyncio.IncompleteReadError):
                status, stays = 0, False
            answered[status] += 1
            if not stays:
                writer.close()
        if stays:
            writer.close()

    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    return answered


def resident_bytes(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_ten_thousand_odd_requests_neither_break_nor_bloat_it(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    options = ["log.sync=false", "limits.body_seconds=0.2", "limits.header_seconds=0.5",
               "limits.request_seconds=60", "limits.batch=20", "console.form=json"]  # fmt: skip
    with running(trained_run.artifact, tmp_path, *options) as service, service.client() as client:
        first = client.post("/v1/route", json={"prompt": PROMPT})
        assert first.status_code == 200
        mutations = Mutations(described_requests(service))
        [file] = service.log.glob("*.jsonl")
        worker = int(file.stem.split("-")[2])  # the name holds the process
        answered = asyncio.run(answers_to(service, [mutations.request() for _ in range(WARM_UP)]))
        before = resident_bytes(worker)
        rest = [mutations.request() for _ in range(REQUESTS - WARM_UP)]
        answered += asyncio.run(answers_to(service, rest))
        growth = resident_bytes(worker) - before
        assert growth < GROWTH_BYTES
        assert {200, 400, 404, 405, 415} <= set(answered)
        assert max(answered) < 500
        assert answered[0] < REQUESTS // 50  # heads that never end, and the like
        page = client.get("/metrics").text
        statuses = {
            sample.labels["status"]
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == "router_requests_total"
        }
        assert max(map(int, statuses)) < 500  # of those too that a caller did not wait for
        assert client.post("/v1/route", json={"prompt": PROMPT}).status_code == 200
        [still] = service.log.glob("*.jsonl")
        assert still == file  # the worker is the same one
        lines = read_log(service.log)
        assert (lines.torn, lines.faulty) == (0, 0)
    assert "Traceback" not in (tmp_path / "err.txt").read_text()
