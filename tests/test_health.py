"""The sidecar as probes, scrapers and people see it: over HTTP, and as a program."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sidecar.app
import sidecar.checks
from circuit_breaker import BreakerSnapshot, State
from config import Settings
from safe_text import register_secret
from sidecar.aside import Busy, Kept, Limited
from sidecar.checks import Check
from stores.heartbeat import FOLDER
from stores.traces import FILE_NAME, TraceStore
from tests.support_health import GOOD_KEY, FakeApi, Running, agent, fake_api, running, until

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "open-sesame-42"


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as one:
        yield one


@pytest.fixture
def settings(tmp_path: Path, api: FakeApi) -> Settings:
    return Settings(
        anthropic_api_key=GOOD_KEY,
        anthropic_base_url=api.url,
        state_dir=tmp_path / "state",
        notes_dir=tmp_path / "notes",
    )


@pytest.fixture
def server(settings: Settings) -> Iterator[Running]:
    with running(settings) as one:
        yield one


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all tests that leave nothing behind: each start and end costs 0.2 s."""
    with running(Settings(state_dir=tmp_path_factory.mktemp("shared"))) as one:
        yield one


def keep(settings: Settings, *traces: dict[str, Any]) -> None:
    store = TraceStore(settings.state_dir)
    for trace in traces:
        store.save(trace)
    assert store.close(10)


def trace(trace_id: str, **more: Any) -> dict[str, Any]:
    return {"id": trace_id, "status": "ok", "user": "ada", "session": "s1", "root": {"children": []}, **more}


# --- live ------------------------------------------------------------------------------------------------


def test_without_any_agent_it_is_live(server: Running) -> None:
    reply = server.get("/health/live")
    assert reply.status == 200
    assert reply.json == {"status": "live", "agents": [], "reasons": []}
    assert reply.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in reply.headers


def test_an_agent_at_work_is_live_and_told(server: Running, settings: Settings) -> None:
    with agent(settings.state_dir, state="turn", deadline_s=time.monotonic() + 60):
        reply = server.get("/health/live")
    assert reply.status == 200
    assert reply.json["agents"][0] | {"beat_age_s": 0} == {
        "pid": 4711, "state": "turn", "stuck": False, "beat_age_s": 0, "loop_lag_s": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "told", [{"age_s": 60.0}, {"state": "turn", "deadline_s": 1.0}], ids=["no beat", "past its deadline"]
)
def test_a_stuck_agent_is_not_live_and_named(server: Running, settings: Settings, told: dict[str, Any]) -> None:
    with agent(settings.state_dir, **told):
        reply = server.get("/health/live")
    assert reply.status == 503
    assert reply.json["status"] == "stuck"
    assert "the agent 4711 is stuck" in reply.json["reasons"][0]


def test_an_agent_that_is_gone_is_nobody(server: Running, settings: Settings) -> None:
    with agent(settings.state_dir, age_s=60.0):
        assert server.get("/health/live").status == 503
    until(lambda: server.get("/health/live").status == 200)


def test_live_asks_no_dependency_and_does_not_wait_for_the_disk(
    settings: Settings, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()
    monkeypatch.setattr(sidecar.app, "AGENTS_WAIT_S", 0.1)
    monkeypatch.setattr(sidecar.app, "read_heartbeats", lambda folder: hang.wait(30) or [])
    try:
        with running(settings) as server:
            threads = threading.active_count()
            replies = [server.get("/health/live") for _ in range(5)]
            assert threading.active_count() <= threads + 1
    finally:
        hang.set()
    assert {reply.status for reply in replies} == {200}
    assert "cannot be read in time" in replies[0].json["reasons"][0]
    assert api.connections == 0


def test_rubbish_in_the_state_folder_is_no_reason(server: Running, settings: Settings) -> None:
    folder = settings.state_dir / FOLDER
    folder.mkdir(parents=True)
    (folder / "1-0123456789abcdef.json").write_bytes(b"\xff\x00rubbish")
    (folder / "2-0123456789abcdef.json").mkdir()
    assert server.get("/health/live").status == 200


def test_a_state_folder_that_is_a_file_is_no_reason(server: Running, settings: Settings) -> None:
    settings.state_dir.write_text("not a folder")
    assert server.get("/health/live").status == 200
    assert server.get("/traces").json == {"traces": []}
    assert server.get("/metrics").status == 200


# --- ready -----------------------------------------------------------------------------------------------


def test_ready_says_what_it_looked_at(server: Running, api: FakeApi) -> None:
    reply = server.get("/health/ready")
    assert reply.status == 200
    body = reply.json
    assert (body["status"], body["reasons"]) == ("ready", [])
    assert list(body["checks"]) == [
        "configuration", "key", "disk_space", "notes_folder", "model_api", "breakers", "agents",
    ]  # fmt: skip
    assert all(check["ok"] for check in body["checks"].values())
    assert b"".join(api.received) == b""  # a connection, no request


def test_many_probes_ask_the_api_once(server: Running, api: FakeApi) -> None:
    with ThreadPoolExecutor(16) as pool:
        statuses = set(pool.map(lambda _: server.get("/health/ready").status, range(200)))
    assert statuses == {200}
    assert 1 <= api.connections <= 2


def test_not_ready_says_each_reason(settings: Settings) -> None:
    settings.notes_dir.write_text("not a folder")
    open_save = (BreakerSnapshot("save_note", State.OPEN, 5, 30.0, 0),)
    with agent(settings.state_dir, breakers=open_save, practice=True), running(settings) as server:
        reply = server.get("/health/ready")
    assert reply.status == 503
    assert reply.json["status"] == "not_ready"
    failing = {name for name, check in reply.json["checks"].items() if not check["ok"]}
    assert failing == {"notes_folder", "breakers", "agents"}
    assert [reason.split(":")[0] for reason in reply.json["reasons"]] == ["notes_folder", "breakers", "agents"]


def test_a_check_that_hangs_is_a_reason_and_holds_up_nothing_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()
    monkeypatch.setattr(sidecar.app, "CHECKS_WAIT_S", 0.2)
    monkeypatch.setattr(sidecar.checks, "check_notes_folder", lambda folder: Check(hang.wait(30)))
    try:
        with running(settings) as server:
            reply = server.get("/health/ready")
            assert server.get("/health/live").status == 200
    finally:
        hang.set()
    assert reply.status == 503
    assert reply.json["reasons"] == ["notes_folder: cannot be told within 0.2 s"]


def test_an_api_that_swallows_everything_does_not_hide_one_that_answers(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()
    monkeypatch.setattr(sidecar.app, "API_WAIT_S", 0.2)
    monkeypatch.setattr(
        sidecar.checks, "connection_problem", lambda url: None if "gemini" in url else str(hang.wait(30))
    )
    both = replace(
        settings,
        anthropic_base_url="http://claude:1",
        gemini_base_url="http://gemini",
        gemini_api_key="AIzaSy0123456789abcdef",
        model_chain="anthropic:claude-sonnet-5-5,google:gemini-3.6-flash",
    )
    try:
        with running(both) as server:
            reply = server.get("/health/ready")
    finally:
        hang.set()
    assert reply.status == 200
    assert reply.json["checks"]["model_api"] == {"ok": True, "detail": "claude:1 does not answer in time"}


def test_hundreds_who_wait_for_a_check_that_hangs_do_not_keep_live_waiting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()
    monkeypatch.setattr(sidecar.checks, "connection_problem", lambda url: "late" if hang.wait(30) else None)
    try:
        with running(settings) as server, contextlib.ExitStack() as stack:
            for _ in range(300):
                waiting = stack.enter_context(server.connect())
                waiting.sendall(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
            began_s = time.monotonic()
            assert server.get("/health/live").status == 200
            assert time.monotonic() - began_s < 1.0
            hang.set()
    finally:
        hang.set()


def test_a_check_that_breaks_is_a_reason(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(url: str) -> str | None:
        raise LookupError("no\x1b[2Jidea")

    monkeypatch.setattr(sidecar.checks, "connection_problem", broken)
    with running(settings) as server:
        reply = server.get("/health/ready")
    assert settings.anthropic_base_url is not None
    assert reply.json["reasons"] == [
        f"model_api: {settings.anthropic_base_url.removeprefix('http://')}: LookupError: no␛[2Jidea"
    ]


# --- traces and metrics ----------------------------------------------------------------------------------


def test_traces_are_listed_newest_first_without_their_spans(server: Running, settings: Settings) -> None:
    keep(settings, *(trace(f"t{number:02}") for number in range(30)))
    found = server.get("/traces").json["traces"]
    assert [one["id"] for one in found] == [f"t{number:02}" for number in range(29, 9, -1)]
    assert found[0] == {"id": "t29", "status": "ok", "user": "ada", "session": "s1"}
    assert [one["id"] for one in server.get("/traces?limit=2").json["traces"]] == ["t29", "t28"]


def test_traces_are_found_by_status_user_and_session(server: Running, settings: Settings) -> None:
    keep(settings, trace("a"), trace("b", status="failed"), trace("c", user="bob o'%_"), trace("d", session="s2"))

    def ids(query: str) -> list[str]:
        return [one["id"] for one in server.get(f"/traces?{query}").json["traces"]]

    assert ids("status=failed") == ["b"]
    assert ids("user=bob%20o%27%25_") == ["c"]
    assert ids("session=s2&status=ok&user=ada") == ["d"]
    assert ids("user=nobody") == []
    assert ids("user=") == ["d", "c", "b", "a"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=1001", "limit=x", "limit=", "limit=1e2", "limit=%D9%A1", "stauts=ok"]
)
def test_a_query_that_makes_no_sense_is_refused_with_what_is_allowed(shared: Running, query: str) -> None:
    reply = shared.get(f"/traces?{query}")
    assert reply.status == 400
    assert "allowed" in reply.json["error"] or "there are" in reply.json["error"]


def test_one_trace_comes_whole_by_its_id_or_its_beginning(server: Running, settings: Settings) -> None:
    keep(settings, trace("abc1"), trace("abd2"))
    assert server.get("/traces/abc1").json == trace("abc1")
    assert server.get("/traces/abc").json == trace("abc1")
    several = server.get("/traces/ab")
    assert several.status == 400
    assert "abc1" in several.json["error"]
    for unknown in ("x", "%00", "%ff", "..%2f..%2fetc", "a" * 5000, "'; DROP TABLE traces"):
        assert server.get(f"/traces/{unknown.replace(' ', '%20')}").status == 404


def test_what_a_trace_carries_can_harm_no_terminal_and_tells_no_secret(server: Running, settings: Settings) -> None:
    register_secret("hunter2-hunter2")
    keep(settings, trace("a", root={"text": "\x1b[2J\x07\x7f\x9b\u202e hunter2-hunter2 sk-ant-api03-abcdefghijkl"}))
    reply = server.get("/traces/a")
    assert all(32 <= byte < 127 or byte == 10 for byte in reply.body)
    assert b"hunter2" not in reply.body
    assert b"abcdefghijkl" not in reply.body
    assert reply.json["root"]["text"].startswith("\x1b[2J\x07\x7f")


def test_a_damaged_trace_file_is_said_and_hurts_nothing_else(server: Running, settings: Settings) -> None:
    settings.state_dir.mkdir()
    (settings.state_dir / FILE_NAME).write_bytes(b"rubbish" * 1000)
    for path in ("/traces", "/traces/a"):
        reply = server.get(path)
        assert reply.status == 503
        assert "cannot be read" in reply.json["error"]
    assert server.get("/health/live").status == 200


def test_a_damaged_trace_is_left_out(server: Running, settings: Settings) -> None:
    keep(settings, trace("good"), trace("bad"))
    with sqlite3.connect(settings.state_dir / FILE_NAME) as connection:
        connection.execute("UPDATE traces SET trace = '{\"id\": ' WHERE id = 'bad'")
    connection.close()
    assert [one["id"] for one in server.get("/traces").json["traces"]] == ["good"]
    assert server.get("/traces/bad").status == 404


@pytest.mark.parametrize("text", ['{"id": "a", "cost": NaN}', '{"id": "a", "root": ' + "[" * 100_000, b"\xff\xfe"])
def test_rubbish_in_the_place_of_a_trace_is_said(server: Running, settings: Settings, text: str | bytes) -> None:
    keep(settings, trace("a"))
    with sqlite3.connect(settings.state_dir / FILE_NAME) as connection:
        connection.execute("UPDATE traces SET trace = CAST(? AS TEXT)", (text,))
    connection.close()
    assert server.get("/traces/a").status in (404, 503)
    assert server.get("/traces").status in (200, 503)
    assert server.get("/health/live").status == 200


def test_a_writer_in_the_middle_of_its_work_does_not_keep_readers_waiting(server: Running, settings: Settings) -> None:
    keep(settings, trace("a"))
    connection = sqlite3.connect(settings.state_dir / FILE_NAME, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    assert server.get("/traces/a").status == 200
    connection.execute("ROLLBACK")
    connection.close()


def test_a_file_that_somebody_keeps_locked_is_said_in_time(server: Running, settings: Settings) -> None:
    keep(settings, trace("a"))
    connection = sqlite3.connect(settings.state_dir / FILE_NAME, isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    try:
        assert server.get("/traces/a").status == 503
        assert server.get("/health/live").status == 200
    finally:
        connection.close()


def test_metrics_are_what_prometheus_reads(server: Running, settings: Settings) -> None:
    with agent(settings.state_dir):
        reply = server.get("/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert reply.body.startswith(b"# HELP ")
    assert reply.body.endswith(b"\n")


# --- every answer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/traces", "/nowhere"])
def test_head_answers_as_get_without_a_body(shared: Running, path: str) -> None:
    get, head = shared.get(path), shared.get(path, method="HEAD")
    assert (head.status, head.body) == (get.status, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize(
    "path", ["/", "/health", "/health/", "/health/live/", "/healthz", "/traces/", "/traces/a/b", "//metrics"]
)
def test_an_unknown_path_is_told_in_json_and_leads_nowhere(shared: Running, path: str) -> None:
    reply = shared.get(path)
    assert reply.status == 404
    assert reply.json == {"error": "not found"}
    assert "location" not in reply.headers


def test_a_foreign_host_sees_nothing(shared: Running) -> None:
    assert shared.get("/health/live", host="rebound.example").status == 403
    assert shared.get("http://localhost/health/live", host="rebound.example").status == 403
    assert shared.get("/health/live", host="10.1.2.3:8080").status == 200


def test_a_method_other_than_get_and_head_is_told_what_is_allowed(shared: Running) -> None:
    for path in ("/health/live", "/traces", "/nowhere"):
        reply = shared.get(path, method="POST")
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_beyond_loopback_all_but_health_needs_the_token(settings: Settings, host: str) -> None:
    if host == "::" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    some = Settings(state_dir=settings.state_dir, health_token=TOKEN)
    with running(some, host) as server:
        assert server.get("/health/live").status == 200
        for path in ("/metrics", "/traces", "/traces/a", "/nowhere"):
            assert server.get(path).status == 401
            assert server.get(path, "Authorization: Bearer wrong").status == 401
        assert server.get("/metrics", f"Authorization: Bearer {TOKEN}").status == 200
        assert server.get("/nowhere", f"Authorization: Bearer {TOKEN}").status == 404
    with running(Settings(state_dir=settings.state_dir), host) as server:
        assert server.get("/health/live").status == 200
        assert server.get("/metrics", f"Authorization: Bearer {TOKEN}").status == 403


def test_a_mistake_of_ours_is_one_line_and_the_next_answer_comes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(folder: Path) -> bytes:
        raise ZeroDivisionError("here")

    monkeypatch.setattr(sidecar.app, "render_metrics", broken)
    with running(settings) as server:
        reply = server.get("/metrics")
        assert server.get("/health/live").status == 200
    assert reply.status == 500
    assert "Traceback" not in reply.body.decode()
    assert "ZeroDivisionError" not in reply.body.decode()
    assert [record.msg for record in caplog.records if record.name == "unflappable.sidecar"] == ["internal_error"]


# --- aside -----------------------------------------------------------------------------------------------


def test_a_kept_answer_is_asked_once_for_all_and_anew_when_it_is_old() -> None:
    asked: list[int] = []

    async def scenario() -> None:
        lasting: Kept[None] = Kept(lambda: asked.append(1), keep_s=60, wait_s=10)
        await asyncio.gather(*(lasting.get() for _ in range(50)))
        assert len(asked) == 1
        short: Kept[None] = Kept(lambda: asked.append(1), keep_s=-1, wait_s=10)
        await short.get()
        await short.get()
        assert len(asked) == 3

    asyncio.run(scenario())


def test_an_error_is_not_kept() -> None:
    answers = iter([ValueError("first"), None])

    def ask() -> int:
        if error := next(answers):
            raise error
        return 7

    async def scenario() -> None:
        kept = Kept(ask, keep_s=60, wait_s=10)
        with pytest.raises(ValueError, match="first"):
            await kept.get()
        assert await kept.get() == 7

    asyncio.run(scenario())


def test_places_come_back_after_an_error_and_when_a_late_thread_ends() -> None:
    hang = threading.Event()

    async def scenario() -> None:
        places = Limited(1, wait_s=0.05)
        with pytest.raises(ZeroDivisionError):
            await places.get(lambda: 1 // 0)
        with pytest.raises(TimeoutError):
            await places.get(lambda: hang.wait(30))
        with pytest.raises(Busy):
            await places.get(lambda: 1)
        hang.set()
        for _ in range(500):
            await asyncio.sleep(0.01)
            try:
                assert await places.get(lambda: 1) == 1
                return
            except Busy:
                continue
        pytest.fail("the place did not come back")

    asyncio.run(scenario())


# --- the program -----------------------------------------------------------------------------------------


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the program, in an empty folder; none outlives its test."""
    started: list[subprocess.Popen[str]] = []
    known = {name: value for name, value in os.environ.items() if not name.startswith("HEALTH_")}

    def begin(*argv: str, **variables: str) -> subprocess.Popen[str]:
        environment = {**known, "LOG_FORMAT": "json", **variables}
        command, pipe = [sys.executable, str(ROOT / "health.py"), *argv], subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def first_event(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stderr is not None
    event: dict[str, Any] = json.loads(process.stderr.readline())
    return event


@pytest.mark.skipif(sys.platform == "win32", reason="signals are Unix")
@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_it_says_where_it_listens_and_a_signal_ends_it_cleanly(start: Start, number: str, code: int) -> None:
    process = start("--port", "0")
    event = first_event(process)
    assert event["event"] == "sidecar_listening"
    port = int(event["url"].rpartition(":")[2])
    server = Running(port)
    until(lambda: server.get("/health/live").status == 200)
    with server.connect() as half:
        half.sendall(b"GET /")
        process.send_signal(getattr(signal, number))
        assert said(process) == (code, "", "")


def test_a_taken_port_and_wrong_options_end_it_in_one_line(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        started = {
            "taken": (start(HEALTH_PORT=port), 1, f"127.0.0.1:{port} is taken"),
            "host": (start("--host", "192.0.2.1"), 2, "cannot listen on 192.0.2.1:8080"),
            "empty": (start("--host", ""), 2, "--host is empty"),
            "port": (start("--port", "99999"), 2, "--port"),
            "word": (start("extra"), 2, "extra"),
            "setting": (start(HEALTH_PORT="http"), 2, "HEALTH_PORT is 'http'"),
            "version": (start("--version"), 0, ""),
            "help": (start("--help"), 0, ""),
        }
        results = {name: (said(process), code, words) for name, (process, code, words) in started.items()}
    for name, ((returned, out, err), code, words) in results.items():
        assert returned == code, (name, err)
        assert words in err, name
        assert err.count("\n") == (0 if code == 0 else 1), (name, err)
        assert bool(out) is (code == 0), name


def test_open_to_others_without_a_token_is_said(start: Start, tmp_path: Path) -> None:
    process = start("--host", "0.0.0.0", "--port", "0")
    assert first_event(process)["url"].startswith("http://0.0.0.0:")
    assert first_event(process)["event"] == "only_health_is_served"
    process.terminate()
    said(process)
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind


def test_it_starts_without_the_sdk() -> None:
    code = (
        "import sys; import health, sidecar.program, sidecar.app, sidecar.server;"
        "print(sorted(set('anthropic wiring rich typer pydantic'.split()) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
