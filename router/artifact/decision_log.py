"""The decision log: what the router chose, with which probability, and what came of it."""

from __future__ import annotations

import datetime
import json
import numbers
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack
from uuid import uuid4

from router.errors import RouterError
from router.outcomes.log_records import (
    DECISION,
    OUTCOME,
    SCHEMA_VERSION,
    problem_of,
    prompt_sha256,
)

if TYPE_CHECKING:
    from io import FileIO

    from router.artifact.runtime import Decision

MAX_BYTES = 64 * 2**20


class Told(TypedDict, total=False):
    """What an outcome may tell; None as if it were left out.

    score: in [0, 1]. cost_usd: of all tries. latency_s: seconds until the answer was complete.
    retries: further tries that the answer needed. source: who gave the score ("user", "judge").
    """

    score: float | None
    cost_usd: float | None
    input_tokens: float | None
    output_tokens: float | None
    latency_s: float | None
    retries: int | None
    task: str | None
    source: str | None


class DecisionLog:
    """Records of decisions and of their outcomes, one JSON object a line (`data=decisions` reads
    them; data/README.md tells the fields).

    A call returns once its record is on disk, so that no power cut or `kill -9` takes it away. A
    record that cannot be written whole is taken back, and what a crash leaves of one is the last
    line of its file, which the reader leaves out. Threads may share a log. Every log, and every
    process that is forked with one, writes files of its own: any number of them may share a folder.

    folder: made where it is missing.
    keep: "hash" logs of a prompt its SHA-256 alone, which tells equal prompts apart from others but
        cannot be trained on without the prompts from elsewhere (data.prompts); a short prompt can
        still be found by trying. "text" logs the prompt too.
    max_bytes: size from which a new file is begun.
    sync: wait for the disk at each record, which takes milliseconds and makes other threads wait.
        Without it a killed process loses nothing still, but a machine that goes down may lose the
        last seconds.

    Raises RouterError where the folder cannot be made.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        keep: Literal["hash", "text"] = "hash",
        max_bytes: int = MAX_BYTES,
        sync: bool = True,
    ):
        if keep not in ("hash", "text"):
            raise RouterError(f"The decision log's keep is {keep!r}; choose hash or text.")
        if not max_bytes >= 1:
            raise RouterError(f"The decision log's max_bytes is {max_bytes}; give at least 1.")
        self.folder = Path(folder)
        self.keep = keep
        self.max_bytes = max_bytes
        self.sync = sync
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._process = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RouterError(
                f"{self.folder}: the decision log's folder cannot be made ({error.strerror}); "
                "give another."
            ) from None

    def decision(self, decision: Decision, prompt: str, *, user: str | None = None) -> None:
        """Log what `Router.route` chose for the prompt.

        user: whoever asked; the decisions of one user count as one in intervals.

        Raises RouterError where the record is unsound or cannot be written; it is not logged then.
        """
        self._append(self.decision_line(decision, prompt, user=user), DECISION)

    def decision_line(self, decision: Decision, prompt: str, *, user: str | None = None) -> bytes:
        """What `decision` logs, for `append`; raises RouterError where it is unsound."""
        return _line(
            {
                "schema": SCHEMA_VERSION,
                "kind": DECISION,
                "request_id": decision.request_id,
                "time": _now(),
                "query_sha256": prompt_sha256(prompt),
                "prompt": prompt if self.keep == "text" else None,
                "session": decision.session,
                "user": user,
                "candidates": decision.eligible,
                "probabilities": decision.probabilities,
                "chosen": decision.candidate,
                "ask": decision.ask,
                "policy": decision.policy,
                "artifact": decision.artifact,
                "price_version": decision.price_version,
                "seed": decision.seed,
                "quality": decision.quality,
                "cost": decision.cost,
            }
        )

    def outcome(self, request_id: str, **told: Unpack[Told]) -> None:
        """Log what became known of a decision, at any time and in any part: costs by the gateway at
        once, say, and the score by a judge a day later. What is told again replaces the earlier.

        told: see `Told`.

        Raises RouterError as `decision` does.
        """
        self._append(self.outcome_line(request_id, **told), OUTCOME)

    def outcome_line(self, request_id: str, **told: Unpack[Told]) -> bytes:
        """What `outcome` logs, for `append`; raises RouterError where it is unsound."""
        for name in told:
            if name not in Told.__annotations__:
                raise TypeError(f"an outcome has no {name!r}")
        return _line(
            {
                "schema": SCHEMA_VERSION,
                "kind": OUTCOME,
                "request_id": request_id,
                "time": _now(),
                **{name: _plain(told.get(name)) for name in Told.__annotations__},
            }
        )

    def append(self, lines: Sequence[bytes]) -> None:
        """Log several records with one wait for the disk: all of them or, unless the machine goes
        down meanwhile, none.

        lines: of `decision_line` and `outcome_line`.

        Raises RouterError where they cannot be written.
        """
        if lines:
            self._append(b"".join(lines), "group of records")

    def close(self) -> None:
        """Close the file; a later record begins a new one."""
        with self._lock:
            self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _append(self, lines: bytes, what: str) -> None:
        with self._lock:
            try:
                self._write(self._open(len(lines)), lines)
            except OSError as error:
                raise RouterError(
                    f"{self.folder}: the {what} cannot be logged ({error.strerror}); "
                    "free some space there, or log to another folder."
                ) from None

    def _open(self, more: int) -> FileIO:
        """The file for so many bytes more."""
        if self._process != os.getpid():  # forked: the open file is the parent's to write
            self._leave()
        if self._file is not None and self._file.tell() + more > self.max_bytes:
            self._leave()
        if self._file is None:
            # No two logs write one file, be they on two machines; names sort by time.
            began = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S%f")
            name = f"decisions-{began}-{os.getpid()}-{uuid4().hex[:8]}.jsonl"
            self._file = (self.folder / name).open("xb", buffering=0)
            self._process = os.getpid()
            if self.sync:
                _sync_folder(self.folder)
        return self._file

    def _write(self, file: FileIO, lines: bytes) -> None:
        start = file.tell()
        try:
            written = file.write(lines)
            while written < len(lines):  # the disk is nearly full: the next call says so
                written += file.write(lines[written:])
            if self.sync:
                os.fsync(file.fileno())
        except BaseException:  # Ctrl-C too: what stands half would join the next line
            try:
                file.truncate(start)
                if start == 0:  # else each try on a full disk leaves an empty file behind
                    Path(file.name).unlink()
            finally:
                self._leave()
            raise

    def _leave(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _line(record: dict[str, Any]) -> bytes:
    problem = problem_of(record)
    if problem:
        raise RouterError(f"The {record['kind']} cannot be logged: it {problem}.")
    # ASCII: neither a lone surrogate nor a line separator within a prompt harms the line.
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def _plain(value: Any) -> Any:
    """A number of numpy's, or a truth value, as JSON knows it; what is no number stays."""
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def _sync_folder(folder: Path) -> None:
    """A new file's name is on disk too."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
