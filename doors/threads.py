"""Runs blocking calls on daemon threads that can be left behind but never hold the exit.  (floor 4)

Python's default executor joins its threads at exit: a tool that hangs for an hour would
hold the program for an hour (measured: 6 s after a 0.2 s timeout). A thread cannot be
stopped, so a call that overran its time is abandoned: its gate makes sure that it does
nothing any more, its late result is dropped, and when `ABANDONED_MAX` of them pile up new
calls are refused instead of filling the machine.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from errors import AgentError
from flow import Gate

ABANDONED_MAX = 16
CLAIMED_WAIT_S = 0.1
"""How long a door waits for a call that is past its point of no return: a rename and an fsync."""


class ToolCrashed(AgentError):
    """A call raised something that is not an Exception (SystemExit, KeyboardInterrupt): it must not end the program."""

    reason = "crashed"


class DaemonExecutor(concurrent.futures.ThreadPoolExecutor):
    """An executor for `loop.set_default_executor` (name look-ups): a daemon thread per call, none joined at exit."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)  # asyncio insists on the class; its own threads are never started

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # handed to whoever waits; nothing may escape a daemon thread
                future.set_exception(error)

        threading.Thread(target=run, daemon=True, name="unflappable-aside").start()
        return future


class Worker:
    """Starts gated calls aside and counts those that were left behind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left_behind = 0

    @property
    def left_behind(self) -> int:
        """Calls that overran their time and still run."""
        return self._left_behind

    def start(self, call: Callable[[Gate], Any], gate: Gate, when_done: Callable[[], None]) -> Running:
        """Start `call(gate)` on its own daemon thread; `when_done` is called from that thread.

        Raises AgentError when too many earlier calls hang.
        """
        if self._left_behind >= ABANDONED_MAX:
            raise AgentError(f"{self._left_behind} earlier calls still hang; not starting more", reason="crashed")
        running = Running(self, gate)
        thread = threading.Thread(target=running.run, args=(call, when_done), daemon=True, name="unflappable-tool")
        thread.start()
        return running

    def count(self, change: int) -> None:
        """One more call left behind, or one of those came back."""
        with self._lock:
            self._left_behind += change


class Running:
    """One call under way on its thread."""

    def __init__(self, worker: Worker, gate: Gate) -> None:
        self._worker, self.gate = worker, gate
        self._lock = threading.Lock()
        self._state = "running"

    def run(self, call: Callable[[Gate], Any], when_done: Callable[[], None]) -> None:
        """The thread's body."""
        result: Any = None
        error: BaseException | None = None
        try:
            result = call(self.gate)
        except Exception as problem:  # handed to the waiting flow
            error = problem
        except BaseException as problem:  # a tool that calls sys.exit() must not end the program
            error = ToolCrashed(f"it raised {type(problem).__name__}")
        self.gate.settle(result, error)
        with self._lock:
            late, self._state = self._state == "left", "done"
        if late:
            self._worker.count(-1)
        when_done()

    def leave(self) -> None:
        """Stop waiting for it."""
        with self._lock:
            if self._state != "running":
                return
            self._state = "left"
        self._worker.count(1)

    def outcome(self) -> Any:
        """The result of a settled call, or its error raised."""
        if self.gate.error is not None:
            raise self.gate.error
        return self.gate.result


async def contained(call: Callable[[], Awaitable[Any]]) -> Any:
    """Run a tool's coroutine function so that it cannot end the loop or pass for a cancel from outside."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        return await call()
    except asyncio.CancelledError:
        if task is not None and task.cancelling() > before:
            raise
        raise ToolCrashed("it cancelled itself") from None
    except Exception:  # an ordinary failure goes on as it is: the flow decides what it means
        raise
    except BaseException as error:  # SystemExit from a tool would tear the loop down
        raise ToolCrashed(f"it raised {type(error).__name__}") from None
