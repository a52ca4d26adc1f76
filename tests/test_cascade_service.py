"""Cascades over HTTP: plans step by step, and behind the OpenAI-compatible front."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, OpenAI
from upstream_server import Answers, Hangs, Refuses, UpstreamServer, serving, upstream_server

from router.serving.app import create_app
from router.serving.settings import ServeSettings

# LiteLLM's own, in every stream.
pytestmark = pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier.*:UserWarning")
SAMPLE = Path(__file__).parents[1] / "data" / "samples" / "answers.jsonl"
PROMPT = "What is 31 times 12?"
GOOD = "31 x 12 = 372\n#### 372"
BAD = "I think it is approximately 380."


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """A cascade that judges answers by what they look like."""
    from router.cli import main

    folder = tmp_path_factory.mktemp("cascade") / "run"
    main(
        [
            "train", "data=table", f"data.path={SAMPLE}", "encoder=sentence_transformer",
            f"encoder.name={tiny_encoder}", "encoder.dtype=float32", "estimator=marginal",
            "cost=marginal", "tracking=none", "examples=[]", "latest=null",
            "evaluation.resamples=20", f"hydra.run.dir={folder}", "judge=answer",
            "judge.reads=[features]", "policy=cascade", "policy.order=rising",
            "policy.budget=0.0005",
        ]
    )  # fmt: skip
    return folder / "artifact"


@pytest.fixture
def upstream() -> Iterator[UpstreamServer]:
    with upstream_server() as server:
        yield server


@dataclass(frozen=True)
class Service:
    """A running service. http: without OpenAI's client. client: with it."""

    http: httpx.Client
    client: OpenAI
    log: Path

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def ask(self, **options: Any) -> Any:
        given = {"model": "router", "messages": [{"role": "user", "content": PROMPT}], **options}
        return self.client.chat.completions.with_raw_response.create(**given)

    def records(self, kind: str) -> list[dict[str, Any]]:
        lines = [line for file in self.log.glob("*") for line in file.read_text().splitlines()]
        return [record for record in map(json.loads, lines) if record["kind"] == kind]


@pytest.fixture
def service(artifact: Path, upstream: UpstreamServer, tmp_path: Path) -> Iterator[Service]:
    settings = ServeSettings.model_validate(
        {
            "live": {"artifact": str(artifact)},
            "log": {"folder": str(tmp_path / "log"), "sync": False},
            "upstreams": {
                "candidates": {
                    f"acme/{size}": {
                        "model": f"openai/{size}",
                        "api_base": upstream.url,
                        "max_retries": 0,
                        "timeout_seconds": 1.0,
                    }
                    for size in ("small", "large")
                }
            },
        }
    )
    with (
        serving(create_app(settings)) as address,
        httpx.Client(base_url=address) as http,
        OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0) as client,
    ):
        yield Service(http, client, tmp_path / "log")


# ---- Step by step --------------------------------------------------------------------------------


def test_a_plan_goes_on_until_an_answer_stands(service: Service) -> None:
    begun = service.post("/v1/plan", prompt=PROMPT).json()
    assert begun["step"] == "acme/small"
    told = {"prompt": PROMPT, "token": begun["token"]}
    done = service.post("/v1/plan/next", **told, response=GOOD).json()
    assert (done["step"], done["answer"], done["token"]) == (None, "acme/small", None)
    more = service.post("/v1/plan/next", **told, response=BAD).json()
    assert more["step"] == "acme/large"
    assert more["request_id"] != begun["request_id"]
    assert more["asked"][0]["judged"] < done["asked"][0]["judged"]
    told["token"] = more["token"]
    end = service.post("/v1/plan/next", **told, response=GOOD).json()
    assert (end["step"], end["answer"]) == (None, "acme/large")
    logged = {record["request_id"]: record["chosen"] for record in service.records("decision")}
    assert logged == {begun["request_id"]: "acme/small", more["request_id"]: "acme/large"}


def test_a_step_that_failed_is_left_out(service: Service) -> None:
    begun = service.post("/v1/plan", prompt=PROMPT).json()
    other = service.post("/v1/plan/next", prompt=PROMPT, token=begun["token"], response=None)
    assert other.json()["step"] == "acme/large"


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"token": "x.y"}, 400, "token is damaged"),
        ({"prompt": "Another."}, 400, "of another prompt"),
        ({"response": 7}, 400, "response"),
        ({"signals": {"mood": 1}}, 400, "signals: it holds a key that is unknown"),
        ({"signals": {"consistency": 2}}, 400, "consistency"),
    ],
)
def test_bad_steps_are_refused_in_one_sentence(
    service: Service, change: dict[str, Any], status: int, message: str
) -> None:
    begun = service.post("/v1/plan", prompt=PROMPT).json()
    body = {"prompt": PROMPT, "token": begun["token"], "response": GOOD, **change}
    found = service.post("/v1/plan/next", **body)
    assert found.status_code == status
    assert message in found.json()["error"]["message"]


# ---- Behind the front ----------------------------------------------------------------------------


def test_a_good_answer_of_the_cheap_one_is_passed_on(
    service: Service, upstream: UpstreamServer
) -> None:
    upstream.does(small=Answers(GOOD, usage=(20, 10)), large=Answers("never"))
    raw = service.ask()
    assert raw.parse().choices[0].message.content == GOOD
    assert raw.headers["x-router-candidate"] == "acme/small"
    assert raw.headers["x-router-steps"].startswith("acme/small=0.")
    assert upstream.models == ["small"]
    (outcome,) = service.records("outcome")
    assert (outcome["input_tokens"], outcome["output_tokens"]) == (20, 10)


@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_answer_leads_to_the_next(
    service: Service, upstream: UpstreamServer, stream: bool
) -> None:
    upstream.does(small=Answers(BAD), large=Answers(GOOD))
    raw = service.ask(
        stream=stream, **({"stream_options": {"include_usage": True}} if stream else {})
    )
    if stream:
        chunks = list(raw.parse())
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert chunks[-1].usage.completion_tokens == 5
        assert chunks[-2].choices[0].finish_reason == "stop"
    else:
        text = raw.parse().choices[0].message.content
    assert text == GOOD
    assert raw.headers["x-router-candidate"] == "acme/large"
    assert upstream.models == ["small", "large"]
    decisions = {record["request_id"]: record["chosen"] for record in service.records("decision")}
    assert decisions[raw.headers["x-router-request-id"]] == "acme/large"
    assert sorted(decisions.values()) == ["acme/large", "acme/small"]
    assert {record["request_id"] for record in service.records("outcome")} == set(decisions)


@pytest.mark.parametrize("fault", [Refuses(500), Hangs()])
def test_a_step_that_fails_is_passed_over(
    service: Service, upstream: UpstreamServer, fault: Any
) -> None:
    upstream.does(small=fault, large=Answers(GOOD))
    raw = service.ask()
    assert raw.parse().choices[0].message.content == GOOD
    assert raw.headers["x-router-fallbacks"].startswith("acme/small=")


def test_the_answer_there_is_stands_where_the_next_fails(
    service: Service, upstream: UpstreamServer
) -> None:
    upstream.does(small=Answers(BAD), large=Refuses(503))
    raw = service.ask()
    assert raw.parse().choices[0].message.content == BAD
    assert raw.headers["x-router-candidate"] == "acme/small"


def test_where_all_fail_the_client_is_told(service: Service, upstream: UpstreamServer) -> None:
    upstream.does(small=Refuses(500), large=Refuses(503))
    with pytest.raises(APIStatusError) as caught:
        service.ask()
    assert caught.value.status_code == 502


def test_a_call_of_a_tool_stands_unjudged(service: Service, upstream: UpstreamServer) -> None:
    upstream.does(small=Answers(tool="look_up"), large=Answers("never"))
    raw = service.ask()
    assert raw.parse().choices[0].message.tool_calls[0].function.name == "look_up"


def test_the_allow_list_keeps_a_cascade_to_one_step(
    service: Service, upstream: UpstreamServer
) -> None:
    upstream.does(small=Answers(BAD), large=Answers("never"))
    raw = service.ask(extra_body={"router": {"candidates": ["acme/small"]}})
    assert raw.parse().choices[0].message.content == BAD
