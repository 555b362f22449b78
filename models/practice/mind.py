"""The practice model itself: reads a Messages request, answers or asks for tools (floor 4).

Not a language model and never posing as one: a small grammar (`intents`) says which tool calls a question
takes, `steps` finds in the conversation how far they have come, and what is ready is called, all of it at
once; when nothing is left to call, `answers` says what came out. Words inside tool results are quoted
and never obeyed.

Deterministic: the answer, its ids included, follows from the request and the seed. It keeps no state,
and no content, however strange, makes it raise.
"""

from __future__ import annotations

import hashlib
from typing import Any

from models.practice import answers, history
from models.practice.intents import read
from models.practice.steps import Outcome, follow

_CALLS_MAX = 8  # in one message; the program takes 16
_ROUNDS_MAX = 8  # of calls for one question; the program ends a question after 12
_CHARS_PER_TOKEN = 4  # the usual rule of thumb for English


def think(request: dict[str, Any], *, seed: int = 0) -> dict[str, Any]:
    """The finished message that answers a Messages request: text, or the tool calls it takes next."""
    *earlier, turn = history.turns(request.get("messages"))
    offered = _offered(request)
    identity = _Identity(request, seed)
    clauses = read(turn.question, _tools_used(earlier), _asked_city(earlier))
    for past in earlier:
        past.answer = "" if answers.is_own_talk(past.answer) else past.answer
    outcomes = follow(clauses, turn, earlier, offered)
    ready = [outcome for outcome in outcomes if outcome.state == "ready"]
    if ready and turn.rounds < _ROUNDS_MAX:
        calls = [identity.call(place, outcome) for place, outcome in enumerate(ready[: _at_once(request)])]
        return _message(request, identity, calls, "tool_use")
    answer = answers.report(clauses, outcomes) if outcomes else ""
    text = answer or answers.small_talk(clauses, offered, identity.number)
    room = _room(request)
    content = [{"type": "text", "text": text[:room]}]
    return _message(request, identity, content, "end_turn" if len(text) <= room else "max_tokens")


def estimate_tokens(value: Any) -> int:
    """About how many tokens a request or a part of one takes, at least 1."""
    chars = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item
        else:
            chars += len(item) if isinstance(item, str) else 4
    return max(1, chars // _CHARS_PER_TOKEN)


class _Identity:
    """Ids that follow from the seed and the whole conversation, and are new to it."""

    def __init__(self, request: dict[str, Any], seed: int) -> None:
        self._root = f"{seed} {request.get('messages')!r}".encode("utf-8", "replace")
        self._text = self._root.decode()
        self.number = int(self._digest("number"), 16)
        self.message_id = f"msg_practice_{self._digest('message')}"

    def call(self, place: int, outcome: Outcome) -> dict[str, Any]:
        """The tool_use block for a step that is ready."""
        used_up = 0
        while (call_id := f"toolu_practice_{self._digest(f'{place} {used_up}')}") in self._text:
            used_up += 1
        return {"type": "tool_use", "id": call_id, "name": outcome.step.tool, "input": outcome.arguments}

    def _digest(self, what: str) -> str:
        return hashlib.sha256(what.encode() + b"\0" + self._root).hexdigest()[:20]


def _message(
    request: dict[str, Any], identity: _Identity, content: list[dict[str, Any]], stop_reason: str
) -> dict[str, Any]:
    prompt = [request.get(part) for part in ("system", "tools", "messages")]
    return {
        "id": identity.message_id,
        "type": "message",
        "role": "assistant",
        "model": request.get("model") or "practice",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": estimate_tokens(prompt),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": estimate_tokens(content),
            "service_tier": "standard",
        },
    }


def _offered(request: dict[str, Any]) -> frozenset[str]:
    tools = request.get("tools")
    choice = request.get("tool_choice")
    if not isinstance(tools, list) or (isinstance(choice, dict) and choice.get("type") == "none"):
        return frozenset()
    ours = [tool for tool in tools if isinstance(tool, dict) and tool.get("type", "custom") == "custom"]
    names = [tool.get("name") for tool in ours]
    return frozenset(name for name in names if isinstance(name, str))


def _at_once(request: dict[str, Any]) -> int:
    choice = request.get("tool_choice")
    return 1 if isinstance(choice, dict) and choice.get("disable_parallel_tool_use") else _CALLS_MAX


def _room(request: dict[str, Any]) -> int:
    """How many characters an answer may have."""
    tokens = request.get("max_tokens")
    return max(1, tokens) * _CHARS_PER_TOKEN if isinstance(tokens, int) else 1_000_000


def _tools_used(earlier: list[history.Turn]) -> tuple[str, ...]:
    """The tools that "what about ...?" may ask again, the latest first."""
    return tuple(call.tool for turn in reversed(earlier) for call in reversed(turn.calls))


def _asked_city(earlier: list[history.Turn]) -> bool:
    return bool(earlier) and earlier[-1].answer.endswith(answers.ASK_CITY)
