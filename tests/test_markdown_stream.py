"""Streamed Markdown: the screen at the end is the same as if all of it had come at once."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterable
from itertools import pairwise

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.screen_bytes import run
from ui.markdown_render import blocks_of, render_document
from ui.markdown_stream import VOID_MARK, MarkdownStream
from ui.theme import PLAIN, Theme

ANSI = Theme(moves=True, colour=True, unicode=True)


class Terminal:
    """A terminal of a given size that keeps what scrolled off, and every byte it was sent."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.1)
        self.stream = pyte.Stream(self.screen)
        self.sent: list[str] = []

    def write(self, text: str) -> None:
        self.sent.append(text)
        # \r\n is what the line discipline makes of a newline. pyte stops drawing at a zero-width
        # character that is not a combining one; without them it is a terminal that joins no emoji.
        self.stream.feed(re.sub("[\u200d\ufe0f]", "", text).replace("\n", "\r\n"))

    def width(self) -> int:
        return int(self.screen.columns)

    def height(self) -> int:
        return int(self.screen.lines)

    def lines(self) -> list[str]:
        """Scrollback and screen, without trailing blanks and empty lines at the end."""
        below = [self.screen.buffer[y] for y in range(self.screen.cursor.y + 1)]
        rows = [*self.screen.history.top, *below]
        lines = ["".join(row[x].data for x in range(self.width())).rstrip() for row in rows]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def words(self) -> list[str]:
        return re.findall(r"\w+", "\n".join(self.lines()))


def stream_on(terminal: Terminal, theme: Theme = ANSI) -> MarkdownStream:
    return MarkdownStream(terminal.write, terminal.width, terminal.height, theme)


def shown(deltas: Iterable[str], columns: int = 80, rows: int = 24) -> Terminal:
    terminal = Terminal(columns, rows)
    stream = stream_on(terminal)
    for delta in deltas:
        stream.feed(delta)
    stream.finish()
    return terminal


def at_once(document: str, columns: int = 80, rows: int = 24) -> list[str]:
    terminal = Terminal(columns, rows)
    terminal.write(render_document(document, columns, colour=True))
    return terminal.lines()


def cut(document: str, places: Iterable[int]) -> list[str]:
    points = [0, *sorted({place % (len(document) + 1) for place in places}), len(document)]
    return [document[a:b] for a, b in pairwise(points)]


words = st.lists(
    st.sampled_from(
        ["one", "**bold**", "`code`", "*em*", "漢字", "e\u0301t\u0301", "❤️", "[a](http://x.y/z)", "~~no~~", "a_b_c",
         "<b>tag</b>", "&lt;", "👩‍👩‍👧", "long" * 9, "5 * 3", "\\*", "tab\there", "**open", "`open", "1.", "-", "# no"]
    ),
    min_size=1, max_size=12,
).map(" ".join)  # fmt: skip
few = st.lists(words, min_size=1, max_size=4)
odd_blocks = [
    "---", "Title\n===", "    indented\n\n    code", "<div>\nhtml\n</div>", "[ref]: http://x.y", "```", "~~~\nopen",
    "```python\ndef f(x):\n\n    return '''a\nb''' # c\n```", "```\nplain\n\n  text\n```", "```\n```",
    "- ```\n  in list\n  ```",
]  # fmt: skip
blocks = st.one_of(
    words,
    words.map("# {}".format),
    words.map("### {}".format),
    words.map("> {}\nlazy".format),
    few.map("\n".join),
    few.map(lambda items: "\n".join(f"- {item}" for item in items)),
    few.map(lambda items: "\n\n".join(f"* {item}\n  more" for item in items)),
    few.map(lambda items: "\n".join(f"{n}. {item}\n   - sub" for n, item in enumerate(items, 3))),
    few.map(lambda rows: "| a | b |\n|---|:-:|\n" + "\n".join(f"| {row} | x |" for row in rows)),
    st.sampled_from(odd_blocks),
)
documents = st.lists(st.tuples(blocks, st.sampled_from(["\n", "\n\n", "\n\n\n", "\n \n"])), min_size=1, max_size=7).map(
    lambda parts: "".join(block + gap for block, gap in parts)
)


@settings(max_examples=150, deadline=None)
@given(document=documents, places=st.lists(st.integers(0, 5000), max_size=40), columns=st.sampled_from([20, 43, 80]))
def test_a_document_cut_anywhere_looks_as_if_it_had_come_at_once(
    document: str, places: list[int], columns: int
) -> None:
    assert shown(cut(document, places), columns, 100).lines() == at_once(document, columns, 100)


@settings(max_examples=60, deadline=None)
@given(document=documents, rows=st.integers(1, 12), columns=st.sampled_from([1, 2, 5, 9, 30]), size=st.integers(1, 9))
def test_on_a_small_screen_no_word_is_lost_or_doubled(document: str, rows: int, columns: int, size: int) -> None:
    document = document.encode("ascii", "ignore").decode()  # a wide character in one column is undefined
    terminal = Terminal(columns, rows)
    stream = stream_on(terminal)
    for start in range(0, len(document), size):
        stream.feed(document[start : start + size])
    stream.finish()
    letters = [c for c in "".join(terminal.lines()) if c.isalpha()]
    rendered = [c for c in render_document(document, 200, colour=False) if c.isalpha()]
    hidden = set("pythonlt")  # the info string of a fence and entities are shown in raw text only
    in_order = sorted if "|" in document else list  # cells that wrap change the order
    assert in_order(c for c in letters if c not in hidden) == in_order(c for c in rendered if c not in hidden)
    assert terminal.screen.cursor.x == 0 or not letters


def test_the_rendered_text_is_what_rich_itself_would_show() -> None:
    from rich.console import Console
    from rich.markdown import Markdown

    document = (
        "# Head\n\nSome *text* with `code`.\n\n- a\n- b\n\n1. x\n2. y\n\n> quote\n\n| a | b |\n|--|--|\n| 1 | 2 |\n"
    )
    console = Console(file=io.StringIO(), width=60)
    console.print(Markdown(document))
    assert isinstance(console.file, io.StringIO)
    assert render_document(document, 60, colour=False).split() == console.file.getvalue().split()


def test_a_code_block_of_5000_lines_is_whole_in_the_scrollback_and_leaves_no_junk() -> None:
    code = [f"value_{n} = {n}  # line {n}" for n in range(5000)]
    started_s = time.process_time()
    sent: list[str] = []
    stream = MarkdownStream(sent.append, lambda: 80, lambda: 24, ANSI)
    for line in ["```python", *code, "```", "Done."]:
        stream.feed(line[:7])
        stream.feed(line[7:] + "\n")
    stream.finish()
    assert time.process_time() - started_s < 30  # a reparse of all text so far would take hours
    terminal = Terminal()
    terminal.write("".join(sent))
    assert terminal.lines() == [*(f"  {line}" for line in code), "", "Done."]


def test_a_list_taller_than_the_screen_commits_its_items_and_keeps_counting() -> None:
    document = "".join(f"{n}. item {n}\n" for n in range(1, 61))
    terminal = shown(document, rows=10)
    assert [line.split() for line in terminal.lines()] == [[str(n), "item", str(n)] for n in range(1, 61)]


def test_a_paragraph_taller_than_the_screen_stays_as_raw_text_once() -> None:
    text = " ".join(f"word{n}" for n in range(400))
    terminal = shown([*text, "\n\nNext *one*."], rows=8, columns=30)
    assert "".join(terminal.lines()).replace(" ", "") == (text + "Nextone.").replace(" ", "")
    assert terminal.lines()[-1] == "Next one."


def test_a_table_taller_than_the_screen_stays_raw_and_whole() -> None:
    rows = [f"| {n} | x |" for n in range(40)]
    terminal = shown("\n".join(["| a | b |", "|---|---|", *rows, "", "After."]), rows=10)
    assert [line for line in terminal.lines() if line.startswith("| ")] == ["| a | b |", *rows]
    assert terminal.lines()[-1] == "After."


def test_a_tail_drawn_before_a_resize_is_never_erased_but_left_standing() -> None:
    terminal = Terminal()
    stream = stream_on(terminal)
    terminal.write("precious\n")
    stream.feed("half a *para")
    terminal.screen.resize(columns=40, lines=20)
    stream.feed("graph*\n\nnext *block*\n\n")
    stream.finish()
    assert terminal.lines() == ["precious", "half a *paragraph*", "", "next block"]


def test_a_storm_of_resizes_loses_no_text() -> None:
    terminal = Terminal(60, 20)
    stream = stream_on(terminal)
    document = "# a\n\nsome text\n\n- b\n- c\n\n```\ncode\n```\n\nend\n"
    for n, character in enumerate(document):
        terminal.screen.resize(columns=60 + n % 3, lines=20)
        stream.feed(character)
    stream.finish()
    assert [w for w in terminal.words() if w] == ["a", "some", "text", "b", "c", "code", "end"]


def test_the_unfinished_tail_is_visible_as_it_grows() -> None:
    terminal = Terminal()
    stream = stream_on(terminal)
    stream.feed("# Head\nsome *unfin")
    assert terminal.lines() == ["Head", "", "some *unfin"]
    stream.feed("ished*")
    assert terminal.lines()[-1] == "some *unfinished*"
    stream.feed("\n\n")
    assert terminal.lines()[-1] == "some unfinished"


def test_a_voided_tail_is_erased_without_a_trace() -> None:
    terminal = Terminal()
    stream = stream_on(terminal)
    terminal.write("before\n")
    stream.feed("half an ans")
    stream.void()
    assert terminal.lines() == ["before"]
    assert not stream.open


def test_a_void_message_that_is_partly_committed_gets_one_mark_under_it() -> None:
    terminal = Terminal()
    stream = stream_on(terminal)
    stream.feed("First block.\n\nsecond bl")
    stream.void()
    stream.feed("Anew.\n")
    stream.finish()
    assert terminal.lines() == ["First block.", VOID_MARK, "Anew."]


def test_a_message_stopped_by_the_reader_stays_readable_and_is_marked() -> None:
    terminal = Terminal()
    stream = stream_on(terminal)
    stream.feed("half an ans")
    stream.void(erase=False)
    assert terminal.lines() == ["half an ans", VOID_MARK]


def test_a_hidden_tail_makes_room_for_a_line_and_comes_back_with_the_next_delta() -> None:
    terminal = Terminal()
    stream = stream_on(terminal)
    stream.feed("one t")
    stream.hide()
    terminal.write("a step\n")
    stream.feed("wo")
    assert terminal.lines() == ["a step", "one two"]
    stream.hide()
    stream.void()
    assert terminal.lines() == ["a step"]


@pytest.mark.parametrize(
    "text", ["漢" * 90, "e\u0301" * 200, "❤️" * 60, "👩‍👩‍👧" * 30, "\t" * 25, "🇩🇪" * 50, "x" * 80, "x" * 160]
)
def test_erasing_counts_rows_right_for_every_width_of_character(text: str) -> None:
    terminal = Terminal(40, 24)
    stream = stream_on(terminal)
    terminal.write("before\n")
    for character in text:
        stream.feed(character)
    stream.void()
    terminal.write("after\n")
    assert terminal.lines() == ["before", "after"]


HOSTILE = [
    "\x1b]52;c;aGk=\x07",
    "\x1b[2J",
    "\x9b31m",
    "\x1b]0;title\x1b\\",
    "\u202eevil",
    "a\rb",
    "\x08\x08",
    "\x00",
    "\U000e0041",
]
WRAPPINGS = [
    "{}", "`{}`", "```\n{}\n```\n", "```{}\nx\n```\n", "[{}](http://a)", "[a](<http://{}>)", "<http://a/{}>",
    "# {}\n", "- {}\n", "| {} |\n|--|\n| {} |\n", "> {}\n", "![{}]({})",
]  # fmt: skip
FOREIGN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
OURS = re.compile(r"\x1b\[[\d;]*[mAJK]|\r")


@pytest.mark.parametrize("theme", [ANSI, PLAIN])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_no_foreign_control_character_reaches_the_terminal(theme: Theme, wrapping: str) -> None:
    for hostile in HOSTILE:
        for size in (1, 1000):
            document = wrapping.replace("{}", hostile)
            sent: list[str] = []
            stream = MarkdownStream(sent.append, lambda: 40, lambda: 24, theme)
            for start in range(0, len(document), size):
                stream.feed(document[start : start + size])
            stream.finish()
            assert not FOREIGN.search(OURS.sub("", "".join(sent)))
            assert "\x1b]" not in "".join(sent)


@pytest.mark.parametrize("entity", ["&#27;[31m", "&#x202e;", "&#155;", "&#x1b;]52;c;x&#7;", "&rlm;", "&#xe0041;"])
def test_entities_are_cleaned_after_the_parser_decoded_them(entity: str) -> None:
    sent = "".join(shown([entity, " and `", entity, "`\n"]).sent)
    assert not FOREIGN.search(OURS.sub("", sent))
    assert "\u200f" not in sent


def test_there_are_no_hyperlinks_and_the_address_is_visible() -> None:
    terminal = shown(["See [the bank](https://evil.example/x)."])
    assert terminal.lines() == ["See the bank (https://evil.example/x)."]


def test_nothing_the_model_wrote_vanishes() -> None:
    terminal = shown(["<div>one</div>\n\n[ref]: http://two.x\n\n![three](http://four.x) <br> five"])
    assert {"one", "ref", "two", "three", "four", "br", "five"} <= set(terminal.words())


def test_a_block_too_wide_for_the_terminal_is_shown_as_typed_instead_of_being_cut() -> None:
    table = "| " + " | ".join(f"column{n}" for n in range(12)) + " |\n" + "|--" * 12 + "|\n"
    assert render_document(table, 20, colour=True) == table
    deep = "".join(f"{'  ' * depth}- level{depth}\n" for depth in range(9))
    assert render_document(deep, 20, colour=True) == deep


def test_without_a_terminal_there_is_only_the_text_as_it_came() -> None:
    sent: list[str] = []
    stream = MarkdownStream(sent.append, lambda: 80)
    stream.feed("# He")
    stream.feed("ad\n\n**bold**")
    stream.finish()
    assert "".join(sent) == "# Head\n\n**bold**\n"


def test_without_colour_a_terminal_gets_no_styles() -> None:
    terminal = Terminal()
    stream = stream_on(terminal, Theme(moves=True, colour=False, unicode=True))
    stream.feed("# Head\n\n```python\nimport os\n```\n\nx")
    stream.void()
    assert not re.search(r"\x1b\[[\d;]*m", "".join(terminal.sent))


def test_a_character_costs_few_bytes() -> None:
    assert [row for row in run() if not row.holds] == []


def test_blocks_are_finished_when_no_later_line_can_change_them() -> None:
    def finished(text: str) -> list[bool]:
        return [block.finished for block in blocks_of(text.splitlines(keepends=True))]

    assert finished("# head\n") == [True]
    assert finished("para\n") == [False]
    assert finished("para\n\n") == [True]
    assert finished("- item\n\n") == [False]
    assert finished("- item\n\npara\n") == [True, False]
    assert finished("```\ncode\n\n") == [False]
    assert finished("````\n```\n") == [False]
    assert finished("```\ncode\n```\n") == [True]
    assert finished("a | b\n--|--\n1 | 2\n") == [False]
