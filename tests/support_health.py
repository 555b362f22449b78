"""A running sidecar in this process, and what talks to it over bare sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config import Settings
from sidecar.app import make_app
from sidecar.server import is_loopback, listen, make_server
from stores.heartbeat import Beat, HeartbeatFile, boot_id

GOOD_KEY = "sk-ant-api03-0123456789abcdef"


@dataclass
class Reply:
    """One answer: status, headers with names in lower case, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


@dataclass
class Running:
    """A sidecar that listens."""

    port: int
    host: str = "127.0.0.1"

    def connect(self, timeout_s: float = 10.0) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=timeout_s)

    def send(self, data: bytes, *, head_only: bool = False) -> Reply:
        """Send these bytes and read one answer."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_reply(connection, head_only=head_only)

    def get(self, path: str, *headers: str, host: str = "127.0.0.1", method: str = "GET") -> Reply:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
        return self.send("\r\n".join([*lines, "", ""]).encode("latin-1"), head_only=method == "HEAD")


def read_reply(connection: socket.socket, *, head_only: bool = False) -> Reply:
    """Read one answer from a connection that may stay open."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65_536)
        assert piece, f"closed after {data!r}"
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if not head_only and "content-length" in headers:
        while len(body) < int(headers["content-length"]):
            piece = connection.recv(65_536)
            assert piece, "closed within the body"
            body += piece
    elif not head_only:
        while piece := connection.recv(65_536):
            body += piece
    return Reply(int(first.split()[1]), headers, body)


@contextmanager
def running(settings: Settings, host: str = "127.0.0.1") -> Iterator[Running]:
    """A sidecar on a free port, until the end of the block."""
    listening = listen(host, 0)
    server = make_server(make_app(settings, beyond_loopback=not is_loopback(listening)))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield Running(listening.getsockname()[1], "::1" if ":" in host else "127.0.0.1")
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def agent(state_dir: Path, *, age_s: float = 0.0, **told: Any) -> Iterator[None]:
    """A living agent's heartbeat, last beaten `age_s` ago."""
    said: dict[str, Any] = {
        "pid": 4711, "boot_id": boot_id(), "at_s": time.monotonic() - age_s, "state": "idle", "deadline_s": None,
        "loop_lag_s": 0.0, "version": "0", "practice": False, "breakers": (), **told,
    }  # fmt: skip
    file = HeartbeatFile(state_dir)
    file.write(Beat(**said))
    try:
        yield
    finally:
        file.remove()


@dataclass
class FakeApi:
    """A model's API that counts who connects and keeps every byte anybody sends."""

    url: str
    connections: int = 0
    received: list[bytes] = field(default_factory=list)


@contextmanager
def fake_api() -> Iterator[FakeApi]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        api = FakeApi(f"http://127.0.0.1:{server.getsockname()[1]}")
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = server.accept()
                    with connection:
                        api.connections += not ended.is_set()  # the last one only wakes this thread
                        connection.settimeout(5)
                        api.received.append(connection.recv(65_536))

        thread = threading.Thread(target=serve)
        thread.start()
        yield api
        ended.set()
        with contextlib.suppress(OSError):
            socket.create_connection(server.getsockname()).close()
        thread.join(10)


def until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait for a condition; fails when it does not come true in time."""
    end_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end_s, "it did not come true in time"
        time.sleep(0.01)
