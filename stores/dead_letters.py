"""The dead letters in SQLite: questions that failed for good, with what it takes to mend them.  (floor 4)

What belongs here is decided in `core/letters.py`, how a row is kept in `shelf.py`. A letter that is
asked again and fails again keeps its number and counts the tries; one that is answered, or dropped,
is settled.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, replace

from core.letters import Letter
from errors import ConfigurationError
from messages import values_of
from stores.shelf import OPEN, Item, Shelf

LETTERS_MAX = 200
"""Dead letters kept. Somebody who has not looked at two hundred of them will not miss the oldest."""

SHELF = Shelf("dead_letters", LETTERS_MAX)
_KEY = ("session_id", "turn_id", "number")


@dataclass(frozen=True, slots=True)
class Buried:
    """What became of a letter: its number, whether it is new here, and how many old ones had to go for it."""

    number: int
    is_new: bool
    dropped: int = 0


def bury(connection: sqlite3.Connection, letter: Letter, again: int | None = None) -> Buried:
    """Keep a letter; one of a turn that has one already is the same.

    Args:
        again: the number of the letter whose question this was; its row is written anew.
    """
    known = SHELF.find(connection, again) if again is not None else None
    if known is not None:
        letter = replace(letter, tries=_letter(known).tries + 1, number=known.number)
        SHELF.keep(connection, _item(letter))
        return Buried(known.number, is_new=True)
    before = SHELF.of_turn(connection, letter.session_id, letter.turn_id)
    if before is not None:
        return Buried(before.number, is_new=False)
    item, dropped = SHELF.put(connection, letter.session_id, letter.turn_id, _item(letter).body)
    return Buried(item.number, is_new=True, dropped=dropped)


def settle(connection: sqlite3.Connection, number: int, state: str) -> None:
    """Close a letter, as `answered` or `dropped`. Raises ConfigurationError when there is no such letter."""
    SHELF.keep(connection, replace(_item(find(connection, number)), state=state))


def find(connection: sqlite3.Connection, number: int) -> Letter:
    """The letter with this number. Raises ConfigurationError when there is none."""
    item = SHELF.find(connection, number)
    if item is None:
        raise ConfigurationError(f"there is no dead letter {number}", what_now="/deadletters lists them.")
    return _letter(item)


def listing(connection: sqlite3.Connection) -> tuple[list[Letter], int]:
    """The letters nobody has seen to yet, the newest first, and how many are damaged."""
    items, damaged = SHELF.listing(connection)
    return [_letter(item) for item in items], damaged


def _item(letter: Letter) -> Item:
    body = {name: value for name, value in values_of(letter).items() if name not in _KEY}
    return Item(letter.number, letter.session_id, letter.turn_id, OPEN, {**body, "calls": list(letter.calls)})


def _letter(item: Item) -> Letter:
    body = {**item.body, "calls": tuple(item.body["calls"])}
    return Letter(session_id=item.session_id, turn_id=item.turn_id, number=item.number, **body)
