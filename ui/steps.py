"""Says each thing that happens in one line a person understands.  (floor 6)

`Steps` turns events into words and never draws: a `Line` for what is worth keeping on
the screen, `activity` for what is happening now, `standing` for what stays so between
questions (open circuits, faults that are on). Everything foreign in them is cleaned,
masked and cut to length here.

What this does not do: the model's own words (`markdown_stream.py`) and the end of a
question's text (`screen.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from events import (
    AlertRaised,
    ApprovalAnswered,
    ApprovalAsked,
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    CallRejected,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    EffectReconciled,
    FaultInjected,
    FaultsChanged,
    FellBack,
    HistoryTrimmed,
    LimiterWaited,
    ModelAnswered,
    NoticeGiven,
    RedisBack,
    RedisUnavailable,
    RetryRefused,
    RetryScheduled,
    Stamped,
    StoreDamaged,
    StoreFailed,
    StuckNoticed,
    ThinkingStreamed,
    ToolCallEnded,
    ToolCallStarted,
    TurnCancelled,
    TurnEnded,
    TurnPoisoned,
    TurnResumed,
    TurnStarted,
)
from messages import CallResult, ToolUse, Usage
from safe_text import one_line, shorten
from ui.standing import NAME_CHARS, Standing, faults_on

LIMITER_TOLD_S = 0.2
"""Shorter waits for the rate limiter are not worth a line."""

ARGUMENTS_CHARS, OUTPUT_CHARS = 60, 100


@dataclass(frozen=True, slots=True)
class Line:
    """One line for the screen.

    Args:
        text: safe, without a newline.
        style: one of the theme's.
        warning: also told by a quiet one-shot, whose log on stderr tells the rest.
        detail: only told with --verbose.
    """

    text: str
    style: str = "dim"
    warning: bool = False
    detail: bool = False


class Steps:
    """Follows one conversation's events. `source`, when given, knows better than events what stands."""

    def __init__(self) -> None:
        self.source: Callable[[], Standing] | None = None
        self.activity = ""
        self._model = ""
        self._breakers: dict[str, str] = {}
        self._faults: tuple[str, ...] = ()
        self._tools: dict[str, str] = {}
        self._attempts: dict[tuple[str, Any], tuple[int, int]] = {}
        self._started_s = 0.0

    @property
    def standing(self) -> Standing:
        """What stays so between questions."""
        if self.source:
            return self.source()
        breakers = tuple(f"{name} {state}" for name, state in self._breakers.items())
        return Standing(self._model, breakers, self._faults)

    def begin(self) -> None:
        """Forget what belonged to the last question."""
        self.activity = ""
        self._tools.clear()
        self._attempts.clear()

    def follow(self, stamped: Stamped) -> Line | None:
        """Take in an event; the line worth showing for it, if any."""
        tell = getattr(self, f"_{type(stamped.event).__name__}", None)
        line: Line | None = tell(stamped.event, stamped) if tell else None
        return line

    # --- a question ----------------------------------------------------------------------------------------
    # One method an event, named like it.

    def _TurnStarted(self, event: TurnStarted, stamped: Stamped) -> None:
        self._started_s = stamped.monotonic_s

    def _TurnResumed(self, event: TurnResumed, stamped: Stamped) -> Line:
        done = f"{event.calls} calls are" if event.calls != 1 else "1 call is"
        return Line(f"↻ goes on where it was cut off; {done} on record", "warn")

    def _TurnPoisoned(self, event: TurnPoisoned, stamped: Stamped) -> Line:
        question = one_line(event.question, ARGUMENTS_CHARS)
        return Line(f"✗ given up after {event.crashes} crashes: {question}", "bad")

    def _StoreFailed(self, event: StoreFailed, stamped: Stamped) -> Line:
        return Line(f"! {one_line(event.what)} could not be kept: {one_line(event.why)}", "bad")

    def _StoreDamaged(self, event: StoreDamaged, stamped: Stamped) -> Line:
        kept = f"; a copy is kept as {one_line(event.kept)}" if event.kept else ""
        return Line(f"! {one_line(event.what)}{kept}", "bad")

    def _AlertRaised(self, event: AlertRaised, stamped: Stamped) -> Line:
        kept = f"; kept as dead letter {event.letter} (/deadletters)" if event.letter is not None else ""
        return Line(f"! alert: {one_line(event.error_type, NAME_CHARS)}{kept}", "bad")

    def _TurnEnded(self, event: TurnEnded, stamped: Stamped) -> Line | None:
        self.begin()
        if event.status == "failed":
            return Line(f"✗ {_failure(event)}{_trace(stamped)}", "bad", warning=True)
        if event.status == "needs_human":
            return Line("✗ a person must decide: an action was refused because nobody was there to ask", "warn", True)
        if event.status == "degraded":
            missing = ", ".join(one_line(name, NAME_CHARS) for name in event.degraded)
            return Line(f"! degraded: {missing or 'see above'}", "warn", warning=True)
        if event.status == "cancelled":
            return None
        took_s = stamped.monotonic_s - self._started_s
        return Line(f"· {_spent(event.usage, event.cost_usd)}, {took_s:.1f} s", detail=True)

    def _TurnCancelled(self, event: TurnCancelled, stamped: Stamped) -> Line:
        return Line(f"! stopped{'; ' + one_line(event.kept) if event.kept else ''}", "warn", warning=True)

    def _NoticeGiven(self, event: NoticeGiven, stamped: Stamped) -> Line:
        return Line(f"! {one_line(event.text, 400)}", "warn", warning=True)

    def _HistoryTrimmed(self, event: HistoryTrimmed, stamped: Stamped) -> Line:
        return Line(f"· {event.messages} old messages are left out, so that the question fits the model")

    def _StuckNoticed(self, event: StuckNoticed, stamped: Stamped) -> Line:
        return Line(f"! going round in circles: {one_line(event.what)}", "warn")

    # --- attempts --------------------------------------------------------------------------------------------

    def _AttemptStarted(self, event: AttemptStarted, stamped: Stamped) -> Line:
        self._attempts[_key(event.dependency, stamped)] = event.number, event.of
        name = spoken(event.dependency)
        if is_model(event.dependency):
            self._model = name
            self.activity = f"asking {name}{_counted(event.number, event.of)}"
        return Line(f"· asking {name}{_counted(event.number, event.of)}", detail=True)

    def _AttemptSucceeded(self, event: AttemptSucceeded, stamped: Stamped) -> Line:
        return Line(f"· {spoken(event.dependency)} answered at attempt {event.number}", detail=True)

    def _AttemptFailed(self, event: AttemptFailed, stamped: Stamped) -> Line:
        request = f", request {one_line(event.request_id, NAME_CHARS)}" if event.request_id else ""
        words = f"{self._attempt(event.dependency, stamped)} failed: {one_line(event.message)}"
        return Line(f"· {words} ({event.kind}, {event.outcome}{request})", detail=True)

    def _RetryScheduled(self, event: RetryScheduled, stamped: Stamped) -> Line:
        why = one_line(event.message)
        if is_model(event.dependency):
            self.activity = f"waiting {_seconds(event.wait_s)}: {why}"
        return Line(f"↻ {self._attempt(event.dependency, stamped)} failed: {why}; again in {_seconds(event.wait_s)}")

    def _RetryRefused(self, event: RetryRefused, stamped: Stamped) -> Line:
        return Line(f"· {spoken(event.dependency)}: no retry: {one_line(event.why)}")

    def _LimiterWaited(self, event: LimiterWaited, stamped: Stamped) -> Line | None:
        words = f"{_seconds(event.wait_s)} for the rate limiter of {spoken(event.dependency)}"
        self.activity = f"waiting {words}"
        return Line(f"· waiting {words}") if event.wait_s > LIMITER_TOLD_S else None

    def _CallRejected(self, event: CallRejected, stamped: Stamped) -> Line:
        again = f"; free again in {_seconds(event.retry_after_s)}" if event.retry_after_s is not None else ""
        guard = one_line(event.by.replace("_", " "), NAME_CHARS)
        return Line(f"· {spoken(event.dependency)}: not asked, its {guard} says no{again}")

    def _CircuitOpened(self, event: CircuitOpened, stamped: Stamped) -> Line:
        at = time.strftime("%H:%M:%S", time.localtime(stamped.wall_s + event.open_s))
        name = spoken(event.dependency)
        self._breakers[name] = f"open until {at}"
        return Line(f"✗ {name}: circuit open after {event.failures} failures; next try at {at}", "warn")

    def _CircuitHalfOpened(self, event: CircuitHalfOpened, stamped: Stamped) -> Line:
        self._breakers[spoken(event.dependency)] = "on probe"
        return Line(f"· {spoken(event.dependency)}: circuit half-open, one try as a probe")

    def _CircuitClosed(self, event: CircuitClosed, stamped: Stamped) -> Line:
        self._breakers.pop(spoken(event.dependency), None)
        return Line(f"✓ {spoken(event.dependency)}: works again, circuit closed", "good")

    def _RedisUnavailable(self, event: RedisUnavailable, stamped: Stamped) -> Line:
        words = f"redis: {one_line(event.why)}; breakers and limits are not shared until it is back"
        return Line(f"! {words}", "warn")

    def _RedisBack(self, event: RedisBack, stamped: Stamped) -> Line:
        return Line("✓ redis: works again, breakers and limits are shared", "good")

    def _FellBack(self, event: FellBack, stamped: Stamped) -> Line:
        source, why = spoken(event.source), one_line(event.message or event.reason)
        if not event.to:
            return Line(f"✗ {source}: {why}; nothing else is left to ask", "warn")
        return Line(f"→ {source} → {spoken(event.to)}: {why}", "warn")

    # --- the model's words -----------------------------------------------------------------------------------

    def _ThinkingStreamed(self, event: ThinkingStreamed, stamped: Stamped) -> None:
        self.activity = f"{self._model or 'the model'} is thinking…"

    def _ModelAnswered(self, event: ModelAnswered, stamped: Stamped) -> Line:
        self.activity = ""
        self._model = one_line(event.link, NAME_CHARS) or self._model
        first = f", first word after {event.first_token_s:.1f} s" if event.first_token_s is not None else ""
        words = f"{self._model} answered as {one_line(event.model, NAME_CHARS)} ({one_line(event.stop_reason, 40)})"
        return Line(f"· {words}: {_spent(event.usage, event.cost_usd)}{first}", detail=True)

    # --- tools -----------------------------------------------------------------------------------------------

    def _ToolCallStarted(self, event: ToolCallStarted, stamped: Stamped) -> Line:
        self._tools[event.call.id] = one_line(event.call.name, NAME_CHARS)
        self._tools_under_way()
        return Line(f"· {_call(event.call)}…", detail=True)

    def _ToolCallEnded(self, event: ToolCallEnded, stamped: Stamped) -> Line:
        result = event.result
        self._tools.pop(result.call.id, None)
        self._tools_under_way()
        glyph, style, word = _TOOL_ENDS.get(result.status, ("?", "warn", result.status))
        output = one_line(result.output, OUTPUT_CHARS)
        return Line(f"{glyph} {_call(result.call)} → {word}{output}{_circumstances(result)}", style)

    def _tools_under_way(self) -> None:
        self.activity = f"tools: {', '.join(self._tools.values())}…" if self._tools else ""

    def _EffectReconciled(self, event: EffectReconciled, stamped: Stamped) -> Line:
        words = f"{one_line(event.tool, NAME_CHARS)}: looked again: {one_line(event.found)}"
        return Line(f"! {words}", "warn", warning=True)

    def _ApprovalAsked(self, event: ApprovalAsked, stamped: Stamped) -> None:
        self.activity = ""

    def _ApprovalAnswered(self, event: ApprovalAnswered, stamped: Stamped) -> Line:
        by = {
            "person": "by you",
            "policy": "by --approve",
            "nobody": "because nobody was there to ask",
            "limit": "unasked: too many approvals were asked for already",
        }
        said = "approved" if event.granted else "refused"
        words = f"{one_line(event.tool, NAME_CHARS)} {said} {by.get(event.by, 'by ' + one_line(event.by, 40))}"
        return Line(f"{'✓' if event.granted else '✗'} {words}", "dim" if event.granted else "warn", not event.granted)

    # --- the practice of failing -----------------------------------------------------------------------------

    def _FaultInjected(self, event: FaultInjected, stamped: Stamped) -> Line:
        what = event.kind + (f"={event.argument}" if event.argument else "")
        return Line(f"! injected fault: {spoken(event.target)}: {one_line(what, NAME_CHARS)}", "warn")

    def _FaultsChanged(self, event: FaultsChanged, stamped: Stamped) -> Line:
        self._faults = event.specs
        if not event.specs:
            return Line("✓ no faults are on any more", "good", warning=True)
        return Line(faults_on(event.specs), "warn", warning=True)

    def _attempt(self, dependency: str, stamped: Stamped) -> str:
        number, of = self._attempts.get(_key(dependency, stamped), (0, 0))
        return f"{spoken(dependency)}: attempt {number} of {of}" if number else spoken(dependency)


_TOOL_ENDS = {
    "ok": ("✓", "dim", ""),
    "invalid": ("✗", "dim", "bad input: "),
    "failed": ("✗", "bad", "failed: "),
    "degraded": ("!", "warn", ""),
    "denied": ("✗", "warn", "refused: "),
    "unknown": ("?", "bad", "outcome unknown: "),
    "skipped": ("·", "dim", ""),  # its text begins with "Not run" or "Not done"
}


def spoken(dependency: str) -> str:
    """A dependency's name as people write it: `model.anthropic.x` is `anthropic:x`."""
    kind, _, rest = one_line(dependency, NAME_CHARS).partition(".")
    return rest.replace(".", ":", 1) if kind == "model" and rest else one_line(dependency, NAME_CHARS)


def is_model(dependency: str) -> bool:
    """Whether the name is a model's."""
    return dependency.startswith("model.")


def _key(dependency: str, stamped: Stamped) -> tuple[str, Any]:
    return dependency, stamped.scope.get("call")


def _counted(number: int, of: int) -> str:
    return f", attempt {number} of {of}" if of > 1 or number > 1 else ""


def _seconds(s: float) -> str:
    return f"{s:.1f} s" if s < 10 else f"{s:.0f} s"


def _call(call: ToolUse) -> str:
    return f"{one_line(call.name, NAME_CHARS)}({one_line(_arguments(call), ARGUMENTS_CHARS)})"


def _arguments(call: ToolUse) -> str:
    if call.problem is not None:
        return shorten(call.raw, 4 * ARGUMENTS_CHARS)
    if len(call.input) == 1 and isinstance(only := next(iter(call.input.values())), str):
        return only
    try:
        return json.dumps(dict(call.input), ensure_ascii=False)[1:-1]
    except (TypeError, ValueError, RecursionError):
        return "…"


def _circumstances(result: CallResult) -> str:
    parts = [f"{result.duration_ms} ms" if result.duration_ms < 1000 else f"{result.duration_ms / 1000:.1f} s"]
    if result.attempts > 1:
        parts.append(f"{result.attempts} tries")
    if result.source:
        parts.append(one_line(result.source, NAME_CHARS))
    return f" ({', '.join(parts)})"


def _failure(event: TurnEnded) -> str:
    message = one_line(event.error_message or "no answer", 400).rstrip(".")
    return f"{message}. {one_line(event.what_now)}" if event.what_now else f"{message}."


def _trace(stamped: Stamped) -> str:
    trace = stamped.scope.get("trace") or stamped.scope.get("turn")
    return f" [trace {one_line(str(trace), NAME_CHARS)}]" if trace else ""


def _spent(usage: Usage, cost_usd: float | None) -> str:
    cost = f"${cost_usd:.4f}" if cost_usd is not None else "cost unknown"
    return f"{_tokens(usage.input_tokens)} tokens in, {_tokens(usage.output_tokens)} out, {cost}"


def _tokens(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"
