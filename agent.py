"""The agent in your terminal: chat, or one question and one answer; timeouts by SIGALRM, no asyncio.  (floor 7)

    uv run python agent.py                         chat
    uv run python agent.py "What is 15 * 23?"      one answer

The same flows as `agent_async.py` behind another door, for those who want to read or embed an
agent without asyncio. Unix and the main thread only: timeouts come from SIGALRM.
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

    program.run("agent.py", blocking=True)


if __name__ == "__main__":
    main()
