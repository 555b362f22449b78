"""The validator of Gemini bodies finds each breach it is there for: else no test behind it could fail."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.gemini_validator import FOREIGN, breaches

VALID: dict[str, Any] = {
    "contents": [
        {"role": "user", "parts": [{"text": "Hi"}]},
        {
            "role": "model",
            "parts": [
                {"functionCall": {"id": "a", "name": "calculator", "args": {}}, "thoughtSignature": "c2ln"},
                {"functionCall": {"id": "b", "name": "calculator", "args": {"x": 1}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "a", "name": "calculator", "response": {"output": "1"}}},
                {"functionResponse": {"id": "b", "name": "calculator", "response": {"error": "no"}}},
            ],
        },
    ],
    "tools": [{"functionDeclarations": [{"name": "calculator", "description": "sums",
                                         "parametersJsonSchema": {"type": "object"}}]}],
    "generationConfig": {"maxOutputTokens": 1},
}  # fmt: skip
ISSUED = {"c2ln": ["calculator", {}]}


def part(body: dict[str, Any], content: int, at: int) -> dict[str, Any]:
    found: dict[str, Any] = body["contents"][content]["parts"][at]
    return found


def test_a_valid_body_has_no_breach() -> None:
    assert breaches(VALID, ISSUED) == []
    foreign = copy.deepcopy(VALID)
    part(foreign, 1, 0)["thoughtSignature"] = FOREIGN
    assert breaches(foreign, {}) == []


@pytest.mark.parametrize(
    ("breach", "said"),
    [
        (lambda body: body.update(model="x"), "unknown field"),
        (lambda body: body.update(generationConfig={}), "maxOutputTokens"),
        (lambda body: body.update(systemInstruction={"parts": [{"text": " "}]}), "systemInstruction"),
        (lambda body: body.update(tools=[]), "tools: empty"),
        (lambda body: body["tools"].append(body["tools"][0]), "unique"),
        (lambda body: body.update(contents=[]), "non-empty"),
        (lambda body: body["contents"].pop(), "the user's"),
        (lambda body: body["contents"].pop(0), "the user's"),
        (lambda body: body["contents"].insert(0, body["contents"][0]), "alternate"),
        (lambda body: body["contents"][0].update(role="assistant"), "role"),
        (lambda body: body["contents"][0].update(parts=[]), "no parts"),
        (lambda body: part(body, 0, 0).update(text=" "), "without words"),
        (lambda body: part(body, 0, 0).update(text="\ud800"), "cannot be sent"),
        (lambda body: part(body, 0, 0).update(thoughtSignature="c2ln"), "signature"),
        (lambda body: part(body, 1, 0).pop("thoughtSignature"), "missing a thought_signature"),
        (lambda body: part(body, 1, 0).update(thoughtSignature="b3RoZXI="), "corrupted"),
        (lambda body: part(body, 1, 1).update(thoughtSignature="c2ln"), "another part"),
        (lambda body: part(body, 1, 1)["functionCall"].update(id="a"), "there twice"),
        (lambda body: part(body, 1, 1)["functionCall"].update(name="9"), "bad id or name"),
        (lambda body: part(body, 1, 1)["functionCall"].update(args=[]), "an object"),
        (lambda body: part(body, 1, 1)["functionCall"].pop("id"), "must have"),
        (lambda body: body["contents"][2]["parts"].pop(), "one by one"),
        (lambda body: body["contents"][2]["parts"].reverse(), "one by one"),
        (lambda body: body["contents"][2]["parts"].insert(1, {"text": "x"}), "come first"),
        (lambda body: part(body, 2, 0)["functionResponse"].update(response={"result": 1}), "an object"),
    ],
)
def test_each_breach_is_found(breach: Callable[[dict[str, Any]], Any], said: str) -> None:
    body = copy.deepcopy(VALID)
    breach(body)
    assert said in "; ".join(breaches(body, ISSUED))
