"""The mechanism: gates decided exactly once, a bus that survives its listeners, and the two small drivers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events import NoticeGiven, Stamped
from flow import Blocking, Bus, Flow, Gate, blocking, done, drive, drive_async, emit, not_an_effect, pause

# --- gates ----------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_the_first_to_come_decides_a_gate_for_ever(claims: list[bool]) -> None:
    gate = Gate()
    answers = [gate.claim() if claims_it else gate.abandon() for claims_it in claims]
    assert answers == [claims_it == claims[0] for claims_it in claims]
    assert gate.claimed is claims[0]


def test_exactly_one_side_wins_a_gate_however_threads_race() -> None:
    sides = 8
    with ThreadPoolExecutor(sides) as pool:
        for _ in range(200):
            gate, start = Gate(), threading.Barrier(sides)

            def race(side: int, gate: Gate = gate, start: threading.Barrier = start) -> bool:
                start.wait(10)
                return gate.claim() if side % 2 else gate.abandon()

            answers = list(pool.map(race, range(sides)))
            claimed, abandoned = set(answers[1::2]), set(answers[0::2])
            assert (claimed, abandoned) in (({True}, {False}), ({False}, {True}))
            assert gate.claimed is claimed.pop()


def test_a_gate_keeps_what_its_call_came_back_with() -> None:
    gate, problem = Gate(), ValueError("no")
    assert not gate.settled.is_set()
    gate.settle(error=problem)
    assert gate.settled.is_set()
    assert (gate.result, gate.error) == (None, problem)


def test_each_blocking_effect_has_a_gate_of_its_own_unless_it_is_handed_one() -> None:
    def gate_of(flow: Flow[None]) -> Gate:
        effect = next(flow)
        assert isinstance(effect, Blocking)
        return effect.gate

    mine = Gate()
    assert gate_of(blocking(lambda gate: None, mine)) is mine
    assert gate_of(blocking(lambda gate: None)) is not gate_of(blocking(lambda gate: None))


# --- the bus --------------------------------------------------------------------------------------------


def test_every_listener_gets_the_same_stamp_and_numbers_count_from_one() -> None:
    first: list[Stamped] = []
    second: list[Stamped] = []
    bus = Bus([first.append, second.append], now=lambda: 5.0, wall=lambda: 99.0)
    bus.tell(NoticeGiven("a"), {"turn": "t"})
    bus.tell(NoticeGiven("b"), {})
    assert first == second
    assert [(one.sequence, one.scope, one.monotonic_s, one.wall_s) for one in first] == [
        (1, {"turn": "t"}, 5.0, 99.0),
        (2, {}, 5.0, 99.0),
    ]


def test_a_listener_that_raises_is_dropped_and_counted_and_the_next_one_still_hears() -> None:
    heard: list[Stamped] = []

    def broken(stamped: Stamped) -> None:
        raise OSError("screen gone")

    bus = Bus([broken, heard.append], now=float, wall=float)
    for _ in range(3):
        bus.tell(NoticeGiven("x"), {})
    assert (bus.dropped, len(heard)) == (3, 3)


def test_a_listener_cannot_swallow_what_ends_the_program() -> None:
    def leaving(stamped: Stamped) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Bus([leaving], now=float, wall=float).tell(NoticeGiven("x"), {})


# --- the two small drivers ------------------------------------------------------------------------------

Driver = Callable[[Flow[object], list[float]], object]


def driven(flow: Flow[object], pauses: list[float]) -> object:
    return drive(flow, sleep=pauses.append)


def driven_async(flow: Flow[object], pauses: list[float]) -> object:
    async def sleep(s: float) -> None:
        pauses.append(s)

    return asyncio.run(drive_async(flow, sleep=sleep))


@pytest.fixture(params=[driven, driven_async], ids=["plain", "async"])
def driver(request: pytest.FixtureRequest) -> Driver:
    found: Driver = request.param
    return found


def test_drivers_sleep_drop_events_and_return_the_result(driver: Driver) -> None:
    def flow() -> Flow[object]:
        yield from pause(0.5)
        yield from emit(NoticeGiven("nobody listens"))
        yield from pause(0)
        return "done"

    pauses: list[float] = []
    assert driver(flow(), pauses) == "done"
    assert pauses == [0.5, 0]


def test_drivers_refuse_other_effects_and_close_the_flow(driver: Driver) -> None:
    closed: list[bool] = []

    def flow() -> Flow[object]:
        try:
            return (yield from blocking(lambda gate: "never"))
        finally:
            closed.append(True)

    with pytest.raises(TypeError, match="cannot perform"):
        driver(flow(), [])
    assert closed == [True]


def test_an_error_of_the_flow_reaches_the_caller_as_it_is(driver: Driver) -> None:
    def flow() -> Flow[object]:
        yield from pause(1)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        driver(flow(), [])


def test_a_driver_that_is_stopped_in_its_sleep_closes_the_flow_and_throws_nothing_in() -> None:
    seen: list[str] = []

    def flow() -> Flow[None]:
        try:
            yield from pause(60)
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    def stopped(s: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(flow(), sleep=stopped)

    async def cancelled() -> None:
        task = asyncio.create_task(drive_async(flow()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert seen == ["GeneratorExit", "GeneratorExit"]


@settings(max_examples=20)
@given(st.integers() | st.none() | st.text())
def test_done_is_a_flow_that_has_its_answer_already(value: object) -> None:
    assert drive(done(value)) == value


def test_a_forgotten_from_is_named() -> None:
    assert "did you mean `yield from`?" in str(not_an_effect(pause(1)))
    assert "42" in str(not_an_effect(42))
