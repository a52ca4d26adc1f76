"""Where artifacts and prices come from, and whether there are new ones."""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from router.artifact.manifest import MANIFEST
from router.artifact.runtime import Router, load
from router.errors import RouterError
from router.serving.live_settings import LiveSettings

log = logging.getLogger(__name__)

REGISTRY = "models:/"
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Source(Protocol[T_co]):
    """A place that is looked at again and again. Both methods raise RouterError."""

    def version(self) -> str:
        """Changes whenever there is something else to read; cheap."""

    def read(self, version: str) -> T_co:
        """What is there."""


class Watched(Generic[T]):
    """The last good value of a source.

    name: "artifact", "prices" and the like, for the log.
    """

    def __init__(self, name: str, source: Source[T]):
        self.name = name
        self.source = source
        self.value: T | None = None
        self.changes = 0
        self.failures = 0
        self.problem: str | None = None
        self._in_service: str | None = None
        self._tried: str | None = None
        self._told: set[str] = set()

    def read_first(self) -> T:
        """The value to start with; raises RouterError, as there is none to keep."""
        version = self.source.version()
        self.value = self.source.read(version)
        self._in_service = self._tried = version
        return self.value

    def look(self, accept: Callable[[T], None], again: bool = False) -> bool:
        """Read what is new and hand it to `accept`, which puts it in service, or raises
        RouterError; then, and where nothing can be read, the old value stays. What failed is tried
        anew once it changes. Whether there is a new value in service.

        again: read it even if it has not changed.
        """
        try:
            version = self.source.version()
            if version == self._in_service:
                self.problem = None
            if version == self._tried and not again:
                return False
            self._tried = version
            value = self.source.read(version)
            accept(value)
        except Exception as error:  # whatever it is, the service goes on with what it has
            self._fail(error)
            return False
        self.value, self._in_service, self.problem = value, version, None
        self.changes += 1
        return True

    def describe(self) -> dict[str, Any]:
        """Counters, and what is wrong with the newest, if anything."""
        return {"changes": self.changes, "failures": self.failures, "problem": self.problem}

    def _fail(self, error: Exception) -> None:
        told = isinstance(error, RouterError)
        self.problem = str(error) if told else f"{type(error).__name__}: {error}"
        self.failures += 1
        if self.problem not in self._told:
            self._told.add(self.problem)
            log.warning("The new %s is not taken, the old one stays: %s", self.name, self.problem)


class ArtifactPath:
    """An artifact's folder or zip file, which may be a symbolic link that moves."""

    def __init__(self, path: str, public_key: Path | None):
        self._path, self._public_key = Path(path), public_key

    def version(self) -> str:
        place = self._path.resolve()
        try:
            if not place.is_dir():
                return _mark(place)
            manifest = (place / MANIFEST).read_bytes()
            # The other files too: one that was being copied is whole once it stops changing.
            marks = [hashlib.sha256(manifest).hexdigest(), *map(_mark, sorted(place.iterdir()))]
        except OSError as error:
            raise RouterError(f"{self._path}: no artifact here ({error.strerror}).") from None
        return "\n".join(marks)

    def read(self, version: str) -> Router:
        # Resolved once: a link that moves meanwhile does not mix two artifacts.
        return loaded(self._path.resolve(), self._public_key)


class RegistryAlias:
    """The artifact behind an alias of a model registry, `models:/name@alias`.

    A version is downloaded to a private folder, loaded, and removed again: a router holds all that
    it needs in memory. It may lie anywhere within the version's files, as one folder or zip file.
    """

    def __init__(self, address: str, tracking_uri: str | None, public_key: Path | None):
        match = re.fullmatch(r"models:/([^/@]+)@([^/@]+)", address)
        if match is None:
            raise RouterError(f"{address!r} names no alias; give models:/NAME@ALIAS.")
        self._address, self._uri, self._public_key = address, tracking_uri, public_key
        self._name, self._alias = match.groups()

    def version(self) -> str:
        client = self._mlflow().MlflowClient(self._uri, self._uri)
        try:
            found = client.get_model_version_by_alias(self._name, self._alias)
        except Exception as error:  # of the registry's many kinds, and its connection's
            raise self._unreachable(error) from None
        return str(found.version)

    def read(self, version: str) -> Router:
        mlflow = self._mlflow()
        client = mlflow.MlflowClient(self._uri, self._uri)
        with tempfile.TemporaryDirectory(prefix="router-") as folder:
            try:
                place = client.get_model_version_download_uri(self._name, version)
                mlflow.artifacts.download_artifacts(place, dst_path=folder, tracking_uri=self._uri)
            except Exception as error:
                raise self._unreachable(error) from None
            return loaded(self._artifact_in(Path(folder)), self._public_key)

    def _artifact_in(self, folder: Path) -> Path:
        manifests = [path.parent for path in folder.rglob(MANIFEST)]
        found = manifests or list(folder.rglob("*.zip"))
        if len(found) != 1:
            raise RouterError(
                f"{self._address}: {len(found) or 'no'} artifacts in this version; "
                "register the folder or zip file of one."
            )
        return found[0]

    def _mlflow(self) -> Any:
        try:
            import mlflow
        except ModuleNotFoundError:
            raise RouterError(
                f"{self._address}: a registry needs mlflow; pip install mlflow, or give the "
                "artifact's folder."
            ) from None
        return mlflow

    def _unreachable(self, error: Exception) -> RouterError:
        reason = " ".join(str(error).split())[:300]
        return RouterError(f"{self._address}: cannot be had from the registry ({reason}).")


class PriceFile:
    """A price table, in the format of data.prices."""

    def __init__(self, path: Path):
        self._path = path

    def version(self) -> str:
        try:
            return hashlib.sha256(self._path.read_bytes()).hexdigest()
        except OSError as error:
            raise RouterError(f"{self._path}: no price table ({error.strerror}).") from None

    def read(self, version: str) -> dict[str, dict[str, Any]]:
        """Candidate -> input and output, USD per million tokens, and date."""
        from router.outcomes.prices import PriceTable

        return {
            name: {"input": price.input, "output": price.output, "date": price.date}
            for name, price in PriceTable.read(self._path).prices.items()
        }


def artifact_source(place: str, settings: LiveSettings) -> Source[Router]:
    """Where an artifact is read from: a path, or an alias of a registry."""
    if place.startswith(REGISTRY):
        return RegistryAlias(place, settings.tracking_uri, settings.public_key)
    return ArtifactPath(place, settings.public_key)


def loaded(path: Path, public_key: Path | None) -> Router:
    """The router, its signature checked where a key is given."""
    return load(path) if public_key is None else load(path, public_key=public_key)


def _mark(path: Path) -> str:
    """Changes with the file, without reading it."""
    found = path.stat()
    return f"{path.resolve()} {found.st_ino} {found.st_size} {found.st_mtime_ns}"
