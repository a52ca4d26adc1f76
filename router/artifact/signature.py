"""Who exported an artifact: a detached Ed25519 signature over its manifest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.artifact.manifest import SIGNATURE, check_part, manifest_of
from router.artifact.storage import open_storage
from router.errors import RouterError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SIGNATURE_BYTES = 64
MOST_KEY_BYTES = 2**16
VARIABLE = "ROUTER_KEY_PASSPHRASE"  # an argument would stand in the list of processes


def sign(place: str | os.PathLike[str], key: str | os.PathLike[str]) -> None:
    """Sign an artifact, a folder or a zip file, in place of an older signature.

    The manifest's bytes are signed, and they hold the hash of every part. manifest.sig is the
    plain signature of 64 bytes (RFC 8032), which other tools can check too.

    key: a private Ed25519 key, PEM; the passphrase of an encrypted one is read from the
        environment variable ROUTER_KEY_PASSPHRASE.

    Raises RouterError where the artifact is damaged or the key cannot be used.
    """
    private = _private_key(Path(key))
    storage = open_storage(place)
    try:
        manifest, text = manifest_of(storage)
        for name in manifest["files"]:
            check_part(storage, manifest, name)
        try:
            storage.replace({SIGNATURE: private.sign(text)})
        except OSError as error:
            raise RouterError(
                f"{storage.place}: cannot be signed ({error.strerror}); sign a copy of it."
            ) from None
    finally:
        storage.close()


def require_signature(text: bytes, signature: bytes | None, key: Path, place: Path) -> None:
    """Raise RouterError unless `signature` is one of the manifest's text by the key's owner.

    key: a public Ed25519 key, PEM. place: the artifact, for messages.
    """
    public = _public_key(key)
    if signature is None:
        raise RouterError(
            f"{place}: not signed (manifest.sig is missing); sign it with router sign, or load it "
            "without a public key."
        )
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(signature, text)
    except InvalidSignature:
        raise RouterError(
            f"{place}: its signature is not one by the owner of {key}, or the artifact was altered "
            "since; get it again from who signed it."
        ) from None


def _private_key(path: Path) -> Ed25519PrivateKey:
    serialization, ed25519 = _cryptography()
    content, passphrase = _key_bytes(path), os.environ.get(VARIABLE)
    try:
        key = serialization.load_pem_private_key(
            content, None if passphrase is None else passphrase.encode()
        )
    except TypeError as error:  # a passphrase is missing, or one too many
        if passphrase is None:
            remedy = f"set the environment variable {VARIABLE} to its passphrase"
        else:
            remedy = f"unset the environment variable {VARIABLE}"
        raise RouterError(f"{path}: {_plain(error)}; {remedy}.") from None
    except Exception:  # not PEM, damaged, of an unknown kind, or another passphrase
        raise RouterError(
            f"{path}: no private key that can be read (PEM, with the passphrase in {VARIABLE} "
            "where it is encrypted); make one with openssl genpkey -algorithm ed25519."
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise RouterError(
            f"{path}: not an Ed25519 key; make one with openssl genpkey -algorithm ed25519."
        )
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    serialization, ed25519 = _cryptography()
    content, remedy = _key_bytes(path), "make it with openssl pkey -in private.pem -pubout."
    try:
        key = serialization.load_pem_public_key(content)
    except Exception:
        raise RouterError(f"{path}: no public key in PEM; {remedy}") from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise RouterError(f"{path}: not an Ed25519 key; {remedy}")
    return key


def _key_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_KEY_BYTES)
    except OSError as error:
        raise RouterError(f"{path}: the key cannot be read ({error.strerror}).") from None


def _cryptography() -> tuple[Any, Any]:
    """Imported when a signature is wanted: the runtime tier does without."""
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError:
        raise RouterError(
            "Signatures need the serve tier: pip install 'query-router[serve]'."
        ) from None
    return serialization, ed25519


def _plain(error: Exception) -> str:
    return str(error).rstrip(".")
