"""What a chat is while it runs: what Ctrl-C stops, what the person is told, and how it ends.  (floor 6)

Everything of the chat that has no colour; `chat.py` holds the two loops. `stop` is what Ctrl-C
does right now: empty the line, wake who waits for the agent, stop the question. A signal
handler of the blocking chat may call `interrupt` or `leave` between any two steps, so both only
set marks and call `stop` last, which may raise.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import cli
from errors import AgentError
from safe_text import one_line
from ui.command import CommandResult, Situation
from ui.commands import COMMANDS, is_command, run_command
from ui.keys import Keys, Typed, draws
from ui.sink import OutputClosed, Sink
from ui.standing import Standing, faults_on
from ui.theme import Theme
from version import VERSION

if TYPE_CHECKING:
    from cli import Options
    from config import Settings
    from ui.prompt_port import AnyPrompt
    from ui.screen import Screen
    from wiring import Agent

TWICE_S = 1.0
"""A second Ctrl-C within this time leaves."""

PRELOAD_DELAY_S = 0.15
"""The first keys after the prompt is painted should not have to share the interpreter with imports."""

LEAVING_S_MAX = 2.0
"""Stopping the question takes 0.1 s and closing the traces at most 1 s; longer is a hang."""

QUESTION_CHARS = 80
"""Of a question that is only mentioned."""

SIGHUP, SIGINT, SIGTERM = 129, 130, 143


class Interrupts:
    """Counts Ctrl-C, and knows a second one within `TWICE_S`."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._now = now
        self._last_s = float("-inf")

    def strike(self) -> bool:
        """One more; True when it is the second in time."""
        now_s = self._now()
        second, self._last_s = now_s - self._last_s < TWICE_S, now_s
        self.count += 1
        return second

    @property
    def is_fresh(self) -> bool:
        """Whether another one now would be the second."""
        return self._now() - self._last_s < TWICE_S


class Preload:
    """Makes the agent in a daemon thread, so that the prompt need not wait for it.

    Args:
        start: imports what it needs and makes the agent.
    """

    def __init__(self, start: Callable[[], Agent]) -> None:
        self.future: concurrent.futures.Future[Agent] = concurrent.futures.Future()
        self._start = start
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start, a little later; once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="preload", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        time.sleep(PRELOAD_DELAY_S)
        try:
            agent = self._start()
        except BaseException as error:  # handed to the chat, which ends with it; a thread would only print it
            self.future.set_exception(error)
        else:
            self.future.set_result(agent)


class Chat:
    """What both loops share: what is typed, what it means, and how the chat ends.

    Args:
        options, settings: of the program.
        environ: for what the terminal can show.
    """

    def __init__(self, options: Options, settings: Settings, environ: Mapping[str, str]) -> None:
        self.options, self.settings = options, settings
        self.out = Sink(sys.stdout, environ)
        self.draws = draws(sys.stdin, sys.stdout, environ)
        self.keys = Keys(sys.stdin, self.draws)
        self.keys.on_interrupt, self.keys.on_hangup = self.interrupt, partial(self.leave, SIGHUP)
        self.interrupts = Interrupts()
        self.agent: Agent | None = None
        self.error: AgentError | None = None
        self.leaving: int | None = None
        self.last_question: str | None = None
        self.stop: Callable[[], object] = _nothing  # what Ctrl-C does right now
        self.on_started: Callable[[], object] = _nothing
        self.unicode = Theme.of(sys.stdout, environ).unicode
        self._environ = environ
        self._watched: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._seen_interrupts = 0
        self._offered: object = None
        self.news: list[tuple[str, str]] = []
        """Words and their style, to be said as soon as that can be done."""
        self.prompt: AnyPrompt | None = None

    @functools.cached_property
    def screen(self) -> Screen:
        """The screen that draws questions; loaded behind the prompt, since it knows every event there is."""
        from ui.screen import Screen

        screen = Screen.for_chat(self.out, verbose=self.options.verbose)
        screen.status_source = self._standing
        return screen

    def notice(self, text: str, style: str = "") -> None:
        """Print words of the program itself while no question runs. Raises OutputClosed."""
        self.out.write(self.out.theme.lines(style, text) + "\n")

    def open_prompt(self, on_painted: Callable[[], object]) -> AnyPrompt:
        """The prompt this terminal can show."""
        if self.draws:
            from ui.prompt import Prompt

            self.prompt = Prompt(
                self.settings.state_dir,
                self._environ,
                commands={name: command.what for name, command in COMMANDS.items()},
                status=self._status,
                on_interrupt=self.interrupt,
                on_painted=on_painted,
                is_wanted=self.is_due,
            )
        else:
            from ui.plain_prompt import PlainPrompt

            self.prompt = PlainPrompt(sys.stdin, self.out, on_painted=on_painted, is_wanted=self.is_due)
        return self.prompt

    # --- what the person is told --------------------------------------------------------------------------

    def greet(self) -> None:
        """Say who is there, and plainly what is not as usual. Raises OutputClosed."""
        self.notice(f"Unflappable {VERSION} · /help lists the commands, Ctrl-D leaves", "dim")
        if self.options.offline:
            self.notice("! practice model (--offline): it needs no key and knows only a few tricks", "warn")
        elif practising(self.options, self.settings):
            missing = " or ".join(_missing_keys(self.settings))
            self.notice(f"! no {missing} is set: this is the practice model, which knows only a few tricks", "warn")
            self.notice("  (a model on your own machine needs no key: MODEL_CHAIN=local:MODEL@URL)", "dim")
        if self.options.faults:
            self.notice(faults_on(self.options.faults), "warn")

    def _standing(self) -> Standing:
        agent = self.agent
        if agent is None:
            return Standing("practice" if practising(self.options, self.settings) else "", (), self.options.faults)
        open_ones = [one for one in agent.guards.snapshots() if one.state != "closed"]
        return Standing(
            agent.links[0].name,
            tuple(f"{one.name} {one.state.replace('_', '-')}" for one in open_ones),
            tuple(str(spec) for spec in agent.plan.specs),
        )

    def _status(self) -> str:
        """What stands below the prompt."""
        if self.interrupts.is_fresh and self.leaving is None:
            return "Ctrl-C again leaves"
        cost_usd = self.agent.totals.cost_usd if self.agent is not None else None
        return " · ".join(filter(None, [self._standing().words(), f"${cost_usd:.4f}" if cost_usd else ""]))

    def tell_news(self) -> None:
        """Say once what was found around the chat. Raises OutputClosed."""
        if self.prompt is not None and (trouble := self.prompt.trouble()):
            self.news.append((trouble, "dim"))
        while self.news:
            self.notice(*self.news.pop(0))

    # --- what comes from outside --------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Ctrl-C: stop what is going on; the second one leaves."""
        if self.leaving is None:
            if self.interrupts.strike():
                self.leave(SIGINT)
            else:
                self.stop()

    def leave(self, code: int) -> None:
        """End the chat with this exit code; the first reason counts."""
        if self.leaving is not None:
            return
        self.leaving = code
        self._watched.put(code)
        if self.agent is not None:
            self.agent.leaving(keeps=code in (SIGHUP, SIGTERM))  # nobody's wish about the question: it can be resumed
        if self.prompt is not None:
            self.prompt.leave()
        if not self._is_prompting():
            self.stop()  # last: in the blocking chat this may raise

    def _resume(self) -> None:
        """SIGCONT: the program was stopped, and the terminal is not as we left it."""
        if self.prompt is not None and self._is_prompting():
            self.prompt.resume()
        else:
            self.keys.resume()

    def _is_prompting(self) -> bool:
        return self.prompt is not None and self.stop == self.prompt.clear

    def started(self, future: concurrent.futures.Future[Agent]) -> None:
        """The preload has ended: here is the agent, or the reason to end the chat."""
        error = future.exception()
        if error is None:
            self.agent = future.result()
            self.agent.begin_heartbeat()
            if self.news and self.prompt is not None:
                self.prompt.above(self.tell_news)
        else:
            self.error = error if isinstance(error, AgentError) else _broken(error)
            self.leave(cli.USAGE if self.error.reason == "configuration" else cli.FAILED)
        self.on_started()

    def end_of_input(self) -> None:
        """Ctrl-D, or the terminal is gone."""
        self.leave(SIGHUP if self.keys.hung_up() else cli.OK)

    def end_of_output(self) -> None:
        """The terminal is gone, or whoever read the output."""
        self.leave(SIGHUP if self.keys.hung_up() else cli.CLOSED_STDOUT)

    @contextlib.contextmanager
    def stopping_with(self, stop: Callable[[], object]) -> Iterator[None]:
        """What Ctrl-C does while this lasts."""
        self.stop = stop
        try:
            yield
        finally:
            self.stop = _nothing

    # --- one line -----------------------------------------------------------------------------------------

    def typed(self) -> Typed:
        """What was typed ahead; after a Ctrl-C nothing is asked by itself."""
        typed, count = self.keys.typed(), self.interrupts.count
        if count != self._seen_interrupts:
            typed, self._seen_interrupts = replace(typed, entered=False), count
        return typed

    def leaves_at_once(self, line: str) -> bool:
        """Whether the line is `/quit`, which need not wait for anything."""
        return line.split() == ["/quit"]

    def take_leftover(self, prompt: AnyPrompt) -> bool:
        """Take in keys that came right behind a line; False when a Ctrl-C is among them, and the line void."""
        count = self.interrupts.count
        self.keys.keep(prompt.leftover())
        self.keys.drain()
        return self.interrupts.count == count

    def result_of(self, line: str) -> CommandResult:
        """What a line comes to: a question, or what a command does. Raises OutputClosed."""
        self.tell_news()
        if self.agent is None:
            return CommandResult()
        if not line.strip():
            return self.tell(self._due())
        if not is_command(line):
            return CommandResult(question=line)
        return self.tell(run_command(line, Situation(self.agent, self.last_question, self.unicode)))

    def is_due(self) -> bool:
        """Whether something that was parked can be filled in now. Asks memory only."""
        return self.agent is not None and self.agent.unfinished is None and self.agent.aftermath.later.is_due

    def _due(self) -> CommandResult:
        if not self.is_due():
            return CommandResult()
        from ui.parked import due

        return due(self.agent)

    def tell(self, result: CommandResult) -> CommandResult:
        """Print what a command has to say, and leave where it leaves; gives it back. Raises OutputClosed."""
        if result.text:
            self.notice(result.text)
        if result.leaves:
            self.leave(cli.OK)
        return result

    def turn_of(self, result: CommandResult) -> Callable[[], Any] | None:
        """How to ask what a line has come to; None when it asks nothing. Raises OutputClosed."""
        if result.question is None or self.agent is None:
            return None
        agent: Any = self.agent
        self.last_question = result.question
        turn = result.turn or partial(agent.ask, result.question)
        if (cut := agent.unfinished) is not None and turn != agent.resume:
            words = f"! given up, since another is asked: {one_line(cut.question, QUESTION_CHARS)}"
            self.notice(words + " (what it wrote stays)", "warn")
        return turn

    def tell_stopped(self) -> None:
        """A line was stopped before it was asked. Raises OutputClosed."""
        if self.leaving is None:
            self.notice("! stopped", "warn")

    def tell_waiting(self) -> None:
        """The agent is not loaded yet. Raises OutputClosed."""
        self.notice("· starting; this goes out in a moment", "dim")

    def end_turn(self, mistake: Exception | None = None) -> None:
        """A question is over; `mistake` when something of ours broke in it. Raises OutputClosed."""
        self.screen.end_turn()
        if mistake is not None:
            self.notice(f"✗ a mistake in this program: {type(mistake).__name__}: {one_line(str(mistake))}", "bad")
        self._offer()
        self.notice("")

    def _offer(self) -> None:
        """Say once that what an answer lacks can be had later."""
        offer = self.agent.aftermath.later.offer if self.agent is not None else None
        if offer is not None and offer is not self._offered:
            from ui.parked import offer_words

            self.notice(offer_words(offer), "dim")
        self._offered = offer

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The whole chat: terminal quiet, a watchdog for the end."""
        if hasattr(signal, "SIGCONT"):
            # When a process was stopped the kernel gives this to any thread, and need not wake the main one
            # (seen): so it is kept from all of them, which inherit the mask, but for one that waits for it.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCONT})
            threading.Thread(target=self._resume_each_time, name="resume", daemon=True).start()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        with self.keys.quiet():
            self.keys.take_early()
            try:
                yield
            except OutputClosed:
                self.end_of_output()

    def _resume_each_time(self) -> None:
        # A window that is closed sends SIGHUP and SIGCONT together: woken by the second, this thread took the
        # first as well (seen), and the main thread slept on.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            signal.sigwait({signal.SIGCONT})
            self._resume()

    def _watch(self) -> None:
        code = self._watched.get()
        time.sleep(LEAVING_S_MAX)
        self.keys.restore()
        os._exit(code)  # something hangs: leaving must not


def practising(options: Options, settings: Settings) -> bool:
    """Whether the practice model answers: asked for, or because no link of the chain can be used without a key."""
    return options.offline or not any(settings.has_key_for(link) for link in settings.model_chain.split(","))


def _missing_keys(settings: Settings) -> list[str]:
    """The keys of which one would do."""
    keys = {"anthropic": "ANTHROPIC_API_KEY", "google": "GEMINI_API_KEY"}
    if settings.model_chain == type(settings)().model_chain:
        return list(keys.values())  # the default takes in Google as soon as its key is set
    providers = dict.fromkeys(link.strip().partition(":")[0] for link in settings.model_chain.split(","))
    return [keys[provider] for provider in providers if provider in keys]


def _broken(error: BaseException) -> AgentError:
    return AgentError(f"the agent cannot be loaded: {type(error).__name__}: {one_line(str(error))}")


def _nothing() -> None:
    """Nothing is going on that could be stopped."""
