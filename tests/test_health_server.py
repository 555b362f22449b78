"""The server stands whatever connects: half-sent, dripping, deaf, giant or wrong requests."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sidecar.app
import sidecar.server
from config import Settings
from errors import AgentError, ConfigurationError
from sidecar.app import READERS_MAX
from sidecar.server import CONNECTIONS_MAX, HEAD_BYTES_MAX, is_loopback, listen
from stores.heartbeat import Heartbeat
from stores.traces import TraceStore
from tests.support_health import Running, read_reply, running, until

LIVE = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
HALF = b"GET /health/live HTTP/1.1\r\nHost: 127.0"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all: whatever a test does to it, the next one must find it well."""
    with running(Settings(state_dir=tmp_path_factory.mktemp("state"))) as one:
        yield one


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> float:
    """The time for one request, shortened."""
    monkeypatch.setattr(sidecar.server, "EXCHANGE_S", 0.3)
    return 0.3


def is_ended(connection: socket.socket) -> bool:
    connection.settimeout(10)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors the Linux way")
def test_hundreds_of_half_sent_requests_neither_stop_the_probe_nor_pile_up(server: Running) -> None:
    with contextlib.ExitStack() as stack:
        before, threads = descriptors(), threading.active_count()
        for number in range(400):
            half = stack.enter_context(server.connect())
            half.sendall(HALF[: 1 + number % len(HALF)])
        for _ in range(20):
            began_s = time.monotonic()
            assert server.get("/health/live").status == 200
            assert time.monotonic() - began_s < 1.0
        until(lambda: descriptors() - before <= 400 + CONNECTIONS_MAX + 10)
        assert threading.active_count() <= threads + 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of descriptors")
def test_a_crowd_does_not_use_up_the_few_descriptors_of_some_systems(tmp_path: Path) -> None:
    limited = (
        "import resource, health; _, hard = resource.getrlimit(resource.RLIMIT_NOFILE);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); health.main()"
    )
    variables = {**os.environ, "STATE_DIR": str(tmp_path), "HEALTH_PORT": "0", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", limited]
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as program:
        assert program.stderr is not None
        found = re.search(r"127\.0\.0\.1:([0-9]+)", program.stderr.readline())
        assert found
        server = Running(int(found[1]))
        with contextlib.ExitStack() as stack:
            for _ in range(600):
                stack.enter_context(server.connect())
            assert server.get("/health/live").status == 200
        program.terminate()
        assert program.stderr.read() == ""


def test_who_connects_and_says_nothing_is_no_different(server: Running) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(server.connect())
        assert server.get("/health/live").status == 200


def test_a_probe_that_is_being_answered_keeps_its_place_in_a_crowd_of_new_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(folder: Path) -> list[Heartbeat]:
        asked.set()
        go_on.wait(10)
        return []

    monkeypatch.setattr(sidecar.app, "read_heartbeats", slow)
    monkeypatch.setattr(sidecar.app, "AGENTS_WAIT_S", 10.0)
    monkeypatch.setattr(sidecar.server, "NEW_S", 60.0)
    with running(Settings(state_dir=tmp_path)) as server, contextlib.ExitStack() as stack:
        probe = stack.enter_context(server.connect())
        probe.sendall(LIVE)
        assert asked.wait(5)
        crowd = [stack.enter_context(server.connect()) for _ in range(CONNECTIONS_MAX + 5)]
        until(lambda: is_ended(crowd[0]))
        go_on.set()
        assert read_reply(probe).status == 200


def test_an_unfinished_request_ends_in_time_however_it_drips(server: Running, hasty: float) -> None:
    with server.connect() as connection:
        began_s = time.monotonic()
        with contextlib.suppress(OSError):
            for byte in LIVE * 20:
                connection.sendall(bytes([byte]))
                time.sleep(0.01)
                if time.monotonic() - began_s > 5:
                    break
        assert time.monotonic() - began_s < 3
        until(lambda: is_ended(connection))


def test_a_second_request_that_drips_ends_in_time_too(server: Running, hasty: float) -> None:
    with server.connect() as connection:
        connection.sendall(LIVE)
        assert read_reply(connection).status == 200
        connection.sendall(HALF)
        assert is_ended(connection)


def test_a_reader_that_does_not_read_loses_its_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar.server, "EXCHANGE_S", 2.0)
    store = TraceStore(tmp_path)
    store.save({"id": "a1", "root": {"text": "x" * 3_900_000}})
    assert store.close(10)
    with running(Settings(state_dir=tmp_path)) as server, contextlib.ExitStack() as stack:
        for _ in range(READERS_MAX):
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((server.host, server.port))
            deaf.sendall(b"GET /traces/a1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert server.get("/health/live").status == 200
        until(lambda: server.get("/traces/a1").status == 503)  # they hold all places
        until(lambda: server.get("/traces/a1").status == 200)  # which were given back


def test_a_connection_serves_many_requests_and_pipelined_ones_in_order(server: Running) -> None:
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(LIVE)
            assert read_reply(connection).status == 200
        connection.sendall(LIVE.replace(b"live", b"nowhere") + LIVE.replace(b"GET", b"HEAD"))
        data = b""
        while data.count(b"HTTP/1.1 ") < 2:
            data += connection.recv(65_536)
        assert [part[:3] for part in data.split(b"HTTP/1.1 ")[1:]] == [b"404", b"200"]


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\n\r\n", b"GET /health/live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (HEAD_BYTES_MAX + 1),
        b"GET /" + b"x" * (HEAD_BYTES_MAX + 1),
    ],
)  # fmt: skip
def test_what_is_not_http_is_refused_in_json(server: Running, data: bytes) -> None:
    reply = server.send(data)
    assert reply.status == 400
    assert reply.json == {"error": "this is not a valid HTTP request"}
    assert server.get("/health/live").status == 200


def test_an_answer_does_not_wait_for_the_network_to_fill_a_packet(server: Running) -> None:
    with server.connect() as connection:
        began_s = time.monotonic()
        for _ in range(50):
            connection.sendall(LIVE)
            assert read_reply(connection).status == 200
        assert time.monotonic() - began_s < 1.0  # 2 s where each waits for an ACK


def test_http_1_0_is_answered_and_closed(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        assert read_reply(connection).status == 200
        assert is_ended(connection)


def test_a_body_is_refused_without_being_read(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(
            b"POST /traces HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 99
        )
        assert read_reply(connection).status == 405
        assert is_ended(connection)
    chunked = server.get("/health/live", "Transfer-Encoding: chunked")
    assert chunked.status == 413
    waiting = server.get("/health/live", "Content-Length: 9", "Expect: 100-continue")
    assert waiting.status == 413


def test_an_upgrade_is_not_taken(server: Running) -> None:
    reply = server.get("/health/live", "Upgrade: websocket", "Connection: Upgrade")
    assert reply.status == 200


def test_rubbish_after_a_request_ends_only_that_connection(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(LIVE + b"\x00\x01rubbish\r\n\r\n")
        assert read_reply(connection).status == 200
    assert server.get("/health/live").status == 200


def test_the_server_ends_with_half_sent_requests_open(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with running(Settings(state_dir=tmp_path)) as server:
            for data in (b"", HALF, LIVE, b"rubbish\r\n\r\n"):
                stack.enter_context(server.connect()).sendall(data)
            assert server.get("/health/live").status == 200
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 3


# --- the port --------------------------------------------------------------------------------------------


def test_a_taken_port_is_said_in_one_line() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AgentError, match=f"127.0.0.1:{port} is taken by another program") as caught:
            listen("127.0.0.1", port)
        assert caught.value.reason != "configuration"  # the same start may succeed later


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-name.invalid", "a..b", "1.2.3.4.5"])
def test_an_address_of_somebody_else_is_a_wrong_setting(host: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot listen on"):
        listen(host, 0)


@pytest.mark.parametrize(
    ("host", "near"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False)]
)
def test_only_loopback_counts_as_this_machine(host: str, near: bool) -> None:
    try:
        listening = listen(host, 0)
    except ConfigurationError:
        if ":" in host:
            pytest.skip("no IPv6 here")
        raise
    with listening:
        assert is_loopback(listening) is near
