"""The drill as one HTML page without anything from elsewhere: for a browser, an archive, or a colleague.  (floor 6)

Every word in it is escaped. Nothing runs in it, and it loads nothing: that is said to the browser too.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from drills import survival
from drills.outcome import Line, Outcome
from drills.picture import svg
from drills.running import BROKEN, HELD, SKIPPED
from drills.survival import RATES, SETUPS, TROUBLES, Point
from safe_text import clean, mask

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #2f8f4e; --bad: #d43c3c; --skip: #b7791f; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
table { border-collapse: collapse; width: 100%; } .wide { overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font: 13px/1.45 ui-monospace, monospace; overflow-wrap: anywhere; white-space: pre-wrap; }
.held { color: var(--good); } .BROKEN { color: var(--bad); font-weight: 700; } .skipped { color: var(--skip); }
small, .quiet { opacity: .75; } svg { width: 100%; height: auto; max-width: 60rem; }
.bad { border-left: 4px solid var(--bad); padding: .2rem 1rem; margin: 1rem 0; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html(outcome: Outcome) -> str:
    """The page."""
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Unflappable drill: {_verdict(outcome)}</title><style>{_STYLE}</style></head><body>",
        "<h1>Unflappable drill</h1>",
        _summary(outcome),
        *_broken(outcome),
        *_survival(outcome.points),
        *_matrix(outcome.lines()),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _verdict(outcome: Outcome) -> str:
    broken = outcome.count(BROKEN)
    stopped = ", stopped early" if outcome.stopped else ""
    return (f"{broken} broken" if broken else f"{outcome.count(HELD)} held") + stopped


def _summary(outcome: Outcome) -> str:
    held, broken, skipped = (outcome.count(verdict) for verdict in (HELD, BROKEN, SKIPPED))
    counts = f"{len(outcome.results)} of {outcome.planned} plays: {held} held, {broken} broken, {skipped} skipped; "
    counts += f"seed {outcome.seed}, {outcome.took_s:.0f} s."
    verdict = BROKEN if broken else HELD
    bound = "" if broken else f"<br>{_safe(outcome.bound)}"
    settings = "".join(f"<li>{_safe(line)}</li>" for line in outcome.ground)
    return f'<p class="{verdict}">{counts}{bound}</p><ul class="quiet">{settings}</ul>'


def _broken(outcome: Outcome) -> list[str]:
    parts = []
    for line in outcome.lines():
        for result in line.broken:
            breaches = "".join(f"<li>{_safe(breach)}</li>" for breach in result.breaches)
            parts.append(
                f'<div class="bad"><p class="BROKEN">{_safe(line.name)} ({_safe(result.agent)})</p>'
                f"<p>{_safe(line.promise)}</p><ul>{breaches}</ul><pre>{_safe(result.reproduce)}</pre></div>"
            )
    return ["<h2>Broken promises</h2>", *parts] if parts else []


def _matrix(lines: Sequence[Line]) -> list[str]:
    if not lines:
        return []
    head = '<tr><th>fault</th><th>promise</th><th>what happened</th><th class="n">tries</th><th class="n">s</th>'
    rows = [
        f"<tr><td><code>{_safe(line.name)}</code></td><td>{_safe(line.promise)}</td><td>{_safe(line.happened)}</td>"
        f'<td class="n">{_safe(line.attempts)}</td><td class="n">{_seconds(line)}</td>'
        f'<td class="{line.verdict}">{line.verdict}<br><small>{_safe(", ".join(line.agents))}</small></td></tr>'
        for line in lines
    ]
    return ["<h2>The matrix</h2>", f'<div class="wide"><table>{head}<th>verdict</th></tr>', *rows, "</table></div>"]


def _seconds(line: Line) -> str:
    return "" if line.verdict == SKIPPED else f"{line.took_s:.2f}"


def _survival(points: Sequence[Point]) -> list[str]:
    if not points:
        return []
    words = (
        "The agent with your settings and unscaled times, on a virtual clock: guards, tools and the practice model "
        f"are the real ones, time and network are simulated. {points[0].asked} questions a point. "
        + survival.bound(points[0].asked)
    )
    return [
        "<h2>What each guard is worth</h2>",
        f"<p>{words}</p>",
        svg(points),
        f'<div class="wide"><table>{_head()}',
        *(_rates(points, trouble, setup) for trouble in TROUBLES for setup in SETUPS),
        "</table></div>",
    ]


def _head() -> str:
    rates = "".join(f'<th class="n">{rate:g}</th>' for rate in RATES)
    more = '<th class="n">mean wait at the last</th><th class="n">requests a question</th>'
    return f"<tr><th>trouble</th><th>switched on</th>{rates}{more}</tr>"


def _rates(points: Sequence[Point], trouble: str, setup: str) -> str:
    row = [point for point in points if (point.trouble, point.setup) == (trouble, setup)]
    if not row:
        return ""
    cells = "".join(f'<td class="n">{point.shown}</td>' for point in row)
    cells += '<td class="n"></td>' * (len(RATES) - len(row))
    last = row[-1]
    return (
        f"<tr><td>{_safe(trouble)}</td><td>{_safe(setup)}</td>{cells}"
        f'<td class="n">{last.wait_s:.1f} s</td><td class="n">{last.requests:.1f}</td></tr>'
    )


def _safe(text: str) -> str:
    return escape(clean(mask(text)))
