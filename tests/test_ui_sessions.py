"""Taking a session up again: what is offered after a crash, and what the commands about sessions do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import Options, UsageError
from config import Settings
from core.resume import CRASHES_MAX
from errors import ConfigurationError
from messages import Message, ToolResult, ToolUse, assistant, user
from safe_text import MASK, encodable, mask, register_secret
from session import Unfinished
from tests.support_pty import ROOT
from ui.command import CommandResult, Situation
from ui.commands import run_command, settled
from ui.export import as_json
from ui.sessions import age_of, begin_chat, begin_of, entered, entering, offered
from wiring import BlockingAgent

QUESTION = "Save a note: milk. What is 2 * 3?"


def killed(folder: Path, question: str, fault: str = "save_note:crash=after") -> None:
    """Ask this in a process that the fault kills in the middle of it."""
    command = [sys.executable, str(ROOT / "agent_async.py"), "--offline", "--fault", fault, question]
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == -9, done.stderr


@pytest.fixture(scope="module")
def crash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a killed process has left."""
    folder = tmp_path_factory.mktemp("crash")
    killed(folder, QUESTION)
    return folder


def make(folder: Path) -> BlockingAgent:
    chosen = Settings(state_dir=folder / ".unflappable", notes_dir=folder / "notes", rate_limit_per_minute=0)
    return BlockingAgent(chosen, offline=True)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[BlockingAgent]:
    agent = make(tmp_path)
    yield agent
    agent.close()


@pytest.fixture
def after_crash(crash: Path, tmp_path: Path) -> Iterator[BlockingAgent]:
    shutil.copytree(crash, tmp_path, dirs_exist_ok=True)
    agent = make(tmp_path)
    yield agent
    agent.close()


def notes(folder: Path) -> list[str]:
    return [path.name for path in (folder / "notes").iterdir() if not path.name.startswith(".")]


def follow(agent: Any, line: str) -> tuple[str, CommandResult]:
    """Do what a line says to its end, as the chat does; all that was printed, and what it came to."""
    result = run_command(line, Situation(agent))
    said = [result.text]
    while (work := result.work) is not None:
        result = settled(lambda work=work: work.tell(work.begin()))  # type: ignore[misc]
        said.append(result.text)
    return "\n".join(filter(None, said)), result


def said(agent: Any, line: str) -> str:
    return follow(agent, line)[0]


# --- after a crash ---------------------------------------------------------------------------------------


def test_a_plain_start_offers_back_what_a_crash_cut_off_without_entering_it(after_crash: BlockingAgent) -> None:
    session = after_crash.session_id
    news = begin_chat(after_crash, Options(), None)
    assert news == [(f'! 1 question was cut off: "{QUESTION}". /resume finishes it.', "warn")]
    assert after_crash.session_id == session
    assert after_crash.unfinished is None


def test_several_are_counted_and_the_last_one_is_quoted(after_crash: BlockingAgent, tmp_path: Path) -> None:
    killed(tmp_path, "What is 4 * 4?", "calculator:crash")
    ((words, _),) = begin_chat(after_crash, Options(), None)
    assert words == '! 2 questions were cut off; the last one: "What is 4 * 4?". /resume finishes it.'


def test_a_start_without_any_session_says_nothing_and_makes_no_file(agent: BlockingAgent, tmp_path: Path) -> None:
    assert begin_chat(agent, Options(), None) == []
    assert not (tmp_path / ".unflappable" / "sessions.sqlite3").exists()


def test_resume_finishes_it_with_one_note_and_the_same_answer(after_crash: BlockingAgent, tmp_path: Path) -> None:
    told, result = follow(after_crash, "/resume")
    assert f"finishing: {QUESTION}" in told
    assert result.question == QUESTION
    assert result.turn is not None
    report = result.turn().report
    assert (report.status, len(notes(tmp_path))) == ("ok", 1)
    assert "2 * 3 = 6" in report.text
    assert after_crash.unfinished is None
    assert "No question was cut off" in said(after_crash, "/resume")


def test_the_session_it_happened_in_says_so_when_it_is_opened(after_crash: BlockingAgent) -> None:
    news = begin_chat(after_crash, Options(continues=True), None)
    assert news[1:] == [(f'! The last question was cut off: "{QUESTION}". /resume finishes it.', "warn")]
    assert after_crash.unfinished is not None


def test_a_question_that_crashed_too_often_is_only_closed(agent: BlockingAgent, monkeypatch: Any) -> None:
    monkeypatch.setattr(type(agent), "unfinished", Unfinished("boom", CRASHES_MAX, is_poison=True))
    assert offered(agent).endswith(f"It ended the program {CRASHES_MAX} times: /resume only closes it.")


def test_what_cannot_be_read_is_said_at_the_start_and_the_chat_goes_on(agent: BlockingAgent, tmp_path: Path) -> None:
    state = tmp_path / ".unflappable"
    state.mkdir(exist_ok=True)
    (state / "sessions.sqlite3").write_bytes(b"no database at all" * 300)
    news = begin_chat(agent, Options(), None)
    assert news
    assert all(style == "bad" for _, style in news)
    assert "sessions.sqlite3 was damaged" in news[0][0]


# --- options ---------------------------------------------------------------------------------------------


def test_continue_opens_the_session_used_last(agent: BlockingAgent, tmp_path: Path) -> None:
    first = agent.ask("What is 2 * 3?").session_id
    agent.new_session()
    second = agent.ask("What is 5 * 5?").session_id
    agent.close()
    later = make(tmp_path)
    assert later.door.run(entering(later, Options(continues=True))) == ""
    assert later.session_id == second
    assert later.door.run(entering(later, Options(resume=first[:6]))) == ""
    assert later.session_id == first
    assert entered(later).split("\n") == [f"session {first}, 4 messages", "> What is 2 * 3?", "2 * 3 = 6"]
    later.close()


def test_continue_without_any_session_starts_anew_and_says_so(agent: BlockingAgent) -> None:
    told = agent.door.run(entering(agent, Options(continues=True)))
    assert told == "there is no session to continue yet: this is a new one"
    assert begin_chat(agent, Options(continues=True), None) == [(f"! {told}", "warn")]
    begin_of(agent, Options(continues=True), "What is 2 * 3?", told)
    with pytest.raises(UsageError, match="no session to continue"):
        begin_of(agent, Options(continues=True), "", told)


def test_a_session_that_is_open_elsewhere_is_refused_by_name(agent: BlockingAgent, tmp_path: Path) -> None:
    session = agent.ask("What is 2 * 3?").session_id
    other = make(tmp_path)
    with pytest.raises(ConfigurationError, match=f"{session} is open in another process"):
        begin_chat(other, Options(resume=session), None)
    assert f"{session} is open in another process" in said(other, f"/resume {session}")
    assert "open elsewhere" in said(other, "/sessions")
    other.close()


def test_a_one_shot_finishes_what_was_cut_off_or_refuses_to_lose_it(after_crash: BlockingAgent) -> None:
    after_crash.door.run(entering(after_crash, Options(continues=True)))
    assert begin_of(after_crash, Options(continues=True), "", "") == after_crash.resume
    with pytest.raises(UsageError, match="was cut off") as refused:
        begin_of(after_crash, Options(continues=True), "something else", "")
    assert QUESTION in refused.value.message
    assert "Finish it first" in refused.value.what_now


def test_there_must_be_something_to_finish(agent: BlockingAgent) -> None:
    with pytest.raises(UsageError, match="no question was cut off in the session"):
        begin_of(agent, Options(resume=agent.session_id), "", "")


# --- commands --------------------------------------------------------------------------------------------


def test_sessions_lists_them_newest_first_with_what_is_worth_knowing(after_crash: BlockingAgent) -> None:
    after_crash.ask("What is 5 * 5?")
    lines = said(after_crash, "/sessions").split("\n")
    assert lines[0].startswith(after_crash.session_id)
    assert lines[0].endswith("What is 5 * 5?  (this one)")
    assert lines[1].endswith(f"{QUESTION}  (cut off)")
    assert "just now" in lines[0]
    assert "4 messages" in lines[0]


def test_without_sessions_there_is_nothing_to_list_or_finish(agent: BlockingAgent) -> None:
    assert said(agent, "/sessions") == "No session has been kept yet."
    assert "No question was cut off" in said(agent, "/resume")
    assert said(agent, "/resume nope") == "there is no session 'nope'\n/sessions lists them."


def test_new_begins_another_session_and_the_old_one_can_be_opened_again(agent: BlockingAgent) -> None:
    before = agent.ask("What is 2 * 3?").session_id
    assert said(agent, "/new") == f"A new session begins. The one so far is kept: /resume {before} goes back to it."
    assert agent.session_id != before
    assert not agent.conversation.messages
    assert agent.totals.questions == 0
    assert said(agent, "/new") == "A new session begins."
    assert "> What is 2 * 3?\n2 * 3 = 6" in said(agent, f"/resume {before}")
    assert agent.session_id == before


def test_the_last_exchange_is_shown_shortly_and_without_a_control_character(agent: BlockingAgent) -> None:
    register_secret("hunter2hunter2")
    agent.conversation.messages = (
        user("older"),
        assistant("older answer"),
        user("first\n\x1b[2Jsecond\r\nhunter2hunter2"),
        assistant("\n".join(f"line {number}" for number in range(50))),
    )
    told = settled(lambda: CommandResult(entered(agent))).text
    assert "older" not in told
    assert "> first\n> ␛[2Jsecond\n" in told
    assert MASK in told
    assert "hunter2" not in told
    assert told.endswith("line 5\n…")


def test_an_exchange_that_wrote_and_has_no_answer_is_shown_as_it_stands(agent: BlockingAgent) -> None:
    call = ToolUse("c1", "save_note", {"content": "x"})
    agent.conversation.messages = (
        user("save x"),
        Message("assistant", (call,)),
        Message("user", (ToolResult("c1", "Saved."),)),
        assistant("[stopped: note saved, no answer]"),
    )
    assert entered(agent).endswith("> save x\n[stopped: note saved, no answer]")


def test_any_text_a_person_can_type_comes_back_when_its_session_is_opened_again(tmp_path: Path) -> None:
    agent = make(tmp_path)

    @given(text=st.text(min_size=1, max_size=60).map(encodable).filter(str.strip))
    @settings(max_examples=40, deadline=None)
    def check(text: str) -> None:
        agent.new_session()
        asked = agent.ask(text)
        assert asked.report.status in ("ok", "degraded")
        agent.new_session()
        agent.open_session(asked.session_id)
        assert agent.conversation.messages[0] == user(mask(text))
        exported = json.loads(as_json(agent.session_id, agent.conversation.messages))
        assert exported["messages"][0]["content"][0]["text"] == mask(text)

    try:
        check()
    finally:
        agent.close()


@pytest.mark.parametrize(
    ("age_s", "words"),
    [(-5, "just now"), (59, "just now"), (60, "1 min ago"), (3599, "59 min ago"), (7200, "2 h ago"),
     (86_400, "1 day ago"), (400 * 86_400, "400 days ago")],
)  # fmt: skip
def test_an_age_is_told_in_the_words_that_matter(age_s: float, words: str) -> None:
    assert age_of(age_s) == words
