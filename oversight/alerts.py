"""Tells somebody far away, through a webhook, of a failure that only a person can mend.  (floor 3)

    turn ended -> Alert -> guarded( POST ) -> AlertSent, or AlertFailed and nothing more

An alert is worth less than the question it tells of: it is sent after the turn has ended, beside
everything else, and what goes wrong with it is one line in the log. It has a guard of its own, so
that a dead webhook is left in peace and a storm of failures sends a few alerts, not all of them.
A retry may send the same alert twice; two are better than none.

What this does not do: choose what is worth an alert (`core/letters.py`), or send anything itself
(`alerter.py`).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass

from deadline import Deadline
from error_words import describe
from errors import AgentError, reason_of_response, retry_after_s
from events import AlertFailed, AlertSent
from fault_injection import injecting
from faults import FaultPlan
from flow import Flow, HttpRequest, emit, fetch
from guard import Guard
from rate_limiter import LimiterPolicy
from safe_text import one_line

TARGET = "alert.webhook"
"""The dependency's name, for faults and BREAKERS."""

ALERT_S = 20.0
"""How long one alert may take, retries included; nobody waits for it."""

ATTEMPT_S = 5.0
"""How long one try may take: incoming-webhook services answer within one second, or are in trouble."""

LIMIT = LimiterPolicy(per_minute=6, burst=3)
"""A person reads three alerts as well as thirty; chat services take about one a second and then answer 429."""

WORDS_CHARS_MAX = 1_000
REPLY_BYTES_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Alert:
    """What is told. `when_s` is the wall clock in seconds, `program` the name and version of this program."""

    type: str
    kind: str
    message: str
    what_now: str
    session_id: str
    trace_id: str
    when_s: float
    program: str

    def payload(self) -> dict[str, str]:
        """The body of the POST: safe words, without secrets; never the question itself."""
        when = datetime.datetime.fromtimestamp(self.when_s, datetime.UTC)
        words = {
            "type": self.type,
            "kind": self.kind,
            "message": self.message,
            "what_now": self.what_now,
            "session_id": self.session_id,
            "trace_id": self.trace_id,
            "when": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "program": self.program,
        }
        return {name: one_line(text, WORDS_CHARS_MAX) for name, text in words.items()}


def alerting(
    alert: Alert, url: str, guard: Guard, plan: FaultPlan, now: Callable[[], float], wall: Callable[[], float]
) -> Flow[bool]:
    """Send an alert; whether it was taken. Never raises AgentError.

    Args:
        url: where to.
        guard: the webhook's own.
        plan: its faults, by the name `alert.webhook`.
        now, wall: the clocks, in seconds.
    """
    request = HttpRequest("POST", url, body=alert.payload(), bytes_max=REPLY_BYTES_MAX)
    try:
        yield from guard.guarding(
            lambda number: injecting(_posting(request, wall), plan, TARGET),
            deadline=Deadline.after(now(), ALERT_S),
            attempt_s=ATTEMPT_S,
        )
    except AgentError as error:
        yield from emit(AlertFailed(one_line(error.message)))
        return False
    yield from emit(AlertSent())
    return True


def _posting(request: HttpRequest, wall: Callable[[], float]) -> Flow[None]:
    reply = yield from fetch(request)
    if 200 <= reply.status < 300:
        return
    reason = reason_of_response(reply.status)
    raise AgentError(
        describe(reason, status=reply.status),
        reason=reason,
        status=reply.status,
        retry_after_s=retry_after_s(reply.headers, wall()),
    )
