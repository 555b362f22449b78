"""What a closed circuit breaker costs each call of the function it wraps.

Every breaker is set to open after five failures, or as near to that as it can be told, and
wraps a function that does nothing. The measure is a breaker as one would write it by hand
in a few lines: no locks, no probes, no leases, no events.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any

from benchmarks.measuring import OURS, Contender, Contest, Function, Result, measured
from circuit_breaker import CircuitBreaker

FAILURES, OPEN_S = 5, 60.0


async def run(rounds: int | None = None) -> list[Result]:
    """Measure all contests of this file."""
    return [await measured(contest, rounds=rounds) for contest in contests()]


def contests() -> list[Contest]:
    """Plain functions and coroutine functions."""
    return [_plain(), _coroutine()]


def nothing() -> None:
    """The function under guard."""


async def nothing_async() -> None:
    """The same as a coroutine function."""


def _plain() -> Contest:
    return Contest(
        name="breaker-sync",
        title="breaker around a plain function",
        function=nothing,
        is_async=False,
        aim=2.0,
        leads=True,
        contenders=[
            Contender("hand-written", "a closure: count failures, compare, call", _by_hand),
            Contender(OURS, "@CircuitBreaker(name)", lambda function: CircuitBreaker("benchmark")(function)),
            *(Contender(name, api, _shared_decorator(name)) for name, api in _DECORATORS.items()),
            Contender("pybreaker", "@CircuitBreaker(fail_max=5)", _pybreaker),
            Contender("purgatory", "@SyncCircuitBreakerFactory()(name)", _purgatory("SyncCircuitBreakerFactory")),
        ],
    )


def _coroutine() -> Contest:
    return Contest(
        name="breaker-async",
        title="breaker around a coroutine function",
        function=nothing_async,
        is_async=True,
        aim=2.0,
        leads=True,
        contenders=[
            Contender("hand-written", "a closure: count failures, compare, await", _by_hand_async),
            Contender(OURS, "@CircuitBreaker(name)", lambda function: CircuitBreaker("benchmark")(function)),
            *(Contender(name, api, _shared_decorator(name)) for name, api in _DECORATORS.items()),
            Contender("purgatory", "@AsyncCircuitBreakerFactory()(name)", _purgatory("AsyncCircuitBreakerFactory")),
        ],
        absent={"pybreaker": "its coroutines are Tornado's"},
    )


# --- by hand ---------------------------------------------------------------------------------------------


class Refused(Exception):
    """What the hand-written ones raise while open."""


def _by_hand(function: Function) -> Function:
    failures, open_until_s = 0, 0.0

    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal failures, open_until_s
        if failures >= FAILURES and time.monotonic() < open_until_s:
            raise Refused
        try:
            result = function(*args, **kwargs)
        except Exception:  # every error of the function counts
            failures += 1
            open_until_s = time.monotonic() + OPEN_S
            raise
        failures = 0
        return result

    return watched


def _by_hand_async(function: Function) -> Function:
    failures, open_until_s = 0, 0.0

    @functools.wraps(function)
    async def watched(*args: Any, **kwargs: Any) -> Any:
        nonlocal failures, open_until_s
        if failures >= FAILURES and time.monotonic() < open_until_s:
            raise Refused
        try:
            result = await function(*args, **kwargs)
        except Exception:  # every error of the function counts
            failures += 1
            open_until_s = time.monotonic() + OPEN_S
            raise
        failures = 0
        return result

    return watched


# --- the peers -------------------------------------------------------------------------------------------


_DECORATORS = {
    "aiobreaker": "@CircuitBreaker(fail_max=5)",
    "circuitbreaker": "@CircuitBreaker(failure_threshold=5)",
    "interlock-cb": "@CircuitBreaker(config=Config(window_size=5, failure_rate_threshold=1.0))",
    "nopanic": "@circuit_breaker(min_calls=5)",
}
"""Those that wrap plain and coroutine functions with the same object."""


def breaker_of(name: str) -> Any:
    """A peer's breaker that wraps functions of both kinds. Raises ImportError where it is not installed."""
    if name == "aiobreaker":
        return import_module("aiobreaker").CircuitBreaker(fail_max=FAILURES, timeout_duration=timedelta(0, OPEN_S))
    if name == "circuitbreaker":
        return import_module("circuitbreaker").CircuitBreaker(FAILURES, int(OPEN_S), name="benchmark")
    if name == "nopanic":
        return import_module("nopanic").circuit_breaker(min_calls=FAILURES, reset_timeout=OPEN_S)
    interlock = import_module("interlock")
    config = interlock.Config(
        window_size=FAILURES,
        minimum_number_of_calls=FAILURES,
        failure_rate_threshold=1.0,
        wait_duration_in_open=OPEN_S,
    )
    return interlock.CircuitBreaker(name="benchmark", config=config)


def _shared_decorator(name: str) -> Callable[[Function], Function]:
    def wrap(function: Function) -> Function:
        guarded: Function = breaker_of(name)(function)
        return guarded

    return wrap


def new_pybreaker() -> Any:
    """The same for pybreaker, which knows plain functions only."""
    return import_module("pybreaker").CircuitBreaker(fail_max=FAILURES, reset_timeout=OPEN_S)


def _pybreaker(function: Function) -> Function:
    guarded: Function = new_pybreaker()(function)
    return guarded


def _purgatory(factory: str) -> Callable[[Function], Function]:
    def wrap(function: Function) -> Function:
        breakers = getattr(import_module("purgatory"), factory)(default_threshold=FAILURES, default_ttl=OPEN_S)
        guarded: Function = breakers("benchmark")(function)
        return guarded

    return wrap
