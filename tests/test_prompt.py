"""The prompt: keys, paste, history, and its end, each in a real terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prompt_toolkit.document import Document
from prompt_toolkit.key_binding.key_processor import KeyPress

import ui.prompt
from safe_text import mask
from tests.support_pty import OwnTerminal, in_turn
from ui.history import ENTRY_BYTES_MAX, FILE_BYTES_MAX, LOADED_BYTES_MAX, PrivateHistory
from ui.keyboard import terminal_input
from ui.keys import Keys, Typed
from ui.plain_prompt import PlainPrompt
from ui.prompt import Prompt, SlashCompleter
from ui.prompt_port import NOTHING
from ui.sink import OutputClosed, Sink

COMMANDS = {"/help": "this list", "/status": "how it stands", "/fault": "break it", "/faults": "what is broken"}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnTerminal]:
    with OwnTerminal(monkeypatch) as terminal:
        yield terminal


class Person:
    """A prompt in a terminal, and somebody who types as soon as it is painted."""

    def __init__(self, terminal: OwnTerminal, folder: Path, status: str = "", colour: str = "asyncio") -> None:
        self.terminal, self.colour = terminal, colour
        terminal.take_over()
        self.interrupts = 0
        self.on_interrupt: Callable[[], object] = lambda: None
        self.when_painted: Callable[[], object] = lambda: None
        self.is_wanted = False
        self.prompt = Prompt(
            folder,
            {"TERM": "xterm-256color"},
            commands=COMMANDS,
            status=lambda: status,
            on_interrupt=self._interrupted,
            on_painted=lambda: self.when_painted(),
            is_wanted=lambda: self.is_wanted,
        )

    def _interrupted(self) -> None:
        self.interrupts += 1
        self.on_interrupt()

    def line(self, keys: str | bytes = "", typed: Typed = NOTHING) -> str | None:
        if keys:
            self.when_painted = lambda: self.terminal.type_aside(keys)
        if self.colour == "blocking":
            return self.prompt.ask(typed)
        return asyncio.run(self.prompt.ask_async(typed))


@pytest.fixture(params=["asyncio", "blocking"])
def person(request: pytest.FixtureRequest, terminal: OwnTerminal, tmp_path: Path) -> Person:
    return Person(terminal, tmp_path / "state", colour=request.param)


@pytest.fixture
def one(terminal: OwnTerminal, tmp_path: Path) -> Person:
    return Person(terminal, tmp_path / "state")


# --- keys ------------------------------------------------------------------------------------------------


def test_enter_submits_and_the_terminal_is_put_back(person: Person) -> None:
    assert person.line("What is 15 * 23?\r") == "What is 15 * 23?"
    assert person.terminal.mode == person.terminal.found


@pytest.mark.parametrize("newline", ["\x1b\r", "\n"], ids=["alt-enter", "ctrl-j"])
def test_a_new_line_is_made_without_submitting(one: Person, newline: str) -> None:
    assert one.line(f"first{newline}second\r") == "first\nsecond"


def test_a_marked_paste_keeps_its_lines_and_waits_for_enter(one: Person) -> None:
    assert one.line("\x1b[200~a\r\nb\rc\n\x1b[201~d\r") == "a\nb\nc\nd"


def test_escapes_within_a_paste_are_text_and_do_nothing(one: Person) -> None:
    assert one.line("\x1b[200~x\x1b]0;title\x07\x1b[2Jy\x1b[201~\r") == "x\x1b]0;title\x07\x1b[2Jy"
    assert b"\x1b]0;" not in one.terminal.shown


def test_a_paste_of_a_megabyte_arrives_whole(one: Person) -> None:
    text = "0123456789 abcde\n" * 61_681
    assert one.line(f"\x1b[200~{text}\x1b[201~\r") == text


def test_a_paste_without_marks_is_a_few_keys_and_not_thousands(terminal: OwnTerminal) -> None:
    keyboard = terminal_input(terminal.stdin)
    with keyboard.raw_mode():
        terminal.type("x" * 4000 + "\r")
        keys: list[KeyPress] = []
        while not keys or keys[-1].data != "\r":
            keys += keyboard.read_keys()
    assert "".join(key.data for key in keys) == "x" * 4000 + "\r"
    assert len(keys) < 200


def test_an_unmarked_paste_keeps_its_place_among_other_keys(one: Person) -> None:
    assert one.line("ab\x1b[D" + "é" * 500 + "\x1b[C!\r") == "a" + "é" * 500 + "b!"


def test_bytes_that_are_no_text_become_replacement_characters(one: Person) -> None:
    text = one.line(b"a\xff\xed\xa0\x80b\r")
    assert text is not None
    assert text.startswith("a")
    assert text.endswith("b")
    assert text.encode()  # no lone surrogate is left


def test_an_empty_line_is_no_line(one: Person) -> None:
    assert one.line("\r  \r\n\rhello\r") == "hello"


def test_an_empty_prompt_steps_aside_when_the_terminal_is_wanted(person: Person) -> None:
    person.is_wanted = True
    assert person.line() == ""


def test_a_prompt_in_which_something_is_typed_is_not_in_the_way(one: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ui.prompt, "LOOK_S", 0.001)
    one.prompt._is_wanted = lambda: bool(one.prompt._session.default_buffer.text)
    threading.Timer(0.2, one.terminal.type, ["ne\r"]).start()
    assert one.line("half a li") == "half a line"


def test_ctrl_d_leaves_on_an_empty_line_only(person: Person) -> None:
    assert person.line("ab\x1b[D\x04\r") == "a"
    person.prompt = Person(person.terminal, Path("unused"), colour=person.colour).prompt
    person.prompt._on_painted = lambda: person.terminal.type("\x04")
    assert person.line() is None


def test_ctrl_c_is_told_and_clears_when_the_chat_says_so(person: Person) -> None:
    person.on_interrupt = in_turn(person.prompt.clear, lambda: person.terminal.type_aside("kept\r"))
    assert person.line("forget this\x03") == "kept"
    assert person.interrupts == 1


def test_keys_right_behind_the_line_are_handed_over(one: Person) -> None:
    keys, interrupts = Keys(one.terminal.stdin), []
    keys.on_interrupt = lambda: interrupts.append(1)
    with keys.quiet():
        assert one.line("question\r\x03next") == "question"
        keys.keep(one.prompt.leftover())
        keys.drain()
    assert interrupts == [1]
    assert keys.typed() == Typed("next")


def test_what_was_typed_ahead_stands_in_the_line_and_can_be_edited(one: Person) -> None:
    assert one.line("\x7f\x7f23?\r", Typed("What is 15 * 32")) == "What is 15 * 23?"


def test_a_line_entered_ahead_is_submitted_by_itself(person: Person) -> None:
    assert person.line(typed=Typed("one more", entered=True)) == "one more"


def test_tab_completes_a_command(one: Person) -> None:
    terminal = one.terminal

    def type_along() -> None:
        terminal.type("/st")
        terminal.until(COMMANDS["/status"])
        terminal.type("\t\r")

    threading.Thread(target=type_along).start()
    assert one.line() == "/status"


@pytest.mark.parametrize(
    ("text", "names"),
    [("/f", ["/fault", "/faults"]), ("/", list(COMMANDS)), ("/x", []), ("what is /f", []), ("/fault mod", [])],
)
def test_only_a_slash_at_the_beginning_is_completed(text: str, names: list[str]) -> None:
    found: Any = SlashCompleter(COMMANDS).get_completions(Document(text), None)  # type: ignore[arg-type]
    assert [completion.text for completion in found] == names


def test_the_status_stands_below_in_a_terminal_that_answers_no_questions(terminal: OwnTerminal, tmp_path: Path) -> None:
    person = Person(terminal, tmp_path, status="practice · get_weather\x1b[2J open")
    threading.Thread(target=in_turn(lambda: terminal.until("open"), lambda: terminal.type("x\r"))).start()
    assert person.line() == "x"
    assert b"\x1b[6n" not in terminal.shown
    assert b"\x1b[2J" not in terminal.shown


# --- the end ---------------------------------------------------------------------------------------------


def test_leave_ends_the_line_from_any_thread_and_all_later_ones(person: Person) -> None:
    person.when_painted = lambda: threading.Thread(target=person.prompt.leave).start()
    assert person.line() is None
    assert person.line() is None
    assert person.terminal.mode == person.terminal.found


def test_a_terminal_that_hangs_up_is_the_end_and_no_endless_loop(person: Person) -> None:
    person.when_painted = lambda: threading.Thread(target=person.terminal.hang_up).start()
    with contextlib.suppress(OutputClosed):  # it was drawing just then
        assert person.line() is None


# --- history ---------------------------------------------------------------------------------------------


def stored(folder: Path) -> list[str]:
    """What a later start finds, oldest first."""
    return list(PrivateHistory(folder).load_history_strings())[::-1]


def test_lines_are_kept_for_the_next_start_in_private_files_whatever_the_umask(one: Person, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        one.line("first question\r")
    finally:
        os.umask(before)
    file = tmp_path / "state" / "history"
    assert stored(tmp_path / "state") == ["first question"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_the_arrow_brings_the_last_line_back(one: Person, tmp_path: Path) -> None:
    PrivateHistory(tmp_path / "state").store_string("asked before")
    assert one.line("\x1b[A again\r") == "asked before again"


@given(st.lists(st.text().filter(str.strip), max_size=5))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_as_it_was(tmp_path: Path, texts: list[str]) -> None:
    folder = tmp_path / os.urandom(8).hex()
    history = PrivateHistory(folder)
    for text in texts:
        history.append_string(text)
    assert stored(folder) == [mask(text) for text in texts]


def test_secrets_never_reach_the_file(tmp_path: Path) -> None:
    PrivateHistory(tmp_path).append_string("my key is sk-ant-REDACTED")
    assert b"sk-ant" not in (tmp_path / "history").read_bytes()


def test_a_folder_that_cannot_be_written_costs_the_file_and_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file stands in the way")
    history = PrivateHistory(tmp_path / "state")
    history.append_string("first")
    assert "history" in history.trouble()
    history.append_string("second")
    assert history.trouble() == ""
    assert history.get_strings() == ["first", "second"]


def test_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "history").symlink_to(tmp_path / "elsewhere")
    history = PrivateHistory(tmp_path)
    history.append_string("secret thoughts")
    assert (tmp_path / "elsewhere").read_text() == ""
    assert history.trouble()


def test_a_huge_paste_is_not_kept_on_disk_and_a_long_file_is_cut(tmp_path: Path) -> None:
    history = PrivateHistory(tmp_path)
    history.append_string("x" * (ENTRY_BYTES_MAX + 1))
    assert stored(tmp_path) == []
    (tmp_path / "history").write_bytes(b"\n# long ago\n+old\n" * (FILE_BYTES_MAX // 16))
    history.append_string("newest")
    assert stored(tmp_path)[-1] == "newest"
    assert (tmp_path / "history").stat().st_size <= LOADED_BYTES_MAX
    assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o600
    assert stored(tmp_path)[-1] == "newest"
    assert [path.name for path in tmp_path.iterdir()] == ["history"]


# --- where nothing can be drawn --------------------------------------------------------------------------


class Pipe:
    """Input that is no terminal, and output that is kept."""

    def __init__(self, tmp_path: Path) -> None:
        reading, self.writing = os.pipe()
        self.stdin = os.fdopen(reading)
        self.stdout = (tmp_path / "out").open("w+")
        self.painted = 0
        self.prompt = PlainPrompt(self.stdin, Sink(self.stdout, {}), on_painted=self._paint, is_wanted=lambda: False)

    def _paint(self) -> None:
        self.painted += 1

    @property
    def shown(self) -> str:
        self.stdout.seek(0)
        return self.stdout.read()


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path)
    yield pipe
    with open(pipe.writing, "wb", closefd=True):
        pass
    pipe.stdin.close()
    pipe.stdout.close()


def test_a_plain_prompt_asks_line_by_line_until_the_end(pipe: Pipe) -> None:
    os.write(pipe.writing, "erste Frage?\r\nsecond\nunfinished \xff".encode("latin-1"))
    assert pipe.prompt.ask() == "erste Frage?"
    assert asyncio.run(pipe.prompt.ask_async()) == "second"
    os.close(pipe.writing)
    assert pipe.prompt.ask() == "unfinished �"
    assert pipe.prompt.ask() is None
    assert asyncio.run(pipe.prompt.ask_async()) is None
    assert pipe.shown == "> " * 5
    assert pipe.painted == 1
    pipe.writing = os.open(os.devnull, os.O_WRONLY)


def test_a_plain_prompt_steps_aside_before_it_asks_for_a_line(pipe: Pipe) -> None:
    os.write(pipe.writing, b"hello\n")
    pipe.prompt._is_wanted = lambda: True
    assert pipe.prompt.ask() == ""
    assert asyncio.run(pipe.prompt.ask_async()) == ""
    assert pipe.shown == ""
    pipe.prompt._is_wanted = lambda: False
    assert pipe.prompt.ask() == "hello"


@pytest.mark.parametrize("colour", ["asyncio", "blocking"])
def test_a_plain_prompt_is_left_while_it_waits(pipe: Pipe, colour: str) -> None:
    threading.Timer(0.01, pipe.prompt.leave).start()
    line = pipe.prompt.ask() if colour == "blocking" else asyncio.run(pipe.prompt.ask_async())
    assert line is None
    assert pipe.prompt.ask() is None


def test_a_plain_prompt_starts_a_new_line_after_ctrl_c(pipe: Pipe) -> None:
    threading.Timer(0.01, in_turn(pipe.prompt.clear, lambda: os.write(pipe.writing, b"again\n"))).start()
    assert pipe.prompt.ask() == "again"
    assert pipe.shown == "> \n> "
