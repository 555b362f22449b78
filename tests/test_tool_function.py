"""Type hints become a schema, values that pass it have the hinted types, and errors are sorted once."""

from __future__ import annotations

from typing import Any, Literal, Optional

import pytest

from errors import AgentError, BadInput, CircuitOpen
from tool_function import problem_of, schema_of, text_of
from tool_schema import check_schema, schema_problem


def everything(
    text: str,
    count: int,
    ratio: float,
    on: bool,
    names: list[str],
    anything: list,  # type: ignore[type-arg]
    fields: dict[str, int],
    kind: Literal["a", "b"],
    *,
    maybe: Optional[int] = None,  # noqa: UP045 - the old spelling must work too
    maybe_kind: Literal["a", "b"] | None = None,
    maybe_list: list[list[int]] | None = None,
) -> str:
    return ""


def test_hints_become_a_schema_of_the_checked_subset() -> None:
    schema = schema_of(everything)
    check_schema(schema, "everything")
    assert schema["required"] == ["text", "count", "ratio", "on", "names", "anything", "fields", "kind"]
    assert schema["additionalProperties"] is False
    assert schema["properties"] == {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "ratio": {"type": "number"},
        "on": {"type": "boolean"},
        "names": {"type": "array", "items": {"type": "string"}},
        "anything": {"type": "array"},
        "fields": {"type": "object"},
        "kind": {"enum": ["a", "b"]},
        "maybe": {"type": ["integer", "null"]},
        "maybe_kind": {"enum": ["a", "b", None]},
        "maybe_list": {"type": ["array", "null"], "items": {"type": "array", "items": {"type": "integer"}}},
    }


def test_none_fits_where_the_hint_says_so_and_nowhere_else() -> None:
    schema = schema_of(everything)["properties"]
    for name in ("maybe", "maybe_kind", "maybe_list"):
        assert schema_problem(None, schema[name]) is None
    for name in ("text", "count", "kind", "names"):
        assert schema_problem(None, schema[name]) is not None


def test_a_function_without_parameters_takes_an_empty_object_only() -> None:
    def now() -> str:
        return ""

    assert schema_problem({}, schema_of(now)) is None
    assert schema_problem({"x": 1}, schema_of(now)) is not None


def test_text_stays_text_and_everything_else_becomes_json() -> None:
    assert [text_of(value) for value in ("a", b"\xff", [1, "ü"], 0, False)] == ["a", "�", '[1, "ü"]', "0", "false"]


def test_a_structure_that_holds_itself_has_no_json_form() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(AgentError, match="it returned a list, which is not JSON") as caught:
        text_of(loop)
    assert caught.value.reason == "crashed"


class Silent(ValueError):
    def __str__(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (ValueError("must be even"), "bad_input", "must be even"),
        (Silent(), "bad_input", "it does not fit"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "bad_input", "'utf-8' codec can't decode byte 0xff"),
        (TypeError("t"), "crashed", "it raised TypeError: t"),
        (KeyError("k"), "crashed", "it raised KeyError: 'k'"),
        (RuntimeError(), "crashed", "it raised RuntimeError"),
        (ConnectionRefusedError("x"), "connection", "connection failed: x"),
        (TimeoutError(), "timeout", "timed out"),
        (OSError(28, "No space left on device"), "disk", "No space left on device"),
    ],
)
def test_what_a_function_raises_is_sorted(error: Exception, reason: str, message: str) -> None:
    problem = problem_of(error, "dice")
    assert problem.reason == reason
    assert message in problem.message
    assert isinstance(problem, BadInput) is (reason == "bad_input")


def test_an_error_of_ours_goes_on_as_it_is() -> None:
    error = CircuitOpen("open", retry_after_s=3.0)
    assert problem_of(error, "dice") is error
