"""A session as a file: everything that was typed is in it, nothing in it moves a cursor, and no file is overwritten."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import Settings
from faults import parse_fault
from messages import Message, Text, Thinking, ToolResult, ToolUse, assistant, user
from safe_text import clean, encodable, mask, register_secret
from tests.test_ui_sessions import said
from ui.export import as_json, as_markdown
from wiring import BlockingAgent

CALL = ToolUse("c1", "save_note", {"content": "über ```` all"})
TALK = (
    user("Save this\n# not a heading"),
    Message("assistant", (Thinking({"type": "thinking", "thinking": "hm", "signature": "s"}), Text("Sure."), CALL)),
    Message("user", (ToolResult("c1", "no room ````", is_error=True),)),
    assistant("It did not work."),
)
MARKDOWN = """\
# Session s1

## You

> Save this
> # not a heading

## Unflappable

Sure.

**save_note** is asked:

`````
{"content": "über ```` all"}
`````

**save_note** failed:

`````
no room ````
`````

It did not work.
"""


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockingAgent]:
    monkeypatch.chdir(tmp_path)
    agent = BlockingAgent(Settings(state_dir=tmp_path / "state", notes_dir=tmp_path / "notes"), offline=True)
    agent.conversation.messages = TALK
    yield agent
    agent.close()


def test_markdown_quotes_what_a_person_typed_and_fences_what_tools_said() -> None:
    assert as_markdown("s1", TALK) == MARKDOWN


def test_a_question_without_an_answer_is_in_it_and_marked() -> None:
    assert as_markdown("s1", (), "why?").endswith("> why?\n\n*(cut off: this question has no answer yet)*\n")
    assert json.loads(as_json("s1", (), "why?"))["cut_off"] == "why?"


def test_json_has_the_shape_of_the_messages_api_without_thinking() -> None:
    whole = json.loads(as_json("s1", TALK))
    assert whole["session_id"] == "s1"
    assert [message["role"] for message in whole["messages"]] == ["user", "assistant", "user", "assistant"]
    assert whole["messages"][1]["content"] == [{"type": "text", "text": "Sure."}, CALL.to_wire()]
    assert whole["cut_off"] is None


@given(text=st.text(max_size=80))
def test_any_text_a_person_can_type_is_in_both(text: str) -> None:
    text = encodable(text)
    kept = as_json("s1", (user(text),))
    assert json.loads(kept)["messages"][0]["content"][0]["text"] == mask(text)
    assert kept.isascii()
    quoted = "\n".join(f"> {line}" for line in clean(mask(text)).split("\n"))
    assert as_markdown("s1", (user(text),)) == f"# Session s1\n\n## You\n\n{quoted}\n"


def test_no_control_character_and_no_secret_reaches_the_file() -> None:
    register_secret("hunter2hunter2")
    talk = (user("\x1b]0;x\x07 \x9b2J \u202e hunter2hunter2"), assistant("\x1b[2J"))
    for whole in (as_markdown("s1", talk), as_json("s1", talk)):
        assert not any((c < " " and c != "\n") or "\x7f" <= c < "\xa0" or c == "\u202e" for c in whole)
        assert "hunter2" not in whole


def test_without_a_name_one_is_found_and_no_file_is_overwritten(agent: BlockingAgent, tmp_path: Path) -> None:
    name = f"session-{agent.session_id}"
    assert said(agent, "/export") == f"4 messages written to {name}.md"
    (tmp_path / f"{name}.md").write_text("mine")
    assert said(agent, "/export") == f"4 messages written to {name}-2.md"
    assert (tmp_path / f"{name}.md").read_text() == "mine"
    assert (tmp_path / f"{name}-2.md").read_text() == MARKDOWN.replace("s1", agent.session_id)
    assert stat.S_IMODE((tmp_path / f"{name}-2.md").stat().st_mode) == 0o600


def test_the_suffix_says_which_form_and_home_is_known(
    agent: BlockingAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert said(agent, "/export ~/a talk.JSON") == f"4 messages written to {tmp_path}/a talk.JSON"
    assert json.loads((tmp_path / "a talk.JSON").read_text())["session_id"] == agent.session_id
    said(agent, "/export talk.txt")
    assert (tmp_path / "talk.txt").read_text().startswith("# Session")


def test_a_file_in_the_way_stays_as_it_is(agent: BlockingAgent, tmp_path: Path) -> None:
    (tmp_path / "talk.md").write_text("mine")
    os.symlink(tmp_path / "talk.md", tmp_path / "link.md")
    (tmp_path / "folder").mkdir()
    for name in ("talk.md", "link.md", "folder"):
        assert "is there already and holds something else" in said(agent, f"/export {name}")
    assert (tmp_path / "talk.md").read_text() == "mine"


def test_exporting_the_same_twice_under_one_name_is_no_mistake(agent: BlockingAgent) -> None:
    said(agent, "/export talk.md")
    assert said(agent, "/export talk.md") == "4 messages already in talk.md"


@pytest.mark.parametrize("name", ["/", "..", "a/..", "x\0y", "a.md\n/export b.md"])
def test_what_cannot_be_a_file_is_said(agent: BlockingAgent, name: str) -> None:
    assert "that is no name of a file" in said(agent, f"/export {name}")


def test_a_full_disk_leaves_nothing_and_is_said(agent: BlockingAgent, tmp_path: Path) -> None:
    agent.plan.replace([parse_fault("disk:full", agent.known_fault_targets)])
    assert "no space left on the disk" in said(agent, "/export talk.md")
    assert not (tmp_path / "talk.md").exists()


def test_an_empty_session_is_not_exported(agent: BlockingAgent, tmp_path: Path) -> None:
    agent.conversation.messages = ()
    assert said(agent, "/export") == "There is nothing to export yet."
    assert not list(tmp_path.glob("session-*"))
