"""Runs flows without asyncio: timeouts come from SIGALRM.  (floor 4)

Unix and main thread only. The alarm handler raises `AlarmFired` only while the door is in
an *interruptible leaf*: a socket, a sleep, a prompt, a wait for a thread. Elsewhere it
leaves a mark that is checked before the next leaf, so that neither our own bookkeeping nor
the screen is torn in the middle, and a finished result wins. `AlarmFired` carries the
identity of its Attempt, so nested timeouts end the right one, and it is a BaseException:
the SDK wraps every Exception it meets into one of its own.

Stopping (Ctrl-C, SIGTERM) takes the same way: `stop()` is called from a signal handler.
`Together` runs its flows one after the other; side by side needs asyncio or threads.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, TypeVar

from doors.limits import Limit
from doors.threads import CLAIMED_WAIT_S, Running, Worker, contained
from errors import ConfigurationError, OutcomeUnknown
from events import Event, Listener, Scope
from flow import Attempt, Awaiting, Blocking, Bus, Effect, Emit, Flow, Pause, Together, Within, not_an_effect

T = TypeVar("T")
Performer = Callable[[Any, "BlockingBranch"], Any]
FlowPerformer = Callable[[Any], Flow[Any]]
REARM_S_MIN = 0.001
"""The shortest alarm: setitimer(0) would switch it off."""

RING_AGAIN_S = 0.15
"""Python swallows what is raised inside a finalizer or a weakref callback: so it is raised again after so many
seconds, until it has left the leaf. Long enough for a leaf that heeds it to clean up."""


class AlarmFired(BaseException):
    """The time of one attempt is over."""

    def __init__(self, alarm: Limit) -> None:
        super().__init__()
        self.alarm = alarm


class Stopped(BaseException):
    """Somebody stopped the program from outside; `signum` says how."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum


class BlockingDoor:
    """Runs flows on the main thread.

    Args:
        performers: for each world effect a function `(effect, branch) -> result`.
        flows: for each coarse effect a function that makes the flow to run in its place.
        listeners: called with every stamped event.
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
        self._alarms: list[Limit] = []
        self._in_leaf = False
        self._stopped: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, flow: Flow[T], scope: Scope | None = None) -> T:
        """Run a flow to its end. Raises Stopped after `stop()`, with the flow closed."""
        if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
            raise ConfigurationError(
                "timeouts by SIGALRM need Unix and the main thread",
                what_now="Use agent_async.py, which runs everywhere.",
            )
        before = signal.signal(signal.SIGALRM, self._on_alarm)
        try:
            return BlockingBranch(self, scope or {}).run(flow)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            self._alarms.clear()
            self._stopped = None

    def stop(self, signum: int) -> None:
        """Stop the running flow. For signal handlers: raises Stopped at once inside a leaf."""
        self._stopped = signum
        if self._in_leaf:
            signal.setitimer(signal.ITIMER_REAL, RING_AGAIN_S)
            raise Stopped(signum)

    # --- alarms

    def _on_alarm(self, signum: int, frame: FrameType | None) -> None:
        if self._stopped is None and self._expired() is None:
            self._rearm()
        elif self._in_leaf:
            signal.setitimer(signal.ITIMER_REAL, RING_AGAIN_S)
            self.check()

    def _expired(self) -> Limit | None:
        """The expired alarm that ended first; of those that end together the innermost."""
        now_s = time.monotonic()
        expired = [alarm for alarm in reversed(self._alarms) if alarm.at_s <= now_s]
        return min(expired, key=lambda alarm: alarm.at_s, default=None)

    def _rearm(self) -> None:
        at_s = min((alarm.at_s for alarm in self._alarms), default=None)
        left_s = 0 if at_s is None else max(REARM_S_MIN, at_s - time.monotonic())
        signal.setitimer(signal.ITIMER_REAL, left_s if left_s < 1e8 else 0)

    def push(self, alarm: Limit) -> None:
        """Arm one more timeout."""
        self._alarms.append(alarm)
        self._rearm()

    def pop(self, alarm: Limit) -> None:
        """Disarm it, and give the outer ones their remaining time back."""
        while self._alarms and self._alarms.pop() is not alarm:
            pass
        self._rearm()

    def heard(self) -> None:
        """Restart the silence timer of the innermost attempt that has one."""
        for alarm in reversed(self._alarms):
            if alarm.heard(time.monotonic()):
                return

    # --- leaves

    def leaf(self, call: Callable[[], T]) -> T:
        """Run something that may be interrupted: the only place where alarms and stops strike."""
        self.check()
        self._in_leaf = True
        try:
            self.check()  # whatever struck between the first check and the mark
            return call()
        finally:
            self._in_leaf = False

    def check(self) -> None:
        """Raise what struck while no leaf was running."""
        if self._stopped is not None:
            raise Stopped(self._stopped)
        if (expired := self._expired()) is not None:
            raise AlarmFired(expired)

    def tell(self, event: Event, scope: Scope) -> None:
        """Emit from inside or outside a leaf; listeners are never interrupted."""
        in_leaf, self._in_leaf = self._in_leaf, False
        try:
            self.bus.tell(event, scope)
        finally:
            self._in_leaf = in_leaf
        if in_leaf:
            self.check()

    def private_loop(self) -> asyncio.AbstractEventLoop:
        """The one loop, in a daemon thread, that runs the coroutine functions of tools."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True, name="unflappable-loop").start()
        return self._loop


class BlockingBranch:
    """One running branch: its scope and its door."""

    def __init__(self, door: BlockingDoor, scope: Scope) -> None:
        self._door, self._scope = door, scope

    def emit(self, event: Event) -> None:
        """Tell the listeners, stamped with this branch's scope."""
        self._door.tell(event, self._scope)

    def heard(self) -> None:
        """Content arrived."""
        self._door.heard()

    def run(self, flow: Flow[T]) -> T:
        """Drive one flow: perform what it yields, send the outcome, throw errors in."""
        step: Callable[[Any], Effect] = flow.send
        value: Any = None
        try:
            while True:
                effect = step(value)
                try:
                    value, step = self._perform(effect), flow.send
                except Exception as error:  # errors are the flow's to decide; alarms and stops are not Exceptions
                    value, step = error, flow.throw
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            flow.close()

    def _perform(self, effect: Effect) -> Any:
        door = self._door
        match effect:
            case Emit(event):
                return self.emit(event)
            case Pause(s):
                return door.leaf(lambda: time.sleep(min(s, threading.TIMEOUT_MAX)))
            case Attempt():
                return self._attempt(effect)
            case Within(scope, flow):
                return BlockingBranch(door, {**self._scope, **scope}).run(flow)
            case Together(flows):
                return [self.run(flow) for flow in flows]
            case Blocking():
                return self._blocking(effect)
            case Awaiting():
                return self._awaiting(effect)
        if make := door.flows.get(type(effect)):
            return self.run(make(effect))
        if performer := door.performers.get(type(effect)):
            return door.leaf(lambda: performer(effect, self))
        raise not_an_effect(effect)

    def _attempt(self, effect: Attempt[Any]) -> Any:
        alarm = Limit(effect.s, effect.silence_s, time.monotonic())
        self._door.push(alarm)
        try:
            return self.run(effect.flow)
        except AlarmFired as fired:
            if fired.alarm is not alarm:
                raise
            raise alarm.error() from None
        finally:
            self._door.pop(alarm)

    def _blocking(self, effect: Blocking[Any]) -> Any:
        done = threading.Lock()
        done.acquire()
        running = self._door.worker.start(effect.call, effect.gate, done.release)
        try:
            self._door.leaf(done.acquire)
        except (AlarmFired, Stopped) as end:
            return _overrun(effect, running, end)
        return running.outcome()

    def _awaiting(self, effect: Awaiting[Any]) -> Any:
        done = threading.Lock()
        done.acquire()

        future = asyncio.run_coroutine_threadsafe(contained(effect.call), self._door.private_loop())
        future.add_done_callback(lambda _: done.release())
        try:
            self._door.leaf(done.acquire)
        except (AlarmFired, Stopped):
            future.cancel()
            raise
        return future.result()


def _overrun(effect: Blocking[Any], running: Running, end: BaseException) -> Any:
    """Time is over, or somebody stopped the program, while the call runs."""
    gate = effect.gate
    if not gate.settled.is_set() and gate.abandon():
        running.leave()
        raise end
    gate.settled.wait(CLAIMED_WAIT_S)
    if not isinstance(end, AlarmFired):
        running.leave()
        raise end  # from outside: the gate keeps what is known, for `closing`
    if gate.settled.is_set():
        return running.outcome()
    running.leave()
    raise OutcomeUnknown("it was past its point of no return when its time was over")
