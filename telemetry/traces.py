"""Records what a question did: rounds, model attempts, tool calls, and every fault on the way.  (floor 4)

A listener on events, nothing else: it asks nobody and changes nothing. Events carry no ids, so
their place in the tree is found by the scope the door stamped on them:

    turn ─ round ─ model attempt                      scope: turn, round, dependency, attempt
                 └ tool call ─ provider attempt       scope: turn, round, call, dependency, attempt

Tools run side by side, so "the span opened last" says nothing; the call id and the dependency
do. What an attempt causes (a retry, a breaker that opens) may be told after its end and then
belongs to the attempt that ended last. What finds no span of its own falls to the one above.

Texts are kept masked and bounded; the request itself never is: of a refused one (400) its shape
is kept, which is what one needs to see what was wrong with it. Streamed pieces are left out.
The trace goes to the sink when the question begins, at each round and when it ends, so that a
killed program leaves one that says how far it came; and again when something is learned later,
like the true outcome of a save that timed out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import events as e
from events import Event, Stamped, fields_of
from messages import ToolUse
from telemetry import attributes as a
from telemetry.spans import UNFINISHED, Span, Trace, kept, kept_json, kept_text

Sink: TypeAlias = Callable[[Trace], None]

TRACES_KEPT_MAX = 32
"""Traces kept in memory, for late news and for a look when the store is out of order."""

_NOT_TRACED = (e.TextStreamed, e.ThinkingStreamed)
_TOLD_AT = (e.TurnStarted, e.RoundStarted)


class Tracer:
    """The listener. Lives on one thread, the one its door tells events on.

    Args:
        sink: gets each trace, running or ended; it may get the same one again, with more in it.
            It must not block and must copy what it keeps (`Trace.to_json`).
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._recordings: dict[str, _Recording] = {}

    @property
    def traces(self) -> tuple[Trace, ...]:
        """What is in memory, newest first, the running one included."""
        return tuple(recording.trace for recording in reversed(self._recordings.values()))

    def __call__(self, stamped: Stamped) -> None:
        """Take note of one event."""
        turn, event = stamped.scope.get("turn"), stamped.event
        if turn is None or isinstance(event, _NOT_TRACED):
            return
        if isinstance(event, e.TurnStarted):
            self._begin(str(turn), stamped)
        recording = self._recordings.get(str(turn))
        if recording is None:
            return  # it began before we listened, or is long over
        recording.take(stamped)
        if isinstance(event, _TOLD_AT) or not recording.trace.running:
            self._sink(recording.trace)

    def _begin(self, turn: str, stamped: Stamped) -> None:
        self._recordings.pop(turn, None)
        self._recordings[turn] = _Recording(turn, stamped)
        while len(self._recordings) > TRACES_KEPT_MAX:
            del self._recordings[next(iter(self._recordings))]


class _Recording:
    """One trace while it grows, and what it takes to find an event's place in it."""

    def __init__(self, turn: str, at: Stamped) -> None:
        session, user = (
            None if (value := at.scope.get(key)) is None else kept_text(str(value)) for key in ("session", "user")
        )
        known = {a.OPERATION: "invoke_agent", a.AGENT: "unflappable", a.CONVERSATION: session, a.USER: user}
        known = {name: value for name, value in known.items() if value is not None}
        root = Span("invoke_agent unflappable", "turn", at.monotonic_s, at.wall_s, at.sequence, known)
        self.trace = Trace(turn, session, user, root)
        self._question_chars = 0
        self._rounds: dict[int, Span] = {}
        self._calls: dict[str, Span] = {}
        self._open: dict[_Key, Span] = {}  # attempts under way
        self._over: dict[_Key, Span] = {}  # the last one that ended, of each key

    def take(self, at: Stamped) -> None:
        """Put one event where it belongs."""
        _HANDLERS.get(type(at.event), _Recording._note)(self, at, at.event)

    # --- where an event belongs --------------------------------------------------------------------------

    def _around(self, at: Stamped) -> Span:
        """The span around a guarded call: the tool call, else the round, else the question."""
        call = at.scope.get("call")
        if call is None:
            return self._round(at)
        asked = ToolUse(str(call), str(at.scope.get("tool", "unknown")), {})
        return self._calls.get(asked.id) or self._open_call(asked, at)

    def _round(self, at: Stamped) -> Span:
        number = at.scope.get("round")
        found = self._rounds.get(int(number)) if number is not None else None
        return found or next(reversed(self._rounds.values()), self.trace.root)

    def _attempt(self, at: Stamped, among: tuple[dict[_Key, Span], ...]) -> Span | None:
        """The latest attempt of this branch on this dependency; of any, where the scope names none."""
        call, dependency = _key(at)
        for spans in among:
            for key in reversed(spans):
                if key[0] == call and dependency in ("", key[1]):
                    return spans[key]
        return None

    # --- rounds and attempts -----------------------------------------------------------------------------

    def _turn_started(self, at: Stamped, event: e.TurnStarted) -> None:
        self._question_chars = len(event.question)
        self.trace.root.attributes |= {a.QUESTION: kept_text(event.question), a.LIMIT_S: kept(event.limit_s)}

    def _round_started(self, at: Stamped, event: e.RoundStarted) -> None:
        self._cut_attempts(at, call="")
        self._over = {key: span for key, span in self._over.items() if key[0]}
        for before in self._rounds.values():
            if not before.ended:
                before.end(at.monotonic_s, "ok")
        name = f"round {event.number}"
        self._rounds[event.number] = self.trace.add_span(self.trace.root, name, "round", at, {})

    def _attempt_started(self, at: Stamped, event: e.AttemptStarted) -> None:
        attributes = a.of_attempt(event)
        if a.is_model(event.dependency):
            name, kind = f"chat {attributes[a.REQUEST_MODEL]}", "model_attempt"
        else:
            name, kind = event.dependency, "provider_attempt"
        self._open[_key(at)] = self.trace.add_span(self._around(at), name, kind, at, attributes)

    def _attempt_succeeded(self, at: Stamped, event: e.AttemptSucceeded) -> None:
        self._end_attempt(at, "ok")

    def _attempt_failed(self, at: Stamped, event: e.AttemptFailed) -> None:
        span = self._end_attempt(at, event.reason)
        if span is not None:
            span.attributes |= a.of_failure(event)
            if event.reason == "bad_request" and span.kind == "model_attempt":
                span.attributes[a.REQUEST_SHAPE] = self._request_shape()

    def _end_attempt(self, at: Stamped, status: str) -> Span | None:
        key = _key(at)
        span = self._open.pop(key, None) or self._over.get(key)
        if span is None or span.ended:
            return None  # its beginning was never told
        span.end(at.monotonic_s, status)
        self._over.pop(key, None)  # so that the newest stands last
        self._over[key] = span
        return span

    def _cut_attempts(self, at: Stamped, call: str | None) -> None:
        """End attempts on which nobody will report any more: of one branch, or (None) of all."""
        for key in [key for key in self._open if call in (None, key[0])]:
            self._over[key] = self._open.pop(key)
            self._over[key].end(at.monotonic_s, UNFINISHED)

    def _model_answered(self, at: Stamped, event: e.ModelAnswered) -> None:
        span = self._attempt(at, (self._open, self._over)) or self._around(at)
        span.attributes |= a.of_model_answer(event)

    # --- tool calls --------------------------------------------------------------------------------------

    def _tool_started(self, at: Stamped, event: e.ToolCallStarted) -> None:
        found = self._calls.get(event.call.id)
        if found is None or found.ended:  # ended: another call under an id that was used before
            found = self._open_call(event.call, at)
        found.attributes |= a.of_call(event.call)

    def _tool_ended(self, at: Stamped, event: e.ToolCallEnded) -> None:
        result = event.result
        span = self._calls.get(result.call.id) or self._open_call(result.call, at)
        self._cut_attempts(at, call=result.call.id)
        over_s = span.end_s if span.ended else None  # told again by a turn that is being closed
        span.end(at.monotonic_s if over_s is None else over_s, result.status)
        span.attributes |= a.of_result(result)

    def _open_call(self, call: ToolUse, at: Stamped) -> Span:
        attributes = a.of_call(call)
        name = f"execute_tool {attributes[a.TOOL_NAME]}"
        span = self.trace.add_span(self._round(at), name, "tool_call", at, attributes)
        self._calls[call.id] = span
        return span

    # --- the end, and everything else --------------------------------------------------------------------

    def _turn_cancelled(self, at: Stamped, event: e.TurnCancelled) -> None:
        self._note(at, event)
        if self.trace.running:
            self._end(at, "cancelled")

    def _turn_ended(self, at: Stamped, event: e.TurnEnded) -> None:
        self._end(at, event.status)
        trace = self.trace
        trace.model, trace.usage, trace.cost_usd = event.model, event.usage, event.cost_usd
        trace.root.attributes |= a.of_end(event)
        trace.degraded = tuple(kept_text(tool) for tool in event.degraded)
        if event.error_type is not None:
            error = {"kind": event.error_kind, "type": event.error_type}
            said = {"message": kept(event.error_message), "what_now": kept(event.what_now)}
            trace.error = error | said

    def _end(self, at: Stamped, status: str) -> None:
        self._cut_attempts(at, call=None)
        for span in self.trace.root.walk():
            if span.end_s is None:
                span.end(at.monotonic_s, status if span.kind == "round" else UNFINISHED)
        self.trace.root.end(at.monotonic_s, status)
        self.trace.status = status

    def _note(self, at: Stamped, event: Event) -> None:
        """What opens and closes nothing becomes an event of the span it is about."""
        self.trace.faults += isinstance(event, e.FaultInjected)
        among = (self._open, self._over) if isinstance(event, _TOLD_AFTER) else (self._open,)
        span = self._attempt(at, among) if isinstance(event, _ABOUT_AN_ATTEMPT) else None
        values = {name: kept(value) for name, value in fields_of(event).items()}
        self.trace.add_event(span or self._around(at), a.event_name(type(event)), at, values)

    def _request_shape(self) -> str:
        ended = [span for span in self._calls.values() if span.ended]
        calls = [{"tool": span.attributes[a.TOOL_NAME], "status": span.status} for span in ended]
        return kept_json({"round": len(self._rounds), "question_chars": self._question_chars, "tool_calls": calls})


_Key: TypeAlias = tuple[str, str]
"""Of an attempt: the tool call it serves ("" for none) and the dependency it is made on."""


def _key(at: Stamped) -> _Key:
    dependency = getattr(at.event, "dependency", None) or at.scope.get("dependency", "")
    return str(at.scope.get("call", "")), str(dependency)


_TOLD_AFTER = (e.RetryScheduled, e.RetryRefused, e.AttemptAbandoned, e.CircuitOpened, e.CircuitClosed)
_ABOUT_AN_ATTEMPT = (*_TOLD_AFTER, e.FaultInjected, e.LimiterWaited, e.CircuitHalfOpened)

_HANDLERS: dict[type[Event], Callable[[_Recording, Stamped, Any], None]] = {
    e.TurnStarted: _Recording._turn_started,
    e.TurnCancelled: _Recording._turn_cancelled,
    e.TurnEnded: _Recording._turn_ended,
    e.RoundStarted: _Recording._round_started,
    e.AttemptStarted: _Recording._attempt_started,
    e.AttemptSucceeded: _Recording._attempt_succeeded,
    e.AttemptFailed: _Recording._attempt_failed,
    e.ModelAnswered: _Recording._model_answered,
    e.ToolCallStarted: _Recording._tool_started,
    e.ToolCallEnded: _Recording._tool_ended,
}
