"""Decides for all processes what becomes of a shared circuit: the transitions, in Redis.  (floor 1)

One script for every decision, `acquire` and the verdicts, with the transitions of `circuit_breaker.py`;
a property test holds the one to the other. It reads the hash and the sorted set of one dependency,
takes whatever makes no sense there for rubbish and begins anew, and writes only what changed.

The first line makes Redis refuse the whole script where it could not write (a full memory, a replica),
so that it never answers a question and then fails on the next verdict. It needs Redis 7.

What this deliberately does not do: run (`redis_link.py` asks), remember (`circuit_breaker_redis.py` does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SCRIPT = r"""#!lua
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local what, token = ARGV[1], ARGV[2]
local N = {}
for i = 3, 18 do N[i - 2] = tonumber(ARGV[i]) end
local generation, lease, silent, asked = N[1], N[2], N[3], N[4]
local threshold, wanted, places, open_ms, open_max, growth, keep = N[5], N[6], N[7], N[8], N[9], N[10], N[11]
local known = {generation = N[12], open = N[13], failures = N[14], wait = N[15]}

local NAMES = {'generation', 'open', 'failures', 'until', 'open_ms', 'successes', 'failed_probes', 'announced',
               'failed_at'}
local function whole(n) return string.format('%.0f', n) end
local function blank()
  local s = {}
  for _, name in ipairs(NAMES) do s[name] = 0 end
  return s
end
local function kind(k) local t = redis.call('TYPE', k); return t.ok or t end

-- What stands there, if it makes sense: nothing but whole numbers.
local s, found = blank(), kind(KEYS[1]) == 'hash'
local rubbish = not found and kind(KEYS[1]) ~= 'none' or (kind(KEYS[2]) ~= 'zset' and kind(KEYS[2]) ~= 'none')
if found then
  for i, value in ipairs(redis.call('HMGET', KEYS[1], unpack(NAMES))) do
    if not value or #value > 16 or not string.match(value, '^%d+$') then rubbish = true end
    s[NAMES[i]] = tonumber(value or 0) or 0
  end
end
if rubbish then redis.call('DEL', KEYS[1], KEYS[2]); s, found = blank(), false end

local function save()
  local flat = {}
  for _, name in ipairs(NAMES) do flat[#flat + 1] = name; flat[#flat + 1] = whole(s[name]) end
  redis.call('HSET', KEYS[1], unpack(flat))
  redis.call('PEXPIRE', KEYS[1], whole(math.max(0, s['until'] - now) + keep))
end
local function turn(open)
  s.generation = math.max(s.generation + 1, time[1] * 1000000 + time[2])
  s.open, s.successes, s.announced = open, 0, 0
  redis.call('DEL', KEYS[2])
end
local function trip(failed_probes)
  s.failed_probes = failed_probes
  s.open_ms = math.ceil(math.max(math.min(open_ms * growth ^ failed_probes, open_max) * N[16], asked))
  s['until'] = now + s.open_ms
  turn(1)
  save()
end
-- Live probes, and when the first place is free. Rubbish and leases longer than they were (the clock was set) go.
local function held()
  local live, first, all = 0, 0, redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    local left, lasts = tonumber(all[i + 1]) - now, tonumber(string.match(all[i], ':(%d+)$'))
    if lasts and left > 0 and left <= lasts then
      live = live + 1
      if live == 1 then first = left end
    else
      redis.call('ZREM', KEYS[2], all[i])
    end
  end
  return live, first
end
local function said(admitted, wait, event)
  local left = s.open == 1 and math.max(0, s['until'] - now) or 0
  return {admitted, s.generation, s.open, s.failures, left, wait, event}
end

-- Whoever knows a later generation tells it.
if known.generation > s.generation then
  s = blank()
  s.generation, s.open, s.failures, s.open_ms = known.generation, known.open, known.failures, known.wait
  s['until'] = now + known.wait
  redis.call('DEL', KEYS[2])
  if found or s.open == 1 or s.failures > 0 then save() end
end
if s.open == 1 and s['until'] - now > s.open_ms then s['until'] = now + s.open_ms; save() end  -- its clock was set back
for i = 19, #ARGV do redis.call('ZREM', KEYS[2], ARGV[i]) end

if what == 'acquire' then
  if s.open == 0 then return said(1, 0, 0) end
  if now < s['until'] then return said(0, s['until'] - now, 0) end
  local live, first = held()
  if live >= places then return said(0, first, 0) end
  redis.call('ZADD', KEYS[2], whole(now + lease), token)
  redis.call('PEXPIRE', KEYS[2], whole(lease + keep))
  local event = s.announced == 0 and 3 or 0
  s.announced = 1
  save()
  return said(1, 0, event)
end

if generation ~= s.generation then return said(0, 0, 0) end
if s.open == 1 and redis.call('ZREM', KEYS[2], token) == 0 then return said(0, 0, 0) end
if what == 'failure' or what == 'trip' then
  if s.open == 0 and silent >= 0 and now - silent > s.failed_at then s.failures = 0 end
  s.failures, s.failed_at = s.failures + 1, now
  if s.open == 1 then trip(s.failed_probes + 1); return said(0, 0, 1) end
  if what == 'trip' or s.failures >= threshold then trip(0); return said(0, 0, 1) end
  save()
elseif what == 'success' and s.open == 0 then
  if s.failures > 0 then s.failures = 0; save() end
elseif what == 'success' then
  s.successes = s.successes + 1
  if s.successes >= wanted then
    s.failures, s.failed_probes, s['until'], s.open_ms = 0, 0, 0, 0
    turn(0)
    save()
    return said(0, 0, 2)
  end
  save()
end
return said(0, 0, 0)
"""
"""ARGV: what happened, the token, then the numbers in the order of `N`, then tokens that are given back."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the script said; times in seconds from now. `event`: 1 opened, 2 closed, 3 half-opened."""

    admitted: bool
    generation: int
    closed: bool
    failures: int
    open_s: float
    wait_s: float
    event: int


def read(reply: Any) -> Reply:
    """The reply, if it has its shape. Raises ValueError."""
    if not isinstance(reply, list) or len(reply) != 7 or not all(type(one) is int and one >= 0 for one in reply):
        raise ValueError("it answered rubbish")
    admitted, generation, is_open, failures, open_ms, wait_ms, event = reply
    return Reply(admitted == 1, generation, is_open == 0, failures, open_ms / 1000, wait_ms / 1000, event)
