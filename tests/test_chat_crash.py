"""The real programs are killed in the middle of a question, and the next start finishes it: same answer, one note."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support_pty import PATIENCE_S, ROOT, Terminal
from tests.test_ui_sessions import QUESTION, killed, notes

SAVED, SUM = "Saved the note as a9f1ae1612d5", "2 * 3 = 6"
OFFER = f'! 1 question was cut off: "{QUESTION}". /resume finishes it.'


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


@pytest.mark.parametrize(("first", "then"), [("agent_async.py", "agent.py"), ("agent.py", "agent_async.py")])
def test_a_chat_killed_in_a_turn_of_two_tools_is_offered_back_and_finished(
    terminals: list[Terminal], tmp_path: Path, first: str, then: str
) -> None:
    chat = Terminal([str(ROOT / first), "--offline", "--fault", "calculator:hang*1"], tmp_path)
    terminals.append(chat)
    chat.ask(QUESTION)
    chat.until("✓ save_note")
    # With asyncio the sum runs beside the note; without it after it. Both are under way or still to come.
    chat.signal(signal.SIGKILL)
    chat.until(lambda: chat.ended)

    again = Terminal([str(ROOT / then), "--offline"], tmp_path)
    terminals.append(again)
    again.until_prompt()
    again.send("/resum")  # typed while the sessions are read
    again.until(OFFER)
    again.until(lambda: again.line == "> /resum")
    assert again.prompts == 1, "the line is drawn once, below the offer"
    again.send("e\r")
    again.until("goes on where it was cut off")
    again.until(SUM)
    again.until_prompt()
    assert SAVED in again.text
    assert len(notes(tmp_path)) == 1
    again.ask("/resume")
    again.until("No question was cut off")
    again.until_prompt()
    again.send("\x04")
    assert again.exit_code() == 0
    assert "Traceback" not in again.text


def test_a_chat_that_continues_shows_what_was_said_last_and_gives_up_what_is_not_finished(
    terminals: list[Terminal], tmp_path: Path
) -> None:
    killed(tmp_path, QUESTION)
    chat = Terminal([str(ROOT / "agent_async.py"), "--offline", "-c"], tmp_path)
    terminals.append(chat)
    chat.until(f'! The last question was cut off: "{QUESTION}". /resume finishes it.')
    chat.ask("What is 5 * 5?")
    chat.until(f"! given up, since another is asked: {QUESTION} (what it wrote stays)")
    chat.until("5 * 5 = 25")
    chat.until_prompt()
    chat.send("\x04")
    assert chat.exit_code() == 0
    assert len(notes(tmp_path)) == 1


def ask(program: str, folder: Path, *argv: str) -> tuple[int, dict[str, Any]]:
    """Run a one-shot; its exit code and its report."""
    command = [sys.executable, str(ROOT / program), "--offline", "--json", *argv]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout)


def test_a_one_shot_that_was_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    killed(tmp_path, QUESTION)
    code, refused = ask("agent.py", tmp_path, "-c", "something else")
    assert (code, refused["error"]["type"]) == (2, "ConfigurationError")
    code, finished = ask("agent.py", tmp_path, "--continue")
    assert (code, finished["status"]) == (0, "ok")
    assert SAVED in finished["text"]
    assert SUM in finished["text"]
    assert [call["name"] for call in finished["tool_calls"]] == ["save_note", "calculator"]
    assert len(notes(tmp_path)) == 1
    code, later = ask("agent_async.py", tmp_path, "--resume", finished["session_id"][:8], "What is 5 * 5?")
    assert (code, later["session_id"]) == (0, finished["session_id"])
    code, nothing = ask("agent_async.py", tmp_path, "--resume", finished["session_id"])
    assert (code, nothing["error"]["message"][:26]) == (2, "no question was cut off in")


def stopped(program: str, folder: Path, number: int) -> tuple[int, dict[str, Any]]:
    """Send a signal to a one-shot whose sum hangs; its exit code and its report."""
    command = [sys.executable, str(ROOT / program), "--offline", "--json", "--fault", "calculator:hang", QUESTION]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=-1, stderr=-1, text=True) as asked:
        end_s = time.monotonic() + PATIENCE_S
        while not (folder / "notes").is_dir() or not notes(folder):
            assert time.monotonic() < end_s
            time.sleep(0.01)
        time.sleep(0.05)  # the sum is under way now, or about to be
        asked.send_signal(number)
        said, _ = asked.communicate(timeout=PATIENCE_S)
    return asked.returncode, json.loads(said)


@pytest.mark.parametrize("program", ["agent_async.py", "agent.py"])
def test_a_one_shot_that_the_system_ends_is_kept_and_finished_by_the_next(tmp_path: Path, program: str) -> None:
    code, told = stopped(program, tmp_path, signal.SIGTERM)
    assert (code, told["status"]) == (143, "cancelled")
    code, finished = ask(program, tmp_path, "--resume", told["session_id"])
    assert (code, finished["status"], finished["session_id"]) == (0, "ok", told["session_id"])
    assert SAVED in finished["text"]
    assert SUM in finished["text"]
    assert len(notes(tmp_path)) == 1


def test_a_one_shot_that_its_person_stopped_is_over_and_its_session_goes_on(tmp_path: Path) -> None:
    code, told = stopped("agent_async.py", tmp_path, signal.SIGINT)
    assert (code, told["status"]) == (130, "cancelled")
    code, nothing = ask("agent_async.py", tmp_path, "--resume", told["session_id"])
    assert (code, nothing["error"]["message"][:22]) == (2, "no question was cut of")
    code, later = ask("agent.py", tmp_path, "--resume", told["session_id"], "What is 5 * 5?")
    assert (code, later["session_id"]) == (0, told["session_id"])


def test_the_same_task_is_answered_once_and_then_from_the_store(tmp_path: Path) -> None:
    code, first = ask("agent.py", tmp_path, "--task-id", "job 7", QUESTION)
    assert code == 0
    code, second = ask("agent_async.py", tmp_path, "--task-id", "job 7", QUESTION)
    assert (code, second["text"], second["tool_calls"]) == (0, first["text"], first["tool_calls"])
    assert second["attempts"]["model"] == 0
    code, other = ask("agent_async.py", tmp_path, "--task-id", "job 7", "What is 5 * 5?")
    assert (code, other["error"]["type"]) == (1, "Conflict")
    assert len(notes(tmp_path)) == 1
