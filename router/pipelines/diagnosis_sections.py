"""What a diagnosis says, part by part, in words and small tables."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from router.evaluation.bootstrap import Interval
from router.evaluation.metrics import oracle_gap_closed
from router.outcomes.faults import listed
from router.routability.diagnosis import ORACLE, SHUFFLED, Diagnosis, Routability
from router.routability.levels import BEST, QUICK, TASK_LABELS

LONGEST = 60  # characters of an example prompt
SURE = 0.05  # p-value, shared between the candidates that are tested


@dataclass(frozen=True)
class Section:
    """title; sentences; a table's headers and rows, where there is one."""

    title: str
    sentences: list[str]
    headers: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)


def sections(found: Diagnosis) -> list[Section]:
    """The report, part by part."""
    return [
        _levels(found),
        _noise(found),
        _labels(found),
        _duplicates(found),
        _candidates(found),
        _over_time(found),
    ]


def _levels(found: Diagnosis) -> Section:
    title = "What simple routers gain"
    routes = found.routability
    if routes is None:
        return Section(
            title,
            [
                "Cannot be told: too few queries have an outcome of every candidate, and the log "
                "has no propensities that would stand in for them.",
                "With all candidates asked, a gain of 0.02 shows on about 2,400 queries (if one "
                "query's gain has a standard deviation of 0.5).",
            ],
        )
    if found.off_policy:
        how = f"{found.judged:,} decisions judged by doubly robust estimates (one answer per query)"
    else:
        how = (
            f"{found.judged:,} of {found.queries:,} queries judged, all candidates' outcomes known"
        )
    sentences = [
        f"{how}; {found.folds}-fold cross-validation, like prompts together; choices by quality "
        "alone.",
        f"The best single model, chosen on the other folds, is {routes.best_single}.",
    ]
    if routes.frontier is not None:
        neutral = routes.neutral_cost
        reached = (
            f"has the best single model's quality at {neutral:.0%} of its cost (drawn "
            "on these queries, so a little flattering)"
            if neutral is not None and math.isfinite(neutral)
            else "never reaches the best single model's quality"
        )
        sentences.append(
            f"With costs: the quick router {reached}; its AIQ gain on mixing the single models is "
            f"{_signed(routes.frontier)}."
        )
    sentences.append(_control_sentence(routes))
    if ORACLE in routes.levels:
        quality = {name: level.quality.value for name, level in routes.levels.items()}
        closed = oracle_gap_closed(quality[QUICK], quality[BEST], quality[ORACLE])
        sentences.append(
            "The oracle picks each query's best answer after the fact, lucky answers too: no "
            f"router reaches it. The quick router goes {closed:.0%} of the way."
            if math.isfinite(closed)
            else "The oracle is no better than the best single model."
        )
    priced = routes.levels[BEST].cost is not None
    headers: tuple[str, ...] = ("", "quality", "95 % interval", "gain", "95 % interval")
    rows: list[tuple[str, ...]] = []
    for name, level in routes.levels.items():
        gain = level.gain
        row = [
            name,
            f"{level.quality.value:.4f}",
            _range(level.quality),
            "" if gain is None else f"{gain.value:+z.4f}",
            "" if gain is None else _range(gain, "+z"),
        ]
        if priced:
            row.append("" if level.cost is None else f"{1000 * level.cost:,.4f}")
        rows.append(tuple(row))
    return Section(title, sentences, headers + (("USD per 1,000",) if priced else ()), rows)


def _control_sentence(routes: Routability) -> str:
    gain = routes.levels[SHUFFLED].gain
    assert gain is not None
    if gain.low > 0:
        return (
            f"Shuffled labels GAIN {_signed(gain)}, where nothing can be learned: something leaks, "
            "so trust no gain below."
        )
    return "With shuffled labels the quick router gains nothing, as it must: nothing leaks."


def _noise(found: Diagnosis) -> Section:
    title = "How much of the oracle is luck"
    repeats, routes = found.repeats, found.routability
    if repeats is not None:
        of_noise = "" if repeats.noise_share is None else f"{repeats.noise_share:.0%}"
        sentences = [
            f"{repeats.prompts:,} prompts were asked repeatedly of every candidate; {of_noise} of "
            "the variance of a score lies between repeats, and no router can know it beforehand."
        ]
        luck = (
            ""
            if repeats.luck is None
            else f", which does not confirm {repeats.luck:.0%} of its gain"
        )
        sentences.append(
            f"Chosen and judged on one half of the repeats the oracle has "
            f"{repeats.same_half.value:.4f}; judged on the other half "
            f"{repeats.other_half.value:.4f}{luck}. The best single model has "
            f"{repeats.best_single.value:.4f} on these prompts."
        )
        sentences.append(
            f"The best that any router can do there lies between {repeats.other_half.value:.4f} "
            f"{_range(repeats.other_half)} and {repeats.all_repeats.value:.4f} "
            f"{_range(repeats.all_repeats)}."
        )
        return Section(title, sentences)
    sentences = [
        "Cannot be told: no prompt was asked repeatedly of every candidate. Ask about 100 prompts "
        "twice, and luck is measured."
    ]
    if routes is not None and routes.luck is not None:
        level = routes.levels[ORACLE].quality.value
        sentences.append(
            "A yardstick: if each candidate were right at random, as often as it is"
            f"{' in each task' if TASK_LABELS in routes.levels else ''}, the oracle would "
            f"have {routes.luck:.4f} by luck alone; it has {level:.4f}"
            + (
                ", so its height proves nothing."
                if routes.luck >= level
                else f", {level - routes.luck:.4f} more than luck explains."
            )
        )
    return Section(title, sentences)


def _labels(found: Diagnosis) -> Section:
    title = "Would more labels help"
    routes = found.routability
    if routes is None:
        return Section(title, ["Cannot be told without judged queries."])
    sentences = [_needed_sentence(found, routes)]
    curve = routes.curve
    if curve is None:
        return Section(title, [*sentences, "The log is too small to draw a learning curve."])
    if curve.rises:
        sentences.append(
            "The learning curve rises: a power law foresees a gain of "
            f"{_signed(curve.at_four_times)} with four times the labels (extrapolated; the "
            "interval is of refits on resamples)."
        )
    else:
        sentences.append(
            "The learning curve does not surely rise: nothing here shows that more labels help "
            "this kind of router."
        )
    rows: list[tuple[str, ...]] = [
        (f"{size:,.0f}", f"{gain.value:+z.4f}", _range(gain, "+z"))
        for size, gain in zip(curve.sizes, curve.gains, strict=True)
    ]
    return Section(title, sentences, ("queries learned from", "gain", "95 % interval"), rows)


def _needed_sentence(found: Diagnosis, routes: Routability) -> str:
    gain = routes.levels[QUICK].gain
    assert gain is not None
    if gain.low > 0:
        enough = (
            f"; about {routes.needed:,.0f} would have shown it"
            if routes.needed is not None and routes.needed < found.judged
            else ""
        )
        return (
            f"Not to be sure: the quick router's gain is certain with today's {found.judged:,} "
            f"queries{enough}."
        )
    if routes.needed is None:
        return (
            "No number of labels up to a hundred times today's would make a gain of the quick "
            f"router certain: it is {_signed(gain)} now."
        )
    more = float(f"{max(routes.needed - found.judged, 0):.2g}")
    return (
        f"About {more:,.0f} more labelled queries ({routes.needed / found.judged:.1f} times "
        "today's in all) would make the quick router's gain certain, if it goes on as it seems: "
        f"{_signed(gain)} now."
    )


def _duplicates(found: Diagnosis) -> Section:
    doubles = found.duplicates
    sentences = [
        f"{doubles.repeated_prompts:,} prompts stand more than once, word for word, in "
        f"{doubles.repeated_queries:,} queries; they are never parted by a split."
        if doubles.repeated_prompts
        else "No prompt stands twice, word for word."
    ]
    if doubles.repeated_pairs:
        share = doubles.conflicting / doubles.repeated_pairs
        sentences.append(
            f"Where a candidate answered the same prompt again, its score differs in {share:.0%} "
            f"of {doubles.repeated_pairs:,} cases."
        )
    near = int(doubles.near.sum())
    if near:
        sentence = (
            f"{near:,} queries ({near / found.queries:.1%}) have a near duplicate (cosine above "
            "0.98, or the same but for case and spaces), which a random split may part"
        )
        routes = found.routability
        if routes is not None and routes.without_duplicates is not None:
            gain = _signed(routes.without_duplicates)
            sentence += f"; on the other queries the quick router gains {gain}"
        sentences.append(f"{sentence}.")
        pairs = [f"{_short(a)!r} and {_short(b)!r}" for a, b in doubles.examples]
        sentences.append(f"For example {'; '.join(pairs)}.")
    else:
        sentences.append("No near duplicates (cosine above 0.98).")
    sides = doubles.sides
    if sides is None:
        return Section("Duplicates and leakage", [*sentences, "There is no split column to check."])
    exact, alike = int(sides["same_elsewhere"].sum()), int(sides["near_elsewhere"].sum())
    sentences.append(
        f"The split column LEAKS: {exact:,} queries have their prompt on another side too, "
        f"{alike:,} more a near duplicate."
        if exact
        else f"The split column parts {alike:,} near duplicates, and no identical prompts."
        if alike
        else "Nothing leaks across the split column."
    )
    rows = [(str(r[0]), *(f"{int(x):,}" for x in r[1:])) for r in sides.to_numpy().tolist()]
    headers = ("split", "queries", "same prompt elsewhere", "near duplicate elsewhere")
    return Section("Duplicates and leakage", sentences, headers, rows)


def _candidates(found: Diagnosis) -> Section:
    rows = found.candidates.to_dict("records")
    priced = found.candidates["usd"].notna().any()
    title = "Candidates"
    table: list[tuple[str, ...]]
    headers: tuple[str, ...] = ("candidate", "outcomes", "mean score")
    if found.routability is None:
        table = [(r["candidate"], f"{r['outcomes']:,}", f"{r['mean']:.4f}") for r in rows]
        sentences = [
            "Means of what was observed, which differ as the queries do; who dominates whom cannot "
            "be told."
        ]
    else:
        wins = not found.off_policy
        headers = ("candidate", "mean score", *(("alone best", "to oracle") if wins else ()))
        headers += ("dominated by",)
        table = [
            (
                r["candidate"],
                f"{r['mean']:.4f}",
                *((f"{r['unique_wins']:,}", f"{r['oracle_loss']:.4f}") if wins else ()),
                r["dominated_by"] if isinstance(r["dominated_by"], str) else "",
            )
            for r in rows
        ]
        sentences = [_dominated_sentence(found, bool(priced))]
    headers += ("explained",) + (("USD per 1,000",) if priced else ())
    for i, r in enumerate(rows):
        table[i] += ("" if math.isnan(r["explained"]) else f"{r['explained']:+z.1%}",)
        table[i] += (f"{1000 * r['usd']:,.4f}",) if priced else ()
    alone = ""
    if found.routability is not None and not found.off_policy:
        alone = (
            "Alone best: queries on which no other reaches its score; to oracle: what the oracle "
            "loses without it. "
        )
    sentences.append(
        f"{alone}Explained: share of its score's variance that the quick router foresees on new "
        "queries."
    )
    return Section(title, sentences, headers, table)


def _dominated_sentence(found: Diagnosis, priced: bool) -> str:
    how = "surely no better and surely no cheaper" if priced else "surely no better on average"
    table = found.candidates
    dominated = table[table["dominated_by"].notna()]
    if dominated.empty:
        return f"No candidate is dominated, that is, {how} than another."
    sentence = (
        f"{len(dominated)} of {len(table)} candidates {'is' if len(dominated) == 1 else 'are'} "
        f"dominated, that is, {how} than another."
    )
    if found.off_policy:
        return f"{sentence} What each adds here and there cannot be told from one answer per query."
    idle = dominated[dominated["idle"].astype(bool)]
    if idle.empty:
        return f"{sentence} Each is alone best on some queries, by merit or luck, so none is idle."
    loss = float(idle["oracle_loss"].max())
    return (
        f"{sentence} Idle besides, as the oracle loses at most {loss:.4f} without it: "
        f"{listed(sorted(idle['candidate']), most=5)}; leave out with data.candidates."
    )


def _over_time(found: Diagnosis) -> Section:
    title = "Drift over time"
    time = found.over_time
    if time is None:
        return Section(title, ["Cannot be told: the log has no timestamps, or only one."])
    threshold = SURE / len(found.candidate_names)
    moved = [
        f"{name} ({change:+.3f})"
        for name, change, p in zip(found.candidate_names, time.change, time.p, strict=True)
        if change is not None and p is not None and p < threshold
    ]
    sentences = [
        f"The score of {listed(moved, most=5)} changed from the log's begin to its end (p < "
        f"{threshold:.2g}); what was learned early may no longer hold."
        if moved
        else "No candidate's score surely changed over the log."
    ]
    if time.tasks_p is not None:
        sentences.append(
            f"The mix of tasks changed (chi-square test, p = {time.tasks_p:.2g}), which moves "
            "scores even where no candidate changed."
            if time.tasks_p < SURE
            else "The mix of tasks did not surely change."
        )
    rows = [
        (name, *(_figure(x) for x in row), _p(p))
        for name, row, p in zip(found.candidate_names, time.scores, time.p, strict=True)
    ]
    rows += [
        (f"share of {task}", *(f"{x:.1%}" for x in row), "")
        for task, row in zip(time.tasks, time.shares, strict=True)
    ]
    days = [start[:10] for start in time.starts]
    starts = days if len(set(days)) == len(days) else [start[:16] for start in time.starts]
    return Section(title, sentences, ("mean score, from", *starts, "p"), rows)


def _figure(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _range(interval: Interval, sign: str = "") -> str:
    return f"[{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


def _signed(interval: Interval) -> str:
    return f"{interval.value:+z.4f} {_range(interval, '+z')}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
