"""Keeps track of the steps of a question: which are done, failed, ready, or must wait (floor 4).

The plan is made anew from the question for every request, and the calls found in the conversation are
matched to it; so nothing is remembered between requests, and a call that came out wrong (lost, altered,
answered with an error about its form) is simply still to be made. A step that needs the result of another
waits until that one is done; when it failed, the step is impossible and says why.

It deliberately makes up no result: what no tool said is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from models.practice import arithmetic
from models.practice.grammar import Clause, Step
from models.practice.history import Call, Turn

NOTE_CHARS_MAX = 4_000  # of a note made from results; a person's own words are never cut
NO_RESULT = "There is no earlier result to go on from."
NO_NUMBER = "So there is no number to go on from."
NO_CONTENT = "What should the note say? For example: *save a note: buy milk*."
NOTHING_SAVED = "Nothing was saved, because there is no result to save."
State = Literal["done", "failed", "ready", "waiting", "impossible"]
_NUMBER = re.compile(r"-?\d[\d,_]*(?:\.\d+)?(?:e[+-]?\d+)?(?:\s*/\s*\d+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far one step has come. `text` is what the tool said, or why the step is impossible."""

    clause: Clause
    step: Step
    state: State
    arguments: dict[str, Any]
    text: str = ""


@dataclass(frozen=True, slots=True)
class _Result:
    tool: str
    arguments: dict[str, Any]
    text: str


def follow(clauses: list[Clause], turn: Turn, earlier: list[Turn], offered: frozenset[str]) -> list[Outcome]:
    """The outcome so far of every step of this question, in order, each distinct call once."""
    outcomes: list[Outcome] = []
    calls = list(turn.calls)
    for clause in clauses:
        for step in clause.steps:
            outcome = _outcome(clause, step, outcomes, calls, earlier, offered)
            if not any(_same(outcome, other) for other in outcomes):
                outcomes.append(outcome)
    return outcomes


def sum_line(arguments: dict[str, Any], text: str) -> str:
    """A calculator's result as an equation, whether or not the tool wrote one."""
    first = _first_line(text)
    if "=" in first:
        return first
    return f"{arguments.get('expression', '')} {first if first.startswith('≈') else f'= {first}'}"


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _same(one: Outcome, other: Outcome) -> bool:
    return bool(one.arguments) and (one.step.tool, one.arguments) == (other.step.tool, other.arguments)


def _outcome(
    clause: Clause,
    step: Step,
    outcomes: list[Outcome],
    calls: list[Call],
    earlier: list[Turn],
    offered: frozenset[str],
) -> Outcome:
    arguments = step.arguments
    if step.refers:
        needed = _needed(clause, step, outcomes)
        if any(outcome.state in ("ready", "waiting") for outcome in needed):
            return Outcome(clause, step, "waiting", {})
        results = [_Result(o.step.tool, o.arguments, o.text) for o in needed if o.state == "done"]
        if not needed:
            results = _older(step, earlier)
        filled = _filled(step, results)
        if filled is None:
            return Outcome(clause, step, "impossible", {}, _lacking(step, had_sources=bool(needed)))
        arguments = filled
    call = _take(calls, step, arguments)
    if call is not None:
        return Outcome(clause, step, "failed" if call.failed else "done", arguments, call.result)
    if step.tool not in offered:
        reason = f"I can't use `{step.tool}` here: it isn't offered in this conversation."
        return Outcome(clause, step, "impossible", arguments, reason)
    return Outcome(clause, step, "ready", arguments)


def _needed(clause: Clause, step: Step, outcomes: list[Outcome]) -> list[Outcome]:
    """The steps of this question whose results the step speaks of."""
    found = [outcome for outcome in outcomes if outcome.step.tool != "save_note"]
    if step.refers == "inner":
        return [outcome for outcome in found if outcome.clause is clause]
    if step.refers in ("all", "here"):
        return found
    if step.refers != "last":
        found = [outcome for outcome in found if outcome.step.tool == step.refers]
    return [outcome for outcome in found if outcome.clause is found[-1].clause]


def _older(step: Step, earlier: list[Turn]) -> list[_Result]:
    """What earlier questions found, the latest one that found anything."""
    if step.refers in ("inner", "here"):
        return []
    for turn in reversed(earlier):
        found = [
            _Result(call.tool, call.arguments, call.result)
            for call in turn.calls
            if not call.failed and call.tool != "save_note" and step.refers in (call.tool, "last", "all")
        ]
        if found:
            return found
    answers = [turn.answer for turn in earlier if turn.answer]
    return [_Result("", {}, answers[-1])] if answers else []


def _filled(step: Step, results: list[_Result]) -> dict[str, Any] | None:
    """The step's arguments with the results put in, or None when there is nothing to put in."""
    if step.tool == "calculator":
        values = [value for value in map(_value, results) if value]
        return {"expression": arithmetic.fill(step.arguments["expression"], values[-1])} if values else None
    content = "\n\n".join(_for_a_note(results)).strip()[:NOTE_CHARS_MAX]
    return {"content": content, **step.arguments} if content else None


def _for_a_note(results: Iterable[_Result]) -> Iterable[str]:
    for result in results:
        is_sum = result.tool == "calculator"
        yield sum_line(result.arguments, result.text) if is_sum else result.text


def _value(result: _Result) -> str | None:
    """The number that a calculator's text, or an answer with an equation in it, ends in; exact when it can be."""
    first = _first_line(result.text)
    is_sum = result.tool == "calculator" or (not result.tool and "=" in first)
    if not is_sum:
        return None
    match = _NUMBER.search(first.rpartition("=")[2])  # of "1/3 ≈ 0.333" the exact one
    return re.sub(r"[,_\s]", "", match[0]) if match else None


def _lacking(step: Step, had_sources: bool) -> str:
    if step.tool == "calculator":
        return NO_NUMBER if had_sources else NO_RESULT
    return NOTHING_SAVED if had_sources else NO_CONTENT


def _take(calls: list[Call], step: Step, arguments: dict[str, Any]) -> Call | None:
    """The call made for this step, taken off the list.

    A result may have been shortened in the history since it was put into a note; so a note of a result
    that was saved is not saved again in slightly other words.
    """
    fitting = [call for call in calls if call.tool == step.tool and call.arguments == arguments]
    if not fitting and step.refers:
        fitting = [call for call in calls if call.tool == step.tool and not call.failed]
    if fitting:
        calls.remove(fitting[0])
    return fitting[0] if fitting else None
