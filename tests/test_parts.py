"""Each part can be copied into an empty folder, with the files that docs/parts.md names and nothing else."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOC = (ROOT / "docs" / "parts.md").read_text()

ENTRIES = {
    "retry": ["retry"],
    "circuit_breaker": ["circuit_breaker"],
    "rate_limiter": ["rate_limiter"],
    "bulkhead": ["bulkhead"],
    "fallback": ["fallback"],
    "guard_function": ["guard_function"],
}
each_part = pytest.mark.parametrize("part", ENTRIES)


def needed(part: str) -> set[Path]:
    """Every file of ours that importing this part can load, found in the source."""
    found: set[Path] = set()
    to_read = [path_of(module) for module in ENTRIES[part]]
    while to_read:
        path = to_read.pop()
        if path is None or path in found:
            continue
        found.add(path)
        to_read += [path_of(module) for module in imported(path)]
    return found


def path_of(module: str) -> Path | None:
    path = Path(*module.split(".")).with_suffix(".py")
    return path if (ROOT / path).exists() else None


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def told(part: str) -> list[str]:
    """The files that the table names."""
    row = re.search(rf"^\| {part} \| (.+) \|$", DOC, re.MULTILINE)
    return re.findall(r"`([^`]+)`", row.group(1)) if row else []


def block(part: str) -> str:
    """The code under the part's heading."""
    found = re.search(rf"^## {part}$.*?^```python\n(.*?)^```$", DOC, re.MULTILINE | re.DOTALL)
    assert found, f"docs/parts.md has no code for {part}"
    return found.group(1)


@each_part
def test_the_table_names_what_the_part_imports(part: str) -> None:
    files = [path.as_posix() for path in needed(part)]
    rules = {f"{entry.replace('.', '/')}.py" for entry in ENTRIES[part]}
    row = sorted(files, key=lambda file: (file not in rules, file))
    assert told(part) == row, "the row should be: | {} | {} |".format(part, " ".join(f"`{file}`" for file in row))


# What the person who copied it does next; each runs after the code under the part's heading.
USES = {
    "retry": """
assert fetch(2) == 4 and asyncio.run(look_up(2)) == 6
class Flaky:
    calls = 0
    def ask(self):
        Flaky.calls += 1
        if Flaky.calls % 3:
            raise ConnectionError("try again")
        return Flaky.calls
slept = []
assert retry(RetryPolicy(retries=3), sleep=slept.append, draw=lambda: 1)(Flaky().ask)() == 3
assert slept == [1, 2], slept
async def ask():
    return Flaky().ask()
async def sleep(s):
    slept.append(s)
assert asyncio.run(retry(RetryPolicy(retries=3), sleep=sleep, draw=lambda: 1)(ask)()) == 6
assert slept == [1, 2, 1, 2], slept
""",
    "circuit_breaker": """
from errors import CircuitOpen
assert search("a b") == asyncio.run(search_later("a b")) == search_here("a b") == ["a", "b"]
clock = [0.0]
def broken():
    clock[0] += 1
    if clock[0] < 9:
        raise ConnectionError("down")
    return "well"
async def broken_later():
    return broken()
for function, run in ((broken, lambda f: f()), (broken_later, lambda f: asyncio.run(f()))):
    clock[0] = 0.0
    guarded = CircuitBreaker("it", BreakerPolicy(failure_threshold=2, open_s=60), now=lambda: clock[0])(function)
    said = []
    for _ in range(3):
        try:
            run(guarded)
        except (ConnectionError, CircuitOpen) as error:
            said.append(type(error))
    assert said == [ConnectionError, ConnectionError, CircuitOpen], said
    clock[0] = 100.0
    assert run(guarded) == "well"
async def blocks():
    async with breaker.permit():
        return 1
assert asyncio.run(blocks()) == 1
""",
    "rate_limiter": """
from errors import LimiterFull
assert ask(2) == 4 and asyncio.run(ask_later(2)) == 6
slept = []
still = TokenBucket(per_minute=60, burst=1, wait_s_max=2, now=lambda: 0.0)
async def sleep(s):
    slept.append(s)
still.acquire(sleep=slept.append)
still.acquire(sleep=slept.append)
asyncio.run(still.acquire_async(sleep=sleep))
assert slept == [1, 2], slept
try:
    still(lambda: print("called"))()
except LimiterFull as full:
    assert full.retry_after_s == 3
else:
    raise AssertionError("not refused")
""",
    "bulkhead": """
from errors import BulkheadFull
assert search("a b") == asyncio.run(search_later("a b")) == search_here("a b") == ["a", "b"]
small = Bulkhead("it", places=1)
@small
def inner():
    return 1
@small
async def inner_later():
    return 1
with small.place():
    for run in (inner, lambda: asyncio.run(inner_later())):
        try:
            run()
        except BulkheadFull:
            continue
        raise AssertionError("not refused")
assert inner() == asyncio.run(inner_later()) == 1
""",
    "fallback": """
from errors import ChainExhausted
assert ask(2) == 6 and asyncio.run(ask_later(2)) == 4
try:
    fallback(first, first)(2)
except ChainExhausted as error:
    assert "it is down" in str(error)
else:
    raise AssertionError("not refused")
""",
    "guard_function": """
from errors import CircuitOpen
from circuit_breaker import BreakerPolicy
from retry import RetryPolicy
assert asyncio.run(search("a b")) == ["a", "b"]
calls = []
@guarded(guards(retry=RetryPolicy(retries=1, base_delay_s=0), breaker=BreakerPolicy(2))("dead"), timeout_s=5)
async def dead():
    calls.append(1)
    raise ConnectionError("down")
said = []
for _ in range(2):
    try:
        asyncio.run(dead())
    except (ConnectionError, CircuitOpen) as error:
        said.append(type(error).__name__)
assert (said, len(calls)) == (["ConnectionError", "CircuitOpen"], 2), (said, calls)
""",
}

# Takes each file away in turn and sees that the part then cannot be imported.
MINIMAL = """
import importlib, os
for file in files:
    for entry in [*map(str, entries), *(name for name in list(sys.modules) if name in ours)]:
        sys.modules.pop(entry, None)
    os.rename(os.path.join(folder, file), os.path.join(folder, file + ".away"))
    importlib.invalidate_caches()
    try:
        for entry in entries:
            importlib.import_module(entry)
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError(file + " is not needed")
    os.rename(os.path.join(folder, file + ".away"), os.path.join(folder, file))
print("used, and nothing to spare")
"""


@each_part
def test_the_copied_files_work_alone_and_none_is_to_spare(part: str, tmp_path: Path) -> None:
    files = told(part)
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    ours = [file.removesuffix(".py").replace("/", ".") for file in files]
    given = f"folder, files, ours, entries = {str(tmp_path)!r}, {files!r}, {ours!r}, {ENTRIES[part]!r}\n"
    path = "import sys, asyncio\nsys.path.insert(0, folder)\n"
    code = given + path + block(part) + USES[part] + MINIMAL
    # No site-packages, no environment, no folder of the project: only what was copied.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "used, and nothing to spare\n"


def test_every_part_has_a_heading_and_the_doc_names_no_other() -> None:
    rows = re.findall(r"^\| (\w+) \| `", DOC.split("## What holds for all")[0], re.MULTILINE)
    assert rows == list(ENTRIES)
    assert re.findall(r"^## (\w+)$", DOC, re.MULTILINE) == list(ENTRIES)


@each_part
def test_every_knob_of_the_doc_exists(part: str) -> None:
    "A knob is a word of the files it is said to turn."
    section = re.split(r"^## ", DOC.split(f"\n## {part}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    source = " ".join((ROOT / path).read_text() for path in needed(part))
    for word in re.findall(r"\b[A-Za-z]\w+", " ".join(re.findall(r"`([^`]+)`", " ".join(rows)))):
        assert re.search(rf"\b{word}\b", source), word
