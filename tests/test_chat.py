"""The OpenAI-compatible front, driven by OpenAI's own client over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from pydantic import ValidationError

import router
from router.cli import main
from router.outcomes.log_join import join_outcomes
from router.outcomes.log_lines import read_log
from router.serving.answer_books import cost_of
from router.serving.chat import routes
from router.serving.chat_request import ChatRequest, RoutingOptions
from router.serving.choosing import fallbacks_of
from router.serving.live import Live
from router.serving.live_settings import LiveSettings
from router.serving.sessions import Sessions
from router.serving.upstream_settings import FallbackSettings, Upstream, UpstreamSettings
from router.serving.upstreams import Upstreams, Usage
from tests.conftest import ROOT, TrainedRun
from tests.upstream_server import (
    Answers,
    Breaks,
    Hangs,
    Raw,
    Refuses,
    UpstreamServer,
    serving,
    upstream_server,
)

# LiteLLM turns some warnings off when it is imported, and pytest turns them on again.
pytestmark = pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier.*:UserWarning")

KEY = "sk-1234567890-top-secret"
PROMPT = "poetry question number 1"
SAID = "Lima is the capital."
PATIENCE = 20.0
# LiteLLM knows the price of what stands behind "medium"; of the others it knows none.
MODELS = {"large": "big-one", "medium": "gpt-4o-mini", "small": "tiny-one"}


@pytest.fixture(scope="module")
def artifact(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chooses by quality alone."""
    out = tmp_path_factory.mktemp("chat") / "artifact"
    main(["export", f"run={trained_run.folder}", f"out={out}", "policy=utility"])
    return out


@pytest.fixture(scope="module")
def exploring_artifact(trained_run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chat") / "artifact"
    policy = ["policy=epsilon_greedy", "policy.epsilon=0.6"]
    main(["export", f"run={trained_run.folder}", f"out={out}", *policy])
    return out


@pytest.fixture(scope="module")
def running() -> Iterator[UpstreamServer]:
    with upstream_server() as server:
        yield server


@pytest.fixture
def upstream(running: UpstreamServer) -> UpstreamServer:
    """Answers everything until told otherwise."""
    running.script.clear()
    running.asked.clear()
    return running


class LogRecorder:
    """What the front needs of the service's recorder, straight on a decision log."""

    def __init__(self, log: router.DecisionLog):
        self._log = log

    async def decision(
        self, decision: router.Decision, prompt: str, user: str | None = None
    ) -> None:
        self._log.decision(decision, prompt, user=user)

    async def outcome(self, request_id: str, **fields: Any) -> None:
        self._log.outcome(request_id, **fields)


@dataclass(frozen=True)
class Front:
    """A running front. client: OpenAI's, without retries. log: folder of its decision log."""

    client: OpenAI
    live: Live
    log: Path
    address: str

    def ask(self, prompt: str = PROMPT, **options: Any) -> Any:
        """The parsed answer."""
        return self.ask_raw(prompt, **options).parse()

    def ask_raw(self, prompt: str = PROMPT, **options: Any) -> Any:
        given = {"model": "router", "messages": [{"role": "user", "content": prompt}], **options}
        return self.client.chat.completions.with_raw_response.create(**given)

    def records(self, kind: str) -> list[dict[str, Any]]:
        lines = [
            line for file in sorted(self.log.glob("*")) for line in file.read_text().splitlines()
        ]
        return [record for record in map(json.loads, lines) if record["kind"] == kind]

    def outcome_of(self, request_id: str) -> dict[str, Any]:
        """The only outcome of a request, once it is there."""
        wait_for(lambda: any(r["request_id"] == request_id for r in self.records("outcome")))
        (record,) = (r for r in self.records("outcome") if r["request_id"] == request_id)
        return record


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def settings_for(upstream: UpstreamServer, **settings: Any) -> UpstreamSettings:
    """Three candidates behind one server; each_* goes to every candidate."""
    each = {name[5:]: settings.pop(name) for name in list(settings) if name.startswith("each_")}
    candidates = {
        name: {"model": f"openai/{model}", "api_base": upstream.url, "max_retries": 0, **each}
        for name, model in MODELS.items()
    }
    return UpstreamSettings.model_validate({"candidates": candidates, **settings})


@pytest.fixture
def front(artifact: Path, upstream: UpstreamServer, tmp_path: Path) -> Callable[..., Any]:
    """Starts a front: `with front(deadline_seconds=1) as started`."""

    @contextmanager
    def start(
        chooser: Path = artifact, live_settings: dict[str, Any] | None = None, **settings: Any
    ) -> Iterator[Front]:
        given = {"artifact": str(chooser), "poll_seconds": 3600, **(live_settings or {})}
        live = Live(LiveSettings.model_validate(given))
        log = router.DecisionLog(tmp_path / "log", keep="text", sync=False)

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> Any:
            live.start()
            app.state.live, app.state.recorder = live, LogRecorder(log)
            yield
            live.close()
            log.close()

        app = FastAPI(lifespan=lifespan)
        app.include_router(routes(settings_for(upstream, **settings)))
        with (
            serving(app) as address,
            OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0) as client,
        ):
            yield Front(client, live, log.folder, address)

    return start


Start = Callable[..., Any]


# ---- A whole answer ------------------------------------------------------------------------------


def test_a_routed_request_is_answered_logged_and_paid(
    front: Start, upstream: UpstreamServer
) -> None:
    with front() as started:
        raw = started.ask_raw(temperature=0.5, user="ann", extra_headers={"x-router-seed": "s"})
        expected = started.live.router.route(PROMPT, seed="s")
        answer = raw.parse()
        (decision,) = started.records("decision")
        outcome = started.outcome_of(raw.headers["x-router-request-id"])
    assert answer.choices[0].message.content == SAID
    assert answer.model == f"{MODELS[expected.candidate]}-2026-01-01"
    assert answer.usage.total_tokens == 17
    (asked,) = upstream.asked
    assert asked.model == MODELS[expected.candidate]
    assert asked.body["messages"] == [{"role": "user", "content": PROMPT}]
    assert asked.body["temperature"] == 0.5
    assert raw.headers["x-router-candidate"] == expected.candidate == decision["chosen"]
    assert float(raw.headers["x-router-probability"]) == expected.probability
    assert raw.headers["x-router-reason"] == expected.reason
    assert raw.headers["x-router-artifact"] == expected.artifact
    assert raw.headers["x-router-fallbacks"] == ""
    assert decision["request_id"] == raw.headers["x-router-request-id"]
    assert decision["prompt"] == PROMPT
    assert decision["probabilities"] == expected.probabilities
    assert (decision["user"], decision["seed"]) == ("ann", "s")
    assert (outcome["input_tokens"], outcome["output_tokens"]) == (12, 5)
    assert outcome["retries"] == 0
    assert outcome["latency_s"] > 0
    assert outcome["score"] is None


def test_a_cost_is_tokens_at_the_artifacts_prices_else_at_litellms(
    front: Start, upstream: UpstreamServer
) -> None:
    prices = {"large": {"input": 2.0, "output": 8.0, "date": "2026-01-01"}}
    assert cost_of(prices, "large", Usage(1_000_000, 500_000, 0.5)) == 6.0
    assert cost_of(prices, "small", Usage(10, 10, 0.5)) == 0.5
    assert cost_of(None, "small", Usage(10, 10, None)) is None
    assert cost_of(prices, "large", None) is None
    with front() as started:  # its artifact has no prices: its log had dollars
        priced = started.ask_raw(extra_headers={"x-router-candidates": "medium"})
        unpriced = started.ask_raw(extra_headers={"x-router-candidates": "small"})
        ids = [raw.headers["x-router-request-id"] for raw in (priced, unpriced)]
        costs = [started.outcome_of(name)["cost_usd"] for name in ids]
    assert costs[0] == pytest.approx(12 * 0.15e-6 + 5 * 0.6e-6)
    assert costs[1] is None


def test_without_counts_of_the_upstream_no_tokens_are_logged(
    front: Start, upstream: UpstreamServer
) -> None:
    for model in MODELS.values():
        upstream.does(**{model: Answers(usage=None)})
    with front() as started:
        whole = started.ask_raw()
        stream = started.ask_raw(stream=True, stream_options={"include_usage": True})
        chunks = list(stream.parse())
        ids = [raw.headers["x-router-request-id"] for raw in (whole, stream)]
        outcomes = [started.outcome_of(name) for name in ids]
    assert whole.parse().usage is None
    assert all(chunk.usage is None for chunk in chunks)
    for outcome in outcomes:
        assert outcome["input_tokens"] is outcome["output_tokens"] is outcome["cost_usd"] is None
        assert outcome["latency_s"] > 0


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def test_tools_go_through_both_ways(front: Start, upstream: UpstreamServer) -> None:
    for model in MODELS.values():
        upstream.does(**{model: Answers(tool="weather")})
    with front() as started:
        whole = started.ask(tools=[TOOL], tool_choice="auto")
        with started.client.chat.completions.stream(
            model="router", messages=[{"role": "user", "content": PROMPT}], tools=[TOOL]
        ) as stream:
            streamed = stream.get_final_completion()
        call = whole.choices[0].message.tool_calls[0]
        history = [
            {"role": "user", "content": PROMPT},
            {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
            {"role": "tool", "content": "20 degrees", "tool_call_id": call.id},
        ]
        started.client.chat.completions.create(model="router", messages=history, tools=[TOOL])
        prompts = [record["prompt"] for record in started.records("decision")]
    for answer in (whole, streamed):
        assert answer.choices[0].finish_reason == "tool_calls"
        assert not answer.choices[0].message.content
        (called,) = answer.choices[0].message.tool_calls
        assert called.function.name == "weather"
        assert json.loads(called.function.arguments) == {"city": "Lima"}
    assert upstream.asked[0].body["tools"] == [TOOL]
    assert upstream.asked[0].body["tool_choice"] == "auto"
    sent = upstream.asked[2].body["messages"]
    assert sent[0] == history[0]
    assert sent[1]["tool_calls"] == history[1]["tool_calls"]
    assert sent[2] == history[2]
    assert prompts == [PROMPT] * 3  # the user's last words, not the tool's


# ---- Streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [True, False])
def test_a_stream_tells_its_usage_to_the_log_and_to_a_caller_who_asks(
    front: Start, upstream: UpstreamServer, wanted: bool
) -> None:
    options = {"stream_options": {"include_usage": True}} if wanted else {}
    with front() as started:
        raw = started.ask_raw(stream=True, **options)
        chunks = list(raw.parse())
        outcome = started.outcome_of(raw.headers["x-router-request-id"])
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == SAID
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    told = [chunk.usage.total_tokens for chunk in chunks if chunk.usage]
    assert told == ([17] if wanted else [])
    assert all(chunk.choices for chunk in chunks if not chunk.usage)
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.headers["x-router-candidate"]
    assert upstream.asked[0].body["stream_options"] == {"include_usage": True}
    assert (outcome["input_tokens"], outcome["output_tokens"]) == (12, 5)
    assert outcome["latency_s"] > 0


def test_an_upstream_that_must_not_be_asked_for_usage_is_not(
    front: Start, upstream: UpstreamServer
) -> None:
    with front(each_stream_usage=False) as started:
        assert len(list(started.ask_raw(stream=True).parse())) > 1
    assert "stream_options" not in upstream.asked[0].body


def test_a_stream_that_breaks_ends_with_an_error_event(
    front: Start, upstream: UpstreamServer
) -> None:
    for model in MODELS.values():
        upstream.does(**{model: Breaks(words=2)})
    with front() as started:
        raw = started.ask_raw(stream=True)
        seen: list[Any] = []
        with pytest.raises(openai.APIError, match="broke off its answer"):
            seen.extend(raw.parse())
        outcome = started.outcome_of(raw.headers["x-router-request-id"])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in seen) == "Lima is"
    assert len(upstream.asked) == 1  # nobody else was asked for the rest
    assert outcome["latency_s"] is outcome["cost_usd"] is None


@pytest.mark.parametrize("failure", [Breaks(0), Hangs(0), Hangs(), Refuses(500), Raw(b"{no json")])
def test_a_stream_falls_back_before_its_first_word(
    front: Start, upstream: UpstreamServer, failure: Any
) -> None:
    with front(each_timeout_seconds=0.3) as started:
        first = started.live.router.route(PROMPT).candidate
        upstream.does(**{MODELS[first]: failure})
        raw = started.ask_raw(stream=True)
        text = "".join(c.choices[0].delta.content or "" for c in raw.parse() if c.choices)
    assert text == SAID
    assert raw.headers["x-router-fallbacks"].startswith(f"{first}=")
    assert raw.headers["x-router-candidate"] != first
    assert len(upstream.asked) == 2


def test_a_silent_stream_is_left(front: Start, upstream: UpstreamServer) -> None:
    for model in MODELS.values():
        upstream.does(**{model: Hangs(words=2)})
    with front(each_timeout_seconds=0.3) as started:
        with pytest.raises(openai.APIError, match="broke off") as caught:
            list(started.ask_raw(stream=True).parse())
        assert upstream.asked[0].left.wait(PATIENCE)
    assert caught.value.code == "timeout"


def test_a_caller_who_goes_away_frees_the_upstream_and_is_logged(
    front: Start, upstream: UpstreamServer
) -> None:
    for model in MODELS.values():
        upstream.does(**{model: Hangs(words=2)})
    with front() as started:
        raw = started.ask_raw(stream=True)
        stream = raw.parse()
        next(stream)
        stream.close()
        assert upstream.asked[0].left.wait(PATIENCE)
        outcome = started.outcome_of(raw.headers["x-router-request-id"])
    assert outcome["latency_s"] is None


# ---- Failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Refuses(500), "server_error"),
        (Refuses(503), "server_error"),
        (Refuses(429), "rate_limit"),
        (Refuses(401, f"wrong key {KEY}"), "denied"),
        (Refuses(404), "denied"),
        (Raw(b"{no json"), "server_error"),
        (Raw(b"{}"), "server_error"),
        (Hangs(), "timeout"),
    ],
    ids=str,
)
def test_another_candidate_answers_where_an_upstream_fails(
    front: Start, upstream: UpstreamServer, failure: Any, kind: str
) -> None:
    with front(each_timeout_seconds=0.3) as started:
        chosen = started.live.router.route(PROMPT)
        upstream.does(**{MODELS[chosen.candidate]: failure})
        raw = started.ask_raw(extra_headers={"x-router-session": "chat-1"})
        first, second = started.records("decision")
        failed = started.outcome_of(first["request_id"])
        answered = started.outcome_of(second["request_id"])
    best = sorted((n for n in MODELS if n != chosen.candidate), key=lambda n: -chosen.quality[n])
    assert raw.parse().choices[0].message.content == SAID
    assert upstream.models == [MODELS[chosen.candidate], MODELS[best[0]]]
    assert raw.headers["x-router-fallbacks"] == f"{chosen.candidate}={kind}"
    assert raw.headers["x-router-candidate"] == best[0]
    assert raw.headers["x-router-request-id"] == second["request_id"]
    assert f"{chosen.candidate} failed ({kind})" in raw.headers["x-router-reason"]
    # The draw stays as it was; the answer has a decision of its own, which was none.
    assert first["chosen"] == chosen.candidate
    assert first["probabilities"] == chosen.probabilities
    assert (failed["retries"], failed["input_tokens"], failed["latency_s"]) == (0, None, None)
    assert second["chosen"] == best[0]
    assert second["probabilities"] == {n: float(n == best[0]) for n in chosen.probabilities}
    assert (second["candidates"], second["policy"]) == ([best[0]], "Fallback")
    assert second["session"] == first["session"] == "chat-1"
    assert answered["input_tokens"] == 12


def test_a_score_is_credited_to_whoever_answered(front: Start, upstream: UpstreamServer) -> None:
    with front() as started:
        chosen = started.live.router.route(PROMPT).candidate
        upstream.does(**{MODELS[chosen]: Refuses(500)})
        raw = started.ask_raw()
        with router.DecisionLog(started.log) as log:
            log.outcome(raw.headers["x-router-request-id"], score=1.0, source="user")
        joined = join_outcomes(read_log(started.log))
    (scored,) = joined.decisions
    assert scored["chosen"] == raw.headers["x-router-candidate"] != chosen
    assert joined.without_score == {chosen: 1}


def test_an_upstream_that_nobody_serves_is_a_broken_connection(
    front: Start, upstream: UpstreamServer
) -> None:
    with front(each_api_base="http://127.0.0.1:1/v1") as started:
        with pytest.raises(openai.InternalServerError) as caught:
            started.ask()
        (decision,) = started.records("decision")
        outcome = started.outcome_of(decision["request_id"])
    assert caught.value.status_code == 502
    assert caught.value.code == "connection"
    for name in MODELS:
        assert f"{name} (connection)" in caught.value.message
        assert f"{name}=connection" in caught.value.response.headers["x-router-fallbacks"]
    assert outcome["retries"] == 0
    assert outcome["score"] is None


def test_a_faulty_request_is_the_callers_and_asks_nobody_else(
    front: Start, upstream: UpstreamServer
) -> None:
    for model in MODELS.values():
        upstream.does(**{model: Refuses(400, "temperature is too high")})
    with front() as started, pytest.raises(openai.BadRequestError) as caught:
        started.ask(temperature=2.0)
    assert caught.value.body["message"] == "temperature is too high"
    assert len(upstream.asked) == 1


def test_when_all_are_rate_limited_so_is_the_caller(front: Start, upstream: UpstreamServer) -> None:
    for model in MODELS.values():
        upstream.does(**{model: Refuses(429, retry_after="7")})
    with front() as started, pytest.raises(openai.RateLimitError) as caught:
        started.ask()
    assert caught.value.response.headers["retry-after"] == "7"
    assert len(upstream.asked) == 3


def test_only_the_stated_failures_fall_back_and_in_the_stated_order(
    front: Start, upstream: UpstreamServer
) -> None:
    for model in MODELS.values():
        upstream.does(**{model: Refuses(500)})
    with front(fallback={"order": ["small", "medium", "large"]}) as started:
        chosen = started.live.router.route(PROMPT).candidate
        with pytest.raises(openai.InternalServerError):
            started.ask()
        in_order = upstream.models
        upstream.asked.clear()
        with pytest.raises(openai.InternalServerError):
            started.ask(extra_headers={"x-router-candidates": f"{chosen},small"})
        among_allowed = upstream.models
    upstream.asked.clear()
    with (
        front(fallback={"failures": ["timeout"]}) as started,
        pytest.raises(openai.InternalServerError),
    ):
        started.ask()
    not_on = upstream.models
    upstream.asked.clear()
    with front(fallback={"order": []}) as started, pytest.raises(openai.InternalServerError):
        started.ask()
    rest = [n for n in ("small", "medium", "large") if n != chosen]
    assert in_order == [MODELS[name] for name in (chosen, *rest)]
    assert among_allowed == [MODELS[chosen], MODELS["small"]]
    assert not_on == upstream.models == [MODELS[chosen]]


def test_a_second_try_is_counted(front: Start, upstream: UpstreamServer) -> None:
    for model in MODELS.values():
        upstream.does(**{model: [Refuses(503), Answers()]})
    with front(each_max_retries=2) as started:
        raw = started.ask_raw()
        outcome = started.outcome_of(raw.headers["x-router-request-id"])
    assert len(upstream.asked) == 2
    assert outcome["retries"] == 1
    assert raw.headers["x-router-fallbacks"] == ""


def test_the_deadline_holds_for_all_tries_together(front: Start, upstream: UpstreamServer) -> None:
    for model in MODELS.values():
        upstream.does(**{model: Hangs()})
    with front(deadline_seconds=0.5) as started, pytest.raises(openai.APIStatusError) as caught:
        started.ask()
    assert caught.value.status_code == 504
    assert caught.value.code == "timeout"
    assert len(upstream.asked) == 1
    assert upstream.asked[0].left.wait(PATIENCE)


def test_a_decision_that_cannot_be_logged_asks_nobody(
    front: Start, upstream: UpstreamServer
) -> None:
    with front() as started:
        shutil.rmtree(started.log)
        with pytest.raises(openai.InternalServerError) as caught:
            started.ask()
    assert caught.value.status_code == 503
    assert upstream.asked == []


def test_many_callers_at_once_get_their_own_answers(front: Start, upstream: UpstreamServer) -> None:
    with front() as started, ThreadPoolExecutor(16) as pool:
        raws = list(pool.map(started.ask_raw, [f"poetry question {n}" for n in range(64)]))
        decisions = {r["request_id"]: r for r in started.records("decision")}
        outcomes = [r["request_id"] for r in started.records("outcome")]
    assert len({raw.headers["x-router-request-id"] for raw in raws}) == 64
    for number, raw in enumerate(raws):
        record = decisions[raw.headers["x-router-request-id"]]
        assert record["prompt"] == f"poetry question {number}"
    assert sorted(outcomes) == sorted(decisions)


# ---- What a request asks of the router -----------------------------------------------------------


def test_a_budget_and_an_allow_list_are_kept_by_header_and_by_body(
    front: Start, upstream: UpstreamServer
) -> None:
    with front() as started:
        cost = started.live.router.route(PROMPT).cost
        cheap = f"{cost['small'] * 1.01:.9f}"
        by_header = started.ask_raw(extra_headers={"x-router-budget": cheap})
        by_body = started.ask_raw(extra_body={"router": {"budget": float(cheap)}})
        listed = started.ask_raw(extra_body={"router": {"candidates": ["small"]}})
        with pytest.raises(openai.BadRequestError, match="small"):
            started.ask(extra_headers={"x-router-budget": "1e-9"})
        with pytest.raises(openai.BadRequestError, match="nobody"):
            started.ask(extra_headers={"x-router-candidates": "small, nobody"})
        asked = len(upstream.asked)
        upstream.does(**{MODELS["small"]: Refuses(500)})
        with pytest.raises(openai.InternalServerError):  # no fallback beyond the budget
            started.ask(extra_headers={"x-router-budget": cheap})
        records = started.records("decision")
    for raw in (by_header, by_body, listed):
        assert raw.headers["x-router-candidate"] == "small"
    assert asked == 3
    assert len(upstream.asked) == 4
    assert [record["candidates"] for record in records] == [["small"]] * 4


def test_a_quality_floor_orders_the_fallbacks_and_a_budget_bars_them() -> None:
    decision = router.Decision(
        candidate="a",
        probability=1.0,
        quality={"a": 0.9, "b": 0.4, "c": 0.6, "d": 0.5},
        quality_se={},
        cost={"a": 1.0, "b": 0.1, "c": 3.0, "d": 0.2},
        reason="best",
        ask={"a": 1.0},
        latency=None,
        probabilities={"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0},
        eligible=["a", "b", "c", "d"],
        seed="",
        session=None,
        artifact="sha",
        policy="Utility",
        price_version=None,
    )
    everybody = ["a", "b", "c", "d"]

    def order(options: RoutingOptions, fixed: list[str] | None = None) -> list[str]:
        return fallbacks_of(decision, everybody, options, fixed)

    assert order(RoutingOptions()) == ["c", "d", "b"]
    assert order(RoutingOptions(budget=1.0)) == ["d", "b"]
    assert order(RoutingOptions(), ["b", "a", "c"]) == ["b", "c"]
    assert order(RoutingOptions(budget=1.0), ["b", "a", "c"]) == ["b"]
    assert order(RoutingOptions(), []) == []
    flat = replace(decision, quality=dict.fromkeys("abcd", 0.5))
    assert fallbacks_of(flat, everybody, RoutingOptions(), None) == ["b", "d", "c"]


def test_a_session_keeps_its_candidate_and_the_log_says_so(
    front: Start, upstream: UpstreamServer, exploring_artifact: Path
) -> None:
    header = {"x-router-session": "chat-1"}
    with front(exploring_artifact) as started:
        raws = [started.ask_raw(f"question {n}", extra_headers=header) for n in range(12)]
        alone = [started.ask_raw(f"question {n}") for n in range(24)]
        records = started.records("decision")[:12]
    first = raws[0].headers["x-router-candidate"]
    assert {raw.headers["x-router-candidate"] for raw in raws} == {first}
    assert len({raw.headers["x-router-candidate"] for raw in alone}) > 1
    assert 0 < float(raws[0].headers["x-router-probability"]) < 1
    assert records[0]["policy"] == "EpsilonGreedy"
    for raw, record in zip(raws[1:], records[1:], strict=True):
        assert raw.headers["x-router-probability"] == "1"
        assert raw.headers["x-router-reason"] == f"the session stays with {first}"
        assert record["probabilities"] == {name: float(name == first) for name in MODELS}
        assert (record["candidates"], record["policy"]) == ([first], "StickySession")
        assert record["session"] == "chat-1"


def test_a_session_moves_where_its_candidate_is_barred_too_dear_or_failing(
    front: Start, upstream: UpstreamServer
) -> None:
    with front() as started:
        cost = started.live.router.route(PROMPT).cost

        def ask(session: str, **headers: str) -> str:
            named = {f"x-router-{name.replace('_', '-')}": value for name, value in headers.items()}
            raw = started.ask_raw(extra_headers={"x-router-session": session, **named})
            return raw.headers["x-router-candidate"]

        first = ask("barred")
        assert ask("barred", candidates="small") == "small" != first
        assert ask("barred") == "small"
        assert ask("dear") == first
        assert ask("dear", budget=f"{cost['small'] * 1.01:.9f}") == "small"
        assert ask("failing") == first
        upstream.does(**{MODELS[first]: [Refuses(500), Answers()]})
        other = ask("failing")
        assert other != first
        assert ask("failing") == other
    with front(sticky_seconds=0) as started:
        assert ask("off", candidates="small") == "small"
        assert ask("off") == first


def test_the_kill_switch_goes_before_a_session_and_does_not_change_it(
    front: Start, upstream: UpstreamServer, tmp_path: Path
) -> None:
    switch = tmp_path / "kill"
    session = {"x-router-session": "chat-1"}
    settings = {"kill_switch": {"file": switch, "candidate": "small"}}
    with front(live_settings=settings) as started:

        def answers() -> str:
            return started.ask_raw(extra_headers=session).headers["x-router-candidate"]

        first = answers()
        switch.touch()
        wait_for(lambda: answers() == "small")
        switch.unlink()
        wait_for(lambda: answers() == first)
    assert first != "small"


def test_the_pacer_is_told_what_was_paid_and_for_whom(
    front: Start, upstream: UpstreamServer, tmp_path: Path
) -> None:
    settings = {"pacer": {"budget": 1.0, "state": tmp_path / "pacer.db"}}
    with front(live_settings=settings) as started:

        def spent() -> float:
            pacer = started.live.describe()["pacer"]
            return pacer["mean_cost"] * pacer["decided"]

        started.ask(extra_headers={"x-router-candidates": "medium"})
        paid = 12 * 0.15e-6 + 5 * 0.6e-6
        assert spent() == pytest.approx(paid)
        # Nobody answers: nothing is paid, in place of what was predicted.
        upstream.does(**{MODELS["medium"]: Refuses(500)})
        with pytest.raises(openai.InternalServerError):
            started.ask(extra_headers={"x-router-candidates": "medium"})
        assert spent() == pytest.approx(paid)
        # Another answers: its cost is the query's.
        upstream.does(**{MODELS["medium"]: Answers(), MODELS["large"]: Refuses(500)})
        assert started.live.router.route(PROMPT).candidate == "large"
        started.ask(extra_headers={"x-router-candidates": "large,medium"})
        assert spent() == pytest.approx(2 * paid)


def test_of_a_vote_the_weightiest_answers_and_its_outcome_is_not_learned_from(
    front: Start, upstream: UpstreamServer, trained_run: TrainedRun, tmp_path: Path
) -> None:
    out = tmp_path / "artifact"
    policy = ["policy=subset", "policy.least_confidence=0"]
    main(["export", f"run={trained_run.folder}", f"out={out}", *policy])
    with front(out) as started:
        raw = started.ask_raw()
        started.outcome_of(raw.headers["x-router-request-id"])
        (decision,) = started.records("decision")
        joined = join_outcomes(read_log(started.log))
    assert len(decision["ask"]) > 1
    assert raw.headers["x-router-candidate"] == max(decision["ask"], key=decision["ask"].get)
    assert len(upstream.asked) == 1
    assert joined.asked_several == 1


@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from("xy"), st.floats(0, 4)), max_size=40
    )
)
def test_sessions_are_few_and_forgotten_in_time(steps: list[tuple[str, str, float]]) -> None:
    now = 0.0
    sessions = Sessions(seconds=5, most=2, clock=lambda: now)
    last: dict[str, tuple[str, float]] = {}
    for session, candidate, pause in steps:
        now += pause
        sessions.keep(session, candidate)
        last.pop(session, None)
        last[session] = (candidate, now)
        newest = list(last)[-2:]
        assert len(sessions) <= 2
        for name, (kept, at) in last.items():
            remembered = name in newest and now - at < 5
            assert sessions.candidate(name) == (kept if remembered else None)


def test_each_request_is_drawn_anew_unless_it_brings_a_seed(
    front: Start, upstream: UpstreamServer, exploring_artifact: Path
) -> None:
    seed = {"x-router-seed": "mine"}
    with front(exploring_artifact) as started:
        anew = {started.ask_raw().headers["x-router-candidate"] for _ in range(30)}
        same = {started.ask_raw(extra_headers=seed).headers["x-router-candidate"] for _ in range(8)}
        seeds = [record["seed"] for record in started.records("decision")]
    assert len(anew) > 1
    assert len(same) == 1
    assert len(set(seeds[:30])) == 30
    assert seeds[30:] == ["mine"] * 8


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def test_what_is_routed_is_the_users_last_text_or_the_whole_conversation(
    front: Start, upstream: UpstreamServer
) -> None:
    parts = [{"type": "text", "text": "What is this?"}, PICTURE, {"type": "text", "text": "Tell!"}]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": parts},
    ]
    prompts = {}
    for rule in ("last_user", "conversation"):
        with front(prompt=rule) as started:
            started.client.chat.completions.create(model="router", messages=messages)
            with pytest.raises(openai.BadRequestError, match="no text of a user to route by"):
                started.client.chat.completions.create(
                    model="router", messages=[{"role": "user", "content": [PICTURE]}]
                )
            prompts[rule] = started.records("decision")[-1]["prompt"]
    assert prompts == {
        "last_user": "What is this?\nTell!",
        "conversation": "Be brief.\n\nHello\n\nHi\n\nWhat is this?\nTell!",
    }
    assert upstream.asked[0].body["messages"] == messages


# ---- Models and names ----------------------------------------------------------------------------


def test_a_candidate_can_be_named_and_is_then_not_logged(
    front: Start, upstream: UpstreamServer
) -> None:
    with front(names=["router", "auto"]) as started:
        listed = [model.id for model in started.client.models.list()]
        named = started.ask_raw(model="small")
        streamed = list(started.ask_raw(model="small", stream=True).parse())
        aliased = started.ask_raw(model="auto")
        upstream.does(**{MODELS["small"]: Refuses(500)})
        with pytest.raises(openai.InternalServerError):  # whom a caller names nobody stands in for
            started.ask(model="small")
        with pytest.raises(openai.NotFoundError, match="unknown here"):
            started.ask(model="gpt-7")
        with pytest.raises(openai.BadRequestError, match="for the router to keep"):
            started.ask(model="small", extra_headers={"x-router-budget": "1"})
        logged = started.records("decision")
    assert listed == ["router", "auto", "large", "medium", "small"]
    assert named.headers["x-router-candidate"] == "small"
    assert named.headers["x-router-reason"] == "asked by name"
    assert "x-router-request-id" not in named.headers
    assert len(streamed) > 1
    assert [r["request_id"] for r in logged] == [aliased.headers["x-router-request-id"]]


def test_a_candidate_without_an_upstream_is_not_chosen(
    artifact: Path, front: Start, upstream: UpstreamServer, caplog: pytest.LogCaptureFixture
) -> None:
    only = {"small": {"model": "openai/tiny-one", "api_base": upstream.url}}
    with front(candidates=only) as started:
        raw = started.ask_raw()
        with pytest.raises(openai.BadRequestError, match="None of large has an upstream"):
            started.ask(extra_headers={"x-router-candidates": "large"})
    assert raw.headers["x-router-candidate"] == "small"
    assert "No upstream for large, medium: not chosen." in caplog.messages


# ---- Faulty requests -----------------------------------------------------------------------------

MESSAGES = [{"role": "user", "content": PROMPT}]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"messages": MESSAGES}, "model: Field required."),
        ({"model": "router", "messages": []}, "messages: "),
        ({"model": "router", "messages": [{"role": "king", "content": "x"}]}, "messages.0.role: "),
        ({"model": "router", "messages": [{"role": "developer"}]}, "needs content"),
        (
            {"model": "router", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "needs the field image_url",
        ),
        ({"model": "router", "messages": MESSAGES, "n": 0}, "n: "),
        ({"model": "router", "messages": MESSAGES, "temperature": float("nan")}, "temperature: "),
        ({"model": "router", "messages": MESSAGES, "router": {"budget": -1}}, "router.budget: "),
        ({"model": "router", "messages": MESSAGES, "router": {"speed": 1}}, "router.speed: "),
        # What LiteLLM would read as an address, a key or an order.
        ({"model": "router", "messages": MESSAGES, "api_base": "http://evil"}, "'api_base' is unk"),
        ({"model": "small", "messages": MESSAGES, "mock_response": "hi"}, "'mock_response' is unk"),
        ({"model": "router", "messages": MESSAGES, "extra_body": {"model": "x"}}, "'extra_body' i"),
        ({"model": "router", "messages": MESSAGES, "stop": "\ud83d"}, "half a character"),
        ({"model": "router", "messages": MESSAGES, "tools": [{"x": "\ud83d"}]}, "half a character"),
    ],
)
def test_a_faulty_request_is_told_where(
    front: Start, upstream: UpstreamServer, body: dict[str, Any], told: str
) -> None:
    with front() as started:
        response = post(started, json.dumps(body).encode())
    assert response.status_code == 400
    error = response.json()["error"]
    assert told in error["message"]
    assert error["type"] == "invalid_request_error"
    assert PROMPT not in response.text
    assert upstream.asked == []


@pytest.mark.parametrize("content", [b"", b"{no", b"[]", b"7", b'"text"', b"[" * 5000, b"\xff"])
def test_what_is_no_json_object_is_refused(
    front: Start, upstream: UpstreamServer, content: bytes
) -> None:
    with front() as started:
        response = post(started, content)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_a_faulty_header_is_told(front: Start, upstream: UpstreamServer) -> None:
    with front() as started, pytest.raises(openai.BadRequestError, match="budget"):
        started.ask(extra_headers={"x-router-budget": "much"})
    assert upstream.asked == []


def post(started: Front, content: bytes) -> httpx.Response:
    return httpx.post(
        f"{started.address}/v1/chat/completions",
        content=content,
        headers={"content-type": "application/json"},
    )


def test_listed_parameters_are_passed_on(front: Start, upstream: UpstreamServer) -> None:
    with front(extra_parameters=["top_k"], each_known_parameters=["user"]) as started:
        started.ask(extra_body={"top_k": 40}, user="ann")
        started.ask(verbosity="low")
    with (
        front(drop_params=False) as started,
        pytest.raises(openai.BadRequestError, match="verbosity"),
    ):
        started.ask(verbosity="low")
    assert upstream.asked[0].body["top_k"] == 40
    assert upstream.asked[0].body["user"] == "ann"
    assert "verbosity" not in upstream.asked[1].body
    assert len(upstream.asked) == 2


def test_the_api_is_described(front: Start, upstream: UpstreamServer) -> None:
    with front() as started:
        described = httpx.get(f"{started.address}/openapi.json").json()
    operation = described["paths"]["/v1/chat/completions"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema["$ref"] == "#/components/schemas/ChatRequest"
    assert {"200", "400", "502", "504"} <= set(operation["responses"])
    assert "x-router-budget" in {parameter["name"] for parameter in operation["parameters"]}


@given(
    text=st.text(st.characters(codec="utf-8")),
    parts=st.lists(st.text(st.characters(codec="utf-8"))),
)
def test_the_prompt_of_any_conversation_is_its_text(text: str, parts: list[str]) -> None:
    request = ChatRequest.model_validate(
        {
            "model": "router",
            "messages": [
                {"role": "user", "content": text},
                {"role": "user", "content": [{"type": "text", "text": part} for part in parts]},
            ],
        }
    )
    last = "\n".join(part for part in parts if part)
    if last.strip():
        assert request.prompt("last_user") == last
    else:
        with pytest.raises(router.RouterError):
            request.prompt("last_user")
    if (text + last).strip():
        assert request.prompt("conversation") == "\n\n".join(t for t in (text, last) if t)


# ---- Keys and logs -------------------------------------------------------------------------------


def test_a_key_comes_from_the_environment_and_goes_to_its_upstream_alone(
    front: Start, upstream: UpstreamServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    with front(each_api_key_env="ACME_KEY", each_headers={"x-team": "search"}) as started:
        started.ask()
    with front() as started:
        started.ask()
    assert upstream.asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert upstream.asked[0].headers["x-team"] == "search"
    assert "else" not in str(upstream.asked[1].headers)


@pytest.mark.parametrize("stream", [False, True])
def test_no_prompt_and_no_key_is_in_any_log_line_or_error(
    front: Start,
    upstream: UpstreamServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    stream: bool,
) -> None:
    monkeypatch.setenv("ACME_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    secret = "poetry about my secret operation"
    with front(each_api_key_env="ACME_KEY", each_timeout_seconds=0.3, names=["router"]) as started:
        for behaviour in (
            Answers(text="the answer's secret"),
            Refuses(500, f"{secret} {KEY}"),
            Refuses(429, f"{secret} {KEY}"),
            Refuses(401, f"Incorrect API key provided: {KEY}"),
            Raw(secret.encode()),
            Hangs(),
        ):
            for model in MODELS.values():
                upstream.does(**{model: behaviour})
            if isinstance(behaviour, Answers):
                list(started.ask_raw(secret, stream=True).parse())
                started.ask(secret)
                continue
            with pytest.raises(openai.APIError) as caught:
                started.ask(secret, stream=stream)
            assert KEY not in caught.value.message
            assert "secret" not in caught.value.message
        for model in MODELS.values():
            upstream.does(**{model: Refuses(400, f"bad key {KEY}")})
        with pytest.raises(openai.BadRequestError) as caught:
            started.ask(secret, stream=stream)
        assert caught.value.body["message"] == "bad key ***"
    # OpenAI's client in this process logs what it sends: its lines are the caller's own.
    written = [record.getMessage() for record in caplog.records] + list(capfd.readouterr())
    assert any("failed: rate_limit" in line for line in written)
    assert not [line for line in written if "secret" in line or KEY in line]


def test_litellm_is_silent_and_keeps_to_itself(front: Start, upstream: UpstreamServer) -> None:
    import litellm

    with front() as started:
        started.ask()
    assert litellm.suppress_debug_info
    assert litellm.turn_off_message_logging
    for callbacks in (litellm.callbacks, litellm.success_callback, litellm.failure_callback):
        assert callbacks == []


# ---- Settings ------------------------------------------------------------------------------------


def test_settings_refuse_a_key_and_do_not_show_it() -> None:
    for wrong in (
        {"api_key": KEY},
        {"api_key_env": KEY},
        {"headers": {"Authorization": f"Bearer {KEY}"}},
    ):
        with pytest.raises(ValidationError) as caught:
            UpstreamSettings.model_validate({"candidates": {"a": {"model": "openai/a", **wrong}}})
        assert KEY not in str(caught.value)


def test_a_missing_key_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACME_KEY", raising=False)
    settings = {"candidates": {"a": {"model": "openai/a", "api_key_env": "ACME_KEY"}}}
    with pytest.raises(router.RouterError, match=r"candidates\.a\.api_key_env names ACME_KEY"):
        Upstreams(UpstreamSettings.model_validate(settings)).start()


def test_an_artifact_whose_candidates_have_no_upstream_stops_the_start(artifact: Path) -> None:
    settings = {"candidates": {"other": {"model": "openai/a", "api_base": "http://127.0.0.1:1"}}}
    app = FastAPI()
    app.state.live = Live(LiveSettings(artifact=str(artifact)))
    app.state.live.start()
    app.include_router(routes(UpstreamSettings.model_validate(settings)))

    async def start() -> None:
        async with app.router.lifespan_context(app):
            pass

    try:
        with pytest.raises(router.RouterError, match="has an upstream"):
            asyncio.run(start())
    finally:
        app.state.live.close()


def test_upstreams_can_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "upstreams.yaml"
    file.write_text("candidates:\n  acme/large: {model: openai/large, timeout_seconds: 3}\n")
    read = UpstreamSettings(file=file).read_candidates()
    assert read["acme/large"].timeout_seconds == 3
    both = {"file": file, "candidates": {"a": {"model": "openai/a"}}}
    with pytest.raises(router.RouterError, match="both candidates and file"):
        UpstreamSettings.model_validate(both).read_candidates()


def test_the_config_tells_every_setting_and_what_holds_without_it() -> None:
    config = (ROOT / "conf" / "serve.yaml").read_text()
    comment = config.partition("with candidates as here):\n")[2].partition("upstreams: null")[0]
    told = yaml.safe_load("\n".join(line.removeprefix("#") for line in comment.splitlines()))
    upstream = Upstream(model="openai/NAME")
    assert UpstreamSettings.model_validate(told) == UpstreamSettings(candidates={"NAME": upstream})
    assert set(told) == set(UpstreamSettings.model_fields) - {"file"}
    assert set(told["candidates"]["NAME"]) == set(Upstream.model_fields)
    assert set(told["fallback"]) == set(FallbackSettings.model_fields)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("candidates: [", "is no YAML"),
        ("7", "is no YAML"),
        ("candidates: {a: {modell: x}}", "candidates.a.model: Field required"),
        ("a: {model: x}", "candidates: Field required"),
        (None, "cannot be read"),
    ],
)
def test_a_faulty_file_of_upstreams_is_told(tmp_path: Path, content: str | None, told: str) -> None:
    file = tmp_path / "upstreams.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(router.RouterError, match=r"upstreams\.file: ") as caught:
        UpstreamSettings(file=file).read_candidates()
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "upstreams.candidates is empty"),
        ({"candidates": {"router": {"model": "openai/a"}}}, "upstreams.names holds 'router'"),
        (
            {"candidates": {"a": {"model": "openai/a"}}, "fallback": {"order": ["b"]}},
            "upstreams.fallback.order names 'b'",
        ),
    ],
)
def test_settings_at_odds_are_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(router.RouterError, match=told):
        routes(UpstreamSettings.model_validate(settings))
