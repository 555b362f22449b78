"""The network under the SDK: HTTP clients with sane limits, and names looked up aside.  (floor 4)

No client here follows a redirect (the SDK would post the whole conversation to another
origin), reads .netrc, or waits for ever. The time limits are a belt: they end what no
attempt is left to end. What really bounds a request is the Attempt around it.

`getaddrinfo` is C code that ignores signals: a dead name server would hold the blocking
agent past every deadline. So there a daemon thread asks, while the main thread waits on an
event, which a signal handler can interrupt by raising. Then the connection is made to the
address, with the name kept where it counts: in the Host header and in the certificate's
check. asyncio looks names up aside by itself, and behind a proxy the proxy does. Nothing is
cached: the system's resolver does that better.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import urllib.request

import httpx2

from errors import ConfigurationError
from platform_edges import trust

BELT_S = 900.0
"""Seconds between two bytes after which the HTTP client gives up by itself."""

CONNECT_S = 10.0
"""Seconds for one connection, so that a second address is tried before the model counts as silent (30 s)."""


def _tls_for(base_url: str) -> ssl.SSLContext:
    # Without https nobody needs the trust store; a bare context trusts nobody.
    return trust() if base_url.startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def blocking_wire(base_url: str) -> httpx2.BaseTransport:
    """The network for a blocking client.

    Through the proxy of the environment where there is one, else with names resolved aside, so that an
    alarm can interrupt it at any moment. Raises ConfigurationError for a proxy that is not usable.
    """
    proxy = _proxy_for(base_url)
    inner = httpx2.HTTPTransport(verify=_tls_for(base_url), proxy=proxy)
    return inner if proxy else ResolvingTransport(inner)


def async_wire(base_url: str) -> httpx2.AsyncBaseTransport:
    """The network for an asyncio client: through the proxy of the environment where there is one."""
    return httpx2.AsyncHTTPTransport(verify=_tls_for(base_url), proxy=_proxy_for(base_url))


def blocking_http(transport: httpx2.BaseTransport, belt_s: float = BELT_S) -> httpx2.Client:
    """A blocking HTTP client that follows no redirect: the SDK would post the conversation elsewhere."""
    return httpx2.Client(transport=transport, follow_redirects=False, trust_env=False, timeout=limits(belt_s))


def async_http(transport: httpx2.AsyncBaseTransport, belt_s: float = BELT_S) -> httpx2.AsyncClient:
    """The same for asyncio."""
    return httpx2.AsyncClient(transport=transport, follow_redirects=False, trust_env=False, timeout=limits(belt_s))


def limits(belt_s: float) -> httpx2.Timeout:
    """The time limits of a client whose belt is `belt_s` seconds."""
    return httpx2.Timeout(belt_s, connect=min(CONNECT_S, belt_s))


def _proxy_for(base_url: str) -> httpx2.Proxy | None:
    url = httpx2.URL(base_url)
    proxies = urllib.request.getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    if not address or urllib.request.proxy_bypass(url.host):
        return None
    try:
        proxy = httpx2.Proxy(address if "://" in address else f"http://{address}")
    except (ValueError, httpx2.InvalidURL):
        proxy = None
    if proxy is None or proxy.url.scheme not in ("http", "https"):
        # Said without its value: proxies carry passwords.
        raise ConfigurationError(
            f"the proxy for {url.scheme} URLs is not usable",
            what_now=f"Set {url.scheme.upper()}_PROXY to http://HOST:PORT, or unset it.",
        )
    return proxy


# --- names -----------------------------------------------------------------------------------------------


class ResolvingTransport(httpx2.BaseTransport):
    """Resolves the host of each request aside, then has `inner` connect to its addresses in turn."""

    def __init__(self, inner: httpx2.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request. Raises httpx2.ConnectError, its cause a gaierror when the name is unknown."""
        host = request.url.raw_host.decode("ascii")
        if _is_address(host):
            return self._inner.handle_request(request)
        timeout_s = request.extensions.get("timeout", {}).get("connect") or CONNECT_S
        failure: httpx2.TransportError | None = None
        for address in addresses(host, timeout_s):
            try:
                return self._inner.handle_request(_to_address(request, host, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                if _is_tls(error):
                    raise  # the host was reached: another of its addresses has the same certificate
                failure = error
        raise failure or httpx2.ConnectError(f"{host} has no address", request=request)

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()


def addresses(host: str, timeout_s: float) -> list[str]:
    """The addresses of a host, in the order to try; the wait can be interrupted by a signal.

    Raises httpx2.ConnectError when there are none, httpx2.ConnectTimeout after `timeout_s` seconds.
    """
    found: list[str] = []
    failures: list[Exception] = []
    finished = threading.Event()

    def look_up() -> None:
        try:
            rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(row[4][0]) for row in rows))
        except (OSError, UnicodeError) as error:  # UnicodeError: a label too long or empty
            failures.append(error)
        finally:
            finished.set()

    threading.Thread(target=look_up, name="lookup", daemon=True).start()
    if not finished.wait(timeout_s):
        raise httpx2.ConnectTimeout(f"looking up {host} took longer than {timeout_s:g} s")
    if failures:
        raise httpx2.ConnectError(f"{host}: {failures[0]}") from failures[0]
    return found


def _to_address(request: httpx2.Request, host: str, address: str) -> httpx2.Request:
    return httpx2.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,  # Host among them, as it was
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _is_tls(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__
    return False
