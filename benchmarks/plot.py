"""Draws what a run came to: one strip a contest, one dot a contender, on a logarithmic scale.

The fastest and the slowest of the others are named; the tables name all.

matplotlib comes with the group `bench` only. The picture is the same bytes for the same run
(no date, a fixed salt for ids), has no background, and uses colours that can be read on
white and on black.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.measuring import OURS, Result, Row

_OURS, _PEER, _INK = "#d9480f", "#4c8dd6", "#808080"


def draw(results: Sequence[Result], path: Path) -> None:
    """Write the plot as SVG. Raises ImportError where matplotlib is not installed."""
    matplotlib = import_module("matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "unflappable", "svg.fonttype": "none", "font.size": 9})
    for part in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"):
        matplotlib.rcParams[part] = _INK
    shown = [result for result in results if result.ours_all]
    figure, axes = import_module("matplotlib.pyplot").subplots(figsize=(9, 0.66 * len(shown) + 1.2))
    for at, result in enumerate(reversed(shown)):
        _strip(axes, at, result)
    _frame(axes, shown)
    figure.tight_layout()
    figure.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    import_module("matplotlib.pyplot").close(figure)


def _strip(axes: Any, at: int, result: Result) -> None:
    if result.aim is not None:
        axes.plot([result.aim] * 2, [at - 0.3, at + 0.3], color=_INK, linewidth=1.5, linestyle=":")
    for row in result.peers:
        _dot(axes, at, row, _PEER, "o")
    ranked = sorted(result.peers, key=lambda row: row.ratio)
    for row, above, side in zip((*ranked[:1], *ranked[1:][-1:]), (5, -11), ("left", "right"), strict=False):
        place = {"xytext": (0, above), "textcoords": "offset points", "ha": side}
        axes.annotate(row.name, (row.ratio, at), fontsize=7, color=_PEER, **place)
    for row in result.ours_all[1:]:
        _dot(axes, at, row, _OURS, "d")
    _dot(axes, at, result.ours, _OURS, "D")


def _dot(axes: Any, at: int, row: Row, colour: str, shape: str) -> None:
    axes.plot([row.ratio_low, row.ratio_high], [at, at], color=colour, linewidth=1.5, alpha=0.6)
    size = 7 if shape == "D" else 5
    axes.plot([row.ratio], [at], shape, color=colour, markersize=size, alpha=0.9)


def _frame(axes: Any, shown: Sequence[Result]) -> None:
    axes.set_xscale("log")
    axes.axvline(1.0, color=_INK, linewidth=1)
    axes.set_yticks(range(len(shown)), [f"{result.title}\n(1 = {result.rows[0].name})" for result in reversed(shown)])
    ticks = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.minorticks_off()
    axes.margins(y=0.02)
    axes.set_xlabel(f"time of a call:  ◆ {OURS}, ● others (fastest and slowest named), ┊ aim")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)
    axes.grid(axis="x", color=_INK, alpha=0.25)
