"""`agent_async.py` without what only Unix has: the absence is simulated by taking it away before anything loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

WITHOUT_UNIX = """
import sys
for name in ("fcntl", "termios", "pwd", "tty", "grp", "resource"):
    sys.modules[name] = None
import asyncio, os, signal
for owner, names in (
    (signal, ("SIGALRM", "SIGHUP", "SIGCONT", "SIGPIPE", "setitimer", "ITIMER_REAL")),
    (os, ("O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_CLOEXEC", "fchmod", "getuid", "geteuid", "posix_fallocate")),
):
    for name in names:
        if hasattr(owner, name):
            delattr(owner, name)

def unsupported(*_):
    raise NotImplementedError

asyncio.SelectorEventLoop.add_signal_handler = unsupported
asyncio.SelectorEventLoop.remove_signal_handler = unsupported
program = sys.argv[1]
sys.argv = [program, *sys.argv[2:]]
sys.path.insert(0, sys.argv.pop(1))
import runpy
runpy.run_path(program, run_name="__main__")
"""


def run(program: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "USER": "somebody", "STATE_DIR": str(folder / "s"), "NOTES_DIR": str(folder / "n")}
    command = [sys.executable, "-c", WITHOUT_UNIX, str(ROOT / program), str(ROOT), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("question", "answer"), [("What is 15 multiplied by 23?", "345"), ("save a note: buy milk", "Saved")]
)
def test_the_asyncio_agent_works_without_anything_of_unix(question: str, answer: str, tmp_path: Path) -> None:
    done = run("agent_async.py", tmp_path, "--offline", "--json", question)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["status"] == "ok"
    assert answer in report["text"]


def test_the_blocking_agent_says_plainly_that_it_needs_alarms_and_what_to_use_instead(tmp_path: Path) -> None:
    done = run("agent.py", tmp_path, "--offline", "hello")
    assert done.returncode == 2
    assert "SIGALRM" in done.stderr
    assert "agent_async.py" in done.stderr
