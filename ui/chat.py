"""The chat: asks for a line, does what it says, and stays in charge whatever happens meanwhile.  (floor 6)

    paint the prompt -> load the agent behind it -> line -> command, or question -> next line

Ctrl-C stops whatever is going on and gives the prompt back; a second one within a second
leaves (130). SIGTERM (143), SIGHUP or a terminal that is gone (129) and an output nobody reads
(141) end the chat in order: what runs is stopped and repaired, the terminal is as it was found.
Leaving takes at most `LEAVING_S_MAX`; after that a watchdog ends the process.

What has no colour is in `chat_state.py`. The two loops here differ in how they wait and in how
signals reach them:

    asyncio     signals are callbacks of the loop: nothing is half done when one comes
    blocking    a handler may run between any two steps, so it only sets marks, wakes whoever
                waits, or lets the agent's door raise `Stopped`

What this does not do: draw (`screen.py`), edit lines (`prompt.py`), or know any command.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import cli
from platform_edges import install_signals
from ui.chat_state import SIGHUP, SIGTERM, Chat, Preload, practising
from ui.commands import settled

if TYPE_CHECKING:
    from cli import Options
    from config import Settings
    from ui.command import CommandResult, Work
    from wiring import Agent, AsyncAgent, BlockingAgent

AnyAgent = TypeVar("AnyAgent", bound="Agent")

PATIENCE_S = 0.3
"""A question that waits longer for the agent to load is told why."""


def run_async(options: Options, settings: Settings) -> NoReturn:
    """Chat on asyncio, then end the program."""

    def make(chat: Chat, parts: dict[str, Any]) -> AsyncAgent:
        from ui.approval import approving_async
        from wiring import AsyncAgent

        return AsyncAgent(settings, approving_async(chat.screen, chat.keys), **parts)

    run(options, settings, lambda chat: asyncio.run(chat_async(chat, lambda: _started(chat, make))))


def run_blocking(options: Options, settings: Settings) -> NoReturn:
    """Chat without asyncio, then end the program. Unix and main thread only."""

    def make(chat: Chat, parts: dict[str, Any]) -> BlockingAgent:
        from ui.approval import approving_blocking
        from wiring import BlockingAgent

        return BlockingAgent(settings, approving_blocking(chat.screen, chat.keys), **parts)

    run(options, settings, lambda chat: chat_blocking(chat, lambda: _started(chat, make)))


def run(options: Options, settings: Settings, chatting: Callable[[Chat], int]) -> NoReturn:
    """Run a whole chat, say what ended it, and end the program."""
    chat = Chat(options, settings, os.environ)
    code = chatting(chat)
    if chat.error is not None:
        cli.fail(chat.error, as_json=False, code=code)
    cli.leave(code)


def _started(chat: Chat, make: Callable[[Chat, dict[str, Any]], AnyAgent]) -> AnyAgent:
    """Make the agent of a real chat, and import all that the first answer needs. Runs in the preload's thread."""
    from telemetry.logs import configure_logging
    from ui.screen import preload as preload_screen
    from ui.sessions import begin_chat
    from wiring import preload as preload_wiring

    options, settings = chat.options, chat.settings
    log_format: Any = settings.log_format
    troubles = configure_logging("chat", settings.state_dir, settings.log_level, log_format, options.verbose)
    chat.news += [(trouble, "dim") for trouble in troubles]
    agent = make(
        chat,
        {
            "offline": practising(options, settings),
            "fault_specs": options.faults,
            "seed": options.seed,
            "approve": options.approve,
            "listeners": [chat.screen],
        },
    )
    chat.news += begin_chat(agent, options, chat.screen)
    preload_screen()
    preload_wiring()
    return agent


# --- asyncio ---------------------------------------------------------------------------------------------


async def chat_async(chat: Chat, start: Callable[[], AsyncAgent]) -> int:
    """Chat until the person leaves or something ends it; returns the exit code.

    Args:
        chat: this chat.
        start: imports and makes the agent, in a thread; an AgentError ends the chat.
    """
    loop = asyncio.get_running_loop()
    preload = Preload(start)
    preload.future.add_done_callback(lambda done: _on(loop, partial(chat.started, done)))
    undo = install_signals(loop, _handlers(chat))
    try:
        with chat.running():
            await _lines_async(chat, preload)
        agent: Any = chat.agent
        if agent is not None:
            await agent.aclose()
    finally:
        undo()
        _ignore_interrupts()
    return chat.leaving or cli.OK


def _on(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the chat was left before the agent came
        loop.call_soon_threadsafe(call)


async def _lines_async(chat: Chat, preload: Preload) -> None:
    prompt = chat.open_prompt(preload.begin)
    chat.greet()
    while chat.leaving is None:
        with chat.stopping_with(prompt.clear):
            line = await prompt.ask_async(chat.typed())
        if line is None:
            return chat.end_of_input()
        if chat.leaves_at_once(line):
            return chat.leave(cli.OK)
        with chat.keys.listening(asyncio.get_running_loop()):
            if not chat.take_leftover(prompt) or not await _loaded_async(chat, preload):
                chat.tell_stopped()
            else:
                await _follow_async(chat, chat.result_of(line))
    return None


async def _loaded_async(chat: Chat, preload: Preload) -> bool:
    """Wait for the agent; False when Ctrl-C came first."""
    preload.begin()
    woken = asyncio.Event()
    chat.on_started = woken.set
    with chat.stopping_with(woken.set):
        if chat.agent is None:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await woken.wait()
            except TimeoutError:
                chat.tell_waiting()
                await woken.wait()
    return chat.agent is not None


async def _follow_async(chat: Chat, result: CommandResult) -> None:
    """Do what a line has come to, to its end."""
    while result.work is not None:
        task = asyncio.ensure_future(result.work.begin())
        with chat.stopping_with(task.cancel):
            await asyncio.wait([task])
        if task.cancelled():
            return chat.tell_stopped()
        result = chat.tell(settled(partial(_told, result.work, task)))
    if (begin := chat.turn_of(result)) is not None:
        await _turn_async(chat, begin)
    return None


def _told(work: Work, task: asyncio.Future[Any]) -> CommandResult:
    return work.tell(task.result())


async def _turn_async(chat: Chat, begin: Callable[[], Any]) -> None:
    agent: Any = chat.agent
    chat.screen.begin_turn()
    mistake = None
    try:
        # No task of our own: between here and the agent's task there must be no step that a signal could hit.
        with chat.stopping_with(agent.stop):
            await begin()
    except Exception as error:  # the last boundary: a mistake of ours must not end the chat
        mistake = error
    chat.end_turn(mistake)


# --- blocking --------------------------------------------------------------------------------------------


def chat_blocking(chat: Chat, start: Callable[[], BlockingAgent]) -> int:
    """Chat until the person leaves or something ends it; returns the exit code. Unix, main thread.

    Args:
        chat: this chat.
        start: imports and makes the agent, in a thread; an AgentError ends the chat.
    """
    preload = Preload(start)
    preload.future.add_done_callback(chat.started)
    for name, handle in _handlers(chat).items():
        signal.signal(getattr(signal, name), partial(_handle, handle))
    try:
        with chat.running():
            _lines_blocking(chat, preload)
        agent: Any = chat.agent
        if agent is not None:
            agent.close()
    finally:
        _ignore_interrupts()
    return chat.leaving or cli.OK


def _lines_blocking(chat: Chat, preload: Preload) -> None:
    prompt = chat.open_prompt(preload.begin)
    chat.greet()
    while chat.leaving is None:
        with chat.stopping_with(prompt.clear):
            line = prompt.ask(chat.typed())
        count = chat.interrupts.count
        if line is None:
            return chat.end_of_input()
        if chat.leaves_at_once(line):
            return chat.leave(cli.OK)
        with chat.keys.listening():
            if not chat.take_leftover(prompt) or not _loaded_blocking(chat, preload):
                chat.tell_stopped()
            else:
                _follow_blocking(chat, chat.result_of(line), count)
    return None


def _loaded_blocking(chat: Chat, preload: Preload) -> bool:
    """Wait for the agent; False when Ctrl-C came first."""
    preload.begin()
    woken: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put may interrupt its get: signal handlers
    wake = partial(woken.put, None)
    chat.on_started = wake
    with chat.stopping_with(wake):
        if chat.agent is None:
            try:
                woken.get(timeout=PATIENCE_S)
            except queue.Empty:
                chat.tell_waiting()
                woken.get()
    return chat.agent is not None


def _follow_blocking(chat: Chat, result: CommandResult, count: int) -> None:
    """Do what a line has come to, to its end."""
    from doors.blocking import Stopped

    while result.work is not None:
        agent: Any = chat.agent
        try:
            with chat.stopping_with(partial(agent.stop, signal.SIGINT)):
                result = settled(partial(_done, result.work))
        except Stopped:
            return chat.tell_stopped()
        chat.tell(result)
        _forget_stop(agent)
    if (begin := chat.turn_of(result)) is not None:
        _turn_blocking(chat, begin, count)
    return None


def _done(work: Work) -> CommandResult:
    return work.tell(work.begin())


def _forget_stop(agent: Any) -> None:
    """Take away the mark of a stop that came too late, or it would hit the next question."""
    from flow import done

    agent.door.run(done(None))


def _turn_blocking(chat: Chat, begin: Callable[[], Any], count: int) -> None:
    """Ask; `count` Ctrl-C had come when the line was submitted, and one more since then has stopped it already."""
    from doors.blocking import Stopped

    agent: Any = chat.agent
    chat.screen.begin_turn()
    stopped, mistake = False, None
    try:
        with chat.stopping_with(partial(agent.stop, signal.SIGINT)):
            if chat.interrupts.count == count and chat.leaving is None:
                stopped = begin().report.status == "cancelled"
    except Stopped:  # once more, while the first was being repaired
        stopped = True
    except Exception as error:  # the last boundary: a mistake of ours must not end the chat
        mistake = error
    if not stopped:
        _forget_stop(agent)
    chat.end_turn(mistake)


# --- signals ---------------------------------------------------------------------------------------------


def _handlers(chat: Chat) -> dict[str, Callable[[], object]]:
    handlers: dict[str, Callable[[], object]] = {
        "SIGINT": chat.interrupt,
        "SIGTERM": partial(chat.leave, SIGTERM),
        "SIGHUP": partial(chat.leave, SIGHUP),
    }
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        del handlers["SIGHUP"]  # nohup
    return handlers


def _handle(handle: Callable[[], object], number: int, frame: FrameType | None) -> None:
    handle()


def _ignore_interrupts() -> None:
    """From here on the program only ends; one more Ctrl-C would be a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
