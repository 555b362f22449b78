"""The words of a conversation have the wire shapes of the Messages API, and unknown is not zero."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages import (
    NO_USAGE,
    Block,
    CallResult,
    CallStatus,
    Message,
    Other,
    Reply,
    Text,
    Thinking,
    ToolResult,
    ToolSpec,
    ToolUse,
    Usage,
    assistant,
    user,
)


@pytest.mark.parametrize(
    ("block", "wire"),
    [
        (Text("hi"), {"type": "text", "text": "hi"}),
        (
            ToolUse("t1", "dice", {"sides": 6}, raw='{"sides": 6}'),
            {"type": "tool_use", "id": "t1", "name": "dice", "input": {"sides": 6}},
        ),
        (
            ToolUse("t1", "dice", {}, raw='{"sides": Na', problem="cut"),
            {"type": "tool_use", "id": "t1", "name": "dice", "input": {}},
        ),
        (ToolResult("t1", "4"), {"type": "tool_result", "tool_use_id": "t1", "content": "4"}),
        (ToolResult("t1", ""), {"type": "tool_result", "tool_use_id": "t1", "content": "(empty)"}),
        (
            ToolResult("t1", "no", is_error=True),
            {"type": "tool_result", "tool_use_id": "t1", "content": "no", "is_error": True},
        ),
        (Other({"type": "server_tool_use", "id": "s"}), {"type": "server_tool_use", "id": "s"}),
    ],
)
def test_blocks_on_the_wire(block: Block, wire: dict[str, Any]) -> None:
    assert block.to_wire() == wire


def test_thinking_is_sent_back_to_the_byte_and_without_the_name_of_its_model() -> None:
    block = {"type": "thinking", "thinking": " hm\u2028 ", "signature": "sig==", "unheard_of": [1]}
    assert Thinking(block, "anthropic:m").to_wire() == block


def test_a_message_on_the_wire_carries_no_marks_of_ours() -> None:
    assert Message("user", (Text("a"),), untrusted=True).to_wire() == {
        "role": "user",
        "content": [{"type": "text", "text": "a"}],
    }
    assert (user("q").role, assistant("a").role) == ("user", "assistant")


def test_wire_objects_are_copies_that_can_be_encoded() -> None:
    given_input = {"x": [1]}
    wire = ToolUse("t", "n", given_input).to_wire()
    wire["input"]["y"] = 2
    assert given_input == {"x": [1]}
    assert json.loads(json.dumps(ToolSpec("n", "d", {"type": "object"}).to_wire())) == {
        "name": "n",
        "description": "d",
        "input_schema": {"type": "object"},
    }


def test_a_reply_gives_its_words_and_its_calls_in_order() -> None:
    first, second = ToolUse("1", "a", {}), ToolUse("2", "b", {})
    reply = Reply((Thinking({}), Text("one "), first, Text("two"), second), "tool_use")
    assert reply.text == "one two"
    assert reply.tool_uses == (first, second)


COUNTS = st.none() | st.integers(0, 10**9)
USAGES = st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS)
PARTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")


@given(USAGES, USAGES)
def test_a_sum_with_something_unknown_is_unknown_part_by_part(one: Usage, other: Usage) -> None:
    total = one.plus(other)
    for part in PARTS:
        a, b = getattr(one, part), getattr(other, part)
        assert getattr(total, part) == (None if a is None or b is None else a + b)


@given(USAGES, USAGES, USAGES)
def test_usage_can_be_added_up_in_any_order_starting_from_none_used(a: Usage, b: Usage, c: Usage) -> None:
    assert NO_USAGE.plus(a) == a
    assert a.plus(b) == b.plus(a)
    assert a.plus(b).plus(c) == a.plus(b.plus(c))


@pytest.mark.parametrize(
    ("status", "source", "is_answer"),
    [
        ("ok", None, True),
        ("degraded", "cache, 5 min old", True),
        ("degraded", None, False),
        ("failed", None, False),
        ("invalid", None, False),
        ("denied", None, False),
        ("unknown", None, False),
        ("skipped", None, False),
    ],
)
def test_an_old_answer_is_an_answer_and_a_missing_one_is_an_error(
    status: CallStatus, source: str | None, is_answer: bool
) -> None:
    assert CallResult(ToolUse("t", "n", {}), status, "x", source=source).is_answer is is_answer
