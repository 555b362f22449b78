"""What fits a schema passes, what does not is told by the name of its field, and nothing raises."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tool_schema import check_schema, schema_problem

Schema = dict[str, Any]
NAMES = st.sampled_from(["city", "sides", "x", "größe"])

LEAVES: st.SearchStrategy[Schema] = st.one_of(
    st.builds(lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
              st.integers(0, 3), st.integers(0, 5)),
    st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
              st.integers(-9, 9), st.integers(0, 9)),
    st.just({"type": "number"}),
    st.just({"type": "boolean"}),
    st.just({"type": ["string", "null"]}),
    st.lists(st.integers(0, 3) | st.booleans() | st.sampled_from("abc") | st.none(), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
)  # fmt: skip


@st.composite
def objects(draw: st.DrawFn, parts: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(NAMES, parts, max_size=3))
    required = [name for name in properties if draw(st.booleans())]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


SCHEMAS: st.SearchStrategy[Schema] = st.recursive(
    LEAVES, lambda parts: parts.map(lambda items: {"type": "array", "items": items}) | objects(parts), max_leaves=6
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=3), parts, max_size=3),
    max_leaves=8,
)


def fitting(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that fit, made from the schema without asking the checker."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "string":
            return st.text(min_size=schema["minLength"], max_size=schema["maxLength"])
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            return st.integers() | st.floats(allow_nan=False, allow_infinity=False)
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(fitting(schema["items"]), max_size=3)
        case "object":
            parts = {name: fitting(part) for name, part in schema["properties"].items()}
            needed = {name: parts.pop(name) for name in schema["required"]}
            return st.fixed_dictionaries(needed, optional=parts)
    return st.none() | st.text()


WRONG: dict[str, Any] = {
    "string": 5, "integer": "5", "number": "5", "boolean": 0, "array": {}, "object": [],
}  # fmt: skip


def wrong(schema: Schema) -> Any:
    """A value of another type."""
    kind = "none of these" if "enum" in schema else schema["type"]
    return WRONG.get(kind, 5.25) if isinstance(kind, str) else 5.25


@settings(deadline=None)
@given(SCHEMAS, st.data())
def test_what_fits_passes(schema: Schema, data: st.DataObject) -> None:
    check_schema(schema, "tool")
    assert schema_problem(data.draw(fitting(schema)), schema) is None


@settings(deadline=None)
@given(objects(SCHEMAS).filter(lambda schema: bool(schema["properties"])), st.data())
def test_a_field_of_the_wrong_type_is_named(schema: Schema, data: st.DataObject) -> None:
    value = data.draw(fitting(schema))
    name = data.draw(st.sampled_from(sorted(schema["properties"])))
    value[name] = wrong(schema["properties"][name])
    problem = schema_problem(value, schema)
    assert problem is not None
    assert problem.startswith(f"input.{name} must be ")


@settings(deadline=None)
@given(objects(SCHEMAS), st.data())
def test_a_field_too_many_and_one_too_few_are_named(schema: Schema, data: st.DataObject) -> None:
    value = data.draw(fitting(schema))
    problem = schema_problem({**value, "extra": 1}, schema)
    assert problem is not None
    assert "'extra'" in problem
    for name in schema["required"]:
        lacking = {key: item for key, item in value.items() if key != name}
        assert schema_problem(lacking, schema) == f"input lacks the field {name!r}"


@settings(deadline=None)
@given(SCHEMAS, ANYTHING)
def test_no_value_makes_the_checker_raise_and_its_words_stay_short(schema: Schema, value: Any) -> None:
    problem = schema_problem(value, schema)
    assert problem is None or (problem.startswith("input") and len(problem) < 500)


@pytest.mark.parametrize(
    ("value", "schema", "says"),
    [
        (True, {"type": "integer"}, "input must be integer, not boolean"),
        (5.0, {"type": "integer"}, "input must be integer, not number"),
        (math.nan, {"type": "number"}, "input must be number, not nan"),
        (math.inf, {"type": ["number", "null"]}, "input must be number or null, not inf"),
        (True, {"enum": [1, 2]}, "input must be one of 1, 2"),
        (0, {"enum": [False]}, "input must be one of False"),
        ("", {"type": "string", "minLength": 1}, "input must not be empty"),
        ("a", {"type": "string", "minLength": 2}, "input is too short"),
        ("abc", {"type": "string", "maxLength": 2}, "input has 3 characters; at most 2 are allowed"),
        (7, {"type": "integer", "minimum": 1, "maximum": 6}, "input is 7; allowed is 1 to 6"),
        (0, {"type": "number", "minimum": 1}, "input is 0; allowed is 1 to any"),
        ([1, "a"], {"type": "array", "items": {"type": "integer"}}, "input[1] must be integer, not string"),
        (
            {"a": {"b": [None]}},
            {
                "type": "object",
                "properties": {
                    "a": {"type": "object", "properties": {"b": {"type": "array", "items": {"type": "string"}}}}
                },
            },
            "input.a.b[0] must be string, not null",
        ),
        (None, {"type": "object"}, "input must be object, not null"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(value: Any, schema: Schema, says: str) -> None:
    assert schema_problem(value, schema) == says


def test_a_hostile_value_is_quoted_shortly_and_without_control_characters() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 5}}, "additionalProperties": False}
    long = schema_problem({"n": 10**3999}, schema)
    assert long is not None
    assert len(long) < 100
    evil = schema_problem({"\x1b]0;x\x07" * 99: 1}, schema)
    assert evil is not None
    assert "\x1b" not in evil
    assert len(evil) < 150


def test_a_field_that_no_rule_forbids_is_let_through() -> None:
    assert schema_problem({"more": 1}, {"type": "object", "properties": {}}) is None


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "object", "oneOf": []}, "the schema of dice uses 'oneOf'"),
        ({"type": "object", "properties": {"s": {"pattern": "x"}}}, r"the schema of dice\.s uses 'pattern'"),
        ({"type": "array", "items": {"format": "date"}}, r"the schema of dice\[\] uses 'format'"),
        ({"type": "array", "items": [{"type": "string"}]}, r"the schema of dice\[\] must be an object"),
        ({"type": "text"}, "the schema of dice has the type 'text'"),
        ({"type": ["string", "nil"]}, "the schema of dice has the type 'nil'"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "must be true or false"),
        ({"type": "object", "required": ["a"]}, r"requires \['a'\], which it does not describe"),
        (None, "the schema of dice must be an object"),
    ],
)
def test_a_rule_that_nobody_would_check_is_refused_where_it_stands(schema: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_schema(schema, "dice")
