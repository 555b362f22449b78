"""Tools that lie: each lie is told, is found out by checks that are always on, and is said."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import Settings, read_settings
from errors import AgentError
from events import AttemptFailed, FaultInjected
from fault_injection import injecting
from faults import LIES, Crashed, FaultPlan, parse_fault
from flow import Fetch, Flow, HttpReply, HttpRequest, fetch
from tests import fake_web
from tests.fake_web import FakeWeb, Said, geocoding, open_meteo, said
from tests.support import Doors, Heard
from tests.support_tools import Bench
from toolbox.cache import LastGood
from toolbox.lies import WEATHER, on_the_wire, other_results, wrong_number
from toolbox.search import Searched, brave, search_tool, searxng, tavily, wikipedia
from toolbox.weather import weather_tool
from tools import Tool
from wiring import Answer, AsyncAgent, BlockingAgent, World, preload

ROOT = Path(__file__).parent.parent
NOW_S = 1_784_190_600.0 + 480  # eight minutes after the fake forecast was measured
OTTERS = ("Otters of Scotland", "https://otters.example/a", "An otter is a mammal of rivers and coasts.")


@pytest.fixture
def web() -> Iterator[FakeWeb]:
    with FakeWeb() as server:
        yield server


# --- on the wire -----------------------------------------------------------------------------------------


def asking_twice() -> Flow[list[Any]]:
    answers: list[Any] = []
    for url in ("http://a/1", "http://a/2"):
        try:
            answers.append(json.loads((yield from fetch(HttpRequest("GET", url))).body))
        except AgentError as error:
            answers.append(error.reason)
    return answers


def run_bent(doors: Doors, replies: list[HttpReply | AgentError], bend: Callable[[Any], Any]) -> Any:
    def perform(effect: Fetch) -> HttpReply:
        reply = replies.pop(0)
        if isinstance(reply, AgentError):
            raise reply
        return reply

    doors.world[Fetch] = perform
    plan = FaultPlan([parse_fault("a.b:wrong*1")])
    found = doors.run(injecting(asking_twice(), plan, "a.b", {"wrong": on_the_wire(bend)}))
    return found, plan.active, len(doors.heard.of(FaultInjected))


def reply(body: Any, status: int = 200) -> HttpReply:
    return HttpReply(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode())


def test_replies_are_bent_on_their_way_in_and_told_once(doors: Doors) -> None:
    replies: list[HttpReply | AgentError] = [reply({"n": 1}), reply({"n": 2})]
    assert run_bent(doors, replies, lambda found: {"n": -found["n"]}) == ([{"n": -1}, {"n": -2}], False, 1)


def test_what_fails_reaches_the_flow_and_what_cannot_be_bent_stays_and_is_not_told(doors: Doors) -> None:
    refused = AgentError("no", reason="connection")
    replies: list[HttpReply | AgentError] = [refused, reply({"n": 2})]
    assert run_bent(doors, replies, lambda found: None) == (["connection", {"n": 2}], True, 0)
    replies = [reply([1]), reply({"n": 2}, status=500)]
    assert run_bent(doors, replies, lambda found: {"n": 9}) == ([[1], {"n": 2}], True, 0)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda kids: st.lists(kids, max_size=3)))
@pytest.mark.parametrize("bend", [*WEATHER.values(), other_results])
def test_no_reply_however_odd_breaks_a_lie(bend: Callable[[Any], Any], value: Any) -> None:
    doors = Doors("virtual")
    names = ("current", "daily", "latitude", "results", "web", "pages")
    replies: list[HttpReply | AgentError] = [reply(dict.fromkeys(names, value)), reply({"current": {"time": value}})]
    run_bent(doors, replies, bend)


def test_a_lie_stops_where_it_is_stopped() -> None:
    flow = asking_twice()
    lying = injecting(flow, FaultPlan([parse_fault("a:wrong")]), "a", {"wrong": on_the_wire(lambda found: None)})
    next(lying)
    lying.close()
    assert getattr(flow, "gi_frame", 0) is None


# --- the weather -----------------------------------------------------------------------------------------


def weather_of(bench: Bench) -> Tool:
    url = bench.web.url
    return weather_tool(url, url, bench.guards, bench.plan, LastGood(), bench.now, lambda: NOW_S)


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ("wrong", "answered a temperature far outside the range of its own day"),
        ("swapped", "answered for somewhere else than Berlin, State of Berlin, Germany"),
    ],
)
def test_an_impossible_or_foreign_forecast_is_asked_for_again_and_then_missing(
    doors: Doors, web: FakeWeb, lie: str, says: str
) -> None:
    open_meteo(web)
    bench = Bench(doors, web, f"get_weather:{lie}")
    output = bench.ask(weather_of(bench), city="Berlin")
    assert (output.degraded, "°" in output.text, "34" in output.notice) == (True, False, False)
    assert output.notice == f"get_weather is missing: open_meteo: {output.text.partition('open_meteo: ')[2][:-1]}"
    assert says in output.notice
    assert doors.heard.of(FaultInjected) == [FaultInjected("get_weather.open_meteo", lie, "")] * 2
    assert [failed.reason for failed in doors.heard.of(AttemptFailed)] == ["protocol"] * 2
    bench = Bench(doors, web, f"get_weather.open_meteo:{lie}*1")
    assert bench.ask(weather_of(bench), city="Berlin").text.startswith("Weather in Berlin")


def test_a_lie_about_a_day_that_is_not_told_is_one_that_cannot_be(doors: Doors, web: FakeWeb) -> None:
    open_meteo(web, daily=None)
    bench = Bench(doors, web, "get_weather:wrong")
    assert "without a believable temperature" in bench.ask(weather_of(bench), city="Berlin").notice


def test_old_weather_is_told_with_its_age_by_the_program_too(doors: Doors, web: FakeWeb) -> None:
    open_meteo(web)
    bench = Bench(doors, web, "get_weather:stale")
    output = bench.ask(tool := weather_of(bench), city="Berlin")
    assert output.text.endswith("That is 2 days ago. These values are old; say so.")
    assert "Measured 2026-07-14 10:30" in output.text
    assert "2026-07-14: 16.2 to 27.1" in output.text
    assert (output.degraded, output.notice) == (True, "get_weather answered with old values, measured 2 days ago")
    web.on("/v1/search", Said(500, b"{}"))
    assert bench.ask(tool, city="Berlin").text.startswith("not available")  # nothing old is kept to stand in


def test_a_place_that_nobody_knows_is_nothing_to_lie_about(doors: Doors, web: FakeWeb) -> None:
    web.on("/v1/search", said(geocoding()))
    bench = Bench(doors, web, "get_weather:wrong*1")
    assert "knows no place" in bench.ask(weather_of(bench), city="Xyzzy").text
    assert (bench.plan.active, doors.heard.of(FaultInjected)) == (True, [])


# --- searching -------------------------------------------------------------------------------------------


def search_of(bench: Bench) -> Tool:
    url = bench.web.url
    bench.web.on("/tavily/search", said(fake_web.tavily(OTTERS)))
    bench.web.on("/brave/res/v1/web/search", said(fake_web.brave(OTTERS)))
    bench.web.on("/searxng/search", said(fake_web.searxng(OTTERS)))
    bench.web.on("/w/rest.php/v1/search/page", said(fake_web.wikipedia(("Otter", "Otter", "An otter swims."))))
    each = [tavily(f"{url}/tavily", "tvly-0123456789abcdef"), brave(f"{url}/brave", "key"), searxng(f"{url}/searxng")]
    cache: LastGood[Searched] = LastGood()
    return search_tool([*each, wikipedia(url)], bench.guards, bench.plan, cache, bench.now, lambda: "feed")


@pytest.mark.parametrize("name", ["tavily", "brave", "searxng", "wikipedia"])
def test_results_of_another_query_are_told_to_be_that(doors: Doors, web: FakeWeb, name: str) -> None:
    others = [one for one in ("tavily", "brave", "searxng", "wikipedia") if one != name]
    bench = Bench(doors, web, "web_search:swapped", *(f"web_search.{one}:auth" for one in others))
    bench.plan.replace([*bench.plan.specs[1:], bench.plan.specs[0]])
    output = bench.ask(search_of(bench), query="otters in scotland")
    assert output.source == name
    assert "sourdough" in output.text
    assert "None of them mentions any word of the query: they seem to be about something else. Say so." in output.text
    assert output.degraded is True
    assert output.notice.startswith("web_search: none of the results from ")
    assert output.notice.endswith("mentions what was searched for")
    output = bench.ask(search_of(bench), query="otters")
    assert ("check that they are about it" in output.text, output.degraded) == (True, False)


def test_an_empty_search_is_nothing_to_lie_about(doors: Doors, web: FakeWeb) -> None:
    bench = Bench(doors, web, "web_search:swapped*1")
    tool = search_of(bench)
    web.on("/tavily/search", said(fake_web.tavily()))
    assert "has nothing on it" in bench.ask(tool, query="otters in scotland").text
    assert bench.plan.active


def test_results_that_fit_are_not_doubted(doors: Doors, web: FakeWeb) -> None:
    bench = Bench(doors, web)
    output = bench.ask(search_of(bench), query="otters in scotland")
    assert (output.degraded, output.notice, "None of them" in output.text) == (False, "", False)


# --- numbers ---------------------------------------------------------------------------------------------


@given(st.integers() | st.fractions() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_wrong_number_is_another_one_of_the_same_kind(value: int | Fraction | float) -> None:
    wrong = wrong_number(value)
    assert wrong != value
    assert isinstance(wrong, type(value))
    assert not isinstance(wrong, float) or math.isfinite(wrong)


# --- both agents, from the question to what the person reads -------------------------------------------------


class Person:
    """Asks one of the two agents, wired as the programs wire it, and reads what it says."""

    def __init__(self, kind: str, settings: Settings) -> None:
        self.kind, self.settings = kind, settings
        self.heard = Heard()
        self.killed = 0

    def ask(self, question: str, *faults: str) -> Answer:
        world = World(kill=self._kill, wall=lambda: NOW_S)
        parts: dict[str, Any] = {"fault_specs": faults, "seed": 1, "listeners": [self.heard], "offline": True}
        if self.kind == "blocking":
            agent = BlockingAgent(self.settings, world=world, **parts)
            try:
                return agent.ask(question)
            finally:
                agent.close()
        return asyncio.run(self._ask(question, world, parts))

    async def _ask(self, question: str, world: World, parts: dict[str, Any]) -> Answer:
        agent = AsyncAgent(self.settings, world=world, **parts)
        try:
            return await agent.ask(question)
        finally:
            await agent.aclose()

    def _kill(self) -> None:
        self.killed += 1

    @property
    def notes(self) -> list[Path]:
        folder = self.settings.notes_dir
        return sorted(folder.iterdir()) if folder.exists() else []


@pytest.fixture(params=["asyncio", "blocking"])
def person(request: pytest.FixtureRequest, tmp_path: Path, web: FakeWeb) -> Person:
    preload()
    open_meteo(web)
    web.on("/w/rest.php/v1/search/page", said(fake_web.wikipedia(("Otter", "Otter", "An otter swims."))))
    urls = dict.fromkeys(("OPEN_METEO_GEOCODING_URL", "OPEN_METEO_FORECAST_URL", "WIKIPEDIA_URL"), web.url)
    folders = {"NOTES_DIR": str(tmp_path / "notes"), "STATE_DIR": str(tmp_path / "state")}
    return Person(request.param, read_settings({**folders, **urls, "RETRY_BASE_DELAY": "0.01"}))


SAVE, FIND, SUM = "save a note: buy milk", "find my notes about milk", "What is 15 multiplied by 23?"
SKY, SEARCH = "What is the weather in Berlin?", "search the web for otters in scotland"


def test_a_save_that_wrote_nothing_fails_the_question_and_says_so(person: Person) -> None:
    report = person.ask(SAVE, "save_note:noop").report
    assert report.status == "failed"
    assert report.error is not None
    assert (
        "save_note could not do its work: the save was reported as done, but reading the note" in report.error.message
    )
    assert (person.notes, [call.wrote for call in report.tool_calls]) == ([], [False])
    assert len(person.heard.of(FaultInjected)) == 2


def test_a_save_that_lied_once_is_repeated(person: Person) -> None:
    report = person.ask(SAVE, "save_note:noop*1").report
    assert (report.status, [call.attempts for call in report.tool_calls]) == ("ok", [2])
    assert [path.read_text() for path in person.notes] == ["buy milk"]
    again = person.ask(SAVE, "save_note:noop").report  # it is there, whatever the tool did
    assert again.status == "ok"


def test_a_wrong_sum_is_never_told(person: Person) -> None:
    report = person.ask(SUM, "calculator:wrong").report
    assert (report.status, "346" in report.text) == ("failed", False)
    assert report.error is not None
    assert "calculator could not do its work: two calculations" in report.error.message
    assert "345" in person.ask(SUM, "calculator:wrong*1").report.text


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ("wrong", "get_weather is missing: open_meteo: answered a temperature far outside"),
        ("swapped", "get_weather is missing: open_meteo: answered for somewhere else than Berlin"),
        ("stale", "get_weather answered with old values, measured 2 days ago"),
    ],
)
def test_weather_that_cannot_be_believed_is_said_to_be_missing_or_old(person: Person, lie: str, says: str) -> None:
    report = person.ask(SKY, f"get_weather:{lie}").report
    assert (report.status, report.degraded) == ("degraded", ("get_weather",))
    assert says in report.text
    assert person.ask(SKY).report.status == "ok"


def test_a_search_with_results_of_another_one_is_said_to_have_them(person: Person) -> None:
    report = person.ask(SEARCH, "web_search:swapped").report
    assert (report.status, report.degraded) == ("degraded", ("web_search",))
    assert "none of the results from Wikipedia" in report.text
    assert person.ask(SEARCH).report.status == "ok"


def test_other_notes_than_those_asked_for_are_missing_and_a_changed_one_is_called_so(person: Person) -> None:
    person.ask(SAVE)
    report = person.ask(FIND, "find_notes:swapped").report
    assert (report.status, "flower pot" in report.text) == ("degraded", False)
    assert "find_notes is missing: the search answered notes that lack the words" in report.text
    report = person.ask(FIND, "find_notes:wrong").report
    assert (report.status, "changed since it was saved" in report.text) == ("ok", True)
    assert "changed" not in person.ask(FIND).report.text


@pytest.mark.parametrize(
    ("fault", "notes"),
    [
        ("model:crash", 0), ("model:crash=after", 0), ("save_note:crash", 0), ("save_note:crash=after", 1),
        ("disk:crash=before", 0), ("disk:crash=after", 1),
    ],
)  # fmt: skip
def test_a_crash_takes_the_whole_program_and_is_told_before(person: Person, fault: str, notes: int) -> None:
    with pytest.raises(Crashed, match=fault):
        person.ask(SAVE, fault)
    assert (person.killed, len(person.notes)) == (1, notes)
    assert [told.kind for told in person.heard.of(FaultInjected)] == ["crash"]


@pytest.mark.parametrize("program", ["agent.py", "agent_async.py"])
def test_the_programs_really_die_and_what_was_saved_is_there(program: str, tmp_path: Path) -> None:
    folders = {"NOTES_DIR": str(tmp_path / "notes"), "STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, str(ROOT / program), "--offline", "--fault", "save_note:crash=after", SAVE]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **folders}, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
    assert [path.read_text() for path in (tmp_path / "notes").iterdir()] == ["buy milk"]


def test_every_tool_says_which_lies_it_can_tell(person: Person) -> None:
    agent = BlockingAgent(replace(person.settings), offline=True)
    try:
        can = {name: set(lies) for name, lies in agent.known_fault_targets.items() if lies}
    finally:
        agent.close()
    weather, search = {"wrong", "stale", "swapped"}, {"swapped"}
    providers = {f"web_search.{name}": search for name in ("tavily", "brave", "searxng", "wikipedia")}
    own = {"calculator": {"wrong"}, "save_note": {"noop"}, "find_notes": {"wrong", "swapped"}}
    assert can == {**own, "get_weather": weather, "get_weather.open_meteo": weather, "web_search": search, **providers}
    assert set().union(*can.values()) == set(LIES)
