"""The files that are one SQLite database: copied, replaced and removed together.  (floor 4)

Beside FILE stand FILE-wal, its journal, without which the newest rows are missing, and FILE-shm,
which SQLite makes anew. A journal that is left beside another file would be taken for that file's
own. What this does not do: ask whether anybody has the file open (`sqlite_file.py` sees to that).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

from platform_edges import Files
from stores.private import private_file

DAMAGED_KEPT_MAX = 5
"""Damaged files kept. A disk that damages more than these will not get better by making a sixth."""


def keep_copy(path: Path) -> str:
    """Copy the database as it is now under a name of its own, `FILE.damaged-N`; that name.

    Raises:
        OSError: it cannot be copied, or so many are kept already.
    """
    names = (f"{path.name}.damaged-{number}" for number in range(1, DAMAGED_KEPT_MAX + 1))
    free = [aside for name in names if not (aside := path.with_name(name)).exists()]
    if not free:
        raise OSError(f"damaged, as {DAMAGED_KEPT_MAX} before it that are kept beside it")
    try:
        for suffix in ("", "-wal"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                copy = free[0].with_name(free[0].name + suffix)
                private_file(copy)
                shutil.copyfile(part, copy)
    except OSError:  # a full disk: half a copy would take the place of a whole one
        remove(free[0], "", "-wal")
        raise
    return free[0].name


def put(fresh: Path, path: Path) -> None:
    """Give a whole new file its name, for good."""
    remove(path, "-wal", "-shm")
    fresh.replace(path)
    for folder in (path.parent, path.parent.parent):  # SQLite makes its file durable, not our name for it
        with suppress(PermissionError):  # a folder above may be closed to us
            Files().fsync_path(folder)


def remove(path: Path, *suffixes: str) -> None:
    """Remove those parts of a database that are there."""
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def copy_rows(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Copy what can still be read of a damaged database into an empty one with the same tables."""
    tables = [row[0] for row in new.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    new.execute("BEGIN")
    for table in tables:
        with suppress(sqlite3.Error, UnicodeDecodeError):  # of each table, all up to where it is damaged
            rows = old.execute(f"SELECT * FROM {table}")
            names = ", ".join(column[0] for column in rows.description)
            marks = ", ".join("?" for _ in rows.description)
            for row in rows:
                new.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", row)
    new.execute("COMMIT")


def inode(path: Path) -> int:
    """What tells a file from one that has come to stand under the same name; 0 where there is none."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0
