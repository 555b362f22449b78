"""Where one row is played: a real agent on its own ground, watched for what must hold after every question.  (floor 6)

Whatever a row is about, these hold at the end of each question, and the stage looks:
it ended by its deadline; the model was never sent a history that the Messages API would refuse;
a failed question that wrote nothing left the history as it was; the report has an error exactly
when it failed; the key is in no output; and once the faults stop, the next question succeeds
within the recovery time.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from circuit_breaker import State
from cli import EXIT_OF_STATUS, json_line, report_json
from drills.ground import KEY, Ground
from events import CallRejected, Event, FaultInjected, Stamped
from messages import CallResult
from models.practice.server import PracticeServer
from oversight.approvals import Answer as Approval
from oversight.approvals import ApprovalRequest
from safe_text import one_line
from session import Unfinished
from wiring import Answer, AsyncAgent, BlockingAgent

LATE_S = 0.25
"""How much later than its deadline a question may end."""

SUM, SUM_IS = "What is 15 * 23?", "345"
NOTE, NOTE_IS = "Save a note: buy milk", "buy milk"


@dataclass(frozen=True, slots=True)
class Told:
    """How one question ended. `attempts` are those on models; `took_s` in seconds."""

    status: str
    text: str
    error: str
    attempts: int
    calls: tuple[CallResult, ...]
    degraded: tuple[str, ...]
    took_s: float

    def in_words(self) -> str:
        """One line: the status, and what was said."""
        return one_line(f"{self.status}: {self.error or self.text}", 300)


@dataclass(slots=True)
class Stage:
    """One row on one agent.

    Args:
        ground: settings and folders.
        server: the practice model.
        kind: "asyncio" or "blocking" for an agent inside this process; else the file name of a program.
        faults: on from the start.
        seed: of faults, jitter and words.
    """

    ground: Ground
    server: PracticeServer
    kind: str
    faults: tuple[str, ...]
    seed: int
    approvals: list[ApprovalRequest] = field(default_factory=list)
    approves: Approval = Approval.NOBODY
    events: list[Event] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    agent: Any = None
    _runner: Any = None

    def __enter__(self) -> Stage:
        if self.kind not in ("asyncio", "blocking"):
            return self
        parts: dict[str, Any] = {"fault_specs": self.faults, "seed": self.seed, "listeners": [self._hear]}
        settings = self.ground.settings
        if self.kind == "blocking":
            self.agent = BlockingAgent(settings, lambda effect, branch: self._approve(effect.request), **parts)
        else:
            self._runner = asyncio.Runner()
            self.agent = AsyncAgent(settings, self._approve_async, **parts)
        return self

    def __exit__(self, *_: object) -> None:
        if self.agent is not None and self._runner is None:
            self.agent.close()
        elif self._runner is not None:
            self._runner.run(self.agent.aclose())
            self._runner.close()

    def expect(self, holds: bool, words: str) -> None:
        """Note a breach unless it holds; `words` say what should be and what is."""
        if not holds:
            self.breaches.append(words)

    @property
    def program(self) -> str:
        """The program that this row is about."""
        return {"asyncio": "agent_async.py", "blocking": "agent.py"}.get(self.kind, self.kind)

    @property
    def notes(self) -> list[Path]:
        """The files in the notes folder."""
        return self.ground.notes

    def strikes(self) -> int:
        """How often a fault struck so far."""
        return sum(isinstance(event, FaultInjected) for event in self.events)

    def rejected(self) -> bool:
        """Whether a breaker turned a call away."""
        return any(isinstance(event, CallRejected) and event.by == "circuit_breaker" for event in self.events)

    # --- asking ------------------------------------------------------------------------------------------

    def ask(self, question: str) -> Told:
        """Ask a question and look at what always holds."""
        before = self.agent.conversation.messages
        begun_s = time.monotonic()
        answer: Answer = self._run(self.agent.ask(question))
        told = told_of(answer, time.monotonic() - begun_s)
        self.told.append(told)
        self._look(answer, told, before)
        return told

    def open_latest(self) -> Unfinished | None:
        """Change to the session last used; the question that was cut off in it."""
        found: Unfinished | None = self._run(self.agent.open_session("latest"))
        return found

    def resume(self) -> Told:
        """Go on with the question that was cut off."""
        begun_s = time.monotonic()
        self.told.append(told_of(self._run(self.agent.resume()), time.monotonic() - begun_s))
        return self.told[-1]

    def heal(self) -> None:
        """Lift the faults; the next question must succeed, once what is open had its time."""
        self.agent.plan.clear()
        self.rest()
        told = self.ask(SUM)
        fine = told.status in ("ok", "degraded") and SUM_IS in told.text
        self.expect(fine, f"after the faults the next question succeeds, but it was {told.in_words()}")
        self.told.pop()  # the row is about the questions before

    def rest(self) -> None:
        """Wait until no breaker is open any more: that is the recovery time of the promise."""
        waits_s = [one.retry_after_s for one in self.agent.guards.snapshots() if one.state is State.OPEN]
        waits_s = [min(wait_s, self.ground.settings.breaker_recovery_timeout_s) for wait_s in waits_s]
        time.sleep(max(waits_s, default=0.0) + (0.01 if waits_s else 0.0))

    def _run(self, asked: Any) -> Any:
        return asked if self._runner is None else self._runner.run(asked)

    def _hear(self, stamped: Stamped) -> None:
        self.events.append(stamped.event)

    def _approve(self, request: ApprovalRequest) -> Approval:
        self.approvals.append(request)
        return self.approves

    async def _approve_async(self, effect: Any, branch: Any) -> Approval:
        return self._approve(effect.request)

    # --- what always holds -------------------------------------------------------------------------------

    def _look(self, answer: Answer, told: Told, before: tuple[Any, ...]) -> None:
        report, limit_s = answer.report, self.ground.settings.total_timeout_s
        self.expect(told.took_s <= limit_s + LATE_S, f"it ends by its deadline of {limit_s:g} s: {told.took_s:.2f} s")
        self.expect(report.status in EXIT_OF_STATUS, f"the status is one of the known ones: {report.status}")
        self.expect(
            (report.error is not None) == (report.status == "failed"), "there is an error exactly when it failed"
        )
        self.expect(not self.server.refused, f"every history is one the API takes: {self.server.refused[-1:]}")
        wrote = any(call.wrote for call in report.tool_calls)
        if report.status == "failed" and not wrote:
            unchanged = self.agent.conversation.messages == before
            self.expect(unchanged, "a failed question that wrote nothing leaves the history as it was")
        trace = self.agent.traces.get(answer.trace_id)
        self.expect(trace is not None and trace["status"] == report.status, "the trace tells the same end")
        line = json_line(
            report_json(report, session_id="", trace_id=answer.trace_id, model_attempts=answer.model_attempts)
        )
        self.expect(KEY not in line and KEY not in json.dumps(trace), "no output contains the key")


Play: TypeAlias = Callable[[Stage], None]
"""What a row does on its stage; breaches are noted there."""


def told_of(answer: Answer, took_s: float) -> Told:
    """What a drill looks at in an answer."""
    report = answer.report
    error = f"{report.error.type}: {report.error.message}" if report.error else ""
    return Told(report.status, report.text, error, answer.model_attempts, report.tool_calls, report.degraded, took_s)
