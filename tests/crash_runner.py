"""Strikes a piece of real work at its n-th system call: kill -9, or an error the kernel could give.

    with Crashes("notes", tmp_path) as crashes:
        for ran in crashes.at_each("save", "signal=KILL", ALL):
            ran.said, ran.folder        what it had acknowledged, and what it left

The work is one of `crash_child.py`; strace does the striking. A run takes a hundredth of a second, since a
server with all imports done forks a child for each. Where strace is missing, or may not trace (a container
without ptrace), tests skip and say so.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from tests.crash_child import REPORT_BYTES

CHILD = Path(__file__).parent / "crash_child.py"
FILE_CALLS = frozenset(
    (
        "access", "chmod", "close", "faccessat2", "fchmod", "fchmodat", "fdatasync", "flock", "fstat", "fsync",
        "ftruncate", "getdents64", "lseek", "lstat", "mkdir", "mkdirat", "newfstatat", "open", "openat", "pread64",
        "pwrite64", "read", "rename", "renameat", "renameat2", "rmdir", "stat", "statx", "unlink", "unlinkat", "write",
    )
)  # fmt: skip
"""Calls on files and folders: those that a disk, its rights or its limits can make fail."""

CHANGING = frozenset(
    (
        "chmod", "exit_group", "fchmod", "fdatasync", "fsync", "ftruncate", "getppid", "mkdir", "open", "openat",
        "pwrite64", "rename", "unlink", "write",
    )
)  # fmt: skip
"""Calls that change what is on the disk, and where a work says something: a kill at any other leaves the same."""

_LINE = re.compile(r"^\d+ +(\w+)\((.*)")


@dataclass(frozen=True)
class Called:
    """One system call as strace saw it."""

    name: str
    rest: str

    @property
    def struck(self) -> bool:
        return "(INJECTED" in self.rest

    def __str__(self) -> str:
        return f"{self.name}({self.rest}"


@dataclass(frozen=True)
class Ran:
    """How one run went: what it said, how it ended (negative: the signal), and the calls it made."""

    folder: Path
    said: list[str]
    code: int
    calls: list[Called]

    @property
    def struck(self) -> Called | None:
        """The first call that was made to fail."""
        return next((call for call in self.calls if call.struck), None)

    @property
    def calls_before_the_strike(self) -> list[Called]:
        return list(itertools.takewhile(lambda call: not call.struck, self.calls))

    def __str__(self) -> str:
        return "\n".join([f"{self.code} {self.said}", *map(str, self.calls)])


class Run:
    """One child that waits to be let go; a context manager, since it must not outlive its test."""

    def __init__(
        self, server: subprocess.Popen[str], work: str, folder: Path, notes: Path, limits: Mapping[str, int]
    ) -> None:
        self.folder, self._server = folder, server
        self._report, self._log = notes.with_suffix(".said"), notes.with_suffix(".calls")
        self._report.write_bytes(bytes(REPORT_BYTES))
        asked = {"work": work, "folder": str(folder), "report": str(self._report), "limits": limits}
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        self.pid = int(server.stdout.readline())
        self._tracer: subprocess.Popen[str] | None = None

    def trace(self, *options: str) -> None:
        """Let strace get hold of it; returns when it has."""
        expressions = [part for option in options for part in ("-e", option)]
        command = ["strace", "-f", "-y", "-s", "200", "-o", str(self._log), "-p", str(self.pid), *expressions]
        self._tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._tracer.stderr is not None
        said = self._tracer.stderr.readline()
        if "attached" not in said:
            self._tracer.kill()
            raise PermissionError(said.strip())

    def go(self) -> None:
        """Let it work."""
        os.kill(self.pid, signal.SIGUSR1)

    def end(self) -> Ran:
        """Wait until it has ended."""
        assert self._server.stdout is not None
        code = int(self._server.stdout.readline())
        if self._tracer is not None:
            self._tracer.communicate()
        said = self._report.read_bytes().rstrip(b"\0").decode().splitlines()
        return Ran(self.folder, said, code, list(_calls(self._log)))


def _calls(log: Path) -> Iterator[Called]:
    for line in log.read_text(errors="replace").splitlines() if log.exists() else []:
        if found := _LINE.match(line):
            yield Called(*found.groups())


class Crashes:
    """Servers for one kind of work, and the folder in which every run has one of its own.

    Args:
        works: the kind, as `crash_child.py` knows it.
        folder: for the runs.
        within: a command to start servers with.
    """

    def __init__(self, works: str, folder: Path, within: Sequence[str] = ()) -> None:
        if os.name != "posix":
            pytest.skip("processes are struck on Unix only")
        self._command = [*within, sys.executable, str(CHILD), works]
        self._folder = folder
        self._servers: list[subprocess.Popen[str]] = []
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.communicate()  # which closes its stdin

    def start(self, work: str, folder: Path | None = None, *, server: int = 0, **limits: int) -> Run:
        """A child that waits. Those that are to run at the same time need a server each."""
        while len(self._servers) <= server:
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._servers.append(subprocess.Popen(self._command, **pipes))
        own = self._folder / str(next(self._numbers))
        if folder is None:
            own.mkdir()
        return Run(self._servers[server], work, folder or own, own, limits)

    def once(self, work: str, *options: str, folder: Path | None = None, **limits: int) -> Ran:
        """One run; `options` are strace's expressions, none: it is not traced."""
        run = self.start(work, folder, **limits)
        if options:
            run.trace(*options)
        run.go()
        return run.end()

    def at_each(
        self,
        work: str,
        strike: str,
        among: Container[str],
        prepare: Callable[[Path], object] = lambda folder: None,
        every: int = 1,
    ) -> Iterator[Ran]:
        """A run for each system call that the work makes, struck there.

        Up to where it is struck each run is like one that is not, so which calls there are is seen in that one.

        Args:
            work: its name.
            strike: what happens there, in strace's words: `signal=KILL`, `error=EIO`.
            among: only these calls.
            prepare: makes the state of the folder in which each run begins.
            every: of the calls of one name only every so manieth, where there are very many.
        """
        whole = self.once(work, "trace=all", folder=self.prepared(prepare))
        for name, count in Counter(call.name for call in whole.calls if call.name in among).items():
            for n in range(1, count + 1, every):
                ran = self.once(work, f"inject={name}:{strike}:when={n}", folder=self.prepared(prepare))
                assert ran.code != 0 or ran.struck, f"{name} {n} was not reached: {ran}"
                yield ran

    def prepared(self, prepare: Callable[[Path], object]) -> Path:
        """A folder for one run."""
        folder = self._folder / f"{next(self._numbers)}-prepared"
        folder.mkdir()
        prepare(folder)
        return folder


class _All:
    def __contains__(self, name: object) -> bool:
        return name != "rt_sigtimedwait"  # how the child waits for its start


ALL = _All()
"""Every call of a work."""


@functools.cache
def _why_not() -> str:
    if shutil.which("strace") is None:
        return "strace is not installed"
    probe = subprocess.Popen(["sleep", "60"])
    try:
        command = ["strace", "-p", str(probe.pid), "-e", "inject=?nanosleep:error=EINTR:when=1"]
        tracer: Any = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = tracer.stderr.readline()
    finally:
        probe.kill()
        probe.wait()
    tracer.communicate()
    return "" if "attached" in said else f"strace may not trace here: {said.strip()}"


def needs_strace() -> None:
    """Skip the test where calls cannot be struck."""
    if why := _why_not():
        pytest.skip(why)
