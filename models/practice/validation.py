"""What the Messages API refuses: the first reason for which it would answer 400 (floor 4).

It keeps the practice model honest: a history that the real API would not take is not taken here either.
It deliberately does not check what only the real API can know (signatures of thinking, names of models,
limits of an account), nor parameters that our program never sends.

Sources: platform.claude.com/docs (Messages, tool use, errors), API version 2026-10-21; the wording
follows the API's own messages.
"""

from __future__ import annotations

import json
import re
from typing import Any

Block = dict[str, Any]

_REMOVED = ("temperature", "top_p", "top_k")  # refused since API 2026-10-21, even at their default values
_ID = re.compile(r"[A-Za-z0-9_-]+")
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ROLES: dict[str, tuple[str, ...]] = {
    "text": ("user", "assistant"),
    "tool_use": ("assistant",),
    "tool_result": ("user",),
    "thinking": ("assistant",),
    "redacted_thinking": ("assistant",),
    "server_tool_use": ("assistant",),
    "web_search_tool_result": ("assistant",),
    "image": ("user",),
    "document": ("user",),
}


class _Refused(Exception):
    """Carries the reason to `validate_request`, and no further."""


def validate_request(body: Any) -> str | None:
    """Why the real API would answer 400 to this request of `POST /v1/messages`; None when it would not.

    Checks what our own program could get wrong. The API also takes "system" among the roles; we never
    send one there, so here it is refused as a mistake of ours.
    """
    try:
        _check_top(body)
        _check_tools(body.get("tools"))
        _check_messages(body["messages"])
        _check_pairs(body["messages"])
        _check_encodable(body)
    except _Refused as refused:
        return str(refused)
    return None


def _need(condition: bool, reason: str) -> None:
    if not condition:
        raise _Refused(reason)


def _check_top(body: Any) -> None:
    _need(isinstance(body, dict), "The request body must be a JSON object.")
    for name in ("model", "max_tokens", "messages"):
        _need(name in body, f"{name}: Field required")
    _need(isinstance(body["model"], str) and bool(body["model"].strip()), "model: must be a non-empty string")
    tokens = body["max_tokens"]
    _need(
        isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 1,
        "max_tokens: must be an integer greater than or equal to 1",
    )
    _need(isinstance(body.get("stream", False), bool), "stream: Input should be a valid boolean")
    for name in _REMOVED:
        _need(name not in body, f"{name}: is not supported by this API version")
    _check_system(body.get("system", ""))
    messages = body["messages"]
    _need(isinstance(messages, list), "messages: Input should be a valid list")
    _need(bool(messages), "messages: at least one message is required")


def _check_system(system: Any) -> None:
    if not isinstance(system, str):
        _need(isinstance(system, list), "system: Input should be a string or a list of text blocks")
        for index, block in enumerate(system):
            where = f"system.{index}"
            _need(isinstance(block, dict) and block.get("type") == "text", f"{where}: must be a text block")
            _check_text(block, where)


def _check_tools(tools: Any) -> None:
    if tools is None:
        return
    _need(isinstance(tools, list), "tools: Input should be a valid list")
    seen: set[str] = set()
    for index, tool in enumerate(tools):
        where = f"tools.{index}"
        name = tool.get("name") if isinstance(tool, dict) else None
        _need(isinstance(name, str) and bool(_TOOL_NAME.fullmatch(name)), f"{where}.name: invalid tool name")
        _need(name not in seen, "tools: Tool names must be unique.")
        seen.add(str(name))
        if tool.get("type", "custom") == "custom":
            schema = tool.get("input_schema")
            _need(
                isinstance(schema, dict) and schema.get("type") == "object",
                f"{where}.input_schema: must be a JSON schema of type object",
            )


def _check_messages(messages: list[Any]) -> None:
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        _need(isinstance(message, dict), f"{where}: Input should be an object")
        _need(set(message) <= {"role", "content"}, f"{where}: Extra inputs are not permitted")
        role = message.get("role")
        _need(role in ("user", "assistant"), f"{where}.role: must be 'user' or 'assistant'")
        _need("content" in message, f"{where}.content: Field required")
        blocks = _blocks(message["content"], where)
        for place, block in enumerate(blocks):
            _check_block(block, role, f"{where}.content.{place}")
        if role == "assistant":
            _need(
                blocks[-1]["type"] not in ("thinking", "redacted_thinking"),
                f"{where}: the final block in an assistant message cannot be `thinking`",
            )
    _need(messages[0]["role"] == "user", 'messages: first message must use the "user" role')
    last = messages[-1]
    # The only assistant message the API goes on from is one it paused itself, amid its own tools.
    paused = any(block["type"] == "server_tool_use" for block in _blocks(last["content"], "messages"))
    _need(
        last["role"] == "user" or paused,
        "This model does not support assistant message prefill. The conversation must end with a user message.",
    )


def _blocks(content: Any, where: str) -> list[Any]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    _need(isinstance(content, list), f"{where}.content: Input should be a string or a list of blocks")
    _need(bool(content), f"{where}: all messages must have non-empty content")
    return list(content)


def _check_block(block: Any, role: Any, where: str) -> None:
    kind = block.get("type") if isinstance(block, dict) else None
    _need(isinstance(kind, str) and kind in _ROLES, f"{where}.type: unknown block type")
    _need(role in _ROLES[str(kind)], f"{where}: `{kind}` blocks are not permitted in {role} messages")
    match kind:
        case "text":
            _check_text(block, where)
        case "thinking":
            _need(isinstance(block.get("thinking"), str), f"{where}.thinking: Field required")
            signed = isinstance(block.get("signature"), str) and bool(block["signature"])
            _need(signed, f"{where}.signature: Field required")
        case "redacted_thinking":
            _need(isinstance(block.get("data"), str) and bool(block["data"]), f"{where}.data: Field required")
        case "tool_use":
            _check_id(block.get("id"), f"{where}.id")
            name = block.get("name")
            _need(isinstance(name, str) and bool(_TOOL_NAME.fullmatch(name)), f"{where}.name: invalid name")
            _need(isinstance(block.get("input"), dict), f"{where}.input: Input should be a valid dictionary")
        case "tool_result":
            _check_id(block.get("tool_use_id"), f"{where}.tool_use_id")
            _check_result(block, where)


def _check_text(block: Block, where: str) -> None:
    text = block.get("text")
    _need(isinstance(text, str), f"{where}.text: Field required")
    _need(bool(str(text).strip()), f"{where}: text content blocks must contain non-whitespace text")


def _check_id(value: Any, where: str) -> None:
    _need(isinstance(value, str) and bool(_ID.fullmatch(value)), f"{where}: must match ^[a-zA-Z0-9_-]+$")


def _check_result(block: Block, where: str) -> None:
    content = block.get("content", "")
    failed = block.get("is_error", False)
    _need(isinstance(failed, bool), f"{where}.is_error: Input should be a valid boolean")
    _need(isinstance(content, str | list), f"{where}.content: Input should be a string or a list of blocks")
    _need(bool(content) or not failed, f"{where}: content cannot be empty if `is_error` is true")
    for index, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        _need(kind in ("text", "image", "document"), f"{where}.content.{index}.type: unknown block type")
        if kind == "text":
            _check_text(part, f"{where}.content.{index}")


def _check_pairs(messages: list[dict[str, Any]]) -> None:
    """Each tool_use answered once in the very next message, results first; ids never used twice."""
    asked: list[str] = []
    used: set[str] = set()
    for index, message in enumerate(messages):
        blocks = _blocks(message["content"], f"messages.{index}")
        _check_answers(blocks, asked, index)
        asked = [block["id"] for block in blocks if block["type"] == "tool_use"]
        for call_id in asked:
            _need(call_id not in used, "messages: `tool_use` ids must be unique")
            used.add(call_id)
    _need(not asked, _unanswered(asked, len(messages)))


def _check_answers(blocks: list[Any], asked: list[str], index: int) -> None:
    kinds = [block["type"] for block in blocks]
    answered = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    where = f"messages.{index}"
    for call_id in answered:
        _need(
            call_id in asked,
            f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {call_id}. Each `tool_result` "
            "block must have a corresponding `tool_use` block in the previous message.",
        )
        _need(answered.count(call_id) == 1, f"{where}: each tool_use must have a single result: {call_id}")
    missing = [call_id for call_id in asked if call_id not in answered]
    _need(not missing, _unanswered(missing, index))
    first = kinds[: len(answered)]
    _need(first == ["tool_result"] * len(answered), f"{where}: `tool_result` blocks must come first")


def _unanswered(ids: list[str], index: int) -> str:
    return (
        f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: "
        f"{', '.join(ids)}. Each `tool_use` block must have a corresponding `tool_result` block in the next "
        "message."
    )


def _check_encodable(body: dict[str, Any]) -> None:
    try:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:  # lone surrogate, NaN, no JSON type, too deep
        raise _Refused(f"The request body is not valid JSON: {error}") from error
