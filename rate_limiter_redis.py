"""Shares a rate limit between processes, so that together they stay under what a server allows.  (floor 1)

The twin of `rate_limiter.py`: the same bucket, bookings and promises, kept in Redis:

    hash    the level of the bucket, and when it was that
    zset    the calls that wait, each with the time it is due

One booking is one Lua script, so one moment on one clock, the server's. The keys live as long as the
bucket takes to be full again: an empty Redis is a full bucket, which is what it would be by then.
A refusal writes nothing. What is given back goes with the next script, since a flow that was
cancelled may not ask any more; lost, it costs one token.

When Redis is away a local `TokenBucket` decides, which has booked every call of this process: each
process then has the whole limit for itself, since nobody knows how many there are.

What this deliberately does not do: what its twin does not, and saving round trips: a call that is
limited goes to a server far slower than Redis.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from errors import LimiterFull
from events import Event, LimiterWaited
from flow import Flow, Script, drive, drive_async, emit, pause
from rate_limiter import LimiterPolicy, TokenBucket, limiter_full
from redis_link import RedisLink, Runner, key
from skins import is_async

P = ParamSpec("P")
R = TypeVar("R")

_RETURNED_MAX = 64
"""Tokens that wait to be given back with the next script; older ones are lost."""

_SCRIPT = r"""#!lua
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local token, per_s, burst, wait_max = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local WHOLE = 1 - 1e-6
local function kind(k) local t = redis.call('TYPE', k); return t.ok or t end
local function seconds(n) return string.format('%.6f', n) end

local level, at = burst, now
if kind(KEYS[1]) == 'hash' and (kind(KEYS[2]) == 'zset' or kind(KEYS[2]) == 'none') then
  local found = redis.call('HMGET', KEYS[1], 'level', 'at')
  level, at = tonumber(found[1] or 'x'), tonumber(found[2] or 'x')
  -- Rubbish, or its clock was set back: begin anew.
  if not level or not at or level ~= level or not (math.abs(level) <= 1e6) or not (at <= now + 1) then
    level, at = burst, now
    redis.call('DEL', KEYS[1], KEYS[2])
  end
elseif redis.call('EXISTS', KEYS[1], KEYS[2]) > 0 then
  redis.call('DEL', KEYS[1], KEYS[2])
end

local function serve(due)
  level, at = math.min(burst, level + (due - at) * per_s) - 1, due
end
local function waiting(from)
  local queue, all = {}, redis.call('ZRANGEBYSCORE', KEYS[2], from, '+inf', 'WITHSCORES')
  for i = 2, #all, 2 do queue[#queue + 1] = tonumber(all[i]) end
  return queue
end
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', seconds(now), 'WITHSCORES')
for i = 2, #due, 2 do serve(tonumber(due[i])) end
if now > at then level, at = math.min(burst, level + (now - at) * per_s), now end
local served = {}
for i = 1, #due, 2 do served[due[i]] = true end

-- What was given back: one that still waits leaves the queue, one whose time has come goes back on top.
local changed = false
for i = 5, #ARGV do
  changed = true
  if served[ARGV[i]] or redis.call('ZREM', KEYS[2], ARGV[i]) == 0 then level = math.min(burst, level + 1) end
end

local before, before_at, queue = level, at, waiting('(' .. seconds(now))
local granted, wait, due_at = 1, 0, now
if #queue == 0 and level >= WHOLE then
  level = level - 1
  before = level
else
  for _, one in ipairs(queue) do serve(one) end
  due_at = at + math.max(0, 1 - level) / per_s
  wait = due_at - now
  if wait > wait_max then granted = 0 end
end
if granted == 1 or changed then
  if #due > 0 then redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', seconds(now)) end
  redis.call('HSET', KEYS[1], 'level', string.format('%.9f', before), 'at', seconds(before_at))
  if granted == 1 and wait > 0 then redis.call('ZADD', KEYS[2], seconds(due_at), token) end
  local full_ms = math.ceil((math.max(0, wait) + (burst + 1) / per_s + 1) * 1000)
  for _, k in ipairs(KEYS) do
    if redis.call('PTTL', k) < full_ms then redis.call('PEXPIRE', k, full_ms) end
  end
end
return {granted, math.max(0, math.ceil(wait * 1000000))}
"""


@dataclass(frozen=True, slots=True)
class Booking:
    """One booked token: what to hand to `give_back`, and the seconds until it is due."""

    token: str
    due_s: float
    wait_s: float


def _read(reply: Any) -> tuple[bool, float]:
    if not isinstance(reply, list) or len(reply) != 2 or not all(type(one) is int and one >= 0 for one in reply):
        raise ValueError("it answered rubbish")
    return reply[0] == 1, reply[1] / 1_000_000


class SharedBucket:
    """One rate limiter, shared with other processes. Safe to share between threads and tasks.

        bucket = SharedBucket("search", LimiterPolicy(per_minute=50), run=RedisScripts.from_url(url))

        @bucket                          # plain and async functions: wait, then call
        def search(words): ...

        bucket.acquire()                 # blocking
        await bucket.acquire_async()

    All processes must give a name the same policy.

    Args:
        name: the dependency's, as it stands in errors and keys.
        policy: the numbers.
        run: runs the scripts, for use outside flows.
        link: this process's link to Redis, shared by all that use it; without it, one of its own over `run`.
        now: a clock in seconds that never goes back.
        listener: outside flows, told of LimiterWaited, RedisUnavailable and RedisBack.
    """

    def __init__(
        self,
        name: str = "default",
        policy: LimiterPolicy | None = None,
        *,
        run: Runner | None = None,
        link: RedisLink | None = None,
        now: Callable[[], float] = time.monotonic,
        listener: Callable[[Event], None] | None = None,
    ) -> None:
        if link is None:
            if run is None:
                raise TypeError("SharedBucket needs `run` or `link`")
            link = RedisLink(run.identity, now=now)
        self.name, self.policy = name, policy or LimiterPolicy()
        self._run, self._link, self._listener = run, link, listener
        self._keys = (key(name, "bucket"), key(name, "bookings"))
        self._local = TokenBucket(self.policy, name=name, now=now)
        self._returned: deque[str] = deque(maxlen=_RETURNED_MAX)

    def booking(self, dependency: str = "") -> Flow[Booking]:
        """Book one token. Raises LimiterFull, with `retry_after_s` and nothing booked, beyond `wait_s_max`."""
        own: tuple[float, float] | LimiterFull
        try:
            own = self._local.book(dependency)
        except LimiterFull as full:
            own = full
        if self.policy.per_minute == 0:
            return Booking("", 0.0, 0.0)
        token, asked, reply = self._link.token(), self._link.is_ready(), None
        returned = tuple(self._returned)
        args = (token, f"{self.policy.per_minute / 60:.12g}", self.policy.burst, f"{self.policy.wait_s_max:.6f}")
        try:
            reply = yield from self._link.asking(Script("rate_limiter", _SCRIPT, self._keys, (*args, *returned)), _read)
        except BaseException:  # closed while it asked: the call will not be made
            self._returned.append(token)
            self._give_back_own(own)
            raise
        if reply is None:
            if asked:
                self._returned.append(token)
            return _own_booking(own)
        for one in returned:
            if one in self._returned:
                self._returned.remove(one)
        granted, wait_s = reply
        due_s = own[0] if isinstance(own, tuple) else 0.0
        if granted:
            return Booking(token, due_s, wait_s)
        self._give_back_own(own)
        raise limiter_full(dependency or self.name, self.policy, wait_s)

    def give_back(self, booking: Booking) -> None:
        """Return a token that was booked and not used. A plain call: Redis hears of it with the next booking."""
        if booking.token:
            self._returned.append(booking.token)
        if booking.due_s:
            self._local.give_back(booking.due_s)

    def acquiring(self, dependency: str = "") -> Flow[Booking]:
        """Wait for a token. Emits LimiterWaited when it is not there; a flow closed in its wait returns it."""
        booked = yield from self.booking(dependency)
        if booked.wait_s > 0:
            try:
                yield from emit(LimiterWaited(dependency or self.name, booked.wait_s))
                yield from pause(booked.wait_s)
            except BaseException:  # closed or failed in its wait: the call will not be made
                self.give_back(booked)
                raise
        return booked

    def acquire(self, *, sleep: Callable[[float], object] = time.sleep) -> None:
        """Block until a token is there. Raises LimiterFull."""
        self._drive(self.acquiring(), sleep)

    async def acquire_async(self, *, sleep: Callable[[float], Awaitable[object]] | None = None) -> None:
        """The same on asyncio. Cancelled in its wait, it gives the token back."""
        run = self._run.run_async if self._run is not None else None
        await drive_async(self.acquiring(), sleep=sleep, run=run, tell=self._listener)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a plain function or an `async def`: each call takes a token. TypeError for generators."""
        if is_async(function, "@bucket", "use bucket.acquire() before the work"):
            return self._limited_async(function)
        return self._limited(function)

    def _limited(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def limited(*args: P.args, **kwargs: P.kwargs) -> R:
            self.acquire()
            return function(*args, **kwargs)

        return limited

    def _limited_async(self, function: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(function)
        async def limited(*args: P.args, **kwargs: P.kwargs) -> Any:
            await self.acquire_async()
            return await function(*args, **kwargs)

        return limited

    def _drive(self, flow: Flow[R], sleep: Callable[[float], object] = time.sleep) -> R:
        return drive(flow, sleep=sleep, run=self._run.run if self._run is not None else None, tell=self._listener)

    def _give_back_own(self, own: tuple[float, float] | LimiterFull) -> None:
        if isinstance(own, tuple):
            self._local.give_back(own[0])


def _own_booking(own: tuple[float, float] | LimiterFull) -> Booking:
    if isinstance(own, LimiterFull):
        raise own
    return Booking("", *own)
