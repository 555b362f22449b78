"""The drill: breaks what the agent depends on, on this machine, and looks whether it keeps its promises.  (floor 7)

    uv run python drill.py                       the whole fault matrix and the survival chart: about a minute
    uv run python drill.py --only model:hang     the rows with this in their name

Nothing of yours is touched: models and services are played on a port of this machine, notes and
state live in a temporary folder. Exit 0 when every promise held, 1 when one broke.
"""

from __future__ import annotations

import os
import sys

if sys.flags.safe_path:  # python -P, PYTHONSAFEPATH: the folder of this very file is as safe as the file
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def main() -> None:
    """Run the program; ends it with its exit code."""
    import early_end

    early_end.end_on_signals(as_json="--json" in sys.argv[1:])  # before the other imports: they are most of the start
    from drills import program

    program.run("drill.py")


if __name__ == "__main__":
    main()
