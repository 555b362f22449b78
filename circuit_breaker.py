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

Opt-in (`breaker_policy.py`): a count window judges by the rates of failed and of slow calls in
place of the row; then every call takes the lock, and a slow probe has failed. An open time
that follows a failed probe can be longer than the last, less a random part, so that many
processes do not come back together. By hand: `open` refuses every call, probes too, until
`half_open` (automatic again, probes first) or `close` (automatic again, nothing counted).

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
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from breaker_policy import VOICE, BreakerPolicy, CountWindow, LastCalls, WindowCounts
from errors import AgentError, CircuitOpen, Outcome, outcome_of, reason_of, retry_after_s
from events import CircuitClosed, CircuitHalfOpened, CircuitOpened, Event
from skins import check_types, is_async

P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["VOICE", "BreakerPolicy", "BreakerSnapshot", "CircuitBreaker", "CountWindow", "Permit", "State"]


class State(StrEnum):
    """Where a breaker stands. HALF_OPEN begins when the open time is over, asked or not."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class BreakerSnapshot:
    """How a breaker stood at one moment, for status and metrics.

    `retry_after_s` is 0 when a call would be let through now, else the seconds until one surely is: inf
    when the circuit was opened by hand (`manual`). `window` counts the last calls where the policy does.
    """

    name: str
    state: State
    failures_in_a_row: int
    retry_after_s: float
    probes: int
    manual: bool = False
    window: WindowCounts | None = None


class _Era:
    """One generation. Only `failures`, `quiet`, `last` (closed) or the last three fields (not closed) change."""

    __slots__ = (
        "announced", "closed", "failed_probes", "failures", "last", "open_until_s", "probes", "quiet", "successes",
        "why",
    )  # fmt: skip

    def __init__(
        self,
        window: CountWindow | None = None,
        *,
        closed: bool,
        failures: int = 0,
        open_until_s: float = -math.inf,
        failed_probes: int = 0,
        why: str = "",
    ) -> None:
        self.closed = closed
        self.quiet = closed and window is None  # nothing to take before a call and to learn from its success
        self.failures = failures
        self.last = LastCalls(window) if closed and window is not None else None
        self.open_until_s = open_until_s  # inf: by hand
        self.failed_probes = failed_probes  # since the circuit was last closed
        self.why = why
        self.probes: tuple[Permit, ...] = ()  # replaced, never changed, so that lookers need no lock
        self.successes = 0
        self.announced = False


class Permit:
    """Leave to make one call. Settle it once with what the call said; more than once does nothing.

    `event` is CircuitHalfOpened when this call was the first one let through after the open time.
    """

    # `CircuitBreaker.permit` fills these in: an __init__ would be a fifth of the healthy path.
    __slots__ = ("_breaker", "_era", "_lease_s", "event", "lease_ends_s", "started_s")
    _breaker: CircuitBreaker
    _era: _Era | None  # None: not taken yet, or settled
    _lease_s: float | None
    event: Event | None
    lease_ends_s: float  # of probes only
    started_s: float  # where the policy times calls only

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
        if outcome is Outcome.SUCCESS and era.quiet:
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
        if era.quiet:
            self._era = era
        else:
            self._breaker._admit(self, self._lease_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.settle_error(error)
        elif (era := self._era) is not None and not era.quiet:
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
        draw: numbers in [0, 1) for the jitter of the open time; asked only where the policy has one.
    """

    def __init__(
        self,
        name: str = "default",
        policy: BreakerPolicy | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        listener: Callable[[Event], None] | None = None,
        excluded: tuple[type[BaseException], ...] = (),
        draw: Callable[[], float] = random.random,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a breaker takes a name, not {name!r}: make one, then decorate with it")
        check_types(excluded, "CircuitBreaker(excluded=...)")
        self.name = name
        self.policy = policy or BreakerPolicy()
        self.excluded = excluded
        self.not_before_s = -math.inf
        """When, on the clock of `now`, a throttling server wants the next call; -inf: it never said."""
        self.dropped = 0
        self._now, self._draw, self._listener = now, draw, listener
        self._lock = threading.Lock()
        window = self.policy.window
        self._timed = window is not None and window.slow_s < math.inf
        self._era = _Era(window, closed=True)

    @property
    def state(self) -> State:
        """CLOSED, OPEN or HALF_OPEN, at this moment."""
        return _state(self._era, self._now())

    def snapshot(self) -> BreakerSnapshot:
        """How the breaker stands at this moment."""
        era, now_s = self._era, self._now()
        probes = len(_held(era.probes, now_s))
        wait_s = _wait_s(era, now_s, self.policy.max_probes)
        counts = era.last.counts if era.last is not None else None
        state, manual = _state(era, now_s), era.open_until_s == math.inf
        return BreakerSnapshot(self.name, state, era.failures, wait_s, probes, manual, counts)

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

    def open(self) -> Event | None:
        """Open by hand: refuse every call, probes too, until `half_open` or `close` is called.

        Returns CircuitOpened with `open_s` inf, or None where it was open by hand already. Calls under
        way go on; what they report is dropped.
        """
        with self._lock:
            if self._era.open_until_s == math.inf:
                return None
            failures = self._era.failures
            self._era = _Era(closed=False, failures=failures, open_until_s=math.inf, why="it was opened by hand")
        event = CircuitOpened(self.name, failures, math.inf)
        self._tell(event)
        return event

    def half_open(self) -> None:
        """Back to automatic with care: the next calls are probes, and they decide."""
        with self._lock:
            self._era = _Era(closed=False, failures=self._era.failures, why="it is being probed")

    def close(self) -> Event | None:
        """Back to automatic at once: closed, with nothing counted. Returns CircuitClosed where it was not closed."""
        with self._lock:
            was_closed = self._era.closed
            self._era = _Era(self.policy.window, closed=True)
        event = None if was_closed else CircuitClosed(self.name)
        self._tell(event)
        return event

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a plain function or an `async def`. Raises TypeError for generators."""
        is_awaited = is_async(function, "@breaker", "use `with breaker.permit():` around the work")
        return self._watched_async(function) if is_awaited else self._watched(function)

    # The two skins make no Permit while the circuit is closed and well: it would double their price.

    def _watched(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def watched(*args: P.args, **kwargs: P.kwargs) -> R:
            era = self._era
            permit = None if era.quiet else self.acquire()
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                (permit or self._permit_of(era)).settle_error(error)
                raise
            if permit is not None or not era.quiet:
                (permit or self._permit_of(era)).settle(Outcome.SUCCESS)
            return result

        return watched

    def _watched_async(self, function: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(function)
        async def watched(*args: P.args, **kwargs: P.kwargs) -> Any:
            era = self._era
            permit = None if era.quiet else self.acquire()
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                (permit or self._permit_of(era)).settle_error(error)
                raise
            if permit is not None or not era.quiet:
                (permit or self._permit_of(era)).settle(Outcome.SUCCESS)
            return result

        return watched

    def _permit_of(self, era: _Era) -> Permit:
        permit = self.permit()
        permit._era = era
        return permit

    def _admit(self, permit: Permit, lease_s: float | None) -> None:
        era = self._era
        if not era.closed:
            era = self._admit_probe(permit, lease_s)
        elif self._timed:
            permit.started_s = self._now()
        permit._era = era
        self._tell(permit.event)

    def _admit_probe(self, permit: Permit, lease_s: float | None) -> _Era:
        with self._lock:
            era, now_s = self._era, self._now()
            if (wait_s := _wait_s(era, now_s, self.policy.max_probes)) > 0:
                raise self._rejection(era, wait_s)
            permit.started_s = now_s
            if era.closed:
                return era  # another call closed it since we looked
            permit.lease_ends_s = now_s + (self.policy.lease_s if lease_s is None else lease_s)
            era.probes = (*_held(era.probes, now_s), permit)
            if not era.announced:
                era.announced, permit.event = True, CircuitHalfOpened(self.name)
            return era

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
            event = self._learn(era, outcome, asked_s, self._is_slow(permit))
        self._tell(event)
        return event

    def _is_slow(self, permit: Permit) -> bool:
        window = self.policy.window
        return self._timed and window is not None and self._now() - permit.started_s >= window.slow_s

    # The transitions. Called with the lock held.

    def _learn(self, era: _Era, outcome: Outcome | None, asked_s: float, slow: bool) -> Event | None:
        if outcome is Outcome.THROTTLED:
            self.not_before_s = max(self.not_before_s, self._now() + asked_s)
        if outcome is not Outcome.SUCCESS and outcome is not Outcome.FAILURE:
            return None
        failed = outcome is Outcome.FAILURE
        if era.closed:
            return self._learn_closed(era, failed, asked_s, slow)
        if failed or slow:
            failures = era.failures + failed
            why = (
                f"it failed {failures} times in a row" if self.policy.window is None else "its probe failed or was slow"
            )
            return self._open(failures, asked_s, why, era.failed_probes + 1)
        era.successes += 1
        if era.successes < self.policy.success_threshold:
            return None
        self._era = _Era(self.policy.window, closed=True)
        return CircuitClosed(self.name)

    def _learn_closed(self, era: _Era, failed: bool, asked_s: float, slow: bool) -> Event | None:
        # Lookers take no lock: what opens the circuit is never written to the era that they still see closed,
        # and `quiet` ends before the row begins and begins after it ended.
        failures = era.failures + 1 if failed else 0
        if era.last is not None:
            too_much = era.last.add(failed=failed, slow=slow)
        else:
            too_much = f"it failed {failures} times in a row" if failures >= self.policy.failure_threshold else ""
        if too_much:
            return self._open(failures, asked_s, too_much)
        if failed:
            era.quiet = False
        era.failures = failures
        era.quiet = era.last is None and not failures
        return None

    def _open(self, failures: int, asked_s: float, why: str, failed_probes: int = 0) -> Event:
        open_s = max(self.policy.opening_s(failed_probes, self._draw), asked_s)
        until_s = self._now() + open_s
        self._era = _Era(
            closed=False, failures=failures, open_until_s=until_s, failed_probes=failed_probes, why=why
        )  # fmt: skip
        return CircuitOpened(self.name, failures, open_s)

    def _rejection(self, era: _Era, wait_s: float) -> CircuitOpen:
        by_hand = wait_s == math.inf
        when = "it waits to be closed by hand" if by_hand else f"next try in {wait_s:.3g} s"
        return CircuitOpen(
            f"{self.name} is not asked: {era.why}; {when}",
            retry_after_s=None if by_hand else wait_s,
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
