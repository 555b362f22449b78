"""A signal before there is anything to stop: the exit code names it, and `--json` gets its one object."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from early_end import NO_ANSWER, heed_signals
from errors import AgentError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself these signals there")

ROOT = Path(__file__).parent.parent
ENDS = [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)]


def ended(code: str) -> subprocess.CompletedProcess[bytes]:
    """A fresh interpreter that runs this after taking the signals over."""
    start = f"import os, signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); import early_end; {code}; print('alive')"
    return subprocess.run([sys.executable, "-c", start], cwd=ROOT, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize(("name", "code"), ENDS)
def test_a_signal_ends_the_process_at_once_with_its_own_exit_code(name: str, code: int) -> None:
    done = ended(f"early_end.end_on_signals(as_json=False); os.kill(os.getpid(), signal.{name})")
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_with_json_it_is_told_as_one_object_whatever_stands_in_for_stdout_just_then() -> None:
    done = ended(
        "import io, sys; early_end.end_on_signals(as_json=True); sys.stdout = io.StringIO();"
        "os.kill(os.getpid(), signal.SIGTERM)"
    )
    assert (done.returncode, done.stderr) == (143, b"")
    assert json.loads(done.stdout)["status"] == "cancelled"


def test_without_a_stdout_the_exit_code_still_tells() -> None:
    done = ended("os.close(1); early_end.end_now(15, as_json=True)")
    assert (done.returncode, done.stdout, done.stderr) == (143, b"", b"")


def test_what_nohup_ignores_stays_ignored() -> None:
    done = ended(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); early_end.end_on_signals(as_json=False);"
        "os.kill(os.getpid(), signal.SIGHUP)"
    )
    assert (done.returncode, done.stdout) == (0, b"alive\n")


def test_it_says_which_signals_it_took_over() -> None:
    before = {name: signal.getsignal(getattr(signal, name)) for name, _ in ENDS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert list(heed_signals(signal.SIG_IGN)) == ["SIGINT", "SIGTERM", "SIGHUP"]
        assert list(heed_signals(signal.SIG_IGN)) == ["SIGINT", "SIGTERM"]
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def test_the_object_has_the_shape_of_every_other_report() -> None:
    report = cli.failure_json(AgentError("x"))
    assert {**report, "status": "cancelled", "error": None} == json.loads(NO_ANSWER)
    assert "\n" not in NO_ANSWER
