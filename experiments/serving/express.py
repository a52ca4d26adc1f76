"""What express costs in AIQ and gains in time: MiniLM against token tables of several widths.

    python experiments/serving/express.py [ARTIFACT ...]

AIQ of the default router without its guard, on out-of-fold predictions of the default data's train
side; the test side is not touched. Time of a vector is that of a prompt of 60 tokens, one thread.
Of each exported artifact: time of a decision, cold start, memory and size. Prints Markdown.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import router
from router.encoding.cache import encode_cached
from router.encoding.query_features import query_features
from router.encoding.sentence_transformer import SentenceTransformerEncoder, minilm_folder
from router.encoding.static_encoder import (
    CHARACTERS,
    bare_tokenizer,
    compressed,
    token_vectors,
    tokens_in_use,
)
from router.encoding.static_table import StaticTable, quantised
from router.estimators import Partition, Ridge
from router.estimators.head import Head, cross_predict
from router.evaluation.validation import validation_figures
from router.outcomes.matrix import OutcomeMatrix
from router.outcomes.paretobandit import ParetoBanditData
from router.outcomes.splits import AutoSplit
from router.policies import Utility

SEEDS = (0, 1, 2)  # of the folds
WINDOW = 256
PROMPT = (
    "A farmer sells two thirds of his apples on the first day of the market and a quarter of what "
    "is left on the second. On the third day he gives ten of them to his neighbour and keeps the "
    "last twenty for himself. How many apples did he bring to the market on the first day?"
)
COLD = """
import resource, sys
import router
router.load(sys.argv[1]).route(sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main(artifacts: list[str]) -> None:
    """Print both tables."""
    outcomes = ParetoBanditData().load()
    outcomes = outcomes.take(AutoSplit()(outcomes).train)
    teacher = SentenceTransformerEncoder(minilm_folder())
    model = teacher.load("float32")
    tokenizer = bare_tokenizer(model, WINDOW)
    vectors, used = token_vectors(model, tokenizer), tokens_in_use(tokenizer)
    print(f"{len(outcomes):,} train queries, folds from {len(SEEDS)} seeds\n")
    print("| encoder | AIQ | with features | table, MB | vector p50, ms | p99, ms |")
    print("|---|---|---|---|---|---|")
    row("MiniLM", encode_cached(teacher, outcomes.prompts), outcomes)
    variants: list[tuple[int, float | None, str]]
    variants = [(width, 1e-3, "int8") for width in (64, 128, 256, 384)]
    variants += [(256, 1e-3, "float16"), (256, 1e-3, "float32")]
    variants += [(256, 1e-4, "int8"), (256, None, "int8")]
    for width, sif, precision in variants:
        rows = stored(compressed(vectors, used, width, sif), precision)
        table = StaticTable(rows, tokenizer, CHARACTERS * WINDOW)
        encoded = np.stack([table.encode_one(prompt) for prompt in outcomes.prompts])
        name = f"express, {width} dimensions, sif {sif}, {precision}"
        p50, p99 = milliseconds(table.encode_one)
        row(name, encoded, outcomes, f"{rows.nbytes / 1e6:.1f}", f"{p50:.3f}", f"{p99:.3f}")
    if artifacts:
        print(f"\nDecisions on a prompt of {len(tokenizer.encode(PROMPT).ids)} tokens\n")
        print("| artifact | p50, ms | p99, ms | cold start, s | memory, MB | size, MB |")
        print("|---|---|---|---|---|---|")
    for artifact in artifacts:
        p50, p99 = milliseconds(router.load(artifact).route)
        seconds, memory = cold_start(artifact)
        size = sum(path.stat().st_size for path in Path(artifact).iterdir()) / 1e6
        print(f"| {artifact} | {p50:.3f} | {p99:.3f} | {seconds:.2f} | {memory:.0f} | {size:.1f} |")


def stored(table: np.ndarray, precision: str) -> np.ndarray:
    """The records of a table in a precision."""
    if precision == "int8":
        return quantised(table)
    records = np.empty(len(table), [("scale", "f4"), ("row", precision, (table.shape[1],))])
    records["scale"], records["row"] = 1, table
    return records


def row(name: str, vectors: np.ndarray, outcomes: OutcomeMatrix, *rest: str) -> None:
    """Print a line of the first table."""
    featured = np.hstack([vectors, np.float32(0.1) * query_features(outcomes.prompts)])
    cells = [*(shown(aiq_of(X, outcomes)) for X in (vectors, featured)), *(rest or ("", "", ""))]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def aiq_of(vectors: np.ndarray, outcomes: OutcomeMatrix) -> list[float]:
    """Out of fold, one for each seed of the folds."""
    head = Head(Partition([16, 32, 64, 128], n_repeats=6), Ridge(se_rank=32))
    figures = []
    for seed in SEEDS:
        prediction = cross_predict(head, vectors, outcomes, 5, seed)
        aiq = validation_figures(Utility(), prediction, outcomes)["aiq"]
        assert aiq is not None
        figures.append(aiq)
    return figures


def shown(figures: list[float]) -> str:
    """The mean, and how far the figures reach."""
    return f"{np.mean(figures):.4f} ({min(figures):.4f} to {max(figures):.4f})"


def milliseconds(answer: Callable[[str], object], repeats: int = 2000) -> tuple[float, float]:
    """p50 and p99 of one call; fewer where it is slow."""
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < 10:
        started = time.perf_counter()
        answer(PROMPT)
        seconds.append(time.perf_counter() - started)
    p50, p99 = 1000 * np.percentile(seconds, [50, 99])
    return float(p50), float(p99)


def cold_start(artifact: str, repeats: int = 5) -> tuple[float, float]:
    """Seconds from the start of a process to its first answer and end, and its memory in MB: the
    median of some."""
    walls, memory = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", COLD, artifact, PROMPT],
            capture_output=True,
            text=True,
            check=True,
        )
        walls.append(time.perf_counter() - started)
        memory.append(int(done.stdout) / 1e3)
    return float(np.median(walls)), float(np.median(memory))


if __name__ == "__main__":
    main(sys.argv[1:])
