"""Turns measurements into tables, and a run's JSON into the page and the plot in `docs/`.

Run: python -m benchmarks.report       after python -m benchmarks --json docs/benchmarks.json
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.measuring import Result, Row
from benchmarks.plot import draw

DOCS = Path(__file__).parent.parent / "docs"
BEGIN, END = "<!-- from benchmarks.json: begin -->", "<!-- from benchmarks.json: end -->"

_PACKAGES = (
    "aiobreaker", "aiolimiter", "anthropic", "circuitbreaker", "hiredis", "httpx2", "interlock-cb", "nopanic",
    "nopanic-redis", "purgatory", "pybreaker", "redis", "stamina", "tenacity",
)  # fmt: skip


# --- a run as JSON ---------------------------------------------------------------------------------------


def to_json(results: Sequence[Result]) -> dict[str, Any]:
    """A run: where, with which versions, and what it came to."""
    return {"machine": _machine(), "versions": _versions(), "results": [asdict(one) for one in results]}


def from_json(run: Mapping[str, Any]) -> list[Result]:
    """The results of a run."""
    return [Result(**{**one, "rows": tuple(Row(**row) for row in one["rows"])}) for one in run["results"]]


def _machine() -> dict[str, Any]:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {"cores": os.cpu_count(), "python": python, "system": f"{platform.system()} {platform.machine()}"}


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


# --- tables ----------------------------------------------------------------------------------------------


def table(result: Result) -> str:
    """One contest as a Markdown table; the peers by what they take."""
    first, *others = result.rows
    others.sort(key=lambda row: (row not in result.ours_all, row.ratio))
    lines = [f"| | a call | fastest | against {first.name} | what was used |", "|---|---:|---:|---:|---|"]
    for row in (first, *others):
        against = f"{row.ratio:.2f} ({row.ratio_low:.2f} – {row.ratio_high:.2f})" if row is not first else "1"
        lines.append(f"| {row.name} | {span(row.median_s)} | {span(row.least_s)} | {against} | `{row.api}` |")
    if result.skipped:
        said = "; ".join(f"{name}: {why}" for name, why in sorted(result.skipped.items()))
        lines += ["", f"Not measured: {said}."]
    return "\n".join(lines)


def summary(results: Sequence[Result]) -> str:
    """All contests in one table: what ours takes, what is aimed at, and the best peer."""
    lines = ["| what | ours | aim | best peer | |", "|---|---:|---:|---:|---|"]
    for result in results:
        if not result.ours_all:
            continue
        peer = min(result.peers, key=lambda row: row.ratio, default=None)
        best = f"{peer.ratio:.2f} ({peer.name})" if peer else "–"
        aims = [f"≤ {result.aim:g}"] if result.aim is not None else []
        aims += ["first"] if result.leads else []
        verdict = ("met" if result.holds else "**missed**") if aims else ""
        lines.append(
            f"| {result.title} | {result.ours.ratio:.2f} × {result.rows[0].name} | {', '.join(aims) or '–'} "
            f"| {best} | {verdict} |"
        )
    return "\n".join(lines)


def span(s: float) -> str:
    """Seconds in the unit that suits them: `243 ns`, `1.82 µs`, `6.24 ms`."""
    for unit, size in (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3)):
        if s < 999.5 * size:
            return f"{s / size:.3g} {unit}"
    return f"{s:.3g} s"


def page_part(run: Mapping[str, Any]) -> str:
    """What stands between the two marks of `docs/benchmarks.md`."""
    results, machine = from_json(run), run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(run["versions"].items()))
    head = f"{machine['cores']} cores, {machine['python']}, {machine['system']}. {versions}."
    parts = [BEGIN, head, summary(results), "![Ratios to the measure of each contest](benchmarks.svg)"]
    for result in results:
        parts += [f"### {result.title.capitalize()}", table(result)]
    return "\n\n".join([*parts, END])


def written(page: str, run: Mapping[str, Any]) -> str:
    """The page with the part between the marks made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + page_part(run) + after


def main() -> int:
    """Make the page's tables and the plot from `docs/benchmarks.json`; 1 when there is nothing to draw with."""
    run = json.loads((DOCS / "benchmarks.json").read_text("utf-8"))
    page = DOCS / "benchmarks.md"
    page.write_text(written(page.read_text("utf-8"), run), "utf-8")
    try:
        draw(from_json(run), DOCS / "benchmarks.svg")
    except ImportError as error:
        print(f"the tables are made, the plot is not: {error.name} is not installed (it is in the group bench)")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
