"""Breaks one guard after the other on purpose, and sees that the tests notice.

    uv run python -m tests.mutants [NAME ...]           or: make mutants

Each mutant is one edit of one file that breaks one promise, and the tests that must fail for
it. It runs in a copy of the project; a mutant that no test notices has *survived*, and then the
tests are not worth their green. Before anything is broken the same tests must pass, or their
failing would prove nothing. A mutant that hangs is killed by the clock, which counts as noticed.

This is a list and not a generator on purpose: random edits mostly find equivalent code; these
are the mistakes that would cost a user a note, a lie or a frozen terminal.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 300.0
"""A run of the chosen tests takes seconds, all of them together a minute; what takes longer than this hangs."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken guard.

    Args:
        name: what is broken, in words.
        path: the file.
        before, after: the edit; `before` stands in the file exactly once.
        tests: files or node ids of which at least one must fail.
    """

    name: str
    path: str
    before: str
    after: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "the breaker opens one failure late",
        "circuit_breaker.py",
        "failures >= self.policy.failure_threshold",
        "failures > self.policy.failure_threshold",
        ("tests/test_circuit_breaker.py",),
    ),
    Mutant(
        "a report of an older generation counts",
        "circuit_breaker.py",
        "if era is None or era is not self._era:",
        "if era is None:",
        ("tests/test_circuit_breaker.py",),
    ),
    Mutant(
        "a note is not synced before it is renamed",
        "disk.py",
        "                self._files.fsync(handle)\n",
        "                pass\n",
        ("tests/test_disk.py",),
    ),
    Mutant(
        "the folder of a note is not synced",
        "disk.py",
        "                    self._files.fsync_folder(handle)\n",
        "                    pass\n",
        ("tests/test_disk.py",),
    ),
    Mutant(
        "a failed sync is believed the second time",
        "disk.py",
        "            self._doubtful.add(path)\n",
        "            pass\n",
        ("tests/test_disk.py",),
    ),
    Mutant(
        "a save goes on after its time was up",
        "flow.py",
        '            if self._state == "open":\n                self._state = "claimed"',
        '            if self._state != "claimed":\n                self._state = "claimed"',
        ("tests/test_flow.py", "tests/test_doors.py"),
    ),
    Mutant(
        "a stream that was cut is an answer",
        "models/stream.py",
        "        if self._state is not _State.DONE:\n",
        "        if self._state is None:\n",
        ("tests/test_stream.py",),
    ),
    Mutant(
        "an answer without a stop reason is an answer",
        "models/stream.py",
        "        if self._stop_reason is None:\n            _refuse",
        "        if self._stop_reason == 0:\n            _refuse",
        ("tests/test_stream.py",),
    ),
    Mutant(
        "a tool call is answered twice",
        "core/conversation.py",
        '    return Message("user", blocks, untrusted=any',
        '    return Message("user", blocks + blocks[:1], untrusted=any',
        ("tests/test_conversation.py", "tests/test_turn.py"),
    ),
    Mutant(
        "a tool runs from an answer that was cut by max_tokens",
        "core/turn.py",
        "return Meaning.ANSWER if reply.text.strip() and not reply.tool_uses else Meaning.AGAIN",
        "return Meaning.TOOLS if reply.tool_uses else Meaning.ANSWER",
        ("tests/test_turn.py",),
    ),
    Mutant(
        "a tool runs from an answer that was refused",
        "core/turn.py",
        '    if reason == "refusal":\n        return Meaning.REFUSED\n',
        "",
        ("tests/test_turn.py",),
    ),
    Mutant(
        "a failed turn that wrote a note denies it",
        "core/conversation.py",
        "    return (*during, assistant(line)) if line else before",
        "    return before",
        ("tests/test_conversation.py", "tests/test_turn.py"),
    ),
    Mutant(
        "outside text may write without asking",
        "tools.py",
        "self.tool.writes and self.tainted",
        "self.tool.writes and False",
        ("tests/test_tools.py", "tests/test_approvals.py"),
    ),
    Mutant(
        "what runs need not be what was approved",
        "tools.py",
        "if one.approved is not None and one.approved != one.digest:",
        "if one.approved is None and one.approved == one.digest:",
        ("tests/test_tools.py", "tests/test_approvals.py"),
    ),
    Mutant(
        "a retry may sleep past the deadline",
        "deadline.py",
        "        return self.left_s(now_s) - wait_s >= START_S_MIN",
        "        return True",
        ("tests/test_deadline.py", "tests/test_retry.py"),
    ),
    Mutant(
        "what may have happened is tried again",
        "retry.py",
        "if self.on is None or isinstance(error, (Rejected, OutcomeUnknown)):",
        "if self.on is None or isinstance(error, Rejected):",
        ("tests/test_retry.py",),
    ),
    Mutant(
        "the retry quota never runs dry",
        "retry.py",
        "            self._tokens -= cost\n",
        "",
        ("tests/test_retry.py",),
    ),
    Mutant(
        "a probe that was cancelled keeps its place",
        "guard.py",
        "        if self.permit is not None:\n            self.permit.release()\n",
        "",
        ("tests/test_guard.py",),
    ),
    Mutant(
        "a refused key falls back in silence",
        "fallback.py",
        "    return VERDICTS[reason_of(error)].advice in _HOPS",
        "    return True",
        ("tests/test_fallback.py",),
    ),
    Mutant(
        "a step that was done before a crash is done again",
        "core/journal.py",
        "        elif known.result is not None:\n            one.result = replace(known.result, call=one.call)\n",
        "",
        ("tests/test_journal.py", "tests/test_resume.py"),
    ),
    Mutant(
        "an id that stands for another call gets the old answer",
        "core/journal.py",
        'if readable and known.intent.digest not in ("", one.digest):',
        "if False:",
        ("tests/test_journal.py", "tests/test_resume.py"),
    ),
    Mutant(
        "a write runs although it could not be recorded",
        "core/journal.py",
        "        if problem and one.tool is not None and one.tool.writes:",
        "        if False and one.tool is not None and one.tool.writes:",
        ("tests/test_journal.py", "tests/test_resume.py"),
    ),
    Mutant(
        "a damaged record is taken for whole",
        "stores/journal.py",
        "    if row_sum(*values) != found:",
        "    if False:",
        ("tests/test_journal.py", "tests/test_sessions.py"),
    ),
    Mutant(
        "a stream of Gemini that was cut is an answer",
        "models/gemini_stream.py",
        "        if self._broken or self._finish is None:",
        "        if self._broken:",
        ("tests/test_gemini_stream.py",),
    ),
    Mutant(
        "more probes than allowed pass, over all processes",
        "circuit_breaker_script.py",
        "  if live >= places then",
        "  if live > places then",
        ("tests/test_circuit_breaker_redis.py",),
    ),
    Mutant(
        "Redis counts a report of an older generation",
        "circuit_breaker_script.py",
        "if generation ~= s.generation then return said(0, 0, 0) end",
        "",
        ("tests/test_circuit_breaker_redis.py",),
    ),
    Mutant(
        "a page in a browser may ask the sidecar",
        "sidecar/access.py",
        'return name == "localhost" or name in listed or _is_address(name)',
        "return True",
        ("tests/test_health_access.py",),
    ),
    Mutant(
        "beyond loopback no token is asked for",
        "sidecar/access.py",
        "    if not rules.beyond_loopback or path.startswith(OPEN):",
        "    if rules is not None:",
        ("tests/test_health_access.py",),
    ),
    Mutant(
        "a key is written to the log",
        "safe_text.py",
        "    text = _mask_known(text)\n",
        "    return text\n",
        ("tests/test_safe_text.py", "tests/test_logs.py"),
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one mutant; `said` is the test that noticed it, or why it could not be tried."""

    mutant: Mutant
    killed: bool
    said: str
    took_s: float


def edited(text: str, mutant: Mutant) -> str:
    """The file with the mutant's edit. ValueError where its place is not there exactly once."""
    found = text.count(mutant.before)
    if found != 1:
        raise ValueError(f"{mutant.path}: what {mutant.name!r} edits stands there {found} times, not once")
    return text.replace(mutant.before, mutant.after)


def main(names: Sequence[str] = ()) -> int:
    """Try all mutants, or those whose name contains one of the words; the exit code is 1 when one survives."""
    chosen = [one for one in MUTANTS if not names or any(name in one.name for name in names)]
    if not chosen:
        print(f"no mutant has {' or '.join(map(repr, names))} in its name")
        return 2
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        workers = min(os.cpu_count() or 1, len(chosen))
        copies = _Copies(Path(folder), workers)
        failed, said = _run(copies.take(), sorted({test for one in chosen for test in one.tests}))
        if failed:
            print(f"nothing was broken yet and this fails already: {said}")
            return 1
        copies.all_free()
        with ThreadPoolExecutor(workers) as pool:
            verdicts = list(pool.map(lambda one: _tell(_try(one, copies)), chosen))
    survived = [one for one in verdicts if not one.killed]
    print(f"{len(verdicts) - len(survived)} of {len(verdicts)} mutants were noticed")
    return 1 if survived else 0


def _try(mutant: Mutant, copies: _Copies) -> Verdict:
    started_s = time.monotonic()
    folder = copies.take()
    path = folder / mutant.path
    whole = path.read_text(encoding="utf-8")
    try:
        path.write_text(edited(whole, mutant), encoding="utf-8")
        killed, said = _run(folder, mutant.tests)
    except ValueError as error:
        killed, said = False, str(error)
    finally:
        path.write_text(whole, encoding="utf-8")
        copies.give_back(folder)
    return Verdict(mutant, killed, said, time.monotonic() - started_s)


def _run(folder: Path, tests: Iterable[str]) -> tuple[bool, str]:
    """Whether one of the tests failed, and what the closing lines said of it."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", *tests]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # an edit within a second looks the same to a .pyc
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return True, f"it hung for {PATIENCE_S:.0f} s"
    if done.returncode not in (0, 1, 2):  # 2: an edit that breaks the import, or an interrupted run
        raise RuntimeError(f"pytest could not run: {done.stdout}{done.stderr}")
    failures = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode != 0, failures[0] if failures else done.stdout.strip().rpartition("\n")[2]


def _tell(verdict: Verdict) -> Verdict:
    print(
        f"{'noticed ' if verdict.killed else 'SURVIVED'} {verdict.took_s:5.1f} s  {verdict.mutant.name}: {verdict.said}"
    )
    sys.stdout.flush()
    return verdict


class _Copies:
    """Copies of the project, one for each worker; a broken one is mended before it is given back."""

    def __init__(self, folder: Path, count: int) -> None:
        self._free = [folder / str(number) for number in range(count)]
        self._lent: list[Path] = []
        self._lock = threading.Lock()
        for copy in self._free:
            for name in _files():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, copy / name)

    def take(self) -> Path:
        with self._lock:
            self._lent.append(self._free.pop())
            return self._lent[-1]

    def give_back(self, copy: Path) -> None:
        with self._lock:
            self._lent.remove(copy)
            self._free.append(copy)

    def all_free(self) -> None:
        for copy in list(self._lent):
            self.give_back(copy)


def _files() -> list[str]:
    """The project's own files: what is tracked, and what is new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
