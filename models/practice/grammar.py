"""Recognises what one clause asks for, and which tool calls that takes (floor 4).

`phrases` lists what people say; here each row gets its builder, which turns what the pattern caught into
*steps*. `intents` cuts a question into clauses and asks here what each one is.

It deliberately looks at one clause at a time and at nothing that was said before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from models.practice import arithmetic, phrases
from models.practice.places import cities, looks_like_cities


@dataclass(frozen=True, slots=True)
class Step:
    """One tool call to make. `refers` says which result it needs first, if any.

    It is the name of a tool (its latest result), "last" (what came just before), "all" (everything found
    for this question), "inner" (what the same clause found) or "here" (as "all", but nothing older).
    """

    tool: str
    arguments: dict[str, Any]
    refers: str = ""


@dataclass(frozen=True, slots=True)
class Clause:
    """One thing asked for: its kind, its words, and the calls it takes (none for small talk)."""

    kind: str
    text: str
    steps: tuple[Step, ...] = ()
    # Not a sentence of its own ("2 + 2", "in Rome"): it may also belong to the words before it.
    is_bare: bool = False


Caught = dict[str, str]
Steps = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    kind: str
    pattern: re.Pattern[str]
    # None from a builder says "not mine after all", and the next row is tried.
    build: Callable[[Caught], Steps | None]
    is_bare: bool = False


def recognise(text: str) -> Clause | None:
    """What a clause asks for by the first row that fits it, with or without its polite beginning."""
    return _recognise(text, _GRAMMAR)


def without_tail(phrase: str) -> str:
    """A phrase without "please", "for me" and the marks that end a sentence."""
    phrase = phrase.strip()
    for _ in range(4):
        before = phrase
        if not re.search(r"[\d)]!$", phrase):  # 5! is a number's own mark
            phrase = phrase.rstrip("!")
        phrase = phrase.rstrip("?, \t\n")
        if not re.search(r"\b[A-Z]\.[A-Z]\.$", phrase):  # D.C. keeps its dots
            phrase = phrase.rstrip("?., \t\n")
        for courtesy in ("please", "for me", "thanks", "thank you"):
            if phrase.lower().endswith(" " + courtesy):
                phrase = phrase[: -len(courtesy)].rstrip()
        if phrase == before:
            break
    return phrase


def _recognise(text: str, rows: tuple[_Row, ...]) -> Clause | None:
    text = text.strip()
    for phrase in _with_less_and_less_lead(text):
        for row in rows:
            match = row.pattern.fullmatch(phrase)
            if match is None:
                continue
            caught = {name: said.strip() for name, said in match.groupdict().items() if said}
            steps = row.build(caught)
            if steps is not None:
                return Clause(row.kind, text, steps, row.is_bare)
    return None


def _with_less_and_less_lead(phrase: str) -> Iterator[str]:
    yield phrase
    for _ in range(6):  # "hey, could you please tell me ..." has four
        match = phrases.LEAD.match(phrase)
        if match is None:
            return
        phrase = phrase[match.end() :]
        yield phrase


# --- builders ----------------------------------------------------------------------------------------


def _nothing(_: Caught) -> Steps:
    return ()


def _note(caught: Caught) -> Steps | None:
    """A note with words of its own, or with the result that its words stand for."""
    said = caught.get("content", "")
    return _noting(said, caught) if said else None


def _note_what(caught: Caught) -> Steps:
    """A note of something to be found out first: "save the result of 2 + 2 as a note"."""
    what = caught["what"]
    inner = _recognise(what, _LOOKUPS)
    # Words ask ("the sum of ..."), digits may be what the note is to say.
    if inner is None or not inner.steps or (inner.is_bare and not what[0].isalpha()):
        return _noting(what, caught)
    return (*inner.steps, Step("save_note", _titled(caught), "inner"))


def _note_here(caught: Caught) -> Steps:
    return (Step("save_note", _titled(caught), "here"),)


def _noting(said: str, caught: Caught) -> Steps:
    match = phrases.RESULT.fullmatch(said)
    if match is None:
        return (Step("save_note", {"content": _unquoted(said), **_titled(caught)}),)
    refers = {"weather": "get_weather", "found": "web_search", "sum": "calculator"}
    return (Step("save_note", _titled(caught), refers.get(str(match.lastgroup), str(match.lastgroup))),)


def _titled(caught: Caught) -> dict[str, str]:
    title = _unquoted(without_tail(caught.get("title", "")))
    return {"title": title} if title else {}


def _find(caught: Caught) -> Steps:
    return (Step("find_notes", {"query": _unquoted(without_tail(caught.get("query", "")))}),)


def _weather(caught: Caught) -> Steps:
    places = re.sub(rf"(?:\s?,?\s{phrases.WHEN})+$", "", without_tail(caught.get("cities", "")), flags=re.I)
    return tuple(Step("get_weather", {"city": city}) for city in cities(places))


def _city_weather(caught: Caught) -> Steps | None:
    fits = looks_like_cities(caught["cities"]) and not phrases.PLAIN_TALK.search(caught["cities"])
    return _weather(caught) if fits else None


def _search(caught: Caught) -> Steps | None:
    query = _unquoted(without_tail(caught["query"]))
    return (Step("web_search", {"query": query}),) if query else None


def _sum(caught: Caught) -> Steps | None:
    expression = arithmetic.translate(without_tail(caught["sum"]).rstrip(" ="))
    if expression is None:
        return None
    refers = "calculator" if arithmetic.uses_last(expression) else ""
    return (Step("calculator", {"expression": expression}, refers),)


def _raw_sum(caught: Caught) -> Steps | None:
    """ "calculate 1 +": the calculator is the one to say what is wrong with it."""
    said = without_tail(caught["sum"])
    return (Step("calculator", {"expression": said}),) if any(c.isdigit() for c in said) else None


def _unquoted(text: str) -> str:
    match = re.fullmatch(r"\"([^\"]+)\"[.!]?|“([^”]+)”[.!]?|`([^`]+)`[.!]?", text.strip(), re.DOTALL)
    return (match[1] or match[2] or match[3]).strip() if match else text.strip()


_BUILDERS: dict[str, Callable[[Caught], Steps | None]] = {
    "nothing": _nothing,
    "note": _note,
    "note_what": _note_what,
    "note_here": _note_here,
    "find": _find,
    "weather": _weather,
    "city_weather": _city_weather,
    "search": _search,
    "sum": _sum,
    "raw_sum": _raw_sum,
}


def _rows(table: tuple[tuple[str, str, str], ...], *, is_bare: bool = False) -> tuple[_Row, ...]:
    return tuple(_Row(kind, phrases.compiled(pattern), _BUILDERS[builder], is_bare) for kind, builder, pattern in table)


_LOOKUPS = _rows(phrases.LOOKUPS) + _rows(phrases.BARE, is_bare=True)
_GRAMMAR = _rows(phrases.SMALL_TALK) + _rows(phrases.SAVING) + _rows(phrases.FINDING) + _LOOKUPS
