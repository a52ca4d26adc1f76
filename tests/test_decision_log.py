"""The decision log: written by the runtime, crash-safe, and read back with its outcomes."""

from __future__ import annotations

import inspect
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Finished, TrainedRun
from hypothesis import given, settings
from hypothesis import strategies as st
from test_architecture import run_guarded

import router
from router.artifact.allow_list import decide_among
from router.artifact.manifest import amend_manifest
from router.errors import RouterError
from router.outcomes.decision_log import DecisionData
from router.outcomes.decisions import Decisions
from router.outcomes.log_join import join_outcomes
from router.outcomes.log_lines import LogLines, read_log
from router.outcomes.log_records import prompt_sha256
from router.policies import (
    Allocation,
    Budget,
    CheapestAdequate,
    EpsilonGreedy,
    HardCap,
    PerQueryBudget,
    Policy,
    Subset,
    Thompson,
    Threshold,
    UpperConfidence,
    Utility,
    uniform_of,
)
from router.prediction import Prediction

RunRouter = Callable[..., Finished]
SAMPLE = ROOT / "data" / "samples" / "decisions.jsonl"
PROBABILITIES = {"large": 0.5, "medium": 0.25, "small": 0.25}


def make_decision(**changes: Any) -> router.Decision:
    fields = {
        "candidate": "large",
        "probability": 0.5,
        "quality": {"large": 0.9, "medium": 0.8, "small": 0.4},
        "quality_se": {"large": 0.1, "medium": 0.1, "small": 0.1},
        "cost": {"large": 0.01, "medium": 0.001, "small": 0.0001},
        "reason": "best predicted quality",
        "ask": {"large": 1.0},
        "latency": None,
        "probabilities": PROBABILITIES,
        "eligible": ["large", "medium", "small"],
        "seed": "",
        "session": None,
        "artifact": "a" * 64,
        "policy": "Thompson",
        "price_version": None,
    }
    return router.Decision(**{**fields, **changes})


def ids_of(lines: LogLines) -> list[str]:
    return [record["request_id"] for record in lines.decisions]


# ---- Writing and reading back -------------------------------------------------------------------

TEXTS = st.text(st.characters(codec=None), min_size=1).filter(str.strip)
AMOUNTS = st.none() | st.floats(0, 1e12) | st.integers(0, 10**9)


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(TEXTS | TEXTS.map(lambda text: text * 5000), min_size=1, max_size=4),
    score=st.floats(0, 1),
    amounts=st.lists(AMOUNTS, min_size=5, max_size=5),
    keep=st.sampled_from(["hash", "text"]),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    prompts: list[str],
    score: float,
    amounts: list[float | None],
    keep: Any,
) -> None:
    folder = tmp_path_factory.mktemp("log")
    told = dict(
        zip(
            ["cost_usd", "input_tokens", "output_tokens", "latency_s", "retries"],
            amounts,
            strict=True,
        )
    )
    with router.DecisionLog(folder, keep=keep, sync=False) as log:
        decisions = [make_decision(session=f"s{i}") for i in range(len(prompts))]
        for decision, prompt in zip(decisions, prompts, strict=True):
            log.decision(decision, prompt, user="me")
            log.outcome(decision.request_id, score=score, **told)
    lines = read_log(folder)
    assert (lines.files, lines.torn, lines.faulty) == (1, 0, 0)
    assert ids_of(lines) == [decision.request_id for decision in decisions]
    for record, outcome, decision, prompt in zip(
        lines.decisions, lines.outcomes, decisions, prompts, strict=True
    ):
        # In JSON the halves of a character that stand side by side are that character.
        whole = prompt.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        assert record["prompt"] == (whole if keep == "text" else None)
        assert record["query_sha256"] == prompt_sha256(prompt) == prompt_sha256(whole)
        assert record["probabilities"] == decision.probabilities
        assert record["candidates"] == decision.eligible
        assert (record["session"], record["user"]) == (decision.session, "me")
        assert {name: outcome[name] for name in told} == told
        assert (outcome["request_id"], outcome["score"]) == (decision.request_id, score)
    if keep == "hash":
        content = b"".join(file.read_bytes() for file in folder.iterdir()).decode()
        assert all(json.dumps(prompt)[1:-1] not in content for prompt in prompts if prompt[80:])


def test_a_hash_is_that_of_the_prompts_bytes() -> None:
    of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert prompt_sha256("abc") == of_abc  # FIPS 180-2, appendix B.1


def test_numbers_of_numpy_and_truth_values_are_numbers(tmp_path: Path) -> None:
    log = router.DecisionLog(tmp_path)
    log.outcome("a", score=np.float32(0.5), input_tokens=np.int64(7), cost_usd=np.float64(0.25))
    log.outcome("b", score=True)
    log.close()
    first, second = read_log(tmp_path).outcomes
    assert (first["score"], first["input_tokens"], first["cost_usd"]) == (0.5, 7, 0.25)
    assert second["score"] == 1


def test_each_record_is_in_its_file_when_the_call_returns(tmp_path: Path) -> None:
    log = router.DecisionLog(tmp_path)
    for number in range(5):
        log.outcome(f"r{number}", score=1)
        assert len(read_log(tmp_path).outcomes) == number + 1
    log.close()


def test_a_full_file_gives_way_to_a_new_one(tmp_path: Path) -> None:
    with router.DecisionLog(tmp_path, max_bytes=4000, sync=False) as log:
        decisions = [make_decision() for _ in range(40)]
        for decision in decisions:
            log.decision(decision, "short")
        log.decision(make_decision(), "short")
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(sizes) > 5
    assert max(sizes) <= 4000
    assert ids_of(read_log(tmp_path))[:40] == [decision.request_id for decision in decisions]


def test_a_record_larger_than_a_file_may_be_stands_in_one_of_its_own(tmp_path: Path) -> None:
    with router.DecisionLog(tmp_path, keep="text", max_bytes=4000, sync=False) as log:
        for prompt in ("short", "long " * 2000, "short"):
            log.decision(make_decision(), prompt)
    assert len(list(tmp_path.iterdir())) == 3
    assert len(read_log(tmp_path).decisions) == 3


def test_threads_share_a_log(tmp_path: Path) -> None:
    with router.DecisionLog(tmp_path, max_bytes=20_000, sync=False) as log:

        def write(number: int) -> str:
            decision = make_decision()
            log.decision(decision, f"prompt {number}")
            log.outcome(decision.request_id, score=0.5)
            return decision.request_id

        with ThreadPoolExecutor(8) as pool:
            written = list(pool.map(write, range(400)))
    lines = read_log(tmp_path)
    assert sorted(ids_of(lines)) == sorted(written)
    assert sorted(record["request_id"] for record in lines.outcomes) == sorted(written)
    assert (lines.torn, lines.faulty) == (0, 0)


WRITER = f"""
import os, sys
from typing import Any
import router
PROBABILITIES = {PROBABILITIES}
{inspect.getsource(make_decision)}
log = router.DecisionLog(sys.argv[1], keep="text", max_bytes=200_000, sync=False)
"""


def run_writer(code: str, folder: Path) -> str:
    """What a process of its own prints that writes into a log."""
    command = [sys.executable, "-c", WRITER + code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_forked_process_writes_files_of_its_own(tmp_path: Path) -> None:
    code = """
log.outcome("before", score=0)
children = []
for child in range(3):
    pid = os.fork()
    if pid == 0:
        for number in range(50):
            log.outcome(f"{child}-{number}", score=1)
        os._exit(0)
    children.append(pid)
log.outcome("after", score=0)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
"""
    run_writer(code, tmp_path)
    lines = read_log(tmp_path)
    assert lines.files == 4
    expected = {"before", "after"} | {f"{c}-{n}" for c in range(3) for n in range(50)}
    assert {record["request_id"] for record in lines.outcomes} == expected
    assert len(lines.outcomes) == len(expected)


def test_a_killed_process_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
def write(number):
    decision = make_decision()
    log.decision(decision, f"prompt {number} " * (number % 300 + 1))
    os.write(1, (decision.request_id + "\\n").encode())
with ThreadPoolExecutor(4) as pool:
    list(pool.map(write, range(1_000_000)))
"""
    told, folder = tmp_path / "accepted", tmp_path / "log"
    with told.open("w") as file:
        command = [sys.executable, "-c", WRITER + code, str(folder)]
        process = subprocess.Popen(command, stdout=file)
        while told.read_bytes().count(b"\n") < 400 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
    accepted = told.read_text().splitlines()
    lines = read_log(folder)
    found = ids_of(lines)
    assert set(accepted) <= set(found)
    assert len(found) == len(set(found))
    assert len(found) <= len(accepted) + 4  # at most those in flight, one a thread
    assert lines.torn <= 1
    assert lines.faulty == 0


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_torn_last_line_is_left_out_and_the_next_writer_begins_anew(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    folder = tmp_path_factory.mktemp("log")
    decisions = [make_decision() for _ in range(3)]
    with router.DecisionLog(folder, keep="text", sync=False) as log:
        for decision in decisions:
            log.decision(decision, "über 🎉")
    (file,) = folder.iterdir()
    content = file.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    cut = last + int(share * (len(content) - last))
    file.write_bytes(content[:cut])
    whole = cut == len(content) - 1  # but for its line end
    with router.DecisionLog(folder, sync=False) as log:
        log.decision(make_decision(request_id="later"), "next")
    lines = read_log(folder)
    expected = [decision.request_id for decision in decisions[: 3 if whole else 2]]
    assert ids_of(lines) == [*expected, "later"]
    assert lines.torn == int(not whole and cut > last)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
first, third = make_decision(), make_decision()
log.decision(first, "short")
try:
    log.decision(make_decision(), "long " * 2000)
except router.RouterError as error:
    print(error)
log.decision(third, "short")
print(first.request_id, third.request_id)
"""
    sentence, ids = run_writer(code, tmp_path).splitlines()
    assert sentence == (
        f"{tmp_path}: the decision cannot be logged (File too large); free some space there, or "
        "log to another folder."
    )
    lines = read_log(tmp_path)
    assert ids_of(lines) == ids.split()
    assert (lines.torn, lines.faulty) == (0, 0)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"score": 1.5}, "it has score 1.5; give a number from 0 to 1, or null."),
        ({"score": float("nan")}, "it has score nan; give a number from 0 to 1, or null."),
        ({"score": "good"}, "it has score 'good'; give a number from 0 to 1, or null."),
        ({"score": 1, "cost_usd": -0.1}, "it has cost_usd -0.1; give a finite number of at least"),
        ({"score": 1, "latency_s": float("inf")}, "it has latency_s inf; give a finite number"),
        ({"score": 1, "task": " "}, "it has task ' '; give text without blanks around it, or null"),
        ({}, "it tells nothing; give one of score, cost_usd, input_tokens, output_tokens, "),
        ({"source": "user"}, "it tells nothing; give one of score"),
    ],
)
def test_an_unsound_outcome_is_not_logged(
    tmp_path: Path, told: dict[str, Any], sentence: str
) -> None:
    log = router.DecisionLog(tmp_path)
    with pytest.raises(RouterError) as error:
        log.outcome("r1", **told)
    assert str(error.value).startswith(f"The outcome cannot be logged: {sentence}")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_hold_a_log_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RouterError, match=r"the decision log's folder cannot be made \(File exi"):
        router.DecisionLog(tmp_path / "file")
    with pytest.raises(RouterError, match=r"keep is 'all'; choose hash or text\.$"):
        router.DecisionLog(tmp_path, keep="all")  # type: ignore[arg-type]
    log = router.DecisionLog(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(RouterError, match=r"the outcome cannot be logged \(No such file or dir"):
        log.outcome("r1", score=1)


# ---- Joining -------------------------------------------------------------------------------------


def decided(request_id: str, **changes: Any) -> dict[str, Any]:
    record = {
        "schema": 1,
        "kind": "decision",
        "request_id": request_id,
        "time": "2026-03-01T12:00:00+00:00",
        "prompt": f"prompt of {request_id}",
        "probabilities": PROBABILITIES,
        "chosen": "large",
        "policy": "Thompson",
    }
    return {**record, **changes}


def told(request_id: str, **values: Any) -> dict[str, Any]:
    time = "2026-03-01T12:00:10+00:00"
    return {"schema": 1, "kind": "outcome", "request_id": request_id, "time": time, **values}


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


LATE = "2026-03-03T12:00:00Z"
MIXED = [
    decided("a"),
    told("a", score=0.0, source="user"),
    told("a", score=1.0, source="judge", time=LATE),  # two days later: it counts
    decided("b", chosen="small"),
    told("b", cost_usd=0.5, latency_s=2),  # in two parts
    told("b", score=0.25, task="algebra", time="2026-03-01T12:01:40"),  # UTC
    decided("c"),  # nothing came
    decided("d", chosen="small"),
    told("d", cost_usd=0.1),  # but no score
    decided("e", ask={"large": 0.6, "small": 0.4}),
    told("e", score=1.0),
    told("nobody", score=1.0),
    told("nobody", score=1.0),
    decided("a", chosen="small"),  # the first one counts
]


def test_outcomes_are_joined_and_every_loss_is_counted(tmp_path: Path) -> None:
    joined = join_outcomes(read_log(write(tmp_path / "log.jsonl", MIXED)))
    a, b = joined.decisions
    assert (a["request_id"], a["chosen"], a["score"], a["cost_usd"]) == ("a", "large", 1.0, None)
    assert (b["score"], b["cost_usd"], b["latency_s"], b["task"]) == (0.25, 0.5, 2, "algebra")
    assert joined.delays == [2 * 24 * 3600, 100]
    assert dict(joined.chosen) == {"large": 2, "small": 2}
    assert dict(joined.without_score) == {"large": 1, "small": 1}
    assert (joined.asked_several, joined.repeated, joined.told_again) == (1, 1, 2)
    assert joined.unknown == 2
    assert dict(joined.sources) == {"judge": 1, "unnamed": 1}
    assert joined.summary() == (
        "5 decisions in 1 file; 2 with a score (after 1 day, 0:00:50 in the median, 2 days, 0:00:00"
        " at most); 2 without (from 50% of 'large' to 50% of 'large'); asked several candidates: 1;"
        " logged twice: 1; outcome told again: 2; outcomes of unknown requests: 2; scores by judge "
        "1, unnamed 1; artifact 'None'; policy 'Thompson'; price version 'None'."
    )


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(len(MIXED) - 1)), files=st.integers(1, 4))
def test_the_order_of_lines_and_files_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], files: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    for number in range(files):
        write(folder / f"{number}.jsonl", [MIXED[i] for i in order[number::files]])
    joined = join_outcomes(read_log(folder))
    reference = join_outcomes(read_log(write(folder / "all.log", MIXED[:-1])))
    by_id = {record["request_id"]: record for record in joined.decisions}
    assert by_id == {record["request_id"]: record for record in reference.decisions}
    for name in ("chosen", "without_score", "asked_several", "told_again", "unknown", "sources"):
        assert getattr(joined, name) == getattr(reference, name)
    assert sorted(joined.delays) == sorted(reference.delays)


# ---- The outcome matrix --------------------------------------------------------------------------


def make_log(path: Path, n: int = 30, **changes: Any) -> Path:
    """A log of n decisions by turns for large and small; medium is never chosen."""
    records = []
    for i in range(n):
        chosen = ("large", "small")[i % 2]
        records.append(decided(f"r{i}", chosen=chosen, **changes))
        records.append(
            told(f"r{i}", score=i % 3 / 2, cost_usd=0.01, input_tokens=10, output_tokens=20)
        )
    return write(path, records)


def test_a_log_becomes_decisions_with_all_propensities(tmp_path: Path) -> None:
    probabilities = {"large": 0.75, "medium": 0.0, "small": 0.25}
    path = make_log(
        tmp_path / "log.jsonl", probabilities=probabilities, candidates=["large", "small"]
    )
    outcomes = DecisionData(path).load()
    assert outcomes.candidates == ("large", "medium", "small")
    assert outcomes.queries["query_id"].tolist() == [f"r{i}" for i in range(30)]
    assert outcomes.prompts[3] == "prompt of r3"
    assert str(outcomes.queries["timestamp"].iloc[0]) == "2026-03-01 12:00:00+00:00"
    assert not outcomes.observed[:, 1].any()
    decisions = Decisions.of(outcomes)
    np.testing.assert_array_equal(decisions.propensities, np.tile([0.75, 0.0, 0.25], (30, 1)))
    np.testing.assert_array_equal(decisions.chosen, np.tile([0, 2], 15))
    np.testing.assert_array_equal(decisions.score, np.arange(30) % 3 / 2)
    np.testing.assert_array_equal(decisions.propensity, np.tile([0.75, 0.25], 15))
    np.testing.assert_array_equal(decisions.cost, np.full(30, 0.01))


def test_propensities_mend_what_the_logging_policy_biased(tmp_path: Path) -> None:
    """The mean score of each candidate over all prompts, from a log that gave the hard prompts to
    the large one: the naive mean is off by far, the propensities mend it."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(4000):
        hard = rng.random() < 0.5
        share = 0.9 if hard else 0.2
        large = bool(rng.random() < share)
        chance = (0.6 if hard else 1.0) if large else (0.1 if hard else 0.9)
        probabilities = {"large": share, "small": 1 - share}
        chosen = "large" if large else "small"
        records.append(decided(f"r{i}", probabilities=probabilities, chosen=chosen))
        records.append(told(f"r{i}", score=float(rng.random() < chance)))
    outcomes = DecisionData(write(tmp_path / "log.jsonl", records)).load()
    np.testing.assert_allclose(outcomes.mean_scores(), [0.8, 0.5], atol=0.05)
    naive = np.nanmean(outcomes.scores, axis=0)
    assert (np.abs(naive - [0.8, 0.5]) > 0.1).all()


def test_one_prompt_session_or_user_is_one_group(tmp_path: Path) -> None:
    labels = [
        {"prompt": "same"},
        {"prompt": "same", "session": "s1"},
        {"session": "s1", "user": "u1"},
        {"user": "u1"},
        {"session": "s2"},
        {"session": "s2"},
        *({} for _ in range(6)),
    ]
    records = []
    for i, label in enumerate(labels):
        chosen = ("large", "small")[i % 2]
        records += [decided(f"r{i}", chosen=chosen, **label), told(f"r{i}", score=i % 2)]
    groups = DecisionData(write(tmp_path / "log.jsonl", records)).load().groups
    assert len(set(groups[:4])) == 1
    assert groups[4] == groups[5] != groups[0]
    assert len(set(groups)) == 2 + 6


def test_fewer_candidates_get_the_propensities_given_the_choice_fell_on_them(
    tmp_path: Path,
) -> None:
    path = make_log(tmp_path / "log.jsonl")
    outcomes = DecisionData(path, candidates=["small", "large"]).load()
    assert outcomes.candidates == ("small", "large")
    np.testing.assert_allclose(outcomes.propensity, np.tile([1 / 3, 2 / 3], (30, 1)))
    with pytest.raises(RouterError, match=r"no decision with a score chose 'medium'\.$"):
        DecisionData(path, candidates=["medium"]).load()
    with pytest.raises(RouterError, match=r"data.candidates is 'gpt'; name each once, of 'large'"):
        DecisionData(path, candidates=["gpt"]).load()


def test_prices_make_costs_of_tokens_for_chosen_and_unchosen_alike(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    entries = [f"  {name}: {{input: 1, output: 2, date: 2026-03-01}}" for name in PROBABILITIES]
    prices.write_text("models:\n" + "\n".join(entries) + "\n")
    outcomes = DecisionData(make_log(tmp_path / "log.jsonl"), prices=prices).load()
    np.testing.assert_allclose(np.nanmax(outcomes.cost), (10 * 1 + 20 * 2) / 1e6)
    assert outcomes.prices is not None
    assert outcomes.prices.shape == (3, 2)
    prices.write_text("models:\n" + "\n".join(entries[:1] + entries[2:]) + "\n")
    with pytest.raises(RouterError, match="no price for 'medium'"):
        DecisionData(tmp_path / "log.jsonl", prices=prices).load()


def test_a_score_without_a_cost_is_a_fault_where_others_have_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_log(tmp_path / "log.jsonl")
    with path.open("a") as file:
        for record in (decided("x"), told("x", score=1.0)):
            file.write(json.dumps(record) + "\n")
    with pytest.raises(
        RouterError, match=r"request 'x' has a score but no cost_usd; 1 of 31 decisions concerned;"
    ):
        DecisionData(path).load()
    assert len(DecisionData(path, faults="drop").load()) == 30
    assert "they are left out" in caplog.text


def test_a_log_of_hashes_needs_the_prompts_from_elsewhere(tmp_path: Path) -> None:
    prompts = [f"question {i}" for i in range(20)] + ["half \ud83d"]
    with router.DecisionLog(tmp_path / "log", sync=False) as log:
        for i, prompt in enumerate(prompts):
            name = ("large", "small")[i % 2]
            decision = make_decision(candidate=name, ask={name: 1.0})
            log.decision(decision, prompt)
            log.outcome(decision.request_id, score=i % 2)
    with pytest.raises(RouterError, match=r"hash alone of 21 of 21 prompts; give data.prompts=FIL"):
        DecisionData(tmp_path / "log").load()
    file = tmp_path / "prompts.parquet"
    pd.DataFrame({"prompt": [*prompts[:19], "another"]}).to_parquet(file)
    with pytest.raises(RouterError, match=r"hash alone of 2 of 21 prompts; add them to .*parquet,"):
        DecisionData(tmp_path / "log", prompts=file).load()
    found = DecisionData(tmp_path / "log", prompts=file, faults="drop").load()
    assert found.prompts == prompts[:19]
    pd.DataFrame({"text": prompts[:3]}).to_parquet(file)
    with pytest.raises(RouterError, match="no column 'prompt'"):
        DecisionData(tmp_path / "log", prompts=file).load()


def test_half_a_character_is_read_as_the_runtime_read_it(tmp_path: Path) -> None:
    path = make_log(tmp_path / "log.jsonl", prompt="half a pair: \ud83d")
    assert set(DecisionData(path).load().prompts) == {"half a pair: ?"}


def test_a_folder_one_file_or_a_pattern_may_be_read(tmp_path: Path) -> None:
    for host in ("one", "two"):
        (tmp_path / host).mkdir()
    make_log(tmp_path / "one" / "a.jsonl")
    write(tmp_path / "two" / "b.jsonl", [decided("y"), told("y", score=1.0, cost_usd=1.0)])
    assert len(DecisionData(tmp_path / "one").load()) == 30
    assert len(DecisionData(str(tmp_path / "*" / "*.jsonl")).load()) == 31
    for nothing in (tmp_path, tmp_path / "three", "no*where"):
        with pytest.raises(RouterError, match=r"no decision log here; give data.path="):
            DecisionData(nothing).load()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"schema": 1, "kind":', "is no JSON; write one record a line, in UTF-8."),
        ("[" * 100_000, "is no JSON; write one record a line, in UTF-8."),
        ('"text"', "holds no JSON object; write one record a line."),
        ("{}", "has no schema number; write schema 1."),
        (
            json.dumps(decided("x", schema=2)),
            "has schema 2, newer than the 1 that this installation knows; update query-router.",
        ),
        (json.dumps(decided("x", kind="plan")), "has kind 'plan'; give decision or outcome."),
        (json.dumps(decided(" x")), "has request_id ' x'; give text without blanks around it."),
        (json.dumps(decided("x", time="noon")), "has time 'noon'; give an ISO 8601 time."),
        (
            json.dumps(decided("x", prompt=None)),
            "has neither prompt nor query_sha256; log one of them.",
        ),
        (
            json.dumps(decided("x", probabilities={"large": 0.5, "small": 0.4})),
            "has probabilities that sum to 0.9; give those of all candidates, sum 1.",
        ),
        (
            json.dumps(decided("x", chosen="huge")),
            "has chosen 'huge'; give a candidate of probability above 0.",
        ),
        (
            json.dumps(decided("x", candidates=["large", "medium"])),
            "gives a probability to 'small'; list it among candidates.",
        ),
        (json.dumps(told("x", score=7)), "has score 7; give a number from 0 to 1, or null."),
    ],
)
def test_a_faulty_line_is_told_by_file_and_number_or_dropped_and_counted(
    tmp_path: Path, line: str, sentence: str
) -> None:
    path = make_log(tmp_path / "log.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], line, *lines[4:]]) + "\n")
    with pytest.raises(RouterError) as error:
        DecisionData(path).load()
    assert str(error.value) == (
        f"{path}: line 5 {sentence}\nCorrect the lines, or leave them out with data.faults=drop."
    )
    assert read_log(path, faults="drop").faulty == 1
    assert len(DecisionData(path, faults="drop").load()) == 30


@settings(max_examples=200, deadline=None)
@given(
    line=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*decided("x"), *told("x"), "score", "candidates", "ask"]), inner
            )
        ),
        max_leaves=8,
    ),
    base=st.sampled_from([{}, decided("x"), told("x", score=1.0)]),
)
def test_no_line_brings_the_reader_down(
    tmp_path_factory: pytest.TempPathFactory, line: Any, base: dict[str, Any]
) -> None:
    record = {**base, **line} if isinstance(line, dict) else line
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    path.write_text(json.dumps(record) + "\n")
    lines = read_log(path, faults="drop")
    assert lines.faulty + len(lines.decisions) + len(lines.outcomes) == 1
    join_outcomes(lines).summary()


# ---- The runtime and the command line ------------------------------------------------------------


@pytest.fixture
def exploring(artifact_copy: Path) -> router.Router:
    amend_manifest(artifact_copy, policy=EpsilonGreedy(epsilon=0.6).to_dict())
    return router.load(artifact_copy)


def test_draws_hit_the_logged_propensities(exploring: router.Router, tmp_path: Path) -> None:
    with router.DecisionLog(tmp_path / "log", sync=False) as log:
        for number in range(600):
            decision = exploring.route("What is 2 + 2?", seed=f"request {number}", session="s")
            log.decision(decision, "What is 2 + 2?")
    records = read_log(tmp_path / "log").decisions
    (probabilities,) = {tuple(record["probabilities"].items()) for record in records}
    assert sorted(p for _, p in probabilities) == pytest.approx([0.2, 0.2, 0.6])
    for name, p in probabilities:
        share = np.mean([record["chosen"] == name for record in records])
        assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / 600)  # four standard errors
    first = records[0]
    manifest = exploring.manifest
    assert (first["artifact"], first["policy"]) == (manifest["sha256"], "EpsilonGreedy")
    assert (first["seed"], first["session"]) == ("request 0", "s")
    assert first["candidates"] == list(exploring.candidates)


def test_without_a_seed_the_prompt_alone_decides(exploring: router.Router) -> None:
    for number in range(50):
        decision = exploring.route(f"question {number}")
        bounds = np.cumsum(list(decision.probabilities.values()))
        drawn = int(np.searchsorted(bounds, uniform_of([f"question {number}"])[0], side="right"))
        assert decision.candidate == exploring.candidates[drawn]
        assert decision == exploring.route(f"question {number}", seed="")
        assert decision.request_id != exploring.route(f"question {number}").request_id


def test_an_allow_list_is_kept(exploring: router.Router) -> None:
    for number in range(40):
        decision = exploring.route(f"question {number}", candidates=["small", "medium"])
        assert decision.candidate in ("medium", "small")
        assert decision.eligible == ["medium", "small"]
        assert decision.probabilities["large"] == 0
        # Exploration's share of the large one is given to the others in proportion.
        assert sorted(decision.probabilities.values()) == pytest.approx([0, 0.25, 0.75])
        assert decision.probability == decision.probabilities[decision.candidate]
        assert list(decision.quality) == ["large", "medium", "small"]
    assert exploring.route("Hello", candidates=["large"]).probability == 1
    everyone = exploring.route("Hello", candidates=exploring.candidates)
    assert everyone == exploring.route("Hello")
    for wrong in (["huge"], [], "large"):
        with pytest.raises(RouterError, match="candidates"):
            exploring.route("Hello", candidates=wrong)


POLICIES: list[Policy] = [
    Utility(20.0),
    Utility(float("inf")),
    Budget(0.01, dear_weight=0.0, cheap_weight=float("inf"), dear_share=0.25),
    CheapestAdequate(0.5),
    HardCap(0.005, ratios=(0.5, 1.0, 2.0)),
    PerQueryBudget(0.002),
    Threshold(strong="large", weak="small", cut=0.2),
    Threshold(strong="large", weak="small", cut=float("-inf")),
    EpsilonGreedy(epsilon=0.2, cost_weight=10.0, cost_aware=True),
    Thompson(cost_weight=10.0),
    UpperConfidence(cost_weight=10.0),
    Subset(max_size=3, least_confidence=0.2),
    Allocation(plans=((0.5, 10.0, 0.1, 0.0, 0.0), (0.5, 0.0, 0.0, 0.3, 0.0))),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    allowed=st.sets(st.integers(0, 2), min_size=1).map(sorted),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_every_policy_can_be_kept_to_an_allow_list(
    policy: Policy, seed: int, allowed: list[int], uniform: float
) -> None:
    rng = np.random.default_rng(seed)
    prediction = Prediction(
        ("large", "medium", "small"),
        rng.normal(0.5, 0.3, size=(1, 3)),
        rng.uniform(0.01, 0.3, size=(1, 3)),
        rng.lognormal(-6, 2, size=(1, 3)),
    )
    eligible = np.isin(np.arange(3), allowed)
    probabilities, votes, reason = decide_among(eligible, policy, prediction, np.array([uniform]))
    for shares in (probabilities, votes):
        assert (shares >= 0).all()
        assert shares.sum() == pytest.approx(1)
        assert set(np.flatnonzero(shares)) <= set(allowed)
    assert probabilities[votes.argmax()] > 0
    assert reason
    if isinstance(policy, Utility):  # it knows no candidate by place: the others may as well go
        assert prediction.cost is not None
        few = Prediction(
            tuple(prediction.candidates[j] for j in allowed),
            prediction.quality[:, allowed],
            prediction.quality_se[:, allowed],
            prediction.cost[:, allowed],
        )
        np.testing.assert_array_equal(probabilities[allowed], policy.probabilities(few)[0])


def test_where_the_policy_asks_none_of_the_eligible_the_best_predicted_answers() -> None:
    prediction = Prediction(
        ("large", "medium", "other", "small"),
        np.array([[0.9, 0.4, 0.6, 0.2]]),
        np.full((1, 4), 0.1),
    )
    policy = Threshold(strong="large", weak="small", cut=0.1)
    eligible = np.array([False, True, True, False])
    probabilities, votes, reason = decide_among(eligible, policy, prediction, np.array([0.5]))
    assert probabilities.tolist() == votes.tolist() == [0, 0, 1, 0]
    assert reason == "the policy asks none of the eligible; the best predicted of them"


def test_route_and_outcome_log_what_data_decisions_reads(
    run_router: RunRouter, trained_run: TrainedRun, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    prompts = [f"question {number}" for number in range(12)]
    options = ["--log", log, "--keep", "text", "--seed", "s", "--session", "chat"]
    routed = run_router("route", "--artifact", trained_run.artifact, "--json", *options, *prompts)
    assert routed.code == 0
    answers = [json.loads(line) for line in routed.out.splitlines()]
    assert all(sum(answer["probabilities"].values()) == pytest.approx(1) for answer in answers)
    for number, answer in enumerate(answers):
        told = ["--score", str(number % 2), "--cost-usd", "0.001", "--source", "user"]
        done = run_router("outcome", "--log", log, "--request", answer["request_id"], *told)
        assert (done.code, done.out, done.err) == (0, "", "")
    joined = join_outcomes(read_log(log))
    assert [record["prompt"] for record in joined.decisions] == prompts
    assert [record["score"] for record in joined.decisions] == [0, 1] * 6
    assert {record["session"] for record in joined.decisions} == {"chat"}
    readable = run_router("route", "--artifact", trained_run.artifact, "--log", log, "Hello")
    request_id = readable.out.splitlines()[-1].removeprefix("  request ")
    assert request_id in ids_of(read_log(log))


def test_data_decisions_is_shown_and_its_losses_are_told(
    run_router: RunRouter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = run_router("data", "data=decisions", f"data.path={SAMPLE}")
    assert finished.code == 0, finished.err
    assert "Outcomes   decisions: 20 queries x 3 candidates, 33% observed, with costs" in (
        finished.out
    )
    assert "22 decisions in 1 file; 20 with a score (after 1:00:00 in the median" in finished.err
    assert "1 without (from 0% of 'acme/small' to 12% of 'acme/medium')" in finished.err
    assert len(Decisions.of(DecisionData(SAMPLE).load())) == 20


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--log", "log", "--request", "a", "--score", "2"],
            "it has score 2.0; give a number from",
        ),
        (["--log", "log", "--request", "a"], "it tells nothing; give one of score, cost_usd"),
        (["--log", "log", "--score", "1"], "the following arguments are required: --request"),
        (["--log", "log", "--request", "a", "--score", "good"], "invalid float value: 'good'"),
    ],
)
def test_outcome_says_what_is_wrong(
    run_router: RunRouter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = run_router("outcome", *arguments)
    assert finished.code == 2
    assert sentence in finished.err


def test_the_log_is_written_in_the_runtime_tier(artifact_copy: Path, tmp_path: Path) -> None:
    code = """
from router.cli import main
main(["route", "--artifact", sys.argv[1], "--log", sys.argv[2], "Hello"])
main(["outcome", "--log", sys.argv[2], "--request", "r1", "--score", "1"])
"""
    done = run_guarded(code, artifact_copy, tmp_path / "log")
    assert done.returncode == 0, done.stderr
    lines = read_log(tmp_path / "log")
    assert (len(lines.decisions), len(lines.outcomes)) == (1, 1)
