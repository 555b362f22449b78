"""Asks a person before something is written that untrusted text may have asked for.  (floor 3)

Once text from outside (a web page, a note saved after reading one) is in the context, a
model may obey it. The defence does not rest on the model: a write that was asked for
after untrusted text was seen needs a person's yes. The person sees the exact input, the
answer is bound to a digest of it, and only what has that digest runs.

Taint is decided for a whole batch when it is prepared: calls that the model made beside a
search cannot have been inspired by its results. Untrusted text counts for as long as it
is in the history that is sent. What this does not do: judge whether a text is malicious.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, TypeAlias

from events import ApprovalAnswered, ApprovalAsked
from flow import Effect, Flow, emit
from messages import Message

ApproveMode: TypeAlias = Literal["ask", "auto", "never"]


class Answer(Enum):
    """What came back for an approval request."""

    YES = "yes"
    NO = "no"
    NOBODY = "nobody"  # no terminal, end of input, or no answer in time


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """What a person is shown: the tool, its exact input, why they are asked, and the digest of both."""

    tool: str
    input: Mapping[str, Any]
    why: str
    digest: str


@dataclass(frozen=True, slots=True)
class AskHuman(Effect):
    """Ask the person. Performed by the screen, or by a refusal when nobody is there. Sent an Answer."""

    request: ApprovalRequest
    limit_s: float


def digest_of(tool: str, tool_input: Mapping[str, Any]) -> str:
    """The hash that binds an approval to exactly one call: tool and input, canonical JSON, SHA-256."""
    text = json.dumps([tool, dict(tool_input)], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_tainted(messages: Iterable[Message]) -> bool:
    """Whether untrusted text is in the history that the model sees."""
    return any(message.untrusted for message in messages)


class Approvals:
    """One question's approvals: identical requests are asked once, however often the model repeats them.

    Args:
        mode: `ask` a person, `auto` grants, `never` refuses.
        asked_max: more different requests than this are refused unasked: a flood of dialogs makes
            people press yes (promise G3).
    """

    def __init__(self, mode: ApproveMode, *, asked_max: int = 5) -> None:
        self.mode = mode
        self._asked_max = asked_max
        self._answers: dict[str, Answer] = {}

    def remember(self, digests: Iterable[str]) -> None:
        """Take over what was approved before a crash."""
        self._answers.update(dict.fromkeys(digests, Answer.YES))

    def asking(self, request: ApprovalRequest, limit_s: float) -> Flow[Answer]:
        """The flow that gets one answer, from the policy, an earlier answer or the person."""
        if self.mode != "ask":
            granted = self.mode == "auto"
            yield from emit(ApprovalAnswered(request.tool, request.digest, granted, "policy"))
            return Answer.YES if granted else Answer.NO
        if request.digest in self._answers:
            return self._answers[request.digest]
        if len(self._answers) >= self._asked_max:
            yield from emit(ApprovalAnswered(request.tool, request.digest, False, "limit"))
            return Answer.NO
        yield from emit(ApprovalAsked(request.tool, request.digest, request.why))
        answer: Answer = yield AskHuman(request, limit_s)
        self._answers[request.digest] = answer
        by = "nobody" if answer is Answer.NOBODY else "person"
        yield from emit(ApprovalAnswered(request.tool, request.digest, answer is Answer.YES, by))
        return answer
