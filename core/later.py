"""Says what an answer lacked, and how the missing part is asked for once it can be had.  (floor 3)

An optional tool that could not answer leaves its part of the answer open. A person may park that part:
then it is asked for again when the tool works again, with the question as it was and the word that only
the missing part is wanted. That turn is given the missing tools and no others, so nothing that was
done before can be done twice, whatever the model makes of the question.

Each parked part is tried a few times, with growing pauses, and then left to `/later now`. What this
does not do: know when a tool works again (`later.py`), or keep anything (`stores/parked.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from core.report import TurnReport

TRIES_MAX = 5
"""Tries by itself. With the pauses below they end after eight minutes; longer outages end with `/later now`."""

FIRST_WAIT_S, WAIT_GROWTH = 15.0, 2.0
"""The pause before a try; each one is twice the one before, so that a tool that keeps failing is left in peace."""

QUESTION_CHARS_MAX = 20_000
"""A longer question cannot be parked: it would be kept twice, and sent twice."""


@dataclass(frozen=True, slots=True)
class Parked:
    """The missing part of an answer.

    Args:
        session_id, turn_id: of the answer.
        question: what was asked, without secrets.
        tools: which tools could not answer.
        when_s: when it was parked, wall clock in seconds.
        tries: how often it was tried since.
        filling: the turn that tried last, "" for none.
        number: its place among the parked; 0 before it has one.
    """

    session_id: str
    turn_id: str
    question: str
    tools: tuple[str, ...]
    when_s: float
    tries: int = 0
    filling: str = ""
    number: int = 0

    @property
    def wait_s(self) -> float:
        """The pause before the next try."""
        return FIRST_WAIT_S * WAIT_GROWTH**self.tries


def missing_in(report: TurnReport) -> tuple[str, ...]:
    """The tools whose part is missing in an answer, or came from the cache; () when nothing can be filled in."""
    if report.status != "degraded":
        return ()
    names = [one.call.name for one in report.tool_calls if one.status == "degraded"]
    return tuple(dict.fromkeys(names))


def question_of(parked: Parked) -> str:
    """What the model is asked to fill in the missing part."""
    names = " and ".join(parked.tools)
    work = "works" if len(parked.tools) == 1 else "work"
    return (
        f"{parked.question}\n\n"
        f"[This was asked and answered before, but {names} could not answer then. {names} {work} again: call it now "
        "and give only the part that was missing. Everything else was answered and done already.]"
    )
