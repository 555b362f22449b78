"""The approval dialog: what a person is shown, and what counts as their yes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oversight.approvals import Answer, ApprovalRequest, AskHuman, digest_of
from safe_text import register_secret
from tests.support_pty import OwnTerminal, in_turn
from ui.approval import QUESTION, approving_async, approving_blocking, dialog, seen
from ui.keys import Keys, Typed
from ui.screen import Screen
from ui.sink import Sink

XTERM = {"TERM": "xterm-256color"}


def request(**given: Any) -> ApprovalRequest:
    return ApprovalRequest("save_note", given, "text from outside was read before", digest_of("save_note", given))


# --- what is shown ---------------------------------------------------------------------------------------


def behind_the_bar(text: str) -> str:
    """Puts back together what stands behind the bars."""
    lines: list[str] = []
    for line in text.split("\n"):
        if line.startswith("│ "):
            lines.append(line[2:])
        elif line.startswith("┆ "):
            lines[-1] += line[2:]
    return "\n".join(lines)


def test_it_names_tool_reason_every_field_and_the_digest() -> None:
    asked = request(content="milk\neggs", title="Groceries")
    text = dialog(asked, 80)
    for part in ("may save_note run?", asked.why, "content (2 lines, 9 characters):", "title (9 characters):"):
        assert part in text
    assert f"digest {asked.digest[:12]}\n" in text
    assert behind_the_bar(text) == "milk\neggs\nGroceries"


@given(st.text(max_size=300), st.integers(1, 120))
@settings(max_examples=300, deadline=None)
def test_all_of_the_content_stands_behind_a_bar_and_nothing_else_does(content: str, columns: int) -> None:
    text = dialog(request(content=content), columns)
    head, shown, foot = text.split("\n")[:3], text.split("\n")[3:-2], text.split("\n")[-2:]
    assert all(line.startswith(("│ ", "┆ ")) for line in shown)
    assert not any(line.startswith(("│", "┆")) for line in [*head, *foot])
    assert foot[0].startswith("digest ")
    assert behind_the_bar(text) == seen(content)


@given(st.text(st.characters(max_codepoint=0x7E, min_codepoint=0x20), max_size=300), st.integers(5, 120))
@settings(max_examples=100, deadline=None)
def test_no_row_of_content_is_as_wide_as_the_terminal(content: str, columns: int) -> None:
    shown = [line for line in dialog(request(content=content), columns).split("\n") if line[:1] in ("│", "┆")]
    assert max(map(len, shown)) < columns


@given(st.text(max_size=100))
@settings(max_examples=300, deadline=None)
def test_nothing_invisible_and_nothing_that_moves_the_eye_is_left(text: str) -> None:
    shown = seen(text)
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\xa0\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]", shown
    )
    assert seen(text, unicode=False).isascii()


@pytest.mark.parametrize(
    ("hidden", "spelled"),
    [
        ("\x1b[2J", "⟨U+001B⟩[2J"),
        ("\u202eexe", "⟨U+202E⟩exe"),
        ("a\u200bb", "a⟨U+200B⟩b"),
        ("a\u3164b", "a⟨U+3164⟩b"),
        ("a\U000e0041b", "a⟨U+E0041⟩b"),
        ("a\ufe0fb", "a⟨U+FE0F⟩b"),
        ("tab\there", "tab⟨U+0009⟩here"),
        ("a\r\nb", "a⟨U+000D⟩\nb"),
        ("a\ud800b", "a⟨U+D800⟩b"),
        ("naïve 東京 👍", "naïve 東京 👍"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(hidden: str, spelled: str) -> None:
    assert seen(hidden) == spelled


def test_a_field_name_cannot_leave_its_line() -> None:
    text = dialog(request(**{"x\n│ harmless": "real"}), 80)
    assert behind_the_bar(text) == "real"


def test_values_that_are_no_text_are_shown_as_json() -> None:
    assert (
        behind_the_bar(dialog(request(n={"a": [1, None]}), 80)).replace("\n", "").replace(" ", "") == '{"a":[1,null]}'
    )


def test_a_quarter_of_a_megabyte_is_shown_in_full() -> None:
    content = "".join(f"line {n}\n" for n in range(25_000))
    assert behind_the_bar(dialog(request(content=content), 80)) == content


def test_a_secret_is_hidden_and_the_dialog_says_so() -> None:
    register_secret("swordfish-swordfish")
    text = dialog(request(content="the word is swordfish-swordfish", title="plain"), 80)
    assert "swordfish" not in text
    assert "content (31 characters, secrets hidden):" in text
    assert "title (5 characters):" in text


# --- what counts as a yes --------------------------------------------------------------------------------


class Dialog:
    """The dialog in a terminal, and somebody who types when the question stands there."""

    def __init__(self, terminal: OwnTerminal, colour: str) -> None:
        self.terminal, self.colour = terminal, colour
        self.screen = Screen.for_chat(Sink(terminal.stdout, XTERM))
        self.keys: Keys | None = None

    def answer(self, keys: str | bytes | None = None, limit_s: float = 20.0) -> Answer:
        if keys is not None:
            self.then(lambda: self.terminal.type(keys))
        effect = AskHuman(request(content="milk"), limit_s)
        self.terminal.take_over()
        if self.colour == "blocking":
            return approving_blocking(self.screen, self.keys)(effect, None)
        return asyncio.run(_ask(approving_async(self.screen, self.keys), effect))

    def then(self, call: Callable[[], object]) -> None:
        threading.Thread(target=in_turn(lambda: self.terminal.until(QUESTION), call)).start()


async def _ask(performer: Any, effect: AskHuman) -> Answer:
    answer: Answer = await performer(effect, None)
    return answer


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnTerminal]:
    with OwnTerminal(monkeypatch) as terminal:
        yield terminal


@pytest.fixture(params=["asyncio", "blocking"])
def asked(request: pytest.FixtureRequest, terminal: OwnTerminal) -> Dialog:
    return Dialog(terminal, request.param)


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        ("y\r", Answer.YES),
        ("YES\r", Answer.YES),
        (" yes \n", Answer.YES),
        ("no\x7f\x7fy\r", Answer.YES),
        ("\x1b[Ay\r", Answer.YES),
        ("\r", Answer.NO),
        ("n\r", Answer.NO),
        ("yep\r", Answer.NO),
        ("y" + " " * 5000 + "no\r", Answer.NO),
        ("ja\r", Answer.NO),
        ("y\x04", Answer.NOBODY),
        (b"\xff\xfey\r", Answer.NO),
    ],
)
def test_only_y_or_yes_is_a_yes(asked: Dialog, keys: str | bytes, answer: Answer) -> None:
    assert asked.answer(keys) is answer
    assert asked.terminal.mode == asked.terminal.found
    asked.terminal.until("\n", at_end=True)


def test_what_was_typed_before_the_question_does_not_answer_it(asked: Dialog) -> None:
    asked.keys = Keys(asked.terminal.stdin)
    with asked.keys.quiet(), asked.keys.listening():
        asked.terminal.type("y\ryes\r")
        asked.keys.keep(b"y\r")
        assert asked.answer("n\r") is Answer.NO
    assert asked.keys.typed() == Typed()


def test_ctrl_c_is_a_no_where_it_makes_no_signal(asked: Dialog) -> None:
    mode = asked.terminal.mode
    mode[6][termios.VINTR] = b"\x18"
    termios.tcsetattr(asked.terminal.stdin.fileno(), termios.TCSANOW, mode)
    assert asked.answer("y\x03") is Answer.NO


def test_no_answer_in_time_means_nobody_was_there(asked: Dialog) -> None:
    assert asked.answer(limit_s=0.05) is Answer.NOBODY
    assert asked.terminal.mode == asked.terminal.found


def test_a_terminal_that_hangs_up_means_nobody_was_there(asked: Dialog) -> None:
    asked.then(asked.terminal.hang_up)
    assert asked.answer() is Answer.NOBODY


@pytest.mark.parametrize(("missing", "mode"), [("stdin", "r"), ("stdout", "w")])
def test_without_a_terminal_nobody_is_asked(
    asked: Dialog, missing: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull, mode) as nowhere, monkeypatch.context() as patch:
        patch.setattr(asked.terminal, missing, nowhere)
        assert asked.answer() is Answer.NOBODY
    assert asked.terminal.shown == b""


def test_a_dumb_terminal_edits_the_answer_itself(asked: Dialog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert asked.answer("y\n") is Answer.YES
    assert b"\x1b" not in asked.terminal.shown


def test_stopping_the_question_puts_the_terminal_back_on_asyncio(terminal: OwnTerminal) -> None:
    dialog_ = Dialog(terminal, "asyncio")
    terminal.take_over()

    async def ask_and_stop() -> None:
        performer: Any = approving_async(dialog_.screen)
        task = asyncio.create_task(performer(AskHuman(request(content="milk"), 20.0), None))
        loop = asyncio.get_running_loop()
        dialog_.then(lambda: loop.call_soon_threadsafe(task.cancel))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not loop.remove_reader(terminal.stdin.fileno())

    asyncio.run(ask_and_stop())
    assert terminal.mode == terminal.found


class Struck(BaseException):
    """What a door raises from a signal handler."""


def test_an_alarm_inside_the_blocking_dialog_puts_the_terminal_back(terminal: OwnTerminal) -> None:
    dialog_ = Dialog(terminal, "blocking")

    def strike(number: int, frame: Any) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, strike)
    try:
        dialog_.then(lambda: signal.setitimer(signal.ITIMER_REAL, 0.001))
        with pytest.raises(Struck):
            dialog_.answer()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert terminal.mode == terminal.found


def test_the_loop_goes_on_while_a_person_thinks(terminal: OwnTerminal) -> None:
    dialog_ = Dialog(terminal, "asyncio")
    terminal.take_over()

    async def ask_beside_a_clock() -> tuple[Answer, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1
                if ticks == 100:
                    dialog_.then(lambda: terminal.type("y\r"))

        clock = asyncio.create_task(tick())
        performer: Any = approving_async(dialog_.screen)
        answer = await performer(AskHuman(request(content="milk"), 20.0), None)
        clock.cancel()
        return answer, ticks

    answer, ticks = asyncio.run(ask_beside_a_clock())
    assert answer is Answer.YES
    assert ticks >= 100
