"""A circuit breaker shared through a real Redis: what it decides, how often it asks, and who gets a probe."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import stores.redis_scripts
from breaker_policy import CountWindow
from circuit_breaker import BreakerPolicy, CircuitBreaker, Permit, State
from circuit_breaker_redis import KEEP_S, SharedBreaker, SharedPermit
from circuit_breaker_script import read
from errors import CircuitOpen, Outcome
from events import CircuitClosed, CircuitHalfOpened, CircuitOpened, Event
from flow import Script
from stores.redis_scripts import RedisScripts
from tests.support_redis import NEEDS_REDIS, Moving, OnClock, Server, serving
from tests.support_rules import Clock

pytestmark = NEEDS_REDIS
SUCCESS, FAILURE, THROTTLED, NEUTRAL = Outcome.SUCCESS, Outcome.FAILURE, Outcome.THROTTLED, Outcome.NEUTRAL
ROOT = Path(__file__).parent.parent
NAMES = (f"it{number}" for number in itertools.count())


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores.redis_scripts, "WAIT_S", 10.0)  # how long one waits is the subject of another file


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from serving()


class Counting(RedisScripts):
    """Counts the round trips."""

    asked = 0

    def run(self, script: Script) -> Any:
        self.asked += 1
        return super().run(script)

    async def run_async(self, script: Script) -> Any:
        self.asked += 1
        return await super().run_async(script)


class Process:
    """A breaker as one process has it: a client, a clock and ears of its own."""

    def __init__(self, server: Server, name: str, policy: BreakerPolicy | None = None, **options: Any) -> None:
        self.run, self.clock, self.heard = Counting(server.url), Moving(), list[Event]()
        policy = policy or BreakerPolicy(failure_threshold=2, open_s=0.2)
        self.breaker = SharedBreaker(name, policy, run=self.run, now=self.clock, listener=self.heard.append, **options)

    def admitted(self, lease_s: float | None = None) -> SharedPermit | None:
        try:
            return self.breaker.acquire(lease_s)
        except CircuitOpen:
            return None

    def report(self, *outcomes: Outcome) -> None:
        for outcome in outcomes:
            self.breaker.acquire().settle(outcome)

    def later(self, s: float = 1.0) -> None:
        """What is known here is that much older."""
        self.clock.offset_s += s


def keys_of(server: Server) -> list[str]:
    return sorted(server.do("KEYS", "*"))


def wait_for_probes(process: Process) -> None:
    """Until the server's clock says that the open time is over."""
    end_s = time.monotonic() + 5
    while process.breaker.state is State.OPEN:
        assert time.monotonic() < end_s
        time.sleep(0.02)


# --- against the Python state machine --------------------------------------------------------------------


def said(event: Event | None) -> str | None:
    return type(event).__name__ if event is not None else None


class LuaAgainstPython(RuleBasedStateMachine):
    """Any sequence of calls, reports and waits ends as it does in `circuit_breaker.py`."""

    permits = Bundle("permits")
    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(1_700_000_000.0)
        self.begin_anew(2, 1, 1, 10.0, 1.0)

    @rule(
        failures=st.integers(1, 3),
        successes=st.integers(1, 3),
        probes=st.integers(1, 3),
        open_s=st.sampled_from([0.0, 10.0]),
        growth=st.sampled_from([1.0, 2.5]),
    )
    def begin_anew(self, failures: int, successes: int, probes: int, open_s: float, growth: float) -> None:
        policy = BreakerPolicy(
            failure_threshold=failures, success_threshold=successes, max_probes=probes, open_s=open_s,
            open_s_growth=growth,
        )  # fmt: skip
        self.local = CircuitBreaker("it", policy, now=self.clock)
        name = next(NAMES)
        self.shared = SharedBreaker(name, policy, run=OnClock(self.server, self.clock), now=self.clock)

    @rule(target=permits, lease_s=st.sampled_from([1.5, 5.0, 100.0]))
    def acquire(self, lease_s: float) -> tuple[CircuitBreaker, Permit | None, SharedPermit | None]:
        self.clock.now_s += 1.0  # by now what was known is too old to be used
        answers: list[Any] = []
        for breaker in (self.local, self.shared):
            try:
                answers.append(breaker.acquire(lease_s))
            except CircuitOpen as rejected:
                answers.append(rejected)
        own, shared = answers
        assert type(own) is not CircuitOpen or type(shared) is CircuitOpen
        if isinstance(own, CircuitOpen):
            assert shared.retry_after_s == pytest.approx(own.retry_after_s, abs=0.002)
            return self.local, None, None
        assert said(own.event) == said(shared.event)
        return self.local, own, shared

    @rule(
        held=consumes(permits),
        outcome=st.sampled_from([SUCCESS, FAILURE, FAILURE, NEUTRAL, THROTTLED]),
        asked_s=st.sampled_from([0.0, 3.0, 40.0, 1000.0]),
        twice=st.booleans(),
    )
    def settle(self, held: tuple[Any, Any, Any], outcome: Outcome, asked_s: float, twice: bool) -> None:
        breaker, own, shared = held
        if own is None or breaker is not self.local:
            return
        assert said(shared.settle(outcome, asked_s)) == said(own.settle(outcome, asked_s))
        assert self.shared.not_before_s == self.local.not_before_s
        if twice:
            assert shared.settle(FAILURE) is None

    @rule(s=st.sampled_from([0.0, 1.0, 4.0, 10.0, 300.0]))
    def wait(self, s: float) -> None:
        self.clock.now_s += s

    @invariant()
    def they_agree(self) -> None:
        own, shared = self.local.snapshot(), self.shared.snapshot()
        assert (shared.state, shared.failures_in_a_row) == (own.state, own.failures_in_a_row)
        assert not self.shared._link.away


def test_the_script_decides_as_the_python_state_machine_does(server: Server) -> None:
    LuaAgainstPython.server = server
    machine: Any = LuaAgainstPython.TestCase
    machine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
    machine("runTest").runTest()


# --- what is shared --------------------------------------------------------------------------------------


def test_a_circuit_opened_by_one_process_is_open_in_another_within_a_second(server: Server) -> None:
    one, other = Process(server, "shared"), Process(server, "shared")
    other.report(SUCCESS)  # it knows of a closed circuit
    one.report(FAILURE, FAILURE)
    other.later(0.96)
    assert other.admitted() is None
    assert one.heard == [CircuitOpened("shared", 2, 0.2)]
    assert other.heard == []  # told by the one that caused it


def test_failures_of_several_processes_add_up_and_a_success_ends_the_row(server: Server) -> None:
    policy = BreakerPolicy(failure_threshold=3, open_s=60)
    one, other = Process(server, "row", policy), Process(server, "row", policy)
    one.report(FAILURE)
    other.report(FAILURE)
    assert other.breaker.snapshot().failures_in_a_row == 2
    other.report(SUCCESS)
    one.report(FAILURE, FAILURE)
    assert one.breaker.state is State.CLOSED
    other.report(FAILURE)
    assert other.breaker.state is State.OPEN


def test_a_success_nobody_heard_of_still_ends_the_row(server: Server) -> None:
    policy = BreakerPolicy(failure_threshold=2, open_s=60)
    one, other = Process(server, "unheard", policy), Process(server, "unheard", policy)
    other.report(SUCCESS)  # now it knows of a circuit without failures, for a while
    one.report(FAILURE)
    time.sleep(0.01)
    asked = other.run.asked
    other.report(SUCCESS)
    assert other.run.asked == asked
    time.sleep(0.01)
    other.report(FAILURE)
    assert other.breaker.state is State.CLOSED


def test_a_probe_is_one_among_all_processes_and_its_verdict_closes_for_all(server: Server) -> None:
    one, other = Process(server, "probe"), Process(server, "probe")
    one.report(FAILURE, FAILURE)
    wait_for_probes(one)
    probe = other.admitted()
    assert probe is not None
    assert probe.event == CircuitHalfOpened("probe")
    assert one.admitted() is None
    assert probe.settle(SUCCESS) == CircuitClosed("probe")
    one.later()
    assert one.admitted() is not None
    assert one.breaker.state is State.CLOSED


def test_a_released_probe_frees_its_place_with_the_next_call_of_its_process(server: Server) -> None:
    one = Process(server, "released")
    one.report(FAILURE, FAILURE)
    wait_for_probes(one)
    probe = one.admitted()
    assert probe is not None
    probe.release()
    again = one.admitted()
    assert again is not None
    assert again.event is None


def test_a_late_verdict_of_a_probe_whose_place_was_taken_is_dropped(server: Server) -> None:
    one, other = Process(server, "late"), Process(server, "late")
    one.report(FAILURE, FAILURE)
    wait_for_probes(one)
    late = one.admitted(0.05)
    time.sleep(0.08)
    assert late is not None
    assert other.admitted() is not None
    assert late.settle(SUCCESS) is None
    assert one.breaker.state is State.HALF_OPEN


def test_what_a_call_reports_after_another_process_changed_the_state_is_dropped(server: Server) -> None:
    one, other = Process(server, "stale"), Process(server, "stale")
    old = [one.admitted(), one.admitted()]
    other.report(FAILURE, FAILURE)
    wait_for_probes(other)
    other.report(SUCCESS)
    assert other.breaker.state is State.CLOSED
    for permit in old:
        assert permit is not None
        permit.settle(FAILURE)
    other.later()
    other.report(NEUTRAL)
    assert other.breaker.state is State.CLOSED
    assert other.breaker.snapshot().failures_in_a_row == 0


def test_a_window_is_judged_by_each_process_and_what_it_concludes_is_shared(server: Server) -> None:
    policy = BreakerPolicy(window=CountWindow(size=4, failure_rate=0.5, calls_min=4), open_s=60)
    one, other = Process(server, "window", policy), Process(server, "window", policy)
    one.report(SUCCESS, FAILURE, SUCCESS, FAILURE)
    assert [said(event) for event in one.heard] == ["CircuitOpened"]
    assert other.admitted() is None


def test_the_skins_judge_as_the_local_breaker_does(server: Server) -> None:
    process = Process(server, "skins")

    @process.breaker
    def broken() -> None:
        raise ConnectionError("no")

    @process.breaker
    async def fine() -> int:
        return 7

    with pytest.raises(ConnectionError):
        broken()
    assert process.breaker.snapshot().failures_in_a_row == 1

    async def scenario() -> None:
        assert await fine() == 7
        await process.run.aclose()

    asyncio.run(scenario())
    assert process.breaker.snapshot().failures_in_a_row == 0
    with pytest.raises(ConnectionError), process.breaker.permit():
        raise ConnectionError("no")
    with pytest.raises(KeyboardInterrupt), process.breaker.permit():
        raise KeyboardInterrupt
    assert process.breaker.snapshot().failures_in_a_row == 1
    with process.breaker.permit() as permit:
        permit.settle(FAILURE)
    with pytest.raises(CircuitOpen):
        broken()


def test_a_cancelled_probe_on_asyncio_blames_nobody_and_gives_its_place_back(server: Server) -> None:
    process = Process(server, "cancelled")
    process.report(FAILURE, FAILURE)
    wait_for_probes(process)

    async def scenario() -> None:
        async def call() -> None:
            async with process.breaker.permit():
                started.set()
                await asyncio.sleep(60)

        started = asyncio.Event()
        task = asyncio.create_task(call())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        permit = await process.breaker.acquire_async()
        await permit.settle_async(SUCCESS)
        await process.run.aclose()

    asyncio.run(scenario())
    assert process.breaker.state is State.CLOSED


# --- what it costs ---------------------------------------------------------------------------------------


def test_a_healthy_circuit_asks_once_a_second_at_most(server: Server) -> None:
    process = Process(server, "healthy")
    process.report(*[SUCCESS] * 50)
    assert process.run.asked == 1
    for _ in range(9):
        process.later(0.25)
        process.report(*[SUCCESS] * 20)
    assert process.run.asked <= 4
    assert [one for one in keys_of(server) if "healthy" in one] == []


def test_an_open_circuit_is_not_asked_about_until_its_end(server: Server) -> None:
    process = Process(server, "quiet", BreakerPolicy(failure_threshold=1, open_s=60))
    process.report(FAILURE)
    asked = process.run.asked
    for _ in range(20):
        process.later(1.0)
        assert process.admitted() is None
        with pytest.raises(CircuitOpen):
            process.breaker.peek()
    assert process.run.asked == asked


def test_every_key_ends_by_itself_and_a_refusal_does_not_prolong_it(server: Server) -> None:
    one, other = Process(server, "ttl"), Process(server, "ttl")
    one.report(FAILURE, FAILURE)
    wait_for_probes(one)
    assert one.admitted() is not None
    mine = [name for name in keys_of(server) if "{ttl}" in name]
    assert mine == ["unflappable:{ttl}:breaker:v1", "unflappable:{ttl}:probes:v1"]
    for name in mine:
        assert 0 < server.do("PTTL", name) <= (KEEP_S + 200) * 1000
        server.do("PEXPIRE", name, 40_000)
    assert other.admitted() is None
    other.later()
    assert other.admitted() is None
    assert all(server.do("PTTL", name) <= 40_000 for name in mine)


# --- many processes --------------------------------------------------------------------------------------

_CHILD = """
import sys, threading
sys.path.insert(0, sys.argv[1])
import stores.redis_scripts
stores.redis_scripts.WAIT_S = 10.0
from circuit_breaker import BreakerPolicy
from circuit_breaker_redis import SharedBreaker
from errors import AgentError, CircuitOpen
from flow import Script
from stores.redis_scripts import RedisScripts

policy = BreakerPolicy(failure_threshold=1, open_s=0.05, max_probes=3)
run = RedisScripts.from_url(sys.argv[2])
breaker = SharedBreaker("many", policy, run=run)

def together(act):
    barrier = threading.Barrier(16)
    threads = [threading.Thread(target=lambda: (barrier.wait(), act())) for _ in range(16)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()

def connect():
    try: run.run(Script("nothing", "return redis.call('PING')", (), ()))
    except AgentError: pass  # a slow start of 128 threads is not the subject

def ask():
    try: got.append(breaker.acquire(float(line)))
    except CircuitOpen: pass

together(connect)
print("ready", flush=True)
for line in sys.stdin:
    got = []
    together(ask)
    print(len(got), breaker._link.away, flush=True)
"""


def test_eight_processes_of_sixteen_threads_get_exactly_k_probes_and_again_when_a_holder_died(server: Server) -> None:
    lease_s = 2.5
    opener = Process(server, "many", BreakerPolicy(failure_threshold=1, open_s=0.05, max_probes=3))
    command = [sys.executable, "-c", _CHILD, str(ROOT), server.url]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(8)
    ]

    def ask_all() -> list[int]:
        for child in children:
            assert child.stdin is not None
            child.stdin.write(f"{lease_s}\n")
        answers = [child.stdout.readline().split() for child in children if child.stdout is not None]
        assert [away for _, away in answers] == ["False"] * len(answers)
        return [int(count) for count, _ in answers]

    try:
        assert [child.stdout.readline().strip() for child in children if child.stdout] == ["ready"] * 8
        opener.report(FAILURE)
        wait_for_probes(opener)
        got = ask_all()
        assert sum(got) == 3
        asked_s = time.monotonic()
        holder = children.pop(next(number for number, count in enumerate(got) if count))
        holder.kill()
        holder.communicate()
        time.sleep(max(0.0, asked_s + lease_s - time.monotonic()) + 0.05)
        assert sum(ask_all()) == 3
    finally:
        for child in children:
            child.kill()
            child.communicate()


# --- what a reply must look like -------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [None, b"rubbish", [], [1, 2], [1, 0, 0, 0, 0, 0, b"1"], [1, 0, 0, 0, 0, -1, 0]])
def test_a_reply_of_another_shape_is_rubbish(reply: Any) -> None:
    with pytest.raises(ValueError, match="rubbish"):
        read(reply)


def test_a_breaker_needs_somebody_who_runs_its_scripts() -> None:
    with pytest.raises(TypeError, match="run"):
        SharedBreaker("it")
