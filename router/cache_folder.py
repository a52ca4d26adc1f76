"""Where this user's caches live: downloaded data, embeddings, exported encoders."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

from router.errors import RouterError


def cache_folder(room: str) -> Path:
    """The folder of one kind of cache, made if need be; ROUTER_CACHE moves the whole cache."""
    base = os.environ.get("ROUTER_CACHE")
    folder = (Path(base) if base else user_cache_path("query-router")) / room
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RouterError(
            f"{folder}: the cache folder cannot be made ({error.strerror}); "
            "set ROUTER_CACHE to a folder that you may write."
        ) from None
    return folder
