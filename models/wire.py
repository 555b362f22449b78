"""Writes a request as the body the Messages API takes, whatever is in the history.  (floor 4)

The history is kept valid by `core/`. Here is the last door before the network, so what
would cost a whole question for one odd word is put right on the way out: text without
words is left out, names and ids no API would take are made sendable (the same one always
becomes the same), and what cannot be encoded is replaced. The history itself stays as it is.

Thinking is never touched, since its signature covers every byte; only where the API takes
none, at the end of a finished message, it stays behind.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from messages import Message, ModelRequest, Other, Text, Thinking
from models.chain import Link
from models.tool_input import deep_encodable

_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")  # what the API takes as the name of a tool
_ID = re.compile(r"[A-Za-z0-9_-]+")

# Generations whose model pages list an effort and that cache prompts; others may answer 400 to the field.
_HAS_EFFORT = re.compile(r"claude-[a-z]+-([5-9]|\d\d)(-|$)")


def params(request: ModelRequest, link: Link) -> dict[str, Any]:
    """The body of `POST /v1/messages`, as keyword arguments of the SDK."""
    last = len(request.messages) - 1
    body: dict[str, Any] = {
        "model": link.model,
        "max_tokens": request.max_tokens,
        "messages": [_message(message, at == last) for at, message in enumerate(request.messages)],
        "stream": True,
    }
    if request.system.strip():
        body["system"] = request.system
    if request.tools:
        body["tools"] = [tool.to_wire() for tool in request.tools]
    if link.provider == "anthropic" and _HAS_EFFORT.match(link.model):
        body["output_config"] = {"effort": "low"}  # thinking at full effort eats a chat's token budget
        body["cache_control"] = {"type": "ephemeral"}  # on the last block that can be cached
    return _encodable(body)


def _message(message: Message, is_last: bool) -> dict[str, Any]:
    blocks = [block for block in message.blocks if not (isinstance(block, Text) and not block.text.strip())]
    if message.role == "assistant" and not is_last:
        while blocks and isinstance(blocks[-1], Thinking):
            blocks.pop()
    content = [
        block.to_wire() if isinstance(block, (Thinking, Other)) else _sendable(block.to_wire())
        for block in blocks or [Text("(no words)")]
    ]
    return {"role": message.role, "content": content}


def _sendable(block: dict[str, Any]) -> dict[str, Any]:
    for field in ("id", "tool_use_id"):
        if field in block:
            block[field] = sendable_id(block[field])
    if "name" in block:
        block["name"] = sendable_name(block["name"])
    return block


def sendable_name(name: str) -> str:
    """A tool's name as the API takes it: models make up names with spaces, or of 500 characters."""
    return name if _NAME.fullmatch(name) else re.sub(r"[^A-Za-z0-9_-]", "_", name)[:128] or "unnamed"


def sendable_id(call_id: str) -> str:
    """A call's id as the API takes it: other servers put dots and colons in theirs."""
    if _ID.fullmatch(call_id):
        return call_id
    return "toolu_" + hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _encodable(body: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        cleaned: dict[str, Any] = deep_encodable(body)
        return cleaned
    return body
