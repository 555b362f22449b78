"""The stream parser and what it stands on: nothing is an answer before its proper end."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import AgentError
from events import TextStreamed, ThinkingStreamed
from messages import Other, Reply, Text, Thinking, ToolUse, Usage
from models.practice.protocol import sse_events
from models.sse import EVENT_BYTES_MAX, SseDecoder
from models.stream import BLOCKS_MAX, CONTENT_CHARS_MAX, StreamParser
from models.tool_input import DEPTH_MAX, INPUT_CHARS_MAX, parse_input

LINK = "anthropic:claude-sonnet-5-5"
USAGE = {"input_tokens": 7, "output_tokens": 9, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 1}
THOUGHT = {"type": "thinking", "thinking": "Hm, 15 × 23 …", "signature": "c2ln"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "calculator", "input": {"expression": "15 × 23"}}


def message(*content: dict[str, Any], stop_reason: str | None = "end_turn", **more: Any) -> dict[str, Any]:
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5-20260801",
        "content": list(content), "stop_reason": stop_reason, "stop_sequence": None, "usage": USAGE, **more,
    }  # fmt: skip


WHOLE = message(THOUGHT, {"type": "text", "text": "Let me see: ü 😀."}, CALL, stop_reason="tool_use")


def events_of(whole: dict[str, Any]) -> list[tuple[str, Any]]:
    decoder = SseDecoder()
    return [event for frame in sse_events(whole) for event in decoder.feed(frame)]


def parse(events: list[tuple[str, Any]], **settings: Any) -> Reply:
    parser = StreamParser(LINK, **settings)
    for name, data in events:
        parser.feed(name, data)
    return parser.finish()


def refused(events: list[tuple[str, Any]], **settings: Any) -> AgentError:
    with pytest.raises(AgentError) as caught:
        parse(events, **settings)
    return caught.value


def start(index: Any, block: Any) -> tuple[str, Any]:
    return "content_block_start", {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: Any, value: Any) -> tuple[str, Any]:
    return "content_block_delta", {"type": "content_block_delta", "index": index, "delta": value}


def stop(index: Any) -> tuple[str, Any]:
    return "content_block_stop", {"type": "content_block_stop", "index": index}


BEGIN = (
    "message_start",
    {"type": "message_start", "message": {"id": "m", "model": "x", "content": [], "usage": USAGE}},
)
TEXT_START = start(0, {"type": "text", "text": ""})
TEXT = delta(0, {"type": "text_delta", "text": "hi"})
ENDING = ("message_delta", {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": USAGE})
END = ("message_stop", {"type": "message_stop"})
GOOD = [BEGIN, TEXT_START, TEXT, stop(0), ENDING, END]


# --- whole answers ---------------------------------------------------------------------------------------


def test_a_whole_stream_becomes_the_reply_block_by_block() -> None:
    reply = parse(events_of(WHOLE))
    assert reply == Reply(
        (
            Thinking(THOUGHT, LINK),
            Text("Let me see: ü 😀."),
            ToolUse("toolu_1", "calculator", {"expression": "15 × 23"}),
        ),
        "tool_use",
        Usage(7, 9, 2, 1),
        "claude-sonnet-5-5-20260801",
        "msg_1",
        LINK,
    )


def test_text_and_thinking_are_told_as_they_come_and_nothing_else_is() -> None:
    parser = StreamParser(LINK)
    told = [event for name, data in events_of(WHOLE) if (event := parser.feed(name, data)) is not None]
    assert "".join(event.text for event in told if isinstance(event, TextStreamed)) == "Let me see: ü 😀."
    assert sum(event.chars for event in told if isinstance(event, ThinkingStreamed)) == len(THOUGHT["thinking"])
    assert {type(event) for event in told} == {TextStreamed, ThinkingStreamed}


def test_only_content_events_count_as_heard() -> None:
    parser = StreamParser(LINK)
    heard = []
    for name, data in [("ping", {"type": "ping"}), BEGIN, ("ping", None), TEXT_START, TEXT, ("odd", {}), stop(0)]:
        parser.feed(name, data)
        heard.append(parser.heard)
    assert heard == [False, False, False, True, True, False, True]


def test_the_details_of_a_refusal_are_kept() -> None:
    details = {"type": "refusal", "category": "cyber", "explanation": "no"}
    reply = parse(events_of(message(stop_reason="refusal", stop_details=details)))
    assert (reply.stop_reason, reply.stop_details, reply.blocks) == ("refusal", details, ())


def test_an_event_without_a_name_is_known_by_its_type() -> None:
    assert parse([("", data) for _, data in GOOD]).text == "hi"


def test_a_second_message_delta_brings_usage_up_to_date() -> None:
    late = ("message_delta", {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 11}})
    reply = parse([*GOOD[:-1], late, END])
    assert (reply.stop_reason, reply.usage) == ("end_turn", Usage(7, 11, 2, 1))


def test_an_empty_text_block_is_left_out() -> None:
    assert parse([BEGIN, TEXT_START, stop(0), ENDING, END]).blocks == ()


# --- cut anywhere ----------------------------------------------------------------------------------------


def test_no_stream_cut_between_two_events_is_an_answer() -> None:
    events = events_of(WHOLE)
    for length in range(len(events)):
        assert refused(events[:length]).reason == "protocol"
    assert parse(events).stop_reason == "tool_use"


def test_no_stream_cut_at_any_byte_is_an_answer() -> None:
    whole = b"".join(sse_events(WHOLE, chunk_chars=40))
    decoder, parser = SseDecoder(), StreamParser(LINK)
    for at in range(len(whole)):
        with pytest.raises(AgentError, match="broke off"):
            parser.finish()
        for name, data in decoder.feed(whole[at : at + 1]):
            parser.feed(name, data)
    assert parser.finish() == parse(events_of(WHOLE))


@given(cuts=st.lists(st.integers(0, 5000), max_size=20))
@settings(max_examples=100, deadline=None)
def test_where_the_network_cuts_the_bytes_makes_no_difference(cuts: list[int]) -> None:
    whole = b"".join(sse_events(WHOLE))
    decoder, events, places = SseDecoder(), [], sorted({0, *cuts, len(whole)})
    for begin, end in pairwise(places):
        events += decoder.feed(whole[begin:end])
    assert events == events_of(WHOLE)


# --- broken protocol -------------------------------------------------------------------------------------

BROKEN: dict[str, list[tuple[str, Any]]] = {
    "nothing at all": [],
    "only pings": [("ping", {"type": "ping"})] * 3,
    "text before the start": [TEXT_START],
    "two starts": [BEGIN, BEGIN],
    "a start with content in it": [("message_start", {"message": {"content": [{"type": "text", "text": "x"}]}})],
    "a start without a message": [("message_start", {"type": "message_start"})],
    "data null": [BEGIN, ("content_block_start", None)],
    "data a list": [("message_start", [])],
    "a block at the wrong index": [BEGIN, start(1, {"type": "text", "text": ""})],
    "a block without an index": [BEGIN, start(None, {"type": "text", "text": ""})],
    "a block at index false": [BEGIN, start(False, {"type": "text", "text": ""})],
    "a block twice": [BEGIN, TEXT_START, stop(0), TEXT_START],
    "a block inside a block": [BEGIN, TEXT_START, start(1, {"type": "text", "text": ""})],
    "a block without a type": [BEGIN, start(0, {})],
    "a block that is null": [BEGIN, start(0, None)],
    "a delta of another block": [BEGIN, TEXT_START, delta(1, {"type": "text_delta", "text": "x"})],
    "a delta of a closed block": [BEGIN, TEXT_START, stop(0), TEXT],
    "a delta without a type": [BEGIN, TEXT_START, delta(0, {})],
    "a delta that is null": [BEGIN, TEXT_START, delta(0, None)],
    "a text that is a number": [BEGIN, TEXT_START, delta(0, {"type": "text_delta", "text": 5})],
    "tool input in a text": [BEGIN, TEXT_START, delta(0, {"type": "input_json_delta", "partial_json": "{}"})],
    "a stop of a block that is not open": [BEGIN, stop(0)],
    "the ending inside a block": [BEGIN, TEXT_START, ENDING],
    "the end without an ending": [BEGIN, TEXT_START, TEXT, stop(0), END],
    "a block after the ending": [*GOOD[:-1], start(1, {"type": "text", "text": ""})],
    "a delta after the end": [*GOOD, TEXT],
    "a second end": [*GOOD, END],
    "a second answer": [*GOOD, BEGIN],
    "an ending without a reason": [*GOOD[:-2], ("message_delta", {"delta": {"stop_reason": None}}), END],
    "an empty reason": [*GOOD[:-2], ("message_delta", {"delta": {"stop_reason": ""}}), END],
    "a reason that is a number": [*GOOD[:-2], ("message_delta", {"delta": {"stop_reason": 1}}), END],
    "an ending without delta": [*GOOD[:-2], ("message_delta", {"usage": USAGE}), END],
    "a name and a type that differ": [("message_stop", BEGIN[1])],
    "a tool call without an id": [BEGIN, start(0, {**CALL, "id": None})],
    "a tool call with an empty id": [BEGIN, start(0, {**CALL, "id": " "})],
    "a tool call without a name": [BEGIN, start(0, {**CALL, "name": None})],
    "two calls with one id": [BEGIN, start(0, CALL), stop(0), start(1, CALL)],
}


@pytest.mark.parametrize("events", BROKEN.values(), ids=BROKEN.keys())
def test_a_stream_that_breaks_the_protocol_is_refused(events: list[tuple[str, Any]]) -> None:
    error = refused(events)
    assert (error.reason, error.type) == ("protocol", "ProtocolBroken")


def test_a_broken_stream_stays_broken() -> None:
    parser = StreamParser(LINK)
    with pytest.raises(AgentError):
        parser.feed(*TEXT_START)
    for name, data in GOOD:
        with pytest.raises(AgentError):
            parser.feed(name, data)
    with pytest.raises(AgentError, match="broke off"):
        parser.finish()


def test_an_id_of_the_history_is_not_taken_twice() -> None:
    events = events_of(message(CALL, stop_reason="tool_use"))
    assert refused(events, taken_ids={"toolu_1"}).reason == "protocol"
    assert parse(events, taken_ids={"toolu_2"}).tool_uses


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, "overloaded"),
        ({"type": "api_error", "message": "oops"}, "server_error"),
        ({"type": "rate_limit_error", "message": "slow down"}, "rate_limit"),
        ({"type": "invalid_request_error", "message": "bad"}, "bad_request"),
        ({"type": "invalid_request_error", "message": "Your credit balance is too low"}, "billing"),
        ({"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}, "billing"),
        ({"type": "something_new", "message": "?"}, "server_error"),
        ("a string", "server_error"),
        (None, "server_error"),
    ],
)
@pytest.mark.parametrize("before", [0, 1, 3, 5], ids=["at once", "after the start", "mid text", "at the end"])
def test_an_error_event_is_classified_by_its_type_wherever_it_comes(error: Any, reason: str, before: int) -> None:
    events = [*GOOD[:before], ("error", {"type": "error", "error": error, "request_id": "req_1"})]
    caught = refused(events)
    assert (caught.reason, caught.request_id) == (reason, "req_1")


def test_secrets_and_escapes_in_an_error_event_are_neutralised() -> None:
    words = "bad key sk-ant-abcdefghijk \x1b[31m"
    said = str(refused([("error", {"error": {"type": "api_error", "message": words}})]))
    assert "abcdefghijk" not in said
    assert "\x1b" not in said


def test_a_reply_is_bounded_in_characters_and_blocks() -> None:
    piece = delta(0, {"type": "text_delta", "text": "x" * 4_000_000})
    assert refused([BEGIN, TEXT_START, *[piece] * (CONTENT_CHARS_MAX // 4_000_000 + 1)]).reason == "protocol"
    blocks = [event for at in range(BLOCKS_MAX + 1) for event in (start(at, {"type": "text", "text": ""}), stop(at))]
    assert "blocks" in str(refused([BEGIN, *blocks]))


# --- the unknown -----------------------------------------------------------------------------------------


def test_unknown_events_deltas_and_fields_are_ignored() -> None:
    odd: list[tuple[str, Any]] = [
        ("weather_report", {"type": "weather_report"}), ("weather_report", None), ("", None), ("", {"type": 5}),
    ]  # fmt: skip
    smell = delta(0, {"type": "smell_delta", "smell": "rose"})
    citation = delta(0, {"type": "citations_delta", "citation": {}})
    events = [*odd, BEGIN, *odd, TEXT_START, smell, TEXT, citation, *odd, stop(0), *odd, ENDING, *odd, END, *odd]
    assert parse(events).text == "hi"


def test_an_unknown_block_is_kept_but_is_no_text_and_no_call() -> None:
    block = {"type": "hologram", "data": [1, 2]}
    reply = parse([BEGIN, start(0, block), delta(0, {"type": "text_delta", "text": "x"}), stop(0), ENDING, END])
    assert reply.blocks == (Other(block),)
    assert (reply.text, reply.tool_uses) == ("", ())


def test_a_server_tool_call_is_kept_with_its_whole_input() -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    reply = parse(events_of(message(search, stop_reason="pause_turn")))
    assert reply.blocks == (Other(search),)


def test_an_unknown_stop_reason_is_handed_on_as_it_is() -> None:
    assert parse(events_of(message({"type": "text", "text": "x"}, stop_reason="bored"))).stop_reason == "bored"


def test_thinking_that_is_not_signed_is_never_sent_back() -> None:
    unsigned = {"type": "thinking", "thinking": "hm", "signature": ""}
    assert parse(events_of(message(unsigned))).blocks == (Other(unsigned),)
    redacted = {"type": "redacted_thinking", "data": "ZGF0YQ"}
    assert parse(events_of(message(redacted))).blocks == (Thinking(redacted, LINK),)


@pytest.mark.parametrize("count", [None, -1, "12", 1.5, True, [], {}])
def test_a_count_that_is_none_is_unknown_not_zero(count: Any) -> None:
    ending = ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": count}})
    assert parse([BEGIN, ending, END]).usage == Usage(7, None, 2, 1)


@pytest.mark.parametrize("usage", [None, "many", [], {}])
def test_missing_usage_is_unknown(usage: Any) -> None:
    begin = ("message_start", {"message": {"usage": usage}})
    ending = ("message_delta", {"delta": {"stop_reason": "end_turn"}, "usage": usage})
    assert parse([begin, ending, END]).usage == Usage()


def test_what_message_start_says_of_the_output_is_not_the_count() -> None:
    ending = ("message_delta", {"delta": {"stop_reason": "end_turn"}})
    assert parse([BEGIN, ending, END]).usage.output_tokens is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(sorted({name for name, _ in GOOD} | {"error", "ping", "odd", ""}))
EVENTS = st.lists(
    st.sampled_from([*GOOD, *events_of(WHOLE)])
    | st.tuples(NAMES, JSON)
    | st.tuples(
        NAMES,
        st.fixed_dictionaries(
            {},
            optional={
                "type": NAMES, "index": st.integers(-1, 2) | JSON, "message": JSON, "usage": JSON, "error": JSON,
                "delta": st.dictionaries(st.sampled_from(["type", "text", "stop_reason", "partial_json"]), JSON),
                "content_block": st.dictionaries(st.sampled_from(["type", "text", "id", "name", "input"]), JSON),
            },
        ),
    ),
    max_size=12,
)  # fmt: skip


@given(events=EVENTS)
@settings(max_examples=200, deadline=None)
def test_no_events_whatever_raise_anything_but_an_agent_error(events: list[tuple[str, Any]]) -> None:
    parser = StreamParser(LINK)
    try:
        for name, data in [BEGIN, *events]:
            parser.feed(name, data)
        parser.finish()
    except AgentError:
        pass


@given(data=st.binary(max_size=200) | st.text(alphabet='data:event \r\n{}[]"0', max_size=100).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_no_bytes_whatever_raise_anything_but_an_agent_error(data: bytes) -> None:
    try:
        for name, value in SseDecoder().feed(data):
            StreamParser(LINK).feed(name, value)
    except AgentError:
        pass


# --- characters ------------------------------------------------------------------------------------------


def test_a_character_cut_in_two_between_deltas_is_shown_whole() -> None:
    parser = StreamParser(LINK)
    halves = [delta(0, {"type": "text_delta", "text": text}) for text in ("a\ud83d", "\ude00b", "c\ud83d")]
    told = [parser.feed(name, data) for name, data in [BEGIN, TEXT_START, *halves, stop(0), ENDING, END]]
    assert [event.text for event in told if isinstance(event, TextStreamed)] == ["a", "😀b", "c"]
    assert parser.finish().text == "a😀bc\ufffd"


# --- tool input ------------------------------------------------------------------------------------------


def with_input(*pieces: str, given: Any = None) -> ToolUse:
    opened = start(0, {**CALL, "input": given or {}})
    deltas = [delta(0, {"type": "input_json_delta", "partial_json": piece}) for piece in pieces]
    return parse([BEGIN, opened, *deltas, stop(0), ENDING, END]).tool_uses[0]


def test_no_input_is_the_empty_object() -> None:
    assert (with_input().input, with_input("").problem, with_input(" ").input) == ({}, None, {})


def test_input_that_came_whole_with_the_start_is_read_as_strictly() -> None:
    assert with_input(given={"expression": "1"}).input == {"expression": "1"}
    assert "Infinity" in (with_input(given={"x": math.inf}).problem or "")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ('{"expression": "1', "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ('{"a": 1} x', "not valid JSON"),
        ('{"a": 1, "a": 2}', '"a" more than once'),
        ('{"a": {"b": 1, "b": 1}}', '"b" more than once'),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "-Infinity"),
        ('{"a": 1e999}', "out of range"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
        ("[1]", "not a list"),
        ('"text"', "not a string"),
        ("null", "not null"),
        ("true", "not true or false"),
        ("12", "not a number"),
        ('{"a":' * (DEPTH_MAX + 1) + "1" + "}" * (DEPTH_MAX + 1), "levels deep"),
        ('{"a":' + "[" * 100_000, "levels deep"),
        ('{"a": "' + "x" * INPUT_CHARS_MAX + '"}', "longer than"),
    ],
)
def test_bad_input_in_a_whole_answer_is_told_not_raised(raw: str, why: str) -> None:
    call = with_input(raw[:5], raw[5:])
    assert call.input == {}
    assert why in (call.problem or "")
    assert raw.startswith(call.raw[:200])


def test_input_of_the_greatest_depth_is_taken() -> None:
    raw = '{"a":' * DEPTH_MAX + "1" + "}" * DEPTH_MAX
    assert parse_input(raw) == (json.loads(raw), None)


def test_lone_surrogates_in_input_become_encodable() -> None:
    value, problem = parse_input('{"a\\ud800": ["\\udc00", "\\ud83d\\ude00"]}')
    assert (value, problem) == ({"a\ufffd": ["\ufffd", "😀"]}, None)


FINITE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.dictionaries(st.text(), FINITE | st.lists(FINITE, max_size=3), max_size=4))
@settings(max_examples=100, deadline=None)
def test_every_object_that_json_can_say_is_read_back(value: dict[str, Any]) -> None:
    assert parse_input(json.dumps(value)) == (value, None)


# --- the event stream ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_in_any_of_the_three_ways(end: str) -> None:
    lines = [": hello", "event: a", 'data: {"x":', "data:1}", "id: 7", "retry: 5", "", "data: [2]", "", ""]
    whole = ("\ufeff" + end.join(lines)).encode()
    for size in (1, 2, 3, len(whole)):
        decoder = SseDecoder()
        events = [event for at in range(0, len(whole), size) for event in decoder.feed(whole[at : at + size])]
        assert events == [("a", {"x": 1}), ("", [2])]


def test_an_event_without_data_or_without_its_end_is_none() -> None:
    assert SseDecoder().feed(b"event: message_stop\n\n:\n\n\n\n") == []
    assert SseDecoder().feed(b'event: message_stop\ndata: {"type":"message_stop"}\n') == []


@pytest.mark.parametrize("line", [b"data: {", b"data: NaN", b"data: \xff", b"event: \xff", b"data: " + b"[" * 100_000])
def test_what_is_no_json_in_utf_8_breaks_the_protocol(line: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        SseDecoder().feed(line + b"\n\n")
    assert caught.value.reason == "protocol"


def test_one_event_is_bounded_and_many_are_not() -> None:
    decoder = SseDecoder()
    frame = b"data: " + json.dumps("x" * 100_000).encode() + b"\n\n"
    for _ in range(EVENT_BYTES_MAX // 100_000 + 2):
        assert len(decoder.feed(frame)) == 1
    for _ in range(EVENT_BYTES_MAX // 1_000_000 + 1):
        assert decoder.feed(b":" + b"keep-alive" * 100_000 + b"\n\n") == []
    decoder.feed(b"x" * EVENT_BYTES_MAX)
    with pytest.raises(AgentError, match="one event"):
        decoder.feed(b"x")
