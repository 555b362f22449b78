"""What was acknowledged is there again, for its owner only; what was damaged is said loudly, never silently wrong."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stores.sessions
from core.journal import Checkpoint, Intent, RecordIntents
from doors.aio import AsyncDoor
from doors.blocking import BlockingDoor
from doors.virtual import VirtualDoor
from errors import AgentError, ConfigurationError
from events import StoreDamaged, StoreFailed
from messages import Message, Text, Thinking, ToolResult, ToolUse, assistant, user
from safe_text import register_secret
from stores.file_lock import FileLock, is_in_use
from stores.sessions import MIGRATIONS, Opened, SessionStore
from tests.support import Heard

ROOT = Path(__file__).parent.parent
STATE: dict[str, Any] = {"before": 0, "starts": 1, "paused": [], "batch_blocks": []}


class Desk:
    """A store in a folder, and a door to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = SessionStore(folder, lambda: 1_000.0)
        self.heard = Heard()
        self.door = VirtualDoor(listeners=[self.heard])

    def keep(self, *messages: Message, session: str = "s1", turn: str = "t1", **more: Any) -> str:
        problem: str = self.door.run(
            self.store.checkpointing(Checkpoint(session, turn, messages, 5.0, "the question", status="ok", **more))
        )
        return problem

    def begin(self, *messages: Message, session: str = "s1", turn: str = "t2") -> str:
        """Leave a question open."""
        effect = Checkpoint(session, turn, messages, 5.0, "cut off", {**STATE, "before": max(0, len(messages) - 1)})
        problem: str = self.door.run(self.store.checkpointing(effect))
        return problem

    def open(self, which: str = "latest") -> Opened:
        return self.door.run(self.store.opening(which))

    def list(self) -> list[Any]:
        return self.door.run(self.store.listing(20))

    def crash(self, copy: Path) -> Desk:
        """What a process killed now would leave, in another folder."""
        shutil.copytree(self.folder, copy)
        return Desk(copy)

    @property
    def loud(self) -> bool:
        return bool(self.heard.of(StoreDamaged) or self.heard.of(StoreFailed))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    one = Desk(tmp_path / "state")
    yield one
    one.store.close()


TALK = (user("one"), assistant("1"), user("two"), assistant("2"))


# --- keeping and opening -----------------------------------------------------------------------------------


def test_what_was_kept_is_there_in_the_next_process(desk: Desk) -> None:
    desk.keep(*TALK)
    desk.store.close()
    opened = Desk(desk.folder).open()
    assert (opened.id, opened.messages, opened.cut) == ("s1", TALK, None)


BLOCKS = st.one_of(
    st.text(alphabet=st.characters(), min_size=1).filter(str.strip).map(Text),
    st.builds(lambda text: Thinking({"type": "thinking", "thinking": text, "signature": "s"}, "m"), st.text()),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(alphabet=st.characters(codec=None), min_size=1).filter(str.strip), st.lists(BLOCKS, min_size=1, max_size=3)
)
def test_any_text_a_person_can_type_comes_back_as_it_was(desk: Desk, question: str, blocks: list[Any]) -> None:
    """H4: lone surrogates, NUL, control bytes; and thinking to the byte."""
    messages = (user(question), Message("assistant", (*blocks, Text("end"))))
    desk.keep(*messages)
    store = SessionStore(desk.crash(Path(str(desk.folder) + os.urandom(4).hex())).folder, lambda: 0.0)
    opened = VirtualDoor().run(store.opening("latest"))
    store.close()
    assert opened.messages[1] == messages[1]
    assert opened.messages[0].untrusted is False


def test_taint_and_unreadable_inputs_survive(desk: Desk) -> None:
    messages = (
        user("q"),
        Message("assistant", (ToolUse("c1", "page", {"x": "é"}, raw="{", problem="cut"),)),
        Message("user", (ToolResult("c1", "from outside", is_error=True),), untrusted=True),
        assistant("end"),
    )
    desk.keep(*messages)
    desk.store.close()
    assert Desk(desk.folder).open().messages == messages


def test_only_what_is_new_is_written(desk: Desk) -> None:
    messages = tuple(user(str(n)) if n % 2 == 0 else assistant(str(n)) for n in range(200))
    desk.keep(*messages)
    connection = sqlite3.connect(desk.folder / "sessions.sqlite3")
    before = connection.execute("SELECT max(rowid) FROM messages").fetchone()[0]
    desk.keep(*messages, user("new"), assistant("newer"))
    assert connection.execute("SELECT max(rowid) FROM messages").fetchone()[0] == before + 2
    connection.close()


def test_a_failed_turn_takes_back_what_it_had_kept(desk: Desk) -> None:
    desk.keep(*TALK)
    desk.begin(*TALK, user("three"))
    desk.keep(*TALK, turn="t2")
    desk.store.close()
    opened = Desk(desk.folder).open()
    assert (opened.messages, opened.cut) == (TALK, None)


def test_a_question_cut_off_is_offered_back(desk: Desk, tmp_path: Path) -> None:
    desk.keep(*TALK)
    desk.begin(*TALK, user("three"))
    after = desk.crash(tmp_path / "after")
    opened = after.open()
    assert opened.messages == TALK
    assert opened.cut is not None
    assert (opened.cut.question, opened.cut.crashes, opened.cut.messages) == ("cut off", 1, (*TALK, user("three")))
    assert not after.loud


def test_sessions_are_listed_newest_first_and_found_by_the_beginning_of_their_id(desk: Desk) -> None:
    for name in ("ab1", "ab2", "b"):
        desk.keep(*TALK, session=name)
    desk.keep(*TALK, session="ab1")
    assert [one.id for one in desk.list()] == ["ab1", "b", "ab2"]
    assert desk.open("b").id == "b"
    with pytest.raises(ConfigurationError, match="several sessions begin with ab: ab1, ab2"):
        desk.open("ab")


@pytest.mark.parametrize("which", ["nothing", "", "\ud800", "%", "a\x00b"])
def test_a_session_that_is_not_there_is_a_clear_error(desk: Desk, which: str) -> None:
    desk.keep(*TALK)
    with pytest.raises(ConfigurationError, match="there is no session"):
        desk.open(which)


def test_without_any_session_there_is_nothing_to_continue(desk: Desk) -> None:
    with pytest.raises(ConfigurationError, match="no session to continue"):
        desk.open()


# --- secrets and modes -------------------------------------------------------------------------------------


def test_no_secret_reaches_the_disk(desk: Desk) -> None:
    """F1. A call whose input held one cannot run again; signed thinking that held one is left out."""
    register_secret("hunter2-hunter2")
    held = {"x": "key hunter2-hunter2"}
    messages = (
        user("my key is hunter2-hunter2 and sk-ant-REDACTED"),
        Message(
            "assistant",
            (
                Thinking({"type": "thinking", "thinking": "hunter2-hunter2", "signature": "s"}, "m"),
                ToolUse("c", "note", held),
            ),
        ),
        Message("user", (ToolResult("c", "saved hunter2-hunter2"),)),
        assistant("hunter2-hunter2 it is"),
    )
    desk.keep(*messages, report={"text": "hunter2-hunter2"}, task_id="t")
    desk.begin(*messages, user("hunter2-hunter2"))
    for file in desk.folder.rglob("*"):
        if file.is_file():
            assert b"hunter2" not in file.read_bytes()
            assert b"sk-ant-REDACTED" not in file.read_bytes()
    desk.store.close()
    call = Desk(desk.folder).open().messages[1].blocks
    assert [type(block) for block in call] == [ToolUse]
    assert "secret" in str(call[0])


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_files_are_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        desk = Desk(tmp_path / "a" / "state")
        desk.keep(*TALK)
        desk.begin(*TALK, user("q"))
    finally:
        os.umask(before)
    for path in [desk.folder, *desk.folder.rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    desk.store.close()


# --- several processes -------------------------------------------------------------------------------------


def test_a_session_open_in_one_process_is_locked_for_others(desk: Desk) -> None:
    desk.keep(*TALK)
    other = Desk(desk.folder)
    assert [one.in_use for one in other.list()] == [True]
    with pytest.raises(ConfigurationError, match="the session s1 is open in another process"):
        other.open()
    desk.store.close()
    assert other.open().messages == TALK
    assert "in another process" in desk.keep(*TALK)
    other.store.close()


def test_processes_side_by_side_lose_nothing(desk: Desk) -> None:
    desks = [Desk(desk.folder) for _ in range(4)]
    problems: list[str] = []

    def work(number: int) -> None:
        messages: tuple[Message, ...] = ()
        for step in range(20):
            messages = (*messages, user(f"{number}:{step}"), assistant("ok"))
            problems.append(desks[number].keep(*messages, session=f"s{number}", turn=f"t{step}"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(problems) == {""}
    for one in desks:
        one.store.close()
    assert sorted((one.id, one.messages) for one in desk.list()) == [(f"s{n}", 40) for n in range(4)]
    assert not desk.loud


def test_a_start_does_not_wait_for_the_sessions_that_others_have_open(desk: Desk) -> None:
    """With a dozen of them, waiting for each would take longer than a question has for its first record."""
    for number in range(12):
        desk.keep(*TALK, session=f"s{number}")
    other = Desk(desk.folder)
    begun_s = time.monotonic()
    assert len(other.list()) == 12
    assert time.monotonic() - begun_s < 1.5
    assert not other.loud
    other.store.close()


def test_a_start_leaves_no_lock_file_where_there_was_none(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session may be closed by its process between the look into the folder and the look at its lock."""
    gone = desk.folder / "sessions" / "gone.lock"
    monkeypatch.setattr(type(gone), "glob", lambda *_: [gone])
    desk.list()
    assert not gone.exists()


def test_first_starts_at_the_same_moment_do_not_take_each_other_for_damage(tmp_path: Path) -> None:
    desks = [Desk(tmp_path / "state") for _ in range(8)]
    threads = [
        threading.Thread(target=one.keep, args=TALK, kwargs={"session": f"s{number}"})
        for number, one in enumerate(desks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.heard.events for one in desks] == [[]] * 8
    assert len(desks[0].list()) == 8
    for one in desks:
        one.store.close()


CHILD = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
import stores.sessions
from core.journal import Checkpoint
from doors.virtual import VirtualDoor
from messages import user, assistant
from stores.sessions import SessionStore
store = SessionStore(Path({folder!r}), time.time)
number = 0
messages = ()
while True:
    messages = (*messages, user(str(number)), assistant("ok"))
    assert VirtualDoor().run(store.checkpointing(Checkpoint("s1", "t", messages, 5.0, "q", status="ok"))) == ""
    number += 1
    print(number, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(root=str(ROOT), folder=str(folder))], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for _ in range(30):
        said = int(child.stdout.readline())
    desk = Desk(folder)
    with pytest.raises(ConfigurationError, match="open in another process"):
        desk.open()
    child.kill()
    child.wait()
    said = max([said, *map(int, child.stdout.read().split())])
    child.stdout.close()
    assert len(desk.open().messages) >= 2 * said
    assert not desk.loud
    desk.store.close()


def test_a_lock_is_held_until_its_holder_lets_go(tmp_path: Path) -> None:
    lock, other = FileLock(tmp_path / "a.lock"), FileLock(tmp_path / "a.lock")
    assert lock.take()
    lock.note("7")
    assert is_in_use(lock.path)
    assert not other.take()
    lock.release(keep=True)  # as a crash does
    assert other.take()
    assert other.left == "7"
    other.release()
    assert not lock.path.exists()
    assert not is_in_use(lock.path)


# --- damage ------------------------------------------------------------------------------------------------


def crashed(desk: Desk, copy: Path) -> Desk:
    """A crash image with a journal of SQLite in it: two sessions, one with a question under way."""
    desk.keep(*TALK, session="s2")
    desk.keep(*TALK)
    desk.begin(*TALK, user("three"))
    intents = (Intent("c1", "note", "d", approved=False),)
    desk.door.run(desk.store.intending(RecordIntents("s1", "t2", intents, 5.0)))
    return desk.crash(copy)


def look(desk: Desk) -> object:
    opened = desk.open("s1")
    cut = opened.cut and (opened.cut.question, opened.cut.messages, dict(opened.cut.recorded), opened.cut.state)
    return opened.messages, cut, desk.open("s2").messages


@pytest.mark.parametrize("part", ["sessions.sqlite3", "sessions.sqlite3-wal", "clean"])
def test_a_flipped_bit_anywhere_is_seen_or_harmless(desk: Desk, tmp_path: Path, part: str) -> None:
    """D2. Either all is as it was, or it is said loudly and what is left is a prefix."""
    image = crashed(desk, tmp_path / "image")
    if part == "clean":
        shutil.copytree(image.folder, tmp_path / "closed")
        image = Desk(tmp_path / "closed")
        image.list()
        image.store.close()
        part = "sessions.sqlite3"
    before = Desk(shutil.copytree(image.folder, tmp_path / "before"))
    whole = look(before)
    before.store.close()
    size = (image.folder / part).stat().st_size
    chance, seen = random.Random(part), 0
    for number in range(60):
        folder = shutil.copytree(image.folder, tmp_path / f"flip{number}")
        file = folder / part
        data = bytearray(file.read_bytes())
        at = chance.randrange(size)
        data[at] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        after = Desk(folder)
        try:
            found = look(after)
        except AgentError:
            found = None
        after.store.close()
        assert found == whole or after.loud, f"bit at {at} of {part} changed {whole} to {found}"
        if after.loud:
            seen += 1
            if found is not None:
                assert list(found[2]) == list(TALK)[: len(found[2])] or "lost" in str(found[2])  # type: ignore[index]
        shutil.rmtree(folder)
    assert seen


@pytest.mark.parametrize("left", [0.0, 0.3, 0.6, 0.9, 0.999])
def test_a_torn_journal_of_sqlite_is_said_loudly_with_a_copy_kept(desk: Desk, tmp_path: Path, left: float) -> None:
    image = crashed(desk, tmp_path / "image")
    wal = image.folder / "sessions.sqlite3-wal"
    os.truncate(wal, int(wal.stat().st_size * left))
    image.list()
    assert image.loud
    assert (image.folder / "sessions.sqlite3.damaged-1").exists()
    assert stat.S_IMODE((image.folder / "sessions.sqlite3.damaged-1").stat().st_mode) == 0o600
    assert image.keep(*TALK, session="new") == ""
    image.store.close()
    again = Desk(image.folder)
    again.list()
    assert not again.loud, "it is said once"
    again.store.close()


@pytest.mark.parametrize("left", [0, 1, 100, 4096, 20_000])
def test_a_torn_file_is_said_loudly_and_a_new_one_begins(desk: Desk, tmp_path: Path, left: int) -> None:
    desk.keep(*TALK)
    desk.store.close()
    os.truncate(desk.folder / "sessions.sqlite3", left)
    after = Desk(desk.folder)
    assert after.keep(*TALK, session="new") == ""
    assert after.loud
    assert (desk.folder / "sessions.sqlite3.damaged-1").stat().st_size == left
    assert after.open("new").messages == TALK
    after.store.close()


def test_rubbish_in_place_of_the_file_is_kept_aside(desk: Desk) -> None:
    desk.folder.mkdir()
    (desk.folder / "sessions.sqlite3").write_bytes(b"not a database" * 1000)
    assert desk.keep(*TALK) == ""
    assert [event.kept for event in desk.heard.of(StoreDamaged)] == ["sessions.sqlite3.damaged-1"]
    assert (desk.folder / "sessions.sqlite3.damaged-1").read_bytes() == b"not a database" * 1000


def test_of_a_damaged_row_the_good_prefix_is_used(desk: Desk) -> None:
    desk.keep(*TALK)
    desk.store.close()
    connection = sqlite3.connect(desk.folder / "sessions.sqlite3")
    connection.execute("UPDATE messages SET body = replace(body, 'two', 'owt') WHERE position = 2")
    connection.commit()
    connection.close()
    after = Desk(desk.folder)
    assert after.open().messages == TALK[:2]
    assert [event.what for event in after.heard.of(StoreDamaged)] == [
        "s1: the session is damaged: the first 2 of 4 messages can be read"
    ]
    after.store.close()


DAMAGES = {
    "a message": "UPDATE messages SET body = replace(body, 'two', 'owt') WHERE position = 2",
    "the session": "UPDATE sessions SET title = 'another'",
    "the question under way": "UPDATE turns SET question = 'x' WHERE status = ''",
    "a call": "UPDATE calls SET digest = 'e'",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_session_is_told_and_copied_once_however_often_it_is_opened(desk: Desk, damage: str) -> None:
    """Each look would else take one of the few places for copies, until nothing could be opened any more."""
    desk.keep(*TALK)
    desk.begin(*TALK, user("three"))
    intents = (Intent("c1", "note", "d", approved=True),)
    desk.door.run(desk.store.intending(RecordIntents("s1", "t2", intents, 5.0)))
    desk.store.close()
    connection = sqlite3.connect(desk.folder / "sessions.sqlite3")
    connection.execute(DAMAGES[damage])
    connection.commit()
    connection.close()
    seen = []
    for _ in range(8):
        after = Desk(desk.folder)
        opened = after.open()
        recorded = dict(opened.cut.recorded) if opened.cut else None
        seen.append((opened.messages, recorded, len(after.heard.of(StoreDamaged))))
        after.store.close()
    assert [count for *_, count in seen] == [1] + 7 * [0]
    assert all(one[:2] == seen[0][:2] for one in seen)
    assert [path.name for path in desk.folder.glob("*damaged-?")] == ["sessions.sqlite3.damaged-1"]


def test_a_damaged_answer_of_a_task_is_told_before_the_task_is_asked_again(desk: Desk) -> None:
    def claiming(one: Desk) -> Any:
        return one.door.run(one.store.claiming("job", "the question", "s1", 5.0))

    claiming(desk)
    desk.keep(*TALK, task_id="job", report={"text": "four"})
    desk.store.close()
    connection = sqlite3.connect(desk.folder / "sessions.sqlite3")
    connection.execute("UPDATE tasks SET report = replace(report, 'four', 'five')")
    connection.commit()
    connection.close()
    after = Desk(desk.folder)
    assert claiming(after).report is None
    assert claiming(after).report is None
    assert [event.what for event in after.heard.of(StoreDamaged)] == [
        "what was kept of the task job is damaged: it is asked again"
    ]
    after.store.close()


def test_a_damaged_session_opens_also_when_no_copy_of_it_can_be_kept(desk: Desk) -> None:
    desk.keep(*TALK)
    desk.store.close()
    connection = sqlite3.connect(desk.folder / "sessions.sqlite3")
    connection.execute(DAMAGES["a message"])
    connection.commit()
    connection.close()
    for number in range(1, 6):
        (desk.folder / f"sessions.sqlite3.damaged-{number}").touch()
    after = Desk(desk.folder)
    assert after.open().messages == TALK[:2]
    assert [event.kept for event in after.heard.of(StoreDamaged)] == [""]
    after.store.close()


# --- a store that cannot be used -----------------------------------------------------------------------------


def unusable_newer(folder: Path) -> None:
    folder.mkdir()
    connection = sqlite3.connect(folder / "sessions.sqlite3")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()


def unusable_taken(folder: Path) -> None:
    (folder / "sessions.sqlite3").mkdir(parents=True)


def unusable_file(folder: Path) -> None:
    folder.write_text("not a folder")


def unusable_locks(folder: Path) -> None:
    folder.mkdir()
    (folder / "sessions").write_text("not a folder")


@pytest.mark.parametrize("spoil", [unusable_newer, unusable_taken, unusable_file, unusable_locks])
def test_an_unusable_store_is_said_once_and_is_off(tmp_path: Path, spoil: Any) -> None:
    spoil(tmp_path / "state")
    desk = Desk(tmp_path / "state")
    assert desk.keep(*TALK) == ""
    assert desk.keep(*TALK) == ""
    assert desk.door.run(desk.store.intending(RecordIntents("s1", "t", (), 1.0))) == ""
    assert [event.what for event in desk.heard.of(StoreFailed)] == ["sessions"]
    with pytest.raises(AgentError, match="sessions are not kept"):
        desk.list()
    desk.store.close()


def test_an_older_file_is_brought_up_and_loses_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(stores.sessions, "MIGRATIONS", MIGRATIONS[:1])
        old = Desk(desk.folder)
        old.keep(*TALK)
        old.begin(*TALK, user("three"))
        old.store.close()
    opened = desk.open()
    assert (opened.messages, opened.cut is not None, desk.loud) == (TALK, True, False)
    connection = sqlite3.connect(desk.folder / "sessions.sqlite3")
    assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    connection.close()


def test_a_history_that_was_kept_wrong_is_mended_when_it_is_opened(desk: Desk, tmp_path: Path) -> None:
    wrong = (user("one"), user("again"), assistant("1"))
    desk.keep(*wrong)
    desk.begin(*wrong, user("three"))
    opened = desk.crash(tmp_path / "after").open()
    mended = (Message("user", (Text("one"), Text("again"))), assistant("1"))
    assert opened.messages == mended
    assert opened.cut is not None
    assert (opened.cut.before, opened.cut.messages) == (mended, (*mended, user("three")))


def test_a_newer_file_is_left_as_it_is(tmp_path: Path) -> None:
    unusable_newer(tmp_path / "state")
    before = (tmp_path / "state" / "sessions.sqlite3").read_bytes()
    desk = Desk(tmp_path / "state")
    desk.keep(*TALK)
    assert "newer version" in desk.heard.of(StoreFailed)[0].why
    assert (tmp_path / "state" / "sessions.sqlite3").read_bytes() == before


@pytest.mark.usefixtures("_no_garbage")
@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_disk_that_hangs_is_waited_for_once_and_briefly(
    desk: Desk, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.keep(*TALK)
    hangs = threading.Event()
    real = desk.store._file.write
    monkeypatch.setattr(desk.store._file, "write", lambda work, gate=None: (hangs.wait(5.0), real(work, gate))[1])
    heard = Heard()

    def keep() -> str:
        flow = desk.store.checkpointing(Checkpoint("s1", "t", TALK, 0.2, "q", status="ok"))
        if kind == "blocking":
            return BlockingDoor(listeners=[heard]).run(flow)
        return asyncio.run(AsyncDoor(listeners=[heard]).run(flow))

    begun_s = time.monotonic()
    assert keep() == "no answer within 0.2 s"
    assert time.monotonic() - begun_s < 0.45
    assert keep() == "the disk does not answer"
    assert time.monotonic() - begun_s < 0.5
    assert len(heard.of(StoreFailed)) == 1
    hangs.set()
    while desk.store._hanging is not None and not desk.store._hanging.settled.is_set():
        time.sleep(0.001)
    assert keep() == ""


def test_nothing_is_opened_before_the_first_use(tmp_path: Path) -> None:
    SessionStore(tmp_path / "state", time.time).close()
    assert not (tmp_path / "state").exists()
