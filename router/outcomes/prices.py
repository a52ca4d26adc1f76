"""Dated prices in USD per million tokens."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from router.errors import RouterError


@dataclass(frozen=True)
class Price:
    """USD per million input and output tokens of one candidate, and the day it was read."""

    input: float
    output: float
    date: str


class PriceTable:
    """Candidate -> Price. A candidate without a price is an error, never free."""

    def __init__(self, prices: Mapping[str, Price], source: str = "the price table"):
        self.prices = dict(prices)
        self.source = source

    @classmethod
    def read(cls, path: str | Path) -> PriceTable:
        """Read the YAML file `models: {name: {input, output, date}}`."""
        path = Path(path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RouterError(f"{path}: no such price table; give data.prices=FILE.yaml.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RouterError(f"{path}: not a YAML file ({_first_line(error)}).") from None
        if not isinstance(content, dict) or not isinstance(content.get("models"), dict):
            raise RouterError(f"{path}: a price table starts with the key 'models'.")
        prices = {
            str(model): _price(str(model), entry, path)
            for model, entry in content["models"].items()
        }
        return cls(prices, str(path))

    def of(self, candidates: Iterable[str]) -> np.ndarray:
        """(m, 2) USD per input and output token of the candidates, in their order."""
        wanted = list(candidates)
        missing = [name for name in wanted if name not in self.prices]
        if missing:
            raise RouterError(
                f"{self.source}: no price for {', '.join(repr(name) for name in missing)}; "
                "add input and output in USD per million tokens, with the date."
            )
        per_million = [(self.prices[name].input, self.prices[name].output) for name in wanted]
        return np.array(per_million, dtype=float) / 1e6


def _price(model: str, entry: Any, path: Path) -> Price:
    if not isinstance(entry, dict) or not {"input", "output", "date"} <= set(entry):
        raise RouterError(
            f"{path}: models.{model} needs input, output (USD per million tokens) and date."
        )
    for key in ("input", "output"):
        value = entry[key]
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not math.isfinite(value) or value < 0:
            raise RouterError(
                f"{path}: models.{model}.{key} is {value!r}; give a number of at least 0."
            )
    date = entry["date"]
    if not isinstance(date, datetime.date):
        try:
            date = datetime.date.fromisoformat(str(date))
        except ValueError:
            raise RouterError(
                f"{path}: models.{model}.date is {date!r}; give YYYY-MM-DD."
            ) from None
    return Price(float(entry["input"]), float(entry["output"]), date.isoformat())


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
