"""Saved means durable, whatever breaks: each system call of a save fails once, in every way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disk import TEMPS_MAX, Disk, Saved
from errors import AgentError, OutcomeUnknown
from events import FaultInjected
from faults import Crashed, FaultPlan, parse_fault
from flow import Gate
from platform_edges import Files
from tests.support import Doors

NAME, DATA = "a.md", b"milk, eggs\n" * 50
ERRORS = [
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE,
    errno.EINTR, errno.ENAMETOOLONG, errno.EXDEV, errno.ENOENT,
]  # fmt: skip
CALLS = (
    "open", "write", "fsync", "close", "rename", "mkdir", "chmod", "fchmod", "stat", "lstat", "unlink", "rmdir", "read",
    "fstat",
)  # fmt: skip


class BreakingOs:
    """The `os` module whose call number `at` fails; keeps what was called, by name and what it was about."""

    def __init__(self, at: int = -1, failing: int = errno.EIO, *, after: bool = False, only: str = "") -> None:
        self.at, self.failing, self.after, self.only = at, failing, after, only
        self.calls: list[str] = []
        self.broken: str | None = None
        self._paths: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._watched(name, real) if name in CALLS else real

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            about = self._paths.get(args[0], "") if isinstance(args[0], int) else Path(args[0]).name
            about = "temp" if about.endswith(".unsaved") else about
            number = len([each for each in self.calls if each.startswith(self.only)])
            self.calls.append(f"{name} {about}".strip())
            strikes = number == self.at and self.calls[-1].startswith(self.only)
            if strikes and (not self.after or name == "close"):
                if name == "close":
                    real(*args, **kwargs)  # also a close that fails closes
                self._break(name)
            result = real(*args, **kwargs)
            if name == "open":
                self._paths[result] = Path(args[0]).name
            if strikes:
                self._break(name)
            return result

        return call

    def _break(self, name: str) -> None:
        self.broken = name
        raise OSError(self.failing, os.strerror(self.failing))


def disk(system: Any = os, *faults: str) -> Disk:
    return Disk(FaultPlan([parse_fault(fault) for fault in faults]), Files(system))


def outcome(system: Any, folder: Path, data: bytes = DATA) -> str:
    try:
        saved = disk(system).write_durably(folder, NAME, data, Gate())
    except OutcomeUnknown:
        return "unknown"
    except AgentError as error:
        return "failed" if error.reason == "disk" and error.what_now else f"badly typed {error!r}"
    return saved.value


def steps_of_a_save(folder: Path) -> list[str]:
    watching = BreakingOs()
    assert outcome(watching, folder) == "written"
    return watching.calls


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name != NAME] if folder.is_dir() else []


# --- the order ---------------------------------------------------------------------------------------------


def test_a_save_is_fsynced_then_renamed_then_its_folder_is_fsynced(tmp_path: Path) -> None:
    steps = steps_of_a_save(tmp_path / "notes")
    order = [
        "mkdir notes", f"fsync {tmp_path.name}", "write temp", "fsync temp", "close temp", "rename temp", "fsync notes",
    ]  # fmt: skip
    places = [steps.index(step) for step in order]
    assert places == sorted(places), steps
    assert (tmp_path / "notes" / NAME).read_bytes() == DATA
    assert leftovers(tmp_path / "notes") == []


def test_the_folder_is_opened_before_the_point_of_no_return(tmp_path: Path) -> None:
    steps = steps_of_a_save(tmp_path / "notes")
    assert steps.index("open notes") < steps.index("rename temp")
    assert not any(step.startswith("open") for step in steps[steps.index("rename temp") :])


def test_saving_the_same_again_confirms_what_is_there_and_writes_nothing(tmp_path: Path) -> None:
    steps_of_a_save(tmp_path)
    inode = (tmp_path / NAME).stat().st_ino
    watching = BreakingOs()
    assert outcome(watching, tmp_path) == "already there"
    synced = [step for step in watching.calls if "fsync" in step]
    assert synced == [f"fsync {tmp_path.parent.name}", f"fsync {NAME}", f"fsync {tmp_path.name}"]
    assert not any("write" in step for step in watching.calls)
    assert (tmp_path / NAME).stat().st_ino == inode


def test_a_folder_that_a_killed_run_has_just_made_is_made_durable_before_anything_is_kept_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()  # and killed before its name was durable
    disk = Disk(FaultPlan(), Files(watching := BreakingOs()))
    for number in range(2):
        disk.write_durably(tmp_path / "notes", f"{number}.md", b"x", Gate())
    calls = watching.calls
    assert calls.count(f"fsync {tmp_path.name}") == 1, "once a process"
    assert calls.index(f"fsync {tmp_path.name}") < calls.index("rename temp")


# --- every call fails once, in every way --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "after"),
    [*((number, False) for number in ERRORS), (errno.EIO, True), (errno.EINTR, True), (errno.EPERM, True)],
    ids=lambda value: "done" if value is True else errno.errorcode.get(value, "undone"),
)
def test_whatever_call_fails_the_outcome_said_is_the_outcome(tmp_path: Path, failing: int, after: bool) -> None:
    count = len(steps_of_a_save(tmp_path / "notes"))
    outcomes = set()
    for at in range(count):
        folder = tmp_path / str(at) / "notes"
        folder.parent.mkdir()
        breaking = BreakingOs(at, failing, after=after)
        said = outcome(breaking, folder)
        if breaking.broken is None:  # the real call failed by itself, as a look at what is not there does
            assert after
            continue
        outcomes.add(said)
        final = folder / NAME
        if final.exists():
            assert final.read_bytes() == DATA, breaking.calls
        assert said != "failed" or not final.exists(), breaking.calls
        assert said != "written" or final.exists(), breaking.calls
        allowed_left = 1 if breaking.broken == "unlink" else 0
        assert len(leftovers(folder)) <= allowed_left, breaking.calls
        # Nothing needs a restart: the same disk, whole again, saves.
        assert outcome(os, folder) in ("written", "already there")
        assert final.read_bytes() == DATA
    assert "failed" in outcomes
    assert "unknown" in outcomes


@pytest.mark.parametrize("step", ["fsync temp", "fsync notes"])
def test_a_save_whose_fsync_failed_is_never_acknowledged(tmp_path: Path, step: str) -> None:
    breaking = BreakingOs(0, errno.EIO, only=step)
    assert outcome(breaking, tmp_path / "notes") == ("failed" if step == "fsync temp" else "unknown")
    assert breaking.calls.count(step) == 1, "a failed fsync is not repeated"


def test_after_a_failed_folder_fsync_a_look_does_not_vouch_and_the_next_save_writes_anew(tmp_path: Path) -> None:
    breaking = BreakingOs(0, errno.EIO, only="fsync notes")
    saving, folder = Disk(FaultPlan(), Files(breaking)), tmp_path / "notes"
    with pytest.raises(OutcomeUnknown):
        saving.write_durably(folder, NAME, DATA, Gate())
    assert not saving.is_durable(folder / NAME, DATA.__eq__)
    assert saving.write_durably(folder, NAME, DATA, Gate()) is Saved.WRITTEN
    assert saving.is_durable(folder / NAME, DATA.__eq__)


def test_a_rename_that_happened_but_lost_its_answer_is_a_save(tmp_path: Path) -> None:
    assert outcome(BreakingOs(0, errno.EINTR, only="rename", after=True), tmp_path) == "written"


def test_a_full_disk_in_the_middle_of_a_write_leaves_nothing(tmp_path: Path) -> None:
    class Filling(BreakingOs):
        written = 0

        def write(self, handle: int, data: memoryview) -> int:
            if self.written > 200:
                raise OSError(errno.ENOSPC, "full")
            self.written += 70
            return os.write(handle, data[:70])

    assert outcome(Filling(), tmp_path) == "failed"
    assert list(tmp_path.iterdir()) == []


def test_failures_are_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        disk(BreakingOs(0, errno.ENOSPC, only="write")).write_durably(tmp_path, NAME, DATA, Gate())
    assert caught.value.message == f"could not save {NAME} in {tmp_path.name}: no space left on the disk (ENOSPC)"
    assert "space" in caught.value.what_now


# --- what is in the way --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["other content", "longer", "link", "link to the same", "folder", "pipe", "dangling"])
def test_what_is_in_the_way_is_a_conflict_and_stays(tmp_path: Path, kind: str) -> None:
    final, outside = tmp_path / "notes" / NAME, tmp_path / "outside"
    final.parent.mkdir()
    outside.write_bytes(DATA if kind == "link to the same" else b"mine")
    match kind:
        case "other content":
            final.write_bytes(b"mine")
        case "longer":
            final.write_bytes(DATA + b"more")
        case "folder":
            final.mkdir()
        case "pipe":
            os.mkfifo(final)
        case "dangling":
            final.symlink_to(tmp_path / "nowhere")
        case _:
            final.symlink_to(outside)
    before = final.lstat()
    with pytest.raises(AgentError, match="holds something else"):
        disk().write_durably(final.parent, NAME, DATA, Gate())
    assert final.lstat().st_ino == before.st_ino
    assert outside.read_bytes() in (DATA, b"mine")
    assert not (tmp_path / "nowhere").exists()
    assert leftovers(final.parent) == []


def test_the_folder_may_be_a_link_but_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert outcome(os, tmp_path / "link") == "written"
    assert (tmp_path / "real" / NAME).exists()
    for name in ("file", "dangling"):
        (tmp_path / "file").write_text("")
        (tmp_path / "dangling").unlink(missing_ok=True)
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        assert outcome(os, tmp_path / name) == "failed"


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    saving = disk()
    for _ in range(2):
        assert saving.write_durably(tmp_path / "a" / "b", NAME, DATA, Gate()) is Saved.WRITTEN
        (tmp_path / "a" / "b" / NAME).unlink()
        (tmp_path / "a" / "b").rmdir()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_a_typed_failure(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert outcome(os, tmp_path) == "failed"
    finally:
        tmp_path.chmod(0o700)


def test_a_name_with_a_path_in_it_is_refused(tmp_path: Path) -> None:
    for name in ("../a.md", "a/b.md", "/etc/a.md", "..", ""):
        with pytest.raises(ValueError, match="bare"):
            disk().write_durably(tmp_path, name, DATA, Gate())


# --- the gate ------------------------------------------------------------------------------------------------


def test_a_save_that_was_given_up_leaves_nothing(tmp_path: Path) -> None:
    gate = Gate()
    assert gate.abandon()
    with pytest.raises(AgentError) as caught:
        disk().write_durably(tmp_path, NAME, DATA, gate)
    assert caught.value.reason == "timeout"
    assert list(tmp_path.iterdir()) == []


def test_the_gate_is_claimed_after_everything_that_can_still_be_undone(tmp_path: Path) -> None:
    watching = BreakingOs()
    claimed_after: list[str] = []

    class Watched(Gate):
        def claim(self) -> bool:
            claimed_after.extend(watching.calls)
            return super().claim()

    disk(watching).write_durably(tmp_path, NAME, DATA, Watched())
    assert "close temp" in claimed_after
    assert watching.calls[len(claimed_after)] == "rename temp"


# --- many at once ----------------------------------------------------------------------------------------------


def test_many_saving_the_same_leave_one_whole_file(tmp_path: Path) -> None:
    ready, said = threading.Barrier(8), []

    def save() -> None:
        ready.wait()
        said.append(outcome(os, tmp_path / "notes"))

    threads = [threading.Thread(target=save) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(said) <= {"written", "already there"}
    assert len(said) == 8
    assert [path.name for path in (tmp_path / "notes").iterdir()] == [NAME]
    assert (tmp_path / "notes" / NAME).read_bytes() == DATA


# --- what crashes leave ------------------------------------------------------------------------------------------

CRASHING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from disk import Disk
from faults import FaultPlan
from flow import Gate
from platform_edges import Files

class Os:
    def __init__(self, at):
        self.left = at
    def __getattr__(self, name):
        real = getattr(os, name)
        def call(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call if callable(real) else real

at, ended = 0, False
while not ended:
    at += 1
    child = os.fork()
    if child == 0:
        Disk(FaultPlan(), Files(Os(at))).write_durably(Path(sys.argv[1]) / str(at), "a.md", b"milk", Gate())
        os._exit(0)
    ended = os.waitpid(child, 0)[1] == 0
    print("saved" if ended else "killed")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs Unix")
def test_a_kill_at_any_call_leaves_a_whole_note_or_none_and_the_next_start_tidies_up(tmp_path: Path) -> None:
    root = str(Path(__file__).parent.parent)
    run = subprocess.run([sys.executable, "-c", CRASHING, str(tmp_path), root], capture_output=True, text=True)
    ends = run.stdout.split()
    assert len(ends) > 12, run.stderr
    swept, left = 0, []
    for at, end in enumerate(ends, 1):
        folder = tmp_path / str(at)
        swept += disk().sweep_temps(folder)
        left = [path.name for path in folder.iterdir()] if folder.exists() else []
        assert left in ([], ["a.md"])
        assert not left or (folder / "a.md").read_bytes() == b"milk"
        assert end == "killed" or left
    assert (swept >= 3, left) == (True, ["a.md"])


def test_only_temporary_files_that_nobody_writes_are_swept(tmp_path: Path) -> None:
    files = Files()
    stays = [".0123456789abcdef.unsaved.md", "0123456789abcdef.unsaved", ".hidden", "note.md"]
    for name in stays:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".fedcba9876543210.unsaved").symlink_to(tmp_path / "note.md")
    (tmp_path / ".0123456789abcdef.unsaved").write_text("left by a crash")
    with files.new(tmp_path / ".aaaaaaaaaaaaaaaa.unsaved"):
        assert disk().sweep_temps(tmp_path) == 1
        assert (tmp_path / ".aaaaaaaaaaaaaaaa.unsaved").exists()
    assert all((tmp_path / name).read_text() == "mine" for name in stays)
    assert disk().sweep_temps(tmp_path) == 1
    assert disk().sweep_temps(tmp_path / "none") == 0


def test_a_temporary_file_swept_away_before_it_was_locked_is_replaced(tmp_path: Path) -> None:
    starting, attempts = disk(), []

    def lock(handle: int) -> None:
        attempts.append(handle)
        if len(attempts) < TEMPS_MAX:
            assert starting.sweep_temps(tmp_path) == 1

    saving = Disk(FaultPlan(), Files(lock=lock))
    assert saving.write_durably(tmp_path, NAME, DATA, Gate()) is Saved.WRITTEN
    assert (len(attempts), leftovers(tmp_path)) == (TEMPS_MAX, [])


@pytest.mark.skipif(os.name != "posix", reason="open files cannot be swept on Windows")
@pytest.mark.parametrize("step", ["fsync temp", "close temp", "rename temp"])
def test_a_program_that_starts_sweeps_no_save_that_is_under_way(tmp_path: Path, step: str) -> None:
    class Starting(BreakingOs):
        def __getattr__(self, name: str) -> Any:
            call = super().__getattr__(name)

            def before(*args: Any, **kwargs: Any) -> Any:
                if name == step.split()[0]:
                    assert disk().sweep_temps(tmp_path) == 0
                return call(*args, **kwargs)

            return before if callable(call) else call

    assert outcome(Starting(), tmp_path) == "written"


# --- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "words"), [("full", "ENOSPC"), ("error", "EIO")])
def test_the_plan_breaks_writes_and_reads_once_each_and_says_so(
    doors: Doors, tmp_path: Path, kind: str, words: str
) -> None:
    saving = disk(os, f"disk:{kind}*2")
    with pytest.raises(AgentError, match=words):
        doors.run(saving.writing(tmp_path, NAME, DATA, Gate()))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AgentError, match=words):
        doors.run(saving.reading(lambda: 1, "look"))
    assert doors.run(saving.writing(tmp_path, NAME, DATA, Gate())) is Saved.WRITTEN
    assert doors.run(saving.reading(lambda: 1, "look")) == 1
    assert doors.heard.of(FaultInjected) == [FaultInjected("disk", kind, "")] * 2


def test_a_fault_strikes_also_where_there_is_nothing_to_write(doors: Doors, tmp_path: Path) -> None:
    steps_of_a_save(tmp_path)
    with pytest.raises(AgentError, match="EIO"):
        doors.run(disk(os, "disk:error*1").writing(tmp_path, NAME, DATA, Gate()))


def test_a_slow_disk_is_slow_and_then_saves(doors: Doors, tmp_path: Path) -> None:
    saving = disk(os, "disk:slow=0.02*1")
    assert doors.run(saving.writing(tmp_path, NAME, DATA, Gate())) is Saved.WRITTEN
    assert doors.heard.of(FaultInjected) == [FaultInjected("disk", "slow", "0.02")]


# --- reading back, and the end of the process --------------------------------------------------------------


def test_reading_back_finds_what_was_saved_and_nothing_else(doors: Doors, tmp_path: Path) -> None:
    some = disk(os, "disk:error")  # the check of a save meets no faults of its own
    path = tmp_path / NAME
    assert doors.run(some.checking(path, DATA.__eq__)) is False
    path.write_bytes(DATA)
    assert doors.run(some.checking(path, DATA.__eq__)) is True
    path.write_bytes(DATA[:-1])
    with pytest.raises(AgentError, match="holds something else"):
        doors.run(some.checking(path, DATA.__eq__))


@pytest.mark.parametrize(("when", "there"), [("before", False), ("after", True)])
def test_a_crash_of_the_disk_comes_before_a_save_or_when_it_is_durable(when: str, there: bool, tmp_path: Path) -> None:
    doors, some = Doors("virtual"), disk(os, f"disk:crash={when}*1")
    with pytest.raises(Crashed):
        doors.run(some.writing(tmp_path, NAME, DATA, Gate()))
    assert ((tmp_path / NAME).exists(), leftovers(tmp_path)) == (there, [])
    assert doors.heard.of(FaultInjected) == [FaultInjected("disk", "crash", when)]
    assert doors.run(some.reading(lambda: "read", "look into notes")) == "read"


def test_a_crash_strikes_reads_too() -> None:
    with pytest.raises(Crashed):
        Doors("virtual").run(disk(os, "disk:crash").reading(lambda: "read", "look into notes"))


def test_a_crash_after_a_save_that_failed_waits_for_one_that_succeeds(doors: Doors, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("a file in the way")
    plan = FaultPlan([parse_fault("disk:crash=after*1")])
    disk = Disk(plan)
    with pytest.raises(AgentError, match="not a folder"):
        doors.run(disk.writing(tmp_path / "notes", NAME, b"x", Gate()))
    assert plan.active, "it was given back"
    with pytest.raises(Crashed):
        doors.run(disk.writing(tmp_path / "other", NAME, b"x", Gate()))
    assert doors.heard.of(FaultInjected) == [FaultInjected("disk", "crash", "after")]
