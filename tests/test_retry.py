"""Another try: how often, after which wait, and who is refused one."""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deadline import NEVER, Deadline
from errors import (
    VERDICTS,
    Advice,
    AgentError,
    AttemptTimedOut,
    BulkheadFull,
    ChainExhausted,
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    LimiterFull,
    OutcomeUnknown,
)
from events import RetryRefused, RetryScheduled
from flow import Flow
from retry import RetryPolicy, RetryQuota, retry, retrying
from tests.support_flow import World, failing


def down(reason: str = "server_error", **more: Any) -> AgentError:
    return AgentError(f"injected {reason}", reason=reason, **more)


class Run:
    """One call: counts its attempts and keeps what it came to."""

    def __init__(self, errors: list[Exception | None] | Callable[[int], Exception | None], **options: Any) -> None:
        self.world, self.attempts = World(), 0
        self.quota = RetryQuota(now=self.world.now)
        policy = options.pop("policy", RetryPolicy())
        given: dict[str, Any] = {
            "deadline": NEVER,
            "draw": lambda: 1.0,
            "quota": self.quota,
            "dependency": "x",
        } | options

        def attempt(number: int) -> Flow[str]:
            self.attempts += 1
            assert number == self.attempts
            error = errors(number) if callable(errors) else (errors[number - 1] if number <= len(errors) else None)
            yield from ()
            if error is not None:
                raise error
            return "ok"

        self.flow = retrying(attempt, policy, now=self.world.now, **given)

    def __call__(self) -> str | Exception:
        try:
            return self.world.run(self.flow)
        except Exception as error:
            return error


# --- how often -------------------------------------------------------------------------------------------


def test_the_first_answer_is_the_answer_and_nothing_waits() -> None:
    run = Run([])
    assert run() == "ok"
    assert (run.attempts, run.world.pauses, run.world.heard) == (1, [], [])


@pytest.mark.parametrize(
    ("reason", "alone", "with_next"),
    [
        ("connection", 4, 2), ("server_error", 4, 2), ("timeout", 4, 1), ("rate_limit", 6, 2),
        ("overloaded", 4, 1), ("protocol", 2, 2), ("unknown_host", 2, 2),
    ],
)  # fmt: skip
def test_attempts_on_a_dead_dependency_alone_and_with_a_ready_successor(
    reason: str, alone: int, with_next: int
) -> None:
    for has_next, expected in ((False, alone), (True, with_next)):
        error = down(reason)
        run = Run(lambda _, error=error: error, has_next=has_next)  # type: ignore[misc]
        assert run() is error
        assert run.attempts == expected
        assert len(run.world.pauses) == expected - 1


@pytest.mark.parametrize("reason", [r for r, v in VERDICTS.items() if v.advice not in (Advice.RETRY, Advice.NEXT)])
def test_what_will_not_pass_is_never_tried_again(reason: str) -> None:
    run = Run(lambda _: down(reason))
    run()
    assert (run.attempts, run.world.heard) == (1, [])


@pytest.mark.parametrize("has_next", [False, True])
@pytest.mark.parametrize("reason", ["rate_limit", "server_error", "overloaded"])
def test_no_retries_means_none_at_all_429_included(reason: str, has_next: bool) -> None:
    run = Run(lambda _: down(reason), policy=RetryPolicy(retries=0), has_next=has_next)
    run()
    assert run.attempts == 1


def test_429_gets_two_more_also_after_other_failures() -> None:
    order = ["server_error"] * 3 + ["rate_limit"] * 9
    run = Run(lambda n: down(order[n - 1]))
    run()
    assert run.attempts == 6


def test_a_server_error_after_three_429s_is_not_tried_again() -> None:
    order = ["rate_limit"] * 3 + ["server_error"] * 9
    run = Run(lambda n: down(order[n - 1]))
    run()
    assert run.attempts == 4


def test_a_broken_protocol_is_tried_once_again_whatever_failed_before() -> None:
    order = ["server_error", "protocol", "protocol"]
    run = Run(lambda n: down(order[n - 1]))
    run()
    assert run.attempts == 3


@pytest.mark.parametrize(
    "error",
    [
        CircuitOpen("open", retry_after_s=1), LimiterFull("full", retry_after_s=1), BulkheadFull("full"),
        OutcomeUnknown("perhaps saved"), DeadlineExceeded("over", (down(),)), ValueError("a bug"),
    ],
)  # fmt: skip
def test_rejections_unknown_outcomes_and_bugs_pass_straight_on_and_cost_nothing(error: Exception) -> None:
    run = Run(lambda _: error)
    assert run() is error
    assert (run.attempts, run.world.heard, run.quota.tokens) == (1, [], 500)


def test_the_server_can_forbid_a_retry() -> None:
    run = Run(lambda _: down(may_retry=False))
    run()
    assert run.attempts == 1
    assert "forbade" in run.world.of(RetryRefused)[0].why


def test_what_is_not_safe_to_repeat_is_not_repeated() -> None:
    run = Run(lambda _: down(), safe_to_repeat=False)
    run()
    assert run.attempts == 1
    assert run.world.of(RetryRefused)[0].why == "not safe to repeat"


def test_a_try_that_a_guard_would_turn_away_is_not_waited_for() -> None:
    run = Run(lambda _: down(), refused_s=lambda: 60.0)
    assert isinstance(run(), AgentError)
    assert (run.attempts, run.world.pauses, run.quota.tokens) == (1, [], 500)
    assert "60 s" in run.world.of(RetryRefused)[0].why


def test_a_try_that_would_be_let_in_after_the_wait_is_waited_for() -> None:
    run = Run([down()], refused_s=lambda: 0.5)
    assert run() == "ok"


# --- how long --------------------------------------------------------------------------------------------


def test_the_backoff_doubles_from_its_base_up_to_its_cap() -> None:
    run = Run(lambda _: down(), policy=RetryPolicy(retries=7))
    run()
    assert run.world.pauses == [1, 2, 4, 8, 16, 30, 30]


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0, 100), st.floats(0, 100))
@settings(max_examples=200, deadline=None)
def test_jitter_is_full_and_drawn_after_the_cap(n: int, drawn: float, base_s: float, cap_s: float) -> None:
    policy = RetryPolicy(base_delay_s=base_s, delay_s_max=cap_s)
    assert policy.backoff_s(n, lambda: drawn) == drawn * min(cap_s, base_s * 2.0 ** min(n, 32))


def test_a_capped_backoff_still_spreads_from_zero_to_the_cap() -> None:
    draw = random.Random(1).random
    waits = [RetryPolicy().backoff_s(50, draw) for _ in range(2000)]
    assert 0 <= min(waits) < 1
    assert 29 < max(waits) <= 30


@pytest.mark.parametrize(("asked_s", "waited_s"), [(7.0, 7.0), (60.0, 60.0), (0.0, 1.0), (0.4, 1.0), (None, 1.0)])
def test_the_wait_is_the_longer_of_jitter_and_what_the_server_asked(asked_s: float | None, waited_s: float) -> None:
    run = Run([down("rate_limit", retry_after_s=asked_s)])
    assert run() == "ok"
    assert run.world.pauses == [waited_s]


@pytest.mark.parametrize("asked_s", [-5.0, float("nan")])
def test_a_senseless_wait_counts_as_not_asked(asked_s: float) -> None:
    run = Run([down(retry_after_s=asked_s)])
    assert run() == "ok"
    assert run.world.pauses == [1.0]


@pytest.mark.parametrize("asked_s", [119.9, 3600.0, float("inf")])
def test_a_wait_that_does_not_fit_is_not_begun(asked_s: float) -> None:
    error = down("rate_limit", retry_after_s=asked_s)
    run = Run(lambda _: error, deadline=Deadline(120.0))
    assert run() is error
    assert (run.attempts, run.world.pauses, run.world.now_s) == (1, [], 0.0)
    assert "does not fit" in run.world.of(RetryRefused)[0].why


def test_a_long_wait_that_fits_is_obeyed_also_with_a_successor() -> None:
    run = Run([down("rate_limit", retry_after_s=60)], deadline=Deadline(120.0), has_next=True)
    assert run() == "ok"
    assert run.world.pauses == [60]


@given(st.lists(st.sampled_from(["server_error", "rate_limit", "timeout"]), max_size=9), st.floats(0, 30), st.data())
@settings(max_examples=200, deadline=None)
def test_no_sleep_ever_ends_after_the_deadline(reasons: list[str], limit_s: float, data: st.DataObject) -> None:
    asked = data.draw(st.lists(st.none() | st.floats(0, 20), min_size=9, max_size=9))
    errors = [down(reason, retry_after_s=s) for reason, s in zip(reasons, asked, strict=False)]
    run = Run(list(errors), deadline=Deadline(limit_s), draw=random.Random(1).random)
    run()
    assert run.world.now_s <= limit_s


def test_each_retry_is_announced_with_its_number_wait_and_reason() -> None:
    run = Run([down("overloaded"), down("rate_limit")])
    run()
    assert run.world.of(RetryScheduled) == [
        RetryScheduled("x", 2, 1.0, "overloaded", "injected overloaded"),
        RetryScheduled("x", 3, 2.0, "rate_limit", "injected rate_limit"),
    ]


# --- the quota -------------------------------------------------------------------------------------------


def test_a_call_that_succeeds_gets_back_all_that_its_retries_took() -> None:
    run = Run([down(), down("rate_limit"), down()])
    held: list[float] = []
    run.quota.per_s = 0
    flow = run.flow
    assert run.world.run(watched(flow, lambda: held.append(run.quota.tokens))) == "ok"
    assert min(held) == 500 - 14 - 5 - 14
    assert run.quota.tokens == 500


def watched(flow: Flow[str], look: Callable[[], None]) -> Flow[str]:
    value: Any = None
    while True:
        try:
            effect = flow.send(value)
        except StopIteration as end:
            return str(end.value)
        look()
        value = yield effect


def test_a_call_that_fails_loses_what_its_retries_took() -> None:
    run = Run(lambda _: down())
    run.quota.per_s = 0
    run()
    assert run.quota.tokens == 500 - 3 * 14


def test_a_success_at_the_first_try_gives_one_token() -> None:
    world = World()
    quota = RetryQuota(now=world.now)
    quota.take()
    world.run(retrying(failing([None]), RetryPolicy(), deadline=NEVER, now=world.now, draw=float, quota=quota))
    assert quota.tokens == 500 - 14 + 1


def test_a_token_comes_back_every_second_and_never_more_than_there_were() -> None:
    world = World()
    quota = RetryQuota(now=world.now)
    assert quota.take(throttled=True) == 5
    world.now_s = 3.5
    assert quota.tokens == 498.5
    world.now_s = 1e6
    assert quota.tokens == 500


def test_a_clock_that_goes_back_takes_no_tokens_away() -> None:
    world = World(now_s=100)
    quota = RetryQuota(now=world.now)
    quota.take()
    world.now_s = 0
    assert quota.tokens == 486


def test_a_dry_quota_refuses_and_says_so() -> None:
    run = Run(lambda _: down())
    while run.quota.take():
        pass
    run()
    assert run.attempts == 1
    assert "quota" in run.world.of(RetryRefused)[0].why


def test_a_dead_dependency_is_left_in_peace_after_a_dozen_calls() -> None:
    world = World()
    quota = RetryQuota(now=world.now, per_s=0)
    attempts: list[int] = []
    for _ in range(30):
        before = len(attempts)

        def attempt(_: int) -> Flow[str]:
            attempts.append(1)
            yield from ()
            raise down()

        with pytest.raises(AgentError):
            world.run(retrying(attempt, RetryPolicy(), deadline=NEVER, now=world.now, draw=float, quota=quota))
        last = len(attempts) - before
    assert last == 1
    assert len(attempts) == 30 + 500 // 14


def test_a_cancelled_call_gives_back_what_it_took() -> None:
    world = World()
    quota = RetryQuota(now=world.now, per_s=0)
    flow = retrying(failing([down()] * 9), RetryPolicy(), deadline=NEVER, now=world.now, draw=lambda: 1.0, quota=quota)
    task = world.start(flow)
    world.go(until_s=2.0)  # in the middle of the second wait
    assert quota.tokens == 500 - 28
    task.close()
    assert quota.tokens == 500


def test_a_retry_that_a_guard_turned_away_costs_no_tokens() -> None:
    run = Run([down(), CircuitOpen("open")])
    run.quota.per_s = 0
    run()
    assert run.attempts == 2
    assert run.quota.tokens == 500


def test_the_quota_is_exact_under_threads() -> None:
    quota = RetryQuota(capacity=10_000, now=lambda: 0.0)
    taken: list[float] = []

    def work() -> None:
        for _ in range(300):
            if (tokens := quota.take()) is not None:
                taken.append(tokens)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 10_000 // 14
    assert quota.tokens == 10_000 - sum(taken)


@pytest.mark.parametrize(("reason", "share_min"), [("rate_limit", 0.975), ("server_error", 0.975)])
def test_a_thousand_questions_at_a_fault_rate_of_30_percent_are_refused_no_retry(reason: str, share_min: float) -> None:
    for seed in range(5):
        world, draw = World(), random.Random(seed).random
        quota = RetryQuota(now=world.now)
        faults = random.Random(f"faults {seed}")

        def attempt(_: int, faults: random.Random = faults) -> Flow[str]:
            yield from ()
            if faults.random() < 0.3:
                raise down(reason)
            return "ok"

        def ask(attempt: Callable[[int], Flow[str]] = attempt, world: World = world, quota: RetryQuota = quota,
                draw: Callable[[], float] = draw) -> Flow[str]:  # fmt: skip
            return retrying(
                attempt, RetryPolicy(), deadline=Deadline.after(world.now(), 120), now=world.now,
                draw=draw, quota=quota,
            )  # fmt: skip

        tasks = [world.start(ask(), at_s=0.05 * n) for n in range(1000)]
        world.go()
        assert world.of(RetryRefused) == []
        assert sum(task.result == "ok" for task in tasks) >= share_min * 1000


@pytest.mark.parametrize(
    "wrong",
    [{"retries": -1}, {"base_delay_s": float("nan")}, {"delay_s_max": float("inf")}, {"factor": 0.5}],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


# --- the skin --------------------------------------------------------------------------------------------


class Flaky:
    """A function that fails so often and then answers; remembers its calls and the waits between them."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls, self.waits = list(errors), 0, list[float]()

    def plain(self, word: str = "a", *, mark: str = "!") -> str:
        """Says a word."""
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return word + mark

    async def slow(self, word: str = "a", *, mark: str = "!") -> str:
        """Says a word."""
        await asyncio.sleep(0)
        return self.plain(word, mark=mark)

    async def rest(self, s: float) -> None:
        self.waits.append(s)

    def wrapped(self, colour: str, *args: Any, **options: Any) -> Callable[..., Any]:
        if colour == "plain":
            return retry(*args, sleep=self.waits.append, draw=lambda: 1.0, **options)(self.plain)
        shy = retry(*args, sleep=self.rest, draw=lambda: 1.0, **options)(self.slow)
        return lambda *a, **k: asyncio.run(shy(*a, **k))


both = pytest.mark.parametrize("colour", ["plain", "async"])


@both
def test_the_skin_calls_again_until_it_answers(colour: str) -> None:
    flaky = Flaky(ConnectionError("reset"), TimeoutError("slow"), AgentError("busy", reason="overloaded"))
    assert flaky.wrapped(colour)("b", mark="?") == "b?"
    assert (flaky.calls, flaky.waits) == (4, [1, 2, 4])


@both
def test_the_skin_raises_the_last_original_error(colour: str) -> None:
    errors = [ConnectionError(str(n)) for n in range(9)]
    flaky = Flaky(*errors)
    with pytest.raises(ConnectionError) as caught:
        flaky.wrapped(colour, RetryPolicy(retries=2))()
    assert caught.value is errors[2]
    assert flaky.calls == 3


@both
@pytest.mark.parametrize(
    "error", [ValueError("bug"), AgentError("no key", reason="authentication"), CircuitOpen("open")]
)
def test_the_skin_leaves_alone_what_will_not_pass(colour: str, error: Exception) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        flaky.wrapped(colour)()
    assert flaky.calls == 1


@both
def test_on_names_what_is_retried_and_nothing_else_is(colour: str) -> None:
    flaky = Flaky(KeyError("a"), KeyError("b"), ConnectionError("c"))
    with pytest.raises(ConnectionError):
        flaky.wrapped(colour, on=KeyError)()
    assert flaky.calls == 3


@both
def test_on_may_be_a_predicate(colour: str) -> None:
    flaky = Flaky(RuntimeError("again"), RuntimeError("stop"))
    with pytest.raises(RuntimeError, match="stop"):
        flaky.wrapped(colour, on=lambda error: "again" in str(error))()
    assert flaky.calls == 2


@both
@pytest.mark.parametrize("error", [CircuitOpen("open"), OutcomeUnknown("perhaps")])
def test_on_cannot_repeat_a_rejection_or_an_unknown_outcome(colour: str, error: Exception) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        flaky.wrapped(colour, on=Exception)()
    assert flaky.calls == 1


@both
def test_the_skin_obeys_a_retry_after_that_fits_its_timeout(colour: str) -> None:
    flaky = Flaky(AgentError("busy", reason="rate_limit", retry_after_s=9))
    assert flaky.wrapped(colour, timeout_s=20, now=lambda: 0.0)() == "a!"
    assert flaky.waits == [9]
    flaky = Flaky(AgentError("busy", reason="rate_limit", retry_after_s=30))
    with pytest.raises(AgentError):
        flaky.wrapped(colour, timeout_s=20, now=lambda: 0.0)()
    assert (flaky.calls, flaky.waits) == (1, [])


@both
def test_the_skin_reads_the_headers_of_a_client_it_does_not_know(colour: str) -> None:
    class StatusError(Exception):
        status_code = 503
        response = SimpleNamespace(headers={"retry-after": "Thu, 01 Jan 1970 00:01:05 GMT"})

    flaky = Flaky(StatusError())
    assert flaky.wrapped(colour, wall=lambda: 60.0)() == "a!"
    assert flaky.waits == [5]


@both
def test_the_skin_spends_and_returns_the_quota_it_is_given(colour: str) -> None:
    quota = RetryQuota(now=lambda: 0.0)
    with pytest.raises(ConnectionError):
        Flaky(*[ConnectionError()] * 9).wrapped(colour, quota=quota)()
    assert quota.tokens == 500 - 42
    Flaky(ConnectionError()).wrapped(colour, quota=quota)()
    assert quota.tokens == 500 - 42
    Flaky().wrapped(colour, quota=quota)()
    assert quota.tokens == 500 - 41


def test_cancellation_passes_through_a_call_and_through_a_wait() -> None:
    async def scenario(function: Callable[[], Any]) -> None:
        task = asyncio.ensure_future(function())
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    calls = []
    quota = RetryQuota(now=lambda: 0.0)

    @retry(on=Exception)
    async def hangs() -> None:
        calls.append("hangs")
        await asyncio.Event().wait()

    @retry(quota=quota, draw=lambda: 1.0)
    async def fails() -> None:
        calls.append("fails")
        raise ConnectionError

    asyncio.run(scenario(hangs))
    asyncio.run(scenario(fails))
    assert calls == ["hangs", "fails"]
    assert quota.tokens == 500


def test_the_bare_decorator_keeps_name_signature_and_kind() -> None:
    @retry
    def plain(word: str, *, mark: str = "!") -> str:
        """Says a word."""
        return word + mark

    @retry
    async def slow() -> None: ...

    assert (plain.__name__, plain.__doc__) == ("plain", "Says a word.")
    assert list(inspect.signature(plain).parameters) == ["word", "mark"]
    assert plain("a") == "a!"
    assert inspect.iscoroutinefunction(slow)


def test_methods_can_be_decorated() -> None:
    class Service:
        calls = 0

        @retry(sleep=lambda s: None)
        def ask(self) -> int:
            self.calls += 1
            if self.calls < 3:
                raise ConnectionError
            return self.calls

    assert Service().ask() == 3


def test_generators_and_things_that_cannot_be_called_are_refused() -> None:
    def lines() -> Any:
        yield 1

    async def later() -> Any:
        yield 1

    for function in (lines, later):
        with pytest.raises(TypeError, match="generator"):
            retry(function)
    with pytest.raises(TypeError, match="3"):
        retry(3)  # type: ignore[call-overload]


def test_a_chain_that_failed_as_a_whole_may_be_asked_again() -> None:
    flaky = Flaky(ChainExhausted("a said no", (AttemptTimedOut(3),)))
    assert flaky.wrapped("plain")() == "a!"
