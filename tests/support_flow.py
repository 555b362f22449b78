"""A small virtual driver for the tests of rules: Pause, Emit, Attempt and Within, many flows side by side."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from errors import AttemptTimedOut
from events import Event
from flow import Attempt, Emit, Flow, Pause, Within, not_an_effect

T = TypeVar("T")
E = TypeVar("E", bound=Event)


@dataclass(eq=False)
class Frame:
    flow: Flow[Any]
    scope: dict[str, str | int]
    end_s: float = float("inf")
    error: AttemptTimedOut | None = None


@dataclass(eq=False)
class Task:
    """One running flow: its stack of frames and, at the end, its result or error."""

    frames: list[Frame]
    result: Any = None
    error: BaseException | None = None
    turn: int = 0

    def close(self) -> None:
        """Cancel, as a door does: innermost first, nothing thrown in."""
        self.turn += 1
        while self.frames:
            self.frames.pop().flow.close()


@dataclass
class World:
    """A clock that jumps, everything that was emitted, every pause that was asked for."""

    now_s: float = 0.0
    heard: list[tuple[float, Event, dict[str, str | int]]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    _timers: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: Any = field(default_factory=itertools.count)

    def now(self) -> float:
        return self.now_s

    def of(self, kind: type[E]) -> list[E]:
        return [event for _, event, _ in self.heard if isinstance(event, kind)]

    def names(self) -> list[str]:
        return [type(event).__name__ for _, event, _ in self.heard]

    def run(self, flow: Flow[T]) -> T:
        """Run one flow to its end."""
        task = self.start(flow)
        self.go()
        if task.error is not None:
            raise task.error
        result: T = task.result
        return result

    def start(self, flow: Flow[Any], at_s: float | None = None) -> Task:
        """Begin a flow, now or later; `go` moves the clock."""
        task = Task([Frame(flow, {})])
        self._at(self.now_s if at_s is None else at_s, lambda: self._step(task))
        return task

    def go(self, until_s: float = float("inf")) -> None:
        """Let everything happen that happens up to this time."""
        while self._timers and self._timers[0][0] <= until_s:
            at_s, _, act = heapq.heappop(self._timers)
            self.now_s = max(self.now_s, at_s)
            act()
        if until_s < float("inf"):
            self.now_s = max(self.now_s, until_s)

    def _at(self, at_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (at_s, next(self._order), act))

    def _step(self, task: Task, error: BaseException | None = None) -> None:
        value: Any = None
        while task.frames:
            task.turn += 1
            frame = task.frames[-1]
            try:
                effect = frame.flow.throw(error) if error is not None else frame.flow.send(value)
            except StopIteration as end:
                task.frames.pop()
                value, error = end.value, None
                continue
            except BaseException as raised:
                task.frames.pop()
                value, error = None, raised
                continue
            value = error = None
            if isinstance(effect, Pause):
                self._pause(task, effect.s)
                return
            self._perform(task, frame, effect)
        task.result, task.error = value, error

    def _perform(self, task: Task, frame: Frame, effect: Any) -> None:
        if isinstance(effect, Emit):
            self.heard.append((self.now_s, effect.event, frame.scope))
        elif isinstance(effect, Within):
            task.frames.append(Frame(effect.flow, {**frame.scope, **effect.scope}))
        elif isinstance(effect, Attempt):
            end_s = self.now_s + effect.s
            task.frames.append(Frame(effect.flow, frame.scope, end_s, AttemptTimedOut(effect.s)))
        else:
            raise not_an_effect(effect)

    def _pause(self, task: Task, s: float) -> None:
        self.pauses.append(s)
        turn = task.turn
        first = min(task.frames, key=lambda frame: frame.end_s)
        if first.end_s < self.now_s + s:
            self._at(first.end_s, lambda: self._expire(task, turn, first))
        else:
            self._at(self.now_s + s, lambda: self._step(task) if task.turn == turn else None)

    def _expire(self, task: Task, turn: int, frame: Frame) -> None:
        if task.turn == turn:
            while frame in task.frames:
                task.frames.pop().flow.close()
            self._step(task, frame.error)


def failing(errors: Iterable[Exception | None], takes_s: float = 0.0) -> Callable[[int], Flow[str]]:
    """A factory of attempts: each takes `takes_s` and raises the next error, or answers where it is None."""
    waiting = iter(errors)

    def attempt(number: int) -> Flow[str]:
        if takes_s:
            yield Pause(takes_s)
        error = next(waiting)
        if error is not None:
            raise error
        return f"answer {number}"

    return attempt
