"""Asks the same dependency again after a failure that may pass, at most so often and never too late.  (floor 1)

    attempt --ok--> done
      | fails
      v
    worth it?  --no--> the error, as it came
      | the error's advice, the number of tries, safety, the server's word, the time left, the quota
      v
    wait = max(uniform(0, min(cap, base * 2^n)), what the server asked for) --> attempt

Why it looks like this:
- *Full jitter after the cap*: clients that failed together must not come back together, also
  when all of them have reached the longest delay (AWS, "Exponential Backoff And Jitter", 2015).
- *Waits fit or are not begun*: a wait that ends after the deadline helps nobody. The error goes
  up at once, and the next in the chain, where there is one, has the time instead.
- *A successor makes retries cheap to give up*: with one ready, one retry is all, none after a
  timeout (it cost the most time already), none when the dependency is overloaded.
- *The quota ends storms, not bad luck*: retries of a dead dependency spend it within a dozen
  calls; a call that succeeds in the end gives back everything its retries took, so that a third
  of all attempts may fail for hours and nobody is refused. (Simulated: giving back only the last
  retry's tokens, as AWS SDKs do, runs dry at a 30 % fault rate and loses a quarter of the calls.)

What it deliberately does not do: tell failures apart (`errors.py` did), go to the next in the
chain (`fallback.py`), limit one attempt's time (`Attempt`, in `guard.py`). A rejection by a
guard is not an attempt: it passes straight through and costs nothing.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, overload

from deadline import NEVER, Deadline
from errors import (
    VERDICTS,
    Advice,
    AgentError,
    ConfigurationError,
    DeadlineExceeded,
    Outcome,
    OutcomeUnknown,
    Rejected,
    reason_of,
    translate,
)
from events import RetryRefused, RetryScheduled
from flow import Emit, Flow, Pause, drive, drive_async
from skins import check_types, is_async, name_of

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_DOUBLINGS_MAX = 32  # beyond this any base has reached any sane cap; keeps `factor ** n` finite


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and after which waits the same dependency is asked again. Raises ConfigurationError.

    Args:
        retries: retries of one call on the last link of a chain; 0 = never retry.
        base_delay_s: the longest wait before the first retry, in seconds.
        delay_s_max: the cap of the backoff in seconds. A server that asks for more is obeyed.
        factor: by what the backoff grows from retry to retry.
        throttled_extra: further retries for 429: being throttled says "later", not "broken".
        with_successor: retries where another link or provider is ready to take over.
    """

    retries: int = 3
    base_delay_s: float = 1.0
    delay_s_max: float = 30.0
    factor: float = 2.0
    throttled_extra: int = 2
    with_successor: int = 1

    def __post_init__(self) -> None:
        for name in ("retries", "base_delay_s", "delay_s_max", "throttled_extra", "with_successor"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 1 <= self.factor <= 100:
            raise ConfigurationError(f"factor must be between 1 and 100, not {self.factor}")

    def retries_for(self, reason: str, has_next: bool = False) -> int:
        """How many retries one call may have made in all when it fails for this reason (see `VERDICTS`)."""
        verdict = VERDICTS[reason]
        if verdict.advice not in (Advice.RETRY, Advice.NEXT):
            return 0
        if has_next:
            goes_on = verdict.advice is Advice.NEXT or reason == "timeout"
            return 0 if goes_on else min(self.retries, self.with_successor)
        extra = self.throttled_extra if verdict.outcome is Outcome.THROTTLED and self.retries else 0
        return self.retries + extra

    def backoff_s(self, retried: int, draw: Callable[[], float]) -> float:
        """The wait before retry number `retried` + 1; `draw` gives numbers in [0, 1)."""
        ceiling = self.base_delay_s * self.factor ** min(retried, _DOUBLINGS_MAX)
        return draw() * min(self.delay_s_max, ceiling)


class RetryQuota:
    """Tokens for retries, shared by all calls on one dependency in this process. Thread-safe.

    Args:
        capacity: tokens at most and at first. 500 / 14 = 35 retries, a dozen calls on a dead dependency.
        cost: tokens a retry takes (the numbers 500, 14 and 5 are those of the AWS SDKs).
        cost_throttled: tokens a retry after 429 takes.
        first_try_gain: tokens a call gives that succeeds at once.
        per_s: tokens that come back every second, so that a quota spent in the night heals.
        now: the monotonic clock in seconds.
    """

    def __init__(
        self,
        capacity: float = 500,
        cost: float = 14,
        cost_throttled: float = 5,
        first_try_gain: float = 1,
        per_s: float = 1,
        *,
        now: Callable[[], float],
    ) -> None:
        self.capacity, self.cost, self.cost_throttled = capacity, cost, cost_throttled
        self.first_try_gain, self.per_s = first_try_gain, per_s
        self._now, self._lock = now, threading.Lock()
        self._tokens, self._at_s = float(capacity), now()

    @property
    def tokens(self) -> float:
        """Tokens there are now."""
        with self._lock:
            self._refill(0)
            return self._tokens

    def take(self, *, throttled: bool = False) -> float | None:
        """Take the tokens of one retry; answers how many, or None when there are too few."""
        cost = self.cost_throttled if throttled else self.cost
        with self._lock:
            self._refill(0)
            if self._tokens < cost:
                return None
            self._tokens -= cost
            return cost

    def give_back(self, tokens: float) -> None:
        """Put tokens back, up to the capacity."""
        with self._lock:
            self._refill(tokens)

    def succeeded(self, taken: float) -> None:
        """A call succeeded whose retries took `taken` tokens; 0 = at the first try."""
        if self._tokens < self.capacity:  # a full quota stays full, whenever it is looked at: no lock for healthy calls
            self.give_back(taken or self.first_try_gain)

    def _refill(self, tokens: float) -> None:
        now_s = self._now()
        earned = max(0.0, now_s - self._at_s) * self.per_s
        self._tokens = min(self.capacity, self._tokens + earned + tokens)
        self._at_s = now_s


@dataclass(slots=True, kw_only=True)
class Tries:
    """The tries of one call: decides after each failure whether there is another. Fields: see `retrying`."""

    policy: RetryPolicy
    deadline: Deadline
    now: Callable[[], float]
    draw: Callable[[], float]
    quota: RetryQuota | None = None
    has_next: bool = False
    dependency: str = ""
    safe_to_repeat: bool = True
    refused_s: Callable[[], float] = float
    _retried: int = 0
    _taken: float = 0.0
    _taken_last: float = 0.0
    _by_reason: Counter[str] = field(default_factory=Counter)

    def recovering(self, error: Exception) -> Flow[bool]:
        """Pause before the next try and answer True; or answer False: raise `error` again."""
        reason = reason_of(error)
        if not self._worth_it(error, reason):
            self._fail(error)
            return False
        asked_s = getattr(error, "retry_after_s", None) or 0.0
        wait_s = max(self.policy.backoff_s(self._retried, self.draw), asked_s)
        why_not = self._why_not(error, reason, wait_s)
        if why_not:
            self._fail(error)
            yield Emit(RetryRefused(self.dependency, why_not))
            return False
        self._retried += 1
        self._by_reason[reason] += 1
        yield Emit(RetryScheduled(self.dependency, self._retried + 1, wait_s, reason, str(error)))
        yield Pause(wait_s)
        return True

    def succeeded(self) -> None:
        """The call has its answer: its retries cost nothing after all."""
        if self.quota is not None:
            self.quota.succeeded(self._taken)
        self._taken = 0.0

    def close(self) -> None:
        """Give back what a cancelled call took; after an answer or a failure there is nothing left to give."""
        if self.quota is not None and self._taken:
            self.quota.give_back(self._taken)
        self._taken = 0.0

    def _worth_it(self, error: Exception, reason: str) -> bool:
        """What needs no explaining when it ends the tries: the error's own advice, the number of tries."""
        bound = VERDICTS[reason].retries_max
        if isinstance(error, (Rejected, OutcomeUnknown, DeadlineExceeded)):
            return False
        if bound is not None and self._by_reason[reason] >= bound:
            return False
        return self._retried < self.policy.retries_for(reason, self.has_next)

    def _fail(self, error: Exception) -> None:
        """What the retries took is spent; but one that a guard turned away never happened."""
        self._taken = self._taken_last if isinstance(error, Rejected) else 0.0
        self.close()

    def _why_not(self, error: Exception, reason: str, wait_s: float) -> str:
        """Why there is no retry although one is due; "" takes the tokens of one."""
        if not getattr(error, "may_retry", True):
            return "the server forbade it"
        if not self.safe_to_repeat:
            return "not safe to repeat"
        if self.refused_s() > wait_s:
            return f"it would be refused for {self.refused_s():.3g} s"
        now_s = self.now()
        if not self.deadline.fits(now_s, wait_s):
            return f"a wait of {wait_s:.3g} s does not fit into the {self.deadline.left_s(now_s):.3g} s left"
        if self.quota is not None:
            taken = self.quota.take(throttled=VERDICTS[reason].outcome is Outcome.THROTTLED)
            if taken is None:
                return "the retry quota is spent"
            self._taken += taken
            self._taken_last = taken
        return ""


def retrying(
    attempt: Callable[[int], Flow[T]],
    policy: RetryPolicy,
    *,
    deadline: Deadline,
    now: Callable[[], float],
    draw: Callable[[], float],
    quota: RetryQuota | None = None,
    has_next: bool = False,
    dependency: str = "",
    safe_to_repeat: bool = True,
    refused_s: Callable[[], float] = float,
) -> Flow[T]:
    """Run `attempt(1)`, `attempt(2)`, ... until one succeeds or no further one is worth it.

    Args:
        attempt: makes the flow of one attempt from its number; asked anew for every try.
        policy: how often, and after which waits.
        deadline: no wait goes past it.
        now: the monotonic clock in seconds.
        draw: numbers in [0, 1), for the jitter.
        quota: the dependency's tokens for retries; None = unlimited.
        has_next: another link or provider is ready to take over.
        dependency: the name that events carry.
        safe_to_repeat: False when a repetition could do something twice.
        refused_s: seconds for which a guard inside would turn a try away; 0 (`float()`) = it would not.

    Raises the last attempt's own error, as it came.
    """
    tries = Tries(
        policy=policy, deadline=deadline, now=now, draw=draw, quota=quota, has_next=has_next,
        dependency=dependency, safe_to_repeat=safe_to_repeat, refused_s=refused_s,
    )  # fmt: skip
    try:
        for number in itertools.count(1):
            try:
                result = yield from attempt(number)
            except Exception as error:  # every failure is judged by its verdict; refused ones go on as they came
                if not (yield from tries.recovering(error)):
                    raise
            else:
                tries.succeeded()
                return result
    finally:
        tries.close()
    raise AssertionError  # for mypy: counting never ends


# --- the skin for functions outside flows ----------------------------------------------------------------

On: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]


@overload
def retry(policy: F, /) -> F: ...


@overload
def retry(
    policy: RetryPolicy = ..., *, on: On | None = ..., timeout_s: float | None = ...,
    quota: RetryQuota | None = ..., sleep: Callable[[float], Any] | None = ...,
    now: Callable[[], float] = ..., wall: Callable[[], float] = ..., draw: Callable[[], float] = ...,
) -> Callable[[F], F]: ...  # fmt: skip


def retry(
    policy: Any = RetryPolicy(),
    *,
    on: On | None = None,
    timeout_s: float | None = None,
    quota: RetryQuota | None = None,
    sleep: Callable[[float], Any] | None = None,
    now: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
    draw: Callable[[], float] = random.random,
) -> Any:
    """Retry a plain or async function: `@retry` or `@retry(RetryPolicy(retries=5), on=KeyError)`.

    Args:
        policy: how often, and after which waits.
        on: exception type(s), or a predicate, to retry on. Without it the verdict of `errors.py`
            decides: what may pass by itself (connections, timeouts, 429, 5xx, also those of
            anthropic and httpx2) is retried; bugs, refusals and bad input are not.
        timeout_s: no wait ends later than this many seconds after the call began.
        quota: tokens shared by everything that calls the same dependency.
        sleep: what waits; `time.sleep`, and `asyncio.sleep` for async functions.
        now: the monotonic clock; `wall` the one that dates in Retry-After are compared with.
        draw: numbers in [0, 1) for the jitter.

    Raises the function's own last exception. TypeError for generator functions (an iterator that
    was read from cannot be tried again), and for an `on` that is none.
    """
    if on is not None and (isinstance(on, (type, tuple)) or not callable(on)):
        check_types(on, "@retry(on=...)")
    rule = _Rule(
        policy if isinstance(policy, RetryPolicy) else RetryPolicy(), on, timeout_s, quota, sleep, now, wall, draw
    )
    return rule.wrap if isinstance(policy, RetryPolicy) else rule.wrap(policy)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a decorated function needs once it fails."""

    policy: RetryPolicy
    on: On | None
    timeout_s: float | None
    quota: RetryQuota | None
    sleep: Callable[[float], Any] | None
    now: Callable[[], float]
    wall: Callable[[], float]
    draw: Callable[[], float]

    def wrap(self, function: Any) -> Any:
        awaited = is_async(function, "@retry", "wrap what it calls")
        return self._wrap_async(function) if awaited else self._wrap_plain(function)

    def _wrap_plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        rest = self.sleep or time.sleep

        @functools.wraps(function)
        def retried(*args: Any, **kwargs: Any) -> Any:
            begun_s = 0.0 if self.timeout_s is None else self.now()
            tries = None
            try:
                while True:
                    try:
                        result = function(*args, **kwargs)
                    except Exception as error:  # judged; what is not worth a retry goes on as it came
                        tries = tries or self._tries(function, begun_s)
                        if not drive(tries.recovering(self._judged(error, function)), sleep=rest):
                            raise
                    else:
                        (tries or self).succeeded()
                        return result
            finally:
                if tries is not None:
                    tries.close()

        return retried

    def _wrap_async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def retried(*args: Any, **kwargs: Any) -> Any:
            begun_s = 0.0 if self.timeout_s is None else self.now()
            tries = None
            try:
                while True:
                    try:
                        result = await function(*args, **kwargs)
                    except Exception as error:  # never CancelledError, which is a BaseException
                        tries = tries or self._tries(function, begun_s)
                        if not await drive_async(tries.recovering(self._judged(error, function)), sleep=self.sleep):
                            raise
                    else:
                        (tries or self).succeeded()
                        return result
            finally:
                if tries is not None:
                    tries.close()

        return retried

    def succeeded(self) -> None:
        """A call had its answer at the first try, and so made no Tries."""
        if self.quota is not None:
            self.quota.succeeded(0)

    def _tries(self, function: Callable[..., Any], begun_s: float) -> Tries:
        deadline = NEVER if self.timeout_s is None else Deadline.after(begun_s, self.timeout_s)
        return Tries(
            policy=self.policy, deadline=deadline, now=self.now, draw=self.draw, quota=self.quota,
            dependency=name_of(function),
        )  # fmt: skip

    def _judged(self, error: Exception, function: Callable[..., Any]) -> AgentError:
        """The error with its verdict. `on` overrules it, except where nothing may be repeated."""
        judged = translate(error, name_of(function), self.wall())
        if self.on is None or isinstance(error, (Rejected, OutcomeUnknown)):
            return judged
        if not (isinstance(error, self.on) if isinstance(self.on, (type, tuple)) else self.on(error)):
            return AgentError(judged.message, reason="internal")  # not asked for: no retry
        if judged.reason == "rate_limit":
            return judged
        after_s, may = judged.retry_after_s, judged.may_retry
        return AgentError(judged.message, reason="server_error", retry_after_s=after_s, may_retry=may)
