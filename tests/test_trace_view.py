"""A drawn trace tells what happened in order, and nothing in it can touch the terminal."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.trace_view import DEPTH_MAX, LINE_CHARS_MAX, draw


def span(kind: str, sequence: int = 0, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "name": kind, "sequence": sequence, "status": "ok", "duration_ms": 12.0,
            "attributes": {}, "events": [], "children": [], **more}  # fmt: skip


def event(name: str, sequence: int, **attributes: Any) -> dict[str, Any]:
    return {"name": name, "sequence": sequence, "at_ms": 1.0, "attributes": attributes}


def attempt(sequence: int, number: int, **more: Any) -> dict[str, Any]:
    attributes = {
        "unflappable.dependency": "model.practice",
        "unflappable.attempt.number": number,
        "unflappable.attempt.of": 4,
        **more.pop("attributes", {}),
    }
    return span("model_attempt", sequence, attributes=attributes, **more)


def example() -> dict[str, Any]:
    failed = attempt(
        3,
        1,
        status="overloaded",
        attributes={"unflappable.error.message": "overloaded (529)"},
        events=[event("retry_scheduled", 5, wait_s=0.8, message="overloaded")],
    )
    tool = span(
        "tool_call",
        8,
        duration_ms=3.2,
        attributes={
            "gen_ai.tool.name": "calculator",
            "gen_ai.tool.call.arguments": '{"expression": "15 * 23"}',
            "gen_ai.tool.call.result": "345",
            "unflappable.source": "cache, 5 min old",
        },
    )
    answered = attempt(
        6,
        2,
        duration_ms=431,
        attributes={"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5},
    )
    first = span("round", 2, name="round 1", children=[failed, answered, tool],
                 events=[event("fell_back", 7, source="a", to="b", message="m")])  # fmt: skip
    root = span(
        "turn",
        1,
        children=[first],
        attributes={"unflappable.question": "What is 15 * 23?", "unflappable.answer": "345"},
    )
    return {"id": "3f2a91c0", "status": "ok", "duration_ms": 1240.0, "model_attempts": 2, "tool_calls": 1,
            "cost_usd": 0.0012, "faults": 0, "root": root}  # fmt: skip


def test_a_trace_is_drawn_as_a_tree_in_the_order_things_happened() -> None:
    assert (
        draw(example())
        == """\
trace 3f2a91c0  ok  1.24 s  2 model attempts  1 tool call  $0.0012
└─ question "What is 15 * 23?"
   ├─ round 1
   │  ├─ model.practice attempt 1 of 4  overloaded (529)  12 ms
   │  │  └─ waited 0.8 s: overloaded
   │  ├─ model.practice attempt 2 of 4  ok  431 ms  10 tokens in, 5 out
   │  ├─ from a to b: m
   │  └─ calculator {"expression": "15 * 23"}  ok  3 ms  from cache, 5 min old
   │     └─ answered "345"
   └─ answer "345\""""
    )


def test_without_unicode_the_same_tree_is_pure_ascii() -> None:
    trace = example()
    trace["root"]["attributes"]["unflappable.question"] = "größer…\n\x1b[2J 漢"
    drawn = draw(trace, unicode=False)
    assert drawn.isascii()
    assert drawn.splitlines()[1] == '`- question "gr\\xf6\\xdfer...\\n^[[2J \\u6f22"'
    assert drawn.splitlines()[2] == "   |- round 1"
    assert len(drawn.splitlines()) == len(draw(trace).splitlines())


def test_a_failed_question_ends_with_its_error_and_what_to_do() -> None:
    trace = {**example(), "status": "failed", "error": {"message": "no credit left", "what_now": "Add credit."}}
    assert draw(trace).splitlines()[-1] == "   └─ failed: no credit left  Add credit."


def test_a_question_that_never_ended_says_so() -> None:
    trace = {**example(), "status": "running", "duration_ms": None}
    drawn = draw(trace).splitlines()
    assert drawn[0] == "trace 3f2a91c0  running  2 model attempts  1 tool call  $0.0012"
    assert drawn[-1] == "   └─ not ended: still running, or killed"


def test_faults_and_what_was_left_out_stand_in_the_first_line() -> None:
    heading = draw({**example(), "faults": 3, "entries_dropped": 1}).splitlines()[0]
    assert "3 faults injected" in heading
    assert "1 line left out" in heading


@pytest.mark.parametrize(
    ("name", "attributes", "line"),
    [
        ("circuit_opened", {"dependency": "d", "failures": 5, "open_s": 60.0},
         "circuit of d opened after 5 failures, for 60 s"),
        ("call_rejected", {"dependency": "d", "by": "bulkhead", "retry_after_s": None}, "d refused by the bulkhead"),
        ("call_rejected", {"dependency": "d", "by": "circuit_breaker", "retry_after_s": 12.5},
         "d refused by the circuit_breaker, again in 12.5 s"),
        ("fault_injected", {"target": "model", "kind": "cut", "argument": "text"}, "fault injected: model:cut=text"),
        ("fault_injected", {"target": "disk", "kind": "full", "argument": ""}, "fault injected: disk:full"),
        ("effect_reconciled", {"tool": "save_note", "found": "the note is there"},
         "save_note, looked at afterwards: the note is there"),
        ("something_new", {"what": "a\nb"}, "something_new what=a⏎b"),
    ],
)  # fmt: skip
def test_each_event_has_its_sentence(name: str, attributes: dict[str, Any], line: str) -> None:
    trace = {"root": span("turn", events=[event(name, 1, **attributes)])}
    assert draw(trace).splitlines()[2] == f"   ├─ {line}"


def test_keys_in_an_old_trace_are_masked_again() -> None:
    trace = example()
    trace["root"]["attributes"]["unflappable.question"] = "sk-ant-api03-abcdefghijklmnop"
    assert "abcdefghijklmnop" not in draw(trace)


_HOSTILE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=300),
    st.sampled_from(["\x1b]0;title\x07", "a\nb\r\x85\u2028c", "\u202egpj.exe", "{0.__class__}", "{wait_s:s}"]),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip
_NAMES = st.sampled_from(["retry_scheduled", "call_rejected", "fault_injected", "notice_given", "new", "\x1b["])
_KEYS = st.sampled_from(["wait_s", "message", "text", "argument", "retry_after_s", "unflappable.dependency",
                         "gen_ai.tool.name", "gen_ai.tool.call.result", "unflappable.question", "\n"])  # fmt: skip
_MAPPINGS = st.dictionaries(_KEYS, _HOSTILE, max_size=4)
_EVENTS = st.fixed_dictionaries({"name": _NAMES, "sequence": _HOSTILE, "attributes": _MAPPINGS})
_KINDS = st.sampled_from(["turn", "round", "model_attempt", "tool_call", "provider_attempt", "\x1b", ""])


def _span_of(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "kind": _KINDS, "name": _HOSTILE, "status": _HOSTILE, "duration_ms": _HOSTILE, "sequence": _HOSTILE,
            "attributes": st.one_of(_MAPPINGS, _HOSTILE), "events": st.one_of(st.lists(_EVENTS, max_size=3), _HOSTILE),
            "children": st.one_of(st.lists(children, max_size=3), _HOSTILE),
        },
    )  # fmt: skip


_SPANS = st.recursive(_span_of(_HOSTILE), _span_of, max_leaves=5)
_TRACES = st.fixed_dictionaries(
    {},
    optional={
        "id": _HOSTILE, "status": _HOSTILE, "duration_ms": _HOSTILE, "model_attempts": _HOSTILE,
        "cost_usd": _HOSTILE, "error": st.one_of(_HOSTILE, _MAPPINGS), "root": st.one_of(_SPANS, _HOSTILE),
    },
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(_TRACES, st.booleans())
def test_whatever_a_trace_holds_the_lines_are_safe_and_bounded(trace: dict[str, Any], unicode: bool) -> None:
    drawn = draw(trace, unicode=unicode)
    for line in drawn.split("\n"):
        assert len(line) <= LINE_CHARS_MAX
        assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in line)
        assert "\u202e" not in line
    assert drawn.isascii() or unicode


def test_a_trace_of_endless_depth_is_cut_and_not_followed() -> None:
    deepest = span("round")
    for _ in range(500):
        deepest = span("round", children=[deepest])
    assert len(draw({"root": deepest}).splitlines()) == DEPTH_MAX + 3
