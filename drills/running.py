"""Plays the rows and judges them: held, broken, or skipped with the reason.  (floor 6)

Each play gets a server, folders and an agent of its own, so that no row depends on another. What a
row raises is a breach like any other: the drill goes on with the next.
"""

from __future__ import annotations

import importlib.util
import shlex
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drills.ground import Ground, make_ground
from drills.matrix import Row
from drills.programs import has_signals
from drills.services import page
from drills.stage import Stage
from models.practice.server import PracticeServer
from safe_text import clean, mask, one_line
from wiring import preload

HELD, BROKEN, SKIPPED = "held", "BROKEN", "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """How one row went on one agent.

    Args:
        agent: asyncio, blocking or the program.
        verdict: held, BROKEN or skipped.
        happened: what came of its questions, in words; for a skipped row why.
        breaches: what should have been, and what was.
        attempts: on models, of the first question.
        took_s: seconds that its questions took; the waiting for a breaker afterwards is not in it.
        reproduce: the command that plays it again.
    """

    row: Row
    agent: str
    verdict: str
    happened: str
    breaches: tuple[str, ...] = ()
    attempts: int | None = None
    took_s: float = 0.0
    reproduce: str = ""


def play_all(
    rows: Sequence[Row], given: Mapping[str, str], seed: int, runs: int, begin: Callable[[Row, str], None]
) -> Iterator[Result]:
    """Play every row on each of its agents, `runs` times with a seed of its own each.

    Args:
        rows: of the matrix.
        given: the person's environment.
        seed: of the first run.
        runs: how often.
        begin: told what is played now.
    """
    for run in range(runs):
        for row in rows:
            for agent in row.agents:
                begin(row, agent)
                yield play(row, agent, given, seed + run)


def play(row: Row, agent: str, given: Mapping[str, str], seed: int) -> Result:
    """Play one row on one agent."""
    preload()  # the SDK takes seconds, which are no question's
    with (
        tempfile.TemporaryDirectory(prefix="drill-", ignore_cleanup_errors=True) as folder,
        PracticeServer(page) as server,
    ):
        ground = make_ground(given, Path(folder), server.url, redis="redis" in row.needs)
        if why := missing(row, agent, ground):
            return Result(row, agent, SKIPPED, why)
        return _judged(row, Stage(ground, server, agent, row.faults, seed))


def missing(row: Row, agent: str, ground: Ground) -> str:
    """Why this row cannot be played here; "" when it can."""
    if row.tries > (tries := ground.tries(row.target)):
        return f"these settings survive {tries} failures of {row.target} in a row, and this needs {row.tries}"
    if "redis" in row.needs and importlib.util.find_spec("redis") is None:
        return "the package redis is not installed: uv sync --extra redis"
    if "signals" in row.needs and not has_signals():
        return "this system has no such signals"
    if agent in ("blocking", "agent.py") and not hasattr(signal, "SIGALRM"):
        return "agent.py needs SIGALRM, which this system does not have"
    return ""


def _judged(row: Row, stage: Stage) -> Result:
    begun_s = time.monotonic()
    try:
        with stage:
            row.play(stage)
    except Exception as error:  # whatever a row raises breaks its promise, and no other's
        stage.breaches.append(f"nothing is raised: {type(error).__name__}: {error}")
    took_s = sum(told.took_s for told in stage.told) or time.monotonic() - begun_s
    return Result(
        row,
        stage.kind,
        BROKEN if stage.breaches else HELD,
        _shown("; then ".join(told.in_words() for told in stage.told), 600),
        tuple(_shown(breach, 600) for breach in stage.breaches),
        next((told.attempts for told in stage.told if told.attempts), 0) if stage.told else None,
        took_s,
        f"uv run python drill.py --only {shlex.quote(row.name)} --seed {stage.seed}",
    )


def _shown(words: str, chars_max: int) -> str:
    return one_line(clean(mask(words)), chars_max)
