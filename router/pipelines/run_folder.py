"""A run's output folder: complete, or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from router.artifact.storage import is_zip
from router.errors import RouterError
from router.staging import staged_folder

NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def output_folder() -> Path:
    """The folder that Hydra gave this run."""
    return Path(HydraConfig.get().runtime.output_dir)


@contextmanager
def run_folder(target: Path, option: str = "hydra.run.dir") -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends well. After an error or Ctrl-C
    neither is left behind.

    option: the override that names the target, for the remedy in an error.
    Raises RouterError where the target holds something already or cannot be written.
    """
    remedy = f"give a new folder with {option}=FOLDER."
    if target.is_dir() and any(target.iterdir()):
        raise RouterError(f"{shown(target)}: not empty; {remedy}")
    if target.exists() and not target.is_dir():
        raise RouterError(f"{shown(target)}: not a folder; {remedy}")
    with contextlib.ExitStack() as stack:
        try:
            staged = stack.enter_context(staged_folder(target))
        except OSError as error:
            raise _cannot_be_written(target, error, remedy) from None
        try:
            yield staged
        except OSError as error:
            if error.errno in NOT_WRITABLE:
                raise _cannot_be_written(target, error, remedy) from None
            raise


@contextmanager
def new_place(target: Path, option: str) -> Iterator[Path]:
    """Where an artifact is to be written: a zip file that is not there yet, or as `run_folder`.

    Raises RouterError where there is such a file, or it cannot be written.
    """
    if not is_zip(target):
        with run_folder(target, option) as folder:
            yield folder
        return
    remedy = f"give a new file with {option}=FILE.zip."
    if target.exists():
        raise RouterError(f"{shown(target)}: there already; {remedy}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield target
    except OSError as error:
        if error.errno not in (*NOT_WRITABLE, errno.EEXIST, errno.ENOTDIR):
            raise
        raise _cannot_be_written(target, error, remedy) from None


def _cannot_be_written(target: Path, error: OSError, remedy: str) -> RouterError:
    return RouterError(f"{shown(target)}: cannot be written ({error.strerror}); {remedy}")


def remove_if_empty(folder: Path) -> None:
    """Hydra makes the run's folder before the run begins; where nothing came of it, it goes. A
    verb that writes none (`router serve`) has the working directory in its place, which stays."""
    with contextlib.suppress(OSError):
        if folder.resolve() != Path.cwd():
            folder.rmdir()


def point_to_latest(link: str | None, target: Path) -> None:
    """Make `link` a symbolic link to the newest run, where the file system has links. Two runs
    that end at once leave the link of one of them, whole."""
    if link is None:
        return
    path = Path(link)
    with (
        contextlib.suppress(OSError),
        tempfile.TemporaryDirectory(prefix=".latest-", dir=path.parent) as scratch,
    ):
        aside = Path(scratch) / "link"
        aside.symlink_to(os.path.relpath(target, path.parent))
        os.replace(aside, path)


def shown(path: Path) -> Path:
    """The path as a user would type it from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
