"""The agent in your terminal: chat, or one question and one answer; timeouts by SIGALRM, no asyncio.  (floor 7)

    uv run python agent.py                         chat
    uv run python agent.py "What is 15 * 23?"      one answer

The same flows as `agent_async.py` behind another door, for those who want to read or embed an
agent without asyncio. Unix and the main thread only: timeouts come from SIGALRM.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cli
from config import environment_with_dotenv, read_settings
from errors import AgentError


def main() -> None:
    """Run the program; ends it with its exit code."""
    as_json = "--json" in sys.argv[1:]
    try:
        cli.need_alarms()
        options = cli.Options()
        if sys.argv[1:]:
            from ui.options import parse  # typer costs 0.2 s: paid for only where there is something to parse

            options = parse(sys.argv[1:], "agent.py")
        settings = read_settings(environment_with_dotenv(Path.cwd()), model_chain=options.model)
        if options.trace is not None:
            cli.print_trace(options.trace, settings, as_json=options.json)
        question = cli.question_from(options)
    except AgentError as error:
        cli.fail(error, as_json=as_json)
    if question is None:
        from ui import chat

        chat.run_blocking(options, settings)
    else:
        from ui import one_shot

        one_shot.run_blocking(options, settings, question)


if __name__ == "__main__":
    main()
