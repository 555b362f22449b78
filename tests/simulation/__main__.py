"""Runs the simulation from the command line; exit 1 when a check fails or a cell of the matrix was never hit."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict

from tests.simulation.campaign import Campaign, judged, run_campaign
from tests.simulation.plans import draw_plan
from tests.simulation.shrink import as_test, shrunk


def main() -> int:
    """Parse, run, tell."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000, help="how many seeds (default 1,000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 for one a core")
    parser.add_argument("--seed", type=int, help="one run only, told step by step")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    options = parser.parse_args()
    if options.seed is not None:
        return _one(options.seed, as_json=options.json)
    campaign = run_campaign(options.first, options.runs, options.workers, _nothing if options.json else _progress)
    is_whole = not campaign.failures and not campaign.missed
    print(json.dumps(_said(campaign)) if options.json else _table(campaign))
    if campaign.failed:
        _tell_smallest(*campaign.failed[0])
    return 0 if is_whole else 1


def _one(seed: int, *, as_json: bool) -> int:
    plan = draw_plan(seed)
    lines: list[str] = []
    one = judged(plan, lines.append if as_json else print)
    if as_json:
        print(json.dumps({"seed": seed, "trace_hash": one.trace_hash, "problems": one.problems, "trace": lines}))
    else:
        print(f"\n{plan}\n\ntrace {one.trace_hash}\n{chr(10).join(one.problems) or 'nothing was wrong'}")
    return 1 if one.problems else 0


def _tell_smallest(seed: int, problems: tuple[str, ...]) -> None:
    out = sys.stderr
    print(f"\nseed {seed}: {problems[0]}\n  once more: python -m tests.simulation --seed {seed}\n", file=out)
    plan = shrunk(draw_plan(seed))
    print(f"the smallest run that shows it, as a test:\n\n{as_test(plan, problems[0])}", file=out)


def _nothing(campaign: Campaign) -> None:
    """Programs are told the end only."""


def _progress(campaign: Campaign) -> None:
    if sys.stderr.isatty():
        print(
            f"\r{campaign.runs:,} runs, {campaign.failures} failed, {campaign.took_s:.0f} s ", end="", file=sys.stderr
        )


def _said(campaign: Campaign) -> dict[str, object]:
    return {
        "runs": campaign.runs,
        "failures": campaign.failures,
        "failed": [{"seed": seed, "problems": problems} for seed, problems in campaign.failed],
        "hits": {f"{where}:{kind}": count for (where, kind), count in sorted(campaign.hits.items())},
        "missed": [f"{where}:{kind}" for where, kind in campaign.missed],
        "trace_hash": campaign.trace_hash,
        "took_s": round(campaign.took_s, 1),
        "bound": campaign.bound,
    }


def _table(campaign: Campaign) -> str:
    rows: dict[str, list[str]] = defaultdict(list)
    for (where, kind), count in sorted(campaign.hits.items()):
        rows[where].append(f"{kind} {count}")
    for where, kind in campaign.missed:
        rows[where].append(f"{kind} NEVER")
    lines = [f"  {where:26} {' · '.join(rows[where])}" for where in sorted(rows)]
    for seed, problems in campaign.failed:
        lines += [f"seed {seed}: {problem}" for problem in problems]
    missed = f"{len(campaign.missed)} cells of the matrix were never hit" if campaign.missed else "every cell was hit"
    head, end = "boundary                     what struck there, how often", f"{missed}; {campaign.bound}"
    return "\n".join([head, *lines, "", end, f"trace {campaign.trace_hash}, {campaign.took_s:.1f} s"])


if __name__ == "__main__":
    sys.exit(main())
