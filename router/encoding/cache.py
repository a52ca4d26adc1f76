"""Embeddings on disk, keyed by what made them: the encoder's identity and the text's hash.

One SQLite file per encoder identity, in write-ahead mode, so that two processes may read and write
at once. Each chunk is one transaction: an interrupted run keeps the finished chunks, whole.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from tqdm import tqdm

from router.cache_folder import cache_folder
from router.encoding.encoder import Encoder

log = logging.getLogger(__name__)

CHUNK = 256
BUSY_SECONDS = 60
LOOKUP = 500  # below SQLite's least limit of 999 variables


def encode_cached(encoder: Encoder, texts: Sequence[str], label: str = "Embedding") -> np.ndarray:
    """(n, d) float32 vectors of the texts; only those not yet in the cache are computed.

    Texts are encoded in order of length, which spares the encoder its padding.
    """
    if encoder.identity is None:
        return encoder.encode(texts)
    keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    text_of = dict(zip(keys, texts, strict=True))
    store = EmbeddingStore(cache_folder("embeddings") / f"{encoder.identity}.sqlite")
    vectors = store.read(list(text_of))
    missing = sorted((key for key in text_of if key not in vectors), key=lambda k: len(text_of[k]))
    if missing:
        with tqdm(total=len(missing), desc=label, unit="prompt", leave=False, disable=None) as bar:
            for start in range(0, len(missing), CHUNK):
                chunk = missing[start : start + CHUNK]
                encoded = encoder.encode([text_of[key] for key in chunk]).astype(np.float32)
                new = dict(zip(chunk, encoded, strict=True))
                store.write(new)
                vectors.update(new)
                bar.update(len(chunk))
    return np.stack([vectors[key] for key in keys])


class EmbeddingStore:
    """Text hash -> float32 vector, in one SQLite file. Where the file cannot be used, one warning
    says so, and the vectors are computed anew each time."""

    def __init__(self, path: Path):
        self.path = path
        self.usable = True

    def read(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The stored vectors among the given text hashes."""
        found: dict[bytes, np.ndarray] = {}

        def select(connection: sqlite3.Connection) -> None:
            for start in range(0, len(keys), LOOKUP):
                chunk = keys[start : start + LOOKUP]
                marks = ",".join("?" * len(chunk))
                query = f"SELECT text, vector FROM vectors WHERE text IN ({marks})"
                for key, blob in connection.execute(query, chunk):
                    found[key] = np.frombuffer(blob, dtype="<f4")

        self._transact(select)
        return found

    def write(self, vectors: dict[bytes, np.ndarray]) -> None:
        """Add vectors in one transaction; a vector that another process wrote first stays."""
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()]
        self._transact(
            lambda connection: connection.executemany(
                "INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows
            )
        )

    def _transact(self, work: Callable[[sqlite3.Connection], object]) -> None:
        if not self.usable:
            return
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS vectors"
                    " (text BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID"
                )
                with connection:
                    work(connection)
        except sqlite3.DatabaseError as error:
            self.usable = False
            log.warning(
                "%s: the embedding cache cannot be used (%s), so vectors are computed anew; "
                "delete the file, or set ROUTER_CACHE to a folder that you may write.",
                self.path,
                error,
            )
