"""What `crash_runner.py` crashes: a server that forks a child for every run, with all imports done.

    python tests/crash_child.py notes|journal    and on stdin, a line each: {"work": "save", "folder": ..., ...}

A child waits for SIGUSR1, so that a tracer can get hold of it first; then it does its work. What it
says goes into a mapped file, which outlives any kill and takes no system call that could be struck.
Before each word it asks for its parent's number: a call that shows in a trace where the word fell.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from toolbox.note_file import Note, encode

try:
    import resource
except ImportError:  # Windows, where there is nothing to strike with either
    resource = None  # type: ignore[assignment]

REPORT_BYTES = 1 << 16
ANY_TRACER = 0x59616D61, -1  # PR_SET_PTRACER, PR_SET_PTRACER_ANY: some kernels let only a parent trace

Tell = Callable[[str], None]
Work = Callable[[Path, Tell], None]


def telling(report: mmap.mmap) -> Tell:
    def tell(word: str) -> None:
        os.getppid()
        report.write(word.encode() + b"\n")

    return tell


def serve(works: dict[str, Work]) -> None:
    """Fork a child for every line; it tells its number when it is ready, and this how it ended."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run(works[asked["work"]], Path(asked["folder"]), asked["report"], asked.get("limits", {}))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def run(work: Work, folder: Path, report_path: str, limits: dict[str, int]) -> None:
    """The child: never returns."""
    with suppress(AttributeError):
        ctypes.CDLL(None).prctl(*ANY_TRACER, 0, 0, 0)
    with open(report_path, "r+b") as file:
        report = mmap.mmap(file.fileno(), REPORT_BYTES)
    tell = telling(report)
    os.umask(0)  # modes are not to depend on it
    os.write(1, f"{os.getpid()}\n".encode())
    signal.sigwait({signal.SIGUSR1})
    try:
        limit(limits)
        work(folder, tell)
    except BaseException as error:  # whatever it is, the test is to see it: nothing untyped may come out of a work
        tell(f"crashed {error!r}")
    os._exit(0)


def limit(limits: dict[str, int]) -> None:
    """Soft limits of this process, by the last part of their names: NOFILE, FSIZE."""
    for name, soft in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(kind, (soft, resource.getrlimit(kind)[1]))


# --- works: a save ----------------------------------------------------------------------------------------

MINE = Note("milk, eggs\n" * 50, "Groceries")


def note_works() -> dict[str, Work]:
    from disk import Disk
    from errors import AgentError, OutcomeUnknown
    from faults import FaultPlan
    from flow import Gate

    disk = Disk(FaultPlan())

    def saving(folder: Path, note: Note = MINE) -> str:
        try:
            return f"saved {disk.write_durably(folder, note.file_name, encode(note), Gate(), note.is_in).value}"
        except OutcomeUnknown as error:
            return f"unknown {error.message}"
        except AgentError as error:
            return f"failed {error.reason} {error.message}"

    def save(folder: Path, tell: Tell) -> None:
        """Save a note, and once more when that did not work: nothing needs a restart."""
        said = saving(folder / "notes")
        tell(said)
        if not said.startswith("saved"):
            tell(saving(folder / "notes"))

    def save_in_bounds(folder: Path, tell: Tell) -> None:
        """Save a note as far as the limits of this process allow, and then without them."""
        tell(saving(folder / "notes"))
        for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
            resource.setrlimit(kind, (resource.getrlimit(kind)[1],) * 2)
        tell(saving(folder / "notes"))

    def save_many(folder: Path, tell: Tell) -> None:
        """Save fifty notes; tell how many files are open more than before."""
        before = len(os.listdir("/proc/self/fd"))
        for number in range(50):
            tell(saving(folder / "notes", Note(f"note {number}")))
        tell(f"open {len(os.listdir('/proc/self/fd')) - before}")

    def save_on_a_full_disk(folder: Path, tell: Tell) -> None:
        """Save a note where there is room for a part of it, and again when there is room."""
        long, filler = Note("x" * 20_000), folder / "filler"
        tell(saving(folder / "notes"))
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        os.truncate(filler, filler.stat().st_size - 4096)
        tell(saving(folder / "notes", long))
        tell(f"left {sorted(path.name for path in (folder / 'notes').iterdir()) == [MINE.file_name]}")
        filler.unlink()
        tell(saving(folder / "notes", long))
        tell(f"whole {long.is_in((folder / 'notes' / long.file_name).read_bytes())}")

    return {work.__name__: work for work in (save, save_in_bounds, save_many, save_on_a_full_disk)}


# --- works: a question that is kept -----------------------------------------------------------------------

SESSION, TURN, STEPS = "0" * 32, "1" * 32, ("asked", "began", "ended", "answered")


def journal_works() -> dict[str, Work]:
    from core.journal import Checkpoint, Intent, RecordIntents, RecordOutcome
    from doors.virtual import VirtualDoor
    from flow import Flow
    from messages import CallResult, ToolUse, assistant, user
    from stores.sessions import SessionStore

    question, call = user("Save a note: milk"), ToolUse("c1", "save_note", {"content": "milk"})
    state = {"before": 0, "starts": 1, "paused": [], "batch_blocks": []}
    result = CallResult(call, "ok", "Saved.", wrote=True)
    effects = (
        Checkpoint(SESSION, TURN, (question,), 2.0, "Save a note: milk", state),
        RecordIntents(SESSION, TURN, (Intent("c1", "save_note", "d1", approved=False),), 2.0),
        RecordOutcome(SESSION, TURN, result, 2.0),
        Checkpoint(SESSION, TURN, (question, assistant("Saved.")), 2.0, "Save a note: milk", status="ok"),
    )

    def keeping(store: SessionStore, effect: Any) -> Flow[str]:
        how: dict[type, Callable[[Any], Flow[str]]] = {
            Checkpoint: store.checkpointing, RecordIntents: store.intending, RecordOutcome: store.recording
        }  # fmt: skip
        return how[type(effect)](effect)

    def ask(folder: Path, tell: Tell) -> None:
        """Keep a question with one call, step by step; a step that cannot be kept is tried once more."""
        store = SessionStore(folder / "state", time.time)
        door = VirtualDoor({}, {}, [lambda stamped: tell(f"told {stamped.event}")])
        for step, effect in zip(STEPS, effects, strict=True):
            for _ in range(2):
                problem = door.run(keeping(store, effect)) or store.off
                tell(f"{step} not kept: {problem}" if problem else f"{step} kept")
                if not problem:
                    break
        store.close()

    return {"ask": ask}


WORKS = {"notes": note_works, "journal": journal_works}

if __name__ == "__main__":
    serve(WORKS[sys.argv[1]]())
