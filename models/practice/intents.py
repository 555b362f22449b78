"""Cuts a question into the things it asks for (floor 4).

A question may be cut at "and", at a comma or where a sentence ends, but only when what follows can be
recognised by itself: so "weather in Paris and Rome" and "buy milk and eggs" stay whole, and so does
whatever stands in quotes. "What about Rome?" asks again what was asked just before.

It deliberately does not cut very long questions: a pasted text is one note, not a thousand clauses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from models.practice.arithmetic import translate
from models.practice.grammar import Clause, Step, recognise, without_tail
from models.practice.places import cities, looks_like_cities

_CUT_CHARS_MAX = 2_000
_CUTS_MAX = 40
_CUT = re.compile(
    r"\s*[,;]\s*(?:and then|and also|and|then|but|plus|also)\s+|\s*[,;]\s+"
    r"|\s+(?:and then|and also|as well as|and|then|but also)\s+"
    r"|(?<=[.?!])(?<!\bSt\.)(?<!\bMt\.)(?<!\bFt\.)(?<!\bDr\.)(?<!\bMr\.)(?<!\bMrs\.)(?<!\b[A-Z]\.)\s+|\s*\n\s*",
    re.IGNORECASE,
)
_SAYS_SOMETHING = re.compile(r"\w")
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|`[^`]*`")
# Words that begin something new even when we do not know what: "... and tell me a joke".
_OPENER = re.compile(
    r"(?:please |can you |could you )*(?:tell|explain|write|translate|sing|who|whose|why|when|where|which|what|what's"
    r"|how|is|are|does|do|can|could|give|show|make|send|book|play|set|remind|order|open|compose|describe|summari[sz]e"
    r"|define|list|save|find|search|calculate|compute|check|get|buy|call|draw|read|delete|remove|turn)\b\s*\S",
    re.IGNORECASE,
)
_FOLLOW_UP = re.compile(
    r"(?:and\s+)?(?:what|how)\s+about\s+(?:(?:in|for|on)\s+)?(?P<asked>.+)|(?:and\s+)?(?:in|for)\s+(?P<place>.+)"
    r"|and\s+(?P<next>.+)",
    re.IGNORECASE | re.DOTALL,
)
# After a search even a question word may belong to what is searched for; a command does not.
_COMMAND = re.compile(r"(?:tell|give|show) me\b|(?:write|sing|play|send|explain|translate)\b\s*\S", re.IGNORECASE)
_RESULTS = {"weather": "get_weather", "search": "web_search", "find": "find_notes", "sum": "calculator"}


def read(question: str, after: tuple[str, ...] = (), asked_city: bool = False) -> list[Clause]:
    """The clauses of a question in order; what was not understood has the kind "unknown".

    `after` names the tools that were used before, the latest first; `asked_city` says that we have just
    asked for the name of a city.
    """
    if asked_city and recognise(question) is None and looks_like_cities(without_tail(question)):
        after = ("get_weather", *after)
        question = f"what about {question.strip()}"
    clauses: list[Clause] = []
    for text in _pieces(question.strip(), after):
        clause = _known(text, after) or Clause("unknown", text)
        after = _latest(clause, after)
        clauses.append(clause)
    return clauses


def _latest(clause: Clause | None, after: tuple[str, ...]) -> tuple[str, ...]:
    tool = _RESULTS.get(clause.kind) if clause else None
    return (tool, *after) if tool else after


def _known(text: str, after: tuple[str, ...]) -> Clause | None:
    return recognise(text) or _follow_up(text, after)


def _follow_up(text: str, after: tuple[str, ...]) -> Clause | None:
    """ "What about Rome?" after the weather, "and 16 * 24?" after a sum: the latest tool that it fits."""
    match = _FOLLOW_UP.fullmatch(text.strip())
    if match is None:
        return None
    said = without_tail(match[match.lastgroup or 0])
    asked = match["asked"] is not None and said.lower() not in ("you", "me", "it", "that")
    for tool in dict.fromkeys(after):
        if tool == "get_weather" and looks_like_cities(said):
            steps = tuple(Step(tool, {"city": city}) for city in cities(said))
            return Clause("weather", text, steps, is_bare=True)
        if tool == "calculator" and (expression := translate(said)):
            return Clause("sum", text, (Step(tool, {"expression": expression}),), is_bare=True)
        if tool in ("web_search", "find_notes") and asked:
            kind = "search" if tool == "web_search" else "find"
            return Clause(kind, text, (Step(tool, {"query": said}),), is_bare=True)
    return None


def _pieces(question: str, after: tuple[str, ...]) -> Iterator[str]:
    """The question cut wherever something new begins."""
    cuts = list(_cuts(question))
    start = 0
    for place, (cut, resume) in enumerate(cuts):
        until = cuts[place + 1][0] if place + 1 < len(cuts) else len(question)
        left, right = question[start:cut], question[resume:until]
        if (
            left.strip()
            and _SAYS_SOMETHING.search(right)
            and _begins_anew(left, right, after, question[:resume].rstrip())
        ):
            yield left
            start = resume
    yield question[start:]


def _begins_anew(left: str, right: str, after: tuple[str, ...], before: str) -> bool:
    known = _known(left, after)
    then = _known(right, _latest(known, after))
    if then is not None and not then.is_bare:
        return True
    if known is not None and known.kind == "save":  # a note may say anything
        return False
    if before.endswith((".", "?", "!")):
        return True
    if known is not None and known.kind in ("search", "find"):
        return _COMMAND.match(right) is not None
    if then is not None:  # "add 2 * 3 and 4 * 5" is not done before the "and"
        return known is not None and not any(step.refers for step in known.steps)
    return _OPENER.match(right) is not None


def _cuts(question: str) -> Iterator[tuple[int, int]]:
    if len(question) > _CUT_CHARS_MAX:
        return
    quoted = [match.span() for match in _QUOTED.finditer(question)]
    for found, match in enumerate(_CUT.finditer(question)):
        if found >= _CUTS_MAX:
            return
        if not any(start < match.start() < end for start, end in quoted):
            yield match.span()
