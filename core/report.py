"""What a question came to: the answer, or the honest word that there is none.  (floor 3)

One `TurnReport` for every end, for the person, the JSON report and the trace. What is missing from
an answer is said by the program, in its own words and in square brackets; it is not left to the
model. Which end a turn takes is decided in `turn.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.conversation import sendable
from errors import AgentError, AttemptTimedOut, DeadlineExceeded
from events import TurnEnded
from messages import NO_USAGE, CallResult, Message, Reply, Text, Usage
from safe_text import one_line

if TYPE_CHECKING:
    from core.turn import Rules, Turn

KNOWN_ENDS = ("end_turn", "stop_sequence", "tool_use", "pause_turn")


@dataclass(frozen=True, slots=True)
class TurnReport:
    """How a question ended, for the person, the JSON report and the trace."""

    status: str
    text: str
    model: str | None
    tool_calls: tuple[CallResult, ...]
    degraded: tuple[str, ...]
    usage: Usage
    cost_usd: float | None
    duration_ms: int
    error: AgentError | None = None


@dataclass(slots=True)
class Totals:
    """What a session used so far. Unknown stays unknown."""

    questions: int = 0
    usage: Usage = NO_USAGE
    cost_usd: float | None = 0.0

    def add(self, report: TurnReport) -> None:
        """Count one question; one that got no answer from any model adds nothing."""
        self.questions += 1
        if report.model is None:
            return
        self.usage = self.usage.plus(report.usage)
        unknown = self.cost_usd is None or report.cost_usd is None
        self.cost_usd = None if unknown else (self.cost_usd or 0.0) + (report.cost_usd or 0.0)


def answered(turn: Turn, reply: Reply, rules: Rules) -> TurnReport:
    """The report of a turn that has its answer, which enters its history."""
    said = sendable((*turn.paused, *reply.blocks))
    turn.messages = (*turn.messages, Message("assistant", said))
    missing = [result for result in turn.results if result.status in ("degraded", "unknown")]
    notices = [one_line(result.notice or result.output, 300) for result in missing]
    degraded = [result.call.name for result in missing]
    if reply.stop_reason == "max_tokens":
        notices.append("The answer was cut off at MAX_TOKENS; ask to go on.")
        degraded.append("answer")
    elif reply.stop_reason not in KNOWN_ENDS:
        notices.append(f"The model ended for an unknown reason ({one_line(reply.stop_reason, 40)}).")
    if turn.nobody:
        names = ", ".join(dict.fromkeys(one.call.name for one in turn.results if one.status == "denied"))
        notices.append(f"{names} was not run: nobody was there to approve it.")
    text = "".join(block.text for block in said if isinstance(block, Text))
    text = "\n\n".join([text.rstrip(), *(f"[{notice}]" for notice in dict.fromkeys(notices))])
    status = "needs_human" if turn.nobody else "degraded" if degraded else "ok"
    return report_of(turn, status, text, rules, tuple(dict.fromkeys(degraded)))


def report_of(turn: Turn, status: str, text: str, rules: Rules, degraded: tuple[str, ...] = ()) -> TurnReport:
    """The report of a turn as it stands."""
    asked = turn.model is not None
    return TurnReport(
        status, text, turn.model, tuple(turn.results), degraded,
        turn.usage if asked else Usage(), turn.cost_usd if asked else None,
        round((rules.now() - turn.started_s) * 1000),
    )  # fmt: skip


def ended(report: TurnReport) -> TurnEnded:
    """The event that tells of it."""
    error = report.error
    return TurnEnded(
        report.status, report.text, report.model, report.usage, report.cost_usd, report.degraded,
        error.type if error else None, error.kind.value if error else None,
        error.message if error else None, error.what_now if error else None,
    )  # fmt: skip


def as_deadline(turn: Turn, error: AgentError, rules: Rules) -> AgentError:
    """The error, or that the time of the whole question is over."""
    # Only of the outermost timer: a model that went silent ends with the same class, long before.
    if isinstance(error, AttemptTimedOut) and not turn.deadline.allows_start(rules.now()):
        return DeadlineExceeded(f"no answer within {rules.total_s:g} s", (error,))
    return error


def critical_error(result: CallResult) -> AgentError:
    """Why a turn fails whose critical tool could not work."""
    name = one_line(result.call.name, 40)
    message = f"{name} could not do its work: {one_line(result.notice.removeprefix(f'{name} is missing: '))}"
    what_now = f"Nothing was made up in its place. Try again when {name} works."
    if result.status == "unknown":
        message = f"{name} was not heard of in time: it may or may not have happened"
        what_now = "Look whether it is there before you ask again."
    return AgentError(message, reason="critical_tool", dependency=name, what_now=what_now)
