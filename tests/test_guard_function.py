"""The guard as a decorator: held to the flow of `guard.py`, and what only the decorator promises."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuit_breaker import BreakerPolicy, State
from deadline import Deadline
from errors import (
    VERDICTS,
    AgentError,
    AttemptTimedOut,
    BulkheadFull,
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    LimiterFull,
    Outcome,
)
from flow import Flow, Pause
from guard import Guard, Guards
from guard_function import guarded, guards
from rate_limiter import LimiterPolicy, TokenBucket
from retry import RetryPolicy
from tests.support_flow import World
from tests.support_rules import Clock, run_jumping


def guard_of(now: Callable[[], float], **options: Any) -> Guard:
    limit = options.pop("limit", None)
    limiters = {"x": limit} if limit else None
    return Guards(now=now, draws=lambda name: lambda: 0.5, limiters=limiters, **options)("x")


# --- held to the flow ------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What there is to see of some calls on one guard, from outside."""

    attempts: list[float] = field(default_factory=list)  # when each began
    pauses: list[float] = field(default_factory=list)
    ended: list[Any] = field(default_factory=list)


TAKES_S = {"slow": 3.03125, "hang": 1e6}  # lengths no wait of a guard has, so that pauses can be told apart


def act_of(step: str, number: int) -> tuple[float, Exception | None]:
    """How long one attempt takes, and what it ends with."""
    if step in TAKES_S:
        return TAKES_S[step], None
    if step == "ok":
        return 0.0, None
    reason, _, asked = step.partition("=")
    return 0.0, AgentError(f"{reason} {number}", reason=reason, retry_after_s=float(asked) if asked else None)


def said(error: AgentError) -> tuple[str, str, str]:
    return type(error).__name__, str(error), error.dependency


def by_flow(steps: list[str], calls: int, gap_s: float, timeout_s: float, **options: Any) -> tuple[Seen, Guard]:
    world, seen, waiting = World(now_s=1000.0), Seen(), iter(enumerate(steps))
    guard = guard_of(world.now, **options)

    def attempt(number: int) -> Flow[str]:
        count, step = next(waiting, (0, "ok"))
        seen.attempts.append(world.now_s)
        takes_s, error = act_of(step, count)
        if takes_s:
            yield Pause(takes_s)
        if error is not None:
            raise error
        return step

    for _ in range(calls):
        deadline = Deadline.after(world.now_s, timeout_s)
        try:
            seen.ended.append(world.run(guard.guarding(attempt, deadline=deadline, attempt_s=timeout_s)))
        except AgentError as error:
            seen.ended.append(said(error))
        world.now_s += gap_s
    seen.pauses = [pause for pause in world.pauses if pause not in TAKES_S.values()]
    return seen, guard


def by_skin(steps: list[str], calls: int, gap_s: float, timeout_s: float, **options: Any) -> tuple[Seen, Guard]:
    clock, seen, waiting = Clock(1000.0), Seen(), iter(enumerate(steps))
    guard = guard_of(clock, **options)

    async def sleep(s: float) -> None:
        seen.pauses.append(s)
        await asyncio.sleep(s)

    @guarded(guard, timeout_s=timeout_s, sleep=sleep)
    async def ask() -> str:
        count, step = next(waiting, (0, "ok"))
        seen.attempts.append(clock.now_s)
        takes_s, error = act_of(step, count)
        if takes_s:
            await asyncio.sleep(takes_s)
        if error is not None:
            raise error
        return step

    async def everything() -> None:
        for _ in range(calls):
            try:
                seen.ended.append(await ask())
            except AgentError as error:
                seen.ended.append(said(error))
            clock.now_s += gap_s

    run_jumping(clock, everything())
    return seen, guard


OFTEN = ["ok", "slow", "hang", "server_error"]
STEPS = [*(reason for reason in VERDICTS if reason != "rejected"), "rate_limit=4", "overloaded=70", "server_error=2"]


@settings(max_examples=300)
@given(
    steps=st.lists(st.sampled_from(OFTEN) | st.sampled_from(STEPS), max_size=12),
    gap_s=st.sampled_from([0.0, 1.0, 61.0]),
    timeout_s=st.sampled_from([0.25, 5.0, 30.0]),
    retries=st.integers(0, 3),
    threshold=st.integers(1, 5),
    limit=st.sampled_from([None, LimiterPolicy(per_minute=60, burst=1)]),
)
def test_the_same_failures_lead_to_the_same_attempts_pauses_and_states_as_in_the_flow(
    steps: list[str], gap_s: float, timeout_s: float, retries: int, threshold: int, limit: LimiterPolicy | None
) -> None:
    script: dict[str, Any] = {"steps": steps, "calls": 6, "gap_s": gap_s, "timeout_s": timeout_s, "limit": limit}
    script |= {"retry": RetryPolicy(retries=retries), "breaker": BreakerPolicy(failure_threshold=threshold)}
    flow, flow_guard = by_flow(**script)
    skin, skin_guard = by_skin(**script)
    assert skin.ended == flow.ended
    assert skin.attempts == pytest.approx(flow.attempts)
    assert skin.pauses == pytest.approx(flow.pauses)
    mine, theirs = skin_guard.breaker.snapshot(), flow_guard.breaker.snapshot()
    assert (mine.state, mine.failures_in_a_row) == (theirs.state, theirs.failures_in_a_row)
    assert mine.retry_after_s == pytest.approx(theirs.retry_after_s)
    assert skin_guard.breaker.not_before_s == pytest.approx(flow_guard.breaker.not_before_s)
    assert skin_guard.quota.tokens == pytest.approx(flow_guard.quota.tokens)
    assert (skin_guard.bulkhead.taken, flow_guard.bulkhead.taken) == (0, 0)
    assert wait_for_a_token(skin_guard) == pytest.approx(wait_for_a_token(flow_guard))


def wait_for_a_token(guard: Guard) -> float:
    """How long the next call would wait; its token is taken."""
    if guard.limiter is None:
        return 0.0
    try:
        return bucket_of(guard).reserve()
    except LimiterFull as full:
        return full.retry_after_s or 0.0


def bucket_of(guard: Guard) -> TokenBucket:
    assert isinstance(guard.limiter, TokenBucket)
    return guard.limiter


# --- what a caller sees ----------------------------------------------------------------------------------


class Strange(Exception):
    """A client's own error, of a kind nobody here has heard of."""


def asking(
    errors: list[Exception | None], guard: Guard, **options: Any
) -> tuple[Callable[[], Awaitable[str]], list[int]]:
    waiting, calls = iter(errors), [0]

    @guarded(guard, **({"timeout_s": 10.0} | options))
    async def ask() -> str:
        calls[0] += 1
        await asyncio.sleep(0)
        if (error := next(waiting)) is not None:
            raise error
        return f"answer {calls[0]}"

    return ask, calls


def ended(clock: Clock, ask: Callable[[], Awaitable[Any]]) -> Any:
    async def once() -> Any:
        return await ask()

    try:
        return run_jumping(clock, once())
    except Exception as error:  # the tests look at it
        return error


def test_three_lines_guard_a_function_on_the_real_clock() -> None:
    search_guard = guards()("search")

    @guarded(search_guard, timeout_s=10)
    async def search(words: str, *, most: int = 3) -> list[str]:
        """Search."""
        return words.split()[:most]

    assert asyncio.run(search("a b c", most=2)) == ["a", "b"]
    assert (search.__name__, search.__doc__) == ("search", "Search.")
    assert search_guard.breaker.snapshot().state is State.CLOSED
    assert guards(places=3)("x").bulkhead.places == 3


def test_a_failure_that_may_pass_is_tried_again_and_the_answer_comes() -> None:
    clock = Clock()
    guard = guard_of(clock)
    ask, calls = asking([ConnectionResetError(), None], guard)
    assert (ended(clock, ask), calls) == ("answer 2", [2])
    assert clock.now_s == 1000.5  # half of the first backoff
    assert guard.quota.tokens == 500


def test_the_caller_gets_the_original_exception_of_the_last_attempt() -> None:
    clock = Clock()
    errors: list[Exception | None] = [ConnectionResetError(str(number)) for number in range(4)]
    ask, calls = asking(errors, guard_of(clock), timeout_s=60)
    error = ended(clock, ask)
    assert (error, calls) == (errors[3], [4])
    assert error.__cause__ is None


def test_a_stranger_counts_against_the_dependency_and_is_not_tried_again() -> None:
    clock = Clock()
    guard = guard_of(clock, breaker=BreakerPolicy(failure_threshold=2))
    strangers: list[Exception | None] = [Strange("one"), ValueError("two")]
    ask, calls = asking(strangers, guard)
    assert [ended(clock, ask), ended(clock, ask)] == strangers
    assert isinstance(ended(clock, ask), CircuitOpen)
    assert calls == [2]


def test_an_exception_that_cannot_even_be_read_arrives_unharmed_and_counts() -> None:
    class Hostile(Exception):
        @property
        def status_code(self) -> int:
            raise RuntimeError("do not read me")

    clock = Clock()
    guard, error = guard_of(clock), Hostile()
    ask, _ = asking([error], guard)
    assert ended(clock, ask) is error
    assert guard.breaker.snapshot().failures_in_a_row == 1


def test_a_clients_retry_after_is_waited_for() -> None:
    busy = Strange("busy")
    busy.status_code, busy.response = 429, SimpleNamespace(headers={"retry-after": "4"})  # type: ignore[attr-defined]
    clock = Clock()
    guard = guard_of(clock)
    ask, calls = asking([busy, None], guard, timeout_s=20)
    assert (ended(clock, ask), calls, clock.now_s) == ("answer 2", [2], 1004.0)
    assert guard.breaker.snapshot().failures_in_a_row == 0


def test_what_is_not_safe_to_repeat_is_tried_once_and_has_the_whole_time() -> None:
    clock = Clock()
    ask, calls = asking([ConnectionResetError()], guard_of(clock), safe_to_repeat=False)
    assert isinstance(ended(clock, ask), ConnectionResetError)
    assert calls == [1]
    hang = guarded(guard_of(clock), timeout_s=10, safe_to_repeat=False)(asyncio.Event().wait)
    assert isinstance(ended(clock, hang), DeadlineExceeded)
    assert clock.now_s == 1010


def test_a_call_that_hangs_ends_in_time_and_says_why() -> None:
    clock = Clock()
    guard = guard_of(clock)
    hang = guarded(guard, timeout_s=10, attempt_s=2)(asyncio.Event().wait)
    error = ended(clock, hang)
    assert isinstance(error, (AttemptTimedOut, DeadlineExceeded))
    assert "no answer within" in str(error)
    assert clock.now_s <= 1010
    assert guard.breaker.snapshot().failures_in_a_row >= 2


def test_a_timeout_of_the_functions_own_is_the_functions_own() -> None:
    clock = Clock()
    error = TimeoutError("mine")
    ask, calls = asking([error], guard_of(clock, retry=RetryPolicy(retries=0)))
    assert (ended(clock, ask), calls) == (error, [1])


def test_full_means_no_at_once() -> None:
    clock = Clock()
    guard = guard_of(clock, places=2)
    calls = [0]

    @guarded(guard, timeout_s=10)
    async def ask() -> None:
        calls[0] += 1
        await asyncio.sleep(1)

    async def crowd() -> list[Any]:
        return list(await asyncio.gather(*(ask() for _ in range(5)), return_exceptions=True))

    ends = run_jumping(clock, crowd())
    assert [type(end) for end in ends] == [type(None)] * 2 + [BulkheadFull] * 3
    assert (calls, guard.bulkhead.taken) == ([2], 0)


@pytest.mark.parametrize("at_s", [0.5, 1.5, 2.2])
def test_cancelling_blames_nobody_and_gives_everything_back(at_s: float) -> None:
    """0.5: waiting for a token; 1.5: in the first attempt; 2.2: in the pause before a retry."""
    clock = Clock()
    guard = guard_of(clock, limit=LimiterPolicy(per_minute=60, burst=1))
    bucket_of(guard).reserve()

    @guarded(guard, timeout_s=100)
    async def ask() -> None:
        await asyncio.sleep(1)
        raise ConnectionResetError

    async def scenario() -> None:
        task = asyncio.ensure_future(ask())
        await asyncio.sleep(at_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_jumping(clock, scenario())
    assert guard.breaker.snapshot().failures_in_a_row == (at_s > 2)
    assert (guard.bulkhead.taken, guard.quota.tokens) == (0, 500)


def test_a_cancelled_probe_gives_its_place_back() -> None:
    clock = Clock()
    guard = guard_of(clock, breaker=BreakerPolicy(failure_threshold=1))
    ask, _ = asking([Strange()], guard)
    ended(clock, ask)
    clock.now_s += 60

    async def scenario() -> None:
        task = asyncio.ensure_future(guarded(guard, timeout_s=10)(asyncio.Event().wait)())
        await asyncio.sleep(1)
        with pytest.raises(CircuitOpen):
            guard.breaker.peek()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_jumping(clock, scenario())
    assert guard.breaker.snapshot().state is State.HALF_OPEN
    guard.breaker.peek()


def test_a_circuit_that_is_open_is_no_reason_to_wait_for_a_token() -> None:
    clock = Clock()
    guard = guard_of(clock, limit=LimiterPolicy(per_minute=60, burst=1), breaker=BreakerPolicy(failure_threshold=1))
    ask, calls = asking([Strange()], guard)
    ended(clock, ask)  # takes the only token and opens the circuit
    assert isinstance(ended(clock, ask), CircuitOpen)
    assert (calls, clock.now_s) == ([1], 1000.0)


def test_a_circuit_that_is_open_is_said_to_be_open_also_when_all_places_are_taken() -> None:
    clock = Clock()
    guard = guard_of(clock, places=1, breaker=BreakerPolicy(failure_threshold=1))
    ask, calls = asking([], guard)
    with guard.bulkhead.place():
        assert isinstance(ended(clock, ask), BulkheadFull)
        guard.breaker.acquire().settle(Outcome.FAILURE)
        assert isinstance(ended(clock, ask), CircuitOpen)
    assert calls == [0]


def test_a_first_try_that_succeeds_gives_the_quota_a_token() -> None:
    clock = Clock()
    guard = guard_of(clock)
    guard.quota.take()
    ask, _ = asking([None], guard)
    assert (ended(clock, ask), guard.quota.tokens) == ("answer 1", 500 - 14 + 1)


def test_the_token_is_given_back_when_the_permit_is_refused_after_all() -> None:
    clock = Clock()
    guard = guard_of(clock, breaker=BreakerPolicy(failure_threshold=1))

    class Opening(TokenBucket):
        def book(self, dependency: str = "") -> tuple[float, float]:
            guard.breaker.acquire().settle(Outcome.FAILURE)  # another thread, between the peek and the permit
            return super().book(dependency)

    bucket = Opening(LimiterPolicy(per_minute=60, burst=1), now=clock)
    ask, calls = asking([], replace(guard, limiter=bucket))
    assert isinstance(ended(clock, ask), CircuitOpen)
    assert (calls, guard.bulkhead.taken) == ([0], 0)
    assert TokenBucket.book(bucket)[1] == 0


# --- what is refused -------------------------------------------------------------------------------------


def test_plain_functions_are_refused_with_the_way_out() -> None:
    guard = guard_of(Clock())

    def plain() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="cannot end a blocking call"):
        guarded(guard, timeout_s=1)(len)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="generator"):
        guarded(guard, timeout_s=1)(plain)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"timeout_s": 0.1}, {"timeout_s": float("nan")}, {"timeout_s": 1, "attempt_s": 0}])
def test_times_without_sense_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=list(bad)[-1]):
        guarded(guard_of(Clock()), **bad)


def test_a_breaker_or_limiter_of_another_kind_is_refused_before_the_first_call() -> None:
    """A shared one has to ask Redis, which only a flow can do; called like a local one it would guard nothing."""
    for other in ({"breaker": object()}, {"limiter": object()}):
        with pytest.raises(ConfigurationError, match="shared through Redis"):
            guarded(replace(guard_of(Clock()), **other), timeout_s=1)  # type: ignore[arg-type]


def test_methods_and_partials_can_be_guarded() -> None:
    clock = Clock()

    class Client:
        @guarded(guard_of(clock), timeout_s=1)
        async def get(self, a: int, *, b: int = 2) -> tuple[int, int]:
            return a, b

    assert ended(clock, functools.partial(Client().get, 1, b=3)) == (1, 3)
    partial = guarded(guard_of(clock), timeout_s=1)(functools.partial(asyncio.sleep, 0.1, "slept"))
    assert ended(clock, partial) == "slept"
