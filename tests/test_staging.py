"""Writing aside: the old stays whole until the new is, and nothing is left beside it."""

from __future__ import annotations

import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from router.staging import staged_file, staged_folder


def fill(staged: Path, text: str) -> None:
    target = staged / "a.txt" if staged.is_dir() else staged
    target.write_text(text)


def content(path: Path) -> str:
    return (path / "a.txt" if path.is_dir() else path).read_text()


Stage = Callable[[Path], AbstractContextManager[Path]]
BOTH = pytest.mark.parametrize("stage", [staged_file, staged_folder])


@BOTH
def test_what_is_written_aside_takes_the_place(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    for text in ("old", "new"):
        with stage(path) as staged:
            fill(staged, text)
            assert staged.parent == tmp_path
            assert staged.suffix == ".bin"
        assert content(path) == text
    assert list(tmp_path.iterdir()) == [path]


@BOTH
@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_as_it_was(
    stage: Stage, stop: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "out"
    with stage(path) as staged:
        fill(staged, "old")

    def interrupted() -> None:
        with stage(path) as staged:
            fill(staged, "half")
            raise stop

    with pytest.raises(stop):
        interrupted()
    assert content(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


@BOTH
def test_an_error_at_first_leaves_nothing(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), stage(tmp_path / "out"):
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


@BOTH
def test_others_may_read_it_as_any_other_file(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    (tmp_path / "folder").mkdir()
    plain = tmp_path / ("plain" if stage is staged_file else "folder")
    with stage(tmp_path / "out") as staged:
        fill(staged, "x")
    mode = stat.S_IMODE((tmp_path / "out").stat().st_mode)
    assert mode == stat.S_IMODE(plain.stat().st_mode)


def test_a_folder_never_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    with pytest.raises(NotADirectoryError), staged_folder(path):
        pass
    assert path.read_text() == "dear diary"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_folder_comes_back_where_the_new_one_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with staged_folder(path) as staged:
        fill(staged, "old")
    with pytest.raises(FileNotFoundError), staged_folder(path) as staged:
        staged.rmdir()
    assert content(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_parents_of_a_folder_are_made(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "a" / "b") as staged:
        fill(staged, "x")
    assert content(tmp_path / "a" / "b") == "x"
