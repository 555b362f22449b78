"""The commands about dead letters and parked answers: what they do is loaded when one is used.  (floor 6)"""

from __future__ import annotations

from ui.command import Command, CommandResult, Situation


def _deadletters(situation: Situation, argument: str) -> CommandResult:
    from ui.letters import deadletters

    return deadletters(situation.agent, argument)


def _later(situation: Situation, argument: str) -> CommandResult:
    from ui.parked import later

    return later(situation.agent, argument)


LETTER_COMMANDS = (
    Command(
        "/deadletters", "/deadletters [[retry|drop] N]", "questions that failed for good: list, show, ask again",
        _deadletters,
    ),
    Command("/later", "/later [now|drop [N]]", "have a missing part filled in when its tool works again", _later),
)  # fmt: skip
