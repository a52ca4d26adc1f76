"""The service's decision log: what is accepted is on disk, and a full disk is told."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_decision_log import ids_of, make_decision

import router
from router.outcomes.log_lines import read_log
from router.serving.metrics import Metrics
from router.serving.records import LogUnavailable, Recorder
from router.serving.settings import LogSettings

NOTHING_LIVE: dict[str, Any] = {"kill_switch": {"on": False}}
PATIENCE = 20.0


class Service:
    """A recorder of a running event loop, and what it counts."""

    def __init__(self, folder: Path, **settings: Any):
        self.folder = folder
        self._metrics = Metrics(lambda: NOTHING_LIVE)
        self.recorder = Recorder(LogSettings(folder=folder, **settings), self._metrics)

    def counted(self, name: str) -> float:
        page = self._metrics.page().decode()
        [value] = [
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name
        ]
        return value

    async def decide(self, count: int, prompt: str = "short") -> list[str]:
        """Log so many decisions at once; their ids."""
        decisions = [make_decision() for _ in range(count)]
        await asyncio.gather(*(self.recorder.decision(one, prompt) for one in decisions))
        return [decision.request_id for decision in decisions]


Test = Callable[[Service], Coroutine[Any, Any, None]]


@pytest.fixture
def serving(tmp_path: Path) -> Callable[..., None]:
    """Runs a test's coroutine with a recorder; what it wrote lies in tmp_path / "log"."""

    def run(test: Test, **settings: Any) -> None:
        async def whole() -> None:
            service = Service(tmp_path / "log", **settings)
            try:
                await test(service)
            finally:
                await service.recorder.close()

        asyncio.run(whole())

    return run


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process takes a whole record: the system stops it within."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_accepted_is_on_disk_at_once(serving: Any, tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        decision = make_decision()
        await service.recorder.decision(decision, "a prompt", user="ann")
        [record] = read_log(service.folder).decisions
        assert (record["request_id"], record["user"]) == (decision.request_id, "ann")
        assert record["prompt"] is None
        await service.recorder.outcome(decision.request_id, score=0.5, source="judge")
        [told] = read_log(service.folder).outcomes
        assert (told["request_id"], told["score"], told["source"]) == (
            decision.request_id,
            0.5,
            "judge",
        )

    serving(test)


def test_the_text_is_kept_where_it_is_asked_for(serving: Any, tmp_path: Path) -> None:
    async def test(service: Service) -> None:
        await service.recorder.decision(make_decision(), "a prompt")
        assert read_log(service.folder).decisions[0]["prompt"] == "a prompt"

    serving(test, keep="text")


def test_what_comes_together_is_written_together_and_in_order(serving: Any) -> None:
    async def test(service: Service) -> None:
        ids = await service.decide(300)
        assert ids_of(read_log(service.folder)) == ids
        assert service.counted("router_log_records_total") == 300
        assert service.counted("router_log_commit_seconds_count") == 1

    serving(test)


def test_several_decisions_of_one_request_are_logged_together(serving: Any) -> None:
    async def test(service: Service) -> None:
        decisions = [make_decision(), make_decision()]
        await service.recorder.decisions(decisions, ["one", "two"])
        ids = [decision.request_id for decision in decisions]
        assert ids_of(read_log(service.folder)) == ids
        told = [{"request_id": name, "score": 1.0} for name in ids]
        await service.recorder.outcomes(told)
        assert [one["request_id"] for one in read_log(service.folder).outcomes] == ids

    serving(test)


def test_closing_writes_what_nobody_waits_for_any_more(serving: Any, tmp_path: Path) -> None:
    names: list[str] = []

    async def test(service: Service) -> None:
        decisions = [make_decision() for _ in range(20)]
        names.extend(decision.request_id for decision in decisions)
        waiting = [
            asyncio.create_task(service.recorder.decision(one, "short")) for one in decisions
        ]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()

    serving(test)
    lines = read_log(tmp_path / "log")
    assert ids_of(lines) == names
    assert (lines.torn, lines.faulty) == (0, 0)


def test_an_unsound_record_harms_no_other(serving: Any) -> None:
    async def test(service: Service) -> None:
        good, bad = make_decision(), make_decision(session=" ")
        answers = await asyncio.gather(
            service.recorder.decision(bad, "short"),
            service.recorder.decision(good, "short"),
            return_exceptions=True,
        )
        assert isinstance(answers[0], router.RouterError)
        assert not isinstance(answers[0], LogUnavailable)
        assert answers[1] is None
        assert ids_of(read_log(service.folder)) == [good.request_id]
        with pytest.raises(router.RouterError, match="it tells nothing"):
            await service.recorder.outcome(good.request_id, source="judge")

    serving(test)


def test_a_full_disk_refuses_and_leaves_nothing_half_written(
    serving: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(service: Service) -> None:
        before = await service.decide(3)
        with full_disk():
            for _ in range(3):
                with pytest.raises(LogUnavailable, match="cannot be written to now; try again"):
                    await service.decide(1)
            with pytest.raises(LogUnavailable):
                await service.recorder.outcomes([{"request_id": before[0], "score": 1.0}] * 5)
        assert service.counted("router_log_records_lost_total") == 8
        after = await service.decide(2)
        lines = read_log(service.folder)
        assert ids_of(lines) == before + after
        assert (len(lines.outcomes), lines.torn, lines.faulty) == (0, 0, 0)
        assert await service.recorder.problem() is None

    with caplog.at_level(logging.WARNING, logger="router.log"):
        serving(test)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2  # once, however often it happened, and once when it was over
    assert "(File too large)" in told[0]
    assert "can be written to again" in told[1]


def test_where_the_log_is_not_required_decisions_are_answered_and_the_loss_is_counted(
    serving: Any,
) -> None:
    async def test(service: Service) -> None:
        with full_disk():
            await service.decide(4)
            with pytest.raises(LogUnavailable):  # it has no other purpose than to be written
                await service.recorder.outcome("r1", score=1.0)
        assert service.counted("router_log_records_lost_total") == 5
        lines = read_log(service.folder) if any(service.folder.glob("*.jsonl")) else None
        assert lines is None or ids_of(lines) == []

    serving(test, required=False)


def test_a_log_that_failed_is_tried_again_and_found_mended(serving: Any) -> None:
    async def test(service: Service) -> None:
        with full_disk():
            with pytest.raises(LogUnavailable):
                await service.decide(1)
            problem = await service.recorder.problem()
            assert problem is not None
            assert "File too large" in problem
        end = time.monotonic() + PATIENCE
        while await service.recorder.problem() is not None:  # no request is needed for it
            assert time.monotonic() < end
            await asyncio.sleep(0.01)
        assert len(list(service.folder.iterdir())) <= 1  # a probe leaves nothing

    serving(test)


def test_a_place_for_no_log_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")
    with pytest.raises(router.RouterError, match="the decision log's folder cannot be made"):
        Service(tmp_path / "log")
