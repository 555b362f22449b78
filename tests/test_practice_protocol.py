"""The bytes of the Messages API as the practice side writes them, and the requests it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.practice.protocol import error_body, error_event, error_json, message_json, sse_events, validate_request

TEXT = {"type": "text", "text": "Grüße: 15 * 23 = 345 🎈"}
THINKING = {"type": "thinking", "thinking": "so many words", "signature": "c2ln"}
HIDDEN = {"type": "redacted_thinking", "data": "eHl6"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "calculator", "input": {"expression": "15 * 23 – “ü”"}}


def message(*content: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "practice",
        "content": list(content),
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 12, "output_tokens": 34},
        **more,
    }


def parsed(frames: Iterable[bytes]) -> list[dict[str, Any]]:
    events = []
    for frame in frames:
        name, data, *rest = frame.decode().split("\n")
        assert rest == ["", ""]
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def reassembled(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message as a strict client puts it together."""
    whole = dict(events[0]["message"])
    parts: dict[int, str] = {}
    for event in events[1:]:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(whole["content"])
                whole["content"] = [*whole["content"], dict(event["content_block"])]
            case "content_block_delta":
                block, delta = whole["content"][event["index"]], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] += delta["signature"]
                    case "input_json_delta":
                        parts[event["index"]] = parts.get(event["index"], "") + delta["partial_json"]
            case "content_block_stop":
                if event["index"] in parts:
                    whole["content"][event["index"]]["input"] = json.loads(parts[event["index"]] or "{}")
            case "message_delta":
                whole.update(event["delta"])
                whole["usage"] = {**whole["usage"], **event["usage"]}
    return whole


def test_a_stream_has_the_events_of_the_real_api_in_their_order() -> None:
    events = parsed(sse_events(message({"type": "text", "text": "Hello, you"}, CALL, stop_reason="tool_use"), 5))
    names = [event["type"] for event in events if event["type"] != "content_block_delta"]
    assert names == [
        "message_start",
        "ping",
        *["content_block_start", "content_block_stop"] * 2,
        "message_delta",
        "message_stop",
    ]
    start = events[0]["message"]
    assert (start["content"], start["stop_reason"], start["usage"]["input_tokens"]) == ([], None, 12)
    assert events[2]["content_block"] == {"type": "text", "text": ""}
    assert [event["delta"]["text"] for event in events[3:5]] == ["Hello", ", you"]
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] == 34


def test_a_tool_input_starts_empty_and_comes_in_pieces_of_json() -> None:
    events = parsed(sse_events(message(CALL), 4))
    start = next(event for event in events if event["type"] == "content_block_start")
    pieces = [event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"]
    assert start["content_block"]["input"] == {}
    assert pieces[0] == ""
    assert len(pieces) > 3
    assert json.loads("".join(pieces)) == CALL["input"]


def test_an_empty_tool_input_sends_no_json_at_all() -> None:
    events = parsed(sse_events(message({**CALL, "input": {}})))
    assert [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"] == [""]


def test_broken_json_of_a_model_can_be_written_as_it_is() -> None:
    events = parsed(sse_events(message({**CALL, "input": '{"expression": '}), 4))
    pieces = [event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(pieces) == '{"expression": '


def test_a_refusal_keeps_its_details() -> None:
    details = {"category": "cyber", "explanation": None}
    events = parsed(sse_events(message(stop_reason="refusal", stop_details=details)))
    assert events[-2]["delta"]["stop_details"] == details


def test_a_huge_block_takes_a_bounded_number_of_events() -> None:
    frames = list(sse_events(message({"type": "text", "text": "x" * 300_000})))
    assert len(frames) < 450


_blocks = st.lists(
    st.builds(lambda text: {"type": "text", "text": text}, st.text())
    | st.builds(lambda given: {**CALL, "input": given}, st.dictionaries(st.text(), st.text() | st.integers()))
    | st.sampled_from([TEXT, THINKING, HIDDEN, CALL]),
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(_blocks, st.integers(0, 50))
def test_a_stream_carries_exactly_the_message(blocks: list[dict[str, Any]], chunk_chars: int) -> None:
    whole = message(*blocks)
    assert reassembled(parsed(sse_events(whole, chunk_chars))) == whole == json.loads(message_json(whole))


def test_an_error_has_one_shape_in_bodies_and_streams() -> None:
    body = error_body("overloaded_error", "Overloaded", "req_1")
    assert body == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "Overloaded"},
        "request_id": "req_1",
    }
    assert json.loads(error_json("overloaded_error", "Overloaded", "req_1")) == body
    assert parsed([error_event("overloaded_error", "Overloaded", "req_1")]) == [body]


def test_text_that_is_no_unicode_still_makes_valid_frames() -> None:
    assert b"?" in b"".join(sse_events(message({"type": "text", "text": "a\ud800b"})))


# --- what is refused ---------------------------------------------------------------------------------

ASKED = {"role": "user", "content": "what is 15 * 23?"}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "345"}]}


def body(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "practice", "max_tokens": 100, "messages": list(messages), **more}


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


@pytest.mark.parametrize(
    "valid",
    [
        body(ASKED),
        body(ASKED, ASKED),
        body(ASKED, assistant(THINKING, TEXT, CALL), user(RESULT)),
        body(ASKED, assistant(CALL), user(RESULT, TEXT), assistant(TEXT), ASKED),
        body(ASKED, assistant(CALL, {**CALL, "id": "toolu_2"}), user({**RESULT, "tool_use_id": "toolu_2"}, RESULT)),
        body(ASKED, assistant(CALL), user({"type": "tool_result", "tool_use_id": "toolu_1"})),
        body(ASKED, assistant({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})),
        body(ASKED, assistant(HIDDEN, TEXT), ASKED, stream=True, system=[{"type": "text", "text": "be kind"}]),
        body(ASKED, tools=[{"name": "t", "input_schema": {"type": "object"}}], system="be kind"),
        body(ASKED, tools=[{"type": "web_search_20260318", "name": "web_search"}]),
    ],
)
def test_a_request_that_the_api_takes_is_taken(valid: dict[str, Any]) -> None:
    assert validate_request(valid) is None


@pytest.mark.parametrize(
    ("invalid", "reason"),
    [
        ([], "JSON object"),
        ({"max_tokens": 1, "messages": [ASKED]}, "model: Field required"),
        (body(ASKED, model=" "), "model"),
        ({"model": "m", "messages": [ASKED]}, "max_tokens: Field required"),
        (body(ASKED, max_tokens=0), "max_tokens"),
        (body(ASKED, max_tokens=True), "max_tokens"),
        (body(ASKED, max_tokens=1.5), "max_tokens"),
        (body(ASKED, temperature=1), "temperature"),
        (body(ASKED, top_p=1), "top_p"),
        (body(ASKED, top_k=None), "top_k"),
        (body(ASKED, stream="yes"), "stream"),
        (body(ASKED, system=[{"type": "text", "text": ""}]), "system.0"),
        (body(ASKED, tools=[{"name": "a b", "input_schema": {"type": "object"}}]), "tools.0.name"),
        (body(ASKED, tools=[{"name": "a", "input_schema": {"type": "object"}}] * 2), "unique"),
        (body(ASKED, tools=[{"name": "a", "input_schema": {"type": "string"}}]), "input_schema"),
        (body(), "at least one message"),
        (body(messages="hi"), "valid list"),
        (body("hi"), "messages.0"),
        (body({"role": "tool", "content": "x"}), "messages.0.role"),
        (body({"role": "system", "content": "x"}), "messages.0.role"),
        (body({**ASKED, "id": "msg_1"}), "Extra inputs"),
        (body({"role": "user"}), "messages.0.content"),
        (body({"role": "user", "content": ""}), "non-empty content"),
        (body(user()), "non-empty content"),
        (body(user({"type": "text", "text": ""})), "non-whitespace"),
        (body({"role": "user", "content": " \n"}), "non-whitespace"),
        (body(user({"type": "hologram"})), "unknown block type"),
        (body(user(CALL)), "not permitted in user"),
        (body(ASKED, assistant(RESULT), ASKED), "not permitted in assistant"),
        (body(assistant(TEXT), ASKED), "first message"),
        (body(ASKED, assistant(TEXT)), "must end with a user message"),
        (body(ASKED, assistant({**THINKING, "signature": ""}, TEXT), ASKED), "signature"),
        (body(ASKED, assistant(TEXT, THINKING), ASKED), "final block"),
        (body(ASKED, assistant({**CALL, "input": "{}"}), user(RESULT)), "valid dictionary"),
        (body(ASKED, assistant({**CALL, "id": "a b"}), user(RESULT)), "messages.1.content.0.id"),
        (body(ASKED, assistant(CALL)), "must end with a user message"),
        (body(ASKED, assistant(CALL), ASKED), "`tool_use` ids were found without `tool_result`"),
        (body(ASKED, assistant(CALL), ASKED, user(RESULT)), "`tool_use` ids were found without `tool_result`"),
        (body(ASKED, assistant(CALL), user(TEXT, RESULT)), "must come first"),
        (body(ASKED, assistant(CALL), user(RESULT, RESULT)), "single result"),
        (body(ASKED, user(RESULT)), "unexpected `tool_use_id`"),
        (body(ASKED, assistant(CALL), user(RESULT), assistant(CALL), user(RESULT)), "must be unique"),
        (body(ASKED, assistant(CALL, CALL), user(RESULT)), "must be unique"),
        (body(ASKED, assistant(CALL), user({**RESULT, "content": "", "is_error": True})), "cannot be empty"),
        (body(ASKED, assistant(CALL), user({**RESULT, "content": [{"type": "text", "text": ""}]})), "non-whitespace"),
        (body({"role": "user", "content": "a\ud800"}), "not valid JSON"),
        (body(ASKED, metadata={"x": float("nan")}), "not valid JSON"),
    ],
)
def test_a_request_that_the_api_refuses_is_refused_with_the_reason(invalid: Any, reason: str) -> None:
    assert reason in (validate_request(invalid) or "taken")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_mutations: list[Callable[[Any], dict[str, Any]]] = [
    lambda value: body(ASKED, assistant({**CALL, "input": value}), user(RESULT)),
    lambda value: body(ASKED, assistant({**CALL, "id": value}), user(RESULT)),
    lambda value: body(ASKED, assistant(value), user(RESULT)),
    lambda value: body(ASKED, assistant(CALL), user({**RESULT, "content": value})),
    lambda value: body(ASKED, assistant(CALL), user({**RESULT, "tool_use_id": value})),
    lambda value: body(value),
    lambda value: body(ASKED, tools=value),
    lambda value: body(ASKED, system=value),
    lambda value: {"model": value, "max_tokens": value, "messages": value},
]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(_mutations), _json)
def test_any_rubbish_gets_a_reason_and_never_an_exception(mutate: Callable[[Any], dict[str, Any]], value: Any) -> None:
    reason = validate_request(mutate(value))
    assert reason is None or reason
