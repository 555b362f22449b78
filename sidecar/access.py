"""Who may ask the sidecar what: which Host, which method, and from where a token is needed.  (floor 6)

A web page can have its own name point to 127.0.0.1 and then read whatever listens there (DNS
rebinding); but the browser still sends that name as the Host. So a Host counts only when no name
server had a say in it: an address (kubelet probes a pod by its address), localhost, or a name the
settings list. There are no CORS headers, so that no page may read an answer.

Probes cannot carry a token, so `/health/*` needs none. All else tells what people asked: it needs
the token as soon as the sidecar listens beyond this machine, and without one it is not served there.
What this does not do: encrypt. Beyond the machine that is the cluster's or a proxy's work.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from sidecar.answers import answer

METHODS = ("GET", "HEAD")
OPEN = "/health/"
"""Paths that begin so never need the token."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/\s]+)(?::[0-9]{0,5})?")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(\S+) *")
Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Rules:
    """Who is let in.

    Args:
        hosts: names beside localhost that a Host may be, in lower case.
        beyond_loopback: whether other machines can reach the sidecar.
        token: opens all but `/health/*` to other machines; None opens nothing to them.
    """

    hosts: frozenset[str] = frozenset()
    beyond_loopback: bool = False
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered, and the status and headers that say so."""

    status: int
    error: str
    headers: tuple[tuple[str, str], ...] = ()


def is_host_allowed(host: str, listed: frozenset[str]) -> bool:
    """Whether a Host header is an address, localhost or listed, with or without a port."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower().removesuffix(".")
    return name == "localhost" or name in listed or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.IPv6Address(name[1:-1]) if name.startswith("[") else ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def refuse(method: str, path: str, headers: Headers, rules: Rules) -> Refusal | None:
    """Why this request is refused; None when it may pass. Headers with names in lower case."""
    hosts = _values(headers, b"host")
    if len(hosts) != 1 or not is_host_allowed(hosts[0].decode("latin-1"), rules.hosts):
        return Refusal(403, "this Host is not allowed; names other than localhost belong into HEALTH_ALLOWED_HOSTS")
    if method not in METHODS:
        return Refusal(405, "only GET and HEAD", (("allow", ", ".join(METHODS)), ("connection", "close")))
    if _values(headers, b"transfer-encoding") or any(size != b"0" for size in _values(headers, b"content-length")):
        return Refusal(413, "a request here has no body", (("connection", "close"),))
    if not rules.beyond_loopback or path.startswith(OPEN):
        return None
    if rules.token is None:
        return Refusal(403, "beyond loopback only /health/* is served until HEALTH_TOKEN is set")
    if not _has_token(headers, rules.token):
        return Refusal(401, "the token is missing or wrong", (("www-authenticate", "Bearer"),))
    return None


def _has_token(headers: Headers, token: str) -> bool:
    shown = [_BEARER.fullmatch(value) for value in _values(headers, b"authorization")]
    return len(shown) == 1 and shown[0] is not None and hmac.compare_digest(shown[0][1], token.encode())


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


class Gatekeeper:
    """Answers what is refused; hands everything else to `app`."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app, self._rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = refuse(scope["method"], scope["path"], scope["headers"], self._rules)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            refused = answer({"error": refusal.error}, refusal.status, dict(refusal.headers))
            await refused(scope, receive, send)
