"""Puts all guards of one dependency around an async function, for programs that have no flows.  (floor 2)

    search_guard = guards()("search")

    @guarded(search_guard, timeout_s=10)
    async def search(words): ...

The order and its reasons are `guard.py`'s: peek at the breaker, bulkhead, limiter, breaker permit,
attempt; retry around it; nothing outlives `timeout_s`. The first attempt of a call is made here,
by plain calls, so that a healthy call costs little more than its timer. Only a call that has
to wait, or whose first attempt failed, becomes a flow, and from there on the flow decides.

This is the edge where errors are told apart, as the skins of the single rules do: what
`errors.py` knows gets its verdict (with the server's Retry-After); any other exception counts
against the dependency and is not tried again. The caller always gets the original exception,
a rejection, AttemptTimedOut or DeadlineExceeded. Cancelling the call blames nobody and gives
back what it held.

What this deliberately does not do: guard plain functions (nothing can end a blocking call in its
own thread: use the skins of the single rules), share guards through Redis, tell listeners (flows
do both), stream.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import NoneType
from typing import Any, ParamSpec, TypeVar

from circuit_breaker import CircuitBreaker, Permit
from deadline import START_S_MIN, Deadline
from errors import (
    AgentError,
    AttemptTimedOut,
    CircuitOpen,
    ConfigurationError,
    GaveUp,
    Outcome,
    reason_of,
    translate,
    words_of,
)
from flow import Attempt, Awaiting, Effect, Emit, Flow, Pause, Within, awaiting, not_an_effect, run_async
from guard import LEASE_GRACE_S, Guard, Guards, _Call
from rate_limiter import TokenBucket
from retry import retrying
from skins import is_async

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def guards(**options: Any) -> Guards:
    """The guards of all dependencies of a program, on the real clock: `guards()("search")` is one of them.

    Args:
        options: what `Guards` takes: `retry`, `breaker`, `breakers`, `limiters`, `places`.
    """
    return Guards(**{"now": time.monotonic, "draws": lambda name: random.Random().random} | options)


def guarded(
    guard: Guard,
    *,
    timeout_s: float,
    attempt_s: float | None = None,
    safe_to_repeat: bool = True,
    sleep: Callable[[float], Awaitable[object]] | None = None,
    wall: Callable[[], float] = time.time,
) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """Decorate an `async def` that asks one dependency.

    Args:
        guard: all guards of that dependency, shared by everything that asks it.
        timeout_s: of the whole call in seconds, retries and waits included; at least 0.2.
        attempt_s: the longest one attempt may take. Without it, `timeout_s`; while a retry remains, an
            attempt gets at most half of what is left.
        safe_to_repeat: False when a second call could do something twice: then there is no retry.
        sleep: what waits; `asyncio.sleep`.
        wall: the clock that a date in Retry-After is compared with.

    Raises TypeError for plain functions and generators, ConfigurationError for times without sense and
    for guards that are shared with other processes.
    The decorated function raises what the function raised last, or CircuitOpen, BulkheadFull,
    LimiterFull (turned away, nothing was tried), AttemptTimedOut, DeadlineExceeded.
    """
    if not timeout_s >= START_S_MIN:
        raise ConfigurationError(f"timeout_s must be at least {START_S_MIN} seconds, not {timeout_s}")
    if attempt_s is not None and not attempt_s > 0:
        raise ConfigurationError(f"attempt_s must be more than 0 seconds, not {attempt_s}")
    rest = sleep or asyncio.sleep
    return _Rule(guard, *_own(guard), timeout_s, attempt_s or timeout_s, safe_to_repeat, rest, wall).wrap


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a guarded function needs beyond its own call."""

    guard: Guard
    breaker: CircuitBreaker
    limiter: TokenBucket | None
    timeout_s: float
    attempt_s: float
    safe_to_repeat: bool
    sleep: Callable[[float], Awaitable[object]]
    wall: Callable[[], float]

    def wrap(self, function: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        if not is_async(function, "@guarded", "guard what it calls"):
            raise TypeError(
                f"@guarded cannot end a blocking call: make {function!r} an `async def`,"
                " or use @retry, @breaker, @bulkhead and @bucket, which don't limit time"
            )
        guard, first_s = self.guard, self._first_s()
        now, breaker, bulkhead, quota = guard.now, self.breaker, guard.bulkhead, guard.quota

        @functools.wraps(function)
        async def guarding(*args: P.args, **kwargs: P.kwargs) -> Any:
            started_s, permit = now(), None
            breaker.peek()
            if breaker.not_before_s > started_s:
                return await _Started(self, started_s, function, args, kwargs).whole()
            place = bulkhead.enter()
            try:
                permit = self._permit(first_s)
                if permit is not None:
                    async with asyncio.timeout(first_s) as timer:
                        result = await function(*args, **kwargs)
                    permit.settle(Outcome.SUCCESS)
                    quota.succeeded(0)
                    return result
            except Exception as raised:  # judged here, at the edge; the flow decides what comes of it
                if permit is None:
                    raise
                call = _Started(self, started_s, function, args, kwargs)
                error = call.failed(raised, permit, first_s, expired=timer.expired())
            finally:
                if permit is not None:
                    permit.release()
                place.leave()
            if permit is None:
                return await _Started(self, started_s, function, args, kwargs).whole()
            return await call.rest(error)

        return guarding

    def _permit(self, first_s: float) -> Permit | None:
        """The permit and the token of the first attempt. None: there is no token yet, and nothing is taken."""
        limiter = self.limiter
        if limiter is None:
            return self.breaker.acquire(first_s + LEASE_GRACE_S)
        due_s, wait_s = limiter.book(self.guard.name)
        if wait_s > 0:
            limiter.give_back(due_s)
            return None
        try:
            return self.breaker.acquire(first_s + LEASE_GRACE_S)
        except CircuitOpen:
            limiter.give_back(due_s)
            raise

    def _first_s(self) -> float:
        """What the first attempt gets, as `guard.py` reckons it."""
        another = self.safe_to_repeat and self.guard.retry.retries_for("timeout") > 0
        return _Call(Deadline.after(0.0, self.timeout_s), self.attempt_s, None, False, 0.0).limit_s(0.0, another)[0]


def _own(guard: Guard) -> tuple[CircuitBreaker, TokenBucket | None]:
    """The breaker and the limiter, if they are this process's own."""
    breaker, limiter = guard.breaker, guard.limiter
    if isinstance(breaker, CircuitBreaker) and isinstance(limiter, (TokenBucket, NoneType)):
        return breaker, limiter
    raise ConfigurationError(
        f"@guarded runs no scripts, and the guard of {guard.name} is shared through Redis",
        what_now="Give @guarded a guard of this process.",
    )


class _Started:
    """One call of a guarded function that is no longer the short path: a flow goes on with it."""

    def __init__(self, rule: _Rule, started_s: float, function: Any, args: Any, kwargs: Any) -> None:
        self._rule, self._guard, self._started_s = rule, rule.guard, started_s
        self._function: Callable[[], Awaitable[Any]] = functools.partial(function, *args, **kwargs)
        self._deadline = Deadline.after(started_s, rule.timeout_s)
        self._attempts = _Call(self._deadline, rule.attempt_s, None, False, started_s)
        self._originals: dict[AgentError, Exception] = {}

    def failed(self, raised: Exception, permit: Permit, given_s: float, *, expired: bool) -> AgentError:
        """The first attempt failed: tell the breaker, and answer the error with its verdict."""
        timed_out = expired and isinstance(raised, TimeoutError)
        error = AttemptTimedOut(given_s) if timed_out else self._judged(raised)
        error.dependency = error.dependency or self._guard.name
        self._attempts.tries = 1
        permit.settle(self._attempts.failed(error, given_s, self._rule.attempt_s), error.retry_after_s)
        return error

    async def whole(self) -> Any:
        """The whole call as a flow, for one that has to wait before its first attempt."""
        return await self._run(
            self._guard.guarding(
                self._attempt, deadline=self._deadline, attempt_s=self._rule.attempt_s,
                safe_to_repeat=self._rule.safe_to_repeat,
            )
        )  # fmt: skip

    async def rest(self, error: AgentError) -> Any:
        """What comes after the first attempt failed, as a flow."""
        return await self._run(self._going_on(error, self._attempts))

    def _going_on(self, first: AgentError, call: _Call) -> Flow[Any]:
        """`Guard.guarding` from where its first attempt has failed."""
        guard, safe_to_repeat = self._guard, self._rule.safe_to_repeat

        def trying(number: int) -> Flow[Any]:
            return _raising(first) if number == 1 else guard._trying(self._attempt, number, call, safe_to_repeat)

        try:
            return (
                yield from retrying(
                    trying, guard.retry, deadline=call.deadline, now=guard.now, draw=guard.draw, quota=guard.quota,
                    dependency=guard.name, safe_to_repeat=safe_to_repeat, refused_s=guard._open_s,
                )
            )  # fmt: skip
        except Exception as error:  # only where time was what it lacked does it become another error
            if isinstance(error, GaveUp) or not call.lacked_time(error, guard.now()):
                raise
            raise call.gave_up(guard.now()) from error

    def _attempt(self, number: int) -> Flow[Any]:
        return awaiting(self._judged_call)

    async def _judged_call(self) -> Any:
        try:
            return await self._function()
        except Exception as raised:  # this is the edge: from here on errors carry their verdict
            error = self._judged(raised)
        raise error

    def _judged(self, raised: Exception) -> AgentError:
        if isinstance(raised, AgentError):
            return raised
        try:
            reason = reason_of(raised)
            if reason in ("bad_input", "internal"):  # a bare ValueError: around a foreign client nobody knows whose
                error = AgentError(words_of(raised), reason="crashed")
            else:
                error = translate(raised, self._guard.name, self._rule.wall())
        except Exception:  # foreign exceptions run foreign code when they are read; the caller gets the original
            error = AgentError(type(raised).__name__, reason="crashed")
        self._originals[error] = raised
        return error

    async def _run(self, flow: Flow[Any]) -> Any:
        """Run a flow to its end; its last error is raised as the function raised it."""
        try:
            return await run_async(flow, lambda each: _perform(each, self._rule.sleep))
        except AgentError as error:
            if error not in self._originals:
                raise
            original = self._originals[error]
        raise original


def _raising(error: Exception) -> Flow[Any]:
    raise error
    yield  # never reached: makes this function a generator


async def _perform(effect: Effect, sleep: Callable[[float], Awaitable[object]]) -> Any:
    match effect:
        case Emit():
            return None
        case Pause(s):
            return await sleep(s)
        case Within(_, flow):
            return await run_async(flow, lambda each: _perform(each, sleep))
        case Awaiting(call):
            return await call()
        case Attempt(flow, s):
            try:
                async with asyncio.timeout(s):
                    return await run_async(flow, lambda each: _perform(each, sleep))
            except TimeoutError:  # the timer's: the function's own has its verdict and is an AgentError by now
                raise AttemptTimedOut(s) from None
    raise not_an_effect(effect)
