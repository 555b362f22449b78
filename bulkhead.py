"""Keeps one slow dependency from taking every thread and task: at most so many calls at once.  (floor 1)

        enter ──▶ ┌───────────────┐ ──▶ leave
                  │ 16 places     │
        full  ◀── └───────────────┘
     BulkheadFull, at once

A ship's bulkheads keep one leak from sinking it (Nygard, "Release It!", "Bulkheads"). When
a dependency hangs, its calls pile up until their timeouts; without a wall they take all
there is. The wall never lets anyone wait: a queue in front of a slow dependency only makes
its answers later, and the next in the chain may be idle.

A place is a token that moves from the bulkhead to the call and back; a deque's and a list's
`pop` and `append` are atomic, so no lock is needed and no token is ever moved twice. It is
left by a plain call, as often as you like, so a flow's `finally` can do it. There is no
policy object: the one number is the policy. What this deliberately does not do: wait,
limit a rate (`rate_limiter.py`), or end calls that take too long (`Attempt` does).
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from errors import BulkheadFull, ConfigurationError
from skins import is_async

P = ParamSpec("P")
R = TypeVar("R")


class Place:
    """One call's place. `leave` it when the call is over; leaving again does nothing."""

    __slots__ = ("_bulkhead", "_held")

    def __init__(self, bulkhead: Bulkhead) -> None:
        self._bulkhead = bulkhead
        self._held: list[int] = []

    def leave(self) -> None:
        """Give the place back."""
        try:
            self._bulkhead._free.append(self._held.pop())
        except IndexError:
            return  # left already

    def __enter__(self) -> Place:
        if self._held:
            raise RuntimeError("this place is taken already: ask bulkhead.place() for each call")
        self._held.append(self._bulkhead._take())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    async def __aenter__(self) -> Place:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


class Bulkhead:
    """One dependency's places. Safe to share between threads and tasks.

        bulkhead = Bulkhead("search", places=16)

        @bulkhead                      # plain and async functions
        def search(words): ...

        with bulkhead.place():         # or async with
            ...

    Args:
        name: the dependency's name, as it stands in errors.
        places: how many calls may be under way; 16 lets the most calls that one message of a model
            can ask for (16) run side by side.
    """

    def __init__(self, name: str = "default", places: int = 16) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a bulkhead takes a name, not {name!r}: make one, then decorate with it")
        if places < 1:
            raise ConfigurationError(f"places must be at least 1, not {places}")
        self.name = name
        self.places = places
        self._free = deque(range(places))

    @property
    def taken(self) -> int:
        """How many calls are under way."""
        return self.places - len(self._free)

    def enter(self) -> Place:
        """Take a place, to be left. Raises BulkheadFull at once when all are taken."""
        return Place(self).__enter__()

    def place(self) -> Place:
        """The same for `with` and `async with`: taken on entry, left at the end of the block."""
        return Place(self)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a plain function or an `async def`. Raises TypeError for generators."""
        awaited = is_async(function, "@bulkhead", "use `with bulkhead.place():` around the work")
        return self._walled_async(function) if awaited else self._walled(function)

    def _walled(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def walled(*args: P.args, **kwargs: P.kwargs) -> R:
            place = self._take()
            try:
                return function(*args, **kwargs)
            finally:
                self._free.append(place)

        return walled

    def _walled_async(self, function: Callable[P, Any]) -> Callable[P, Any]:
        @functools.wraps(function)
        async def walled(*args: P.args, **kwargs: P.kwargs) -> Any:
            place = self._take()
            try:
                return await function(*args, **kwargs)
            finally:
                self._free.append(place)

        return walled

    def _take(self) -> int:
        try:
            return self._free.pop()
        except IndexError:
            raise BulkheadFull(
                f"{self.name} is not asked: {self.places} calls to it are under way already",
                dependency=self.name,
            ) from None
