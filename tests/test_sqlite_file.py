"""A file of SQLite is made whole or not at all, whatever the disk does meanwhile."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from errors import AgentError
from stores.sqlite_file import SqliteFile
from stores.sqlite_parts import DAMAGED_KEPT_MAX

MIGRATIONS = ("CREATE TABLE words (word TEXT); CREATE TABLE numbers (number INTEGER)",)
PAGE_BYTES = 4096
DURABLE = pytest.mark.parametrize("durable", [True, False])


class Disk:
    """SQLite's own page limit answers exactly as a full disk does: SQLITE_FULL."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = False
        self._real = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", self._connect)

    def _connect(self, *args: Any, **more: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = self._real(*args, **more)
        if self.is_full:
            connection.execute("PRAGMA max_page_count = 1")
        return connection


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "words.sqlite3"


def start(path: Path, *, durable: bool = True) -> tuple[str, list[str]]:
    """What one start of the program that writes a word gets to hear, and what it tells of damage."""
    told: list[str] = []
    file = SqliteFile(path, MIGRATIONS, lambda what, kept: told.append(f"{what}: {kept}"), durable=durable)
    try:
        file.write(lambda connection: connection.execute("INSERT INTO words VALUES ('one')"))
    except AgentError as error:
        return error.message, told
    finally:
        file.close()
    return "", told


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


@DURABLE
def test_starts_on_a_full_disk_leave_nothing_that_a_later_one_takes_for_damage(
    path: Path, disk: Disk, durable: bool
) -> None:
    disk.is_full = True
    for _ in range(DAMAGED_KEPT_MAX + 2):
        assert start(path, durable=durable) == ("database or disk is full", [])
    disk.is_full = False
    assert start(path, durable=durable) == ("", [])
    assert names(path) == [path.name]


@DURABLE
def test_a_rescue_on_a_full_disk_waits_for_room_and_leaves_one_copy(path: Path, disk: Disk, durable: bool) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1000)
    disk.is_full = True
    for _ in range(DAMAGED_KEPT_MAX + 2):
        assert start(path, durable=durable) == ("database or disk is full", [])
    assert path.read_bytes() == b"not a database" * 1000
    disk.is_full = False
    assert start(path, durable=durable) == ("", [f"{path.name} was damaged: {path.name}.damaged-1"])
    assert names(path) == [path.name, f"{path.name}.damaged-1"]


def test_half_a_copy_of_a_damaged_file_is_not_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1000)

    def half(source: Path, copy: Path) -> None:
        copy.write_bytes(source.read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", half)
        assert start(path) == ("No space left on device", [])
    assert start(path) == ("", [f"{path.name} was damaged: {path.name}.damaged-1"])
    assert path.with_name(f"{path.name}.damaged-1").read_bytes() == b"not a database" * 1000


@pytest.mark.parametrize(("durable", "words"), [(True, 1), (False, 0)])
def test_only_a_durable_file_begins_with_what_could_still_be_read(path: Path, durable: bool, words: int) -> None:
    assert start(path, durable=durable) == ("", [])
    with path.open("r+b") as damaged:
        damaged.seek(2 * PAGE_BYTES)  # the page of the numbers; that of the words stands before it
        damaged.write(b"\xff" * PAGE_BYTES)
    told: list[str] = []
    file = SqliteFile(path, MIGRATIONS, lambda what, kept: told.append(kept), durable=durable)
    ask = "SELECT (SELECT count(*) FROM words), (SELECT count(*) FROM numbers)"
    assert file.read(lambda connection: connection.execute(ask).fetchone()) == (words, 0)
    assert told == [f"{path.name}.damaged-1"]
    file.close()


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 1)])
def test_only_a_durable_file_waits_for_the_disk_at_each_commit(path: Path, durable: bool, level: int) -> None:
    file = SqliteFile(path, MIGRATIONS, lambda *_: None, durable=durable)
    assert file.read(lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0]) == level
    file.close()
