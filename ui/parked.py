"""Parks the part of an answer that is missing, and lets it be filled in.  (floor 6)

    /later            parks what the last answer lacks; where it lacks nothing, lists what is parked
    /later now [N]    fills one in now, whatever its tool is like; without N the newest
    /later drop N     forgets one

While nothing is being typed the chat fills in what is due by itself (`due`). What is parked, and when
it is due, is decided in `later.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from core.later import TRIES_MAX, Parked, question_of
from errors import ConfigurationError
from flow import Flow
from safe_text import one_line
from ui.command import CommandResult, Work, counted, number_in
from ui.sessions import age_of

QUESTION_CHARS = 60


def later(agent: Any, argument: str) -> CommandResult:
    """Do what the line says. Raises ConfigurationError for one that says nothing known."""
    parts, where = agent.aftermath.later, "/later lists what is parked"
    match argument.split():
        case [] if parts.offer is not None:
            return _work(agent, parts.parking, _parked)
        case []:
            return _work(agent, parts.listing, partial(_listed, agent))
        case ["now"]:
            return _work(agent, parts.listing, partial(_newest, agent))
        case ["now", number]:
            return _work(agent, partial(parts.finding, number_in(number, where)), partial(filling, agent))
        case ["drop", number]:
            found = number_in(number, where)
            gone = CommandResult(f"{found} is no longer parked.")
            return _work(agent, partial(parts.settling, found, "dropped"), lambda _: gone)
    raise ConfigurationError("/later: allowed is nothing, now, now N, or drop N")


def offer_words(parked: Parked) -> str:
    """What a degraded answer offers."""
    return f"· {_names(parked)} could not answer: /later fills that in when {_it_works(parked)} again"


def due(agent: Any) -> CommandResult:
    """What can be filled in now, if anything."""
    parked = agent.aftermath.later.take_due() if agent.unfinished is None else None
    return filling(agent, parked) if parked is not None else CommandResult()


def filling(agent: Any, parked: Parked) -> CommandResult:
    """Fill in one of them, in this session."""
    said = f"↻ asking {_names(parked)} once more for: {one_line(parked.question, QUESTION_CHARS)}"
    return CommandResult(said, parked.question, partial(agent.ask, question_of(parked), errand=parked))


def waiting(agent: Any) -> Flow[list[tuple[str, str]]]:
    """What there is to say at the start about what is parked. Raises AgentError."""
    parts = agent.aftermath.later
    here = yield from parts.loading(agent.session_id)
    elsewhere = len((yield from parts.listing())) - here
    told = []
    if here:
        told.append((f"· {counted(here, 'missing part')} of answers here will be filled in", "dim"))
    if elsewhere:
        what = counted(elsewhere, "missing part")
        told.append((f"· {what} of earlier answers parked: /later lists, /later now asks", "dim"))
    return told


def _work(agent: Any, flow: Any, tell: Any) -> CommandResult:
    return CommandResult(work=Work(lambda: agent.perform(flow()), tell))


def _parked(parked: Parked) -> CommandResult:
    when = f"It is filled in when {_it_works(parked)} again and nothing is being typed"
    what = f"{_names(parked)} for: {one_line(parked.question, QUESTION_CHARS)}"
    return CommandResult(f"Parked as {parked.number}: {what}\n{when}; /later now asks at once.")


def _newest(agent: Any, found: list[Parked]) -> CommandResult:
    return filling(agent, found[0]) if found else CommandResult("Nothing is parked.")


def _listed(agent: Any, found: list[Parked]) -> CommandResult:
    if not found:
        return CommandResult("Nothing is parked, and the last answer lacks nothing that could be filled in.")
    rows = [_row(agent, one) for one in found]
    return CommandResult("\n".join([*rows, "/later now N asks at once, /later drop N forgets it."]))


def _row(agent: Any, one: Parked) -> str:
    age = age_of(agent.world.wall() - one.when_s)
    marks = [counted(one.tries, "try") + " so far"] if one.tries else []
    if one.tries >= TRIES_MAX:
        marks.append("not tried by itself any more")
    if one.session_id != agent.session_id:
        marks.append(f"of the session {one.session_id}")
    told = f"  ({', '.join(marks)})" if marks else ""
    return f"{one.number:>4}  {age:<10}  {_names(one)}: {one_line(one.question, QUESTION_CHARS)}{told}"


def _names(parked: Parked) -> str:
    return " and ".join(one_line(name, 40) for name in parked.tools)


def _it_works(parked: Parked) -> str:
    return "it works" if len(parked.tools) == 1 else "they work"
