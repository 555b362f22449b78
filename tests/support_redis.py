"""A Redis of one's own: a private server on a free port of this machine, which the tests may hurt."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flow import Script

SERVER = shutil.which("redis-server")
NEEDS_REDIS = pytest.mark.skipif(SERVER is None, reason="redis-server is not installed")


class Server:
    """A redis-server that can be killed, stopped and started again on the same port."""

    def __init__(self, *options: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.options = options
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Server:
        command = [
            str(SERVER), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--dir", str(self.folder), "--enable-debug-command", "local", *self.options,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end_s = time.monotonic() + 10
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as line:
                    line.sendall(b"PING\r\n")
                    if line.recv(64):
                        return self
            except OSError:
                assert time.monotonic() < end_s, "redis-server did not start"
                time.sleep(0.01)

    def kill(self) -> None:
        if self.process is not None:
            self.resume()
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)

    def client(self) -> Any:
        import redis

        return redis.Redis(port=self.port, decode_responses=True)

    def do(self, *words: Any) -> Any:
        """One command, on a connection of its own."""
        client = self.client()
        try:
            return client.execute_command(*words)
        finally:
            client.close()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def serving() -> Iterator[Server]:
    """For fixtures: a running server, killed at the end."""
    server = Server()
    try:
        yield server.start()
    finally:
        server.close()


class Moving:
    """The real monotonic clock, moved on by hand where a test does not want to wait."""

    def __init__(self) -> None:
        self.offset_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.offset_s


class OnClock:
    """Runs the scripts on a real server, but by a clock that moves only when told."""

    def __init__(self, server: Server, clock: Any) -> None:
        self.client, self.clock = server.client(), clock

    def identity(self) -> str:
        return "me"

    def run(self, script: Script) -> Any:
        micros = round(self.clock.now_s * 1_000_000)
        seconds = f"local time = {{{micros // 1_000_000}, {micros % 1_000_000}}}"
        text = script.text.replace("local time = redis.call('TIME')", seconds)
        assert text != script.text
        return self.client.eval(text, len(script.keys), *script.keys, *script.args)

    async def run_async(self, script: Script) -> Any:
        return self.run(script)
