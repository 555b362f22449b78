"""Reads the arguments a model wrote for a tool, and says what is wrong with them.  (floor 4)

Models write JSON by hand, and a reader that guesses runs a tool the model did not ask for.
So the text must be one JSON object by the letter (RFC 8259): no NaN or Infinity, also none
hidden in 1e999; no key twice, where readers differ on which one counts; bounded in size and
depth. Anything else is a problem in words, for the model to correct; never an exception.
Whether the fields are the right ones is not asked here: that is the tool's schema.
"""

from __future__ import annotations

import json
import math
from typing import Any

from safe_text import encodable, one_line

INPUT_CHARS_MAX = 2 * 1024 * 1024
"""Characters of one input: a note of 256 KiB, every character of it escaped, takes 1.5 Mi."""

DEPTH_MAX = 64
"""Levels of nesting. No schema of ours has 4; readers in other languages give up at 100 or so."""

_DIGITS_MAX = 400  # of one integer; longer ones are not numbers anybody meant, and cost time to read


def parse_input(raw: str) -> tuple[dict[str, Any], str | None]:
    """The object and None, or {} and the problem. No text at all is the empty object, as the API has it."""
    if not raw.strip():
        return {}, None
    if len(raw) > INPUT_CHARS_MAX:
        return {}, f"the input is longer than {INPUT_CHARS_MAX} characters"
    try:
        value = json.loads(
            raw,
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except _Wrong as wrong:
        return {}, str(wrong)
    except RecursionError:
        return {}, f"the input is nested more than {DEPTH_MAX} levels deep"
    except ValueError as error:
        return {}, f"the input is not valid JSON: {one_line(str(error), 100)}"
    if not isinstance(value, dict):
        return {}, f"the input must be a JSON object, not {_KINDS.get(type(value), 'a number')}"
    if _deeper_than(value, DEPTH_MAX):
        return {}, f"the input is nested more than {DEPTH_MAX} levels deep"
    return deep_encodable(value), None


def deep_encodable(value: Any) -> Any:
    """The same JSON value with every string in it fit for UTF-8 (lone surrogates replaced)."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {deep_encodable(key): deep_encodable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [deep_encodable(item) for item in value]
    return value


_KINDS = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}


class _Wrong(ValueError):
    """Carries a problem in our own words out of the JSON reader's hooks, and no further."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Wrong(f'the input has the key "{one_line(twice, 60)}" more than once')
    return found


def _no_constant(word: str) -> float:
    raise _Wrong(f"the input is not valid JSON: {word} is no JSON number")


def _float(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise _Wrong("the input has a number that is out of range")
    return number


def _int(digits: str) -> int:
    if len(digits) > _DIGITS_MAX:
        raise _Wrong(f"the input has a number of more than {_DIGITS_MAX} digits")
    return int(digits)


def _deeper_than(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels + 1):
        layer = [
            child
            for parent in layer
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not layer:
            return False
    return True
