"""What a tool's input must look like: a stated subset of JSON Schema, and schemas from type hints.  (floor 3)

The subset: type, properties, required, additionalProperties, items, enum, minimum, maximum,
minLength, maxLength. Anything else in a schema is its author's mistake and refused when the
tool is registered, so that a model is never told a rule that nobody checks. A whole
validator library would add a dependency for what fits on one page.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from safe_text import one_line

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
    "array": (list, tuple), "object": (dict, Mapping), "null": (type(None),),
}  # fmt: skip
_KEYWORDS = {
    "type", "properties", "required", "additionalProperties", "items", "enum", "minimum", "maximum",
    "minLength", "maxLength", "description", "default", "title",
}  # fmt: skip


def check_schema(schema: Mapping[str, Any], where: str) -> None:
    """Refuse a tool's schema that uses more than the stated subset (ValueError naming the place)."""
    for keyword in schema:
        if keyword not in _KEYWORDS:
            raise ValueError(f"the schema of {where} uses {keyword!r}; known are: {', '.join(sorted(_KEYWORDS))}")
    for name, part in schema.get("properties", {}).items():
        check_schema(part, f"{where}.{name}")
    if "items" in schema:
        check_schema(schema["items"], f"{where}[]")


def schema_problem(value: Any, schema: Mapping[str, Any], where: str = "input") -> str | None:
    """What is wrong with a value by its schema, naming the field; None when it fits."""
    wanted = schema.get("type")
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if wanted and not any(_is_a(value, name) for name in wanted):
        return f"{where} must be {' or '.join(wanted)}, not {_kind(value)}"
    if "enum" in schema and value not in schema["enum"]:
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
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(name, ()))


def _kind(value: Any) -> str:
    return next((name for name in _TYPES if _is_a(value, name)), type(value).__name__)


def _length_problem(value: str, schema: Mapping[str, Any], where: str) -> str | None:
    if len(value) < schema.get("minLength", 0):
        return f"{where} must not be empty" if not value else f"{where} is too short"
    if len(value) > schema.get("maxLength", len(value)):
        return f"{where} has {len(value)} characters; at most {schema['maxLength']} are allowed"
    return None


def _range_problem(value: float, schema: Mapping[str, Any], where: str) -> str | None:
    if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        low, high = schema.get("minimum", "any"), schema.get("maximum", "any")
        return f"{where} is {value}; allowed is {low} to {high}"
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


_SIMPLE: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The input schema of a function, from its type hints. ValueError names what has no JSON form."""
    hints = typing.get_type_hints(function)
    properties, required = {}, []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"{function.__name__}: parameter {name!r} must be an ordinary one")
        if name not in hints:
            raise ValueError(f"{function.__name__}: parameter {name!r} needs a type hint")
        properties[name] = _schema_of_hint(hints[name], f"{function.__name__}.{name}")
        if parameter.default is parameter.empty:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _schema_of_hint(hint: Any, where: str) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _SIMPLE or origin is dict:
        return {"type": _SIMPLE.get(hint, "object")}
    if origin is Literal:
        return {"enum": list(arguments)}
    if hint is list or origin is list:
        return {"type": "array", **({"items": _schema_of_hint(arguments[0], where)} if arguments else {})}
    if origin in (typing.Union, types.UnionType) and type(None) in arguments and len(arguments) == 2:
        inner = _schema_of_hint(next(a for a in arguments if a is not type(None)), where)
        kinds = inner.get("type", "string")
        return {**inner, "type": [kinds, "null"]} if "enum" not in inner else inner
    raise ValueError(f"{where}: {hint!r} has no JSON form here; use str, int, float, bool, list, dict or Literal")
