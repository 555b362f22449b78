"""Makes foreign text safe to show, log and store: control bytes, secrets, length.  (floor 0)

Text from a model, a tool, an error or a file may carry escape sequences that move the
cursor, retitle the window or paste into the shell. Every sink (screen, logs, traces,
error messages) passes foreign text through here first.

The cleaning works on single characters and keeps no state: an escape sequence that is
split between two stream deltas loses its ESC in the first one, and what follows is plain
text. Control characters become their visible pictures (ESC is shown as ␛), so a reader
sees that something was there. What this does not do: judge the words. Whether text may
be trusted is a question for `oversight/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PICTURES = {code: chr(0x2400 + code) for code in range(0x20)}
_BIDI = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CLEAN: dict[int, str | None] = {
    **_PICTURES,
    0x09: "\t",
    0x0A: "\n",
    0x0D: None,  # a bare carriage return overwrites the line; a \r\n loses nothing without it
    0x7F: "␡",
    **dict.fromkeys(range(0x80, 0xA0), "�"),  # C1: one-byte escape sequences on some terminals
    **dict.fromkeys(_BIDI, "�"),  # reorder what the eye reads, e.g. in an approval dialog
    0x2028: "\n",
    0x2029: "\n",
    0xFEFF: None,
    **dict.fromkeys(range(0xFFF9, 0xFFFC), "�"),
    **dict.fromkeys(range(0xE0000, 0xE0080), "�"),  # tag characters: invisible ASCII
    **dict.fromkeys(range(0xD800, 0xE000), "�"),  # lone surrogates cannot be encoded
}
_LINE: dict[int, str | None] = {**_CLEAN, 0x09: " ", 0x0A: "⏎", 0x2028: "⏎", 0x2029: "⏎"}

# Shapes of keys, for secrets nobody registered (a key pasted into a question, a key in an error body).
_KEY_SHAPES = re.compile(
    r"sk-ant-[A-Za-z0-9_\-]{8,}|sk-[A-Za-z0-9_\-]{20,}|AIza[A-Za-z0-9_\-]{20,}|tvly-[A-Za-z0-9_\-]{8,}"
    r"|BSA[A-Za-z0-9_\-]{20,}|(?i:bearer)\s+[A-Za-z0-9._~+/\-]{8,}=*"
)
# The same at the end of a text, where the rest may be still to come; the first letters alone may be one, too.
_MAYBE_KEY = re.compile(
    r"(?:s|sk|sk-[A-Za-z0-9_\-]*|A|AI|AIz|AIza[A-Za-z0-9_\-]*|t|tv|tvl|tvly|tvly-[A-Za-z0-9_\-]*|B|BS|BSA[A-Za-z0-9_\-]*"
    r"|(?i:b|be|bea|bear|beare|bearer(?:\s+[A-Za-z0-9._~+/\-]*=*)?)|:|:/|://[^/\s@]*)\Z"
)
_URL_PASSWORD = re.compile(r"(?<=://)[^/\s@]+(?=@)")  # a user without a password may be a token
MASK = "[secret]"
_READ_CHARS_MAX = 50_000  # of a text of which one line is wanted; cleaning megabytes of it would take seconds
_known_secrets: list[str] = []  # the longest first, since one may contain another


def register_secret(value: str | None) -> None:
    """Mask this exact value in everything `mask` sees from now on.

    Called once per secret when settings are read. Values under 6 characters are not
    registered: masking them would tear ordinary words apart.
    """
    if value and len(value) >= 6 and value not in _known_secrets:
        _known_secrets.append(value)
        _known_secrets.sort(key=len, reverse=True)


def mask(text: str) -> str:
    """Replace registered secrets, key-shaped words and passwords in URLs by `[secret]`."""
    text = _mask_known(text)
    # Each word of each log line, trace and record comes through here; these looks cost a third of the searches.
    if "sk-" in text or "AIza" in text or "tvly-" in text or "BSA" in text or "earer" in text.lower():
        text = _KEY_SHAPES.sub(MASK, text)
    return _URL_PASSWORD.sub(MASK, text) if "://" in text else text


def _mask_known(text: str) -> str:
    for secret in _known_secrets:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


HELD_CHARS_MAX = 4096
"""No secret is longer; a text that looks like the beginning of one for so long is none."""


class StreamMask:
    """`mask` for text that arrives in pieces: what may be the beginning of a secret waits for what follows."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can be shown now, with one more piece; "" when all of it has to wait."""
        text = _mask_known(self._held + piece)
        end = _secret_may_begin_at(text)
        if len(text) - end > HELD_CHARS_MAX:
            end = len(text)
        self._held = text[end:]
        return mask(text[:end])

    def rest(self) -> str:
        """What still waited: nothing follows any more."""
        held, self._held = self._held, ""
        return mask(held)


def _secret_may_begin_at(text: str) -> int:
    """The first place from where the end of the text may be the beginning of a secret; its length when nowhere."""
    found = _MAYBE_KEY.search(text)
    first = found.start() if found else len(text)
    for secret in _known_secrets:
        for chars in range(min(len(secret) - 1, len(text)), len(text) - first, -1):
            if text.endswith(secret[:chars]):
                first = len(text) - chars
                break
    return first


def clean(text: str) -> str:
    """Neutralise control, C1, bidirectional and surrogate characters; keep newlines and tabs."""
    return text.translate(_CLEAN)


def one_line(text: str, chars_max: int = 200) -> str:
    """One safe, masked line of at most `chars_max` characters, for errors, logs and status."""
    return shorten(mask(text.strip()[:_READ_CHARS_MAX]).translate(_LINE), chars_max)


def shorten(text: str, chars_max: int) -> str:
    """Cut text to `chars_max` characters, ending in an ellipsis where something was cut."""
    return text if len(text) <= chars_max else text[: max(0, chars_max - 1)] + "…"


def encodable(text: str) -> str:
    """Replace lone surrogates, which no UTF-8 encoder accepts; everything else is kept as typed."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if _has_surrogate(text) else text


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def masked(value: Any) -> Any:
    """The same JSON-like value with every string in it masked (keys included)."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {mask(str(key)): masked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(item) for item in value]
    return value
