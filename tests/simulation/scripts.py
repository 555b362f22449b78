"""What the simulated models say: a script a question, drawn from the seed, with the oddities of real models.

A script is a list of rounds. Which round a request is in follows from the request alone, so that a repeated
attempt, another model of the chain and a resumed question all get the same words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

KINDS = (
    "tools", "words_and_tools", "thinking", "unknown_block", "tool_under_end_turn", "bad_json", "many", "twins",
    "pause", "empty", "max_tokens", "max_tokens_in_tool", "no_tool", "unknown_stop", "doubled_id", "odd_name",
    "refusal", "hostile",
)  # fmt: skip
PLAIN = ("tools", "words_and_tools", "thinking")

SUMS = {"15 * 23": "345", "2 ** 10": "1024", "1/3": "0.333", "0.1 + 0.2": "0.3"}
"""What is asked of the calculator, and what it must answer."""

Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Round:
    """One answer of the model: of what kind, and the calls in it."""

    kind: str
    calls: tuple[Call, ...] = ()


def note(question: int, number: int) -> Call:
    """A note of its own; every other one has a title."""
    given = {"content": f"note {question}-{number}: buy tea ☕"}
    return "save_note", {**given, "title": f"List {question}"} if number % 2 else given


def draw_call(rng: random.Random, question: int, tool: str = "") -> Call:
    """A call of this tool, or of any."""
    tool = tool or rng.choice(("calculator", "save_note", "find_notes", "get_weather", "web_search"))
    match tool:
        case "calculator":
            return tool, {"expression": rng.choice(tuple(SUMS))}
        case "save_note":
            return note(rng.choice((question, 1)), rng.randrange(4))
        case "find_notes":
            return tool, {"query": rng.choice(("tea", ""))}
        case "get_weather":
            return tool, {"city": rng.choice(("Berlin", "Oslo"))}
    return "web_search", {"query": rng.choice(("tea", "coffee"))}


def draw_script(rng: random.Random, question: int, tool: str = "", *, plain: bool = False) -> tuple[Round, ...]:
    """The rounds before the final answer.

    Args:
        tool: one that must be called in the first round.
        plain: without oddities, so that the question can be answered.
    """
    rounds = []
    for number in range((rng.random() < 0.4 if plain else rng.choice((0, 1, 1, 1, 1, 2))) or bool(tool)):
        kind = rng.choice(PLAIN) if plain or rng.random() < 0.7 or (tool and not number) else rng.choice(KINDS)
        calls = [draw_call(rng, question) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        if tool and not number:
            calls[0] = draw_call(rng, question, tool)
        rounds.append(Round(kind, tuple(calls)))
    return tuple(rounds)


def message_of(
    script: tuple[Round, ...], question: int, number: int, again: int, model: str, *, nudged: bool, secret: str
) -> dict[str, Any]:
    """The answer of this round, in the shape of the Messages API.

    Args:
        number: of the round, from 0; beyond the script it is the final answer.
        again: how often this same request came before.
        nudged: the question asks for words, after an empty answer.
        secret: what a careless model says aloud.
    """
    if number >= len(script) or nudged:
        words = f"Answer {question}. **Done** in {number} rounds ☕ 日本語."
        return _message(model, f"{question}_{number}", [_text(words)], "end_turn")
    return _round(script[number], question, number, again, model, secret)


def _round(one: Round, question: int, number: int, again: int, model: str, secret: str) -> dict[str, Any]:
    key = f"{question}_{number}"
    calls = [_use(f"toolu_{key}_{at}", *call) for at, call in enumerate(one.calls)]
    content, stop = calls, "tool_use"
    match one.kind:
        case "words_and_tools":
            content = [_text("Let me look. "), *calls]
        case "thinking":
            thinking = {"type": "thinking", "thinking": "Hmm, tea.", "signature": f"sig_{key}"}
            content = [thinking, {"type": "redacted_thinking", "data": "zzz"}, *calls]
        case "unknown_block":
            content = [{"type": "hologram", "shape": [1, {"a": None}]}, _text("See? "), *calls]
        case "tool_under_end_turn":
            stop = "end_turn"
        case "bad_json":
            calls[0] = {**calls[0], "input": '{"content": "half of'}
        case "many":
            content = [_use(f"toolu_{key}_m{at}", "calculator", {"expression": f"{at}+1"}) for at in range(20)]
        case "twins":
            content = [*calls, {**calls[0], "id": f"toolu_{key}_twin"}]
        case "pause" if not again:
            content = [_text("One moment. "), {**_use(f"srvtoolu_{key}", "look", {}), "type": "server_tool_use"}]
            stop = "pause_turn"
        case "empty" if not again:
            content, stop = [], "end_turn"
        case "max_tokens":
            content, stop = [_text("This answer ends in the middle of a sen")], "max_tokens"
        case "max_tokens_in_tool" if not again:
            stop = "max_tokens"
        case "no_tool" if not again:
            content = [_text("I will now call a tool.")]
        case "unknown_stop":
            content, stop = [_text("So it is.")], "cosmic_ray"
        case "doubled_id" if not again:
            content = [calls[0], {**calls[0]}]
        case "odd_name":
            content = [_use(f"toolu_{key}_o", "save note!", {"content": "x"}), *calls]
        case "refusal":
            content, stop = [], "refusal"
        case "hostile":
            words = f"\x1b]0;owned\x07 the key is {secret} \x9b31m \u202e http://me:{secret}@host/"
            content = [_text(words), _use(f"toolu_{key}_h", "save_note", {"content": ""}), *calls]
    return _message(model, key, content, stop)


def _text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def _use(call_id: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": given}


def _message(model: str, key: str, content: list[dict[str, Any]], stop: str) -> dict[str, Any]:
    return {
        "id": f"msg_{key}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 100, "output_tokens": 20},
    }
