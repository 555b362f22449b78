"""One question, one answer, one exit code: what `agent_async.py PROMPT` and `agent.py PROMPT` do.  (floor 6)

The answer goes to stdout, everything else to stderr; with `--json` stdout gets exactly one
JSON object, at every exit. A signal stops the question like Ctrl-C in the chat: what was
written stays, the report says "cancelled", and the exit code names the signal. After SIGTERM or SIGHUP,
which are nobody's wish about the question, it stays open for `--resume`. One that comes
before the question ends the program at once (`early_end.py`); one that comes after the answer
changes nothing, since a finished result wins.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import cli
from cli import Options
from early_end import end_now, heed_signals
from platform_edges import install_signals
from safe_text import one_line
from telemetry.logs import configure_logging
from ui.approval import approving_async, approving_blocking
from ui.screen import OutputClosed, Screen
from ui.sessions import begin_of, entering
from ui.theme import is_terminal

if TYPE_CHECKING:
    from config import Settings
    from wiring import Agent, Answer, AsyncAgent, BlockingAgent

ENDING_S_MAX = 2.0
"""How long a stopped question, or a given answer, may take to be the end of the program: traces get a second."""


class Stopper:
    """What a signal does from the question on: the first stops it, later ones wait for the end it is coming to.

    Who sends one more when the end is not coming (nobody reads stdout and the pipe is full) leaves at once.

    Args:
        stop: stops the question; runs inside the signal handler.
        as_json: whether leaving at once has to say so on stdout, as long as no answer was begun there.
    """

    def __init__(self, stop: Callable[[int], object], *, as_json: bool) -> None:
        self.signum: int | None = None
        self._stop: Callable[[int], object] | None = stop
        self._as_json = as_json
        self._patient_until_s = math.inf

    def __call__(self, signum: int, frame: FrameType | None = None) -> None:
        """Take one signal."""
        now_s = time.monotonic()
        if now_s > self._patient_until_s:
            end_now(signum, as_json=self._as_json)
        if self._stop is not None and self.signum is None:
            self.signum, self._patient_until_s = signum, now_s + ENDING_S_MAX
            self._stop(signum)

    def over(self) -> None:
        """The question has its answer: it can be stopped no more."""
        self._stop, self._as_json = None, False
        self._patient_until_s = min(self._patient_until_s, time.monotonic() + ENDING_S_MAX)

    def code_of(self, answer: Answer) -> int:
        """The exit code: a signal's where it did stop the question."""
        stopped = self.signum is not None and answer.report.status == "cancelled"
        return 128 + self.signum if stopped and self.signum is not None else cli.EXIT_OF_STATUS[answer.report.status]


def run_async(options: Options, settings: Settings, question: str) -> NoReturn:
    """Answer one question on asyncio, then end the program."""

    def answering(screen: Screen) -> tuple[Answer, int]:
        runner = asyncio.Runner()
        answer = runner.run(_answer_async(options, settings, question, screen))
        with contextlib.suppress(RuntimeError):  # closing takes a thread; having none may not cost the answer
            runner.close()
        return answer

    _run(options, settings, answering)


def run_blocking(options: Options, settings: Settings, question: str) -> NoReturn:
    """Answer one question without asyncio, then end the program."""
    _run(options, settings, lambda screen: _answer_blocking(options, settings, question, screen))


def _run(options: Options, settings: Settings, answering: Callable[[Screen], tuple[Answer, int]]) -> NoReturn:
    screen = Screen.for_one_shot(sys.stdout, sys.stderr, os.environ, verbose=options.verbose, answers=not options.json)
    _configure_logging(options, settings)
    try:
        answer, code = answering(screen)
    except OutputClosed as closed:
        cli.lose(closed.__cause__)
    if options.json:
        cli.conclude(cli.json_line(_json_of(answer)), code)
    cli.leave(code)


def _configure_logging(options: Options, settings: Settings) -> None:
    as_json: Any = settings.log_format
    # The screen already tells a person what goes wrong; the log would say it twice.
    level = settings.log_level if _is_logged(options) else "OFF"
    configure_logging("one_shot", settings.state_dir, level, as_json, options.verbose)


def _is_logged(options: Options) -> bool:
    return options.verbose or not is_terminal(sys.stderr)


def _offer(agent: Agent, options: Options, screen: Screen) -> None:
    """Say how to have what the answer lacks, to a person: a program reads `degraded`."""
    offer = agent.aftermath.later.offer
    if offer is not None and is_terminal(sys.stderr) and not options.json:
        names = " and ".join(one_line(name, 40) for name in offer.tools)
        words = f'· {names} could not answer. Ask again later, in this session: --resume {agent.session_id} "…"'
        screen.notice(words, "dim")


def _json_of(answer: Answer) -> dict[str, Any]:
    return cli.report_json(
        answer.report,
        session_id=answer.session_id,
        trace_id=answer.trace_id,
        model_attempts=answer.model_attempts,
    )


def _tell(screen: Screen, said: str) -> None:
    """Say what there is to say about the session, if anything."""
    if said:
        screen.notice(f"! {said}", "warn")


def _parts(options: Options, screen: Screen) -> dict[str, Any]:
    return {
        "offline": options.offline,
        "fault_specs": options.faults,
        "seed": options.seed,
        "approve": options.approve,
        "listeners": [screen],
    }


async def _answer_async(options: Options, settings: Settings, question: str, screen: Screen) -> tuple[Answer, int]:
    from wiring import AsyncAgent, preload

    agent = AsyncAgent(settings, approving_async(screen), **_parts(options, screen))
    said = await agent.door.run(entering(agent, options))
    begin = begin_of(agent, options, question, said)
    _tell(screen, said)
    agent.begin_heartbeat()
    preload()  # after the agent: a wrong option is told without the wait for the SDK
    await agent.announce_faults()
    screen.begin_turn()
    loop = asyncio.get_running_loop()
    stopper = Stopper(partial(_stop_async, agent, loop), as_json=options.json)
    heeded = heed_signals(stopper)  # also for the time after the loop has given the signals back
    undo = install_signals(loop, {name: partial(stopper, number) for name, number in heeded.items()})
    try:
        answer = await begin()
        screen.end_turn()
        _offer(agent, options, screen)
    finally:
        stopper.over()
        undo()
        await agent.aclose()
    return answer, stopper.code_of(answer)


def _stop_async(agent: AsyncAgent, loop: asyncio.AbstractEventLoop, signum: int) -> None:
    agent.leaving(keeps=signum != signal.SIGINT)
    loop.call_soon_threadsafe(agent.stop)


def _stop_blocking(agent: BlockingAgent, signum: int) -> None:
    agent.leaving(keeps=signum != signal.SIGINT)
    agent.stop(signum)


def _answer_blocking(options: Options, settings: Settings, question: str, screen: Screen) -> tuple[Answer, int]:
    from wiring import BlockingAgent, preload

    agent = BlockingAgent(settings, approving_blocking(screen), **_parts(options, screen))
    said = agent.door.run(entering(agent, options))
    begin = begin_of(agent, options, question, said)
    _tell(screen, said)
    agent.begin_heartbeat()
    preload()
    agent.announce_faults()
    screen.begin_turn()
    stopper = Stopper(partial(_stop_blocking, agent), as_json=options.json)
    heed_signals(stopper)
    try:
        answer = begin()
        screen.end_turn()
        _offer(agent, options, screen)
    finally:
        stopper.over()
        agent.close()
    return answer, stopper.code_of(answer)
