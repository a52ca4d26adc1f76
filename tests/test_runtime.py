"""The exported router in production: `router.load(DIR).route(prompt)` and `router route`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished, TrainedRun
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import router
from router.artifact.manifest import amend_manifest
from router.artifact.onnx_part import READ_CHARACTERS
from router.artifact.runtime import Router

RunRouter = Callable[..., Finished]
PRICED = Path(__file__).parent / "fixtures" / "artifact-schema-1"  # predicts tokens
STRANGE = [
    pytest.param("🎉🇵🇪👩‍👩‍👧", id="emoji"),
    pytest.param("ما هي عاصمة أستراليا؟", id="right-to-left"),
    pytest.param("half a pair: \ud83d", id="lone surrogate"),
    pytest.param("\x00\x07\x1b[31m", id="control characters"),
    pytest.param("a\u2028b\u2029c\x85d", id="line separators"),
    pytest.param("tokens " * 150_000, id="1 MB of words"),
    pytest.param("x" * 1_000_000, id="1 MB without a blank"),
    pytest.param("字" * 350_000, id="1 MB of ideographs"),
    pytest.param(" " * 10_000_000 + "late", id="10 MB of blanks"),
]


@pytest.fixture(scope="module")
def loaded(trained_run: TrainedRun) -> Router:
    return router.load(trained_run.artifact)


@pytest.fixture
def artifact(trained_run: TrainedRun) -> Path:
    return trained_run.artifact


# ---- From Python --------------------------------------------------------------------------------


def check_decision(decision: router.Decision) -> None:
    assert decision.candidate in ("large", "medium", "small")
    assert 0 < decision.probability <= 1
    assert decision.cost is not None
    for figures in (decision.quality, decision.quality_se, decision.cost):
        assert list(figures) == ["large", "medium", "small"]
        assert np.isfinite(list(figures.values())).all()
    assert min(decision.cost.values()) > 0
    assert decision.reason


@pytest.mark.parametrize("prompt", STRANGE)
def test_any_text_gets_an_answer(loaded: Router, prompt: str) -> None:
    check_decision(loaded.route(prompt))


@settings(max_examples=60, deadline=None)
@given(prompt=st.text(st.characters(codec=None), min_size=1).filter(str.strip))
def test_every_text_gets_the_same_answer_twice(loaded: Router, prompt: str) -> None:
    decision = loaded.route(prompt)
    check_decision(decision)
    assert loaded.route(prompt) == decision
    json.dumps(decision.to_dict(), allow_nan=False)


@pytest.mark.parametrize("prompt", ["", " \n\t", None, 7, b"bytes", ["a", "list"]])
def test_what_is_no_prompt_is_refused(loaded: Router, prompt: object) -> None:
    with pytest.raises(router.RouterError, match="The prompt is empty"):
        loaded.route(prompt)  # type: ignore[arg-type]


def test_a_long_prompt_is_judged_by_its_first_tokens(loaded: Router) -> None:
    start = "count " * 64  # the window of the tiny encoder
    assert loaded.route(start + "one").quality == loaded.route(start + "two " * 500).quality


def test_eight_threads_get_the_answers_of_one(loaded: Router) -> None:
    prompts = [f"question {i} about {'poetry' if i % 2 else 'algebra'}" for i in range(120)]
    alone = [loaded.route(prompt) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(loaded.route, prompts * 2))
    assert together == alone * 2


def test_encode_computes_each_prompt_as_route_does(loaded: Router) -> None:
    prompts = ["short", "a somewhat longer prompt than the other", "short"]
    vectors = loaded.encode(prompts)
    assert vectors.shape == (3, 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_array_equal(vectors[1:2], loaded.encode(prompts[1:2]))
    quality = loaded.predict(vectors[1:2]).quality[0].tolist()
    assert list(loaded.route(prompts[1]).quality.values()) == quality


LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.text(max_size=4),
        "candidates": st.lists(st.sampled_from(["large", "medium", "small"]), min_size=1),
        "session": st.none() | st.just("s"),
        "budget": st.floats(0.02, 1),
        "quality_floor": st.floats(-1, 2),
        "cost_weight": st.floats(0, 1000),
    },
)


@settings(max_examples=40, deadline=None)
@given(
    prompts=st.lists(st.text(min_size=1, max_size=40).filter(str.strip), max_size=5), limits=LIMITS
)
def test_a_batch_is_routed_as_its_prompts_are(
    loaded: Router, prompts: list[str], limits: dict[str, Any]
) -> None:
    together = loaded.route_batch(prompts, **limits)
    assert together == [loaded.route(prompt, **limits) for prompt in prompts]


def test_a_batch_with_an_empty_prompt_is_refused(loaded: Router) -> None:
    with pytest.raises(router.RouterError, match="The prompt is empty"):
        loaded.route_batch(["one", " "])


@settings(max_examples=40, deadline=None)
@given(budget=st.floats(1e-5, 0.05))
def test_nobody_dearer_than_the_budget_answers(loaded: Router, budget: float) -> None:
    cost = loaded.route("Hello").cost
    assert cost is not None
    if budget < min(cost.values()):
        cheapest = min(cost, key=cost.__getitem__)
        with pytest.raises(router.RouterError, match=f"the cheapest is {cheapest}"):
            loaded.route("Hello", budget=budget)
    else:
        decision = loaded.route("Hello", budget=budget)
        assert decision.eligible == [name for name in cost if cost[name] <= budget]
        assert cost[decision.candidate] <= budget


@settings(max_examples=40, deadline=None)
@given(floor=st.floats(-0.5, 1.5))
def test_a_floor_is_kept_or_the_best_answers(loaded: Router, floor: float) -> None:
    decision = loaded.route("Hello", quality_floor=floor)
    best = max(decision.quality.values())
    if best >= floor:
        assert decision.quality[decision.candidate] >= floor
    else:
        assert decision.quality[decision.candidate] == best
        assert "nobody is predicted to reach the floor" in decision.reason


def test_a_charge_on_costs_ends_at_the_cheapest(loaded: Router) -> None:
    free, dear = loaded.route("Hello"), loaded.route("Hello", cost_weight=1e6)
    assert dear.cost is not None
    assert dear.cost[dear.candidate] == min(dear.cost.values())
    assert dear.quality == free.quality


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"budget": 0}, "budget is 0; give USD"),
        ({"budget": float("nan")}, "budget is nan; give USD"),
        ({"quality_floor": "high"}, "quality_floor is 'high'; give a score"),
        ({"cost_weight": -1.0}, "cost_weight is -1.0; give score per USD from 0 up"),
        ({"cost_weight": float("inf")}, "cost_weight is inf; give score per USD from 0 up"),
    ],
)
def test_what_is_no_limit_is_refused(loaded: Router, limits: dict[str, Any], sentence: str) -> None:
    with pytest.raises(router.RouterError, match=sentence):
        loaded.route("Hello", **limits)


def test_new_prices_change_costs_alone() -> None:
    old = router.load(PRICED)
    prices = old.manifest["prices"]
    dearer = {
        name: {"input": 2 * price["input"], "output": 3 * price["output"], "date": "2026-06-01"}
        for name, price in prices.items()
    }
    new = old.repriced({**dearer, "another": {"input": 1.0, "output": 1.0, "date": "2026-06-01"}})
    before, after = old.route("Hello"), new.route("Hello")
    assert after.quality == before.quality
    assert after.price_version is not None
    assert after.price_version.startswith("2026-06-01")
    assert before == old.route("Hello")  # the old one keeps its prices
    assert before.cost is not None
    assert after.cost is not None
    for name, cost in after.cost.items():
        assert 2 * before.cost[name] <= cost <= 3 * before.cost[name]
    assert new.repriced(prices).route("Hello") == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"small": None}, "The prices lack 'small'; give every candidate's"),
        ({"small": {"input": 1.0, "output": 1.0}}, "The price of 'small' is"),
        ({"small": {"input": -1, "output": 1.0, "date": "2026-06-01"}}, "The price of 'small' is"),
        ({"small": {"input": 0, "output": 0, "date": "2026-06-01"}}, "The price of 'small' is"),
    ],
)
def test_what_is_no_price_list_is_refused(change: dict[str, Any], sentence: str) -> None:
    old = router.load(PRICED)
    prices = {**old.manifest["prices"], **change}
    with pytest.raises(router.RouterError, match=sentence):
        old.repriced({name: price for name, price in prices.items() if price is not None})


def test_a_router_of_dollars_cannot_be_repriced(loaded: Router) -> None:
    price = {"input": 1.0, "output": 1.0, "date": "2026-06-01"}
    with pytest.raises(router.RouterError, match="it predicts dollars and no tokens"):
        loaded.repriced(dict.fromkeys(loaded.candidates, price))


@settings(max_examples=15, deadline=None)
@given(piece=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_what_is_not_read_lies_beyond_the_window(trained_run: TrainedRun, piece: str) -> None:
    tokenizer = Tokenizer.from_file(str(trained_run.artifact / "tokenizer.json"))
    text = piece * (2 * READ_CHARACTERS // len(piece))
    read = tokenizer.encode(text[:READ_CHARACTERS]).ids
    if len(read) == 64:  # the window is full
        assert read == tokenizer.encode(text).ids


def test_what_follows_the_characters_that_are_read_counts_for_nothing(loaded: Router) -> None:
    text = "word " * (READ_CHARACTERS // 5)
    np.testing.assert_array_equal(loaded.encode([text]), loaded.encode([text + "more " * 10**6]))


def test_two_loads_agree(loaded: Router, artifact_copy: Path) -> None:
    assert router.load(str(artifact_copy)).route("Hello") == loaded.route("Hello")
    assert router.load(artifact_copy).identity == loaded.identity


def test_a_mixed_policy_keeps_its_shares_and_stays_with_its_answer(
    artifact_copy: Path, loaded: Router
) -> None:
    weights = {"dear_weight": 0.0, "cheap_weight": "inf", "dear_share": 0.25}
    amend_manifest(artifact_copy, policy={"name": "Budget", "budget": 0.003, **weights})
    mixed = router.load(artifact_copy)
    prompts = [f"question number {i}" for i in range(400)]
    decisions = [mixed.route(prompt) for prompt in prompts]
    assert decisions[:50] == [mixed.route(prompt) for prompt in prompts[:50]]
    cheap = [decision for decision in decisions if decision.candidate == "small"]
    assert {round(decision.probability, 6) for decision in cheap} <= {0.75, 1.0}
    # Four standard errors of a share of 400 draws.
    assert abs(len(cheap) / 400 - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 400)


# ---- From the command line ----------------------------------------------------------------------


def test_route_shows_every_candidate_and_the_reason(
    run_router: RunRouter, artifact: Path, loaded: Router
) -> None:
    finished = run_router("route", "--artifact", artifact, "Hello", "Good bye")
    assert finished.code == 0
    assert finished.err == ""
    first, second = loaded.route("Hello"), loaded.route("Good bye")
    lines = finished.out.splitlines()
    assert len(lines) == 8
    assert lines[0] == f"{first.candidate}: {first.reason}"
    assert lines[4] == f"{second.candidate}: {second.reason}"
    assert sum(line.startswith("  * ") for line in lines) == 2


@pytest.mark.parametrize("prompt", STRANGE[:6])
def test_route_writes_one_json_object_per_prompt(
    run_router: RunRouter, artifact: Path, loaded: Router, prompt: str
) -> None:
    finished = run_router("route", "--artifact", artifact, "--json", prompt, "Hello")
    assert finished.code == 0
    first, second = finished.out.rstrip("\n").split("\n")
    answer, decision = json.loads(first), loaded.route(prompt).to_dict()
    assert answer.pop("request_id") != decision.pop("request_id")
    assert answer == {"prompt": prompt, **decision}
    assert json.loads(second)["prompt"] == "Hello"


def route_in_a_process(
    artifact: Path, *arguments: str, stdin: bytes = b"", encoding: str = "utf-8"
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "router.cli", "route", "--artifact", str(artifact), *arguments],
        input=stdin,
        capture_output=True,
        env={"PYTHONIOENCODING": encoding, "PATH": ""},
        timeout=120,
        check=False,
    )


def test_route_reads_lines_from_standard_input(artifact: Path) -> None:
    lines = ["one", "zwei €", "ثلاثة", "bad \udcff byte"]
    stdin = "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n"
    done = route_in_a_process(artifact, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.decode().rstrip("\n").split("\n")]
    assert [answer["prompt"] for answer in answers] == [*lines[:3], "bad \ufffd byte"]


@pytest.mark.parametrize("json_too", [True, False])
def test_a_terminal_without_unicode_still_gets_an_answer(artifact: Path, json_too: bool) -> None:
    arguments = ["--json"] if json_too else []
    done = route_in_a_process(artifact, *arguments, "🎉", encoding="ascii")
    assert done.returncode == 0, done.stderr
    if json_too:
        assert json.loads(done.stdout.decode())["prompt"] == "🎉"
    else:
        assert b"\\xb1" in done.stdout  # plus-minus, spelled out


def test_a_reader_that_goes_away_ends_the_command_quietly(artifact: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "router.cli", "route", "--artifact", str(artifact)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"one\n")
    process.stdin.flush()
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, told = process.communicate(b"two\n" * 2000, timeout=120)
    assert process.returncode == 141
    assert told == b""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--artifact", "{artifact}", ""], "router: prompt 1: The prompt is empty; give the text"),
        (["--artifact", "{artifact}", "a", " "], "router: prompt 2: The prompt is empty"),
        (["--artifact", "nowhere", "a"], "router: nowhere: no artifact here"),
        ([], "the following arguments are required: --artifact"),
        (["--artifact", "{artifact}", "--jsn", "a"], "unrecognized arguments: --jsn"),
    ],
)
def test_route_says_what_is_wrong(
    run_router: RunRouter, artifact: Path, arguments: list[str], sentence: str
) -> None:
    finished = run_router("route", *[text.format(artifact=artifact) for text in arguments])
    assert finished.code == 2
    assert sentence in finished.err


def test_an_empty_line_of_standard_input_is_named(
    run_router: RunRouter, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n\nthree\n")))
    finished = run_router("route", "--artifact", artifact)
    assert finished.code == 2
    assert finished.err.startswith("router: standard input, line 2: The prompt is empty")
    assert len(finished.out.splitlines()) == 4  # the first line was answered
