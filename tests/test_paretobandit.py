"""The default data set: its figures, its download and its cache."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from router.cache_folder import cache_folder
from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.paretobandit import WHEEL, ParetoBanditData, fetch_wheel
from router.outcomes.splits import AutoSplit

LARGE = "google/gemini-2.5-pro"
MEDIUM = "mistralai/mistral-large-2512"
SMALL = "meta-llama/llama-3.1-8b-instruct"


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The genuine wheel, fetched once."""
    return fetch_wheel()


@pytest.fixture(scope="module")
def outcomes(wheel: Path) -> OutcomeMatrix:
    return ParetoBanditData().load()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path | None], Path]:
    """Gives pip a folder with one wheel, or none, in place of a registry, and the router an empty
    cache; returns the cache's folder of data."""

    def offer(wheel: Path | None) -> Path:
        shelf = tmp_path / "shelf"
        shelf.mkdir()
        if wheel is not None:
            shutil.copy(wheel, shelf / WHEEL)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
        monkeypatch.setenv("ROUTER_CACHE", str(tmp_path / "cache"))
        return cache_folder("data")

    return offer


def test_the_default_data_set_has_its_published_sizes(outcomes: OutcomeMatrix) -> None:
    assert len(outcomes) == 3609
    assert set(outcomes.candidates) == {LARGE, MEDIUM, SMALL}
    assert outcomes.observed.all()
    assert outcomes.tokens is None
    sides = outcomes.queries["split"].value_counts()
    assert (sides["train"], sides["test"]) == (1785, 1824)
    split = AutoSplit()(outcomes)
    assert (len(split.train), len(split.test), split.validation) == (1785, 1824, None)


def test_the_default_data_set_has_its_published_means(outcomes: OutcomeMatrix) -> None:
    costs = dict(zip(outcomes.candidates, outcomes.mean_costs(), strict=True))
    assert costs[LARGE] == pytest.approx(0.0151, abs=5e-5)
    assert costs[MEDIUM] == pytest.approx(0.000515, abs=5e-7)
    assert costs[SMALL] == pytest.approx(0.0000289, abs=5e-8)
    assert costs[LARGE] / costs[SMALL] == pytest.approx(520, rel=0.01)
    scores = dict(zip(outcomes.candidates, outcomes.mean_scores(), strict=True))
    assert max(scores, key=lambda name: scores[name]) == LARGE
    assert scores[LARGE] == pytest.approx(0.9335, abs=5e-5)
    assert outcomes.scores.max(axis=1).mean() == pytest.approx(0.9637, abs=5e-5)


def test_a_prompt_with_a_line_separator_is_whole(outcomes: OutcomeMatrix) -> None:
    assert any("\u2028" in prompt for prompt in outcomes.prompts)
    assert outcomes.queries["query_id"].is_unique


def test_candidates_may_be_named() -> None:
    two = ParetoBanditData(candidates=[SMALL, LARGE]).load()
    assert two.candidates == (SMALL, LARGE)
    assert two.scores.shape == (3609, 2)


def test_the_wheel_is_fetched_through_pip_and_kept(
    registry: Callable[[Path | None], Path], wheel: Path
) -> None:
    folder = registry(wheel)
    kept = fetch_wheel()
    assert kept == folder / WHEEL
    assert kept.read_bytes() == wheel.read_bytes()
    assert [path.name for path in folder.iterdir()] == [WHEEL]


def test_a_kept_wheel_needs_no_registry(
    registry: Callable[[Path | None], Path], wheel: Path, outcomes: OutcomeMatrix
) -> None:
    shutil.copy(wheel, registry(None) / WHEEL)
    again = ParetoBanditData().load()
    assert again.fingerprint == outcomes.fingerprint
    np.testing.assert_array_equal(again.cost, outcomes.cost)


def test_without_wheel_and_registry_one_sentence_tells_the_ways_out(
    registry: Callable[[Path | None], Path],
) -> None:
    folder = registry(None)
    with pytest.raises(RouterError) as told:
        ParetoBanditData().load()
    message = str(told.value)
    assert message.startswith(f"{folder / WHEEL}: the default data set is not there and pip could")
    assert "No matching distribution found for paretobandit==0.1.1" in message
    assert message.endswith(
        "go online once, put the wheel there, or train on your own table with "
        "data=table data.path=FILE."
    )
    assert "\n" not in message
    assert list(folder.iterdir()) == []


def test_a_damaged_wheel_in_the_cache_is_fetched_anew(
    registry: Callable[[Path | None], Path], wheel: Path
) -> None:
    content = bytearray(wheel.read_bytes())
    content[1000] ^= 1
    damaged = registry(wheel) / WHEEL
    damaged.write_bytes(content)
    assert fetch_wheel().read_bytes() == wheel.read_bytes()


def test_a_damaged_wheel_is_not_trusted_offline(registry: Callable[[Path | None], Path]) -> None:
    damaged = registry(None) / WHEEL
    damaged.write_bytes(b"not a wheel")
    with pytest.raises(RouterError, match="the default data set is damaged and pip could not"):
        fetch_wheel()
    assert damaged.read_bytes() == b"not a wheel"


def test_another_wheel_from_the_registry_is_refused(
    registry: Callable[[Path | None], Path], wheel: Path, tmp_path: Path
) -> None:
    forged = tmp_path / "forged.whl"
    shutil.copy(wheel, forged)
    with zipfile.ZipFile(forged, "a") as archive:
        archive.writestr("pareto_bandit/extra.txt", "one more file")
    folder = registry(forged)
    with pytest.raises(RouterError, match="as downloaded has another checksum than b30b2a154fe2…"):
        fetch_wheel()
    assert list(folder.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ROUTER_CACHE", str(tmp_path / "file"))
    with pytest.raises(RouterError, match="set ROUTER_CACHE to a folder that you may write"):
        fetch_wheel()


def test_the_users_own_cache_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ROUTER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = cache_folder("data")
    assert folder.is_dir()
    assert folder.name == "data"
    assert "query-router" in folder.parts
