"""Prompts that a log holds twice, or nearly, and those that leak across its split."""

from __future__ import annotations

import string
from dataclasses import dataclass

import numpy as np
import pandas as pd

from router.evaluation.metrics import ROUNDING
from router.outcomes.matrix import OutcomeMatrix

NEAR = 0.98  # cosine of the vectors
CHUNK_CELLS = 8_000_000  # similarities at a time: 32 MB
MOST_COMPARED = 20_000  # prompts that are compared with all others; of more, a random part
EXAMPLES = 3


@dataclass(frozen=True, eq=False)
class Duplicates:
    """repeated_prompts: prompts asked more than once, word for word, in repeated_queries queries.
    repeated_pairs: (prompt, candidate) with several outcomes; conflicting: of these, with different
    scores. near: (n,) True where another group holds a near duplicate. compared: prompts looked at
    for near duplicates. examples: pairs of near duplicates. sides: a row per value of the split
    column: queries, and those whose prompt or near duplicate stands under another value; None
    without the column."""

    repeated_prompts: int
    repeated_queries: int
    repeated_pairs: int
    conflicting: int
    near: np.ndarray
    compared: int
    examples: list[tuple[str, str]]
    sides: pd.DataFrame | None


def find_duplicates(outcomes: OutcomeMatrix, X: np.ndarray) -> Duplicates:
    """X: (n, d) vectors of the prompts. Near duplicates have a cosine above 0.98, or the same text
    but for case, spaces and punctuation at the ends."""
    prompt, texts = pd.factorize(outcomes.queries["prompt"].str.strip())
    size = np.bincount(prompt)
    first = np.unique(prompt, return_index=True)[1]
    group = outcomes.groups[first]
    side, names = _sides(outcomes)
    stands = np.zeros((len(texts), len(names)), dtype=bool)  # prompts x values of the split column
    stands[prompt[side >= 0], side[side >= 0]] = True
    near, beside, compared, pairs = _near(X[first], _normalised(texts), group, stands)
    scores = pd.DataFrame(outcomes.scores).groupby(prompt)
    several = (scores.count() > 1).to_numpy()
    differ = ((scores.max() - scores.min()) > ROUNDING).to_numpy()
    return Duplicates(
        repeated_prompts=int((size > 1).sum()),
        repeated_queries=int(size[size > 1].sum()),
        repeated_pairs=int(several.sum()),
        conflicting=int((several & differ).sum()),
        near=near[prompt],
        compared=compared,
        examples=[(str(texts[i]), str(texts[j])) for i, j in pairs],
        sides=_leaks(prompt, side, names, stands, beside),
    )


def _sides(outcomes: OutcomeMatrix) -> tuple[np.ndarray, list[str]]:
    if "split" not in outcomes.queries:
        return np.full(len(outcomes), -1), []
    codes, names = pd.factorize(outcomes.queries["split"], sort=True)
    return codes, names.tolist()


def _normalised(texts: pd.Index) -> np.ndarray:
    """(p,) integers, equal where the texts are the same but for case, spaces and the ends."""
    ends = string.punctuation + string.whitespace
    return pd.factorize(
        np.array([" ".join(t.casefold().split()).strip(ends) or t for t in texts], dtype=object)
    )[0]


def _near(
    X: np.ndarray, text: np.ndarray, group: np.ndarray, stands: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int, list[tuple[int, int]]]:
    """((p,) has a near duplicate in another group, (p, sides) where near duplicates of whatever
    group stand, prompts compared, example pairs)."""
    X = np.asarray(X, dtype=np.float32)
    X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-12)
    rows = np.arange(len(X))
    if len(X) > MOST_COMPARED:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_COMPARED])
    near = np.zeros(len(X), dtype=bool)
    beside = np.zeros_like(stands)
    pairs: list[tuple[int, int]] = []
    step = max(1, CHUNK_CELLS // len(X))
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step]
        alike = (X[chunk] @ X.T > NEAR) | (text[chunk][:, None] == text)
        alike[np.arange(len(chunk)), chunk] = False
        beside[chunk] = alike.astype(np.float32) @ stands.astype(np.float32) > 0
        alike &= group[chunk][:, None] != group
        near[chunk] = alike.any(axis=1)
        for i, j in zip(chunk, alike.argmax(axis=1), strict=True):
            if near[i] and i < j and len(pairs) < EXAMPLES:
                pairs.append((int(i), int(j)))
    return near, beside, len(rows), pairs


def _leaks(
    prompt: np.ndarray, side: np.ndarray, names: list[str], stands: np.ndarray, beside: np.ndarray
) -> pd.DataFrame | None:
    if not names:
        return None
    rows = []
    for s, name in enumerate(names):
        elsewhere = np.arange(len(names)) != s
        of_side = prompt[side == s]
        exact = stands[of_side][:, elsewhere].any(axis=1)
        alike = beside[of_side][:, elsewhere].any(axis=1) & ~exact
        rows.append((name, len(of_side), int(exact.sum()), int(alike.sum())))
    return pd.DataFrame(rows, columns=["split", "queries", "same_elsewhere", "near_elsewhere"])
