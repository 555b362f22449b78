"""Runs flows on a virtual clock: no waiting, no threads, one order of events for one input.  (floor 4)

A scheduler over generators. Time stands still while flows run and jumps to the next timer
when all of them wait, so an hour of outages takes milliseconds and every run with the same
seed is the same to the byte. World effects are performed by *simulations*, which are flows
themselves: a simulated model yields `Pause(0.3)` before it answers.

Blocking calls run inline and take no virtual time, unless `pace` says how long: then a call runs as
on a thread of its own, and timeouts and cancels meet its gate as they do in the real doors. Before each
effect `watch` may end the run where it stands, with any BaseException: Ctrl-C, or the death of the process.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from doors.limits import ENDLESS, Limit
from doors.threads import CLAIMED_WAIT_S, ToolCrashed
from errors import OutcomeUnknown
from events import Event, Listener, Scope
from flow import Attempt, Awaiting, Blocking, Bus, Effect, Emit, Flow, Gate, Pause, Together, Within, not_an_effect

T = TypeVar("T")
Simulation = Callable[[Any, "VirtualBranch"], Flow[Any]]
FlowPerformer = Callable[[Any], Flow[Any]]
Watch = Callable[[Effect, "VirtualBranch"], None]
Pace = Callable[["VirtualBranch"], tuple[float, float]]
"""The seconds until a blocking call does its work, and from then until it is back."""


class Stuck(Exception):
    """Nothing can happen any more and the flow has not ended: it waits for something that never comes."""


class _Frame:
    """One flow on a branch's stack, with the limit it runs under."""

    __slots__ = ("effect", "expired", "flow", "limit", "scope")

    def __init__(self, flow: Flow[Any], scope: Scope, effect: Effect | None = None, limit: Limit = ENDLESS) -> None:
        self.flow, self.scope, self.effect, self.limit = flow, scope, effect, limit
        self.expired = False


class _Aside:
    """A blocking call on a thread of its own: it acts at one time and is back at another, wanted or not."""

    def __init__(self, branch: VirtualBranch, effect: Blocking[Any], acts_s: float, back_s: float) -> None:
        self.gate = effect.gate
        self.back_at_s = branch.door.now() + acts_s + back_s
        self._branch, self._call, self._wait_id = branch, effect.call, branch.wait_id
        self._outcome: tuple[Any, Exception | None] = (None, None)
        branch.door.call_at(self.back_at_s - back_s, self._act)

    def _act(self) -> None:
        self._outcome = _outcome(self._call, self.gate)
        self._branch.door.call_at(self.back_at_s, self.settle)

    def settle(self) -> None:
        """It is back. For whoever still waits the flow goes on."""
        if not self.gate.settled.is_set():
            self.gate.settle(*self._outcome)
            self._branch.wake(self._wait_id, *self._outcome)

    def is_soon_back(self, now_s: float) -> bool:
        """Whether it is back before the doors lose patience with a call past its point of no return."""
        return self.back_at_s <= now_s + CLAIMED_WAIT_S


class VirtualBranch:
    """A stack of flows that runs until all of them wait; the last in, the first to run."""

    def __init__(self, door: VirtualDoor, flow: Flow[Any], scope: Scope, when_done: Callable[[Any], None]) -> None:
        self.door, self.when_done = door, when_done
        self.frames = [_Frame(flow, scope)]
        self.wait_id = 0
        self.children: list[VirtualBranch] = []
        self._aside: _Aside | None = None

    @property
    def path(self) -> tuple[Effect, ...]:
        """The simulated and coarse effects that this branch is in, the innermost last."""
        return tuple(frame.effect for frame in self.frames if frame.effect is not None)

    def emit(self, event: Event) -> None:
        """Tell the listeners, stamped with this branch's scope."""
        self.door.bus.tell(event, self.frames[-1].scope)

    def heard(self) -> None:
        """Content arrived: restart the silence timer of the innermost attempt that has one."""
        for frame in reversed(self.frames):
            if frame.limit.heard(self.door.now()):
                self.door.call_at(frame.limit.at_s, partial(self.expire, frame))
                return

    def close(self) -> None:
        """Cancel: close every flow, the innermost first."""
        self.wait_id += 1
        aside = self._aside
        # Past its point of no return it is waited for a moment, so that `closing` knows how it ended.
        if aside is not None and not aside.gate.abandon() and aside.is_soon_back(self.door.now()):
            aside.settle()
        self._close_above(0)

    def _close_above(self, depth: int) -> None:
        for child in self.children:
            child.close()
        self.children = []
        while len(self.frames) > depth:
            self.frames.pop().flow.close()

    def expire(self, frame: _Frame) -> None:
        """A timer went off: end this frame's attempt unless it was restarted or is over."""
        if frame not in self.frames or self.door.now() < frame.limit.at_s or frame.expired:
            return
        aside = self._aside
        if aside is not None and not aside.gate.settled.is_set() and not aside.gate.abandon():
            frame.expired = True  # a result that comes now still counts, but the flow may not go on
            if not aside.is_soon_back(self.door.now()):
                unknown = OutcomeUnknown("it was past its point of no return when its time was over")
                self.door.call_at(self.door.now() + CLAIMED_WAIT_S, partial(self.wake, self.wait_id, error=unknown))
            return
        self.wait_id += 1
        self._close_above(self.frames.index(frame))
        self.step(error=frame.limit.error())

    def wake(self, wait_id: int, value: Any = None, error: Exception | None = None) -> None:
        """Resume with an outcome, unless a timeout or a cancel came first."""
        if wait_id == self.wait_id:
            self.step(value, error)

    def step(self, value: Any = None, error: Exception | None = None) -> None:
        """Run until this branch waits for something or is done."""
        self.wait_id += 1
        self._aside = None
        while self.frames:
            frame = self.frames[-1]
            try:
                effect = frame.flow.throw(error) if error is not None else frame.flow.send(value)
            except StopIteration as end:
                self.frames.pop()
                value, error = end.value, None
                continue
            except Exception as raised:  # thrown on into the flow below, as any door does
                self.frames.pop()
                value, error = None, raised
                continue
            value, error = None, None
            if not isinstance(effect, Emit) and (late := next((one for one in self.frames if one.expired), None)):
                self._close_above(self.frames.index(late))
                error = late.limit.error()
                continue
            try:
                if not self._perform(effect):
                    return
                value = self.door.answer
            except Exception as raised:  # the door's own refusal is the flow's to decide
                error = raised
        if error is not None:
            raise error
        self.when_done(value)

    def _perform(self, effect: Effect) -> bool:
        """True when the answer is there already (in `door.answer`), or a new frame is to run."""
        door, scope = self.door, self.frames[-1].scope
        door.answer = None
        if door.watch is not None:
            door.watch(effect, self)
        match effect:
            case Emit(event):
                self.emit(event)
                return True
            case Pause(s):
                wait_id = self.wait_id
                door.call_at(door.now() + s, lambda: self.wake(wait_id))
                return False
            case Attempt(flow):
                frame = _Frame(flow, scope, limit=Limit(effect.s, effect.silence_s, door.now()))
                self.frames.append(frame)
                door.call_at(frame.limit.at_s, lambda: self.expire(frame))
                return True
            case Within(extra, flow):
                self.frames.append(_Frame(flow, {**scope, **extra}))
                return True
            case Together(flows):
                return self._together(flows, scope)
        if simulate := door.simulations.get(type(effect)):
            self.frames.append(_Frame(simulate(effect, self), scope, effect))
            return True
        if make := door.flows.get(type(effect)):
            self.frames.append(_Frame(make(effect), scope, effect))
            return True
        match effect:
            case Blocking():
                acts_s, back_s = door.pace(self) if door.pace is not None else (0.0, 0.0)
                if acts_s or back_s:
                    self._aside = _Aside(self, effect, acts_s, back_s)
                    return False
                door.answer = _inline(effect)
                return True
            case Awaiting(call):
                door.answer = _immediate(call())
                return True
        raise not_an_effect(effect)

    def _together(self, flows: Sequence[Flow[Any]], scope: Scope) -> bool:
        results: list[Any] = [None] * len(flows)
        left, wait_id = len(flows), self.wait_id
        if not flows:
            self.door.answer = []
            return True

        def finish(position: int, result: Any) -> None:
            nonlocal left
            results[position], left = result, left - 1
            if left == 0:
                self.children = []
                self.wake(wait_id, results)

        self.children = [
            VirtualBranch(self.door, flow, scope, lambda result, position=n: finish(position, result))  # type: ignore[misc]
            for n, flow in enumerate(flows)
        ]
        for child in self.children:
            self.door.call_at(self.door.now(), child.step)
        return False


class VirtualDoor:
    """Runs flows on a virtual clock that starts at `start_s`.

    Args:
        simulations: for each world effect a function `(effect, branch) -> Flow`, the world's answer.
        flows: for each coarse effect a function that makes the flow to run in its place.
        listeners: called with every stamped event.
        start_s: where the clock begins.
        watch: called before each effect; a BaseException it raises ends the run there.
        pace: how long the blocking call takes that this branch is about to make.
    """

    def __init__(
        self,
        simulations: Mapping[type[Effect], Simulation] | None = None,
        flows: Mapping[type[Effect], FlowPerformer] | None = None,
        listeners: Sequence[Listener] = (),
        *,
        start_s: float = 1_000.0,
        watch: Watch | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.simulations = dict(simulations or {})
        self.flows = dict(flows or {})
        self.watch, self.pace = watch, pace
        self.answer: Any = None
        self._now_s = start_s
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.bus = Bus(listeners, self.now, self.now)

    def now(self) -> float:
        """The virtual time in seconds."""
        return self._now_s

    def call_at(self, at_s: float, call: Callable[[], None]) -> None:
        """Run `call` when the clock reaches `at_s`; calls of one instant run in the order made."""
        if at_s != float("inf"):
            self._count += 1
            heapq.heappush(self._timers, (max(at_s, self._now_s), self._count, call))

    def run(self, flow: Flow[T], scope: Scope | None = None, *, cancel_at_s: float | None = None) -> T:
        """Run a flow to its end; at `cancel_at_s` close it as a Ctrl-C would and raise KeyboardInterrupt.

        Raises Stuck when the flow waits for something that can never come.
        """
        ended: list[Any] = []
        branch = VirtualBranch(self, flow, scope or {}, ended.append)
        self.call_at(self._now_s, branch.step)
        try:
            while self._timers and not ended:
                at_s, _, call = heapq.heappop(self._timers)
                if cancel_at_s is not None and at_s >= cancel_at_s:
                    self._now_s = max(self._now_s, cancel_at_s)
                    raise KeyboardInterrupt
                self._now_s = at_s
                call()
            if not ended:
                raise Stuck(f"at {self._now_s:g} s nothing is left to happen")
            result: T = ended[0]
            return result
        finally:
            branch.close()  # its timers find nobody any more; calls aside go on, as threads do


def _inline(effect: Blocking[Any]) -> Any:
    if effect.gate.settled.is_set():
        raise OutcomeUnknown("a gate serves one call only")
    result, error = _outcome(effect.call, effect.gate)
    effect.gate.settle(result, error)  # for `closing`
    if error is not None:
        raise error
    return result


def _outcome(call: Callable[[Gate], Any], gate: Gate) -> tuple[Any, Exception | None]:
    try:
        return call(gate), None
    except Exception as error:  # the flow's to decide
        return None, error
    except SystemExit as error:
        return None, ToolCrashed(f"it raised {type(error).__name__}")


def _immediate(awaitable: Any) -> Any:
    """Run a coroutine that never really waits."""
    coroutine = awaitable.__await__()
    try:
        next(coroutine)
    except StopIteration as end:
        return end.value
    except SystemExit as error:
        raise ToolCrashed(f"it raised {type(error).__name__}") from None
    coroutine.close()
    raise TypeError("on the virtual clock a tool's coroutine may not wait for anything real")
