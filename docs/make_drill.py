"""Makes docs/survival.svg, and prints the tables of the drill for the README.

    uv run python -m docs.make_drill                   all of it
    uv run python -m docs.make_drill --only-chart      the picture and its table

The chart runs on a virtual clock with the default settings, so the same code gives the same picture on
every machine. The table of the matrix is a run on this machine: its times are this machine's.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from config import read_settings
from drills import survival
from drills.markdown import matrix_table, survival_table
from drills.matrix import rows
from drills.outcome import Outcome
from drills.picture import svg
from drills.running import play_all

ROOT = Path(__file__).parent.parent
SEED = 1
SHOWN = (
    "model:overloaded*2", "model:hang", "model:cut=text*1", "model:auth", "model:loop", "get_weather:refused",
    "calculator:error", "disk:full", "the same note twice", "a note, then no model", "a model that is dead for long",
    "a tainted write, nobody there", "program: Ctrl-C after a save", "program: kill -9, then resumed",
)  # fmt: skip
"""The rows that stand in the README."""


def main() -> None:
    """Write the picture, print the tables."""
    logging.getLogger("unflappable").addHandler(logging.NullHandler())
    logging.getLogger("unflappable").propagate = False
    points = list(survival.chart(read_settings({}), SEED))
    (ROOT / "docs" / "survival.svg").write_text(svg(points), encoding="utf-8")
    if "--only-chart" not in sys.argv[1:]:
        given = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        chosen = [row for row in rows() if row.name in SHOWN]
        results = list(play_all(chosen, given, SEED, 1, lambda row, agent: None))
        print(matrix_table(Outcome(SEED, 1, (), len(results), results).lines()), end="\n\n")
    print(survival_table(points))


if __name__ == "__main__":
    main()
