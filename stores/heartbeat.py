"""The heartbeat of an agent: a small file that says it is alive, kept by the agent, read by health checks.  (floor 4)

    STATE_DIR/agents/<pid>-<random>.json        one for each running agent, 0600 in a folder 0700

    locked, beat at most 10 s old               alive
    locked, older, however old                  stuck: its loop is blocked, or the program is stopped
    locked, a question 5 s past its deadline    stuck: the timeout that must end it did not
    not locked                                  gone: whoever reads this first removes the file

The agent holds a lock on its file, and the system drops it when the agent ends, however that
happens: so a killed agent is gone at once, and neither a process id (which another container
counts differently, and the next process gets again) nor an age ever declares one dead. For the lock to
live as long as the agent, the file is never replaced: each record is written over the last one
on the locked descriptor, in one call, with its length and checksum in front. A reader who meets
half a record sees that and looks again. It also needs no space a full disk would not give.

A beat is told on CLOCK_MONOTONIC, which all processes of one boot share and which stands still
while a machine sleeps. Seen from another boot (a network file system) or where the system tells
no boot id apart (macOS, Windows: there all clocks that are not ahead count as this boot's), the age
comes from the file's time instead when the clocks cannot be compared. Where files cannot be
locked at all, an old beat means gone: nobody could tell it from stuck.

What this does not do: beat. That is `telemetry/pulse.py`.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import re
import secrets
import stat
import time
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from circuit_breaker import BreakerSnapshot, State
from platform_edges import hold, is_held
from safe_text import one_line
from stores.private import private_folder

FOLDER = "agents"

BEAT_S = 2.0
"""Between two beats."""

STUCK_AGE_S = 10.0
"""A locked heartbeat older than this is a stuck agent: four beats missed, and a second for a slow disk."""

LATE_S = 5.0
"""Past its deadline by more than this, a question no longer ends by itself: its own end takes 0.1 s."""

RECORD_BYTES_MAX = 65_536
"""Of one record: some 400 breakers. What is longer is no heartbeat."""

BLOCK_BYTES = 4_096
"""Records are padded to this, so that the next one finds its place on the disk already taken."""

STATES = ("idle", "turn", "stopping")

READS_MAX = 5
"""Looks at a record that is being written; a write takes microseconds."""

_NAME = re.compile(r"\d{1,10}-[0-9a-f]{16}\.json")
_HEAD = re.compile(rb"([0-9a-f]{8}) (\d{6})\n")


@dataclass(frozen=True, slots=True)
class Beat:
    """What an agent says of itself.

    Attributes:
        pid: its process id, as it knows it; for people, since containers count for themselves.
        boot_id: of the system it runs on; "" where the system does not tell.
        at_s: when, on CLOCK_MONOTONIC.
        state: "idle", "turn", or "stopping": it was told to end, and takes no more questions.
        deadline_s: of the question under way, on the same clock; None without one.
        loop_lag_s: by how much its event loop is late; None without one (`agent.py`).
        version: of the program.
        practice: whether the practice model answers.
        breakers: how they stand.
    """

    pid: int
    boot_id: str
    at_s: float
    state: str
    deadline_s: float | None
    loop_lag_s: float | None
    version: str
    practice: bool
    breakers: tuple[BreakerSnapshot, ...]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One agent as a reader sees it: its last beat, how old that is, and whether the agent is stuck.

    `beat_age_s` is in seconds; the other fields are those of `Beat`.
    """

    pid: int
    boot_id: str
    state: str
    deadline_s: float | None
    beat_age_s: float
    loop_lag_s: float | None
    breakers: tuple[BreakerSnapshot, ...]
    version: str
    practice: bool
    stuck: bool


def boot_id() -> str:
    """Of the running system; "" where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


# --- written ---------------------------------------------------------------------------------------------


class HeartbeatFile:
    """The file as its agent sees it; belongs to one thread. Nothing is made before the first write.

    Args:
        state_dir: the STATE_DIR that the agent shares with its health checks.
    """

    def __init__(self, state_dir: Path) -> None:
        name = f"{os.getpid()}-{secrets.token_hex(8)}.json"
        self.path = state_dir / FOLDER / name
        self._handle: int | None = None

    def write(self, beat: Beat) -> None:
        """Put this beat in the place of the last one.

        Raises:
            OSError: it could not be written. The lock is let go: an agent that cannot say that
                it lives must not look stuck. The next write tries anew.
        """
        data = _record(beat)
        try:
            if self._handle is None or not self._is_in_place(self._handle):
                self._open()
            assert self._handle is not None
            os.lseek(self._handle, 0, os.SEEK_SET)
            if os.write(self._handle, data) != len(data):
                raise OSError(28, "only a part of the heartbeat could be written", str(self.path))
        except OSError:
            self._let_go()
            raise

    def remove(self) -> None:
        """The agent ends: take the file away, as far as that can be done."""
        if self._handle is None:
            return
        if os.name != "nt" and self._is_in_place(self._handle):
            with suppress(OSError):
                os.unlink(self.path)  # before the lock falls, so that no reader meets a file of nobody
        self._let_go()
        if os.name == "nt":  # which removes no open file
            with suppress(OSError):
                os.unlink(self.path)

    def _open(self) -> None:
        self._let_go()
        private_folder(self.path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        with suppress(FileNotFoundError):
            os.unlink(self.path)  # of our own name, from before a write that failed
        self._handle = os.open(self.path, flags, 0o600)
        if hasattr(os, "fchmod"):
            with suppress(PermissionError):  # some file systems have no modes
                os.fchmod(self._handle, 0o600)
        with suppress(OSError):  # no locks here: readers go by age
            hold(self._handle)

    def _is_in_place(self, handle: int) -> bool:
        """Whether the open file still is the one under its name: somebody may have cleared the folder."""
        try:
            return os.path.samestat(os.fstat(handle), os.lstat(self.path))
        except OSError:
            return False

    def _let_go(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            with suppress(OSError):
                os.close(handle)


def _record(beat: Beat) -> bytes:
    said = {field.name: getattr(beat, field.name) for field in fields(beat)}
    said["breakers"] = [_breaker_said(one) for one in beat.breakers]
    body = json.dumps(said).encode("ascii")
    data = b"%08x %06d\n%b\n" % (zlib.crc32(body), len(body), body)
    if len(data) > RECORD_BYTES_MAX:
        raise OSError(27, f"a heartbeat of {len(data):,} bytes is too long")
    return data.ljust(-(-len(data) // BLOCK_BYTES) * BLOCK_BYTES)


def _breaker_said(one: BreakerSnapshot) -> dict[str, Any]:
    return {
        "name": one.name,
        "state": one.state,
        "failures_in_a_row": one.failures_in_a_row,
        "retry_after_s": one.retry_after_s if math.isfinite(one.retry_after_s) else None,  # JSON knows no infinity
        "probes": one.probes,
        "manual": one.manual,
    }


# --- read ------------------------------------------------------------------------------------------------


def read_heartbeats(state_dir: Path, now_s: float | None = None) -> list[Heartbeat]:
    """The agents that share this STATE_DIR and live; files of agents that are gone are removed.

    Never raises. A file that is held but says nothing sensible is told once in the log and left out; one
    that is still empty belongs to an agent that is just starting.

    Args:
        state_dir: where the agents keep their state.
        now_s: what CLOCK_MONOTONIC says; None asks it.
    """
    now_s = time.monotonic() if now_s is None else now_s
    here = boot_id()
    try:
        names = sorted(os.listdir(state_dir / FOLDER))
    except FileNotFoundError:
        return []
    except OSError as error:
        _warn(f"the heartbeats of agents cannot be read: {error}")
        return []
    paths = [state_dir / FOLDER / name for name in names if _NAME.fullmatch(name)]
    return [found for path in paths if (found := _look(path, here, now_s)) is not None]


def _look(path: Path, here: str, now_s: float) -> Heartbeat | None:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        return None  # its agent ended meanwhile
    except OSError as error:
        _warn(f"a heartbeat cannot be read: {error}")
        return None
    try:
        return _judge(path, handle, here, now_s)
    except OSError as error:
        _warn(f"the heartbeat {path} cannot be read: {error}")
        return None
    finally:
        os.close(handle)


def _judge(path: Path, handle: int, here: str, now_s: float) -> Heartbeat | None:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        _warn(f"{path} is not a plain file: it is no heartbeat")
        return None
    try:
        locked: bool | None = is_held(handle)
    except OSError:
        locked = None  # this file system has no locks
    if locked is False:
        _remove(path)
        return None
    beat = _read_whole(path, handle)
    if beat is None:
        return None
    age_s = _age_s(beat, handle, here, now_s)
    if locked is None and age_s > STUCK_AGE_S:
        _remove(path)
        return None
    return _seen(beat, age_s)


def _remove(path: Path) -> None:
    with suppress(OSError):  # a disk that cannot be written to: then it stays, as a file of nobody
        os.unlink(path)


def _seen(beat: Beat, age_s: float) -> Heartbeat:
    now_s = beat.at_s + age_s  # on the agent's clock, whichever that is
    late = beat.deadline_s is not None and now_s > beat.deadline_s + LATE_S
    return Heartbeat(
        pid=beat.pid,
        boot_id=beat.boot_id,
        state=beat.state,
        deadline_s=beat.deadline_s,
        beat_age_s=age_s,
        loop_lag_s=beat.loop_lag_s,
        breakers=beat.breakers,
        version=beat.version,
        practice=beat.practice,
        stuck=age_s > STUCK_AGE_S or late,
    )


def _age_s(beat: Beat, handle: int, here: str, now_s: float) -> float:
    """Seconds since the beat: by its own clock where that is ours too, else by the time of the file."""
    ahead_s = beat.at_s - now_s
    if beat.boot_id == here and ahead_s < STUCK_AGE_S:
        return max(0.0, -ahead_s)  # ahead: beaten since `now_s` was read
    return max(0.0, time.time() - os.fstat(handle).st_mtime)


def _read_whole(path: Path, handle: int) -> Beat | None:
    why = "it was never whole"
    for _ in range(READS_MAX):
        os.lseek(handle, 0, os.SEEK_SET)
        data = os.read(handle, RECORD_BYTES_MAX)
        if not data:
            return None  # just being made
        head = _HEAD.match(data)
        body = data[head.end() : head.end() + int(head[2])] if head else b""
        if head and zlib.crc32(body) == int(head[1], 16):
            try:
                return _beat(json.loads(body))
            except (ValueError, TypeError, KeyError, RecursionError) as error:  # whole, but not ours
                why = f"{type(error).__name__}: {error}"
                break
    _warn(f"the heartbeat {path} makes no sense and is left out: {why}")
    return None


def _beat(said: Any) -> Beat:
    """A record's values, checked. Raises ValueError, TypeError or KeyError; ignores what it does not know."""
    deadline_s, lag_s = said["deadline_s"], said["loop_lag_s"]
    return Beat(
        pid=int(said["pid"]),
        boot_id=str(said["boot_id"]),
        at_s=_finite(said["at_s"]),
        state=STATES[STATES.index(said["state"])],
        deadline_s=None if deadline_s is None else _finite(deadline_s),
        loop_lag_s=None if lag_s is None else _finite(lag_s),
        version=str(said["version"]),
        practice=bool(said["practice"]),
        breakers=_breakers(said["breakers"]),
    )


def _finite(said: Any) -> float:
    value = float(said)
    if not math.isfinite(value):
        raise ValueError(f"{value} is no time")
    return value


def _breakers(said: Iterable[Mapping[str, Any]]) -> tuple[BreakerSnapshot, ...]:
    return tuple(
        BreakerSnapshot(
            name=str(one["name"]),
            state=State(one["state"]),
            failures_in_a_row=int(one["failures_in_a_row"]),
            retry_after_s=math.inf if one["retry_after_s"] is None else _finite(one["retry_after_s"]),
            probes=int(one["probes"]),
            manual=bool(one["manual"]),
        )
        for one in said
    )


@functools.lru_cache(256)  # probes come every few seconds: the same trouble is said once
def _warn(message: str) -> None:
    logging.getLogger("unflappable.heartbeat").warning("%s", one_line(message, 400))
