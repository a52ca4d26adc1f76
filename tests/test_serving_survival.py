"""`router serve` survives what the machine does to it: kill -9, a full disk, a damaged artifact."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from conftest import CANDIDATES, TrainedRun
from test_serving import PATIENCE, PROMPT, Running, counted, fault_of, running
from test_serving_faults import wait_for

import router
from router.cli import main
from router.outcomes.decision_log import DecisionData
from router.outcomes.log_lines import read_log

CALLERS = 6


def workers_of(service: Running) -> list[int]:
    """The process ids of those that answer."""
    parent = service.process.pid
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


# ---- kill -9 -------------------------------------------------------------------------------------


class Callers:
    """Threads that route, and tell an outcome of each decision, until they are stopped.

    routed, told: request ids of what was answered 200. unanswered_routes, unanswered_outcomes:
    requests whose connection broke first, so that nobody knows whether they were accepted.
    """

    def __init__(self) -> None:
        self.routed: list[str] = []
        self.told: list[str] = []
        self.unanswered_routes = self.unanswered_outcomes = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    @contextmanager
    def calling(self, service: Running) -> Iterator[None]:
        self._stop.clear()
        with ThreadPoolExecutor(CALLERS) as pool:
            calls = [pool.submit(self._call, service, number) for number in range(CALLERS)]
            try:
                yield
            finally:
                self._stop.set()
            for call in calls:
                call.result()

    def wait_for_more(self, number: int) -> None:
        """Until so many more outcomes have been accepted."""
        goal = len(self.told) + number
        wait_for(lambda: len(self.told) >= goal)

    def _call(self, service: Running, number: int) -> None:
        only = CANDIDATES[number % len(CANDIDATES)]  # the log's reader wants more than one
        while not self._stop.is_set():
            with service.client() as client, contextlib.suppress(httpx.TransportError):
                while not self._stop.is_set():
                    self._route_and_tell(client, only, score=float(number % 2))

    def _route_and_tell(self, client: httpx.Client, only: str, score: float) -> None:
        try:
            answer = client.post("/v1/route", json={"prompt": PROMPT, "candidates": [only]})
        except httpx.ConnectError:  # nobody listens: it was never sent
            raise
        except httpx.TransportError:
            with self._lock:
                self.unanswered_routes += 1
            raise
        assert answer.status_code == 200, answer.text
        name = answer.json()["request_id"]
        self.routed.append(name)
        try:
            answer = client.post("/v1/outcomes", json={"request_id": name, "score": score})
        except httpx.ConnectError:
            raise
        except httpx.TransportError:
            with self._lock:
                self.unanswered_outcomes += 1
            raise
        assert answer.status_code == 200, answer.text
        self.told.append(name)


def kill_all(service: Running) -> None:
    """kill -9 of the supervisor and its workers; stopped first, it replaces none meanwhile."""
    service.process.send_signal(signal.SIGSTOP)
    for worker in workers_of(service):
        os.kill(worker, signal.SIGKILL)
    service.process.kill()
    service.process.wait(PATIENCE)


def test_kill_9_under_load_loses_and_doubles_no_accepted_record(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    callers = Callers()
    options = ["workers=2", "log.keep=text"]
    with running(trained_run.artifact, tmp_path, *options) as service, callers.calling(service):
        callers.wait_for_more(60)
        os.kill(workers_of(service)[0], signal.SIGKILL)
        callers.wait_for_more(60)
        wait_for(lambda: len(workers_of(service)) == 2)  # one has taken over
        callers.wait_for_more(60)
        kill_all(service)
    with running(trained_run.artifact, tmp_path, *options) as service:
        with callers.calling(service):
            callers.wait_for_more(30)
        assert service.end() == 0

    lines = read_log(tmp_path / "decisions")
    assert lines.faulty == 0
    assert lines.torn <= 3  # a file of each process that was killed
    for records, accepted, unanswered in [
        (lines.decisions, callers.routed, callers.unanswered_routes),
        (lines.outcomes, callers.told, callers.unanswered_outcomes),
    ]:
        logged = Counter(record["request_id"] for record in records)
        assert set(logged.values()) == {1}
        assert len(accepted) == len(set(accepted)) >= 210
        assert set(accepted) <= set(logged)
        assert len(logged) - len(accepted) <= unanswered <= 2 * CALLERS
    table = DecisionData(tmp_path / "decisions").load()  # as training reads it
    outcomes = {record["request_id"] for record in lines.outcomes}
    assert set(table.queries["query_id"]) == outcomes


# ---- A full disk ---------------------------------------------------------------------------------


@contextmanager
def full_disk(service: Running) -> Iterator[None]:
    """No file of a worker takes a whole record: the system stops it within."""
    workers = workers_of(service)
    before = [resource.prlimit(worker, resource.RLIMIT_FSIZE) for worker in workers]
    for worker, (_, hard) in zip(workers, before, strict=True):
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        for worker, limits in zip(workers, before, strict=True):
            resource.prlimit(worker, resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("required", [True, False])
def test_a_disk_that_is_full_for_a_while(
    trained_run: TrainedRun, tmp_path: Path, required: bool
) -> None:
    options = ["workers=2", f"log.required={str(required).lower()}"]
    with running(trained_run.artifact, tmp_path, *options) as service, service.client() as client:

        def ask(_: int) -> httpx.Response:
            with service.client() as own:  # a connection of its own: either worker's
                return own.post("/v1/route", json={"prompt": PROMPT})

        def ids(answers: list[httpx.Response]) -> set[str]:
            return {answer.json()["request_id"] for answer in answers}

        with ThreadPoolExecutor(CALLERS) as pool:
            before = list(pool.map(ask, range(12)))
            with full_disk(service):
                meanwhile = list(pool.map(ask, range(12)))
                outcome = {"request_id": before[0].json()["request_id"], "score": 1.0}
                untold = client.post("/v1/outcomes", json=[outcome] * 5)
            after = list(pool.map(ask, range(12)))
        told = client.post("/v1/outcomes", json=outcome)
        page = client.get("/metrics").text
        assert {answer.status_code for answer in before + after} == {200}
        assert {answer.status_code for answer in meanwhile} == {503 if required else 200}
        if required:
            for answer in meanwhile:
                assert "decision log cannot be written to now" in fault_of(answer)
                assert answer.json()["error"]["type"] == "service_unavailable"
        assert untold.status_code == 503  # an outcome has no other purpose than to be written
        assert told.status_code == 200
        assert counted(page, "router_log_records_lost_total") == len(meanwhile) + 5
        assert counted(page, "router_log_records_total") == len(before + after) + 1
        lines = read_log(service.log)
        assert {record["request_id"] for record in lines.decisions} == ids(before + after)
        assert (len(lines.outcomes), lines.torn, lines.faulty) == (1, 0, 0)
        assert client.get("/readyz").status_code == 200


# ---- A damaged artifact --------------------------------------------------------------------------


def cut_in_place(file: Path) -> None:
    """As a copy that stopped half-way leaves it."""
    os.truncate(file, file.stat().st_size // 2)


def overwrite(file: Path) -> None:
    """With as many bytes."""
    file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize(
    ("name", "damage"), [("encoder.onnx", cut_in_place), ("manifest.json", overwrite)]
)
def test_a_damaged_artifact_is_told_and_the_old_one_answers_until_it_is_mended(
    trained_run: TrainedRun,
    other_artifact: Path,
    artifact_copy: Path,
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], None],
) -> None:
    old, new = (router.load(place).manifest["sha256"] for place in (artifact_copy, other_artifact))
    assert old != new
    with (
        running(artifact_copy, tmp_path / "run", "live.poll_seconds=0.05") as service,
        service.client() as client,
    ):

        def in_service() -> str:
            answer = client.post("/v1/route", json={"prompt": PROMPT})
            assert answer.status_code == 200, answer.text
            return str(answer.json()["artifact"])

        def failures() -> float:
            page = client.get("/metrics").text
            return counted(page, "router_reload_failures_total", what="artifact")

        before = client.post("/v1/route", json={"prompt": PROMPT, "seed": "s"}).json()
        damage(artifact_copy / name)
        wait_for(lambda: failures() > 0)
        again = client.post("/v1/route", json={"prompt": PROMPT, "seed": "s"}).json()
        assert {**again, "request_id": ""} == {**before, "request_id": ""}
        assert in_service() == old
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["artifact"]) == (200, old)
        assert "The new artifact is not taken" in (service.folder / "err.txt").read_text()
        # Mended file by file, where it stands: half-way it is neither the old one nor the new.
        for file in sorted(other_artifact.iterdir()):
            shutil.copyfile(file, artifact_copy / file.name)
            assert in_service() in (old, new)
        wait_for(lambda: in_service() == new)
        page = client.get("/metrics").text
        assert counted(page, "router_reloads_total", what="artifact") >= 1
        assert counted(page, "router_artifact", role="artifact", sha256=new) == 1


@pytest.fixture(scope="module")
def other_artifact(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with another policy."""
    folder = tmp_path_factory.mktemp("other") / "artifact"
    main(["export", f"run={trained_run.folder}", f"out={folder}", "policy=utility"])
    return folder
