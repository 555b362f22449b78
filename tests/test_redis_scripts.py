"""Redis in every kind of trouble: one bounded wait, one warning, the local breaker, and all is well again by itself."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from circuit_breaker import BreakerPolicy, State
from circuit_breaker_redis import SharedBreaker
from doors.aio import AsyncDoor
from doors.blocking import BlockingDoor
from errors import AgentError, AttemptTimedOut, CircuitOpen, ConfigurationError, Outcome
from events import Event, RedisBack, RedisUnavailable
from faults import FaultPlan, parse_fault
from flow import Script, attempt
from rate_limiter import LimiterPolicy
from rate_limiter_redis import SharedBucket
from redis_link import WAIT_S, RedisLink
from stores.redis_scripts import CONNECTIONS_MAX, RedisScripts
from tests.support_redis import NEEDS_REDIS, Moving, Server

pytestmark = NEEDS_REDIS
SUCCESS, FAILURE = Outcome.SUCCESS, Outcome.FAILURE
BOUND_S = 0.25
"""What the promise allows for one wait; what a loaded machine adds to it is `SLACK_S`."""
SLACK_S = 0.15
PING = Script("ping", "return redis.call('PING')", (), ())


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    try:
        yield server.start()
    finally:
        server.close()


class Process:
    """One process that shares: a link, a breaker, a bucket, and ears."""

    def __init__(self, url: str, name: str = "x", plan: FaultPlan | None = None) -> None:
        self.heard: list[Event] = []
        self.clock = Moving()
        self.run = RedisScripts.from_url(url, plan)
        self.link = RedisLink(self.run.identity, now=self.clock)
        self.breaker = SharedBreaker(
            name, BreakerPolicy(failure_threshold=2, open_s=60), run=self.run, link=self.link, now=self.clock,
            listener=self.heard.append,
        )  # fmt: skip
        self.bucket = SharedBucket(
            name, LimiterPolicy(per_minute=6000, burst=1000), run=self.run, link=self.link, listener=self.heard.append
        )

    def of(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.heard)

    def calls(self, *outcomes: Outcome) -> float:
        """Calls, one after the other, each with a token; how long they took in all."""
        begun_s = time.monotonic()
        self.clock.offset_s += 0.96  # so that what was known is too old
        for outcome in outcomes:
            self.bucket.acquire()
            self.breaker.acquire().settle(outcome)
        return time.monotonic() - begun_s

    def redis_may_be_asked(self) -> None:
        self.clock.offset_s += 2.0


def survives(process: Process, heal: Callable[[], object]) -> None:
    """Trouble is on: calls go on with one bounded wait and one warning; once it is over all is shared again."""
    assert process.calls(SUCCESS, SUCCESS, FAILURE, SUCCESS) <= BOUND_S + SLACK_S
    assert (process.of(RedisUnavailable), process.of(RedisBack)) == (1, 0)
    process.redis_may_be_asked()
    assert process.calls(SUCCESS) <= BOUND_S + SLACK_S
    assert (process.of(RedisUnavailable), process.of(RedisBack)) == (1, 0)  # one outage, one warning
    assert process.link.away
    heal()
    process.redis_may_be_asked()
    process.calls(SUCCESS)
    assert (process.of(RedisUnavailable), process.of(RedisBack)) == (1, 1)
    assert not process.link.away


# --- the nemesis -----------------------------------------------------------------------------------------


def test_it_survives_a_redis_that_is_down_from_the_start(server: Server) -> None:
    server.kill()
    survives(Process(server.url), server.start)


def test_it_survives_a_redis_that_is_killed(server: Server) -> None:
    process = Process(server.url)
    process.calls(SUCCESS)
    server.kill()
    survives(process, server.start)


def test_it_survives_a_redis_that_hangs(server: Server) -> None:
    process = Process(server.url)
    process.calls(SUCCESS)
    server.pause()
    survives(process, server.resume)


def test_it_survives_a_redis_that_accepts_and_never_answers(server: Server) -> None:
    process = Process(server.url)
    server.do("CLIENT", "PAUSE", 60_000, "ALL")

    def heal() -> None:
        server.kill()
        server.start()

    survives(process, heal)


def test_it_survives_a_replica_that_may_not_be_written(server: Server) -> None:
    process = Process(server.url)
    process.calls(SUCCESS)
    server.do("REPLICAOF", "127.0.0.1", "1")
    survives(process, lambda: server.do("REPLICAOF", "NO", "ONE"))


def test_it_survives_a_full_memory(server: Server) -> None:
    process = Process(server.url)
    process.calls(SUCCESS)
    server.do("CONFIG", "SET", "maxmemory", "1")
    survives(process, lambda: server.do("CONFIG", "SET", "maxmemory", "0"))


def test_it_survives_a_redis_that_is_busy_with_a_script(server: Server) -> None:
    process = Process(server.url)
    process.calls(SUCCESS)
    server.do("CONFIG", "SET", "busy-reply-threshold", "1")
    client = server.client()

    def keep_busy() -> None:
        with pytest.raises(Exception, match=r"[Uu]ser|[Kk]ill"):
            client.eval("while true do end", 0)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    end_s = time.monotonic() + 5
    while time.monotonic() < end_s:
        try:
            server.do("PING")
        except Exception as error:  # the client's own class for BUSY; anything else would go on for five seconds
            if "BUSY" in str(error):
                break

    def heal() -> None:
        server.do("SCRIPT", "KILL")
        busy.join(5)

    survives(process, heal)
    client.close()


def test_it_survives_another_password(server: Server) -> None:
    admin = server.client()  # its connection stays logged in
    admin.execute_command("CONFIG", "SET", "requirepass", "right-one")
    process = Process(server.url.replace("redis://", "redis://:wrong-one@"))

    def heal() -> None:
        admin.execute_command("CONFIG", "SET", "requirepass", "wrong-one")
        admin.close()

    survives(process, heal)
    assert "password" in str(process.heard)
    assert "wrong-one" not in str(process.heard)


@contextmanager
def saying(reply: bytes) -> Iterator[str]:
    """A server that answers every command with the same bytes, or drips them; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    lines: list[socket.socket] = []

    def serve(line: socket.socket) -> None:
        try:
            while line.recv(65536):
                line.sendall(reply)
        except OSError:
            return

    def accept() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            lines.append(line)
            threading.Thread(target=serve, args=(line,), daemon=True).start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join(5)
        for line in lines:
            line.close()


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"-MOVED 3999 127.0.0.1:6381\r\n", "cluster"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "loading"),
        (b"-READONLY You can't write against a read only replica.\r\n", "replica"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", "memory is full"),
        (b"-NOAUTH Authentication required. redis://:hunter2@h\r\n", "password|NOAUTH"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "reached|error"),
        (b"$5\r\nhello\r\n", "rubbish"),
        (b":1\r\n", "rubbish"),
        (b"", "did not answer"),
    ],
)
def test_whatever_it_says_the_warning_is_in_our_own_words(reply: bytes, says: str) -> None:
    with saying(reply) as url:
        process = Process(url)
        assert process.calls(SUCCESS, SUCCESS) <= BOUND_S + SLACK_S
        (told,) = [event for event in process.heard if isinstance(event, RedisUnavailable)]
        assert re.search(says, told.why), told.why
        assert "hunter2" not in told.why
        process.run.close()


def test_it_survives_a_name_that_takes_for_ever_to_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process("redis://slow.example:6379")
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(20) and [])
    assert process.calls(SUCCESS, SUCCESS) <= BOUND_S + SLACK_S
    assert process.of(RedisUnavailable) == 1
    ended.set()


def test_it_survives_a_pool_that_is_used_up(server: Server) -> None:
    process = Process(server.url)
    pool = process.run._client.connection_pool
    taken = [pool.get_connection() for _ in range(CONNECTIONS_MAX)]

    def heal() -> None:
        for one in taken:
            pool.release(one)

    survives(process, heal)


# --- lost and poisoned state -----------------------------------------------------------------------------


def test_scripts_the_server_forgot_are_sent_again(server: Server) -> None:
    process = Process(server.url)
    process.calls(SUCCESS)
    server.do("SCRIPT", "FLUSH")
    process.calls(FAILURE, FAILURE)
    assert process.breaker.state is State.OPEN
    assert process.of(RedisUnavailable) == 0


def test_a_flushed_redis_gets_its_state_back_from_those_who_know_it(server: Server) -> None:
    one, other = Process(server.url), Process(server.url)
    one.calls(FAILURE, FAILURE)
    server.do("FLUSHALL")
    with pytest.raises(CircuitOpen):
        one.breaker.acquire()
    one.clock.offset_s += 61  # its open time is over for it, so it asks, and tells what it knows
    assert one.breaker.acquire().event is not None
    with pytest.raises(CircuitOpen):
        other.breaker.acquire()
    assert one.of(RedisUnavailable) == other.of(RedisUnavailable) == 0


def test_a_circuit_that_opened_while_redis_was_away_is_shared_when_it_is_back(server: Server) -> None:
    one, other = Process(server.url), Process(server.url)
    one.calls(SUCCESS)
    server.kill()
    one.calls(FAILURE, FAILURE)
    assert one.breaker.state is State.OPEN
    with pytest.raises(CircuitOpen):
        one.breaker.acquire()
    server.start()
    one.redis_may_be_asked()
    with pytest.raises(CircuitOpen):
        one.breaker.acquire()
    assert one.of(RedisBack) == 1
    with pytest.raises(CircuitOpen):
        other.breaker.acquire()


def test_a_circuit_that_the_others_closed_is_not_opened_again_by_one_that_was_cut_off(server: Server) -> None:
    one, other = Process(server.url), Process(server.url)
    one.calls(SUCCESS)
    plan = FaultPlan([parse_fault("redis:refused")])
    one.run._plan = plan  # its own partition: the others reach Redis
    one.calls(FAILURE, FAILURE)
    assert one.breaker.state is State.OPEN
    other.calls(FAILURE, FAILURE)  # a later generation
    server.do("HSET", "unflappable:{x}:breaker:v1", "until", 0)
    other.clock.offset_s += 61
    other.breaker.acquire().settle(SUCCESS)
    plan.clear()
    one.redis_may_be_asked()
    one.calls(SUCCESS)
    assert (one.breaker.state, other.breaker.state) == (State.CLOSED, State.CLOSED)


def test_the_local_breaker_is_warm_when_redis_goes(server: Server) -> None:
    one, other = Process(server.url), Process(server.url)
    other.calls(SUCCESS)
    one.calls(FAILURE, FAILURE)
    other.clock.offset_s += 1
    with pytest.raises(CircuitOpen):
        other.breaker.acquire()
    server.kill()
    with pytest.raises(CircuitOpen) as refused:  # it never saw a failure itself
        other.breaker.acquire()
    assert refused.value.retry_after_s == pytest.approx(59, abs=2)
    other.clock.offset_s += 61
    probe = other.breaker.acquire()
    with pytest.raises(CircuitOpen):
        other.breaker.acquire()
    probe.settle(SUCCESS)
    assert other.breaker.state is State.CLOSED


@pytest.mark.parametrize(
    "poison",
    [
        ("SET", "unflappable:{x}:breaker:v1", "rubbish"),
        ("RPUSH", "unflappable:{x}:breaker:v1", "a"),
        ("HSET", "unflappable:{x}:breaker:v1", "generation", "nan", "open", "inf"),
        ("HSET", "unflappable:{x}:breaker:v1", "generation", "9" * 40, "open", "1"),
        ("HSET", "unflappable:{x}:breaker:v1", "open", "-1"),
        ("SET", "unflappable:{x}:probes:v1", "rubbish"),
        ("ZADD", "unflappable:{x}:probes:v1", "inf", "no lease at all"),
        ("SET", "unflappable:{x}:bucket:v1", "rubbish"),
        ("HSET", "unflappable:{x}:bucket:v1", "level", "nan", "at", "inf"),
        ("SET", "unflappable:{x}:bookings:v1", "rubbish"),
        ("HSET", "unflappable:{x}:breaker:v2", "generation", "newer schema"),
    ],
)
def test_rubbish_in_the_keys_is_thrown_away(server: Server, poison: tuple[str, ...]) -> None:
    server.do(*poison)
    process = Process(server.url)
    process.calls(SUCCESS, FAILURE, FAILURE)
    assert process.breaker.state is State.OPEN
    assert process.of(RedisUnavailable) == 0


def test_rubbish_among_the_probes_holds_no_place(server: Server) -> None:
    process = Process(server.url)
    process.calls(FAILURE, FAILURE)
    process.clock.offset_s += 61
    server.do("HSET", "unflappable:{x}:breaker:v1", "until", 0)
    server.do("ZADD", "unflappable:{x}:probes:v1", "inf", "rubbish", 10**15, "a.1:5000")
    assert process.breaker.acquire().event is not None


def test_a_server_whose_clock_was_set_back_does_not_stay_open_for_longer_than_it_would(server: Server) -> None:
    process = Process(server.url)
    process.calls(FAILURE, FAILURE)
    server.do("HSET", "unflappable:{x}:breaker:v1", "until", 10**15)
    with pytest.raises(CircuitOpen) as refused:
        Process(server.url).breaker.acquire()
    assert refused.value.retry_after_s == pytest.approx(60, abs=1)


def test_keys_that_end_while_a_probe_runs_cost_one_more_probe(server: Server) -> None:
    process = Process(server.url)
    process.calls(FAILURE, FAILURE)
    server.do("HSET", "unflappable:{x}:breaker:v1", "until", 0)
    process.clock.offset_s += 61
    probe = process.breaker.acquire()
    server.do("DEL", "unflappable:{x}:breaker:v1", "unflappable:{x}:probes:v1")
    assert probe.settle(SUCCESS) is None
    process.clock.offset_s += 1
    again = process.breaker.acquire()
    assert again.settle(SUCCESS) is not None
    assert process.breaker.state is State.CLOSED


# --- the performer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["error", "hang", "slow=5", "refused", "reset", "auth", "garbage"])
def test_every_fault_of_redis_leads_to_the_local_breaker(server: Server, kind: str) -> None:
    plan = FaultPlan([parse_fault(f"redis:{kind}")])
    process = Process(server.url, plan=plan)
    survives(process, plan.clear)


def test_a_little_slowness_is_no_outage(server: Server) -> None:
    process = Process(server.url, plan=FaultPlan([parse_fault("redis:slow=0.02")]))
    process.calls(SUCCESS)
    assert process.of(RedisUnavailable) == 0


def test_failures_that_are_slow_to_arrive_are_still_in_a_row(server: Server) -> None:
    process = Process(server.url, plan=FaultPlan([parse_fault("redis:slow=0.05")]))
    process.calls(SUCCESS, FAILURE, FAILURE)
    assert process.breaker.state is State.OPEN


def test_on_asyncio_a_hang_is_bounded_and_other_tasks_go_on(server: Server) -> None:
    async def scenario() -> None:
        run = RedisScripts.from_url(server.url)
        assert await run.run_async(PING)
        server.pause()
        begun_s, ticks = time.monotonic(), 0
        asking = asyncio.create_task(run.run_async(PING))
        while not asking.done():
            await asyncio.sleep(0.01)
            ticks += 1
        with pytest.raises(AgentError, match="did not answer"):
            await asking
        assert time.monotonic() - begun_s <= BOUND_S + SLACK_S
        assert ticks > 3
        server.resume()
        await run.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_timeout_of_the_call_ends_the_wait_for_redis_at_once(server: Server, kind: str) -> None:
    run = RedisScripts.from_url(server.url)
    link = RedisLink(run.identity)
    server.pause()
    flow = attempt(link.asking(PING, lambda reply: reply), 0.05)
    begun_s = time.monotonic()

    async def scenario() -> None:
        try:
            await AsyncDoor({Script: run.perform_async}).run(flow)
        finally:
            await run.aclose()

    with pytest.raises(AttemptTimedOut):
        BlockingDoor({Script: run.perform}).run(flow) if kind == "blocking" else asyncio.run(scenario())
    assert time.monotonic() - begun_s < 0.15
    assert link.is_ready()  # who was cut short says nothing about Redis
    server.resume()


def test_a_cancelled_script_leaves_no_reply_behind_for_the_next(server: Server) -> None:
    async def scenario() -> None:
        run = RedisScripts.from_url(server.url)
        echo = "return ARGV[1]"
        assert await run.run_async(Script("echo", echo, (), ("0",))) == b"0"
        for number in range(20):
            server.pause()
            asking = asyncio.create_task(run.run_async(Script("echo", echo, (), ("late",))))
            await asyncio.sleep(0.001)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            server.resume()
            assert await run.run_async(Script("echo", echo, (), (str(number),))) == str(number).encode()
        await run.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["redis://:hunter2@127.0.0.1:1/0", "redis://hunter2:hunter2@[::1]:1/0"])
def test_no_error_holds_the_password(url: str) -> None:
    run = RedisScripts.from_url(url)
    with pytest.raises(AgentError) as failed:
        run.run(PING)
    shown = f"{failed.value!r} {failed.value.__cause__!r} {vars(failed.value)} {run!r}"
    assert "hunter2" not in shown
    assert failed.value.__suppress_context__
    with pytest.raises(ConfigurationError) as refused:
        RedisScripts.from_url("redis://:hunter2@h:hunter2/0")
    assert "hunter2" not in f"{refused.value!r} {vars(refused.value)}"


def test_without_the_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError) as refused:
        RedisScripts.from_url("redis://localhost")
    assert "uv sync --extra redis" in refused.value.what_now


def test_the_wait_is_within_the_promise() -> None:
    assert WAIT_S <= BOUND_S


def test_two_processes_never_have_the_same_name(server: Server) -> None:
    names: list[Any] = [RedisScripts.from_url(server.url).identity() for _ in range(2)]
    assert names[0] != names[1]
