"""How long until the first key is echoed, from the start of the program, against a bare prompt-toolkit prompt.

Both run in a pseudo-terminal whose own echo is off, with a key waiting in it from the first
moment: what comes back was drawn by the prompt. They take turns, and medians are compared.
Also looked at: the SDK, which takes 2 s to import, is not loaded before the prompt stands.

Run: python -m benchmarks.first_key
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pexpect

ROOT = Path(__file__).parent.parent
RATIO_MAX = 1.3
TRIES = 9
KEY = "\N{SNOWMAN}"  # no prompt draws it by itself

_BARE = "from prompt_toolkit import PromptSession; import asyncio; asyncio.run(PromptSession().prompt_async('> '))"
_HEAVY = ("anthropic", "httpx2", "rich", "typer", "wiring")
_LOADED = (
    "import sys; sys.path.insert(0, {root!r}); import early_end, ui.program, cli, config, ui.chat, ui.prompt; "
    "print([name for name in {heavy!r} if name in sys.modules])"
)


def echo_s(command: list[str], folder: str) -> float:
    """Seconds from the start of a program until it echoes a key."""
    environment = {**os.environ, "TERM": "xterm-256color", "STATE_DIR": folder, "PYTHONDONTWRITEBYTECODE": ""}
    environment.pop("ANTHROPIC_API_KEY", None)
    started_s = time.perf_counter()
    run = pexpect.spawn(command[0], command[1:], cwd=folder, env=environment, encoding="utf-8", echo=False, timeout=60)
    try:
        run.delaybeforesend = None
        run.send(KEY)
        run.expect(KEY)
        return time.perf_counter() - started_s
    finally:
        run.close(force=True)


def loaded_before_the_prompt() -> list[str]:
    """The heavy libraries among what loads before the prompt is painted; there should be none."""
    code = _LOADED.format(root=str(ROOT), heavy=_HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names: list[str] = [name for name in _HEAVY if f"'{name}'" in done.stdout]
    return names


def main() -> int:
    """Print the medians and their ratio; 1 when the chat is too slow or loads too much."""
    bare = [sys.executable, "-c", _BARE]
    chat = [sys.executable, str(ROOT / "agent_async.py")]
    with tempfile.TemporaryDirectory() as folder:
        echo_s(bare, folder), echo_s(chat, folder)  # bytecode is written and files are in the cache
        turns = [(echo_s(bare, folder), echo_s(chat, folder)) for _ in range(TRIES)]
    bare_s, chat_s = (statistics.median(times) for times in zip(*turns, strict=True))
    ratio, heavy = chat_s / bare_s, loaded_before_the_prompt()
    print(f"bare prompt  {bare_s * 1000:6.0f} ms")
    print(f"chat         {chat_s * 1000:6.0f} ms   {ratio:.2f}x, allowed {RATIO_MAX}x")
    print(f"heavy libraries before the prompt: {', '.join(heavy) or 'none'}")
    return 0 if ratio <= RATIO_MAX and not heavy else 1


if __name__ == "__main__":
    raise SystemExit(main())
