"""A heartbeat tells working from stuck from gone, and its trouble never becomes the agent's."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from circuit_breaker import BreakerSnapshot, CircuitBreaker, State
from stores import heartbeat
from stores.heartbeat import FOLDER, Beat, Heartbeat, HeartbeatFile, boot_id, read_heartbeats
from telemetry.pulse import Pulse
from tests.support_agent import FINE, ONE, Rig
from tests.support_rules import Clock

ROOT = Path(__file__).resolve().parent.parent
BEAT = Beat(
    pid=7, boot_id=boot_id(), at_s=100.0, state="idle", deadline_s=None, loop_lag_s=0.0, version="1", practice=False,
    breakers=(BreakerSnapshot("a.b", State.OPEN, 5, 42.0, 0), BreakerSnapshot("c", State.OPEN, 1, math.inf, 0, True)),
)  # fmt: skip
locks = pytest.mark.skipif(os.name == "nt", reason="Windows removes no open file")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[HeartbeatFile]:
    made = HeartbeatFile(tmp_path)
    yield made
    made.remove()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def nothing_said_before() -> None:
    heartbeat._warn.cache_clear()


def only(state_dir: Path, now_s: float | None = None) -> Heartbeat:
    [found] = read_heartbeats(state_dir, now_s)
    return found


def until(what: Callable[[], object]) -> None:
    """Wait for what other threads and processes do."""
    end_s = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def files(state_dir: Path) -> list[str]:
    return sorted(os.listdir(state_dir / FOLDER))


# --- the file


def test_what_an_agent_writes_is_what_a_reader_sees(tmp_path: Path, file: HeartbeatFile) -> None:
    file.write(replace(BEAT, state="turn", deadline_s=130.0))
    assert only(tmp_path, 101.5) == Heartbeat(
        7, boot_id(), "turn", 130.0, 1.5, 0.0, BEAT.breakers, "1", practice=False, stuck=False
    )


@pytest.mark.parametrize(("age_s", "stuck"), [(0, False), (10.0, False), (10.1, True), (1e9, True)])
def test_a_locked_heartbeat_older_than_10_s_is_stuck_however_old(
    tmp_path: Path, file: HeartbeatFile, age_s: float, stuck: bool
) -> None:
    file.write(BEAT)
    assert only(tmp_path, 100.0 + age_s).stuck is stuck


@pytest.mark.parametrize(("late_s", "stuck"), [(-1, False), (5.0, False), (5.1, True)])
def test_a_question_5_s_past_its_deadline_is_stuck_though_the_heart_beats(
    tmp_path: Path, file: HeartbeatFile, late_s: float, stuck: bool
) -> None:
    file.write(replace(BEAT, at_s=500 + late_s, state="turn", deadline_s=500.0))
    assert only(tmp_path, 500 + late_s).stuck is stuck


@locks
def test_an_unlocked_heartbeat_is_gone_and_its_file_removed(tmp_path: Path, file: HeartbeatFile) -> None:
    file.write(BEAT)
    os.link(file.path, tmp_path / "kept")
    file.remove()
    os.rename(tmp_path / "kept", file.path)  # as a killed agent leaves it
    assert read_heartbeats(tmp_path, 100.0) == []
    assert files(tmp_path) == []


@locks
def test_many_readers_at_once_never_take_each_other_for_the_agent(tmp_path: Path) -> None:
    gone = HeartbeatFile(tmp_path)
    gone.write(BEAT)
    data = gone.path.read_bytes()
    gone.remove()
    seen: list[Heartbeat] = []

    def read() -> None:
        for _ in range(100):
            gone.path.write_bytes(data)
            seen.extend(read_heartbeats(tmp_path, 1e6))

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert seen == []


def test_the_lock_outlives_the_writing(tmp_path: Path, file: HeartbeatFile) -> None:
    for at_s in range(100, 120):
        file.write(replace(BEAT, at_s=float(at_s)))
        assert only(tmp_path, at_s).beat_age_s == 0
    assert len(files(tmp_path)) == 1


def test_a_shorter_record_leaves_nothing_of_a_longer_one(tmp_path: Path, file: HeartbeatFile) -> None:
    many = tuple(BreakerSnapshot(f"tool.{number}", State.CLOSED, 0, 0.0, 0) for number in range(200))
    file.write(replace(BEAT, breakers=many))
    assert len(only(tmp_path, 100).breakers) == 200
    file.write(BEAT)
    assert only(tmp_path, 100).breakers == BEAT.breakers


def test_a_reader_never_takes_half_a_record_for_a_whole_one(tmp_path: Path, file: HeartbeatFile) -> None:
    file.write(replace(BEAT, pid=0, version="0"))
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            name = "x" * (number % 50 * 50)
            file.write(replace(BEAT, pid=number, version=str(number) + name))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            for seen in read_heartbeats(tmp_path, 100.0):
                assert seen.version.rstrip("x") == str(seen.pid)
    finally:
        over.set()
        writer.join()


def record(body: bytes) -> bytes:
    return b"%08x %06d\n%b\n" % (zlib.crc32(body), len(body), body)


@pytest.mark.parametrize(
    "rubbish",
    [b"\0" * 4096, b"\xff" * 100, b"{}", record(b"{}"), record(b"[]"), record(b"null"), record(b"{" * 9), b"1",
     record(b"[" * 60_000), record(json.dumps({"pid": "x"}).encode()), b"00000000 999999\n{}",
     record(b'{"pid":1,"boot_id":"","at_s":NaN,"state":"idle","deadline_s":null,"loop_lag_s":null}')],
)  # fmt: skip
def test_rubbish_in_the_place_of_a_record_is_said_once_and_left_out(
    tmp_path: Path, file: HeartbeatFile, rubbish: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file.write(BEAT)
    with file.path.open("r+b") as handle:  # not anew: the lock is on this one
        handle.truncate()
        handle.write(rubbish)
    other = HeartbeatFile(tmp_path)
    other.write(replace(BEAT, pid=8))
    assert [one.pid for one in read_heartbeats(tmp_path, 100)] == [8]
    assert [one.pid for one in read_heartbeats(tmp_path, 100)] == [8]
    assert len(caplog.records) == 1
    assert file.path.name in caplog.text
    other.remove()


@locks
def test_rubbish_that_nobody_holds_is_removed_and_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "1-0123456789abcdef.json").write_bytes(b"rubbish")
    (folder / "notes.json").write_bytes(b"mine")
    (folder / "2-0123456789abcdef.json").mkdir()
    (folder / "3-0123456789abcdef.json").symlink_to(folder / "notes.json")
    os.mkfifo(folder / "4-0123456789abcdef.json")
    assert read_heartbeats(tmp_path) == []
    assert len(files(tmp_path)) == 4
    assert (folder / "notes.json").read_bytes() == b"mine"


def test_a_missing_or_taken_folder_has_no_agents(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_heartbeats(tmp_path / "nowhere") == []
    assert caplog.records == []
    (tmp_path / FOLDER).write_text("taken")
    assert read_heartbeats(tmp_path) == []
    assert len(caplog.records) == 1


def test_an_agent_that_has_not_written_yet_is_left_out_in_silence(
    tmp_path: Path, file: HeartbeatFile, caplog: pytest.LogCaptureFixture
) -> None:
    file.write(BEAT)
    os.truncate(file.path, 0)
    assert read_heartbeats(tmp_path, 100) == []
    assert caplog.records == []


def test_an_agent_on_another_boot_is_judged_by_the_time_of_its_file(tmp_path: Path, file: HeartbeatFile) -> None:
    file.write(replace(BEAT, boot_id="another", at_s=1e9))
    assert not only(tmp_path, 5.0).stuck
    os.utime(file.path, (time.time() - 11, time.time() - 11))
    assert only(tmp_path, 5.0).stuck


def test_a_beat_of_this_very_moment_is_not_from_the_future(tmp_path: Path, file: HeartbeatFile) -> None:
    file.write(BEAT)
    assert only(tmp_path, 99.9).beat_age_s == 0


@locks
@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_the_file_is_its_owners_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        made = HeartbeatFile(tmp_path / "new")
        made.write(BEAT)
    finally:
        os.umask(before)
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.path.parent.stat().st_mode) == 0o700
    assert only(tmp_path / "new", 100).pid == 7
    made.remove()
    assert files(tmp_path / "new") == []


@locks
def test_a_cleared_folder_is_filled_again(tmp_path: Path, file: HeartbeatFile) -> None:
    file.write(BEAT)
    os.unlink(file.path)
    os.rmdir(file.path.parent)
    file.write(BEAT)
    assert only(tmp_path, 100).pid == 7


@locks
def test_an_agent_that_cannot_write_lets_go_rather_than_look_stuck(
    tmp_path: Path, file: HeartbeatFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write(BEAT)

    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("stores.heartbeat.os.write", full)
        with pytest.raises(OSError, match="No space"):
            file.write(BEAT)
    assert read_heartbeats(tmp_path, 1000) == []
    file.write(replace(BEAT, pid=9))
    assert only(tmp_path, 100).pid == 9


# --- the pulse


class Loop:
    """The two things a pulse asks of a loop."""

    running = True

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def is_running(self) -> bool:
        return self.running

    def call_later(self, delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        self.due = [call]
        return asyncio.TimerHandle(0, call, (), _Quiet())  # type: ignore[arg-type]


class _Quiet:
    def get_debug(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: object) -> None: ...


def pulse_of(tmp_path: Path, clock: Clock) -> Pulse:
    return Pulse(tmp_path, practice=True, breakers=lambda: [CircuitBreaker("a", now=clock).snapshot()], now=clock)


def test_a_blocked_loop_shows_as_stuck_after_10_s_and_heals_with_its_next_beat(tmp_path: Path, clock: Clock) -> None:
    pulse, loop, shown = pulse_of(tmp_path / "own", clock), Loop(), HeartbeatFile(tmp_path)
    pulse.start(loop)  # type: ignore[arg-type]
    clock.now_s += 2.0
    loop.due[0]()
    assert (pulse.beat().at_s, pulse.beat().loop_lag_s) == (clock(), 0.0)
    blocked_s = clock()
    clock.now_s += 12.5  # the thread goes on writing
    seen = pulse.beat()
    assert (seen.at_s, seen.loop_lag_s) == (blocked_s, 10.5)
    shown.write(seen)
    assert only(tmp_path, clock()).stuck
    loop.due[0]()
    assert (pulse.beat().at_s, pulse.beat().loop_lag_s) == (clock(), 10.5)
    shown.write(pulse.beat())
    assert not only(tmp_path, clock()).stuck
    pulse.stop()
    shown.remove()


def test_a_loop_that_is_not_running_cannot_be_blocked(tmp_path: Path, clock: Clock) -> None:
    pulse, loop = pulse_of(tmp_path, clock), Loop()
    pulse.start(loop)  # type: ignore[arg-type]
    loop.running = False
    clock.now_s += 1000
    assert (pulse.beat().at_s, pulse.beat().loop_lag_s) == (clock(), None)
    pulse.stop()


def test_without_a_loop_a_question_that_outlives_its_deadline_is_stuck(tmp_path: Path, clock: Clock) -> None:
    pulse, shown = pulse_of(tmp_path, clock), HeartbeatFile(tmp_path)
    pulse.begin_turn(clock() + 120)
    clock.now_s += 124.9
    shown.write(pulse.beat())
    assert not only(tmp_path, clock()).stuck
    clock.now_s += 0.2
    shown.write(pulse.beat())
    assert (only(tmp_path, clock()).beat_age_s, only(tmp_path, clock()).stuck) == (0, True)
    pulse.end_turn()
    shown.write(pulse.beat())
    assert (only(tmp_path, clock()).state, only(tmp_path, clock()).stuck) == ("idle", False)
    shown.remove()


@locks
def test_an_agent_that_was_told_to_end_says_so_at_once_also_from_a_signal_handler(tmp_path: Path) -> None:
    pulse = Pulse(tmp_path, practice=False, breakers=tuple)
    pulse.start()
    pulse.begin_turn(time.monotonic() + 100)
    until(lambda: [one for one in read_heartbeats(tmp_path) if one.state == "turn"])
    told_s = time.monotonic()
    before = signal.signal(signal.SIGTERM, lambda number, frame: pulse.stopping())
    try:
        signal.raise_signal(signal.SIGTERM)
        until(lambda: only(tmp_path).state == "stopping")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert time.monotonic() - told_s < heartbeat.BEAT_S / 2  # not only with the next beat
    pulse.end_turn()
    assert pulse.beat().state == "stopping"
    pulse.stop()
    assert read_heartbeats(tmp_path) == []


def test_trouble_with_the_disk_is_said_once_and_over_when_it_is_over(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FOLDER).write_text("taken")
    pulse = pulse_of(tmp_path, clock)
    pulse.start()
    until(lambda: caplog.records)
    for _ in range(5):
        pulse.begin_turn(clock())
    (tmp_path / FOLDER).unlink()
    pulse.end_turn()
    until(lambda: read_heartbeats(tmp_path, clock()))
    pulse.stop()
    assert files(tmp_path) == []
    assert len(caplog.records) == 1
    assert "health checks cannot see this agent" in caplog.text


# --- the agents


@pytest.mark.parametrize("kind", ["asyncio", "blocking"])
def test_an_agent_is_seen_at_work_then_idle_then_not_at_all(tmp_path: Path, kind: str) -> None:
    state = tmp_path / "state"
    seen: list[Heartbeat] = []

    def answer(body: object) -> object:
        until(lambda: [one for one in read_heartbeats(state) if one.state == "turn"])
        seen.extend(read_heartbeats(state))
        return FINE

    with Rig(kind, ONE, tmp_path, answer) as rig:
        rig.ask()
        [at_work] = seen
        assert at_work.deadline_s is not None
        assert 0 < at_work.deadline_s - time.monotonic() <= 10
        assert (at_work.stuck, at_work.practice, at_work.pid) == (False, False, os.getpid())
        assert (at_work.loop_lag_s is None) == (kind == "blocking")
        until(lambda: only(state).state == "idle")
        assert ("model.anthropic.claude-sonnet-5-5", "closed") in [
            (one.name, one.state) for one in only(state).breakers
        ]
    assert files(state) == []


_AGENT = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from telemetry.pulse import Pulse
pulse = Pulse(Path({state!r}), practice=True, breakers=tuple)
pulse.start()
print("beating", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    code = _AGENT.format(root=str(ROOT), state=str(tmp_path))
    started = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    with started:
        assert started.stdout is not None
        assert started.stdout.readline() == "beating\n"
        until(lambda: read_heartbeats(tmp_path))
        yield started
        started.kill()


@locks
def test_a_killed_agent_is_gone_at_once(tmp_path: Path, agent: subprocess.Popen[str]) -> None:
    assert only(tmp_path).pid == agent.pid
    agent.kill()
    agent.wait()
    assert read_heartbeats(tmp_path) == []
    assert files(tmp_path) == []


@locks
def test_a_stopped_agent_is_stuck_and_well_again_when_it_goes_on(tmp_path: Path, agent: subprocess.Popen[str]) -> None:
    agent.send_signal(signal.SIGSTOP)
    assert only(tmp_path, time.monotonic() + 11).stuck
    path = tmp_path / FOLDER / files(tmp_path)[0]
    before_ns = path.stat().st_mtime_ns
    agent.send_signal(signal.SIGCONT)
    until(lambda: path.stat().st_mtime_ns > before_ns)
    assert not only(tmp_path).stuck


def test_two_agents_share_a_folder(tmp_path: Path, agent: subprocess.Popen[str], clock: Clock) -> None:
    pulse = Pulse(tmp_path, practice=False, breakers=tuple)
    pulse.start()
    until(lambda: len(read_heartbeats(tmp_path)) == 2)
    assert {one.pid for one in read_heartbeats(tmp_path)} == {agent.pid, os.getpid()}
    pulse.stop()
    assert only(tmp_path).pid == agent.pid


def test_the_agent_does_not_load_what_renders_metrics() -> None:
    code = "import sys, wiring; assert not [name for name in sys.modules if 'prometheus' in name]"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
