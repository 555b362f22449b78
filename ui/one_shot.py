"""One question, one answer, one exit code: what `agent_async.py PROMPT` and `agent.py PROMPT` do.  (floor 6)

The answer goes to stdout, everything else to stderr; with `--json` stdout gets exactly one
JSON object, at every exit. A signal stops the question like Ctrl-C in the chat: what was
written stays, the report says "cancelled", and the exit code names the signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import cli
from cli import Options
from errors import AgentError
from platform_edges import install_signals
from safe_text import one_line
from telemetry.logs import configure_logging
from ui.approval import approving_async, approving_blocking
from ui.screen import OutputClosed, Screen

if TYPE_CHECKING:
    from config import Settings
    from wiring import Answer

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Interrupted(BaseException):
    """A signal came while no question was running; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum


@contextlib.contextmanager
def signals_to(handle: Callable[[int], object]) -> Iterator[None]:
    """Hand SIGINT, SIGTERM and SIGHUP to `handle`, and put back what was there before."""
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, lambda number, frame: handle(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt(signum: int) -> NoReturn:
    """What a signal does while there is no question to stop."""
    raise Interrupted(signum)


def run_async(options: Options, settings: Settings, question: str) -> NoReturn:
    """Answer one question on asyncio, then end the program."""
    _run(options, lambda screen: asyncio.run(_answer_async(options, settings, question, screen)), settings)


def run_blocking(options: Options, settings: Settings, question: str) -> NoReturn:
    """Answer one question without asyncio, then end the program."""
    _run(options, lambda screen: _answer_blocking(options, settings, question, screen), settings)


def _run(options: Options, answering: Callable[[Screen], tuple[Answer, int | None]], settings: Settings) -> NoReturn:
    screen = Screen.for_one_shot(sys.stdout, sys.stderr, os.environ, verbose=options.verbose, answers=not options.json)
    try:
        with signals_to(interrupt):
            _configure_logging(options, settings)
            _preload()
            answer, signum = answering(screen)
            code = cli.EXIT_OF_STATUS[answer.report.status] if signum is None else 128 + signum
            if options.json:
                cli.print_json(_json_of(answer))
    except (OutputClosed, BrokenPipeError):
        code = cli.CLOSED_STDOUT
    except Interrupted as end:
        _end_early(options, end.signum)
    except AgentError as error:
        cli.fail(error, as_json=options.json)
    except Exception as error:  # the last boundary: no traceback reaches a person
        logging.getLogger("unflappable").critical("internal error", exc_info=error)
        internal = AgentError(f"a mistake in this program: {type(error).__name__}: {one_line(str(error))}")
        cli.fail(internal, as_json=options.json, code=cli.FAILED)
    cli.leave(code)


def _preload() -> None:
    from wiring import preload

    preload()


def _configure_logging(options: Options, settings: Settings) -> None:
    as_json: Any = settings.log_format
    # The screen already tells a person what goes wrong; the log would say it twice.
    level = settings.log_level if options.verbose or not sys.stderr.isatty() else "CRITICAL"
    configure_logging("one_shot", settings.state_dir, level, as_json, options.verbose)


def _end_early(options: Options, signum: int) -> NoReturn:
    if options.json:
        stopped = AgentError("stopped before the question was asked", reason="limit")
        with contextlib.suppress(OSError):  # nobody reads any more: the exit code still tells
            cli.print_json(replace_status(cli.failure_json(stopped)))
    cli.leave(128 + signum)


def replace_status(report: dict[str, Any]) -> dict[str, Any]:
    """The report of a run that was stopped before it began."""
    return {**report, "status": "cancelled", "error": None}


def _json_of(answer: Answer) -> dict[str, Any]:
    return cli.report_json(
        answer.report,
        session_id=answer.session_id,
        trace_id=answer.trace_id,
        model_attempts=answer.model_attempts,
    )


def _parts(options: Options, screen: Screen) -> dict[str, Any]:
    return {
        "offline": options.offline,
        "fault_specs": options.faults,
        "seed": options.seed,
        "approve": options.approve,
        "listeners": [screen],
    }


async def _answer_async(
    options: Options, settings: Settings, question: str, screen: Screen
) -> tuple[Answer, int | None]:
    from wiring import AsyncAgent

    agent = AsyncAgent(settings, approving_async(screen), **_parts(options, screen))
    got: list[int] = []

    def stop(number: int) -> None:
        got.append(number)
        agent.stop()

    handlers = {name: partial(stop, getattr(signal, name)) for name in _SIGNALS if hasattr(signal, name)}
    undo = install_signals(asyncio.get_running_loop(), handlers)
    try:
        await agent.announce_faults()
        screen.begin_turn()
        answer = await agent.ask(question)
        screen.end_turn()
    finally:
        undo()
        await agent.aclose()
    return answer, got[0] if got and answer.report.status == "cancelled" else None


def _answer_blocking(options: Options, settings: Settings, question: str, screen: Screen) -> tuple[Answer, int | None]:
    from wiring import BlockingAgent

    agent = BlockingAgent(settings, approving_blocking(screen), **_parts(options, screen))
    got: list[int] = []

    def stop(number: int) -> None:
        got.append(number)
        agent.stop(number)

    try:
        with signals_to(stop):
            agent.announce_faults()
            screen.begin_turn()
            answer = agent.ask(question)
            screen.end_turn()
    finally:
        agent.close()
    return answer, got[0] if got and answer.report.status == "cancelled" else None
