"""The breaker's rules, one by one."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from circuit_breaker import VOICE, BreakerPolicy, CircuitBreaker, State
from errors import CircuitOpen, ConfigurationError, Outcome
from events import CircuitClosed, CircuitHalfOpened, CircuitOpened, Event
from tests.support_rules import Clock, half_opened, opened

SUCCESS, FAILURE, THROTTLED, NEUTRAL = Outcome.SUCCESS, Outcome.FAILURE, Outcome.THROTTLED, Outcome.NEUTRAL


@pytest.fixture
def clock() -> Clock:
    return Clock()


def state_of(breaker: CircuitBreaker) -> State:
    """The state, read anew: mypy takes a property that was compared once for a constant."""
    return breaker.state


# --- states ----------------------------------------------------------------------------------------------


def test_the_production_defaults_are_five_failures_sixty_seconds_one_probe_one_success() -> None:
    policy = BreakerPolicy()
    assert (policy.failure_threshold, policy.open_s) == (5, 60.0)
    assert (policy.max_probes, policy.success_threshold) == (1, 1)
    assert policy.open_s_max == 300.0
    assert (VOICE.failure_threshold, VOICE.open_s) == (3, 30.0)


def test_it_needs_no_arguments_and_begins_closed() -> None:
    assert CircuitBreaker().state is State.CLOSED
    assert [state.value for state in State] == ["closed", "open", "half_open"]


def test_the_fifth_failure_in_a_row_opens_it_and_the_fourth_does_not(clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    events = [breaker.acquire().settle(FAILURE) for _ in range(4)]
    assert (events, breaker.state) == ([None] * 4, State.CLOSED)
    assert breaker.acquire().settle(FAILURE) == CircuitOpened("it", failures=5, open_s=60.0)
    assert state_of(breaker) is State.OPEN


def test_a_success_ends_the_row_and_time_does_not(clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    for outcome in [FAILURE] * 4 + [SUCCESS] + [FAILURE] * 4:
        breaker.acquire().settle(outcome)
    assert state_of(breaker) is State.CLOSED
    clock.now_s += 1e6
    breaker.acquire().settle(FAILURE)
    assert state_of(breaker) is State.OPEN


def test_throttled_neutral_and_untried_calls_neither_count_nor_end_the_row(clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    for outcome in [FAILURE] * 4 + [THROTTLED, NEUTRAL, None] * 9:
        breaker.acquire().settle(outcome)
    assert breaker.snapshot().failures_in_a_row == 4
    assert breaker.acquire().settle(FAILURE) is not None


def test_while_open_each_call_gets_a_fresh_error_with_the_time_left_and_the_name(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now_s += 18
    with pytest.raises(CircuitOpen) as first:
        breaker.acquire()
    with pytest.raises(CircuitOpen) as second:
        breaker.peek()
    assert first.value is not second.value
    assert (first.value.retry_after_s, first.value.dependency) == (42.0, "it")
    assert "it is not asked" in str(first.value)
    assert "42 s" in str(first.value)


def test_it_is_open_until_the_very_end_of_the_open_time_and_half_open_from_then(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now_s = math.nextafter(1060.0, 0)
    assert state_of(breaker) is State.OPEN
    clock.now_s = 1060.0
    assert state_of(breaker) is State.HALF_OPEN
    breaker.peek()


def test_peek_takes_nothing(clock: Clock) -> None:
    breaker = half_opened(clock)
    for _ in range(10):
        breaker.peek()
    breaker.acquire()
    with pytest.raises(CircuitOpen):
        breaker.peek()


def test_one_probe_at_a_time_and_its_success_closes(clock: Clock) -> None:
    breaker = half_opened(clock)
    probe = breaker.acquire(lease_s=30)
    assert probe.event == CircuitHalfOpened("it")
    with pytest.raises(CircuitOpen) as refused:
        breaker.acquire()
    assert refused.value.retry_after_s == 30
    assert probe.settle(SUCCESS) == CircuitClosed("it")
    assert state_of(breaker) is State.CLOSED
    assert breaker.snapshot().failures_in_a_row == 0


def test_a_failed_probe_opens_for_the_whole_time_again(clock: Clock) -> None:
    breaker = half_opened(clock)
    probe = breaker.acquire()
    clock.now_s += 7
    assert probe.settle(FAILURE) == CircuitOpened("it", failures=6, open_s=60.0)
    clock.now_s += 59
    assert state_of(breaker) is State.OPEN


def test_half_open_is_announced_once_per_open_time(clock: Clock) -> None:
    breaker = half_opened(clock)
    first = breaker.acquire()
    first.release()
    second = breaker.acquire()
    assert (first.event, second.event) == (CircuitHalfOpened("it"), None)
    second.settle(FAILURE)
    clock.now_s += 60
    assert breaker.acquire().event == CircuitHalfOpened("it")


def test_several_successes_can_be_asked_for_and_one_failure_opens_all_the_same(clock: Clock) -> None:
    breaker = half_opened(clock, BreakerPolicy(success_threshold=3))
    assert [breaker.acquire().settle(SUCCESS) for _ in range(2)] == [None, None]
    assert state_of(breaker) is State.HALF_OPEN
    assert breaker.acquire().settle(SUCCESS) == CircuitClosed("it")
    breaker = half_opened(clock, BreakerPolicy(success_threshold=3))
    breaker.acquire().settle(SUCCESS)
    breaker.acquire().settle(FAILURE)
    assert state_of(breaker) is State.OPEN


# --- what a server asks for ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked_s", "open_s"),
    [
        (None, 60.0),
        (10.0, 60.0),
        (90.0, 90.0),
        (86400.0, 300.0),
        (math.inf, 300.0),
        (math.nan, 60.0),
        (-5.0, 60.0),
    ],
)
def test_the_open_time_is_at_least_what_the_server_asks_for_up_to_the_cap(
    clock: Clock, asked_s: float | None, open_s: float
) -> None:
    breaker = CircuitBreaker("it", BreakerPolicy(failure_threshold=1), now=clock)
    assert breaker.acquire().settle(FAILURE, asked_s) == CircuitOpened("it", 1, open_s)
    assert breaker.snapshot().retry_after_s == open_s


def test_the_cap_never_shortens_a_longer_open_time_of_the_policy(clock: Clock) -> None:
    breaker = CircuitBreaker("it", BreakerPolicy(failure_threshold=1, open_s=900), now=clock)
    breaker.acquire().settle(FAILURE, 1000)
    assert breaker.snapshot().retry_after_s == 900


def test_a_throttling_server_moves_not_before_forward_only_and_at_most_by_the_cap(clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    assert breaker.not_before_s == -math.inf
    breaker.acquire().settle(THROTTLED, 30)
    assert breaker.not_before_s == 1030
    breaker.acquire().settle(THROTTLED, 5)
    assert breaker.not_before_s == 1030
    breaker.acquire().settle(THROTTLED, 1e9)
    assert breaker.not_before_s == 1300
    assert state_of(breaker) is State.CLOSED


# --- permits: generations and leases ---------------------------------------------------------------------


def test_settling_twice_counts_once(clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    permit = breaker.acquire()
    for _ in range(9):
        permit.settle(FAILURE)
        permit.release()
    assert breaker.snapshot().failures_in_a_row == 1


@pytest.mark.parametrize("late", list(Outcome))
def test_what_a_call_reports_after_the_state_changed_is_dropped(clock: Clock, late: Outcome) -> None:
    breaker = CircuitBreaker("it", now=clock)
    old = [breaker.acquire() for _ in range(3)]
    for _ in range(5):
        breaker.acquire().settle(FAILURE)
    assert old[0].settle(late, 299) is None
    assert breaker.snapshot().retry_after_s == 60
    clock.now_s += 60
    probe = breaker.acquire()
    assert old[1].settle(late) is None
    assert state_of(breaker) is State.HALF_OPEN
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    probe.settle(SUCCESS)
    for permit in (old[2], *old):
        permit.settle(late)
    assert breaker.snapshot().failures_in_a_row == 0
    assert breaker.not_before_s == -math.inf


@pytest.mark.parametrize("outcome", [NEUTRAL, THROTTLED, None])
def test_a_probe_that_says_nothing_gives_its_place_back(clock: Clock, outcome: Outcome | None) -> None:
    breaker = half_opened(clock)
    assert breaker.acquire().settle(outcome, 100) is None
    assert state_of(breaker) is State.HALF_OPEN
    assert breaker.acquire().settle(SUCCESS) == CircuitClosed("it")


def test_a_hung_probe_loses_its_place_when_its_lease_ends_and_its_report_when_the_place_is_taken(
    clock: Clock,
) -> None:
    breaker = half_opened(clock)
    hung = breaker.acquire(lease_s=10)
    clock.now_s = math.nextafter(1070.0, 0)
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    clock.now_s = 1070.0
    breaker.peek()
    second = breaker.acquire(lease_s=10)
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    assert hung.settle(FAILURE) is None
    assert state_of(breaker) is State.HALF_OPEN
    with pytest.raises(CircuitOpen):  # the late report freed nobody else's place
        breaker.acquire()
    assert second.settle(SUCCESS) == CircuitClosed("it")


def test_a_late_probe_still_counts_while_nobody_took_its_place(clock: Clock) -> None:
    breaker = half_opened(clock)
    slow = breaker.acquire(lease_s=10)
    clock.now_s += 500
    assert slow.settle(SUCCESS) == CircuitClosed("it")


def test_a_probe_without_a_lease_of_its_own_has_the_policys(clock: Clock) -> None:
    breaker = half_opened(clock, BreakerPolicy(lease_s=25))
    breaker.acquire()
    clock.now_s += 24
    with pytest.raises(CircuitOpen) as refused:
        breaker.acquire()
    assert refused.value.retry_after_s == 1
    clock.now_s += 1
    breaker.acquire()


def test_a_clock_that_stands_still_changes_nothing_about_the_order_of_things() -> None:
    breaker = opened(Clock(0.0), BreakerPolicy(failure_threshold=2, open_s=0, max_probes=2))
    probes = [breaker.acquire(), breaker.acquire()]
    with pytest.raises(CircuitOpen):
        breaker.acquire()
    assert isinstance(probes[1].settle(FAILURE), CircuitOpened)
    assert probes[0].settle(SUCCESS) is None
    assert breaker.acquire().settle(SUCCESS) == CircuitClosed("it")


def test_a_snapshot_says_how_it_stands(clock: Clock) -> None:
    breaker = half_opened(clock, BreakerPolicy(max_probes=2))
    breaker.acquire(lease_s=5)
    assert (breaker.snapshot().probes, breaker.snapshot().retry_after_s) == (1, 0.0)
    breaker.acquire(lease_s=9)
    shot = breaker.snapshot()
    assert (shot.name, shot.state, shot.failures_in_a_row) == ("it", State.HALF_OPEN, 5)
    assert (shot.probes, shot.retry_after_s) == (2, 5.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"failure_threshold": 0},
        {"success_threshold": 0},
        {"max_probes": 0},
        {"open_s": -1},
        {"open_s": math.inf},
        {"open_s": math.nan},
        {"open_s_max": -1},
        {"lease_s": 0},
    ],
)
def test_numbers_without_sense_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        BreakerPolicy(**bad)


# --- listeners -------------------------------------------------------------------------------------------


def test_the_listener_hears_every_change_once_and_in_order(clock: Clock) -> None:
    heard: list[Event] = []
    breaker = half_opened(clock, listener=heard.append)
    breaker.acquire().settle(FAILURE)
    clock.now_s += 60
    breaker.acquire().settle(SUCCESS)
    half, closed = CircuitHalfOpened("it"), CircuitClosed("it")
    assert heard == [CircuitOpened("it", 5, 60.0), half, CircuitOpened("it", 6, 60.0), half, closed]


def test_a_listener_may_use_the_breaker_it_listens_to(clock: Clock) -> None:
    seen: list[tuple[str, State]] = []

    def listener(event: Event) -> None:
        # From another thread, since a lock that its own thread may take again would hide behind this one.
        thread = threading.Thread(target=look, args=(type(event).__name__,))
        thread.start()
        thread.join(timeout=5)
        assert not thread.is_alive()

    def look(name: str) -> None:
        breaker.snapshot()
        seen.append((name, breaker.state))
        try:
            breaker.acquire().release()
        except CircuitOpen:
            return

    breaker = CircuitBreaker("it", BreakerPolicy(failure_threshold=1), now=clock, listener=listener)
    breaker.acquire().settle(FAILURE)
    clock.now_s += 60
    breaker.acquire().settle(SUCCESS)
    assert seen == [
        ("CircuitOpened", State.OPEN),
        ("CircuitHalfOpened", State.HALF_OPEN),
        ("CircuitClosed", State.CLOSED),
    ]
    assert breaker.dropped == 0


def test_what_a_listener_raises_hurts_nobody_and_is_counted(clock: Clock) -> None:
    def listener(event: Event) -> None:
        raise RuntimeError("the screen broke")

    breaker = half_opened(clock, listener=listener)
    with breaker.permit():
        pass
    assert (breaker.state, breaker.dropped) == (State.CLOSED, 3)
