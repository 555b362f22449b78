"""The words of the practice model: what it says of results, failures, and itself (floor 4).

Results are given as the tools said them. Of a failure it says what failed and the tool's own reason, and
puts nothing in its place. It never passes for a language model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from models.practice.grammar import Clause
from models.practice.steps import NO_CONTENT, NO_RESULT, NOTHING_SAVED, Outcome, sum_line

ASK_CITY = "Which city do you want the weather for?"
_REASON_CHARS_MAX = 300
_TEXT_CHARS_MAX = 4_000
_ENTRIES_MAX = 5
_ENTRY_CHARS_MAX = 300
_ENTRY = re.compile(r"^\s{0,9}(?:\d{1,3}[.)]|[-*•])\s+")

_ABILITIES = (
    ("calculator", "calculate: *What is 15 multiplied by 23?*"),
    ("save_note", "save a note: *Save a note: buy milk*"),
    ("find_notes", "find notes: *Find my notes about milk*"),
    ("get_weather", "look up the weather: *What's the weather in Seattle?*"),
    ("web_search", "search the web: *Search the web for the history of tea*"),
)
_GREETINGS = ("Hello!", "Hi there!", "Good to see you!")
_SMALL_TALK = {
    "greeting": "{hello} I'm Unflappable's practice model. Ask *help* for what I can do.",
    "thanks": "You're welcome!",
    "farewell": "Goodbye!",
    "weather": ASK_CITY,
}
_ABOUT = "I'm the practice model of Unflappable: a few fixed rules that run offline, not a language model"
_OWN_WORDS = (
    _ABOUT,
    ASK_CITY,
    NO_RESULT,
    NOTHING_SAVED,
    NO_CONTENT,
    "With “",
    "You're welcome",
    "Goodbye",
    *_GREETINGS,
)
# What could not be done, by tool; the tool's own reason follows.
_FAILURES = {
    "calculator": "I could not calculate `{expression}`",
    "save_note": "There is a problem with the note",
    "find_notes": "I could not search your notes",
    "get_weather": "I could not get the weather for {city}",
    "web_search": "I could not search the web for “{query}”",
}


def about(offered: frozenset[str]) -> str:
    """What the practice model is, what it can do with the tools offered, and how to get a real one."""
    lines = [f"- {what}" for tool, what in _ABILITIES if tool in offered]
    can = "I can use these tools for you, several in one question:\n\n" + "\n".join(lines)
    return (
        f"{_ABOUT}, so I can't answer other questions or make conversation. "
        + (can if lines else "No tools are offered to me here, so there is nothing I can do.")
        + "\n\nTo talk to Claude, set `ANTHROPIC_API_KEY` and start again."
    )


def is_own_talk(answer: str) -> bool:
    """Whether an earlier answer was small talk of this model, and so is nothing to go on from."""
    return answer.startswith(_OWN_WORDS)


def small_talk(clauses: list[Clause], offered: frozenset[str], draw: int) -> str:
    """The answer to a question that takes no tool; `draw` chooses among equal greetings."""
    kinds = [clause.kind for clause in clauses]
    if not kinds or "about" in kinds or "unknown" in kinds:
        return about(offered)
    # The last thing said wants the answer: "hello, what's the weather?"
    return _SMALL_TALK[kinds[-1]].format(hello=_GREETINGS[draw % len(_GREETINGS)])


def report(clauses: list[Clause], outcomes: list[Outcome]) -> str:
    """The answer made of all that was found, in the order it was asked, and of what was not."""
    parts = [_part(outcome) for outcome in outcomes]
    parts += [ASK_CITY for clause in clauses if clause.kind == "weather" and not clause.steps]
    strange = [clause.text for clause in clauses if clause.kind == "unknown"]
    if strange:
        said = " and ".join(f"“{_shortened(text, 80)}”" for text in strange[:3])
        parts.append(f"With {said} I can't help: I'm only the practice model, not a language model.")
    return "\n\n".join(dict.fromkeys(part for part in parts if part))


def _part(outcome: Outcome) -> str:
    tool, arguments = outcome.step.tool, outcome.arguments
    match outcome.state:
        case "done":
            return _DONE[tool](arguments, outcome.text[:_TEXT_CHARS_MAX])
        case "impossible":
            return outcome.text
        case "failed":
            what = _FAILURES[tool].format_map({**dict.fromkeys(("expression", "city", "query"), ""), **arguments})
            reason = _shortened(outcome.text, _REASON_CHARS_MAX) or "the tool did not say why"
            return f"{what}: {reason}{'' if reason.endswith(('.', '!', '?')) else '.'}"
        case _:
            return f"I stopped before `{tool}` was done."


def _search_results(arguments: dict[str, Any], text: str) -> str:
    intro, entries = _entries(text)
    heading = f"Search results for “{arguments.get('query', '')}”:"
    if not entries:
        return f"{heading}\n\n{text}" if text else f"The search for “{arguments.get('query', '')}” found nothing."
    shown = [f"- {_shortened(entry, _ENTRY_CHARS_MAX)}" for entry in entries[:_ENTRIES_MAX]]
    return "\n\n".join(filter(None, [intro, heading, "\n".join(shown)]))


def _entries(text: str) -> tuple[str, list[str]]:
    """What stands before a list of results, and the results, each on one line."""
    intro: list[str] = []
    entries: list[list[str]] = []
    for line in text.splitlines():
        if _ENTRY.match(line):
            entries.append([_ENTRY.sub("", line).strip()])
        elif line.strip():
            (entries[-1] if entries else intro).append(line.strip())
    return " ".join(intro), [" — ".join(filter(None, entry)) for entry in entries]


def _shortened(text: str, chars_max: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= chars_max else line[: chars_max - 1].rstrip() + "…"


_DONE: dict[str, Callable[[dict[str, Any], str], str]] = {
    "calculator": sum_line,
    "save_note": lambda _, text: text or "The note is saved.",
    "find_notes": lambda _, text: text or "No notes were found.",
    "get_weather": lambda arguments, text: text or f"There was no weather for {arguments.get('city', '')}.",
    "web_search": _search_results,
}
