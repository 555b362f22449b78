"""The tables of a drill as Markdown, for the README.  (floor 6)"""

from __future__ import annotations

from collections.abc import Sequence

from drills.outcome import Line
from drills.survival import RATES, SETUPS, TROUBLES, Point
from safe_text import one_line

_TROUBLES = {"passing": "attempts fail", "outages": "models are silent"}


def matrix_table(lines: Sequence[Line]) -> str:
    """One line a row of the matrix."""
    head = ["| fault | what must hold | what happened | tries | s | verdict |", "|---|---|---|---:|---:|---|"]
    return "\n".join([*head, *(_line(line) for line in lines)])


def _line(line: Line) -> str:
    name = f"`{line.name}`" if ":" in line.name.partition(" ")[0].rstrip(":") else line.name
    cells = (
        name,
        line.promise,
        one_line(line.happened, 90),
        line.attempts,
        f"{line.took_s:.1f}",
        line.verdict,
    )
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def survival_table(points: Sequence[Point]) -> str:
    """Questions answered right and in time, by trouble and guards; the last columns are those of the worst rate."""
    rates = " | ".join(f"{rate:g}" for rate in RATES)
    head = [
        f"| trouble | switched on | {rates} | mean wait at {RATES[-1]:g} | requests a question |",
        f"|---|---|{'---:|' * (len(RATES) + 2)}",
    ]
    return "\n".join([*head, *(_rates(points, trouble, setup) for trouble in TROUBLES for setup in SETUPS)])


def _rates(points: Sequence[Point], trouble: str, setup: str) -> str:
    row = [point for point in points if (point.trouble, point.setup) == (trouble, setup)]
    shares = " | ".join(point.shown for point in row)
    return f"| {_TROUBLES[trouble]} | {setup} | {shares} | {row[-1].wait_s:.1f} s | {row[-1].requests:.1f} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
