"""The chat in a real terminal: Ctrl-C at any moment, and every way to leave."""

from __future__ import annotations

import contextlib
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support_pty import ROOT, Terminal

STANDIN = str(ROOT / "tests" / "chat_standin.py")
BACK_S = 0.2
"""Ctrl-C gives the prompt back within this time (promise B2)."""

BUSY_S = 2.0
"""What a busy machine may add to a single one of them."""

Open = Callable[..., Terminal]


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Open]:
    opened: list[Terminal] = []

    def start(*argv: str, **environ: str) -> Terminal:
        opened.append(Terminal(argv, tmp_path, environ))
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.fixture(params=["async", "blocking"])
def standin(request: pytest.FixtureRequest, open_terminal: Open) -> Callable[..., Terminal]:
    return lambda **environ: open_terminal(STANDIN, request.param, **environ)


class Chats:
    """One running stand-in for all tests that leave it at its prompt: starting one takes a second."""

    def __init__(self, colour: str, folder: Path) -> None:
        self._colour, self._folder = colour, folder
        self.terminal: Terminal | None = None

    def open(self) -> Terminal:
        if self.terminal is None or self.terminal.ended:
            self.terminal = Terminal([STANDIN, self._colour], self._folder)
            self.terminal.ask("hello")
            self.terminal.until("you said hello")
        self.terminal.until_prompt()
        self.terminal.screen.reset()
        self.terminal.screen.history.top.clear()
        self.terminal.send("\x0c")
        self.terminal.until_prompt()
        return self.terminal


@pytest.fixture(scope="module", params=["async", "blocking"])
def chats(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chats]:
    chats = Chats(request.param, tmp_path_factory.mktemp("chat"))
    yield chats
    if chats.terminal is not None:
        chats.terminal.close()


@pytest.fixture
def chat(chats: Chats) -> Terminal:
    """A chat at its prompt, with an empty screen."""
    return chats.open()


def stop(terminal: Terminal) -> float:
    """Press Ctrl-C; how long it took until an open prompt stood there."""
    terminal.interrupt()
    pressed_s = time.monotonic()
    terminal.until_prompt()
    took_s = time.monotonic() - pressed_s
    assert took_s < BACK_S + BUSY_S
    return took_s


# --- the real programs -----------------------------------------------------------------------------------

PHASES = {
    "the model is streaming": ("/fault model:stall=text*1", "Tell me about yourself", "practice m"),
    "a tool hangs": ("/fault get_weather:hang*1", "What is the weather in Berlin?", "get_weather.open_meteo: hang"),
    "a retry waits": ("/fault model:server_error*1", "What is 3 * 3?", "again in"),
    "the model never answers": ("/fault model:hang*1", "What is 4 * 4?", "practice: hang"),
}


@pytest.mark.parametrize("program", ["agent_async.py", "agent.py"])
def test_ctrl_c_gives_the_prompt_back_in_every_phase_and_the_next_question_works(
    open_terminal: Open, program: str
) -> None:
    terminal = open_terminal(str(ROOT / program), "--offline", "--seed", "4", RETRY_BASE_DELAY="900", MAX_RETRIES="1")
    terminal.ask("What is 15 * 23?")
    terminal.until("345")
    terminal.until_prompt()
    terminal.send("not this")
    terminal.until("> not this")
    took_s = [stop(terminal)]
    for phase, (fault, question, sign) in PHASES.items():
        terminal.ask("/fault off")
        terminal.ask(fault)
        terminal.ask(question)
        terminal.until(sign)
        assert not terminal.echoes, phase
        took_s.append(stop(terminal))
    assert statistics.median(took_s) < BACK_S
    terminal.ask("/fault off")
    terminal.ask("What is 6 * 7?")
    terminal.until("42")
    terminal.until_prompt()
    terminal.send("\x04")
    assert terminal.exit_code() == 0
    assert (terminal.folder / ".unflappable" / "history").read_text().count("\n+") == 15
    assert "Traceback" not in terminal.text


def test_a_wrong_fault_ends_the_chat_with_one_clear_line(open_terminal: Open) -> None:
    terminal = open_terminal(str(ROOT / "agent_async.py"), "--offline", "--fault", "model:wobble")
    assert terminal.exit_code() == 2
    assert "unknown kind 'wobble'" in terminal.text
    assert "Traceback" not in terminal.text


def test_without_a_key_the_chat_says_that_it_practises(open_terminal: Open) -> None:
    terminal = open_terminal(str(ROOT / "agent_async.py"))
    terminal.until_prompt()
    assert "no ANTHROPIC_API_KEY or GEMINI_API_KEY is set: this is the practice model" in terminal.text
    assert "MODEL_CHAIN=local:MODEL@URL" in terminal.text
    terminal.send("\x04")
    assert terminal.exit_code() == 0


def test_faults_that_are_on_are_said_at_once_and_stay_in_sight(open_terminal: Open) -> None:
    terminal = open_terminal(str(ROOT / "agent_async.py"), "--offline", "--fault", "calculator:error*1")
    terminal.until_prompt()
    assert terminal.text.count("faults on: calculator:error*1") == 2  # the greeting, and below the prompt
    terminal.send("\x04")
    assert terminal.exit_code() == 0


# --- stopping --------------------------------------------------------------------------------------------


def test_ctrl_c_right_behind_enter_stops_the_question(chat: Terminal) -> None:
    chat.interrupt("hang\r")
    chat.until("stopped")
    chat.until_prompt()
    assert not chat.ended


def test_ctrl_c_while_the_agent_is_still_loading_gives_the_prompt_back(standin: Open) -> None:
    terminal = standin(LOADS="never")
    terminal.ask("too early")
    terminal.until("starting")
    stop(terminal)
    assert "stopped" in terminal.text
    terminal.send("/quit\r")
    assert terminal.exit_code() == 0


def test_a_question_typed_before_the_agent_is_there_waits_for_it(standin: Open) -> None:
    terminal = standin()
    terminal.send("typed before the first prompt\r")
    terminal.until("you said typed before the first prompt")
    assert not terminal.ended


def test_ctrl_c_in_an_approval_stops_the_question_and_approves_nothing(chat: Terminal) -> None:
    chat.ask("approve delete everything")
    chat.until("anything else = no:")
    assert "│ delete everything" in chat.text
    stop(chat)
    assert "the answer was" not in chat.text
    chat.ask("approve milk")
    chat.until("│ milk")
    chat.until(lambda: chat.line.endswith("anything else = no:"))
    chat.send("y\r")
    chat.until("the answer was yes")
    chat.until_prompt()


def test_a_yes_typed_before_the_question_approves_nothing(chat: Terminal) -> None:
    chat.send("approve milk\ry\ryes\r")
    chat.until(lambda: chat.line.endswith("anything else = no:"))
    chat.send("n\r")
    chat.until("the answer was no")
    chat.until_prompt()


def test_a_mistake_of_ours_does_not_end_the_chat(chat: Terminal) -> None:
    chat.ask("crash")
    chat.until("a mistake in this program: RuntimeError: the agent is broken")
    chat.ask("still there?")
    chat.until("you said still there?")


# --- typing ahead ----------------------------------------------------------------------------------------


def test_what_is_typed_during_an_answer_stands_in_the_next_prompt(chat: Terminal) -> None:
    chat.ask("hang")
    chat.until("hanging")
    chat.interrupt("typed ahead")
    chat.until(lambda: chat.line == "> typed ahead")
    assert chat.text.count("typed ahead") == 1, "it must not be echoed into the answer"
    chat.send(" and finished\r")
    chat.until("you said typed ahead and finished")


def test_a_line_entered_during_an_answer_is_asked_next(chat: Terminal) -> None:
    chat.send("second\rthird\r")
    chat.until("you said second")
    chat.until("you said third")


def test_after_ctrl_c_an_entered_line_waits_to_be_entered_again(chat: Terminal) -> None:
    chat.ask("hang")
    chat.until("hanging")
    chat.interrupt("not by itself\r")
    chat.until(lambda: chat.line == "> not by itself")
    assert "you said" not in chat.text
    chat.send("\x15")


# --- leaving ---------------------------------------------------------------------------------------------


def test_two_ctrl_c_at_the_prompt_leave_with_130(standin: Open) -> None:
    terminal = standin()
    terminal.until_prompt()
    terminal.send("\x03\x03")
    assert terminal.exit_code() == 130


def test_two_ctrl_c_during_an_answer_leave_with_130(standin: Open) -> None:
    terminal = standin()
    terminal.ask("hang")
    terminal.until("hanging")
    terminal.send("\x03")
    terminal.until("stopped")
    terminal.send("\x03")
    assert terminal.exit_code() == 130


@pytest.mark.parametrize("phase", ["prompt", "answer", "approval", "loading"])
def test_sigterm_ends_the_chat_in_order_in_every_phase(standin: Open, phase: str) -> None:
    terminal = standin(LOADS="never" if phase == "loading" else "ok")
    terminal.until_prompt()
    sign = {"answer": ("hang", "hanging"), "approval": ("approve x", "= no:"), "loading": ("x", "starting")}
    if phase in sign:
        terminal.ask(sign[phase][0])
        terminal.until(sign[phase][1])
    terminal.signal(signal.SIGTERM)
    assert terminal.exit_code() == 143
    assert "Traceback" not in terminal.text


def test_a_signal_from_outside_clears_the_line_like_the_key(chat: Terminal) -> None:
    chat.send("away with it")
    chat.until("> away with it")
    chat.interrupt(by_signal=True)
    chat.until_prompt()


def test_a_question_that_cannot_be_stopped_does_not_hold_the_exit(standin: Open) -> None:
    terminal = standin()
    terminal.ask("hello")
    terminal.until("you said hello")
    terminal.ask("stubborn")
    terminal.until(lambda: not terminal.raw)
    terminal.look(0.1)
    terminal.signal(signal.SIGTERM)
    assert terminal.exit_code() == 143


@pytest.mark.parametrize(
    ("loads", "code", "words"), [("refused", 2, "the chain is wrong"), ("broken", 1, "ImportError")]
)
def test_an_agent_that_cannot_be_made_ends_the_chat_with_one_clear_line(
    standin: Open, loads: str, code: int, words: str
) -> None:
    terminal = standin(LOADS=loads)
    assert terminal.exit_code() == code
    assert words in terminal.text
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize("phase", ["prompt", "answer"])
def test_a_terminal_that_is_closed_ends_the_chat(standin: Open, phase: str) -> None:
    terminal = standin()
    terminal.until_prompt()
    if phase == "answer":
        terminal.ask("hang")
        terminal.until("hanging")
    assert terminal.hang_up() == 129


@pytest.mark.parametrize("colour", ["async", "blocking"])
def test_an_output_nobody_reads_ends_the_chat_with_141(colour: str, tmp_path: Path, open_terminal: Open) -> None:
    terminal = open_terminal("-c", RUN_INTO_A_CLOSED_PIPE, STANDIN, colour)
    assert terminal.exit_code() == 141


RUN_INTO_A_CLOSED_PIPE = """
import os, subprocess, sys
reading, writing = os.pipe()
os.close(reading)
sys.exit(subprocess.run([sys.executable, *sys.argv[1:]], stdout=writing).returncode)
"""


# --- where nothing can be drawn --------------------------------------------------------------------------


def test_a_dumb_terminal_chats_without_a_single_escape(standin: Open) -> None:
    terminal = standin(TERM="dumb")
    terminal.until(lambda: terminal.line == ">")
    terminal.send("hello\n")
    terminal.until("you said hello")
    terminal.send("hang\n")
    terminal.until("hanging")
    terminal.send("\x03")
    terminal.until("stopped")
    terminal.until(lambda: terminal.line == ">")
    terminal.send("\x04")
    assert terminal.exit_code() == 0
    assert b"\x1b" not in terminal.seen


def test_a_chat_whose_output_goes_to_a_file_reads_lines_as_the_terminal_edits_them(
    open_terminal: Open, tmp_path: Path
) -> None:
    terminal = open_terminal("-c", WITH_OUTPUT_TO_A_FILE, STANDIN, "async")
    out = tmp_path / "out"
    terminal.until(lambda: out.exists() and out.read_text().endswith("> "))
    assert terminal.is_as_found
    terminal.send("wrong\x15hello\r")
    terminal.until(lambda: "you said hello" in out.read_text() and out.read_text().endswith("> "))
    terminal.send("\x04")
    assert terminal.exit_code() == 0
    assert "\x1b" not in out.read_text()


WITH_OUTPUT_TO_A_FILE = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, *sys.argv[1:]], stdout=open("out", "w")).returncode)
"""


@pytest.mark.parametrize("size", [(1, 1), (24, 1), (1, 80), (2, 5)])
def test_a_terminal_far_too_small_is_no_reason_to_break(open_terminal: Open, size: tuple[int, int]) -> None:
    terminal = open_terminal(STANDIN, "async")
    terminal.until_prompt()
    terminal.process.setwinsize(*size)
    terminal.send("approve milk\r")
    terminal.until(lambda: not terminal.raw)
    terminal.until(lambda: b"no: " in terminal.seen.replace(b"\r\n", b""))
    terminal.process.setwinsize(30, 100)
    terminal.send("y\r")
    terminal.until(lambda: terminal.raw)
    terminal.send("\x04")
    assert terminal.exit_code() == 0
    assert b"Traceback" not in terminal.seen


def test_a_storm_of_resizes_breaks_nothing(chat: Terminal) -> None:
    chat.send("half")
    for n in range(100):
        chat.process.setwinsize(30, 20 + n % 80)
        chat.look(0.001)
    chat.process.setwinsize(30, 100)
    chat.send(" and half\r")
    chat.until("you said half and half")


@pytest.mark.parametrize("phase", ["prompt", "answer"])
def test_after_a_stop_and_a_shell_in_between_the_chat_goes_on(chat: Terminal, phase: str) -> None:
    if phase == "answer":
        chat.ask("hang")
        chat.until("hanging")
    else:
        chat.send("half")
        chat.until("> half")
    chat.signal(signal.SIGSTOP)
    chat.set_as_found()
    chat.signal(signal.SIGCONT)
    if phase == "answer":
        chat.until(lambda: not chat.echoes)
        interrupt_after_a_stop(chat)
        chat.send("half")
    else:
        chat.until(lambda: chat.raw and not chat.echoes)
    chat.send(" a line\r")
    chat.until("you said half a line")


def interrupt_after_a_stop(chat: Terminal) -> None:
    """In the very instant in which a process goes on, the kernel may give a Ctrl-C to a thread that does not wake
    the main one. A second one then wakes it, and both count as one."""
    chat.interrupt()
    with contextlib.suppress(AssertionError):
        chat.until(lambda: chat.raw, patience_s=2.0)
    if not chat.raw:
        chat.interrupt()
    chat.until_prompt()


HEAVY = ("anthropic", "httpx2", "rich", "markdown_it", "typer", "wiring", "core", "telemetry")


def test_nothing_heavy_is_imported_before_the_prompt() -> None:
    code = f"import sys, cli, config, ui.chat, ui.prompt; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
