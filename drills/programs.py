"""Rows that start the real programs: their exit codes, signals, and kill -9.  (floor 6)

Each starts `agent_async.py` or `agent.py` as a person would, in a process of its own, on the
settings of the stage. The practice server holds an answer back while a signal is on its way, so that
it strikes at the moment the row is about and not at some other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drills.ground import KEY
from drills.stage import NOTE, NOTE_IS, SUM, SUM_IS, Stage, Told

ROOT = Path(__file__).parent.parent
START_S_MAX = 30.0
"""How long a program may take to start on a busy machine, before its question has its own deadline."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended: its exit code (negative: the signal that killed it), and what it wrote."""

    code: int
    report: dict[str, Any]
    stderr: str
    took_s: float

    @property
    def killed(self) -> bool:
        """Whether kill -9 ended it, so that it could say nothing any more."""
        return hasattr(signal, "SIGKILL") and self.code == -signal.SIGKILL


def run(stage: Stage, question: str, *options: str, at_request: int = 0, strike: int = 0, at_note: bool = False) -> Ran:
    """Run a program to its end, or strike it on the way.

    Args:
        stage: whose settings and server.
        question: what it is asked.
        options: more of the command line.
        at_request: with which request to the model the signal `strike` is sent; 0 for never.
        strike: the signal.
        at_note: send it when the first file appears in the notes folder instead.
    """
    command = [sys.executable, str(ROOT / stage.program), "--json", "--seed", str(stage.seed), *options, question]
    begun_s = time.monotonic()
    process = subprocess.Popen(
        command, cwd=stage.ground.folder, env=dict(stage.ground.environment), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    stage.server.before = _striker(process, at_request, strike)
    try:
        if at_note:
            _strike_at_note(stage, process, strike)
        out, err = process.communicate(timeout=START_S_MAX + stage.ground.settings.total_timeout_s)
    except subprocess.TimeoutExpired:
        out, err = b"", b"it did not end"
    finally:
        stage.server.before = None
        if process.poll() is None:
            process.kill()
            process.communicate()
    ran = Ran(process.returncode, _report(out), err.decode("utf-8", "replace"), time.monotonic() - begun_s)
    _look(stage, ran, out)
    return ran


def _striker(process: subprocess.Popen[bytes], at_request: int, strike: int) -> Any:
    seen = 0

    def before(raw: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen == at_request:
            process.send_signal(strike)
            _until(lambda: process.poll() is not None, 5.0)

    return before if at_request else None


def _strike_at_note(stage: Stage, process: subprocess.Popen[bytes], strike: int) -> None:
    _until(lambda: bool(stage.notes) or process.poll() is not None, START_S_MAX, every_s=0.0005)
    if process.poll() is None:
        process.send_signal(strike)


def _until(holds: Any, limit_s: float, every_s: float = 0.005) -> None:
    pause, end_s = threading.Event(), time.monotonic() + limit_s
    while not holds() and time.monotonic() < end_s:
        pause.wait(every_s)


def _report(out: bytes) -> dict[str, Any]:
    lines = out.decode("utf-8", "replace").splitlines()
    try:
        found = json.loads(lines[0]) if len(lines) == 1 else {}
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _look(stage: Stage, ran: Ran, out: bytes) -> None:
    """What holds at every exit but a kill: one JSON object, no traceback, no key."""
    report = ran.report
    error = report.get("error") or {}
    shown = f"{error.get('type')}: {error.get('message')}" if error else ""
    attempts = (report.get("attempts") or {}).get("model", 0)
    status, text = f"exit {ran.code} {report.get('status', '')}".strip(), str(report.get("text", ""))
    stage.told.append(Told(status, text, shown, attempts, (), (), ran.took_s))
    if not ran.killed:
        stage.expect(bool(report), f"stdout is one JSON object: {out[:200]!r}")
    stage.expect("Traceback" not in ran.stderr, f"no traceback: {ran.stderr[-300:]!r}")
    stage.expect(KEY not in ran.stderr and KEY.encode() not in out, "no output contains the key")
    stage.expect(not stage.server.refused, f"every history is one the API takes: {stage.server.refused[-1:]}")


# --- the rows --------------------------------------------------------------------------------------------


def answered(stage: Stage) -> None:
    """The right answer, and exit 0."""
    ran = run(stage, SUM, *_faults(stage))
    _ends(stage, ran, 0, "ok")
    stage.expect(SUM_IS in ran.report.get("text", ""), f"the answer is {SUM_IS}: {ran.report.get('text')!r}")


def failed(stage: Stage) -> None:
    """No answer: exit 1, and the error names what failed."""
    ran = run(stage, SUM, *_faults(stage))
    _ends(stage, ran, 1, "failed")
    message = str((ran.report.get("error") or {}).get("message"))
    stage.expect("calculator" in message, f"the error names the calculator: {message!r}")


def misspelt(stage: Stage) -> None:
    """A fault nobody knows: exit 2, one line that says what is allowed."""
    ran = run(stage, SUM, "--fault", "model:nonsense")
    _ends(stage, ran, 2, "failed")
    kind = (ran.report.get("error") or {}).get("type")
    stage.expect(kind == "ConfigurationError", f"a ConfigurationError: {kind}")


def unapproved(stage: Stage) -> None:
    """A write that words from the web asked for, and nobody there: exit 3, nothing written."""
    ran = run(stage, "Search the web for otters and save what you find as a note")
    _ends(stage, ran, 3, "needs_human")
    stage.expect(not stage.notes, f"nothing is written: {stage.notes}")


def interrupted(stage: Stage) -> None:
    """Ctrl-C while the model thinks: exit 130, cancelled, nothing left behind."""
    ran = run(stage, NOTE, at_request=1, strike=signal.SIGINT)
    _ends(stage, ran, 130, "cancelled")
    stage.expect(not stage.notes, f"nothing is written: {stage.notes}")


def interrupted_after_a_save(stage: Stage) -> None:
    """Ctrl-C after the note was saved: exit 130, the note is whole, and the report tells of it."""
    ran = run(stage, NOTE, at_request=2, strike=signal.SIGINT)
    _ends(stage, ran, 130, "cancelled")
    calls = [(call["name"], call["status"]) for call in ran.report.get("tool_calls", [])]
    stage.expect(calls == [("save_note", "ok")], f"the report tells of the note: {calls}")
    _whole_note(stage)


def terminated(stage: Stage) -> None:
    """SIGTERM while the model thinks: exit 143, cancelled."""
    _ends(stage, run(stage, SUM, at_request=1, strike=signal.SIGTERM), 143, "cancelled")


def killed_in_a_save(stage: Stage) -> None:
    """kill -9 when a file of the save appears; the next start leaves exactly one whole note."""
    run(stage, NOTE, at_note=True, strike=signal.SIGKILL)
    finals = [path for path in stage.notes if path.suffix == ".md"]
    torn = [path.name for path in finals if path.read_text() != NOTE_IS]
    stage.expect(not torn, f"what is there under its name is whole: {torn}")
    _ends(stage, run(stage, NOTE), 0, "ok")
    _whole_note(stage)


def killed_after_the_save(stage: Stage) -> None:
    """kill -9 when the model is told of the note: what was acknowledged is there, whole."""
    ran = run(stage, NOTE, at_request=2, strike=signal.SIGKILL)
    stage.expect(ran.killed, f"it was killed: exit {ran.code}")
    _whole_note(stage)


def _faults(stage: Stage) -> list[str]:
    return [part for spec in stage.faults for part in ("--fault", spec)]


def _ends(stage: Stage, ran: Ran, code: int, status: str) -> None:
    stage.expect(ran.code == code, f"exit {code}: it is {ran.code} ({ran.stderr.strip()[-200:]})")
    stage.expect(ran.report.get("status") == status, f"status {status}: it is {ran.report.get('status')}")


def _whole_note(stage: Stage) -> None:
    names = [path.name for path in stage.notes]
    whole = len(names) == 1 and stage.notes[0].read_text() == NOTE_IS
    stage.expect(whole, f"there is exactly one whole note: {names}")


def has_signals() -> bool:
    """Whether this system has the signals that the rows send."""
    return os.name == "posix"
