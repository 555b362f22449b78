"""Puts the practice model behind a real port of this machine, so that drills go over real sockets.  (floor 4)

Plain HTTP on the loopback interface, a thread a connection: requests are answered by
`PracticeTransport`, byte for byte as it answers inside the process. What it refused (a history
the Messages API would not take) is kept, since a drill must end with none.

Beside the model it can answer a few GET requests with JSON, so that tools too find their services
on this machine. What it does not do: ask for a key, fail on purpose, or listen beyond loopback.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Self

import httpx2

from models.practice.transport import PracticeTransport

Pages = Callable[[str], Any]
"""What a GET of this path is answered with as JSON; None for 404."""


class PracticeServer:
    """The practice model on a port; a context manager that serves while it is entered.

    Args:
        pages: what else is answered, by path.

    `before` may be set to what is called with the body of each question to the model before it is answered,
    in the thread of its connection: for stopping a program at a chosen moment. `refused` holds each 400.
    """

    def __init__(self, pages: Pages | None = None) -> None:
        self.before: Callable[[bytes], None] | None = None
        self.refused: list[str] = []
        self._pages = pages
        self._model = PracticeTransport()
        self._server = _Server(("127.0.0.1", 0), _handler(self))

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, method: str, path: str, raw: bytes) -> httpx2.Response:
        """Answer one request (for the handler below)."""
        if method == "GET" and self._pages is not None and not path.startswith("/v1/models"):
            page = self._pages(path)
            return httpx2.Response(404 if page is None else 200, content=json.dumps(page).encode())
        if self.before is not None:
            self.before(raw)
        response = self._model.handle_request(httpx2.Request(method, f"{self.url}{path}", content=raw))
        if response.status_code == 400:
            self.refused.append(response.read().decode("utf-8", "replace"))
        return response


class _Server(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False  # a client may keep its connection for as long as it likes


def _handler(server: PracticeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # frames are small, and each is to arrive when it is sent

        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            response = server.answer(self.command, self.path, raw)
            with contextlib.suppress(OSError):  # the client may be gone: a timeout, a kill
                self._send(response)

        do_GET = do_POST = _serve

        def _send(self, response: httpx2.Response) -> None:
            self.send_response(response.status_code)
            self.send_header("content-type", response.headers.get("content-type", "application/json"))
            self.send_header("request-id", response.headers.get("request-id", "req_practice"))
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for piece in response.iter_bytes():
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # likewise while it waits for the next request
                super().handle()

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing: the drill's own words are enough."""

    return Handler
