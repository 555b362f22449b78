"""The options of the drill, declared for typer.  (floor 6)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cli import UsageError
from ui.options import parsed, print_version

REPORT = "drill-report.html"
RUNS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """The command line, parsed. `only` is a part of the names wanted; "" for all."""

    runs: int = 1
    seed: int = 1
    only: str = ""
    json: bool = False
    report: Path = Path(REPORT)


def _options(
    runs: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=RUNS_MAX, help="Play every row so often, each time with the next seed."),
    ] = 1,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of faults, jitter and the chart: repeats a run.")] = 1,
    only: Annotated[
        str, typer.Option(metavar="WORD", help="Only rows whose name contains this; `survival` is the chart.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of tables.")] = False,
    report: Annotated[str, typer.Option(metavar="PATH", help="Where the HTML report goes.")] = REPORT,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)
    ] = False,
) -> Wanted:
    """Break everything this agent depends on, one fault after the other, and look whether it keeps its promises."""
    if not report.strip():
        raise UsageError("--report is empty", what_now="Give a path such as drill-report.html.")
    return Wanted(runs, seed, only.strip(), json, Path(report).expanduser())


def parse(argv: Sequence[str], program: str) -> Wanted:
    """Parse the command line. Raises UsageError; ends the program itself after --help and --version."""
    return parsed(_options, Wanted, argv, program)
