"""What rate limiters and bulkheads cost the calls they let through.

The limits are so high that nobody ever waits: what is measured is the book-keeping. The
measures are a token bucket written by hand, without a lock, and a counter that goes up and down.
"""

from __future__ import annotations

import asyncio
import time
from importlib import import_module

from benchmarks.breakers import nothing, nothing_async
from benchmarks.measuring import OURS, Contender, Contest, Function, Result, measured
from bulkhead import Bulkhead
from rate_limiter import TokenBucket

MANY = 1_000_000_000
"""Calls a second, and at once: more than any machine makes."""
PLACES = 16


async def run(rounds: int | None = None) -> list[Result]:
    """Measure all contests of this file."""
    return [await measured(contest, rounds=rounds) for contest in contests()]


def contests() -> list[Contest]:
    """Limiters and bulkheads around plain functions and coroutine functions."""
    return [*_limiters(), *_bulkheads()]


def _limiters() -> list[Contest]:
    ours = Contender(OURS, "@TokenBucket(per_minute=..., burst=...)", our_limiter)
    nopanic = Contender("nopanic", "@rate_limit(rate, per=1.0)", nopanic_limiter)
    return [
        Contest(
            name="limiter-sync",
            title="rate limiter around a plain function",
            function=nothing,
            is_async=False,
            leads=True,
            contenders=[Contender("hand-written", "a token bucket in a closure", _bucket_by_hand), ours, nopanic],
            absent={"aiolimiter": "asyncio only", "interlock-cb": "has no rate limiter"},
        ),
        Contest(
            name="limiter-async",
            title="rate limiter around a coroutine function",
            function=nothing_async,
            is_async=True,
            leads=True,
            contenders=[
                Contender("hand-written", "a token bucket in a closure", _bucket_by_hand_async),
                ours,
                Contender("aiolimiter", "async with AsyncLimiter(rate, 1)", aiolimiter_limiter),
                nopanic,
            ],
            absent={"interlock-cb": "has no rate limiter"},
        ),
    ]


def _bulkheads() -> list[Contest]:
    ours = Contender(OURS, "@Bulkhead(name, places=16)", lambda function: Bulkhead("benchmark", PLACES)(function))
    nopanic = Contender("nopanic", "@bulkhead(16, max_wait=0)", _nopanic_bulkhead)
    interlock = Contender("interlock-cb", "@Pipeline(BulkheadStrategy(16))", _interlock_bulkhead)
    return [
        Contest(
            name="bulkhead-sync",
            title="bulkhead around a plain function",
            function=nothing,
            is_async=False,
            leads=True,
            contenders=[
                Contender("hand-written", "a counter, try and finally", _count_by_hand),
                ours,
                interlock,
                nopanic,
            ],
        ),
        Contest(
            name="bulkhead-async",
            title="bulkhead around a coroutine function",
            function=nothing_async,
            is_async=True,
            leads=True,
            contenders=[
                Contender("hand-written", "a counter, try and finally", _count_by_hand_async),
                ours,
                Contender("asyncio", "async with Semaphore(16) (it waits)", _semaphore),
                interlock,
                nopanic,
            ],
        ),
    ]


# --- by hand ---------------------------------------------------------------------------------------------


class Full(Exception):
    """What the hand-written ones raise when they let nobody through."""


class _Bucket:
    __slots__ = ("at_s", "level")

    def __init__(self) -> None:
        self.level, self.at_s = float(MANY), time.monotonic()

    def take(self) -> None:
        now_s = time.monotonic()
        level = self.level + (now_s - self.at_s) * MANY
        if level > MANY:
            level = float(MANY)
        if level < 1.0:
            raise Full
        self.level, self.at_s = level - 1.0, now_s


def _bucket_by_hand(function: Function) -> Function:
    bucket = _Bucket()

    def limited() -> object:
        bucket.take()
        return function()

    return limited


def _bucket_by_hand_async(function: Function) -> Function:
    bucket = _Bucket()

    async def limited() -> object:
        bucket.take()
        return await function()

    return limited


def _count_by_hand(function: Function) -> Function:
    taken = 0

    def walled() -> object:
        nonlocal taken
        if taken >= PLACES:
            raise Full
        taken += 1
        try:
            return function()
        finally:
            taken -= 1

    return walled


def _count_by_hand_async(function: Function) -> Function:
    taken = 0

    async def walled() -> object:
        nonlocal taken
        if taken >= PLACES:
            raise Full
        taken += 1
        try:
            return await function()
        finally:
            taken -= 1

    return walled


# --- ours, and the peers ---------------------------------------------------------------------------------


def our_limiter(function: Function) -> Function:
    """Our bucket around a function."""
    return TokenBucket(per_minute=60.0 * MANY, burst=MANY)(function)


def nopanic_limiter(function: Function) -> Function:
    """nopanic's bucket around a function."""
    wrapped: Function = import_module("nopanic").rate_limit(MANY, per=1.0)(function)
    return wrapped


def aiolimiter_limiter(function: Function) -> Function:
    """aiolimiter's bucket around a coroutine function."""
    limiter = import_module("aiolimiter").AsyncLimiter(MANY, 1)

    async def limited() -> object:
        async with limiter:
            return await function()

    return limited


def _nopanic_bulkhead(function: Function) -> Function:
    wrapped: Function = import_module("nopanic").bulkhead(PLACES, max_wait=0)(function)
    return wrapped


def _interlock_bulkhead(function: Function) -> Function:
    interlock = import_module("interlock")
    wrapped: Function = interlock.Pipeline(interlock.BulkheadStrategy(PLACES))(function)
    return wrapped


def _semaphore(function: Function) -> Function:
    places = asyncio.Semaphore(PLACES)

    async def walled() -> object:
        async with places:
            return await function()

    return walled
