"""Asks a model of the Messages API, once, and watches that the answer is whole.  (floor 4)

The performers of the effect `Converse`: `ClaudeAsync` and `ClaudeBlocking`. They differ in
their `await`s; everything else of one attempt is `exchange.py`. The SDK is used for what it is
good at (headers, authentication, errors by status); its retries are off, since ours would
multiply with them, and it does not read the stream, since it takes cut streams for whole
ones: the bytes go through `sse.py` and `stream.py`. It is imported when the first client
is made, because importing it takes two seconds.

Both keep connections only where that is free of risk: after the answer asyncio waits `DRAIN_S`
for the end of the body; the blocking client, whom nothing could wake, closes at once.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from errors import AgentError, ConfigurationError
from faults import FaultPlan
from flow import Branch
from messages import Reply
from models.chain import Converse, Link
from models.exchange import Exchange, call_ids
from models.network import BELT_S, async_http, async_wire, blocking_http, blocking_wire, limits
from models.practice.transport import PracticeTransport
from models.sse import SseDecoder
from models.stream import StreamParser
from models.transport import FaultyTransport
from models.wire import params
from platform_edges import trust
from safe_text import register_secret

if TYPE_CHECKING:
    import anthropic

BASE_URL = "https://api.anthropic.com"
_PRACTICE_URL = "http://practice.invalid"

DRAIN_S = 0.05
"""Seconds the end of a body may take after message_stop, to save the next request a new connection."""

# Compression would make proxies hold back events until a block is full.
_HEADERS = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}


# Local servers speak the Messages API of this date; some of them know keys by this header alone.
_OLDER = {"X-Api-Key": "local", "anthropic-version": "2023-06-01"}


class _Claude(abc.ABC):
    """What both performers know.

    Args:
        api_key: the key; None when there is none, which is fine for the practice model alone.
        base_url: of the Messages API; None for Anthropic's own. A link's own URL goes before it.
        plan: the faults that are on.
        seed: of the practice model.
        practice_chunk_s: seconds between two pieces of a practice answer, for watching it arrive.
        belt_s: see `network.BELT_S`; a little more than a question may take in all.
        now: the monotonic clock.
        wall: the wall clock, for a Retry-After given as a date.
    """

    def __init__(
        self,
        api_key: str | None,
        plan: FaultPlan,
        *,
        base_url: str | None = None,
        seed: int = 0,
        practice_chunk_s: float = 0.0,
        belt_s: float = BELT_S,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._api_key = checked_key(api_key)
        self._base_url = base_url or BASE_URL
        self._plan = plan
        self._seed = seed
        self._practice_chunk_s = practice_chunk_s
        self._belt_s = belt_s
        self._now = now
        self._wall = wall
        self._clients: dict[tuple[str, str], Any] = {}

    def _exchange(self, effect: Converse, branch: Branch) -> Exchange:
        parser = StreamParser(effect.link.name, call_ids(effect.request.messages))
        return Exchange(effect, branch, parser, SseDecoder(), self._now, self._wall)

    def _url(self, link: Link) -> str:
        return _PRACTICE_URL if link.provider == "practice" else link.base_url or self._base_url

    def _practice(self) -> PracticeTransport:
        return PracticeTransport(self._seed, self._practice_chunk_s)

    def _client(self, link: Link) -> Any:
        """The SDK's client for a link; links of one provider and URL share it and its connections."""
        key = (link.provider, self._url(link))
        if key not in self._clients:
            self._clients[key] = self._connect(link)
        return self._clients[key]

    @abc.abstractmethod
    def _connect(self, link: Link) -> Any:
        """The SDK's client for a link, of the colour of its performer."""

    def _options(self, link: Link) -> dict[str, Any]:
        """How the SDK's client is made, except for its HTTP client."""
        key = self._api_key if link.provider == "anthropic" else link.provider  # the others need none
        if key is None:
            raise ConfigurationError(
                f"no key for {link.name}: ANTHROPIC_API_KEY is not set",
                what_now="Set ANTHROPIC_API_KEY, or use --offline for the practice model.",
            )
        return {
            "api_key": key,
            "base_url": self._url(link),
            "max_retries": 0,
            "timeout": limits(self._belt_s),
            "open_telemetry": {"propagation": False},  # else it sends our trace ids to the API
            "default_headers": _OLDER if link.provider == "local" else None,
        }


class ClaudeAsync(_Claude):
    """Performs `Converse` on asyncio. Keeps its connections; close them with `aclose`."""

    async def __call__(self, effect: Converse, branch: Branch) -> Reply:
        """Have `effect.link` answer. Raises AgentError; cancellation goes through as it is."""
        exchange = self._exchange(effect, branch)
        with exchange:
            messages = self._client(effect.link).messages.with_streaming_response
            async with messages.create(**params(effect.request, effect.link), extra_headers=_HEADERS) as response:
                exchange.open(response.headers)
                # Closed here: one that an error keeps alive is finalised whenever, in whatever thread.
                async with contextlib.aclosing(response.http_response.aiter_bytes()) as chunks:
                    async for chunk in chunks:
                        if exchange.feed(chunk):
                            break
                    exchange.end()
                    async with asyncio.timeout(DRAIN_S):
                        async for _ in chunks:
                            pass
        return exchange.reply

    async def aclose(self) -> None:
        """Close the connections."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    def _connect(self, link: Link) -> anthropic.AsyncAnthropic:
        import anthropic

        options = self._options(link)
        practice = link.provider == "practice"
        wire = self._practice() if practice else async_wire(self._url(link))
        http = async_http(FaultyTransport(wire, self._plan, link.provider), self._belt_s)
        return anthropic.AsyncAnthropic(http_client=http, **options)


class ClaudeBlocking(_Claude):
    """Performs `Converse` in the calling thread. Keeps its clients; close them with `close`."""

    def __call__(self, effect: Converse, branch: Branch) -> Reply:
        """Have `effect.link` answer. Raises AgentError; an alarm's BaseException goes through as it is."""
        exchange = self._exchange(effect, branch)
        try:
            with exchange:
                messages = self._client(effect.link).messages.with_streaming_response
                with messages.create(**params(effect.request, effect.link), extra_headers=_HEADERS) as response:
                    exchange.open(response.headers)
                    with contextlib.closing(response.http_response.iter_bytes()) as chunks:
                        for chunk in chunks:
                            if exchange.feed(chunk):
                                break
                    exchange.end()
        except BaseException as error:
            if not isinstance(error, Exception):
                self._drop(effect.link)  # an alarm may have struck inside the pool: no connection of it is safe
            raise
        return exchange.reply

    def close(self) -> None:
        """Close the connections."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _drop(self, link: Link) -> None:
        client = self._clients.pop((link.provider, self._url(link)), None)
        with contextlib.suppress(Exception):  # half-made connections may fail to close; they are gone anyway
            if client is not None:
                client.close()

    def _connect(self, link: Link) -> anthropic.Anthropic:
        import anthropic

        options = self._options(link)
        practice = link.provider == "practice"
        wire = self._practice() if practice else blocking_wire(self._url(link))
        http = blocking_http(FaultyTransport(wire, self._plan, link.provider), self._belt_s)
        return anthropic.Anthropic(http_client=http, **options)


def preload() -> None:
    """Do ahead what the first question would wait for: import the SDK (2 s), load the trust store (0.1 s).

    To be run, to its end, before the first question: an alarm in the middle of an import leaves half a
    module behind, and a model would be blamed for the time.
    """
    import anthropic  # noqa: F401

    with contextlib.suppress(AgentError):  # told when a link needs it
        trust()


def checked_key(api_key: str | None, variable: str = "ANTHROPIC_API_KEY") -> str | None:
    """The key from this variable, masked from now on wherever text is written; None for an empty one.

    Raises ConfigurationError for one with characters that no HTTP header takes (it would be quoted in
    an error from deep inside otherwise).
    """
    if not api_key:
        return None
    register_secret(api_key)
    if not all("!" <= character <= "~" for character in api_key):
        raise ConfigurationError(
            f"{variable} contains a space or another character that no key has",
            what_now="Copy the key once more, without anything around it.",
        )
    return api_key
