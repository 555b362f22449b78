"""The breaker's skins: the decorator and the permit block, plain and async."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from circuit_breaker import BreakerPolicy, CircuitBreaker, State
from errors import AgentError, BadInput, BulkheadFull, CircuitOpen, Outcome
from tests.support_rules import Clock, half_opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


def state_of(breaker: CircuitBreaker) -> State:
    """The state, read anew: mypy takes a property that was compared once for a constant."""
    return breaker.state


Skin = Callable[[CircuitBreaker, Callable[[], Any]], Any]


def by_decorator(breaker: CircuitBreaker, act: Callable[[], Any]) -> Any:
    return breaker(act)()


def by_permit(breaker: CircuitBreaker, act: Callable[[], Any]) -> Any:
    with breaker.permit():
        return act()


def by_async_decorator(breaker: CircuitBreaker, act: Callable[[], Any]) -> Any:
    @breaker
    async def call() -> Any:
        await asyncio.sleep(0)
        return act()

    return asyncio.run(call())


def by_async_permit(breaker: CircuitBreaker, act: Callable[[], Any]) -> Any:
    async def call() -> Any:
        async with breaker.permit():
            await asyncio.sleep(0)
            return act()

    return asyncio.run(call())


every_skin = pytest.mark.parametrize("skin", [by_decorator, by_permit, by_async_decorator, by_async_permit])


def raising(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


class Strange(Exception):
    """A client's own error, of a kind nobody here has heard of."""


@every_skin
def test_the_caller_gets_the_result_and_the_original_exception(skin: Skin, clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    assert skin(breaker, lambda: 42) == 42
    error = Strange("boom")
    with pytest.raises(Strange) as caught:
        skin(breaker, raising(error))
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (None, None)


@every_skin
def test_five_failing_calls_open_it_and_then_nothing_is_called_until_a_probe_heals_it(skin: Skin, clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    calls: list[int] = []
    for _ in range(5):
        with pytest.raises(ConnectionResetError):
            skin(breaker, raising(ConnectionResetError()))
    with pytest.raises(CircuitOpen):
        skin(breaker, lambda: calls.append(1))
    assert not calls
    clock.now_s += 60
    skin(breaker, lambda: calls.append(1))
    assert (calls, breaker.state) == ([1], State.CLOSED)


@every_skin
def test_a_success_in_between_ends_the_row(skin: Skin, clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    for act in [raising(Strange()), raising(Strange()), lambda: 1]:
        try:
            skin(breaker, act)
        except Strange:
            continue
    assert breaker.snapshot().failures_in_a_row == 0


def with_status(status: int) -> Exception:
    error = Strange()
    error.status_code = status  # type: ignore[attr-defined]
    return error


@every_skin
@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (Strange(), True),
        (RuntimeError(), True),
        (ValueError(), True),
        (KeyError(), True),
        (TimeoutError(), True),
        (ConnectionRefusedError(), True),
        (with_status(503), True),
        (AgentError("boom", reason="server_error"), True),
        (with_status(400), False),
        (with_status(401), False),
        (with_status(429), False),
        (BadInput("not a city"), False),
        (AgentError("ours", reason="internal"), False),
        (BulkheadFull("inner guard"), False),
        (CircuitOpen("another breaker"), False),
        (KeyboardInterrupt(), False),
        (SystemExit(), False),
        (asyncio.CancelledError(), False),
        (GeneratorExit(), False),
    ],
)
def test_only_what_blames_the_dependency_counts(skin: Skin, error: BaseException, counts: bool, clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    with pytest.raises(type(error)):
        skin(breaker, raising(error))
    assert breaker.snapshot().failures_in_a_row == int(counts)
    if not counts:
        breaker = half_opened(clock)
        with pytest.raises(type(error)):
            skin(breaker, raising(error))
        breaker.peek()  # a probe that says nothing gives its place back
        assert state_of(breaker) is State.HALF_OPEN


@every_skin
def test_excluded_types_say_nothing(skin: Skin, clock: Clock) -> None:
    breaker = CircuitBreaker("it", BreakerPolicy(failure_threshold=1), now=clock, excluded=(LookupError,))
    with pytest.raises(KeyError):
        skin(breaker, raising(KeyError("no such user")))
    assert state_of(breaker) is State.CLOSED
    with pytest.raises(Strange):
        skin(breaker, raising(Strange()))
    assert state_of(breaker) is State.OPEN


@dataclass
class Response:
    headers: dict[str, str] = field(default_factory=dict)


@every_skin
@pytest.mark.parametrize(
    ("retry_after", "open_s"),
    [("120", 120.0), ("9999", 300.0), ("soon", 60.0), ("Wed, 21 Oct 2099 07:28:00 GMT", 60.0)],
)
def test_an_sdk_errors_retry_after_is_honoured(skin: Skin, retry_after: str, open_s: float, clock: Clock) -> None:
    breaker = CircuitBreaker("it", BreakerPolicy(failure_threshold=1), now=clock)
    error = with_status(503)
    error.response = Response({"retry-after": retry_after})  # type: ignore[attr-defined]
    with pytest.raises(Strange):
        skin(breaker, raising(error))
    assert breaker.snapshot().retry_after_s == open_s


@every_skin
def test_our_own_errors_retry_after_is_honoured(skin: Skin, clock: Clock) -> None:
    breaker = CircuitBreaker("it", BreakerPolicy(failure_threshold=1), now=clock)
    with pytest.raises(AgentError):
        skin(breaker, raising(AgentError("busy", reason="overloaded", retry_after_s=75)))
    assert breaker.snapshot().retry_after_s == 75


@every_skin
def test_an_exception_that_cannot_even_be_read_arrives_unharmed_and_counts(skin: Skin, clock: Clock) -> None:
    class Hostile(Exception):
        @property
        def status_code(self) -> int:
            raise RuntimeError("do not read me")

    breaker = CircuitBreaker("it", now=clock)
    error = Hostile()
    with pytest.raises(Hostile) as caught:
        skin(breaker, raising(error))
    assert caught.value is error
    assert breaker.snapshot().failures_in_a_row == 1


def test_a_block_may_settle_its_own_permit(clock: Clock) -> None:
    breaker = CircuitBreaker("it", now=clock)
    with breaker.permit() as permit:
        permit.settle(Outcome.FAILURE)  # say, an answer with an error inside
    assert breaker.snapshot().failures_in_a_row == 1


def test_the_lease_of_a_block_is_its_own(clock: Clock) -> None:
    breaker = half_opened(clock)
    with breaker.permit(lease_s=3):
        with pytest.raises(CircuitOpen) as refused:
            breaker.acquire()
        assert refused.value.retry_after_s == 3


def test_one_permit_cannot_hold_two_calls(clock: Clock) -> None:
    permit = CircuitBreaker("it", now=clock).permit()
    with permit, pytest.raises(RuntimeError, match="for each call"):
        permit.__enter__()


def test_a_bare_with_is_not_offered() -> None:
    assert not hasattr(CircuitBreaker, "__enter__")
    assert not hasattr(CircuitBreaker, "__aenter__")


def test_a_cancelled_task_gives_its_probe_place_back_and_blames_nobody(clock: Clock) -> None:
    async def scenario(wait: Callable[[CircuitBreaker], Any]) -> None:
        breaker = half_opened(clock)
        task = asyncio.ensure_future(wait(breaker))
        await asyncio.sleep(0)
        with pytest.raises(CircuitOpen):
            breaker.peek()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert state_of(breaker) is State.HALF_OPEN
        breaker.acquire()

    async def in_block(breaker: CircuitBreaker) -> None:
        async with breaker.permit():
            await asyncio.Event().wait()

    asyncio.run(scenario(lambda breaker: breaker(asyncio.Event().wait)()))
    asyncio.run(scenario(in_block))


def test_when_healthy_any_number_of_calls_run_side_by_side(clock: Clock) -> None:
    async def scenario() -> None:
        breaker, gate, inside = CircuitBreaker("it", now=clock), asyncio.Event(), [0]

        @breaker
        async def call() -> None:
            inside[0] += 1
            await gate.wait()

        tasks = [asyncio.ensure_future(call()) for _ in range(500)]
        await asyncio.sleep(0)
        assert inside == [500]
        gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_decorated_functions_keep_their_name_arguments_and_self() -> None:
    breaker = CircuitBreaker()

    class Client:
        @breaker
        def get(self, a: int, *, b: int = 2) -> tuple[int, int]:
            """Get it."""
            return a, b

    assert Client().get(1, b=3) == (1, 3)
    assert (Client.get.__name__, Client.get.__doc__) == ("get", "Get it.")


def test_async_callables_are_awaited_whatever_their_shape(clock: Clock) -> None:
    class Call:
        async def __call__(self, error: Exception) -> None:
            raise error

    for call in (Call(), functools.partial(Call().__call__)):
        breaker = CircuitBreaker("it", now=clock)
        with pytest.raises(Strange):
            asyncio.run(breaker(call)(Strange()))
        assert breaker.snapshot().failures_in_a_row == 1


def test_generators_are_refused_with_the_way_out() -> None:
    def plain() -> Iterator[int]:
        yield 1

    async def asynchronous() -> Any:
        yield 1

    for function in (plain, asynchronous, functools.partial(plain)):
        with pytest.raises(TypeError, match=r"with breaker\.permit"):
            CircuitBreaker()(function)
    with pytest.raises(TypeError, match="decorates functions"):
        CircuitBreaker()(3)  # type: ignore[arg-type]
