"""Times contenders side by side in one run, so that a noisy machine is as noisy to each of them.

Contenders take turns, A B C, B C A, C A B, ..., so that none is always first or behind the same
one. Each turn is a batch of calls, long enough for the clock, and a ratio is taken between
batches of one round. Of the rounds' ratios the median counts, with the interval that holds the
true median in 95 of 100 runs (order statistics, which assume no shape of the noise). Nothing
is subtracted: not the loop, not the call.

Coroutine functions are awaited inside one running loop, so that starting a loop or a task is
no part of a call. The garbage collector is off while a batch runs and cleans up between rounds.

What this deliberately does not do: count CPU instructions, or throw outliers away.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Function: TypeAlias = Callable[[], Any]
Clock: TypeAlias = Callable[[], float]
Timing: TypeAlias = Callable[[Function, int, Clock], Awaitable[float]]

OURS = "Unflappable"
ROUNDS = 60
BATCH_S = 0.004
"""Seconds of a batch: 10,000 times what the clock can tell apart, and short against other programs' time slices."""

_LOOPS_MAX = 1 << 22


class Unavailable(Exception):
    """A contender cannot take part here; the message says why."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do what a contest is about.

    `wrap` makes a function of no arguments from another one; it raises ImportError or Unavailable
    where it cannot. `api` is what of the library it uses, for the reader.
    """

    name: str
    api: str
    wrap: Callable[[Function], Function]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """One table: contenders around the same function. The first is what the others are compared with."""

    name: str
    title: str
    function: Function
    is_async: bool
    contenders: Sequence[Contender]
    aim: float | None = None
    """The most that ours may take, as a multiple of the first."""
    leads: bool = False
    """Whether ours is to be ahead of all peers."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Peers that have nothing like it, and why."""
    rounds: int = ROUNDS


@dataclass(frozen=True, slots=True)
class Row:
    """What one contender took: seconds a call, and the ratio to the first contender with its 95 % interval."""

    name: str
    api: str
    median_s: float
    least_s: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True, slots=True)
class Result:
    """What a contest came to."""

    name: str
    title: str
    aim: float | None
    leads: bool
    rounds: int
    rows: tuple[Row, ...]
    skipped: Mapping[str, str]

    @property
    def ours_all(self) -> tuple[Row, ...]:
        """Our rows; the first of them is the one with the aim."""
        return tuple(row for row in self.rows if row.name.startswith(OURS))

    @property
    def ours(self) -> Row:
        """Our row that has the aim."""
        return self.ours_all[0]

    @property
    def peers(self) -> tuple[Row, ...]:
        """The rows that are neither ours nor the first."""
        return tuple(row for row in self.rows[1:] if not row.name.startswith(OURS))

    @property
    def holds(self) -> bool:
        """Whether the aims are met, as far as they could be looked at."""
        if not self.ours_all:
            return True
        fast = self.aim is None or self.ours.ratio <= self.aim
        return fast and not (self.leads and any(peer.ratio < self.ours.ratio for peer in self.peers))


async def measured(
    contest: Contest, *, rounds: int | None = None, batch_s: float = BATCH_S, clock: Clock = time.perf_counter
) -> Result:
    """Let the contenders take turns. Those that cannot take part are named in `skipped`.

    Args:
        contest: who takes part in what.
        rounds: how many turns each gets; the contest's own number by default.
        batch_s: how long one turn is at least, in seconds.
        clock: seconds that never go back.
    """
    calls, skipped = ready(contest)
    timing = timed_async if contest.is_async else timed
    loops = {name: await calibrated(call, timing, batch_s, clock) for name, call in calls}
    times: dict[str, list[float]] = {name: [] for name, _ in calls}
    rounds = rounds or contest.rounds
    with _collector_off():
        for at in range(rounds):
            first = at % len(calls)
            for name, call in (*calls[first:], *calls[:first]):
                times[name].append(await timing(call, loops[name], clock) / loops[name])
            gc.collect()
    apis = {contender.name: contender.api for contender in contest.contenders}
    rows = tuple(_row(name, apis[name], taken, times[calls[0][0]]) for name, taken in times.items())
    return Result(contest.name, contest.title, contest.aim, contest.leads, rounds, rows, skipped)


def ready(contest: Contest) -> tuple[list[tuple[str, Function]], dict[str, str]]:
    """The contenders that can take part, each around the contest's function, and why the others cannot."""
    calls: list[tuple[str, Function]] = []
    skipped = dict(contest.absent)
    for contender in contest.contenders:
        try:
            calls.append((contender.name, contender.wrap(contest.function)))
        except ImportError as error:
            skipped[contender.name] = f"not installed ({error.name or error})"
        except Unavailable as reason:
            skipped[contender.name] = str(reason)
    return calls, skipped


async def calibrated(call: Function, timing: Timing, least_s: float, clock: Clock) -> int:
    """How many calls a batch must have to last `least_s` seconds; this is the warm-up, too.

    The fastest of three batches counts: one that was held up would make all batches too short.
    """
    await timing(call, 1, clock)  # connecting, importing: what only the first call does
    loops = 1
    while loops < _LOOPS_MAX and min([await timing(call, loops, clock) for _ in range(3)]) < least_s:
        loops *= 2
    return loops


async def timed(call: Function, loops: int, clock: Clock) -> float:
    """Seconds that a batch of calls takes."""
    turns = itertools.repeat(None, loops)
    started_s = clock()
    for _ in turns:
        call()
    return clock() - started_s


async def timed_async(call: Function, loops: int, clock: Clock) -> float:
    """Seconds that a batch of awaited calls takes."""
    turns = itertools.repeat(None, loops)
    started_s = clock()
    for _ in turns:
        await call()
    return clock() - started_s


@contextlib.contextmanager
def _collector_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()  # what is alive now need not be looked at between rounds
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


def _row(name: str, api: str, times: Sequence[float], limit: Sequence[float]) -> Row:
    ratios = [own_s / limit_s if limit_s else math.nan for own_s, limit_s in zip(times, limit, strict=True)]
    low, high = interval(ratios)
    return Row(name, api, statistics.median(times), min(times), statistics.median(ratios), low, high)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median: the values whose ranks are 1.96 standard deviations around the middle.

    How many of n values fall below the true median is binomial(n, 1/2). Fewer than six can't tell: all of them.
    """
    ranked, n = sorted(values), len(values)
    reach = 1.96 * math.sqrt(n) / 2
    low = max(0, math.floor(n / 2 - reach))
    return ranked[low], ranked[n - 1 - low]
