"""Plans: whom to ask now, and what follows from the answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import router
from router.artifact.plan import Plan
from router.artifact.runtime import Router
from router.errors import RouterError

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data" / "samples" / "answers.jsonl"
PROMPT = "What is 31 times 12?"
GOOD = "31 x 12 = 372\n#### 372"
BAD = "I think it is approximately 380."


def trained(folder: Path, encoder: Path, run_router: Callable[..., Any], *options: str) -> Router:
    finished = run_router(
        "train",
        "data=table",
        f"data.path={SAMPLE}",
        "encoder=sentence_transformer",
        f"encoder.name={encoder}",
        "encoder.dtype=float32",
        "estimator=marginal",
        "cost=marginal",
        "tracking=none",
        "examples=[]",
        "latest=null",
        "evaluation.resamples=20",
        f"hydra.run.dir={folder}",
        *options,
    )
    assert finished.code == 0, finished.err
    return router.load(folder / "artifact")


CASCADE = ("judge=consistency", "policy=cascade", "policy.order=rising", "policy.budget=0.0005")


@pytest.fixture
def cascade(tmp_path: Path, tiny_encoder: Path, run_router: Callable[..., Any]) -> Router:
    return trained(tmp_path / "run", tiny_encoder, run_router, *CASCADE)


def test_a_cascade_asks_the_cheap_one_first_and_goes_on_where_its_answer_is_bad(
    cascade: Router,
) -> None:
    plan = cascade.plan(PROMPT)
    assert plan.step == "acme/small"
    assert plan.answer is None
    assert plan.decision.candidate == "acme/small"
    done = plan.accept(GOOD, {"consistency": 0.98})
    assert (done.step, done.answer) == (None, "acme/small")
    more = plan.accept(BAD, {"consistency": 0.3})
    assert (more.step, more.answer) == ("acme/large", None)
    assert more.asked[0].judged < done.asked[0].judged
    end = more.accept(GOOD, {"consistency": 0.9})
    assert (end.step, end.answer) == (None, "acme/large")
    assert [step.candidate for step in end.asked] == ["acme/small", "acme/large"]
    with pytest.raises(RouterError, match="The plan is over"):
        end.accept(GOOD)


def test_samples_stand_for_their_agreement(cascade: Router) -> None:
    plan = cascade.plan(PROMPT)
    agreed = plan.accept(GOOD, {"responses": [GOOD] * 10})
    told = plan.accept(GOOD, {"consistency": 1.0})
    assert agreed.asked == told.asked


def test_a_plan_travels_as_text(cascade: Router) -> None:
    plan = cascade.plan(PROMPT, seed="7", session="s")
    token = plan.token(b"key")
    again = cascade.resume(PROMPT, token, b"key")
    assert again.step == plan.step
    assert again.decision.request_id == plan.decision.request_id
    one, two = (p.accept(BAD, {"consistency": 0.3}) for p in (plan, again))
    assert (one.step, one.asked) == (two.step, two.asked)
    third = cascade.resume(PROMPT, two.token(b"key"), b"key")
    assert third.asked == two.asked
    assert third.accept(GOOD).answer == "acme/large"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_token_is_refused(trained_plan: Plan, data: st.DataObject) -> None:
    token = trained_plan.token(b"key")
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("abcXYZ019-_.="))
    changed = token[:place] + letter + token[place + 1 :]
    if changed == token:
        return
    try:
        found = trained_plan.router.resume(PROMPT, changed, b"key")
    except RouterError:
        return
    # The last letter of base64 holds bits that mean nothing.
    assert found.step == trained_plan.step
    assert place in (token.index(".") - 1, len(token) - 1)


@pytest.fixture(scope="module")
def trained_plan(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Plan:
    from router.cli import main

    folder = tmp_path_factory.mktemp("plan") / "run"
    main(
        [
            "train", "data=table", f"data.path={SAMPLE}", "encoder=sentence_transformer",
            f"encoder.name={tiny_encoder}", "encoder.dtype=float32", "estimator=marginal",
            "cost=marginal", "tracking=none", "examples=[]", "latest=null",
            "evaluation.resamples=20", f"hydra.run.dir={folder}", *CASCADE,
        ]
    )  # fmt: skip
    return router.load(folder / "artifact").plan(PROMPT)


@pytest.mark.parametrize(
    ("prompt", "key", "message"),
    [
        ("Another prompt", b"key", "of another prompt"),
        (PROMPT, b"other", "sealed with another key"),
    ],
)
def test_a_token_of_something_else_is_refused(
    trained_plan: Plan, prompt: str, key: bytes, message: str
) -> None:
    with pytest.raises(RouterError, match=message):
        trained_plan.router.resume(prompt, trained_plan.token(b"key"), key)


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        ({"mood": 1}, "signals name 'mood'"),
        ({"consistency": "high"}, "no number"),
        ({"consistency": float("inf")}, "is infinite"),
        ({"logprobs": ["a"]}, "no number"),
        ({"responses": "one text"}, "no number; give"),
    ],
)
def test_a_bad_signal_is_told(trained_plan: Plan, signals: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterError, match=message):
        trained_plan.accept(GOOD, signals)


def test_who_fails_is_left_out(cascade: Router) -> None:
    plan = cascade.plan(PROMPT)
    other = plan.failed()
    assert other.step == "acme/large"
    assert other.accept(GOOD).answer == "acme/large"
    with pytest.raises(RouterError, match="no other candidate is eligible"):
        other.failed()
    later = plan.accept(BAD, {"consistency": 0.3}).failed()
    assert (later.step, later.answer) == (None, "acme/small")  # the only answer there is


def test_every_router_makes_a_plan_of_one_step(
    tmp_path: Path, tiny_encoder: Path, run_router: Callable[..., Any]
) -> None:
    plain = trained(tmp_path / "run", tiny_encoder, run_router, "policy=utility")
    plan = plain.plan(PROMPT, candidates=["acme/small"])
    assert plan.step == "acme/small"
    done = plan.accept("whatever")
    assert (done.step, done.answer) == (None, "acme/small")
    assert done.asked[0].judged is None


def test_the_allow_list_holds_for_every_step(cascade: Router) -> None:
    plan = cascade.plan(PROMPT, candidates=["acme/small"])
    assert plan.accept(BAD, {"consistency": 0.2}).answer == "acme/small"


def test_the_page_on_cascades_runs(cascade: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "cascades.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.S)[0]
    folder = str(cascade.folder)
    exec(code.replace("outputs/latest/artifact", folder), {})
