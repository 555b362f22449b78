"""Draws a trace as a tree of plain text, for `--trace ID` and `/trace`.  (floor 4)

    trace 3f2a91c0  ok  1.24 s  2 model attempts  1 tool call  $0.0012
    └─ question "What is 15 * 23?"
       ├─ round 1
       │  ├─ model.practice attempt 1 of 4  overloaded (529)  12 ms
       │  │  └─ waited 0.8 s: overloaded
       ...

One line for each thing that happened, in the order it happened, whether it took time or not.
Every text in it is foreign and becomes one safe, bounded line here. The trace may come from a
file that another version wrote, so nothing is taken for granted but its being JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from safe_text import one_line, shorten
from telemetry import attributes as a

Json: TypeAlias = Mapping[str, Any]

LINE_CHARS_MAX = 200
TEXT_CHARS_MAX = 100
"""Of one quoted text within a line."""

DEPTH_MAX = 12
"""Ours are five deep; a file could hold anything."""

_TREE = ("├─ ", "└─ ", "│  ")
_TREE_ASCII = ("|- ", "`- ", "|  ")
_ASCII = {ord("…"): "...", ord("⏎"): "\\n", ord("—"): "-", ord("–"): "-", ord("�"): "?"} | {
    0x2400 + code: f"^{chr(0x40 + code)}" for code in range(0x20)
}


@dataclass(frozen=True, slots=True)
class _Node:
    label: str
    below: tuple[_Node, ...] = ()


def draw(trace: Json, unicode: bool = True) -> str:
    """The tree, without a line end.

    Args:
        trace: what `Trace.to_json` gave, perhaps long ago.
        unicode: False where box drawings cannot be shown: everything is ASCII then.
    """
    root = _mapping(trace.get("root"))
    whole = _Node(_heading(trace), (_node(root, 0, _ending(trace, root)),))
    lines = (shorten(line, LINE_CHARS_MAX) for line in _lines(whole, _TREE if unicode else _TREE_ASCII))
    return "\n".join(line if unicode else _ascii(line) for line in lines)


def _ascii(line: str) -> str:
    plain = line.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")
    return plain[:LINE_CHARS_MAX]


def _lines(node: _Node, glyphs: tuple[str, str, str], indent: str = "") -> Iterator[str]:
    branch, last, bar = glyphs
    if not indent:
        yield node.label
    for place, child in enumerate(node.below, start=1):
        is_last = place == len(node.below)
        yield indent + (last if is_last else branch) + child.label
        below = indent + ("   " if is_last else bar)
        yield from _lines(_Node("", child.below), glyphs, below)


def _node(span: Json, depth: int, *more: _Node) -> _Node:
    spans, events = (_list(span.get(name)) for name in ("children", "events"))
    things = [(_order(event), _Node(_event_label(event))) for event in events]
    if depth < DEPTH_MAX:
        things += [(_order(child), _node(child, depth + 1)) for child in spans]
    things.sort(key=lambda thing: thing[0])
    label = _LABELS.get(_word(span.get("kind")), _any_label)(span, _mapping(span.get("attributes")))
    result = _mapping(span.get("attributes")).get(a.TOOL_RESULT)
    answered = (_Node(f"answered {_quoted(result)}"),) if result is not None else ()
    return _Node(label, (*(node for _, node in things), *answered, *more))


# --- the lines of spans ----------------------------------------------------------------------------------


def _heading(trace: Json) -> str:
    parts = [f"trace {_word(trace.get('id'))}", _word(trace.get("status")), _duration(trace.get("duration_ms"))]
    parts.append(_count(trace.get("model_attempts"), "model attempt"))
    parts.append(_count(trace.get("tool_calls"), "tool call"))
    parts.append(_count(trace.get("faults"), "fault injected", "faults injected"))
    parts.append(_dollars(trace.get("cost_usd")))
    parts.append(_count(trace.get("entries_dropped"), "line left out", "lines left out"))
    return _spaced(parts)


def _ending(trace: Json, root: Json) -> _Node:
    error = _mapping(trace.get("error"))
    if error:
        what_now = f"  {_text(error.get('what_now'))}" if error.get("what_now") else ""
        return _Node(f"{_word(trace.get('status'))}: {_text(error.get('message') or error.get('type'))}{what_now}")
    if trace.get("status") == "running":
        return _Node("not ended: still running, or killed")
    answer = _mapping(root.get("attributes")).get(a.ANSWER)
    return _Node(f"answer {_quoted(answer)}" if answer else f"{_word(trace.get('status'))}, without an answer")


def _turn_label(span: Json, attributes: Json) -> str:
    return f"question {_quoted(attributes.get(a.QUESTION))}"


def _attempt_label(span: Json, attributes: Json) -> str:
    dependency = _word(attributes.get(a.DEPENDENCY))
    number, of = _word(attributes.get(a.ATTEMPT)), _word(attributes.get(a.ATTEMPTS_MAX))
    tokens_in, tokens_out = attributes.get(a.INPUT_TOKENS), attributes.get(a.OUTPUT_TOKENS)
    has_tokens = tokens_in is not None or tokens_out is not None
    return _spaced(
        [
            f"{dependency} attempt {number} of {of}",
            _text(attributes.get(a.ERROR_MESSAGE) or span.get("status")),
            _duration(span.get("duration_ms")),
            f"{_word(tokens_in)} tokens in, {_word(tokens_out)} out" if has_tokens else "",
            _dollars(attributes.get(a.COST_USD)),
        ]
    )


def _tool_label(span: Json, attributes: Json) -> str:
    source = attributes.get(a.SOURCE)
    return _spaced(
        [
            f"{_word(attributes.get(a.TOOL_NAME))} {_text(attributes.get(a.TOOL_ARGUMENTS))}",
            _word(span.get("status")),
            _duration(span.get("duration_ms")),
            f"from {_text(source)}" if source else "",
        ]
    )


def _any_label(span: Json, attributes: Json) -> str:
    return _word(span.get("name"))


_LABELS: dict[str, Callable[[Json, Json], str]] = {
    "turn": _turn_label,
    "model_attempt": _attempt_label,
    "provider_attempt": _attempt_label,
    "tool_call": _tool_label,
}


# --- the lines of events ---------------------------------------------------------------------------------

# {name} is a short word, {name:s} seconds, {name:t} a text of any length, {name:o} `=word` or nothing,
# {name:a} `, again in` so many seconds or nothing.
_SENTENCES = {
    "attempt_abandoned": "void: {chars_voided} characters already shown",
    "retry_scheduled": "waited {wait_s:s}: {message:t}",
    "retry_refused": "no retry: {why:t}",
    "limiter_waited": "the rate limiter made it wait {wait_s:s}",
    "call_rejected": "{dependency} refused by the {by}{retry_after_s:a}",
    "circuit_opened": "circuit of {dependency} opened after {failures} failures, for {open_s:s}",
    "circuit_half_opened": "circuit of {dependency} half-open: one probe",
    "circuit_closed": "circuit of {dependency} closed",
    "fell_back": "from {source} to {to}: {message:t}",
    "fault_injected": "fault injected: {target}:{kind}{argument:o}",
    "notice_given": "notice: {text:t}",
    "turn_cancelled": "cancelled; kept in the history: {kept:t}",
    "history_trimmed": "{messages} old messages left out of the request",
    "stuck_noticed": "going round in circles: {what:t}",
    "effect_reconciled": "{tool}, looked at afterwards: {found:t}",
    "approval_asked": "approval asked for {tool}: {why:t}",
    "approval_answered": "approval of {tool} granted: {granted}, by {by}",
}


class _Value:
    """A field of an event, for the sentences: formats itself safely."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __format__(self, spec: str) -> str:
        if spec == "s":
            return _seconds(self._value)
        if spec == "a":
            return f", again in {_seconds(self._value)}" if self._value is not None else ""
        if spec == "o":
            return f"={_word(self._value)}" if self._value else ""
        return _text(self._value) if spec == "t" else _word(self._value)


class _Values(dict[str, _Value]):
    def __missing__(self, name: str) -> _Value:
        return _Value(None)


def _event_label(event: Json) -> str:
    name, attributes = _word(event.get("name")), _mapping(event.get("attributes"))
    sentence = _SENTENCES.get(name)
    if sentence is None:
        return " ".join([name, *(f"{_word(key)}={_word(value)}" for key, value in attributes.items())])
    values = _Values({key: _Value(value) for key, value in attributes.items()})
    return sentence.format_map(values).strip()


# --- words -----------------------------------------------------------------------------------------------


def _mapping(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Json]:
    return [_mapping(item) for item in value] if isinstance(value, list) else []


def _order(thing: Json) -> float:
    return _number(thing.get("sequence")) or 0.0


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e15 and not math.isnan(value) else None


def _word(value: Any) -> str:
    return one_line("none" if value in (None, "") else str(value), 60)


def _text(value: Any) -> str:
    return one_line("none" if value in (None, "") else str(value), TEXT_CHARS_MAX)


def _quoted(value: Any) -> str:
    return f'"{_text(value) if value else ""}"'


def _duration(ms: Any) -> str:
    number = _number(ms)
    if number is None:
        return ""
    return f"{number:.0f} ms" if number < 999.5 else _seconds(number / 1000)


def _seconds(s: Any) -> str:
    number = _number(s)
    return "an unknown time" if number is None else f"{number:.3g} s"


def _dollars(value: Any) -> str:
    number = _number(value)
    return "" if number is None else f"${number:.4f}"


def _count(value: Any, one: str, many: str = "") -> str:
    number = _number(value)
    if not number:
        return ""
    return f"{number:.0f} {one if number == 1 else many or one + 's'}"


def _spaced(parts: list[str]) -> str:
    return "  ".join(part for part in parts if part)
