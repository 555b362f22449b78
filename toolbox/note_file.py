"""What a note is, and how one stands in a file so that it comes back exactly.  (floor 4)

A file holds the note as it was typed, byte for byte. Only where there is more to say does it
open with a header, in the form other programs for Markdown know:

    ---
    title: "Groceries"
    untrusted: true         saved while text from outside was in the conversation
    ---
    milk, eggs

A note that begins like a header gets an empty one, so that reading gives back what was saved.
The name is sha256 over the length of the title, the title and the content: the same note twice
is one file, and different ones never meet, whatever their titles look like.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

SUFFIX = ".md"
HEADER_BYTES_MAX = 8 * 1024
_FENCE = "---\n"
_OURS = re.compile(r"[0-9a-f]{64}\.md")


@dataclass(frozen=True, slots=True)
class Note:
    """A note. `untrusted` marks one that was saved while text from outside was about."""

    content: str
    title: str | None = None
    untrusted: bool = False

    @property
    def file_name(self) -> str:
        """Stands for title and content; 67 characters, all of them lower-case ASCII."""
        title = encoded(self.title or "")
        digest = hashlib.sha256(len(title).to_bytes(8, "big") + title + encoded(self.content))
        return digest.hexdigest() + SUFFIX

    def is_changed(self, file_name: str) -> bool:
        """Whether a file of this name was saved with another title or content. Names given by others tell nothing."""
        return bool(_OURS.fullmatch(file_name)) and file_name != self.file_name

    def is_in(self, data: bytes) -> bool:
        """Whether a file holds this note; who trusts it does not matter."""
        found = decode(data)
        return (found.title, found.content) == (self.title, self.content)


def encode(note: Note) -> bytes:
    """The bytes of a note's file."""
    header = "" if note.title is None else f"title: {json.dumps(note.title, ensure_ascii=False)}\n"
    header += "untrusted: true\n" if note.untrusted else ""
    fenced = f"{_FENCE}{header}{_FENCE}" if header or note.content.startswith(_FENCE) else ""
    return encoded(fenced + note.content)


def decode(data: bytes) -> Note:
    """The note in a file. A file by somebody else, or with a header we don't know, is all content."""
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return Note(data.decode("utf-8", "replace"))
    return _with_header(text) or Note(text)


def _with_header(text: str) -> Note | None:
    if not text.startswith(_FENCE):
        return None
    header, fence, content = text[len(_FENCE) - 1 :].partition("\n" + _FENCE)
    if not fence:
        return None
    title: str | None = None
    untrusted = False
    for line in header[1:].split("\n") if header else []:
        name, _, value = line.partition(": ")
        if name == "title" and title is None and isinstance(said := _json(value), str):
            title = said
        elif line == "untrusted: true":
            untrusted = True
        else:
            return None
    return Note(content, title, untrusted)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def encoded(text: str) -> bytes:
    """UTF-8, in which also a lone surrogate survives: half a character, from a broken paste."""
    return text.encode("utf-8", "surrogatepass")


def short_name(file_name: str) -> str:
    """`3f2a91c04d7e….md`: enough of a file name to find it in the folder."""
    stem = file_name.removesuffix(SUFFIX)
    return file_name if len(stem) <= 16 else f"{stem[:12]}…{SUFFIX}"
