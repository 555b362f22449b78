"""Every rule takes the same functions, in whatever shape they come, and refuses the same ones."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, assert_type

import httpx2
import pytest

from bulkhead import Bulkhead
from circuit_breaker import BreakerPolicy, CircuitBreaker, State
from fallback import fallback
from rate_limiter import TokenBucket
from retry import RetryPolicy, retry
from skins import is_async

F = TypeVar("F", bound=Callable[..., Any])


class Rule(Protocol):
    def __call__(self, function: F, /) -> F: ...


RULES: list[Callable[[Any], Any]] = [retry, fallback, Bulkhead(), TokenBucket(), CircuitBreaker()]
each_rule = pytest.mark.parametrize("rule", RULES, ids=["retry", "fallback", "bulkhead", "limiter", "breaker"])


async def double(n: int) -> int:
    return 2 * n


class AsyncCall:
    async def __call__(self, n: int) -> int:
        return 2 * n

    async def double(self, n: int) -> int:
        return 2 * n


ASYNC_SHAPES = [double, AsyncCall(), AsyncCall().double, functools.partial(double), functools.partial(AsyncCall())]


@each_rule
@pytest.mark.parametrize("function", ASYNC_SHAPES, ids=["def", "object", "method", "partial", "partial of object"])
def test_what_is_awaited_is_seen_to_be_async_in_every_shape(rule: Any, function: Any) -> None:
    wrapped = rule(function)
    assert inspect.iscoroutinefunction(wrapped)
    assert asyncio.run(wrapped(4)) == 8


class PlainCall:
    def __call__(self, n: int) -> int:
        return 2 * n


@each_rule
@pytest.mark.parametrize("function", [lambda n: 2 * n, PlainCall(), functools.partial(int, base=10), int])
def test_what_is_not_awaited_is_plain_in_every_shape(rule: Any, function: Any) -> None:
    wrapped = rule(function)
    assert not inspect.iscoroutinefunction(wrapped)
    assert wrapped("4") in (4, "44")


def lines() -> Any:
    yield 1


async def later() -> Any:
    yield 1


class Lines:
    def __call__(self) -> Any:
        yield 1


@each_rule
@pytest.mark.parametrize("function", [lines, later, functools.partial(lines), Lines()])
def test_generators_are_refused(rule: Any, function: Any) -> None:
    with pytest.raises(TypeError, match="generator"):
        rule(function)


@each_rule
@pytest.mark.parametrize(("outer", "name"), [(staticmethod, "@staticmethod"), (classmethod, "@classmethod")])
def test_a_decorator_in_the_wrong_order_says_where_it_belongs(rule: Any, outer: Any, name: str) -> None:
    with pytest.raises(TypeError, match=f"belongs below {name}"):
        rule(outer(double))


@each_rule
def test_what_cannot_be_called_is_refused_by_its_value(rule: Any) -> None:
    with pytest.raises(TypeError, match="decorates functions, not 3"):
        rule(3)


@each_rule
def test_methods_keep_their_self_their_name_and_their_signature(rule: Rule) -> None:
    class Service:
        factor = 3

        @rule
        def ask(self, n: int) -> int:
            "Ask."
            return self.factor * n

        @staticmethod
        @rule
        def fixed(n: int) -> int:
            return n

        @classmethod
        @rule
        async def of_class(cls, n: int) -> int:
            return cls.factor * n

    assert (Service().ask(2), Service.fixed(2), asyncio.run(Service.of_class(2))) == (6, 2, 6)
    assert (Service.ask.__name__, Service.ask.__doc__) == ("ask", "Ask.")
    assert list(inspect.signature(Service.ask).parameters) == ["self", "n"]


def test_an_awaitable_from_a_plain_function_counts_as_plain() -> None:
    assert not is_async(lambda: double(1), "@rule", "")


def test_type_checkers_see_the_function_that_was_wrapped() -> None:
    def twice(word: str) -> int:
        return 2 * len(word)

    for wrapped in (retry(twice), Bulkhead()(twice), TokenBucket()(twice), CircuitBreaker()(twice), fallback(twice)):
        assert_type(wrapped("ab"), int)
    for awaited in (
        retry(double),
        Bulkhead()(double),
        TokenBucket()(double),
        CircuitBreaker()(double),
        fallback(double),
    ):
        assert_type(asyncio.run(awaited(4)), int)
    assert_type(asyncio.run(fallback(double, lambda n: n)(4)), int)


@pytest.mark.parametrize("on", ["KeyError", [KeyError], (KeyError, 3), int, KeyError("x")])
@pytest.mark.parametrize("rule", ["retry(on", "fallback(on", "CircuitBreaker(excluded"])
def test_what_is_no_exception_type_is_refused_before_the_first_failure(rule: str, on: Any) -> None:
    make: dict[str, Callable[[], Any]] = {
        "retry(on": lambda: retry(on=on),
        "fallback(on": lambda: fallback(int, on=on),
        "CircuitBreaker(excluded": lambda: CircuitBreaker(excluded=on),
    }
    with pytest.raises(TypeError, match=rf"{re.escape(rule)}=.*takes an exception type"):
        make[rule]()


@pytest.mark.parametrize("kind", [Bulkhead, TokenBucket, CircuitBreaker])
def test_the_class_in_place_of_an_object_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match="make one, then decorate with it"):
        kind(int)


class Refused(Exception):
    """What urllib and aiohttp raise: the status is their own."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def answered(status: int) -> Exception:
    """What httpx2 and requests raise: the status is that of the answer they carry."""
    response = httpx2.Response(status, request=httpx2.Request("GET", "http://x"))
    with pytest.raises(httpx2.HTTPStatusError) as caught:
        response.raise_for_status()
    return caught.value


@pytest.mark.parametrize("error_of", [answered, Refused])
@pytest.mark.parametrize(
    ("status", "tries", "opens"), [(404, 1, False), (400, 1, False), (429, 3, False), (503, 3, True)]
)
def test_the_status_that_a_client_raises_decides(
    error_of: Callable[[int], Exception], status: int, tries: int, opens: bool
) -> None:
    error, breaker, calls = error_of(status), CircuitBreaker(policy=BreakerPolicy(failure_threshold=3)), []

    def ask() -> None:
        calls.append(1)
        raise error

    for _ in range(3 // tries):
        with pytest.raises(type(error)) as caught:
            retry(RetryPolicy(retries=2, throttled_extra=0), sleep=lambda s: None)(breaker(ask))()
        assert caught.value is error
    assert len(calls) == 3
    assert (breaker.state is State.OPEN) is opens
