"""An old answer is kept, aged, bounded and found again however the question is spelled."""

from __future__ import annotations

import threading
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from toolbox.cache import LastGood, age_in_words


def test_an_answer_comes_back_with_its_age() -> None:
    cache: LastGood[str] = LastGood()
    cache.put("Berlin", "sun", 100.0)
    assert cache.get("Berlin", 160.0) == ("sun", 60.0)


def test_nothing_is_known_that_was_never_put() -> None:
    cache: LastGood[str] = LastGood()
    assert cache.get("Berlin", 0.0) is None


def test_spelling_does_not_matter_but_the_words_do() -> None:
    cache: LastGood[str] = LastGood()
    cache.put("  São   PAULO ", "rain", 0.0)
    assert cache.get(unicodedata.normalize("NFD", "são paulo"), 1.0) == ("rain", 1.0)
    assert cache.get("sao paulo", 1.0) is None


def test_an_answer_older_than_the_limit_is_no_answer() -> None:
    cache: LastGood[str] = LastGood(age_s_max=10.0)
    cache.put("a", "1", 0.0)
    assert cache.get("a", 10.0) == ("1", 10.0)
    assert cache.get("a", 10.1) is None
    assert cache.get("a", 5.0) is None  # dropped for good


def test_the_least_recently_used_answer_goes_first() -> None:
    cache: LastGood[int] = LastGood(entries_max=2)
    cache.put("a", 1, 0.0)
    cache.put("b", 2, 0.0)
    assert cache.get("a", 0.0) == (1, 0.0)
    cache.put("c", 3, 0.0)
    assert cache.get("b", 0.0) is None
    assert cache.get("a", 0.0) == (1, 0.0)
    assert cache.get("c", 0.0) == (3, 0.0)


def test_a_newer_answer_replaces_the_older_one() -> None:
    cache: LastGood[int] = LastGood()
    cache.put("a", 1, 0.0)
    cache.put("A", 2, 5.0)
    assert cache.get("a", 5.0) == (2, 0.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60))
def test_it_never_grows_and_never_answers_another_question(steps: list[tuple[int, bool]]) -> None:
    cache: LastGood[int] = LastGood(entries_max=4)
    for at, (key, put) in enumerate(steps):
        if put:
            cache.put(str(key), key, float(at))
        elif (found := cache.get(str(key), float(at))) is not None:
            assert found[0] == key
    assert sum(cache.get(str(key), len(steps)) is not None for key in range(10)) <= 4


def test_threads_can_share_it() -> None:
    cache: LastGood[int] = LastGood(entries_max=3)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for at in range(500):
                cache.put(str((at * seed) % 7), at, float(at))
                cache.get(str(at % 7), float(at))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_ages_are_said_in_words() -> None:
    assert [age_in_words(s) for s in (3, 300, 5000, 7200, 80000, 400000)] == [
        "under a minute", "5 min", "83 min", "2 h", "22 h",
        "5 days",
    ]  # fmt: skip
