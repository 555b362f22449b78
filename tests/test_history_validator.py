"""The validator of requests finds what it is there to find: a judge that acquits all proves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.history_validator import breaches

USER: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
ANSWER: dict[str, Any] = {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}
CALL: dict[str, Any] = {"type": "tool_use", "id": "toolu_1", "name": "calculator", "input": {}}
RESULT: dict[str, Any] = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "5"}
THOUGHT: dict[str, Any] = {"type": "thinking", "thinking": "hm", "signature": "s"}
TOOL: dict[str, Any] = {"name": "calculator", "description": "", "input_schema": {"type": "object"}}


def said(role: str, *blocks: Any) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def body(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": list(messages), **more}


GOOD = [
    body(USER),
    body({"role": "user", "content": "Hi"}),
    body(USER, ANSWER, USER),
    body(USER, said("assistant", THOUGHT, CALL), said("user", RESULT, {"type": "text", "text": "and?"})),
    body(USER, said("assistant", {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})),
    body(USER, system="Be kind.", tools=[TOOL], stream=True, output_config={"effort": "low"}),
]

BAD: dict[str, Any] = {
    "not an object": [],
    "no model": {"max_tokens": 9, "messages": [USER]},
    "no tokens": {"model": "m", "messages": [USER]},
    "a temperature": body(USER, temperature=1),
    "no messages": body(),
    "an empty system": body(USER, system=""),
    "two tools of one name": body(USER, tools=[TOOL, TOOL]),
    "a tool without a schema": body(USER, tools=[{"name": "x"}]),
    "a lone surrogate": body(said("user", {"type": "text", "text": "\ud800"})),
    "NaN": body(USER, said("assistant", {**CALL, "input": {"x": float("nan")}}), said("user", RESULT)),
    "an unknown role": body({"role": "system", "content": "x"}),
    "another field": body({**USER, "id": 1}),
    "an empty message": body(said("user")),
    "an empty text": body(said("user", {"type": "text", "text": " \n"})),
    "the model first": body(ANSWER, USER),
    "the model last": body(USER, ANSWER),
    "the user twice": body(USER, USER),
    "the model twice": body(USER, ANSWER, ANSWER, USER),
    "thinking at the end": body(USER, said("assistant", THOUGHT), USER),
    "unsigned thinking": body(USER, said("assistant", {**THOUGHT, "signature": ""}, *ANSWER["content"]), USER),
    "thinking of the user": body(said("user", THOUGHT)),
    "a call that is not answered": body(USER, said("assistant", CALL), USER),
    "a call answered later": body(USER, said("assistant", CALL), USER, ANSWER, said("user", RESULT)),
    "a call at the end": body(USER, said("assistant", CALL)),
    "a result without a call": body(said("user", RESULT)),
    "a result twice": body(USER, said("assistant", CALL), said("user", RESULT, RESULT)),
    "a result behind text": body(USER, said("assistant", CALL), said("user", *USER["content"], RESULT)),
    "an id twice": body(USER, said("assistant", CALL, CALL), said("user", RESULT, RESULT)),
    "an id again": body(USER, *[said("assistant", CALL), said("user", RESULT)] * 2),
    "an empty id": body(USER, said("assistant", {**CALL, "id": ""}), said("user", {**RESULT, "tool_use_id": ""})),
    "an input that is a list": body(USER, said("assistant", {**CALL, "input": []}), said("user", RESULT)),
    "a name of 500 characters": body(USER, said("assistant", {**CALL, "name": "x" * 500}), said("user", RESULT)),
    "an error that says nothing": body(
        USER, said("assistant", CALL), said("user", {**RESULT, "content": "", "is_error": True})
    ),
    "a result that is a number": body(USER, said("assistant", CALL), said("user", {**RESULT, "content": 5})),
}


@pytest.mark.parametrize("request_body", GOOD)
def test_what_the_api_takes_has_no_breaches(request_body: Any) -> None:
    assert breaches(request_body) == []


@pytest.mark.parametrize("request_body", BAD.values(), ids=BAD.keys())
def test_what_the_api_refuses_has_a_breach(request_body: Any) -> None:
    assert breaches(request_body)
