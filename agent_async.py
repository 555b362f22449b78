"""The agent in your terminal: chat, or one question and one answer; asyncio, on every platform.  (floor 7)

    uv run python agent_async.py                         chat
    uv run python agent_async.py "What is 15 * 23?"      one answer

Parses, builds, loops; every decision is made further down. `agent.py` is the same agent
without asyncio.
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
        options = cli.Options()
        if sys.argv[1:]:
            from ui.options import parse  # typer costs 0.2 s: paid for only where there is something to parse

            options = parse(sys.argv[1:], "agent_async.py")
        settings = read_settings(environment_with_dotenv(Path.cwd()), model_chain=options.model)
        if options.trace is not None:
            cli.print_trace(options.trace, settings, as_json=options.json)
        question = cli.question_from(options)
    except AgentError as error:
        cli.fail(error, as_json=as_json)
    if question is None:
        from ui import chat

        chat.run_async(options, settings)
    else:
        from ui import one_shot

        one_shot.run_async(options, settings, question)


if __name__ == "__main__":
    main()
