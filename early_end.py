"""Ends the program cleanly when a signal comes and there is no question to stop.  (floor 6)

Python answers Ctrl-C with a traceback, and SIGTERM and SIGHUP with silence, also where scripts
were promised one JSON object at every exit. So from the first line of both programs until the
chat or a question takes over, a signal ends the process here and now: nothing has begun that
could stay half done. An exception would not do, since it can strike in the middle of an import
or be swallowed by somebody's `except`.

What this does not do: anything that needs more than the standard library's start. It is
imported before all other files, so that the time in which Python's own answer stands is as
short as it can be.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object] | signal.Handlers

# Spelled out, since a signal may come before `json` is whole; the reports of `cli.py` are made from it.
NO_ANSWER = (
    '{"status": "cancelled", "text": "", "model": null, "session_id": null, "trace_id": null, "tool_calls": [], '
    '"degraded": [], "usage": {"input_tokens": null, "output_tokens": null, "cache_read_tokens": null, '
    '"cache_write_tokens": null}, "cost_usd": null, "attempts": {"model": 0}, "duration_ms": 0, "error": null}'
)
"""The report of `--json` for a run that was stopped before there was anything to tell."""


def end_on_signals(*, as_json: bool) -> None:
    """From now on SIGINT, SIGTERM and SIGHUP end the program at once, with exit 130, 143 and 129.

    Args:
        as_json: say so on stdout, as `--json` promises.
    """
    heed_signals(lambda number, frame: end_now(number, as_json=as_json))


def heed_signals(handler: Handler) -> dict[str, int]:
    """Hand SIGINT, SIGTERM and SIGHUP to `handler`; returns which, by name. What nohup ignores stays ignored."""
    heeded = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is None or (name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN):
            continue
        signal.signal(number, handler)
        heeded[name] = int(number)
    return heeded


def end_now(number: int, *, as_json: bool) -> NoReturn:
    """End the process with the exit code of a signal; nothing else gets to run."""
    try:
        if as_json and sys.__stdout__ is not None:
            os.write(sys.__stdout__.fileno(), (NO_ANSWER + "\n").encode())
    except (OSError, ValueError):  # nobody reads any more: the exit code still tells
        pass
    os._exit(128 + number)
