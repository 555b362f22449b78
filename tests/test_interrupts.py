"""Ctrl-C at every event of a question, in the real chats: the prompt is back at once, nothing is lost or doubled."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support_pty import ROOT, Terminal
from toolbox.note_file import decode

CHAT = str(ROOT / "tests" / "chat_interrupted.py")
BACK_S = 0.2
"""Ctrl-C gives the prompt back within this time (promise B2)."""

UNKNOWN = "save_note: may or may not have happened"

TRIES = 4
"""A machine may be busy for a while; what makes a prompt late by itself makes it late every time."""


class Chat:
    """The chat on its terminal, and what it told of each question."""

    def __init__(self, colour: str, folder: Path) -> None:
        self.folder = folder
        self.terminal = Terminal([CHAT, colour], folder)
        self.terminal.until_prompt()
        self.told: list[dict[str, Any]] = []

    def ask(self, milk: str) -> dict[str, Any]:
        """Ask for a sum and a note."""
        self.terminal.send(f"What is 15 * 23? Save a note: milk {milk}\r")
        self.terminal.until(lambda: len(self._lines()) > len(self.told))
        self.told = self._lines()
        return self.told[-1]

    def _lines(self) -> list[dict[str, Any]]:
        told = self.folder / "told"
        text = told.read_text() if told.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    @property
    def notes(self) -> list[str]:
        """What is saved; a save that was stopped may still be taking its temporary file away."""
        found = [decode(path.read_bytes()) for path in (self.folder / "notes").glob("[!.]*")]
        return sorted(note.content for note in found)


@pytest.fixture(scope="module", params=["async", "blocking"])
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    chat = Chat(request.param, tmp_path_factory.mktemp("chat"))
    yield chat
    chat.terminal.close()


def interrupted(chat: Chat, milk: str) -> dict[str, Any]:
    """One question that is interrupted, what must hold then, and the same question once more."""
    before = chat.told[-1]["messages"] if chat.told else 0
    told = chat.ask(milk)
    saved = f"milk {milk}" in chat.notes
    assert told["breaches"] == [], told
    assert told["status"] in ("ok", "cancelled"), told
    if told["status"] == "ok":
        assert "345" in told["text"], told
        assert saved
    elif told["messages"] == before:
        assert not saved, (milk, told)
    else:
        known = "note saved" if saved else None
        assert told["messages"] == before + 4, told
        assert told["last"] in (f"[stopped: {known}, no answer]", f"[stopped: {UNKNOWN}, no answer]")
    again = chat.ask(milk)
    assert (again["status"], again["at"], again["breaches"]) == ("ok", "", []), again
    assert "345" in again["text"], again
    assert chat.notes.count(f"milk {milk}") == 1
    return told


def in_time(chat: Chat, milk: str) -> dict[str, Any]:
    """The same, and the prompt is back in time: at the first try, or a busy machine's next."""
    for number in range(TRIES):
        told = interrupted(chat, f"{milk}, try {number}" if number else milk)
        if told["took_s"] < BACK_S:
            return told
    raise AssertionError(f"the prompt came back only after {told['took_s']} s: {told}")


def test_ctrl_c_at_every_event_gives_the_prompt_back_and_the_next_question_works(chat: Chat) -> None:
    struck = []
    for n in itertools.count(1):
        told = in_time(chat, str(n))
        if not told["at"]:
            break
        struck.append(told["at"])
    assert {"TurnStarted", "RoundStarted", "AttemptStarted", "ModelAnswered", "ToolCallStarted"} <= set(struck)
    assert {"AttemptSucceeded", "ToolCallEnded", "TextStreamed", "TurnEnded"} <= set(struck)
    # Which of two calls at once ends as the n-th event is not the same in each run, so there is no number to expect.


def test_ctrl_c_at_moments_between_the_events_too(chat: Chat) -> None:
    draw = random.Random(4)
    ends = [in_time(chat, f"{draw.randint(1, 18)} after {draw.randint(1, 25)} ms")["status"] for _ in range(15)]
    assert "cancelled" in ends


def test_after_all_of_that_every_note_is_there_once_and_the_chat_ends_as_always(chat: Chat) -> None:
    chat.ask("0")
    assert len(set(chat.notes)) == len(chat.notes)
    assert not list((chat.folder / "notes").glob(".*"))
    chat.terminal.send("\x04")
    assert chat.terminal.exit_code() == 0
    assert "Traceback" not in chat.terminal.text
