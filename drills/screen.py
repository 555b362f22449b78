"""Shows a drill while it runs, and its tables at the end.  (floor 6)

While it runs there is one line on stderr, and only where a person looks: what is played, how far it is,
how many promises broke. The tables go to stdout when all is over.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from drills import survival
from drills.outcome import Outcome
from drills.running import BROKEN, HELD, SKIPPED
from drills.survival import RATES, SETUPS, TROUBLES, Point
from safe_text import clean, one_line
from ui.theme import Theme

WIDTH = 120
"""Columns of the tables where there is no terminal that has a width."""

NARROW = 76
"""With fewer columns there is no room for a table: a list then."""

_STYLES = {HELD: "green", BROKEN: "bold red", SKIPPED: "yellow"}
_TITLE = "Questions answered right, in time (your settings, unscaled; time and network simulated)"
_TROUBLES = {
    "passing": "each attempt on a model fails by itself at this rate",
    "outages": "each model is silent for this share of the time",
}


class Live:
    """The line that tells what is played now; does nothing where nobody could see it move."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total, broken="") if progress else None

    def begin(self, what: str) -> None:
        """This is played now."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=one_line(what, 40))

    def end(self, broken: int) -> None:
        """It is over; so many promises are broken so far."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=1, broken=f"{broken} BROKEN" if broken else "")


@contextlib.contextmanager
def live(total: int) -> Iterator[Live]:
    """The line, for as long as the drill runs; the terminal is as before afterwards, whatever happens."""
    if not Theme.of(sys.stderr, os.environ).moves:
        yield Live(None, total)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[broken]}", markup=False, style="bold red"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Live(progress, total)


def tables(outcome: Outcome, report: str | None) -> str:
    """All that is told at the end, for this stdout."""
    theme = Theme.of(sys.stdout, os.environ)
    width = shutil.get_terminal_size((WIDTH, 24)).columns
    out = io.StringIO()
    console = Console(
        file=out, width=max(width, 20), force_terminal=theme.colour, no_color=not theme.colour, highlight=False,
        color_system="standard" if theme.colour else None, safe_box=True, emoji=False, markup=False,
    )  # fmt: skip
    for line in outcome.ground:
        console.print(Text(clean(line), style="dim"))
    if outcome.results:
        console.print(_matrix(outcome) if console.width >= NARROW else _list(outcome))
    for text in _broken(outcome):
        console.print(text)
    if outcome.points:
        console.print(_survival(outcome.points))
        console.print(Text(survival.bound(outcome.points[0].asked) + "\n", style="dim"))
    console.print(_summary(outcome, report))
    return theme.spelled(out.getvalue()).rstrip()


def _matrix(outcome: Outcome) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("fault", ratio=3, overflow="fold")
    table.add_column("what happened", ratio=6, overflow="fold")
    table.add_column("tries", justify="right")
    table.add_column("s", justify="right")
    table.add_column("verdict", no_wrap=True)
    for line in outcome.lines():
        skipped = line.verdict == SKIPPED
        table.add_row(
            Text(line.name),
            Text(one_line(line.happened, 110)),
            line.attempts,
            "" if skipped else f"{line.took_s:.1f}",
            Text(line.verdict, style=_STYLES[line.verdict]),
        )
    return table


def _list(outcome: Outcome) -> Text:
    words = Text("\n")
    for line in outcome.lines():
        words.append(f"{line.verdict:8}", style=_STYLES[line.verdict])
        words.append(f"{line.name}\n")
    return words


def _broken(outcome: Outcome) -> Iterator[Text]:
    for line in outcome.lines():
        for result in line.broken:
            words = Text(f"BROKEN  {line.name} ({result.agent}): {line.promise}\n", style="red")
            for breach in result.breaches:
                words.append(f"        {clean(breach)}\n", style="default")
            words.append(f"        again: {result.reproduce}\n", style="default")
            yield words


def _survival(points: list[Point]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=_TITLE, title_justify="left")
    table.add_column("switched on")
    for rate in RATES:
        table.add_column(f"{rate:g}", justify="right")
    table.add_column("wait at 0.5", justify="right")
    table.add_column("requests", justify="right")
    for trouble in TROUBLES:
        table.add_row(Text(_TROUBLES[trouble], style="dim"))
        for setup in SETUPS:
            row = [point for point in points if (point.trouble, point.setup) == (trouble, setup)]
            if row:
                shares = [point.shown for point in row] + [""] * (len(RATES) - len(row))
                table.add_row(f"  {setup}", *shares, f"{row[-1].wait_s:.1f} s", f"{row[-1].requests:.1f}")
    return table


def _summary(outcome: Outcome, report: str | None) -> Text:
    held, broken, skipped = (outcome.count(verdict) for verdict in (HELD, BROKEN, SKIPPED))
    words = Text()
    if outcome.stopped:
        words.append(f"Stopped after {len(outcome.results)} of {outcome.planned} plays.\n", style="yellow")
    if not outcome.planned:
        return words.append(f"Report: {clean(report)}\n" if report else "")
    counts = f"{held} held, {broken} broken, {skipped} skipped; seed {outcome.seed}, {outcome.took_s:.0f} s.\n"
    words.append(counts, style="bold red" if broken else "bold green" if held else "bold")
    if outcome.bound and not broken:
        words.append(f"{outcome.bound}.\n")
    if report:
        words.append(f"Report: {clean(report)}\n")
    return words
