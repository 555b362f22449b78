"""The bulkhead: never more than its places, never a wait, every place comes back."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

import bulkhead as bulkhead_module
from bulkhead import Bulkhead, Place
from errors import BulkheadFull, ConfigurationError, ErrorType, classify_error, outcome_of
from tests.support_rules import run_together


def test_there_are_sixteen_places_unless_told_otherwise() -> None:
    bulkhead = Bulkhead()
    places = [bulkhead.enter() for _ in range(16)]
    assert bulkhead.taken == 16
    with pytest.raises(BulkheadFull):
        bulkhead.enter()
    places[3].leave()
    bulkhead.enter()


def test_a_refusal_is_fresh_names_the_dependency_and_blames_nobody() -> None:
    bulkhead = Bulkhead("search.wikipedia", places=1)
    bulkhead.enter()
    errors = []
    for _ in range(2):
        with pytest.raises(BulkheadFull) as refused:
            bulkhead.enter()
        errors.append(refused.value)
    assert errors[0] is not errors[1]
    assert errors[0].dependency == "search.wikipedia"
    assert "search.wikipedia is not asked: 1 " in str(errors[0])
    assert (outcome_of(errors[0]), classify_error(errors[0])) == (None, ErrorType.TRANSIENT)
    assert (errors[0].__cause__, errors[0].__suppress_context__) == (None, True)


def test_leaving_again_gives_nothing_more_back() -> None:
    bulkhead = Bulkhead(places=2)
    mine, _other = bulkhead.enter(), bulkhead.enter()
    for _ in range(5):
        mine.leave()
    assert bulkhead.taken == 1
    bulkhead.enter()
    mine.leave()
    with pytest.raises(BulkheadFull):
        bulkhead.enter()


@pytest.mark.parametrize("places", [0, -1])
def test_a_bulkhead_without_places_is_refused(places: int) -> None:
    with pytest.raises(ConfigurationError, match="places"):
        Bulkhead(places=places)


class BulkheadAgainstSet(RuleBasedStateMachine):
    """A set of those inside is all there is to it."""

    entered = Bundle("entered")

    @initialize(places=st.integers(1, 4))
    def begin(self, places: int) -> None:
        self.bulkhead, self.places = Bulkhead(places=places), places
        self.inside: set[Place] = set()

    @rule(target=entered)
    def enter(self) -> Place:
        place = self.bulkhead.place()
        try:
            place.__enter__()
        except BulkheadFull:
            assert len(self.inside) == self.places
        else:
            assert len(self.inside) < self.places
            self.inside.add(place)
        return place

    @rule(place=entered)
    def leave(self, place: Place) -> None:
        place.leave()
        self.inside.discard(place)

    @invariant()
    def they_agree(self) -> None:
        assert self.bulkhead.taken == len(self.inside)


TestBulkheadAgainstSet = BulkheadAgainstSet.TestCase
TestBulkheadAgainstSet.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)


def test_exactly_as_many_threads_as_places_get_in_and_every_place_comes_back() -> None:
    bulkhead = Bulkhead(places=3)
    got: list[Place] = []
    counts: list[tuple[int, int]] = []

    def act(thread: int, number: int) -> None:
        try:
            got.append(bulkhead.enter())
        except BulkheadFull:
            return

    def between(number: int) -> None:
        inside = len(got)
        for place in got:
            place.leave()
        counts.append((inside, bulkhead.taken))
        got.clear()

    run_together(bulkhead_module, rounds=300, threads=6, act=act, between=between)
    assert counts == [(3, 0)] * 300


def test_many_threads_that_leave_one_place_give_one_place_back() -> None:
    bulkhead = Bulkhead(places=2)
    stays = bulkhead.enter()
    shared = [bulkhead.enter()]
    taken: list[int] = []

    def between(number: int) -> None:
        taken.append(bulkhead.taken)
        shared[0] = bulkhead.enter()

    run_together(bulkhead_module, rounds=200, threads=4, act=lambda thread, number: shared[0].leave(), between=between)
    assert taken == [1] * 200
    stays.leave()


# --- the skins -------------------------------------------------------------------------------------------

Skin = Callable[[Bulkhead, Callable[[], Any]], Any]


def by_decorator(bulkhead: Bulkhead, act: Callable[[], Any]) -> Any:
    return bulkhead(act)()


def by_place(bulkhead: Bulkhead, act: Callable[[], Any]) -> Any:
    with bulkhead.place():
        return act()


def by_async_decorator(bulkhead: Bulkhead, act: Callable[[], Any]) -> Any:
    @bulkhead
    async def call() -> Any:
        await asyncio.sleep(0)
        return act()

    return asyncio.run(call())


def by_async_place(bulkhead: Bulkhead, act: Callable[[], Any]) -> Any:
    async def call() -> Any:
        async with bulkhead.place():
            await asyncio.sleep(0)
            return act()

    return asyncio.run(call())


every_skin = pytest.mark.parametrize("skin", [by_decorator, by_place, by_async_decorator, by_async_place])


@every_skin
def test_a_call_has_a_place_while_it_runs_and_leaves_it_however_it_ends(skin: Skin) -> None:
    bulkhead = Bulkhead(places=1)
    assert skin(bulkhead, lambda: bulkhead.taken) == 1
    assert bulkhead.taken == 0
    for error in (RuntimeError("boom"), KeyboardInterrupt(), asyncio.CancelledError()):

        def act(error: BaseException = error) -> Any:
            raise error

        with pytest.raises(type(error)) as caught:
            skin(bulkhead, act)
        assert caught.value is error
        assert bulkhead.taken == 0


@every_skin
def test_a_full_bulkhead_refuses_at_once_and_calls_nothing(skin: Skin) -> None:
    bulkhead, calls = Bulkhead(places=1), list[int]()
    with bulkhead.place(), pytest.raises(BulkheadFull):
        skin(bulkhead, lambda: calls.append(1))
    assert not calls
    skin(bulkhead, lambda: calls.append(1))
    assert calls == [1]


def test_a_cancelled_task_leaves_its_place() -> None:
    async def scenario() -> None:
        bulkhead = Bulkhead(places=1)
        task = asyncio.ensure_future(bulkhead(asyncio.Event().wait)())
        await asyncio.sleep(0)
        assert bulkhead.taken == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bulkhead.taken == 0

    asyncio.run(scenario())


def test_a_call_that_hangs_in_one_thread_does_not_hold_up_the_others() -> None:
    bulkhead, inside, over = Bulkhead(places=2), threading.Event(), threading.Event()

    @bulkhead
    def hang() -> None:
        inside.set()
        assert over.wait(timeout=20)

    thread = threading.Thread(target=hang)
    thread.start()
    assert inside.wait(timeout=20)
    assert bulkhead(lambda: 42)() == 42
    over.set()
    thread.join()
    assert bulkhead.taken == 0


def test_one_place_cannot_hold_two_calls() -> None:
    bulkhead = Bulkhead(places=2)
    place = bulkhead.place()
    with place, pytest.raises(RuntimeError, match="for each call"):
        place.__enter__()
    assert bulkhead.taken == 0


def test_a_bare_with_is_not_offered() -> None:
    assert not hasattr(Bulkhead, "__enter__")
    assert not hasattr(Bulkhead, "__aenter__")


def test_generators_are_refused_with_the_way_out() -> None:
    def plain() -> Iterator[int]:
        yield 1

    async def asynchronous() -> Any:
        yield 1

    for function in (plain, asynchronous, functools.partial(plain)):
        with pytest.raises(TypeError, match=r"with bulkhead\.place"):
            Bulkhead()(function)
    with pytest.raises(TypeError, match="decorates functions"):
        Bulkhead()(3)  # type: ignore[arg-type]
