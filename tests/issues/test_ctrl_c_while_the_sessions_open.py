"""Ctrl-C while the store was still being opened switched sessions off for the whole chat: "the disk does not answer".

A call whose question is stopped goes on for a moment; the next one took it for one that hangs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

import stores.sessions
from core.journal import Checkpoint
from doors.aio import AsyncDoor
from events import StoreFailed
from messages import user
from stores.file_lock import FileLock
from stores.sessions import FILE_NAME, SessionStore
from tests.support import Heard

STEP = Checkpoint("s1", "t1", (user("hello"),), 2.0, "hello", status="cancelled")


@pytest.mark.parametrize(("held_s", "waits_max", "problem"), [(0.04, 500, ""), (0.5, 10, "the disk does not answer")])
def test_a_write_that_was_stopped_is_waited_for_a_moment_and_no_longer(
    tmp_path: Path, held_s: float, waits_max: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stores.sessions.STOPPED_WAITS_MAX == 10
    monkeypatch.setattr(stores.sessions, "STOPPED_WAITS_MAX", waits_max)  # a busy machine takes long to open a file
    heard = Heard()
    store, opening = SessionStore(tmp_path, time.time), FileLock(tmp_path / f"{FILE_NAME}.lock")
    assert opening.take()  # as another process would that is just opening the file

    async def stop_and_keep() -> tuple[str, float]:
        door = AsyncDoor(listeners=[heard])
        first = asyncio.create_task(door.run(store.checkpointing(STEP)))
        await asyncio.sleep(0.02)
        assert not first.done()  # it waits for the other process
        first.cancel()
        await asyncio.wait([first])
        threading.Timer(held_s, opening.release).start()
        begun_s = time.monotonic()
        return await door.run(store.checkpointing(STEP)), time.monotonic() - begun_s

    said, took_s = asyncio.run(stop_and_keep())
    assert (said or store.off) == problem
    assert [event.why for event in heard.of(StoreFailed)] == [problem] * bool(problem)
    assert not problem or took_s < held_s
    store.close()
