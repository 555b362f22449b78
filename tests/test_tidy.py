"""The house rules, kept by a test: floors, the real-time ban, names, and a guard around every outside call."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Floors from ARCHITECTURE.md; a folder stands for all its files. On one floor, order says who may import whom:
# a room may import rooms further left. Rooms in one set don't import each other.
FLOORS: list[list[set[str]]] = [
    [
        {"skins"},
        {"version"},
        {"safe_text"},
        {"error_words"},
        {"errors"},
        {"messages"},
        {"deadline"},
        {"events"},
        {"flow"},
    ],
    [
        {"breaker_policy"},
        {"retry", "circuit_breaker", "rate_limiter", "bulkhead", "fallback", "faults"},
        {"redis_link", "circuit_breaker_script"},
        {"circuit_breaker_redis", "rate_limiter_redis"},
    ],
    [{"fault_injection"}, {"guard"}, {"guard_function"}],
    [{"oversight"}, {"tool_schema", "tool_function"}, {"tools"}, {"core"}],
    [{"platform_edges"}, {"stores", "disk"}, {"doors", "models", "toolbox", "telemetry", "fetch"}],
    [{"config"}, {"session", "dependencies", "alerter", "later"}, {"aftermath"}, {"wiring"}],
    [{"early_end"}, {"cli"}, {"ui"}, {"sidecar"}, {"drills"}],
    [{"agent", "agent_async", "health", "drill"}],
]
PLACE = {
    room: (floor, step) for floor, steps in enumerate(FLOORS) for step, rooms in enumerate(steps) for room in rooms
}
SOURCES = sorted(
    path for path in ROOT.rglob("*.py")
    if not {"tests", "benchmarks", "docs", "examples", ".venv"} & set(path.relative_to(ROOT).parts)
    and path.parts[-2][0] != "."
)  # fmt: skip


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 40


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_has_a_place_and_says_so(path: Path) -> None:
    assert room_of(path) in PLACE, f"{path.name} has no floor: add it to FLOORS and ARCHITECTURE.md"
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert docstring, "a module opens with one sentence a user would understand"
    if path.name != "__init__.py":
        floor = PLACE[room_of(path)][0]
        assert f"(floor {floor})" in docstring.splitlines()[0] + docstring.split("\n\n")[0], f"floor {floor}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_strictly_down(path: Path) -> None:
    here = room_of(path)
    for module, line in imports_of(path):
        there = module.split(".")[0]
        if there not in PLACE or there == here:
            continue
        assert PLACE[there] < PLACE[here], f"{path.name}:{line} imports {module}, which is not below it"


BANNED_BELOW_FLOOR_4 = {"time", "random", "os", "socket", "subprocess", "httpx2", "anthropic", "asyncio", "secrets"}
# The skins for use outside flows may default to the real clock, and `flow.py` holds their two drivers.
SKINS = {"circuit_breaker_redis", "rate_limiter_redis", "redis_link"}
SKINS |= {"circuit_breaker", "rate_limiter", "bulkhead", "retry", "fallback", "flow", "guard_function"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_below_floor_4_touches_time_chance_or_the_world(path: Path) -> None:
    room = room_of(path)
    if PLACE.get(room, (9,))[0] >= 4:
        return
    used = {module.split(".")[0] for module, _ in imports_of(path)} & BANNED_BELOW_FLOOR_4
    allowed = {"time", "asyncio", "random"} if room in SKINS else set()
    if room == "errors":
        allowed = {"socket"}  # to recognise gaierror
    assert used <= allowed, f"{path.name} uses {sorted(used - allowed)}"


def test_no_module_hides_one_of_the_standard_library() -> None:
    roots = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert not roots & set(sys.stdlib_module_names)


def test_no_folder_hides_a_module() -> None:
    files = {path.stem for path in ROOT.glob("*.py")}
    assert not files & {path.name for path in ROOT.iterdir() if path.is_dir()}


def test_the_heavy_library_is_never_imported_at_module_level() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "anthropic" for name in names), path


def test_broad_excepts_carry_their_reason() -> None:
    for path in SOURCES:
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            if line.strip().startswith(("except Exception", "except BaseException", "contextlib.suppress(Exception")):
                raised_again = any(after.strip() == "raise" for after in lines[number : number + 3])
                assert raised_again or "#" in line, f"{path.name}:{number} catches everything without saying why"


def test_files_stay_one_concept() -> None:
    for path in SOURCES:
        assert len(path.read_text().splitlines()) <= 500, f"{path.name} is long: is it still one concept?"


def test_nothing_speaks_of_unfinished_work() -> None:
    marks = ("TO" + "DO", "FIX" + "ME", "X" * 3)
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not any(mark in line for mark in marks), f"{path.name}:{number}"


def test_before_the_prompt_only_light_things_load() -> None:
    heavy = "anthropic httpx2 rich typer pydantic wiring core sqlite3 events email"
    code = (
        "import sys; sys.path.insert(0, '.');"
        "import agent_async, ui.program, cli, config, ui.chat, ui.prompt;"
        f"print(sorted(set('{heavy}'.split()) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_map_names_every_file() -> None:
    told = (ROOT / "ARCHITECTURE.md").read_text()
    missing = [str(path.relative_to(ROOT)) for path in SOURCES if f"`{path.relative_to(ROOT)}`" not in told]
    assert [name for name in missing if not name.endswith("__init__.py")] == []
