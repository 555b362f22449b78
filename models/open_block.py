"""Puts one block of a model's answer together from the pieces it is streamed in.  (floor 4)

A block begins as the `content_block` of its start event, grows by deltas and is closed into
a word of `messages`. What we know becomes Text, ToolUse or Thinking; everything else is
kept as it came (`Other`), so that nothing unknown crashes and nothing is lost from the
trace. Whether a delta may come now and belongs here is the business of `stream.py`.
"""

from __future__ import annotations

import json
from typing import Any

from events import Event, TextStreamed, ThinkingStreamed
from messages import Block, Other, Text, Thinking, ToolUse
from models.tool_input import INPUT_CHARS_MAX, parse_input
from safe_text import encodable, shorten


class OpenBlock:
    """The block that is being streamed: what it began as, and the pieces since."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.kind: str = start["type"]
        self._start = start
        self._pieces: dict[str, list[str]] = {}
        self._half = ""  # the first half of a character that was cut in two between deltas

    def opening(self) -> Event | None:
        """Text that came with the start event is as good as a first delta."""
        field = {"text": "text", "thinking": "thinking"}.get(self.kind)
        first = self._start.get(field) if field else None
        return self.add(f"{field}_delta", first) if isinstance(first, str) and first else None

    def add(self, delta_type: str, piece: str) -> Event | None:
        """Take one delta; the answer is what a screen should show of it."""
        self._pieces.setdefault(delta_type, []).append(piece)
        if delta_type == "text_delta" and self.kind == "text":
            shown, self._half = _whole_characters(self._half + piece)
            return TextStreamed(shown) if shown else None
        if delta_type == "thinking_delta" and piece:
            return ThinkingStreamed(len(piece))
        return None

    def close(self, link: str) -> Block:
        """The finished block; `link` is the name of who made it."""
        match self.kind:
            case "text":
                return Text(encodable(self._joined("text_delta")))
            case "tool_use":
                return self._tool_use()
            case "thinking":
                return self._thinking(link)
            case "redacted_thinking" if isinstance(self._start.get("data"), str) and self._start["data"]:
                return Thinking(self._start, link)
            case _:
                return Other(self._other())

    def _joined(self, delta_type: str) -> str:
        return "".join(self._pieces.get(delta_type, ()))

    def _raw_input(self) -> str:
        raw, begun = self._joined("input_json_delta"), self._start.get("input")
        # Some servers send the whole input with the start event and no deltas.
        return raw if raw or not begun else json.dumps(begun)

    def _tool_use(self) -> ToolUse:
        raw = encodable(self._raw_input())
        value, problem = parse_input(raw)
        name = encodable(self._start["name"])
        kept = shorten(raw, INPUT_CHARS_MAX) if problem else ""
        return ToolUse(encodable(self._start["id"]), name, value, kept, problem)

    def _thinking(self, link: str) -> Block:
        signatures = self._pieces.get("signature_delta")
        signature = signatures[-1] if signatures else self._start.get("signature")
        block = {**self._start, "thinking": self._joined("thinking_delta"), "signature": signature}
        # The API takes back only what it signed; unsigned thinking is for the trace.
        return Thinking(block, link) if isinstance(signature, str) and signature else Other(block)

    def _other(self) -> dict[str, Any]:
        if "input_json_delta" not in self._pieces:
            return self._start
        return {**self._start, "input": parse_input(self._raw_input())[0]}


def _whole_characters(text: str) -> tuple[str, str]:
    """Text fit to show, and a trailing half of a surrogate pair to wait with."""
    cut = len(text) - 1 if text and 0xD800 <= ord(text[-1]) < 0xDC00 else len(text)
    return encodable(text[:cut]), text[cut:]
