"""Tells what all agents of a STATE_DIR did and how they are, in the text format of Prometheus.  (floor 4)

    counters, histograms    from the file the agents share: summed up over all of them, dead or alive
    gauges                  from the heartbeats of those alive

Rendering asks nobody and changes nothing, so a scrape costs a read of one small table. A counter file
that cannot be read leaves its metrics out, since a 0 would look like a restart, and
`unflappable_counters_readable` says so. Counters start at 0 again only when that file does: when
somebody deletes it, or when it was damaged and is moved aside.

Imported by the sidecar alone; the agent counts (`telemetry/counting.py`) without this library.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from circuit_breaker import State
from errors import AgentError
from stores.heartbeat import Heartbeat, read_heartbeats
from stores.traces import read_counters
from telemetry.counting import METRICS
from telemetry.counting import Metric as Counted
from version import VERSION

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the answer, as Prometheus asks for it."""

STATUSES = ("ok", "degraded", "failed", "needs_human", "cancelled")
"""Every way a question can end, told from the start as 0: a rate needs a first value."""

_SEVEREST = (State.OPEN, State.HALF_OPEN, State.CLOSED)

_Series: TypeAlias = dict[tuple[str, ...], float]


def render_metrics(state_dir: Path) -> bytes:
    """Everything that all agents of this STATE_DIR counted, and gauges from those alive. Never raises for the disk."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Scrape(state_dir))
    return generate_latest(registry)


class _Scrape(Collector):
    """One scrape: `prometheus_client` asks it for its families, once."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def describe(self) -> list[Metric]:
        """Nothing, so that registering does not collect."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families, counters first."""
        try:
            counts = read_counters(self._state_dir)
        except AgentError as error:
            logging.getLogger("unflappable.metrics").warning("%s", error)
            counts = None
        if counts is not None:
            yield from _counted(counts)
        yield _gauge("unflappable_counters_readable", "1 while the agents' counters can be read.", counts is not None)
        yield from _gauges(read_heartbeats(self._state_dir))


# --- what was counted ------------------------------------------------------------------------------------


def _counted(counts: Mapping[tuple[str, str], float]) -> Iterator[Metric]:
    series: dict[str, list[tuple[dict[str, str], float]]] = {}
    for (name, labels), value in sorted(counts.items()):
        series.setdefault(name, []).append((json.loads(labels), value))
    for name, metric in METRICS.items():
        if metric.buckets_s:
            yield _histogram(name, metric, series.get(f"{name}_bucket", []), series.get(f"{name}_sum", []))
        else:
            yield _counter(name, metric, series.get(name, []))


def _counter(name: str, metric: Counted, rows: list[tuple[dict[str, str], float]]) -> Metric:
    family = CounterMetricFamily(name, metric.help, labels=metric.labels)
    values: _Series = {} if metric.labels else {(): 0.0}
    if metric.labels == ("status",):
        values |= {(status,): 0.0 for status in STATUSES}
    for labels, value in rows:
        values[_values(metric, labels)] = value
    for given, value in values.items():
        family.add_metric(given, value)
    return family


def _histogram(
    name: str,
    metric: Counted,
    buckets: list[tuple[dict[str, str], float]],
    sums: list[tuple[dict[str, str], float]],
) -> Metric:
    family = HistogramMetricFamily(name, metric.help, labels=metric.labels)
    limits = [f"{limit_s:g}" for limit_s in metric.buckets_s] + ["+Inf"]
    of: dict[tuple[str, ...], dict[str, float]] = {} if metric.labels else {(): {}}
    for labels, value in buckets:
        of.setdefault(_values(metric, labels), {})[labels["le"]] = value
    totals = {_values(metric, labels): value for labels, value in sums}
    for given, own in of.items():
        # Buckets of another version of this program count too: each where it stands on the number line.
        ends = sorted({*limits, *own}, key=float)
        told, so_far = [], 0.0
        for end in ends:
            so_far += own.get(end, 0.0)
            told.append((end, so_far))
        family.add_metric(given, told, totals.get(given, 0.0))
    return family


def _values(metric: Counted, labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(labels.get(label, "") for label in metric.labels)


# --- how the agents are ----------------------------------------------------------------------------------


def _gauges(agents: list[Heartbeat]) -> Iterator[Metric]:
    yield _gauge("unflappable_agents", "Agents alive, stuck ones included.", len(agents))
    yield _gauge("unflappable_agents_stuck", "Agents that are stuck.", sum(one.stuck for one in agents))
    in_turn = sum(one.state == "turn" for one in agents)
    yield _gauge("unflappable_questions_in_progress", "Agents with a question under way.", in_turn)
    ages = [one.beat_age_s for one in agents]
    yield _gauge("unflappable_heartbeat_age_seconds", "Age of the oldest heartbeat of an agent alive.", *_worst(ages))
    lags = [one.loop_lag_s for one in agents if one.loop_lag_s is not None]
    yield _gauge(
        "unflappable_loop_lag_seconds", "By how much the slowest event loop of an agent is late.", *_worst(lags)
    )
    info = GaugeMetricFamily("unflappable_build_info", "1, with the version of this program.", labels=("version",))
    info.add_metric((VERSION,), 1)
    yield info
    yield _breakers(agents)


def _breakers(agents: list[Heartbeat]) -> Metric:
    """Each agent has breakers of its own: told is, for each dependency, the one that stands worst."""
    family = GaugeMetricFamily(
        "unflappable_breaker_state",
        "1 for the state of the dependency's circuit, the worst where agents differ (open, half_open, closed).",
        labels=("dependency", "state"),
    )
    worst: dict[str, State] = {}
    for one in (breaker for agent in agents for breaker in agent.breakers):
        worst[one.name] = min(one.state, worst.get(one.name, one.state), key=_SEVEREST.index)
    for name, worst_state in sorted(worst.items()):
        for state in _SEVEREST:
            family.add_metric((name, state.value), state is worst_state)
    return family


def _worst(values: list[float]) -> list[float]:
    """The greatest as a list of one; none where there is none: an absent value is no 0."""
    return [max(values)] if values else []


def _gauge(name: str, text: str, *value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    for one in value:
        family.add_metric((), one)
    return family
