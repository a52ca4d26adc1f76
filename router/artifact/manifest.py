"""manifest.json: what the artifact is, and the hashes that prove it whole."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from router.artifact.manifest_form import PARTS, problem_of
from router.artifact.storage import Folder, Storage, open_storage
from router.errors import RouterError
from router.json_record import content_hash, text_of

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"  # detached, over the bytes of the manifest (see signature)
MOST_MANIFEST_BYTES = 16 * 2**20


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Add schema version, the parts that lie there with their hashes, and the manifest's own hash,
    and write it. A signature of an older manifest is removed.

    Raises RouterError where the parts do not make an artifact.
    """
    files = {
        name: {"sha256": file_hash(folder / name), "bytes": (folder / name).stat().st_size}
        for name in PARTS
        if (folder / name).is_file()
    }
    text = _sealed({"schema_version": SCHEMA_VERSION, **content, "files": files}, folder)
    Folder(folder).replace({SIGNATURE: None, MANIFEST: text})


def read_manifest(place: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of an undamaged artifact, a folder or a zip file, of a known schema version.

    Raises RouterError, one sentence, where a file is missing, damaged or from a newer version.
    """
    storage = open_storage(place)
    try:
        manifest, _ = manifest_of(storage)
        for name in manifest["files"]:
            check_part(storage, manifest, name)
    finally:
        storage.close()
    return manifest


def amend_manifest(place: str | os.PathLike[str], **changes: Any) -> None:
    """Replace entries of the manifest of an artifact, a folder or a zip file.

    The signature of a signed artifact is removed: it was given to what the artifact was before.
    """
    manifest = {**read_manifest(place), **changes}
    storage = open_storage(place)
    try:
        text = _sealed({**manifest, "schema_version": SCHEMA_VERSION}, storage.place)
        storage.replace({SIGNATURE: None, MANIFEST: text})
    finally:
        storage.close()


def manifest_of(storage: Storage) -> tuple[dict[str, Any], bytes]:
    """The manifest, and its bytes. What it says of itself is checked, and of each part that it is
    there with its size; the hashes of the parts are not (see read_part).

    Raises RouterError as `read_manifest` does.
    """
    place = storage.place
    size = storage.size(MANIFEST)
    if size is None:
        raise RouterError(f"{place}: no artifact here (manifest.json is missing).")
    path = place / MANIFEST
    if size > MOST_MANIFEST_BYTES:
        raise RouterError(f"{path}: too large for a router's manifest; export the router again.")
    content = storage.read(MANIFEST, size)
    try:
        text = content.decode("utf-8")
        manifest = json.loads(text)
    except (ValueError, RecursionError):
        raise RouterError(f"{path}: damaged (no JSON); export the router again.") from None
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if type(version) is not int or version < 1:
        raise RouterError(f"{path}: not a router's manifest; export the router again.")
    if version > SCHEMA_VERSION:
        raise RouterError(
            f"{path}: schema version {version} is newer than the {SCHEMA_VERSION} that this "
            "installation knows; update query-router."
        )
    _require_whole(manifest, text, path)
    storage.require_only({MANIFEST, SIGNATURE, *manifest["files"]})
    for name, told in manifest["files"].items():
        found = storage.size(name)
        if found is None:
            raise RouterError(
                f"{place / name}: missing from the artifact; export the router again."
            )
        if found != told["bytes"]:
            raise _damaged(place / name)
    return manifest, content


def read_part(storage: Storage, manifest: dict[str, Any], name: str) -> bytes:
    """A part's bytes, which are those that the manifest tells.

    Raises RouterError where they are not.
    """
    told = manifest["files"][name]
    content = storage.read(name, told["bytes"])
    if hashlib.sha256(content).hexdigest() != told["sha256"]:
        raise _damaged(storage.place / name)
    return content


def check_part(storage: Storage, manifest: dict[str, Any], name: str) -> None:
    """Raise RouterError where a part's bytes are not those that the manifest tells."""
    told = manifest["files"][name]
    if storage.digest(name, told["bytes"]) != told["sha256"]:
        raise _damaged(storage.place / name)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def price_version(prices: dict[str, Any] | None) -> str | None:
    """Names a manifest's prices by the latest of their days and the start of their SHA-256."""
    if not prices:
        return None
    return f"{max(price['date'] for price in prices.values())}-{content_hash(prices)[:12]}"


def _require_whole(manifest: dict[str, Any], text: str, path: Path) -> None:
    """Of the text too, since a changed blank or a doubled key leaves the content as it was."""
    try:
        whole = manifest.get("sha256") == content_hash(manifest) and text == text_of(manifest)
    except RecursionError:  # deeper than it can be written
        whole = False
    if not whole:
        raise _damaged(path)
    problem = problem_of(manifest)
    if problem:
        raise RouterError(f"{path}: {problem}; export the router again.")


def _sealed(manifest: dict[str, Any], place: Path) -> bytes:
    """The manifest's bytes, with its own hash."""
    sealed = {key: value for key, value in manifest.items() if key != "sha256"}
    sealed["sha256"] = content_hash(sealed)
    problem = problem_of(sealed)
    if problem:
        raise RouterError(f"{place / MANIFEST}: {problem}; it is not written.")
    return text_of(sealed).encode()


def _damaged(path: Path) -> RouterError:
    return RouterError(f"{path}: damaged (its checksum differs); export the router again.")
