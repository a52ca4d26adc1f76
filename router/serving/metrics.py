"""What /metrics tells, in the Prometheus text format; of all workers together.

The workers share a folder of counters. The library looks for it when it is imported, so the
supervisor, which is the parent of them all, imports it in no place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client.core import Metric

SHARED = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


def forget_worker(process: int, folder: Path) -> None:
    """Take a dead worker's gauges away; what it counted stays."""
    for file in folder.glob(f"gauge_live*_{process}.db"):
        file.unlink(missing_ok=True)


class Metrics:
    """The counters of one worker.

    describe: `Live.describe`, read at each look; what is in service is this worker's view.

    requests (path, status), request_seconds (path), in_flight: of all requests.
    queued: prompts that are routed or wait for it. decisions (candidate): of routing requests.
    records, records_lost: entries of the decision log. commit_seconds: of each group of them.
    """

    def __init__(self, describe: Callable[[], dict[str, Any]]):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._describe = describe
        own = self._registry = CollectorRegistry()

        def gauge(name: str, words: str) -> Gauge:
            return Gauge(name, words, registry=own, multiprocess_mode="livesum")

        def seconds(name: str, words: str, labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(name, words, labels, buckets=SECONDS, registry=own)

        self.requests = Counter("router_requests", "Answers.", ["path", "status"], registry=own)
        self.request_seconds = seconds("router_request_seconds", "Until the answer.", ("path",))
        self.in_flight = gauge("router_in_flight", "Requests inside now.")
        self.queued = gauge("router_queued", "Prompts that are routed or wait for it now.")
        self.decisions = Counter("router_decisions", "Decisions.", ["candidate"], registry=own)
        self.records = Counter("router_log_records", "Entries of the log.", registry=own)
        self.records_lost = Counter("router_log_records_lost", "Not written.", registry=own)
        self.commit_seconds = seconds("router_log_commit_seconds", "Writing a group of entries.")

    def page(self) -> bytes:
        """Everything, of all workers."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        live = CollectorRegistry()
        live.register(_InService(self._describe()))
        counted = self._registry
        if os.environ.get(SHARED):
            counted = CollectorRegistry()
            MultiProcessCollector(counted)
        return generate_latest(counted) + generate_latest(live)


class _InService:
    """What `Live.describe` told, as a collector."""

    def __init__(self, told: dict[str, Any]):
        self._told = told

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        artifact = GaugeMetricFamily("router_artifact", "In service.", labels=["role", "sha256"])
        failures = CounterMetricFamily("router_reload_failures", "Not taken.", labels=["what"])
        changes = CounterMetricFamily("router_reloads", "New ones taken.", labels=["what"])
        for name in ("artifact", "canary", "shadow", "prices"):
            told = self._told.get(name)
            if told is None:
                continue
            if "sha256" in told:
                artifact.add_metric([name, told["sha256"]], 1)
            failures.add_metric([name], told["failures"])
            changes.add_metric([name], told["changes"])
        yield from (artifact, failures, changes)
        on = float(self._told["kill_switch"]["on"])
        yield GaugeMetricFamily("router_kill_switch", "1 while it is on.", value=on)
        shadow, pacer = self._told.get("shadow") or {}, self._told.get("pacer") or {}
        for name in ("compared", "dropped", "failed") if shadow else ():
            words = f"Requests of the shadow: {name}."
            yield CounterMetricFamily(f"router_shadow_{name}", words, value=shadow[name])
        for name in ("budget", "mean_cost", "recent_cost", "lambda") if pacer else ():
            if pacer[name] is not None:
                words = f"The pacer's {name}."
                yield GaugeMetricFamily(f"router_pacer_{name}", words, value=pacer[name])
