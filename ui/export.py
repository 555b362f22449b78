"""Writes a session into a file one can read, send or feed to another program.  (floor 6)

Markdown for people, with what they typed as quotations, so that no text of theirs can pass for a
heading; JSON (in the shape of the Messages API, ASCII only) for programs: it gives back every
character that was typed. Secrets are masked in both. Thinking is left out: it is nobody's words.

The file gets mode 0600 and never takes the place of another. What this does not do: read such a
file back in.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from disk import Disk, Saved
from errors import ConfigurationError
from flow import Flow, Gate, attempt, blocking
from messages import Block, Message, Text, Thinking, ToolResult, ToolUse
from safe_text import clean, masked, one_line
from ui.command import CommandResult, Work, counted

if TYPE_CHECKING:
    from wiring import Agent

WRITE_S_MAX = 5.0
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # of lines typed ahead, which came as one
_FENCE = re.compile(r"`{3,}")


def exporting(agent: Any, argument: str) -> CommandResult:
    """Export the session of this agent; `argument` names the file, "" lets one be found."""
    messages = agent.conversation.messages
    cut = agent.unfinished
    if not messages and cut is None:
        return CommandResult("There is nothing to export yet.")
    flow = writing(agent, argument, cut.question if cut is not None else "")
    return CommandResult(work=Work(lambda: agent.door.run(flow), lambda said: CommandResult(said)))


def writing(agent: Agent, argument: str, cut_off: str) -> Flow[str]:
    """Write the file; what was done. Raises AgentError: nothing was written, or nobody knows."""
    conversation = agent.conversation
    wanted = _path(argument) if argument else Path(f"session-{conversation.session_id}.md")
    make = as_json if wanted.suffix.lower() == ".json" else as_markdown
    data = make(conversation.session_id, conversation.messages, cut_off).encode()
    disk, gate = Disk(agent.plan, agent.world.files), Gate()
    if not argument:
        wanted = yield from attempt(blocking(lambda _: free_name(wanted), Gate()), WRITE_S_MAX)
    saved = yield from attempt(disk.writing(wanted.absolute().parent, wanted.name, data, gate), WRITE_S_MAX)
    told = "written to" if saved is Saved.WRITTEN else "already in"
    return f"{counted(len(conversation.messages), 'message')} {told} {one_line(str(wanted), 400)}"


def _path(argument: str) -> Path:
    path = Path(os.path.expanduser(argument))
    try:
        fits = bool(os.fsencode(path)) and path.name not in ("", "..") and not _CONTROL.search(argument)
    except ValueError:  # the system's encoding has no such character
        fits = False
    if not fits:
        raise ConfigurationError(
            f"/export {one_line(argument, 60)}: that is no name of a file", what_now="Give another."
        )
    return path


def free_name(path: Path) -> Path:
    """This path, or the first one numbered after it, where nothing stands yet."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def as_json(session_id: str, messages: Sequence[Message], cut_off: str = "") -> str:
    """The session as one JSON object. `cut_off` is a question without an answer, "" for none."""
    whole = {
        "session_id": session_id,
        "messages": [
            {"role": message.role, "content": [block.to_wire() for block in _kept(message)]} for message in messages
        ],
        "cut_off": cut_off or None,
    }
    return json.dumps(masked(whole), indent=2) + "\n"


def as_markdown(session_id: str, messages: Sequence[Message], cut_off: str = "") -> str:
    """The session as Markdown, without a character that could move a cursor."""
    calls = {
        block.id: block.name for message in messages for block in message.blocks if isinstance(block, ToolUse)
    }  # fmt: skip
    parts = [f"# Session {session_id}"]
    speaker = ""
    for message in messages:
        for block in _kept(message):
            who = _who(message, block)
            if who and who != speaker:
                parts.append(f"## {who}")
                speaker = who
            parts += _told(message, block, calls)
    if cut_off:
        parts += ["## You", _quoted(cut_off), "*(cut off: this question has no answer yet)*"]
    text: str = clean(str(masked("\n\n".join(parts))))
    return text + "\n"


def _kept(message: Message) -> Iterator[Block]:
    return (block for block in message.blocks if not isinstance(block, Thinking))


def _who(message: Message, block: Block) -> str:
    if isinstance(block, (ToolUse, ToolResult)):
        return ""
    return "You" if message.role == "user" else "Unflappable"


def _told(message: Message, block: Block, calls: dict[str, str]) -> list[str]:
    match block:
        case Text():
            return [_quoted(block.text) if message.role == "user" else block.text.strip("\n")]
        case ToolUse():
            given = block.raw if block.problem is not None else json.dumps(dict(block.input), ensure_ascii=False)
            return [f"**{one_line(block.name, 80)}** is asked:", _fenced(given)]
        case ToolResult():
            said = "failed" if block.is_error else "answers"
            return [f"**{one_line(calls.get(block.tool_use_id, 'a tool'), 80)}** {said}:", _fenced(block.content)]
        case _:
            return []


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in clean(text).split("\n"))  # cleaned first: U+2028 ends a line, too


def _fenced(text: str) -> str:
    """A code block that its own text cannot end."""
    longest = max((len(found) for found in _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}\n{fence}"
