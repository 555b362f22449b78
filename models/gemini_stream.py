"""Turns the chunks of Gemini's stream into a reply, or refuses: half an answer is no answer.  (floor 4)

The sister of `stream.py` for the other dialect, without I/O too. Gemini's stream has no last
event: each chunk carries some parts of one candidate, one chunk carries its `finishReason`,
and then the body ends. So an answer is whole when a finish was seen *and* the body came to its
proper end, which is when `finish` is called; a body that merely stopped is a cut.

    OPEN --parts--> OPEN --finishReason, or blockReason--> FINISHED --usage only--> FINISHED

What comes out is in the words of `messages`, fit for both dialects:
- Call ids are made up where there are none; one that is there twice breaks the protocol.
- A thought signature is bound to the part it came with. History keeps it as a Thinking block
  right before that part; `gemini_wire.py` puts it back, and no other model is shown it.
- Thoughts and parts of kinds unknown to us become `Other`: for the trace, never sent back.
- A finish reason becomes the stop reason that means the same; an unknown one stays as it is.

Like `stream.py` it keeps trouble apart: a broken protocol raises AgentError, arguments that are no
object are told in `ToolUse.problem`. It decides nothing about the reply.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any, NoReturn

from errors import AgentError
from events import Event, TextStreamed, ThinkingStreamed
from messages import Block, Json, Other, Reply, Text, Thinking, ToolUse, Usage
from models.gemini_errors import error_of
from models.open_block import OpenBlock
from models.sse import Doubled
from models.stream import BLOCKS_MAX, CONTENT_CHARS_MAX
from models.tool_input import INPUT_CHARS_MAX, parse_input
from models.wire import sendable_id
from safe_text import encodable, one_line, shorten

ITSELF, BEHIND = "itself", "behind"
"""Where a signature stood: on the part of a block itself, or on an empty text right behind it."""

_STOP_REASONS = {
    "STOP": "end_turn",
    "MAX_TOKENS": "max_tokens",
    **dict.fromkeys(
        ("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"), "refusal"
    ),
}

# The model failed at the form of its own answer: nothing in it may be used or run.
_VOID = frozenset(
    {
        "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
    }
)  # fmt: skip


class GeminiParser:
    """One stream of `streamGenerateContent`, chunk by chunk.

    Args:
        link: name of the chain link that was asked; stands in the reply and in what only it may read back.
        taken_ids: ids of the tool calls already in the history.
    """

    done = False
    """Nothing but the end of its body says that a stream of this dialect is at its end."""

    def __init__(self, link: str, taken_ids: Collection[str] = ()) -> None:
        self._link = link
        self._ids = set(taken_ids)
        self._blocks: list[Block] = []
        self._text: OpenBlock | None = None
        self._size = 0
        self._begun = False
        self._finish: str | None = None
        self._details: Json | None = None
        self._usage = Usage()
        self._model = self._id = ""
        self._broken = False
        self.heard = False
        """Whether the last chunk showed that the model is at work."""

    def feed(self, name: str, data: Any) -> Event | None:
        """Take one chunk; the answer is what a screen should show of it, if anything.

        Args:
            name: the event's name; this API gives none.
            data: its decoded JSON.

        Raises AgentError: reason "protocol" for a broken stream, else what an error in it says.
        """
        try:
            return self._take(data)
        except AgentError:
            self._broken = True
            raise

    def finish(self) -> Reply:
        """The reply, once the body has ended properly. Raises AgentError(reason="protocol") when it is not whole."""
        if self._broken or self._finish is None:
            _refuse(f"the answer broke off {'in the middle' if self._begun else 'before it began'}")
        if self._finish in _VOID:
            _refuse(f"the model failed at its own form ({self._finish})")
        self._close_text()
        stop = _STOP_REASONS.get(self._finish, self._finish)
        if stop == "end_turn" and any(isinstance(block, ToolUse) for block in self._blocks):
            stop = "tool_use"
        return Reply(tuple(self._blocks), stop, self._usage, self._model, self._id, self._link, self._details)

    def _take(self, data: Any) -> Event | None:
        self.heard = False
        if not isinstance(data, dict):
            _refuse("a chunk that is no object")
        if data.get("error") is not None:
            raise error_of(200, data)
        self._model = _word(data.get("modelVersion")) or self._model
        self._id = _word(data.get("responseId")) or self._id
        if isinstance(data.get("usageMetadata"), dict):
            self._usage = usage_of(data["usageMetadata"])
        self._look_at_feedback(data.get("promptFeedback"))
        candidate = _only_candidate(data.get("candidates"))
        return None if candidate is None else self._take_candidate(candidate)

    def _look_at_feedback(self, feedback: Any) -> None:
        """A question that is blocked has no candidate at all: the feedback is the answer."""
        blocked = feedback.get("blockReason") if isinstance(feedback, dict) else None
        if blocked:
            if self._blocks or self._text:
                _refuse("a block of the question in the middle of its answer")
            self._end_with("SAFETY", {"block_reason": _word(blocked)})

    def _take_candidate(self, candidate: dict[str, Any]) -> Event | None:
        content = candidate.get("content") or {}
        parts = content.get("parts") if isinstance(content, dict) else content
        if parts is not None and not (isinstance(parts, list) and all(isinstance(part, dict) for part in parts)):
            _refuse("parts that are no list of objects")
        self._begun = self.heard = True
        shown = [self._take_part(part) for part in parts or ()]
        reason = candidate.get("finishReason")
        if reason is not None:
            if not isinstance(reason, str) or not reason:
                _refuse("a finish reason that is no word")
            message = _word(candidate.get("finishMessage"))
            self._end_with(one_line(reason.upper(), 60), {"explanation": message} if message else None)
        return _joined(shown)

    def _end_with(self, reason: str, details: Json | None) -> None:
        if self._finish not in (None, reason):
            _refuse("two reasons to finish")
        self._finish, self._details = reason, details or self._details

    def _take_part(self, part: dict[str, Any]) -> Event | None:
        kinds = [kind for kind in ("text", "functionCall") if part.get(kind) is not None]
        if self._finish is not None and kinds != [] and part.get("text") != "":
            _refuse("more of the answer after its end")
        self._grow(part)
        if len(kinds) > 1:
            _refuse("a part that is two things")
        if part.get("thought") is True:
            return self._take_thought(part)
        if kinds == ["functionCall"]:
            return self._take_call(part)
        if kinds == ["text"] or part.keys() == {"thoughtSignature"}:
            return self._take_text(part)
        if part:
            self._add(Other({"type": "gemini_part", "part": part}))
        return None

    def _take_thought(self, part: dict[str, Any]) -> Event | None:
        thought = _word(part.get("text"))
        self._add(Other({"type": "gemini_part", "part": part}))
        return ThinkingStreamed(len(thought)) if thought else None

    def _take_text(self, part: dict[str, Any]) -> Event | None:
        text, signature = part.get("text") or "", _signature(part)
        if not isinstance(text, str):
            _refuse("a text that is no text")
        if not text:  # the signature of what was said so far often comes in an empty part at its end
            self._close_text(signature, on=BEHIND)
            return None
        if signature:
            self._close_text()  # signed words are a part of their own, and go back as one
        if self._text is None:
            self._text = OpenBlock({"type": "text"})
        event = self._text.add("text_delta", text)
        if signature:
            self._close_text(signature, on=ITSELF)
        return event

    def _take_call(self, part: dict[str, Any]) -> Event | None:
        call = part["functionCall"]
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            _refuse("a tool call without a name")
        if call.get("willContinue") or "partialArgs" in call:
            _refuse("a tool call in pieces")  # nobody asked for that: half of one could pass for a whole one
        args = call.get("args")
        value, problem = _arguments({} if args is None else args)
        raw = shorten(json.dumps(args, ensure_ascii=True), INPUT_CHARS_MAX) if problem else ""
        block = ToolUse(self._call_id(call.get("id")), encodable(call["name"]), value, raw, problem)
        if signature := _signature(part):
            self._add(signature_of(block, signature, ITSELF, self._link))
        self._add(block)
        return None

    def _call_id(self, said: Any) -> str:
        if isinstance(said, str) and said.strip():
            call_id = sendable_id(encodable(said))
            if call_id in self._ids:
                _refuse("two tool calls with the same id")
        else:
            number = len(self._ids) + 1
            while (call_id := f"call_{number}") in self._ids:
                number += 1
        self._ids.add(call_id)
        return call_id

    def _add(self, block: Block) -> None:
        self._close_text()
        self._blocks.append(block)
        if len(self._blocks) > BLOCKS_MAX:
            _refuse(f"more than {BLOCKS_MAX} blocks")

    def _close_text(self, signature: str = "", on: str = "") -> None:
        if self._text is not None and (signature or not on):
            block, self._text = self._text.close(self._link), None
            if signature:
                self._blocks.append(signature_of(block, signature, on, self._link))
            self._blocks.append(block)

    def _grow(self, part: dict[str, Any]) -> None:
        self._size += len(json.dumps(part))
        if self._size > CONTENT_CHARS_MAX:
            _refuse(f"an answer of more than {CONTENT_CHARS_MAX} characters")


def signature_of(block: Block, signature: str, on: str, link: str) -> Thinking:
    """The block that keeps a thought signature in the history, right before the block it is bound to."""
    return Thinking({"type": "thought_signature", "signature": signature, "on": on, "of": mark_of(block)}, link)


def mark_of(block: Block) -> str:
    """What tells one block from another, so that no signature ends up on a part it did not come with."""
    said = block.text if isinstance(block, Text) else json.dumps(block.to_wire().get("input"), sort_keys=True)
    return hashlib.sha256(f"{type(block).__name__}:{said}".encode("utf-8", "replace")).hexdigest()[:16]


def usage_of(said: Json) -> Usage:
    """Tokens in our words. Counts are cumulative: the last ones hold.

    Zeros are left out on this wire: where the size of the prompt is told, a cache that is not mentioned
    read nothing. Thoughts are written too, and paid for. What is no count is not known.
    """
    prompt, cached = _count(said, "promptTokenCount"), _count(said, "cachedContentTokenCount", 0)
    written = [_count(said, name) for name in ("candidatesTokenCount", "thoughtsTokenCount") if name in said]
    output = None if not written or None in written else sum(count for count in written if count is not None)
    if prompt is None or cached is None or cached > prompt:
        return Usage(None, output)
    return Usage(prompt - cached, output, cached, 0)


def _count(said: Json, name: str, default: int | None = None) -> int | None:
    value = said.get(name, default)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _only_candidate(candidates: Any) -> dict[str, Any] | None:
    if candidates is None or candidates == []:
        return None
    if not isinstance(candidates, list) or len(candidates) != 1 or not isinstance(candidates[0], dict):
        _refuse("candidates that are no list of one")
    if candidates[0].get("index", 0) != 0:
        _refuse("another candidate than the one asked for")
    return dict(candidates[0])


def _arguments(args: Any) -> tuple[dict[str, Any], str | None]:
    """By the rules for all tools; a key given twice got as far as here because the reader marks it."""
    if twice := _doubled(args):
        return {}, f'the input has the key "{one_line(twice, 60)}" more than once'
    return parse_input(json.dumps(args))


def _doubled(value: Any) -> str:
    if isinstance(value, Doubled):
        return value.key
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_doubled, children)), "")


def _joined(shown: list[Event | None]) -> Event | None:
    """One event a chunk: its words, or else that there was thinking."""
    words = "".join(event.text for event in shown if isinstance(event, TextStreamed))
    return TextStreamed(words) if words else next((event for event in shown if event is not None), None)


def _signature(part: Json) -> str:
    return _word(part.get("thoughtSignature"))


def _word(value: Any) -> str:
    return encodable(value) if isinstance(value, str) else ""


def _refuse(what: str) -> NoReturn:
    raise AgentError(f"not a whole answer: {what}", reason="protocol")
