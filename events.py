"""Everything that may happen, in the past tense: the one seam for screen, traces, logs.  (floor 0)

Flows emit events and never draw, log or count. An event carries no ids and no time of
its own: the door stamps each with its branch's scope (`turn`, `call`, `link`, `attempt`),
a sequence number, and monotonic and wall time (`Stamped`). Events are plain values;
listeners must not block, and what they raise is dropped and counted by the door.
Text in events is raw: whoever shows it cleans it (`safe_text`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from messages import CallResult, ToolUse, Usage

Scope: TypeAlias = Mapping[str, str | int]


class Event:
    """Base of all events."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Stamped:
    """An event with when and where: what a listener receives."""

    event: Event
    scope: Scope
    sequence: int
    monotonic_s: float
    wall_s: float


Listener: TypeAlias = Callable[[Stamped], None]

# --- a question ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TurnStarted(Event):
    """A question was taken up; `limit_s` is the time it has in all."""

    question: str
    limit_s: float


@dataclass(frozen=True, slots=True)
class TurnResumed(Event):
    """A question that a crash cut off goes on: after `rounds` with the model and `calls` that are on record."""

    question: str
    rounds: int
    calls: int


@dataclass(frozen=True, slots=True)
class TurnPoisoned(Event):
    """A question ended the program `crashes` times: it is not tried again."""

    question: str
    crashes: int


@dataclass(frozen=True, slots=True)
class StoreFailed(Event):
    """Something of the session could not be kept; told once until it works again. `what` was lost, and `why`."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class StoreDamaged(Event):
    """Something kept was damaged: `what` it was, and where the damaged file is `kept` ("" for nowhere)."""

    what: str
    kept: str


@dataclass(frozen=True, slots=True)
class DeadLettered(Event):
    """A question that failed for good was put to the dead letters as `number`; `dropped` old ones had to go."""

    number: int
    error_type: str
    dropped: int


@dataclass(frozen=True, slots=True)
class AlertRaised(Event):
    """Something failed that only a person can mend. `letter` is its number among the dead letters, if it has one."""

    error_type: str
    error_kind: str
    message: str
    what_now: str
    letter: int | None


@dataclass(frozen=True, slots=True)
class AlertSent(Event):
    """The webhook took an alert."""


@dataclass(frozen=True, slots=True)
class AlertFailed(Event):
    """The webhook did not take an alert; it is not sent again."""

    why: str


@dataclass(frozen=True, slots=True)
class TurnEnded(Event):
    """A question ended. `status`: ok, degraded, failed, needs_human, cancelled."""

    status: str
    text: str
    model: str | None
    usage: Usage
    cost_usd: float | None
    degraded: tuple[str, ...] = ()
    error_type: str | None = None
    error_kind: str | None = None
    error_message: str | None = None
    what_now: str | None = None


@dataclass(frozen=True, slots=True)
class TurnCancelled(Event):
    """A question was stopped from outside; `kept` says what stays in the history, "" for nothing."""

    kept: str


@dataclass(frozen=True, slots=True)
class RoundStarted(Event):
    """The model is asked for the `number`-th time in this question."""

    number: int


@dataclass(frozen=True, slots=True)
class NoticeGiven(Event):
    """The program says something in its own name: what is missing, was cut or was kept."""

    text: str


@dataclass(frozen=True, slots=True)
class HistoryTrimmed(Event):
    """Old messages were left out so that the question fits the model's window."""

    messages: int


@dataclass(frozen=True, slots=True)
class StuckNoticed(Event):
    """The model goes round in circles; `what` says how."""

    what: str


# --- a guarded call: model link or tool provider ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AttemptStarted(Event):
    """Attempt `number` of at most `of` on a dependency began."""

    dependency: str
    number: int
    of: int


@dataclass(frozen=True, slots=True)
class AttemptSucceeded(Event):
    """The attempt gave an answer."""

    dependency: str
    number: int


@dataclass(frozen=True, slots=True)
class AttemptFailed(Event):
    """The attempt failed. `outcome`: failure, throttled or neutral; `reason` a key of errors.VERDICTS."""

    dependency: str
    number: int
    reason: str
    kind: str
    outcome: str
    message: str
    status: int | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptAbandoned(Event):
    """A model's attempt died after text was streamed: all of its text is void."""

    dependency: str
    number: int
    chars_voided: int


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """The same dependency is asked again after `wait_s` seconds."""

    dependency: str
    number: int
    wait_s: float
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RetryRefused(Event):
    """No retry: the quota is spent, the wait does not fit, or it is not safe to repeat. `why` says which."""

    dependency: str
    why: str


@dataclass(frozen=True, slots=True)
class LimiterWaited(Event):
    """The rate limiter made the call wait."""

    dependency: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class CallRejected(Event):
    """A guard refused before trying. `by`: circuit_breaker, rate_limiter or bulkhead."""

    dependency: str
    by: str
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class CircuitOpened(Event):
    """The breaker opened: nothing is tried for `open_s` seconds."""

    dependency: str
    failures: int
    open_s: float


@dataclass(frozen=True, slots=True)
class CircuitHalfOpened(Event):
    """The open time is over: one probe is let through."""

    dependency: str


@dataclass(frozen=True, slots=True)
class CircuitClosed(Event):
    """The dependency is healthy again."""

    dependency: str


@dataclass(frozen=True, slots=True)
class RedisUnavailable(Event):
    """Redis did not do what it was asked: until RedisBack, breakers and limits are this process's own."""

    why: str


@dataclass(frozen=True, slots=True)
class RedisBack(Event):
    """Redis works again: breakers and limits are shared with the other processes."""


@dataclass(frozen=True, slots=True)
class FellBack(Event):
    """The next in the chain is asked instead. `to` is "" when none was left."""

    source: str
    to: str
    reason: str
    message: str


# --- the model's words -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextStreamed(Event):
    """A piece of the model's answer as it arrives; void if its attempt is abandoned later."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingStreamed(Event):
    """The model is thinking; the words themselves are not shown."""

    chars: int


@dataclass(frozen=True, slots=True)
class ModelAnswered(Event):
    """A complete answer arrived."""

    link: str
    model: str
    stop_reason: str
    usage: Usage
    cost_usd: float | None
    first_token_s: float | None = None


# --- tools -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToolCallStarted(Event):
    """A tool call began."""

    call: ToolUse


@dataclass(frozen=True, slots=True)
class ToolCallEnded(Event):
    """A tool call ended, one way or another."""

    result: CallResult


@dataclass(frozen=True, slots=True)
class EffectReconciled(Event):
    """A call whose outcome was unknown was looked at: `found` says what the look showed."""

    tool: str
    found: str


@dataclass(frozen=True, slots=True)
class ApprovalAsked(Event):
    """A person is asked whether this may run."""

    tool: str
    digest: str
    why: str


@dataclass(frozen=True, slots=True)
class ApprovalAnswered(Event):
    """`by`: person, policy (--approve), nobody, limit (too many different requests in one question)."""

    tool: str
    digest: str
    granted: bool
    by: str


# --- the practice of failing -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FaultInjected(Event):
    """A fault of the plan struck."""

    target: str
    kind: str
    argument: str


@dataclass(frozen=True, slots=True)
class FaultsChanged(Event):
    """The plan of faults is now this; an empty tuple means none."""

    specs: tuple[str, ...]


def fields_of(event: Event) -> dict[str, Any]:
    """The event's fields by name, for logs and traces."""
    return {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}  # type: ignore[arg-type]
