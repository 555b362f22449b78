"""Keeps calls under the rate a server allows, so that its 429 stays the exception.  (floor 1)

A bucket holds up to `burst` tokens and gains `per_minute` / 60 of them a second; a call
takes one. (Turner 1986's leaky bucket as a meter; ITU-T I.371's GCRA is the same rule
written with times. "Reserve and wait" is Go's x/time/rate.)

    level    tokens at hand                 ├── burst ──┤
    booked   when each waiting call is due   now ·  ·  ·  wait_s_max

A call that finds no token books the next one that will come and waits for it. Bookings are
served in the order they were made: first come, first served, with no queue to wake up and
nobody to starve. A wait above `wait_s_max` is refused and books nothing. Whatever is granted:
in any t seconds at most burst + t * per_minute / 60 calls go out.

A token that was not used is given back. One that is still due later leaves the queue: those
behind it keep their times, and the hole fills the bucket, up to `burst`, as if it had never
been booked. One whose time has come goes back on top; if it was held for h seconds, the bound
above grows by what the bucket gained in those h seconds, no more.

What this deliberately does not do: learn the server's limits from its answers (a 429's
Retry-After is the breaker's `not_before_s` and retry's wait), count tokens of text, or share
its level with other processes.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

from errors import ConfigurationError, LimiterFull
from events import LimiterWaited
from flow import Flow, drive, drive_async, emit, pause
from skins import is_async

P = ParamSpec("P")
R = TypeVar("R")

_WHOLE = 1.0 - 1e-6
"""A token that lacks less than rounding can explain is whole; what it lacks is owed, so nothing adds up."""


@dataclass(frozen=True, slots=True)
class LimiterPolicy:
    """How many calls a minute, how many at once, how long one may wait. Raises ConfigurationError."""

    per_minute: float = 50.0
    """Calls a minute in the long run; 0 turns the limiter off. Anthropic's first tier allows 50."""
    burst: int = 10
    """Calls that may go out at once after a quiet time."""
    wait_s_max: float = 2.0
    """The longest wait in seconds; a longer one is refused, since somebody else may answer sooner."""

    def __post_init__(self) -> None:
        if not 0 <= self.per_minute < math.inf:
            raise ConfigurationError(f"per_minute must be 0 (off) or more, not {self.per_minute}")
        if self.burst < 1:
            raise ConfigurationError(f"burst must be at least 1, not {self.burst}")
        if not self.wait_s_max >= 0:
            raise ConfigurationError(f"wait_s_max must be 0 seconds or more, not {self.wait_s_max}")


def limiter_full(dependency: str, policy: LimiterPolicy, wait_s: float) -> LimiterFull:
    """What to raise when a token is so many seconds away, and that is longer than anybody waits."""
    return LimiterFull(
        f"{dependency} is not asked: its rate limit of {policy.per_minute:g} a minute is used up;"
        f" next try in {wait_s:.3g} s",
        retry_after_s=wait_s,
        dependency=dependency,
    )


class TokenBucket:
    """One rate limiter, starting full. Safe to share between threads and tasks.

        bucket = TokenBucket(per_minute=50, burst=10)

        @bucket                          # plain and async functions: wait, then call
        def search(words): ...

        bucket.acquire()                 # blocking
        await bucket.acquire_async()

    Args:
        policy: the numbers; each keyword of the same name overrides one of them.
        name: stands in errors as the dependency where a flow names no other.
        now: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        policy: LimiterPolicy | None = None,
        *,
        per_minute: float | None = None,
        burst: int | None = None,
        wait_s_max: float | None = None,
        name: str = "default",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(policy, LimiterPolicy | None):
            raise TypeError(f"a bucket takes a LimiterPolicy, not {policy!r}: make one, then decorate with it")
        given = {"per_minute": per_minute, "burst": burst, "wait_s_max": wait_s_max}
        changes: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
        self.policy = replace(policy or LimiterPolicy(), **changes)
        self.name = name
        self._now = now
        self._per_s, self._burst = self.policy.per_minute / 60.0, float(self.policy.burst)
        self._lock = threading.Lock()
        self._level, self._at_s = self._burst, now()  # the level as it was at that time
        self._booked: deque[float] = deque()  # when each waiting call is due, in order

    def book(self, dependency: str = "") -> tuple[float, float]:
        """Book one token: when it is due on the clock of `now`, for `give_back`, and the seconds until then.

        Raises LimiterFull, with `retry_after_s` and nothing booked, for more than `wait_s_max`.
        """
        if self._per_s == 0:
            return 0.0, 0.0
        with self._lock:
            now_s = self._now()
            self._advance(now_s)
            if not self._booked and self._level >= _WHOLE:
                self._level -= 1.0
                return now_s, 0.0
            level, at_s = self._after(self._booked)
            due_s = at_s + max(0.0, 1.0 - level) / self._per_s
            wait_s = due_s - now_s
            if wait_s <= self.policy.wait_s_max:
                self._booked.append(due_s)
                return due_s, wait_s
        raise limiter_full(dependency or self.name, self.policy, wait_s)

    def reserve(self) -> float:
        """The same for those who wait at once: only the seconds until it is there, 0.0 = go."""
        return self.book()[1]

    def give_back(self, due_s: float | None = None) -> None:
        """Return a token that was booked and not used; the bucket never holds more than `burst`.

        Args:
            due_s: which one, as `book` or `acquiring` returned it. Without it: the youngest booking still waiting,
                else one whose time has come; that undoes a `reserve` that nobody came after.
        """
        if self._per_s == 0:
            return
        with self._lock:
            self._advance(self._now())
            if due_s is None and self._booked:
                self._booked.pop()
            elif due_s is not None and due_s in self._booked:
                self._booked.remove(due_s)
            else:
                self._level = min(self._burst, self._level + 1.0)

    def acquiring(self, dependency: str = "") -> Flow[float]:
        """Wait for a token. Emits LimiterWaited when it is not there; a flow closed in its wait returns it.

        Returns when the token was due, for `give_back`. Raises LimiterFull.
        """
        due_s, wait_s = self.book(dependency)
        if wait_s > 0:
            yield from self._waiting(dependency or self.name, due_s, wait_s)
        return due_s

    def acquire(self, *, sleep: Callable[[float], object] = time.sleep) -> None:
        """Block until a token is there. Raises LimiterFull."""
        due_s, wait_s = self.book()
        if wait_s > 0:
            drive(self._waiting(self.name, due_s, wait_s), sleep=sleep)

    async def acquire_async(self, *, sleep: Callable[[float], Awaitable[object]] | None = None) -> None:
        """The same on asyncio. Cancelled in its wait, it gives the token back."""
        due_s, wait_s = self.book()
        if wait_s > 0:
            await drive_async(self._waiting(self.name, due_s, wait_s), sleep=sleep)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a plain function or an `async def`: each call takes a token. TypeError for generators."""
        awaited = is_async(function, "@bucket", "use bucket.acquire() before the work")
        return self._limited_async(function) if awaited else self._limited(function)

    def _limited(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            due_s, wait_s = self.book()  # as `acquire` does, without the call: this is the healthy path
            if wait_s > 0:
                drive(self._waiting(self.name, due_s, wait_s))
            return function(*args, **kwargs)

        return limited

    def _limited_async(self, function: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(function)
        async def limited(*args: P.args, **kwargs: P.kwargs) -> Any:
            due_s, wait_s = self.book()
            if wait_s > 0:
                await drive_async(self._waiting(self.name, due_s, wait_s))
            return await function(*args, **kwargs)

        return limited

    def _waiting(self, dependency: str, due_s: float, wait_s: float) -> Flow[None]:
        try:
            yield from emit(LimiterWaited(dependency, wait_s))
            yield from pause(wait_s)
        except BaseException:  # closed or failed in its wait: the call will not be made
            self.give_back(due_s)
            raise

    def _advance(self, now_s: float) -> None:
        """Bring the level up to now. Bookings that came due are spent."""
        while self._booked and self._booked[0] <= now_s:
            self._level, self._at_s = self._after((self._booked.popleft(),))
        if now_s > self._at_s:
            level = self._level + (now_s - self._at_s) * self._per_s
            self._level = level if level < self._burst else self._burst  # min() would be a tenth of the healthy path
            self._at_s = now_s

    def _after(self, booked: Iterable[float]) -> tuple[float, float]:
        """The level right after these bookings are served, and when that is."""
        level, at_s = self._level, self._at_s
        for due_s in booked:
            level = min(self._burst, level + (due_s - at_s) * self._per_s) - 1.0
            at_s = due_s
        return level, at_s
