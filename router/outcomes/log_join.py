"""Decisions and the outcomes that came later, joined by request_id; every loss is counted."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from router.outcomes.faults import listed
from router.outcomes.log_lines import LogLines
from router.outcomes.log_records import TOLD, time_of


@dataclass(frozen=True)
class JoinedLog:
    """What a decision log holds, and what of it can be learned from.

    decisions: records whose score is known; each has what its outcomes told beside its own fields.
    without_score: number of decisions without a score, by chosen candidate.
    chosen: number of decisions, by chosen candidate.
    asked_several: decisions whose answer came from several candidates' votes: their outcome tells
        nothing of the chosen one alone.
    repeated: decision records with the request_id of an earlier one, which counts.
    told_again: requests whose outcomes told a value again; the latest counts.
    unknown: outcome records of requests whose decision is not in the log.
    delays: seconds from each decision to its score.
    sources: number of scores, by who gave them.
    """

    lines: LogLines
    decisions: list[dict[str, Any]]
    chosen: Counter[str]
    without_score: Counter[str]
    asked_several: int
    repeated: int
    told_again: int
    unknown: int
    delays: list[float]
    sources: Counter[str]

    def summary(self) -> str:
        """All of it in one line."""
        n_decisions = self.chosen.total() + self.asked_several
        parts = [f"{n_decisions:,} decisions in {_counted(self.lines.files, 'file')}"]
        scored = f"{len(self.decisions):,} with a score"
        if self.delays:
            scored += (
                f" (after {_duration(median(self.delays))} in the median, "
                f"{_duration(max(self.delays))} at most)"
            )
        parts.append(scored)
        if self.without_score:
            share = {name: self.without_score[name] / n for name, n in self.chosen.items()}
            least, most = min(share, key=lambda c: share[c]), max(share, key=lambda c: share[c])
            parts.append(
                f"{self.without_score.total():,} without (from {share[least]:.0%} of '{least}' "
                f"to {share[most]:.0%} of '{most}')"
            )
        losses = {
            "asked several candidates": self.asked_several,
            "logged twice": self.repeated,
            "outcome told again": self.told_again,
            "outcomes of unknown requests": self.unknown,
            "torn last lines": self.lines.torn,
            "faulty lines": self.lines.faulty,
        }
        parts += [f"{what}: {count:,}" for what, count in losses.items() if count]
        if len(self.sources) > 1:
            scores = ", ".join(f"{source} {count:,}" for source, count in self.sources.items())
            parts.append(f"scores by {scores}")
        for what, width in {"artifact": 12, "policy": 40, "price_version": 40}.items():
            values = sorted({str(record.get(what))[:width] for record in self.decisions})
            parts.append(f"{what.replace('_', ' ')} {listed(values, most=3)}")
        return "; ".join(parts) + "."


def join_outcomes(lines: LogLines) -> JoinedLog:
    """The decisions with what became known of each.

    An outcome may come in several records, at any time and in any file: each tells a part. What is
    told again replaces the earlier, by the records' own times.
    """
    told: dict[str, list[dict[str, Any]]] = {}
    for record in sorted(lines.outcomes, key=lambda record: time_of(record["time"])):
        told.setdefault(record["request_id"], []).append(record)
    by_request: dict[str, dict[str, Any]] = {}
    for record in lines.decisions:
        by_request.setdefault(record["request_id"], record)
    decisions, delays = [], []
    chosen: Counter[str] = Counter()
    without_score: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    for request_id, record in by_request.items():
        if len(record.get("ask") or ()) > 1:
            continue
        chosen[record["chosen"]] += 1
        outcome = _merged(told.get(request_id, ()))
        if "score" not in outcome:
            without_score[record["chosen"]] += 1
            continue
        delays.append((outcome["scored"] - time_of(record["time"])).total_seconds())
        sources[outcome["source"]] += 1
        decisions.append({**record, **{name: outcome.get(name) for name in TOLD}})
    return JoinedLog(
        lines=lines,
        decisions=decisions,
        chosen=chosen,
        without_score=without_score,
        asked_several=len(by_request) - chosen.total(),
        repeated=len(lines.decisions) - len(by_request),
        told_again=sum(_tells_again(records) for records in told.values()),
        unknown=sum(len(told[name]) for name in told.keys() - by_request.keys()),
        delays=delays,
        sources=sources,
    )


def _merged(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the records of one request told, the latest of each value; with a score also when it was
    told and by whom."""
    merged: dict[str, Any] = {}
    for record in records:
        merged |= {name: record[name] for name in TOLD if record.get(name) is not None}
        if record.get("score") is not None:
            merged["scored"] = time_of(record["time"])
            merged["source"] = record.get("source") or "unnamed"
    return merged


def _tells_again(records: Sequence[dict[str, Any]]) -> bool:
    times = Counter(name for record in records for name in TOLD if record.get(name) is not None)
    return bool(times) and max(times.values()) > 1


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    if abs(seconds) < 60:
        return f"{seconds:.3g} s"
    return str(datetime.timedelta(seconds=round(seconds)))
