"""Stands between the SDK and the network, and plays the faults of the plan on the wire.  (floor 4)

`FaultyTransport` is the one place where faults of models strike, with the practice model as
well as with a real key. It asks the plan once for each request and answers in its stead,
or breaks the answer's stream, below everything that is to be tried: SDK, stream parser,
guards, screen. A fault that cannot strike (a cut in the text of an answer without text) is
given back to the plan, and told to nobody. A `crash=after` waits for the last event of an
answer: all of it has come, and nobody behind has it yet. How faults look is in `wire_faults.py` for
the Messages API and in `gemini_faults.py` for Gemini's.

It also shortens error answers: what counts of them is the status, and neither a page of
megabytes nor a body that stalls, breaks off or cannot be unpacked may hide it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any, NoReturn

import httpx2

from events import Event, FaultInjected
from faults import Fault, FaultPlan
from models.network import BELT_S
from models.wire_faults import MESSAGES, Dialect

ERROR_BYTES_MAX = 64 * 1024
"""What is read of an error answer. The API's own are under 1 KiB; proxies send pages."""

ERROR_BODY_S = 0.3
"""Seconds that body may be late. It mostly comes with its status; this outlives one lost packet."""

fault_listener: ContextVar[Callable[[Event], None] | None] = ContextVar("fault_listener", default=None)
"""Told when a fault strikes; set by whoever makes the request, for as long as it runs."""


# --- faults ----------------------------------------------------------------------------------------------


class FaultyTransport(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """Plays the faults of a plan on the requests that pass; blocking and asyncio.

    Args:
        inner: the real network, or the practice model; of the kind the client is.
        plan: asked once for each question to a model.
        provider: `anthropic`, `practice`: names the target together with the model of the request.
        dialect: in which the faults are played.
    """

    def __init__(
        self,
        inner: httpx2.BaseTransport | httpx2.AsyncBaseTransport,
        plan: FaultPlan,
        provider: str,
        dialect: Dialect = MESSAGES,
    ) -> None:
        self._inner: Any = inner
        self._plan = plan
        self._provider = provider
        self._dialect = dialect

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request of a blocking client, or fail as planned."""
        strike = self._draw(request, request.read())
        if strike is None:
            return _bounded(self._inner.handle_request(request), request)
        time.sleep(strike.begin())
        if (response := strike.instead()) is not None:
            return response
        with strike:
            return strike.around(self._inner.handle_request(request))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request of an asyncio client, or fail as planned."""
        strike = self._draw(request, await request.aread())
        if strike is None:
            return _bounded(await self._inner.handle_async_request(request), request)
        await asyncio.sleep(strike.begin())
        if (response := strike.instead()) is not None:
            return response
        with strike:
            return strike.around(await self._inner.handle_async_request(request))

    def close(self) -> None:
        """Close a blocking inner transport."""
        self._inner.close()

    async def aclose(self) -> None:
        """Close an asyncio inner transport."""
        await self._inner.aclose()

    def _draw(self, request: httpx2.Request, raw: bytes) -> _Strike | None:
        if request.method != "POST" or not self._plan.active:
            return None
        body = self._dialect.asked(request.url.path, raw)
        if body is None:
            return None
        practice = self._provider == "practice"
        fault = self._plan.next("model.practice" if practice else f"model.{self._provider}.{body['model']}")
        return _Strike(fault, self._plan, request, body, self._dialect) if fault else None


class _Strike:
    """One fault on its way to one request."""

    def __init__(
        self, fault: Fault, plan: FaultPlan, request: httpx2.Request, body: dict[str, Any], dialect: Dialect
    ) -> None:
        self.fault = fault
        self.dialect = dialect
        self._plan = plan
        self._request = request
        self._answer = dialect.answer_to(fault, body)
        self._listener = fault_listener.get()
        self._settled = False
        self.silence_s: float = request.extensions.get("timeout", {}).get("read") or BELT_S

    def __enter__(self) -> None:
        """Around the real exchange: when nothing comes of it, the fault had nothing to strike."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.give_back()

    def begin(self) -> float:
        """Strike now, if this fault strikes before an answer; the result is the seconds to wait first."""
        kind = self.fault.kind
        crashes = kind == "crash" and self.fault.argument == "before"
        if self._answer or crashes or kind in ("slow", "hang", "refused", "reset"):
            self.told()
        if crashes:
            self.crash()
        if kind == "slow":
            return self.fault.seconds(5.0)
        return self.silence_s if kind == "hang" else 0.0

    def instead(self) -> httpx2.Response | None:
        """What comes in place of the real answer, if anything; raises as a broken network does."""
        match self.fault.kind:
            case "hang":
                raise self.silence()
            case "refused":
                raise httpx2.ConnectError("connection refused (injected)", request=self._request)
            case "reset":
                raise httpx2.ReadError("connection reset (injected)", request=self._request)
        if (answer := self._answer) is None:
            return None
        return httpx2.Response(answer.status, headers=dict(answer.headers), content=answer.content)

    def around(self, response: httpx2.Response) -> httpx2.Response:
        """The real answer, with a stream that will break in it where that is the fault."""
        is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
        breaks = self.fault.kind in ("cut", "stall", "crash")
        if not breaks or response.status_code != 200 or not is_stream:
            self.give_back()
            return _bounded(response, self._request)
        return _with_stream(response, _BreakingStream(response.stream, self))

    def silence(self) -> httpx2.ReadTimeout:
        """What the belt says after `silence_s` without a byte."""
        return httpx2.ReadTimeout("no answer (injected)", request=self._request)

    def told(self) -> None:
        """The fault strikes."""
        self._settled = True
        if self._listener:
            self._listener(FaultInjected(self.fault.target, self.fault.kind, self.fault.argument or ""))

    def crash(self) -> NoReturn:
        """End the process."""
        self._plan.crash(self.fault)

    def give_back(self) -> None:
        """The fault did not strike and will not on this request."""
        if not self._settled:
            self._settled = True
            self._plan.give_back(self.fault)


class _BreakingStream(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """Passes a stream on up to its breaking point; then it ends cleanly, or says nothing any more."""

    def __init__(self, inner: Any, strike: _Strike) -> None:
        self._inner = inner
        self._strike = strike
        crashes = strike.fault.kind == "crash"
        self._point = strike.dialect.breaking("end" if crashes else strike.fault.argument or "text")
        self._stalls = strike.fault.kind == "stall"

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._inner:
            passed, breaks = self._pass(chunk)
            if passed:
                yield passed
            if breaks:
                if self._stalls:
                    time.sleep(self._strike.silence_s)
                    raise self._strike.silence()
                return
        yield self._point.rest()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            passed, breaks = self._pass(chunk)
            if passed:
                yield passed
            if breaks:
                if self._stalls:
                    await asyncio.sleep(self._strike.silence_s)
                    raise self._strike.silence()
                return
        yield self._point.rest()

    def close(self) -> None:
        self._strike.give_back()  # also when nobody read as far as the breaking point
        self._inner.close()

    async def aclose(self) -> None:
        self._strike.give_back()
        await self._inner.aclose()

    def _pass(self, chunk: bytes) -> tuple[bytes, bool]:
        passed, breaks = self._point.feed(chunk)
        if breaks:
            self._strike.told()
            if self._strike.fault.kind == "crash":
                self._strike.crash()
        elif self._point.missed:
            self._strike.give_back()
        return passed, breaks


# --- error answers ---------------------------------------------------------------------------------------


def _bounded(response: httpx2.Response, request: httpx2.Request) -> httpx2.Response:
    """An error answer with a body that is short, plain, soon over and never fails: what counts is its status."""
    if response.status_code < 300:
        return response
    request.extensions.get("timeout", {})["read"] = ERROR_BODY_S  # the transport looks when the body is read
    body = _ErrorBody(response.stream, response.headers.get("content-encoding", ""))
    bounded = _with_stream(response, body)
    bounded.headers.pop("content-encoding", None)
    return bounded


class _ErrorBody(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """The beginning of a body, unpacked; where the connection breaks, it ends."""

    def __init__(self, inner: Any, coding: str) -> None:
        self._inner = inner
        self._coding = coding.strip().lower()
        self._read = bytearray()
        self._end_s = time.monotonic() + ERROR_BODY_S

    def __iter__(self) -> Iterator[bytes]:
        with contextlib.suppress(*_BREAKS):
            for chunk in self._inner:
                if self._is_enough(chunk):
                    break
        yield self._plain()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with contextlib.suppress(*_BREAKS):
            async for chunk in self._inner:
                if self._is_enough(chunk):
                    break
        yield self._plain()

    def close(self) -> None:
        self._inner.close()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _is_enough(self, chunk: bytes) -> bool:
        self._read += chunk
        return len(self._read) >= ERROR_BYTES_MAX or time.monotonic() > self._end_s

    def _plain(self) -> bytes:
        body = bytes(self._read[:ERROR_BYTES_MAX])
        if self._coding in ("", "identity"):
            return body
        try:  # we asked for no packing; what a proxy packs nevertheless may be a bomb, or noise
            return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, ERROR_BYTES_MAX)
        except zlib.error:
            return b""


_BREAKS = (httpx2.NetworkError, httpx2.ProtocolError, httpx2.ReadTimeout)
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


def _with_stream(response: httpx2.Response, stream: Any) -> httpx2.Response:
    return httpx2.Response(
        response.status_code, headers=response.headers, stream=stream, extensions=response.extensions
    )
