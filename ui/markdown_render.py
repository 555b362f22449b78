"""Turns finished pieces of Markdown into lines for the terminal.  (floor 6)

The parser is markdown-it, the layout is rich's; three things are ours:

- Nothing the model wrote may vanish. HTML, link definitions and images, which rich drops
  or tears out of their place, are switched off in the parser and shown as they were typed.
- What rich lets through is cleaned after parsing: `&#x202e;` is harmless text until the
  parser decodes it. Links show their address and are never OSC 8 hyperlinks.
- Bytes. rich pads each line to the full width and repaints each word; here a style is
  written when it changes, padding is cut, and code has 16 colours without background
  (26 bytes a character become less than 5).

This module costs 150 ms to import, so it is imported with the first answer, or by a
preload behind the prompt.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.color import ColorSystem
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, HorizontalRule, Markdown, TableElement
from rich.padding import Padding
from rich.rule import Rule
from rich.segment import Segment
from rich.style import Style
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.theme import Theme as RichTheme

from safe_text import clean

HIGHLIGHT_CHARS_MAX = 20_000
"""Longer code stays in one colour: a lexer's regular expressions are not made for minified megabytes."""

BLOCK_CHARS_MAX = 50_000
"""A longer single block is shown as typed: some inline rules are quadratic (20,000 `[` take 0.4 s)."""

_NOT_OURS = ("html_block", "html_inline", "reference", "image")
_STYLES = RichTheme(
    {
        "markdown.code": "cyan",
        "markdown.code_block": "cyan",
        "markdown.block_quote": "dim",
        "markdown.hr": "dim",
        "markdown.h1": "bold",
        "markdown.h2": "bold",
        "markdown.h3": "bold",
        "markdown.h4": "bold dim",
        "markdown.h5": "italic",
        "markdown.h6": "dim",
        "markdown.link": "blue",
        "markdown.link_url": "dim",
        "markdown.item.bullet": "none",
        "markdown.item.number": "none",
        "markdown.table.border": "dim",
        "markdown.table.header": "bold",
    }
)


@dataclass(slots=True)
class Block:
    """One top-level block: its lines [start, end) in the source, and whether no later line can change it.

    `items` are the first lines of a list's top-level items, `fence` is what a code fence was
    opened with.
    """

    kind: str
    start: int
    end: int
    finished: bool
    items: list[int] = field(default_factory=list)
    fence: str = ""


# --- finding blocks --------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _parser(inline: bool) -> MarkdownIt:
    parser = MarkdownIt().enable(["strikethrough", "table"]).disable(_NOT_OURS)
    return parser if inline else parser.disable("inline")


def blocks_of(lines: Sequence[str]) -> list[Block]:
    """The top-level blocks of complete lines (each ending in a newline).

    All but the last are finished: with link definitions off, later lines cannot change
    an earlier block. Whether the last one is depends on its kind and on a blank line.
    """
    blocks: list[Block] = []
    for token in _parser(False).parse("".join(lines)):
        if token.level == 0 and token.nesting >= 0 and token.map is not None:
            if blocks:
                blocks[-1].finished = True
            blocks.append(_block(token, lines))
        elif token.level == 1 and token.type == "list_item_open" and token.map is not None:
            blocks[-1].items.append(token.map[0])
    return blocks


def _block(token: Token, lines: Sequence[str]) -> Block:
    start, end = token.map or (0, 0)
    kind = token.type.removesuffix("_open")
    if kind == "fence":
        closed = closes(lines[end - 1], token.markup) and end - start > 1
        return Block(kind, start, end, closed, fence=token.markup)
    if kind in ("heading", "hr"):
        return Block(kind, start, end, True)
    blank_follows = end < len(lines) or not lines[end - 1].strip()
    # A list or indented code goes on after a blank line if what follows is indented.
    return Block(kind, start, end, blank_follows and kind not in ("bullet_list", "ordered_list", "code_block"))


def closes(line: str, markup: str) -> bool:
    """Whether the line closes a fence opened by `markup` (CommonMark 0.31, 4.5)."""
    return bool(re.fullmatch(rf" {{0,3}}{re.escape(markup)}{re.escape(markup[0])}*[ \t]*\n?", line))


# --- rendering -------------------------------------------------------------------------------------------


class _Heading(Heading):
    """Left, like everything else."""

    LEVEL_ALIGN = {}  # noqa: RUF012  (a ClassVar of rich's)


class _Rule(HorizontalRule):
    """Without rich's extra empty line."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Rule(style="markdown.hr", characters="─")


class _Code(CodeBlock):
    """Two columns in, 16 colours, no background, long lines folded."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip("\n")
        known = self.lexer_name != "text" and len(code) <= HIGHLIGHT_CHARS_MAX
        text = _highlighted(code, self.lexer_name) if known else Text(code, "markdown.code_block")
        text.overflow, text.no_wrap = "fold", False  # rich would cut what is too long
        yield Padding(text, (0, 0, 0, 2), expand=False)


def _highlighted(code: str, lexer_name: str) -> Text:
    text = Syntax(code, lexer_name, theme="ansi_dark", tab_size=8).highlight(code)
    text.rstrip()
    if not text.spans:
        text.style = "markdown.code_block"
    return text


class _Table(TableElement):
    """With words folded where they don't fit a cell, instead of cut to an ellipsis."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                for column in table.columns:
                    column.overflow = "fold"
            yield table


class _Parsed(Markdown):
    """rich's Markdown over tokens that were parsed and cleaned by us."""

    elements = {  # noqa: RUF012  (a ClassVar of rich's)
        **Markdown.elements, "heading_open": _Heading, "hr": _Rule, "fence": _Code, "code_block": _Code,
        "table_open": _Table,
    }  # fmt: skip

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = tokens


def render(source: str, width: int, *, colour: bool, number: int | None = None) -> str:
    """One block of Markdown as text for the terminal: lines without trailing blanks, each ending in a newline.

    Args:
        source: one top-level block (or several, which rich then spaces).
        width: columns.
        colour: with styles; else no escapes at all.
        number: the first number of an ordered list that goes on from an earlier piece.

    A table or a deep list that is too wide for the terminal loses text in rich (words are cut
    to an ellipsis, lines at the edge): such a block comes back as it was typed.
    """
    tokens = _parser(True).parse(source)
    if number is not None and tokens and tokens[0].type == "ordered_list_open":
        tokens[0].attrs["start"] = number
    console, safe = _console(width), list(_safe(tokens))
    lines = console.render_lines(_Parsed(safe), console.options, pad=False)
    if _letters(_texts(safe)) - _letters(segment.text for line in lines for segment in line):
        return source.replace("\t", "    ")
    text = "".join(f"{_painted(line, colour)}\n" for line in lines)
    return re.sub(r"\A(?:[ \t]*\n)+|\n(?:[ \t]*\n)+\Z", lambda m: "\n" if m.start() else "", text)


def render_document(source: str, width: int, *, colour: bool) -> str:
    """A whole document at once: its blocks, one empty line between them."""
    lines = clean(source).splitlines(keepends=True)
    pieces = (render("".join(lines[b.start : b.end]), width, colour=colour) for b in blocks_of(lines))
    return "\n".join(piece for piece in pieces if piece)


def _texts(tokens: Iterable[Token]) -> Iterable[str]:
    for token in tokens:
        if token.children:
            yield from _texts(token.children)
        elif token.type in ("text", "code_inline", "fence", "code_block"):
            yield token.content


def _letters(texts: Iterable[str]) -> Counter[str]:
    return Counter(filter(str.isalnum, "".join(texts)))


@lru_cache(maxsize=4)
def _console(width: int) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=100, force_terminal=True, color_system="standard",
        legacy_windows=False, markup=False, highlight=False, emoji=False, theme=_STYLES,
    )  # fmt: skip


def _safe(tokens: Iterable[Token]) -> Iterable[Token]:
    """Clean what the parser decoded, and show `<https://…>` once, not as text and address."""
    for token in tokens:
        token.content = clean(token.content)
        if token.type in ("text", "code_inline"):
            token.content = token.content.replace("\t", "    ")  # rich measures a tab as no column at all
        token.info = clean(token.info)
        if token.type == "softbreak":  # models break lines where they mean it: poems, addresses
            token.type = "hardbreak"
        token.attrs = {name: clean(v) if isinstance(v, str) else v for name, v in token.attrs.items()}
        if token.children:
            token.children = [t for t in _safe(token.children) if t.markup != "autolink"]
        yield token


def _painted(line: Iterable[Segment], colour: bool) -> str:
    """One line with a style written only where it changes, and nothing after the last visible character."""
    written: list[str] = []
    current, blanks = "", ""
    for text, style, control in line:
        visible = "" if control else text.rstrip(" ")
        if visible:
            code = _code_of(style) if colour and style else ""
            written += (blanks, _switch(current, code), visible)
            current, blanks = code, ""
        blanks += "" if control else text[len(visible) :]
    return "".join(written) + ("\x1b[m" if current else "")


def _switch(current: str, code: str) -> str:
    if code == current:
        return ""
    return f"\x1b[{';' if current else ''}{code}m" if code else "\x1b[m"


@lru_cache(maxsize=256)
def _code_of(style: Style) -> str:
    """The SGR parameters of a rich style, read off what rich would write, but for the underline.

    Without underline blanks look the same in every style, which saves switching for them.
    """
    painted = style.render("x", color_system=ColorSystem.STANDARD)
    codes = painted.partition("m")[0].removeprefix("\x1b[") if painted != "x" else ""
    return ";".join(code for code in codes.split(";") if code != "4")
