"""What the drill does from the command line on: play the matrix, draw the chart, tell, and judge.  (floor 6)

Exit 0 when every promise held, 1 when one broke, 2 for options or settings that make no sense, 130
(129, 143) when a signal ended it; what was played until then is told.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import cli
from early_end import heed_signals
from safe_text import one_line

if TYPE_CHECKING:
    from drills.matrix import Row
    from drills.options import Wanted
    from drills.outcome import Outcome


class _Signals:
    """Which signal ended the drill. It becomes a KeyboardInterrupt wherever the drill is."""

    def __init__(self) -> None:
        self._number = int(signal.SIGINT)
        heed_signals(self)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the one that asyncio's runner takes over and cancels

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        self._number = number
        raise KeyboardInterrupt

    @property
    def code(self) -> int:
        """The exit code."""
        return 128 + self._number


def run(program: str) -> None:
    """Run the drill to its exit code.

    Args:
        program: its file name, for usage errors.
    """
    as_json = "--json" in sys.argv[1:]
    with cli.last_boundary(as_json=as_json):
        from config import environment_with_dotenv, read_settings
        from drills.options import Wanted, parse

        wanted = parse(sys.argv[1:], program) if sys.argv[1:] else Wanted()
        given = environment_with_dotenv()
        read_settings(given)  # a bad value is told before anything slow is loaded
        chosen, with_chart = _chosen(wanted.only)
        signals = _Signals()
        outcome = _drill(wanted, given, chosen, with_chart)
        report = _written(outcome, wanted.report)
        failed = outcome.status == "failed" or report is None
        _tell(outcome, report, signals.code if outcome.stopped else int(failed), as_json=as_json)


def _chosen(only: str) -> tuple[list[Row], bool]:
    """The rows to play, and whether the chart is wanted. Raises UsageError when it is nothing at all."""
    from drills.matrix import rows

    chosen = [row for row in rows() if only.lower() in row.name.lower()]
    with_chart = only.lower() in ("", "survival")
    if not chosen and not with_chart:
        raise cli.UsageError(
            f"no row has {one_line(only, 60)!r} in its name", what_now="Without --only all rows are played and named."
        )
    return chosen, with_chart


def _drill(wanted: Wanted, given: Mapping[str, str], chosen: Sequence[Row], with_chart: bool) -> Outcome:
    """Play it all, or as much as there was time for before a signal came."""
    from config import read_settings
    from drills import survival
    from drills.ground import NO_PROXY, make_ground, told_of
    from drills.outcome import Outcome
    from drills.running import BROKEN, play_all
    from drills.screen import live
    from telemetry.logs import configure_logging

    begun_s, plays = time.monotonic(), wanted.runs * sum(len(row.agents) for row in chosen)
    with tempfile.TemporaryDirectory(prefix="drill-", ignore_cleanup_errors=True) as folder:
        os.environ.update(NO_PROXY)
        configure_logging("chat", Path(folder))  # what the agents log is about failures on purpose
        ground = told_of(given, make_ground(given, Path(folder), "http://127.0.0.1:9"))
        outcome = Outcome(wanted.seed, wanted.runs, ground, plays)
        points = survival.POINTS if with_chart else 0
        try:
            with live(plays + points) as line:
                for result in play_all(
                    chosen, given, wanted.seed, wanted.runs, lambda row, agent: line.begin(f"{row.name} ({agent})")
                ):
                    outcome.results.append(result)
                    line.end(outcome.count(BROKEN))
                line.begin("survival, on a virtual clock")
                for point in survival.chart(read_settings(given), wanted.seed) if with_chart else ():
                    outcome.points.append(point)
                    line.end(outcome.count(BROKEN))
        except KeyboardInterrupt:
            outcome.stopped = True
    outcome.took_s = time.monotonic() - begun_s
    return outcome


def _written(outcome: Outcome, path: Path) -> str | None:
    """Write the HTML report; where it is, None when it could not be written (which is told)."""
    from drills.report import html

    try:
        path.write_text(html(outcome), encoding="utf-8")
    except OSError as error:
        print(f"the report could not be written to {one_line(str(path))}: {error.strerror or error}", file=sys.stderr)
        return None
    return str(path)


def _tell(outcome: Outcome, report: str | None, code: int, *, as_json: bool) -> NoReturn:
    from drills.outcome import outcome_json

    if as_json:
        cli.conclude(cli.json_line(outcome_json(outcome, report)), code)
    from drills.screen import tables

    cli.conclude(tables(outcome, report), code)
