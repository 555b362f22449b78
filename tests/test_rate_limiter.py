"""The token bucket: its bound over any window, its queue, what comes back, and its skins."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

import rate_limiter
from errors import ConfigurationError, LimiterFull
from events import LimiterWaited
from flow import Emit, Flow, Pause
from rate_limiter import LimiterPolicy, TokenBucket
from tests.support_rules import Clock, run_together

ROUNDING = 2e-5


@pytest.fixture
def clock() -> Clock:
    return Clock()


def one_a_second(clock: Clock, burst: int = 1, wait_s_max: float = 2.0) -> TokenBucket:
    return TokenBucket(per_minute=60, burst=burst, wait_s_max=wait_s_max, now=clock)


def waits(bucket: TokenBucket, times: int) -> list[float]:
    return [bucket.reserve() for _ in range(times)]


# --- reserving -------------------------------------------------------------------------------------------


def test_the_production_defaults_are_fifty_a_minute_bursts_of_ten_and_two_seconds_of_waiting() -> None:
    assert LimiterPolicy() == LimiterPolicy(per_minute=50, burst=10, wait_s_max=2.0)
    assert TokenBucket().policy == LimiterPolicy()


def test_single_numbers_override_the_policy() -> None:
    bucket = TokenBucket(LimiterPolicy(per_minute=6, burst=3), burst=4)
    assert bucket.policy == LimiterPolicy(per_minute=6, burst=4)


def test_a_burst_goes_at_once_and_then_each_waits_one_step_longer(clock: Clock) -> None:
    assert waits(one_a_second(clock, burst=3), 5) == [0.0, 0.0, 0.0, 1.0, 2.0]


def test_a_wait_above_the_longest_is_refused_says_when_and_books_nothing(clock: Clock) -> None:
    bucket = TokenBucket(per_minute=60, burst=1, name="it", now=clock)
    waits(bucket, 3)
    for _ in range(5):
        with pytest.raises(LimiterFull) as refused:
            bucket.reserve()
        assert (refused.value.retry_after_s, refused.value.dependency) == (3.0, "it")
    clock.now_s += 1
    assert bucket.reserve() == 2.0


@settings(max_examples=200, deadline=None)
@given(per_minute=st.floats(0.1, 6000), start_s=st.floats(0, 1e6), later_s=st.floats(0, 1))
def test_after_the_time_it_names_a_refused_call_goes_at_once_whatever_rounding_does(
    per_minute: float, start_s: float, later_s: float
) -> None:
    clock = Clock(start_s)
    bucket = TokenBucket(per_minute=per_minute, burst=1, wait_s_max=0, now=clock)
    bucket.reserve()
    clock.now_s += later_s * 60 / per_minute / 2
    with pytest.raises(LimiterFull) as refused:
        bucket.reserve()
    assert refused.value.retry_after_s is not None
    clock.now_s += refused.value.retry_after_s
    assert bucket.reserve() == 0.0


def test_a_long_quiet_time_fills_it_to_the_burst_and_no_further(clock: Clock) -> None:
    bucket = one_a_second(clock, burst=2)
    waits(bucket, 3)
    clock.now_s += 1e6
    assert waits(bucket, 3) == [0.0, 0.0, 1.0]


def test_nobody_overtakes_those_who_wait(clock: Clock) -> None:
    bucket = one_a_second(clock)
    assert waits(bucket, 2) == [0.0, 1.0]
    clock.now_s += 0.5
    assert bucket.reserve() == 1.5
    clock.now_s += 1.5
    assert bucket.reserve() == 1.0


def test_zero_a_minute_turns_it_off(clock: Clock) -> None:
    bucket = TokenBucket(per_minute=0, burst=1, now=clock)
    assert waits(bucket, 1000) == [0.0] * 1000
    bucket.give_back()
    bucket.acquire(sleep=lambda s: pytest.fail("it slept"))


def test_a_clock_that_stands_still_grants_the_burst_and_the_queue(clock: Clock) -> None:
    bucket = one_a_second(clock, burst=5, wait_s_max=0)
    assert waits(bucket, 5) == [0.0] * 5
    with pytest.raises(LimiterFull):
        bucket.reserve()


@pytest.mark.parametrize(
    "bad",
    [
        {"per_minute": -1},
        {"per_minute": float("nan")},
        {"per_minute": float("inf")},
        {"burst": 0},
        {"wait_s_max": -0.1},
        {"wait_s_max": float("nan")},
    ],
)
def test_numbers_without_sense_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        LimiterPolicy(**bad)
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        TokenBucket(**bad)


# --- giving back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("burst", [1, 2, 10])
def test_what_is_given_back_at_once_was_never_taken(burst: int, clock: Clock) -> None:
    bucket = one_a_second(clock, burst=burst)
    for wait_s in [0.0] * burst + [1.0, 2.0]:
        for _ in range(3):
            assert bucket.reserve() == wait_s
            bucket.give_back()
        assert bucket.reserve() == wait_s


def test_it_never_holds_more_than_the_burst(clock: Clock) -> None:
    bucket = one_a_second(clock, burst=2)
    for _ in range(5):
        bucket.give_back()
    assert waits(bucket, 3) == [0.0, 0.0, 1.0]


def test_a_token_whose_time_has_come_goes_back_on_top(clock: Clock) -> None:
    bucket = one_a_second(clock, burst=2)
    waits(bucket, 2)
    clock.now_s += 0.25
    bucket.give_back()
    assert waits(bucket, 2) == [0.0, 0.75]


def test_one_who_leaves_the_queue_leaves_the_others_their_times(clock: Clock) -> None:
    bucket = one_a_second(clock, wait_s_max=10)
    dues = [bucket.book()[0] for _ in range(4)]
    bucket.give_back(dues[1])
    # The token of 1001 fills the bucket of one; nobody is there to take it, so that of 1002 overflows.
    assert bucket.book() == (1004.0, 4.0)
    bucket = one_a_second(clock, burst=2, wait_s_max=10)
    dues = [bucket.book()[0] for _ in range(5)]
    bucket.give_back(dues[2])
    assert bucket.book() == (1003.0, 3.0)


# --- the bound over any window ---------------------------------------------------------------------------


def within_bound(granted: list[float], per_s: float, burst: float) -> bool:
    """Whether no window, from one grant to any later one, holds more than burst + its share."""
    granted = sorted(granted)
    return all(
        number <= burst + per_s * (end_s - start_s) + ROUNDING
        for first, start_s in enumerate(granted)
        for number, end_s in enumerate(granted[first:], start=1)
    )


def earliest(granted: list[float], now_s: float, per_s: float, burst: int) -> float:
    """When a call that comes last may go, by replaying everything granted from a full bucket."""
    level, at_s = float(burst), 0.0
    for due_s in sorted(granted):
        level, at_s = min(burst, level + (due_s - at_s) * per_s) - 1, due_s
    at_least_s = max(now_s, at_s)
    level = min(burst, level + (at_least_s - at_s) * per_s)
    return at_least_s + max(0.0, 1 - level) / per_s


class BucketAgainstReplay(RuleBasedStateMachine):
    """Whatever is booked, waited for and given back: as early as the bound allows, and never earlier."""

    bookings = Bundle("bookings")

    @initialize(
        per_minute=st.sampled_from([7.0, 60.0, 600.0]),
        burst=st.integers(1, 4),
        wait_s_max=st.sampled_from([0.0, 2.0, 30.0]),
    )
    def begin(self, per_minute: float, burst: int, wait_s_max: float) -> None:
        self.clock = Clock(0.0)
        self.per_s, self.burst, self.wait_s_max = per_minute / 60, burst, wait_s_max
        self.bucket = TokenBucket(per_minute=per_minute, burst=burst, wait_s_max=wait_s_max, now=self.clock)
        self.granted: list[float] = []

    @rule(target=bookings, times=st.integers(1, 4))
    def book(self, times: int) -> list[float]:
        mine: list[float] = []
        for _ in range(times):
            expected_s = earliest(self.granted, self.clock.now_s, self.per_s, self.burst)
            wait_s = expected_s - self.clock.now_s
            try:
                due_s, said_s = self.bucket.book()
            except LimiterFull as refused:
                assert wait_s > self.wait_s_max - ROUNDING
                assert refused.retry_after_s == pytest.approx(wait_s, abs=ROUNDING)  # noqa: PT017
                continue
            assert wait_s <= self.wait_s_max + ROUNDING
            assert (due_s, said_s) == pytest.approx((expected_s, wait_s), abs=ROUNDING)
            assert not self.granted or due_s >= max(self.granted) - ROUNDING
            self.granted.append(due_s)
            mine.append(due_s)
        return mine

    @rule(mine=consumes(bookings))
    def leave_the_queue(self, mine: list[float]) -> None:
        for due_s in mine:
            if due_s >= self.clock.now_s:
                self.bucket.give_back(due_s)
                self.granted.remove(due_s)

    @rule()
    def undo(self) -> None:
        try:
            due_s, _ = self.bucket.book()
        except LimiterFull:
            return
        assert due_s >= self.clock.now_s
        self.bucket.give_back()

    @rule(s=st.sampled_from([0.0, 0.05, 0.3, 1.0, 20.0]))
    def wait(self, s: float) -> None:
        self.clock.now_s += s

    @invariant()
    def no_window_holds_too_much(self) -> None:
        assert within_bound(self.granted, self.per_s, self.burst)


TestBucketAgainstReplay = BucketAgainstReplay.TestCase
TestBucketAgainstReplay.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)


@settings(max_examples=200, deadline=None)
@given(
    burst=st.integers(1, 3),
    steps=st.lists(st.tuples(st.floats(0, 2), st.booleans(), st.floats(0, 1.5)), max_size=25),
)
def test_a_token_held_and_then_given_back_widens_the_bound_by_its_holding_time_at_most(
    burst: int, steps: list[tuple[float, bool, float]]
) -> None:
    clock = Clock(0.0)
    bucket = one_a_second(clock, burst=burst, wait_s_max=0)
    used: list[float] = []
    held_s_all = 0.0
    for pause_s, is_used, held_s in steps:
        clock.now_s += pause_s
        try:
            due_s, _ = bucket.book()
        except LimiterFull:
            continue
        if is_used:
            used.append(due_s)
            continue
        clock.now_s += held_s
        bucket.give_back(due_s)
        held_s_all += held_s
    assert within_bound(used, 1.0, burst + held_s_all)


# --- threads ---------------------------------------------------------------------------------------------


def test_many_threads_share_the_burst_and_stand_in_one_line() -> None:
    got: list[float] = []
    rounds: list[list[float]] = []
    buckets = [one_a_second(Clock(), burst=3)]

    def act(thread: int, number: int) -> None:
        for undo in (True, False):
            try:
                due_s, wait_s = buckets[0].book()
            except LimiterFull:
                continue
            if undo and wait_s == 0:
                buckets[0].give_back(due_s)
            else:
                got.append(wait_s)

    def between(number: int) -> None:
        rounds.append(sorted(got))
        got.clear()
        buckets[0] = one_a_second(Clock(), burst=3)

    run_together(rate_limiter, rounds=100, threads=6, act=act, between=between)
    assert len(rounds) == 100
    for waited in rounds:
        assert within_bound(waited, 1.0, 3)
        assert len(waited) >= 3


# --- flow and skins --------------------------------------------------------------------------------------


def test_the_flow_tells_that_it_waits_then_waits_and_says_when_the_token_was_due(clock: Clock) -> None:
    bucket = one_a_second(clock)

    def asking() -> Flow[float]:
        return (yield from bucket.acquiring("search.wikipedia"))

    effects = [list(bucket.acquiring("search.wikipedia")), list(bucket.acquiring("search.wikipedia"))]
    assert effects == [[], [Emit(LimiterWaited("search.wikipedia", 1.0)), Pause(1.0)]]
    flow = asking()
    assert (next(flow), flow.send(None)) == (Emit(LimiterWaited("search.wikipedia", 2.0)), Pause(2.0))
    with pytest.raises(StopIteration) as ended:
        flow.send(None)
    assert ended.value.value == 1002.0
    with pytest.raises(LimiterFull) as refused:
        next(bucket.acquiring("search.wikipedia"))
    assert refused.value.dependency == "search.wikipedia"


def test_a_flow_closed_in_its_wait_leaves_the_queue(clock: Clock) -> None:
    bucket = one_a_second(clock)
    bucket.reserve()
    flow = bucket.acquiring("it")
    next(flow)
    flow.send(None)
    flow.close()
    assert bucket.reserve() == 1.0


def test_acquire_sleeps_as_long_as_it_must_and_not_when_it_need_not(clock: Clock) -> None:
    bucket = one_a_second(clock)
    slept: list[float] = []
    for _ in range(3):
        bucket.acquire(sleep=slept.append)
    assert slept == [1.0, 2.0]
    with pytest.raises(LimiterFull):
        bucket.acquire(sleep=slept.append)


def test_a_sleep_that_is_interrupted_gives_the_token_back(clock: Clock) -> None:
    bucket = one_a_second(clock)
    bucket.reserve()

    def interrupted(s: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bucket.acquire(sleep=interrupted)
    assert bucket.reserve() == 1.0


def test_a_task_cancelled_in_its_wait_gives_the_token_back(clock: Clock) -> None:
    async def scenario() -> None:
        bucket = one_a_second(clock)
        await bucket.acquire_async()

        async def forever(s: float) -> None:
            await asyncio.Event().wait()

        task = asyncio.ensure_future(bucket.acquire_async(sleep=forever))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bucket.reserve() == 1.0

    asyncio.run(scenario())


def test_acquire_async_sleeps_as_long_as_it_must(clock: Clock) -> None:
    slept: list[float] = []

    async def sleep(s: float) -> None:
        slept.append(s)

    async def scenario() -> None:
        bucket = one_a_second(clock)
        for _ in range(3):
            await bucket.acquire_async(sleep=sleep)

    asyncio.run(scenario())
    assert slept == [1.0, 2.0]


def test_a_decorated_function_takes_one_token_a_call_plain_or_async(clock: Clock) -> None:
    bucket = one_a_second(clock, burst=2, wait_s_max=0)

    @bucket
    def plain(a: int, *, b: int) -> int:
        """Add."""
        return a + b

    @bucket
    async def asynchronous(a: int, *, b: int) -> int:
        return a + b

    assert (plain(1, b=2), asyncio.run(asynchronous(3, b=4))) == (3, 7)
    assert (plain.__name__, plain.__doc__) == ("plain", "Add.")
    with pytest.raises(LimiterFull):
        plain(1, b=2)
    with pytest.raises(LimiterFull):
        asyncio.run(asynchronous(1, b=2))


def test_generators_are_refused_with_the_way_out() -> None:
    def plain() -> Iterator[int]:
        yield 1

    async def asynchronous() -> Any:
        yield 1

    for function in (plain, asynchronous, functools.partial(plain)):
        with pytest.raises(TypeError, match=r"bucket\.acquire"):
            TokenBucket()(function)
    with pytest.raises(TypeError, match="decorates functions"):
        TokenBucket()(3)  # type: ignore[arg-type]
