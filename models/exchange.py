"""One attempt on a model without its I/O: what came so far, and what an error means by now.  (floor 4)

The blocking and the asyncio performers of all providers share it, so that all say the same of the same
bytes; what differs between dialects is the parser they hand in.
It is a context manager around the exchange, and the one boundary where everything that can
go wrong becomes an AgentError. How far the exchange was decides with it: a connection that
broke before the first event is a connection that failed (nothing was answered); afterwards
it is an answer that broke off. When words were on the screen already, AttemptAbandoned says
that they are void, also when the attempt is cancelled or an alarm ends it.

An answer is whole when its parser says so, and counts from then on, whatever the connection does
next. It performs nothing and decides nothing about retries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol

from error_words import WHAT_NOW, describe
from errors import AgentError, reason_of, translate, words_of
from events import AttemptAbandoned, Event, ModelAnswered, TextStreamed
from flow import Branch
from messages import Message, Reply, ToolUse
from models.chain import Converse
from models.prices import cost_usd
from models.sse import SseDecoder
from models.transport import fault_listener
from safe_text import one_line


class Parser(Protocol):
    """Makes a reply of the events of one dialect: `stream.StreamParser`, `gemini_stream.GeminiParser`."""

    heard: bool

    @property
    def done(self) -> bool: ...

    def feed(self, name: str, data: Any) -> Event | None: ...

    def finish(self) -> Reply: ...


class Exchange:
    """One attempt without its I/O: what came so far, and what an error means by now.

    Args:
        effect: what is asked of whom.
        branch: told what is heard.
        parser: of the dialect that the model speaks.
        decoder: of the event stream.
        now: the monotonic clock.
        wall: the wall clock, for a Retry-After given as a date.
    """

    def __init__(
        self,
        effect: Converse,
        branch: Branch,
        parser: Parser,
        decoder: SseDecoder,
        now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._link = effect.link
        self._branch = branch
        self._now, self._wall = now, wall
        self._decoder, self._parser = decoder, parser
        self._begun_s = now()
        self._first_token_s: float | None = None
        self._opened = False  # an answer has come, by its headers
        self._streaming = False  # and a first event
        self._chars = 0  # on the screen
        self._reply: Reply | None = None

    @property
    def reply(self) -> Reply:
        """The whole answer, after `end`."""
        assert self._reply is not None
        return self._reply

    def open(self, headers: Mapping[str, str]) -> None:
        """Look at the headers of a 200: captive portals and wrong base URLs answer with pages."""
        self._opened = True
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/event-stream":
            raise self._error("protocol", describe("protocol", kind or "no content type"))
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            # Not asked for, and dangerous: 64 KiB may unpack to a chunk that holds the loop for seconds.
            raise self._error("protocol", describe("protocol", f"packed with {coding}"))

    def feed(self, chunk: bytes) -> bool:
        """Take a piece of the body; True when the answer is complete."""
        for name, data in self._decoder.feed(chunk):
            self._streaming = True
            event = self._parser.feed(name, data)
            if self._parser.heard:
                self._branch.heard()
                if self._first_token_s is None:
                    self._first_token_s = self._now() - self._begun_s
            if event is not None:
                self._chars += len(event.text) if isinstance(event, TextStreamed) else 0
                self._branch.emit(event)
            if self._parser.done:
                return True
        return False

    def end(self) -> None:
        """The body has ended, or the answer has. Raises AgentError when it is not whole."""
        reply = self._parser.finish()
        self._reply = replace(reply, cost_usd=cost_usd(self._link.model, reply.usage))

    def __enter__(self) -> None:
        self._listener = fault_listener.get()
        fault_listener.set(self._branch.emit)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        fault_listener.set(self._listener)
        if self._reply is not None and (error is None or isinstance(error, Exception)):
            self._tell_answered(self._reply)
            return True  # the answer is whole: what the connection did afterwards is of no interest
        if self._chars:
            self._branch.emit(AttemptAbandoned(self._link.dependency, 0, self._chars))
        if isinstance(error, Exception):  # the boundary: nothing but AgentError leaves an attempt
            raise self._as_agent_error(error) from error
        return False

    def _tell_answered(self, reply: Reply) -> None:
        link, first_s = self._link.name, self._first_token_s
        self._branch.emit(ModelAnswered(link, reply.model, reply.stop_reason, reply.usage, reply.cost_usd, first_s))

    def _as_agent_error(self, error: Exception) -> AgentError:
        dependency = self._link.dependency
        if isinstance(error, AgentError):
            error.what_now = error.what_now or WHAT_NOW.get(error.reason, "")
            return translate(error, dependency, self._wall())
        if type(error).__name__.startswith("API") and isinstance(error.__cause__, Exception):
            error = error.__cause__  # "Connection error." says less than what is behind it
        reason = reason_of(error)
        if reason == "connection" and self._streaming:
            return self._error("protocol", f"the answer broke off: {one_line(words_of(error))}")
        if reason == "bad_input":  # a ValueError of the SDK's or ours: nobody's input, but somebody's bug
            reason = "protocol" if self._opened else "internal"
            return self._error(reason, describe(reason, f"{type(error).__name__}: {error}"))
        return translate(error, dependency, self._wall())

    def _error(self, reason: str, message: str) -> AgentError:
        what_now = WHAT_NOW.get(reason, "")
        return AgentError(message, reason=reason, dependency=self._link.dependency, what_now=what_now)


def call_ids(messages: tuple[Message, ...]) -> set[str]:
    """The ids of the tool calls in a history: a new call must have another."""
    return {block.id for message in messages for block in message.blocks if isinstance(block, ToolUse)}
