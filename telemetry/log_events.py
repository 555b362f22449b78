"""Which events are logged, how loudly, and with which fields: one table.  (floor 4)

`docs/log-events.md` is this table in print; a test keeps the two equal, and another makes sure
that a new event is either here or in `NOT_LOGGED`. Questions, answers, tool inputs and tool
outputs are never logged, only their sizes: people's words belong in traces, where they are bounded
and few.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import events as e
from events import Event, Stamped

CONTEXT = (
    ("turn", "trace"),
    ("session", "session"),
    ("round", "round"),
    ("call", "call"),
    ("tool", "tool"),
    ("link", "link"),
    ("dependency", "dependency"),
    ("attempt", "attempt"),
)
"""Scope entries that stand on every line where they are known, and the names they have there."""

_INFO, _WARNING, _ERROR = logging.INFO, logging.WARNING, logging.ERROR


@dataclass(frozen=True, slots=True)
class Row:
    """One logged event.

    Attributes:
        level: how loudly, where its status does not say otherwise (`by_status`).
        when: for people, in the documentation.
        fields: names of the event's fields, or `name=path` for one inside another; a path that
            ends in `.#` tells the length instead.
    """

    level: int
    when: str
    fields: tuple[str, ...]
    by_status: Mapping[str, int] = field(default_factory=dict)

    def level_of(self, values: Mapping[str, Any]) -> int:
        """The level of an event with these values."""
        return self.by_status.get(str(values.get("status")), self.level)

    def values(self, at: Stamped) -> dict[str, Any]:
        """The line's fields: the event's own first, then where it happened; what is not known is left out."""
        own = {name: _at_path(at.event, path) for name, path in self._paths()}
        context = {name: at.scope[key] for key, name in CONTEXT if key in at.scope and name not in own}
        return {name: value for name, value in {**own, **context}.items() if value is not None}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its own fields."""
        return tuple(name for name, _ in self._paths())

    def _paths(self) -> list[tuple[str, str]]:
        pairs = (spec.partition("=") for spec in self.fields)
        return [(name, path or name) for name, _, path in pairs]


def _at_path(value: Any, path: str) -> Any:
    return reduce(lambda found, step: len(found) if step == "#" else getattr(found, step), path.split("."), value)


ROWS: dict[type[Event], Row] = {
    e.TurnStarted: Row(_INFO, "a question was taken up", ("question_chars=question.#", "limit_s")),
    e.TurnResumed: Row(_WARNING, "a question that a crash cut off goes on", ("rounds", "calls")),
    e.TurnPoisoned: Row(_ERROR, "a question ended the program too often and is not tried again", ("crashes",)),
    e.StoreFailed: Row(_ERROR, "something of the session could not be kept", ("what", "why")),
    e.StoreDamaged: Row(_ERROR, "something kept was damaged", ("what", "kept")),
    e.DeadLettered: Row(_ERROR, "a question was put to the dead letters", ("number", "error_type", "dropped")),
    e.AlertRaised: Row(
        logging.CRITICAL,
        "something failed that only a person can mend",
        ("error_type", "error_kind", "message", "what_now", "letter"),
    ),
    e.AlertSent: Row(_INFO, "the webhook took an alert", ()),
    e.AlertFailed: Row(_WARNING, "the webhook did not take an alert", ("why",)),
    e.TurnEnded: Row(
        _INFO,
        "a question ended, one way or another",
        (
            "status",
            "model",
            "answer_chars=text.#",
            "input_tokens=usage.input_tokens",
            "output_tokens=usage.output_tokens",
            "cost_usd",
            "degraded",
            "error_type",
            "error_kind",
            "error_message",
        ),
        {"degraded": _WARNING, "needs_human": _WARNING, "failed": _ERROR},
    ),
    e.TurnCancelled: Row(_INFO, "a question was stopped from outside", ("kept",)),
    e.RoundStarted: Row(_INFO, "the model is asked once more for the same question", ("number",)),
    e.NoticeGiven: Row(_INFO, "the program said something in its own name", ("text",)),
    e.HistoryTrimmed: Row(_WARNING, "old messages were left out of the request", ("messages",)),
    e.StuckNoticed: Row(_WARNING, "the model goes round in circles", ("what",)),
    e.AttemptStarted: Row(logging.DEBUG, "a dependency is asked", ("dependency", "number", "of")),
    e.AttemptSucceeded: Row(_INFO, "it answered", ("dependency", "number")),
    e.AttemptFailed: Row(
        _WARNING,
        "it failed",
        ("dependency", "number", "reason", "kind", "outcome", "message", "status", "request_id"),
    ),
    e.AttemptAbandoned: Row(_WARNING, "text already shown is void", ("dependency", "number", "chars_voided")),
    e.RetryScheduled: Row(
        _INFO,
        "the same dependency will be asked again",
        ("dependency", "number", "wait_s", "reason", "message"),
    ),
    e.RetryRefused: Row(_WARNING, "it will not be asked again", ("dependency", "why")),
    e.LimiterWaited: Row(_INFO, "the rate limiter made a call wait", ("dependency", "wait_s")),
    e.CallRejected: Row(_WARNING, "a guard refused before anything was tried", ("dependency", "by", "retry_after_s")),
    e.CircuitOpened: Row(_WARNING, "a dependency is left in peace for a while", ("dependency", "failures", "open_s")),
    e.CircuitHalfOpened: Row(_INFO, "one probe is let through", ("dependency",)),
    e.CircuitClosed: Row(_INFO, "a dependency is healthy again", ("dependency",)),
    e.RedisUnavailable: Row(_WARNING, "breakers and limits are this process's own for now", ("why",)),
    e.RedisBack: Row(_INFO, "breakers and limits are shared with other processes again", ()),
    e.FellBack: Row(_WARNING, "the next in the chain is asked instead", ("source", "to", "reason", "message")),
    e.ModelAnswered: Row(
        _INFO,
        "a complete answer of a model arrived",
        (
            "link",
            "model",
            "stop_reason",
            "input_tokens=usage.input_tokens",
            "output_tokens=usage.output_tokens",
            "cost_usd",
            "first_token_s",
        ),
    ),
    e.ToolCallStarted: Row(_INFO, "a tool call began", ("call=call.id", "tool=call.name")),
    e.ToolCallEnded: Row(
        _INFO,
        "a tool call ended, one way or another",
        (
            "call=result.call.id",
            "tool=result.call.name",
            "status=result.status",
            "attempts=result.attempts",
            "duration_ms=result.duration_ms",
            "source=result.source",
            "output_chars=result.output.#",
            "wrote=result.wrote",
        ),
        {"degraded": _WARNING, "failed": _WARNING, "unknown": _WARNING},
    ),
    e.EffectReconciled: Row(_WARNING, "a call of unknown outcome was looked at", ("tool", "found")),
    e.ApprovalAsked: Row(_INFO, "a person is asked", ("tool", "digest", "why")),
    e.ApprovalAnswered: Row(_INFO, "the answer came", ("tool", "digest", "granted", "by")),
    e.FaultInjected: Row(_INFO, "a fault that was asked for struck", ("target", "kind", "argument")),
    e.FaultsChanged: Row(_INFO, "the plan of faults is another one now", ("specs",)),
}

NOT_LOGGED: tuple[type[Event], ...] = (e.TextStreamed, e.ThinkingStreamed)
"""The words themselves, many times a second."""
