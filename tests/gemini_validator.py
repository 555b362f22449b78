"""Says what is wrong with the body of a request to `streamGenerateContent`, strictly and by itself.

Written from the API's rules and from promise A1, not from our code, and shares nothing with it: an
empty list means that the real API would take the history. Where the API is lenient (two contents of
one role in a row), this is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

FOREIGN = "skip_thought_signature_validator"
_TOP = {"contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings"}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
_KINDS = {"user": {"text", "functionResponse"}, "model": {"text", "functionCall"}}


def breaches(body: Any, issued: Mapping[str, Any] | None = None) -> list[str]:
    """Every breach of the rules, in words with the place; [] for a valid body.

    Args:
        body: what was sent.
        issued: the part each known thought signature came with; None = any signature is taken for known.
    """
    if not isinstance(body, dict):
        return ["the body is not an object"]
    try:
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, TypeError) as error:  # UnicodeEncodeError is a ValueError
        return [f"the body cannot be sent: {error}"]
    found = list(_top(body))
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        return [*found, "contents: must be a non-empty list"]
    shapes = [problem for at, content in enumerate(contents) for problem in _content(content, f"contents[{at}]")]
    return [*found, *(shapes or [*_order(contents), *_pairs(contents), *_signatures(contents, issued)])]


def _top(body: dict[str, Any]) -> Iterator[str]:
    yield from (f"unknown field {name}" for name in body.keys() - _TOP)
    tokens = (body.get("generationConfig") or {}).get("maxOutputTokens")
    if not isinstance(tokens, int) or tokens < 1:
        yield "maxOutputTokens must be a positive number"
    if "systemInstruction" in body:
        parts = body["systemInstruction"].get("parts")
        if not parts or not all(isinstance(part.get("text"), str) and part["text"].strip() for part in parts):
            yield "systemInstruction: must be text"
    names = [tool.get("name") for group in body.get("tools", []) for tool in group.get("functionDeclarations", [])]
    if "tools" in body and not names:
        yield "tools: empty"
    if len(set(names)) < len(names) or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
        yield "tools: names must be unique and fit"
    for group in body.get("tools", []):
        for tool in group.get("functionDeclarations", []):
            if tool.keys() - {"name", "description", "parametersJsonSchema"} or not tool.get("description"):
                yield "tools: a declaration has other fields or no description"
            if tool.get("parametersJsonSchema", {}).get("type") != "object":
                yield "tools: parameters must be an object"


def _content(content: Any, place: str) -> Iterator[str]:
    if not isinstance(content, dict) or content.keys() != {"role", "parts"} or content["role"] not in _KINDS:
        yield f"{place}: must be a role, user or model, and parts"
        return
    if not isinstance(content["parts"], list) or not content["parts"]:
        yield f"{place}: no parts"
        return
    for at, part in enumerate(content["parts"]):
        yield from _part(part, content["role"], f"{place}.parts[{at}]")


def _part(part: Any, role: str, place: str) -> Iterator[str]:
    if not isinstance(part, dict):
        yield f"{place}: must be an object"
        return
    kinds = part.keys() - {"thoughtSignature"}
    if len(kinds) != 1 or not kinds <= _KINDS[role]:
        yield f"{place}: {sorted(kinds)} in a content of {role}"
        return
    signature = part.get("thoughtSignature", "x")
    if not isinstance(signature, str) or not signature or (role == "user" and "thoughtSignature" in part):
        yield f"{place}: a signature that is none, or of the user"
    (kind,) = kinds
    value = part[kind]
    if kind == "text":
        if not isinstance(value, str) or (not value.strip() and "thoughtSignature" not in part):
            yield f"{place}: text without words"
        return
    fields = {"id", "name", "args" if kind == "functionCall" else "response"}
    if not isinstance(value, dict) or value.keys() != fields:
        yield f"{place}: {kind} must have {sorted(fields)}"
        return
    if not isinstance(value["id"], str) or not value["id"] or not _NAME.fullmatch(str(value["name"])):
        yield f"{place}: {kind} has a bad id or name"
    inner = value.get("args", value.get("response"))
    if not isinstance(inner, dict) or (kind == "functionResponse" and inner.keys() not in ({"output"}, {"error"})):
        yield f"{place}: {kind} must carry an object"


def _order(contents: list[dict[str, Any]]) -> Iterator[str]:
    roles = [content["role"] for content in contents]
    if roles[0] != "user" or roles[-1] != "user":
        yield "the first and the last content must be the user's"
    if any(one == other for one, other in pairwise(roles)):
        yield "roles must alternate"


def _pairs(contents: list[dict[str, Any]]) -> Iterator[str]:
    ids: set[str] = set()
    asked: list[tuple[str, str]] = []
    for at, content in enumerate(contents):
        answers = [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
        if [(one["id"], one["name"]) for one in answers] != asked:
            yield f"contents[{at}]: function responses must answer the calls before them, one by one"
        if answers and any("functionResponse" in part for part in content["parts"][len(answers) :]):
            yield f"contents[{at}]: function responses must come first"
        calls = [part["functionCall"] for part in content["parts"] if "functionCall" in part]
        asked = [(one["id"], one["name"]) for one in calls]
        fresh = [one["id"] for one in calls]
        if len(set(fresh)) < len(fresh) or ids & set(fresh):
            yield f"contents[{at}]: an id of a call is there twice"
        ids |= set(fresh)
    if asked:
        yield "the last calls have no answer"


def _signatures(contents: list[dict[str, Any]], issued: Mapping[str, Any] | None) -> Iterator[str]:
    for at, content in enumerate(contents):
        calls = [part for part in content["parts"] if "functionCall" in part]
        if calls and "thoughtSignature" not in calls[0]:
            yield f"contents[{at}]: function call is missing a thought_signature in functionCall parts"
        for part in content["parts"]:
            signature = part.get("thoughtSignature")
            if signature is None or (signature == FOREIGN and "functionCall" in part) or issued is None:
                continue
            if signature not in issued:
                yield f"contents[{at}]: corrupted thought signature"
            elif issued[signature] != core_of(part):
                yield f"contents[{at}]: a thought signature on another part than it came with"


def core_of(part: dict[str, Any]) -> Any:
    """What a signature is bound to: the words, or the name and arguments of a call."""
    call = part.get("functionCall")
    return part.get("text", "") if call is None else [call["name"], call.get("args") or {}]
