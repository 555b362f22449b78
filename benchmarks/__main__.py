"""All measurements, one command: `uv run python -m benchmarks`; with peers `uv run --group bench python -m benchmarks`.

Each compares side by side in one run, since machines are noisy; exits 1 when an aim is missed.
What cannot be measured here is named, with the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.measuring import Result
from benchmarks.report import summary, table, to_json

CONTESTS = ("breakers", "breaker_blocks", "retries", "limiters", "guards", "redis_shared", "overhead")
"""Against others, with tables in `docs/benchmarks.md`: modules with `async def run(rounds)`."""
OTHERS = ("screen_bytes", "first_key")
"""Against a fixed limit: modules with `def main() -> int`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is named, or everything; print the tables; 1 when an aim is missed."""
    options = _options(arguments)
    names = options.names or [*CONTESTS, *OTHERS]
    results: list[Result] = []
    for name in names:
        if name in CONTESTS:
            results += _contests(name, options.rounds)
    missed = [name for name in names if name in OTHERS and _other(name)]
    if results:
        print(summary(results))
    if options.json:
        options.json.write_text(json.dumps(to_json(results), indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 1 if missed or not all(result.holds for result in results) else 0


def _options(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n\n")[2])
    names = (*CONTESTS, *OTHERS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(names)}; all by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results of the contests to FILE")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each contender; by default what each needs")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in names]
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(names)}")
    return options


def _contests(name: str, rounds: int | None) -> list[Result]:
    results: list[Result] = asyncio.run(import_module(f"benchmarks.{name}").run(rounds))
    for result in results:
        print(f"{result.title} ({result.rounds} rounds)\n{table(result)}\n", flush=True)
    return results


def _other(name: str) -> int:
    try:
        module = import_module(f"benchmarks.{name}")
    except ImportError as error:
        print(f"{name}: not measured: not installed ({error.name})\n")
        return 0
    print((module.__doc__ or "").splitlines()[0])
    missed: int = module.main()
    print()
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
