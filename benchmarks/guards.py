"""What a full guard costs a call that meets no trouble: rate limiter, breaker, retries and timeout together.

Around a coroutine function that does nothing. The measure is `asyncio.timeout` alone, which
everybody needs who wants a timeout at all. Libraries that have all four are taken as they
are; the others are stacked the way their own pages show, with `asyncio.timeout` innermost.
"""

from __future__ import annotations

import asyncio
import time
from importlib import import_module
from typing import Any

from benchmarks.breakers import breaker_of, nothing_async
from benchmarks.limiters import MANY, aiolimiter_limiter, our_limiter
from benchmarks.measuring import OURS, Contender, Contest, Function, Result, measured
from benchmarks.retries import (
    BASE_S,
    MOST_S,
    TRIES,
    interlock_strategy,
    nopanic_retry,
    ours,
    stamina_retry,
    tenacity_retry,
)
from circuit_breaker import CircuitBreaker
from deadline import Deadline
from doors.aio import AsyncDoor
from flow import awaiting
from guard import Guard
from guard_function import guarded, guards
from rate_limiter import LimiterPolicy
from retry import RetryPolicy

TIMEOUT_S = 10.0


async def run(rounds: int | None = None) -> list[Result]:
    """Measure the contest of this file."""
    return [await measured(contest, rounds=rounds) for contest in contests()]


def contests(timeout_s: float = TIMEOUT_S) -> list[Contest]:
    """One contest; the timeout is that of each contender, in seconds."""

    def timed(function: Function) -> Function:
        return _timed(function, timeout_s)

    def unflappable(function: Function) -> Function:
        return guarded(_guard(), timeout_s=timeout_s)(function)

    def unflappable_stack(function: Function) -> Function:
        return ours(our_limiter(CircuitBreaker("benchmark")(timed(function))))

    def unflappable_flow(function: Function) -> Function:
        return _flow(function, timeout_s)

    def nopanic(function: Function) -> Function:
        library = import_module("nopanic")
        limit, timeout = library.rate_limit(MANY, per=1.0), library.timeout(timeout_s)
        return nopanic_retry(library.compose(limit, breaker_of("nopanic"), timeout)(function))

    def interlock(function: Function) -> Function:
        library = import_module("interlock")
        breaker = library.CircuitBreakerStrategy(breaker_of("interlock-cb"))
        pipeline = library.Pipeline(interlock_strategy(), breaker, library.TimeoutStrategy(timeout_s))
        wrapped: Function = pipeline(aiolimiter_limiter(function))
        return wrapped

    def tenacity(function: Function) -> Function:
        return tenacity_retry(aiolimiter_limiter(breaker_of("aiobreaker")(timed(function))))

    def stamina(function: Function) -> Function:
        return stamina_retry(aiolimiter_limiter(breaker_of("circuitbreaker")(timed(function))))

    def purgatory(function: Function) -> Function:
        breakers = import_module("purgatory").AsyncCircuitBreakerFactory()
        return stamina_retry(aiolimiter_limiter(breakers("benchmark")(timed(function))))

    return [
        Contest(
            name="guard-async",
            title="limiter, breaker, retries and timeout around a coroutine function",
            function=nothing_async,
            is_async=True,
            aim=2.0,
            leads=True,
            contenders=[
                Contender("asyncio.timeout", "async with timeout(10): nothing else", timed),
                Contender(OURS, "@guarded(guard, timeout_s=10), with a bulkhead", unflappable),
                Contender(f"{OURS}, stacked", "@retry @bucket @breaker, asyncio.timeout", unflappable_stack),
                Contender(f"{OURS}, as a flow", "guard.guarding(...) in an AsyncDoor, with events", unflappable_flow),
                Contender("interlock-cb + tenacity + aiolimiter", "@Pipeline(retry, breaker, timeout)", interlock),
                Contender("nopanic", "@retry, @compose(rate_limit, circuit_breaker, timeout)", nopanic),
                Contender("tenacity + aiobreaker + aiolimiter", "decorators, asyncio.timeout", tenacity),
                Contender("stamina + circuitbreaker + aiolimiter", "decorators, asyncio.timeout", stamina),
                Contender("stamina + purgatory + aiolimiter", "decorators, asyncio.timeout", purgatory),
            ],
            absent={"pybreaker": "its coroutines are Tornado's"},
        )
    ]


def _timed(function: Function, timeout_s: float) -> Function:
    async def bounded() -> Any:
        async with asyncio.timeout(timeout_s):
            return await function()

    return bounded


def _guard() -> Guard:
    return guards(
        retry=RetryPolicy(TRIES - 1, BASE_S, MOST_S),
        limiters={"benchmark": LimiterPolicy(per_minute=60.0 * MANY, burst=MANY)},
    )("benchmark")


def _flow(function: Function, timeout_s: float) -> Function:
    guard, door = _guard(), AsyncDoor()

    async def call() -> Any:
        deadline = Deadline.after(time.monotonic(), timeout_s)
        return await door.run(guard.guarding(lambda _: awaiting(function), deadline=deadline, attempt_s=timeout_s))

    return call
