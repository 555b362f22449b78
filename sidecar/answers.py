"""How the sidecar puts what it says into an HTTP answer: safe JSON, never cached, in pieces.  (floor 6)

Everything passes the mask once more on its way out, and JSON is pure printable ASCII: a control
byte of a model's answer cannot reach the terminal of whoever looks at it with curl.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from safe_text import masked

HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
PIECE_BYTES = 65_536
"""What is written at once: the mark from which uvicorn waits for a reader that is slow."""


def json_bytes(value: Any) -> bytes:
    """The value as one masked line of JSON. Raises ValueError for what JSON cannot say (NaN)."""
    text = json.dumps(masked(value), ensure_ascii=True, allow_nan=False)
    return text.replace("\x7f", "\\u007f").encode() + b"\n"  # DEL, which JSON leaves as it is


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A small answer in JSON."""
    return Response(json_bytes(value), status, {**HEADERS, **(headers or {})}, "application/json")


class InPieces(Response):
    """A large answer, written as fast as its reader reads, so that slow readers don't pile up copies of it.

    Args:
        content: the whole of it.
        media_type: of the content.
        when_done: called once it is written, or its reader is gone.
    """

    def __init__(self, content: bytes, media_type: str, when_done: Callable[[], None]) -> None:
        super().__init__(content, 200, HEADERS, media_type)
        self._when_done = when_done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for start in range(0, len(self.body), PIECE_BYTES):
                piece = self.body[start : start + PIECE_BYTES]
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._when_done()
