"""Decides what a terminal can show: colours, moving the cursor, and characters beyond ASCII.  (floor 6)

Three questions are asked once per stream and never again: may the cursor move (a
terminal, not TERM=dumb), may there be colour (NO_COLOR is not set), and which characters
its encoding knows. All colours are of the 16 that every terminal and every palette has,
and there is never a background: text stays readable on light and on dark.

What this does not do: ask the terminal anything. An answer could be late or be typed
text.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from safe_text import clean

# One ASCII stand-in a glyph and of the same width wherever that is readable. Also what
# rich draws: bullets, quote bars, table rules.
_SPELLED = str.maketrans(
    {
        "✓": "+", "✗": "x", "↻": "~", "…": "...", "→": "->", "·": "|", "─": "-", "━": "-", "│": "|",
        "▌": "|", "•": "*", "×": "x", "⏎": "/",
    }
)  # fmt: skip

# Select Graphic Rendition parameters (ECMA-48, 8.3.117).
_STYLES = {"": "", "dim": "2", "good": "32", "bad": "31", "warn": "33", "note": "36", "bold": "1"}


@dataclass(frozen=True, slots=True)
class Theme:
    """What one output stream can show.

    Args:
        moves: the cursor may be moved and lines erased; False means append only, no escapes at all.
        colour: styles may be used.
        unicode: glyphs beyond ASCII are known; else they are spelled in ASCII.
    """

    moves: bool
    colour: bool
    unicode: bool

    @classmethod
    def of(cls, stream: TextIO | None, environ: Mapping[str, str]) -> Theme:
        """What `stream` can show, by itself, `TERM` and `NO_COLOR` (no-color.org: any value but "")."""
        terminal = is_terminal(stream)
        term = environ.get("TERM", "" if sys.platform == "win32" else "dumb")
        moves = terminal and term not in ("dumb", "unknown")
        return cls(moves, moves and not environ.get("NO_COLOR"), _knows_glyphs(stream))

    def paint(self, style: str, text: str) -> str:
        """`text` in a style of ours (dim, good, bad, warn, note, bold), or as it is without colour."""
        code = _STYLES[style]
        return f"\x1b[{code}m{text}\x1b[m" if code and self.colour and text else text

    def lines(self, style: str, text: str) -> str:
        """Words of the program itself, any number of lines, made safe and painted."""
        return "\n".join(self.paint(style, line) for line in clean(text).split("\n"))

    def spelled(self, text: str) -> str:
        """`text` with our own glyphs spelled in ASCII where the stream knows no others."""
        return text if self.unicode else text.translate(_SPELLED)


PLAIN = Theme(moves=False, colour=False, unicode=True)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at this stream; a closed or missing one is no terminal."""
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):  # ValueError: closed
        return False


def _knows_glyphs(stream: TextIO | None) -> bool:
    try:
        "✓✗↻…→·─▌•".encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
