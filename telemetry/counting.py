"""Counts what happens, for `/metrics`: questions, attempts, failures, faults, tokens, money, times.  (floor 4)

    events -> Meter -> take() -> the trace's own transaction (stores/trace_file.py) -> /metrics

A listener on events, nothing else. What was counted since the last time leaves with the trace
that is being saved and is written in the same transaction: so counters and traces never
disagree, whatever kills the program, and at most what the running question did since its last round
is lost. The file sums up all agents that ever shared it, which is why counters only grow.

Labels are words of this program or of its settings, never of a person, a model or a server:
the name of a tool that a model made up counts as "unknown". What is not known (the tokens of an
answer that did not say) is not counted as 0 but has a counter of its own.

What this does not do: render, or import the library that does. That is `telemetry/metrics.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import events as e
from events import Event, Stamped
from safe_text import encodable, one_line
from stores.traces import Counts

LABEL_CHARS_MAX = 120

TURNS_MAX = 8
"""Questions under way at most; one at a time is the rule, and one that a mistake of ours ended has no end."""

QUESTION_BUCKETS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 90.0, 120.0, 300.0)
"""Up to TOTAL_TIMEOUT (120) and one step beyond, for those who raised it."""

FIRST_TOKEN_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Around what hosted models take (0.5 to 3 s), up to LLM_TIMEOUT (30) and beyond."""

TOOL_BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0)
"""From a calculation (milliseconds) to TOOL_TIMEOUT (10) and beyond."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What a metric means. With `buckets_s` it is a histogram of seconds, else a counter."""

    help: str
    labels: tuple[str, ...] = ()
    buckets_s: tuple[float, ...] = ()


METRICS: Mapping[str, Metric] = {
    "unflappable_questions_started_total": Metric("Questions taken up."),
    "unflappable_questions_total": Metric(
        "Questions that ended, by how; the difference to those taken up is under way, or was killed.", ("status",)
    ),
    "unflappable_question_duration_seconds": Metric(
        "How long questions took, from the line to the answer.", (), QUESTION_BUCKETS_S
    ),
    "unflappable_dead_letters_total": Metric("Questions that were put to the dead letters.", ("type",)),
    "unflappable_alerts_total": Metric("Failures that only a person can mend.", ("type",)),
    "unflappable_attempts_started_total": Metric(
        "Attempts on a model or a provider of a tool that began.", ("dependency",)
    ),
    "unflappable_attempts_total": Metric(
        "Attempts that ended. outcome: success, failure, throttled, neutral, or unfinished for one that was cut off.",
        ("dependency", "outcome", "reason"),
    ),
    "unflappable_retries_total": Metric("Retries that were decided.", ("dependency", "reason")),
    "unflappable_retries_refused_total": Metric(
        "Retries that were due but refused: quota spent, no time left, not safe to repeat.", ("dependency",)
    ),
    "unflappable_rejections_total": Metric(
        "Calls that a guard refused before anything was tried.", ("dependency", "guard")
    ),
    "unflappable_breaker_transitions_total": Metric(
        "Circuits that opened, let a probe through (half_open) or closed again.", ("dependency", "to")
    ),
    "unflappable_fallbacks_total": Metric(
        "Hops to the next in a chain; to is none where no one was left.", ("source", "to", "reason")
    ),
    "unflappable_faults_injected_total": Metric("Faults that were asked for and struck.", ("target", "kind")),
    "unflappable_tool_calls_total": Metric("Tool calls that ended, by how.", ("tool", "status")),
    "unflappable_tool_call_duration_seconds": Metric(
        "How long tool calls took, retries and providers included.", ("tool",), TOOL_BUCKETS_S
    ),
    "unflappable_model_answers_total": Metric("Complete answers of models.", ("model",)),
    "unflappable_model_first_token_seconds": Metric(
        "How long answered attempts took to their first content.", ("model",), FIRST_TOKEN_BUCKETS_S
    ),
    "unflappable_tokens_total": Metric(
        "Tokens of complete answers, as far as they are known. direction: input, output, cache_read, cache_write.",
        ("model", "direction"),
    ),
    "unflappable_answers_usage_unknown_total": Metric(
        "Complete answers that did not say their input or output tokens.", ("model",)
    ),
    "unflappable_cost_usd_total": Metric("What complete answers cost, in US dollars, where it is known.", ("model",)),
    "unflappable_answers_cost_unknown_total": Metric("Complete answers whose cost is not known.", ("model",)),
    "unflappable_approvals_total": Metric(
        "Answers to requests for an approval. by: person, policy, nobody, limit.", ("tool", "granted", "by")
    ),
    "unflappable_trace_writes_dropped_total": Metric("Writes of a trace that were given up: disk full, locked, ..."),
}
"""Every counter and histogram there is."""


@dataclass(slots=True)
class _Turn:
    """A question under way: when it began, and the attempts that have not ended, by call and dependency."""

    started_s: float
    attempts: dict[tuple[str, str], int] = field(default_factory=dict)


class Meter:
    """The listener. Lives on one thread, the one its door tells events on.

    Args:
        tools: the names of the tools there are; other names are a model's own words.
    """

    def __init__(self, tools: Collection[str]) -> None:
        self._tools = frozenset(tools)
        self._counts: dict[tuple[str, str], float] = {}
        self._turns: dict[str, _Turn] = {}

    def __call__(self, stamped: Stamped) -> None:
        """Count one event."""
        handle = _HANDLERS.get(type(stamped.event))
        if handle is not None:
            handle(self, stamped, stamped.event)

    def take(self) -> Counts:
        """What was counted since the last time; it is the caller's now."""
        taken, self._counts = self._counts, {}
        return taken

    def _add(self, name: str, amount: float = 1, /, **labels: str) -> None:
        key = (name, labels_text(labels))
        self._counts[key] = self._counts.get(key, 0) + amount

    def _observe(self, name: str, value_s: float, /, **labels: str) -> None:
        """Into the one bucket it falls into; they are summed up when they are told."""
        bucket = next((f"{limit_s:g}" for limit_s in METRICS[name].buckets_s if value_s <= limit_s), "+Inf")
        self._add(f"{name}_bucket", le=bucket, **labels)
        self._add(f"{name}_sum", value_s, **labels)

    def _tool(self, name: str) -> str:
        return name if name in self._tools else "unknown"

    # --- questions

    def _turn_started(self, at: Stamped, event: e.TurnStarted) -> None:
        self._add("unflappable_questions_started_total")
        self._turns[str(at.scope.get("turn"))] = _Turn(at.monotonic_s)
        while len(self._turns) > TURNS_MAX:
            del self._turns[next(iter(self._turns))]

    def _turn_cancelled(self, at: Stamped, event: e.TurnCancelled) -> None:
        self._end(at, "cancelled")

    def _turn_ended(self, at: Stamped, event: e.TurnEnded) -> None:
        self._end(at, event.status)

    def _end(self, at: Stamped, status: str) -> None:
        turn = self._turns.pop(str(at.scope.get("turn")), None)
        if turn is None:
            return  # cancelled: told once as that, and once as the end
        for (_, dependency), open_ones in turn.attempts.items():
            if open_ones:
                self._add(_ATTEMPTS, open_ones, dependency=dependency, outcome="unfinished", reason="unfinished")
        self._add("unflappable_questions_total", status=status)
        self._observe("unflappable_question_duration_seconds", at.monotonic_s - turn.started_s)

    # --- attempts

    def _attempt_started(self, at: Stamped, event: e.AttemptStarted) -> None:
        self._add("unflappable_attempts_started_total", dependency=event.dependency)
        self._open(at, event.dependency, 1)

    def _attempt_succeeded(self, at: Stamped, event: e.AttemptSucceeded) -> None:
        if self._open(at, event.dependency, -1):
            self._add(_ATTEMPTS, dependency=event.dependency, outcome="success", reason="")

    def _attempt_failed(self, at: Stamped, event: e.AttemptFailed) -> None:
        if self._open(at, event.dependency, -1):
            self._add(_ATTEMPTS, dependency=event.dependency, outcome=event.outcome, reason=event.reason)

    def _open(self, at: Stamped, dependency: str, change: int) -> bool:
        """Note that an attempt began or ended; False for an end that was counted already, or never began."""
        turn = self._turns.get(str(at.scope.get("turn")))
        if turn is None:
            return False
        key = (str(at.scope.get("call", "")), dependency)
        left = turn.attempts.get(key, 0) + change
        turn.attempts[key] = max(0, left)
        return left >= 0

    def _model_answered(self, at: Stamped, event: e.ModelAnswered) -> None:
        model, usage = event.link, event.usage
        self._add("unflappable_model_answers_total", model=model)
        if event.first_token_s is not None:
            self._observe("unflappable_model_first_token_seconds", event.first_token_s, model=model)
        for direction in ("input", "output", "cache_read", "cache_write"):
            tokens = getattr(usage, f"{direction}_tokens")
            if tokens is not None:
                self._add("unflappable_tokens_total", tokens, model=model, direction=direction)
        if usage.input_tokens is None or usage.output_tokens is None:
            self._add("unflappable_answers_usage_unknown_total", model=model)
        if event.cost_usd is None:
            self._add("unflappable_answers_cost_unknown_total", model=model)
        else:
            self._add("unflappable_cost_usd_total", event.cost_usd, model=model)

    def _tool_ended(self, at: Stamped, event: e.ToolCallEnded) -> None:
        tool = self._tool(event.result.call.name)
        self._add("unflappable_tool_calls_total", tool=tool, status=event.result.status)
        self._observe("unflappable_tool_call_duration_seconds", event.result.duration_ms / 1000, tool=tool)

    def _approval_answered(self, at: Stamped, event: e.ApprovalAnswered) -> None:
        granted = "true" if event.granted else "false"
        self._add("unflappable_approvals_total", tool=self._tool(event.tool), granted=granted, by=event.by)


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels as they are kept: JSON, keys sorted, values safe and bounded."""
    return json.dumps({name: encodable(one_line(labels[name], LABEL_CHARS_MAX)) for name in sorted(labels)})


def _each(name: str, *given: str, **labels: str) -> Callable[[Meter, Stamped, Any], None]:
    """Count an event as it is: labels from its fields of the same name (`given`) or of another, else fixed."""

    def count(meter: Meter, at: Stamped, event: Any) -> None:
        own = {label: str(getattr(event, label)) for label in given}
        meter._add(name, **own, **labels)

    return count


_ATTEMPTS = "unflappable_attempts_total"
_MOVES = "unflappable_breaker_transitions_total"

_HANDLERS: dict[type[Event], Callable[[Meter, Stamped, Any], None]] = {
    e.TurnStarted: Meter._turn_started,
    e.TurnCancelled: Meter._turn_cancelled,
    e.TurnEnded: Meter._turn_ended,
    e.DeadLettered: lambda meter, at, event: meter._add("unflappable_dead_letters_total", type=event.error_type),
    e.AlertRaised: lambda meter, at, event: meter._add("unflappable_alerts_total", type=event.error_type),
    e.AttemptStarted: Meter._attempt_started,
    e.AttemptSucceeded: Meter._attempt_succeeded,
    e.AttemptFailed: Meter._attempt_failed,
    e.RetryScheduled: _each("unflappable_retries_total", "dependency", "reason"),
    e.RetryRefused: _each("unflappable_retries_refused_total", "dependency"),
    e.CallRejected: lambda meter, at, event: meter._add(
        "unflappable_rejections_total", dependency=event.dependency, guard=event.by
    ),
    e.CircuitOpened: _each(_MOVES, "dependency", to="open"),
    e.CircuitHalfOpened: _each(_MOVES, "dependency", to="half_open"),
    e.CircuitClosed: _each(_MOVES, "dependency", to="closed"),
    e.FellBack: lambda meter, at, event: meter._add(
        "unflappable_fallbacks_total", source=event.source, to=event.to or "none", reason=event.reason
    ),
    e.FaultInjected: _each("unflappable_faults_injected_total", "target", "kind"),
    e.ModelAnswered: Meter._model_answered,
    e.ToolCallEnded: Meter._tool_ended,
    e.ApprovalAnswered: Meter._approval_answered,
}
