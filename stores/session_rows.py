"""What a session is in SQLite: its rows, how they are written, and how much of them can be believed.  (floor 4)

    sessions   one row each: name, times, how many messages it has, and the number of its last change
    messages   the history, one row a message
    turns      the questions; `state` is what it takes to go on with one that has not ended
    tasks      the answers that programs can ask for again

Every row ends in a checksum over all of it. A row that does not fit its checksum is not used, and
nothing after it: half a history that reads like a whole one would be worse than its beginning.
Secrets are masked before anything is written.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from core.journal import Checkpoint
from core.resume import CutOff
from messages import Json, Message, message_from_json, message_to_json
from safe_text import encodable, mask, masked, one_line
from stores import journal
from stores.sqlite_file import row_sum

SCHEMA = """
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, created_s REAL NOT NULL, changed_s REAL NOT NULL,
    change INTEGER NOT NULL, messages INTEGER NOT NULL, sum BLOB NOT NULL
);
CREATE INDEX sessions_latest ON sessions (change);
CREATE TABLE messages (
    session TEXT NOT NULL, position INTEGER NOT NULL, body TEXT NOT NULL, sum BLOB NOT NULL,
    PRIMARY KEY (session, position)
);
CREATE TABLE turns (
    session TEXT NOT NULL, id TEXT NOT NULL, question TEXT NOT NULL, started_s REAL NOT NULL,
    status TEXT NOT NULL,    -- '' while it is open
    state TEXT, sum BLOB NOT NULL,
    PRIMARY KEY (session, id)
);
CREATE INDEX turns_open ON turns (session) WHERE status = '';
CREATE TABLE tasks (
    id TEXT PRIMARY KEY, question TEXT NOT NULL, session TEXT NOT NULL, report TEXT, sum BLOB NOT NULL
)
"""
TITLE_CHARS_MAX = 80
_CHANGE = "SELECT coalesce(max(change), 0) + 1 FROM sessions"
_SESSION = "SELECT * FROM sessions WHERE id = ?"
_LATEST = """
SELECT EXISTS (SELECT 1 FROM turns WHERE session = sessions.id AND status = '') AS cut, sessions.*
FROM sessions WHERE messages > 0 OR cut ORDER BY change DESC LIMIT ?
"""
_OPEN_TURNS = "SELECT * FROM turns WHERE session = ? AND status = ''"


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session in a list.

    Args:
        title: its first question, shortened.
        messages: how many its history has.
        changed_s: when it was last used, wall clock in seconds.
        cut_off: a question in it never ended.
        in_use: a living process has it open.
    """

    id: str
    title: str
    messages: int
    changed_s: float
    cut_off: bool = False
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What was read of one session; `damage` says what was lost, "" for nothing."""

    messages: tuple[Message, ...]
    cut: CutOff | None
    damage: str


@dataclass(frozen=True, slots=True)
class Task:
    """What is on record of a task.

    Args:
        question: the hash of what was asked.
        session_id: where it was given to.
        report: its answer, if it has one.
    """

    question: str
    session_id: str
    report: Json | None = None


# --- writing ---------------------------------------------------------------------------------------------


def keep(connection: sqlite3.Connection, effect: Checkpoint, written: tuple[Message, ...], wall_s: float) -> int:
    """Write one checkpoint; the number of the change.

    Args:
        written: the history as it stands in the file: only what differs from it is written.
        wall_s: the wall clock.
    """
    _keep_messages(connection, effect, written)
    for row in connection.execute(_OPEN_TURNS, (effect.session_id,)).fetchall():
        if row[1] != effect.turn_id:
            _put_turn(connection, (*row[:4], "dropped", None))
    _keep_turn(connection, effect, wall_s)
    if effect.report is not None:
        task = find_task(connection, effect.task_id)
        if task is not None:
            put_task(connection, effect.task_id, Task(task.question, effect.session_id, effect.report))
    return _keep_session(connection, effect, wall_s)


def touch(connection: sqlite3.Connection, session_id: str, wall_s: float) -> int:
    """Count a change of a session that is there; the number of the change."""
    found = connection.execute(_SESSION, (session_id,)).fetchone()
    return _put_session(connection, (*found[:3], wall_s, found[5])) if found else 0


def lose(connection: sqlite3.Connection, session_id: str) -> None:
    """Give up the open question of a session whose last steps are lost: nobody knows what it did in them."""
    for row in connection.execute(_OPEN_TURNS, (session_id,)).fetchall():
        _put_turn(connection, (*row[:4], "lost", None))


def settle_for(connection: sqlite3.Connection, session_id: str, found: Found, wall_s: float) -> None:
    """Let what can be believed of a damaged session be all there is of it, once that was told."""
    connection.execute("DELETE FROM messages WHERE session = ? AND position >= ?", (session_id, len(found.messages)))
    if found.cut is None:
        lose(connection, session_id)
    else:
        journal.settle_for(connection, session_id, found.cut.id)
    row = connection.execute(_SESSION, (session_id,)).fetchone()
    if _is_whole(row):
        _put_row(connection, (*row[:5], len(found.messages)))
    else:
        _put_session(connection, (session_id, "(damaged)", wall_s, wall_s, len(found.messages)))


def _keep_messages(connection: sqlite3.Connection, effect: Checkpoint, written: tuple[Message, ...]) -> None:
    same = 0
    while same < min(len(written), len(effect.messages)) and written[same] is effect.messages[same]:
        same += 1
    connection.execute("DELETE FROM messages WHERE session = ? AND position >= ?", (effect.session_id, same))
    for position in range(same, len(effect.messages)):
        row = (effect.session_id, position, json.dumps(_safe_message(effect.messages[position])))
        connection.execute("INSERT INTO messages VALUES (?, ?, ?, ?)", (*row, row_sum(*row)))


def _keep_turn(connection: sqlite3.Connection, effect: Checkpoint, wall_s: float) -> None:
    key = (effect.session_id, effect.turn_id)
    found = connection.execute("SELECT started_s FROM turns WHERE session = ? AND id = ?", key).fetchone()
    question, state = mask(effect.question), None
    if effect.state is not None:
        state = json.dumps({**_safe_state(effect.state), "censored": question != effect.question})
    _put_turn(connection, (*key, json.dumps(question), found[0] if found else wall_s, effect.status, state))


def _put_turn(connection: sqlite3.Connection, row: tuple[Any, ...]) -> None:
    connection.execute("INSERT OR REPLACE INTO turns VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, row_sum(*row)))


def _keep_session(connection: sqlite3.Connection, effect: Checkpoint, wall_s: float) -> int:
    found = connection.execute(_SESSION, (effect.session_id,)).fetchone()
    title = found[1] if found else encodable(one_line(effect.question, TITLE_CHARS_MAX))
    created_s = found[2] if found else wall_s
    return _put_session(connection, (effect.session_id, title, created_s, wall_s, len(effect.messages)))


def _put_session(connection: sqlite3.Connection, values: tuple[Any, ...]) -> int:
    change = int(connection.execute(_CHANGE).fetchone()[0])
    _put_row(connection, (*values[:4], change, values[4]))
    return change


def _put_row(connection: sqlite3.Connection, row: tuple[Any, ...]) -> None:
    connection.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, row_sum(*row)))


def _safe_message(message: Message) -> dict[str, Any]:
    kept = message_to_json(message)
    return {**kept, "blocks": _safe_blocks(kept["blocks"]) or [{"kind": "text", "text": "[left out]"}]}


def _safe_state(state: Json) -> dict[str, Any]:
    blocks = {name: _safe_blocks(state[name]) for name in ("paused", "batch_blocks")}
    return {**masked(state), **blocks}


def _safe_blocks(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks without secrets: signed thinking is whole or left out, a call that held one cannot run again."""
    kept = []
    for block in blocks:
        safe: dict[str, Any] = masked(block)
        if safe != block and block["kind"] == "thinking":
            continue
        if safe != block and block["kind"] == "tool_use":
            safe |= {"raw": "", "problem": "it held a secret, which is not kept on disk"}
        kept.append(safe)
    return kept


# --- reading ---------------------------------------------------------------------------------------------


def find(connection: sqlite3.Connection, session_id: str) -> Found | None:
    """All that can be believed of a session; None when there is no such session."""
    row = connection.execute(_SESSION, (session_id,)).fetchone()
    if row is None:
        return None
    messages = tuple(_messages(connection, session_id))
    whole = _is_whole(row) and len(messages) == row[5]
    cut, problem = _cut_off(connection, session_id, messages) if whole else (None, "")
    if not whole:
        of = f" of {row[5]}" if _is_whole(row) else ""
        problem = f"the session is damaged: the first {len(messages)}{of} messages can be read"
    return Found(messages, cut, problem)


def _messages(connection: sqlite3.Connection, session_id: str) -> Iterator[Message]:
    rows = connection.execute("SELECT * FROM messages WHERE session = ? ORDER BY position", (session_id,))
    for position, row in enumerate(rows):
        if row[1] != position or not _is_whole(row):
            return
        yield message_from_json(json.loads(row[2]))


def _cut_off(
    connection: sqlite3.Connection, session_id: str, messages: tuple[Message, ...]
) -> tuple[CutOff | None, str]:
    row = connection.execute(_OPEN_TURNS, (session_id,)).fetchone()
    if row is None:
        return None, ""
    if not _is_whole(row) or row[5] is None:
        return None, "the question under way is damaged: it cannot be taken up again"
    state = json.loads(row[5])
    recorded, damaged = journal.recorded(connection, session_id, row[1])
    problem = f"{damaged} records of its calls are damaged: their outcome is unknown" if damaged else ""
    return CutOff(row[1], json.loads(row[2]), messages[: state["before"]], messages, state, recorded), problem


def latest(connection: sqlite3.Connection, limit: int) -> list[SessionInfo]:
    """The sessions last used, newest first; those in which nothing was said are left out."""
    rows = connection.execute(_LATEST, (limit,))
    return [_info(bool(cut), row) for cut, *row in rows]


def _info(cut_off: bool, row: Sequence[Any]) -> SessionInfo:
    if not _is_whole(row):
        return SessionInfo(str(row[0]), "(damaged)", 0, 0.0, cut_off)
    return SessionInfo(row[0], row[1], row[5], row[3], cut_off)


def ids_like(connection: sqlite3.Connection, text: str) -> list[str]:
    """The ids that are, or else begin with, this text."""
    rows = connection.execute(
        "SELECT id FROM sessions WHERE substr(id, 1, length(:id)) = :id ORDER BY id != :id, change DESC LIMIT 4",
        {"id": encodable(text)},
    )
    ids = [str(row[0]) for row in rows]
    return ids[:1] if ids[:1] == [text] else ids


def change_of(connection: sqlite3.Connection, session_id: str) -> int:
    """The number of a session's last change; 0 when there is no such session."""
    row = connection.execute("SELECT change FROM sessions WHERE id = ?", (session_id,)).fetchone()
    return int(row[0]) if row else 0


def _is_whole(row: Sequence[Any]) -> bool:
    return bool(row_sum(*row[:-1]) == row[-1])


# --- tasks -----------------------------------------------------------------------------------------------


def question_hash(question: str) -> str:
    """What a task's question is compared by: its own words may hold a secret."""
    return hashlib.sha256(encodable(question).encode()).hexdigest()


def find_task(connection: sqlite3.Connection, task_id: str) -> Task | None:
    """What is on record of a task; a damaged row is none."""
    row = connection.execute("SELECT * FROM tasks WHERE id = ?", (encodable(task_id),)).fetchone()
    if row is None or not _is_whole(row):
        return None
    return Task(row[1], row[2], json.loads(row[3]) if row[3] else None)


def has_task(connection: sqlite3.Connection, task_id: str) -> bool:
    """Whether there is a row of this task, if only a damaged one."""
    return connection.execute("SELECT 1 FROM tasks WHERE id = ?", (encodable(task_id),)).fetchone() is not None


def put_task(connection: sqlite3.Connection, task_id: str, task: Task) -> None:
    """Keep where a task is asked, or its answer."""
    report = None if task.report is None else json.dumps(masked(task.report))
    row = (encodable(task_id), task.question, task.session_id, report)
    connection.execute("INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?, ?)", (*row, row_sum(*row)))
