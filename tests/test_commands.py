"""What slash commands say and change, on a real agent that is never asked anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from circuit_breaker import CircuitBreaker
from config import Settings
from core.report import TurnReport
from errors import AgentError, Outcome
from messages import Usage
from safe_text import register_secret
from toolbox.note_file import Note, encode
from ui.command import CommandResult, Situation
from ui.commands import COMMANDS, NOTES_SHOWN, is_command, run_command
from wiring import Agent

CONTRACT = (
    "/help /status /tools /model /cost /trace /fault /faults /approve /notes"
    " /sessions /resume /new /export /deadletters /later /retry /quit"
)


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(Settings(state_dir=tmp_path / "state", notes_dir=tmp_path / "notes"), offline=True)


def said(agent: Agent, line: str) -> str:
    return run_command(line, Situation(agent)).text


def test_the_commands_are_those_of_the_contract() -> None:
    assert set(COMMANDS) == set(CONTRACT.split())


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("/quit", "/retry")])
def test_every_command_answers_in_words_and_keeps_the_chat(agent: Agent, name: str) -> None:
    result = run_command(name, Situation(agent))
    assert result.text.strip() or result.work is not None
    assert result.question is None
    assert not result.leaves


def test_help_lists_every_command_with_its_usage_and_the_keys(agent: Agent) -> None:
    text = said(agent, "/help")
    for command in COMMANDS.values():
        assert command.usage in text
        assert command.what in text
    assert "Ctrl-C" in text


@pytest.mark.parametrize(("line", "guess"), [("/hlp", "/help"), ("/staus", "/status"), ("/FUALT x", "/fault")])
def test_a_mistyped_command_is_guessed(agent: Agent, line: str, guess: str) -> None:
    assert f"Did you mean {guess}?" in said(agent, line)


def test_an_unknown_command_points_to_help(agent: Agent) -> None:
    assert "/help" in said(agent, "/zzzzzz")
    assert "blank before it" in said(agent, "/usr/bin/env is what?")


def test_a_blank_before_the_slash_makes_a_question() -> None:
    assert is_command("/help")
    assert not is_command(" /usr/bin/env is what?")


def test_capitals_and_blanks_do_not_matter(agent: Agent) -> None:
    assert said(agent, "/MODEL  ") == said(agent, "/model")


@given(line=st.text(max_size=60).map(lambda text: "/" + text) | st.sampled_from(sorted(COMMANDS)).flatmap(
    lambda name: st.text(max_size=40).map(lambda text: f"{name} {text}")))  # fmt: skip
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_line_breaks_a_command_or_brings_a_control_character_out(agent: Agent, line: str) -> None:
    text = run_command(line, Situation(agent, "asked before")).text
    assert not any((c < " " and c not in "\n\t") or "\x7f" <= c < "\xa0" for c in text)


# --- about the agent -------------------------------------------------------------------------------------


def test_status_tells_model_faults_and_open_circuits(agent: Agent) -> None:
    for _ in range(5):
        agent.guards("get_weather.open_meteo").breaker.acquire().settle(Outcome.FAILURE)
    said(agent, "/fault model:overloaded*2")
    text = said(agent, "/status")
    assert "practice" in text
    assert "model:overloaded*2" in text
    assert "get_weather.open_meteo  open, next try in" in text
    assert agent.session_id in text


def test_a_circuit_that_was_opened_by_hand_has_no_next_try(agent: Agent) -> None:
    breaker = agent.guards("get_weather.open_meteo").breaker
    assert isinstance(breaker, CircuitBreaker)
    breaker.open()
    assert "get_weather.open_meteo  open, opened by hand" in said(agent, "/status")


def test_tools_tells_what_is_critical_and_what_writes(agent: Agent) -> None:
    lines = {line.split("(")[0]: line for line in said(agent, "/tools").split("\n")}
    assert "critical, writes" in lines["save_note"]
    assert "optional" in lines["web_search"]
    assert set(lines) == {tool.name for tool in agent.toolbox}


def test_model_shows_the_chain_in_order(tmp_path: Path) -> None:
    chain = "anthropic:claude-sonnet-5-5,practice"
    agent = Agent(Settings(anthropic_api_key="key", model_chain=chain, state_dir=tmp_path))
    assert said(agent, "/model") == "anthropic:claude-sonnet-5-5 → practice"
    assert "--model" in said(agent, "/model practice")


def test_cost_keeps_unknown_apart_from_nothing(agent: Agent) -> None:
    assert "$0.0000" in said(agent, "/cost")
    report = TurnReport("ok", "", "practice", (), (), Usage(1234, None, 5, 6), 0.0125, 10)
    agent.totals.add(report)
    text = said(agent, "/cost")
    assert "1,234" in text
    assert "$0.0125" in text
    assert "tokens out  unknown" in text
    agent.totals.add(replace(report, cost_usd=None))
    assert "cost        unknown" in said(agent, "/cost")


def test_trace_draws_the_last_question_or_the_one_asked_for(agent: Agent) -> None:
    assert "no trace yet" in said(agent, "/trace")
    agent.last_trace_id = "0badcafe" * 4
    agent.traces.save({"id": agent.last_trace_id, "status": "ok", "root": {"kind": "turn"}})
    assert said(agent, "/trace").startswith(f"trace {agent.last_trace_id}")
    assert said(agent, "/trace 0badc").startswith(f"trace {agent.last_trace_id}")
    assert "no trace ffff" in said(agent, "/trace ffff")


def test_a_trace_is_drawn_in_ascii_where_the_terminal_knows_no_more(agent: Agent) -> None:
    agent.last_trace_id = "abc"
    agent.traces.save({"id": "abc", "status": "ok", "root": {"kind": "turn"}})
    assert run_command("/trace", Situation(agent, unicode=False)).text.isascii()


def test_notes_lists_the_newest_with_title_or_first_words(agent: Agent) -> None:
    folder = agent.settings.notes_dir
    assert said(agent, "/notes").startswith("0 notes")
    folder.mkdir()
    for note in (Note("milk, eggs", "Groceries"), Note("call \x1b[31mMum\nat six")):
        (folder / note.file_name).write_bytes(encode(note))
    text = said(agent, "/notes")
    assert text.startswith("2 notes in ")
    assert "Groceries" in text
    assert "call ␛[31mMum⏎at six" in text
    (folder / "evil.md").symlink_to("/etc/passwd")
    assert said(agent, "/notes").startswith("2 notes")


def test_many_notes_are_counted_and_cut(agent: Agent) -> None:
    agent.settings.notes_dir.mkdir()
    for number in range(NOTES_SHOWN + 3):
        (agent.settings.notes_dir / f"{number}.md").write_text(f"note {number}")
    text = said(agent, "/notes")
    assert text.count("note ") == NOTES_SHOWN
    assert "3 older ones" in text


def test_a_notes_folder_that_cannot_be_read_is_said(agent: Agent) -> None:
    agent.settings.notes_dir.write_text("not a folder")
    assert "Not a directory" in said(agent, "/notes")


# --- what changes something ------------------------------------------------------------------------------


def test_faults_are_added_listed_and_ended(agent: Agent) -> None:
    assert "No faults" in said(agent, "/faults")
    assert "1. model:overloaded*2" in said(agent, "/fault model:overloaded*2")
    text = said(agent, "/fault get_weather:hang web_search:error@0.5")
    assert [str(spec) for spec in agent.plan.specs] == [
        "model:overloaded*2", "get_weather:hang", "web_search:error@0.5",
    ]  # fmt: skip
    assert "3. web_search:error@0.5" in text
    said(agent, "/fault off 2")
    assert [str(spec) for spec in agent.plan.specs] == ["model:overloaded*2", "web_search:error@0.5"]
    assert "No faults" in said(agent, "/fault off")
    assert not agent.plan.active


@pytest.mark.parametrize("line", ["/fault nonsense", "/fault model:wobble", "/fault off 7", "/fault off x"])
def test_a_fault_that_makes_no_sense_is_named_and_changes_nothing(agent: Agent, line: str) -> None:
    said(agent, "/fault calculator:error")
    assert line.split()[-1] in said(agent, line)
    assert len(agent.plan.specs) == 1


def test_of_several_faults_none_is_added_when_one_is_wrong(agent: Agent) -> None:
    said(agent, "/fault calculator:error bogus")
    assert agent.plan.specs == ()


def test_approve_shows_and_sets_the_mode(agent: Agent) -> None:
    assert "ask" in said(agent, "/approve")
    said(agent, "/approve NEVER")
    assert agent.approve == "never"
    assert "allowed is ask, auto, never" in said(agent, "/approve maybe")
    assert agent.approve == "never"


def test_retry_asks_the_last_question_again(agent: Agent) -> None:
    assert run_command("/retry", Situation(agent)).question is None
    assert run_command("/retry", Situation(agent, "What is 2+2?")).question == "What is 2+2?"


def test_quit_leaves(agent: Agent) -> None:
    assert run_command("/quit", Situation(agent)) == CommandResult(leaves=True)


# --- what is printed -------------------------------------------------------------------------------------


def test_secrets_are_masked_in_whatever_is_printed(agent: Agent) -> None:
    register_secret("hunter2hunter2")
    assert "hunter2" not in said(agent, "/hunter2hunter2")
    assert "hunter2" not in said(agent, "/trace hunter2hunter2")


def test_a_failing_store_is_said_and_not_raised(agent: Agent) -> None:
    agent.settings.state_dir.mkdir()
    (agent.settings.state_dir / "traces.sqlite3").write_bytes(b"this is no database" * 100)
    with pytest.raises(AgentError):
        agent.traces.get("abc")
    assert said(agent, "/trace abc").strip()
    assert json.dumps(said(agent, "/trace abc"))
