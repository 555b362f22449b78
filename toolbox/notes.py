"""Saves notes so that none is lost, doubled or torn, and finds them again.  (floor 4)

One note is one file, named by its content (`note_file.py`), so saving twice is harmless, and no
path ever comes from the model. A save is believed when reading the note back finds it. A note that is
not what its name stands for was changed since, and is told so: that is its owner's right, or a damaged
disk. What this does not do: change or remove notes; they are ordinary files of the user, and one that
the user changed is left as it is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from disk import Disk, NameTaken, Saved
from errors import BadInput
from fault_injection import Lie
from faults import FaultPlan
from flow import Flow
from guard import Guards, injecting
from safe_text import one_line
from toolbox.answers import broken
from toolbox.boundary import drawn, within_boundary
from toolbox.lies import OTHER_NOTE, changed_note, in_the_answer, without_doing
from toolbox.note_file import HEADER_BYTES_MAX, SUFFIX, Note, decode, encode, encoded, short_name
from tools import CallContext, Tool, ToolOutput

NOTE_BYTES_MAX = 256 * 1024
TITLE_CHARS_MAX = 500

FOUND_MAX = 10
FOUND_CHARS_MAX = 14_000
"""Of note text in one answer; with its headings this stays below the 16 KiB of a tool output."""

SEARCHED_MAX = 5_000
SEARCHED_BYTES_MAX = 32 << 20
"""One search reads at most this much, newest first: about a second."""


# --- save_note ---------------------------------------------------------------------------------------------


def save_note_tool(folder: Path, disk: Disk, guards: Guards, plan: FaultPlan) -> Tool:
    """The tool `save_note(content, title?)`: critical, writes.

    Args:
        folder: where notes are kept; made when it is missing.
        disk: what saves them durably.
        guards, plan: under the name `save_note`.
    """

    def run(context: CallContext, given: Mapping[str, Any]) -> Flow[ToolOutput]:
        note = _note_from(given, untrusted=context.tainted)
        guard = guards("save_note")
        lies: dict[str, Lie[Saved]] = {"noop": without_doing(Saved.WRITTEN)}

        def once(number: int) -> Flow[Saved]:
            context.tried()
            writing = disk.writing(folder, note.file_name, encode(note), context.fresh_gate(), note.is_in)
            try:
                saved = yield from injecting(writing, plan, "save_note", lies)
            except NameTaken as error:  # its owner has changed it, which is no failure of ours
                raise BadInput(
                    f"{error.message}.", what_now="Give it a title, or another one: then it is a new note."
                ) from error
            if not (yield from disk.checking(folder / note.file_name, note.is_in)):
                raise broken("the save was reported as done, but reading the note back finds nothing")
            return saved

        # Safe to repeat: the name is the content's, and each try has a gate of its own.
        saved = yield from guard.guarding(
            once, deadline=context.deadline, attempt_s=context.deadline.left_s(guard.now())
        )
        if saved is Saved.ALREADY:
            return ToolOutput(f"Nothing to do: {_called(note)} is saved already, as {short_name(note.file_name)}.")
        return ToolOutput(_saved(note), wrote=True)

    def look(given: Mapping[str, Any]) -> Flow[bool]:
        note = _note_from(given, untrusted=False)
        path = folder / note.file_name
        return (yield from disk.reading(lambda: disk.is_durable(path, note.is_in), f"look into {folder.name}"))

    return Tool(
        "save_note",
        "Save a note for the user. It is durable when this answers. The content is kept exactly as given.",
        {
            "type": "object",
            "properties": {
                "content": {"type": "string", "minLength": 1, "description": "The note, at most 256 KiB."},
                "title": {
                    "type": ["string", "null"],
                    "maxLength": TITLE_CHARS_MAX,
                    "description": "Its title, where the user gave or wants one.",
                },
            },
            "required": ["content"],
            "additionalProperties": False,
        },
        run,
        critical=True,
        writes=True,
        look=look,
        said=lambda given: _saved(_note_from(given, untrusted=False)),
        lies=("noop",),
    )


def _note_from(given: Mapping[str, Any], *, untrusted: bool) -> Note:
    note = Note(given["content"], given.get("title") or None, untrusted)
    size = len(encoded(note.content))
    if not note.content:
        raise BadInput("the note is empty", what_now="Give its content.")
    if size > NOTE_BYTES_MAX:
        raise BadInput(f"the note has {size:,} bytes", what_now=f"Use at most {NOTE_BYTES_MAX:,}: split it.")
    return note


def _saved(note: Note) -> str:
    return f"Saved {_called(note)} as {short_name(note.file_name)}."


def _called(note: Note) -> str:
    return "the note" if note.title is None else f'note "{one_line(note.title, 80)}"'


# --- find_notes --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """What one search came to."""

    notes: list[tuple[str, int, Note]]  # file name, time in nanoseconds, note
    searched: int = 0
    matched: int = 0
    unreadable: int = 0
    left_out: int = 0


def find_notes_tool(
    folder: Path, disk: Disk, guards: Guards, plan: FaultPlan, nonce: Callable[[], str] = drawn
) -> Tool:
    """The tool `find_notes(query)`: optional, reads. The arguments are those of `save_note_tool`."""

    def run(context: CallContext, given: Mapping[str, Any]) -> Flow[ToolOutput]:
        query = given.get("query", "")
        wanted = _folded(query).split()
        lies = _lies(wanted)
        guard = guards("find_notes")

        def once(number: int) -> Flow[_Found]:
            context.tried()
            reading = disk.reading(lambda: _search(disk, folder, wanted), f"look into {folder.name}")
            found = yield from injecting(reading, plan, "find_notes", lies)
            if not all(_has(note, wanted) for _, _, note in found.notes):
                raise broken("the search answered notes that lack the words of the query")
            return found

        found = yield from guard.guarding(
            once, deadline=context.deadline, attempt_s=context.deadline.left_s(guard.now())
        )
        return ToolOutput(_report(found, query, nonce), untrusted=any(note.untrusted for _, _, note in found.notes))

    return Tool(
        "find_notes",
        "Find saved notes whose title or content has all the words of the query, newest first.",
        {
            "type": "object",
            "properties": {
                "query": {"type": "string", "maxLength": 500, "description": "Words; empty for the latest notes."}
            },
            "required": [],
            "additionalProperties": False,
        },
        run,
        lies=tuple(_lies([])),
    )


def _lies(wanted: list[str]) -> dict[str, Lie[_Found]]:
    def changed(found: _Found) -> _Found | None:
        notes = [(name, at, changed_note(note) if name == note.file_name else note) for name, at, note in found.notes]
        return None if notes == found.notes else replace(found, notes=notes)

    def swapped(found: _Found) -> _Found | None:
        notes = [(OTHER_NOTE.file_name, at, OTHER_NOTE) for _, at, _ in found.notes]
        return None if not notes or _has(OTHER_NOTE, wanted) else replace(found, notes=notes)

    return {"wrong": in_the_answer(changed), "swapped": in_the_answer(swapped)}


def _search(disk: Disk, folder: Path, wanted: list[str]) -> _Found:
    files = disk.newest(folder, SUFFIX)
    notes: list[tuple[str, int, Note]] = []
    searched = matched = unreadable = total = 0
    for file in files[:SEARCHED_MAX]:
        if total > SEARCHED_BYTES_MAX:
            break
        searched += 1
        try:
            data = disk.read(file.path, NOTE_BYTES_MAX + HEADER_BYTES_MAX)
        except OSError:  # removed, replaced or not ours to read: the others are still worth finding
            unreadable += 1
            continue
        total += len(data)
        note = decode(data)
        if _has(note, wanted):
            matched += 1
            if matched <= FOUND_MAX:
                notes.append((file.path.name, file.modified_ns, note))
    return _Found(notes, searched, matched, unreadable, len(files) - searched)


def _has(note: Note, wanted: list[str]) -> bool:
    text = _folded(f"{note.title or ''}\n{note.content}") if wanted else ""
    return all(word in text for word in wanted)


def _folded(text: str) -> str:
    """Without capitals and accents, for comparing."""
    if text.isascii():
        return text.lower()
    split = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in split if not unicodedata.combining(character))


def _report(found: _Found, query: str, nonce: Callable[[], str]) -> str:
    asked = f" for {one_line(query, 80)!r}" if query.strip() else ""
    lines = []
    if found.notes:
        shown = f", the newest {len(found.notes)} of them here" if found.matched > len(found.notes) else ""
        lines.append(f"{_counted(found.matched, 'note')} found{asked}{shown}:")
        lines.append(within_boundary(_listing(found), nonce))
    elif asked and found.searched > found.unreadable:
        searched = _counted(found.searched - found.unreadable, "note")
        lines.append(f"No note has all these words{asked}. Searched: {searched}.")
    elif not found.unreadable:
        lines.append("There are no notes yet.")
    if found.unreadable:
        lines.append(f"Could not be read, and skipped: {_counted(found.unreadable, 'file')}.")
    if found.left_out:
        lines.append(f"Not searched: {_counted(found.left_out, 'older note')}.")
    return "\n".join(lines)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _listing(found: _Found) -> str:
    parts, room = [], FOUND_CHARS_MAX
    for place, (name, modified_ns, note) in enumerate(found.notes):
        share = room // (len(found.notes) - place)  # what a short note leaves, a longer one after it may use
        text = note.content
        cut = f"\n[cut here: {len(text) - share} more characters]" if len(text) > share else ""
        room -= min(len(text), share)
        changed = "changed since it was saved" if note.is_changed(name) else ""
        about = [one_line(note.title or "", 120), _date(modified_ns), short_name(name), changed]
        heading = " · ".join(filter(None, about))
        parts.append(f"{place + 1}. {heading}\n{text[:share]}{cut}")
    return "\n\n".join(parts)


def _date(modified_ns: int) -> str:
    try:
        return datetime.fromtimestamp(modified_ns / 1e9, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):  # a file can claim any time
        return ""
