"""What a plain function means as a tool: its type hints, its answers and its errors.  (floor 3)

A user's function knows nothing of models. Its hints become the schema the model is told, so
that what passes the check has the types it was written for. What it returns becomes text.
What it raises is sorted once: a ValueError is about the input and goes back to the model;
what may pass by itself (a connection, a timeout) may be retried; everything else is a bug in
the tool and counts against it. What this does not do: run it (`tools.py`).
"""

from __future__ import annotations

import inspect
import json
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from errors import AgentError, BadInput, reason_of, translate
from safe_text import one_line

_SIMPLE: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The input schema of a function, from its type hints. ValueError names what has no JSON form."""
    properties, required, hints = {}, [], _hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"{function.__name__}: parameter {name!r} must be an ordinary one")
        if name not in hints:
            raise ValueError(f"{function.__name__}: parameter {name!r} needs a type hint")
        properties[name] = _schema_of_hint(hints[name], f"{function.__name__}.{name}")
        if parameter.default is parameter.empty:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError) as error:
        raise ValueError(f"{function.__name__}: a type hint cannot be read: {error}") from None


def _schema_of_hint(hint: Any, where: str) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is dict or (isinstance(hint, type) and hint in _SIMPLE):
        return {"type": _SIMPLE.get(hint, "object")}
    if hint is list or origin is list:
        return {"type": "array", **({"items": _schema_of_hint(arguments[0], where)} if arguments else {})}
    if origin in (typing.Union, types.UnionType) and type(None) in arguments and len(arguments) == 2:
        inner = _schema_of_hint(next(one for one in arguments if one is not type(None)), where)
        return {"enum": [*inner["enum"], None]} if "enum" in inner else {**inner, "type": [inner["type"], "null"]}
    raise ValueError(f"{where}: {hint!r} has no JSON form here; use str, int, float, bool, list, dict or Literal")


def text_of(value: Any) -> str:
    """What a function returned, as text for the model. AgentError for what has no JSON form (NaN included)."""
    if value is None:
        return "(done; it returned nothing)"
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise AgentError(f"it returned a {type(value).__name__}, which is not JSON", reason="crashed") from None


def problem_of(error: Exception, name: str) -> AgentError:
    """What a function raised, as an error of ours with its advice.

    Args:
        error: anything.
        name: of the tool.
    """
    if isinstance(error, AgentError):
        return error
    try:
        words, reason = one_line(str(error)), reason_of(error)
    except Exception:  # an exception that cannot even say what it is
        words, reason = "", "crashed"
    if reason == "bad_input" and isinstance(error, ValueError):
        return BadInput(words or "it does not fit")
    if reason in ("bad_input", "internal", "crashed"):
        said = f"it raised {type(error).__name__}"
        return AgentError(f"{said}: {words}" if words else said, reason="crashed")
    return translate(error, name, 0.0)
