"""Counters are kept beside the traces: in the same transaction, by many processes, over every restart."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from errors import AgentError
from stores.trace_file import MIGRATIONS
from stores.traces import DROPPED, FILE_NAME, QUEUE_MAX, TraceStore, read_counters

LONG_S = 10.0
ROOT = Path(__file__).resolve().parent.parent
ONE = {("things_total", '{"kind": "a"}'): 1.0}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    made = TraceStore(tmp_path)
    yield made
    made.close(LONG_S)


def trace(trace_id: str, **more: Any) -> dict[str, Any]:
    return {"id": trace_id, "status": "ok", **more}


def test_counts_add_up_over_writes_and_restarts(tmp_path: Path, store: TraceStore) -> None:
    store.save(trace("a"), ONE)
    store.save(trace("a"), {**ONE, ("things_total", '{"kind": "b"}'): 2.5})
    store.save(None, ONE)
    assert store.close(LONG_S)
    again = TraceStore(tmp_path)
    again.save(trace("b"), ONE)
    assert again.close(LONG_S)
    assert read_counters(tmp_path) == {("things_total", '{"kind": "a"}'): 4, ("things_total", '{"kind": "b"}'): 2.5}


def test_trimming_takes_traces_and_no_counts(tmp_path: Path) -> None:
    store = TraceStore(tmp_path, traces_max=2)
    for number in range(20):
        store.save(trace(f"t{number}"), ONE)
    assert store.close(LONG_S)
    assert len(TraceStore(tmp_path).latest(50)) == 2
    assert list(read_counters(tmp_path).values()) == [20]


def test_there_is_nothing_where_nothing_was_counted(tmp_path: Path, store: TraceStore) -> None:
    assert read_counters(tmp_path / "nowhere") == {}
    store.save(trace("a"))
    assert store.flush(LONG_S)
    assert read_counters(tmp_path) == {}


def test_a_trace_too_large_to_keep_still_counts(
    tmp_path: Path, store: TraceStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(trace("a", text="x" * 5_000_000), ONE)
    assert store.close(LONG_S)
    assert read_counters(tmp_path) == {**ONE, DROPPED: 1}
    assert len(caplog.records) == 1


def test_counts_wait_until_the_disk_is_well_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "state"
    folder.write_text("taken")
    store = TraceStore(folder)
    store.save(trace("a"), ONE)
    store.save(trace("b"), ONE)
    assert store.flush(LONG_S)
    folder.unlink()
    store.save(trace("c"), ONE)
    assert store.flush(LONG_S)
    assert read_counters(folder) == {("things_total", '{"kind": "a"}'): 3, DROPPED: 2}
    assert [found["id"] for found in store.latest(9)] == ["c"]
    assert store.close(LONG_S)
    assert len(caplog.records) == 1


def test_counts_of_a_full_queue_go_with_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = TraceStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_start", lambda: None)  # a disk that has stopped: nobody takes from the queue
        for number in range(QUEUE_MAX + 5):
            store.save(trace(f"t{number}"), ONE)
    store.save(None, ONE)  # starts the writer; there is no room for this one either
    assert store.flush(LONG_S)
    assert store.close(LONG_S)
    assert read_counters(tmp_path) == {("things_total", '{"kind": "a"}'): QUEUE_MAX + 6, DROPPED: 5}


def test_a_file_without_counters_gets_them_and_keeps_its_traces(tmp_path: Path, store: TraceStore) -> None:
    store.save(trace("old"))
    assert store.close(LONG_S)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        connection.execute("DROP TABLE counters")
        connection.execute("PRAGMA user_version = 1")
    assert read_counters(tmp_path) == {}
    again = TraceStore(tmp_path)
    assert [found["id"] for found in again.latest(9)] == ["old"]
    again.save(trace("new"), ONE)
    assert again.close(LONG_S)
    assert read_counters(tmp_path) == ONE
    assert [found["id"] for found in again.latest(9)] == ["new", "old"]
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def test_a_file_that_is_none_is_told_to_readers_and_rescued_by_writers(tmp_path: Path, store: TraceStore) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"rubbish" * 1000)
    with pytest.raises(AgentError, match="cannot be read"):
        read_counters(tmp_path)
    store.save(trace("a"), ONE)
    assert store.flush(LONG_S)
    assert read_counters(tmp_path) == ONE


_WRITER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from stores.traces import TraceStore
store = TraceStore(Path({state!r}))
for number in range({times}):
    store.save({{"id": f"{{sys.argv[1]}}-{{number}}", "status": "ok"}}, {{("things_total", '{{"kind": "a"}}'): 1}})
    assert store.flush(60)
    print(number, flush=True)
assert store.close(60)
"""


def writer(state: Path, name: str, times: int) -> subprocess.Popen[str]:
    code = _WRITER.format(root=str(ROOT), state=str(state), times=times)
    return subprocess.Popen([sys.executable, "-c", code, name], stdout=-1, text=True)


def test_processes_that_count_at_once_lose_nothing(tmp_path: Path) -> None:
    with writer(tmp_path, "a", 50) as first, writer(tmp_path, "b", 50) as second:
        first.communicate()
        second.communicate()
    assert (first.returncode, second.returncode) == (0, 0)
    assert read_counters(tmp_path) == {("things_total", '{"kind": "a"}'): 100}


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_process_killed_while_writing_leaves_counts_that_agree_with_its_traces(tmp_path: Path) -> None:
    with writer(tmp_path, "a", 100_000) as killed:
        assert killed.stdout is not None
        for _ in range(20):
            killed.stdout.readline()
        killed.send_signal(signal.SIGKILL)
    [count] = read_counters(tmp_path).values()
    assert count >= 20
    assert count == len(TraceStore(tmp_path, traces_max=10**6).latest(10**6))


def test_no_disk_says_a_word_to_the_question(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "state"
    folder.write_text("taken")
    store = TraceStore(folder)
    store.save(trace("a"), ONE)
    assert store.close(LONG_S)  # the last try fails too: these counts are lost, and that is said
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
