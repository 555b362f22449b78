"""A fake Gemini API over real sockets, which answers as it is told and checks what it is sent.

    with FakeGemini(Refuse(503, "UNAVAILABLE"), chunks(text("Hel"), text("lo", finish="STOP"))) as api:
        ...
        assert api.breaches == []                        # of gemini_validator; each was answered with 400

The server and most behaviours are those of `fake_messages.py`; what they send are chunks of this API, as
`chunks` makes them. Thought signatures are remembered with the part they were sent with: one that comes back
elsewhere, or that nobody sent, is a breach. So are a key in the URL, no key in the header, and another path.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from errors import AgentError
from models.sse import SseDecoder
from tests.fake_messages import Behaviour, Connection, Cut, Drip, FakeMessages, Request, Scripted, Stall, Status, Stream
from tests.gemini_validator import breaches, core_of

PATH = re.compile(r"/v1/models/[A-Za-z0-9._-]+:streamGenerateContent")
USAGE = {"promptTokenCount": 12, "candidatesTokenCount": 5, "thoughtsTokenCount": 3, "totalTokenCount": 20}


def chunk(*parts: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    """One chunk: these parts, and the finish reason where it is the last."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    ids = {"modelVersion": "gemini-3.6-flash-001", "responseId": "resp_1"}
    return raw_chunk({"candidates": [candidate], "usageMetadata": USAGE, **ids, **more})


def raw_chunk(data: Any) -> bytes:
    """One event with this data."""
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\r\n\r\n"


def says(text: str, signature: str = "") -> list[bytes]:
    """An answer of words, in pieces; its signature comes in an empty part at the end, as streams have it."""
    pieces = [text[start : start + 6] for start in range(0, len(text), 6)]
    end: dict[str, Any] = {"text": ""}
    if signature:
        end["thoughtSignature"] = signature
    return [*(chunk({"text": piece}) for piece in pieces), chunk(end, finish="STOP")]


def call(name: str, args: Any, **more: Any) -> dict[str, Any]:
    """A part that calls a function: `id` and `thoughtSignature` where given."""
    extra = {key: more.pop(key) for key in ("thoughtSignature",) if key in more}
    return {"functionCall": {"name": name, "args": args, **more}, **extra}


def calls(*parts: dict[str, Any]) -> list[bytes]:
    """An answer that asks for tools, each call in a chunk of its own, then the end."""
    return [*(chunk(part) for part in parts), chunk(finish="STOP")]


def error(code: int, status: str, words: str, *details: dict[str, Any]) -> dict[str, Any]:
    """An error object of this API."""
    return {"error": {"code": code, "message": words, "status": status, "details": list(details)}}


def retry_info(delay: str) -> dict[str, Any]:
    """The detail that says how long to wait."""
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


@dataclass(frozen=True)
class Refuse:
    """An error answer of this API."""

    code: int
    status: str = ""
    words: str = "said so"
    details: Sequence[dict[str, Any]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, connection: Connection) -> bool:
        body = json.dumps(error(self.code, self.status, self.words, *self.details)).encode()
        return Status(self.code, body, self.headers)(connection)


class FakeGemini(FakeMessages):
    """The server; a context manager. `url` is its base URL, `key` a key to use with it."""

    key = "AIzaFake0123456789abcdefghijk"

    def __init__(self, *script: Scripted | Refuse) -> None:
        super().__init__(*(_ready(one) for one in script or [Stream(says("Hello"))]))
        self.issued: dict[str, Any] = {}

    def refusal_of(self, request: Request) -> Behaviour | None:
        """Answers with 400 what the API would not take."""
        found = breaches(request.body, self.issued)
        if request.method != "POST" or not PATH.fullmatch(request.path) or request.query != "alt=sse":
            found.append(f"{request.method} {request.path}?{request.query} is nothing of this API")
        if request.headers.get("x-goog-api-key") != self.key:
            found.append("no key in the header")
        if not found:
            return None
        self.breaches += found
        return Refuse(400, "INVALID_ARGUMENT", "; ".join(found))

    def _behaviour(self, request: Request) -> Behaviour:
        chosen = super()._behaviour(request)
        if isinstance(chosen, (Stream, Cut, Stall, Drip)) and not isinstance(chosen.what, Mapping):
            self._remember(b"".join(chosen.what))
        return chosen

    def _remember(self, body: bytes) -> None:
        """The signatures that are about to be sent, and on what."""
        events: list[tuple[str, Any]] = []
        with contextlib.suppress(AgentError):  # rubbish carries no signatures
            events = SseDecoder().feed(body)
        for _, data in events:
            for candidate in (data.get("candidates") or []) if isinstance(data, dict) else []:
                for part in (candidate.get("content") or {}).get("parts") or []:
                    if "thoughtSignature" in part:
                        self.issued[part["thoughtSignature"]] = core_of(part)


def _ready(scripted: Scripted | Refuse) -> Scripted:
    return (lambda body: scripted) if isinstance(scripted, Refuse) else scripted
