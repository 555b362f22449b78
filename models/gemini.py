"""Asks a Gemini model, once, over Google's own streaming API, and watches that the answer is whole.  (floor 4)

The performers of `Converse` for links of the provider `google`: `GeminiAsync` and `GeminiBlocking`.
They differ in their `await`s; what they share with those for Claude is `exchange.py`, what is
Gemini's own is next door: the body (`gemini_wire.py`), the stream (`gemini_stream.py`), the errors
(`gemini_errors.py`). Google's SDK would take as long to import as the whole chat to start, and hand
out cut streams as whole ones; httpx2 is loaded anyway.

The key goes into a header, never into the URL, which ends up in logs. The body is read to its end,
because only that says that an answer of this API is whole.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable
from typing import Any

import httpx2

from errors import AgentError, ConfigurationError
from faults import FaultPlan
from flow import Branch
from messages import Reply
from models.chain import Converse, Link
from models.claude import checked_key
from models.exchange import Exchange, call_ids
from models.gemini_errors import error_of
from models.gemini_faults import GEMINI
from models.gemini_stream import GeminiParser
from models.gemini_wire import params
from models.network import BELT_S, async_http, async_wire, blocking_http, blocking_wire
from models.sse import SseDecoder
from models.transport import FaultyTransport

BASE_URL = "https://generativelanguage.googleapis.com"
_VERSION = "v1"
_HAS_VERSION = re.compile(r"/v[0-9][A-Za-z0-9]*$")


class _Gemini:
    """What both performers know.

    Args:
        api_key: the key; without one, every question is a ConfigurationError.
        plan: the faults that are on.
        base_url: of the API; None for Google's own. One that ends in a version (`/v1beta`) keeps it.
        belt_s: see `network.BELT_S`.
        now: the monotonic clock.
        wall: the wall clock, for a Retry-After given as a date.
    """

    def __init__(
        self,
        api_key: str | None,
        plan: FaultPlan,
        *,
        base_url: str | None = None,
        belt_s: float = BELT_S,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._api_key = checked_key(api_key, "GEMINI_API_KEY")
        base_url = (base_url or BASE_URL).rstrip("/")
        self._base_url = base_url if _HAS_VERSION.search(base_url) else f"{base_url}/{_VERSION}"
        self._plan = plan
        self._belt_s = belt_s
        self._now, self._wall = now, wall

    def _exchange(self, effect: Converse, branch: Branch) -> Exchange:
        parser = GeminiParser(effect.link.name, call_ids(effect.request.messages))
        return Exchange(effect, branch, parser, SseDecoder(marks_doubled=True), self._now, self._wall)

    def _request(self, effect: Converse) -> dict[str, Any]:
        """What is sent, as arguments of the HTTP client."""
        return {
            "method": "POST",
            "url": f"{self._base_url}/models/{effect.link.model}:streamGenerateContent?alt=sse",
            "headers": {
                "x-goog-api-key": self._key(effect.link),
                "Accept": "text/event-stream",
                "Accept-Encoding": "identity",  # compression would hold chunks back until a block is full
            },
            "json": params(effect.request, effect.link),
        }

    def _key(self, link: Link) -> str:
        if self._api_key is None:
            raise ConfigurationError(
                f"no key for {link.name}: GEMINI_API_KEY is not set",
                what_now="Set GEMINI_API_KEY, or leave this model out of the chain.",
            )
        return self._api_key

    def _refusal(self, response: httpx2.Response, body: bytes) -> AgentError:
        try:
            said = json.loads(body)
        except (ValueError, RecursionError):
            said = None
        return error_of(response.status_code, said, response.headers, self._wall())


class GeminiAsync(_Gemini):
    """Performs `Converse` on asyncio. Keeps its connections; close them with `aclose`."""

    _client: httpx2.AsyncClient | None = None

    async def __call__(self, effect: Converse, branch: Branch) -> Reply:
        """Have `effect.link` answer. Raises AgentError; cancellation goes through as it is."""
        exchange = self._exchange(effect, branch)
        with exchange:
            async with self._http().stream(**self._request(effect)) as response:
                if response.status_code >= 300:
                    raise self._refusal(response, await response.aread())
                exchange.open(response.headers)
                async with contextlib.aclosing(response.aiter_bytes()) as chunks:
                    async for chunk in chunks:
                        exchange.feed(chunk)
                exchange.end()
        return exchange.reply

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _http(self) -> httpx2.AsyncClient:
        if self._client is None:
            wire = FaultyTransport(async_wire(self._base_url), self._plan, "google", GEMINI)
            self._client = async_http(wire, self._belt_s)
        return self._client


class GeminiBlocking(_Gemini):
    """Performs `Converse` in the calling thread. Keeps its connections; close them with `close`."""

    _client: httpx2.Client | None = None

    def __call__(self, effect: Converse, branch: Branch) -> Reply:
        """Have `effect.link` answer. Raises AgentError; an alarm's BaseException goes through as it is."""
        exchange = self._exchange(effect, branch)
        try:
            with exchange, self._http().stream(**self._request(effect)) as response:
                if response.status_code >= 300:
                    raise self._refusal(response, response.read())
                exchange.open(response.headers)
                for chunk in response.iter_bytes():
                    exchange.feed(chunk)
                exchange.end()
        except BaseException as error:
            if not isinstance(error, Exception):
                self._drop()  # an alarm may have struck inside the pool: no connection of it is safe
            raise
        return exchange.reply

    def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _drop(self) -> None:
        with contextlib.suppress(Exception):  # half-made connections may fail to close; they are gone anyway
            self.close()

    def _http(self) -> httpx2.Client:
        if self._client is None:
            wire = FaultyTransport(blocking_wire(self._base_url), self._plan, "google", GEMINI)
            self._client = blocking_http(wire, self._belt_s)
        return self._client
