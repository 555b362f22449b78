"""A disk below `platform_edges.Files`: system calls that fail, processes that die in them, power that goes.

What was written is in memory only until its file was synced, and a name until its folder was. A power cut keeps
of the rest whatever it likes: the old, the new, or a piece. A sync that failed is told once; afterwards the kernel
calls the pages clean although they never reached the disk.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Killed(BaseException):
    """The process is gone: nothing of it runs any more, also no clean-up."""


@dataclass(eq=False, slots=True)
class File:
    """A file's content, and what of it is on the disk (None: nothing). `lost`: a sync failed, and nobody knows."""

    data: bytes = b""
    synced: bytes | None = None
    lost: bool = False
    modified_ns: int = 0


@dataclass(eq=False, slots=True)
class Folder:
    """A folder's names, and which of them are on the disk. `lost`: names whose sync failed."""

    names: dict[str, Node] = field(default_factory=dict)
    synced: dict[str, Node] = field(default_factory=dict)
    lost: dict[str, Node | None] = field(default_factory=dict)
    modified_ns: int = 0

    def sync(self) -> None:
        for name in [*self.names, *self.synced]:
            node = self.names.get(name)
            if name in self.lost and self.lost[name] is node:
                continue
            self.lost.pop(name, None)
            if node is None:
                self.synced.pop(name, None)
            else:
                self.synced[name] = node

    def fail(self) -> None:
        """A sync failed: what had changed counts as clean from now on."""
        for name in {**self.names, **self.synced}:
            if self.names.get(name) is not self.synced.get(name):
                self.lost[name] = self.names.get(name)


Node = File | Folder


class Drive:
    """What outlives a process."""

    def __init__(self) -> None:
        self.root = Folder()

    def find(self, path: Path) -> Node | None:
        """What is at this path."""
        node: Node | None = self.root
        for part in path.parts[1:]:
            node = node.names.get(part) if isinstance(node, Folder) else None
        return node

    def cut_power(self, draw: Callable[[], float]) -> None:
        """Keep what is on the disk, and of the rest what chance keeps."""
        _cut(self.root, draw)

    def durable(self, path: Path) -> bytes | None:
        """The content that a power cut now would leave under this path for certain; None for none."""
        node: Node | None = self.root
        for part in path.parts[1:]:
            kept = node.synced.get(part) if isinstance(node, Folder) else None
            node = kept if isinstance(node, Folder) and node.names.get(part) is kept else None
        return node.synced if isinstance(node, File) and node.synced == node.data else None


def _cut(folder: Folder, draw: Callable[[], float]) -> None:
    for name in sorted({**folder.names, **folder.synced}):
        old, new = folder.synced.get(name), folder.names.get(name)
        kept = old if old is new or draw() < 0.5 else new
        if kept is None:
            folder.names.pop(name, None)
        else:
            folder.names[name] = kept
    folder.synced, folder.lost = dict(folder.names), {}
    for _, node in sorted(folder.names.items()):
        if isinstance(node, Folder):
            _cut(node, draw)
        elif node.synced != node.data:
            old_data = node.synced or b""
            chance = draw()
            torn = node.data[: int(len(node.data) * draw())]
            node.data = old_data if chance < 0.4 else torn if chance < 0.8 else node.data
            node.synced, node.lost = node.data, False
        else:
            node.lost = False


@dataclass(eq=False, slots=True)
class _Open:
    node: Node
    where: int = 0
    locked: bool = False


class SimulatedOs:
    """The part of `os` that `Files` uses, as one process sees it.

    Args:
        drive: the disk.
        strike: asked before each call by its name: "" goes on, else an errno's name or another word.
        dies: ends the process: a word of the strike, "kill" or "power". Raises Killed.
        note: told each call.
        wall_s: the wall clock.
    """

    O_RDONLY, O_WRONLY, O_CREAT, O_EXCL = os.O_RDONLY, os.O_WRONLY, os.O_CREAT, os.O_EXCL
    O_DIRECTORY, O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK = os.O_DIRECTORY, os.O_CLOEXEC, os.O_NOFOLLOW, os.O_NONBLOCK

    def __init__(
        self,
        drive: Drive,
        strike: Callable[[str], str],
        dies: Callable[[str], None],
        note: Callable[[str], None],
        wall_s: Callable[[], float],
    ) -> None:
        self._drive, self._strike, self._dies, self._note, self._wall_s = drive, strike, dies, note, wall_s
        self._open: dict[int, _Open] = {}
        self._next = 3
        self.dead = False

    @property
    def handles(self) -> int:
        """How many files are open."""
        return len(self._open)

    def _call(self, name: str) -> str:
        """Begin a call: raises what strikes it; answers a word for those that are more than an errno."""
        if self.dead:
            raise Killed
        kind = self._strike(f"os.{name}")
        self._note(f"os.{name} {kind}")
        if kind in ("kill", "power"):
            self._dies(kind)
        number = getattr(errno, kind, None) if kind else None
        if number is not None and name not in ("fsync", "fsync_folder", "close"):
            raise OSError(number, os.strerror(number))
        return kind

    def _tick(self) -> int:
        return int(self._wall_s() * 1e9)

    def _folder_of(self, path: Path) -> Folder:
        node = self._drive.find(path.parent)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        if not isinstance(node, Folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return node

    def _found(self, path: Path) -> Node:
        node = self._folder_of(path).names.get(path.name) if path.name else self._drive.root
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return node

    # --- the calls ---------------------------------------------------------------------------------------

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        creates = bool(flags & os.O_CREAT)
        self._call("create" if creates else "open")
        if creates:
            folder = self._folder_of(path)
            if path.name in folder.names:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            folder.names[path.name] = File(modified_ns=self._tick())
        node = self._found(path)
        if flags & os.O_DIRECTORY and not isinstance(node, Folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        self._next += 1
        self._open[self._next] = _Open(node)
        return self._next

    def close(self, handle: int) -> None:
        kind = self._call("close")
        del self._open[handle]
        if number := getattr(errno, kind, None) if kind else None:
            raise OSError(number, os.strerror(number))

    def write(self, handle: int, data: memoryview) -> int:
        kind = self._call("write")
        node = self._open[handle].node
        assert isinstance(node, File)
        taken = bytes(data[: max(1, len(data) // 2)] if kind == "short" else data)
        node.data += taken
        node.modified_ns = self._tick()
        return len(taken)

    def read(self, handle: int, size: int) -> bytes:
        self._call("read")
        one = self._open[handle]
        assert isinstance(one.node, File)
        part = one.node.data[one.where : one.where + size]
        one.where += len(part)
        return part

    def fsync(self, handle: int) -> None:
        node = self._open[handle].node
        kind = self._call("fsync_folder" if isinstance(node, Folder) else "fsync")
        if number := getattr(errno, kind, None) if kind else None:
            if isinstance(node, Folder):
                node.fail()
            else:
                node.lost = True
            raise OSError(number, os.strerror(number))
        if isinstance(node, Folder):
            node.sync()
        elif not node.lost:
            node.synced = node.data

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        self._call("mkdir")
        folder = self._folder_of(path)
        if path.name in folder.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        folder.names[path.name] = Folder()

    def rmdir(self, path: Path) -> None:
        self._call("rmdir")
        del self._folder_of(path).names[path.name]

    def rename(self, old: Path, new: Path) -> None:
        kind = self._call("rename")
        folder = self._folder_of(old)
        node = self._found(old)
        del folder.names[old.name]
        self._folder_of(new).names[new.name] = node
        if kind == "lost":  # a network file system that renamed and lost its answer
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def unlink(self, path: Path) -> None:
        self._call("unlink")
        self._found(path)
        del self._folder_of(path).names[path.name]

    def lstat(self, path: Path) -> Any:
        self._call("lstat")
        return _about(self._found(path))

    stat = lstat

    def fstat(self, handle: int) -> Any:
        return _about(self._open[handle].node)

    def chmod(self, path: Path, mode: int) -> None:
        """Modes are not simulated."""

    def fchmod(self, handle: int, mode: int) -> None:
        """Modes are not simulated."""

    def scandir(self, path: Path) -> Any:
        self._call("scandir")
        node = self._found(path)
        if not isinstance(node, Folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return _Entries(node)

    def lock(self, handle: int) -> None:
        """Lock an open file, or BlockingIOError where another handle of this file has the lock."""
        mine = self._open[handle]
        if any(one.node is mine.node and one.locked and one is not mine for one in self._open.values()):
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
        mine.locked = True


class _Entries(list[Any]):
    """What `os.scandir` gives: to be iterated, within a `with`."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(
            SimpleNamespace(name=name, stat=partial(_about_entry, node)) for name, node in folder.names.items()
        )

    def __enter__(self) -> _Entries:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


def _about_entry(node: Node, *, follow_symlinks: bool) -> Any:
    return _about(node)


def _about(node: Node) -> Any:
    kind = stat.S_IFREG if isinstance(node, File) else stat.S_IFDIR
    size = len(node.data) if isinstance(node, File) else 0
    return SimpleNamespace(
        st_mode=kind | 0o600, st_size=size, st_mtime_ns=node.modified_ns, st_mtime=node.modified_ns / 1e9
    )
