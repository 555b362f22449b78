"""How each tool would lie: the false answers that faults tell, so that the checks can be watched.  (floor 4)

    wrong     a value that is not so            stale    what was true two days ago
    swapped   the answer to another question    noop     success is reported, and nothing was done

A service lies in what it sends: its reply is bent on the way in, and all that reads, checks and words it
is as always. A tool of our own lies in what its attempt answers. Each lie is made to be found out; the
checks that do so stand with the tools, are always on, and know nothing of this file.

What this does not do: decide when to lie (`faults.py`), or lie where there is nothing to lie about: an
attempt that fails, or finds nothing, stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, TypeVar

from fault_injection import Lie, Telling
from flow import Fetch, Flow, HttpReply
from toolbox.note_file import Note

T = TypeVar("T")

Json = dict[str, Any]
STALE = timedelta(days=2)


def on_the_wire(bend: Callable[[Json], Json | None]) -> Lie[T]:
    """A lie of a service: each JSON object it sends is bent by `bend`, which answers None to leave it."""

    def lie(flow: Flow[T], telling: Telling) -> Flow[T]:
        answer: Any = None
        error: Exception | None = None
        try:
            while True:
                effect = flow.throw(error) if error is not None else flow.send(answer)
                answer = error = None
                try:
                    answer = yield effect
                except Exception as raised:  # the world's refusal goes to the flow that asked
                    error = raised
                if isinstance(effect, Fetch) and (bent := _bent(answer, bend)) is not None:
                    yield from telling()
                    answer = bent
        except StopIteration as end:
            result: T = end.value
            return result

    return lie


def _bent(reply: object, bend: Callable[[Json], Json | None]) -> HttpReply | None:
    if not isinstance(reply, HttpReply) or reply.status != 200:
        return None
    try:
        found = json.loads(reply.body)
        bent = bend(found) if isinstance(found, dict) else None
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError):
        return None  # rubbish already, there is nothing to bend
    return None if bent is None else replace(reply, body=json.dumps(bent).encode())


def in_the_answer(bend: Callable[[T], T | None]) -> Lie[T]:
    """A lie of a tool of our own: what its attempt answers is bent, or left where `bend` answers None."""

    def lie(flow: Flow[T], telling: Telling) -> Flow[T]:
        answer = yield from flow
        bent = bend(answer)
        if bent is None:
            return answer
        yield from telling()
        return bent

    return lie


def without_doing(answer: T) -> Lie[T]:
    """The lie of a tool that reports success and did nothing."""

    def lie(flow: Flow[T], telling: Telling) -> Flow[T]:
        yield from telling()
        return answer

    return lie


# --- the weather -----------------------------------------------------------------------------------------


def _wrong_weather(found: Json) -> Json | None:
    """A temperature that can be on Earth, but not within this day; where the day is not told, one that cannot."""
    if "current" not in found:
        return None
    current: Json = found["current"]
    wrong = current["temperature_2m"] - 60 if found.get("daily") else 999
    return {**found, "current": {**current, "temperature_2m": wrong}}


def _stale_weather(found: Json) -> Json | None:
    if "current" not in found:
        return None
    current, daily = found["current"], found.get("daily") or {}
    old = {**found, "current": {**current, "time": _earlier(current["time"])}}
    return {**old, "daily": {**daily, "time": [_earlier(day) for day in daily.get("time", ())]}}


def _earlier(time: str) -> str:
    return (datetime.fromisoformat(time) - STALE).isoformat()[: len(time)]


def _swapped_weather(found: Json) -> Json | None:
    """The forecast of a place far from the one that was asked for."""
    if "current" not in found:
        return None
    latitude: float = found["latitude"]
    return {**found, "latitude": latitude - 20 if latitude > 0 else latitude + 20}


WEATHER: Mapping[str, Callable[[Json], Json | None]] = {
    "wrong": _wrong_weather,
    "stale": _stale_weather,
    "swapped": _swapped_weather,
}
"""What Open-Meteo can lie about."""


# --- searching -------------------------------------------------------------------------------------------

_ELSEWHERE = (
    ("How to keep a sourdough starter", "Feed it with flour and water each day, and leave the lid ajar."),
    ("Why bread needs salt", "Salt tightens gluten and slows the yeast; two parts in a hundred are usual."),
)


def other_results(found: Json) -> Json | None:
    """What the provider has on something else."""
    if isinstance(web := found.get("web"), dict):  # Brave keeps them a floor deeper
        inside = other_results(web)
        return None if inside is None else {**found, "web": inside}
    name = "pages" if "pages" in found else "results"
    entries = found.get(name)
    if not entries:
        return None
    return {**found, name: [_other_result(at, entry) for at, entry in enumerate(entries[: len(_ELSEWHERE)])]}


def _other_result(at: int, entry: Json) -> Json:
    title, text = _ELSEWHERE[at]
    said = dict.fromkeys(("content", "description", "excerpt"), text)
    told = {**said, "title": title, "key": title.replace(" ", "_"), "url": f"https://bread.example/{at}"}
    return {**entry, **{name: value for name, value in told.items() if name in entry}}


# --- notes ------------------------------------------------------------------------------------------------


OTHER_NOTE = Note("The spare key is under the third flower pot.")
"""What stands in for notes on something else."""


def changed_note(note: Note) -> Note:
    """Another text in which the words of the note still are."""
    return replace(note, content=f"{note.content}\nor not")


# --- numbers ---------------------------------------------------------------------------------------------


def wrong_number(value: int | Fraction | float) -> int | Fraction | float:
    """Another number of the same kind."""
    return (value / 2 or 1.0) if isinstance(value, float) else value + 1
