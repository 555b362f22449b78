"""Every door keeps the same contract with flows; what only one door can do is tested for it alone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from doors.aio import AsyncDoor
from doors.blocking import BlockingDoor, Stopped
from doors.threads import ABANDONED_MAX, ToolCrashed, Worker
from doors.virtual import Stuck, VirtualDoor
from errors import AgentError, AttemptTimedOut, OutcomeUnknown
from events import NoticeGiven
from flow import (
    Fetch,
    Flow,
    Gate,
    HttpReply,
    HttpRequest,
    attempt,
    awaiting,
    blocking,
    emit,
    fetch,
    pause,
    together,
    within,
)
from tests.support import Doors, Heard

ROOT = Path(__file__).parent.parent


def test_a_flow_that_does_nothing_returns_its_value(doors: Doors) -> None:
    def flow() -> Flow[int]:
        return 7
        yield

    assert doors.run(flow()) == 7


def test_events_are_stamped_with_the_scopes_around_them_and_numbered(doors: Doors) -> None:
    def inner() -> Flow[None]:
        yield from emit(NoticeGiven("in"))

    def flow() -> Flow[None]:
        yield from within({"call": "c1", "tool": "t"}, inner())
        yield from emit(NoticeGiven("out"))

    doors.run(flow(), {"turn": "t1"})
    first, second = doors.heard.stamped
    assert first.scope == {"turn": "t1", "call": "c1", "tool": "t"}
    assert second.scope == {"turn": "t1"}
    assert (first.sequence, second.sequence) == (1, 2)
    assert first.monotonic_s <= second.monotonic_s


def test_a_listener_that_raises_harms_nobody(doors: Doors) -> None:
    def broken(stamped: object) -> None:
        raise RuntimeError("screen gone")

    def flow() -> Flow[str]:
        yield from emit(NoticeGiven("x"))
        return "fine"

    heard = Heard()
    if doors.name == "virtual":
        virtual = VirtualDoor(listeners=[broken, heard])
        assert virtual.run(flow()) == "fine"
        assert virtual.bus.dropped == 1
    elif doors.name == "blocking":
        assert BlockingDoor(listeners=[broken, heard]).run(flow()) == "fine"
    else:
        assert asyncio.run(AsyncDoor(listeners=[broken, heard]).run(flow())) == "fine"
    assert len(heard.events) == 1


def test_errors_are_thrown_into_the_flow_that_asked(doors: Doors) -> None:
    def failing() -> Flow[None]:
        yield from pause(0)
        raise AgentError("no", reason="overloaded")

    def flow() -> Flow[str]:
        try:
            yield from attempt(failing(), 5)
        except AgentError as error:
            return error.reason
        return "not reached"

    assert doors.run(flow()) == "overloaded"


def test_an_error_nobody_catches_reaches_the_caller(doors: Doors) -> None:
    def flow() -> Flow[None]:
        yield from pause(0)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        doors.run(flow())


def test_yielding_a_generator_says_did_you_mean_yield_from(doors: Doors) -> None:
    def flow() -> Flow[None]:
        yield pause(0)  # type: ignore[misc]

    with pytest.raises(TypeError, match="did you mean `yield from`"):
        doors.run(flow())


def test_an_unknown_effect_is_named(doors: Doors) -> None:
    with pytest.raises(TypeError, match="Fetch"):
        doors.run(fetch(HttpRequest("GET", "http://127.0.0.1/")))


def test_world_effects_are_performed_by_who_was_handed_in(doors: Doors) -> None:
    doors.world[Fetch] = lambda effect: HttpReply(200, {}, effect.request.url.encode())
    assert doors.run(fetch(HttpRequest("GET", "http://x/"))).body == b"http://x/"


def test_an_attempt_ends_at_its_time_and_the_flow_inside_is_closed(doors: Doors) -> None:
    closed: list[str] = []

    def slow() -> Flow[None]:
        try:
            yield from pause(30)
        finally:
            closed.append("inside")

    def flow() -> Flow[AttemptTimedOut]:
        try:
            yield from attempt(slow(), 0.02)
        except AttemptTimedOut as error:
            assert closed == ["inside"]
            return error
        raise AssertionError("no timeout")

    error = doors.run(flow())
    assert (error.limit_s, error.silent) == (0.02, False)


def test_an_inner_attempt_fires_first_and_the_outer_one_goes_on(doors: Doors) -> None:
    def flow() -> Flow[str]:
        try:
            yield from attempt(pause(30), 0.02)
        except AttemptTimedOut:
            yield from pause(0.01)
        return "went on"

    assert doors.run(attempt(flow(), 5)) == "went on"


def test_an_outer_attempt_ends_the_inner_one_without_its_flow_seeing_an_error(doors: Doors) -> None:
    seen: list[str] = []

    def inner() -> Flow[None]:
        try:
            yield from attempt(pause(30), 20)
        except Exception as error:
            seen.append(type(error).__name__)
            raise

    with pytest.raises(AttemptTimedOut) as caught:
        doors.run(attempt(inner(), 0.02))
    assert caught.value.limit_s == 0.02
    assert seen == []


def test_the_time_of_the_outer_attempt_survives_inner_ones(doors: Doors) -> None:
    def flow() -> Flow[None]:
        for _ in range(100):
            try:
                yield from attempt(pause(30), 0.02)
            except AttemptTimedOut:
                continue

    with pytest.raises(AttemptTimedOut) as caught:
        doors.run(attempt(flow(), 0.1))
    assert caught.value.limit_s == 0.1


def test_together_gives_results_in_the_order_asked(doors: Doors) -> None:
    def branch(number: int) -> Flow[int]:
        yield from pause(0.02 - number * 0.005)
        return number

    assert doors.run(together([branch(n) for n in range(4)])) == [0, 1, 2, 3]
    assert doors.run(together([])) == []
    assert doors.run(together([branch(3)])) == [3]


def test_together_runs_side_by_side_where_the_door_can() -> None:
    virtual = VirtualDoor()
    start_s = virtual.now()
    virtual.run(together([pause(5), pause(5), pause(5)]))
    assert virtual.now() - start_s == 5


def test_a_timeout_around_together_closes_every_branch(doors: Doors) -> None:
    closed: list[int] = []

    def branch(number: int) -> Flow[None]:
        try:
            yield from pause(30)
        finally:
            closed.append(number)

    with pytest.raises(AttemptTimedOut):
        doors.run(attempt(together([branch(0), branch(1)]), 0.02))
    assert 0 in closed  # the blocking door had not started the second one yet


def test_a_blocking_call_runs_and_its_errors_come_back(doors: Doors) -> None:
    def fails(gate: Gate) -> None:
        raise OSError("disk")

    assert doors.run(blocking(lambda gate: 3 * 5)) == 15
    with pytest.raises(OSError, match="disk"):
        doors.run(blocking(fails))


def test_a_coroutine_function_runs(doors: Doors) -> None:
    async def seven() -> int:
        return 7

    assert doors.run(awaiting(seven)) == 7


# --- real time: what a virtual clock cannot show ----------------------------------------------------------


@pytest.fixture(params=["blocking", "asyncio"])
def real(request: pytest.FixtureRequest) -> Doors:
    return Doors(request.param)


def test_an_unclaimed_call_that_overruns_is_abandoned_and_never_acts(real: Doors) -> None:
    go, tried, acted = threading.Event(), threading.Event(), []

    def call(gate: Gate) -> None:
        go.wait(10)
        if gate.claim():
            acted.append("acted")
        tried.set()

    with pytest.raises(AttemptTimedOut):
        real.run(attempt(blocking(call), 0.05))
    go.set()
    assert tried.wait(10)
    assert acted == []


def test_a_claimed_call_that_ends_in_its_grace_wins_over_the_timeout(real: Doors) -> None:
    claimed = threading.Event()

    def call(gate: Gate) -> str:
        assert gate.claim()
        claimed.set()
        time.sleep(0.08)  # past the limit, inside the grace: the race itself is the subject
        return "written"

    assert real.run(attempt(blocking(call), 0.05)) == "written"


def test_after_a_late_result_the_flow_may_not_go_on(real: Doors) -> None:
    went_on: list[str] = []

    def call(gate: Gate) -> str:
        gate.claim()
        time.sleep(0.08)
        return "written"

    def flow() -> Flow[None]:
        yield from blocking(call)
        yield from pause(0.01)
        went_on.append("yes")

    with pytest.raises(AttemptTimedOut):
        real.run(attempt(flow(), 0.05))
    assert went_on == []


def test_a_claimed_call_that_never_comes_back_is_unknown(real: Doors) -> None:
    release = threading.Event()

    def call(gate: Gate) -> None:
        gate.claim()
        release.wait(10)

    started_s = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        real.run(attempt(blocking(call), 0.05))
    assert time.monotonic() - started_s < 0.4
    release.set()


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])
def test_a_tool_that_raises_to_end_the_program_only_fails_itself(real: Doors, raised: type[BaseException]) -> None:
    def plain(gate: Gate) -> None:
        raise raised

    async def coroutine() -> None:
        raise raised

    with pytest.raises(ToolCrashed):
        real.run(blocking(plain))
    with pytest.raises(ToolCrashed):
        real.run(awaiting(coroutine))


def test_a_coroutine_that_cancels_itself_is_a_crash_not_a_cancel(real: Doors) -> None:
    async def cancels() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ToolCrashed):
        real.run(awaiting(cancels))


def test_a_hanging_coroutine_ends_by_the_timeout(real: Doors) -> None:
    async def hangs() -> None:
        await asyncio.Event().wait()

    with pytest.raises(AttemptTimedOut):
        real.run(attempt(awaiting(hangs), 0.05))


def test_too_many_calls_left_behind_refuse_new_ones() -> None:
    worker, release = Worker(), threading.Event()
    for _ in range(ABANDONED_MAX):
        gate = Gate()
        running = worker.start(lambda gate: release.wait(10), gate, lambda: None)
        gate.abandon()
        running.leave()
    with pytest.raises(AgentError, match="still hang"):
        worker.start(lambda gate: None, Gate(), lambda: None)
    release.set()
    done = threading.Event()
    deadline_s = time.monotonic() + 10
    while worker.left_behind and time.monotonic() < deadline_s:
        done.wait(0.001)
    assert worker.left_behind == 0


def test_silence_ends_an_attempt_and_hearing_something_restarts_it() -> None:
    async def drip(effect: Any, branch: Any) -> str:
        for _ in range(6):
            await asyncio.sleep(0.03)
            branch.heard()
        return "whole"

    async def mute(effect: Any, branch: Any) -> None:
        branch.heard()
        await asyncio.Event().wait()

    async def run(performer: Any) -> Any:
        door = AsyncDoor({Fetch: performer})
        return await door.run(attempt(fetch(HttpRequest("GET", "http://x/")), 5, silence_s=0.1))

    assert asyncio.run(run(drip)) == "whole"
    with pytest.raises(AttemptTimedOut) as caught:
        asyncio.run(run(mute))
    assert caught.value.silent


def test_silence_counts_from_what_was_heard_last() -> None:
    heard_s = [0.0]

    async def stops(effect: Any, branch: Any) -> None:
        for _ in range(4):
            await asyncio.sleep(0.03)
            branch.heard()
        heard_s[0] = time.monotonic()
        await asyncio.Event().wait()

    async def run() -> None:
        await AsyncDoor({Fetch: stops}).run(attempt(fetch(HttpRequest("GET", "http://x/")), 60, silence_s=0.1))

    with pytest.raises(AttemptTimedOut) as caught:
        asyncio.run(run())
    silent_s = time.monotonic() - heard_s[0]
    assert (caught.value.limit_s, caught.value.silent) == (0.1, True)
    assert 0.09 < silent_s < 10


def test_a_silence_longer_than_the_attempt_is_no_silence() -> None:
    async def mute(effect: Any, branch: Any) -> None:
        branch.heard()
        await asyncio.Event().wait()

    async def run() -> None:
        await AsyncDoor({Fetch: mute}).run(attempt(fetch(HttpRequest("GET", "http://x/")), 0.05, silence_s=0.05))

    with pytest.raises(AttemptTimedOut) as caught:
        asyncio.run(run())
    assert not caught.value.silent


def test_silence_in_the_blocking_door() -> None:
    def drip(effect: Any, branch: Any) -> str:
        for _ in range(6):
            time.sleep(0.03)
            branch.heard()
        return "whole"

    def mute(effect: Any, branch: Any) -> None:
        branch.heard()
        time.sleep(30)

    exchange = HttpRequest("GET", "http://x/")
    answer: Any = BlockingDoor({Fetch: drip}).run(attempt(fetch(exchange), 5, silence_s=0.1))
    assert answer == "whole"
    with pytest.raises(AttemptTimedOut) as caught:
        BlockingDoor({Fetch: mute}).run(attempt(fetch(exchange), 5, silence_s=0.1))
    assert caught.value.silent
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_silence_on_the_virtual_clock_ends_a_model_that_only_pings() -> None:
    def drip(effect: Any, branch: Any) -> Flow[str]:
        for _ in range(10):
            yield from pause(20)
            branch.heard()
        return "whole"

    def mute(effect: Any, branch: Any) -> Flow[str]:
        yield from pause(10_000)
        return "never"

    exchange = HttpRequest("GET", "http://x/")
    door = VirtualDoor({Fetch: drip})
    answer: Any = door.run(attempt(fetch(exchange), 1_000, silence_s=30))
    assert answer == "whole"
    door = VirtualDoor({Fetch: mute})
    start_s = door.now()
    with pytest.raises(AttemptTimedOut) as caught:
        door.run(attempt(fetch(exchange), 1_000, silence_s=30))
    assert (caught.value.silent, door.now() - start_s) == (True, 30)


def test_a_cancelled_task_closes_the_flow_and_throws_nothing_into_it() -> None:
    seen: list[str] = []

    def flow() -> Flow[None]:
        try:
            yield from pause(30)
        except Exception:
            seen.append("error")
        finally:
            seen.append("closed")

    async def run() -> None:
        task = asyncio.create_task(AsyncDoor().run(flow()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert seen == ["closed"]


def test_stopping_the_blocking_door_closes_the_flow_and_raises_stopped() -> None:
    seen: list[str] = []
    door = BlockingDoor()

    def flow() -> Flow[None]:
        try:
            yield from pause(30)
        finally:
            seen.append("closed")

    before = signal.signal(signal.SIGUSR1, lambda signum, frame: door.stop(signum))
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(Stopped) as caught:
            door.run(flow())
    finally:
        signal.signal(signal.SIGUSR1, before)
        timer.join()
    assert (caught.value.signum, seen) == (signal.SIGUSR1, ["closed"])


def test_a_virtual_run_that_waits_for_nothing_says_so() -> None:
    with pytest.raises(Stuck):
        VirtualDoor().run(pause(float("inf")))


def test_a_virtual_run_can_be_cancelled_at_any_time() -> None:
    door, seen = VirtualDoor(), []

    def flow() -> Flow[None]:
        try:
            yield from pause(30)
        finally:
            seen.append(door.now())

    start_s = door.now()
    with pytest.raises(KeyboardInterrupt):
        door.run(flow(), cancel_at_s=start_s + 12)
    assert seen == [start_s + 12]


def test_a_hanging_thread_or_name_lookup_does_not_hold_the_exit() -> None:
    code = (
        "import asyncio, time\n"
        "from doors.aio import AsyncDoor\n"
        "from flow import attempt, blocking\n"
        "async def main():\n"
        "    try: await AsyncDoor().run(attempt(blocking(lambda gate: time.sleep(60)), 0.05))\n"
        "    except Exception as error: print(type(error).__name__)\n"
        "    asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "AttemptTimedOut"


def test_a_stop_that_comes_while_a_late_call_is_waited_for_is_still_a_stop() -> None:
    release = threading.Event()
    gate = Gate()

    def call(gate: Gate) -> None:
        gate.claim()
        release.wait(10)

    async def run() -> None:
        task = asyncio.create_task(AsyncDoor().run(attempt(blocking(call, gate), 0.05)))
        await asyncio.sleep(0.1)  # past the limit, inside the grace: the race itself is the subject
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    release.set()
    assert gate.claimed


def test_an_alarm_that_strikes_while_a_listener_is_told_waits_for_it() -> None:
    told: list[str] = []

    def slow(stamped: Any) -> None:
        told.append("begun")
        end_s = time.monotonic() + 0.1
        while time.monotonic() < end_s:
            pass
        told.append("ended")

    def perform(effect: Any, branch: Any) -> str:
        branch.emit(NoticeGiven("x"))
        told.append("went on")
        return "late"

    door = BlockingDoor({Fetch: perform}, listeners=[slow])
    with pytest.raises(AttemptTimedOut):
        door.run(attempt(fetch(HttpRequest("GET", "http://x/")), 0.05))
    assert told == ["begun", "ended"]


class Lingering:
    """Its finalizer takes long, and Python swallows whatever is raised inside."""

    def __init__(self, meanwhile: Any = lambda: None) -> None:
        self._meanwhile = meanwhile

    def __del__(self) -> None:
        self._meanwhile()
        time.sleep(0.15)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this platform")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_alarm_that_a_finalizer_swallows_rings_again() -> None:
    def perform(effect: Any, branch: Any) -> None:
        Lingering()
        time.sleep(5)

    door = BlockingDoor({Fetch: perform})
    begun_s = time.monotonic()
    with pytest.raises(AttemptTimedOut):
        door.run(attempt(fetch(HttpRequest("GET", "http://x/")), 0.1))
    assert time.monotonic() - begun_s < 1


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this platform")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_a_finalizer_swallows_comes_again() -> None:
    def perform(effect: Any, branch: Any) -> None:
        Lingering(lambda: door.stop(signal.SIGINT))
        time.sleep(5)

    door = BlockingDoor({Fetch: perform})
    begun_s = time.monotonic()
    with pytest.raises(Stopped):
        door.run(fetch(HttpRequest("GET", "http://x/")))
    assert time.monotonic() - begun_s < 1
