"""What a whole drill came to: rows summed up over agents and runs, and the JSON of it.  (floor 6)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from drills.running import BROKEN, HELD, SKIPPED, Result
from drills.survival import Point


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table: all plays of one row of the matrix."""

    name: str
    promise: str
    verdict: str
    happened: str
    attempts: str
    took_s: float
    agents: tuple[str, ...]
    broken: tuple[Result, ...]


@dataclass(slots=True)
class Outcome:
    """A drill as far as it got.

    Args:
        seed, runs: as given.
        ground: what differs from the person's settings, in words.
        planned: how many plays there were to be.
        stopped: it was ended by a signal before all was played.
    """

    seed: int
    runs: int
    ground: Sequence[str]
    planned: int
    results: list[Result] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    took_s: float = 0.0
    stopped: bool = False

    @property
    def status(self) -> str:
        """ok, failed where a promise broke, cancelled where it was stopped before one did."""
        if self.count(BROKEN):
            return "failed"
        return "cancelled" if self.stopped else "ok"

    def count(self, verdict: str) -> int:
        """How many plays had this verdict."""
        return sum(result.verdict == verdict for result in self.results)

    @property
    def bound(self) -> str:
        """What no failure in so many plays says about the rate of failures."""
        plays = self.count(HELD)
        return f"0 broken in {plays} plays bounds the rate at {3 / plays:.2g} (3/N, 95 %)" if plays else ""

    def lines(self) -> list[Line]:
        """The table, in the order played."""
        by_name: dict[str, list[Result]] = {}
        for result in self.results:
            by_name.setdefault(result.row.name, []).append(result)
        return [_line(plays) for plays in by_name.values()]


def _line(plays: Sequence[Result]) -> Line:
    broken = tuple(play for play in plays if play.verdict == BROKEN)
    played = [play for play in plays if play.verdict != SKIPPED]
    shown = (broken or played or plays)[0]
    attempts = sorted({play.attempts for play in played if play.attempts is not None})
    return Line(
        shown.row.name,
        shown.row.promise,
        BROKEN if broken else HELD if played else SKIPPED,
        shown.happened,
        ", ".join(map(str, attempts)),
        max((play.took_s for play in played), default=0.0),
        tuple(dict.fromkeys(play.agent for play in plays)),
        broken,
    )


def outcome_json(outcome: Outcome, report: str | None) -> dict[str, Any]:
    """The object of `--json`."""
    return {
        "status": outcome.status,
        "seed": outcome.seed,
        "runs": outcome.runs,
        "planned": outcome.planned,
        "held": outcome.count(HELD),
        "broken": outcome.count(BROKEN),
        "skipped": outcome.count(SKIPPED),
        "duration_ms": round(outcome.took_s * 1000),
        "settings": list(outcome.ground),
        "rows": [_result_json(result) for result in outcome.results],
        "survival": [_point_json(point) for point in outcome.points],
        "report": report,
        "error": None,
    }


def _result_json(result: Result) -> dict[str, Any]:
    return {
        "name": result.row.name,
        "faults": list(result.row.faults),
        "promise": result.row.promise,
        "agent": result.agent,
        "verdict": result.verdict,
        "happened": result.happened,
        "breaches": list(result.breaches),
        "attempts": result.attempts,
        "duration_ms": round(result.took_s * 1000),
        "reproduce": result.reproduce,
    }


def _point_json(point: Point) -> dict[str, Any]:
    return {
        "trouble": point.trouble,
        "setup": point.setup,
        "rate": point.rate,
        "questions": point.asked,
        "survived": point.survived,
        "requests_per_question": round(point.requests, 3),
        "mean_s": round(point.wait_s, 3),
    }
