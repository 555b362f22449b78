"""Hides where operating systems differ: signals, looking names up, the calls behind saving.  (floor 4)

Signals on an event loop, host names that cannot hold up a timeout, whom TLS trusts, and `Files`: the few system
calls that saving needs, with what Windows or a network file system lacks. What this does not do:
decide in which order files are saved. That is `disk.py`.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import signal
import socket
import ssl
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from errors import AgentError
from safe_text import one_line

if sys.platform == "win32":
    import msvcrt

try:
    import fcntl
except ImportError:  # Windows: there an open file cannot be removed, which tells the same
    fcntl = None  # type: ignore[assignment]

RESOLVERS_MAX = 16
"""Name look-ups under way at most; a hung name server must not fill the process with threads."""

_RESOLVER = "resolver"


def resolve_aside(host: str, port: int) -> list[str]:
    """The IP addresses of `host`, in the order the system prefers them, without duplicates.

    `getaddrinfo` cannot be interrupted: an alarm that fires inside it is handled when it returns,
    tens of seconds later. So it runs in a daemon thread, and the caller waits on a lock, which an
    alarm does interrupt. The thread left behind ends by itself and never holds the exit.

    Raises:
        socket.gaierror: the name is unknown, or the name server does not answer.
    """
    if _is_address(host):
        return [host]
    under_way = sum(thread.name == _RESOLVER for thread in threading.enumerate())
    if under_way >= RESOLVERS_MAX:
        raise socket.gaierror(socket.EAI_AGAIN, f"{under_way} name look-ups are stuck already")
    answered = threading.Lock()  # not an Event: a bare lock is the one wait that an alarm may interrupt anywhere
    answered.acquire()
    found: list[str] = []
    failed: list[BaseException] = []

    def look_up() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(answer[4][0]) for answer in answers))
        except OSError as error:
            failed.append(error)
        except UnicodeError:  # a label that is empty or too long for the IDNA encoding
            failed.append(socket.gaierror(socket.EAI_NONAME, "not a host name"))
        finally:
            answered.release()

    threading.Thread(target=look_up, name=_RESOLVER, daemon=True).start()
    answered.acquire()
    if failed:
        raise failed[0]
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@cache
def trust() -> ssl.SSLContext:
    """Whom TLS trusts: the operating system's store, read once a process (60 ms).

    Raises:
        AgentError: SSL_CERT_FILE or SSL_CERT_DIR leads to something that cannot be read.
    """
    import httpx2

    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        why = one_line(error.strerror or str(error))
        what_now = "Check SSL_CERT_FILE and SSL_CERT_DIR."
        raise AgentError(f"the trusted certificates cannot be read: {why}", reason="tls", what_now=what_now) from error


def install_signals(
    loop: asyncio.AbstractEventLoop, handlers: Mapping[str, Callable[[], object]]
) -> Callable[[], None]:
    """Run each handler on the loop when its signal arrives; returns what puts back what was there before.

    Args:
        loop: the running loop; call this from the main thread.
        handlers: by name, e.g. {"SIGINT": stop, "SIGHUP": leave}. Names this system lacks are skipped.

    Where a loop cannot take signals itself (Windows), a plain handler passes them on; the loop's
    own wake-up descriptor makes it notice.
    """
    undo: list[Callable[[], object]] = []
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            before = signal.getsignal(number)
            loop.add_signal_handler(number, handler)
            undo += [partial(loop.remove_signal_handler, number), partial(signal.signal, number, before)]
        except NotImplementedError:
            signal.signal(number, _passing_on(loop, handler))
            undo.append(partial(signal.signal, number, before))

    def undo_all() -> None:
        for step in undo:
            step()

    return undo_all


def _passing_on(
    loop: asyncio.AbstractEventLoop, handler: Callable[[], object]
) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(handler)

    return handle


def end_at_once() -> NoReturn:
    """End this process as a crash does: nothing is flushed, closed or told."""
    with suppress(AttributeError):  # Windows has no such signal
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(137)  # the first process of a container cannot be killed from inside it


# --- the calls behind saving ------------------------------------------------------------------------------

LOCKLESS_AGE_S_MAX = 3600.0
"""Where files cannot be locked, one this old is nobody's: no save takes an hour."""


@dataclass(frozen=True, slots=True)
class FileFound:
    """One regular file in a folder: its size in bytes, its time in nanoseconds since the epoch."""

    path: Path
    size: int
    modified_ns: int


def _flock(handle: int, *operations: str) -> None:
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "this system has no file locks")
    for names in operations or ("LOCK_EX LOCK_NB",):
        fcntl.flock(handle, sum(getattr(fcntl, name) for name in names.split()))


def hold(handle: int) -> None:
    """Lock an open file until it is closed or its process ends, however it ends; waits for those who ask `is_held`.

    The lock of the file system, not of POSIX: the latter falls when any handle of the file is closed, and is no
    lock at all within one process. Raises OSError where there are no locks.
    """
    if sys.platform == "win32":
        _far_byte(handle, msvcrt.LK_LOCK)
    else:
        _flock(handle, "LOCK_EX")


def take(handle: int) -> bool:
    """Lock an open file as `hold` does, but never wait: False when somebody else has it.

    Raises OSError where there are no locks.
    """
    try:
        if sys.platform == "win32":
            _far_byte(handle, msvcrt.LK_NBLCK)
        else:
            _flock(handle)
    except (BlockingIOError, PermissionError):  # the second is how Windows says it
        return False
    return True


def is_held(handle: int) -> bool:
    """Whether somebody holds the lock of this file, which may be open for reading only.

    Askers share, so that none takes another for the holder. Raises OSError where there are no locks.
    """
    try:
        if sys.platform == "win32":
            _far_byte(handle, msvcrt.LK_NBRLCK)
            _far_byte(handle, msvcrt.LK_UNLCK)
        else:
            _flock(handle, "LOCK_SH LOCK_NB", "LOCK_UN")
    except (BlockingIOError, PermissionError):  # the second is how Windows says it
        return True
    return False


if sys.platform == "win32":

    def _far_byte(handle: int, mode: int) -> None:
        """Lock one byte far behind the end: Windows lets nobody read what is locked."""
        os.lseek(handle, 1 << 30, os.SEEK_SET)
        msvcrt.locking(handle, mode, 1)


class Files:
    """System calls on files, none of which follows a link or waits for a pipe. All raise OSError.

    Args:
        system: the `os` module, or something that lacks or breaks a part of it.
        lock: locks an open file or raises BlockingIOError; None where files cannot be locked.
    """

    def __init__(self, system: Any = os, lock: Callable[[int], None] | None = _flock if fcntl else None) -> None:
        self._os, self._lock = system, lock
        self._plain = getattr(system, "O_CLOEXEC", 0) | getattr(system, "O_BINARY", 0)
        self._careful = self._plain | getattr(system, "O_NOFOLLOW", 0) | getattr(system, "O_NONBLOCK", 0)

    @contextmanager
    def new(self, path: Path) -> Iterator[int]:
        """A new file (0600 whatever the umask), locked while it is open. Close errors are raised.

        Raises BlockingIOError when a program that starts took it for left behind before it was locked: take another.
        """
        flags = self._os.O_WRONLY | self._os.O_CREAT | self._os.O_EXCL | self._careful
        handle = self._os.open(path, flags, 0o600)
        try:
            if self._lock is not None:
                try:
                    self._lock(handle)
                except BlockingIOError:
                    raise
                except OSError:
                    pass  # this file system has no locks: `remove_abandoned` goes by age
                else:
                    if not self.mode(path):
                        raise BlockingIOError(errno.EWOULDBLOCK, "removed before it was locked", str(path))
            if hasattr(self._os, "fchmod"):
                with suppress(PermissionError):  # some file systems have no modes
                    self._os.fchmod(handle, 0o600)
            yield handle
        finally:
            with suppress(InterruptedError):  # the descriptor is gone all the same
                self._os.close(handle)

    @contextmanager
    def lock_kept(self, handle: int) -> Iterator[None]:
        """Keep the lock of this open file also when it is closed inside: nobody may sweep it away before its rename.

        A lock belongs to the open file, which a second descriptor keeps open. Not on Windows: there it would keep
        the file from being renamed.
        """
        if self._lock is None or not hasattr(self._os, "dup"):
            yield
            return
        with self._closing(self._os.dup(handle)):
            yield

    def write(self, handle: int, data: bytes) -> None:
        """Write all of it: one call may take only a part."""
        rest = memoryview(data)
        while rest:
            written = self._os.write(handle, rest)
            if written <= 0:
                raise OSError(errno.EIO, "nothing was written")
            rest = rest[written:]

    def read(self, path: Path, bytes_max: int) -> bytes:
        """The first `bytes_max` bytes of a regular file; OSError for a link, a pipe, a folder, a device."""
        if not stat.S_ISREG(self._os.lstat(path).st_mode):  # for systems without O_NOFOLLOW
            raise OSError(errno.ELOOP, "not a regular file", str(path))
        with self._closing(self._os.open(path, self._os.O_RDONLY | self._careful)) as handle:
            if not stat.S_ISREG(self._os.fstat(handle).st_mode):  # it was replaced meanwhile
                raise OSError(errno.ELOOP, "not a regular file", str(path))
            parts: list[bytes] = []
            while bytes_max > 0 and (part := self._os.read(handle, min(bytes_max, 1 << 20))):
                parts.append(part)
                bytes_max -= len(part)
            return b"".join(parts)

    def fsync(self, handle: int) -> None:
        """Everything written to this open file is durable."""
        self._os.fsync(handle)

    def fsync_path(self, path: Path) -> None:
        """A file or folder that is there is durable."""
        if hasattr(self._os, "O_DIRECTORY"):
            with self._closing(self._os.open(path, self._os.O_RDONLY | self._plain)) as handle:
                self.fsync_folder(handle)

    @contextmanager
    def folder(self, path: Path) -> Iterator[int | None]:
        """An open folder for `fsync_folder`; None on Windows, which cannot open one and need not."""
        directory = getattr(self._os, "O_DIRECTORY", None)
        if directory is None:
            yield None
            return
        with self._closing(self._os.open(path, self._os.O_RDONLY | directory | self._plain)) as handle:
            yield handle

    def fsync_folder(self, handle: int | None) -> None:
        """The names in this open folder are durable."""
        if handle is None:
            return
        try:
            self._os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such thing
                raise

    def make_folder(self, path: Path) -> None:
        """A new folder, 0700 whatever the umask, durable; gone again where that fails."""
        self._os.mkdir(path, 0o700)
        try:
            with suppress(PermissionError):  # as above
                self._os.chmod(path, 0o700)
            self.fsync_path(path.parent)
        except OSError:
            self._os.rmdir(path)
            raise

    def rename(self, old: Path, new: Path) -> None:
        """Give a file its final name, in one step."""
        self._os.rename(old, new)

    def remove(self, path: Path) -> None:
        """Remove a file or a link."""
        self._os.unlink(path)

    def mode(self, path: Path, *, follow: bool = False) -> int:
        """What is at this path (`st_mode`); 0 when nothing is."""
        try:
            return int((self._os.stat if follow else self._os.lstat)(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def list(self, folder: Path) -> Iterator[FileFound]:
        """The regular files of a folder; a missing folder has none."""
        try:
            entries = self._os.scandir(folder)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # removed meanwhile
                    about = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(about.st_mode):
                        yield FileFound(folder / entry.name, about.st_size, about.st_mtime_ns)

    def remove_abandoned(self, path: Path) -> bool:
        """Remove a file that no living writer has open (see `new`); whether it was one."""
        if self._lock is None:
            self.remove(path)  # refused on Windows while somebody has it open
            return True
        with self._closing(self._os.open(path, self._os.O_RDONLY | self._careful)) as handle:
            try:
                self._lock(handle)
            except BlockingIOError:
                return False
            except OSError:
                if time.time() - float(self._os.fstat(handle).st_mtime) <= LOCKLESS_AGE_S_MAX:
                    return False
            self.remove(path)  # with the lock: its writer, if it has just been made, can tell
            return True

    @contextmanager
    def _closing(self, handle: int) -> Iterator[int]:
        try:
            yield handle
        finally:
            with suppress(OSError):  # nothing was written through it, and the descriptor is gone all the same
                self._os.close(handle)
