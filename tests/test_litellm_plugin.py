"""The plug-in inside a running LiteLLM proxy, between the OpenAI client and two local upstreams."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from conftest import TrainedRun

import router
from router.errors import RouterError
from router.serving.chat_request import RoutingOptions
from router.serving.litellm_request import binds, options_of, prompt_of
from router.serving.litellm_settings import settings_from

LITELLM = Path(sys.executable).with_name("litellm")
PRICES = {"large": (10e-6, 40e-6), "medium": (1e-6, 4e-6)}  # USD per token
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
ANSWER = "forty-two"


class Upstream:
    """An OpenAI-compatible server on a free port; it fails where a prompt speaks of an outage."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        handler = type("Handler", (_Handler,), {"asked": self.asked})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    asked: list[dict[str, Any]]

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        self._send(200, json.dumps({"object": "list", "data": []}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body)
        if "outage" in json.dumps(body.get("messages")) and body["model"] != "large-model":
            self._send(500, json.dumps({"error": {"message": "an outage"}}))
        elif self.path.endswith("/responses"):
            self._send(200, json.dumps(_response(body)))
        elif body.get("stream"):
            lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in _chunks(body)]
            self._send(200, "".join(lines) + "data: [DONE]\n\n", "text/event-stream")
        else:
            self._send(200, json.dumps(_completion(body)))

    def _send(self, status: int, text: str, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


def _completion(body: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop"}
    if "prompt" in body:
        choice["text"] = ANSWER
    else:
        choice["message"] = {"role": "assistant", "content": ANSWER}
    common = {"id": "c", "created": 1, "model": body["model"], "usage": USAGE}
    kind = "text_completion" if "prompt" in body else "chat.completion"
    return {**common, "object": kind, "choices": [choice]}


def _chunks(body: dict[str, Any]) -> list[dict[str, Any]]:
    common = {"id": "c", "created": 1, "model": body["model"], "object": "chat.completion.chunk"}
    pieces = [{"role": "assistant", "content": ANSWER[:4]}, {"content": ANSWER[4:]}]
    chunks = [{**common, "choices": [{"index": 0, "delta": piece}]} for piece in pieces]
    end = {**common, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return [*chunks, end, {**common, "choices": [], "usage": USAGE}]


def _response(body: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "output_text", "text": ANSWER, "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    usage = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "model": body["model"],
        "status": "completed", "output": [{**message, "content": [text]}], "usage": usage,
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    }  # fmt: skip


@dataclass
class Gateway:
    """A running proxy. output: what it says."""

    client: openai.OpenAI
    upstreams: dict[str, Upstream]
    logs: Path
    artifact: Path
    output: Path

    def ask(self, prompt: str, model: str = "router", **options: Any) -> Any:
        """The raw answer to one message of a user."""
        return self.client.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": prompt}], **options
        )

    def records(self, kind: str) -> list[dict[str, Any]]:
        lines = [line for file in self.logs.iterdir() for line in file.read_text().splitlines()]
        return [record for record in map(json.loads, lines) if record["kind"] == kind]

    def decision(self, answer: Any) -> dict[str, Any]:
        """The logged decision behind a raw answer."""
        named = answer.headers["x-router-request-id"]
        [found] = [r for r in self.records("decision") if r["request_id"] == named]
        return found

    def outcome(self, answer: Any) -> dict[str, Any]:
        """The logged outcome of a raw answer; LiteLLM logs some time after it answered."""
        named = answer.headers["x-router-request-id"]

        def found() -> dict[str, Any] | None:
            told = [r for r in self.records("outcome") if r["request_id"] == named]
            return told[0] if told else None

        return until(found, "an outcome")


def until(check: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {what} came")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_proxy(folder: Path, port: int, artifact: Path, config: dict[str, Any]) -> Any:
    """The proxy's process; what it says goes to output.txt."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    environment = {
        **os.environ,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": f"sk-{secrets.token_hex(32)}",
        "OMP_NUM_THREADS": "1",
        "ROUTER_ARTIFACT": str(artifact),
        "ROUTER_LOG": str(folder / "logs"),
        "ROUTER_KEEP": "text",
    }
    command = [LITELLM, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    return process, environment["LITELLM_MASTER_KEY"]


def config_of(upstreams: dict[str, Upstream]) -> dict[str, Any]:
    def deployment(group: str, model: str) -> dict[str, Any]:
        paid = PRICES["large" if model == "large-model" else "medium"]
        return {
            "model_name": group,
            "litellm_params": {
                "model": f"openai/{model}",
                "api_base": upstreams["dear" if model == "large-model" else "cheap"].url,
                "api_key": "none",
                "input_cost_per_token": paid[0],
                "output_cost_per_token": paid[1],
            },
        }

    return {
        # No group named small: it must never be chosen. The router's "medium" is an alias.
        "model_list": [
            deployment("router", "large-model"),
            deployment("large", "large-model"),
            deployment("middle", "medium-model"),
        ],
        "litellm_settings": {
            "callbacks": ["router.serving.litellm_plugin.plugin"],
            "fallbacks": [{"medium": ["large"]}],
            "num_retries": 0,
        },
        "router_settings": {"model_group_alias": {"medium": "middle"}, "disable_cooldowns": True},
    }


@pytest.fixture(scope="module")
def gateway(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    upstreams = {"dear": Upstream(), "cheap": Upstream()}
    port = free_port()
    process, key = start_proxy(folder, port, trained_run.artifact, config_of(upstreams))
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0)

    def answers() -> bool:
        assert process.poll() is None, (folder / "output.txt").read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness"):
                return True
        except urllib.error.URLError:
            return False

    try:
        until(answers, "proxy")
        yield Gateway(
            client, upstreams, folder / "logs", trained_run.artifact, folder / "output.txt"
        )
    finally:
        client.close()
        process.terminate()
        process.wait(30)
        for upstream in upstreams.values():
            upstream.close()


def test_requests_reach_the_candidate_that_the_artifact_chooses(gateway: Gateway) -> None:
    chooser = router.load(gateway.artifact)
    chosen = set()
    for number in range(8):
        prompt = f"{('poetry', 'algebra')[number % 2]} question number {number}"
        answer = gateway.ask(prompt)
        record = gateway.decision(answer)
        host, model = ("dear", "large") if record["chosen"] == "large" else ("cheap", "medium")
        asked = gateway.upstreams[host].asked[-1]
        assert (record["chosen"], asked["model"]) == (model, f"{model}-model")
        assert asked["messages"][-1]["content"] == prompt == record["prompt"]
        assert answer.parse().choices[0].message.content == ANSWER
        assert answer.headers["x-router-candidate"] == model
        # The record tells all that it takes to decide the same again.
        assert record["seed"] == answer.headers["x-litellm-call-id"]
        again = chooser.route(prompt, seed=record["seed"], candidates=["large", "medium"])
        assert (again.candidate, again.probabilities) == (model, record["probabilities"])
        assert record["candidates"] == ["large", "medium"]
        chosen.add(model)
    assert chosen == {"large", "medium"}


def test_the_outcome_tells_what_the_answer_cost(gateway: Gateway) -> None:
    for model, (per_input, per_output) in PRICES.items():
        answer = gateway.ask("algebra", extra_body=asking(candidates=[model]))
        outcome = gateway.outcome(answer)
        assert outcome["cost_usd"] == pytest.approx(11 * per_input + 7 * per_output)
        assert (outcome["input_tokens"], outcome["output_tokens"]) == (11, 7)
        assert outcome["latency_s"] > 0
        assert outcome["score"] is None
        assert gateway.decision(answer)["chosen"] == model


def asking(**options: Any) -> dict[str, Any]:
    """A request's further body with options for the router."""
    return {"metadata": {"router": options}}


def test_a_streamed_answer_is_logged_once_it_is_complete(gateway: Gateway) -> None:
    answer = gateway.ask("poetry", stream=True, extra_body=asking(candidates=["medium"]))
    pieces = [chunk.choices[0].delta.content or "" for chunk in answer.parse() if chunk.choices]
    assert "".join(pieces) == ANSWER
    assert gateway.outcome(answer)["output_tokens"] == 7


def test_other_groups_are_left_alone(gateway: Gateway) -> None:
    before = len(gateway.records("decision"))
    answer = gateway.ask("algebra", model="large")
    assert "x-router-request-id" not in answer.headers
    assert gateway.upstreams["dear"].asked[-1]["model"] == "large-model"
    assert len(gateway.records("decision")) == before


def test_the_answer_of_a_fallback_is_not_the_chosen_candidates(gateway: Gateway) -> None:
    answer = gateway.ask("outage", extra_body=asking(candidates=["medium"]))
    assert answer.headers["x-litellm-attempted-fallbacks"] == "1"
    assert gateway.upstreams["dear"].asked[-1]["messages"][-1]["content"] == "outage"
    assert gateway.decision(answer)["chosen"] == "medium"
    # By the time that a later answer is logged the fallback's was seen, too.
    gateway.outcome(gateway.ask("after it", extra_body=asking(candidates=["medium"])))
    named = answer.headers["x-router-request-id"]
    [told] = [record for record in gateway.records("outcome") if record["request_id"] == named]
    assert told["retries"] == 0  # it was asked, and that is all
    assert [told[name] for name in ("cost_usd", "output_tokens", "latency_s")] == [None] * 3


def test_a_session_keeps_its_candidate(gateway: Gateway) -> None:
    first = gateway.ask("poetry", user="ada", extra_body=asking(session="s", candidates=["medium"]))
    again = gateway.ask("algebra question number 1", user="ada", extra_body=asking(session="s"))
    told = [gateway.decision(answer) for answer in (first, again)]
    assert [record["chosen"] for record in told] == ["medium", "medium"]
    assert [record["session"] for record in told] == ["s", "s"]
    assert [record["user"] for record in told] == ["ada", "ada"]
    assert told[1]["candidates"] == ["medium"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"candidates": ["nobody"]}, "nobody"),
        ({"candidates": ["small"]}, "no model group"),
        ({"budget": -1}, "metadata.router.budget"),
        ({"budget": 1e-9}, "the cheapest is medium"),
        ({"buget": 1}, "metadata.router.buget"),
    ],
)
def test_options_that_cannot_be_kept_are_refused(
    gateway: Gateway, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=named):
        gateway.ask("algebra", extra_body=asking(**options))


def test_what_cannot_be_routed_goes_to_the_default(gateway: Gateway) -> None:
    before = len(gateway.records("decision"))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    gateway.client.chat.completions.create(
        model="router", messages=[{"role": "user", "content": [picture]}]
    )
    best = router.load(gateway.artifact).manifest["baselines"]["best_single"]
    assert best == "large"
    assert gateway.upstreams["dear"].asked[-1]["messages"][0]["content"] == [picture]
    assert len(gateway.records("decision")) == before
    assert "Not routed, large answers" in gateway.output.read_text()


def test_the_other_kinds_of_text_calls_are_routed_too(gateway: Gateway) -> None:
    only = asking(candidates=["medium"])
    text = gateway.client.completions.with_raw_response.create(
        model="router", prompt="algebra", extra_body=only
    )
    response = gateway.client.responses.with_raw_response.create(
        model="router", input="algebra", extra_body=only
    )
    ask = {"model": "router", "max_tokens": 9, "messages": [{"role": "user", "content": "algebra"}]}
    anthropic = gateway.client.post("/messages", body={**ask, **only}, cast_to=httpx.Response)
    for answer in (text, response, anthropic):
        assert gateway.decision(answer)["prompt"] == "algebra"
        assert gateway.outcome(answer)["input_tokens"] == 11
    assert [body["model"] for body in gateway.upstreams["cheap"].asked[-3:]] == ["medium-model"] * 3


def test_a_damaged_artifact_stops_the_proxy_with_one_sentence(
    artifact_copy: Path, tmp_path: Path
) -> None:
    (artifact_copy / "tokenizer.json").write_text("{}")
    process, _ = start_proxy(
        tmp_path,
        free_port(),
        artifact_copy,
        {"litellm_settings": {"callbacks": ["router.serving.litellm_plugin.plugin"]}},
    )
    assert process.wait(60) == 2
    output = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in output
    last = output.splitlines()[-1]
    assert last.startswith(f"{artifact_copy / 'tokenizer.json'}: damaged")


# ---- Without a proxy -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("ROUTER_KEEP", "all"), ("ROUTER_BUDGET", "-1"), ("ROUTER_POLL_SECONDS", "often")],
)
def test_a_bad_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(RouterError, match=f"^{name} is '{value}': "):
        settings_from({"ROUTER_ARTIFACT": "artifact", name: value})


def test_the_environment_becomes_settings() -> None:
    with pytest.raises(RouterError, match="ROUTER_ARTIFACT is not set"):
        settings_from({"ROUTER_LOG": "logs"})
    settings = settings_from(
        {"ROUTER_ARTIFACT": "a", "ROUTER_BUDGET": "0.002", "ROUTER_LOG": "", "ROUTER_PORT": "tcp"}
    )
    assert (settings.group, settings.log, settings.live.artifact) == ("router", None, "a")
    assert settings.live.pacer.budget == 0.002


@pytest.mark.parametrize(
    ("kind", "data", "prompt"),
    [
        ("acompletion", {"messages": [{"role": "user", "content": "a"}]}, "a"),
        (
            "acompletion",
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "assistant", "content": "b"},
                    {"role": "user", "content": [{"type": "text", "text": "c"}, {"type": "image"}]},
                    {"role": "tool", "content": "d"},
                ]
            },
            "c",
        ),
        ("atext_completion", {"prompt": ["a", "b"]}, "a\nb"),
        ("aresponses", {"input": [{"role": "user", "content": "a"}, {"type": "x"}]}, "a"),
    ],
)
def test_the_prompt_is_what_the_user_asked_last(kind: str, data: dict, prompt: str) -> None:
    assert prompt_of(data, kind) == prompt


@pytest.mark.parametrize(
    "content", [None, "", "  ", 7, [], [1, 2], [{"type": "image"}], [{"role": "system"}]]
)
def test_a_request_without_text_is_told(content: Any) -> None:
    for kind, place in (("acompletion", "messages"), ("atext_completion", "prompt")):
        with pytest.raises(RouterError, match="no text"):
            prompt_of({place: content}, kind)


def test_the_options_leave_the_request() -> None:
    data = {"metadata": {"router": {"candidates": ["a"]}, "mine": "1"}}
    assert options_of(data) == RoutingOptions(candidates=["a"])
    assert data == {"metadata": {"mine": "1"}}
    assert options_of(data) == RoutingOptions()


def test_a_promise_binds() -> None:
    for promise in ({"candidates": ["a"]}, {"budget": 1.0}, {"quality_floor": 0.0}):
        assert binds(RoutingOptions(**promise))
    assert not binds(RoutingOptions(session="s", seed="1", user="ada"))
