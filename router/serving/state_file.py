"""A small SQLite file that the workers of one machine share."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from router.errors import RouterError

WAIT_SECONDS = 2.0  # for another worker's transaction, which takes a fraction of a millisecond


class StateFile:
    """Transactions on a SQLite file, one at a time over all threads and processes.

    A transaction is whole or not there at all, whatever is killed. The write-ahead log is not
    forced to disk at each: a machine that goes down may lose the last ones, a killed process loses
    none. The file must lie on a local disk.

    path: made where it is missing, with its folder. option: the setting that names it.
    tables: SQL that makes them where they are missing.

    Raises RouterError where it cannot be opened.
    """

    def __init__(self, path: Path, option: str, tables: str):
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise _unusable(path, option, error) from None
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            # Moving the log into the file waits for the disk: seldom is enough.
            self._database.execute("PRAGMA wal_autocheckpoint=4000")
            with self.transaction() as database:
                for statement in filter(str.strip, tables.split(";")):
                    database.execute(statement)
        except sqlite3.Error as error:
            self._database.close()
            raise _unusable(path, option, error) from None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything in the block happens at once, or, after an error, not at all; raises
        sqlite3.Error where the file cannot be written or another holds it for too long."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file; what it holds stays."""
        with self._lock:
            self._database.close()


def _unusable(path: Path, option: str, error: Exception) -> RouterError:
    return RouterError(
        f"{path}: cannot hold the state that the workers share ({error}); give another file with "
        f"{option}."
    )
