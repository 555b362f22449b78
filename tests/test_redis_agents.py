"""Two agents that share a Redis: what one learns the other knows, and losing Redis costs nobody an answer."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import stores.redis_scripts
from config import read_settings
from errors import ConfigurationError
from events import CallRejected, CircuitClosed, CircuitOpened, FaultInjected, RedisBack, RedisUnavailable
from faults import parse_fault
from tests.fake_messages import Status
from tests.support_agent import ONE, Rig
from tests.support_redis import NEEDS_REDIS, Server
from wiring import BlockingAgent

pytestmark = NEEDS_REDIS
DOORS = pytest.mark.parametrize("kind", ["asyncio", "blocking"])
ONCE = {"MAX_RETRIES": "0", "BREAKER_FAILURE_THRESHOLD": "2", "BREAKER_RECOVERY_TIMEOUT": "0.5"}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    try:
        yield server.start()
    finally:
        server.close()


@DOORS
def test_a_circuit_opened_by_one_agent_is_open_in_the_other_within_a_second(
    kind: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores.redis_scripts, "WAIT_S", 5.0)  # a loaded machine is not the subject here
    shared = {**ONCE, "REDIS_URL": server.url, "BREAKER_RECOVERY_TIMEOUT": "1.5"}
    other_kind = "blocking" if kind == "asyncio" else "asyncio"
    with (
        Rig(kind, ONE, tmp_path / "one", Status(500), **shared) as one,
        Rig(other_kind, ONE, tmp_path / "other", **shared) as other,
    ):
        other.ask()
        assert [len(one.ask().of(CircuitOpened)) for _ in range(2)] == [0, 1]
        opened_s = time.monotonic()
        asked_s, told = time.monotonic(), other.ask(unheard=True)
        while told.status == "ok" and asked_s < opened_s + 1.0:
            asked_s, told = time.monotonic(), other.ask(unheard=True)
        assert (told.status, told.requests) == ("failed", [])
        assert [event.by for event in told.of(CallRejected)] == ["circuit_breaker"]
        assert [one.name for one in other.agent.guards.snapshots() if one.state == "open"]
        time.sleep(max(0.0, opened_s + 1.6 - time.monotonic()))
        assert len(other.ask().of(CircuitClosed)) == 1
        one.heal()
        one.ask_again()


@DOORS
def test_killing_redis_in_mid_chat_costs_one_warning_and_no_question(kind: str, server: Server, tmp_path: Path) -> None:
    limit = {"RATE_LIMIT_PER_MINUTE": "6000", "RATE_LIMIT_BURST": "100"}
    with Rig(kind, ONE, tmp_path, REDIS_URL=server.url, **limit) as rig:
        rig.ask()
        assert len(server.do("KEYS", "unflappable:*")) == 1  # the bucket; a healthy circuit keeps nothing
        server.kill()
        told = [rig.ask_again() for _ in range(3)]
        assert sum(len(one.of(RedisUnavailable)) for one in told) == 1
        server.start()
        rig.agent.guards._redis.breaker.half_open()  # as two seconds later
        assert len(rig.ask_again().of(RedisBack)) == 1
        server.pause()
        told = [rig.ask_again() for _ in range(3)]
        assert sum(len(one.of(RedisUnavailable)) for one in told) == 1
        assert max(one.took_s for one in told) < 1
        server.resume()
        rig.agent.guards._redis.breaker.half_open()
        assert len(rig.ask_again().of(RedisBack)) == 1


@DOORS
def test_faults_of_redis_are_told_and_harm_nobody(kind: str, server: Server, tmp_path: Path) -> None:
    with Rig(kind, ONE, tmp_path, REDIS_URL=server.url) as rig:
        rig.agent.plan.add(parse_fault("redis:hang*1", rig.agent.known_fault_targets))
        told = rig.ask()
        assert (told.status, told.took_s < 1) == ("ok", True)
        assert told.of(FaultInjected) == [FaultInjected("redis", "hang", "")]
        assert len(told.of(RedisUnavailable)) == 1


def test_the_secret_of_the_url_is_in_no_output(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("redis://", "redis://user:hunter2@")
    with Rig("asyncio", ONE, tmp_path, REDIS_URL=url) as rig:
        told = rig.ask_again()
        (warned,) = told.of(RedisUnavailable)
        written = json.dumps(rig.trace(told)) + repr(rig.agent.settings) + repr(warned)
        written += "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
        assert "password" in warned.why
        assert "hunter2" not in written


def test_a_missing_package_is_a_configuration_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stores.redis_scripts.find_spec", lambda name: None)
    settings = read_settings({"REDIS_URL": "redis://localhost", "STATE_DIR": str(tmp_path), "MODEL_CHAIN": "practice"})
    with pytest.raises(ConfigurationError) as refused:
        BlockingAgent(settings)
    assert "uv sync --extra redis" in refused.value.what_now


def test_without_a_url_the_client_is_never_imported() -> None:
    code = "import sys; sys.path.insert(0, '.'); import wiring; print(sorted({'redis', 'hiredis'} & set(sys.modules)))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
