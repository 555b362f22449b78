"""Many runs on all cores: what they hit, what they found, and how much that proves."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.simulation.checkers import check, check_end
from tests.simulation.files import Killed
from tests.simulation.plans import Plan, draw_plan
from tests.simulation.strikes import CELLS, PATHS
from tests.simulation.world import Simulation

BATCH = 50
"""Runs handed to a worker at once."""

KEPT_MAX = 20
"""Failing seeds that are told; more would tell nothing new."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of one run."""

    plan: Plan
    problems: tuple[str, ...]
    trace_hash: str
    hits: Counter[tuple[str, str]]


def judged(plan: Plan, tell: Callable[[str], None] | None = None) -> Judged:
    """Run a plan and judge it. An exception that leaves the agent is a finding like any other."""
    sim = Simulation(plan, tell)
    try:
        sim.run(check, check_end)
    except (Exception, KeyboardInterrupt, Killed) as error:  # whatever it is, the agent must not have let it out
        if isinstance(error, KeyboardInterrupt) and not sim.interrupts:
            raise  # of a real person
        sim.problems.append(f"crash: {type(error).__name__}: {error}")
    sim.database.close()
    sim.log.take()
    return Judged(plan, tuple(sim.problems), sim.trace_hash, sim.strikes.hits)


@dataclass(slots=True)
class Campaign:
    """Runs so far, taken together."""

    runs: int = 0
    hits: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    failures: int = 0
    took_s: float = 0.0
    trace_hash: str = ""

    @property
    def missed(self) -> list[tuple[str, str]]:
        """The cells of the matrix that no run hit, and the paths that none took."""
        return [cell for cell in (*CELLS, *PATHS) if not self.hits[cell]]

    @property
    def bound(self) -> str:
        """How much the runs prove."""
        if self.failures:
            return f"{self.failures} of {self.runs:,} runs failed"
        return f"0 failures in {self.runs:,} runs: the rate is below {3 / max(1, self.runs):.2g} (95 %)"


_Told = tuple[int, str, tuple[str, ...], Counter[tuple[str, str]]]


def _batch(seeds: range) -> list[_Told]:
    gc.disable()  # looking for garbage all the time takes a tenth of it; once a batch will do
    outcomes = [(seed, judged(draw_plan(seed))) for seed in seeds]
    gc.enable()
    gc.collect()
    return [(seed, one.trace_hash, one.problems, one.hits) for seed, one in outcomes]


def run_campaign(
    first: int, runs: int, workers: int = 0, progress: Callable[[Campaign], None] = lambda campaign: None
) -> Campaign:
    """Run the seeds from `first` on.

    Args:
        workers: processes; 0 for one a core, 1 for this process alone.
        progress: told after each batch.
    """
    began_s = time.monotonic()
    campaign, whole = Campaign(), hashlib.sha256()
    batches = [range(at, min(at + BATCH, first + runs)) for at in range(first, first + runs, BATCH)]
    for batch in _outcomes(batches, workers or os.cpu_count() or 1):
        for seed, trace_hash, problems, hits in batch:
            whole.update(trace_hash.encode())
            campaign.runs += 1
            campaign.hits += hits
            campaign.failures += bool(problems)
            if problems and len(campaign.failed) < KEPT_MAX:
                campaign.failed.append((seed, problems))
        campaign.took_s = time.monotonic() - began_s
        progress(campaign)
    campaign.trace_hash = whole.hexdigest()
    return campaign


def _outcomes(batches: list[range], workers: int) -> Iterator[list[_Told]]:
    if workers == 1:
        yield from map(_batch, batches)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_batch, batches)
