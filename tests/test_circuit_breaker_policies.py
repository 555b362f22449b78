"""The breaker's opt-in policies: rates of the last calls, open times that grow, and a person's hand."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from breaker_policy import CountWindow, LastCalls, WindowCounts
from circuit_breaker import BreakerPolicy, CircuitBreaker, State
from deadline import Deadline
from errors import AgentError, CircuitOpen, ConfigurationError, Outcome
from events import CircuitClosed, CircuitHalfOpened, CircuitOpened, Event
from flow import Flow, Pause
from guard import Guards
from tests.support_flow import World
from tests.support_rules import Clock, half_opened, opened, run_jumping

SUCCESS, FAILURE, THROTTLED, NEUTRAL = Outcome.SUCCESS, Outcome.FAILURE, Outcome.THROTTLED, Outcome.NEUTRAL


@pytest.fixture
def clock() -> Clock:
    return Clock()


def state_of(breaker: CircuitBreaker) -> State:
    """The state, read anew: mypy takes a property that was compared once for a constant."""
    return breaker.state


def windowed(clock: Clock, *, open_s: float = 60.0, **window: Any) -> CircuitBreaker:
    return CircuitBreaker("it", BreakerPolicy(window=CountWindow(**window), open_s=open_s), now=clock)


def settle_all(breaker: CircuitBreaker, outcomes: Iterable[Outcome | None]) -> list[Event | None]:
    return [breaker.acquire().settle(outcome) for outcome in outcomes]


def took(breaker: CircuitBreaker, clock: Clock, s: float, outcome: Outcome = SUCCESS) -> Event | None:
    permit = breaker.acquire()
    clock.now_s += s
    return permit.settle(outcome)


# --- the window: failures --------------------------------------------------------------------------------


def test_all_of_it_is_off_unless_asked_for() -> None:
    policy = BreakerPolicy()
    assert (policy.window, policy.open_s_growth, policy.open_s_jitter) == (None, 1.0, 0.0)
    window = CountWindow()
    assert (window.size, window.failure_rate, window.calls_min, window.slow_s) == (100, 0.5, 20, math.inf)


def test_a_dependency_that_fails_every_other_call_is_seen_by_the_window_and_not_by_the_row(clock: Clock) -> None:
    row, window = CircuitBreaker("it", now=clock), windowed(clock, size=10, calls_min=10)
    for breaker in (row, window):
        events = settle_all(breaker, [SUCCESS, FAILURE] * 5)
        assert events[:9] == [None] * 9
    assert (row.state, window.state) == (State.CLOSED, State.OPEN)
    with pytest.raises(CircuitOpen, match="5 of its last 10 calls failed; next try in 60 s"):
        window.peek()


def test_with_too_few_calls_nothing_is_judged_and_the_one_that_makes_it_enough_may_be_a_success(clock: Clock) -> None:
    breaker = windowed(clock, size=10, calls_min=6)
    assert settle_all(breaker, [FAILURE] * 5) == [None] * 5
    assert settle_all(breaker, [SUCCESS]) == [CircuitOpened("it", 0, 60.0)]


def test_the_rate_is_reached_exactly(clock: Clock) -> None:
    breaker = windowed(clock, size=10, calls_min=10, failure_rate=0.3)
    settle_all(breaker, [FAILURE] * 2 + [SUCCESS] * 8)
    assert state_of(breaker) is State.CLOSED
    breaker = windowed(clock, size=10, calls_min=10, failure_rate=0.3)
    settle_all(breaker, [FAILURE] * 3 + [SUCCESS] * 7)
    assert state_of(breaker) is State.OPEN


def test_the_oldest_call_falls_out(clock: Clock) -> None:
    breaker = windowed(clock, size=4, calls_min=4, failure_rate=0.75)
    settle_all(breaker, [FAILURE, FAILURE, SUCCESS, SUCCESS, SUCCESS])
    assert breaker.snapshot().window == WindowCounts(calls=4, failed=1, slow=0)
    settle_all(breaker, [FAILURE, FAILURE])
    assert state_of(breaker) is State.CLOSED  # S S F F
    settle_all(breaker, [FAILURE])
    assert state_of(breaker) is State.OPEN


def test_with_a_window_the_row_alone_opens_nothing(clock: Clock) -> None:
    breaker = windowed(clock, size=100, calls_min=100)
    settle_all(breaker, [FAILURE] * 99)
    assert (breaker.state, breaker.snapshot().failures_in_a_row) == (State.CLOSED, 99)


def test_calls_that_say_nothing_are_not_in_the_window(clock: Clock) -> None:
    breaker = windowed(clock, size=4, calls_min=2, slow_s=1)
    for outcome in (THROTTLED, NEUTRAL, None):
        permit = breaker.acquire()
        clock.now_s += 9
        permit.settle(outcome)
    breaker.acquire().release()
    assert breaker.snapshot().window == WindowCounts()


def test_reports_from_before_the_circuit_changed_are_not_in_the_next_window(clock: Clock) -> None:
    breaker = windowed(clock, size=4, calls_min=2)
    old = [breaker.acquire() for _ in range(9)]
    settle_all(breaker, [FAILURE, FAILURE])
    clock.now_s += 60
    assert settle_all(breaker, [SUCCESS]) == [CircuitClosed("it")]
    for permit in old:
        permit.settle(FAILURE)
    assert breaker.snapshot().window == WindowCounts()


def test_counts_that_open_the_circuit_are_never_seen_while_it_still_lets_calls_through() -> None:
    last = LastCalls(CountWindow(size=2, calls_min=1))
    assert last.add(failed=False, slow=False) == ""
    assert last.add(failed=True, slow=False) == "1 of its last 2 calls failed"
    assert last.counts == WindowCounts(1, 0, 0)


def test_a_snapshot_tells_the_rates() -> None:
    assert (WindowCounts().failure_rate, WindowCounts().slow_rate) == (0, 0)
    assert (WindowCounts(8, 2, 4).failure_rate, WindowCounts(8, 2, 4).slow_rate) == (0.25, 0.5)
    assert CircuitBreaker().snapshot().window is None


# --- the window: slow calls ------------------------------------------------------------------------------


def test_calls_that_answer_too_late_open_it_although_all_succeed(clock: Clock) -> None:
    breaker = windowed(clock, size=4, calls_min=4, slow_s=2.0, slow_rate=0.5)
    assert [took(breaker, clock, s) for s in (0.0, 1.999, 2.0)] == [None] * 3
    assert breaker.snapshot().window == WindowCounts(3, 0, 1)
    assert took(breaker, clock, 5.0) == CircuitOpened("it", 0, 60.0)
    with pytest.raises(CircuitOpen, match="2 of its last 4 calls took 2 s or longer"):
        breaker.acquire()


def test_a_slow_call_falls_out_too(clock: Clock) -> None:
    breaker = windowed(clock, size=3, calls_min=3, slow_s=2.0)
    for s in (2.0, 0.0, 0.0, 0.0):
        took(breaker, clock, s)
    assert breaker.snapshot().window == WindowCounts(3, 0, 0)


def test_a_slow_failure_counts_for_both_rates(clock: Clock) -> None:
    breaker = windowed(clock, size=4, calls_min=4, slow_s=2.0)
    took(breaker, clock, 3.0, FAILURE)
    assert breaker.snapshot().window == WindowCounts(1, 1, 1)


def test_a_slow_probe_opens_again_and_a_quick_one_closes(clock: Clock) -> None:
    breaker = windowed(clock, size=2, calls_min=2, slow_s=2.0)
    took(breaker, clock, 3.0)
    took(breaker, clock, 3.0)
    clock.now_s += 60
    assert took(breaker, clock, 2.0) == CircuitOpened("it", 0, 60.0)
    with pytest.raises(CircuitOpen, match="probe failed or was slow"):
        breaker.acquire()
    clock.now_s += 60
    assert took(breaker, clock, 1.9) == CircuitClosed("it")


def ask_by_decorator(breaker: CircuitBreaker, clock: Clock) -> None:
    @breaker
    def ask() -> None:
        clock.now_s += 3

    ask()


def ask_by_block(breaker: CircuitBreaker, clock: Clock) -> None:
    with breaker.permit():
        clock.now_s += 3


def ask_by_async_decorator(breaker: CircuitBreaker, clock: Clock) -> None:
    run_jumping(clock, breaker(asyncio.sleep)(3))


def ask_by_async_block(breaker: CircuitBreaker, clock: Clock) -> None:
    async def ask() -> None:
        async with breaker.permit():
            await asyncio.sleep(3)

    run_jumping(clock, ask())


@pytest.mark.parametrize("ask", [ask_by_decorator, ask_by_block, ask_by_async_decorator, ask_by_async_block])
def test_every_skin_measures_its_calls(ask: Callable[[CircuitBreaker, Clock], None], clock: Clock) -> None:
    breaker = windowed(clock, size=2, calls_min=2, slow_s=3.0)
    ask(breaker, clock)
    assert breaker.snapshot().window == WindowCounts(1, 0, 1)
    ask(breaker, clock)
    assert state_of(breaker) is State.OPEN


def test_the_guards_flow_measures_its_attempts_and_not_the_waits_before_them() -> None:
    world = World()
    policy = BreakerPolicy(window=CountWindow(size=4, calls_min=4, slow_s=3.0))
    guard = Guards(now=world.now, draws=lambda name: lambda: 0.9, breaker=policy)("it")

    def attempt(number: int) -> Flow[str]:
        yield Pause(2.0 if number == 1 else 3.0)
        if number == 1:
            raise AgentError("once more", reason="server_error", retry_after_s=9)
        return "answer"

    world.run(guard.guarding(attempt, deadline=Deadline.after(0.0, 60), attempt_s=60.0))
    assert guard.breaker.snapshot().window == WindowCounts(2, 1, 1)


def test_nobody_looks_at_the_clock_while_no_call_is_timed() -> None:
    def no_clock() -> float:
        raise AssertionError("the healthy path pays for a clock it does not need")

    for policy in (BreakerPolicy(), BreakerPolicy(window=CountWindow())):
        breaker = CircuitBreaker("it", policy, now=no_clock)
        assert breaker(lambda: 42)() == 42
        with breaker.permit():
            pass
        breaker.acquire().settle(SUCCESS)


class NoLock:
    """In place of the breaker's lock, for calls that must not take it."""

    def __enter__(self) -> None:
        raise AssertionError("a healthy call took the lock")

    def __exit__(self, *_: object) -> None: ...


def test_a_healthy_call_takes_no_lock_also_after_a_failure_was_made_good(clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    settle_all(breaker, [FAILURE, SUCCESS])
    breaker._lock = NoLock()  # type: ignore[assignment]
    assert breaker(lambda: 42)() == 42
    with breaker.permit():
        pass
    breaker.acquire().settle(SUCCESS)
    with pytest.raises(AssertionError):
        breaker.acquire().settle(FAILURE)


# --- open times that grow --------------------------------------------------------------------------------


def open_times(breaker: CircuitBreaker, clock: Clock, times: int) -> list[float]:
    """How long it stays open, probe after probe that fails."""
    seen = []
    for _ in range(times):
        seen.append(breaker.snapshot().retry_after_s)
        clock.now_s += seen[-1]
        breaker.acquire().settle(FAILURE)
    return seen


def test_each_failed_probe_makes_the_open_time_longer_up_to_the_cap(clock: Clock) -> None:
    breaker = opened(clock, BreakerPolicy(open_s_growth=2.0))
    assert open_times(breaker, clock, 6) == [60, 120, 240, 300, 300, 300]


def test_a_close_begins_anew(clock: Clock) -> None:
    breaker = opened(clock, BreakerPolicy(failure_threshold=1, open_s_growth=3.0))
    open_times(breaker, clock, 2)
    clock.now_s += 1000
    assert settle_all(breaker, [SUCCESS, FAILURE]) == [CircuitClosed("it"), CircuitOpened("it", 1, 60.0)]


def test_the_cap_never_shortens_the_policys_own_time_and_growth_never_overflows(clock: Clock) -> None:
    breaker = opened(clock, BreakerPolicy(open_s=900.0, open_s_growth=100.0))
    assert open_times(breaker, clock, 400) == [900] * 400


def test_jitter_takes_a_random_part_off_also_at_the_cap(clock: Clock) -> None:
    draws = iter([0.0, 0.5, 0.999, 0.5])
    policy = BreakerPolicy(open_s_growth=2.0, open_s_jitter=0.5, open_s_max=200.0)
    breaker = opened(clock, policy, draw=lambda: next(draws))
    assert open_times(breaker, clock, 3) == pytest.approx([60, 90, 200 * 0.5005])
    assert breaker.snapshot().retry_after_s == 150


def test_jitter_never_goes_below_what_the_server_asked_for(clock: Clock) -> None:
    breaker = CircuitBreaker("it", BreakerPolicy(failure_threshold=1, open_s_jitter=1.0), now=clock, draw=lambda: 0.9)
    assert breaker.acquire().settle(FAILURE, 45) == CircuitOpened("it", 1, 45.0)


def test_without_jitter_nothing_is_drawn(clock: Clock) -> None:
    def draw() -> float:
        raise AssertionError("a number of this stream is missing elsewhere now")

    assert state_of(opened(clock, BreakerPolicy(open_s_growth=2.0), draw=draw)) is State.OPEN


# --- by hand ---------------------------------------------------------------------------------------------


def test_opened_by_hand_it_refuses_every_call_for_ever_and_lets_no_probe_through(clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    assert breaker.open() == CircuitOpened("it", 0, math.inf)
    for _ in range(3):
        clock.now_s += 1e9
        assert state_of(breaker) is State.OPEN
        with pytest.raises(CircuitOpen, match="opened by hand") as refused:
            breaker.acquire()
        assert refused.value.retry_after_s is None  # nobody knows
    assert breaker.open() is None
    shot = breaker.snapshot()
    assert (shot.manual, shot.retry_after_s) == (True, math.inf)


def test_closed_by_hand_it_is_automatic_again_with_nothing_counted(clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    settle_all(breaker, [FAILURE] * 4)
    assert breaker.close() is None  # it was closed: only the count begins anew
    assert settle_all(breaker, [FAILURE] * 4) == [None] * 4
    breaker.open()
    assert breaker.close() == CircuitClosed("it")
    assert not breaker.snapshot().manual
    assert settle_all(breaker, [FAILURE] * 5)[4] == CircuitOpened("it", 5, 60.0)


def test_half_opened_by_hand_the_next_call_is_a_probe_and_decides(clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    breaker.open()
    breaker.half_open()
    assert state_of(breaker) is State.HALF_OPEN
    probe = breaker.acquire(lease_s=9)
    assert probe.event == CircuitHalfOpened("it")
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    assert isinstance(probe.settle(FAILURE), CircuitOpened)
    clock.now_s += 60
    assert settle_all(breaker, [SUCCESS]) == [CircuitClosed("it")]


@pytest.mark.parametrize("turn", [CircuitBreaker.open, CircuitBreaker.half_open, CircuitBreaker.close])
@pytest.mark.parametrize("late", list(Outcome))
def test_what_calls_under_way_report_after_a_turn_by_hand_is_dropped(
    clock: Clock, turn: Callable[[CircuitBreaker], object], late: Outcome
) -> None:
    for breaker in (CircuitBreaker("it", BreakerPolicy(failure_threshold=1), now=clock), half_opened(clock)):
        permit = breaker.acquire()
        turn(breaker)
        before = breaker.snapshot()
        assert permit.settle(late, 30) is None
        assert breaker.snapshot() == before
        assert breaker.not_before_s == -math.inf


def test_the_listener_hears_turns_by_hand(clock: Clock) -> None:
    heard: list[Event] = []
    breaker = CircuitBreaker("it", now=clock, listener=heard.append)
    breaker.open()
    breaker.close()
    assert heard == [CircuitOpened("it", 0, math.inf), CircuitClosed("it")]


def test_a_guard_whose_breaker_is_open_by_hand_is_not_ready_and_turns_calls_away() -> None:
    world = World()
    guard = Guards(now=world.now, draws=lambda name: lambda: 0.5)("it")
    assert isinstance(guard.breaker, CircuitBreaker)
    guard.breaker.open()
    assert not guard.is_ready()
    with pytest.raises(CircuitOpen):
        world.run(guard.guarding(lambda number: iter(()), deadline=Deadline.after(0.0, 60), attempt_s=60.0))  # type: ignore[arg-type, return-value]
    assert world.pauses == []


# --- numbers without sense -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "bad"),
    [
        (CountWindow, {"size": 0}),
        (CountWindow, {"calls_min": 0}),
        (CountWindow, {"calls_min": 11, "size": 10}),
        (CountWindow, {"failure_rate": 0}),
        (CountWindow, {"failure_rate": 1.01}),
        (CountWindow, {"failure_rate": math.nan}),
        (CountWindow, {"slow_rate": 0}),
        (CountWindow, {"slow_s": 0}),
        (CountWindow, {"slow_s": math.nan}),
        (BreakerPolicy, {"open_s_growth": 0.9}),
        (BreakerPolicy, {"open_s_growth": math.inf}),
        (BreakerPolicy, {"open_s_jitter": -0.1}),
        (BreakerPolicy, {"open_s_jitter": 1.1}),
    ],
)
def test_numbers_without_sense_are_refused_by_name(make: Callable[..., Any], bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        make(**bad)
