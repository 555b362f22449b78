"""A person at a terminal: types, looks at the screen, presses Ctrl-C. For tests of whole programs."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PATIENCE_S = 20.0
"""How long a test waits for something to appear: far more than it takes, since machines can be busy."""


def _as_in_a_terminal() -> None:
    """A test run under nohup ignores SIGHUP, and what it starts would too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Terminal:
    """A program on a pseudo-terminal, and what its screen shows.

    Args:
        argv: the program and its arguments, for this interpreter.
        folder: its working directory, and its HOME.
        environ: variables on top of a small clean environment.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        environ: Mapping[str, str] | None = None,
        *,
        rows: int = 30,
        columns: int = 100,
    ) -> None:
        if os.name != "posix":
            pytest.skip("pseudo-terminals are Unix only")
        pexpect, pyte = pytest.importorskip("pexpect"), pytest.importorskip("pyte")
        clean = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "SYSTEMROOT") if name in os.environ}
        self._timeout, self._eof = pexpect.TIMEOUT, pexpect.EOF
        self.process: Any = pexpect.spawn(
            sys.executable,
            list(argv),
            cwd=str(folder),
            env={**clean, "TERM": "xterm-256color", "HOME": str(folder), "NO_PROXY": "*", **(environ or {})},
            dimensions=(rows, columns),
            preexec_fn=_as_in_a_terminal,
        )
        self.process.delaybeforesend = None
        self.process.ptyproc.delayafterclose = self.process.ptyproc.delayafterterminate = 0.01
        self.screen: Any = pyte.HistoryScreen(columns, rows, history=5000)
        self.screen.write_process_input = self.send  # answers a question about the cursor, as terminals do
        self._stream = pyte.ByteStream(self.screen)
        self.seen = b""
        self.ended = False
        self._interrupted_s = 0.0
        self.folder = folder

    # --- looking ------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """All that is or was on the screen, without trailing blanks."""
        above = ["".join(row[n].data for n in range(self.screen.columns)) for row in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display])

    @property
    def line(self) -> str:
        """The line of the cursor."""
        return str(self.screen.display[self.screen.cursor.y]).rstrip()

    def look(self, s: float = 0.01) -> None:
        """Take in what the program writes within `s` seconds."""
        try:
            data = self.process.read_nonblocking(1 << 16, s)
        except self._timeout:
            return
        except (self._eof, OSError):
            self.ended = True
            return
        self.seen += data
        self._stream.feed(data)

    def until(self, what: str | Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Wait until a text is on the screen, or something is true."""
        holds = what if callable(what) else lambda: what in self.text
        end_s = time.monotonic() + patience_s
        while not holds():
            assert time.monotonic() < end_s, f"{what!r} did not come; the screen:\n{self.text}"
            assert not self.ended or holds(), f"the program ended before {what!r}; the screen:\n{self.text}"
            self.look()

    def until_prompt(self) -> None:
        """Wait until an empty prompt is open."""
        self.until(lambda: self.line == ">" and self.echoes is False and self.raw)

    @property
    def prompts(self) -> int:
        """How many prompts stand on the screen."""
        return sum(line.startswith(">") for line in self.text.split("\n"))

    # --- the terminal's mode ------------------------------------------------------------------------------

    def _flag(self, name: str) -> bool:
        import termios

        return bool(termios.tcgetattr(self.process.child_fd)[3] & getattr(termios, name))

    @property
    def echoes(self) -> bool:
        """Whether the terminal itself shows what is typed."""
        return self._flag("ECHO")

    @property
    def raw(self) -> bool:
        """Whether Ctrl-C is a key like any other, as at the prompt."""
        return not self._flag("ISIG")

    @property
    def is_as_found(self) -> bool:
        """Whether it edits lines, echoes and makes signals, as a shell expects it."""
        return self._flag("ECHO") and self._flag("ICANON") and self._flag("ISIG")

    def set_as_found(self) -> None:
        """Set the mode a shell sets when it gets the terminal back."""
        import termios

        mode = termios.tcgetattr(self.process.child_fd)
        mode[0] |= termios.ICRNL
        mode[3] |= termios.ECHO | termios.ICANON | termios.ISIG
        termios.tcsetattr(self.process.child_fd, termios.TCSANOW, mode)

    # --- doing --------------------------------------------------------------------------------------------

    def send(self, keys: str | bytes) -> None:
        """Type."""
        if not self.ended:
            self.process.send(keys)

    def ask(self, question: str) -> None:
        """Type a line and press Enter, at an open prompt; returns when the prompt has closed."""
        self.until_prompt()
        prompts = self.prompts
        self.send(question + "\r")
        self.until(lambda: self.prompts > prompts or not self.raw or self.ended)

    def interrupt(self, before: str = "", *, by_signal: bool = False) -> None:
        """Press Ctrl-C, `before` typed right before it; not so soon after the last one that the chat is left."""
        while time.monotonic() < self._interrupted_s + 1.05:
            self.look()
        self._interrupted_s = time.monotonic()
        if by_signal:
            self.signal(signal.SIGINT)
        else:
            self.send(before + "\x03")

    def signal(self, number: int) -> None:
        """Send a signal to the program."""
        self.process.kill(number)

    def exit_code(self) -> int:
        """Wait for the end; the code, negative for a signal. The terminal must be as it was found."""
        end_s = time.monotonic() + PATIENCE_S
        restored = False
        while self.process.isalive():
            assert time.monotonic() < end_s, f"it does not end; the screen:\n{self.text}"
            restored = self.is_as_found
            self.look()
        self.look()
        assert restored or self.is_as_found, "the terminal was left changed"
        self.process.close()
        return int(self.process.exitstatus if self.process.exitstatus is not None else -self.process.signalstatus)

    def hang_up(self) -> int:
        """Close the window; the program's exit code."""
        self.process.ptyproc.fileobj.close()
        self.process.closed = self.process.ptyproc.closed = self.process.ptyproc.terminated = self.ended = True
        end_s = time.monotonic() + PATIENCE_S
        while True:
            pid, status = os.waitpid(self.process.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end_s:
                os.kill(self.process.pid, signal.SIGKILL)
                os.waitpid(self.process.pid, 0)
                raise AssertionError("it does not end although its terminal is gone")
            time.sleep(0.005)

    def close(self) -> None:
        """End it, whatever it does."""
        if not self.process.closed:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill(signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                self.hang_up()


def in_turn(*calls: Callable[[], object]) -> Callable[[], None]:
    """One call that makes all of them."""

    def make_them() -> None:
        for call in calls:
            call()

    return make_them


class OwnTerminal:
    """A terminal inside the test's own process: sys.stdin and sys.stdout after `take_over`.

    pytest takes stdout back between a fixture and its test, so the test says when.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, columns: int = 80) -> None:
        if os.name != "posix":
            pytest.skip("pseudo-terminals are Unix only")
        import fcntl
        import termios

        self.master, self._slave = os.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.found = termios.tcgetattr(self._slave)
        self.stdin = os.fdopen(os.dup(self._slave), "r", encoding="utf-8")
        self.stdout = os.fdopen(os.dup(self._slave), "w", encoding="utf-8")
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("TERM", "xterm-256color")
        self.shown = b""
        self._changed = threading.Condition()
        self._ending, self._end = os.pipe()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        # select, since a read under way would keep the terminal open when it is hung up
        while self._ending not in (ready := select.select([self.master, self._ending], [], [])[0]):
            data = os.read(ready[0], 1 << 16)
            with self._changed:
                self.shown += data
                self._changed.notify_all()

    def take_over(self) -> None:
        """From now on this is where the program reads and writes."""
        self._monkeypatch.setattr(sys, "stdin", self.stdin)
        self._monkeypatch.setattr(sys, "stdout", self.stdout)

    def until(self, text: str, *, at_end: bool = False) -> None:
        """Wait until a text was written, or stands at the end."""
        data = text.encode()
        with self._changed:
            found = self._changed.wait_for(
                lambda: self.shown.endswith(data) if at_end else data in self.shown, PATIENCE_S
            )
        assert found, f"{text!r} did not come: {self.shown!r}"

    def type(self, keys: str | bytes) -> None:
        """Type; waits while the terminal's buffer is full."""
        data = keys.encode() if isinstance(keys, str) else keys
        while data:
            data = data[os.write(self.master, data[:4096]) :]

    def type_aside(self, keys: str | bytes) -> None:
        """Type from another thread: more than the terminal takes at once."""
        threading.Thread(target=self.type, args=(keys,), daemon=True).start()

    def hang_up(self) -> None:
        """Close the window."""
        if self._watcher.is_alive():
            os.write(self._end, b"!")
            self._watcher.join()
            os.close(self.master)

    def __enter__(self) -> OwnTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()
        for stream in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):
                stream.close()
        for handle in (self._slave, self._ending, self._end):
            os.close(handle)

    @property
    def mode(self) -> list[Any]:
        """The terminal's mode now."""
        import termios

        return termios.tcgetattr(self._slave)
