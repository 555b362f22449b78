"""Fetches what tools ask for: only from services named in the settings, and never too much.  (floor 4)

Performers of the `Fetch` effect for both doors. What is checked, and where:

    before      the origin (scheme, host, port) is one of the settings'; nothing else is ever fetched
    resolved    a public service must not turn out to be this machine or its network (DNS rebinding);
                the connection then goes to the very address that was checked
    answered    redirects come back as what they are and are not followed
    read        the size limit holds for the decompressed bytes, piece by piece (zip bombs)

Each exchange has its own connection, closed at its end: tools ask seldom, and a connection
that a timeout hit can then never be used again. The timeouts here are only a belt: the
attempt around an exchange bounds it. What this does not do: read status codes or bodies.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import ssl
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx2

from errors import AgentError, translate
from flow import Branch, Fetch, HttpReply, HttpRequest
from platform_edges import resolve_aside, trust
from safe_text import one_line

USER_AGENT = "unflappable (a terminal chat agent; one request per question)"
"""Wikimedia's policy asks tools to say what they are."""

PUBLIC_ORIGINS = frozenset(
    {
        "https://geocoding-api.open-meteo.com:443",
        "https://api.open-meteo.com:443",
        "https://api.tavily.com:443",
        "https://api.search.brave.com:443",
        "https://en.wikipedia.org:443",
    }
)
"""The services whose addresses ship with the program: none is on this machine or its network."""

CONNECT_S = 5.0
CONNECT_S_WITH_NEXT = 2.0
"""How long one address may take to connect while another one is known (a dead IPv6 route)."""

IDLE_S = 60.0
ADDRESSES_MAX = 4
_FAKE = ipaddress.ip_network("198.18.0.0/15")  # proxies with "fake IPs" answer every name from here
_GZIP_OVERHEAD = 65_536


class _Fetcher:
    """What both performers share: which origins may be fetched, TLS, proxies, errors."""

    def __init__(
        self,
        allowed: Iterable[str],
        *,
        public: frozenset[str] = PUBLIC_ORIGINS,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._allowed = frozenset(origin_of(httpx2.URL(url)) for url in allowed)
        self._public, self._wall = public, wall
        self._proxies = urllib.request.getproxies()
        self._secure = any(origin.startswith("https:") for origin in self._allowed)
        if self._secure:  # 60 ms: wiring makes this behind the prompt, not on the loop at the first question
            with suppress(AgentError):  # told when it is needed
                trust()

    def _admit(self, request: HttpRequest) -> httpx2.URL:
        url = httpx2.URL(request.url)
        if origin_of(url) not in self._allowed:
            raise AgentError(
                f"{one_line(origin_of(url))} is not one of the services in the settings; not fetched",
                reason="configuration",
            )
        return url

    def _proxy(self, url: httpx2.URL) -> str | None:
        if _is_loopback(url.host) or urllib.request.proxy_bypass(url.host):
            return None
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all")
        if proxy is None or proxy.startswith(("http://", "https://")):
            return proxy
        if "://" not in proxy:
            return f"http://{proxy}"
        raise AgentError(
            f"a {proxy.partition(':')[0]} proxy is set, which is not supported for tools",
            reason="proxy",
            what_now="Use an HTTP proxy, or name the service in NO_PROXY.",
        )

    def _tries(self, url: httpx2.URL, found: list[str]) -> list[_Try]:
        if origin_of(url) in self._public:
            for address in found:
                if not is_public(address):
                    what = f"{url.host} resolves to {address}, which is not a public address; not fetched"
                    raise AgentError(what, reason="unknown_host")
        targets = _by_turns(found)[:ADDRESSES_MAX]
        return [
            _Try(url, address, self._options(CONNECT_S_WITH_NEXT if left else CONNECT_S), is_last=not left)
            for left, address in zip(range(len(targets) - 1, -1, -1), targets, strict=True)
        ]

    def _options(self, connect_s: float, proxy: str | None = None) -> dict[str, Any]:
        return {
            "verify": trust() if self._secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            "trust_env": False,  # no .netrc: a tool sends its own key and no other
            "follow_redirects": False,
            "proxy": proxy,
            "timeout": httpx2.Timeout(IDLE_S, connect=connect_s),
        }

    @contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError) as error:
            raise translate(error, "", self._wall()) from error


class FetchBlocking(_Fetcher):
    """Performs `Fetch` in the blocking door; an alarm may interrupt it anywhere.

    Args:
        allowed: URLs from the settings; only their origins are fetched.
        public: origins that must not resolve to a private address.
        wall: the wall clock in seconds, for dates in `Retry-After`.
    """

    def __call__(self, effect: Fetch, branch: Branch) -> HttpReply:
        """One exchange. Raises AgentError for everything below HTTP."""
        with self._translating():
            url = self._admit(effect.request)
            if proxy := self._proxy(url):
                return self._exchange(effect.request, _Try(url, None, self._options(CONNECT_S, proxy), True))
            for one in self._tries(url, resolve_aside(_host(url), _port(url))):
                try:
                    return self._exchange(effect.request, one)
                except (httpx2.ConnectError, httpx2.ConnectTimeout):
                    if one.is_last:
                        raise
        raise AgentError(f"{url.host} has no address", reason="unknown_host")

    def _exchange(self, request: HttpRequest, one: _Try) -> HttpReply:
        with httpx2.Client(**one.options) as client, client.stream(**one.arguments(request)) as response:
            body = Body(response.headers, request.bytes_max)
            for piece in response.iter_raw():
                body.feed(piece)
            return HttpReply(response.status_code, dict(response.headers), body.finish())


class FetchAsync(_Fetcher):
    """Performs `Fetch` on asyncio; the arguments are those of `FetchBlocking`."""

    async def __call__(self, effect: Fetch, branch: Branch) -> HttpReply:
        """One exchange. Raises AgentError for everything below HTTP."""
        with self._translating():
            url = self._admit(effect.request)
            if proxy := self._proxy(url):
                return await self._exchange(effect.request, _Try(url, None, self._options(CONNECT_S, proxy), True))
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(None, resolve_aside, _host(url), _port(url))
            for one in self._tries(url, found):
                try:
                    return await self._exchange(effect.request, one)
                except (httpx2.ConnectError, httpx2.ConnectTimeout):
                    if one.is_last:
                        raise
        raise AgentError(f"{url.host} has no address", reason="unknown_host")

    async def _exchange(self, request: HttpRequest, one: _Try) -> HttpReply:
        async with httpx2.AsyncClient(**one.options) as client, client.stream(**one.arguments(request)) as response:
            body = Body(response.headers, request.bytes_max)
            async for piece in response.aiter_raw():
                body.feed(piece)
            return HttpReply(response.status_code, dict(response.headers), body.finish())


@dataclass(frozen=True, slots=True)
class _Try:
    """One connection to try: to an address that was checked, or (None) through a proxy."""

    url: httpx2.URL
    address: str | None
    options: dict[str, Any]
    is_last: bool

    def arguments(self, request: HttpRequest) -> dict[str, Any]:
        """What `client.stream` takes: the address in place of the name, which stays in Host and in TLS."""
        arguments: dict[str, Any] = {
            "method": request.method,
            "url": self.url if self.address is None else self.url.copy_with(host=self.address),
            "headers": {
                "User-Agent": USER_AGENT,
                "Accept": "application/json",
                **request.headers,
                "Host": self.url.netloc.decode("ascii"),
                "Accept-Encoding": "gzip",
            },
            "json": None if request.body is None else dict(request.body),
        }
        if self.address != _host(self.url):
            arguments["extensions"] = {"sni_hostname": _host(self.url)}
        return arguments


class Body:
    """Collects a body, decompressed, up to `bytes_max`. Only gzip was asked for and only gzip is read."""

    def __init__(self, headers: Mapping[str, str], bytes_max: int) -> None:
        encoding = headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise _broken(f"answered in the encoding {one_line(encoding, 40)!r}, which nobody asked for")
        self._gzip = zlib.decompressobj(wbits=31) if encoding.endswith("gzip") else None
        self._bytes_max, self._received, self._body = bytes_max, 0, bytearray()

    def feed(self, piece: bytes) -> None:
        """Take what arrived. Raises AgentError as soon as it is too much."""
        self._received += len(piece)
        room = self._bytes_max - len(self._body) + 1
        try:
            self._body += self._gzip.decompress(piece, room) if self._gzip else piece
        except zlib.error as error:
            raise _broken("answered with damaged gzip data") from error
        if len(self._body) > self._bytes_max or self._received > self._bytes_max + _GZIP_OVERHEAD:
            raise _broken(f"answered with more than {self._bytes_max:,} bytes")

    def finish(self) -> bytes:
        """The whole body. Raises AgentError when its end is missing."""
        if self._gzip and self._received and (not self._gzip.eof or self._gzip.unused_data):
            raise _broken("answered with gzip data that does not end where it should")
        return bytes(self._body)


def _broken(what: str) -> AgentError:
    return AgentError(what, reason="protocol")


def origin_of(url: httpx2.URL) -> str:
    """Scheme, host and port, always in the same words."""
    return f"{url.scheme}://{url.host}:{_port(url)}"


def _port(url: httpx2.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _host(url: httpx2.URL) -> str:
    return url.raw_host.decode("ascii")


def is_public(address: str) -> bool:
    """Whether an IP address is on the public Internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return (ip.is_global and not ip.is_multicast) or (ip.version == 4 and ip in _FAKE)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _by_turns(addresses: list[str]) -> list[str]:
    """IPv6 and IPv4 in turn, beginning with what the system prefers (RFC 8305): one of them may lead nowhere."""
    first_is_6 = ":" in addresses[0] if addresses else False
    preferred = [address for address in addresses if (":" in address) == first_is_6]
    others = [address for address in addresses if (":" in address) != first_is_6]
    pairs = itertools.zip_longest(preferred, others)
    return [address for pair in pairs for address in pair if address is not None]
