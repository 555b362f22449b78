"""Tells what kind of function a rule was asked to wrap, and refuses what it could only seem to wrap.  (floor 0)

Every rule can be put around a plain function and around an `async def`, and has to know which
it got before the first call. The shapes that hide it are the trap: a `partial` or an object
with an async `__call__` looks plain, and a rule that takes it for plain is done when the
coroutine is made, before any of its work. What is refused is what no wrapper can get right: a
generator does its work after the call, and a `staticmethod` is no function yet.

What it cannot see: a plain function that returns an awaitable. It counts as plain.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any


def is_async(function: Any, rule: str, instead: str) -> bool:
    """Whether calls of `function` are awaited. Raises TypeError for what cannot be wrapped.

    Args:
        function: what stands below the decorator.
        rule: how the decorator is written, e.g. `@breaker`, for the message.
        instead: what to do about a generator.
    """
    if isinstance(function, (staticmethod, classmethod)):
        raise TypeError(f"{rule} belongs below @{type(function).__name__}, next to the function")
    if not callable(function):
        raise TypeError(f"{rule} decorates functions, not {function!r}")
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    shapes = (inner, type(inner).__call__)
    if any(inspect.isgeneratorfunction(shape) or inspect.isasyncgenfunction(shape) for shape in shapes):
        raise TypeError(f"{rule} cannot wrap the generator {function!r}: calling it does none of its work; {instead}")
    return any(inspect.iscoroutinefunction(shape) for shape in shapes)


def check_types(types: Any, option: str) -> None:
    """Raise TypeError unless these are one exception type or a tuple of them: said now, not in the first failure."""
    for one in types if isinstance(types, tuple) else (types,):
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise TypeError(f"{option} takes an exception type or a tuple of them, not {one!r}")


def name_of(function: Any) -> str:
    """What messages call a function."""
    return str(getattr(function, "__qualname__", None) or function)
