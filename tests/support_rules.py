"""What the tests of the rules share: a clock that moves when told, and threads that meet where it hurts."""

from __future__ import annotations

import asyncio
import random
import selectors
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from types import FrameType, ModuleType
from typing import Any, TypeVar

from circuit_breaker import BreakerPolicy, CircuitBreaker
from errors import Outcome

T = TypeVar("T")


class Clock:
    """A clock that moves only when told."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class _Skipping(selectors.SelectSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if timeout is None and not ready:
            raise RuntimeError("everybody waits and nobody is due: this test would hang")
        if not ready:
            self._clock.now_s += timeout or 0.0
        return ready


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__(_Skipping(clock))

    def time(self) -> float:
        return self._clock.now_s


def run_jumping(clock: Clock, work: Coroutine[Any, Any, T]) -> T:
    """Run asyncio with a clock that jumps to the next timer instead of waiting for it."""
    with asyncio.Runner(loop_factory=lambda: _JumpingLoop(clock)) as runner:
        return runner.run(work)


def opened(clock: Clock, policy: BreakerPolicy | None = None, **kwargs: Any) -> CircuitBreaker:
    """A breaker that has just opened."""
    breaker = CircuitBreaker("it", policy, now=clock, **kwargs)
    for _ in range(breaker.policy.failure_threshold):
        breaker.acquire().settle(Outcome.FAILURE)
    return breaker


def half_opened(clock: Clock, policy: BreakerPolicy | None = None, **kwargs: Any) -> CircuitBreaker:
    """A breaker whose open time is just over."""
    breaker = opened(clock, policy, **kwargs)
    clock.now_s += breaker.policy.open_s
    return breaker


def run_together(
    module: ModuleType,
    *,
    rounds: int,
    threads: int,
    act: Callable[[int, int], None],
    between: Callable[[int], None],
    chance: float = 0.05,
) -> None:
    """Call `act(thread, round)` in all threads at once, round after round, and `between(round)` after each.

    Args:
        module: whose code is preempted.
        chance: how probable it is that a thread gives way before a bytecode of that module.

    Raises what `act` or `between` raised first.
    """
    errors: list[BaseException] = []
    start = threading.Barrier(threads)
    numbers = iter(range(rounds))
    end = threading.Barrier(threads, action=lambda: between(next(numbers)))

    def work(thread: int) -> None:
        try:
            for number in range(rounds):
                start.wait(timeout=30)
                sys.settrace(_preempted(module, random.Random(f"{thread}/{number}"), chance))
                try:
                    act(thread, number)
                finally:
                    sys.settrace(None)
                end.wait(timeout=30)
        except BaseException as error:
            errors.append(error)
            start.abort()
            end.abort()

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise min(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError))


def _preempted(module: ModuleType, draw: random.Random, chance: float) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that passes the interpreter on now and then.

    By itself CPython does so only at calls and jumps, and rarely: a race would hide for years.
    """

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        if draw.random() < chance:
            time.sleep(0)  # no wait: it only lets another thread run
        return trace

    return trace
