"""Ready means that the model that was asked for could answer now; each reason why not stands alone."""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sidecar.checks
from circuit_breaker import BreakerSnapshot, State
from config import Settings, read_settings
from sidecar.checks import (
    Check,
    api_urls,
    check_agents,
    check_breakers,
    check_configuration,
    check_disk_space,
    check_key,
    check_model_api,
    check_notes_folder,
    connection_problem,
)
from stores.heartbeat import read_heartbeats
from tests.support_health import GOOD_KEY, agent, fake_api, until

CLAUDES = "anthropic:claude-sonnet-5-5,anthropic:claude-haiku-5-5"
BOTH = f"{CLAUDES},google:gemini-3.6-flash"
GEMINI_KEY = "AIzaSy0123456789abcdef0123456789abcdef"


def settings(**some: Any) -> Settings:
    return Settings(**{"anthropic_api_key": GOOD_KEY, "model_chain": CLAUDES, **some})


# --- configuration and key -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chain", "why"),
    [("nonsense", "MODEL_CHAIN"), (",", "a model is missing|it is empty"), ("practice", "practice mode")],
)
def test_a_chain_that_cannot_do_what_was_asked_is_a_reason(chain: str, why: str) -> None:
    check = check_configuration(settings(model_chain=chain))
    assert not check.ok
    assert any(word in check.detail for word in why.split("|"))


def test_a_chain_that_ends_in_practice_is_fine() -> None:
    assert check_configuration(settings(model_chain=f"{CLAUDES},practice")).ok


def test_without_a_key_it_is_not_ready_and_practice_mode_is_the_reason() -> None:
    check = check_key(settings(anthropic_api_key=None))
    assert not check.ok
    assert "ANTHROPIC_API_KEY is not set" in check.detail
    assert "practice mode" in check.detail


@pytest.mark.parametrize(
    "key", ["x", "sk-ant-", "sk-ant-short", "your-api-key-here-please", "AIzaSy0123456789abcdef01234567"]
)
def test_a_key_that_is_none_is_a_reason_and_is_not_told(key: str) -> None:
    check = check_key(settings(anthropic_api_key=key))
    assert not check.ok
    assert check.detail == "ANTHROPIC_API_KEY does not look like a key"


def test_another_server_may_have_other_keys_but_no_placeholder() -> None:
    own = settings(anthropic_base_url="http://localhost:4000")
    assert check_key(own).ok
    assert check_key(replace(own, anthropic_api_key="sk-1234")).ok
    assert check_key(replace(own, anthropic_api_key="0123456789abcdef")).ok
    assert not check_key(replace(own, anthropic_api_key="changeme")).ok


def test_one_link_with_its_key_is_enough_and_the_other_is_told() -> None:
    second = check_key(settings(model_chain=BOTH, anthropic_api_key=None, gemini_api_key=GEMINI_KEY))
    assert second.ok
    assert second.detail == "ANTHROPIC_API_KEY is not set"
    assert check_key(settings(model_chain="local:qwen3:8b@http://localhost:11434", anthropic_api_key=None)).ok


# --- the API ---------------------------------------------------------------------------------------------


def test_the_api_is_reached_by_a_connection_and_asked_nothing() -> None:
    with fake_api() as api:
        assert connection_problem(api.url) is None
        until(lambda: bool(api.received))
    assert api.connections == 1
    assert b"".join(api.received) == b""


def test_an_api_that_nobody_serves_is_a_reason_that_tells_no_password() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # taken, but not listened to
        port = free.getsockname()[1]
        problem = connection_problem(f"http://user:pa55word@127.0.0.1:{port}")
    assert problem == f"127.0.0.1:{port} cannot be reached: Connection refused"


def test_a_silent_handshake_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar.checks, "CONNECT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        problem = connection_problem(f"https://127.0.0.1:{silent.getsockname()[1]}")
    assert problem is not None
    assert "does not answer within 0.1 s" in problem


def test_what_does_not_speak_tls_and_a_name_that_does_not_exist_are_reasons() -> None:
    with fake_api() as api:
        assert "cannot be reached" in (connection_problem(api.url.replace("http:", "https:")) or "")
    assert "no-such-host.invalid" in (connection_problem("http://no-such-host.invalid") or "")


def test_a_certificate_nobody_trusts_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_message = "self-signed certificate"

    class Distrusting:
        def wrap_socket(self, *_: object, **__: object) -> None:
            raise error

    monkeypatch.setattr(sidecar.checks, "trust", Distrusting)
    with fake_api() as api:
        problem = connection_problem(api.url.replace("http:", "https:"))
    assert problem is not None
    assert problem.endswith("has a certificate that is not trusted: self-signed certificate")


def test_behind_a_proxy_the_proxy_must_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_api() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        assert connection_problem("https://api.anthropic.com") is None
        until(lambda: bool(proxy.received))
    assert b"".join(proxy.received) == b""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert "through the proxy" in (connection_problem("https://api.anthropic.com") or "")


def test_each_api_is_asked_once_and_only_where_there_is_a_key() -> None:
    chain = f"{BOTH},local:qwen3:8b@http://localhost:11434,practice"
    both = settings(model_chain=chain, gemini_api_key=GEMINI_KEY)
    claude, gemini = "https://api.anthropic.com", "https://generativelanguage.googleapis.com"
    assert api_urls(both) == [claude, gemini, "http://localhost:11434"]
    assert api_urls(replace(both, gemini_api_key=None)) == [claude, "http://localhost:11434"]
    assert api_urls(settings(anthropic_api_key=None)) == []
    assert api_urls(settings(model_chain="nonsense")) == []


def test_one_api_that_answers_is_enough_and_the_other_is_told() -> None:
    assert check_model_api([None]) == Check(True)
    assert check_model_api(["claude is away", None]) == Check(True, "claude is away")
    assert check_model_api(["claude is away", "gemini, too"]) == Check(False, "claude is away; gemini, too")
    assert not check_model_api([]).ok


# --- disk ------------------------------------------------------------------------------------------------


def test_folders_that_do_not_exist_yet_are_fine_and_stay_so(tmp_path: Path) -> None:
    missing = tmp_path / "a" / "b"
    assert check_disk_space((missing,)).ok
    assert check_notes_folder(missing).ok
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar.checks, "FREE_BYTES_MIN", 1 << 62)
    check = check_disk_space((tmp_path,))
    assert not check.ok
    assert "MiB free" in check.detail


def test_the_notes_folder_must_take_a_file(tmp_path: Path) -> None:
    assert check_notes_folder(tmp_path).ok
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "notes"):
        check = check_notes_folder(wrong)
        assert not check.ok
        assert str(wrong) in check.detail
    readonly = Path("/proc/self")
    if readonly.is_dir():
        assert not check_notes_folder(readonly).ok


# --- what agents say -------------------------------------------------------------------------------------


def opened(*names: str, state: State = State.OPEN) -> tuple[BreakerSnapshot, ...]:
    return tuple(BreakerSnapshot(name, state, 5, 30.0, 0) for name in names)


SONNET, HAIKU = "model.anthropic.claude-sonnet-5-5", "model.anthropic.claude-haiku-5-5"


@pytest.mark.parametrize(
    ("breakers", "ok"),
    [
        ((), True),
        (opened("calculator"), False),
        (opened("save_note"), False),
        (opened("save_note", state=State.HALF_OPEN), True),
        (opened("save_note", state=State.CLOSED), True),
        (opened("web_search.wikipedia", "get_weather.open_meteo", "find_notes"), True),
        (opened(SONNET), True),
        (opened(SONNET, HAIKU), False),
    ],
)
def test_only_critical_circuits_count(tmp_path: Path, breakers: tuple[BreakerSnapshot, ...], ok: bool) -> None:
    with agent(tmp_path, breakers=breakers):
        check = check_breakers(read_heartbeats(tmp_path), settings())
    assert check.ok is ok
    if not ok:
        assert "4711" in check.detail
        assert all(one.name in check.detail for one in breakers)


def test_an_agent_that_is_stuck_or_practises_is_a_reason(tmp_path: Path) -> None:
    assert check_agents([]).ok
    with agent(tmp_path):
        assert check_agents(read_heartbeats(tmp_path)).ok
    with agent(tmp_path, practice=True):
        assert "practice mode" in check_agents(read_heartbeats(tmp_path)).detail
    with agent(tmp_path, state="stopping"):
        check = check_agents(read_heartbeats(tmp_path))
        assert (check.ok, check.detail) == (False, "the agent 4711 was told to end")
    with agent(tmp_path, age_s=60.0):
        assert "stuck" in check_agents(read_heartbeats(tmp_path)).detail


def test_a_default_environment_has_nothing_wrong_but_the_key() -> None:
    nothing = read_settings({})
    assert check_configuration(nothing).ok
    assert not check_key(nothing).ok
