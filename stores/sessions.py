"""Keeps every session, so that a crash, a full disk or a second terminal loses none of it.  (floor 4)

    flow -> Checkpoint, RecordIntents, RecordOutcome -> one transaction each, aside -> sessions.sqlite3

A session belongs to one process at a time: it holds a lock on a file of its own, `sessions/ID.lock`,
from the first write on. Into that file goes the number of the last change that was acknowledged, so
that a crash leaves a witness: a journal of SQLite whose end was damaged is silently shorter, and
only the witness tells.

When the store cannot be opened at all it says so once and is off; the chat works without it. When
it fails later, each failure is told to the one who asked and, once, to the person; the next write
brings the session up to date. A disk that hangs is not waited for twice. What this does not do:
decide what is kept when (`core/journal.py`), or what a row looks like (`session_rows.py`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, TypeVar

from core.conversation import repaired
from core.journal import Checkpoint, Conflict, RecordIntents, RecordOutcome
from core.resume import CutOff
from errors import AgentError, AttemptTimedOut, ConfigurationError
from events import Event, StoreDamaged, StoreFailed
from flow import Flow, Gate, attempt, blocking, emit, pause
from messages import Message
from safe_text import one_line
from stores import dead_letters, journal, parked, session_rows
from stores.file_lock import FileLock, is_in_use
from stores.private import private_folder
from stores.session_rows import SessionInfo, Task
from stores.sqlite_file import SqliteFile, Work

T = TypeVar("T")

FILE_NAME, LOCKS_NAME = "sessions.sqlite3", "sessions"
MIGRATIONS = (
    f"{session_rows.SCHEMA};{journal.SCHEMA}",
    f"{dead_letters.SHELF.schema};{parked.SHELF.schema}",
)
READ_S_MAX = 5.0
"""How long listing and opening may take; opening checks the whole file."""

STOPPED_WAIT_S, STOPPED_WAITS_MAX = 0.01, 10
"""How often, and how many times, to look whether a call that was stopped is back: Ctrl-C gives the prompt in 0.2 s."""

Place: TypeAlias = Path | sqlite3.Connection
LATEST = "latest"
_WORD = "{:020d}"  # of always the same length, so that a newer one covers the older


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that is ours now: its history, and the question in it that was cut off, if any."""

    id: str
    messages: tuple[Message, ...]
    cut: CutOff | None


class SessionStore:
    """The sessions of one STATE_DIR. Nothing is opened before the first use.

    Args:
        place: the folder; or an open connection (made with `check_same_thread=False`), then nothing is locked.
        wall: the wall clock, in seconds.
    """

    def __init__(self, place: Place, wall: Callable[[], float]) -> None:
        self._folder = place if isinstance(place, Path) else None
        self._news: list[Event] = []
        news = self._news  # the file knows only the list: in a circle it could not be closed when it is let go
        self._file = SqliteFile(
            place / FILE_NAME if isinstance(place, Path) else place,
            MIGRATIONS,
            lambda what, kept: news.append(StoreDamaged(what, kept)),
        )
        self._wall = wall
        self._locks: dict[str, FileLock] = {}
        self._written: dict[str, tuple[int, int, tuple[Message, ...]]] = {}
        self._hanging: Gate | None = None
        self._stopped: Gate | None = None
        self._failing = self._may_pass = False
        self.off = ""
        """Why nothing is kept; "" while the store works."""

    # --- what a question asks for ------------------------------------------------------------------------

    def checkpointing(self, effect: Checkpoint) -> Flow[str]:
        """Keep a checkpoint; "" or what went wrong."""

        def keep(gate: Gate) -> None:
            self._hold(effect.session_id)
            change = self._file.write(
                lambda connection: session_rows.keep(connection, effect, self._known(effect.session_id), self._wall()),
                gate,
            )
            self._wrote(effect.session_id, change, effect.messages)

        return self._writing("this session", keep, effect.limit_s)

    def intending(self, effect: RecordIntents) -> Flow[str]:
        """Keep that calls are about to run; "" or what went wrong."""
        return self._journalling("what is about to run", effect, lambda connection: journal.intend(connection, effect))

    def recording(self, effect: RecordOutcome) -> Flow[str]:
        """Keep how a call ended; "" or what went wrong."""
        return self._journalling("how a call ended", effect, lambda connection: journal.settle(connection, effect))

    def _journalling(
        self, what: str, effect: RecordIntents | RecordOutcome, work: Callable[[sqlite3.Connection], None]
    ) -> Flow[str]:
        def change(connection: sqlite3.Connection) -> int:
            work(connection)
            return session_rows.touch(connection, effect.session_id, self._wall())

        def keep(gate: Gate) -> None:
            self._note(effect.session_id, self._file.write(change, gate))

        return self._writing(what, keep, effect.limit_s)

    # --- sessions ----------------------------------------------------------------------------------------

    def listing(self, limit: int) -> Flow[list[SessionInfo]]:
        """The sessions last used, newest first. Raises AgentError when they cannot be read."""

        def read(gate: Gate) -> list[SessionInfo]:
            found = self._file.read(lambda connection: session_rows.latest(connection, limit))
            return [replace(one, in_use=self._in_use(one.id)) for one in found]

        return self._reading(read)

    def opening(self, which: str) -> Flow[Opened]:
        """Open a session and hold it: its id, the beginning of its id, or "latest".

        Raises:
            ConfigurationError: there is no such session, several begin so, or another process has it open.
            AgentError: it cannot be read.
        """
        return self._reading(lambda gate: self._open(self._file.read(lambda connection: _resolved(connection, which))))

    def entering(self, session_id: str, limit_s: float) -> Flow[Opened | None]:
        """Open the session of exactly this id; None while another process has it open."""

        def enter(gate: Gate) -> Opened | None:
            with suppress(ConfigurationError):
                return self._open(session_id)
            return None

        return self._reading(enter, limit_s)

    def _open(self, session_id: str) -> Opened:
        self._hold(session_id)
        if lock := self._locks.get(session_id):
            self._mend(session_id, lock)
        found = self._file.read(lambda connection: session_rows.find(connection, session_id))
        if found is None:  # a task was given to it, and the program ended before it began
            return Opened(session_id, (), None)
        if found.damage:
            self._tell_damage(f"{session_id}: {found.damage}")
            known = found
            self._file.write(lambda connection: session_rows.settle_for(connection, session_id, known, self._wall()))
        self._written[session_id] = (self._file.generation, 0, found.messages)
        if found.cut is None:
            return Opened(session_id, repaired(found.messages), None)
        before = repaired(found.cut.before)
        messages = (*before, *found.cut.messages[len(found.cut.before) :])
        return Opened(session_id, before, replace(found.cut, before=before, messages=messages))

    def _mend(self, session_id: str, lock: FileLock) -> None:
        """Say so when the file knows less of a session than was acknowledged, and give up its open question."""
        noted = int(lock.left) if lock.left.isdecimal() else 0
        change = self._file.read(lambda connection: session_rows.change_of(connection, session_id))
        if noted > change:
            self._tell_damage(f"the last steps of the session {session_id} are lost")
            self._file.write(lambda connection: session_rows.lose(connection, session_id))
            lock.left = ""
            lock.note(_WORD.format(change))

    def _tell_damage(self, what: str) -> None:
        kept = ""
        with suppress(OSError):  # no place for one more copy: what is left is worth more than what is lost
            kept = self._file.keep_copy()
        self._news.append(StoreDamaged(what, kept))

    def leave(self, session_id: str) -> None:
        """Let other processes have this session."""
        self._written.pop(session_id, None)  # another process may write there now
        if lock := self._locks.pop(session_id, None):
            lock.release()

    def close(self) -> None:
        """Let go of everything. What hangs is left behind."""
        for session_id in list(self._locks):
            self.leave(session_id)
        self._file.close()

    # --- tasks -------------------------------------------------------------------------------------------

    def claiming(self, task_id: str, question: str, session_id: str, limit_s: float) -> Flow[Task]:
        """Give a task to a session unless it is given to one already; what is on record of it then.

        Raises:
            Conflict: it was given with another question.
            AgentError: it cannot be kept; then nobody could promise to do it only once.
        """
        mine = Task(session_rows.question_hash(question), session_id)

        def claim(connection: sqlite3.Connection) -> Task:
            found = session_rows.find_task(connection, task_id)
            if found is None:
                if session_rows.has_task(connection, task_id):
                    self._tell_damage(
                        f"what was kept of the task {one_line(task_id, 60)} is damaged: it is asked again"
                    )
                session_rows.put_task(connection, task_id, mine)
            elif found.question != mine.question:
                raise Conflict(f"the task {one_line(task_id, 60)} was given with another question before")
            return found or mine

        def call(gate: Gate) -> Task:
            self._hold(session_id)
            return self._file.write(claim, gate)

        return self._reading(call, limit_s)

    # --- what else stands in the file --------------------------------------------------------------------

    def transacting(self, work: Work[T], limit_s: float = READ_S_MAX) -> Flow[T]:
        """Do `work` on the file, in one transaction, for at most so long. Raises AgentError: nothing was changed."""
        return self._reading(lambda gate: self._file.write(work, gate), limit_s)

    # --- how it is done ----------------------------------------------------------------------------------

    def _writing(self, what: str, call: Callable[[Gate], None], limit_s: float) -> Flow[str]:
        if self._is_off():
            return ""
        problem = ""
        try:
            yield from self._aside(call, limit_s)
        except AgentError as error:
            problem = one_line(error.message)
            yield from self._failed(what, error)
        self._failing = bool(problem)
        return "" if self.off else problem

    def _reading(self, call: Callable[[Gate], T], limit_s: float = READ_S_MAX) -> Flow[T]:
        if self._is_off():
            raise AgentError(f"sessions are not kept: {self.off}", reason="disk")
        try:
            return (yield from self._aside(call, limit_s))
        except AgentError as error:
            if not self._file.generation:
                yield from self._failed("sessions", error)
            raise

    def _is_off(self) -> bool:
        hangs = self._hanging is not None and not self._hanging.settled.is_set()
        if self.off and self._may_pass and not hangs:
            self.off = ""  # what took too long is over: from here on all is kept again
        return bool(self.off)

    def _failed(self, what: str, error: AgentError) -> Flow[None]:
        problem = one_line(error.message)
        if not self._file.generation:  # it could not even be opened
            what, self.off = "sessions", problem
            self._may_pass = isinstance(error, AttemptTimedOut) or self._hanging is not None
        if not self._failing:
            yield from emit(StoreFailed(what, problem))

    def _aside(self, call: Callable[[Gate], T], limit_s: float) -> Flow[T]:
        """Run a call aside; then tell what it found damaged, also when it failed."""
        try:
            result = yield from self._bounded(call, limit_s)
        except AgentError:
            yield from self._telling()
            raise
        yield from self._telling()
        return result

    def _telling(self) -> Flow[None]:
        while self._news:
            yield from emit(self._news.pop(0))

    def _waiting(self) -> Flow[None]:
        """Give a call whose question was stopped (Ctrl-C) a moment to come back: it is under way, and need not hang."""
        for _ in range(STOPPED_WAITS_MAX):
            if self._stopped is None or self._stopped.settled.is_set():
                return
            yield from pause(STOPPED_WAIT_S)
        self._hanging = self._stopped

    def _bounded(self, call: Callable[[Gate], T], limit_s: float) -> Flow[T]:
        yield from self._waiting()
        if self._hanging is not None and not self._hanging.settled.is_set():
            raise AgentError("the disk does not answer", reason="disk")
        gate = Gate()
        begun: list[Gate] = []  # a call that never began does not hang

        def run(gate: Gate) -> T:
            begun.append(gate)
            self._sweep()
            return call(gate)

        try:
            return (yield from attempt(blocking(run, gate), limit_s))
        except OSError as error:  # of a lock; the file's own come typed
            raise AgentError(one_line(error.strerror or str(error)), reason="disk") from error
        except AgentError:
            if begun and not gate.settled.is_set():
                self._hanging = gate
            raise
        except GeneratorExit:
            if begun:
                self._stopped = gate
            raise

    def _sweep(self) -> None:
        """Before the first use, look at what crashed processes acknowledged last."""
        if self._folder is not None and not self._file.generation:
            private_folder(self._folder / LOCKS_NAME)
            self._file.read(lambda connection: None)
            for path in (self._folder / LOCKS_NAME).glob("*.lock"):
                lock = FileLock(path)
                if lock.take(0.0):  # not waiting: its holder knows what it acknowledged, or else who opens it will
                    self._mend(path.stem, lock)
                    lock.release(keep=bool(lock.left))  # no word: it was closed just now, and the look made a new file

    def _hold(self, session_id: str) -> None:
        if self._folder is None or session_id in self._locks:
            return
        lock = FileLock(self._lock_path(session_id))
        if not lock.take():
            raise ConfigurationError(
                f"the session {session_id} is open in another process",
                what_now="Close it there, or choose another with --resume ID.",
            )
        self._locks[session_id] = lock

    def _known(self, session_id: str) -> tuple[Message, ...]:
        """The history as this process knows it to stand in the file."""
        generation, _, messages = self._written.get(session_id, (0, 0, ()))
        return messages if generation == self._file.generation else ()

    def _wrote(self, session_id: str, change: int, messages: tuple[Message, ...]) -> None:
        if change > self._written.get(session_id, (0, 0, ()))[1]:  # else it hung, and a later one is through already
            self._written[session_id] = (self._file.generation, change, messages)
        self._note(session_id, change)

    def _note(self, session_id: str, change: int) -> None:
        """Leave a witness of what was acknowledged."""
        if lock := self._locks.get(session_id):
            lock.note(_WORD.format(change))

    def _in_use(self, session_id: str) -> bool:
        if self._folder is None or session_id in self._locks:
            return False
        return is_in_use(self._lock_path(session_id))

    def _lock_path(self, session_id: str) -> Path:
        assert self._folder is not None
        return self._folder / LOCKS_NAME / f"{session_id}.lock"


def _resolved(connection: sqlite3.Connection, which: str) -> str:
    if which == LATEST:
        found = [one.id for one in session_rows.latest(connection, 1)]
        if not found:
            raise ConfigurationError("there is no session to continue yet", what_now="Start one without -c.")
        return found[0]
    found = session_rows.ids_like(connection, which) if which else []
    if not found:
        raise ConfigurationError(f"there is no session {one_line(which, 60)!r}", what_now="/sessions lists them.")
    if len(found) > 1:
        names = ", ".join(found[:3]) + (", …" if found[3:] else "")
        raise ConfigurationError(
            f"several sessions begin with {one_line(which, 40)}: {names}", what_now="Give more of the id."
        )
    return found[0]
