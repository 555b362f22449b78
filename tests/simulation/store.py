"""A database whose commits fail, and in which the process dies: SQLite in memory, with the strikes around it.

What is committed is durable, what is not is gone: that much is SQLite's own promise, and is tested with real
files and real kills elsewhere (tests/test_crashes.py).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import cache
from typing import Any

from stores.sessions import MIGRATIONS
from tests.simulation.files import Killed


@cache
def _empty() -> bytes:
    """A database with all tables and no rows: making it takes longer than many a run."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for number, script in enumerate(MIGRATIONS, 1):
        connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT")
    return connection.serialize()


class Database:
    """What outlives a process."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.connection.deserialize(_empty())

    def recover(self) -> None:
        """The process died: what it had not committed is undone."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def texts(self) -> list[str]:
        """Every text in it."""
        tables = [row[0] for row in self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [row for table in tables for row in self.connection.execute(f"SELECT * FROM {table}")]
        return [value for row in rows for value in row if isinstance(value, str)]

    def close(self) -> None:
        """It is needed no more."""
        self.connection.close()


class SimulatedConnection:
    """The database as one process sees it. The arguments are those of `SimulatedOs`."""

    def __init__(self, database: Database, strike: Callable[[str], str], dies: Callable[[str], None]) -> None:
        self._connection, self._strike, self._dies = database.connection, strike, dies
        self.dead = False

    @property
    def in_transaction(self) -> bool:
        return not self.dead and self._connection.in_transaction

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if self.dead:
            raise Killed
        if sql.startswith("BEGIN"):
            self._at("db.begin")
        elif sql == "COMMIT":
            self._at("db.commit")
        result = self._connection.execute(sql, *arguments)
        if sql == "COMMIT":
            self._at("db.committed")
        return result

    def executescript(self, sql: str) -> sqlite3.Cursor:
        return self._connection.executescript(sql)

    def _at(self, where: str) -> None:
        kind = self._strike(where)
        if kind in ("kill", "power"):
            self._dies(kind)
        if kind == "error":
            raise sqlite3.OperationalError("disk I/O error")
        if kind == "full":
            raise sqlite3.OperationalError("database or disk is full")
