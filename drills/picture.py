"""Draws the survival chart as SVG, readable on light and on dark.  (floor 6)

Two panels, one for each kind of trouble: across is the fault rate, up the share of questions answered
right and in time. The same points give the same bytes. Colours are of middle brightness, there is no
background, and lines differ by their dashes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from drills.survival import RATES, SETUPS, TROUBLES, Point

WIDTH, HEIGHT = 760, 330
_LEFT, _TOP, _PANEL, _UP, _GAP = 44, 40, 300, 200, 66
_INK = "#808080"
_LINES = {
    "no guards": ("#8a8f98", "2 4"),
    "retries": ("#4c8dd6", "7 4"),
    "retries + breakers": ("#b7791f", "1 0"),
    "retries + breakers + fallbacks": ("#d9480f", "1 0"),
}
_TITLES = {
    "passing": "Passing failures: each attempt fails at this rate",
    "outages": "Outages: each model is silent for this share of the time",
}


def svg(points: Sequence[Point]) -> str:
    """The chart of these points."""
    asked = points[0].asked if points else 0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="{_INK}">',
        f"<title>Share of {asked} questions answered right and in time, by fault rate and guards</title>",
    ]
    for position, trouble in enumerate(TROUBLES):
        parts += _panel(_LEFT + position * (_PANEL + _GAP), trouble, [one for one in points if one.trouble == trouble])
    return "\n".join([*parts, *_legend(), "</svg>", ""])


def _panel(left: int, trouble: str, points: Sequence[Point]) -> list[str]:
    parts = [f'<text x="{left}" y="22" font-weight="600">{escape(_TITLES[trouble])}</text>']
    for percent in range(0, 101, 25):
        y = _y(percent / 100)
        parts.append(f'<path d="M{left} {y:g}h{_PANEL}" stroke="{_INK}" stroke-opacity="0.25"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:g}" text-anchor="end">{percent} %</text>')
    for rate in RATES:
        parts.append(f'<text x="{_x(left, rate):g}" y="{_TOP + _UP + 17}" text-anchor="middle">{rate:g}</text>')
    for setup in SETUPS:
        parts += _line(left, setup, [point for point in points if point.setup == setup])
    return parts


def _line(left: int, setup: str, points: Sequence[Point]) -> list[str]:
    colour, dashes = _LINES[setup]
    places = [(_x(left, point.rate), _y(point.share), point) for point in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    parts = [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}"/>'
    ]
    for x, y, point in places:
        told = f"{setup}, rate {point.rate:g}: {point.share:.1%} of {point.asked}, {point.wait_s:.1f} s on average"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"><title>{escape(told)}</title></circle>'
        )
    return parts


def _legend() -> list[str]:
    parts, x, y = [], _LEFT, HEIGHT - 40
    for position, setup in enumerate(SETUPS):
        colour, dashes = _LINES[setup]
        at_x, at_y = x + position % 2 * (_PANEL + _GAP), y + position // 2 * 20
        stroke = f'stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dashes}"'
        parts.append(f'<path d="M{at_x} {at_y}h34" {stroke}/>')
        parts.append(f'<text x="{at_x + 42}" y="{at_y + 4}">{escape(setup)}</text>')
    return parts


def _x(left: int, rate: float) -> float:
    return left + rate / RATES[-1] * _PANEL


def _y(share: float) -> float:
    return _TOP + (1 - share) * _UP
