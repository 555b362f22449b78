"""Breaks text into rows of a terminal and knows how wide characters are.  (floor 6)

Terminals disagree about emoji and newer scripts. Whoever must erase rows later needs a
count that is right everywhere, so rows are broken here, before any terminal would do it:
widths are rather too large than too small (a family of joined emoji counts each member,
U+FE0F widens what it follows), and the terminal never wraps by itself.

What this does not do: find the best place for a break. Only the unfinished tail of an
answer and the status line are laid out here, and both are gone in a moment.
"""

from __future__ import annotations

from functools import lru_cache

TAB_COLUMNS = 8


@lru_cache(maxsize=4096)
def cells_of(character: str) -> int:
    """Columns one character takes at most: 0, 1 or 2."""
    from rich.cells import get_character_cell_size  # behind the first prompt, like all of rich

    if character == "\ufe0f":  # emoji presentation: makes a narrow character wide on some terminals
        return 1
    return 2 if character >= "\U0001f000" else get_character_cell_size(character)


def laid_out(text: str, width: int, row: int, column: int) -> tuple[str, int, int]:
    """Break text into rows of at most `width` columns, going on from `row` and `column`.

    Tabs become spaces. Returns what to write and the row and column where it ends; a full
    row ends at column `width`, and the next character begins a new one.
    """
    written: list[str] = []
    for index, line in enumerate(text.split("\n")):
        if index:
            written.append("\n")
            row, column = row + 1, 0
        if line.isascii() and "\t" not in line and column + len(line) <= width:
            written.append(line)  # most of what is ever written
            column += len(line)
            continue
        for character in line:
            if character == "\t":
                character, cells = _tab(column, width)
            else:
                cells = cells_of(character)
            if column + cells > width and column:
                written.append("\n")
                row, column = row + 1, 0
            written.append(character)
            column += cells
    return "".join(written), row, column


def _tab(column: int, width: int) -> tuple[str, int]:
    cells = min(TAB_COLUMNS - column % TAB_COLUMNS, max(0, width - column))
    return " " * cells, cells


def fitted(text: str, width: int) -> str:
    """As much of one line as fits `width` columns, ending in an ellipsis where something was cut."""
    used = 0
    for index, character in enumerate(text):
        used += cells_of(character)
        if used > width:
            return fitted(text[:index], width - 1).removesuffix("…") + "…" if width > 1 else ""
    return text
