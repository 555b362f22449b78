"""Shows the dead letters, asks one again, or throws one away.  (floor 6)

    /deadletters            all of them, the newest first
    /deadletters N          one, with what it takes to mend it
    /deadletters retry N    asks its question again, in this session; an answer settles it
    /deadletters drop N     settles it without an answer

What a dead letter is, and when one is written, is decided in `core/letters.py`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from core.letters import Letter
from errors import ConfigurationError
from safe_text import MASK, one_line
from ui.command import CommandResult, Work, counted, number_in
from ui.sessions import age_of

LISTED = 20
QUESTION_CHARS = 60


def deadletters(agent: Any, argument: str) -> CommandResult:
    """Do what the line says. Raises ConfigurationError for one that says nothing known."""
    words = argument.split()
    letters = agent.aftermath
    match words:
        case []:
            return _work(agent, letters.listing, partial(_listed, agent))
        case ["retry" | "drop" as what, number]:
            found = number_in(number, "/deadletters lists them")
            if what == "retry":
                return _work(agent, partial(letters.asking_again, found), partial(_asked_again, agent))
            gone = CommandResult(f"Dead letter {found} is dropped.")
            return _work(agent, partial(letters.settling, found, "dropped"), lambda _: gone)
        case [number]:
            found = number_in(number, "/deadletters lists them")
            return _work(agent, partial(letters.finding, found), partial(_shown, agent))
    raise ConfigurationError("/deadletters: allowed is nothing, N, retry N, or drop N")


def _work(agent: Any, flow: Any, tell: Any) -> CommandResult:
    return CommandResult(work=Work(lambda: agent.perform(flow()), tell))


def _listed(agent: Any, found: tuple[list[Letter], int]) -> CommandResult:
    letters, damaged = found
    broken = [f"! {counted(damaged, 'dead letter')} cannot be read any more"] if damaged else []
    if not letters:
        return CommandResult("\n".join([*broken, "There are no dead letters."]))
    rows = [_row(agent, letter) for letter in letters[:LISTED]]
    more = [f"… and {len(letters) - LISTED:,} older ones"] if len(letters) > LISTED else []
    ways = "/deadletters N shows one, /deadletters retry N asks it again, /deadletters drop N forgets it."
    return CommandResult("\n".join([*broken, *rows, *more, ways]))


def _row(agent: Any, letter: Letter) -> str:
    age = age_of(agent.world.wall() - letter.when_s)
    tries = f"  ({letter.tries} tries)" if letter.tries > 1 else ""
    return f"{letter.number:>4}  {age:<10}  {letter.error_type:<20}  {one_line(letter.question, QUESTION_CHARS)}{tries}"


def _shown(agent: Any, letter: Letter) -> CommandResult:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter.when_s))
    rows = [
        ("question", one_line(letter.question, 400)),
        ("failed", f"{letter.error_type} ({letter.error_kind}): {letter.message}"),
        ("what now", letter.what_now),
        ("when", f"{when}, {age_of(agent.world.wall() - letter.when_s)}"),
        ("asked", counted(letter.tries, "time")),
        ("last time", f"{counted(letter.attempts, 'try')} on models; tools: {', '.join(letter.calls) or 'none'}"),
        ("session", letter.session_id),
        ("trace", letter.trace_id),
        ("program", letter.program),
    ]
    lines = [f"{name:<10} {text}" for name, text in rows if text]
    return CommandResult("\n".join([f"dead letter {letter.number}", *lines]))


def _asked_again(agent: Any, letter: Letter) -> CommandResult:
    lost = f" (what was secret in it was not kept: it says {MASK} there)" if MASK in letter.question else ""
    said = f"asking again: {one_line(letter.question, 120)}{lost}"
    return CommandResult(said, letter.question, partial(agent.ask, letter.question, errand=letter))
