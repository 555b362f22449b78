"""What a closed circuit breaker costs each block of code it watches.

As in `breakers.py`, for those who write `with`: each block asks for leave, runs, and
reports. The measure is one object written by hand that is its own block: it cannot hold what
belongs to one call alone (whose probe was it?), which is what a permit is for.
"""

from __future__ import annotations

import time
from importlib import import_module
from types import TracebackType
from typing import Any

from benchmarks.breakers import FAILURES, OPEN_S, Refused, breaker_of, new_pybreaker, nothing, nothing_async
from benchmarks.measuring import OURS, Contender, Contest, Function, Result, measured
from circuit_breaker import CircuitBreaker


async def run(rounds: int | None = None) -> list[Result]:
    """Measure all contests of this file."""
    return [await measured(contest, rounds=rounds) for contest in contests()]


def contests() -> list[Contest]:
    """`with` and `async with`."""
    return [_block(), _block_async()]


def _block() -> Contest:
    return Contest(
        name="breaker-block",
        title="breaker around a with block",
        function=nothing,
        is_async=False,
        aim=3.0,
        contenders=[
            Contender("hand-written", "one shared object with __enter__ and __exit__", _block_by_hand),
            Contender(OURS, "with breaker.permit()", _permit),
            Contender("circuitbreaker", "if breaker.opened: raise; with breaker", _with_circuitbreaker),
            Contender("interlock-cb", "with breaker", _with_interlock),
            Contender("nopanic", "with breaker.guard()", _with_nopanic),
            Contender("pybreaker", "with breaker.calling()", _with_pybreaker),
            Contender("purgatory", "with factory.get_breaker(name)", _with_purgatory),
        ],
        absent={"aiobreaker": "no block of its own"},
    )


def _block_async() -> Contest:
    return Contest(
        name="breaker-block-async",
        title="breaker around an async with block",
        function=nothing_async,
        is_async=True,
        aim=3.0,
        contenders=[
            Contender("hand-written", "the same with __aenter__ and __aexit__", _block_by_hand_async),
            Contender(OURS, "async with breaker.permit()", _permit_async),
            Contender("interlock-cb", "async with breaker", _async_with_interlock),
            Contender("nopanic", "async with breaker.guard()", _async_with_nopanic),
            Contender("purgatory", "async with await factory.get_breaker(name)", _async_with_purgatory),
        ],
        absent={"aiobreaker": "no block of its own", "circuitbreaker": "with only", "pybreaker": "with only"},
    )


# --- by hand ---------------------------------------------------------------------------------------------


class _ByHand:
    __slots__ = ("failures", "open_until_s")

    def __init__(self) -> None:
        self.failures, self.open_until_s = 0, 0.0

    def __enter__(self) -> None:
        if self.failures >= FAILURES and time.monotonic() < self.open_until_s:
            raise Refused

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.failures = 0
        else:
            self.failures += 1
            self.open_until_s = time.monotonic() + OPEN_S


class _ByHandAsync(_ByHand):
    __slots__ = ()

    async def __aenter__(self) -> None:
        if self.failures >= FAILURES and time.monotonic() < self.open_until_s:
            raise Refused

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, _)


def _block_by_hand(function: Function) -> Function:
    breaker = _ByHand()

    def call() -> Any:
        with breaker:
            return function()

    return call


def _block_by_hand_async(function: Function) -> Function:
    breaker = _ByHandAsync()

    async def call() -> Any:
        async with breaker:
            return await function()

    return call


# --- ours, and the peers ---------------------------------------------------------------------------------


def _permit(function: Function) -> Function:
    breaker = CircuitBreaker("benchmark")

    def call() -> Any:
        with breaker.permit():
            return function()

    return call


def _permit_async(function: Function) -> Function:
    breaker = CircuitBreaker("benchmark")

    async def call() -> Any:
        async with breaker.permit():
            return await function()

    return call


def _with_circuitbreaker(function: Function) -> Function:
    breaker = breaker_of("circuitbreaker")

    def call() -> Any:
        if breaker.opened:
            raise Refused
        with breaker:
            return function()

    return call


def _with_interlock(function: Function) -> Function:
    breaker = breaker_of("interlock-cb")

    def call() -> Any:
        with breaker:
            return function()

    return call


def _async_with_interlock(function: Function) -> Function:
    breaker = breaker_of("interlock-cb")

    async def call() -> Any:
        async with breaker:
            return await function()

    return call


def _with_nopanic(function: Function) -> Function:
    breaker = breaker_of("nopanic")

    def call() -> Any:
        with breaker.guard():
            return function()

    return call


def _async_with_nopanic(function: Function) -> Function:
    breaker = breaker_of("nopanic")

    async def call() -> Any:
        async with breaker.guard():
            return await function()

    return call


def _with_pybreaker(function: Function) -> Function:
    breaker = new_pybreaker()

    def call() -> Any:
        with breaker.calling():
            return function()

    return call


def _with_purgatory(function: Function) -> Function:
    factory = import_module("purgatory").SyncCircuitBreakerFactory(default_threshold=FAILURES, default_ttl=OPEN_S)

    def call() -> Any:
        with factory.get_breaker("benchmark"):
            return function()

    return call


def _async_with_purgatory(function: Function) -> Function:
    factory = import_module("purgatory").AsyncCircuitBreakerFactory(default_threshold=FAILURES, default_ttl=OPEN_S)

    async def call() -> Any:
        async with await factory.get_breaker("benchmark"):
            return await function()

    return call
