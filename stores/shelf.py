"""Keeps questions that were put aside, each with a number a person can name.  (floor 4)

A shelf is one table of the sessions file: the dead letters are one, the answers that are filled in
later another. A row is `open` until it is settled, by whatever word; it then stays for a while as the
witness that this question was put here already. As everywhere in that file a row ends in a checksum,
and one that does not fit it is not believed, only counted.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from messages import Json
from safe_text import encodable, masked
from stores.sqlite_file import row_sum

OPEN = "open"


@dataclass(frozen=True, slots=True)
class Item:
    """One row: `body` is the rest of it, as plain values."""

    number: int
    session_id: str
    turn_id: str
    state: str
    body: Json


class Shelf:
    """One table. Its methods work inside the transaction of the connection they are given.

    Args:
        table: its name.
        items_max: rows kept; settled ones go first, then the oldest.
    """

    def __init__(self, table: str, items_max: int) -> None:
        self._table, self._items_max = table, items_max
        self.schema = (
            f"CREATE TABLE {table} (number INTEGER PRIMARY KEY, session TEXT NOT NULL, turn TEXT NOT NULL, "
            f"state TEXT NOT NULL, body TEXT NOT NULL, sum BLOB NOT NULL, UNIQUE (session, turn))"
        )

    def put(self, connection: sqlite3.Connection, session_id: str, turn_id: str, body: Json) -> tuple[Item, int]:
        """Add a row for a turn that has none; and how many open ones had to go for it."""
        number = int(connection.execute(f"SELECT coalesce(max(number), 0) + 1 FROM {self._table}").fetchone()[0])
        item = self.keep(connection, Item(number, session_id, turn_id, OPEN, body))
        return item, self._trim(connection)

    def of_turn(self, connection: sqlite3.Connection, session_id: str, turn_id: str) -> Item | None:
        """The row of this turn, settled or not; None where there is none to be believed."""
        key = (encodable(session_id), encodable(turn_id))
        row = connection.execute(f"SELECT * FROM {self._table} WHERE session = ? AND turn = ?", key).fetchone()
        return _item(row) if row else None

    def keep(self, connection: sqlite3.Connection, item: Item) -> Item:
        """Write a row anew, with its secrets masked."""
        text = json.dumps(masked(item.body))
        row = (item.number, encodable(item.session_id), encodable(item.turn_id), item.state, text)
        connection.execute(f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?, ?, ?, ?, ?)", (*row, row_sum(*row)))
        return item

    def find(self, connection: sqlite3.Connection, number: int) -> Item | None:
        """The open row with this number, if it is there and can be believed."""
        row = connection.execute(f"SELECT * FROM {self._table} WHERE number = ?", (number,)).fetchone()
        item = _item(row) if row else None
        return item if item is not None and item.state == OPEN else None

    def listing(self, connection: sqlite3.Connection) -> tuple[list[Item], int]:
        """The open rows, the newest first, and how many rows are damaged."""
        rows = connection.execute(f"SELECT * FROM {self._table} ORDER BY number DESC").fetchall()
        items = [_item(row) for row in rows]
        whole = [item for item in items if item is not None]
        return [item for item in whole if item.state == OPEN], len(items) - len(whole)

    def _trim(self, connection: sqlite3.Connection) -> int:
        over = int(connection.execute(f"SELECT count(*) FROM {self._table}").fetchone()[0]) - self._items_max
        if over <= 0:
            return 0
        rows = connection.execute(
            f"SELECT number, state FROM {self._table} ORDER BY state = ?, number LIMIT ?", (OPEN, over)
        ).fetchall()
        connection.executemany(f"DELETE FROM {self._table} WHERE number = ?", [(number,) for number, _ in rows])
        return sum(state == OPEN for _, state in rows)


def _item(row: tuple[Any, ...]) -> Item | None:
    """The row, if it fits its checksum."""
    if row_sum(*row[:-1]) != row[-1]:
        return None
    number, session_id, turn_id, state, body, _ = row
    return Item(number, session_id, turn_id, state, json.loads(body))
