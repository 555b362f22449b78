"""What retries cost the calls that need none.

Each is set to three retries on connection errors, with exponential backoff and jitter, and
wraps a function that does nothing and never fails. The measure is a loop with a `try` in it.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from importlib import import_module
from typing import Any

from benchmarks.breakers import nothing, nothing_async
from benchmarks.measuring import OURS, Contender, Contest, Function, Result, measured
from retry import RetryPolicy, retry

TRIES = 4
BASE_S, MOST_S = 0.001, 0.01
"""Waits short enough for the tests of this file to fail on purpose."""


async def run(rounds: int | None = None) -> list[Result]:
    """Measure all contests of this file."""
    return [await measured(contest, rounds=rounds) for contest in contests()]


def contests() -> list[Contest]:
    """Plain functions and coroutine functions."""
    absent = dict.fromkeys(("aiobreaker", "circuitbreaker", "purgatory", "pybreaker"), "has no retries")
    shared = [
        Contender(OURS, "@retry(RetryPolicy(retries=3))", ours),
        Contender("interlock-cb", "@Pipeline(RetryStrategy(attempts=4)), which is tenacity", interlock_retry),
        Contender("nopanic", "@retry(attempts=4, on=ConnectionError)", nopanic_retry),
        Contender("stamina", "@retry(on=ConnectionError, attempts=4)", stamina_retry),
        Contender("tenacity", "@retry(stop=stop_after_attempt(4), ...)", tenacity_retry),
    ]
    by_hand = Contender("hand-written", "a loop with a try, and a call", _by_hand)
    by_hand_async = Contender("hand-written", "a loop with a try, and an await", _by_hand_async)
    return [
        Contest(
            name="retry-sync",
            title="retries around a plain function that does not fail",
            function=nothing,
            is_async=False,
            aim=2.0,
            leads=True,
            contenders=[by_hand, *shared],
            absent=absent,
        ),
        Contest(
            name="retry-async",
            title="retries around a coroutine function that does not fail",
            function=nothing_async,
            is_async=True,
            aim=2.0,
            leads=True,
            contenders=[by_hand_async, *shared],
            absent=absent,
        ),
    ]


def _by_hand(function: Function) -> Function:
    @functools.wraps(function)
    def repeated(*args: Any, **kwargs: Any) -> Any:
        failures = 0
        while True:
            try:
                return function(*args, **kwargs)
            except ConnectionError:
                failures += 1
                if failures == TRIES:
                    raise
                time.sleep(min(MOST_S, BASE_S * 2**failures) * random.random())

    return repeated


def _by_hand_async(function: Function) -> Function:
    @functools.wraps(function)
    async def repeated(*args: Any, **kwargs: Any) -> Any:
        failures = 0
        while True:
            try:
                return await function(*args, **kwargs)
            except ConnectionError:
                failures += 1
                if failures == TRIES:
                    raise
                await asyncio.sleep(min(MOST_S, BASE_S * 2**failures) * random.random())

    return repeated


# --- ours, and the peers, for functions of both kinds ----------------------------------------------------


def ours(function: Function) -> Function:
    """Our decorator around a function."""
    wrapped: Function = retry(RetryPolicy(TRIES - 1, BASE_S, MOST_S))(function)
    return wrapped


def nopanic_retry(function: Function) -> Function:
    """nopanic's decorator around a function."""
    nopanic = import_module("nopanic")
    backoff = nopanic.backoff.full_jitter(BASE_S, cap=MOST_S)
    wrapped: Function = nopanic.retry(attempts=TRIES, on=ConnectionError, backoff=backoff)(function)
    return wrapped


def stamina_retry(function: Function) -> Function:
    """stamina's decorator around a function."""
    stamina = import_module("stamina")
    wrapped: Function = stamina.retry(
        on=ConnectionError, attempts=TRIES, timeout=None, wait_initial=BASE_S, wait_max=MOST_S, wait_jitter=BASE_S
    )(function)
    return wrapped


def tenacity_retry(function: Function) -> Function:
    """tenacity's decorator around a function."""
    tenacity = import_module("tenacity")
    wrapped: Function = tenacity.retry(
        stop=tenacity.stop_after_attempt(TRIES),
        wait=tenacity.wait_random_exponential(multiplier=BASE_S, max=MOST_S),
        retry=tenacity.retry_if_exception_type(ConnectionError),
        reraise=True,
    )(function)
    return wrapped


def interlock_retry(function: Function) -> Function:
    """interlock's pipeline of nothing but retries around a function."""
    wrapped: Function = import_module("interlock").Pipeline(interlock_strategy())(function)
    return wrapped


def interlock_strategy() -> Any:
    """interlock's retries as a stage of its pipelines."""
    tenacity = import_module("tenacity")
    integration = import_module("interlock.integrations.tenacity")
    return integration.RetryStrategy(
        attempts=TRIES,
        retry=integration.retry_unless_open(ConnectionError),
        wait=tenacity.wait_random_exponential(multiplier=BASE_S, max=MOST_S),
    )
