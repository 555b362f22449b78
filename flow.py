"""What wants to be done, told apart from doing it: flows decide, doors do.  (floor 0)

A *flow* is a generator that decides and never does. It yields an *effect* when it wants
something done, and is sent the outcome or has the error thrown in:

    def saving(note: Note) -> Flow[Saved]:
        yield from emit(NoteTaken())
        return (yield from attempt(blocking(disk.save, note), s=10))

A *door* (`doors/`) performs effects and contains no decision. The same flow runs blocking
under SIGALRM, on asyncio, and on a virtual clock, because it never touches any of them.

The contract between a flow and its door:
1. A flow runs once. Whoever may repeat takes a factory, `Callable[[int], Flow[T]]`.
2. A `finally` in a flow never yields. What must come back is given back by a plain call
   or is a lease that expires.
3. Errors are thrown in. Cancellation is not: it is `flow.close()`, then re-raised by the
   door, so that no flow can swallow it.
4. Branches of `Together` return outcomes and never raise.
5. Helpers are called with `yield from`; a bare `yield helper()` hands the door a generator
   and gets a TypeError that says so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from events import Event, Listener, Scope, Stamped
from messages import CallResult

T = TypeVar("T")


class Effect:
    """Base of everything a flow can ask its door to do."""

    __slots__ = ()


Flow: TypeAlias = Generator[Effect, Any, T]


# --- effects every door can perform ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pause(Effect):
    """Sleep `s` seconds."""

    s: float


@dataclass(frozen=True, slots=True)
class Attempt(Effect, Generic[T]):
    """Run a flow for at most `s` seconds; also end it after `silence_s` without `heard()`.

    Raises AttemptTimedOut into the flow that asked.
    """

    flow: Flow[T]
    s: float
    silence_s: float | None = None


class Gate:
    """The point of no return of one blocking call, fought over by the call and its timeout.

    The call claims the gate right before its first irreversible step; the door abandons it at
    timeout or cancel. Exactly one wins. Abandoned: the call must stop, nothing was done.
    Claimed: the effect may happen; `settled` and `result` tell once the call has come back.
    """

    __slots__ = ("_lock", "_state", "error", "result", "settled")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = "open"
        self.settled = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def claim(self) -> bool:
        """For the call: True = go on, you are past the point of no return; False = stop, do nothing."""
        with self._lock:
            if self._state == "open":
                self._state = "claimed"
            return self._state == "claimed"

    def abandon(self) -> bool:
        """For the door: True = the call will never act; False = it is past the point of no return."""
        with self._lock:
            if self._state == "open":
                self._state = "abandoned"
            return self._state == "abandoned"

    @property
    def claimed(self) -> bool:
        """Whether the call is past its point of no return."""
        return self._state == "claimed"

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """For the door's worker: the call came back."""
        self.result, self.error = result, error
        self.settled.set()


@dataclass(frozen=True, slots=True)
class Blocking(Effect, Generic[T]):
    """Run a call that blocks (files, plain tool functions) aside. It is handed the gate."""

    call: Callable[[Gate], T]
    gate: Gate = field(default_factory=Gate)


@dataclass(frozen=True, slots=True)
class Awaiting(Effect, Generic[T]):
    """Run a coroutine function of a tool."""

    call: Callable[[], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP exchange of a tool: no redirects, bounded size. `body` is sent as JSON when given."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    bytes_max: int = 1_000_000


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What came back: any status; the body decompressed, within the size limit."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Fetch(Effect):
    """One HTTP exchange. Answered by an HttpReply; raises AgentError for everything below HTTP."""

    request: HttpRequest


@dataclass(frozen=True, slots=True)
class Together(Effect, Generic[T]):
    """Run flows side by side; the answer is their results in order. Branches must not raise."""

    flows: Sequence[Flow[T]]


@dataclass(frozen=True, slots=True)
class Emit(Effect):
    """Tell the listeners that something happened."""

    event: Event


@dataclass(frozen=True, slots=True)
class Within(Effect, Generic[T]):
    """Run a flow whose events are stamped with these extra scope entries."""

    scope: Scope
    flow: Flow[T]


@dataclass(frozen=True, slots=True)
class RunTools(Effect):
    """Run prepared and approved tool calls (a coarse effect: a durable engine records it as one step)."""

    calls: Sequence[Any]
    deadline_at_s: float


@dataclass(frozen=True, slots=True)
class Script(Effect):
    """Run one Lua script on Redis, at once or not at all: whoever performs it never waits for long.

    Answered by the script's reply; raises AgentError when Redis did not answer or refused.
    """

    name: str
    text: str
    keys: tuple[str, ...]
    args: tuple[str | int, ...]


# --- helpers that keep the types -------------------------------------------------------------------------


def pause(s: float) -> Flow[None]:
    """Sleep `s` seconds."""
    yield Pause(s)


def attempt(flow: Flow[T], s: float, silence_s: float | None = None) -> Flow[T]:
    """Run `flow` under a timeout; AttemptTimedOut when it or the silence ends it."""
    result: T = yield Attempt(flow, s, silence_s)
    return result


def blocking(call: Callable[[Gate], T], gate: Gate | None = None) -> Flow[T]:
    """Run a blocking call aside."""
    result: T = yield Blocking(call, gate or Gate())
    return result


def awaiting(call: Callable[[], Awaitable[T]]) -> Flow[T]:
    """Run a coroutine function."""
    result: T = yield Awaiting(call)
    return result


def fetch(request: HttpRequest) -> Flow[HttpReply]:
    """One HTTP exchange."""
    reply: HttpReply = yield Fetch(request)
    return reply


def together(flows: Sequence[Flow[T]]) -> Flow[list[T]]:
    """Run flows side by side, results in order."""
    results: list[T] = yield Together(flows)
    return results


def emit(event: Event) -> Flow[None]:
    """Tell the listeners."""
    yield Emit(event)


def within(scope: Scope, flow: Flow[T]) -> Flow[T]:
    """Stamp the events of `flow` with `scope`."""
    result: T = yield Within(scope, flow)
    return result


def run_tools(calls: Sequence[Any], deadline_at_s: float) -> Flow[list[CallResult]]:
    """Run prepared calls; one result each, in order."""
    results: list[CallResult] = yield RunTools(calls, deadline_at_s)
    return results


def script(name: str, text: str, keys: tuple[str, ...], args: tuple[str | int, ...]) -> Flow[Any]:
    """Run one Lua script on Redis. Its reply is foreign: check its shape."""
    return (yield Script(name, text, keys, args))


def done(value: T) -> Flow[T]:
    """A flow that has its answer already."""
    return value
    yield  # never reached: makes this function a generator


# --- what a door offers to the performers of world effects -----------------------------------------------


class Branch(Protocol):
    """The door's side of one running branch, handed to performers."""

    def emit(self, event: Event) -> None:
        """Tell the listeners, stamped with this branch's scope."""

    def heard(self) -> None:
        """Content arrived: restart the silence timer of the innermost attempt that has one."""


class Bus:
    """Stamps events and hands them to listeners; what a listener raises is dropped and counted."""

    def __init__(self, listeners: Sequence[Listener], now: Callable[[], float], wall: Callable[[], float]) -> None:
        self.listeners = list(listeners)
        self.dropped = 0
        self._now, self._wall, self._sequence = now, wall, 0

    def tell(self, event: Event, scope: Scope) -> None:
        """Stamp one event and hand it to every listener."""
        self._sequence += 1
        stamped = Stamped(event, scope, self._sequence, self._now(), self._wall())
        for listener in self.listeners:
            try:
                listener(stamped)
            except Exception:  # a broken screen or trace must never break the turn it watches
                self.dropped += 1


def not_an_effect(thing: object) -> TypeError:
    """What a door says when a flow yields something it cannot perform."""
    if isinstance(thing, Generator):
        return TypeError(f"a flow yielded the generator {thing!r}: did you mean `yield from`?")
    return TypeError(f"a flow yielded {thing!r}, which this door cannot perform")


async def run_async(flow: Flow[T], perform: Callable[[Effect], Awaitable[Any]]) -> T:
    """Drive one flow on asyncio: perform what it yields, send the outcome, throw errors in."""
    step: Callable[[Any], Effect] = flow.send
    value: Any = None
    try:
        while True:
            effect = step(value)
            try:
                value, step = await perform(effect), flow.send
            except Exception as error:  # errors are the flow's to decide; cancellation is not an Exception
                value, step = error, flow.throw
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        flow.close()


# --- the two small drivers of the skins for use outside flows --------------------------------------------


def drive(
    flow: Flow[T],
    *,
    sleep: Callable[[float], object] = time.sleep,
    run: Callable[[Script], object] | None = None,
    tell: Callable[[Event], object] | None = None,
) -> T:
    """Run a flow that only pauses, emits and runs scripts, blocking. For the skins; agents use a door."""
    step: Callable[[Any], Effect] = flow.send
    value: Any = None
    try:
        while True:
            effect = step(value)
            value, step = None, flow.send
            if isinstance(effect, Pause):
                sleep(effect.s)
            elif isinstance(effect, Script) and run is not None:
                try:
                    value = run(effect)
                except Exception as error:  # the flow decides what it means
                    value, step = error, flow.throw
            elif not isinstance(effect, Emit):
                raise not_an_effect(effect)
            elif tell is not None:
                tell(effect.event)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        flow.close()


async def drive_async(
    flow: Flow[T],
    *,
    sleep: Callable[[float], Awaitable[object]] | None = None,
    run: Callable[[Script], Awaitable[object]] | None = None,
    tell: Callable[[Event], object] | None = None,
) -> T:
    """The same on asyncio."""
    import asyncio  # 47 ms of import that plain users of the rules don't owe

    rest = sleep or asyncio.sleep
    step: Callable[[Any], Effect] = flow.send
    value: Any = None
    try:
        while True:
            effect = step(value)
            value, step = None, flow.send
            if isinstance(effect, Pause):
                await rest(effect.s)
            elif isinstance(effect, Script) and run is not None:
                try:
                    value = await run(effect)
                except Exception as error:  # the flow decides what it means
                    value, step = error, flow.throw
            elif not isinstance(effect, Emit):
                raise not_an_effect(effect)
            elif tell is not None:
                tell(effect.event)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        flow.close()
