"""Makes docs/picture.svg from a real run of the program in a real (pseudo) terminal.

    uv run python docs/make_picture.py

Nothing in the picture is drawn by hand: the command runs, a terminal emulator keeps its
screen, and rich writes that screen as SVG.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).parent.parent
COLUMNS, ROWS = 100, 40
QUESTION = "What's the weather in Seattle, and what is 15 multiplied by 23?"
FAULTS = ("model:overloaded*2", "model:cut=text*1", "get_weather:refused")
SHOWN = "$ uv run python agent_async.py --offline \\\n"
SHOWN += "    " + " ".join(f"--fault {fault}" for fault in FAULTS) + f' \\\n    "{QUESTION}"'


def screen_of_a_run() -> pyte.Screen:
    """Run the program and return the screen it leaves behind."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    options = [part for fault in FAULTS for part in ("--fault", fault)]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TERM": "xterm-256color", "NOTES_DIR": folder, "STATE_DIR": folder}
        arguments = [str(ROOT / "agent_async.py"), "--offline", "--seed", "5", *options, QUESTION]
        run = pexpect.spawn(
            sys.executable, arguments, cwd=folder, env=environment, dimensions=(ROWS, COLUMNS), encoding="utf-8"
        )
        while True:
            try:
                stream.feed(run.read_nonblocking(4096, timeout=60))
            except pexpect.EOF:
                return screen


def as_text(screen: pyte.Screen) -> Text:
    """The screen's lines with their colours, without the empty ones at the end."""
    lines = []
    for row in range(ROWS):
        line = Text()
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            colour = None if cell.fg == "default" else cell.fg.replace("brown", "yellow").replace("bright", "bright_")
            line.append(cell.data, Style(color=colour, bold=cell.bold, italic=cell.italics))
        line.rstrip()
        lines.append(line)
    while lines and not lines[-1].plain:
        lines.pop()
    return Text("\n").join(lines)


def main() -> None:
    """Write docs/picture.svg."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(Text(SHOWN, style="bold"))
    console.print(as_text(screen_of_a_run()), end="\n\n")
    svg = console.export_svg(title="Unflappable", unique_id="unflappable")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.S)  # fonts from elsewhere: the reader's own will do
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S).replace("Fira Code", "ui-monospace")
    (ROOT / "docs" / "picture.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


if __name__ == "__main__":
    main()
