"""The real chat with the real agent, which presses Ctrl-C on itself: at the n-th event of a question, for any n.

    python tests/chat_interrupted.py async|blocking      the practice model; tells what happened in ./told

A question that ends in "milk 7" is interrupted at its seventh event, "milk 7 after 3 ms" so much later; the same
question once more is not. What is told: a line of JSON for each, when the prompt is back, with how long that took.
The moments are taken in here, so that neither a slow pseudo-terminal nor a slow test is part of them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import ui.chat
import ui.chat_state
import ui.prompt
import wiring
from cli import Options
from config import Settings
from events import Stamped, TurnEnded, TurnStarted
from messages import user
from tests.history_validator import breaches

ui.chat_state.TWICE_S = 0.0  # no two of them are one too many here
STRIKES = re.compile(r"milk (\d+)(?: after (\d+) ms)?")


class Striker:
    """Listens, strikes, and tells."""

    def __init__(self) -> None:
        self.agent: Any = None
        self.asked: set[str] = set()
        self.told = open("told", "w")  # noqa: SIM115 (as long as the program)
        self.waiting = self.handled = False
        self.strike_at = self.seen = 0

    def __call__(self, stamped: Stamped) -> None:
        event = stamped.event
        if isinstance(event, TurnStarted):
            self.begin(event.question)
        if isinstance(event, TurnEnded):
            self.status, self.text = event.status, event.text
        self.seen += 1
        if self.seen == self.strike_at:
            self.at = type(event).__name__
            if self.after_s:
                threading.Timer(self.after_s, self.strike).start()
            else:
                self.strike()

    def begin(self, question: str) -> None:
        found = STRIKES.search(question)
        at, after_ms = found.groups("0") if found and question not in self.asked else ("0", "0")
        self.strike_at, self.after_s = int(at), int(after_ms) / 1000
        self.asked.add(question)
        self.seen, self.at, self.struck_s, self.waiting, self.handled = 0, "", 0.0, True, False
        self.status = self.text = ""

    def strike(self) -> None:
        self.handled = False
        self.struck_s = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    def prompt_shown(self, app: Any) -> None:
        if app.is_done or not self.waiting or self.agent is None or (self.at and not self.handled):
            return
        took_s = time.monotonic() - self.struck_s if self.struck_s else 0.0
        self.waiting = False
        history = self.agent.conversation.messages
        messages = [message.to_wire() for message in (*history, user("and now?"))]
        told = {
            "at": self.at, "took_s": took_s, "status": self.status, "text": self.text, "messages": len(history),
            "last": messages[-2]["content"][-1].get("text", "") if history else "",
            "breaches": breaches({"model": "m", "max_tokens": 9, "messages": messages}),
        }  # fmt: skip
        self.told.write(json.dumps(told) + "\n")
        self.told.flush()


STRIKER = Striker()


def watched(agent_class: Any) -> Any:
    def make(*args: Any, listeners: Any, **parts: Any) -> Any:
        STRIKER.agent = agent_class(*args, listeners=[*listeners, STRIKER], **parts)
        return STRIKER.agent

    return make


class WatchedChat(ui.chat_state.Chat):
    def interrupt(self) -> None:
        try:
            super().interrupt()
        finally:
            STRIKER.handled = True


class WatchedPrompt(ui.prompt.Prompt):
    def __init__(self, *args: Any, **parts: Any) -> None:
        super().__init__(*args, **parts)
        self._app.after_render += STRIKER.prompt_shown


if __name__ == "__main__":
    wiring.AsyncAgent = watched(wiring.AsyncAgent)  # type: ignore[misc]
    wiring.BlockingAgent = watched(wiring.BlockingAgent)  # type: ignore[misc]
    ui.chat.Chat = WatchedChat  # type: ignore[attr-defined]
    ui.prompt.Prompt = WatchedPrompt  # type: ignore[misc]
    options, settings = (
        Options(offline=True),
        Settings(state_dir=Path("state"), notes_dir=Path("notes"), rate_limit_per_minute=0),
    )
    (ui.chat.run_async if sys.argv[1] == "async" else ui.chat.run_blocking)(options, settings)
