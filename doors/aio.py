"""Runs flows on asyncio.  (floor 4)

Timeouts are `asyncio.timeout` (never `wait_for`: on 3.11 it can swallow a racing cancel).
Cancellation is not thrown into flows: the door closes them and re-raises. One case needs
care: a blocking call that is past its point of no return when its time is over. The door
waits 0.1 s for it; a finished result wins over the timeout, and the next thing the flow
wants done ends it. Still unfinished is `OutcomeUnknown`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from doors.threads import CLAIMED_WAIT_S, DaemonExecutor, Running, Worker, contained
from errors import AttemptTimedOut, OutcomeUnknown
from events import Event, Listener, Scope
from flow import Attempt, Awaiting, Blocking, Bus, Effect, Emit, Flow, Pause, Together, Within, not_an_effect, run_async

T = TypeVar("T")
Performer = Callable[[Any, "AsyncBranch"], Awaitable[Any]]
FlowPerformer = Callable[[Any], Flow[Any]]


class AsyncDoor:
    """Runs flows on the running loop.

    Args:
        performers: for each world effect a coroutine function `(effect, branch) -> result`.
        flows: for each coarse effect a function that makes the flow to run in its place.
        listeners: called on the loop with every stamped event; must not block.
    """

    def __init__(
        self,
        performers: Mapping[type[Effect], Performer] | None = None,
        flows: Mapping[type[Effect], FlowPerformer] | None = None,
        listeners: Sequence[Listener] = (),
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.performers = dict(performers or {})
        self.flows = dict(flows or {})
        self.bus = Bus(listeners, now, wall)
        self.worker = Worker()

    async def run(self, flow: Flow[T], scope: Scope | None = None) -> T:
        """Run a flow to its end. Cancelling this closes the flow."""
        use_daemon_executor()
        return await AsyncBranch(self, scope or {}, ()).run(flow)


def use_daemon_executor() -> None:
    """Let name look-ups of this loop run on threads that never hold the exit."""
    loop = asyncio.get_running_loop()
    if not isinstance(getattr(loop, "_default_executor", None), DaemonExecutor):
        loop.set_default_executor(DaemonExecutor())


class _Timer:
    """One Attempt's timeout, and its silence's where that ends it too.

    A model is heard fifty times a second, and rescheduling costs more than reading the words. So
    hearing only notes the time; a bell that rings at the end of a silence looks at the note first.
    """

    def __init__(self, s: float, silence_s: float | None) -> None:
        self.s, self.silence_s = s, silence_s
        self._loop = asyncio.get_running_loop()
        self._heard_s = self._loop.time()
        self._end_s = self._heard_s + s
        self._silent = False
        self._bell: asyncio.TimerHandle | None = None
        self.scope = asyncio.timeout_at(self._end_s)
        self._set_bell()

    def heard(self) -> None:
        self._heard_s = self._loop.time()

    def close(self) -> None:
        if self._bell is not None:
            self._bell.cancel()

    def error(self) -> AttemptTimedOut:
        limit_s = self.silence_s if self._silent else None
        return AttemptTimedOut(self.s if limit_s is None else limit_s, silent=self._silent)

    def _set_bell(self) -> None:
        self._bell = None
        if self.silence_s is not None and (due_s := self._heard_s + self.silence_s) < self._end_s:
            self._bell = self._loop.call_at(due_s, self._ring, due_s)

    def _ring(self, due_s: float) -> None:
        if self.scope.expired():
            return
        if self.silence_s is not None and self._heard_s + self.silence_s > due_s:
            self._set_bell()
            return
        self._silent = True
        self.scope.reschedule(self._loop.time())


class AsyncBranch:
    """One running branch: its scope, and its attempts from the outermost to the innermost."""

    def __init__(self, door: AsyncDoor, scope: Scope, timers: tuple[_Timer, ...]) -> None:
        self._door, self._scope, self._timers = door, scope, timers

    def emit(self, event: Event) -> None:
        """Tell the listeners, stamped with this branch's scope."""
        self._door.bus.tell(event, self._scope)

    def heard(self) -> None:
        """Content arrived: restart the silence timer of the innermost attempt that has one."""
        for timer in reversed(self._timers):
            if timer.silence_s is not None:
                timer.heard()
                return

    async def run(self, flow: Flow[T]) -> T:
        """Drive one flow: perform what it yields, send the outcome, throw errors in."""
        return await run_async(flow, self._perform)

    async def _perform(self, effect: Effect) -> Any:
        if type(effect) is Emit:
            self.emit(effect.event)
            return None
        if any(timer.scope.expired() for timer in self._timers):
            raise asyncio.CancelledError  # a finished result outran its timeout; the flow may not go on
        match effect:
            case Pause(s):
                return await asyncio.sleep(s)
            case Attempt():
                return await self._attempt(effect)
            case Within(scope, flow):
                return await AsyncBranch(self._door, {**self._scope, **scope}, self._timers).run(flow)
            case Together(flows):
                return await self._together(flows)
            case Blocking():
                return await self._blocking(effect)
            case Awaiting(call):
                return await contained(call)
        if make := self._door.flows.get(type(effect)):
            return await self.run(make(effect))
        if performer := self._door.performers.get(type(effect)):
            return await performer(effect, self)
        raise not_an_effect(effect)

    async def _attempt(self, effect: Attempt[Any]) -> Any:
        timer = _Timer(effect.s, effect.silence_s)
        try:
            async with timer.scope:
                return await AsyncBranch(self._door, self._scope, (*self._timers, timer)).run(effect.flow)
        except TimeoutError:
            if timer.scope.expired():
                raise timer.error() from None
            raise
        finally:
            timer.close()

    async def _together(self, flows: Sequence[Flow[Any]]) -> list[Any]:
        if len(flows) == 1:
            return [await self.run(flows[0])]
        # Each branch is its own task, so a timer of ours cannot be seen from in there: cancelled
        # by it, a branch takes the cancel for one from outside, and its gates tell what happened.
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(AsyncBranch(self._door, self._scope, ()).run(flow)) for flow in flows]
        return [task.result() for task in tasks]

    async def _blocking(self, effect: Blocking[Any]) -> Any:
        loop, settled = asyncio.get_running_loop(), asyncio.Event()

        def when_done() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(settled.set)

        running = self._door.worker.start(effect.call, effect.gate, when_done)
        try:
            await settled.wait()
        except asyncio.CancelledError:
            return await self._overrun(effect, running, settled)
        return running.outcome()

    async def _overrun(self, effect: Blocking[Any], running: Running, settled: asyncio.Event) -> Any:
        """Time is over, or somebody cancelled, while the call runs."""
        if not effect.gate.settled.is_set() and effect.gate.abandon():
            running.leave()
            raise asyncio.CancelledError
        await _uncancellable_wait(settled, CLAIMED_WAIT_S)
        if not self._only_timers_cancelled():
            running.leave()
            raise asyncio.CancelledError  # from outside: the gate keeps what is known, for `closing`
        if effect.gate.settled.is_set():
            return running.outcome()
        running.leave()
        raise OutcomeUnknown("it was past its point of no return when its time was over")

    def _only_timers_cancelled(self) -> bool:
        task = asyncio.current_task()
        expired = sum(timer.scope.expired() for timer in self._timers)
        return task is not None and expired > 0 and task.cancelling() <= expired


async def _uncancellable_wait(settled: asyncio.Event, s: float) -> None:
    end_s = asyncio.get_running_loop().time() + s
    waiter = asyncio.ensure_future(settled.wait())
    while not waiter.done() and (left_s := end_s - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.wait([waiter], timeout=left_s)
        except asyncio.CancelledError:
            continue  # a second cancel changes nothing: this wait is bounded, and the first is re-raised by the caller
    waiter.cancel()
