"""Stops asking a dependency that keeps failing, and finds out by itself when it is well again.  (floor 1)

                      failure_threshold failures in a row
        ┌────────┐ ───────────────────────────────────────▶ ┌──────┐ ◀──┐
        │ CLOSED │                                          │ OPEN │    │ a probe fails
        └────────┘ ◀──────────────┐                         └──────┘    │
                                  │                  open_s are over │  │
           success_threshold      │                                  ▼  │
           probes succeed         └────────────────────── ┌───────────┐ │
                                                          │ HALF_OPEN │─┘
                                                          └───────────┘
CLOSED lets every call through. OPEN refuses every call with a fresh CircuitOpen. HALF_OPEN
lets `max_probes` calls through at a time and refuses the others. (Nygard, "Release It!",
"Circuit Breaker"; the third outcome and the generation are gobreaker's.)

Ask, act, report: a *permit* is asked for before the call and settled after it. It is a
token of one *generation*, the time from one change of state to the next: what a call
reports after the state has changed is old news and is dropped. A probe's permit is also a
*lease*: when it ends unsettled (the call hangs, its thread died), the place is free again,
and once another call has taken that place, the late report is dropped too.

Threads: a generation is one object, `_Era`. A call on a closed circuit reads one reference,
and a success with no failure before it has nothing to change, so the healthy path takes no
lock; that read is its point of linearization. Everything else happens under one small lock,
which is never held while a call, a listener or a wait runs. Looking (`peek`, `state`,
`snapshot`) takes nothing and locks nothing.

What this deliberately does not do: limit the time of a call, try again, forget failures as
time goes by, or share its state with other processes. Flows take `acquire` and `settle`
themselves (`guard.py` does): a local breaker has nothing to wait for.
"""

from __future__ import annotations

import functools
import inspect
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from errors import AgentError, CircuitOpen, ConfigurationError, Outcome, outcome_of, reason_of, retry_after_s
from events import CircuitClosed, CircuitHalfOpened, CircuitOpened, Event

P = ParamSpec("P")
R = TypeVar("R")


class State(StrEnum):
    """Where a breaker stands. HALF_OPEN begins when the open time is over, asked or not."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open, for how long, and what closes again. The defaults are for production.

    Raises ConfigurationError for values that make no sense.
    """

    failure_threshold: int = 5
    """Failures in a row that open the circuit. gobreaker and pybreaker: 5."""
    open_s: float = 60.0
    """Seconds of refusing before the first probe. gobreaker and pybreaker: 60."""
    success_threshold: int = 1
    """Probes that must succeed to close; a probe that fails opens again at once."""
    max_probes: int = 1
    """Calls let through at the same time while half-open."""
    open_s_max: float = 300.0
    """The longest open time a server's Retry-After can ask for, in seconds."""
    lease_s: float = 150.0
    """Seconds a probe keeps its place when `acquire` is not told: the longest call (120) and a grace."""

    def __post_init__(self) -> None:
        for name in ("failure_threshold", "success_threshold", "max_probes"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("open_s", "open_s_max"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} must be a number of seconds, not {getattr(self, name)}")
        if not self.lease_s > 0:
            raise ConfigurationError(f"lease_s must be more than 0 seconds, not {self.lease_s}")


VOICE = BreakerPolicy(failure_threshold=3, open_s=30.0)
"""For spoken conversations: nobody stays on the line for five failures."""


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """How a breaker stood at one moment, for status and metrics.

    `retry_after_s` is 0 when a call would be let through now, else the seconds until one surely is.
    """

    name: str
    state: State
    failures_in_a_row: int
    retry_after_s: float
    probes: int


class _Era:
    """One generation. Only `failures` (closed) or the three last fields (not closed) ever change."""

    __slots__ = ("announced", "closed", "failures", "open_until_s", "probes", "successes")

    def __init__(self, *, closed: bool, failures: int = 0, open_until_s: float = 0.0) -> None:
        self.closed = closed
        self.failures = failures  # never 0 where not closed: `Permit.settle` counts on it
        self.open_until_s = open_until_s
        self.probes: tuple[Permit, ...] = ()  # replaced, never changed, so that lookers need no lock
        self.successes = 0
        self.announced = False


class Permit:
    """Leave to make one call. Settle it once with what the call said; more than once does nothing.

    `event` is CircuitHalfOpened when this call was the first one let through after the open time.
    """

    # `CircuitBreaker.permit` fills these in: an __init__ would be a fifth of the healthy path.
    __slots__ = ("_breaker", "_era", "_lease_s", "event", "lease_ends_s")
    _breaker: CircuitBreaker
    _era: _Era | None  # None: not taken yet, or settled
    _lease_s: float | None
    event: Event | None
    lease_ends_s: float  # of probes only

    def settle(self, outcome: Outcome | None, retry_after_s: float | None = None) -> Event | None:
        """Report what the call said about the dependency.

        Args:
            outcome: SUCCESS and FAILURE count, THROTTLED sets `not_before_s`, NEUTRAL and None (nothing
                was tried) only give a probe's place back.
            retry_after_s: what the server asked for, in seconds; honoured up to `open_s_max`.

        Returns CircuitOpened or CircuitClosed when this report changed the state, for flows to emit.
        """
        era = self._era
        if era is None:
            return None
        if outcome is Outcome.SUCCESS and not era.failures:
            self._era = None
            return None  # closed and well: a success is no news
        return self._breaker._settle(self, outcome, retry_after_s)

    def release(self) -> None:
        """Give the permit back without a verdict: the call was cancelled or never made."""
        self.settle(Outcome.NEUTRAL)

    def settle_error(self, error: BaseException) -> None:
        """Report an exception, classified as the skins do; never raises in its place."""
        try:
            outcome, wait_s = _outcome_of_call(error, self._breaker.excluded), _asked_s(error)
        except Exception:  # foreign exceptions run foreign code when they are read; the caller gets the original
            outcome, wait_s = Outcome.FAILURE, None
        self.settle(outcome, wait_s)

    def __enter__(self) -> Permit:
        if self._era is not None:
            raise RuntimeError("this permit is taken already: ask breaker.permit() for each call")
        era = self._breaker._era
        if era.closed:
            self._era = era
        else:
            self._breaker._admit(self, self._lease_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.settle_error(error)
        elif (era := self._era) is not None and era.failures:
            self.settle(Outcome.SUCCESS)
        else:
            self._era = None  # as `settle` would, without the call: this is the healthy path

    async def __aenter__(self) -> Permit:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class CircuitBreaker:
    """One dependency's breaker. Safe to share between threads and tasks.

        breaker = CircuitBreaker("search")

        @breaker                            # plain and async functions
        def search(words): ...

        with breaker.permit() as permit:    # or async with
            ...                             # permit.settle(Outcome.FAILURE) for a failure that is no exception

    In these skins an exception that says what it is (AgentError, an HTTP client's or SDK's, OSError)
    counts by its verdict in `errors.VERDICTS`, so a 400 never opens a circuit; any other Exception
    counts as a failure; cancellation, KeyboardInterrupt and their like say nothing. The caller always
    gets the original exception.

    Args:
        name: the dependency's name, as it stands in errors and events.
        policy: when to open and close.
        now: a clock in seconds that never goes back.
        listener: told of CircuitOpened, CircuitHalfOpened and CircuitClosed, in the thread that caused
            them and outside the lock; what it raises is dropped and counted in `dropped`.
        excluded: exception types that say nothing about the dependency (NEUTRAL).
    """

    def __init__(
        self,
        name: str = "default",
        policy: BreakerPolicy | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        listener: Callable[[Event], None] | None = None,
        excluded: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.name = name
        self.policy = policy or BreakerPolicy()
        self.excluded = excluded
        self.not_before_s = -math.inf
        """When, on the clock of `now`, a throttling server wants the next call; -inf: it never said."""
        self.dropped = 0
        self._now, self._listener = now, listener
        self._lock = threading.Lock()
        self._era = _Era(closed=True)

    @property
    def state(self) -> State:
        """CLOSED, OPEN or HALF_OPEN, at this moment."""
        return _state(self._era, self._now())

    def snapshot(self) -> BreakerSnapshot:
        """How the breaker stands at this moment."""
        era, now_s = self._era, self._now()
        probes = len(_held(era.probes, now_s))
        wait_s = _wait_s(era, now_s, self.policy.max_probes)
        return BreakerSnapshot(self.name, _state(era, now_s), era.failures, wait_s, probes)

    def peek(self) -> None:
        """Raise CircuitOpen where `acquire` would; take nothing."""
        era = self._era
        if not era.closed and (wait_s := _wait_s(era, self._now(), self.policy.max_probes)) > 0:
            raise self._rejection(era, wait_s)

    def acquire(self, lease_s: float | None = None) -> Permit:
        """A permit for one call, to be settled or released.

        Args:
            lease_s: for how long a probe keeps its place unsettled: the call's timeout and a grace.

        Raises CircuitOpen, fresh each time, with `retry_after_s` and `dependency`.
        """
        return self.permit(lease_s).__enter__()

    def permit(self, lease_s: float | None = None) -> Permit:
        """The same for `with` and `async with`: taken on entry, settled by how the block ends."""
        permit = Permit()
        permit._breaker, permit._era, permit._lease_s, permit.event = self, None, lease_s, None
        return permit

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a plain function or an `async def`. Raises TypeError for generators."""
        return self._watched_async(function) if _is_async(function) else self._watched(function)

    # The two skins make no Permit while the circuit is closed and well: it would double their price.

    def _watched(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def watched(*args: P.args, **kwargs: P.kwargs) -> R:
            era = self._era
            permit = None if era.closed else self.acquire()
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                (permit or self._permit_of(era)).settle_error(error)
                raise
            if era.failures:
                (permit or self._permit_of(era)).settle(Outcome.SUCCESS)
            return result

        return watched

    def _watched_async(self, function: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(function)
        async def watched(*args: P.args, **kwargs: P.kwargs) -> Any:
            era = self._era
            permit = None if era.closed else self.acquire()
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                (permit or self._permit_of(era)).settle_error(error)
                raise
            if era.failures:
                (permit or self._permit_of(era)).settle(Outcome.SUCCESS)
            return result

        return watched

    def _permit_of(self, era: _Era) -> Permit:
        permit = self.permit()
        permit._era = era
        return permit

    def _admit(self, permit: Permit, lease_s: float | None) -> None:
        with self._lock:
            era, now_s = self._era, self._now()
            if (wait_s := _wait_s(era, now_s, self.policy.max_probes)) > 0:
                raise self._rejection(era, wait_s)
            permit._era = era
            if era.closed:
                return  # another call closed it since we looked
            permit.lease_ends_s = now_s + (self.policy.lease_s if lease_s is None else lease_s)
            era.probes = (*_held(era.probes, now_s), permit)
            if not era.announced:
                era.announced, permit.event = True, CircuitHalfOpened(self.name)
        self._tell(permit.event)

    def _settle(self, permit: Permit, outcome: Outcome | None, retry_after_s: float | None) -> Event | None:
        with self._lock:
            era, permit._era = permit._era, None
            if era is None or era is not self._era:
                return None  # settled by another thread, or of an older generation
            if not era.closed:
                if permit not in era.probes:
                    return None  # its lease ended and another call has its place
                era.probes = tuple(probe for probe in era.probes if probe is not permit)
            asked_s = min(self.policy.open_s_max, max(0.0, retry_after_s or 0.0))
            event = self._learn(era, outcome, asked_s)
        self._tell(event)
        return event

    def _learn(self, era: _Era, outcome: Outcome | None, asked_s: float) -> Event | None:
        """The transitions. Called with the lock held."""
        policy = self.policy
        if outcome is Outcome.FAILURE:
            era.failures += 1
            if not era.closed or era.failures >= policy.failure_threshold:
                open_s = max(policy.open_s, asked_s)
                self._era = _Era(closed=False, failures=era.failures, open_until_s=self._now() + open_s)
                return CircuitOpened(self.name, era.failures, open_s)
        elif outcome is Outcome.SUCCESS and era.closed:
            era.failures = 0
        elif outcome is Outcome.SUCCESS:
            era.successes += 1
            if era.successes >= policy.success_threshold:
                self._era = _Era(closed=True)
                return CircuitClosed(self.name)
        elif outcome is Outcome.THROTTLED:
            self.not_before_s = max(self.not_before_s, self._now() + asked_s)
        return None

    def _rejection(self, era: _Era, wait_s: float) -> CircuitOpen:
        return CircuitOpen(
            f"{self.name} is not asked: it failed {era.failures} times in a row; next try in {wait_s:.3g} s",
            retry_after_s=wait_s,
            dependency=self.name,
        )

    def _tell(self, event: Event | None) -> None:
        if event is None or self._listener is None:
            return
        try:
            self._listener(event)
        except Exception:  # a broken listener must not hurt the call it only watches
            self.dropped += 1


def _state(era: _Era, now_s: float) -> State:
    if era.closed:
        return State.CLOSED
    return State.OPEN if now_s < era.open_until_s else State.HALF_OPEN


def _wait_s(era: _Era, now_s: float, max_probes: int) -> float:
    """Seconds until a call is let through at the latest; 0 = now."""
    if era.closed:
        return 0.0
    if now_s < era.open_until_s:
        return era.open_until_s - now_s
    held = _held(era.probes, now_s)
    return min(probe.lease_ends_s for probe in held) - now_s if len(held) >= max_probes else 0.0


def _held(probes: tuple[Permit, ...], now_s: float) -> tuple[Permit, ...]:
    return tuple(probe for probe in probes if probe.lease_ends_s > now_s)


def _outcome_of_call(error: BaseException, excluded: tuple[type[BaseException], ...]) -> Outcome | None:
    if not isinstance(error, Exception) or isinstance(error, excluded):
        return Outcome.NEUTRAL
    if not isinstance(error, AgentError) and reason_of(error) in ("bad_input", "internal"):
        # Floor 0 takes a bare ValueError for bad input; around a foreign client nobody knows whose it is.
        return Outcome.FAILURE
    return outcome_of(error)


def _asked_s(error: BaseException) -> float | None:
    """The server's Retry-After. A date says nothing here: it needs the wall clock, which rules don't have."""
    if isinstance(error, AgentError):
        return error.retry_after_s
    headers = getattr(getattr(error, "response", None), "headers", None)
    return retry_after_s(headers, wall_s=math.inf) if isinstance(headers, Mapping) else None


def _is_async(function: Callable[..., Any]) -> bool:
    if not callable(function):
        raise TypeError(f"@breaker decorates functions, not {function!r}")
    shapes = (function, type(function).__call__)
    if any(inspect.isgeneratorfunction(shape) or inspect.isasyncgenfunction(shape) for shape in shapes):
        raise TypeError(
            f"@breaker cannot watch the generator {function!r}: calling it does none of its work;"
            " use `with breaker.permit():` around the work"
        )
    return any(inspect.iscoroutinefunction(shape) for shape in shapes)
