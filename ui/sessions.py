"""Takes a session up again: which one, what was said last in it, and what a crash cut off.  (floor 6)

    --continue, --resume ID     the session is open before the first question; what was said last is shown
    a plain start               a new session; a question that a crash cut off is offered back, in one line
    /resume                     finishes that question, /resume ID opens another session

Everything here is read behind the prompt, and on the chat's own time later: a slow disk delays no
key. What this does not do: keep sessions (`stores/`), or say what a command is (`commands.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import Options, UsageError
from core.conversation import starts_turn
from doors.aio import AsyncDoor
from errors import AgentError
from events import Stamped
from flow import Flow
from messages import Message, Text
from safe_text import clean, one_line
from stores.session_rows import SessionInfo
from stores.sessions import FILE_NAME
from ui.command import CommandResult, Work, counted
from ui.steps import Steps

if TYPE_CHECKING:
    from wiring import Agent

LISTED = 20
LOOKED_AT = 200
"""Sessions looked through for one that was cut off: older ones have been left alone for long."""

QUESTION_CHARS = 80
REPLAYED_LINES, REPLAYED_CHARS = 6, 600
"""Of the last question and of its answer, as a reminder."""

News = list[tuple[str, str]]
NOTHING_YET = "there is no session to continue yet"


# --- at the start ----------------------------------------------------------------------------------------


def entering(agent: Agent, options: Options) -> Flow[str]:
    """Open the session that the options name; what there is to say about it.

    Raises:
        ConfigurationError: there is no such session, or another process has it open.
        AgentError: it cannot be read.
    """
    which = options.resume
    if options.continues:
        latest = yield from agent.session.listing(1)
        if not latest:
            return f"{NOTHING_YET}: this is a new one"
        which = latest[0].id
    if which:
        yield from agent.opening(which)
    return ""


def begin_of(agent: Any, options: Options, question: str, said: str) -> Any:
    """How a one-shot asks; with an empty question it finishes what was cut off.

    Args:
        said: what `entering` had to say.

    Raises UsageError when there is nothing to finish, or something that is neither finished nor given up.
    """
    cut = agent.unfinished
    if not question and cut is not None:
        return agent.resume
    if question and cut is None:
        return partial(agent.ask, question, options.task_id or "")
    agent.sessions.leave(agent.session_id)
    if cut is None:
        words = f"no question was cut off in the session {agent.session_id}"
        raise UsageError(NOTHING_YET if said else words, what_now="Give a question.")
    raise UsageError(
        f'the last question of the session {agent.session_id} was cut off: "{_shortly(cut.question)}"',
        what_now="Finish it first: the same without a question (--json, or an empty stdin). Or ask without -c.",
    )


def begin_chat(agent: Agent, options: Options, screen: object) -> News:
    """What a chat does about sessions before its first question; what there is to say. Not on the loop's thread.

    Args:
        screen: a listener that must not hear of it, since the prompt is open.

    Raises AgentError as `entering`.
    """
    from ui.parked import waiting

    news: News = []
    steps = Steps()

    def hear(stamped: Stamped) -> None:
        if (line := steps.follow(stamped)) is not None:
            news.append((line.text, line.style))

    listeners = [hear, *(one for one in agent.listeners if one is not screen)]

    def run(flow: Flow[Any]) -> Any:
        return asyncio.run(AsyncDoor(listeners=listeners).run(flow))

    if options.resume or options.continues:
        said = run(entering(agent, options))
        news.append((f"! {said}", "warn") if said else (entered(agent), "dim"))
        if (offer := offered(agent)) and not said:
            news.append((offer, "warn"))
    elif _is_file(agent.settings.state_dir / FILE_NAME):
        with suppress(AgentError):  # the store has said so itself; a chat without old sessions still is one
            news += run(_offering(agent))
    if _is_file(agent.settings.state_dir / FILE_NAME):
        with suppress(AgentError):
            news += run(waiting(agent))
    return news


def _offering(agent: Agent) -> Flow[News]:
    """Say which question was cut off, without entering its session."""
    found = yield from agent.session.listing(LOOKED_AT)
    cut_off = [one for one in found if one.cut_off and not one.in_use]
    if not cut_off:
        return []
    opened = yield from agent.sessions.opening(cut_off[0].id)
    agent.sessions.leave(opened.id)
    question = f': "{_shortly(opened.cut.question)}"' if opened.cut is not None else f" in {opened.id}"
    which = "1 question was" if len(cut_off) == 1 else f"{len(cut_off)} questions were"
    last = "" if len(cut_off) == 1 else "; the last one"
    return [(f"! {which} cut off{last}{question}. /resume finishes it.", "warn")]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


# --- commands --------------------------------------------------------------------------------------------


def listing(agent: Any) -> CommandResult:
    """List the sessions."""
    return CommandResult(work=Work(partial(agent.list_sessions, LISTED + 1), partial(_listed, agent)))


def _listed(agent: Any, found: Sequence[SessionInfo]) -> CommandResult:
    if not found:
        return CommandResult("No session has been kept yet.")
    rows = [_row(agent, one) for one in found[:LISTED]]
    more = ["… and older ones"] if found[LISTED:] else []
    return CommandResult("\n".join([*rows, *more, "/resume ID opens one of them; the beginning of the id is enough."]))


def _row(agent: Any, one: SessionInfo) -> str:
    marks = {"this one": one.id == agent.session_id, "cut off": one.cut_off, "open elsewhere": one.in_use}
    told = ", ".join(mark for mark, is_so in marks.items() if is_so)
    age = age_of(agent.world.wall() - one.changed_s)
    return f"{one.id}  {age:<10}  {counted(one.messages, 'message'):<12}  {one_line(one.title, 60)}" + (
        f"  ({told})" if told else ""
    )


def age_of(age_s: float) -> str:
    """How long ago, in the words that matter."""
    if age_s < 60:
        return "just now"
    if age_s < 3_600:
        return f"{age_s // 60:.0f} min ago"
    return f"{age_s // 3_600:.0f} h ago" if age_s < 86_400 else f"{counted(int(age_s // 86_400), 'day')} ago"


def resuming(agent: Any, which: str) -> CommandResult:
    """Open a session; without one, finish the question that was cut off, here or where that was last."""
    if which:
        return CommandResult(work=Work(lambda: agent.open_session(which), lambda _: CommandResult(_told(agent))))
    if agent.unfinished is not None:
        return _finishing(agent)
    return CommandResult(work=Work(partial(agent.list_sessions, LOOKED_AT), partial(_finishing_latest, agent)))


def _told(agent: Any) -> str:
    return "\n".join(filter(None, [entered(agent), offered(agent)]))


def _finishing(agent: Any) -> CommandResult:
    question = agent.unfinished.question
    return CommandResult(f"finishing: {_shortly(question)}", question, agent.resume)


def _finishing_latest(agent: Any, found: Sequence[SessionInfo]) -> CommandResult:
    last = next((one for one in found if one.cut_off and not one.in_use), None)
    if last is None:
        return CommandResult("No question was cut off. /sessions lists the sessions, /resume ID opens one.")

    def tell(unfinished: object) -> CommandResult:
        if unfinished is None:  # its last steps are lost, which the store has said
            return CommandResult(entered(agent))
        finish = _finishing(agent)
        return CommandResult(f"{entered(agent)}\n{finish.text}", finish.question, finish.turn)

    return CommandResult(work=Work(lambda: agent.open_session(last.id), tell))


def renewing(agent: Any) -> CommandResult:
    """Begin a new session; the one so far is kept."""
    before, is_kept = agent.session_id, bool(agent.conversation.messages or agent.unfinished)
    agent.new_session()
    kept = f" The one so far is kept: /resume {before} goes back to it." if is_kept else ""
    return CommandResult(f"A new session begins.{kept}")


# --- words -----------------------------------------------------------------------------------------------


def entered(agent: Any) -> str:
    """Which session this is, and what was said last in it."""
    messages: tuple[Message, ...] = agent.conversation.messages
    size = f", {counted(len(messages), 'message')}" if messages else ""
    return "\n".join([f"session {agent.session_id}{size}", *_replayed(messages)])


def offered(agent: Any) -> str:
    """What was cut off in this session, and how to finish it."""
    cut = agent.unfinished
    if cut is None:
        return ""
    words = f'! The last question was cut off: "{_shortly(cut.question)}".'
    if cut.is_poison:
        return f"{words} It ended the program {cut.crashes} times: /resume only closes it."
    return f"{words} /resume finishes it."


def _replayed(messages: Sequence[Message]) -> list[str]:
    start = next((at for at in range(len(messages) - 1, -1, -1) if starts_turn(messages[at])), None)
    if start is None:
        return []
    said = [_text_of(message) for message in messages[start + 1 :] if message.role == "assistant"]
    answer = next((text for text in reversed(said) if text), "(no words)")
    return [f"> {line}" for line in _first(_text_of(messages[start]))] + _first(answer)


def _text_of(message: Message) -> str:
    return "".join(block.text for block in message.blocks if isinstance(block, Text)).strip()


def _first(text: str) -> list[str]:
    lines = clean(text[:REPLAYED_CHARS]).split("\n")
    return [*lines[:REPLAYED_LINES], *(["…"] if lines[REPLAYED_LINES:] or text[REPLAYED_CHARS:] else [])]


def _shortly(question: str) -> str:
    return one_line(question, QUESTION_CHARS)
