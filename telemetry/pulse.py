"""Beats while the agent lives, so that health checks can tell working from stuck from gone.  (floor 4)

    the loop     every 2 s: "I was here", a stamp in memory         agent_async.py
    a thread     every 2 s, and when a question begins or ends, or the program is told to end:
                 writes what is so to the heartbeat file

A blocked loop leaves no stamps, so its heartbeat grows old although the thread goes on writing it:
the age told is that of the stamp. The loop itself never touches the disk, since a disk that hangs
would then hang the chat. Without a loop (`agent.py`, or a loop that is not running between two
questions of an embedded agent) there is nothing that could be blocked: the thread stamps for itself,
and stuck is a question that outlives its deadline. Both are judged in `stores/heartbeat.py`.

The lag is by how much the last stamp came too late, or is late by now. It is seen at the beats
only: a loop blocked for a moment between two of them leaves no mark.

Whatever is wrong with the disk is said once in the log and tried anew at the next beat.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from circuit_breaker import BreakerSnapshot
from safe_text import one_line
from stores.heartbeat import BEAT_S, Beat, HeartbeatFile, boot_id
from version import VERSION

if TYPE_CHECKING:
    import asyncio  # agent.py lives without it

REMOVED_S_MAX = 0.5
"""How long the end of the program waits for the file to be removed; the lock falls in any case."""


class Pulse:
    """The heartbeat of one agent. Nothing is written or started before `start`.

    Args:
        state_dir: where the file stands, below `agents/`.
        practice: whether the practice model answers.
        breakers: tells how the breakers stand; called in a thread.
        now: CLOCK_MONOTONIC, in seconds.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        practice: bool,
        breakers: Callable[[], Iterable[BreakerSnapshot]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = HeartbeatFile(state_dir)
        self._practice, self._breakers, self._now = practice, breakers, now
        self._boot_id = boot_id()
        self._deadline_s: float | None = None
        self._stamp = (0.0, 0.0, 0.0)  # when the loop was here, when it is due again, by how much it was late
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()  # unlike an Event it may be set in a signal handler
        self._stopping = self._stopped = False
        self._in_trouble = False

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Beat from now on. Doing so again is no mistake.

        Args:
            loop: the running loop this is called on, whose health is told; None without asyncio.
        """
        if self._stopped:
            return
        if loop is not None:
            self._loop = loop
            self._beat(self._now())
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread left
                self._tell(error)
            else:
                self._thread = thread

    def begin_turn(self, deadline_s: float) -> None:
        """A question is under way, which ends by `deadline_s`, on the clock of `now`."""
        self._deadline_s = deadline_s
        self._woken.put(None)

    def end_turn(self) -> None:
        """It is over."""
        self._deadline_s = None
        self._woken.put(None)

    def stopping(self) -> None:
        """The program was told to end: it is not ready any more. For signal handlers too."""
        self._stopping = True
        self._woken.put(None)

    def stop(self) -> None:
        """The agent ends: take the file away. On the loop's thread, or where there is no loop."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._woken.put(None)
        if self._thread is not None:
            self._thread.join(REMOVED_S_MAX)

    # --- on the loop

    def _beat(self, due_s: float | None = None) -> None:
        assert self._loop is not None
        now_s = self._now()
        _, planned_s, _ = self._stamp
        self._stamp = (now_s, now_s + BEAT_S, max(0.0, now_s - (planned_s if due_s is None else due_s)))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(BEAT_S, self._beat)
        self._woken.put(None)

    # --- in the thread

    def _run(self) -> None:
        while not self._stopped:
            self._write()
            with suppress(queue.Empty):
                self._woken.get(timeout=BEAT_S)
                while True:
                    self._woken.get_nowait()
        self._file.remove()

    def _write(self) -> None:
        try:
            self._file.write(self.beat())
        except Exception as error:  # the last wall: health checks may miss an agent, its user may not
            self._tell(error)
        else:
            self._in_trouble = False

    def _tell(self, error: Exception) -> None:
        if not self._in_trouble:
            words = "health checks cannot see this agent: its heartbeat cannot be written: %s"
            logging.getLogger("unflappable.heartbeat").warning(words, one_line(str(error), 400))
        self._in_trouble = True

    def beat(self) -> Beat:
        """What is so at this moment."""
        now_s, deadline_s = self._now(), self._deadline_s
        at_s, lag_s = now_s, None
        if self._loop is not None and self._loop.is_running():
            at_s, due_s, late_s = self._stamp
            lag_s = max(late_s, now_s - due_s)
        return Beat(
            pid=os.getpid(),
            boot_id=self._boot_id,
            at_s=at_s,
            state="stopping" if self._stopping else "idle" if deadline_s is None else "turn",
            deadline_s=deadline_s,
            loop_lag_s=lag_s,
            version=VERSION,
            practice=self._practice,
            breakers=tuple(self._breakers()),
        )
