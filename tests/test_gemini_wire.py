"""What is sent to Gemini: any history becomes a valid body, there and back, and nothing of it goes astray."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.conversation import results_message, sendable, trimmed, with_sendable_calls
from errors import AgentError
from messages import (
    CallResult,
    Message,
    ModelRequest,
    Other,
    Text,
    Thinking,
    ToolResult,
    ToolSpec,
    ToolUse,
    assistant,
    user,
)
from models.chain import Link, readable_by
from models.exchange import call_ids
from models.gemini_stream import GeminiParser
from models.gemini_wire import FOREIGN_CALL, GO_ON, params, sendable_name
from models.practice.protocol import sse_events
from models.sse import SseDecoder
from models.stream import StreamParser
from models.wire import params as claude_params
from tests import gemini_validator, history_validator
from tests.fake_gemini import chunk

FLASH = Link("google", "gemini-3.6-flash")
PRO = Link("google", "gemini-3.8-pro")
SONNET = Link("anthropic", "claude-sonnet-5-5")
TOOLS = (ToolSpec("calculator", "sums", {"type": "object", "properties": {}}),)


def contents(*messages: Message, link: Link = FLASH) -> list[dict[str, Any]]:
    body = params(readable_by(ModelRequest("", messages), link), link)
    assert gemini_validator.breaches(body) == []
    sent: list[dict[str, Any]] = body["contents"]
    return sent


CALL = ToolUse("toolu_1", "calculator", {"expression": "1"})
RESULT = Message("user", (ToolResult("toolu_1", "1"),))


def test_a_call_of_another_model_carries_the_word_for_that() -> None:
    other = ToolUse("toolu_2", "find_notes", {"query": "x"})
    both = Message("user", (ToolResult("toolu_1", "1"), ToolResult("toolu_2", "2")))
    sent = contents(user("Hi"), Message("assistant", (Text("Let me see."), CALL, other)), both)
    assert [part.get("thoughtSignature") for part in sent[1]["parts"]] == [None, FOREIGN_CALL, FOREIGN_CALL]


def test_an_empty_system_prompt_and_no_tools_are_left_out() -> None:
    assert params(ModelRequest(" ", (user("Hi"),)), FLASH).keys() == {"contents", "generationConfig"}


def test_a_conversation_never_ends_with_the_models_own_words() -> None:
    sent = contents(user("Hi"), assistant("Searching"))
    assert sent[-1] == {"role": "user", "parts": [{"text": GO_ON}]}


def test_what_only_its_maker_reads_stays_behind_and_no_message_becomes_empty() -> None:
    thought = Thinking({"type": "thinking", "thinking": "Hm.", "signature": "s"}, SONNET.name)
    sent = contents(user("Hi"), Message("assistant", (thought, Other({"type": "server_tool_use"}))), user("And?"))
    assert sent[1]["parts"] == [{"text": "(no words)"}]


def test_results_come_before_words() -> None:
    nudged = Message("user", (*RESULT.blocks, Text("Please answer.")))
    sent = contents(user("Hi"), Message("assistant", (CALL,)), nudged)
    assert [list(part) for part in sent[2]["parts"]] == [["functionResponse"], ["text"]]


@pytest.mark.parametrize(
    ("name", "sent"),
    [("calculator", "calculator"), ("9lives", "_9lives"), ("save note", "save_note"), ("-x", "_-x"), ("", "_"),
     ("ü" * 99, "_" * 64), ("a" * 99, "a" * 64)],
)  # fmt: skip
def test_names_are_made_sendable(name: str, sent: str) -> None:
    assert sendable_name(name) == sent


def answer_of(*parts: dict[str, Any], finish: str = "STOP") -> tuple[Any, ...]:
    parser = GeminiParser(FLASH.name)
    for _, data in SseDecoder(marks_doubled=True).feed(chunk(*parts, finish=finish)):
        parser.feed("", data)
    return parser.finish().blocks


def test_a_signature_goes_back_only_with_the_very_part_it_came_with() -> None:
    blocks = answer_of({"text": " ", "thoughtSignature": "c2lnMQ=="}, {"functionCall": {"name": "calculator"}})
    kept = with_sendable_calls(sendable(blocks), ())  # the blank words are gone, their signature is left over
    (use,) = [block for block in kept if isinstance(block, ToolUse)]
    sent = contents(user("Hi"), Message("assistant", kept), Message("user", (ToolResult(use.id, "1"),)))
    assert [part.get("thoughtSignature") for part in sent[1]["parts"]] == [FOREIGN_CALL]


def test_a_signature_means_nothing_to_another_gemini() -> None:
    blocks = answer_of({"functionCall": {"name": "calculator"}, "thoughtSignature": "c2lnMQ=="})
    (use,) = [block for block in blocks if isinstance(block, ToolUse)]
    history = (user("Hi"), Message("assistant", blocks), Message("user", (ToolResult(use.id, "1"),)))
    assert contents(*history)[1]["parts"][0]["thoughtSignature"] == "c2lnMQ=="
    assert contents(*history, link=PRO)[1]["parts"][0]["thoughtSignature"] == FOREIGN_CALL


# --- any conversation, across providers ------------------------------------------------------------------

words = st.text(min_size=0, max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=3,
)
args = st.dictionaries(words, values, max_size=3)
names = st.sampled_from(["calculator", "save_note", "save note", "9", "", "x" * 90, "ü"])
ids = st.none() | st.sampled_from(["a", "call_1", "toolu_1", "we:ird.id", "", " "])


@st.composite
def gemini_answers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Parts as Gemini may send them, signed or not, with ids or without."""
    parts: list[dict[str, Any]] = []
    taken: set[str] = set()
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["text", "call", "thought", "odd"]))
        if kind == "call":
            function: dict[str, Any] = {"name": draw(names), "args": draw(args)}
            said = draw(ids)
            if said is not None and said not in taken:
                function["id"] = said
                taken.add(said)
            part: dict[str, Any] = {"functionCall": function}
        else:
            part = {"text": draw(words)} if kind != "odd" else {"inlineData": {"data": "AA=="}}
            part |= {"thought": True} if kind == "thought" else {}
        if draw(st.booleans()):
            part["thoughtSignature"] = "signed"
        parts.append(part)
    return parts


@st.composite
def claude_answers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Blocks as Claude, or a local server, may send them."""
    blocks: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 3))):
        match draw(st.sampled_from(["text", "tool_use", "thinking", "odd"])):
            case "text":
                blocks.append({"type": "text", "text": draw(words)})
            case "tool_use":
                call_id = f"toolu_{draw(st.integers(0, 10**9))}.{len(blocks)}"
                blocks.append({"type": "tool_use", "id": call_id, "name": draw(names), "input": draw(args)})
            case "thinking":
                blocks.append({"type": "thinking", "thinking": draw(words), "signature": draw(words)})
            case _:
                blocks.append({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})
    return blocks


@dataclass
class Talk:
    """A conversation as `core/` keeps it, with every model shown what it may read before each answer."""

    messages: tuple[Message, ...] = ()
    issued: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        request = ModelRequest("Be kind.", trimmed(self.messages, 10**6), TOOLS)
        for link in (FLASH, PRO):
            body = params(readable_by(request, link), link)
            assert gemini_validator.breaches(body, self.issued if link == FLASH else {}) == []
        for link in (SONNET, Link("local", "qwen3", "http://h")):
            assert history_validator.breaches(claude_params(readable_by(request, link), link)) == []

    def take(self, blocks: tuple[Any, ...]) -> None:
        """One answer, as a turn takes it in: its tools run, or it is the end of the turn."""
        kept = with_sendable_calls(sendable(blocks), self.messages)
        calls = [block for block in kept if isinstance(block, ToolUse)]
        if not kept:
            return
        self.messages = (*self.messages, Message("assistant", kept))
        results = [CallResult(one, "failed" if at % 2 else "ok", "out" * at) for at, one in enumerate(calls)]
        self.messages = (*self.messages, results_message(results) if results else user("And then?"))

    def gemini_says(self, parts: list[dict[str, Any]]) -> None:
        for part in parts:
            if "thoughtSignature" in part:
                part["thoughtSignature"] = f"c2ln{len(self.issued):04}"
                self.issued[part["thoughtSignature"]] = _as_kept(part)
        parser = GeminiParser(FLASH.name, call_ids(self.messages))
        for _, data in SseDecoder(marks_doubled=True).feed(chunk(*parts, finish="STOP")):
            try:
                parser.feed("", data)
            except AgentError:  # ids that were there before: such an answer is void, and nothing is kept
                return
        self.take(parser.finish().blocks)

    def claude_says(self, blocks: list[dict[str, Any]]) -> None:
        parser = StreamParser(SONNET.name, call_ids(self.messages))
        stop = "tool_use" if any(block["type"] == "tool_use" for block in blocks) else "end_turn"
        body = {"id": "m", "model": "m", "role": "assistant", "content": blocks, "stop_reason": stop, "usage": {}}
        for name, data in SseDecoder().feed(b"".join(sse_events(body))):
            parser.feed(name, data)
        self.take(parser.finish().blocks)


def _as_kept(part: dict[str, Any]) -> Any:
    """What the validator compares, with the one change that any dialect needs: a name that can be sent."""
    core = gemini_validator.core_of(part)
    if not isinstance(core, list):
        return core
    (kept,) = with_sendable_calls((ToolUse("x", core[0], {}),), ())
    assert isinstance(kept, ToolUse)
    return [sendable_name(kept.name), core[1]]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), gemini_answers(), claude_answers()), min_size=1, max_size=4), words)
def test_any_conversation_across_providers_is_valid_in_both_dialects(
    answers: list[tuple[bool, list[dict[str, Any]], list[dict[str, Any]]]], question: str
) -> None:
    talk = Talk((user(question or "Hi"),))
    talk.check()
    for by_gemini, parts, blocks in answers:
        if by_gemini:
            talk.gemini_says(parts)
        else:
            talk.claude_says(blocks)
        talk.check()
