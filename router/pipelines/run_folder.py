"""A run's output folder: complete, or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from router.errors import RouterError
from router.staging import staged_folder


def output_folder() -> Path:
    """The folder that Hydra gave this run."""
    return Path(HydraConfig.get().runtime.output_dir)


@contextmanager
def run_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends well. After an error or Ctrl-C
    neither is left behind."""
    if target.exists() and any(target.iterdir()):
        raise RouterError(f"{target}: not empty; give a new folder with hydra.run.dir=FOLDER.")
    try:
        with staged_folder(target) as staged:
            yield staged
    except BaseException as error:
        # Hydra made the empty folder before the run began.
        with contextlib.suppress(OSError):
            target.rmdir()
        if isinstance(error, PermissionError):
            raise RouterError(
                f"{target}: cannot be written ({error.strerror}); "
                "give a folder that you may write with hydra.run.dir=FOLDER."
            ) from None
        raise


def point_to_latest(link: str | None, target: Path) -> None:
    """Make `link` a symbolic link to the newest run, where the file system has links."""
    if link is None:
        return
    path = Path(link)
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    with contextlib.suppress(OSError):
        aside.symlink_to(os.path.relpath(target, path.parent))
        os.replace(aside, path)


def shown(path: Path) -> Path:
    """The path as a user would type it from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
