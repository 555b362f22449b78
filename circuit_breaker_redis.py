"""Shares a circuit breaker between processes, so that one of them learns for all what is out of order.  (floor 1)

The twin of `circuit_breaker.py`: the same states, transitions, outcomes and errors. What is shared
lives in Redis, a hash and a sorted set for each dependency, and every decision there is one Lua
script, so one moment on one clock, the server's:

    hash    generation, open or not, failures in a row, when it opens for probes, ...
    zset    the probes under way, each with the end of its lease: a dead holder blocks nobody

Every key has a TTL, and a refusal writes nothing. A verdict counts when its permit is of the current
generation and, for a probe, its token still has a place. Because failures are counted *in a row*, a
failure also says how long ago this process last saw a success: healthy calls report nothing.

How often Redis is asked:
- **closed**: what was heard is good for `FRESH_S`; then one call asks and the others go on. A success
  that ends no row of failures stays at home. So the healthy path costs no more than one round trip a second.
- **open**: until its end nobody asks.
- **half-open, or a failure**: each decision is one round trip.

When Redis is away a local `CircuitBreaker` decides, which has seen every verdict and follows the shared
state, so it is warm. Each process tells with each script what it knew last, with its generation:
whoever knows a later generation tells it to the others. That is how a flushed or replaced Redis gets
its state back, and how a circuit that opened while Redis was away stays open.

What this deliberately does not do: share a policy's window (each process judges by its own calls and
shares what it concludes), share the pause of a throttling server, open by hand, keep what nobody
asked about for an hour, hold anything in Redis while a call runs.
"""

from __future__ import annotations

import functools
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from circuit_breaker import BreakerPolicy, BreakerSnapshot, CircuitBreaker, Permit, State, _asked_s, _outcome_of_call
from circuit_breaker_script import SCRIPT, Reply, read
from errors import CircuitOpen, Outcome
from events import CircuitClosed, CircuitHalfOpened, CircuitOpened, Event
from flow import Flow, Script, drive, drive_async
from redis_link import WAIT_S, RedisLink, Runner, key
from skins import is_async

P = ParamSpec("P")
R = TypeVar("R")

FRESH_S = 0.75
"""How long "closed" is good for. With the refresh itself a circuit opened elsewhere is seen within a second."""

KEEP_S = 3600.0
"""How long what is known lasts when nobody asks: the TTL of the keys, less the time a circuit is open."""

_TOLD_S = float("-inf")

LEASE_S_MAX = 3600.0
"""The longest lease of a probe; the keys of probes outlive it."""

_RETURNED_MAX = 32
"""Places that wait to be given back with the next script; older ones end with their lease."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of the shared state. `refused_until_s`: until then a call is refused without asking.

    `alone`: concluded here while Redis was away; whoever can asks what the others know.
    """

    generation: int = 0
    closed: bool = True
    failures: int = 0
    open_until_s: float = 0.0
    refused_until_s: float = 0.0
    free_at_s: float = 0.0
    at_s: float = float("-inf")
    alone: bool = False


class SharedPermit:
    """Leave to make one call. Settle it once with what the call said; more than once does nothing.

    `event` is CircuitHalfOpened when this call was the first one let through after the open time.
    """

    __slots__ = ("_breaker", "_generation", "_local", "_pending", "_token", "event")

    def __init__(
        self, breaker: SharedBreaker, generation: int, token: str, local: Permit | None, event: Event | None
    ) -> None:
        self._breaker, self._generation, self._token, self._local = breaker, generation, token, local
        self._pending = [True]  # popped by whoever settles first, in whatever thread
        self.event = event

    def settling(self, outcome: Outcome | None, retry_after_s: float | None = None) -> Flow[Event | None]:
        """Report what the call said, as `circuit_breaker.Permit.settle` does."""
        if not self._take():
            return None
        return (yield from self._breaker._settling(self, outcome, retry_after_s))

    def settle(self, outcome: Outcome | None, retry_after_s: float | None = None) -> Event | None:
        """The same outside flows, blocking for at most `WAIT_S`."""
        return self._breaker._drive(self.settling(outcome, retry_after_s))

    async def settle_async(self, outcome: Outcome | None, retry_after_s: float | None = None) -> Event | None:
        """The same on asyncio."""
        return await self._breaker._drive_async(self.settling(outcome, retry_after_s))

    def release(self) -> None:
        """Give the permit back without a verdict. A plain call: a probe's place goes back with the next script."""
        if self._take():
            if self._token:
                self._breaker._returned.append(self._token)
            if self._local is not None:
                self._local.release()

    def _take(self) -> bool:
        try:
            return self._pending.pop()
        except IndexError:
            return False


class PermitBlock:
    """`with breaker.permit():` and `async with`: a permit taken on entry, settled by how the block ends."""

    __slots__ = ("_breaker", "_lease_s", "_permit")

    def __init__(self, breaker: SharedBreaker, lease_s: float | None) -> None:
        self._breaker, self._lease_s = breaker, lease_s
        self._permit: SharedPermit | None = None

    def __enter__(self) -> SharedPermit:
        self._check()
        self._permit = self._breaker.acquire(self._lease_s)
        return self._permit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        permit = self._permit
        if permit is not None and (verdict := self._verdict(permit, error)) is not None:
            permit.settle(*verdict)

    async def __aenter__(self) -> SharedPermit:
        self._check()
        self._permit = await self._breaker.acquire_async(self._lease_s)
        return self._permit

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        permit = self._permit
        if permit is not None and (verdict := self._verdict(permit, error)) is not None:
            await permit.settle_async(*verdict)

    def _check(self) -> None:
        if self._permit is not None:
            raise RuntimeError("this permit is taken already: ask breaker.permit() for each call")

    def _verdict(self, permit: SharedPermit, error: BaseException | None) -> tuple[Outcome | None, float | None] | None:
        """What to report; None after giving back at once: who was cancelled must not wait for Redis."""
        if error is None:
            return Outcome.SUCCESS, None
        if not isinstance(error, Exception):
            permit.release()
            return None
        try:
            return _outcome_of_call(error, self._breaker.excluded), _asked_s(error)
        except Exception:  # foreign exceptions run foreign code when they are read; the caller gets the original
            return Outcome.FAILURE, None


class SharedBreaker:
    """One dependency's breaker, shared with other processes. Safe to share between threads and tasks.

        breaker = SharedBreaker("search", run=RedisScripts.from_url("redis://localhost"))

        @breaker                            # plain and async functions
        def search(words): ...

        with breaker.permit() as permit:    # or async with
            ...                             # permit.settle(Outcome.FAILURE) for a failure that is no exception

    All processes must give a name the same policy. What counts as a failure is `CircuitBreaker`'s.

    Args:
        name: the dependency's name, as it stands in errors, events and keys.
        policy: when to open and close.
        run: runs the scripts, for use outside flows.
        link: this process's link to Redis, shared by all that use it; without it, one of its own over `run`.
        now: a clock in seconds that never goes back.
        listener: told of CircuitOpened, CircuitHalfOpened and CircuitClosed that this process caused; outside
            flows also of RedisUnavailable and RedisBack. What it raises is dropped and counted in `dropped`.
        excluded: exception types that say nothing about the dependency (NEUTRAL).
        draw: numbers in [0, 1) for the jitter.
    """

    def __init__(
        self,
        name: str = "default",
        policy: BreakerPolicy | None = None,
        *,
        run: Runner | None = None,
        link: RedisLink | None = None,
        now: Callable[[], float] = time.monotonic,
        listener: Callable[[Event], None] | None = None,
        excluded: tuple[type[BaseException], ...] = (),
        draw: Callable[[], float] = random.random,
    ) -> None:
        if link is None:
            if run is None:
                raise TypeError("SharedBreaker needs `run` or `link`")
            link = RedisLink(run.identity, now=now)
        self.name, self.policy, self.excluded = name, policy or BreakerPolicy(), excluded
        self.not_before_s = float("-inf")
        """When, on the clock of `now`, a throttling server wants the next call; of this process alone."""
        self.dropped = 0
        self._run, self._link, self._now, self._listener, self._draw = run, link, now, listener, draw
        self._keys = (key(name, "breaker"), key(name, "probes"))
        self._local = CircuitBreaker(name, self.policy, now=now, draw=draw)
        self._lock = threading.Lock()
        self._seen = _Seen()
        self._refreshed_by_s = float("-inf")
        self._succeeded_s = _TOLD_S  # the last success that Redis has not heard of
        self._returned: deque[str] = deque(maxlen=_RETURNED_MAX)

    # --- looking: takes nothing, asks nobody

    @property
    def state(self) -> State:
        """CLOSED, OPEN or HALF_OPEN, as far as this process knows."""
        return self.snapshot().state

    def snapshot(self) -> BreakerSnapshot:
        """How the breaker stands, as far as this process knows."""
        seen, now_s, own = self._seen, self._now(), self._local.snapshot()
        if self._link.away and now_s >= seen.open_until_s:
            return own
        state = State.CLOSED if seen.closed else State.OPEN if now_s < seen.open_until_s else State.HALF_OPEN
        wait_s = 0.0 if seen.closed else max(0.0, seen.refused_until_s - now_s)
        return BreakerSnapshot(self.name, state, seen.failures, wait_s, own.probes, window=own.window)

    def peek(self) -> None:
        """Raise CircuitOpen where `acquire` surely would; take nothing."""
        seen, now_s = self._seen, self._now()
        if (seen.alone or self._link.away) and self._link.is_ready():
            return  # who asks now also finds out whether Redis is back, and what the others know
        if not seen.closed and now_s < seen.refused_until_s and not self._returned:
            raise self._rejection(seen.failures, seen.free_at_s - now_s)
        if self._link.away:
            self._local.peek()

    # --- flows

    def acquiring(self, lease_s: float | None = None) -> Flow[SharedPermit]:
        """A permit for one call, to be settled or released.

        Args:
            lease_s: for how long a probe keeps its place unsettled: the call's timeout and a grace.

        Raises CircuitOpen, fresh each time, with `retry_after_s` and `dependency`.
        """
        return self._admitted(lease_s) if self._is_known_closed() else (yield from self._asking_for(lease_s))

    def _asking_for(self, lease_s: float | None) -> Flow[SharedPermit]:
        lease_s = self._lease_s(lease_s)
        self.peek()
        if not self._link.is_ready():
            return self._locally(lease_s)
        asked_s, lease_ms = self._now(), max(1, round(lease_s * 1000))
        token = f"{self._link.token()}:{lease_ms}"
        reply: Reply | None = None
        try:
            reply = yield from self._asking("acquire", token, lease_ms=lease_ms)
        finally:
            if reply is None:
                self._returned.append(token)  # nobody knows whether the place was taken
        if reply is None:
            return self._locally(lease_s)
        self._adopt(reply, asked_s)
        if not reply.admitted:
            raise self._rejection(reply.failures, reply.wait_s)
        if reply.closed:
            return self._admitted(lease_s)
        event = CircuitHalfOpened(self.name) if reply.event == 3 else None
        self._tell(event)
        return SharedPermit(self, reply.generation, token, self._local_permit(lease_s), event)

    def _settling(
        self, permit: SharedPermit, outcome: Outcome | None, retry_after_s: float | None
    ) -> Flow[Event | None]:
        asked_s, now_s = max(0.0, retry_after_s or 0.0), self._now()
        own = permit._local.settle(outcome, retry_after_s) if permit._local is not None else None
        if outcome is Outcome.THROTTLED:
            self.not_before_s = max(self.not_before_s, now_s + min(self.policy.open_s_max, asked_s))
        what = self._news(permit, outcome, own)
        if outcome is Outcome.SUCCESS:
            self._succeeded_s = now_s
        if not what:
            return None
        reply: Reply | None = None
        try:
            reply = yield from self._asking(what, permit._token, permit._generation, asked_s=asked_s)
        finally:
            if reply is None:
                self._note(own)
                if permit._token:
                    self._returned.append(permit._token)
        event = own if reply is None else self._event(reply)
        if reply is not None:
            self._adopt(reply, now_s)
            if what in ("success", "failure") and self._succeeded_s <= now_s:
                self._succeeded_s = _TOLD_S
        self._tell(event)
        return event

    def _news(self, permit: SharedPermit, outcome: Outcome | None, own: Event | None) -> str:
        """What the others must hear of this verdict; "" for nothing."""
        if permit._token:
            if outcome is Outcome.SUCCESS and isinstance(own, CircuitOpened):
                return "failure"  # a slow probe has failed
            return {Outcome.SUCCESS: "success", Outcome.FAILURE: "failure"}.get(outcome or Outcome.NEUTRAL, "nothing")
        if isinstance(own, CircuitOpened) and self.policy.window is not None:
            return "trip"
        if outcome is Outcome.FAILURE and self.policy.window is None:
            return "failure"
        ends_a_row = outcome is Outcome.SUCCESS and self._seen.closed and self._seen.failures > 0
        return "success" if ends_a_row and self.policy.window is None else ""

    def _asking(
        self, what: str, token: str, generation: int = 0, *, lease_ms: int = 0, asked_s: float = 0.0
    ) -> Flow[Reply | None]:
        policy, now_s = self.policy, self._now()
        silent_s = now_s - self._succeeded_s
        longest_s = max(policy.open_s, policy.open_s_max)
        returned = tuple(self._returned)
        args: tuple[str | int, ...] = (
            what, token, generation, lease_ms,
            round(silent_s * 1000) if silent_s < KEEP_S else -1,
            round(min(policy.open_s_max, asked_s) * 1000),
            policy.failure_threshold, policy.success_threshold, policy.max_probes,
            f"{policy.open_s * 1000:.3f}", f"{longest_s * 1000:.3f}", f"{policy.open_s_growth:g}",
            round(KEEP_S * 1000),
            *self._knowledge(now_s),
            f"{1.0 - policy.open_s_jitter * self._draw() if policy.open_s_jitter else 1.0:.6f}",
            *returned,
        )  # fmt: skip
        reply = yield from self._link.asking(Script("circuit_breaker", SCRIPT, self._keys, args), read)
        if reply is not None:
            for one in returned:
                if one in self._returned:
                    self._returned.remove(one)
        return reply

    # --- what is known here

    def _is_known_closed(self) -> bool:
        """Whether a call may go without asking. When the knowledge gets old, one asks and the others go on."""
        seen, now_s = self._seen, self._now()
        if not seen.closed or seen.alone or self._link.away or now_s >= seen.at_s + FRESH_S + WAIT_S:
            return False
        if now_s < seen.at_s + FRESH_S or now_s < self._refreshed_by_s:
            return True
        self._refreshed_by_s = now_s + WAIT_S
        return False

    def _knowledge(self, now_s: float) -> tuple[int, int, int, int]:
        seen = self._seen
        if self._is_forgotten(now_s):
            return 0, 0, 0, 0
        wait_ms = max(0, round((seen.open_until_s - now_s) * 1000))
        return seen.generation, int(not seen.closed), seen.failures, 0 if seen.closed else wait_ms

    def _adopt(self, reply: Reply, at_s: float) -> None:
        """Take over what a script said, and lead the local breaker along."""
        now_s = self._now()
        refused_s = reply.open_s or min(reply.wait_s, FRESH_S)
        with self._lock:
            if reply.generation < self._seen.generation and not self._is_forgotten(at_s):
                return  # it was overtaken by a later one
            self._seen = _Seen(
                reply.generation, reply.closed, reply.failures,
                now_s + reply.open_s if not reply.closed else 0.0, now_s + refused_s,
                now_s + max(reply.open_s, reply.wait_s), at_s,
            )  # fmt: skip
            is_closed = self._local.state is State.CLOSED
            if reply.closed and not is_closed:
                self._local.close()
            elif not reply.closed and is_closed:
                self._local.half_open()  # how long it stays open is seen above

    def _note(self, own: Event | None) -> None:
        """The local breaker turned while Redis was away: that is the latest generation, until Redis knows better."""
        if not isinstance(own, (CircuitOpened, CircuitClosed)):
            return
        shot, now_s = self._local.snapshot(), self._now()
        closed = shot.state is State.CLOSED
        until_s = 0.0 if closed else now_s + shot.retry_after_s
        with self._lock:
            generation = self._seen.generation + 1
            self._seen = _Seen(generation, closed, shot.failures_in_a_row, until_s, until_s, until_s, now_s, alone=True)

    def _is_forgotten(self, now_s: float) -> bool:
        """Whether what is known is so old that the others may have come further and forgotten it since."""
        return now_s - max(self._seen.at_s, self._seen.open_until_s) > KEEP_S

    def _lease_s(self, lease_s: float | None) -> float:
        return min(self.policy.lease_s if lease_s is None else lease_s, LEASE_S_MAX)

    def _locally(self, lease_s: float) -> SharedPermit:
        seen, now_s = self._seen, self._now()
        if not seen.closed and now_s < seen.open_until_s:
            raise self._rejection(seen.failures, seen.open_until_s - now_s)
        permit = self._local.acquire(lease_s)
        self._tell(permit.event)
        return SharedPermit(self, seen.generation, "", permit, permit.event)

    def _admitted(self, lease_s: float | None) -> SharedPermit:
        return SharedPermit(self, self._seen.generation, "", self._local_permit(lease_s), None)

    def _local_permit(self, lease_s: float | None) -> Permit | None:
        try:
            return self._local.acquire(lease_s)
        except CircuitOpen:
            return None  # the others know better; it follows with the next reply

    def _rejection(self, failures: int, wait_s: float) -> CircuitOpen:
        return CircuitOpen(
            f"{self.name} is not asked: it failed {failures} times in a row; next try in {wait_s:.3g} s",
            retry_after_s=wait_s,
            dependency=self.name,
        )

    def _event(self, reply: Reply) -> Event | None:
        if reply.event == 1:
            return CircuitOpened(self.name, reply.failures, reply.open_s)
        return CircuitClosed(self.name) if reply.event == 2 else None

    def _tell(self, event: Event | None) -> None:
        if event is None or self._listener is None:
            return
        try:
            self._listener(event)
        except Exception:  # a broken listener must not hurt the call it only watches
            self.dropped += 1

    # --- outside flows

    def acquire(self, lease_s: float | None = None) -> SharedPermit:
        """A permit for one call, blocking for at most `WAIT_S`. Raises CircuitOpen."""
        return self._admitted(lease_s) if self._is_known_closed() else self._drive(self._asking_for(lease_s))

    async def acquire_async(self, lease_s: float | None = None) -> SharedPermit:
        """The same on asyncio."""
        if self._is_known_closed():
            return self._admitted(lease_s)
        return await self._drive_async(self._asking_for(lease_s))

    def permit(self, lease_s: float | None = None) -> PermitBlock:
        """The same for `with` and `async with`: taken on entry, settled by how the block ends."""
        return PermitBlock(self, lease_s)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a plain function or an `async def`. Raises TypeError for generators."""
        if is_async(function, "@breaker", "use `with breaker.permit():` around the work"):
            return self._watched_async(function)
        return self._watched(function)

    def _watched(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def watched(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.permit():
                return function(*args, **kwargs)

        return watched

    def _watched_async(self, function: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(function)
        async def watched(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with self.permit():
                return await function(*args, **kwargs)

        return watched

    def _drive(self, flow: Flow[R]) -> R:
        return drive(flow, run=self._run.run if self._run is not None else None, tell=self._tell)

    async def _drive_async(self, flow: Flow[R]) -> R:
        return await drive_async(flow, run=self._run.run_async if self._run is not None else None, tell=self._tell)
