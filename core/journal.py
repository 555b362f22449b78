"""Keeps every step of a question, so that a crash costs none of them and none is done twice.  (floor 3)

    the model has answered -> Checkpoint -> approvals -> RecordIntents -> the calls run,
    each with RecordOutcome at its end -> Checkpoint -> ask the model again ... -> Checkpoint (ended)

A call has a record before it begins and another when it ended. After a crash the question is
taken up at its last checkpoint, and what the record says of a call decides what becomes of it:

    done                 its answer stands; it is not run again
    begun, and a look    it is there: done. It is not: it runs. (a tool that reads just runs again)
    begun, and no look   the outcome is unknown, and that is said
    with another input   a conflict: the old answer would be a wrong one

The effects here are answered with what went wrong, in words, or with "". They never raise: an
answer is worth more than its record. Only a call that writes does not run without one. What this
does not do: know files or tables (`stores/`), or make the effect of a foreign tool atomic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from deadline import Deadline
from errors import AgentError
from flow import Effect, Flow
from messages import CallResult, Json, Message
from safe_text import one_line
from tools import Prepared, failed_result, looked, unknown_result

WRITE_S_MAX = 2.0
"""How long one record may take. A commit takes milliseconds; a disk that needs longer than this has stopped."""

LAST_WRITE_S = 0.1
"""How long the last record may take when the question's time is over already."""


class Conflict(AgentError):
    """An id that stands for one thing was used for another: the old answer would be a wrong one."""

    reason = "conflict"


@dataclass(frozen=True, slots=True)
class Checkpoint(Effect):
    """Keep the history as it stands, and how far the question has come. Sent "", or what went wrong.

    Args:
        session_id, turn_id: whose.
        messages: the whole history; of an open question with what it added so far.
        limit_s: how long this may take.
        question: what was asked.
        state: what it takes to go on from here; None when the question has ended.
        status: how it ended; "" while it is open.
        task_id: the task this question is, "" for none.
        report: the answer of the task, once there is one.
    """

    session_id: str
    turn_id: str
    messages: tuple[Message, ...]
    limit_s: float
    question: str = ""
    state: Json | None = None
    status: str = ""
    task_id: str = ""
    report: Json | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """One call that is about to run: `digest` is the hash of its tool and input."""

    call_id: str
    tool: str
    digest: str
    approved: bool


@dataclass(frozen=True, slots=True)
class RecordIntents(Effect):
    """Keep that these calls are about to run. Sent "", or what went wrong."""

    session_id: str
    turn_id: str
    intents: tuple[Intent, ...]
    limit_s: float


@dataclass(frozen=True, slots=True)
class RecordOutcome(Effect):
    """Keep how a call ended. Sent "", or what went wrong."""

    session_id: str
    turn_id: str
    result: CallResult
    limit_s: float


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is on record of one call; `result` is None when it began and was never heard of again."""

    intent: Intent
    result: CallResult | None = None


def write_s(deadline: Deadline, now_s: float) -> float:
    """How long one record may take in a question that ends then: a disk that hangs leaves time for the answer."""
    return min(WRITE_S_MAX, deadline.left_s(now_s) / 2)


def recall(batch: Sequence[Prepared], recorded: Mapping[str, Recorded]) -> list[Prepared]:
    """Give calls that are on record the result they had; returns those whose outcome only a look can tell.

    Those have the result "unknown" until then: a question that is stopped right now must not say
    that nothing was done.
    """
    doubtful = []
    for one in batch:
        known = recorded.get(one.call.id)
        if known is None:
            continue
        # An input that held a secret is not stored, a damaged record has no hash: then there is nothing to compare.
        readable = one.call.problem is None
        if readable and known.intent.digest not in ("", one.digest):
            one.result = failed_result(one, Conflict(f"the id {one_line(one.call.id, 60)} stands for another call"))
        elif known.result is not None:
            one.result = replace(known.result, call=one.call)
        elif one.tool is not None and one.tool.writes:
            one.result = unknown_result(one, "the program ended while it ran")
            if readable:
                doubtful.append(one)
    return doubtful


def reconciling(doubtful: Sequence[Prepared]) -> Flow[None]:
    """Look at what calls that began before a crash have left. What is not there will run (again)."""
    for one in doubtful:
        found = yield from looked(one)
        if found and one.tool is not None:
            said = (
                one.tool.said(one.call.input) if one.tool.said else "Done: a look after a crash shows that it is there."
            )
            one.result = CallResult(one.call, "ok", said, source="looked after a crash", wrote=True)
        elif found is not None:
            one.result = None


def intending(
    session_id: str, turn_id: str, batch: Sequence[Prepared], limit_s: float, problem: str = ""
) -> Flow[None]:
    """Put the calls that are about to run on record; one that writes and cannot be recorded does not run.

    Args:
        session_id, turn_id: whose calls.
        batch: the calls.
        limit_s: how long that may take.
        problem: why already what the model asked for could not be kept: then no record of ours would
            be found again.
    """
    about_to_run = [one for one in batch if one.result is None]
    if not about_to_run:
        return
    if not problem:
        intents = [Intent(one.call.id, one.call.name, one.digest, one.approved is not None) for one in about_to_run]
        problem = yield RecordIntents(session_id, turn_id, tuple(intents), limit_s)
    for one in about_to_run:
        if problem and one.tool is not None and one.tool.writes:
            words = f"not run: it could not be recorded ({problem})"
            one.result = failed_result(one, AgentError(words, reason="disk"))


def recording(session_id: str, turn_id: str, result: CallResult, limit_s: float) -> Flow[None]:
    """Put on record how a call ended."""
    yield RecordOutcome(session_id, turn_id, result, limit_s)
