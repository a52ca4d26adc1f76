"""manifest.json: what the artifact is, and the hashes that prove it whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from router.errors import RouterError
from router.json_record import content_hash, text_of

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
FILES = ("encoder.onnx", "head.onnx", "tokenizer.json")


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Add schema version, file hashes and the manifest's own hash, and write it."""
    files = {
        name: {"sha256": file_hash(folder / name), "bytes": (folder / name).stat().st_size}
        for name in FILES
    }
    manifest = {"schema_version": SCHEMA_VERSION, **content, "files": files}
    manifest["sha256"] = content_hash(manifest)
    (folder / MANIFEST).write_text(text_of(manifest), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an undamaged artifact of a known schema version.

    Raises RouterError, one sentence, where a file is missing, damaged or from a newer version.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
    except FileNotFoundError:
        raise RouterError(f"{folder}: no artifact here (manifest.json is missing).") from None
    except NotADirectoryError:
        raise RouterError(f"{folder}: not a folder; give the artifact's folder.") from None
    except OSError as error:
        raise RouterError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError:
        raise RouterError(f"{path}: damaged (no JSON); export the router again.") from None
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int):
        raise RouterError(f"{path}: not a router's manifest; export the router again.")
    if version > SCHEMA_VERSION:
        raise RouterError(
            f"{path}: schema version {version} is newer than the {SCHEMA_VERSION} that this "
            "installation knows; update query-router."
        )
    # The text too, since a changed blank or a doubled key leaves the content as it was.
    if manifest.get("sha256") != content_hash(manifest) or text != text_of(manifest):
        raise RouterError(f"{path}: damaged (its checksum differs); export the router again.")
    for name in FILES:
        part = folder / name
        try:
            whole = file_hash(part) == manifest["files"][name]["sha256"]
        except FileNotFoundError:
            raise RouterError(
                f"{part}: missing from the artifact; export the router again."
            ) from None
        except OSError as error:
            raise RouterError(f"{part}: cannot be read ({error.strerror}).") from None
        if not whole:
            raise RouterError(f"{part}: damaged (its checksum differs); export the router again.")
    return manifest


def amend_manifest(folder: Path, **changes: Any) -> None:
    """Replace entries of an artifact's manifest."""
    manifest = {**read_manifest(folder), **changes}
    del manifest["schema_version"], manifest["files"], manifest["sha256"]
    write_manifest(folder, manifest)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def price_version(prices: dict[str, Any] | None) -> str | None:
    """Names a manifest's prices by the latest of their days and the start of their SHA-256."""
    if not prices:
        return None
    return f"{max(price['date'] for price in prices.values())}-{content_hash(prices)[:12]}"
