"""Turns a log record into one safe line, as text for people or as JSON for programs.  (floor 4)

    2026-11-21T12:00:00.123Z WARNING circuit_opened dependency=get_weather failures=5 open_s=60.0
    {"time": "2026-11-21T12:00:00.123Z", "level": "WARNING", "event": "circuit_opened", ...}

Whatever stands in a value, one record is one line and a value never looks like a second field:
secrets are masked, control characters become visible, and a value that is more than one plain
word is written as a JSON string. Everything foreign goes through here last, whoever logged it:
the SDK and the HTTP client log URLs, headers and bodies, and a traceback quotes what it met.
"""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from safe_text import MASK, clean, mask, shorten

VALUE_CHARS_MAX = 2_000
"""Of one value; log collectors cut or refuse lines beyond some 16 KB."""

TRACEBACK_CHARS_MAX = 8_000
"""Of a traceback; its end is kept, where the error and the place it was raised are."""

FIELDS = "unflappable_fields"
"""The attribute of a record that carries an event's fields."""

_PLAIN = re.compile(r"[\w.:/@%+,*-]+", re.ASCII)
# Credentials nobody registered, in what other libraries log: headers as dict, pairs or lines; URL parameters.
_CREDENTIAL = re.compile(
    r"(?i)((?:x-api-key|x-goog-api-key|x-subscription-token|(?:proxy-)?authorization"
    r"|api[_-]?key|access[_-]?token|client[_-]?secret|password)"
    r"(?:[\"']?\s*[=:]\s*|[\"']\s*,\s*)(?:b?[\"'])?(?:(?:basic|bearer|digest)\s+)?)"
    r"(?!\[secret\])[^\s\"'&,;)}\]]+"
)


class LineFormatter(logging.Formatter):
    """Formats any record as one line, without its line end. `as_json` chooses the dialect."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """One line, masked, whatever was logged."""
        fields = dict(_fields(record))
        if self._as_json:
            return json.dumps({name: _json_value(value) for name, value in fields.items()})
        head = [_text_value(fields.pop(name)) for name in ("time", "level", "event")]
        return " ".join(head + [f"{name}={_text_value(value)}" for name, value in fields.items()])


def safe_value(text: str, chars_max: int = VALUE_CHARS_MAX) -> str:
    """Masked, visible and bounded; newlines are still newlines."""
    return shorten(clean(_CREDENTIAL.sub(rf"\1{MASK}", mask(text))), chars_max)


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    yield "time", time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
    yield "level", record.levelname
    fields = getattr(record, FIELDS, None)
    if isinstance(fields, Mapping):
        yield "event", str(record.msg)
        yield from fields.items()
    else:
        yield "event", "log"
        yield "logger", record.name
        yield "message", _message(record)
    if record.exc_info and record.exc_info[1] is not None:
        yield "exception", _traceback(record.exc_info[1])
    elif record.exc_text:
        yield "exception", record.exc_text
    if record.stack_info:
        yield "stack", record.stack_info


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # a foreign format string or __str__: the line is worth more than its words
        return f"{record.msg!s:.500} (could not be formatted)"


def _traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error)).rstrip()
    masked = mask(text)  # before it is cut: half a secret is one no mask knows
    return masked if len(masked) <= TRACEBACK_CHARS_MAX else "…" + masked[-TRACEBACK_CHARS_MAX:]


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    return safe_value(str(value), TRACEBACK_CHARS_MAX + 1)


def _text_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        value = ",".join(str(item) for item in value)
    word = safe_value(str(value), TRACEBACK_CHARS_MAX + 1)
    return word if _PLAIN.fullmatch(word) else json.dumps(word, ensure_ascii=False)
