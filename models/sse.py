"""Turns the bytes of an event stream into named events, wherever the network cut the bytes.  (floor 4)

Server-sent events by the HTML standard (whatwg, section 9.2.6): lines end in LF, CRLF or CR,
`event:` and `data:` fields gather until an empty line hands them over, lines that begin
with a colon are comments. No I/O: bytes go in, `(name, data)` pairs come out, the same for
the blocking and the asyncio client.

Stricter than the standard where leniency would let a broken stream pass for a whole one:
bytes that are no UTF-8, data that is no JSON (NaN and Infinity are none), and events beyond
`EVENT_BYTES_MAX` are errors. An event whose closing empty line never came is dropped, as
the standard says: it was cut. `id:` and `retry:` mean nothing here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from errors import AgentError

EVENT_BYTES_MAX = 8 * 1024 * 1024
"""Bytes of one event. Results of server tools come whole, in hundreds of kilobytes; nothing needs more."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class SseDecoder:
    """Feed it chunks as they come; it answers with the events that are complete by then.

    With `marks_doubled` an object with a key given twice comes out as `Doubled`: for a dialect that carries
    the arguments of tools as they are, not as text that is read once more.
    """

    def __init__(self, *, marks_doubled: bool = False) -> None:
        self._objects = _object if marks_doubled else None
        self._tail = bytearray()  # of a line that has not ended yet
        self._after_cr = False
        self._first_line = True
        self._name = ""
        self._data: list[str] = []
        self._event_bytes = 0

    def feed(self, chunk: bytes) -> list[tuple[str, Any]]:
        """Events completed by this chunk, as `(name, data)`; the name is "" where none was given.

        Raises AgentError(reason="protocol") for what is no event stream of JSON.
        """
        if not chunk:
            return []
        after_cr, self._after_cr = self._after_cr, chunk.endswith(b"\r")
        if after_cr and chunk.startswith(b"\n"):  # the second half of a CRLF that was cut in two
            chunk = chunk[1:]
        self._event_bytes += len(chunk)
        *lines, rest = _LINE_END.split(chunk)
        events = []
        for line in lines:
            self._tail += line
            whole, self._tail = bytes(self._tail), bytearray()
            if (event := self._line(whole)) is not None:
                events.append(event)
                self._event_bytes = len(rest)
        self._tail += rest
        if self._event_bytes > EVENT_BYTES_MAX:
            _broken(f"one event of more than {EVENT_BYTES_MAX} bytes")
        return events

    def _line(self, line: bytes) -> tuple[str, Any] | None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = _text(value)
        elif field == b"data":
            self._data.append(_text(value))
        return None

    def _dispatch(self) -> tuple[str, Any] | None:
        name, data = self._name, "\n".join(self._data)
        self._name, self._data = "", []
        if not data:
            self._event_bytes = 0  # only comments or an empty event: keep-alive, however much of it
            return None
        return name, _json(data, self._objects)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        _broken("bytes that are not UTF-8")


def _json(data: str, objects: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None) -> Any:
    try:
        return json.loads(data, parse_constant=_no_constant, object_pairs_hook=objects)
    except (ValueError, RecursionError):  # the parser's own words quote nothing useful
        _broken("an event that is not JSON")


class Doubled(dict[str, Any]):
    """An object with `key` in it more than once: readers differ on which one counts."""

    key: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    doubled, keys = Doubled(found), [key for key, _ in pairs]
    doubled.key = next(key for key in keys if keys.count(key) > 1)
    return doubled


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _broken(what: str) -> NoReturn:
    raise AgentError(f"not the answer of the API: {what}", reason="protocol")
