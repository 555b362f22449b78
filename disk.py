"""Saves files so that "saved" means durable, or says what did not happen.  (floor 4)

Saving follows one order, since each step is only worth what stands before it:

    fill a temporary file in the same folder -> fsync it -> claim the gate -> rename -> fsync the folder

Before the rename nothing is visible under the final name, and a failure leaves nothing. After it
the file is whole; if the folder cannot be confirmed then, the outcome is unknown and that is said.
A failed fsync is never repeated: the kernel reports a lost page once and then calls it clean, so a
second fsync would lie (PostgreSQL learned this in 2018). The next save of the same writes anew.

A temporary file is locked while it is written and the lock dies with its writer, so the next
start can tell what a crash left behind, also between containers, where process numbers mean
nothing. What this does not do: guard against somebody who may write in the folder and means harm.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import TypeVar

from errors import AgentError, OutcomeUnknown
from events import FaultInjected
from faults import Fault, FaultPlan
from flow import Flow, Gate, blocking, emit, pause
from platform_edges import FileFound, Files
from safe_text import one_line

T = TypeVar("T")
Same = Callable[[bytes], bool]

SAME_BYTES_MAX = 16 << 20
"""How much of a file in the way is read to compare it; what is saved here is far smaller."""

HANG_S = 3600.0
"""How long an injected hang lasts: beyond every limit of ours."""

TEMPS_MAX = 3
"""Temporary files tried: a program that starts may sweep one away in the instant before it is locked."""

_TEMP = re.compile(r"\.[0-9a-f]{16}\.unsaved")


class NameTaken(AgentError):
    """Something else stands under the name; it was left as it is."""

    reason = "disk"


class Saved(Enum):
    """How a save went well."""

    WRITTEN = "written"
    ALREADY = "already there"


class Disk:
    """Files that are durable when they are said to be.

    Args:
        plan: the faults; target `disk` is asked once for each read or write that a flow makes.
        files: the system calls.
    """

    def __init__(self, plan: FaultPlan, files: Files | None = None) -> None:
        self._plan = plan
        self._files = files or Files()
        # Files whose last fsync failed. The kernel has told that once and calls them clean from
        # now on, so only writing them anew can show that they are durable.
        self._doubtful: set[Path] = set()
        self._confirmed: set[Path] = set()

    # --- for flows ---

    def writing(self, folder: Path, name: str, data: bytes, gate: Gate, same: Same | None = None) -> Flow[Saved]:
        """`write_durably` aside, with the faults of the plan."""
        fault = yield from self._suffering()
        number = _errno_of(fault)
        work = blocking(lambda g: self.write_durably(folder, name, data, g, same, number), gate)
        return (yield from self._crashing_after(work, fault))

    def reading(self, read: Callable[[], T], doing: str) -> Flow[T]:
        """Run `read` aside, with the faults of the plan; `doing` ("look into notes") is for messages."""
        fault = yield from self._suffering()

        def call(gate: Gate) -> T:
            with _told(doing):
                _fail(_errno_of(fault))
                return read()

        return (yield from self._crashing_after(blocking(call), fault))

    def checking(self, path: Path, same: Same) -> Flow[bool]:
        """Read back whether this content is under the name, aside. The check of a save, so it meets no faults."""

        def call(gate: Gate) -> bool:
            with _told(f"read {path.name} back"):
                return self._holds(path, same)

        return (yield from blocking(call))

    def _suffering(self) -> Flow[Fault | None]:
        """Take what the plan has for this read or write, and bear what comes before it."""
        fault = self._plan.next("disk")
        yield from self._crashing(fault, "before")
        if fault is not None and fault.kind != "crash":
            yield from emit(FaultInjected("disk", fault.kind, fault.argument or ""))
            if fault.kind in ("slow", "hang"):
                yield from pause(fault.seconds(HANG_S))
        return fault

    def _crashing(self, fault: Fault | None, when: str) -> Flow[None]:
        if fault is not None and (fault.kind, fault.argument) == ("crash", when):
            yield from emit(FaultInjected("disk", "crash", when))
            self._plan.crash(fault)

    def _crashing_after(self, work: Flow[T], fault: Fault | None) -> Flow[T]:
        """Do the work, then die if that is the fault. Work that fails has no such moment: it gives the fault back."""
        try:
            done = yield from work
        except BaseException:  # also a cancel
            if fault is not None and fault.kind == "crash":
                self._plan.give_back(fault)
            raise
        yield from self._crashing(fault, "after")
        return done

    # --- saving ---

    def write_durably(
        self, folder: Path, name: str, data: bytes, gate: Gate, same: Same | None = None, number: int = 0
    ) -> Saved:
        """Save `data` as `folder/name`, never over other content; returns only when it is durable.

        Args:
            folder: made (0700) where it is missing.
            name: a bare file name that stands for this content, so that saving twice is harmless.
            data: all of it, or nothing, will be found under the name.
            gate: claimed right before the rename.
            same: whether content already under the name is this content; default: the same bytes.
            number: an errno to fail with while writing, 0 for none.

        Raises:
            AgentError: `disk`: nothing was saved; `timeout`: the gate was abandoned, nothing was saved.
            OutcomeUnknown: it is in place, but could not be confirmed.
        """
        if Path(name).name != name or name in ("", ".."):
            raise ValueError(f"{name!r} is not a bare file name")
        final, same = folder / name, same or data.__eq__
        with _told(f"save {name} in {folder.name}"):
            found = self.ensure_folder(folder)
            if self._holds(final, same) and final not in self._doubtful:
                _fail(number)
                with self._confirming(final):  # it is there: what fails now leaves it unknown, not undone
                    self._confirm_folder(found)
                self._confirm(final)
                return Saved.ALREADY
            self._confirm_folder(found)
            with self._files.folder(folder) as handle:  # now: too many open files must strike before the rename
                with ExitStack() as lock:
                    self._put_in_place(self._fill(folder, data, number, lock), final, gate, same)
                with self._confirming(final):
                    self._files.fsync_folder(handle)
        self._doubtful.discard(final)
        return Saved.WRITTEN

    def ensure_folder(self, folder: Path) -> Path:
        """Make the folder and its missing parents; returns the one that was there. OSError where that fails.

        A link to a folder is fine here, since a person chose it; inside nothing is followed.
        """
        missing = [folder]
        while not self._files.mode(missing[-1], follow=True):
            missing.append(missing[-1].parent)
        for path in reversed(missing[:-1]):
            with suppress(FileExistsError):  # another process was faster
                self._files.make_folder(path)
                self._confirmed.add(path)
        if not stat.S_ISDIR(self._files.mode(folder, follow=True)):
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder))
        return missing[-1]

    def _confirm_folder(self, folder: Path) -> None:
        """Make a folder's own name durable, once a process: a run may have been killed right after making it."""
        if folder not in self._confirmed:
            with suppress(PermissionError):  # no run of ours makes a folder in one that it may not open
                self._files.fsync_path(folder.parent)
            self._confirmed.add(folder)

    def _fill(self, folder: Path, data: bytes, number: int, lock: ExitStack) -> Path:
        """A durable temporary file with this content, locked until `lock` ends; none at all when anything fails."""
        for _ in range(TEMPS_MAX - 1):
            with suppress(BlockingIOError):
                return self._fill_one(folder, data, number, lock)
        return self._fill_one(folder, data, number, lock)

    def _fill_one(self, folder: Path, data: bytes, number: int, lock: ExitStack) -> Path:
        temp = folder / f".{os.urandom(8).hex()}.unsaved"
        try:
            with self._files.new(temp) as handle:
                lock.enter_context(self._files.lock_kept(handle))
                _fail(number)
                self._files.write(handle, data)
                self._files.fsync(handle)
        except FileExistsError:
            raise  # somebody else's
        except BaseException:  # also a cancel: nothing half-written may stay
            self._drop(temp)
            raise
        return temp

    def _put_in_place(self, temp: Path, final: Path, gate: Gate, same: Same) -> None:
        if not gate.claim():
            self._drop(temp)
            raise AgentError(f"stopped before {final.name} was saved", reason="timeout")
        try:
            self._files.rename(temp, final)
        except OSError:
            self._drop(temp)
            # A twin that was faster, or a network file system that renamed and lost its answer.
            with self._confirming(final):
                in_place = self._holds(final, same)
            if not in_place:
                raise

    def _holds(self, path: Path, same: Same) -> bool:
        """Whether this content is under the name; anything else there is a conflict and stays as it is."""
        mode = self._files.mode(path)
        if not mode:
            return False
        if stat.S_ISREG(mode) and same(self._files.read(path, SAME_BYTES_MAX)):
            return True
        raise NameTaken(
            f"{one_line(path.name)} is there already and holds something else; it was left as it is",
            what_now=f"Move it out of {one_line(path.parent.name)}, then try again.",
        )

    def _confirm(self, path: Path) -> None:
        """Make durable what an earlier run may have left unconfirmed."""
        with self._confirming(path):
            self._files.fsync_path(path)
            self._files.fsync_path(path.parent)

    @contextmanager
    def _confirming(self, path: Path) -> Iterator[None]:
        """Turn an OSError into an unknown outcome: something is in place, or may be."""
        try:
            yield
        except OSError as error:
            self._doubtful.add(path)
            said, _ = _words(error)
            raise OutcomeUnknown(
                f"{one_line(path.name)} may not survive a power cut, it could not be confirmed: {said}",
                what_now="Check the disk, then save it again.",
            ) from error

    def _drop(self, temp: Path) -> None:
        with suppress(OSError):  # what cannot be removed now is swept at the next start
            self._files.remove(temp)

    def is_durable(self, path: Path, same: Same) -> bool:
        """Whether this content is under the name and is durable: the look after an unknown outcome. For `reading`."""
        if path in self._doubtful or not self._holds(path, same):
            return False
        self._confirm(path)
        return True

    # --- reading and cleaning up ---

    def read(self, path: Path, bytes_max: int) -> bytes:
        """The first `bytes_max` bytes of a regular file; OSError for anything else. For `reading`."""
        return self._files.read(path, bytes_max)

    def newest(self, folder: Path, suffix: str) -> list[FileFound]:
        """The regular, visible files that end so, newest first; a missing folder has none. For `reading`."""
        found = [
            file
            for file in self._files.list(folder)
            if file.path.name.endswith(suffix) and not file.path.name.startswith(".")
        ]
        return sorted(found, key=lambda file: (-file.modified_ns, file.path.name))

    def sweep_temps(self, folder: Path) -> int:
        """Remove what crashed runs left; returns how many. Never raises: it can wait for the next start."""
        swept = 0
        with suppress(OSError):
            for file in self._files.list(folder):
                with suppress(OSError):
                    if _TEMP.fullmatch(file.path.name):
                        swept += self._files.remove_abandoned(file.path)
        return swept


def _errno_of(fault: Fault | None) -> int:
    """The number that this fault fails with, 0 for none."""
    if fault is None or fault.kind in ("slow", "hang", "crash"):
        return 0
    return errno.ENOSPC if fault.kind == "full" else errno.EIO


def _fail(number: int) -> None:
    if number:
        raise OSError(number, os.strerror(number))


# --- saying what the disk said ---------------------------------------------------------------------------

_SAID = {
    errno.ENOSPC: ("no space left on the disk", "Free some space, then try again."),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, then try again."),
    errno.EACCES: ("permission denied", "Check the rights of the folder."),
    errno.EPERM: ("not permitted", "Check the rights of the folder."),
    errno.EROFS: ("the disk is read-only", "Choose a folder that can be written, or remount the disk."),
    errno.EIO: ("the disk failed to read or write", "Check the disk, then try again."),
    errno.EMFILE: ("too many files are open", "Try again in a moment."),
    errno.ENFILE: ("too many files are open on this machine", "Try again in a moment."),
    errno.ENAMETOOLONG: ("the path is too long", "Choose a shorter folder."),
    errno.ELOOP: ("a symbolic link is in the way", "Remove it, then try again."),
    errno.ENOTDIR: ("the folder is not a folder", "Move what is in its place, or choose another folder."),
    errno.EISDIR: ("a folder is in the way", "Move it, then try again."),
    errno.ENOENT: ("the folder is gone", "Try again: it is made anew."),
    errno.EXDEV: ("the folder is on another disk than its files", "Choose another folder."),
}


def _words(error: OSError) -> tuple[str, str]:
    number = error.errno or 0
    unnamed = (error.strerror or type(error).__name__, "Check the disk, then try again.")
    said, what_now = _SAID.get(number, unnamed)
    return f"{said} ({errno.errorcode.get(number, 'no number')})", what_now


@contextmanager
def _told(doing: str) -> Iterator[None]:
    """Turn an OSError into a typed failure: nothing was done."""
    try:
        yield
    except OSError as error:
        said, what_now = _words(error)
        raise AgentError(f"could not {one_line(doing)}: {said}", reason="disk", what_now=what_now) from error
