"""Foreign text cannot move the cursor, forge a line or show a secret."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import safe_text
from safe_text import (
    HELD_CHARS_MAX,
    MASK,
    StreamMask,
    clean,
    encodable,
    mask,
    masked,
    one_line,
    register_secret,
    shorten,
)

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=60)


@given(ANY_TEXT)
@settings(max_examples=300, deadline=None)
def test_cleaned_text_has_no_control_character_but_newline_and_tab(text: str) -> None:
    for character in clean(text):
        assert character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs")
        assert character not in "\u202e\u2066\u200f"
    clean(text).encode()


@given(ANY_TEXT, st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_cleaning_piece_by_piece_is_the_same_as_at_once(text: str, at: int) -> None:
    assert clean(text[:at]) + clean(text[at:]) == clean(text)


@given(ANY_TEXT)
@settings(max_examples=200, deadline=None)
def test_one_line_is_one_line(text: str) -> None:
    assert len(one_line(text, 40)) <= 40
    assert one_line(text).splitlines() in ([], [one_line(text)])


def test_an_escape_sequence_is_visible_and_harmless() -> None:
    assert clean("\x1b]52;c;aGk=\x07") == "␛]52;c;aGk=␇"
    assert clean("a\r\nb\rc") == "a\nbc"
    assert clean("\x9b2J") == "�2J"


def test_ordinary_text_of_any_script_is_untouched() -> None:
    text = "Grüße, 你好, שלום, 👩‍👩‍👧, e\u0301\n\ttab"
    assert clean(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "key sk-ant-api03-AAAABBBBCCCCDDDD end",
        "Authorization: Bearer abcdefgh12345678",
        "AIzaSyA1234567890abcdefghijklmnop",
        "tvly-abcdefgh1234",
    ],
)
def test_things_shaped_like_keys_are_masked(text: str) -> None:
    assert MASK in mask(text)
    assert "AAAABBBB" not in mask(text)
    assert "abcdefgh1234" not in mask(text)


def test_the_longer_of_two_secrets_is_masked_first() -> None:
    register_secret("inner-secret-1")
    register_secret("outer-inner-secret-1-more")
    register_secret("inner-secret-1")
    assert mask("outer-inner-secret-1-more inner-secret-1") == f"{MASK} {MASK}"


PIECES = ("sk-ant-", "sk-", "AIza", "tvly-", "BSA", "bearer ", "BeAREr\t", "abcdefgh1234", "://", "@", "é", " ", "x")


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_masking_finds_what_its_patterns_find(text: str) -> None:
    found = safe_text._URL_PASSWORD.sub(MASK, safe_text._KEY_SHAPES.sub(MASK, safe_text._mask_known(text)))
    assert mask(text) == found


def test_registered_secrets_and_passwords_in_urls_are_masked_everywhere() -> None:
    register_secret("hunter2hunter2")
    register_secret("abc")  # too short to be told from words
    assert mask("pw=hunter2hunter2;") == f"pw={MASK};"
    assert mask("abc") == "abc"
    assert mask("http://user:pass@proxy:8080/") == f"http://{MASK}@proxy:8080/"
    assert masked({"a": ["hunter2hunter2", 1, None]}) == {"a": [MASK, 1, None]}


SECRET_TEXTS = [
    "your key is sk-ant-api03-AAAABBBBCCCCDDDD, keep it",
    "risk-ant-AAAABBBBCCCC",
    "Authorization: Bearer abcdefgh12345678\nnext",
    "AIzaSyA1234567890abcdefghijklmnop tvly-abcdefgh1234 BSAabcdefghij1234567890ab",
    "see http://user:hunter3@proxy:8080/ or https://en.wikipedia.org/wiki/Otter",
    "mamamamamia-9 and mamamamamia-9mamamamamia-9",
    "bus, but not a secret: sk- AI tv BS bear",
]


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


@given(st.sampled_from(SECRET_TEXTS) | ANY_TEXT, st.lists(st.integers(0, 80), max_size=8))
@settings(max_examples=300, deadline=None)
def test_a_secret_is_masked_however_it_is_split(text: str, cuts: list[int]) -> None:
    register_secret("mamamamamia-9")
    stream = StreamMask()
    shown = "".join(stream.feed(piece) for piece in pieces(text, cuts)) + stream.rest()
    assert shown == mask(text)


def test_what_cannot_begin_a_secret_is_shown_at_once() -> None:
    stream = StreamMask()
    assert stream.feed("It is **345") == "It is **345"
    assert stream.feed("**, as") == "**, a"
    assert stream.feed(" sk") == "s "
    assert stream.feed("y") == "sky"
    assert stream.rest() == ""


def test_what_waits_is_bounded() -> None:
    stream = StreamMask()
    assert stream.feed("sk-" + "-" * (HELD_CHARS_MAX - 3)) == ""
    assert stream.feed("-") != ""


def test_lone_surrogates_are_replaced_and_pairs_become_what_they_mean() -> None:
    assert encodable("a\ud800b").encode()
    assert encodable("\ud83d\ude00") == "😀"
    assert encodable("plain") == "plain"


def test_shortening_marks_the_cut() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abc", 4) == "abc"
