"""The real chat with an agent that does what the question says: for the phases no practice model can be held in.

python tests/chat_standin.py async|blocking      LOADS=ok|never|refused|broken

hang          waits for ever            stubborn   cannot be stopped
approve WHAT  asks the person           crash      raises
anything else is repeated
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from cli import Options
from config import Settings
from doors.aio import AsyncDoor
from doors.blocking import BlockingDoor, Stopped
from errors import ConfigurationError
from events import TextStreamed, TurnCancelled, TurnEnded, TurnStarted
from flow import Flow, emit, pause
from messages import NO_USAGE
from oversight.approvals import ApprovalRequest, AskHuman, digest_of
from ui.approval import approving_async, approving_blocking
from ui.chat import chat_async, chat_blocking, run
from ui.chat_state import Chat
from wiring import Agent


class Report:
    def __init__(self, status: str) -> None:
        self.report, self.status = self, status


def answering(question: str) -> Flow[Report]:
    yield from emit(TurnStarted(question, 100))
    said = f"you said {question}"
    match question.split()[0]:
        case "hang":
            yield from emit(TextStreamed("hanging"))
            yield from pause(1000)
        case "crash":
            raise RuntimeError("the agent is broken")
        case "approve":
            given = {"content": question.partition(" ")[2]}
            request = ApprovalRequest("save_note", given, "text from outside was read", digest_of("save_note", given))
            answer = yield AskHuman(request, 100)
            said = f"the answer was {answer.value}"
    yield from emit(TurnEnded("ok", said, "standin", NO_USAGE, 0.0))
    return Report("ok")


def closing() -> Flow[Report]:
    yield from emit(TurnCancelled(""))
    yield from emit(TurnEnded("cancelled", "", None, NO_USAGE, None))
    return Report("cancelled")


class StandInAsync(Agent):
    def __init__(self, chat: Chat, **parts: Any) -> None:
        super().__init__(chat.settings, offline=True, **parts)
        self.door = AsyncDoor({AskHuman: approving_async(chat.screen, chat.keys)}, {}, self.listeners)
        self.task: asyncio.Task[Report] | None = None

    async def ask(self, question: str) -> Report:
        if question == "stubborn":
            await asyncio.Event().wait()
        self.task = asyncio.create_task(self.door.run(answering(question)))
        try:
            return await self.task
        except asyncio.CancelledError:
            return await self.door.run(closing())

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def aclose(self) -> None:
        self.traces.close(1.0)


class StandInBlocking(Agent):
    def __init__(self, chat: Chat, **parts: Any) -> None:
        super().__init__(chat.settings, offline=True, **parts)
        self.door = BlockingDoor({AskHuman: approving_blocking(chat.screen, chat.keys)}, {}, self.listeners)

    def ask(self, question: str) -> Report:
        try:
            while question == "stubborn":
                time.sleep(1)
            return self.door.run(answering(question))
        except Stopped:
            return self.door.run(closing())

    def stop(self, signum: int) -> None:
        self.door.stop(signum)

    def close(self) -> None:
        self.traces.close(1.0)


def start(chat: Chat, make: Any) -> Any:
    match os.environ.get("LOADS", "ok"):
        case "never":
            threading.Event().wait()
        case "refused":
            raise ConfigurationError("the chain is wrong", what_now="Correct it.")
        case "broken":
            raise ImportError("half a module")
    return make(chat, listeners=[chat.screen])


def main() -> None:
    options, settings = Options(offline=True), Settings(state_dir=Path("state"), notes_dir=Path("notes"))
    if sys.argv[1] == "async":
        run(options, settings, lambda chat: asyncio.run(chat_async(chat, lambda: start(chat, StandInAsync))))
    run(options, settings, lambda chat: chat_blocking(chat, lambda: start(chat, StandInBlocking)))


if __name__ == "__main__":
    main()
