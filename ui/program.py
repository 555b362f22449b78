"""What both programs do from the command line on: read options and settings, then chat or answer once.  (floor 6)

The two programs differ only in whether their agent blocks. What is slow to load is loaded
where it is needed, since a plain start owes it to nobody.
"""

from __future__ import annotations

import sys

import cli


def run(program: str, *, blocking: bool) -> None:
    """Run a program to its exit code.

    Args:
        program: its file name, for usage errors.
        blocking: without asyncio (`agent.py`).
    """
    with cli.last_boundary(as_json="--json" in sys.argv[1:]):
        from config import environment_with_dotenv, read_settings

        if blocking:
            cli.need_alarms()
        options = cli.Options()
        if sys.argv[1:]:
            from ui.options import parse  # typer costs 0.2 s: paid for only where there is something to parse

            options = parse(sys.argv[1:], program)
        settings = read_settings(environment_with_dotenv(), model_chain=options.model)
        if options.trace is not None:
            cli.print_trace(options.trace, settings, as_json=options.json)
        question = cli.question_from(options)
        if question is None:
            from ui import chat

            (chat.run_blocking if blocking else chat.run_async)(options, settings)
        else:
            from ui import one_shot

            (one_shot.run_blocking if blocking else one_shot.run_async)(options, settings, question)
