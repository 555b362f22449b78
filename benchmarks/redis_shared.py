"""What a circuit breaker that processes share in Redis costs each call, closed and well.

A Redis of its own on the loopback, started for the run. The measure is one PING with the
same client: the price of asking Redis anything at all. Who stays below it does not ask Redis for
each call: ours acts on what it heard up to `FRESH_S` ago, and a row of its own shows what a
call costs that asks.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from typing import Any

from benchmarks.breakers import FAILURES, OPEN_S, nothing, nothing_async
from benchmarks.measuring import OURS, Contender, Contest, Function, Result, Unavailable, measured
from circuit_breaker_redis import FRESH_S, SharedBreaker
from stores.redis_scripts import RedisScripts

START_S = 5.0


async def run(rounds: int | None = None) -> list[Result]:
    """Start a Redis and measure; without one, say why not."""
    try:
        with serving() as port:
            async with contests(port) as some:
                return [await measured(contest, rounds=rounds) for contest in some]
    except Unavailable as reason:
        print(f"redis_shared: not measured: {reason}\n")
        return []


@contextlib.contextmanager
def serving() -> Iterator[int]:
    """The port of a Redis that runs as long as the block does. Raises Unavailable where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        raise Unavailable("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--loglevel"]
        server = subprocess.Popen([*command, "warning"], stdout=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield port
        finally:
            server.terminate()
            server.wait()


def _wait_for(port: int) -> None:
    end_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=START_S).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > end_s:
                raise Unavailable(f"redis-server does not answer after {START_S:g} s") from None
            time.sleep(0.01)


@contextlib.asynccontextmanager
async def contests(port: int) -> AsyncIterator[list[Contest]]:
    """Plain functions and coroutine functions, with the Redis on this port. Raises Unavailable without a client."""
    try:
        redis, redis_asyncio = import_module("redis"), import_module("redis.asyncio")
    except ImportError:
        raise Unavailable("the package redis is not installed") from None
    async with contextlib.AsyncExitStack() as ends:
        plain = ends.enter_context(contextlib.closing(redis.Redis(port=port)))
        loops = await ends.enter_async_context(contextlib.aclosing(redis_asyncio.Redis(port=port)))
        scripts = await ends.enter_async_context(contextlib.aclosing(RedisScripts(f"redis://127.0.0.1:{port}")))
        yield [_plain(plain, scripts, ends), _coroutine(loops, scripts)]


def _plain(client: Any, scripts: RedisScripts, ends: contextlib.AsyncExitStack) -> Contest:
    return Contest(
        name="redis-sync",
        title="breaker shared in Redis around a plain function",
        function=nothing,
        is_async=False,
        aim=1.0,
        leads=True,
        contenders=[
            Contender("PING", "redis.Redis().ping()", lambda _: client.ping),
            Contender(OURS, "@SharedBreaker(name, run=RedisScripts(url))", lambda f: _ours(scripts, f)),
            Contender("interlock-cb", "RedisStorage (asks once a second)", lambda f: _interlock(client, ends, f)),
            Contender("nopanic-redis", "@redis_circuit_breaker(client)", lambda f: _nopanic(client, f)),
            Contender("pybreaker", "CircuitRedisStorage", lambda f: _pybreaker(client, f)),
            Contender(f"{OURS}, asking", "the same, but each call asks Redis", lambda f: _asking(scripts, f)),
        ],
    )


def _coroutine(client: Any, scripts: RedisScripts) -> Contest:
    return Contest(
        name="redis-async",
        title="breaker shared in Redis around a coroutine function",
        function=nothing_async,
        is_async=True,
        aim=1.0,
        leads=True,
        contenders=[
            Contender("PING", "redis.asyncio.Redis().ping()", lambda _: client.ping),
            Contender(OURS, "@SharedBreaker(name, run=RedisScripts(url))", lambda f: _ours(scripts, f)),
            Contender("nopanic-redis", "@redis_circuit_breaker(client)", lambda f: _nopanic(client, f)),
            Contender(f"{OURS}, asking", "the same, but each call asks Redis", lambda f: _asking(scripts, f)),
        ],
        absent={"pybreaker": "its coroutines are Tornado's"},
    )


def _ours(scripts: RedisScripts, function: Function) -> Function:
    return SharedBreaker(f"benchmark-{function.__name__}", run=scripts)(function)


def _asking(scripts: RedisScripts, function: Function) -> Function:
    clock = itertools.count(step=2 * FRESH_S)  # each look at it is later than what was heard is good for
    name = f"benchmark-asking-{function.__name__}"
    return SharedBreaker(name, run=scripts, now=lambda: float(next(clock)))(function)


def _interlock(client: Any, ends: contextlib.AsyncExitStack, function: Function) -> Function:
    interlock, storage = import_module("interlock"), import_module("interlock.integrations.redis")
    config = interlock.Config(
        window_size=FAILURES,
        minimum_number_of_calls=FAILURES,
        failure_rate_threshold=1.0,
        wait_duration_in_open=OPEN_S,
    )
    breaker = interlock.CircuitBreaker(name="benchmark", config=config, storage=storage.RedisStorage(client))
    ends.callback(breaker.close)
    wrapped: Function = breaker(function)
    return wrapped


def _nopanic(client: Any, function: Function) -> Function:
    breaker = import_module("nopanic_redis").redis_circuit_breaker(
        client, name=f"benchmark-{function.__name__}", min_calls=FAILURES, reset_timeout=OPEN_S
    )
    wrapped: Function = breaker(function)
    return wrapped


def _pybreaker(client: Any, function: Function) -> Function:
    pybreaker = import_module("pybreaker")
    storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace=f"benchmark-{function.__name__}")
    breaker = pybreaker.CircuitBreaker(fail_max=FAILURES, reset_timeout=OPEN_S, state_storage=storage)
    wrapped: Function = breaker(function)
    return wrapped
