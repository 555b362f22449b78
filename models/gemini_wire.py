"""Writes a request as the body the Gemini API takes, whatever is in the history.  (floor 4)

    messages                                         contents
    user: Text                                       user:  {text}
    assistant: Text, ToolUse                         model: {text}, {functionCall}
    user: ToolResult                                 user:  {functionResponse}, by name and id

The history itself is in the words of `messages` and stays as it is, so that the next question may go
to another provider. What only its maker can read stays behind: thinking of others, blocks of
unknown kinds. Gemini's own thought signatures go back on the very part they came with
(`gemini_stream.py`); a call made by another model has none, and this API answers 400 to that
unless the call carries the word that Google documents for it.

Two things other APIs allow and this one does not: a message without parts, and a conversation that
ends with the model's own words (a turn another model paused).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from messages import Block, Message, ModelRequest, Text, Thinking, ToolResult, ToolUse
from models.chain import Link
from models.gemini_stream import BEHIND, mark_of
from models.tool_input import deep_encodable
from models.wire import sendable_id

FOREIGN_CALL = "skip_thought_signature_validator"
"""In place of the signature of a call that this model did not make (ai.google.dev, thought signatures, FAQ)."""

GO_ON = "[Please go on.]"
_NO_WORDS = {"text": "(no words)"}
_NAME_CHARS_MAX = 64
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")


def params(request: ModelRequest, link: Link) -> dict[str, Any]:
    """The body of `POST /v1/models/MODEL:streamGenerateContent`."""
    blocks = [block for message in request.messages for block in message.blocks]
    names = {block.id: block.name for block in blocks if isinstance(block, ToolUse)}
    contents = [
        {"role": "model" if message.role == "assistant" else "user", "parts": _parts(message, link, names)}
        for message in request.messages
    ]
    if contents and contents[-1]["role"] == "model":
        contents.append({"role": "user", "parts": [{"text": GO_ON}]})
    body: dict[str, Any] = {"contents": contents, "generationConfig": {"maxOutputTokens": request.max_tokens}}
    if request.system.strip():
        body["systemInstruction"] = {"parts": [{"text": request.system}]}
    if request.tools:
        declared = [
            {"name": tool.name, "description": tool.description, "parametersJsonSchema": dict(tool.input_schema)}
            for tool in request.tools
        ]
        body["tools"] = [{"functionDeclarations": declared}]
    cleaned: dict[str, Any] = deep_encodable(body)
    return cleaned


def _parts(message: Message, link: Link, names: Mapping[str, str]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    kept: Thinking | None = None  # the signature that may belong to the next block
    signed = False  # whether a call of this message went out with a signature of its own
    for block in message.blocks:
        if isinstance(block, Thinking):
            kept = block
            continue
        part = _part(block, names)
        signature, on = _signature(kept, block, link)
        kept = None
        if part is None:
            continue
        if signature and on != BEHIND:
            part["thoughtSignature"], signed = signature, signed or isinstance(block, ToolUse)
        elif isinstance(block, ToolUse) and not signed:  # the first call's signature is for those beside it, too
            part["thoughtSignature"] = FOREIGN_CALL
        parts.append(part)
        if signature and on == BEHIND:
            parts.append({"text": "", "thoughtSignature": signature})
    return parts or [dict(_NO_WORDS)]


def _part(block: Block, names: Mapping[str, str]) -> dict[str, Any] | None:
    match block:
        case Text(text):
            return {"text": text} if text.strip() else None
        case ToolUse():
            call = {"id": sendable_id(block.id), "name": sendable_name(block.name), "args": dict(block.input)}
            return {"functionCall": call}
        case ToolResult():
            name = sendable_name(names.get(block.tool_use_id, "unknown"))
            said = {"error" if block.is_error else "output": block.content or "(empty)"}
            return {"functionResponse": {"id": sendable_id(block.tool_use_id), "name": name, "response": said}}
        case _:
            return None


def _signature(kept: Thinking | None, block: Block, link: Link) -> tuple[str, str]:
    """The signature that came with this block from this model, and where it stood; "" for none."""
    if kept is None or kept.model != link.name or kept.block.get("of") != mark_of(block):
        return "", ""
    return str(kept.block.get("signature") or ""), str(kept.block.get("on"))


def sendable_name(name: str) -> str:
    """A function's name as this API takes it: it must begin with a letter or an underscore."""
    if _NAME.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9_.:-]", "_", name)
    return (plain if re.match(r"[A-Za-z_]", plain) else f"_{plain}")[:_NAME_CHARS_MAX]
