"""A rate limit shared through a real Redis: the bucket of `rate_limiter.py`, for all processes together."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule

import stores.redis_scripts
from errors import LimiterFull
from events import Event, LimiterWaited
from flow import Script
from rate_limiter import LimiterPolicy, TokenBucket
from rate_limiter_redis import Booking, SharedBucket
from stores.redis_scripts import RedisScripts
from tests.support_redis import NEEDS_REDIS, OnClock, Server, serving
from tests.support_rules import Clock

pytestmark = NEEDS_REDIS
NAMES = (f"it{number}" for number in itertools.count())


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores.redis_scripts, "WAIT_S", 10.0)  # how long one waits is the subject of another file


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from serving()


class LuaAgainstPython(RuleBasedStateMachine):
    """Any sequence of bookings, returns and waits ends as it does in `rate_limiter.py`."""

    booked = Bundle("booked")
    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(1_700_000_000.0)
        self.begin_anew(60.0, 2, 2.0)

    @rule(
        per_minute=st.sampled_from([30.0, 60.0, 600.0]),
        burst=st.integers(1, 4),
        wait_s_max=st.sampled_from([0.0, 2.0, 5.0]),
    )
    def begin_anew(self, per_minute: float, burst: int, wait_s_max: float) -> None:
        policy = LimiterPolicy(per_minute, burst, wait_s_max)
        self.local = TokenBucket(policy, now=self.clock)
        self.shared = SharedBucket(next(NAMES), policy, run=OnClock(self.server, self.clock), now=self.clock)
        self.returned: list[float] = []

    @rule(target=booked)
    def book(self) -> tuple[TokenBucket, float, Booking | None]:
        for due_s in self.returned:  # what was given back reaches Redis with the next booking
            self.local.give_back(due_s)
        self.returned.clear()
        answers: list[Any] = []
        for book in (self.local.book, lambda: self.shared._drive(self.shared.booking())):
            try:
                answers.append(book())
            except LimiterFull as full:
                answers.append(full)
        own, shared = answers
        if isinstance(own, LimiterFull):
            assert isinstance(shared, LimiterFull)
            assert shared.retry_after_s == pytest.approx(own.retry_after_s, abs=1e-4)
            return self.local, 0.0, None
        assert shared.wait_s == pytest.approx(own[1], abs=1e-4)
        return self.local, own[0], shared

    @rule(held=consumes(booked))
    def give_back(self, held: tuple[TokenBucket, float, Booking | None]) -> None:
        bucket, due_s, booking = held
        if booking is not None and bucket is self.local:
            self.returned.append(due_s)
            self.shared.give_back(booking)

    @rule(s=st.sampled_from([0.3, 1.0, 1.7, 30.0]))
    def wait(self, s: float) -> None:
        self.clock.now_s += s


def test_the_script_books_as_the_python_bucket_does(server: Server) -> None:
    LuaAgainstPython.server = server
    machine: Any = LuaAgainstPython.TestCase
    machine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
    machine("runTest").runTest()


def test_processes_share_one_limit(server: Server) -> None:
    policy = LimiterPolicy(per_minute=6, burst=5, wait_s_max=0)
    buckets = [SharedBucket("shared", policy, run=RedisScripts.from_url(server.url)) for _ in range(3)]
    got: list[str] = []
    waits: list[float] = []

    def ask(bucket: SharedBucket) -> None:
        for _ in range(3):
            try:
                bucket.acquire()
                got.append("token")
            except LimiterFull as full:
                waits.append(full.retry_after_s or 0.0)

    threads = [threading.Thread(target=ask, args=(bucket,)) for bucket in buckets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == ["token"] * 5
    assert [9 < wait_s <= 10 for wait_s in waits] == [True] * 4


def test_a_call_that_must_wait_waits_and_says_so(server: Server) -> None:
    heard: list[Event] = []
    waits: list[float] = []
    bucket = SharedBucket(
        "waits", LimiterPolicy(per_minute=60, burst=1), run=RedisScripts.from_url(server.url), listener=heard.append
    )
    bucket.acquire(sleep=waits.append)
    bucket.acquire(sleep=waits.append)
    assert waits == [pytest.approx(1.0, abs=0.1)]
    assert heard == [LimiterWaited("waits", waits[0])]


def test_a_call_cancelled_in_its_wait_gives_its_token_back(server: Server) -> None:
    async def scenario() -> None:
        run = RedisScripts.from_url(server.url)
        bucket = SharedBucket("cancelled", LimiterPolicy(per_minute=60, burst=1, wait_s_max=1.5), run=run)
        await bucket.acquire_async()
        waiting = asyncio.create_task(bucket.acquire_async())
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        waits: list[float] = []

        async def wait(s: float) -> None:
            waits.append(s)

        await bucket.acquire_async(sleep=wait)  # it would be refused behind the other one
        assert waits == [pytest.approx(0.85, abs=0.15)]
        await run.aclose()

    asyncio.run(scenario())


def test_the_decorator_takes_a_token_a_call(server: Server) -> None:
    run = RedisScripts.from_url(server.url)
    bucket = SharedBucket("decorated", LimiterPolicy(per_minute=1, burst=2, wait_s_max=0), run=run)

    @bucket
    def plain() -> int:
        return 1

    @bucket
    async def awaited() -> int:
        return 2

    async def scenario() -> int:
        answer = await awaited()
        await run.aclose()
        return answer

    assert (plain(), asyncio.run(scenario())) == (1, 2)
    with pytest.raises(LimiterFull):
        plain()


def test_a_refusal_writes_nothing_and_every_key_ends_by_itself(server: Server) -> None:
    bucket = SharedBucket(
        "ttl", LimiterPolicy(per_minute=60, burst=1, wait_s_max=1.5), run=RedisScripts.from_url(server.url)
    )
    for _ in range(2):
        bucket.acquire(sleep=lambda s: None)
    mine = sorted(server.do("KEYS", "*{ttl}*"))
    assert mine == ["unflappable:{ttl}:bookings:v1", "unflappable:{ttl}:bucket:v1"]
    for name in mine:
        assert 0 < server.do("PTTL", name) < 10_000
        server.do("PEXPIRE", name, 900)
    with pytest.raises(LimiterFull):
        bucket.acquire()
    assert all(server.do("PTTL", name) <= 900 for name in mine)


def test_one_call_is_one_round_trip_and_none_without_a_limit(server: Server) -> None:
    asked: list[Script] = []

    class Counting(RedisScripts):
        def run(self, script: Script) -> Any:
            asked.append(script)
            return super().run(script)

    run = Counting(server.url)
    SharedBucket("one", LimiterPolicy(per_minute=60), run=run).acquire()
    assert len(asked) == 1
    SharedBucket("none", LimiterPolicy(per_minute=0), run=run).acquire()
    assert len(asked) == 1


def test_without_redis_the_warm_local_bucket_decides() -> None:
    server = Server()
    try:
        bucket = SharedBucket(
            "warm", LimiterPolicy(per_minute=1, burst=3, wait_s_max=0), run=RedisScripts.from_url(server.start().url)
        )
        bucket.acquire()
        bucket.acquire()
        server.kill()
        begun_s = time.monotonic()
        bucket.acquire()
        with pytest.raises(LimiterFull):
            bucket.acquire()
        assert time.monotonic() - begun_s < 0.4
    finally:
        server.close()
