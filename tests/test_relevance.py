"""Results about something else are noticed, and results about the thing itself are hardly ever doubted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolbox.relevance import Doubt, doubt_of

BREAD = "How to keep a sourdough starter\nhttps://bread.example/1\nFeed it with flour and water each day."


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ("rust language", "Rust, a programming tool"),
        ("running shoes test", "The best place for a run: shop"),  # `run` is not there, `shoes` is not: see below
        ("Pythn generators", "Python: yield"),
        ("cafe in paris", "Das Café am Platz"),
        ("Crème brûlée", "creme dessert"),
        ("2026 elections", "What happens in 2026"),
        ("openai ceo", "https://openai.com/about"),
        ("Wetter Hamburg", "Der Hamburger Hafen"),
        ("天気 東京", "東京の観光"),
        ("погода москва", "Москва — столица"),
        ("Donaudampfschiff", "Dampfer auf der Donau"),
        ("who is it", "anything at all"),
        ("x", "anything at all"),
        ("?!", "anything at all"),
        ("it-security", "IT & security news"),
    ],
)
def test_one_mention_is_enough_and_words_of_every_query_count_for_nothing(query: str, result: str) -> None:
    if query.startswith("running"):
        assert doubt_of(query, [result]) is Doubt.STRONG  # beginnings of four characters, no shorter ones
    else:
        assert doubt_of(query, [BREAD, result]) is Doubt.NONE


@pytest.mark.parametrize(
    "query", ["otters in scotland", "Höhe Zugspitze", "who won the 2026 elections", "nuclear fusion"]
)
def test_results_that_mention_nothing_of_several_words_are_doubted_aloud(query: str) -> None:
    assert doubt_of(query, [BREAD, BREAD]) is Doubt.STRONG


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ("otters", BREAD),  # one word may well be answered by its synonym
        ("天気 東京", BREAD),
        ("погода москва", BREAD),
        ("weather tokyo", "東京の天気と観光の案内、今日と明日"),
    ],
)
def test_one_word_or_another_script_is_doubted_quietly(query: str, result: str) -> None:
    assert doubt_of(query, [result]) is Doubt.WEAK


def test_where_nothing_was_found_there_is_nothing_to_doubt() -> None:
    assert doubt_of("otters in scotland", []) is Doubt.NONE
    assert doubt_of("otters in scotland", ["", " \n"]) is Doubt.NONE


@given(st.text(max_size=40), st.lists(st.text(max_size=40), max_size=3))
def test_any_text_can_be_judged_and_a_result_that_quotes_the_query_is_never_doubted(
    query: str, results: list[str]
) -> None:
    assert doubt_of(query, results) in Doubt
    assert doubt_of(query, [*results, query]) is Doubt.NONE
