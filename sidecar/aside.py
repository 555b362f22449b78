"""Asks what may take long on a thread aside, once for all who want to know, and keeps the answer a while.  (floor 6)

Probes come every few seconds, scrapers and people when they like, and somebody may come a hundred
times a second: the model's API and the disk are still asked once in a few seconds. A disk that
hangs, a name server that is silent or a database that is locked costs one thread and a bounded
wait, and holds up no other answer. A thread cannot be stopped: as long as one hangs, no second
one is started for the same question.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from doors.threads import DaemonExecutor

T = TypeVar("T")
THREADS = DaemonExecutor()


class Kept(Generic[T]):
    """The answer to one question, asked anew when it is older than `keep_s`.

    Args:
        ask: blocks, on a thread of its own.
        keep_s: seconds an answer stays good.
        wait_s: the longest anybody waits for a new one.
    """

    def __init__(self, ask: Callable[[], T], *, keep_s: float, wait_s: float) -> None:
        self._ask, self._keep_s, self._wait_s = ask, keep_s, wait_s
        self._asked: asyncio.Future[tuple[T, float]] | None = None

    async def get(self) -> T:
        """The answer. Raises TimeoutError when there is none in time, and what `ask` raises."""
        asked = self._asked
        if asked is None or self._is_stale(asked):
            asked = self._asked = asyncio.get_running_loop().run_in_executor(THREADS, self._timed)
        await asyncio.wait({asked}, timeout=self._wait_s)
        if not asked.done():
            raise TimeoutError
        return asked.result()[0]

    def _timed(self) -> tuple[T, float]:
        return self._ask(), time.monotonic()

    def _is_stale(self, asked: asyncio.Future[tuple[T, float]]) -> bool:
        if not asked.done():
            return False
        return asked.exception() is not None or time.monotonic() - asked.result()[1] > self._keep_s


class Busy(Exception):
    """As many questions as may be asked side by side are under way."""


class Limited:
    """Questions that differ each time: at most `places` side by side, each bounded in time."""

    def __init__(self, places: int, wait_s: float) -> None:
        self._places, self._wait_s = places, wait_s

    async def get(self, ask: Callable[[], T]) -> T:
        """The answer; who got it holds a place until `give_back`.

        Raises Busy, TimeoutError, and what `ask` raises: then the place is given back already, or as soon as its
        thread ends.
        """
        if not self._places:
            raise Busy
        self._places -= 1
        asked = asyncio.get_running_loop().run_in_executor(THREADS, ask)
        await asyncio.wait({asked}, timeout=self._wait_s)
        if not asked.done():
            asked.add_done_callback(self._late)
            raise TimeoutError
        try:
            return asked.result()
        except BaseException:  # whatever the question raised goes on; only its place must come back
            self.give_back()
            raise

    def give_back(self) -> None:
        """Another question may be asked."""
        self._places += 1

    def _late(self, asked: asyncio.Future[T]) -> None:
        asked.exception()  # seen: nobody waits for it any more
        self.give_back()
