"""The record of every tool call in SQLite: that it was about to run, and how it ended.  (floor 4)

One row a call, keyed by session, turn and call id, with the hash of tool and input beside it. The
row is written before the call begins; its outcome is added when the call ended. What follows from
a row after a crash is decided in `core/journal.py`. Rows are never removed: they are the only
witness of effects whose question was forgotten.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from core.journal import Conflict, Intent, Recorded, RecordIntents, RecordOutcome
from messages import CallResult, result_from_json, result_to_json
from safe_text import encodable, masked, one_line
from stores.sqlite_file import row_sum

SCHEMA = """
CREATE TABLE calls (
    session TEXT NOT NULL, turn TEXT NOT NULL, call TEXT NOT NULL,
    tool TEXT NOT NULL, digest TEXT NOT NULL, approved INTEGER NOT NULL,
    status TEXT,    -- NULL until it ended
    result TEXT,
    sum BLOB NOT NULL,
    PRIMARY KEY (session, turn, call)
)
"""
_KEY = "session = ? AND turn = ? AND call = ?"
_ROW = f"SELECT tool, digest, approved, status, result FROM calls WHERE {_KEY}"
_BEGIN = """
INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET approved = excluded.approved, sum = excluded.sum
"""
_END = f"UPDATE calls SET status = ?, result = ?, sum = ? WHERE {_KEY}"


def intend(connection: sqlite3.Connection, effect: RecordIntents) -> None:
    """Record that these calls are about to run.

    Raises:
        Conflict: one of the ids stands for another call, or for one that has ended.
    """
    for intent in effect.intents:
        key = (effect.session_id, effect.turn_id, encodable(intent.call_id))
        found = connection.execute(_ROW, key).fetchone()
        if found and (found[1] != intent.digest or found[3] is not None):
            raise Conflict(f"the id {one_line(intent.call_id, 60)} stands for another call, or one that has ended")
        row = (*key, encodable(intent.tool), intent.digest, int(intent.approved), None, None)
        connection.execute(_BEGIN, (*row, row_sum(*row)))


def settle(connection: sqlite3.Connection, effect: RecordOutcome) -> None:
    """Record how a call ended. One that is not on record gets no row: it was told so before it ran."""
    result = effect.result
    key = (effect.session_id, effect.turn_id, encodable(result.call.id))
    found = connection.execute(_ROW, key).fetchone()
    if found:
        text = json.dumps(masked(result_to_json(result)))
        row = (*key, *found[:3], result.status, text)
        connection.execute(_END, (result.status, text, row_sum(*row), *key))


def recorded(connection: sqlite3.Connection, session_id: str, turn_id: str) -> tuple[dict[str, Recorded], int]:
    """What is on record of one turn's calls, by call id, and how many rows were damaged.

    A damaged row still shows that its call began: it counts as one that was never heard of again.
    """
    rows = connection.execute("SELECT * FROM calls WHERE session = ? AND turn = ?", (session_id, turn_id))
    known: dict[str, Recorded] = {}
    damaged = 0
    for row in rows:
        one = _read(row)
        damaged += one is None
        known[str(row[2])] = one or Recorded(Intent(str(row[2]), "", "", approved=False))
    return known, damaged


def settle_for(connection: sqlite3.Connection, session_id: str, turn_id: str) -> None:
    """Let each damaged row of a turn say all that can be believed of it: that its call began."""
    rows = connection.execute("SELECT * FROM calls WHERE session = ? AND turn = ?", (session_id, turn_id)).fetchall()
    for row in rows:
        if _read(row) is None:
            began = (*row[:3], "", "", 0, None, None)
            connection.execute(
                "INSERT OR REPLACE INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*began, row_sum(*began))
            )


def _read(row: tuple[Any, ...]) -> Recorded | None:
    *values, found = row
    if row_sum(*values) != found:
        return None
    _, _, call_id, tool, digest, approved, _, text = values
    result: CallResult | None = result_from_json(json.loads(text)) if text else None
    return Recorded(Intent(call_id, tool, digest, bool(approved)), result)
