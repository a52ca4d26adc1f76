"""Write aside, then rename: a reader never sees half a file or half a folder."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it becomes `path` when the block ends without an error."""
    staged = _aside(path)
    staged.touch(exist_ok=False)
    try:
        yield staged
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to fill; it becomes `path`, in place of an older one, at the end.

    An error or Ctrl-C leaves the older one as it was. Raises NotADirectoryError where `path` is a
    file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    staged, older = _aside(path), _aside(path)
    staged.mkdir()
    try:
        yield staged
        try:
            # Renaming over a folder that is not empty is impossible: the older one moves first.
            if path.exists():
                os.replace(path, older)
            os.replace(staged, path)
        finally:
            if older.exists() and not path.exists():
                os.replace(older, path)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if path.exists():
            shutil.rmtree(older, ignore_errors=True)


def _aside(path: Path) -> Path:
    """A new hidden name beside `path`, with its suffix."""
    return path.with_name(f".{uuid4().hex}{path.suffix}")
