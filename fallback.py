"""Asks the next in a chain of models or providers when one cannot answer.  (floor 1)

    a --fails--> b --fails--> cache --fails--> "unavailable"        the first answer is the answer

Who fails decides by its error's advice whether the next is asked:
- TRANSIENT failures, a missing model, an empty purse, a tool provider's refused key: hop.
  With an empty purse, everything of the same provider is skipped: it is the same purse.
- A refused key or request of a model, bad certificates, a proxy's no, bad input, too long a
  history: raised at once. Falling back would hide what somebody must mend, or repeat it elsewhere.

A choice is told whether a later one is ready (its breaker is not open), since then it may give
up sooner (`retry.py`). A choice of last resort (a cache, an honest "unavailable") takes no time
and is asked even when the deadline is over; it is not counted as a successor, because an
old or empty answer is no reason to try less for a good one.

What it deliberately does not do: remember who failed last time. The chain is asked from its
start each time; the breaker inside a choice makes a dead one say no at once, and a healed one
is used again as soon as its breaker lets a probe through. Hops cost no retry quota.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, overload

from deadline import Deadline
from errors import VERDICTS, Advice, ChainExhausted, DeadlineExceeded, GaveUp, reason_of
from events import FellBack
from flow import Emit, Flow
from safe_text import one_line
from skins import check_types, is_async, name_of

T = TypeVar("T")
P = ParamSpec("P")

_HOPS = (Advice.RETRY, Advice.NEXT, Advice.HOP, Advice.NEXT_PROVIDER)


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """One link of a chain.

    Args:
        name: what messages and events call it, e.g. `anthropic:claude-sonnet-5-5`.
        provider: whose account it uses; choices of one provider share an empty purse.
        flow: makes the flow that asks it, from "is another one ready after this?".
        ready: whether asking it now could help; False while its breaker is open.
        last_resort: costs no time and is no real successor: a cache, an honest "unavailable".
    """

    name: str
    provider: str
    flow: Callable[[bool], Flow[T]]
    ready: Callable[[], bool] = _always
    last_resort: bool = False


def falling_back(choices: Sequence[Choice[T]], *, deadline: Deadline, now: Callable[[], float]) -> Flow[T]:
    """Ask the choices in order until one answers.

    Args:
        choices: at least one.
        deadline: once it is over, only choices of last resort are still asked.
        now: the monotonic clock in seconds.

    Raises:
        an error that forbids falling back, or that of the only one asked, as it came.
        ChainExhausted: every one failed; the message says what each said.
        DeadlineExceeded: the time was over; the same, with the kind of the last cause.
    """
    if not choices:
        raise ValueError("a chain needs at least one choice")
    started_s = now()
    said: list[tuple[str, Exception]] = []
    left = list(choices)
    while left:
        choice = left.pop(0)
        has_next = any(later.ready() for later in left if not later.last_resort)
        try:
            return (yield from choice.flow(has_next))
        except Exception as error:  # judged by its verdict; what forbids a fallback goes on as it came
            if not _hops(error):
                raise
            failed = error
        said.append((choice.name, failed))
        left = [later for later in left if _still_of_use(later, choice, failed, deadline.allows_start(now()))]
        if len(choices) > 1:
            to = left[0].name if left else ""
            yield Emit(FellBack(choice.name, to, reason_of(failed), str(failed)))
    if len(said) == 1 and (len(choices) == 1 or deadline.allows_start(now())):
        raise failed
    raise _gave_up(said, None if deadline.allows_start(now()) else now() - started_s) from failed


def _hops(error: Exception) -> bool:
    return VERDICTS[reason_of(error)].advice in _HOPS


def _still_of_use(later: Choice[T], failed: Choice[T], error: Exception, time_left: bool) -> bool:
    if later.last_resort:
        return True
    purse_empty = VERDICTS[reason_of(error)].advice is Advice.NEXT_PROVIDER
    return time_left and not (purse_empty and later.provider == failed.provider)


def _gave_up(said: Sequence[tuple[str, Exception]], late_s: float | None) -> GaveUp:
    """The error that names what each said; `late_s` = seconds spent when the deadline ended it, else None."""
    causes = tuple(root for _, error in said for root in _roots(error))
    words = "; ".join(f"{name} said {one_line(str(_roots(error)[-1]))}" for name, error in said)
    if late_s is not None:
        return DeadlineExceeded(f"gave up after {late_s:.3g} s: {words}", causes)
    return ChainExhausted(words, causes)


def _roots(error: Exception) -> tuple[BaseException, ...]:
    return (isinstance(error, GaveUp) and error.causes) or (error,)


# --- the skin for functions outside flows ----------------------------------------------------------------


On: TypeAlias = type[Exception] | tuple[type[Exception], ...]


@overload
def fallback(
    first: Callable[P, Coroutine[Any, Any, T]], *others: Callable[P, object], on: On | None = ...
) -> Callable[P, Coroutine[Any, Any, T]]: ...


@overload
def fallback(first: Callable[P, T], *others: Callable[P, T], on: On | None = ...) -> Callable[P, T]: ...


def fallback(first: Callable[P, Any], *others: Callable[P, Any], on: On | None = None) -> Callable[P, Any]:
    """One function out of several: `fallback(ask_sonnet, ask_haiku)(question)`.

    Args:
        first: asked first; the result looks like it, and is async when one of them is.
        others: asked in order with the same arguments, each when the one before it failed.
        on: exception type(s) after which the next is asked; without it the verdict of `errors.py` decides.

    Raises ChainExhausted when all failed; every other error as it came. TypeError for generators.
    """
    functions = (first, *others)
    if on is not None:
        check_types(on, "fallback(on=...)")
    awaited = [is_async(function, "fallback", "list() what it yields") for function in functions]

    def hops(error: Exception) -> bool:
        return _hops(error) if on is None else isinstance(error, on)

    @functools.wraps(first)
    def ask(*args: P.args, **kwargs: P.kwargs) -> Any:
        said: list[tuple[str, Exception]] = []
        for function in functions:
            try:
                return function(*args, **kwargs)
            except Exception as error:  # see falling_back
                if len(functions) == 1 or not hops(error):
                    raise
                said.append((name_of(function), error))
        raise _gave_up(said, None) from said[-1][1]

    @functools.wraps(first)
    async def ask_async(*args: P.args, **kwargs: P.kwargs) -> Any:
        said: list[tuple[str, Exception]] = []
        for function in functions:
            try:
                answer = function(*args, **kwargs)
                return await answer if inspect.isawaitable(answer) else answer
            except Exception as error:  # never CancelledError, which is a BaseException
                if len(functions) == 1 or not hops(error):
                    raise
                said.append((name_of(function), error))
        raise _gave_up(said, None) from said[-1][1]

    return ask_async if any(awaited) else ask
