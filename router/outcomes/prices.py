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


class _OneEntryPerName(yaml.SafeLoader):
    """YAML keeps the last of two entries with one name; a price must not get lost like that."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise yaml.constructor.ConstructorError(
                    problem=f"{name!r} stands twice", problem_mark=node.value[place][0].start_mark
                )
        return super().construct_mapping(node, deep)


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
            content = yaml.load(path.read_text(encoding="utf-8"), _OneEntryPerName)  # noqa: S506
        except FileNotFoundError:
            raise RouterError(f"{path}: no such price table; give data.prices=FILE.yaml.") from None
        except OSError as error:
            raise RouterError(
                f"{path}: cannot be read ({error.strerror}); give data.prices=FILE.yaml."
            ) from None
        except (yaml.YAMLError, ValueError) as error:
            raise RouterError(
                f"{path}: cannot be read as YAML ({_place_of(error)}); correct it there."
            ) from None
        if not isinstance(content, dict) or not isinstance(content.get("models"), dict):
            raise RouterError(
                f"{path}: a price table starts with the key 'models'; "
                "below it stand the models' names, each with input, output and date."
            )
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
    given = entry if isinstance(entry, dict) else {}
    absent = [key for key in ("input", "output", "date") if key not in given]
    if absent:
        raise RouterError(
            f"{path}: models.{model} has no {' and no '.join(absent)}; "
            "it needs input and output (USD per million tokens) and date (YYYY-MM-DD)."
        )
    return Price(
        input=_dollars(given["input"], f"{path}: models.{model}.input"),
        output=_dollars(given["output"], f"{path}: models.{model}.output"),
        date=_day(given["date"], f"{path}: models.{model}.date"),
    )


def _dollars(value: Any, place: str) -> float:
    # YAML reads 1e-3 as text, as its numbers need a dot; a yes is a 1 to float().
    try:
        amount = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise RouterError(f"{place} is {value!r}; give a number of at least 0.")
    return amount


def _day(date: Any, place: str) -> str:
    if isinstance(date, datetime.datetime):
        return date.date().isoformat()
    try:
        return datetime.date.fromisoformat(str(date)).isoformat()
    except ValueError:
        raise RouterError(f"{place} is {date!r}; give YYYY-MM-DD.") from None


def _place_of(error: Exception) -> str:
    """Line and reason of a YAML error, in one line."""
    mark = getattr(error, "problem_mark", None)
    reason = getattr(error, "problem", None) or " ".join(str(error).split())
    return reason if mark is None else f"line {mark.line + 1}: {reason}"
