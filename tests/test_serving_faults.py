"""`router serve` under faults: crowds, odd heads, a full disk, signals, a fuzzer."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from conftest import TrainedRun
from hypothesis import given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from test_serving import PATIENCE, PROMPT, Running, counted, fault_of, running

from router.outcomes.log_lines import read_log

CROWD = 2000
HEAD_BYTES = 2000
FILE_BYTES = 70_000  # more than the workers' counters need


@pytest.fixture(scope="module")
def service(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker with a short queue, which tells of each request in JSON."""
    options = [
        f"limits.header_bytes={HEAD_BYTES}",
        "limits.header_seconds=0.5",
        "queue.threads=1",
        "queue.waiting=50",
        "console.requests=true",
        "console.form=json",
    ]
    with running(trained_run.artifact, tmp_path_factory.mktemp("serve"), *options) as found:
        yield found


def connected(service: Running) -> socket.socket:
    host, port = service.address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def heard(line: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    pieces = []
    while piece := line.recv(65_536):
        pieces.append(piece)
    return b"".join(pieces)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# ---- Crowds --------------------------------------------------------------------------------------


async def answers_to_a_crowd(service: Running, size: int) -> Counter[int]:
    """The status of one request on each of so many connections that stand at the same time."""
    host, port = service.address.removeprefix("http://").split(":")
    body = json.dumps({"prompt": PROMPT}).encode()
    head = f"POST /v1/route HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    request = head.encode() + b"content-type: application/json\r\n\r\n" + body
    lines = []
    for _ in range(size):
        lines.append(await asyncio.open_connection(host, int(port)))

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        writer.write(request)
        told = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        writer.close()
        if told.startswith(b"HTTP/1.1 429"):
            assert b"retry-after: 1\r\n" in told
        return int(told.split()[1])

    return Counter(await asyncio.gather(*(ask(*line) for line in lines)))


def test_two_thousand_callers_at_once_are_all_answered(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * CROWD), hard))
    try:
        # A head is awaited from the moment of the connection on, and this crowd takes its time.
        patient = ["limits.header_seconds=60", "queue.waiting=50"]
        with running(trained_run.artifact, tmp_path, *patient) as service:
            answered = asyncio.run(answers_to_a_crowd(service, CROWD))
            written = len(service.decisions())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sum(answered.values()) == CROWD
    assert set(answered) == {200, 429}
    assert written == answered[200]


# ---- Heads ---------------------------------------------------------------------------------------

LINE = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "head",
    [
        LINE + b"a: b\r\n" * HEAD_BYTES + b"\r\n",
        LINE + b"a: " + b"x" * (HEAD_BYTES + 1),
        b"GET /" + b"x" * (HEAD_BYTES + 1) + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/route HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"a: b\r\n" * HEAD_BYTES + b"\r\n",
    ],
    ids=["many headers", "one without an end", "address", "headers after the body"],
)
def test_a_head_without_measure_is_refused(service: Running, head: bytes) -> None:
    with connected(service) as line:
        line.sendall(head)
        answer = heard(line)
    assert answer.startswith(b"HTTP/1.1 400 ")
    message = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert message == f"The request's head has more than {HEAD_BYTES} bytes."


@pytest.mark.parametrize("sent", [b"", LINE], ids=["none", "half"])
def test_a_head_that_does_not_come_ends_the_connection(service: Running, sent: bytes) -> None:
    with connected(service) as line:
        line.sendall(sent)
        assert heard(line) == b""


def test_blank_lines_do_not_keep_a_connection(service: Running) -> None:
    with connected(service) as line:
        line.sendall(LINE + b"\r\n")
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            answer += line.recv(1000)
        line.sendall(b"\r\n")
        assert heard(line) == b""


def test_what_takes_no_body_is_told_without_reading_one(service: Running) -> None:
    for path, status in [(b"/nowhere", b"404"), (b"/healthz", b"405")]:
        with connected(service) as line:
            line.sendall(b"POST " + path + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")
            assert line.recv(1000).split()[1] == status


# ---- The log -------------------------------------------------------------------------------------


def test_a_log_that_cannot_be_written_is_told_until_it_can(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    with running(trained_run.artifact, tmp_path) as service, service.client() as client:
        service.log.rmdir()  # no record has been written yet
        refused = client.post("/v1/route", json={"prompt": PROMPT})
        assert refused.status_code == 503
        assert "decision log cannot be written to now" in fault_of(refused)
        not_ready = client.get("/readyz")
        assert not_ready.status_code == 503
        assert "No such file or directory" in fault_of(not_ready)
        assert client.get("/healthz").status_code == 200
        service.log.mkdir()
        wait_for(lambda: client.get("/readyz").status_code == 200)  # without a request
        accepted = client.post("/v1/route", json={"prompt": PROMPT}).json()["request_id"]
        assert service.decisions() == [accepted]
        page = client.get("/metrics").text
    assert counted(page, "router_log_records_lost_total") == 1
    told = (tmp_path / "err.txt").read_text()
    assert told.count("cannot be logged") == told.count("can be written to again") == 1


def test_a_full_disk_leaves_nothing_half_written(trained_run: TrainedRun, tmp_path: Path) -> None:
    code = "import resource; _, hard = resource.getrlimit(resource.RLIMIT_FSIZE); "
    code += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({FILE_BYTES}, hard))"
    options = ["log.keep=text", "log.required=false"]
    with (
        running(trained_run.artifact, tmp_path, *options, code=code) as service,
        service.client() as client,
    ):
        large = f"{PROMPT} " * (FILE_BYTES // len(PROMPT))
        ids = [
            client.post("/v1/route", json={"prompt": prompt}).json()["request_id"]
            for prompt in (PROMPT, large, PROMPT)
        ]
        lost = client.post("/v1/outcomes", json={"request_id": ids[0], "task": "x" * 1000})
        assert lost.status_code == 200  # this one fits again
        page = client.get("/metrics").text
    lines = read_log(service.log)
    assert [record["request_id"] for record in lines.decisions] == [ids[0], ids[2]]
    assert (lines.torn, lines.faulty) == (0, 0)
    assert counted(page, "router_log_records_lost_total") == 1


# ---- Signals -------------------------------------------------------------------------------------


def begin_upload(service: Running, body: bytes) -> socket.socket:
    """A request in flight, which lacks the last byte of its body."""
    line = connected(service)
    head = f"POST /v1/route HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    line.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body[:-1])
    with service.client() as client:  # the worker has it
        wait_for(lambda: counted(client.get("/metrics").text, "router_in_flight") == 2)
    return line


def refuses(service: Running) -> bool:
    try:
        connected(service).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


UPLOAD = ["limits.body_seconds=300", "limits.keep_alive_seconds=1"]


def test_a_first_signal_waits_for_what_is_in_flight(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    body = json.dumps({"prompt": PROMPT}).encode()
    with (
        running(trained_run.artifact, tmp_path, *UPLOAD) as service,
        begin_upload(service, body) as line,
    ):
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses(service))
        line.sendall(body[-1:])
        answer = heard(line)
        assert service.process.wait(PATIENCE) == 0
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["request_id"] in service.decisions()


def test_a_second_signal_ends_at_once(trained_run: TrainedRun, tmp_path: Path) -> None:
    with (
        running(trained_run.artifact, tmp_path, *UPLOAD) as service,
        begin_upload(service, b"{}"),
    ):
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refuses(service))
        assert service.process.poll() is None
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(PATIENCE) == 1


def test_without_their_parent_the_workers_end(trained_run: TrainedRun, tmp_path: Path) -> None:
    with running(trained_run.artifact, tmp_path, "workers=2") as service:
        with service.client() as client:
            accepted = client.post("/v1/route", json={"prompt": PROMPT}).json()["request_id"]
        service.process.kill()
        service.process.wait(PATIENCE)
        wait_for(lambda: refuses(service))  # nobody keeps the port
        assert service.decisions() == [accepted]


# ---- The console, and a fuzzer -------------------------------------------------------------------


def test_each_request_is_one_json_line_without_what_a_caller_wrote(service: Running) -> None:
    secret = "a-very-secret-word"
    with service.client() as client:
        answer = client.post("/v1/route", json={"prompt": secret})
        client.get(f"/{secret}?{secret}")
        client.post("/v1/route", content=json.dumps({secret: 1}), headers={"x-secret": secret})
    file = service.folder / "err.txt"

    def lines() -> list[dict[str, Any]]:
        whole = file.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in whole if line.endswith("\n")]

    wait_for(lambda: any(line.get("path") == "other" for line in lines()))
    named = {line["request_id"]: line for line in lines() if "request_id" in line}
    told = named[answer.json()["request_id"]]
    assert (told["method"], told["path"], told["status"]) == ("POST", "/v1/route", 200)
    assert told["milliseconds"] > 0
    assert secret not in file.read_text()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_the_service_keeps_to_its_description(service: Running, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{service.address}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 6
    for operation in operations:
        if operation.method == "get" and mode is GenerationMode.NEGATIVE:
            continue  # it takes nothing that could be faulty

        @settings(max_examples=15, deadline=None, derandomize=True, database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            # A sound request may still name a candidate that is none, or a budget too small.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        ask()
