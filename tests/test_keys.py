"""What is typed without a prompt, and the terminal's mode around it."""

from __future__ import annotations

import asyncio
import os
import termios
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support_pty import OwnTerminal
from ui.keys import Keys, Typed, draws, understood

# --- what the keys mean ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "typed"),
    [
        (b"", Typed()),
        (b"what is next", Typed("what is next")),
        (b"one line\r", Typed("one line", entered=True)),
        (b"\r\r\r", Typed()),
        (b"   \r", Typed("   ")),
        (b"two\rlines\r", Typed("two\nlines")),
        (b"pasted\nlines\r", Typed("pasted\nlines")),
        (b"entered\rand more", Typed("entered\nand more")),
        (b"wromg\x7f\x7fng", Typed("wrong")),
        (b"\x7f\x7fa", Typed("a")),
        (b"away with it\x15kept", Typed("kept")),
        (b"one two \x17three", Typed("one three")),
        (b"arrows\x1b[A\x1b[1;5C\x1bOP\x1bx gone", Typed("arrows gone")),
        (b"\x1b[200~pasted\x1b[201~\r", Typed("pasted", entered=True)),
        ("Grüße 👋\r".encode(), Typed("Grüße 👋", entered=True)),
        (b"bad \xff byte", Typed("bad � byte")),
        (b"a\tb\x00\x01\x1a", Typed("a b")),
        (b"lonely escape\x1b", Typed("lonely escape")),
    ],
)
def test_keys_typed_ahead_become_the_line_they_would_have_made(keys: bytes, typed: Typed) -> None:
    assert understood(keys) == typed


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_keys_whatever_make_a_control_character_or_enter_several_lines(keys: bytes) -> None:
    typed = understood(keys)
    assert not any((c < " " and c != "\n") or "\x7f" <= c < "\xa0" for c in typed.text)
    assert not (typed.entered and ("\n" in typed.text or not typed.text.strip()))


# --- the terminal's mode ---------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnTerminal]:
    with OwnTerminal(monkeypatch) as terminal:
        yield terminal


def flags(terminal: OwnTerminal) -> dict[str, bool]:
    return {name: bool(terminal.mode[3] & getattr(termios, name)) for name in ("ECHO", "ICANON", "ISIG")}


def test_quiet_means_no_echo_no_lines_and_ctrl_c_still_a_signal(terminal: OwnTerminal) -> None:
    with Keys(terminal.stdin).quiet():
        assert flags(terminal) == {"ECHO": False, "ICANON": False, "ISIG": True}
    assert terminal.mode == terminal.found


def test_the_terminal_is_put_back_when_something_breaks(terminal: OwnTerminal) -> None:
    with pytest.raises(SystemExit), Keys(terminal.stdin).quiet():
        raise SystemExit(3)
    assert terminal.mode == terminal.found


def test_restore_and_resume_switch_in_the_middle_as_a_watchdog_and_a_stop_do(
    terminal: OwnTerminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(terminal.stdin)
    monkeypatch.setattr(os, "tcgetpgrp", lambda fd: os.getpgrp())  # not our controlling terminal
    with keys.quiet():
        with keys.quiet():
            keys.restore()
            assert terminal.mode == terminal.found
            keys.resume()
            assert not flags(terminal)["ECHO"]
        assert not flags(terminal)["ECHO"]
    keys.resume()
    assert terminal.mode == terminal.found


def test_in_the_background_the_shells_terminal_is_left_alone(terminal: OwnTerminal) -> None:
    keys = Keys(terminal.stdin)
    with keys.quiet():
        keys.restore()
        keys.resume()  # the pseudo-terminal has no foreground group of ours
        assert terminal.mode == terminal.found


def test_where_nobody_draws_the_terminal_keeps_its_own_line_editing(terminal: OwnTerminal) -> None:
    keys = Keys(terminal.stdin, quiets=False)
    with keys.quiet(), keys.listening():
        assert terminal.mode == terminal.found
    assert not keys.is_quiet
    assert keys.fd is not None


@pytest.mark.parametrize(
    ("term", "answer"), [("xterm-256color", True), ("linux", True), ("dumb", False), ("unknown", False)]
)
def test_a_prompt_is_drawn_where_both_sides_are_a_terminal_that_moves_its_cursor(
    terminal: OwnTerminal, term: str, answer: bool
) -> None:
    assert draws(terminal.stdin, terminal.stdout, {"TERM": term}) is answer
    with open(os.devnull, "w") as nowhere:
        assert not draws(terminal.stdin, nowhere, {"TERM": term})
        assert not draws(None, terminal.stdout, {"TERM": term})


def test_without_a_terminal_nothing_happens() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"not for us")
    with os.fdopen(reading) as pipe:
        for keys in (Keys(pipe), Keys(None)):
            with keys.quiet(), keys.listening(), keys.lent():
                keys.drain()
                keys.resume()
            assert keys.typed() == Typed()
            assert not keys.hung_up()
        assert os.read(pipe.fileno(), 100) == b"not for us"
    os.close(writing)


# --- keeping what is typed -------------------------------------------------------------------------------


def test_what_is_typed_meanwhile_is_kept_and_not_echoed(terminal: OwnTerminal) -> None:
    keys = Keys(terminal.stdin)
    with keys.quiet():
        with keys.listening():
            terminal.type("the next question")
        assert keys.typed() == Typed("the next question")
        assert keys.typed() == Typed()
    assert b"question" not in terminal.shown


def test_on_a_loop_more_is_taken_than_the_terminal_itself_can_hold(terminal: OwnTerminal) -> None:
    keys = Keys(terminal.stdin)
    text = "word " * 4000

    async def listen() -> None:
        typing = threading.Thread(target=terminal.type, args=(text + "!",))
        with keys.listening(asyncio.get_running_loop()):
            typing.start()
            while typing.is_alive():
                await asyncio.sleep(0.001)

    with keys.quiet():
        asyncio.run(listen())
    assert keys.typed() == Typed(text + "!")


def test_a_ctrl_c_among_the_keys_interrupts_and_voids_what_came_before(terminal: OwnTerminal) -> None:
    keys, interrupts = Keys(terminal.stdin), []
    keys.on_interrupt = lambda: interrupts.append(1)
    keys.keep(b"before\r\x03after")
    assert interrupts == [1]
    assert keys.typed() == Typed("after")


def test_who_borrows_the_keyboard_sees_nothing_typed_before(terminal: OwnTerminal) -> None:
    keys = Keys(terminal.stdin)
    with keys.quiet(), keys.listening():
        keys.keep(b"y\r")
        terminal.type("y\r")
        with keys.lent():
            keys.forget()
            terminal.type("n")
            assert os.read(terminal.stdin.fileno(), 100) == b"n"
    assert keys.typed() == Typed()


def test_a_terminal_that_hangs_up_is_told_once_and_never_spins(terminal: OwnTerminal) -> None:
    keys, told = Keys(terminal.stdin), []
    keys.on_hangup = lambda: told.append(1)

    async def listen() -> None:
        loop = asyncio.get_running_loop()
        with keys.listening(loop):
            terminal.hang_up()
            while not told:
                await asyncio.sleep(0.001)
            assert not loop.remove_reader(terminal.stdin.fileno()), "it would be readable for ever"

    with keys.quiet():
        asyncio.run(listen())
    assert keys.hung_up()
    assert told
