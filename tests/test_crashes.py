"""Real proof for what is said to be durable: real processes, struck at each of their system calls."""

from __future__ import annotations

import itertools
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from core.journal import Checkpoint
from disk import Disk
from doors.virtual import VirtualDoor
from errors import ConfigurationError
from faults import FaultPlan
from flow import Gate
from messages import assistant, user
from stores.sessions import SessionStore
from tests.crash_child import MINE, SESSION, STEPS
from tests.crash_runner import ALL, CHANGING, FILE_CALLS, Crashes, Ran, needs_strace
from tests.support import Heard
from toolbox.note_file import Note, decode, encode

OLD = Note("older than this", "Kept")
ERRORS = ("ENOSPC", "EIO", "EACCES", "EROFS", "EMFILE", "EINTR")
RARE_ERRORS = ("EDQUOT", "EPERM", "ENFILE", "ENAMETOOLONG", "EXDEV")
NOT_NEEDED = {"flock", "fchmod", "chmod"}
"""Where these fail a save goes on: file systems without locks or modes have neither."""


@pytest.fixture(scope="module")
def crashes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashes]:
    needs_strace()
    with Crashes("notes", tmp_path_factory.mktemp("notes")) as crashes:
        yield crashes


def saved_by_the_program(folder: Path, note: Note) -> None:
    Disk(FaultPlan()).write_durably(folder / "notes", note.file_name, encode(note), Gate(), note.is_in)


def nothing(folder: Path) -> None:
    """Not even the folder of the notes."""


def another_note(folder: Path) -> None:
    saved_by_the_program(folder, OLD)


def the_same_note(folder: Path) -> None:
    saved_by_the_program(folder, MINE)


State = Callable[[Path], object]
STATES = pytest.mark.parametrize("state", [nothing, another_note, the_same_note], ids=lambda state: state.__name__)


def temps(folder: Path) -> list[Path]:
    return list((folder / "notes").glob(".*.unsaved"))


def checked(ran: Ran, state: State = nothing) -> set[Note]:
    """The notes that a run has left: each of them whole, among them all that was there or acknowledged."""
    folder = ran.folder / "notes"
    found = set()
    for path in set(folder.iterdir() if folder.exists() else []) - set(temps(ran.folder)):
        note = decode(path.read_bytes())
        assert (path.name, path.read_bytes()) == (note.file_name, encode(note)), ran
        assert path.stat().st_mode & 0o777 == 0o600, ran
        assert folder.stat().st_mode & 0o777 == 0o700, ran
        found.add(note)
    assert found <= {MINE, OLD}, ran
    assert (OLD in found) == (state is another_note), ran
    if state is the_same_note or any(word.startswith("saved") for word in ran.said):
        assert MINE in found, ran
    return found


def started_again(ran: Ran, state: State = nothing) -> None:
    """The next start: nothing half-made stays, and saving works."""
    Disk(FaultPlan()).sweep_temps(ran.folder / "notes")
    assert temps(ran.folder) == [], ran
    the_same_note(ran.folder)
    assert MINE in checked(ran, state), ran


# --- notes ------------------------------------------------------------------------------------------------


def test_a_note_is_acknowledged_only_when_a_power_cut_could_not_take_it(crashes: Crashes) -> None:
    for state in (nothing, another_note, the_same_note):
        ran = crashes.once("save", "trace=all", folder=crashes.prepared(state))
        assert (len(ran.said), unconfirmed(ran)) == (1, []), ran


def unconfirmed(ran: Ran) -> list[str]:
    """What of a note, by the calls made, a power cut could have taken at the moment it was said to be saved.

    A file counts as durable when it was synced after its last write, a name when its folder was synced after it was
    given. What was there before this program began may never have been synced, but for the folder itself.
    """
    folder, words = ran.folder / "notes", iter(ran.said)
    final = str(folder / MINE.file_name)
    names, files = {final}, {final}  # that still need it
    found = []
    for call in ran.calls:
        paths = re.findall(r'["<](/[^">]*)', call.rest)
        if call.name == "getppid" and next(words).startswith("saved"):
            found += [path for path in names if Path(path) in (folder, Path(final))] + sorted(files & {final})
        if not re.search(r"= \d", call.rest):  # it failed
            continue
        if call.name == "mkdir":
            names.add(paths[0])
        elif call.name == "rmdir":
            names.discard(paths[0])
        elif call.name == "write":
            files.add(paths[0])
        elif call.name == "rename":
            names.add(paths[1])
            files -= {paths[1]}
            files |= {paths[1]} if paths[0] in files else set()
        elif call.name == "fsync":
            files.discard(paths[0])
            names = {name for name in names if str(Path(name).parent) != paths[0]}
    return found


@STATES
def test_a_kill_at_any_system_call_leaves_whole_notes_and_all_that_were_acknowledged(
    crashes: Crashes, state: State
) -> None:
    killed = left_behind = acknowledged = 0
    for ran in crashes.at_each("save", "signal=KILL", ALL, state):
        assert ran.code == -9, ran
        checked(ran, state)
        left_behind += len(temps(ran.folder))
        acknowledged += bool(ran.said)
        started_again(ran, state)
        killed += 1
    assert killed >= 10
    assert acknowledged
    assert left_behind or state is the_same_note, "no kill struck in the middle"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        *itertools.product(ERRORS, [nothing, another_note, the_same_note]),
        *itertools.product(RARE_ERRORS, [another_note]),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_an_error_of_any_system_call_is_typed_and_the_next_save_works(
    crashes: Crashes, error: str, state: State
) -> None:
    verdicts = set()
    for ran in crashes.at_each("save", f"error={error}", FILE_CALLS, state):
        assert ran.code == 0, ran
        assert unconfirmed(ran) == [], ran
        assert ran.said[-1].startswith("saved"), ran
        assert temps(ran.folder) == [], ran
        checked(ran, state)
        verdicts.add(verdict := ran.said[0].split()[0])
        assert verdict in allowed(ran, error, state), ran
        if verdict == "failed":
            assert ran.said[0].startswith("failed disk"), ran
            assert error in ran.said[0] or error == "EINTR", ran
            assert ran.said[1] == "saved written" or state is the_same_note, ran  # else it was there already
    assert verdicts == ({"saved", "failed"} if error == "EINTR" else {"saved", "failed", "unknown"})


def allowed(ran: Ran, error: str, state: State) -> set[str]:
    """What may be said of a save one of whose calls failed."""
    struck = ran.struck
    assert struck is not None
    of_the_note = ".unsaved>" in struck.rest
    harmless = struck.name in NOT_NEEDED or (struck.name == "close" and not of_the_note)
    above = "|".join(re.escape(str(path)) for path in (ran.folder, ran.folder.parent))
    if error in ("EACCES", "EPERM") and re.search(rf'["<]({above})[">]', struck.rest):
        return {"saved", "failed"}  # no run of ours makes a folder in one that it may not open: then that is no matter
    if error == "EINTR":  # what was interrupted is done again, but for the calls that never are
        return {"saved", "failed"}
    if harmless:
        return {"saved", "failed"}
    in_place = state is the_same_note or any(call.name == "rename" for call in ran.calls_before_the_strike)
    return {"unknown"} if in_place and struck.name == "fsync" else {"failed", "unknown"} if in_place else {"failed"}


FSYNCS = {("fsync", ".unsaved>"): "failed", ("close", ".unsaved>"): "failed", ("fsync", "/notes>"): "unknown"}


def test_an_fsync_that_fails_is_never_taken_for_a_save_and_never_repeated(crashes: Crashes) -> None:
    seen = {}
    for ran in crashes.at_each("save", "error=EIO", {"fsync", "close"}, another_note):
        for (name, about), verdict in FSYNCS.items():
            if ran.struck is not None and ran.struck.name == name and about in ran.struck.rest:
                seen[name, about] = verdict
                assert ran.said[0].split()[0] == verdict, ran
                assert ran.said[1] == "saved written", ran  # anew: the kernel calls lost pages clean from now on
    assert seen == FSYNCS


def test_a_disk_that_stays_broken_breaks_nothing_else(crashes: Crashes) -> None:
    calls = ",".join(f"?{name}" for name in sorted(FILE_CALLS))
    ran = crashes.once("save", f"inject={calls}:error=EIO")
    assert [word.split()[:2] for word in ran.said] == [["failed", "disk"]] * 2, ran
    assert ran.code == 0
    assert list(ran.folder.iterdir()) == []


def test_a_temporary_file_that_cannot_be_removed_goes_with_the_next_start(crashes: Crashes) -> None:
    ran = crashes.once(
        "save", "inject=fsync:error=EIO:when=2+", "inject=unlink:error=EIO", folder=crashes.prepared(another_note)
    )
    assert [word.split()[0] for word in ran.said] == ["failed", "failed"], ran
    assert len(temps(ran.folder)) == 2
    checked(ran, another_note)
    started_again(ran, another_note)


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_saves_that_fail_leave_no_file_open(crashes: Crashes, error: str) -> None:
    for call in ("write", "fsync", "rename"):
        ran = crashes.once("save_many", f"inject={call}:error={error}", folder=crashes.prepared(another_note))
        assert {word.split()[0] for word in ran.said[:-1]} == {"failed"}, ran
        assert ran.said[-1] == "open 0", ran


def test_two_writers_killed_at_random_lose_nothing_that_was_acknowledged(crashes: Crashes) -> None:
    draw = random.Random(4)
    names = ["openat", "openat", "write", "fsync", "fsync", "close", "rename", "newfstatat", "getppid", "exit_group"]
    survived = acknowledged = 0
    for _ in range(40):
        state = draw.choice([nothing, another_note, the_same_note])
        folder = crashes.prepared(state)
        runs = [crashes.start("save", folder, server=number) for number in range(2)]
        for run in runs:
            run.trace(f"inject={draw.choice(names)}:signal=KILL:when={draw.randint(1, 4)}")
        for run in runs:
            run.go()
        with ThreadPoolExecutor() as pool:
            ends = [pool.submit(run.end) for run in runs]
            while wait(ends, 0.003).not_done:  # other programs start meanwhile
                Disk(FaultPlan()).sweep_temps(folder / "notes")
        both = [end.result() for end in ends]
        for ran in both:
            assert ran.code == -9 or ran.said[0].startswith("saved"), ran
            checked(ran, state)
            survived += ran.code == 0
            acknowledged += bool(ran.said)
        started_again(both[0], state)
    assert 10 < survived < 70
    assert acknowledged > survived, "nobody was killed after the word"


# --- limits that are real ---------------------------------------------------------------------------------


def test_with_too_many_open_files_a_save_fails_whole_and_works_again_after(tmp_path: Path) -> None:
    failed = 0
    with Crashes("notes", tmp_path) as crashes:
        for most in itertools.count(3):
            ran = crashes.once("save_in_bounds", NOFILE=most)
            checked(ran)
            assert temps(ran.folder) == []
            if ran.said[0].startswith("saved"):
                break
            assert ran.said[0].startswith("failed disk"), ran.said
            assert "too many files are open (EMFILE)" in ran.said[0]
            assert ran.said[1] == "saved written"
            failed += 1
    assert failed >= 2


@pytest.mark.parametrize("bytes_max", [0, 1, 100, len(encode(MINE)) - 1])
def test_a_write_that_the_kernel_cuts_short_is_no_save(tmp_path: Path, bytes_max: int) -> None:
    with Crashes("notes", tmp_path) as crashes:  # RLIMIT_FSIZE: the kernel takes a part, then says EFBIG
        ran = crashes.once("save_in_bounds", FSIZE=bytes_max)
    assert ran.said[0].startswith("failed disk"), ran.said
    assert "EFBIG" in ran.said[0]
    assert ran.said[1] == "saved written"
    checked(ran)
    assert temps(ran.folder) == []


def test_on_a_disk_that_is_really_full_a_note_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    mounting = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'
    within = ["unshare", "--mount", "--map-root-user", "sh", "-c", mounting, str(full)]
    try:
        subprocess.run([*within, "true"], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no file system may be mounted here: {error.stderr.strip()}")
    with Crashes("notes", tmp_path, within) as crashes:
        said = crashes.once("save_on_a_full_disk", folder=full).said
    assert said[0] == "saved written"
    assert said[1].startswith("failed disk"), said
    assert "no space left on the disk (ENOSPC)" in said[1]
    assert said[2:] == ["left True", "saved written", "whole True"]


# --- the journal ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashes]:
    needs_strace()
    with Crashes("journal", tmp_path_factory.mktemp("journal")) as crashes:
        yield crashes


EARLIER = "e" * 32
HISTORY = (user("hello"), assistant("Hello."))


@pytest.fixture(scope="module")
def another_session(tmp_path_factory: pytest.TempPathFactory) -> State:
    """A state in which a session was kept before."""
    made = tmp_path_factory.mktemp("made") / "state"
    store = SessionStore(made, time.time)
    kept = VirtualDoor().run(store.checkpointing(Checkpoint(EARLIER, "2" * 32, HISTORY, 2.0, "hello", status="ok")))
    store.close()
    assert kept == ""
    return lambda folder: shutil.copytree(made, folder / "state")


def steps_found(ran: Ran, earlier: bool) -> int:
    """How many of the question's steps the next start finds; nothing of what it reads may be damaged."""
    heard = Heard()
    store, door = SessionStore(ran.folder / "state", time.time), VirtualDoor(listeners=[heard])
    try:
        if earlier:
            assert door.run(store.opening(EARLIER)).messages == HISTORY, ran
        try:
            opened = door.run(store.opening(SESSION))
        except ConfigurationError:  # there is no such session
            return 0
        if opened.cut is None:
            assert [message.role for message in opened.messages] == ["user", "assistant"], ran
            return len(STEPS)
        assert (opened.messages, len(opened.cut.messages)) == ((), 1), ran
        recorded = opened.cut.recorded
        return 1 + len(recorded) + sum(one.result is not None for one in recorded.values())
    finally:
        store.close()
        assert heard.events == [], ran
        for path in (ran.folder / "state").rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, (path, ran)


@pytest.mark.parametrize(("earlier", "every"), [(True, 1), (False, 3)], ids=["one more session", "the very first"])
def test_a_kill_at_any_call_loses_no_step_that_was_acknowledged(
    journals: Crashes, another_session: State, earlier: bool, every: int
) -> None:
    counts = set()
    for ran in journals.at_each("ask", "signal=KILL", CHANGING, another_session if earlier else nothing, every):
        assert ran.code == -9, ran
        kept = [word.split()[0] for word in ran.said]
        assert kept == list(STEPS[: len(kept)]), ran
        found = steps_found(ran, earlier)
        assert found in (len(kept), len(kept) + 1), ran
        counts.add((len(kept), found))
    assert {found for _, found in counts} == set(range(len(STEPS) + 1)), counts


JOURNAL_ERRORS = [
    ("EIO", CHANGING - {"getppid", "exit_group"}, 3),
    ("ENOSPC", {"openat", "pwrite64", "ftruncate", "write", "mkdir"}, 3),
    ("EROFS", {"openat"}, 1),
    ("EACCES", {"openat", "unlink"}, 2),
    ("EMFILE", {"openat"}, 1),
    ("EINTR", {"openat", "pwrite64", "fdatasync"}, 4),
]


@pytest.mark.parametrize(("error", "calls", "every"), JOURNAL_ERRORS, ids=lambda value: str(value)[:6])
def test_an_error_under_the_journal_is_told_and_the_next_step_is_kept(
    journals: Crashes, another_session: State, error: str, calls: set[str], every: int
) -> None:
    told = 0
    for ran in journals.at_each("ask", f"error={error}", calls, another_session, every):
        assert ran.code == 0, ran
        failures = [word for word in ran.said if word.startswith("told StoreFailed(")]
        assert len([word for word in ran.said if word.startswith("told")]) == len(failures) <= 1, ran
        missed = [word for word in ran.said if " not kept: " in word]
        if failures and "what='sessions'" in failures[0]:  # it could not be opened: said once, and off
            assert len(missed) == 2 * len(STEPS), ran
            assert steps_found(ran, earlier=True) == 0
        else:
            assert len(missed) == len(failures), ran
            assert [word for word in ran.said if word.endswith(" kept")] == [f"{step} kept" for step in STEPS], ran
            assert steps_found(ran, earlier=True) == len(STEPS)
        told += len(failures)
    assert told or error == "EINTR"


def test_a_journal_on_a_disk_that_stays_full_says_so_of_every_step(journals: Crashes, another_session: State) -> None:
    ran = journals.once("ask", "inject=pwrite64:error=ENOSPC", folder=journals.prepared(another_session))
    assert [" not kept: " in word for word in ran.said if not word.startswith("told")] == [True] * 2 * len(STEPS), ran
    assert len([word for word in ran.said if word.startswith("told StoreFailed(")]) == 1, ran
    assert steps_found(ran, earlier=True) == 0
