"""What a command may take its time for is waited for by the chat: Ctrl-C stops it, and nothing in it ends the chat."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cli import Options
from config import Settings
from doors.blocking import BlockingDoor
from errors import ConfigurationError
from flow import pause
from ui.chat import _follow_async, _follow_blocking
from ui.chat_state import Chat
from ui.command import CommandResult, Work
from ui.sink import Sink


class Follower:
    """A chat without a terminal, in one of the two colours; its agent has a door and no more."""

    def __init__(self, colour: str, folder: Path) -> None:
        self.is_async = colour == "async"
        self.chat = Chat(Options(), Settings(state_dir=folder), {})
        self.said = io.StringIO()
        self.chat.out = Sink(self.said, {})
        door = BlockingDoor()
        self.chat.agent = SimpleNamespace(door=door, stop=door.stop, unfinished=None)  # type: ignore[assignment]

    def returning(self, value: Any) -> Any:
        async def soon() -> Any:
            return value

        return soon if self.is_async else lambda: value

    def raising(self, error: Exception) -> Any:
        async def soon() -> Any:
            raise error

        def now() -> Any:
            raise error

        return soon if self.is_async else now

    def hanging(self) -> Any:
        agent: Any = self.chat.agent
        return (lambda: asyncio.sleep(1000)) if self.is_async else lambda: agent.door.run(pause(1000))

    def follow(self, result: CommandResult, *, interrupted: bool = False) -> None:
        if self.is_async:
            asyncio.run(self._follow(result, interrupted))
            return
        before = signal.signal(signal.SIGINT, lambda number, frame: self.chat.interrupt())
        try:
            if interrupted:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            _follow_blocking(self.chat, result, self.chat.interrupts.count)
        finally:
            signal.signal(signal.SIGINT, before)

    async def _follow(self, result: CommandResult, interrupted: bool) -> None:
        if interrupted:
            asyncio.get_running_loop().call_later(0.05, self.chat.interrupt)
        await _follow_async(self.chat, result)


@pytest.fixture(params=["async", "blocking"])
def follower(request: pytest.FixtureRequest, tmp_path: Path) -> Follower:
    if request.param == "blocking" and not hasattr(signal, "SIGALRM"):
        pytest.skip("the blocking chat needs SIGALRM")
    return Follower(request.param, tmp_path)


def told(value: Any) -> CommandResult:
    return CommandResult(f"found {value}")


def test_what_work_comes_to_is_told_and_may_be_more_work(follower: Follower) -> None:
    second = Work(follower.returning(2), told)
    follower.follow(
        CommandResult(work=Work(follower.returning(1), lambda value: CommandResult(f"first {value}", work=second)))
    )
    assert follower.said.getvalue() == "first 1\nfound 2\n"


def test_ctrl_c_stops_it_and_the_next_work_is_not_hit(follower: Follower) -> None:
    follower.follow(CommandResult(work=Work(follower.hanging(), told)), interrupted=True)
    follower.follow(CommandResult(work=Work(follower.returning(1), told)))
    assert follower.said.getvalue() == "! stopped\nfound 1\n"
    assert follower.chat.leaving is None


def test_an_error_is_told_with_what_to_do_and_a_mistake_of_ours_does_not_end_the_chat(follower: Follower) -> None:
    refused = ConfigurationError("there is no such session", what_now="/sessions lists them.")
    follower.follow(CommandResult(work=Work(follower.raising(refused), told)))
    follower.follow(CommandResult(work=Work(follower.raising(ZeroDivisionError("\x1b[2J")), told)))
    out = follower.said.getvalue().split("\n")
    assert out[:2] == ["there is no such session", "/sessions lists them."]
    assert out[2] == "✗ a mistake in this program: ZeroDivisionError: ␛[2J"
