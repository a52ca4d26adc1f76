"""What an answer shows of itself before anybody has scored it (numpy only: training and serving run
the same code)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FEATURES = (
    "answered",
    "log_characters",
    "log_words",
    "log_lines",
    "longer_than_prompt",
    "distinct_words",
    "digits",
    "ends_as_a_sentence",
    "final_answer_marked",
    "final_answer_is_a_number",
    "refuses",
    "hedges",
    "asks_back",
    "has_code",
    "code_fence_open",
    "has_list",
    "sums",
    "wrong_sums",
)
LOGPROB_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
LOGPROBS = ("logprob_mean", *(f"logprob_q{round(100 * q)}" for q in LOGPROB_QUANTILES))
SIGNALS = ("self_verification", "consistency", "max_probability", *LOGPROBS)
MOST_CHARACTERS = 20_000  # of an answer that are looked at, its end among them

_REFUSAL = re.compile(
    r"\b(?:i (?:cannot|can't|can not|am unable to|'m unable to|won't)|as an ai|i do not have access"
    r"|i don't have access|not able to (?:help|answer|provide))\b",
    re.I,
)
_HEDGE = re.compile(
    r"\b(?:i think|i believe|not sure|unsure|might be|may be|perhaps|possibly|it is unclear"
    r"|it's unclear|not enough information|cannot be determined|approximately)\b",
    re.I,
)
_FINAL = re.compile(
    r"(?:####|\\boxed\{|(?:final |the )?answer(?: is)?\s*[:=]?)\s*\**\s*([^\n}*]{1,80})", re.I
)
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
_LIST = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.M)
_SUM = re.compile(
    r"(?<![\w.,])\$?(\d[\d,]*(?:\.\d+)?)\s*([-+*/x×÷])\s*\$?(\d[\d,]*(?:\.\d+)?)\s*=\s*\$?"
    r"(-?\d[\d,]*(?:\.\d+)?)"
)


def answer_features(prompt: str, answer: str) -> np.ndarray:
    """(len(FEATURES),) float32 of one answer, each about in [0, 1]."""
    text = answer if len(answer) <= MOST_CHARACTERS else _both_ends(answer)
    stripped = text.strip()
    words = stripped.lower().split()
    final = final_answer(text)
    sums, wrong = _sums(text)
    return np.array(
        [
            bool(stripped),
            math.log1p(len(answer)) / 10,
            math.log1p(len(words)) / 10,
            math.log1p(stripped.count("\n")) / 5,
            math.tanh(len(answer) / max(len(prompt), 1) / 4),
            len(set(words)) / len(words) if words else 0.0,
            sum(character.isdigit() for character in text) / max(len(text), 1),
            stripped.endswith((".", "!", "}", ")", "`", "|")) or stripped[-1:].isdigit(),
            _FINAL.search(text) is not None,
            _NUMBER.fullmatch(final) is not None,
            _REFUSAL.search(text) is not None,
            _HEDGE.search(text) is not None,
            stripped.endswith("?"),
            "```" in text,
            text.count("```") % 2,
            _LIST.search(text) is not None,
            math.tanh(sums / 8),
            math.tanh(wrong),
        ],
        dtype=np.float32,
    )


def final_answer(text: str) -> str:
    """What two answers must share to agree: what the last mark of a final answer (`####`,
    `\\boxed`, "answer is") names, else the last number, else all of it; in one plain form."""
    text = text if len(text) <= MOST_CHARACTERS else _both_ends(text)
    marked = _FINAL.findall(text)
    last = marked[-1] if marked else text
    numbers = _NUMBER.findall(last)
    if numbers:
        return _plain_number(numbers[-1])
    return " ".join(re.findall(r"\w+", last.lower()))


def agreement(answer: str, others: Sequence[str]) -> float:
    """Share of the other answers that come to the same final answer; NaN where there is none."""
    if not others:
        return math.nan
    mine = final_answer(answer)
    return sum(final_answer(other) == mine for other in others) / len(others)


def signals_of(answer: str, told: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of SIGNALS by name, NaN where nothing tells them.

    told: any of SIGNALS as a number; `responses`, further samples of the same candidate, from which
        `consistency` is computed (Yue et al., arXiv 2310.03094); `logprobs`, of the answer's
        tokens, from which their mean and quantiles are (Gupta et al., arXiv 2404.10136).
    """
    signals = {name: float(told[name]) for name in SIGNALS if told.get(name) is not None}
    samples, logprobs = told.get("responses"), told.get("logprobs")
    if samples is not None and len(samples):
        signals.setdefault("consistency", agreement(answer, [str(sample) for sample in samples]))
    if logprobs is not None and len(logprobs):
        values = np.asarray(logprobs, dtype=float)
        measured = [values.mean(), *np.quantile(values, LOGPROB_QUANTILES)]
        for name, value in zip(LOGPROBS, measured, strict=True):
            signals.setdefault(name, float(value))
    return {name: signals.get(name, math.nan) for name in SIGNALS}


def _both_ends(text: str) -> str:
    half = MOST_CHARACTERS // 2
    return text[:half] + "\n" + text[-half:]


def _plain_number(text: str) -> str:
    number = float(text.replace(",", "").replace("$", ""))
    return str(int(number)) if number.is_integer() else repr(number)


def _sums(text: str) -> tuple[int, int]:
    """(how many sums of two numbers the answer writes out, how many of them are wrong)."""
    found, wrong = 0, 0
    for match in _SUM.finditer(text):
        start, end = match.span()
        before, after = text[max(0, start - 4) : start].rstrip(" $")[-1:], text[end : end + 1]
        if before in tuple("-+*/x×÷") or after in tuple("*/x×÷"):
            continue  # a part of a longer sum, or a fraction
        left, sign, right, result = match.groups()
        a, b, c = (float(part.replace(",", "")) for part in (left, right, result))
        found += 1
        if sign in "/÷" and b == 0:
            wrong += 1
            continue
        value = {"+": a + b, "-": a - b}.get(sign, a / b if sign in "/÷" else a * b)
        # The answer may round to what it shows.
        digits = len(result.partition(".")[2])
        wrong += abs(value - c) > 0.5 * 10**-digits + 1e-9
    return found, wrong
