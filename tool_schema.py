"""What a tool's input must look like: a stated subset of JSON Schema.  (floor 3)

The subset: type, properties, required, additionalProperties (true or false), items (one schema
for all), enum, minimum, maximum, minLength, maxLength. Anything else in a schema is its author's
mistake and refused when the tool is registered, so that a model is never told a rule that nobody
checks. A whole validator library would add a dependency for what fits on one page.

Stricter than the standard in one thing: 5.0 is not an integer, since the function behind it was
written for an int.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from safe_text import one_line

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
    "array": (list, tuple), "object": (dict, Mapping), "null": (type(None),),
}  # fmt: skip
_KEYWORDS = {
    "type", "properties", "required", "additionalProperties", "items", "enum", "minimum", "maximum",
    "minLength", "maxLength", "description", "default", "title",
}  # fmt: skip


def check_schema(schema: Any, where: str) -> None:
    """Refuse a tool's schema that uses more than the stated subset (ValueError naming the place)."""
    if not isinstance(schema, Mapping):
        raise ValueError(f"the schema of {where} must be an object")
    for keyword in schema:
        if keyword not in _KEYWORDS:
            raise ValueError(f"the schema of {where} uses {keyword!r}; known are: {', '.join(sorted(_KEYWORDS))}")
    for name in _wanted(schema):
        if name not in _TYPES:
            raise ValueError(f"the schema of {where} has the type {name!r}; known are: {', '.join(_TYPES)}")
    if not isinstance(schema.get("additionalProperties", True), bool):
        raise ValueError(f"the schema of {where}: additionalProperties must be true or false")
    if missing := set(schema.get("required", ())) - set(schema.get("properties", {})):
        raise ValueError(f"the schema of {where} requires {sorted(missing)}, which it does not describe")
    for name, part in schema.get("properties", {}).items():
        check_schema(part, f"{where}.{name}")
    if "items" in schema:
        check_schema(schema["items"], f"{where}[]")


def _wanted(schema: Mapping[str, Any]) -> list[str]:
    wanted = schema.get("type", [])
    return [wanted] if isinstance(wanted, str) else list(wanted)


def schema_problem(value: Any, schema: Mapping[str, Any], where: str = "input") -> str | None:
    """What is wrong with a value by its schema, naming the field; None when it fits."""
    wanted = _wanted(schema)
    if wanted and not any(_is_a(value, name) for name in wanted):
        return f"{where} must be {' or '.join(wanted)}, not {_kind(value)}"
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return f"{where} must be one of {', '.join(map(repr, schema['enum']))}"
    if isinstance(value, str):
        return _length_problem(value, schema, where)
    if isinstance(value, Mapping):
        return _object_problem(value, schema, where)
    if isinstance(value, (list, tuple)) and "items" in schema:
        problems = (schema_problem(item, schema["items"], f"{where}[{n}]") for n, item in enumerate(value))
        return next((problem for problem in problems if problem), None)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _range_problem(value, schema, where)
    return None


def _is_a(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if isinstance(value, float) and not math.isfinite(value):
        return False  # JSON has no such number
    return isinstance(value, _TYPES[name])


def _same(value: Any, other: Any) -> bool:
    # For Python True is 1; for JSON it is not.
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _kind(value: Any) -> str:
    return next((name for name in _TYPES if _is_a(value, name)), one_line(str(value), 20))


def _length_problem(value: str, schema: Mapping[str, Any], where: str) -> str | None:
    if len(value) < schema.get("minLength", 0):
        return f"{where} must not be empty" if not value else f"{where} is too short"
    if len(value) > schema.get("maxLength", len(value)):
        return f"{where} has {len(value)} characters; at most {schema['maxLength']} are allowed"
    return None


def _range_problem(value: float, schema: Mapping[str, Any], where: str) -> str | None:
    if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        low, high = schema.get("minimum", "any"), schema.get("maximum", "any")
        return f"{where} is {one_line(str(value), 40)}; allowed is {low} to {high}"
    return None


def _object_problem(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> str | None:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where} lacks the field {name!r}"
    for name, item in value.items():
        if name in properties:
            if problem := schema_problem(item, properties[name], f"{where}.{name}"):
                return problem
        elif schema.get("additionalProperties", True) is False:
            return f"{where} has an unknown field {one_line(str(name), 60)!r}; known are: {', '.join(properties)}"
    return None
