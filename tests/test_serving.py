"""`router serve`, as a process of its own, asked over real sockets."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Finished, TrainedRun
from prometheus_client.parser import text_string_to_metric_families

import router
from router.outcomes.log_lines import read_log

PROMPT = "poetry question number 1"
PATIENCE = 60.0
TOKENS = ["first-token-0123456789", "second-token-0123456789"]
# What the serve tier does not bring.
ABSENT = ("faiss", "joblib", "lightgbm", "matplotlib", "mlflow", "pandas", "pyarrow", "scipy",
          "sentence_transformers", "sklearn", "torch")  # fmt: skip


@dataclass(frozen=True)
class Running:
    """A service. log: folder of its decisions."""

    process: subprocess.Popen[str]
    address: str
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "decisions"

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=PATIENCE, **options)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def decisions(self) -> list[str]:
        """The request ids that are on disk."""
        return [record["request_id"] for record in read_log(self.log).decisions]


@contextmanager
def running(artifact: Path, folder: Path, *options: str, code: str = "") -> Iterator[Running]:
    """A service on a free port, until the block ends. code: what its interpreter runs first."""
    folder.mkdir(parents=True, exist_ok=True)
    program = f"{code}\nfrom router.cli import main\nmain()"
    given = ["serve", f"artifact={artifact}", "port=0", *options]
    told = (folder / "err.txt").open("w")
    with told, subprocess.Popen(
        [sys.executable, "-c", program, *given],
        cwd=folder, stdout=subprocess.PIPE, stderr=told, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found, (folder / "err.txt").read_text()
            yield Running(process, found.group(), folder)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()


@pytest.fixture(scope="module")
def service(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two workers without tokens, and small limits."""
    limits = ["limits.body_bytes=20000", "limits.body_seconds=0.5", "limits.batch=10",
              "limits.prompt_characters=5000", "workers=2"]  # fmt: skip
    with running(trained_run.artifact, tmp_path_factory.mktemp("serve"), *limits) as found:
        yield found


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    with service.client() as found:
        yield found


def fault_of(answer: httpx.Response) -> str:
    """The message of a fault, whose form is checked."""
    error = answer.json()["error"]
    assert {"message", "type"} <= set(error)
    assert "Traceback" not in answer.text
    assert answer.headers["x-request-id"]
    return str(error["message"])


def counted(page: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_a_decision_is_the_routers_own_and_is_logged(
    client: httpx.Client, service: Running, trained_run: TrainedRun
) -> None:
    answer = client.post("/v1/route", json={"prompt": PROMPT, "seed": "s", "session": "c"})
    assert answer.status_code == 200
    expected = router.load(trained_run.artifact).route(PROMPT, seed="s", session="c")
    assert router.Decision(**answer.json()) == expected
    assert answer.json()["request_id"] in service.decisions()
    assert answer.headers["x-router-request-id"] == answer.json()["request_id"]


def test_a_batch_is_as_its_prompts_alone(client: httpx.Client, service: Running) -> None:
    prompts = [PROMPT, "algebra question number 2"]
    batch = client.post("/v1/route/batch", json={"prompts": prompts, "seed": "s"}).json()
    alone = [client.post("/v1/route", json={"prompt": p, "seed": "s"}).json() for p in prompts]
    assert [d["candidate"] for d in batch["decisions"]] == [d["candidate"] for d in alone]
    assert {d["request_id"] for d in batch["decisions"]} <= set(service.decisions())


def test_wishes_are_kept(client: httpx.Client) -> None:
    only = client.post("/v1/route", json={"prompt": PROMPT, "candidates": ["small"]}).json()
    assert (only["candidate"], only["eligible"]) == ("small", ["small"])
    poor = client.post("/v1/route", json={"prompt": PROMPT, "budget": 1e-12})
    assert poor.status_code == 400
    assert "cheapest" in fault_of(poor) or "budget" in fault_of(poor)


@pytest.mark.parametrize("several", [False, True])
def test_outcomes_reach_the_log(client: httpx.Client, service: Running, several: bool) -> None:
    name = client.post("/v1/route", json={"prompt": PROMPT}).json()["request_id"]
    outcome = {"request_id": name, "score": 0.25, "cost_usd": 0.001, "source": "judge"}
    answer = client.post("/v1/outcomes", json=[outcome] if several else outcome)
    assert (answer.status_code, answer.json()) == (200, {"accepted": 1})
    [record] = [r for r in read_log(service.log).outcomes if r["request_id"] == name]
    assert (record["score"], record["source"]) == (0.25, "judge")


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/v1/route", {}, "prompt"),
        ("/v1/route", {"prompt": ""}, "prompt"),
        ("/v1/route", {"prompt": "  "}, "prompt"),
        ("/v1/route", {"prompt": 5}, "prompt"),
        ("/v1/route", {"prompt": "x", "budget": -1}, "budget"),
        ("/v1/route", {"prompt": "x", "quality_floor": 2}, "quality_floor"),
        ("/v1/route", {"prompt": "x", "candidates": ["nobody"]}, "nobody"),
        ("/v1/route", {"prompt": "x", "secret-text": 1}, "unknown"),
        ("/v1/route/batch", {"prompts": []}, "prompts"),
        ("/v1/outcomes", {"request_id": "x", "score": 3}, "score"),
        ("/v1/outcomes", {"request_id": "x"}, ""),
    ],
)
def test_a_faulty_request_is_told_where(
    client: httpx.Client, path: str, body: dict[str, Any], place: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 400
    message = fault_of(answer)
    assert place in message
    assert "secret-text" not in message


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 10_000, b'{"prompt": "\\ud800"}', b"NaN"])
def test_what_is_no_sound_json_is_refused(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/v1/route", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    fault_of(answer)


def test_what_is_too_large_is_413_also_in_pieces(client: httpx.Client) -> None:
    long = {"prompt": "x" * 30_000}
    assert client.post("/v1/route", json=long).status_code == 413
    pieces = (b'{"prompt": "' + b"x" * 1000 for _ in range(40))
    chunked = client.post("/v1/route", content=pieces, headers={"content-type": "application/json"})
    assert chunked.status_code == 413
    assert client.post("/v1/route", json={"prompt": "x" * 6000}).status_code == 413
    assert client.post("/v1/route/batch", json={"prompts": ["x"] * 11}).status_code == 413


def test_a_body_that_does_not_come_is_408(service: Running) -> None:
    host, port = service.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as line:
        head = "POST /v1/route HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        line.sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
        assert line.recv(100).startswith(b"HTTP/1.1 408 ")


def test_paths_and_methods_that_are_not_there(client: httpx.Client) -> None:
    for answer, status in ((client.get("/nothing"), 404), (client.get("/v1/route"), 405)):
        assert answer.status_code == status
        fault_of(answer)


def test_health_readiness_and_the_api_page(client: httpx.Client, trained_run: TrainedRun) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["artifact"] == router.load(trained_run.artifact).manifest["sha256"]
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/route", "/v1/route/batch", "/v1/outcomes", "/healthz", "/readyz"} <= set(paths)
    assert {"400", "401", "413", "429", "503"} <= set(paths["/v1/route"]["post"]["responses"])


def test_the_metrics_are_those_of_all_workers(service: Running, client: httpx.Client) -> None:
    def routed() -> float:
        page = client.get("/metrics").text
        return counted(page, "router_requests_total", path="/v1/route", status="200")

    before = routed()
    asked = 0

    def ask(_: int) -> None:
        with service.client() as own:  # a connection of its own: either worker's
            own.post("/v1/route", json={"prompt": PROMPT}).raise_for_status()

    end = time.monotonic() + PATIENCE
    with ThreadPoolExecutor(8) as pool:
        while asked < 32 or len(list(service.log.glob("*.jsonl"))) < 2:  # both have answered
            list(pool.map(ask, range(8)))
            asked += 8
            assert time.monotonic() < end
    while routed() != before + asked:  # a response is counted once it has gone out
        assert time.monotonic() < end


def test_nothing_of_a_prompt_is_printed_or_logged(service: Running, client: httpx.Client) -> None:
    secret = "a-very-secret-word"
    client.post("/v1/route", json={"prompt": secret}).raise_for_status()
    client.post("/v1/route", json={"prompt": secret, "candidates": ["nobody"]})
    client.post("/v1/route", json={"prompt": [secret]})
    assert secret not in (service.folder / "err.txt").read_text()
    assert all(secret not in file.read_text() for file in service.log.glob("*.jsonl"))


def test_tokens_and_what_is_open_without(trained_run: TrainedRun, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# ours\n" + "\n".join(TOKENS))
    options = [f"access.tokens_file={tokens}", "log.folder=null"]
    with running(trained_run.artifact, tmp_path / "run", *options) as service:
        with service.client() as client:
            body = {"prompt": PROMPT}
            for wrong in (None, "Bearer wrong", f"Basic {TOKENS[0]}", "Bearer", TOKENS[0]):
                headers = {} if wrong is None else {"authorization": wrong}
                answer = client.post("/v1/route", json=body, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Bearer")
                fault_of(answer)
            for token in TOKENS:
                headers = {"authorization": f"Bearer {token}"}
                assert client.post("/v1/route", json=body, headers=headers).status_code == 200
            assert client.get("/metrics").status_code == 401
            assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
            outcome = {"request_id": "x", "score": 1.0}
            refused = client.post("/v1/outcomes", json=outcome, headers=headers)
            assert "log.folder" in fault_of(refused)
        assert not service.log.exists()
        assert service.end() == 0
    assert TOKENS[0] not in (tmp_path / "run" / "err.txt").read_text()


def test_under_load_some_are_turned_away_at_once_and_none_fails(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    options = ["queue.threads=1", "queue.waiting=1", "limits.batch=300", "log.folder=null"]
    with running(trained_run.artifact, tmp_path, *options) as service, service.client() as client:
        batch = {"prompts": [PROMPT] * 300}
        with ThreadPoolExecutor(12) as pool:
            asked = [pool.submit(client.post, "/v1/route/batch", json=batch) for _ in range(12)]
            answers = [one.result() for one in asked]
        assert {answer.status_code for answer in answers} == {200, 429}
        refused = [answer for answer in answers if answer.status_code == 429]
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        fault_of(refused[0])
        assert client.post("/v1/route", json={"prompt": PROMPT}).status_code == 200


def test_sigterm_under_load_loses_no_accepted_decision(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    accepted: list[str] = []
    enough = threading.Event()

    def ask(address: str) -> None:
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            try:
                while True:
                    answer = client.post("/v1/route", json={"prompt": PROMPT})
                    assert answer.status_code in (200, 429)
                    if answer.status_code == 200:
                        accepted.append(answer.json()["request_id"])
                    if len(accepted) > 50:
                        enough.set()
            except httpx.TransportError:  # it has ended
                return

    with running(trained_run.artifact, tmp_path, "workers=2") as service:
        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask, service.address) for _ in range(8)]
            assert enough.wait(PATIENCE)
            assert service.end() == 0
            for one in asking:
                one.result()
        assert set(accepted) <= set(service.decisions())
        assert len(accepted) == len(set(accepted)) > 50


def test_a_killed_worker_is_replaced_and_what_it_accepted_stays(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    with running(trained_run.artifact, tmp_path) as service:
        with service.client() as client:
            first = client.post("/v1/route", json={"prompt": PROMPT}).json()["request_id"]
        [file] = service.log.glob("*.jsonl")
        os.kill(int(file.stem.split("-")[2]), signal.SIGKILL)  # the name holds the process
        end = time.monotonic() + PATIENCE
        second = None
        while second is None:
            assert time.monotonic() < end
            try:
                with service.client() as client:
                    second = client.post("/v1/route", json={"prompt": PROMPT}).json()["request_id"]
            except httpx.TransportError:  # nobody has taken over yet
                time.sleep(0.01)
        assert service.end() == 0
        assert service.decisions() == [first, second]


def test_it_serves_without_the_training_tier(trained_run: TrainedRun, tmp_path: Path) -> None:
    # Workers are new interpreters: the modules are made to fail for them too, by files of the name.
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    for name in ABSENT:
        (shadow / f"{name}.py").write_text(f"raise ImportError('no {name} in the serve tier')")
    code = f"import os, sys; sys.path.insert(0, {str(shadow)!r}); "
    code += f"os.environ['PYTHONPATH'] = {str(shadow)!r}"
    with running(trained_run.artifact, tmp_path / "run", code=code) as service:
        with service.client() as client:
            assert client.post("/v1/route", json={"prompt": PROMPT}).status_code == 200
        assert service.end() == 0


def test_what_is_set_wrongly_is_told_in_one_sentence(
    run_router: Callable[..., Finished],
    trained_run: TrainedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    artifact = f"artifact={trained_run.artifact}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options, told in [
            ([], "artifact"),
            ([artifact, f"port={port}"], f"port={port}"),
            ([artifact, "limits.batch=0"], "limits.batch"),
            ([artifact, "access.tokens_file=missing"], "access.tokens_file"),
            ([artifact, "access.tokens_env=NOT_SET_HERE"], "NOT_SET_HERE"),
            (["artifact=missing", "port=0"], "missing"),
        ]:
            done = run_router("serve", *options)
            assert done.code == 2, done.err
            assert told in done.err
            assert "Traceback" not in done.err


def test_a_broken_request_does_not_end_the_service(service: Running) -> None:
    host, port = service.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as line:
        line.sendall(b"no http at all\r\n\r\n")
        answer = line.recv(1000)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert "error" in json.loads(answer.partition(b"\r\n\r\n")[2])
