"""Says what is wrong with the body of a request to `POST /v1/messages`, strictly and by itself.

Written from the API's rules and from promise A1, not from our code, and shares nothing with
it: an empty list means that the real API would take the history. Where the API is lenient
(it joins two messages of one role), this is not: our history alternates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

_TOP = {
    "model", "max_tokens", "messages", "system", "tools", "stream", "output_config", "cache_control",
    "tool_choice", "thinking", "metadata", "stop_sequences",
}  # fmt: skip
_ID = re.compile(r"[A-Za-z0-9_-]+")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_BLOCKS = {
    "user": {"text", "tool_result", "image", "document"},
    "assistant": {"text", "tool_use", "thinking", "redacted_thinking", "server_tool_use", "web_search_tool_result"},
}


def breaches(body: Any) -> list[str]:
    """Every breach of the rules, in words with the place; [] for a valid body."""
    if not isinstance(body, dict):
        return ["the body is not an object"]
    found = list(_encoding(body))
    if found:  # nothing below may trip over what JSON cannot say
        return found
    found += _top(body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return [*found, "messages: must be a non-empty list"]
    shapes = [problem for at, message in enumerate(messages) for problem in _message(message, f"messages[{at}]")]
    # Order and pairs can only be judged of messages that have the shape of messages.
    return [*found, *(shapes or [*_order(messages), *_pairs(messages)])]


def _encoding(body: Any) -> Iterator[str]:
    try:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        yield f"not encodable as JSON in UTF-8: {type(error).__name__}"


def _top(body: dict[str, Any]) -> Iterator[str]:
    for key in body.keys() - _TOP:
        yield f"{key}: unknown or refused parameter"
    if not isinstance(body.get("model"), str) or not body["model"].strip():
        yield "model: must be a name"
    if not _is_count(body.get("max_tokens")):
        yield "max_tokens: must be a whole number from 1"
    if "stream" in body and not isinstance(body["stream"], bool):
        yield "stream: must be true or false"
    if "system" in body:
        yield from _system(body["system"])
    if "tools" in body:
        yield from _tools(body["tools"])
    if _kind_of(body.get("thinking")) in ("disabled", "enabled"):
        yield "thinking: this model takes no budget and cannot be told not to think"
    if _kind_of(body.get("tool_choice")) not in ("", "auto", "none"):
        yield "tool_choice: this model cannot be forced"


def _kind_of(thing: Any) -> str:
    kind = thing.get("type") if isinstance(thing, dict) else None
    return kind if isinstance(kind, str) else ""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _system(system: Any) -> Iterator[str]:
    if isinstance(system, list):
        for at, block in enumerate(system):
            if not isinstance(block, dict) or block.get("type") != "text":
                yield f"system[{at}]: must be a text block"
            else:
                yield from _text(block, f"system[{at}]")
    elif not isinstance(system, str) or not system.strip():
        yield "system: must be text that says something"


def _tools(tools: Any) -> Iterator[str]:
    if not isinstance(tools, list) or not tools:
        yield "tools: must be a non-empty list"
        return
    names = [tool.get("name") if isinstance(tool, dict) else None for tool in tools]
    for at, (tool, name) in enumerate(zip(tools, names, strict=True)):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            yield f"tools[{at}]: invalid name"
        elif names.count(name) > 1:
            yield f"tools[{at}]: name given twice"
        elif not isinstance(tool.get("input_schema"), dict) or tool["input_schema"].get("type") != "object":
            yield f"tools[{at}]: input_schema must be of type object"


def _message(message: Any, where: str) -> Iterator[str]:
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        yield f"{where}: must have role and content and nothing else"
        return
    role, content = message["role"], message["content"]
    if not isinstance(role, str) or role not in _BLOCKS:
        yield f"{where}: role must be user or assistant"
        return
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        yield f"{where}: content must not be empty"
        return
    for at, block in enumerate(content):
        yield from _block(block, role, f"{where}.content[{at}]")


def _block(block: Any, role: str, where: str) -> Iterator[str]:
    kind = _kind_of(block)
    if kind not in _BLOCKS[role]:
        yield f"{where}: no block of type {kind!r} in a message of the {role}"
    elif kind == "text":
        yield from _text(block, where)
        if role == "user" and block.get("citations"):
            yield f"{where}: citations are refused in a message of the user"
    elif kind == "thinking":
        if not isinstance(block.get("thinking"), str) or not _says(block.get("signature")):
            yield f"{where}: thinking needs its text and its signature"
    elif kind == "redacted_thinking":
        if not _says(block.get("data")):
            yield f"{where}: redacted_thinking needs its data"
    elif kind == "tool_use":
        yield from _tool_use(block, where)
    elif kind == "tool_result":
        yield from _tool_result(block, where)


def _says(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _text(block: dict[str, Any], where: str) -> Iterator[str]:
    if not _says(block.get("text")):
        yield f"{where}: text must say something"


def _tool_use(block: dict[str, Any], where: str) -> Iterator[str]:
    if not isinstance(block.get("id"), str) or not _ID.fullmatch(block["id"]):
        yield f"{where}: invalid id"
    if not isinstance(block.get("name"), str) or not _NAME.fullmatch(block["name"]):
        yield f"{where}: invalid tool name"
    if not isinstance(block.get("input"), dict):
        yield f"{where}: input must be an object"
    if extra := block.keys() - {"type", "id", "name", "input", "cache_control"}:
        yield f"{where}: unknown fields {sorted(extra)}"


def _tool_result(block: dict[str, Any], where: str) -> Iterator[str]:
    if not isinstance(block.get("tool_use_id"), str) or not _ID.fullmatch(block["tool_use_id"]):
        yield f"{where}: invalid tool_use_id"
    if not isinstance(block.get("is_error", False), bool):
        yield f"{where}: is_error must be true or false"
    content = block.get("content", "")
    if not isinstance(content, (str, list)):
        yield f"{where}: content must be text or a list of blocks"
        return
    parts = [{"type": "text", "text": content}] if isinstance(content, str) and content else content
    if block.get("is_error") and not parts:
        yield f"{where}: an error must say something"
    for part in parts or ():
        if not isinstance(part, dict) or _kind_of(part) not in ("text", "image", "document"):
            yield f"{where}: content of an unknown kind"
        elif part["type"] == "text" and not isinstance(content, str):
            yield from _text(part, where)


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _order(messages: list[dict[str, Any]]) -> Iterator[str]:
    roles = [message["role"] for message in messages]
    if roles[0] != "user":
        yield "messages[0]: the first message must be the user's"
    for at, (before, role) in enumerate(pairwise(roles), 1):
        if before == role:
            yield f"messages[{at}]: two messages of the {role} in a row"
    kinds = [block["type"] for block in _blocks(messages[-1])]
    if roles[-1] != "user" and "server_tool_use" not in kinds:
        yield "the last message must be the user's, unless it is a paused turn"
    for at, message in enumerate(messages):
        if message["role"] == "assistant" and _blocks(message)[-1]["type"] in ("thinking", "redacted_thinking"):
            yield f"messages[{at}]: thinking cannot be the last block"


def _pairs(messages: list[dict[str, Any]]) -> Iterator[str]:
    used: set[str] = set()
    open_ids: list[str] = []
    for at, message in enumerate(messages):
        blocks = _blocks(message)
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if sorted(results) != sorted(open_ids):
            yield f"messages[{at}]: results {results} do not answer the calls {open_ids} one by one"
        if any(block["type"] != "tool_result" for block in blocks[: len(results)]):
            yield f"messages[{at}]: results must come first"
        open_ids = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if len(set(open_ids)) < len(open_ids) or used & set(open_ids):
            yield f"messages[{at}]: an id is used twice"
        used.update(open_ids)
    if open_ids:
        yield f"the calls {open_ids} are not answered"
