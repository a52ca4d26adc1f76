"""An opened artifact: a folder or one zip file, behind one door."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from router.artifact.manifest import SIGNATURE, check_part, manifest_of, read_part
from router.artifact.manifest_form import KINDS
from router.artifact.signature import SIGNATURE_BYTES, require_signature
from router.artifact.storage import open_storage


class Archive:
    """Parts of an artifact, each checked against the manifest when it is read.

    place: the folder or the zip file. manifest: what manifest.json says. encoder, head: the names
    of the parts that hold them. signed: whether a signature lies beside the manifest, be it good
    or not. must_be_signed: whether a public key was given, which the signature fits then.

    Close it, or use it in a `with` block.

    Raises RouterError, one sentence, where the manifest is missing, damaged or from a newer
    version, a part is missing, or the signature is not one of `public_key`.
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        public_key: str | os.PathLike[str] | None = None,
    ):
        self.must_be_signed = public_key is not None
        self._storage = open_storage(place)
        self.place = self._storage.place
        try:
            self.manifest, text = manifest_of(self._storage)
            self.signed = self._storage.size(SIGNATURE) is not None
            if public_key is not None:
                # One byte more than a signature has: a longer file is none.
                found = self._storage.read(SIGNATURE, SIGNATURE_BYTES + 1) if self.signed else None
                require_signature(text, found, Path(public_key), self.place)
        except BaseException:
            self.close()
            raise
        names = self.manifest["files"]
        self.encoder = next(name for name in KINDS["encoder"] if name in names)
        self.head = next(name for name in KINDS["head"] if name in names)

    @property
    def names(self) -> list[str]:
        """Of all parts."""
        return list(self.manifest["files"])

    def read(self, name: str) -> bytes:
        """A part's bytes; raises RouterError where they are not those that were exported."""
        return read_part(self._storage, self.manifest, name)

    def path(self, name: str) -> Path | None:
        """Where a part lies by itself, to map it into memory; None within a zip file. What changes
        there afterwards goes unseen.

        Raises RouterError as `read` does.
        """
        path = self._storage.path(name)
        if path is not None:
            check_part(self._storage, self.manifest, name)
        return path

    def check(self) -> None:
        """Raise RouterError where any part is damaged."""
        for name in self.names:
            check_part(self._storage, self.manifest, name)

    def close(self) -> None:
        self._storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_artifact(
    place: str | os.PathLike[str], public_key: str | os.PathLike[str] | None = None
) -> Archive:
    """The artifact in a folder or a zip file; see Archive."""
    return Archive(place, public_key)
