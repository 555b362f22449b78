"""Asks Redis for what is shared between processes, and never waits for it twice.  (floor 1)

    ask ──▶ Redis answers            the shared decision
     │
     └────▶ it is down, slow, full   None: the caller decides by what it knows itself.
            or talks rubbish         One warning; for two seconds nobody asks; then one call
                                     asks again, and when that is answered all is shared again.

Redis is a dependency like any other, so it stands behind a `CircuitBreaker` of its own, one
that opens at the first failure: whoever asks waits at most `WAIT_S` once, not once a call.
Nothing that Redis does or says is ever a failure of the question that is being answered.

What this deliberately does not do: talk to Redis (it yields `Script`, which `stores/redis_scripts.py`
performs), know what a script decides, retry.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from circuit_breaker import BreakerPolicy, BreakerSnapshot, CircuitBreaker, State
from errors import CircuitOpen, Outcome
from events import RedisBack, RedisUnavailable
from flow import Emit, Flow, Script
from safe_text import one_line

T = TypeVar("T")

WAIT_S = 0.2
"""The longest one script may take, connecting included, in seconds. Redis answers within a millisecond; what takes
longer than this is not there."""

POLICY = BreakerPolicy(failure_threshold=1, open_s=2.0, lease_s=1.0)
"""Of Redis itself: the first failure opens, so that a Redis that hangs costs a tenth of the time at the very worst."""

SCHEMA = 1
"""Stands in every key: programs of another version neither read nor disturb these."""


class Runner(Protocol):
    """Who talks to Redis: `stores/redis_scripts.py`, and stand-ins for it."""

    def identity(self) -> str:
        """A name no other process has."""

    def run(self, script: Script) -> Any:
        """Run a script, blocking for at most `WAIT_S`."""

    async def run_async(self, script: Script) -> Any:
        """The same on asyncio."""


def key(name: str, kind: str) -> str:
    """The key of a dependency's shared state: all keys of one dependency are in one slot of a cluster.

    Args:
        name: the dependency's; braces would end the hash tag early and are replaced.
        kind: what is kept there.
    """
    return f"unflappable:{{{name.replace('{', '(').replace('}', ')')}}}:{kind}:v{SCHEMA}"


class RedisLink:
    """One process's link to Redis, shared by all its breakers and limiters. Safe to share between threads.

    Args:
        identity: this process's name among those that share; asked each time, so that a fork gets its own.
        now: a clock in seconds that never goes back.
    """

    def __init__(self, identity: Callable[[], str], *, now: Callable[[], float] = time.monotonic) -> None:
        self.breaker = CircuitBreaker("redis", POLICY, now=now)
        self.away = False
        """Whether Redis failed and has not answered since."""
        self._identity = identity
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def token(self) -> str:
        """A name for one permit or booking that nobody else uses."""
        return f"{self._identity()}.{next(self._numbers)}"

    def is_ready(self) -> bool:
        """Whether Redis may be asked now."""
        return self.breaker.snapshot().retry_after_s == 0

    def snapshot(self) -> BreakerSnapshot:
        """How the breaker of Redis itself stands."""
        return self.breaker.snapshot()

    def asking(self, script: Script, read: Callable[[Any], T]) -> Flow[T | None]:
        """Run one script. None when Redis is away: never raises, emits one RedisUnavailable for one outage.

        Args:
            script: what to run.
            read: checks the reply and gives it a shape; what it raises means that Redis talks rubbish.
        """
        try:
            permit = self.breaker.acquire()
        except CircuitOpen:
            return None
        try:
            try:
                answer = read((yield script))
            except Exception as error:  # Redis is an aid: whatever is wrong with it, the question goes on
                permit.settle(Outcome.FAILURE)
                if self._turn(away=True):
                    yield Emit(RedisUnavailable(one_line(str(error)) or type(error).__name__))
                return None
            permit.settle(Outcome.SUCCESS)
            # An answer that was under way when another script failed does not bring Redis back.
            if self.breaker.state is State.CLOSED and self._turn(away=False):
                yield Emit(RedisBack())
            return answer
        finally:
            permit.release()

    def _turn(self, *, away: bool) -> bool:
        """Whether this is news."""
        if self.away is away:
            return False
        with self._lock:
            news, self.away = self.away is not away, away
            return news
