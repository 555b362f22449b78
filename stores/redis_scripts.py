"""Runs Lua scripts on Redis for whoever shares something between processes, and never waits long.  (floor 4)

One script is one round trip, EVALSHA; a server that has forgotten it (restarted, SCRIPT FLUSH)
says NOSCRIPT and is sent the text. Everything together, name look-up, connecting, logging in,
the pool and the reply, ends within `WAIT_S`: on asyncio by a timeout, without it because the
client works on a daemon thread that is left behind. So an alarm never strikes inside the client,
and no half-read reply goes back to the pool.

What goes wrong becomes one AgentError in words of our own: a client's message may quote the
URL, and with it the password. Nothing here decides what that means (`redis_link.py` does).

The package `redis` is imported only when there is a URL.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import queue
import re
import secrets
import threading
import time
import weakref
from importlib.util import find_spec
from typing import Any

from errors import AgentError, ConfigurationError
from events import FaultInjected
from faults import Fault, FaultPlan
from flow import Branch, Script
from redis_link import WAIT_S

CONNECTIONS_MAX = 16
"""Connections of one process: a round trip takes a tenth of a millisecond, so they are hardly ever used up."""


class RedisScripts:
    """Runs scripts, blocking or on asyncio. Safe to share between threads, tasks and loops.

    On asyncio `aclose` before the loop ends, else `close`.

    Args:
        url: of Redis; never shown.
        plan: faults on purpose, asked once a script for `redis`.
    """

    def __init__(self, url: str, plan: FaultPlan | None = None) -> None:
        if find_spec("redis") is None:
            raise ConfigurationError(
                "REDIS_URL is set, but the package that talks to Redis is not installed",
                what_now="Run `uv sync --extra redis`, or leave REDIS_URL out.",
            )
        import redis
        import redis.asyncio

        self._redis, self._url, self._plan = redis, url, plan
        self._identity = secrets.token_hex(6)
        try:
            self._client = redis.Redis(connection_pool=redis.BlockingConnectionPool.from_url(url, **_limits()))
        except (ValueError, TypeError):
            raise _unusable() from None
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()

    @classmethod
    def from_url(cls, url: str, plan: FaultPlan | None = None) -> RedisScripts:
        """Get ready to talk to this Redis; connects when the first script runs. Raises ConfigurationError."""
        return cls(url, plan)

    def identity(self) -> str:
        """This process's name among those that share; a fork has its own."""
        return f"{self._identity}-{os.getpid()}"

    # --- without asyncio

    def run(self, script: Script) -> Any:
        """Run a script, blocking for at most `WAIT_S`. Raises AgentError."""
        return self._run(script, self._fault())

    def perform(self, effect: Script, branch: Branch) -> Any:
        """The same, for a door."""
        return self._run(effect, self._fault(branch))

    def _run(self, script: Script, fault: Fault | None) -> Any:
        said: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()

        def work() -> None:
            try:
                if fault is not None and (delay_s := _strike(fault)):
                    time.sleep(delay_s)
                    if delay_s > WAIT_S:
                        return  # nobody waits any more
                said.put((_garbled(fault, self._evaluate(script)), None))
            except Exception as error:  # handed to whoever waits
                said.put((None, error))

        threading.Thread(target=work, daemon=True, name="unflappable-redis").start()
        try:
            reply, error = said.get(timeout=WAIT_S)
        except queue.Empty:
            raise _too_slow() from None
        if error is not None:
            raise self._told(error) from None
        return reply

    def _evaluate(self, script: Script) -> Any:
        count, rest = len(script.keys), (*script.keys, *script.args)
        try:
            return self._client.evalsha(_sha(script.text), count, *rest)
        except self._redis.exceptions.NoScriptError:
            return self._client.eval(script.text, count, *rest)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._client.connection_pool.disconnect()

    # --- on asyncio

    async def run_async(self, script: Script) -> Any:
        """Run a script on the running loop, for at most `WAIT_S`. Raises AgentError."""
        return await self._run_async(script, self._fault())

    async def perform_async(self, effect: Script, branch: Branch) -> Any:
        """The same, for a door."""
        return await self._run_async(effect, self._fault(branch))

    async def _run_async(self, script: Script, fault: Fault | None) -> Any:
        try:
            async with asyncio.timeout(WAIT_S):
                if fault is not None and (delay_s := _strike(fault)):
                    await asyncio.sleep(delay_s)
                return _garbled(fault, await self._evaluate_async(script))
        except TimeoutError:
            raise _too_slow() from None
        except Exception as error:  # in words of our own: the client's may hold the URL
            raise self._told(error) from None

    async def _evaluate_async(self, script: Script) -> Any:
        client, count, rest = self._client_of_loop(), len(script.keys), (*script.keys, *script.args)
        try:
            return await client.evalsha(_sha(script.text), count, *rest)
        except self._redis.exceptions.NoScriptError:
            return await client.eval(script.text, count, *rest)

    def _client_of_loop(self) -> Any:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            pool = self._redis.asyncio.BlockingConnectionPool.from_url(self._url, **_limits(asynchronous=True))
            client = self._clients[loop] = self._redis.asyncio.Redis(connection_pool=pool)
        return client

    async def aclose(self) -> None:
        """Close the connections of this loop, and those outside asyncio."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()
            await client.connection_pool.disconnect()
        self.close()

    # --- both

    def _fault(self, branch: Branch | None = None) -> Fault | None:
        fault = self._plan.next("redis") if self._plan is not None else None
        if fault is not None and branch is not None:
            branch.emit(FaultInjected("redis", fault.kind, fault.argument or ""))
        return fault

    def _told(self, error: Exception) -> AgentError:
        """What went wrong, in words that cannot hold a password."""
        if isinstance(error, AgentError):
            return error
        known = self._redis.exceptions
        # AuthenticationError is a ConnectionError, and redis-py's TimeoutError is not the built-in one.
        if isinstance(error, known.AuthenticationError):
            return _failed("it refuses the password", "authentication")
        if isinstance(error, (known.TimeoutError, TimeoutError)):
            return _too_slow()
        if isinstance(error, known.BusyLoadingError):
            return _failed("it is loading its data", "server_error")
        if isinstance(error, (known.ConnectionError, OSError)):
            return _failed("it cannot be reached", "connection")
        if not isinstance(error, known.RedisError):
            return _failed("it answers rubbish", "protocol")
        code = re.match(r"[A-Z]{2,20}\b", str(error))  # the client takes some of these words off: then its class tells
        kind = type(error).__name__.removesuffix("Error")
        why = _WHY.get(kind) or f"it answers with an error ({code.group() if code else kind})"
        return _failed(why, "server_error")


def _limits(*, asynchronous: bool = False) -> dict[str, Any]:
    """What every client is made with: no waiting, no retries; `redis_link.py` decides when to ask again."""
    from redis.asyncio.retry import Retry as RetryAsync
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {
        "max_connections": CONNECTIONS_MAX,
        "timeout": WAIT_S,
        "socket_timeout": WAIT_S,
        "socket_connect_timeout": WAIT_S,
        "retry": (RetryAsync if asynchronous else Retry)(NoBackoff(), 0),
    }


_WHY = {
    "ReadOnly": "it is a replica that may not be written",
    "OutOfMemory": "its memory is full",
    "Moved": "it is a part of a cluster that keeps other keys",
}

_SHAS: dict[str, str] = {}


def _sha(text: str) -> str:
    # The protocol's name for a script, no secret: where the system forbids SHA-1 for secrets, this is still allowed.
    known = _SHAS.get(text)
    return known or _SHAS.setdefault(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _failed(what: str, reason: str) -> AgentError:
    return AgentError(what, reason=reason, dependency="redis")


def _too_slow() -> AgentError:
    return _failed(f"it did not answer within {WAIT_S:g} s", "timeout")


def _unusable() -> ConfigurationError:
    return ConfigurationError("REDIS_URL cannot be used", what_now="Correct REDIS_URL, or leave it out.")


# --- faults ----------------------------------------------------------------------------------------------

_FAILS: dict[str, tuple[str, str]] = {
    "error": ("it answers with an error", "server_error"),
    "auth": ("it refuses the password", "authentication"),
    "refused": ("connection refused", "connection"),
    "reset": ("connection reset", "connection"),
}


def _strike(fault: Fault) -> float:
    """How many seconds the fault holds a script up. Raises where it fails instead."""
    if fault.kind in _FAILS:
        what, reason = _FAILS[fault.kind]
        raise _failed(f"injected fault: {what}", reason)
    return {"slow": fault.seconds(0.0), "hang": WAIT_S + 1.0}.get(fault.kind, 0.0)


def _garbled(fault: Fault | None, reply: Any) -> Any:
    return b"rubbish" if fault is not None and fault.kind == "garbage" else reply
