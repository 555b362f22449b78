"""The health sidecar: answers probes, metrics and questions about traces, beside the agents.  (floor 7)

    uv run python health.py                              on http://127.0.0.1:8080
    uv run python health.py --host 0.0.0.0 --port 9000   for other machines; set HEALTH_TOKEN

It shares only STATE_DIR with the agents. They neither need it nor notice whether it runs.
"""

from __future__ import annotations

import os
import sys

if sys.flags.safe_path:  # python -P, PYTHONSAFEPATH: the folder of this very file is as safe as the file
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def main() -> None:
    """Run the program; ends it with its exit code."""
    import early_end

    early_end.end_on_signals(as_json=False)  # before the other imports: they are most of the start
    from sidecar import program

    program.run("health.py")


if __name__ == "__main__":
    main()
