"""All guards around one dependency: the order, what is given back, who is blamed, what is said."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from bulkhead import Bulkhead
from circuit_breaker import BreakerPolicy, CircuitBreaker, State
from deadline import NEVER, Deadline
from errors import (
    VERDICTS,
    AgentError,
    AttemptTimedOut,
    BulkheadFull,
    CircuitOpen,
    DeadlineExceeded,
    ErrorType,
    LimiterFull,
    Outcome,
    Rejected,
)
from events import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    CallRejected,
    CircuitClosed,
    CircuitHalfOpened,
    CircuitOpened,
    FaultInjected,
    LimiterWaited,
    RetryRefused,
)
from fallback import Choice, falling_back
from fault_injection import Telling
from faults import Crashed, FaultPlan, parse_fault
from flow import Attempt, Flow, Pause
from guard import LEASE_GRACE_S, Guard, Guards, injecting, with_deadline
from rate_limiter import LimiterPolicy, TokenBucket
from retry import RetryPolicy, RetryQuota
from tests.support_flow import World, failing


def down(reason: str = "server_error", message: str = "", **more: Any) -> AgentError:
    return AgentError(message or f"injected {reason}", reason=reason, **more)


def guard_of(
    world: World,
    *,
    threshold: int = 5,
    open_s: float = 60.0,
    places: int = 16,
    retries: int = 0,
    limit: LimiterPolicy | None = None,
    draw: Callable[[], float] = lambda: 1.0,
) -> Guard:
    return Guard(
        name="x.one",
        breaker=CircuitBreaker("x.one", BreakerPolicy(failure_threshold=threshold, open_s=open_s), now=world.now),
        bulkhead=Bulkhead("x.one", places),
        retry=RetryPolicy(retries=retries),
        quota=RetryQuota(now=world.now),
        now=world.now,
        draw=draw,
        limiter=TokenBucket(limit, name="x.one", now=world.now) if limit else None,
    )


def hanging(_: int) -> Flow[str]:
    yield Pause(1e6)
    return "never"


def call(guard: Guard, attempt: Callable[[int], Flow[str]], limit_s: float = 10.0, **options: Any) -> Flow[str]:
    given: dict[str, Any] = {"deadline": Deadline.after(guard.now(), limit_s), "attempt_s": limit_s} | options
    return guard.guarding(attempt, **given)


def error_of(world: World, flow: Flow[Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the callers look at it
        world.run(flow)
    return caught.value


# --- a healthy call and its events -----------------------------------------------------------------------


def test_a_healthy_call_is_told_within_its_scope_and_holds_nothing_afterwards() -> None:
    world = World()
    guard = guard_of(world, retries=3, limit=LimiterPolicy())
    assert world.run(call(guard, failing([None]))) == "answer 1"
    assert [event for _, event, _ in world.heard] == [
        AttemptStarted("x.one", 1, 4),
        AttemptSucceeded("x.one", 1),
    ]
    assert {tuple(scope.items()) for _, _, scope in world.heard} == {(("attempt", 1), ("dependency", "x.one"))}
    assert guard.bulkhead.taken == 0


def test_each_attempt_has_its_number_in_scope_and_the_failure_its_facts() -> None:
    world = World()
    guard = guard_of(world, retries=3)
    bad = down("overloaded", "overloaded (529)", status=529, request_id="req_1")
    assert world.run(call(guard, failing([bad, None]))) == "answer 2"
    assert world.of(AttemptFailed) == [
        AttemptFailed("x.one", 1, "overloaded", "transient", "failure", "overloaded (529)", 529, "req_1")
    ]
    assert [scope["attempt"] for _, event, scope in world.heard if isinstance(event, AttemptStarted)] == [1, 2]
    assert bad.dependency == "x.one"


# --- what the breaker learns -----------------------------------------------------------------------------


@pytest.mark.parametrize("reason", list(VERDICTS))
def test_the_breaker_learns_the_verdict_of_each_error(reason: str) -> None:
    world = World()
    guard = guard_of(world, threshold=1)
    error_of(world, call(guard, failing([down(reason)])))
    expected = State.OPEN if VERDICTS[reason].outcome is Outcome.FAILURE else State.CLOSED
    assert guard.breaker.state is expected
    assert len(world.of(CircuitOpened)) == (expected is State.OPEN)
    outcome = VERDICTS[reason].outcome or Outcome.NEUTRAL
    assert world.of(AttemptFailed)[0].outcome == outcome.value


def test_failures_open_the_circuit_a_probe_closes_it_and_everybody_is_told() -> None:
    world = World()
    guard = guard_of(world, threshold=2, open_s=60)
    for _ in range(2):
        error_of(world, call(guard, failing([down()])))
    rejected = error_of(world, call(guard, failing([None])))
    assert isinstance(rejected, CircuitOpen)
    assert rejected.retry_after_s == 60
    world.now_s = 60.0
    assert world.run(call(guard, failing([None]))) == "answer 1"
    turns = (CircuitOpened, CircuitHalfOpened, CircuitClosed, CallRejected)
    assert [event for _, event, _ in world.heard if isinstance(event, turns)] == [
        CircuitOpened("x.one", 2, 60.0),
        CallRejected("x.one", "circuit_breaker", 60.0),
        CircuitHalfOpened("x.one"),
        CircuitClosed("x.one"),
    ]


def test_a_rejected_call_is_no_attempt_and_takes_no_place_token_or_quota() -> None:
    world = World()
    guard = guard_of(world, threshold=1, retries=3, limit=LimiterPolicy(per_minute=60, burst=1))
    error_of(world, call(guard, failing([down()]), has_next=True))
    before = len(world.pauses)
    for _ in range(5):
        assert isinstance(error_of(world, call(guard, failing([None]))), CircuitOpen)
    assert len(world.of(AttemptStarted)) == 1
    assert (len(world.pauses), guard.bulkhead.taken, guard.quota.tokens) == (before, 0, 500)


def test_a_retry_into_a_circuit_that_just_opened_is_not_waited_for() -> None:
    world = World()
    guard = guard_of(world, threshold=1, retries=3)
    error = error_of(world, call(guard, failing([down()])))
    assert not isinstance(error, Rejected)  # the caller hears the real cause
    assert world.pauses == []
    assert guard.quota.tokens == 500
    assert "refused" in world.of(RetryRefused)[0].why


def test_a_throttled_call_counts_for_nothing_however_often() -> None:
    world = World()
    guard = guard_of(world, threshold=1)
    for _ in range(9):
        error_of(world, call(guard, failing([down("rate_limit")])))
    assert guard.breaker.state is State.CLOSED


# --- a pause the server asked for ------------------------------------------------------------------------


def test_later_calls_give_a_server_the_pause_it_asked_for() -> None:
    world = World()
    guard = guard_of(world, draw=lambda: 0.5)
    error_of(world, call(guard, failing([down("rate_limit", retry_after_s=4)])))
    assert not guard.is_ready()
    assert world.run(call(guard, failing([None]))) == "answer 1"
    assert world.pauses == [4.5]
    assert world.of(LimiterWaited) == [LimiterWaited("x.one", 4.5)]
    assert guard.is_ready()


@pytest.mark.parametrize("options", [{"has_next": True}, {"limit_s": 3.0}])
def test_a_pause_that_does_not_fit_or_need_not_be_waited_for_is_a_rejection(options: dict[str, Any]) -> None:
    world = World()
    guard = guard_of(world)
    error_of(world, call(guard, failing([down("rate_limit", retry_after_s=4)])))
    error = error_of(world, call(guard, failing([None]), **options))
    assert isinstance(error, LimiterFull)
    assert world.of(CallRejected)[0].by == "rate_limiter"
    assert len(world.of(AttemptStarted)) == 1


def test_the_retry_itself_waits_once_and_not_again() -> None:
    world = World()
    guard = guard_of(world, retries=1)
    throttled = down("rate_limit", retry_after_s=4)
    assert world.run(call(guard, failing([throttled, None]))) == "answer 2"
    assert world.pauses == [4]


# --- bulkhead and limiter --------------------------------------------------------------------------------


def test_a_full_bulkhead_says_no_at_once() -> None:
    world = World()
    guard = guard_of(world, places=2)
    tasks = [world.start(call(guard, failing([None], takes_s=5))) for _ in range(3)]
    world.go(until_s=1)
    assert isinstance(tasks[2].error, BulkheadFull)
    assert world.of(CallRejected) == [CallRejected("x.one", "bulkhead", None)]
    world.go()
    assert [task.result for task in tasks[:2]] == ["answer 1"] * 2
    assert guard.bulkhead.taken == 0


def test_the_limiter_makes_calls_wait_and_then_refuses() -> None:
    world = World()
    guard = guard_of(world, limit=LimiterPolicy(per_minute=60, burst=1, wait_s_max=2))
    tasks = [world.start(call(guard, failing([None]))) for _ in range(4)]
    world.go()
    assert [task.result for task in tasks[:3]] == ["answer 1"] * 3
    assert world.pauses == [1, 2]
    assert isinstance(tasks[3].error, LimiterFull)
    assert world.of(CallRejected)[0].by == "rate_limiter"


def test_a_token_that_comes_after_the_deadline_is_not_waited_for() -> None:
    world = World()
    guard = guard_of(world, limit=LimiterPolicy(per_minute=60, burst=1, wait_s_max=2))
    world.run(call(guard, failing([None])))
    error = error_of(world, call(guard, failing([None]), limit_s=1.0))
    assert isinstance(error, LimiterFull)
    assert world.pauses == []
    assert world.run(call(guard, failing([None]))) == "answer 1"
    assert world.pauses == [1]  # the token was given back: the next in line waits for it, not for a second one


def test_token_and_place_are_given_back_when_the_permit_is_refused_after_all() -> None:
    world = World()
    guard = guard_of(world, threshold=1, limit=LimiterPolicy(per_minute=60, burst=1, wait_s_max=2))
    world.run(call(guard, failing([None])))
    waiting = world.start(call(guard, failing([None])))  # peeks, then waits for a token
    world.go(until_s=0.5)
    guard.breaker.acquire().settle(Outcome.FAILURE)  # another call opens the circuit meanwhile
    world.go()
    assert isinstance(waiting.error, CircuitOpen)
    assert guard.bulkhead.taken == 0
    world.now_s = 61.0
    assert isinstance(guard.limiter, TokenBucket)
    assert guard.limiter.reserve() == 0
    assert len(world.of(AttemptStarted)) == 1


# --- cancellation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_s", [0.5, 1.5, 30.0])
def test_cancelling_gives_everything_back_wherever_the_call_is(at_s: float) -> None:
    """0.5: waiting for a token; 1.5: in the attempt; 30: in the attempt of a probe."""
    world = World()
    guard = guard_of(world, threshold=1, open_s=20, limit=LimiterPolicy(per_minute=60, burst=1))
    assert isinstance(guard.limiter, TokenBucket)
    guard.limiter.reserve()
    if at_s == 30.0:
        guard.breaker.acquire().settle(Outcome.FAILURE)
        world.now_s = 29.0
    task = world.start(call(guard, hanging))
    world.go(until_s=at_s)
    assert guard.bulkhead.taken == 1
    task.close()
    assert guard.bulkhead.taken == 0
    assert guard.breaker.snapshot().probes == 0
    assert guard.breaker.state is (State.HALF_OPEN if at_s == 30.0 else State.CLOSED)
    assert guard.quota.tokens == 500
    assert world.run(call(guard, failing([None]))) == "answer 1"


def test_a_probe_holds_its_lease_for_its_attempt_and_a_grace() -> None:
    world = World()
    guard = guard_of(world, threshold=1, open_s=1)
    guard.breaker.acquire().settle(Outcome.FAILURE)
    world.now_s = 2.0
    world.start(call(guard, hanging, limit_s=7.0))
    world.go(until_s=3.0)
    with pytest.raises(CircuitOpen) as caught:
        guard.breaker.peek()
    assert caught.value.retry_after_s == 7.0 + LEASE_GRACE_S - 1.0


# --- time ------------------------------------------------------------------------------------------------


def test_a_hanging_dependency_is_blamed_and_the_call_ends_at_its_deadline() -> None:
    world = World()
    guard = guard_of(world, threshold=1)
    error = error_of(world, call(guard, hanging))
    assert isinstance(error, DeadlineExceeded)
    assert str(error) == "gave up after 10 s: no answer within 10 s, 1 try"
    assert world.now_s == 10
    assert guard.breaker.state is State.OPEN


def test_an_attempt_that_got_less_than_half_its_time_blames_nobody() -> None:
    for limit_s, outcome in ((4.7, "neutral"), (5.0, "failure"), (8.0, "failure")):
        world = World()
        error_of(world, call(guard_of(world), hanging, limit_s=limit_s, attempt_s=10.0))
        assert world.of(AttemptFailed)[0].outcome == outcome


def test_a_model_is_measured_by_its_silence_not_by_the_whole_time() -> None:
    for limit_s, outcome in ((14.0, "neutral"), (15.0, "failure"), (60.0, "failure")):
        world = World()
        flow = call(guard_of(world), hanging, limit_s=limit_s, attempt_s=lambda: 120.0, silence_s=30.0)
        error_of(world, flow)
        assert world.of(AttemptFailed)[0].outcome == outcome


def test_a_failure_that_is_no_timeout_counts_however_little_time_it_had() -> None:
    world = World()
    error_of(world, call(guard_of(world), failing([down("connection")]), limit_s=0.3, attempt_s=10.0))
    assert world.of(AttemptFailed)[0].outcome == "failure"


def test_while_another_try_remains_an_attempt_gets_at_most_half_of_what_is_left() -> None:
    world = World()
    error_of(world, call(guard_of(world, retries=2), hanging, limit_s=16.0))
    started = [at_s for at_s, event, _ in world.heard if isinstance(event, AttemptStarted)]
    failed = [at_s for at_s, event, _ in world.heard if isinstance(event, AttemptFailed)]
    assert started == [0, 9, 14.5]  # waits of 1 and 2 s between
    assert failed == [8, 12.5, 16]


@pytest.mark.parametrize(
    ("options", "ends_s"),
    [
        ({"has_next": True}, 5), ({"safe_to_repeat": False}, 10), ({"attempt_s": 3.0}, 3),
        ({"has_next": True, "silence_s": 30.0}, 10),
    ],
)  # fmt: skip
def test_how_long_the_first_attempt_may_take(options: dict[str, Any], ends_s: float) -> None:
    world = World()
    error_of(world, call(guard_of(world), hanging, **options))
    assert [at_s for at_s, event, _ in world.heard if isinstance(event, AttemptFailed)] == [ends_s]


def test_silence_is_handed_to_the_door_with_each_attempt() -> None:
    world = World()
    seen: list[Attempt[Any]] = []
    flow = call(guard_of(world), hanging, limit_s=90.0, silence_s=30.0)
    inner = next(flow).flow  # type: ignore[attr-defined]
    effect = next(inner)
    while not isinstance(effect, Attempt):
        effect = inner.send(None)
    seen.append(effect)
    assert (seen[0].s, seen[0].silence_s) == (90, 30)
    inner.close()
    flow.close()


def test_no_attempt_starts_with_next_to_nothing_left() -> None:
    world = World()
    error = error_of(world, call(guard_of(world), failing([None]), limit_s=0.19))
    assert isinstance(error, DeadlineExceeded)
    assert error.kind is ErrorType.TRANSIENT
    assert world.of(AttemptStarted) == []
    assert world.run(call(guard_of(world), failing([None]), limit_s=0.2)) == "answer 1"


def busy_then_hanging(busy: Exception, times: int) -> Callable[[int], Flow[str]]:
    def attempt(number: int) -> Flow[str]:
        if number > times:
            return (yield from hanging(number))
        raise busy

    return attempt


def test_giving_up_names_the_last_real_cause_and_the_number_of_tries() -> None:
    world = World()
    busy = down("overloaded", "overloaded (529)", retry_after_s=3.9)
    guard = guard_of(world, retries=9, threshold=99)
    flow = call(guard, busy_then_hanging(busy, 3), limit_s=14.0, silence_s=30.0)
    error = error_of(world, flow)  # waits of 3.9, 3.9 and 4 s, then 2.2 s for the fourth try
    assert isinstance(error, DeadlineExceeded)
    assert str(error) == "gave up after 14 s: overloaded (529), 4 tries"
    assert error.causes[-1] is busy
    assert (error.reason, error.retry_after_s, world.now_s) == ("overloaded", 3.9, 14)


def test_a_timeout_cut_short_is_not_the_reason_that_is_told() -> None:
    world = World()
    busy = down("overloaded", "overloaded (529)")
    guard = guard_of(world, retries=2, threshold=99)
    error = error_of(world, call(guard, busy_then_hanging(busy, 1), limit_s=5.0))  # half of 4 s, and no more
    assert str(error) == "gave up after 3 s: overloaded (529), 2 tries"
    error = error_of(world, call(guard, hanging, limit_s=1.0, attempt_s=10.0))
    assert str(error) == "gave up after 0.5 s: no answer within 0.5 s, 1 try"


def test_a_refused_key_at_the_last_moment_is_still_a_refused_key() -> None:
    world = World()
    error = error_of(world, call(guard_of(world), failing([down("authentication")], takes_s=9.95)))
    assert (type(error), getattr(error, "reason", "")) == (AgentError, "authentication")


def test_a_wait_that_does_not_fit_leaves_the_error_as_it_is_while_time_is_left() -> None:
    world = World()
    throttled = down("rate_limit", retry_after_s=60)
    assert error_of(world, call(guard_of(world, retries=3), failing([throttled]))) is throttled
    assert world.now_s == 0


def test_the_outer_deadline_ends_what_ignores_it_a_little_later() -> None:
    world = World()
    error = error_of(world, with_deadline(hanging(1), Deadline(5.0), now=world.now))
    assert isinstance(error, DeadlineExceeded)
    assert world.now_s == pytest.approx(5.1)


def test_the_outer_deadline_lets_answers_and_errors_pass() -> None:
    world, error = World(), down()
    assert world.run(with_deadline(failing([None])(1), Deadline(5.0), now=world.now)) == "answer 1"
    assert error_of(world, with_deadline(failing([error])(1), Deadline(5.0), now=world.now)) is error
    early = AttemptTimedOut(3)
    assert error_of(world, with_deadline(failing([early])(1), Deadline(5.0), now=world.now)) is early
    guarded = call(guard_of(world), hanging, limit_s=5.0)
    said = error_of(world, with_deadline(guarded, Deadline(5.0), now=world.now))
    assert str(said) == "gave up after 5 s: no answer within 5 s, 1 try"
    assert world.now_s == 5.0


# --- guards by name --------------------------------------------------------------------------------------


def guards_of(world: World, **options: Any) -> Guards:
    return Guards(now=world.now, draws=lambda name: random.Random(name).random, **options)


def test_each_dependency_has_one_guard_and_draws_of_its_own() -> None:
    guards = guards_of(World())
    assert guards("x.one") is guards("x.one")
    assert guards("x.one").breaker is not guards("x.two").breaker
    assert [guards("x.one").draw() for _ in range(3)] != [guards("x.two").draw() for _ in range(3)]
    assert [seen.name for seen in guards.snapshots()] == ["x.one", "x.two"]


def test_the_longest_prefix_decides_about_breaker_and_limiter() -> None:
    wide, narrow = BreakerPolicy(failure_threshold=3), BreakerPolicy(failure_threshold=9)
    guards = guards_of(
        World(),
        breakers={"model": wide, "model.a": narrow},
        limiters={"model": LimiterPolicy(), "model.off": LimiterPolicy(per_minute=0)},
    )
    assert guards("model.a.big").breaker.policy is narrow
    assert guards("model.ab.big").breaker.policy is wide
    assert guards("models.a").breaker.policy == BreakerPolicy()
    assert guards("model.a.big").limiter is not None
    assert guards("model.off.big").limiter is None
    assert guards("web_search.tavily").limiter is None


# --- faults ----------------------------------------------------------------------------------------------


def injected(world: World, spec: str, target: str = "get_weather.open_meteo") -> Flow[str]:
    return injecting(failing([None])(1), FaultPlan([parse_fault(spec)]), target)


@pytest.mark.parametrize(
    ("spec", "target", "reason", "outcome"),
    [
        ("get_weather:error", "get_weather.open_meteo", "server_error", Outcome.FAILURE),
        ("calculator:error", "calculator", "crashed", Outcome.FAILURE),
        ("save_note:error", "save_note", "crashed", Outcome.FAILURE),
        ("get_weather:rate_limit", "get_weather.open_meteo", "rate_limit", Outcome.THROTTLED),
        ("get_weather:overloaded", "get_weather.open_meteo", "overloaded", Outcome.FAILURE),
        ("get_weather:server_error", "get_weather.open_meteo", "server_error", Outcome.FAILURE),
        ("get_weather:auth", "get_weather.open_meteo", "plan_limit", Outcome.NEUTRAL),
        ("get_weather:refused", "get_weather.open_meteo", "connection", Outcome.FAILURE),
        ("get_weather:reset", "get_weather.open_meteo", "connection", Outcome.FAILURE),
        ("get_weather:garbage", "get_weather.open_meteo", "protocol", Outcome.FAILURE),
        ("get_weather:html", "get_weather.open_meteo", "protocol", Outcome.FAILURE),
    ],
)
def test_a_fault_fails_the_attempt_in_its_own_way(spec: str, target: str, reason: str, outcome: Outcome) -> None:
    world = World()
    error = error_of(world, injected(world, spec, target))
    assert isinstance(error, AgentError)
    assert (error.reason, error.verdict.outcome) == (reason, outcome)
    assert str(error).startswith("injected fault: ")
    assert world.of(FaultInjected) == [FaultInjected(target, spec.partition(":")[2], "")]


def test_a_rate_limit_says_for_how_long() -> None:
    world = World()
    for spec, after_s in (("get_weather:rate_limit=7", 7.0), ("get_weather:rate_limit", None)):
        assert getattr(error_of(world, injected(world, spec)), "retry_after_s", 0) == after_s


def test_a_slow_attempt_answers_later() -> None:
    world = World()
    assert world.run(injected(world, "get_weather:slow=15")) == "answer 1"
    assert world.now_s == 15
    assert world.of(FaultInjected)[0].argument == "15"


def test_a_hang_is_ended_by_the_timeout() -> None:
    world = World()
    flow = call(guard_of(world), lambda _: injected(world, "get_weather:hang"))
    assert isinstance(error_of(world, flow), DeadlineExceeded)
    assert world.now_s == 10


def test_without_a_fault_the_attempt_runs_as_it_is_and_asks_once() -> None:
    world, faults = World(), FaultPlan([parse_fault("get_weather:error*1+1")])
    target = "get_weather.open_meteo"
    assert world.run(injecting(failing([None])(1), faults, target)) == "answer 1"
    error_of(world, injecting(failing([None])(1), faults, target))
    assert world.run(injecting(failing([None])(1), faults, target)) == "answer 1"
    assert len(world.of(FaultInjected)) == 1


@pytest.mark.parametrize("spec", ["get_weather:error", "get_weather:slow=5", "get_weather:hang"])
def test_a_flow_that_a_fault_replaces_or_delays_is_closed_and_never_runs(spec: str) -> None:
    world, ran = World(), []

    def attempt() -> Flow[str]:
        ran.append(1)
        yield Pause(0)
        return "ran"

    flow = attempt()
    task = world.start(injecting(flow, FaultPlan([parse_fault(spec)]), "get_weather.open_meteo"))
    world.go(until_s=1)
    task.close()
    assert ran == []
    assert getattr(flow, "gi_frame", 0) is None


def doubling(flow: Flow[str], telling: Telling) -> Flow[str]:
    answer = yield from flow
    yield from telling()
    return answer * 2


def keeping_quiet(flow: Flow[str], telling: Telling) -> Flow[str]:
    return (yield from flow)


def test_a_lie_is_told_by_the_attempt_and_the_listeners_hear_of_it() -> None:
    world, faults = World(), FaultPlan([parse_fault("get_weather:wrong*1")])
    target = "get_weather.open_meteo"
    answers = [world.run(injecting(failing([None])(1), faults, target, {"wrong": doubling})) for _ in range(2)]
    assert answers == ["answer 1answer 1", "answer 1"]
    assert world.of(FaultInjected) == [FaultInjected(target, "wrong", "")]


def test_a_lie_that_found_nothing_to_lie_about_waits_for_the_next_attempt() -> None:
    world, faults = World(), FaultPlan([parse_fault("get_weather:wrong*1")])
    target = "get_weather.open_meteo"
    assert world.run(injecting(failing([None])(1), faults, target, {"wrong": keeping_quiet})) == "answer 1"
    failed = injecting(failing([down("connection")])(1), faults, target, {"wrong": doubling})
    assert error_of(world, failed)
    assert (world.of(FaultInjected), faults.active) == ([], True)
    assert world.run(injecting(failing([None])(1), faults, target, {"wrong": doubling})) == "answer 1answer 1"


def test_a_lie_that_this_tool_cannot_tell_is_not_told() -> None:
    world, faults = World(), FaultPlan([parse_fault("*:stale")])
    assert world.run(injecting(failing([None])(1), faults, "calculator", {"wrong": doubling})) == "answer 1"
    assert world.run(injecting(failing([None])(1), faults, "my_tool")) == "answer 1"
    assert world.of(FaultInjected) == []


@pytest.mark.parametrize(("when", "ran"), [("before", 0), ("after", 1)])
def test_a_crash_comes_before_the_work_or_when_it_is_done_and_is_told_first(when: str, ran: int) -> None:
    told: list[str] = []
    faults = FaultPlan([parse_fault(f"save_note:crash={when}")], kill=lambda: told.append("killed"))
    done = []

    def attempt() -> Flow[str]:
        yield Pause(0.1)
        done.append(1)
        return "saved"

    world = World()
    with pytest.raises(Crashed):
        world.run(injecting(attempt(), faults, "save_note"))
    assert (len(done), told) == (ran, ["killed"])
    assert world.of(FaultInjected) == [FaultInjected("save_note", "crash", when)]


def test_a_crash_after_the_work_waits_for_work_that_succeeds() -> None:
    world, faults = World(), FaultPlan([parse_fault("save_note:crash=after*1")])
    assert error_of(world, injecting(failing([down("connection")])(1), faults, "save_note"))
    assert faults.active
    with pytest.raises(Crashed):
        world.run(injecting(failing([None])(1), faults, "save_note"))


def test_every_fault_of_a_tool_reaches_the_breaker_by_its_verdict() -> None:
    world = World()
    guard = guard_of(world, threshold=1)
    error_of(world, call(guard, lambda _: injected(world, "get_weather:refused")))
    assert guard.breaker.state is State.OPEN


# --- storms and outages ----------------------------------------------------------------------------------


def model_choices(
    guards: Guards, world: World, names: list[str], attempt: Callable[[str], Flow[str]], deadline: Deadline
) -> list[Choice[str]]:
    def choice(name: str) -> Choice[str]:
        guard = guards(f"model.{name}")
        return Choice(
            name,
            name,
            lambda has_next: guard.guarding(
                lambda _: attempt(name), deadline=deadline, attempt_s=lambda: deadline.left_s(world.now()),
                silence_s=30.0, has_next=has_next,
            ),
            guard.is_ready,
        )  # fmt: skip

    return [choice(name) for name in names]


@pytest.mark.parametrize("reason", ["connection", "overloaded"])
def test_a_dead_api_is_left_in_peace_by_a_hundred_clients_for_ten_minutes(reason: str) -> None:
    world = World()
    guards = guards_of(world)
    attempts: list[float] = []
    asked: list[float] = []

    def attempt(_: str) -> Flow[str]:
        attempts.append(world.now_s)
        yield Pause(0.2)
        raise down(reason)

    def client(number: int) -> Flow[None]:
        rest = random.Random(number)
        while world.now_s < 600:
            yield Pause(rest.uniform(5, 25))
            asked.append(world.now_s)
            deadline = Deadline.after(world.now_s, 120)
            try:
                choices = model_choices(guards, world, ["a", "b"], attempt, deadline)
                yield from falling_back(choices, deadline=deadline, now=world.now)
            except AgentError:
                continue

    for number in range(100):
        world.start(client(number))
    world.go()
    late = sum(at_s >= 60 for at_s in attempts)
    questions = sum(at_s >= 60 for at_s in asked)
    probes = len(world.of(CircuitHalfOpened))
    assert questions > 3_000
    assert 0 < late <= 1.1 * questions + probes
    assert late <= 60  # in truth only the probes of two breakers are left
    assert len(attempts) < 600


@pytest.mark.parametrize(("reason", "by_breaker"), [("rate_limit", False), ("server_error", True)])
def test_a_thousand_questions_at_30_percent_faults_are_refused_no_retry_by_the_quota(
    reason: str, by_breaker: bool
) -> None:
    """A 5xx counts for the breaker: five in a row may open it, and then it is the breaker that refuses."""
    world = World()
    guards = guards_of(world)
    faults = random.Random(11)

    def attempt(_: str) -> Flow[str]:
        yield Pause(1.0)
        if faults.random() < 0.3:
            raise down(reason)
        return "ok"

    def question() -> Flow[str]:
        deadline = Deadline.after(world.now_s, 120)
        return (yield from model_choices(guards, world, ["a"], attempt, deadline)[0].flow(False))

    tasks = [world.start(question(), at_s=0.5 * number) for number in range(1000)]
    world.go()
    assert [refused.why for refused in world.of(RetryRefused) if "quota" in refused.why] == []
    answered = sum(task.result == "ok" for task in tasks)
    if not by_breaker:
        assert answered >= 975
        assert world.of(CallRejected) == []
    rejected = sum(isinstance(task.error, CircuitOpen) for task in tasks)
    assert answered + rejected >= 975


def test_after_the_faults_stop_the_first_choice_answers_again_within_its_recovery_time() -> None:
    world = World()
    guards = guards_of(world, breaker=BreakerPolicy(failure_threshold=2, open_s=30))

    def attempt(name: str) -> Flow[str]:
        yield Pause(0.1)
        if name == "a" and world.now_s < 100:
            raise down("overloaded")
        return name

    def ask() -> str:
        deadline = Deadline.after(world.now_s, 120)
        choices = model_choices(guards, world, ["a", "b"], attempt, deadline)
        return world.run(falling_back(choices, deadline=deadline, now=world.now))

    answers = []
    while world.now_s < 131:
        answers.append((world.now_s, ask()))
        world.now_s += 1
    assert {name for at_s, name in answers if at_s < 99} == {"b"}
    assert answers[-1][1] == "a"
    failed = [at_s for at_s, event, _ in world.heard if isinstance(event, AttemptFailed)]
    assert len(failed) <= 2 + 100 / 30 + 1


def test_guarding_without_end_of_time_works() -> None:
    world = World()
    assert world.run(guard_of(world).guarding(failing([None]), deadline=NEVER, attempt_s=5.0)) == "answer 1"
