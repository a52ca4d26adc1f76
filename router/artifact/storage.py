"""Where the files of an artifact lie: a folder, or one zip file."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from router.errors import RouterError
from router.staging import staged_file

FIRST = ("manifest.json", "manifest.sig")  # in a zip file; the others follow by name
EARLIEST = (1980, 1, 1, 0, 0, 0)  # every file's time in a zip file: equal files, equal bytes
MOST_FILES = 16  # in a zip file
CHUNK = 2**20


class Storage(Protocol):
    """Named files, read whole.

    place: the folder or the zip file, for messages.
    """

    place: Path

    def size(self, name: str) -> int | None:
        """Bytes of the file; None where there is none of that name."""

    def read(self, name: str, size: int) -> bytes:
        """Its first `size` bytes and no more. Raises RouterError where it cannot be read."""

    def digest(self, name: str, size: int) -> str:
        """SHA-256 of those bytes, which need not fit into memory."""

    def path(self, name: str) -> Path | None:
        """Where the file lies by itself, to map it into memory; None within a zip file."""

    def require_only(self, names: set[str]) -> None:
        """Raise RouterError where a zip file holds others. A folder may hold notes, say."""

    def replace(self, changes: Mapping[str, bytes | None]) -> None:
        """Write these files, without those that are None; removed ones go first."""

    def close(self) -> None: ...


def open_storage(place: str | os.PathLike[str]) -> Storage:
    """Raises RouterError where the place is missing, or neither a folder nor a zip file."""
    path = Path(place)
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        raise RouterError(f"{path}: no artifact here (manifest.json is missing).") from None
    except (OSError, ValueError) as error:
        raise _cannot_be_read(path, error) from None
    if stat.S_ISDIR(kind):
        return Folder(path)
    if stat.S_ISREG(kind):
        return Zipped(path)
    raise _neither(path)


class Folder:
    """Files in a folder."""

    def __init__(self, place: Path):
        self.place = place

    def size(self, name: str) -> int | None:
        try:
            found = (self.place / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _cannot_be_read(self.place / name, error) from None
        if not stat.S_ISREG(found.st_mode):  # a pipe would keep its reader waiting
            raise RouterError(f"{self.place / name}: not a file; export the router again.")
        return found.st_size

    def read(self, name: str, size: int) -> bytes:
        with self._opened(name) as file:
            return file.read(size)

    def digest(self, name: str, size: int) -> str:
        with self._opened(name) as file:
            return _digest(file, size)

    @contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        try:
            with (self.place / name).open("rb") as file:
                yield file
        except OSError as error:
            raise _cannot_be_read(self.place / name, error) from None

    def path(self, name: str) -> Path | None:
        return self.place / name

    def require_only(self, names: set[str]) -> None: ...

    def replace(self, changes: Mapping[str, bytes | None]) -> None:
        for name in [name for name, content in changes.items() if content is None]:
            (self.place / name).unlink(missing_ok=True)
        for name, content in changes.items():
            if content is not None:
                with staged_file(self.place / name) as staged:
                    staged.write_bytes(content)

    def close(self) -> None: ...


class Zipped:
    """Files in one zip file, stored or deflated. It stays open, so that what replaces it on disk
    meanwhile is not read in part."""

    def __init__(self, place: Path):
        self.place = place
        self._open()

    def _open(self) -> None:
        # A damaged file makes the reader raise a dozen kinds; here and below, all mean one.
        try:
            self._zip = zipfile.ZipFile(self.place)
        except OSError as error:
            raise _cannot_be_read(self.place, error) from None
        except Exception:
            raise _neither(self.place) from None
        members = self._zip.infolist()
        self._members = {member.filename: member for member in members}
        if len(members) > MOST_FILES or len(self._members) < len(members):
            self.close()
            raise RouterError(
                f"{self.place}: not a router's artifact (it holds more than {MOST_FILES} files, "
                "or one twice); export the router again."
            )

    def size(self, name: str) -> int | None:
        return self._members[name].file_size if name in self._members else None

    def read(self, name: str, size: int) -> bytes:
        with self._opened(name) as file:
            return file.read(size)

    def digest(self, name: str, size: int) -> str:
        with self._opened(name) as file:
            return _digest(file, size)

    @contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        member = self._members[name]
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RouterError(
                f"{self.place / name}: compressed in a way that is not read here; export the "
                "router again."
            )
        try:
            with self._zip.open(member) as file:
                yield file
        except Exception as error:
            raise RouterError(
                f"{self.place / name}: damaged ({type(error).__name__}); export the router again."
            ) from None

    def path(self, name: str) -> Path | None:
        return None

    def require_only(self, names: set[str]) -> None:
        unknown = sorted(set(self._members) - names)
        if unknown:
            raise RouterError(
                f"{self.place}: holds {unknown[0]!r}, which is no part of an artifact; export the "
                "router again."
            )

    def replace(self, changes: Mapping[str, bytes | None]) -> None:
        with staged_file(self.place) as staged:
            with zipfile.ZipFile(staged, "w") as target:
                for name in _ordered({*self._members, *changes}):
                    content = changes.get(name)
                    if content is not None:
                        target.writestr(_entry(name), content)
                    elif name not in changes:
                        entry = _entry(name, self._members[name].file_size)
                        with self._zip.open(name) as old, target.open(entry, "w") as new:
                            shutil.copyfileobj(old, new, CHUNK)
            self.close()
        self._open()

    def close(self) -> None:
        self._zip.close()


def is_zip(place: Path) -> bool:
    """Whether an artifact of that name is written as one zip file."""
    return place.suffix.lower() == ".zip"


def pack(folder: Path, names: list[str], target: Path) -> None:
    """Write these files of a folder into one zip file, uncompressed, so that it loads as fast.
    Equal files make equal bytes."""
    with staged_file(target) as staged, zipfile.ZipFile(staged, "w") as whole:
        for name in _ordered(set(names)):
            entry = _entry(name, (folder / name).stat().st_size)
            with (folder / name).open("rb") as source, whole.open(entry, "w") as member:
                shutil.copyfileobj(source, member, CHUNK)


def _digest(file: IO[bytes], size: int) -> str:
    digest = hashlib.sha256()
    while size > 0 and (part := file.read(min(size, CHUNK))):
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()


def _ordered(names: set[str]) -> list[str]:
    first = [name for name in FIRST if name in names]
    return first + sorted(names - set(FIRST))


def _entry(name: str, size: int = 0) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EARLIEST)
    entry.create_system = 3  # on every system the same
    entry.external_attr = 0o644 << 16
    entry.file_size = size  # beyond 2 GiB another form is needed, which is told beforehand
    return entry


def _cannot_be_read(path: Path, error: Exception) -> RouterError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return RouterError(f"{path}: cannot be read ({reason}).")


def _neither(path: Path) -> RouterError:
    return RouterError(
        f"{path}: neither a folder nor a whole zip file; give the artifact, or export it again."
    )
