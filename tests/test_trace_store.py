"""The trace store keeps what it can, says once what it cannot, and never hurts a question."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from errors import AgentError, ConfigurationError
from stores.sqlite_parts import DAMAGED_KEPT_MAX
from stores.trace_file import MIGRATIONS, TRACE_BYTES_MAX
from stores.traces import FILE_NAME, QUEUE_MAX, TraceStore

LONG_S = 10.0
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[..., TraceStore]]:
    stores: list[TraceStore] = []

    def make(folder: Path = tmp_path / "state", **limits: int) -> TraceStore:
        stores.append(TraceStore(folder, **limits))
        return stores[-1]

    yield make
    for store in stores:
        store.close(LONG_S)


@pytest.fixture
def store(open_store: Callable[..., TraceStore]) -> TraceStore:
    return open_store()


def trace(trace_id: str, status: str = "ok", **more: Any) -> dict[str, Any]:
    return {"id": trace_id, "status": status, "user": "ada", "session": "s1", **more}


def keep(store: TraceStore, *traces: dict[str, Any]) -> None:
    for each in traces:
        store.save(each)
    assert store.flush(LONG_S)


def ids(store: TraceStore, **wanted: Any) -> list[str]:
    return [found["id"] for found in store.latest(wanted.pop("limit", 50), **wanted)]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- keeping and finding ---------------------------------------------------------------------------------


def test_a_saved_trace_is_found_by_its_id_and_by_any_unique_beginning(store: TraceStore) -> None:
    keep(store, trace("3f2a91"), trace("3f77"), trace("abc", question="why?"))
    assert store.get("abc") == trace("abc", question="why?")
    assert (store.get("3f2") or {})["id"] == "3f2a91"
    assert store.get("4") is None
    assert store.get("") is None


def test_an_ambiguous_beginning_is_said_and_an_exact_id_wins_over_longer_ones(store: TraceStore) -> None:
    keep(store, trace("3f"), trace("3f2a91"), trace("3f77"))
    assert (store.get("3f") or {})["id"] == "3f"
    with pytest.raises(ConfigurationError, match="several traces begin with 3: 3f77, 3f2a91, 3f"):
        store.get("3")


@pytest.mark.parametrize("wild", ["%", "_", "*", "?", "a' OR '1'='1", "[a]", "\x00", "\ud800"])
def test_an_id_is_data_and_never_a_pattern_or_a_statement(store: TraceStore, wild: str) -> None:
    keep(store, trace("abc"))
    assert store.get(wild) is None
    assert ids(store, user=wild, status=wild, session=wild) == []


def test_the_latest_come_first_and_can_be_chosen_by_status_user_and_session(store: TraceStore) -> None:
    keep(store, trace("a"), trace("b", "failed"), {**trace("c"), "user": "bob"}, {**trace("d"), "session": "s2"})
    assert ids(store) == ["d", "c", "b", "a"]
    assert ids(store, limit=2) == ["d", "c"]
    assert ids(store, status="failed") == ["b"]
    assert ids(store, user="bob") == ["c"]
    assert ids(store, session="s1", status="ok", user="ada") == ["a"]
    assert ids(store, limit=-1) == []


def test_a_newer_state_of_a_trace_takes_the_place_of_the_older(store: TraceStore) -> None:
    keep(store, trace("a", "running"), trace("b"), trace("a", "ok", text="done"))
    assert store.get("a") == trace("a", "ok", text="done")
    assert ids(store) == ["b", "a"]
    assert ids(store, status="running") == []


def test_any_text_comes_back_as_it_went_in(store: TraceStore) -> None:
    odd = trace("a", text="\ud800 \x00 \x1b[31m ümläut 漢字 🙂 \u2028")
    keep(store, {**odd, "user": "\udce9"})
    assert store.get("a") == {**odd, "user": "\udce9"}


def test_an_empty_place_has_nothing_and_looking_makes_nothing(store: TraceStore) -> None:
    assert store.get("a") is None
    assert store.latest(5) == []
    assert not store.path.parent.exists()


def test_a_reader_sees_what_its_own_process_has_just_saved(store: TraceStore) -> None:
    for number in range(20):
        store.save(trace(f"t{number}"))
        assert store.get(f"t{number}") is not None


# --- bounds ----------------------------------------------------------------------------------------------


def test_only_the_newest_traces_are_kept_by_order_of_arrival(open_store: Callable[..., TraceStore]) -> None:
    """A clock that was set back must not make new traces look old."""
    store = open_store(traces_max=3)
    keep(store, *(trace(f"t{number}", started_wall_s=number) for number in range(6, 0, -1)))
    assert ids(store) == ["t1", "t2", "t3"]


def test_the_bytes_of_all_traces_are_bounded(open_store: Callable[..., TraceStore]) -> None:
    store = open_store(bytes_max=5_000)
    keep(store, *(trace(f"t{number}", text="x" * 2_000) for number in range(4)))
    assert ids(store) == ["t3", "t2"]


def test_one_trace_cannot_push_all_others_out(store: TraceStore, caplog: pytest.LogCaptureFixture) -> None:
    keep(store, trace("a"), trace("b", text="x" * TRACE_BYTES_MAX))
    assert (ids(store), store.dropped) == (["a"], 1)
    assert "4,000,000 bytes" in warnings(caplog)[0]


def test_saving_never_waits_for_a_disk_that_stands_still(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    moving = threading.Event()
    real = os.mkdir

    def stuck(*args: Any) -> None:
        moving.wait(LONG_S)
        real(*args)

    monkeypatch.setattr(os, "mkdir", stuck)
    for number in range(QUEUE_MAX + 10):
        store.save(trace(f"t{number}"))
    assert store.dropped >= 9  # the writer holds one, the queue the rest
    assert not store.flush(0.01)
    moving.set()
    assert store.flush(LONG_S)
    assert warnings(caplog) == ["traces are not kept: the disk does not keep up"]
    assert len(ids(store, limit=1000)) == QUEUE_MAX + 10 - store.dropped


# --- modes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_files_are_0600_and_folders_0700_whatever_the_umask(
    tmp_path: Path, open_store: Callable[..., TraceStore], umask: int
) -> None:
    store = open_store(tmp_path / "made" / "state")
    before = os.umask(umask)
    try:
        keep(store, trace("a"))
    finally:
        os.umask(before)
    files = sorted(store.path.parent.iterdir())
    assert [file.name for file in files] == [FILE_NAME, f"{FILE_NAME}-shm", f"{FILE_NAME}-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    folders = (store.path.parent, store.path.parent.parent)
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path, store: TraceStore) -> None:
    store.path.parent.mkdir()
    store.path.parent.chmod(0o755)
    keep(store, trace("a"))
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o755


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path, store: TraceStore) -> None:
    store.path.parent.mkdir()
    store.path.symlink_to(tmp_path / "elsewhere")
    keep(store, trace("a"))
    assert store.dropped == 1
    assert not (tmp_path / "elsewhere").exists()


# --- what goes wrong -------------------------------------------------------------------------------------


def test_a_place_that_cannot_be_used_costs_traces_and_one_warning(
    tmp_path: Path, open_store: Callable[..., TraceStore], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    store = open_store(tmp_path / "file" / "state")
    keep(store, trace("a"), trace("b"))
    assert store.dropped == 2
    assert len(warnings(caplog)) == 1
    assert "traces are not kept" in warnings(caplog)[0]


def test_a_full_disk_costs_traces_until_it_has_room_again(
    store: TraceStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own page limit answers exactly as a full disk does: SQLITE_FULL."""
    is_full = True
    real = sqlite3.connect

    def connect(*args: Any, **more: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*args, **more)
        if is_full:
            connection.execute("PRAGMA max_page_count = 1")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect)
    keep(store, trace("a"), trace("b"))
    assert store.dropped == 2
    assert [words for words in warnings(caplog) if "full" in words] == warnings(caplog)
    assert len(warnings(caplog)) == 1
    is_full = False
    keep(store, trace("c"))
    assert ids(store) == ["c"]


def test_a_damaged_file_is_moved_aside_whole_and_a_new_one_begins(
    store: TraceStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.path.parent.mkdir()
    store.path.write_bytes(b"this was never a database" * 200)
    keep(store, trace("a"))
    assert (ids(store), store.dropped) == (["a"], 0)
    aside = store.path.with_name(f"{FILE_NAME}.damaged-1")
    assert aside.read_bytes() == b"this was never a database" * 200
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert len(warnings(caplog)) == 1
    assert f"kept as {aside.name}" in warnings(caplog)[0]


def test_reading_a_damaged_file_says_so_and_leaves_it_to_the_writer(store: TraceStore) -> None:
    store.path.parent.mkdir()
    store.path.write_bytes(b"this was never a database" * 200)
    with pytest.raises(AgentError, match="cannot be read"):
        store.latest(1)
    assert store.path.read_bytes() == b"this was never a database" * 200


def test_damaged_files_do_not_pile_up_for_ever(open_store: Callable[..., TraceStore]) -> None:
    dropped = []
    for number in range(DAMAGED_KEPT_MAX + 1):
        store = open_store()
        store.path.parent.mkdir(exist_ok=True)
        store.path.write_bytes(f"rubbish {number}".encode() * 200)
        keep(store, trace("a"))
        assert store.close(LONG_S)  # the journal goes into the file, so the next rubbish hits all of it
        dropped.append(store.dropped)
    assert dropped == [0] * DAMAGED_KEPT_MAX + [1]
    assert len(list(store.path.parent.glob("*.damaged-?"))) == DAMAGED_KEPT_MAX
    assert store.path.read_bytes().startswith(f"rubbish {DAMAGED_KEPT_MAX}".encode())  # nothing is deleted


def test_a_page_damaged_between_two_traces_is_noticed_and_costs_none_of_the_new(store: TraceStore) -> None:
    keep(store, *(trace(f"t{number}", text="x" * 3_000) for number in range(50)))
    assert store.close(LONG_S)
    with store.path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096 * 20))
    again = TraceStore(store.path.parent)
    keep(again, trace("new"))
    assert ids(again) == ["new"]
    assert again.close(LONG_S)
    assert list(store.path.parent.glob("*.damaged-1"))


def test_a_file_of_a_newer_version_is_left_alone(store: TraceStore, caplog: pytest.LogCaptureFixture) -> None:
    store.path.parent.mkdir()
    connection = sqlite3.connect(store.path)
    connection.execute("CREATE TABLE traces (something_else)")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    before = store.path.read_bytes()
    keep(store, trace("a"), trace("b"))
    assert store.dropped == 2
    assert store.path.read_bytes() == before
    assert len(warnings(caplog)) == 1
    assert "newer version" in warnings(caplog)[0]
    with pytest.raises(AgentError, match="newer version"):
        store.get("a")


def test_a_folder_deleted_under_the_program_is_made_again(store: TraceStore) -> None:
    keep(store, trace("a"))
    for file in store.path.parent.iterdir():
        file.unlink()
    store.path.parent.rmdir()
    keep(store, trace("b"))
    assert (ids(store), store.dropped) == (["b"], 0)


def test_a_file_that_another_process_holds_costs_the_trace_and_not_the_writer(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.trace_file.BUSY_S", 0.01)
    monkeypatch.setattr("stores.sqlite_file.LOCKED_S", 0.01)
    keep(store, trace("a"))
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    keep(store, trace("b"))
    assert (ids(store), store.dropped) == (["a"], 1)  # readers are not held up
    other.execute("ROLLBACK")
    other.close()
    keep(store, trace("c"))
    assert ids(store) == ["c", "a"]


def test_several_processes_write_one_file_and_lose_nothing(store: TraceStore) -> None:
    script = (
        "import sys; from pathlib import Path; from stores.traces import TraceStore\n"
        "store = TraceStore(Path(sys.argv[1]))\n"
        "for n in range(40): store.save({'id': f'{sys.argv[2]}-{n}', 'status': 'ok', 'x': 'y' * 2000})\n"
        "print(store.flush(20), store.dropped, store.close(20))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(store.path.parent), str(number)],
                         cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for number in range(3)
    ]  # fmt: skip
    for writer in writers:
        assert writer.communicate(timeout=60)[0].split() == ["True", "0", "True"]
    assert len(ids(store, limit=1000)) == 120


def test_a_trace_that_is_no_trace_is_dropped_and_the_next_one_is_kept(store: TraceStore) -> None:
    keep(store, {"status": "ok"}, trace("a"))
    assert (ids(store), store.dropped) == (["a"], 1)


def test_a_row_whose_json_was_damaged_is_skipped(store: TraceStore) -> None:
    keep(store, trace("a"), trace("b"))
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE traces SET trace = ? WHERE id = 'a'", ('{"id": "a',))
    connection.close()
    assert ids(store) == ["b"]
    assert store.get("a") is None


def test_after_closing_traces_are_dropped_and_closing_again_does_no_harm(store: TraceStore) -> None:
    keep(store, trace("a"))
    assert store.close(LONG_S)
    store.save(trace("b"))
    assert store.dropped == 1
    assert store.flush(0.1)
    assert store.close(0.1)
    assert ids(store) == ["a"]


def test_a_store_that_was_never_used_closes_at_once_and_starts_nothing(store: TraceStore) -> None:
    before = threading.active_count()
    assert store.flush(0.0)
    assert store.close(0.0)
    assert threading.active_count() == before


def test_sqlite_is_loaded_with_the_first_trace_only() -> None:
    script = "import sys, stores.traces; print('sqlite3' in sys.modules, 'logging' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_what_is_stored_is_plain_json(store: TraceStore) -> None:
    """Other tools may read the file: one table, one JSON text a row."""
    keep(store, trace("a", text="ü"))
    with sqlite3.connect(store.path) as connection:
        ((text,),) = connection.execute("SELECT trace FROM traces").fetchall()
    connection.close()
    assert text.isascii()
    assert json.loads(text) == trace("a", text="ü")
