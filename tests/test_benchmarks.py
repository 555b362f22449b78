"""The measurements measure what they say: the clock work, the contenders, the report. Never how fast anything is."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    __main__,
    breaker_blocks,
    breakers,
    guards,
    limiters,
    measuring,
    messages_server,
    overhead,
    redis_shared,
    report,
    retries,
)
from benchmarks.measuring import OURS, Contender, Contest, Result, Row, Unavailable

# Peers use what newer Pythons deprecate; that is theirs to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

DOCS = report.DOCS


# --- the clock work --------------------------------------------------------------------------------------


class Calls:
    """Contenders on a clock of their own: each call takes what it is told to, and is written down."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.made: list[str] = []

    def clock(self) -> float:
        return self.now_s

    def contender(self, name: str, *takes_s: float) -> Contender:
        turns = iter(takes_s)
        last = [0.0]

        def call() -> None:
            self.made.append(name)
            last[0] = next(turns, last[0])
            self.now_s += last[0]

        async def call_async() -> None:
            call()

        return Contender(name, "fake", lambda function: call_async if function is breakers.nothing_async else call)

    def measured(self, *contenders: Contender, is_async: bool = False, **options: Any) -> Result:
        function = breakers.nothing_async if is_async else breakers.nothing
        contest = Contest(name="x", title="x", function=function, is_async=is_async, contenders=contenders)
        return asyncio.run(measuring.measured(contest, clock=self.clock, **options))


@pytest.mark.parametrize("is_async", [False, True])
def test_contenders_take_turns(is_async: bool) -> None:
    calls = Calls()
    calls.measured(calls.contender("a", 1.0), calls.contender("b", 1.0), is_async=is_async, rounds=3, batch_s=1.0)
    assert "".join(calls.made) == "aaaa" + "bbbb" + "ab" + "ba" + "ab"  # warm-up, then the rounds


def test_a_batch_lasts_as_long_as_it_must() -> None:
    calls = Calls()
    calls.measured(calls.contender("a", 0.25), rounds=1, batch_s=1.0)
    # One to warm up, three of each size until all three took a second, then one batch of that size.
    assert len(calls.made) == 1 + 3 * (1 + 2 + 4) + 4


def test_a_batch_that_was_held_up_makes_the_others_no_shorter() -> None:
    calls = Calls()
    calls.measured(calls.contender("a", 9.0, 0.25, 5.0, 0.25), rounds=1, batch_s=1.0)
    assert len(calls.made) == 1 + 3 * (1 + 2 + 4) + 4


def test_calibration_ends_also_when_no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_LOOPS_MAX", 8)
    calls = Calls()
    calls.measured(calls.contender("a", 0.0), rounds=1)
    assert len(calls.made) == 1 + 3 * (1 + 2 + 4) + 8


def test_times_are_a_call_not_a_batch() -> None:
    calls = Calls()
    [row] = calls.measured(calls.contender("a", 0.25), rounds=5, batch_s=1.0).rows
    assert (row.median_s, row.least_s) == (0.25, 0.25)


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    calls = Calls()
    # Four to warm up; then rounds of 1:3, 10:20, 1:4. The ratio of medians would be 4, of means 2.25.
    limit = calls.contender("limit", *[1.0] * 4, 1.0, 10.0, 1.0)
    ours = calls.contender("ours", *[1.0] * 4, 3.0, 20.0, 4.0)
    result = calls.measured(limit, ours, rounds=3, batch_s=1.0)
    assert [row.ratio for row in result.rows] == [1.0, 3.0]
    assert (result.rows[1].median_s, result.rows[1].least_s) == (4.0, 3.0)
    assert (result.rows[1].ratio_low, result.rows[1].ratio_high) == (2.0, 4.0)


@pytest.mark.parametrize(("n", "low", "high"), [(1, 0, 0), (5, 0, 4), (10, 1, 8), (60, 22, 37), (300, 133, 166)])
def test_the_interval_of_a_median_comes_from_ranks(n: int, low: int, high: int) -> None:
    assert measuring.interval([float(rank) for rank in reversed(range(n))]) == (low, high)


def test_the_interval_holds_the_median_about_as_often_as_it_says() -> None:
    import random

    draw = random.Random(7)
    intervals = [measuring.interval([draw.expovariate(1.0) for _ in range(60)]) for _ in range(2000)]
    held = sum(low <= 0.6931471805599453 <= high for low, high in intervals)
    assert 0.93 < held / 2000 < 0.98


def test_the_collector_rests_while_batches_run_and_is_as_before_afterwards() -> None:
    import gc

    seen = []
    calls = Calls()

    def wrap(_: Any) -> Callable[[], None]:
        def call() -> None:
            calls.now_s += 1.0
            seen.append(gc.isenabled())

        return call

    was_on = gc.isenabled()
    calls.measured(Contender("a", "", wrap), rounds=2)
    assert seen[-2:] == [False, False]
    assert gc.isenabled() is was_on
    assert gc.get_freeze_count() == 0


# --- who takes part --------------------------------------------------------------------------------------


def test_who_cannot_take_part_is_named_with_the_reason() -> None:
    def missing(_: Any) -> Any:
        raise ModuleNotFoundError("No module named 'quartz'", name="quartz")

    def unfit(_: Any) -> Any:
        raise Unavailable("needs a moon")

    calls = Calls()
    contest = Contest(
        name="x",
        title="x",
        function=breakers.nothing,
        is_async=False,
        contenders=[calls.contender("a", 1.0), Contender("b", "", missing), Contender("c", "", unfit)],
        absent={"d": "has none"},
    )
    result = asyncio.run(measuring.measured(contest, rounds=1, clock=calls.clock))
    assert result.skipped == {"b": "not installed (quartz)", "c": "needs a moon", "d": "has none"}
    assert [row.name for row in result.rows] == ["a"]


def _contests() -> list[Contest]:
    return [
        *breakers.contests(),
        *breaker_blocks.contests(),
        *retries.contests(),
        *limiters.contests(),
        *guards.contests(),
    ]


@pytest.mark.parametrize("contest", _contests(), ids=lambda contest: contest.name)
def test_every_contest_runs_a_round(contest: Contest) -> None:
    result = asyncio.run(measuring.measured(contest, rounds=1, batch_s=0.0))
    measured, skipped = {row.name for row in result.rows}, set(result.skipped) - set(contest.absent)
    assert measured | skipped == {contender.name for contender in contest.contenders}
    assert result.rows[0].name == contest.contenders[0].name
    assert result.ours.name == OURS
    assert all("not installed" in result.skipped[name] for name in skipped)
    assert not set(contest.absent) & measured


class Failing:
    """Functions that count their calls and fail."""

    def __init__(self, succeeds_after: float = float("inf")) -> None:
        self.calls, self._succeeds_after = 0, succeeds_after

    def plain(self) -> str:
        self.calls += 1
        if self.calls <= self._succeeds_after:
            raise ConnectionError("gone")
        return "well"

    async def coroutine(self) -> str:
        return self.plain()

    def function(self, contest: Contest) -> Callable[[], Any]:
        # A function, not a method: some peers look for a name they can write to.
        plain, coroutine = self.plain, self.coroutine

        def call() -> str:
            return plain()

        async def call_async() -> str:
            return await coroutine()

        return call_async if contest.is_async else call


async def _outcome(call: Callable[[], Any], is_async: bool) -> Any:
    try:
        return await call() if is_async else call()
    except Exception as error:  # what a contender makes of a failure is what is looked at
        return error


def _wrapped(contest: Contest, name: str, function: Callable[[], Any]) -> Callable[[], Any]:
    contender = next(one for one in contest.contenders if one.name == name)
    try:
        return contender.wrap(function)
    except ImportError as error:
        pytest.skip(f"{name} is not installed ({error.name})")


def _each(*contests: Contest) -> list[Any]:
    pairs = [(contest, contender.name) for contest in contests for contender in contest.contenders]
    return [pytest.param(contest, name, id=f"{contest.name} {name}") for contest, name in pairs]


@pytest.mark.parametrize(("contest", "name"), _each(*breakers.contests(), *breaker_blocks.contests()))
def test_every_breaker_opens_after_five_failures(contest: Contest, name: str) -> None:
    async def calling() -> None:
        failing = Failing()
        call = _wrapped(contest, name, failing.function(contest))
        said = [await _outcome(call, contest.is_async) for _ in range(8)]
        assert failing.calls == breakers.FAILURES
        assert all(isinstance(one, Exception) for one in said)
        assert not isinstance(said[-1], ConnectionError)

    asyncio.run(calling())


@pytest.mark.parametrize(("contest", "name"), _each(*retries.contests()))
def test_every_retry_tries_four_times(contest: Contest, name: str) -> None:
    async def calling() -> None:
        failing, passing = Failing(), Failing(succeeds_after=2)
        assert isinstance(
            await _outcome(_wrapped(contest, name, failing.function(contest)), contest.is_async), Exception
        )
        assert failing.calls == retries.TRIES
        assert await _outcome(_wrapped(contest, name, passing.function(contest)), contest.is_async) == "well"
        assert passing.calls == 3

    asyncio.run(calling())


@pytest.mark.parametrize(("contest", "name"), _each(*limiters.contests()))
def test_every_limiter_and_bulkhead_lets_a_call_through_to_its_answer(contest: Contest, name: str) -> None:
    async def calling() -> None:
        passing = Failing(succeeds_after=0)
        call = _wrapped(contest, name, passing.function(contest))
        assert [await _outcome(call, contest.is_async) for _ in range(3)] == ["well"] * 3
        assert passing.calls == 3

    asyncio.run(calling())


@pytest.mark.parametrize(("contest", "name"), _each(*limiters.contests()[:2]))
def test_every_limiter_keeps_its_limit(contest: Contest, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiters, "MANY", 20)

    async def calling() -> None:
        call = _wrapped(contest, name, Failing(succeeds_after=0).function(contest))
        started_s = time.monotonic()
        said = [await _outcome(call, contest.is_async) for _ in range(22)]
        assert said[0] == "well"
        assert isinstance(said[-1], limiters.Full) or time.monotonic() - started_s > 0.05  # two more than 20 a second

    asyncio.run(calling())


@pytest.mark.parametrize(("contest", "name"), _each(*limiters.contests()[2:]))
def test_every_bulkhead_is_full_at_some_point(contest: Contest, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "asyncio":
        pytest.skip("a semaphore waits")
    monkeypatch.setattr(limiters, "PLACES", 3)
    entered = []

    def again() -> None:
        entered.append(1)
        call()

    async def again_async() -> None:
        entered.append(1)
        await call()

    async def calling() -> None:
        assert isinstance(await _outcome(call, contest.is_async), Exception)
        assert len(entered) == 3

    call = _wrapped(contest, name, again_async if contest.is_async else again)
    asyncio.run(calling())


_GUARDS = [one.name for one in guards.contests()[0].contenders]


@pytest.mark.parametrize("name", _GUARDS)
def test_every_full_guard_ends_a_call_that_hangs(name: str) -> None:
    [contest] = guards.contests(timeout_s=0.2)

    async def hang() -> None:
        await asyncio.sleep(60)

    async def calling() -> None:
        said = await asyncio.wait_for(_outcome(_wrapped(contest, name, hang), True), 30)
        assert isinstance(said, Exception)

    asyncio.run(calling())


@pytest.mark.parametrize("name", _GUARDS[1:])
def test_every_full_guard_retries_and_then_refuses(name: str) -> None:
    [contest] = guards.contests()

    async def calling() -> None:
        passing, failing = Failing(succeeds_after=1), Failing()
        assert await _outcome(_wrapped(contest, name, passing.function(contest)), True) == "well"
        assert passing.calls == 2
        call = _wrapped(contest, name, failing.function(contest))
        for _ in range(4):
            assert isinstance(await _outcome(call, True), Exception)
        assert failing.calls == breakers.FAILURES

    asyncio.run(calling())


# --- with servers ----------------------------------------------------------------------------------------


def test_every_question_gets_the_same_answer(tmp_path: Path) -> None:
    async def asking() -> None:
        with messages_server.serving() as url:
            async with overhead.contest(url, tmp_path) as contest:
                calls, skipped = measuring.ready(contest)
                assert not skipped
                assert {name: await call() for name, call in calls} == dict.fromkeys(
                    dict(calls), messages_server.ANSWER
                )

    asyncio.run(asking())


def test_breakers_shared_in_redis_open_and_stay_shared() -> None:
    pytest.importorskip("redis", reason="the package redis is not installed")
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")

    async def calling(port: int) -> None:
        async with redis_shared.contests(port) as contests:
            for contest in contests:
                for contender in contest.contenders[1:]:
                    failing = Failing()
                    call = _wrapped(contest, contender.name, failing.function(contest))
                    said = [await _outcome(call, contest.is_async) for _ in range(8)]
                    assert failing.calls == breakers.FAILURES, contender.name
                    assert not isinstance(said[-1], ConnectionError)

    with redis_shared.serving() as port:
        asyncio.run(calling(port))


def test_without_a_redis_server_the_benchmark_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert asyncio.run(redis_shared.run(1)) == []
    assert "redis_shared: not measured: redis-server is not installed" in capsys.readouterr().out


# --- what is told ----------------------------------------------------------------------------------------


def _result(*ratios: float, aim: float | None = None, leads: bool = False) -> Result:
    names = ("by hand", OURS, "other", "another")
    rows = tuple(
        Row(name, "api()", ratio * 1e-7, ratio * 1e-7, ratio, ratio - 0.1, ratio + 0.1)
        for name, ratio in zip(names, ratios, strict=False)
    )
    return Result("x", "a thing around a function", aim, leads, 60, rows, {"gone": "not installed (gone)"})


@pytest.mark.parametrize(
    ("result", "holds"),
    [
        (_result(1.0, 2.0, aim=2.0), True),
        (_result(1.0, 2.01, aim=2.0), False),
        (_result(1.0, 2.0, 3.0, leads=True), True),
        (_result(1.0, 2.0, 1.9, leads=True), False),
        (_result(1.0, 2.0, 1.9), True),
        (_result(1.0, aim=2.0, leads=True), True),  # ours was not measured: nothing can be said
    ],
)
def test_an_aim_is_met_or_missed(result: Result, holds: bool) -> None:
    assert result.holds is holds


def test_a_table_names_everybody_and_says_why_somebody_is_missing() -> None:
    lines = report.table(_result(1.0, 2.0, 5.0, 3.0)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:6]] == ["by hand", OURS, "another", "other"]
    assert "| 200 ns | 200 ns | 2.00 (1.90 – 2.10) | `api()` |" in lines[3]
    assert lines[-1] == "Not measured: gone: not installed (gone)."


def test_the_summary_tells_aims_met_and_missed() -> None:
    text = report.summary([_result(1.0, 1.5, 3.0, aim=2.0, leads=True), _result(1.0, 2.5, aim=2.0), _result(1.0)])
    met, missed = text.splitlines()[2:]  # without ours there is nothing to sum up
    assert met.endswith("| 1.50 × by hand | ≤ 2, first | 3.00 (other) | met |")
    assert missed.endswith("| 2.50 × by hand | ≤ 2 | – | **missed** |")


@pytest.mark.parametrize(
    ("s", "text"),
    [(2.43e-7, "243 ns"), (1.816e-6, "1.82 µs"), (9.996e-7, "1 µs"), (6.24e-3, "6.24 ms"), (2.5, "2.5 s")],
)
def test_times_are_told_in_the_unit_that_suits_them(s: float, text: str) -> None:
    assert report.span(s) == text


def test_a_run_survives_being_written_down() -> None:
    results = [_result(1.0, 2.0, 5.0, aim=2.0)]
    assert report.from_json(json.loads(json.dumps(report.to_json(results)))) == results


def test_the_page_shows_what_the_run_came_to() -> None:
    page = (DOCS / "benchmarks.md").read_text("utf-8")
    run = json.loads((DOCS / "benchmarks.json").read_text("utf-8"))
    assert report.written(page, run) == page


def test_the_plot_is_the_same_bytes_for_the_same_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.plot import draw

    run = json.loads((DOCS / "benchmarks.json").read_text("utf-8"))
    for name in ("one.svg", "two.svg"):
        draw(report.from_json(run), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    text = (tmp_path / "one.svg").read_text("utf-8")
    assert "<dc:date>" not in text
    assert OURS in text


def test_one_command_runs_what_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.json"
    __main__.main(["retries", "--rounds", "1", "--json", str(file)])
    said = capsys.readouterr().out
    results = report.from_json(json.loads(file.read_text("utf-8")))
    assert [result.name for result in results] == ["retry-sync", "retry-async"]
    assert all(report.table(result) in said for result in results)
    assert "Not measured: aiobreaker: has no retries" in said


def test_an_unknown_name_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["brakers"])
    said = capsys.readouterr().err
    assert "no benchmark is called brakers; there are breakers, breaker_blocks, retries" in said
