"""What each fault of a model looks like on the wire of the Gemini API.  (floor 4)

The sister of `wire_faults.py`: the same faults, in the other dialect. An answer here is a few chunks
without names; a tool call comes whole in one of them, so a cut in the middle of a call is a cut in the
middle of its chunk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from errors import AgentError
from faults import Fault
from models.sse import SseDecoder
from models.wire_faults import FRAME_END, UNKNOWN_TOOL, Answer, Dialect, answer_to, digest, sample

_STATUSES = {
    "error": (500, "INTERNAL", "An internal error has occurred"),
    "server_error": (500, "INTERNAL", "An internal error has occurred"),
    "rate_limit": (429, "RESOURCE_EXHAUSTED", "You exceeded your current quota"),
    "overloaded": (503, "UNAVAILABLE", "The model is overloaded"),
    "auth": (400, "INVALID_ARGUMENT", "API key not valid"),
    "bad_request": (400, "INVALID_ARGUMENT", "This request is not valid"),
}
_PATH = re.compile(r"/models/([^/]+):streamGenerateContent$")
_SSE = {"content-type": "text/event-stream"}


def _asked(path: str, raw: bytes) -> dict[str, Any] | None:
    match = _PATH.search(path)
    return {**json.loads(raw), "model": match[1]} if match else None


def _answer_to(fault: Fault, body: Mapping[str, Any]) -> Answer | None:
    if fault.kind in _STATUSES:
        code, status, words = _STATUSES[fault.kind]
        error = {"code": code, "message": f"{words} (injected)", "status": status}
        headers = {"content-type": "application/json"}
        if fault.kind == "rate_limit" and fault.argument:
            headers["retry-after"] = fault.argument
        return Answer(code, json.dumps({"error": error}).encode(), headers)
    if fault.kind == "html":
        return answer_to(fault, body)  # a captive portal speaks no dialect
    if fault.kind == "garbage":
        return Answer(200, _chunk(body, [{"text": ""}], None) + b'data: {"candidates": [{"con\x9fte": \r\n\r\n', _SSE)
    play = _ANSWERS.get(fault.kind)
    parts = play(body) if play else None
    if parts is None:
        return None
    return Answer(200, _chunk(body, parts, _FINISHES.get(fault.kind, "STOP")), _SSE)


def _bad_tool(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_call(body, UNKNOWN_TOOL, {"question": "?"})]


def _bad_args(body: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """A tool that needs something, called without it."""
    for tool in _tools(body):
        if tool["parametersJsonSchema"].get("required"):
            return [_call(body, tool["name"], {"nonsense": None})]
    return None


def _loop(body: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The same call each time: a sum where there is a calculator, else the first tool there is."""
    tools = sorted(_tools(body), key=lambda tool: tool["name"] != "calculator")
    if not tools:
        return None
    schema = tools[0]["parametersJsonSchema"]
    fields = schema.get("properties") or {}
    args = {name: sample(name, fields.get(name) or {}) for name in schema.get("required") or []}
    return [_call(body, tools[0]["name"], args)]


_ANSWERS: dict[str, Callable[[Mapping[str, Any]], list[dict[str, Any]] | None]] = {
    "bad_tool": _bad_tool,
    "bad_args": _bad_args,
    "loop": _loop,
    "refusal": lambda body: [],
    "max_tokens": lambda body: [{"text": "This answer (injected) ends in the middle of a sen"}],
}
_FINISHES = {"refusal": "SAFETY", "max_tokens": "MAX_TOKENS"}


def _chunk(body: Mapping[str, Any], parts: list[dict[str, Any]], finish: str | None) -> bytes:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    said = {
        "candidates": [candidate],
        # Nothing was asked of a real model, so nothing is owed.
        "usageMetadata": {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0},
        "modelVersion": str(body.get("model")),
        "responseId": f"fault_{digest(body)}",
    }
    return b"data: " + json.dumps(said).encode() + b"\r\n\r\n"


def _call(body: Mapping[str, Any], name: str, args: dict[str, Any]) -> dict[str, Any]:
    # The history grows with each round, so ids made of it never come twice in one conversation.
    return {"functionCall": {"id": f"call_fault_{digest(body)}", "name": name, "args": args}}


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [tool for group in body.get("tools") or [] for tool in group.get("functionDeclarations") or []]


# --- where a stream breaks -------------------------------------------------------------------------------


class _BreakingPoint:
    """Watches a stream pass and says when to break it: `start`, `text`, `tool` or `end`.

    `start` is right behind the first chunk, `end` right before the one with the finish reason; `text` is a
    few chunks into the words, `tool` in the middle of the chunk with the first call. Where one chunk is
    all there is, it breaks in its middle.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._rest = b""
        self._texts = 0  # chunks of words that passed
        self.missed = False  # the stream has come to its end without what was to be broken

    def feed(self, chunk: bytes) -> tuple[bytes, bool]:
        """What of the stream passes now, and whether it breaks here."""
        self._rest += chunk
        passed = b""
        while match := FRAME_END.search(self._rest):
            frame, self._rest = self._rest[: match.end()], self._rest[match.end() :]
            kept = self._look(frame)
            passed += frame[:kept]
            if kept < len(frame) or (self._where == "start" and not self.missed):
                return passed, True
        return passed, False

    def rest(self) -> bytes:
        """What came after the last whole chunk."""
        return self._rest

    def _look(self, frame: bytes) -> int:
        """How many bytes of this chunk pass."""
        parts, finishes = _parts_of(frame)
        if self._where == "start":
            return len(frame) // 2 if finishes else len(frame)
        if self._where == "end" and finishes:
            return 0
        if self._where == "tool" and any("functionCall" in part for part in parts):
            return len(frame) // 2
        has_text = any(part.get("text") and not part.get("thought") for part in parts)
        if self._where == "text" and self._breaks_text(has_text, finishes):
            return 0 if self._texts else len(frame) // 2
        self._texts += has_text
        self.missed = finishes
        return len(frame)

    def _breaks_text(self, has_text: bool, finishes: bool) -> bool:
        return self._texts >= 3 or (finishes and (has_text or self._texts > 0))


def _parts_of(frame: bytes) -> tuple[list[dict[str, Any]], bool]:
    """The parts of a chunk, and whether it is the one that finishes."""
    try:
        candidate = SseDecoder().feed(frame)[0][1]["candidates"][0]
        parts = (candidate.get("content") or {}).get("parts") or []
        return [part for part in parts if isinstance(part, dict)], bool(candidate.get("finishReason"))
    except (AgentError, LookupError, TypeError, AttributeError):  # what is no chunk of this API passes as it is
        return [], False


GEMINI = Dialect(_asked, _answer_to, _BreakingPoint)
"""The Gemini API."""
