"""Takes a question that was cut off apart into plain values, and puts it together again.  (floor 3)

The history is kept by itself; this is the rest of a `Turn`: its counters, the calls that ended,
the blocks of the answer under way. Deadlines are not among them: a question that is taken up
again has its whole time again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.journal import Recorded
from core.report import TurnReport
from core.stuck import Circles
from messages import (
    Json,
    Message,
    Usage,
    block_from_json,
    block_to_json,
    result_from_json,
    result_to_json,
    values_of,
)

if TYPE_CHECKING:
    from core.turn import Turn

CRASHES_MAX = 3
"""A question that ended the program so often is not tried again: it would do so once more."""

_PLAIN = (
    "calls_left", "cost_usd", "model", "rounds", "corrections", "again", "nudges", "nudging", "pauses",
    "tokens_max", "trims", "left_out", "nobody", "starts", "task_id", "only",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CutOff:
    """A question that a crash cut off, as it was kept.

    Args:
        id: of the turn.
        question: what was asked.
        before: the history when it began.
        messages: the history with what it added.
        state: what `state_of` made of the rest.
        recorded: what the journal knows of its calls, by call id.
    """

    id: str
    question: str
    before: tuple[Message, ...]
    messages: tuple[Message, ...]
    state: Json
    recorded: Mapping[str, Recorded]

    @property
    def crashes(self) -> int:
        """How often the program ended while it worked on this."""
        return int(self.state["starts"])

    @property
    def is_poison(self) -> bool:
        """Whether it is better not tried again."""
        return self.crashes >= CRASHES_MAX


def state_of(turn: Turn) -> dict[str, Any]:
    """All of an open turn but its messages, as plain values; `restore` is its inverse."""
    return {
        **{name: getattr(turn, name) for name in _PLAIN},
        "before": len(turn.before),
        "usage": values_of(turn.usage),
        "paused": [block_to_json(block) for block in turn.paused],
        "batch_blocks": [block_to_json(block) for block in turn.batch_blocks],
        "results": [result_to_json(result) for result in turn.results],
        "circles": [turn.circles.last, turn.circles.repeats],
    }


def restore(turn: Turn, cut: CutOff) -> Turn:
    """Make a turn that has just begun stand where the one that was cut off stood. Raises KeyError or TypeError."""
    state = cut.state
    for name in _PLAIN:
        setattr(turn, name, state[name])
    turn.before, turn.messages, turn.recorded = cut.before, cut.messages, cut.recorded
    turn.starts += 1
    turn.censored = bool(state.get("censored"))
    turn.usage = Usage(**state["usage"])
    turn.paused = tuple(block_from_json(block) for block in state["paused"])
    turn.batch_blocks = tuple(block_from_json(block) for block in state["batch_blocks"])
    turn.results = [result_from_json(result) for result in state["results"]]
    turn.circles = Circles(*state["circles"])
    turn.approvals.remember({known.intent.digest for known in cut.recorded.values() if known.intent.approved})
    return turn


def report_to_json(report: TurnReport) -> dict[str, Any]:
    """An answer as plain values, for the task it was given to; `report_from_json` is its inverse."""
    return {
        **values_of(report),
        "tool_calls": [result_to_json(result) for result in report.tool_calls],
        "usage": values_of(report.usage),
        "error": None,
    }


def report_from_json(kept: Json) -> TurnReport:
    """The answer that was kept. Raises KeyError or TypeError for anything else."""
    results = tuple(result_from_json(result) for result in kept["tool_calls"])
    rest = {**kept, "usage": Usage(**kept["usage"]), "tool_calls": results, "degraded": tuple(kept["degraded"])}
    return TurnReport(**rest)
