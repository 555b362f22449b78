"""The state machine of Gemini's stream: what is an answer, what is told, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import AgentError
from events import TextStreamed
from messages import Other, Reply, Text, Thinking, ToolUse, Usage
from models.gemini_stream import GeminiParser, usage_of
from models.sse import SseDecoder
from tests.fake_gemini import call, chunk, raw_chunk

LINK = "google:gemini-3.6-flash"


def read(*chunks: bytes, taken: tuple[str, ...] = ()) -> Reply:
    """What comes of these chunks when the body ends behind them."""
    parser = GeminiParser(LINK, taken)
    decoder = SseDecoder(marks_doubled=True)
    for one in chunks:
        for name, data in decoder.feed(one):
            parser.feed(name, data)
    return parser.finish()


def refusal(*chunks: bytes, taken: tuple[str, ...] = ()) -> str:
    """Why these chunks are no answer."""
    with pytest.raises(AgentError) as caught:
        read(*chunks, taken=taken)
    assert caught.value.reason == "protocol"
    return str(caught.value)


@pytest.mark.parametrize(
    ("finish", "stop_reason"),
    [("STOP", "end_turn"), ("MAX_TOKENS", "max_tokens"), ("SAFETY", "refusal"), ("RECITATION", "refusal"),
     ("PROHIBITED_CONTENT", "refusal"), ("BLOCKLIST", "refusal"), ("SPII", "refusal"), ("LANGUAGE", "refusal"),
     ("OTHER", "OTHER"), ("NEWEST_REASON", "NEWEST_REASON"), ("tool_use", "TOOL_USE")],
)  # fmt: skip
def test_a_finish_reason_is_told_in_our_words(finish: str, stop_reason: str) -> None:
    assert read(chunk({"text": "a"}, finish=finish)).stop_reason == stop_reason


@pytest.mark.parametrize(
    "finish", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE"]
)
def test_an_answer_whose_form_failed_is_void(finish: str) -> None:
    assert finish in refusal(chunk(call("save_note", {"content": "x"}), finish=finish))


@pytest.mark.parametrize("candidates", [None, []])
def test_a_blocked_question_is_a_refusal(candidates: Any) -> None:
    said = {"promptFeedback": {"blockReason": "OTHER"}, "usageMetadata": {"promptTokenCount": 9}}
    reply = read(raw_chunk(said if candidates is None else {**said, "candidates": candidates}))
    assert (reply.stop_reason, reply.blocks, reply.stop_details) == ("refusal", (), {"block_reason": "OTHER"})


def test_usage_may_come_behind_the_end_but_nothing_else() -> None:
    end = chunk({"text": "a"}, finish="STOP")
    assert read(end, raw_chunk({"usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2}})).usage == Usage(
        1, 2, 0, 0
    )
    assert read(end, chunk(finish="STOP")).text == "a"
    assert "after its end" in refusal(end, chunk({"text": "b"}))
    assert "after its end" in refusal(end, chunk(call("calculator", {})))
    assert "two reasons" in refusal(end, chunk(finish="SAFETY"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"candidates": "x"}, "no list of one"),
        ({"candidates": [1]}, "no list of one"),
        ({"candidates": [{}, {}]}, "no list of one"),
        ({"candidates": [{"index": 1}]}, "another candidate"),
        ({"candidates": [{"content": "x"}]}, "no list of objects"),
        ({"candidates": [{"content": {"parts": "x"}}]}, "no list of objects"),
        ({"candidates": [{"content": {"parts": ["x"]}}]}, "no list of objects"),
        ({"candidates": [{"content": {"parts": [{"text": 7}]}}]}, "no text"),
        ({"candidates": [{"content": {"parts": [{"text": "a", "functionCall": {"name": "x"}}]}}]}, "two things"),
        ({"candidates": [{"content": {"parts": [{"functionCall": "x"}]}}]}, "without a name"),
        ({"candidates": [{"content": {"parts": [{"functionCall": {"args": {}}}]}}]}, "without a name"),
        ({"candidates": [{"content": {"parts": [call("a", {}, willContinue=True)]}}]}, "in pieces"),
        ({"candidates": [{"content": {"parts": [call("a", {}, partialArgs=[])]}}]}, "in pieces"),
        ({"candidates": [{"finishReason": 1}]}, "no word"),
        ({"candidates": [{"finishReason": ""}]}, "no word"),
    ],
)
def test_a_chunk_of_another_shape_is_refused(data: Any, said: str) -> None:
    assert said in refusal(raw_chunk(data), chunk({"text": "a"}, finish="STOP"))


def test_fields_and_parts_that_are_unknown_crash_nothing_and_stay_out_of_the_answer() -> None:
    odd = {"inlineData": {"mimeType": "image/png", "data": "AA=="}}
    reply = read(
        raw_chunk({"newest": [1], "candidates": [{"newest": {}, "content": {"parts": [{}, odd]}}]}),
        raw_chunk({}),
        chunk({"text": "a", "newest": 1}, finish="STOP"),
    )
    assert reply.blocks == (Other({"type": "gemini_part", "part": odd}), Text("a"))


def test_ids_that_are_missing_are_made_up_and_unlike_all_others() -> None:
    reply = read(
        chunk(call("a", {}), call("b", {}, id=""), call("c", {}, id="x.y"), finish="STOP"), taken=("call_2", "call_3")
    )
    ids = [block.id for block in reply.tool_uses]
    assert len({*ids, "call_2", "call_3"}) == 5
    assert all(one.replace("_", "").isalnum() for one in ids)
    assert reply.stop_reason == "tool_use"


def test_an_id_that_is_there_twice_is_refused() -> None:
    assert "same id" in refusal(chunk(call("a", {}, id="x"), call("a", {}, id="x"), finish="STOP"))
    assert "same id" in refusal(chunk(call("a", {}, id="x"), finish="STOP"), taken=("x",))


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ("[1]", "a list"),
        ('"x"', "a string"),
        ("7", "a number"),
        ("true", "true or false"),
        ('{"a": 1, "a": 2}', 'the key "a" more than once'),
        ('{"b": [{"a": 1, "a": 1}]}', 'the key "a" more than once'),
        ('{"a": 1e999}', "JSON"),
        ('{"a": ' + "[" * 99 + "]" * 99 + "}", "levels deep"),
    ],
)
def test_arguments_that_no_tool_takes_are_told_to_the_model(args: str, problem: str) -> None:
    raw = (
        b'data: {"candidates": [{"finishReason": "STOP", "content": {"parts": [{"functionCall": {"name": "a", "args": '
    )
    (use,) = read(raw + args.encode() + b"}}]}}]}\n\n").tool_uses
    assert use.input == {}
    assert problem in str(use.problem)


def test_arguments_that_are_left_out_are_none() -> None:
    (one, other) = read(chunk({"functionCall": {"name": "a"}}, call("b", None), finish="STOP")).tool_uses
    assert (one.input, one.problem, other.input, other.problem) == ({}, None, {}, None)


def test_a_signature_is_kept_before_the_part_it_is_bound_to() -> None:
    reply = read(
        chunk({"text": "Let me "}),
        chunk({"text": "see."}),
        chunk({"text": "", "thoughtSignature": "czE="}),
        chunk(call("calculator", {"expression": "1"}, thoughtSignature="czI="), finish="STOP"),
    )
    kinds = [type(block) for block in reply.blocks]
    assert kinds == [Thinking, Text, Thinking, ToolUse]
    assert [block.model for block in reply.blocks if isinstance(block, Thinking)] == [LINK, LINK]
    assert reply.text == "Let me see."


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        ({}, Usage()),
        ({"promptTokenCount": 5}, Usage(5, None, 0, 0)),
        ({"promptTokenCount": 5, "cachedContentTokenCount": 3, "candidatesTokenCount": 2}, Usage(2, 2, 3, 0)),
        ({"promptTokenCount": 5, "thoughtsTokenCount": 4}, Usage(5, 4, 0, 0)),
        ({"promptTokenCount": 5, "candidatesTokenCount": 1, "thoughtsTokenCount": 4}, Usage(5, 5, 0, 0)),
        ({"promptTokenCount": -5, "candidatesTokenCount": "7"}, Usage()),
        ({"promptTokenCount": True, "candidatesTokenCount": 7}, Usage(None, 7)),
        ({"promptTokenCount": 2, "cachedContentTokenCount": 3}, Usage()),
    ],
)
def test_usage_that_was_not_told_is_unknown(said: dict[str, Any], usage: Usage) -> None:
    assert usage_of(said) == usage


@settings(max_examples=60)
@given(st.data())
def test_whatever_a_server_sends_is_an_answer_or_an_error_of_ours(data: st.DataObject) -> None:
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "candidates",
                        "content",
                        "parts",
                        "text",
                        "functionCall",
                        "name",
                        "args",
                        "id",
                        "finishReason",
                        "error",
                        "thoughtSignature",
                        "thought",
                        "usageMetadata",
                        "promptFeedback",
                        "blockReason",
                        "index",
                        "code",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
    parser = GeminiParser(LINK)
    try:
        for one in data.draw(st.lists(values, max_size=4)):
            parser.feed("", one)
        parser.finish()
    except AgentError:
        pass


@pytest.mark.parametrize("part", [{"text": "The answer is 345."}, call("save_note", {"content": "x"})])
def test_a_body_that_ends_without_a_finish_reason_is_no_answer(part: dict[str, Any]) -> None:
    assert "broke off" in refusal(chunk(part))
    assert "broke off" in refusal()


def test_a_broken_stream_stays_broken() -> None:
    parser = GeminiParser(LINK)
    with pytest.raises(AgentError):
        parser.feed("", [])
    parser.feed("", {"candidates": [{"finishReason": "STOP"}]})
    with pytest.raises(AgentError, match="broke off"):
        parser.finish()


def test_a_character_that_was_cut_in_two_is_shown_whole() -> None:
    parser = GeminiParser(LINK)
    shown = [
        parser.feed("", {"candidates": [{"content": {"parts": [{"text": half}]}}]}) for half in ("a\ud83d", "\ude00b")
    ]
    assert shown == [TextStreamed("a"), TextStreamed("😀b")]
