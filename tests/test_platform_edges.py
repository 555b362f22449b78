"""Where systems differ: names, signals, and the calls behind saving, also where a system lacks something."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import platform_edges
from errors import AgentError
from platform_edges import Files, install_signals, resolve_aside, trust

unix = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="needs Unix")


# --- names -------------------------------------------------------------------------------------------------


def test_addresses_need_no_look_up() -> None:
    assert resolve_aside("127.0.0.1", 80) == ["127.0.0.1"]
    assert resolve_aside("::1", 80) == ["::1"]


def test_a_name_gives_its_addresses_once_each() -> None:
    found = resolve_aside("localhost", 80)
    assert "127.0.0.1" in found or "::1" in found
    assert len(found) == len(set(found))


@pytest.mark.parametrize("host", ["a..b", "x" * 300, "", "no such host"])
def test_what_is_no_name_is_an_unknown_host(host: str) -> None:
    with pytest.raises(socket.gaierror):
        resolve_aside(host, 80)


@unix
def test_an_alarm_ends_the_wait_for_a_name_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    hung = threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        hung.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    class Alarm(BaseException):
        pass

    def ring(number: int, frame: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        started_s = time.monotonic()
        with pytest.raises(Alarm):
            resolve_aside("hangs.test", 80)
        assert time.monotonic() - started_s < 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        hung.set()


def test_hung_look_ups_do_not_pile_up_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    hung, at_work = threading.Event(), threading.Semaphore(0)

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        at_work.release()
        hung.wait(10)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def call() -> None:
        with contextlib.suppress(socket.gaierror):
            resolve_aside("hangs.test", 80)

    callers = [threading.Thread(target=call) for _ in range(platform_edges.RESOLVERS_MAX)]
    for caller in callers:
        caller.start()
        assert at_work.acquire(timeout=10)
    with pytest.raises(socket.gaierror) as caught:
        resolve_aside("hangs.test", 80)
    assert caught.value.errno == socket.EAI_AGAIN
    hung.set()
    for caller in callers:
        caller.join(10)


# --- whom TLS trusts ---------------------------------------------------------------------------------------


def test_certificates_that_cannot_be_read_are_told_with_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trust.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
    with pytest.raises(AgentError) as caught:
        trust()
    assert (caught.value.reason, "SSL_CERT_FILE" in caught.value.what_now) == ("tls", True)
    monkeypatch.delenv("SSL_CERT_FILE")
    assert trust() is trust()


# --- signals -----------------------------------------------------------------------------------------------


@unix
@pytest.mark.parametrize("loop_takes_signals", [True, False])
def test_a_signal_runs_its_handler_on_the_loop_until_it_is_undone(
    loop_takes_signals: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGUSR1, _another)

    async def main() -> None:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()
        if not loop_takes_signals:
            monkeypatch.setattr(type(loop), "add_signal_handler", _not_implemented)
        undo = install_signals(loop, {"SIGUSR1": arrived.set, "SIGNOTHERE": arrived.set})
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(arrived.wait(), 5)
        undo()

    asyncio.run(main())
    assert signal.signal(signal.SIGUSR1, before) is _another


def _another(number: int, frame: Any) -> None:
    raise AssertionError("the handler that stood here before was not to run")


def _not_implemented(*_: Any) -> None:
    raise NotImplementedError


# --- files -------------------------------------------------------------------------------------------------


class Lacking:
    """The `os` module without some of its names."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            raise AttributeError(name)
        return getattr(os, name)


WINDOWS = ("O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_CLOEXEC", "fchmod")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@unix
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_new_files_and_folders_are_private_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    files = Files()
    with umask(mask):
        files.make_folder(tmp_path / "f")
        with files.new(tmp_path / "f" / "a") as handle:
            files.write(handle, b"x")
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "f" / "a").stat().st_mode) == 0o600


def test_a_new_file_is_never_one_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("a", "link"):
        with pytest.raises(FileExistsError), Files().new(tmp_path / name):
            pass
    assert (tmp_path / "a").read_text() == "old"
    assert not (tmp_path / "elsewhere").exists()


@unix
@pytest.mark.parametrize("lacks", [(), WINDOWS])
def test_only_regular_files_are_read(tmp_path: Path, lacks: tuple[str, ...]) -> None:
    files = Files(Lacking(*lacks))
    (tmp_path / "real").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # opening it without care would wait for ever
    assert files.read(tmp_path / "real", 100) == b"0123456789"
    assert files.read(tmp_path / "real", 4) == b"0123"
    for name in ("link", "folder", "pipe", "nothing"):
        with pytest.raises(OSError, match=r"regular|No such"):
            files.read(tmp_path / name, 100)
    assert [found.path.name for found in files.list(tmp_path)] == ["real"]


def test_a_missing_folder_lists_nothing(tmp_path: Path) -> None:
    assert list(Files().list(tmp_path / "none")) == []
    assert Files().mode(tmp_path / "none") == 0


def test_a_write_that_takes_only_a_part_goes_on(tmp_path: Path) -> None:
    class Short(Lacking):
        def write(self, handle: int, data: memoryview) -> int:
            return os.write(handle, data[:3])

    files = Files(Short())
    with files.new(tmp_path / "a") as handle:
        files.write(handle, b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_a_write_that_takes_nothing_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    class Stuck(Lacking):
        def write(self, handle: int, data: memoryview) -> int:
            return 0

    files = Files(Stuck())
    with pytest.raises(OSError, match="nothing"), files.new(tmp_path / "a") as handle:
        files.write(handle, b"x")


@unix
def test_a_file_is_abandoned_once_its_writer_is_gone(tmp_path: Path) -> None:
    files = Files()
    with files.new(tmp_path / "a"):
        assert not files.remove_abandoned(tmp_path / "a")
        assert (tmp_path / "a").exists()
    assert files.remove_abandoned(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@unix
@pytest.mark.parametrize("seen", ["before the lock", "with the lock"])
def test_a_new_file_that_was_taken_for_abandoned_before_it_was_locked_is_noticed(tmp_path: Path, seen: str) -> None:
    other = Files()

    def lock(handle: int) -> None:
        if seen == "with the lock":
            raise BlockingIOError  # the one that removes it has it
        assert other.remove_abandoned(tmp_path / "a")

    with pytest.raises(BlockingIOError), Files(lock=lock).new(tmp_path / "a"):
        pass


@unix
def test_a_lock_can_be_kept_beyond_the_close(tmp_path: Path) -> None:
    files = Files()
    with ExitStack() as lock:
        with files.new(tmp_path / "a") as handle:
            lock.enter_context(files.lock_kept(handle))
        assert not files.remove_abandoned(tmp_path / "a")
    assert files.remove_abandoned(tmp_path / "a")


def test_without_locks_a_file_is_abandoned_when_it_is_old(tmp_path: Path) -> None:
    def no_locks(handle: int) -> None:
        raise OSError("locks are not supported here")

    files = Files(lock=no_locks)
    with files.new(tmp_path / "a"):
        pass
    assert not files.remove_abandoned(tmp_path / "a")
    os.utime(tmp_path / "a", (time.time() - 7200,) * 2)
    assert files.remove_abandoned(tmp_path / "a")


def test_where_folders_cannot_be_opened_nothing_is_fsynced(tmp_path: Path) -> None:
    files = Files(Lacking(*WINDOWS), lock=None)
    with files.folder(tmp_path) as handle:
        assert handle is None
        files.fsync_folder(handle)
    files.fsync_path(tmp_path)
    files.make_folder(tmp_path / "f")
    with files.new(tmp_path / "f" / "a") as handle:
        files.write(handle, b"x")
    assert files.remove_abandoned(tmp_path / "f" / "a")


@unix
def test_a_process_that_ends_at_once_is_killed_and_leaves_nothing_behind() -> None:
    code = """
import atexit, platform_edges
atexit.register(print, "late")
try:
    platform_edges.end_at_once()
finally:
    print("alive")
"""
    here = Path(platform_edges.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
