"""The shape of a trace: what one question did, as a tree of timed spans.  (floor 4)

A deliberately small model, close enough to OpenTelemetry's to be exported later: a span has a
name, a kind, a start, an end, a status, attributes, events and children. All times are kept in
monotonic seconds; JSON tells them in milliseconds since the question began, so that a clock that
was set in between distorts nothing, and gives each span its wall time beside.

What is recorded is bounded here: no field, no span and no trace grows without limit, and what
was left out is counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from events import Stamped
from messages import Usage
from safe_text import mask, masked, shorten

TEXT_CHARS_MAX = 2_000
"""Of one recorded text: enough to recognise a question or an answer, small enough for a list."""

ENTRIES_MAX = 1_000
"""Spans and span events of one trace. A question at all of its limits (12 rounds, 40 calls, their
retries and hops) needs some 600."""

UNFINISHED = "unfinished"
"""The status of a span whose end nobody told before the question was over."""

VERSION = 1
"""Of the JSON. Readers ignore fields they don't know; a field that changes its meaning raises it."""


def kept_text(text: str) -> str:
    """Masked, then cut: the other way round a cut could leave half a secret, which no mask knows."""
    return shorten(mask(text), TEXT_CHARS_MAX)


def kept(value: Any) -> Any:
    """A value an event carries, as the trace keeps it: plain, masked, bounded."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)  # JSON knows no infinity
    return kept_text(value if isinstance(value, str) else kept_json(value))


def kept_json(value: Any) -> str:
    """A structure as bounded JSON text; masked before it is encoded, since encoding hides secrets from it."""
    return kept_text(json.dumps(masked(value), ensure_ascii=False, default=str))


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened at one moment within a span."""

    name: str
    at_s: float
    sequence: int
    attributes: Mapping[str, Any]


@dataclass(slots=True)
class Span:
    """Something that took time. `kind`: turn, round, model_attempt, tool_call or provider_attempt.

    `status` is "running" until the span ends, then the word its event gave: a turn's or a call's
    status, `ok` or the failure's reason for an attempt. "unfinished" is what was cut off with
    nobody left to tell how it ended; the trace does not guess.
    """

    name: str
    kind: str
    start_s: float
    start_wall_s: float
    sequence: int
    attributes: dict[str, Any] = field(default_factory=dict)
    end_s: float | None = None
    status: str = "running"
    events: list[SpanEvent] = field(default_factory=list)
    children: list[Span] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether its end was told."""
        return self.end_s is not None and self.status != UNFINISHED

    def end(self, at_s: float, status: str) -> None:
        """End the span."""
        self.end_s, self.status = at_s, status

    def walk(self) -> Iterator[Span]:
        """This span and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def to_json(self, zero_s: float) -> dict[str, Any]:
        """Plain values; `zero_s` is the moment that counts as 0 ms."""
        return {
            "name": self.name,
            "kind": self.kind,
            "status": self.status,
            "sequence": self.sequence,
            "start_ms": _ms(self.start_s - zero_s),
            "duration_ms": None if self.end_s is None else _ms(self.end_s - self.start_s),
            "start_wall_s": self.start_wall_s,
            "attributes": dict(self.attributes),
            "events": [
                {
                    "name": event.name,
                    "sequence": event.sequence,
                    "at_ms": _ms(event.at_s - zero_s),
                    "attributes": dict(event.attributes),
                }
                for event in self.events
            ],
            "children": [child.to_json(zero_s) for child in self.children],
        }


@dataclass(slots=True)
class Trace:
    """One question: who asked, how it ended, what it took, and the tree of its spans.

    `status` is "running" until the question ends. One that stays so in the store belongs to a
    program that is still at it, or that was killed.
    """

    id: str
    session: str | None
    user: str | None
    root: Span
    status: str = "running"
    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    degraded: tuple[str, ...] = ()
    error: Mapping[str, Any] | None = None
    faults: int = 0
    entries: int = 1
    entries_dropped: int = 0

    @property
    def running(self) -> bool:
        """Whether the question has not ended yet."""
        return self.root.end_s is None

    def has_room(self) -> bool:
        """Count one more span or event; False when the trace is full."""
        if self.entries >= ENTRIES_MAX:
            self.entries_dropped += 1
            return False
        self.entries += 1
        return True

    def add_span(self, parent: Span, name: str, kind: str, at: Stamped, attributes: dict[str, Any]) -> Span:
        """A new span below `parent`. In a full trace it is a loose one, which is not kept."""
        span = Span(name, kind, at.monotonic_s, at.wall_s, at.sequence, attributes)
        if self.has_room():
            parent.children.append(span)
        return span

    def add_event(self, span: Span, name: str, at: Stamped, attributes: Mapping[str, Any]) -> None:
        """Something that happened within `span`."""
        if self.has_room():
            span.events.append(SpanEvent(name, at.monotonic_s, at.sequence, attributes))

    def to_json(self) -> dict[str, Any]:
        """A copy in plain values: the summary first, then the tree under `root`."""
        kinds = [span.kind for span in self.root.walk()]
        root = self.root.to_json(self.root.start_s)
        return {
            "version": VERSION,
            "id": self.id,
            "session": self.session,
            "user": self.user,
            "status": self.status,
            "started_wall_s": self.root.start_wall_s,
            "duration_ms": root["duration_ms"],
            "model": self.model,
            "model_attempts": kinds.count("model_attempt"),
            "tool_calls": kinds.count("tool_call"),
            "faults": self.faults,
            "usage": {
                "input_tokens": self.usage.input_tokens,
                "output_tokens": self.usage.output_tokens,
                "cache_read_tokens": self.usage.cache_read_tokens,
                "cache_write_tokens": self.usage.cache_write_tokens,
            },
            "cost_usd": self.cost_usd,
            "degraded": list(self.degraded),
            "error": None if self.error is None else dict(self.error),
            "entries_dropped": self.entries_dropped,
            "root": root,
        }


def _ms(s: float) -> float:
    return round(s * 1000, 3)
