"""`router plan-exploration`: the least exploration that answers a question in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from router.errors import RouterError
from router.json_record import text_of
from router.off_policy.exploration_plan import (
    NewCandidate,
    Plan,
    Question,
    TargetValue,
    fastest_rate,
    least_rate,
    plan,
    seen_weights,
)
from router.outcomes.matrix import OutcomeMatrix
from router.pipelines.console import console, print_outcomes
from router.pipelines.contender import Contender, contender
from router.pipelines.parts import build
from router.pipelines.run_folder import output_folder, run_folder, shown
from router.pipelines.values import fits, share, text_or_null, true_or_false


def plan_exploration(config: DictConfig) -> None:
    """Print and write what every rate takes, and the least one within the given days."""
    per_day, days = _positive(config, "requests_per_day"), _positive(config, "within_days")
    most, rates = _rate(config.most_rate, "most_rate"), _rates(config)
    name = text_or_null(config, "new_candidate.name")
    if (name is None) == (config.target is None):
        raise RouterError("One question is needed: give target=..., or new_candidate.name=NAME.")
    data, split_by = build(config.data, "data"), build(config.split, "split")
    outcomes: OutcomeMatrix = data.load()
    print_outcomes(data.name, outcomes)
    test = outcomes.take(split_by(outcomes).test)
    incumbent = contender(config.incumbent, "incumbent", outcomes)
    if name is None:
        target = contender(config.target, "target", outcomes)
        question: Question = _target_value(config, incumbent, target, test)
        about = f"{'gain' if config.gain else 'mean score'} of {target.name}"
    else:
        question = _new_candidate(config, name, incumbent, test)
        about = f"mean score of {name}"
    least = least_rate(question, per_day * days, most)
    fastest = plan(question, fastest_rate(question, most), per_day)
    chosen = None if least is None else plan(question, least, per_day)
    shown_rates = sorted({*rates, *([] if least is None else [least])})
    plans = {rate: plan(question, rate, per_day) for rate in shown_rates}
    wish = f"{about} to +/-{config.half_width:g} at {config.level:.0%}"
    sentence = _sentence(wish, chosen, fastest, days)
    record = {
        "question": wish,
        "incumbent": incumbent.to_dict(),
        "requests_per_day": per_day,
        "within_days": days,
        "least": None if chosen is None else asdict(chosen),
        "plans": [asdict(one) for one in plans.values() if one is not None],
        "sentence": sentence,
        "data": {"name": data.name, "sha256": outcomes.fingerprint, "queries": len(test)},
    }
    with run_folder(output_folder()) as folder:
        (folder / "plan.json").write_text(text_of(record), encoding="utf-8")
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
    _print(plans, least)
    console.print(f"Record     {shown(output_folder()) / 'plan.json'}")
    console.print(f"Plan       {sentence}")


def _target_value(
    config: DictConfig, incumbent: Contender, target: Contender, test: OutcomeMatrix
) -> TargetValue:
    """Exploration draws from all that the two may ask; the reward model is what the routers
    themselves predict, and the mean score of a model that none of them knows."""
    weights = seen_weights(test)  # of the whole table: a log of decisions must stay whole
    names = list(dict.fromkeys((*incumbent.candidates, *target.candidates)))
    if len(names) < 2:
        raise RouterError(f"Both always ask {names[0]}: there is nothing to explore.")
    columns = [test.candidates.index(name) for name in names]
    known, seen = test.select(names), weights[:, columns]
    means = (seen * np.where(known.observed, known.scores, 0.0)).sum(axis=0) / seen.sum(axis=0)
    predicted = np.tile(means, (len(known), 1))
    for one in (incumbent, target):
        if one.router is not None:
            own = [names.index(name) for name in one.candidates]
            predicted[:, own] = one.predict(known.prompts).quality
    return TargetValue(
        predicted=predicted,
        scores=known.scores,
        seen=seen,
        incumbent=incumbent.probabilities(known),
        target=target.probabilities(known),
        cost=known.cost,
        half_width=_positive(config, "half_width"),
        level=_level(config),
        gain=true_or_false(config, "gain"),
        least_ess=_number(config, "least_ess"),
    )


def _new_candidate(
    config: DictConfig, name: str, incumbent: Contender, test: OutcomeMatrix
) -> NewCandidate:
    if name in test.candidates:
        raise RouterError(f"new_candidate.name={name} has outcomes already; give target={name}.")
    plan_of_incumbent = seen_weights(test) * incumbent.probabilities(test)

    def mean(values: np.ndarray) -> float:
        known = np.where(test.observed, values, 0.0)
        return float((plan_of_incumbent * known).sum() / len(test))

    cost, quality = config.new_candidate.cost, config.new_candidate.quality
    return NewCandidate(
        incumbent_cost=None if test.cost is None else mean(test.cost),
        incumbent_quality=mean(test.scores),
        cost=None if cost is None else _number(config, "new_candidate.cost"),
        quality=None if quality is None else share(config, "new_candidate.quality"),
        half_width=_positive(config, "half_width"),
        level=_level(config),
    )


def _sentence(wish: str, chosen: Plan | None, fastest: Plan | None, days: float) -> str:
    if chosen is not None:
        return (
            f"For the {wish}, explore at a rate of {chosen.rate:.3g}: {chosen.requests:,} requests "
            f"in {chosen.days:,.1f} days{_price(chosen)}."
        )
    if fastest is None:
        return f"For the {wish}, no rate of exploration suffices."
    return (
        f"For the {wish}, {days:g} days are too few: at best {fastest.days:,.1f}, at a rate of "
        f"{fastest.rate:.3g}; wait longer, or wish for a wider interval."
    )


def _price(chosen: Plan) -> str:
    """In words; nothing where it is not known."""
    parts = []
    if chosen.dollars is not None:
        parts.append(f"${abs(chosen.dollars):,.2f} {'more' if chosen.dollars >= 0 else 'less'}")
    if chosen.loss is not None:
        points = f"{abs(chosen.loss):,.1f} of summed score"
        parts.append(f"{points} {'lost' if chosen.loss >= 0 else 'won'}")
    return f", {' and '.join(parts)} against the incumbent alone" if parts else ""


def _print(plans: dict[float, Plan | None], least: float | None) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for header in ("rate", "requests", "days", "more dollars", "lost score", "per request", ""):
        table.add_column(header, justify="right", no_wrap=True)
    for rate, one in plans.items():
        if one is None:
            table.add_row(f"{rate:.3g}", "none suffices")
            continue
        mark = "least" if rate == least else ""
        table.add_row(
            f"{rate:.3g}",
            f"{one.requests:,}",
            f"{one.days:,.1f}",
            "" if one.dollars is None else f"{one.dollars:,.2f}",
            "" if one.loss is None else f"{one.loss:,.1f}",
            "" if one.loss is None else f"{one.loss / one.requests:.5f}",
            mark,
            style="bold" if mark else None,
        )
    console.print(table)


def _number(config: DictConfig, key: str) -> float:
    value: Any = OmegaConf.select(config, key)
    if not fits(value, float) or not 0 <= value < np.inf:
        raise RouterError(f"{key} is {value!r}; give a number from 0 up.")
    return float(value)


def _positive(config: DictConfig, key: str) -> float:
    value: Any = OmegaConf.select(config, key)
    if not fits(value, float) or not 0 < value < np.inf:
        raise RouterError(f"{key} is {value!r}; give a number above 0.")
    return float(value)


def _level(config: DictConfig) -> float:
    level = share(config, "level")
    if not 0 < level < 1:
        raise RouterError(f"level is {level:g}; give a coverage between 0 and 1, as in 0.95.")
    return level


def _rates(config: DictConfig) -> list[float]:
    given: Any = config.rates
    given = OmegaConf.to_object(given) if OmegaConf.is_config(given) else given
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise RouterError(f"rates is {given!r}; give a list of rates, as in [0.01,0.1].")
    return [_rate(value, "rates") for value in given]


def _rate(value: Any, key: str) -> float:
    if not fits(value, float) or not 0 < value <= 1:
        raise RouterError(f"{key} is {value!r}; give rates of exploration above 0 and up to 1.")
    return float(value)
