"""Reads a conversation back: who asked what, which tools ran, what they said (floor 4).

A *turn* begins with the user's words and holds every tool call made since, with its result. Lines that
the program writes among the words of people, such as "[stopped: note saved, no answer]", are remarks and
no questions. History may be trimmed at its front, repaired or strange: whatever is not understood is
left out, and nothing here raises.

It deliberately does not judge what tools said; their words are data, whoever seems to speak in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_REMARK = re.compile(r"^[ \t]*\[[a-z][^\[\]\n]*\][ \t]*$", re.IGNORECASE | re.MULTILINE)
# How a program asks again for an answer that did not come; it opens no turn of its own.
_NUDGE = re.compile(
    r"(?:please,? )?(?:(?:go on|continue|carry on)\W*$|answer (?:now|the (?:question|user))\b"
    r"|(?:give|write) (?:me )?(?:your|the) (?:final )?answer\b|you (?:did not|didn't) answer\b"
    r"|your (?:last )?(?:answer|reply|message|response) was (?:empty|cut)\b)",
    re.IGNORECASE,
)
# Marks put around the words of others (`toolbox/boundary.py`), each alone on its line.
_BOUNDARY = re.compile(r"^\[(?:data [0-9a-f]+: [^\]\n]*|end of data [0-9a-f]+)\]$\n?", re.M)


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call and what came back; `failed` also when nothing did."""

    tool: str
    arguments: dict[str, Any]
    result: str
    failed: bool


@dataclass(slots=True)
class Turn:
    """One question, the calls made for it, and the last words of the answer."""

    question: str
    calls: list[Call] = field(default_factory=list)
    rounds: int = 0
    answer: str = ""


def turns(messages: Any) -> list[Turn]:
    """The conversation as turns, oldest first; never empty, the last one is to be answered now."""
    kept = [message for message in _list(messages) if isinstance(message, dict)]
    results = dict(_results(kept))
    found = [Turn("")]
    for message in kept:
        blocks = _blocks(message.get("content"))
        words = _words(blocks)
        if message.get("role") == "assistant":
            calls = [_call(block, results) for block in blocks if block.get("type") == "tool_use"]
            found[-1].calls.extend(calls)
            found[-1].rounds += bool(calls)
            found[-1].answer = words or found[-1].answer
        elif words and not (len(found) > 1 and _NUDGE.match(words)):
            found.append(Turn(words))
    return [turn for turn in found if turn.question or turn.calls] or found


def bare(text: str) -> str:
    """What a tool said, without the marks that keep it apart from the words of people."""
    return _BOUNDARY.sub("", text).strip()


def _results(messages: list[dict[str, Any]]) -> Iterator[tuple[str, tuple[str, bool]]]:
    for message in messages:
        for block in _blocks(message.get("content")):
            if block.get("type") == "tool_result":
                texts = [part.get("text") for part in _blocks(block.get("content"))]
                said = bare("\n".join(text for text in texts if isinstance(text, str)))
                yield str(block.get("tool_use_id")), (said, bool(block.get("is_error")))


def _call(block: dict[str, Any], results: dict[str, tuple[str, bool]]) -> Call:
    given = block.get("input")
    said, failed = results.get(str(block.get("id")), ("no result", True))
    return Call(str(block.get("name")), given if isinstance(given, dict) else {}, said, failed)


def _words(blocks: list[dict[str, Any]]) -> str:
    """The text of a message without remarks by the program."""
    texts = [block.get("text") for block in blocks if block.get("type") == "text"]
    said = "\n".join(text for text in texts if isinstance(text, str)).strip()
    answers_tools = any(block.get("type") == "tool_result" for block in blocks)
    # Somebody who types "[hello]" means it; only beside other words is it a remark.
    return _REMARK.sub("", said).strip() or ("" if answers_tools else said)


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in _list(content) if isinstance(block, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
