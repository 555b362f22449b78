"""Uvicorn, made fit for whoever connects: the half-sent, the slow and the many harm nobody.  (floor 6)

Plain uvicorn waits for ever for the rest of a request; hundreds that begin one and never finish
keep their connections, and with a limit on connections everybody else is answered 503. Here

- a connection has EXCHANGE_S for one request from its first byte to the last byte of its answer,
  however it drips (uvicorn itself ends one that is idle between requests after IDLE_S);
- at most CONNECTIONS_MAX are kept: a new one takes the place of the oldest that waits for its
  client, so the newest, which is a probe that sends all at once, always gets its turn;
- the head of a request is at most HEAD_BYTES_MAX, and a body is never read.

What this does not do: stop somebody who fills the network itself.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from typing import Any, cast

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from errors import AgentError, ConfigurationError
from safe_text import one_line
from sidecar.answers import json_bytes

EXCHANGE_S = 10.0
"""Twice what kubelet gives a probe; enough to send the largest trace over 4 Mbit/s."""

IDLE_S = 5
"""Uvicorn's own, for a connection between two requests."""

CONNECTIONS_MAX = 64
"""Far above what probes, a metrics scraper and a person need. With what is taken and not yet counted, or dropped and
not yet closed (3 x ACCEPTED_MAX at most), below the 256 descriptors that macOS gives a program."""

NEW_S = 0.5
"""For so long a connection keeps its place before those that wait for us: its request may just not be read yet."""

ACCEPTED_MAX = 32
"""Connections taken at once. Half of CONNECTIONS_MAX: a new one is read before newer ones can push it out."""

BACKLOG = 1_024
"""Connections that wait in the system to be taken. With few, a client in a crowd tries again only after 1 s."""

HEAD_BYTES_MAX = 16_384
"""h11's own default, nginx's 4 x 8 KiB halved."""

STOP_S = 1
"""What running answers get when the sidecar is told to end."""


class BoundedProtocol(H11Protocol):
    """One connection, with an end to its client's slowness."""

    since_s = 0.0
    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        """Take the connection, in the place of an older one where there is no more room."""
        super().connection_made(transport)
        # asyncio does this only for sockets it made itself; without it each answer waits 40 ms for an ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.since_s = self.loop.time()
        self._begin()
        if len(self.connections) > CONNECTIONS_MAX:
            # Never the newest: where all others wait for a check of ours that hangs, it may be who asks for liveness.
            others = cast("set[BoundedProtocol]", self.connections) - {self}
            min(others, key=lambda one: (one.claim, one.since_s)).drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)

    @property
    def claim(self) -> int:
        """How much it deserves its place: 2 while it waits for us, not for its client; 1 while too new to tell."""
        if self.cycle is not None and not self.cycle.response_complete and not self.flow.write_paused:
            return 2
        return int(self.loop.time() - self.since_s < NEW_S)

    def drop(self) -> None:
        """End the connection at once, whatever is still unsent."""
        self.connections.discard(self)
        self.transport.abort()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request; a closing connection keeps the end it has."""
        if not self.transport.is_closing():
            self._begin()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, in JSON like every other error; drop it in the middle of an answer."""
        headers = [("content-type", "application/json"), ("connection", "close")]
        try:
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=json_bytes({"error": "this is not a valid HTTP request"})),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            self.drop()
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """End it when the server ends: an idle one now, another after its answer."""
        try:
            super().shutdown()
        except h11.LocalProtocolError:  # it was about to end by itself, because of an error
            self.drop()

    def _begin(self) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = self.loop.call_later(EXCHANGE_S, self.drop)


class BoundedServer(uvicorn.Server):
    """Takes connections in small portions from a long queue; asyncio knows only one number for both."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(BACKLOG)


def make_server(app: ASGIApp) -> uvicorn.Server:
    """The server for `app`; run it with the socket of `listen`."""
    config = uvicorn.Config(
        cast("Any", app),
        http=BoundedProtocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # it would log a warning for each request that is none
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=ACCEPTED_MAX,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=STOP_S,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
    )
    return BoundedServer(config)


def listen(host: str, port: int) -> socket.socket:
    """Take the port before anything else is started.

    Args:
        host: an address or name of this machine; `::` listens on all addresses of both kinds, a name on one,
            IPv4 where it has both.
        port: 0 takes any free one.

    Raises:
        ConfigurationError: this machine has no such address, or may not use the port.
        AgentError: another program has the port.
    """
    shown = one_line(f"{host}:{port}", 100)
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(places, key=lambda place: place[0] != socket.AF_INET)
        both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            words, now = f"{shown} is taken by another program", "Stop it, or choose another port with --port."
            raise AgentError(words, reason="connection", what_now=now) from None
        why = one_line(getattr(error, "strerror", None) or str(error))
        raise ConfigurationError(
            f"cannot listen on {shown}: {why}", what_now="Correct HEALTH_HOST and HEALTH_PORT, or --host and --port."
        ) from None


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can reach a socket."""
    return ipaddress.ip_address(str(listening.getsockname()[0]).partition("%")[0]).is_loopback
