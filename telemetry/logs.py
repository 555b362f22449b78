"""Writes the log: one line for everything worth knowing afterwards.  (floor 4)

    chat       STATE_DIR/agent.log (0600, turned over when full), nothing on the screen
    one-shot   WARNING and above on stderr, with `verbose` INFO too
    never      stdout, which belongs to the answer

What is logged, and how loudly, is the table in `log_events.py`; how a line looks and what is
hidden in it is `log_lines.py`. Here the two are put together with the standard library's
`logging`, so that what other libraries log takes the same way and gets the same mask. Nothing
that goes wrong with the log itself ever reaches the person, except one warning at the start.
"""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from errors import ConfigurationError
from events import Stamped
from safe_text import one_line
from telemetry.attributes import event_name
from telemetry.log_events import ROWS
from telemetry.log_file import ErrorStreamHandler, SharedFileHandler
from telemetry.log_lines import FIELDS, LineFormatter

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

OURS = "unflappable"
"""The logger above all of ours. Other libraries' are heard from WARNING up, or all of them at DEBUG."""

FILE_NAME = "agent.log"

_installed: list[logging.Handler] = []


def configure_logging(
    mode: Literal["chat", "one_shot"],
    state_dir: Path,
    level: str = "INFO",
    format: Literal["text", "json"] = "text",
    verbose: bool = False,
) -> list[str]:
    """Set up logging for this process; a second call takes the place of the first.

    Args:
        mode: chat writes to the file in `state_dir`, one_shot to stderr.
        level: LOG_LEVEL: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        format: LOG_FORMAT.
        verbose: in a chat everything down to DEBUG, in one-shot INFO and above on stderr.

    Returns warnings to show the person: at most one, when the file cannot be written.

    Raises:
        ConfigurationError: there is no such level.
    """
    number = _level(level, mode, verbose)
    warnings: list[str] = []
    handler: logging.Handler = ErrorStreamHandler()
    if mode == "chat":
        try:
            handler = SharedFileHandler(state_dir / FILE_NAME)
        except OSError as error:
            handler = logging.NullHandler()  # none at all would let `logging` print to stderr
            why = one_line(error.strerror or str(error))
            warnings.append(f"No log is kept: {one_line(str(state_dir / FILE_NAME))}: {why}")
    handler.setLevel(number)
    handler.setFormatter(LineFormatter(as_json=format == "json"))
    _install(handler, number)
    return warnings


class LogListener:
    """A listener on events: one structured record for each that is worth it."""

    def __init__(self) -> None:
        self._logger = logging.getLogger(f"{OURS}.events")

    def __call__(self, stamped: Stamped) -> None:
        """Log one event."""
        row = ROWS.get(type(stamped.event))
        if row is None:
            return
        values = row.values(stamped)
        level = row.level_of(values)
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event_name(type(stamped.event)), extra={FIELDS: values})


def _level(name: str, mode: str, verbose: bool) -> int:
    levels = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50, "OFF": 60}
    if name.upper() not in levels:
        raise ConfigurationError(f"LOG_LEVEL {one_line(name)!r}: one of {', '.join(levels)}")
    asked = levels[name.upper()]
    if mode == "chat":
        return logging.DEBUG if verbose else asked
    return min(asked, logging.INFO) if verbose else max(asked, logging.WARNING)


def _install(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    for old in _installed:
        root.removeHandler(old)
        old.close()
    _installed[:] = [handler]
    root.addHandler(handler)
    root.setLevel(level if level <= logging.DEBUG else max(level, logging.WARNING))
    logging.getLogger(OURS).setLevel(level)
    logging.raiseExceptions = False  # a log that cannot be written must not print a traceback instead
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_error
    sys.unraisablehook = _log_unraisable


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    """Python would print the traceback over the prompt, and unmasked."""
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = args.thread.name if args.thread is not None else "gone"
        logging.getLogger(OURS).error("a thread died: %s", name, exc_info=args.exc_value)


def _log_unraisable(args: UnraisableHookArgs) -> None:
    """The same for errors in finalizers, which have no caller to go to."""
    if not isinstance(args.exc_value, Exception):
        return  # an alarm or Ctrl-C: no error, and the blocking door raises it again
    what = args.err_msg or "an error where nobody can catch it"
    logging.getLogger(OURS).error("%s: %r", what, args.object, exc_info=args.exc_value)
