"""Shows Markdown while it is being written: finished blocks rendered, the unfinished rest as it comes.  (floor 6)

    committed blocks     rendered once, never touched again
    the tail             the unfinished block, raw, appended as it arrives; erased once, when it is committed

Rewriting the screen at every delta (rich's Live) costs 5.9 MB for a 149-line answer and
leaves 5,023 lines of junk in the scrollback. Here a character is written about twice:
once raw, once rendered. Only complete lines of the tail are parsed, and only when a
newline came, so that the work grows with the answer and not with its square.

Erasing needs to know how many rows the tail takes. So the tail is broken into rows here,
never by the terminal, with widths that are rather too large than too small.

What scrolled off the screen cannot be erased. Before the tail gets that tall, a code
block commits its lines so far and a list its finished items. Any other block that is too
tall is *frozen*: it stays as raw text, and so does the rest of it. The same happens to a
tail when the window changes its size, because then nobody knows where its rows went.

What this does not do: follow link definitions, which may come after their use; they are
shown as typed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from safe_text import clean
from ui.theme import PLAIN, Theme

if TYPE_CHECKING:
    from ui.markdown_render import Block

COLUMNS_MIN, ROWS_MIN = 8, 4
"""Below this size nothing is rendered or erased: there is no room for a layout."""

LINE_CHARS_KEPT = 200
"""Of a frozen line: enough to see whether it is blank or closes a fence, whatever its length."""

VOID_MARK = "── cut off; the above is void ──"


class MarkdownStream:
    """One message of the model at a time, from deltas to the screen.

    Args:
        write: puts text on the terminal.
        width: columns of the terminal, asked at each draw.
        height: its rows, asked at each draw.
        theme: without `moves` nothing is rendered and there are no escapes: the text as it comes.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        width: Callable[[], int],
        height: Callable[[], int] = lambda: 24,
        theme: Theme = PLAIN,
    ) -> None:
        self._write, self._width, self._height, self._theme = write, width, height, theme
        self._start()

    def _start(self) -> None:
        self._source = ""  # of the tail: everything that is not committed
        self._drawn = 0  # characters of the source that stand on the screen
        self._row = self._column = 0  # of the cursor, counted from where the tail begins
        self._size = (0, 0)  # of the window when the tail was begun
        self._gap = False  # whether an empty line belongs before the next block
        self._fence = ""  # opening line of a code block whose first lines are committed
        self._number: int | None = None  # of the first item, for a list whose first items are committed
        self._frozen: Callable[[str], bool] | None = None  # tells the line that ends a frozen block
        self._line = ""  # the last line of frozen text, as far as it came
        self.committed = False  # something of this message cannot be erased any more

    @property
    def open(self) -> bool:
        """Whether a message is under way: something was fed since the last finish or void."""
        return self.committed or bool(self._source)

    def feed(self, delta: str) -> None:
        """Take a piece of the message, cut anywhere."""
        text = self._theme.spelled(clean(delta))
        if not self._theme.moves:
            self._append(text)
            return
        self._source += self._thaw(text) if self._frozen else text
        self._advance(parse="\n" in text)

    def _advance(self, *, parse: bool) -> None:
        """Commit what is finished and draw the rest."""
        if not (self._source.strip() or self._fence):
            self._source = self._source.rpartition("\n")[2]  # blank lines between blocks are ours
        elif not self._erasable():
            self._freeze()
        else:
            if parse:
                self._commit_finished()
            self._draw()

    def finish(self) -> None:
        """The message is complete: commit what is left."""
        if self._source.strip() and not self._erasable():
            self._freeze()
        if self._source.strip():
            self._source = self._source.removesuffix("\n") + "\n"
            self._commit_finished(everything=True)
        if self._erasable():
            self._erase()
        self._end_line()
        self._start()

    def void(self, *, erase: bool = True) -> None:
        """The message is no answer after all: erase it, and mark what cannot be erased.

        `erase=False` leaves all of it standing and marks it, for a person who stopped it while reading.
        """
        if erase and self._erasable():
            self._erase()
            self._source = ""
        marked = self.committed or bool(self._source.strip())
        self.finish()
        if marked:
            self.mark_void()

    def mark_void(self) -> None:
        """Say that the text above is no answer."""
        self._write(self._theme.paint("warn", VOID_MARK) + "\n")

    def hide(self) -> None:
        """Take the tail off the screen so that a line can be printed; the next feed draws it again."""
        if self._erasable():
            self._erase()
        elif self._drawn:
            self._freeze()
        self._end_line()

    # --- committing --------------------------------------------------------------------------------------

    def _commit_finished(self, *, everything: bool = False) -> None:
        """Render and print the finished blocks at the start of the source."""
        lines = self._complete_lines()
        done = 0
        for block in self._blocks(lines):
            if not (everything or block.finished):
                break
            self._commit("".join(lines[block.start : block.end]))
            done, self._fence = block.end, ""
        self._drop(lines, done)

    def _complete_lines(self) -> list[str]:
        """The source's complete lines, after the opening line of a code block that was committed in part."""
        lines = self._source.split("\n")
        return [self._fence] * bool(self._fence) + [f"{line}\n" for line in lines[:-1]]

    def _blocks(self, lines: list[str]) -> list[Block]:
        from ui.markdown_render import blocks_of  # 150 ms of import that nobody owes before an answer

        return blocks_of(lines)

    def _commit(self, source: str) -> None:
        text = self._rendered(source)
        self._erase()
        if text:
            self._write(("\n" if self._gap else "") + text)
        if text or self._fence:
            self._gap = self.committed = True
        self._number = None

    def _rendered(self, source: str) -> str:
        from ui.markdown_render import BLOCK_CHARS_MAX, render

        if len(source) > BLOCK_CHARS_MAX and not source.lstrip().startswith(("```", "~~~")):
            return source
        try:
            return render(source, self._width(), colour=self._theme.colour, number=self._number)
        except Exception:  # a layout that fails (rich, pygments) must not cost the person the answer
            return source

    def _drop(self, lines: list[str], done: int) -> None:
        """Forget the first `done` lines of the source: they are committed."""
        if not done:
            return
        rest = "".join(lines[done:]) + self._source.rpartition("\n")[2]
        self._source = re.sub(r"\A(?:[ \t]*\n)+", "", rest)

    # --- the tail ----------------------------------------------------------------------------------------

    def _window(self) -> tuple[int, int]:
        return self._width(), self._height()

    def _erasable(self) -> bool:
        """Whether the tail may be drawn and erased in this window."""
        columns, rows = window = self._window()
        return columns >= COLUMNS_MIN and rows >= ROWS_MIN and (not self._drawn or self._size == window)

    def _draw(self) -> None:
        """Append what is new of the tail; make it shorter first when it would not fit the screen."""
        if len(self._source) == self._drawn or not (self._source.strip() or self._fence):
            return
        rows, row, column = self._laid_out()
        if row <= self._height() - 2:
            self._write(self._opening() + rows)
            self._drawn, self._row, self._column = len(self._source), row, column
        elif self._shorten():
            self._draw()
        else:
            self._freeze()

    def _opening(self) -> str:
        """What stands before the first character of a tail: its empty line, which is erased with it."""
        if self._drawn:
            return ""
        self._size = self._window()
        return "\n" if self._gap else ""

    def _laid_out(self) -> tuple[str, int, int]:
        """The new part of the tail broken into rows, and the row and column where it ends."""
        from ui.cells import laid_out

        row = self._row if self._drawn else int(self._gap)
        # The last column stays free: what a terminal does in it with combining characters differs.
        return laid_out(self._source[self._drawn :], self._width() - 1, row, self._column)

    def _erase(self) -> None:
        if self._drawn:
            self._write("\r" + (f"\x1b[{self._row}A" if self._row else "") + "\x1b[J")
        self._drawn = self._row = self._column = 0

    def _shorten(self) -> bool:
        """Commit a part of the unfinished block: code lines or list items. False when there is no such part."""
        lines = self._complete_lines()
        blocks = self._blocks(lines)
        if len(blocks) != 1:
            return False
        if blocks[0].kind == "fence" and len(lines) > 1:
            self._commit_code(lines)
        elif len(blocks[0].items) > 1:
            self._commit_items(blocks[0], lines)
        else:
            return False
        return True

    def _commit_code(self, lines: list[str]) -> None:
        """Commit the lines so far of an open code block, if possible up to a blank line, where few strings go on."""
        blank = [n for n, line in enumerate(lines) if n > len(lines) // 2 and not line.strip()]
        end = blank[-1] if blank else len(lines)
        self._commit("".join(lines[:end]))
        self._gap, self._fence = False, lines[0]
        rest = lines[end:]
        while rest and not rest[0].strip():  # rendering cuts blank lines at the ends: these are inside
            self._write("\n")
            rest = rest[1:]
        self._source = "".join(rest) + self._source.rpartition("\n")[2]

    def _commit_items(self, block: Block, lines: list[str]) -> None:
        """Commit all items of an open list but the last one, which may still grow."""
        first = self._number if self._number is not None else _number_of(lines[0])
        last = block.items[-1]
        self._commit("".join(lines[:last]))
        self._gap = False
        self._number = first + len(block.items) - 1 if first is not None else None
        self._source = "".join(lines[last:]) + self._source.rpartition("\n")[2]

    # --- frozen text -------------------------------------------------------------------------------------

    def _freeze(self) -> None:
        """Let the tail stand as it is and go on raw to the end of its block."""
        self._write(self._opening())
        self._frozen = self._end_of_block()
        self._line = self._source[: self._drawn].rpartition("\n")[2]
        text = self._source[self._drawn :]
        self._drawn = self._row = self._column = 0
        self.committed, self._gap, self._fence, self._number = True, False, "", None
        self._source = self._thaw(text)
        if self._source:
            self._advance(parse=True)

    def _end_of_block(self) -> Callable[[str], bool]:
        from ui.markdown_render import closes

        if self._width() < COLUMNS_MIN or self._height() < ROWS_MIN:
            return lambda line: False
        opening = re.match(r" {0,3}(`{3,}|~{3,})", self._fence or self._source)
        if opening:
            markup = opening.group(1)
            return lambda line: closes(line, markup)
        return lambda line: not line.strip()

    def _thaw(self, text: str) -> str:
        """Print frozen text up to the end of its block; the rest comes back, to be treated as usual."""
        while self._frozen and text:
            line, newline, text = text.partition("\n")
            self._write(line.replace("\t", "    ") + newline)  # a tab at the right edge would overwrite
            self._line = (self._line + line)[:LINE_CHARS_KEPT]
            if newline:
                ended = self._frozen(self._line)
                self._line = ""
                if ended:
                    self._frozen, self._gap = None, bool(line.strip())
        return text

    def _append(self, text: str) -> None:
        self._write(text)
        self.committed = self.committed or bool(text)
        self._line = (self._line + text).rpartition("\n")[2][-1:]

    def _end_line(self) -> None:
        if self._line:
            self._write("\n")
            self._line = ""


def _number_of(line: str) -> int | None:
    found = re.match(r" {0,3}(\d{1,9})[.)]", line)
    return int(found.group(1)) if found else None
