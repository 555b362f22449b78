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

    as_json = "--json" in sys.argv[1:]
    early_end.end_on_signals(as_json=as_json)  # before the other imports: they are most of the start

    import cli

    with cli.last_boundary(as_json=as_json):
        from config import environment_with_dotenv, read_settings

        cli.need_alarms()
        options = cli.Options()
        if sys.argv[1:]:
            from ui.options import parse  # typer costs 0.2 s: paid for only where there is something to parse

            options = parse(sys.argv[1:], "agent.py")
        settings = read_settings(environment_with_dotenv(), model_chain=options.model)
        if options.trace is not None:
            cli.print_trace(options.trace, settings, as_json=options.json)
        question = cli.question_from(options)
        if question is None:
            from ui import chat

            chat.run_blocking(options, settings)
        else:
            from ui import one_shot

            one_shot.run_blocking(options, settings, question)


if __name__ == "__main__":
    main()
