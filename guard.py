"""Puts the guards around one dependency, in the one order that works.  (floor 2)

    call    = deadline( fallback( guarded(a), guarded(b), ... ))
    guarded = retry( peek breaker -> bulkhead -> limiter -> breaker permit -> Attempt )

Why in this order:
- **Nothing outlives the deadline.** Every wait asks first whether it fits, and no attempt starts
  that would only be killed. The outermost timer runs a little longer than the deadline, so that
  the inner one fires first and the dependency that hung is the one that is blamed.
- **Retry is outside**: each attempt asks the breaker anew and takes a place and a token of its own.
- **Peek first**: a call that an open breaker will turn away must neither wait nor spend a token.
- **The bulkhead before the limiter**: it never waits; full means no at once.
- **The permit last**: it may be a probe's, a lease that runs from then on; a probe must not queue
  while its lease runs. When it is refused after all, token and place are given back.
- **Fallback is outside the guards** (`fallback.py`): a hop is not a retry and costs none of its quota.

What an attempt says about the dependency is the verdict of its error (`errors.py`), with one
exception: a timeout that came early because the deadline was near says nothing (NEUTRAL).
A server that asked for a pause (429) is given it also by calls that come later: they wait
where that fits and nobody else is ready, and are turned away otherwise.

Whatever is held is given back by plain calls in a `finally`, since a flow that is cancelled
may not yield any more. A breaker and a limiter may be shared with other processes through Redis
(`circuit_breaker_redis.py`): then a decision that needs Redis is a flow, and a local one stays the
plain call it is.

What this file deliberately does not do: decide what comes next in a chain, know what an attempt does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from bulkhead import Bulkhead, Place
from circuit_breaker import BreakerPolicy, BreakerSnapshot, CircuitBreaker, Permit, State
from circuit_breaker_redis import SharedBreaker, SharedPermit
from deadline import OUTER_GRACE_S, START_S_MIN, Deadline
from errors import (
    VERDICTS,
    Advice,
    AgentError,
    AttemptTimedOut,
    BulkheadFull,
    CircuitOpen,
    DeadlineExceeded,
    GaveUp,
    LimiterFull,
    Outcome,
    Rejected,
    classify_error,
    outcome_of,
    reason_of,
)
from events import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    CallRejected,
    Event,
    LimiterWaited,
    Scope,
)
from fault_injection import injecting as injecting  # whoever guards attempts also lets faults strike them
from flow import Attempt, Emit, Flow, Pause, within
from rate_limiter import LimiterPolicy, TokenBucket
from rate_limiter_redis import SharedBucket
from redis_link import RedisLink
from retry import RetryPolicy, RetryQuota, retrying
from safe_text import one_line

T = TypeVar("T")

LEASE_GRACE_S = 1.0
"""How much longer a probe's lease runs than its attempt: time for a slow door to report."""

_HALF = 0.48
"""Half, less what clocks and scheduling take: an attempt that was given its half counts in full."""

_SOON_S = 0.001
"""A pause asked for by the server that is over within this is over: sleeps end a hair early."""


@dataclass(slots=True)
class _Call:
    """One guarded call: its limits, and what its attempts said."""

    deadline: Deadline
    attempt_s: float | Callable[[], float]
    silence_s: float | None
    has_next: bool
    started_s: float
    tries: int = 0
    causes: list[Exception] = field(default_factory=list)
    cut_short: list[Exception] = field(default_factory=list)

    def limit_s(self, now_s: float, another: bool) -> tuple[float, float]:
        """What the next attempt gets, and what it should get, in seconds.

        While another try or provider remains, an attempt gets at most half of what is left: one that
        hangs must leave time for the other. Not so where silence ends attempts (models): there an
        attempt that takes long is one that is answering.
        """
        configured_s = self.attempt_s if isinstance(self.attempt_s, (int, float)) else self.attempt_s()
        left_s = self.deadline.left_s(now_s)
        halved = another and self.silence_s is None
        share_s = min(left_s, max(left_s / 2, START_S_MIN)) if halved else left_s
        return min(configured_s, share_s), self.silence_s or configured_s

    def failed(self, error: Exception, given_s: float, due_s: float) -> Outcome:
        """Keep the error; answer what it says about the dependency."""
        early = isinstance(error, AttemptTimedOut) and not error.silent and given_s < due_s * _HALF
        (self.cut_short if early else self.causes).append(error)
        return Outcome.NEUTRAL if early else outcome_of(error) or Outcome.NEUTRAL

    def lacked_time(self, error: Exception, now_s: float) -> bool:
        """Whether the call ends for want of time: a timeout cut short, or no time left for one more try."""
        may_pass = VERDICTS[reason_of(error)].advice in (Advice.RETRY, Advice.NEXT)
        return error in self.cut_short or (may_pass and not self.deadline.allows_start(now_s))

    def gave_up(self, now_s: float) -> DeadlineExceeded:
        """The time is over: says after how long, the last real cause and the number of tries."""
        real = self.causes or self.cut_short
        why = one_line(str(real[-1])) if real else "no time left for a try"
        tries = f", {self.tries} {'try' if self.tries == 1 else 'tries'}" if self.tries else ""
        return DeadlineExceeded(f"gave up after {now_s - self.started_s:.3g} s: {why}{tries}", tuple(real))


@dataclass(slots=True)
class _Held:
    """What one try holds until it ends."""

    place: Place | None = None
    unbook: Callable[[], None] | None = None
    permit: Permit | SharedPermit | None = None

    def give_back(self) -> None:
        """Give back what is not spent or settled. Any number of times."""
        if self.permit is not None:
            self.permit.release()
        if self.unbook is not None:
            self.unbook()
            self.unbook = None
        if self.place is not None:
            self.place.leave()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """All guards of one dependency, shared by every call on it.

    Args:
        name: the dependency's one name everywhere, e.g. `get_weather.open_meteo`.
        breaker, bulkhead, limiter: its own; no limiter = no limit.
        retry, quota: how often it is asked again.
        now: the monotonic clock in seconds.
        draw: numbers in [0, 1) for the jitter, of a stream of its own.
    """

    name: str
    breaker: CircuitBreaker | SharedBreaker
    bulkhead: Bulkhead
    retry: RetryPolicy
    quota: RetryQuota
    now: Callable[[], float]
    draw: Callable[[], float]
    limiter: TokenBucket | SharedBucket | None = None

    def is_ready(self) -> bool:
        """Whether asking now could help: the breaker lets a call through and no pause is due."""
        return self.breaker.snapshot().retry_after_s == 0 and self._pause_due_s() == 0

    def guarding(
        self,
        attempt: Callable[[int], Flow[T]],
        *,
        deadline: Deadline,
        attempt_s: Callable[[], float] | float,
        silence_s: float | None = None,
        has_next: bool = False,
        safe_to_repeat: bool = True,
    ) -> Flow[T]:
        """Run `attempt(1)`, `attempt(2)`, ... under all guards until one succeeds or nothing helps any more.

        Args:
            attempt: makes the flow of one attempt from its number.
            deadline: of the whole call, waits included.
            attempt_s: the longest one attempt may take; asked before each one when callable.
            silence_s: the longest silence of an attempt that streams.
            has_next: another link or provider is ready to take over.
            safe_to_repeat: False when a repetition could do something twice.

        Raises:
            the last attempt's error, as it came.
            CircuitOpen, LimiterFull, BulkheadFull: turned away, nothing was tried, `retry_after_s` where known.
            DeadlineExceeded: the time is over; carries and names the last real cause.
        """
        call = _Call(deadline, attempt_s, silence_s, has_next, self.now())

        def trying(number: int) -> Flow[T]:
            scope: Scope = {"attempt": number, "dependency": self.name}
            return within(scope, self._trying(attempt, number, call, safe_to_repeat))

        try:
            return (
                yield from retrying(
                    trying, self.retry, deadline=deadline, now=self.now, draw=self.draw, quota=self.quota,
                    has_next=has_next, dependency=self.name, safe_to_repeat=safe_to_repeat,
                    refused_s=self._open_s,
                )
            )  # fmt: skip
        except Exception as error:  # only where time was what it lacked does it become another error
            if isinstance(error, GaveUp) or not call.lacked_time(error, self.now()):
                raise
            raise call.gave_up(self.now()) from error

    def _trying(self, attempt: Callable[[int], Flow[T]], number: int, call: _Call, safe_to_repeat: bool) -> Flow[T]:
        held = _Held()
        retries = self.retry.retries_for("timeout", call.has_next) if safe_to_repeat else 0
        try:
            yield from self._entering(held, call)
            given_s, due_s = call.limit_s(self.now(), call.has_next or number <= retries)
            permit = yield from self._permit(held, given_s)
            held.unbook = None  # from here on it is spent
            call.tries += 1
            most = 1 + self.retry.retries_for("server_error", call.has_next)
            yield Emit(AttemptStarted(self.name, number, max(number, most)))
            try:
                result: T = yield Attempt(attempt(number), given_s, call.silence_s)
            except Exception as error:  # reported to the breaker, then on its way
                yield from self._telling(error, call.failed(error, given_s, due_s), number, permit)
                raise
            turned = yield from _settling(permit, Outcome.SUCCESS)
            yield Emit(AttemptSucceeded(self.name, number))
            if turned is not None:
                yield Emit(turned)
            return result
        finally:
            held.give_back()

    def _entering(self, held: _Held, call: _Call) -> Flow[None]:
        """Peek at the breaker, then take a place and a token."""
        try:
            self.breaker.peek()
            yield from self._leaving_alone(call)
            held.place = self.bulkhead.enter()
            yield from self._taking_token(held, call.deadline)
        except Rejected as rejected:
            held.give_back()
            yield Emit(_call_rejected(self.name, rejected))
            raise
        if not call.deadline.allows_start(self.now()):
            raise call.gave_up(self.now())

    def _leaving_alone(self, call: _Call) -> Flow[None]:
        """Give a server that throttled us the pause it asked for."""
        wait_s = self._pause_due_s()
        if wait_s == 0:
            return
        # Those who wait for the same moment must not all come in it.
        wait_s += self.retry.backoff_s(0, self.draw)
        if call.has_next or not call.deadline.fits(self.now(), wait_s):
            said = f"{self.name} is not asked: it wants no calls for {wait_s:.3g} s"
            raise LimiterFull(said, retry_after_s=wait_s, dependency=self.name)
        yield Emit(LimiterWaited(self.name, wait_s))
        yield Pause(wait_s)

    def _taking_token(self, held: _Held, deadline: Deadline) -> Flow[None]:
        if self.limiter is None:
            return
        held.unbook, wait_s = yield from _booking(self.limiter, self.name)
        if wait_s > 0:
            if not deadline.fits(self.now(), wait_s):
                said = f"{self.name} is not asked: its rate limit has no token in time"
                raise LimiterFull(said, retry_after_s=wait_s, dependency=self.name)
            yield Emit(LimiterWaited(self.name, wait_s))
            yield Pause(wait_s)

    def _permit(self, held: _Held, given_s: float) -> Flow[Permit | SharedPermit]:
        try:
            held.permit = permit = yield from _acquiring(self.breaker, given_s + LEASE_GRACE_S)
        except CircuitOpen as rejected:
            held.give_back()
            yield Emit(_call_rejected(self.name, rejected))
            raise
        if permit.event is not None:
            yield Emit(permit.event)
        return permit

    def _telling(self, error: Exception, outcome: Outcome, number: int, permit: Permit | SharedPermit) -> Flow[None]:
        """Report a failed attempt: to the breaker first, then to everybody."""
        if isinstance(error, AgentError) and not error.dependency:
            error.dependency = self.name
        turned = yield from _settling(permit, outcome, getattr(error, "retry_after_s", None))
        yield Emit(
            AttemptFailed(
                self.name, number, reason_of(error), classify_error(error).value, outcome.value, str(error),
                getattr(error, "status", None), getattr(error, "request_id", None),
            )
        )  # fmt: skip
        if turned is not None:
            yield Emit(turned)

    def _open_s(self) -> float:
        seen = self.breaker.snapshot()
        return seen.retry_after_s if seen.state is State.OPEN else 0.0

    def _pause_due_s(self) -> float:
        wait_s = self.breaker.not_before_s - self.now()
        return wait_s if wait_s > _SOON_S else 0.0


def _acquiring(breaker: CircuitBreaker | SharedBreaker, lease_s: float) -> Flow[Permit | SharedPermit]:
    if isinstance(breaker, SharedBreaker):
        return (yield from breaker.acquiring(lease_s))
    return breaker.acquire(lease_s)


def _settling(
    permit: Permit | SharedPermit, outcome: Outcome, retry_after_s: float | None = None
) -> Flow[Event | None]:
    if isinstance(permit, SharedPermit):
        return (yield from permit.settling(outcome, retry_after_s))
    return permit.settle(outcome, retry_after_s)


def _booking(limiter: TokenBucket | SharedBucket, name: str) -> Flow[tuple[Callable[[], None], float]]:
    """Book a token: how to give it back, and the seconds until it is due."""
    if isinstance(limiter, SharedBucket):
        booked = yield from limiter.booking(name)
        return partial(limiter.give_back, booked), booked.wait_s
    due_s, wait_s = limiter.book(name)
    return partial(limiter.give_back, due_s), wait_s


def _call_rejected(name: str, rejected: Rejected) -> CallRejected:
    by = {CircuitOpen: "circuit_breaker", BulkheadFull: "bulkhead"}.get(type(rejected), "rate_limiter")
    return CallRejected(name, by, rejected.retry_after_s)


class Guards:
    """One Guard for each dependency, made when it is first asked for.

    Args:
        now: the monotonic clock in seconds.
        draws: makes streams of numbers in [0, 1) by name: a dependency's for its retries, and `NAME/open_s`.
        retry: for all.
        breaker: for all but those under `breakers`, by longest dotted prefix (`web_search`, `model.anthropic`).
        limiters: by longest dotted prefix; without an entry there is no limit.
        places: of each bulkhead.
        redis: with it breakers and limiters are shared with the other processes that ask the same Redis.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        draws: Callable[[str], Callable[[], float]],
        retry: RetryPolicy | None = None,
        breaker: BreakerPolicy | None = None,
        breakers: Mapping[str, BreakerPolicy] | None = None,
        limiters: Mapping[str, LimiterPolicy] | None = None,
        places: int = 16,
        redis: RedisLink | None = None,
    ) -> None:
        self._now, self._draws, self._places, self._redis = now, draws, places, redis
        self._retry, self._breaker = retry or RetryPolicy(), breaker or BreakerPolicy()
        self._breakers, self._limiters = dict(breakers or {}), dict(limiters or {})
        self._guards: dict[str, Guard] = {}

    def __call__(self, name: str) -> Guard:
        """The guard of this dependency; the same one each time."""
        guard = self._guards.get(name)
        if guard is None:
            # Two threads may both make one: setdefault lets one of them win for both.
            guard = self._guards.setdefault(name, self._made(name))
        return guard

    def snapshots(self) -> tuple[BreakerSnapshot, ...]:
        """How the breakers of all dependencies asked so far stand, by name."""
        own = (self._redis.snapshot(),) if self._redis is not None else ()
        return *(guard.breaker.snapshot() for _, guard in sorted(self._guards.copy().items())), *own

    def _made(self, name: str) -> Guard:
        return Guard(
            name=name,
            breaker=self._made_breaker(name, _longest(self._breakers, name) or self._breaker),
            bulkhead=Bulkhead(name, self._places),
            retry=self._retry,
            quota=RetryQuota(now=self._now),
            now=self._now,
            draw=self._draws(name),
            limiter=self._made_limiter(name, _longest(self._limiters, name)),
        )

    def _made_breaker(self, name: str, policy: BreakerPolicy) -> CircuitBreaker | SharedBreaker:
        draw = self._draws(f"{name}/open_s")
        if self._redis is not None:
            return SharedBreaker(name, policy, link=self._redis, now=self._now, draw=draw)
        return CircuitBreaker(name, policy, now=self._now, draw=draw)

    def _made_limiter(self, name: str, limit: LimiterPolicy | None) -> TokenBucket | SharedBucket | None:
        if limit is None or not limit.per_minute:
            return None
        if self._redis is not None:
            return SharedBucket(name, limit, link=self._redis, now=self._now)
        return TokenBucket(limit, name=name, now=self._now)


def _longest(by_prefix: Mapping[str, T], name: str) -> T | None:
    """The entry for `name` or its longest dotted prefix."""
    fitting = [prefix for prefix in by_prefix if name == prefix or name.startswith(prefix + ".")]
    return by_prefix[max(fitting, key=len)] if fitting else None


def with_deadline(flow: Flow[T], deadline: Deadline, *, now: Callable[[], float]) -> Flow[T]:
    """Bound a whole call: what is inside obeys the deadline itself, this ends what does not.

    Raises DeadlineExceeded when the time is over, naming what ended it; every other error as it came.
    """
    started_s = now()
    left_s = deadline.left_s(started_s)
    try:
        result: T = yield Attempt(flow, left_s + OUTER_GRACE_S)
        return result
    except AttemptTimedOut as error:
        if deadline.allows_start(now()):
            raise
        spent_s = now() - started_s
        raise DeadlineExceeded(f"gave up after {spent_s:.3g} s: {one_line(str(error))}", (error,)) from error
