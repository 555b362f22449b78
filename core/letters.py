"""Says which questions failed for good, and what is kept of them: the dead letters.  (floor 3)

A question that failed because of something that passes (an outage, a limit on calls, a deadline) is
asked again by whoever wants the answer. One that failed for good needs a person first: a refused
key, a certificate, a disk, a critical tool, a limit of this program, a mistake in it, a question that
ended it three times. Those are kept, with what it takes to mend them, and an alert is raised.

Not kept, though they are final too, is what only the one who asked can change: a question the model
declined, one that is too long, an empty one, a task id that stands for another question. What
this does not do: keep anything (`stores/dead_letters.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errors import AgentError, ErrorType
from messages import CallResult
from safe_text import mask, one_line, shorten

ASKERS_OWN = frozenset({"refusal", "too_large", "bad_input", "conflict"})
"""Reasons of FATAL failures that the asker alone can do something about."""

QUESTION_CHARS_MAX = 20_000
"""Of a question that is kept. A longer one is cut, and can be looked at but not asked again."""

WORDS_CHARS_MAX = 1_000
CALLS_KEPT_MAX = 40


@dataclass(frozen=True, slots=True)
class Letter:
    """A question that failed for good, without secrets.

    Args:
        session_id, turn_id, trace_id: where it was asked, and where to look up what happened.
        question: what was asked; without what is secret in it.
        is_whole: the question is kept to its end.
        error_type, error_kind, message, what_now: as in the report.
        calls: the tool calls that were made, as `name status`.
        attempts: how often a model was tried.
        when_s: when it failed, wall clock in seconds.
        program: name and version of the program.
        tries: how often it was asked in all.
        number: its place among the dead letters; 0 before it has one.
    """

    session_id: str
    turn_id: str
    trace_id: str
    question: str
    is_whole: bool
    error_type: str
    error_kind: str
    message: str
    what_now: str
    calls: tuple[str, ...]
    attempts: int
    when_s: float
    program: str
    tries: int = 1
    number: int = 0


def is_final(error: AgentError | None) -> bool:
    """Whether a question that ended with this error is a dead letter."""
    return error is not None and error.kind is ErrorType.FATAL and error.reason not in ASKERS_OWN


def letter_of(
    error: AgentError,
    question: str,
    results: Sequence[CallResult],
    *,
    session_id: str,
    turn_id: str,
    trace_id: str,
    attempts: int,
    when_s: float,
    program: str,
) -> Letter:
    """What is kept of a question that failed for good.

    Args:
        error: why it failed.
        question: what was asked.
        results: of its tool calls.
        session_id, turn_id, trace_id, attempts, when_s, program: as in `Letter`.
    """
    words = mask(question)
    calls = [f"{one_line(one.call.name, 60)} {one.status}" for one in results[:CALLS_KEPT_MAX]]
    return Letter(
        session_id, turn_id, trace_id, shorten(words, QUESTION_CHARS_MAX), len(words) <= QUESTION_CHARS_MAX,
        error.type, error.kind.value, one_line(error.message, WORDS_CHARS_MAX),
        one_line(error.what_now, WORDS_CHARS_MAX), tuple(calls), attempts, when_s, program,
    )  # fmt: skip
