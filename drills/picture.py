"""Draws the survival chart as SVG, readable on light and on dark.  (floor 6)

Three panels: the share of questions answered right and in time, for each kind of trouble, and how long
one waits while models are silent, since that is where a breaker shows its worth. The same points give
the same bytes. Colours are of middle brightness, there is no background, and lines differ by their
dashes too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from drills.survival import RATES, SETUPS, Point

WIDTH, HEIGHT = 960, 330
_LEFT, _TOP, _PANEL, _UP, _GAP = 46, 52, 240, 190, 66
_INK = "#808080"
_LINES = {
    "no guards": ("#8a8f98", "2 4"),
    "retries": ("#4c8dd6", "7 4"),
    "retries + breakers": ("#b7791f", "11 3 2 3"),
    "retries + breakers + fallbacks": ("#d9480f", "1 0"),
}


@dataclass(frozen=True, slots=True)
class _Panel:
    """One panel: what it shows of which trouble, and the words around it."""

    trouble: str
    title: str
    below: str
    value: Callable[[Point], float]
    unit: str
    most: float


def svg(points: Sequence[Point]) -> str:
    """The chart of these points."""
    asked = points[0].asked if points else 0
    waits_s = max((point.wait_s for point in points if point.trouble == "outages"), default=1.0)
    panels = (
        _Panel("passing", "Passing failures: answered", "share of attempts that fail", _percent, "%", 100),
        _Panel("outages", "Outages: answered", "share of the time each model is silent", _percent, "%", 100),
        _Panel(
            "outages", "Outages: mean wait", "share of the time each model is silent", _wait, "s", _round_up(waits_s)
        ),
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{_INK}">',
        f"<title>{asked} questions a point: how many were answered right and in time, by fault rate and guards</title>",
    ]
    for position, panel in enumerate(panels):
        parts += _drawn(panel, _LEFT + position * (_PANEL + _GAP), points)
    return "\n".join([*parts, *_legend(), "</svg>", ""])


def _percent(point: Point) -> float:
    return point.share * 100


def _wait(point: Point) -> float:
    return point.wait_s


def _round_up(value: float) -> float:
    """The next of 4, 8, 20, 40, 80, 200, ...: quarters of it are round too."""
    most = 4.0
    for factor in (2, 2.5, 2) * 12:
        if most >= value:
            break
        most *= factor
    return most


def _drawn(panel: _Panel, left: float, points: Sequence[Point]) -> list[str]:
    foot = _TOP + _UP
    parts = [f'<text x="{left}" y="30" font-weight="600" font-size="13">{escape(panel.title)}</text>']
    for quarter in range(5):
        y = foot - quarter * _UP / 4
        parts.append(f'<path d="M{left} {y:g}h{_PANEL}" stroke="{_INK}" stroke-opacity="0.25"/>')
        words = f"{quarter * panel.most / 4:g} {panel.unit}"
        parts.append(f'<text x="{left - 6}" y="{y + 4:g}" text-anchor="end">{words}</text>')
    for rate in RATES:
        parts.append(f'<text x="{_x(left, rate):g}" y="{foot + 17}" text-anchor="middle">{rate:g}</text>')
    parts.append(f'<text x="{left + _PANEL / 2:g}" y="{foot + 34}" text-anchor="middle">{escape(panel.below)}</text>')
    for setup in SETUPS:
        parts += _line(panel, left, [one for one in points if (one.trouble, one.setup) == (panel.trouble, setup)])
    return parts


def _line(panel: _Panel, left: float, points: Sequence[Point]) -> list[str]:
    if not points:
        return []
    colour, dashes = _LINES[points[0].setup]
    places = [(_x(left, one.rate), _TOP + _UP * (1 - panel.value(one) / panel.most), one) for one in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    parts = [f'<polyline points="{path}" fill="none" {_stroke(colour, dashes)}/>']
    for x, y, one in places:
        told = f"{one.setup}, rate {one.rate:g}: {one.share:.1%} of {one.asked}, {one.wait_s:.1f} s on average"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"><title>{escape(told)}</title></circle>'
        )
    return parts


def _legend() -> list[str]:
    parts, at_x = [], _LEFT
    for setup in SETUPS:
        parts.append(f'<path d="M{at_x} {HEIGHT - 18}h34" {_stroke(*_LINES[setup])}/>')
        parts.append(f'<text x="{at_x + 42}" y="{HEIGHT - 14}">{escape(setup)}</text>')
        at_x += 76 + 7 * len(setup)
    return parts


def _stroke(colour: str, dashes: str) -> str:
    return f'stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}"'


def _x(left: float, rate: float) -> float:
    return left + rate / RATES[-1] * _PANEL
