"""The commands about sessions, as the chat's table knows them: what they do is loaded when one is used.  (floor 6)"""

from __future__ import annotations

from ui.command import Command, CommandResult, Situation


def _sessions(situation: Situation, argument: str) -> CommandResult:
    from ui.sessions import listing

    return listing(situation.agent)


def _resume(situation: Situation, argument: str) -> CommandResult:
    from ui.sessions import resuming

    return resuming(situation.agent, argument)


def _new(situation: Situation, argument: str) -> CommandResult:
    from ui.sessions import renewing

    return renewing(situation.agent)


def _export(situation: Situation, argument: str) -> CommandResult:
    from ui.export import exporting

    return exporting(situation.agent, argument)


SESSION_COMMANDS = (
    Command("/sessions", "/sessions", "the sessions kept so far, newest first", _sessions),
    Command("/resume", "/resume [ID]", "finish what a crash cut off, or open another session", _resume),
    Command("/new", "/new", "begin another session; this one is kept", _new),
    Command("/export", "/export [FILE]", "write this session to a file: Markdown, or JSON for *.json", _export),
)
