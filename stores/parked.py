"""The parked parts of answers in SQLite: what a tool that was away still has to say.  (floor 4)

What is parked and how it is asked for again is in `core/later.py`, how a row is kept in `shelf.py`.
A try is counted before it begins, so that one that ends the program is counted too.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from core.later import Parked
from errors import ConfigurationError
from messages import values_of
from stores.shelf import OPEN, Item, Shelf

PARKED_MAX = 50
"""Parked parts kept. Nobody waits for more than a few."""

SHELF = Shelf("parked", PARKED_MAX)
_KEY = ("session_id", "turn_id", "number")


def park(connection: sqlite3.Connection, parked: Parked) -> Parked:
    """Keep what is missing; a turn has one such row at most, whatever became of it."""
    known = SHELF.of_turn(connection, parked.session_id, parked.turn_id)
    return _parked(known or SHELF.put(connection, parked.session_id, parked.turn_id, _item(parked).body)[0])


def take(connection: sqlite3.Connection, number: int, session_id: str, filling: str) -> Parked:
    """Count a try of this one, in this session and turn. Raises ConfigurationError when it is not there."""
    found = find(connection, number)
    taken = replace(found, session_id=session_id, tries=found.tries + 1, filling=filling)
    SHELF.keep(connection, _item(taken))
    return taken


def settle(connection: sqlite3.Connection, number: int, state: str) -> None:
    """Close it, as `answered` or `dropped`. Raises ConfigurationError when it is not there."""
    SHELF.keep(connection, replace(_item(find(connection, number)), state=state))


def find(connection: sqlite3.Connection, number: int) -> Parked:
    """The open one with this number. Raises ConfigurationError when there is none."""
    item = SHELF.find(connection, number)
    if item is None:
        raise ConfigurationError(f"nothing is parked as {number}", what_now="/later lists what is.")
    return _parked(item)


def listing(connection: sqlite3.Connection) -> list[Parked]:
    """All that is parked, the newest first."""
    return [_parked(item) for item in SHELF.listing(connection)[0]]


def _item(parked: Parked) -> Item:
    body = {name: value for name, value in values_of(parked).items() if name not in _KEY}
    return Item(parked.number, parked.session_id, parked.turn_id, OPEN, {**body, "tools": list(parked.tools)})


def _parked(item: Item) -> Parked:
    body = {**item.body, "tools": tuple(item.body["tools"])}
    return Parked(session_id=item.session_id, turn_id=item.turn_id, number=item.number, **body)
