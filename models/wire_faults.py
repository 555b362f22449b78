"""What each fault of a model looks like on the wire of the Messages API.  (floor 4)

Pure: a fault and the request's body in, the bytes of an answer out, or the place where a
passing stream is to break. The answers are what the real API would have sent, so that
everything behind them (SDK, stream parser, guards, screen) is practised as it is. Nothing
is decided here: whether a fault strikes says `faults.FaultPlan`, when and how often too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from errors import AgentError
from faults import Fault
from models.practice.protocol import error_json, sse_events
from models.sse import SseDecoder

_STATUSES = {
    "error": (500, "api_error", "Internal server error"),
    "server_error": (500, "api_error", "Internal server error"),
    "rate_limit": (429, "rate_limit_error", "This request would exceed your rate limit"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "auth": (401, "authentication_error", "invalid bearer token"),
    "bad_request": (400, "invalid_request_error", "This request is not valid"),
}
_JSON, _SSE = "application/json", "text/event-stream; charset=utf-8"

UNKNOWN_TOOL = "consult_oracle"
"""The tool that `bad_tool` calls; nobody offers it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Breaking(Protocol):
    """Watches a stream pass and says when to break it."""

    missed: bool

    def feed(self, chunk: bytes) -> tuple[bytes, bool]: ...

    def rest(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one API is played.

    Args:
        asked: what a request asks, by its path and raw body, its `model` included; None when it asks no model.
        answer_to: the answer that plays a fault, see below.
        breaking: the breaking point of a stream, by the argument of `cut` and `stall`.
    """

    asked: Callable[[str, bytes], dict[str, Any] | None]
    answer_to: Callable[[Fault, Mapping[str, Any]], Answer | None]
    breaking: Callable[[str], Breaking]


def answer_to(fault: Fault, body: Mapping[str, Any]) -> Answer | None:
    """The answer that plays this fault; None when it cannot be played on this request, or is none of these."""
    if fault.kind in _STATUSES:
        status, kind, words = _STATUSES[fault.kind]
        headers = {"content-type": _JSON, "request-id": "req_fault"}
        if fault.kind == "rate_limit" and fault.argument:
            headers["retry-after"] = fault.argument
        return Answer(status, error_json(kind, f"{words} (injected)", "req_fault"), headers)
    if fault.kind == "html":
        page = b"<!DOCTYPE html><html><body><h1>Welcome to the captive portal</h1></body></html>"
        return Answer(200, page, {"content-type": "text/html; charset=utf-8"})
    if fault.kind == "garbage":
        opening = next(iter(sse_events(_message(body, [], "end_turn"))))
        broken = b'event: content_block_start\ndata: {"type": "content_block_start", "ind\x9fex": \n\n'
        return Answer(200, opening + broken, {"content-type": _SSE})
    play = _MESSAGES.get(fault.kind)
    message = play(body) if play else None
    if message is None:
        return None
    return Answer(200, b"".join(sse_events(message)), {"content-type": _SSE})


# --- whole messages with something wrong in them ---------------------------------------------------------


def _bad_tool(body: Mapping[str, Any]) -> dict[str, Any]:
    return _message(body, [_call(body, UNKNOWN_TOOL, {"question": "?"})], "tool_use")


def _bad_args(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """A tool that needs something, called without it."""
    for tool in _tools(body):
        if tool["input_schema"].get("required"):
            return _message(body, [_call(body, tool["name"], {"nonsense": None})], "tool_use")
    return None


def _loop(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same call each time: a sum where there is a calculator, else the first tool there is."""
    tools = sorted(_tools(body), key=lambda tool: tool["name"] != "calculator")
    if not tools:
        return None
    fields = tools[0]["input_schema"].get("properties") or {}
    required = tools[0]["input_schema"].get("required") or []
    value = {name: sample(name, fields.get(name) or {}) for name in required}
    return _message(body, [_call(body, tools[0]["name"], value)], "tool_use")


def sample(name: str, schema: Mapping[str, Any]) -> Any:
    if name == "expression":
        return "1 + 1"
    samples = {"integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}
    return samples.get(str(schema.get("type")), "again")


def _refusal(body: Mapping[str, Any]) -> dict[str, Any]:
    details = {"type": "refusal", "category": None, "explanation": "Declined (injected)."}
    return {**_message(body, [], "refusal"), "stop_details": details}


def _max_tokens(body: Mapping[str, Any]) -> dict[str, Any]:
    words = "This answer (injected) ends in the middle of a sen"
    return _message(body, [{"type": "text", "text": words}], "max_tokens")


_MESSAGES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]] = {
    "bad_tool": _bad_tool,
    "bad_args": _bad_args,
    "loop": _loop,
    "refusal": _refusal,
    "max_tokens": _max_tokens,
}


def _message(body: Mapping[str, Any], content: list[dict[str, Any]], stop_reason: str) -> dict[str, Any]:
    return {
        "id": f"msg_fault_{digest(body)}",
        "type": "message",
        "role": "assistant",
        "model": str(body.get("model")),
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {  # nothing was asked of a real model, so nothing is owed
            "input_tokens": 0,
            "output_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 0,
        },
    }


def _call(body: Mapping[str, Any], name: str, value: dict[str, Any]) -> dict[str, Any]:
    # The history grows with each round, so ids made of it never come twice in one conversation.
    return {"type": "tool_use", "id": f"toolu_fault_{digest(body)}", "name": name, "input": value}


def digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, default=str).encode()).hexdigest()[:20]


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools = body.get("tools")
    return [tool for tool in tools if "input_schema" in tool] if isinstance(tools, list) else []


# --- where a stream breaks -------------------------------------------------------------------------------

FRAME_END = re.compile(rb"\r?\n\r?\n")


class BreakingPoint:
    """Watches a stream pass and says when to break it: `start`, `text`, `tool` or `end`.

    `start` is right behind message_start, `end` right before message_stop; `text` and `tool`
    are in the middle of the first block of that kind, a few pieces into it.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._rest = b""
        self._kind = ""  # of the open block
        self._pieces = 0
        self.missed = False  # the stream has come to its end without what was to be broken

    def feed(self, chunk: bytes) -> tuple[bytes, bool]:
        """What of the stream passes now, and whether it breaks here."""
        self._rest += chunk
        passed = b""
        while match := FRAME_END.search(self._rest):
            frame, self._rest = self._rest[: match.end()], self._rest[match.end() :]
            breaks_before, breaks_after = self._look(*_event_of(frame))
            if breaks_before:
                return passed, True
            passed += frame
            if breaks_after:
                return passed, True
        return passed, False

    def rest(self) -> bytes:
        """What came after the last whole event."""
        return self._rest

    def _look(self, name: str, data: Mapping[str, Any]) -> tuple[bool, bool]:
        if name == "content_block_start":
            self._kind, self._pieces = str((data.get("content_block") or {}).get("type")), 0
        elif name == "content_block_delta":
            return False, self._enough(data.get("delta") or {})
        elif name == "content_block_stop":
            # A block of few pieces breaks before its end; one without any has no middle.
            return self._kind == _BROKEN_IN.get(self._where) and self._has_middle(), False
        elif name == "message_stop":
            self.missed = self._where != "end"
            return not self.missed, False
        return False, name == "message_start" and self._where == "start"

    def _enough(self, delta: Mapping[str, Any]) -> bool:
        if self._kind == _BROKEN_IN.get(self._where):
            self._pieces += bool(delta.get("text") or delta.get("partial_json"))
        return self._pieces >= 3

    def _has_middle(self) -> bool:
        return self._pieces > 0 or self._where == "tool"  # a call without arguments is one, too


_BROKEN_IN = {"text": "text", "tool": "tool_use"}


def _event_of(frame: bytes) -> tuple[str, Mapping[str, Any]]:
    try:
        events = SseDecoder().feed(frame)
    except AgentError:  # a stream that is broken already passes as it is
        return "", {}
    name, data = events[0] if events else ("", None)
    return (name, data) if isinstance(data, dict) else ("", {})


def _asked(path: str, raw: bytes) -> dict[str, Any] | None:
    return dict(json.loads(raw)) if path.endswith("/messages") else None


MESSAGES = Dialect(_asked, answer_to, BreakingPoint)
"""The Messages API."""
