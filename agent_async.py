"""The agent in your terminal: chat, or one question and one answer; asyncio, on every platform.  (floor 7)

    uv run python agent_async.py                         chat
    uv run python agent_async.py "What is 15 * 23?"      one answer

Parses, builds, loops; every decision is made further down. `agent.py` is the same agent
without asyncio.
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
    from ui import program

    program.run("agent_async.py", blocking=False)


if __name__ == "__main__":
    main()
