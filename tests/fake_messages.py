"""A fake Messages API over real sockets, which answers as it is told and checks what it is sent.

    from tests.fake_messages import Cut, FakeMessages, Status, Stream, calls, says

    with FakeMessages(Status(529), Stream(says("Hello"))) as api:
        agent = make_agent(base_url=api.url, api_key=api.key)
        assert agent.ask("Hi") == "Hello"
        assert len(api.requests) == 2                    # method, path, headers, body of each
        assert api.requests[0].body["messages"][-1]["role"] == "user"
        assert api.breaches == []                        # of history_validator; each was answered with 400

One behaviour a request, in order; the last one repeats. A behaviour may also be a function of
the request's body that returns one: `lambda body: Stream(says(...))`. Whole messages come from
`says`, `calls` and `message`. Requests are answered on any path that ends in /messages.

Nothing here sleeps to be right: a stall lasts until the client hangs up or the server closes.
`api.reached` is set when a behaviour has sent all it will send, `api.hung_up` when the client
left a stalled answer.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from models.practice.protocol import error_body, sse_event, sse_events
from tests.history_validator import breaches

SSE = "text/event-stream; charset=utf-8"


# --- what is said ----------------------------------------------------------------------------------------


def message(content: Sequence[dict[str, Any]], stop_reason: str | None = "end_turn", **more: Any) -> dict[str, Any]:
    """A finished message, as the API would say it."""
    usage = {
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_read_input_tokens": 0,
        "cache_creation_input_tokens": 0,
    }
    whole = {"id": "msg_fake", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5"}
    return {
        **whole, "content": list(content), "stop_reason": stop_reason, "stop_sequence": None, "usage": usage, **more
    }  # fmt: skip


def says(text: str, **more: Any) -> dict[str, Any]:
    """A message of one text block."""
    return message([{"type": "text", "text": text}], **more)


def calls(*tools: tuple[str, Any], first_id: int = 1) -> dict[str, Any]:
    """A message that asks for tools, `(name, input)` each; ids are toolu_1, toolu_2, ..."""
    content = [
        {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": value}
        for number, (name, value) in enumerate(tools, first_id)
    ]
    return message(content, "tool_use")


# --- how it is said --------------------------------------------------------------------------------------


class Connection:
    """One client's connection, for behaviours."""

    def __init__(self, api: FakeMessages, sock: socket.socket) -> None:
        self.api, self.sock, self.was_reset = api, sock, False

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line and headers."""
        lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self.sock.sendall("\r\n".join(lines).encode("latin-1"))

    def chunk(self, data: bytes) -> None:
        """Send one chunk of a chunked body; b"" ends it."""
        self.sock.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def stall(self) -> None:
        """Say nothing more until the client hangs up or the server closes."""
        self.api.reached.set()
        with contextlib.suppress(OSError):
            while self.sock.recv(4096):
                pass
        self.api.hung_up.set()

    def reset(self) -> None:
        """Close with an RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.was_reset = True
        self.sock.close()


@dataclass(frozen=True)
class Stream:
    """200 with an event stream: of a message, or these frames as they stand."""

    what: Mapping[str, Any] | Sequence[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)

    def frames(self) -> list[bytes]:
        return list(sse_events(dict(self.what)) if isinstance(self.what, Mapping) else self.what)

    def __call__(self, connection: Connection) -> bool:
        self.begin(connection)
        for frame in self.frames():
            connection.chunk(frame)
        connection.chunk(b"")
        return True

    def begin(self, connection: Connection) -> None:
        connection.head(200, {"content-type": SSE, "transfer-encoding": "chunked", **self.headers})


@dataclass(frozen=True)
class Status:
    """Any HTTP answer with a body: JSON of an error of this status unless given."""

    status: int
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, connection: Connection) -> bool:
        content = json.dumps(error_body(_TYPES.get(self.status, "api_error"), f"said {self.status}")).encode()
        body = content if self.body is None else self.body
        length = {"content-type": "application/json", "content-length": str(len(body)), "request-id": "req_fake"}
        connection.head(self.status, {**length, **self.headers})
        connection.sock.sendall(body)
        return True


@dataclass(frozen=True)
class Cut:
    """A stream that breaks after some frames, or some bytes of it; `how`: end, abrupt, reset.

    `end` is a proper end of the body (what proxies do to a cut), `abrupt` a closed connection in the
    middle of a chunk, `reset` an RST.
    """

    what: Mapping[str, Any] | Sequence[bytes]
    frames: int | None = None
    after_bytes: int | None = None
    how: str = "end"

    def __call__(self, connection: Connection) -> bool:
        stream = Stream(self.what)
        whole = b"".join(stream.frames()[: self.frames])
        stream.begin(connection)
        if sent := whole[: self.after_bytes]:
            connection.chunk(sent)
        if self.how == "end":
            connection.chunk(b"")
            return True
        if self.how == "abrupt":
            connection.sock.sendall(b"ff\r\nevent: content")
        else:
            connection.reset()
        return False


@dataclass(frozen=True)
class Stall:
    """A stream that goes silent after some frames; with `pings_s`, it only pings from then on."""

    what: Mapping[str, Any] | Sequence[bytes]
    frames: int = 0
    pings_s: float | None = None

    def __call__(self, connection: Connection) -> bool:
        stream = Stream(self.what)
        stream.begin(connection)
        for frame in stream.frames()[: self.frames]:
            connection.chunk(frame)
        if self.pings_s is None:
            connection.stall()
            return False
        connection.api.reached.set()
        with contextlib.suppress(OSError):
            while not connection.api.closing.wait(self.pings_s):
                connection.chunk(sse_event("ping", {"type": "ping"}))
        connection.api.hung_up.set()
        return False


@dataclass(frozen=True)
class Drip:
    """A stream in pieces of a few bytes, one every `every_s` seconds (0 = at once)."""

    what: Mapping[str, Any] | Sequence[bytes]
    bytes_each: int = 1
    every_s: float = 0.0

    def __call__(self, connection: Connection) -> bool:
        stream = Stream(self.what)
        stream.begin(connection)
        whole = b"".join(stream.frames())
        for start in range(0, len(whole), self.bytes_each):
            connection.chunk(whole[start : start + self.bytes_each])
            if self.every_s and connection.api.closing.wait(self.every_s):
                return False
        connection.chunk(b"")
        return True


@dataclass(frozen=True)
class Raw:
    """These bytes and nothing else, then the connection ends; b"" hangs up without a word."""

    data: bytes
    reset: bool = False

    def __call__(self, connection: Connection) -> bool:
        connection.sock.sendall(self.data)
        if self.reset:
            connection.reset()
        return False


@dataclass(frozen=True)
class Silence:
    """The request is read and never answered."""

    def __call__(self, connection: Connection) -> bool:
        connection.stall()
        return False


Behaviour: TypeAlias = Callable[[Connection], bool]  # whether the connection stays open
Scripted: TypeAlias = "Stream | Status | Cut | Stall | Drip | Raw | Silence | Callable[[dict[str, Any]], Any]"
_READY = (Stream, Status, Cut, Stall, Drip, Raw, Silence)

_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error",
    529: "overloaded_error",
}  # fmt: skip


# --- the server ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """One request as it came. Header names are in lower case; `body` is None where it was no JSON."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    query: str = ""


class FakeMessages:
    """The server; a context manager. `url` is its base URL, `key` a key to use with it."""

    key = "sk-ant-fake-0123456789abcdef"

    def __init__(self, *script: Scripted) -> None:
        self._script: list[Scripted] = list(script) or [Stream(says("Hello"))]
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.requests: list[Request] = []
        self.breaches: list[str] = []
        self.connections = 0
        self.closing, self.reached, self.hung_up = threading.Event(), threading.Event(), threading.Event()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for sock in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(5)

    def wait_closed(self) -> None:
        """Wait until the server has closed every connection; for behaviours that close them."""
        for thread in self._threads[1:]:  # the first one accepts
            thread.join(5)

    def _spawn(self, run: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while not self.closing.is_set():
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else pieces wait for ACKs, 40 ms each
                self.connections += 1
                self._sockets.append(sock)
                self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock, sock.makefile("rb") as reader:
            connection = Connection(self, sock)
            while (request := _read_request(reader)) is not None:
                try:
                    stays_open = self._behaviour(request)(connection)
                finally:  # also when the client left before it had everything
                    self.reached.set()
                if not stays_open:
                    break
            if not connection.was_reset:
                sock.shutdown(socket.SHUT_RDWR)

    def refusal_of(self, request: Request) -> Behaviour | None:
        """What answers a request that is none of this API's, or breaks its rules; another API has others."""
        if request.method != "POST" or not request.path.endswith("/messages"):
            return Status(404)
        if found := breaches(request.body):
            self.breaches += found
            return Status(400, json.dumps(error_body("invalid_request_error", "; ".join(found))).encode())
        return None

    def _behaviour(self, request: Request) -> Behaviour:
        with self._lock:
            self.requests.append(request)
            if (refusal := self.refusal_of(request)) is not None:
                return refusal
            scripted = self._script.pop(0) if len(self._script) > 1 else self._script[0]
        chosen: Behaviour = scripted if isinstance(scripted, _READY) else scripted(request.body)
        return chosen


def _read_request(reader: Any) -> Request | None:
    line = reader.readline().decode("latin-1").split()
    if len(line) != 3:
        return None
    headers = dict(_headers(reader))
    raw = reader.read(int(headers.get("content-length", 0)))
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    path, _, query = line[1].partition("?")
    return Request(line[0], path, headers, body, query)


def _headers(reader: Any) -> Iterable[tuple[str, str]]:
    while line := reader.readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        yield name.lower(), value.strip()
