"""What can be read off a prompt without a model: length, digits, code, language, punctuation.

Standard library and numpy only: the artifact computes the same numbers before inference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

LIMIT = 6.0  # so that no odd prompt lies far from all others by one feature
READ = 50_000  # characters of a text, where its length has long reached the limit

SENTENCE_MARKS = re.compile(r"[.,;:!?]")
SYMBOLS = re.compile(r"[{}\[\]()<>=_/*+\-#`$\\^|&%@~]")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
NOT_LATIN = re.compile(r"[^\x00-\u024f\u2000-\u206f]")
FORMULA = re.compile(r"\$[^$]+\$|\\[a-zA-Z]{2,}")
CODE = re.compile(
    r"```|\bdef \w+\(|^\s*class \w+.*:|^\s*(?:from [\w.]+ )?import \w|[;{]\s*$|\bSELECT\b",
    re.MULTILINE,
)
OPTIONS = re.compile(r"^\s*\(?[A-D1-4][.):]\s", re.MULTILINE)
BLANK = re.compile(r"_{3,}|\.{4,}")
ASKING = re.compile(r"^\W*(?:who|whom|whose|what|when|where|which|why|how)\b", re.IGNORECASE)
ENGLISH = re.compile(
    r"\b(?:the|of|and|to|in|is|are|was|that|for|with|on|as|by|it|from|which|what|how|you|if)\b",
    re.IGNORECASE,
)


def _share(pattern: re.Pattern[str]) -> Callable[[str], float]:
    return lambda text: len(pattern.findall(text)) / max(len(text), 1)


def _holds(pattern: re.Pattern[str]) -> Callable[[str], float]:
    return lambda text: float(pattern.search(text) is not None)


def _count(kind: Callable[[str], bool], text: str) -> float:
    return sum(map(kind, text)) / max(len(text), 1)


def _words(text: str) -> int:
    return max(len(text.split()), 1)


# Each with a usual value and a usual spread over mixed traffic: the columns come out near zero mean
# and unit variance without statistics of the log.
FEATURES: dict[str, tuple[float, float, Callable[[str], float]]] = {
    "log characters": (5.2, 0.9, lambda text: np.log1p(len(text))),
    "log words": (3.5, 0.9, lambda text: np.log1p(len(text.split()))),
    "log lines": (0.7, 0.9, lambda text: np.log1p(text.count("\n"))),
    "log numbers": (0.7, 0.9, lambda text: np.log1p(len(NUMBER.findall(text)))),
    "characters per word": (5.8, 0.9, lambda text: min(len(text) / _words(text), 12.0)),
    "commas per word": (0.04, 0.07, lambda text: min(text.count(",") / _words(text), 0.5)),
    "share of digits": (0.014, 0.027, lambda text: _count(str.isdigit, text)),
    "share of capitals": (0.03, 0.024, lambda text: _count(str.isupper, text)),
    "share of punctuation": (0.024, 0.018, _share(SENTENCE_MARKS)),
    "share of symbols": (0.02, 0.04, _share(SYMBOLS)),
    "share beyond Latin": (0.0, 0.1, _share(NOT_LATIN)),
    "English words per word": (0.25, 0.1, lambda text: len(ENGLISH.findall(text)) / _words(text)),
    "begins with a capital": (0.8, 0.4, lambda text: float(text[:1].isupper())),
    "begins by asking": (0.2, 0.4, _holds(ASKING)),
    "ends with a question mark": (0.4, 0.5, lambda text: float(text.rstrip().endswith("?"))),
    "ends with a full stop": (0.4, 0.5, lambda text: float(text.rstrip().endswith("."))),
    "ends without a mark": (0.2, 0.4, lambda text: float(text.rstrip()[-1:].isalnum())),
    "has blanks around it": (0.03, 0.17, lambda text: float(text != text.strip())),
    "holds a question mark": (0.65, 0.5, lambda text: float("?" in text)),
    "holds a formula": (0.1, 0.3, _holds(FORMULA)),
    "holds code": (0.02, 0.15, _holds(CODE)),
    "holds answer options": (0.2, 0.4, _holds(OPTIONS)),
    "holds a blank to fill": (0.01, 0.1, _holds(BLANK)),
    "holds a double space": (0.25, 0.4, lambda text: float("  " in text)),
    "holds an empty line": (0.1, 0.3, lambda text: float("\n\n" in text)),
}


def query_features(texts: Sequence[str]) -> np.ndarray:
    """(n, features) float32 in [-LIMIT, LIMIT]; a column for each of FEATURES, in their order."""
    usual, spread, readers = zip(*FEATURES.values(), strict=True)
    starts = [text[:READ] for text in texts]
    values = np.array([[read(text) for read in readers] for text in starts], dtype=float)
    scaled = (values.reshape(len(texts), len(FEATURES)) - usual) / spread
    return np.clip(scaled, -LIMIT, LIMIT).astype(np.float32)
