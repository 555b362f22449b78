"""The drill: every fault has a row, a broken promise is told and ends with 1, nothing of the person's is touched."""

from __future__ import annotations

import contextlib
import functools
import html.parser
import json
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from config import read_settings
from drills import markdown, picture, report, screen, survival
from drills.ground import KEY, make_ground, told_of
from drills.matrix import Expected, Row, asked, rows
from drills.outcome import Outcome, outcome_json
from drills.running import BROKEN, HELD, SKIPPED, Result, play
from drills.services import page
from drills.stage import SUM, Stage
from drills.survival import RATES, SETUPS, TROUBLES, Point
from errors import ConfigurationError
from faults import KINDS, FaultSpec, parse_fault
from models.practice.server import PracticeServer
from tests.support_pty import Terminal

ROOT = Path(__file__).parent.parent
ROWS = {row.name: row for row in rows()}
LYING = {"calculator": ("wrong",), "save_note": ("noop",), "get_weather": ("wrong", "stale", "swapped")}


def specs_of(row: Row) -> list[FaultSpec]:
    """The faults of a row: those of its agent, and those in its name, which its programs are started with."""
    found = [parse_fault(spec) for spec in row.faults]
    for word in row.name.replace(",", " ").split():
        try:
            found.append(parse_fault(word))
        except ConfigurationError:
            continue
    return found


# --- the matrix ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_has_a_row_for_every_part_that_it_strikes(kind: str) -> None:
    played = [spec for row in ROWS.values() for spec in specs_of(row) if spec.kind == kind]
    for target in ("model.practice", *LYING, "disk", "redis"):
        if FaultSpec("*", kind).concerns(target, LYING.get(target, ())):
            part = "tool" if target in LYING else target.partition(".")[0]
            there = [spec for spec in played if spec.target.partition(".")[0] in (target.partition(".")[0], "*")]
            tools = [spec for spec in played if spec.target in (*LYING, "web_search", "find_notes")]
            assert tools if part == "tool" else there, f"no row has {part}:{kind}"


def test_rows_have_names_of_their_own_and_promises_in_words() -> None:
    assert len(ROWS) == len(rows()) > 80
    assert all(row.promise and not row.promise.endswith(".") for row in ROWS.values())


QUICK = [row for row in ROWS.values() if not re.search("hang|stall|program|dead for long", row.name)]


@pytest.mark.parametrize(("at", "row"), list(enumerate(QUICK)), ids=[row.name for row in QUICK])
def test_the_promise_holds(at: int, row: Row) -> None:
    result = play(row, row.agents[at % len(row.agents)], {}, seed=at)
    assert (result.verdict, result.breaches) in ((HELD, ()), (SKIPPED, ()))


# --- verdicts --------------------------------------------------------------------------------------------


def wrongly(stage: Stage) -> None:
    """Expects what does not come."""
    asked(SUM, Expected(says=("346",)), stage)


def raising(stage: Stage) -> None:
    """Is wrong itself."""
    raise RuntimeError(f"a mistake \x1b[31m with {KEY}")


def row(play: Callable[[Stage], None], **more: Any) -> Row:
    return Row("<b>a</b> row", "it holds", play, **more)


def test_a_promise_that_does_not_hold_is_broken_and_says_what_was_and_how_to_see_it_again() -> None:
    result = play(row(wrongly), "asyncio", {}, seed=7)
    assert result.verdict == BROKEN
    assert result.breaches == ("the answer says '346': it says '15 * 23 = 345'",)
    assert result.reproduce == "uv run python drill.py --only '<b>a</b> row' --seed 7"


def test_a_row_that_raises_is_broken_without_its_escapes_and_secrets() -> None:
    result = play(row(raising), "blocking", {}, seed=1)
    assert result.verdict == BROKEN
    assert "RuntimeError: a mistake" in result.breaches[0]
    assert "\x1b" not in result.breaches[0]
    assert KEY not in result.breaches[0]


def test_a_fault_that_never_strikes_breaks_its_row() -> None:
    silent = row(lambda stage: asked(SUM, Expected(), stage), faults=("get_weather:error",))
    assert play(silent, "asyncio", {}, seed=1).breaches == ("the fault strikes: it never did",)


def test_a_question_that_overruns_its_deadline_breaks_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drills.stage.LATE_S", -2.99)
    result = play(ROWS["model:slow=0.1"], "asyncio", {}, seed=1)
    assert [breach for breach in result.breaches if "by its deadline of 3 s" in breach]


def test_settings_that_give_up_before_are_told_and_the_row_is_skipped() -> None:
    result = play(ROWS["model:overloaded*2"], "asyncio", {"MODEL_CHAIN": "practice", "MAX_RETRIES": "1"}, seed=1)
    assert (result.verdict, result.attempts) == (SKIPPED, None)
    assert result.happened == "these settings survive 1 failures of model in a row, and this needs 2"


ALONE = {"MODEL_CHAIN": "practice"}


@pytest.mark.parametrize(
    ("given", "target", "tries"),
    [
        ({}, "model", 4),
        ({"MAX_RETRIES": "0"}, "model", 1),
        (ALONE, "model", 3),
        ({**ALONE, "BREAKER_FAILURE_THRESHOLD": "2"}, "model", 1),
        ({**ALONE, "BREAKERS": "model.local=1/20"}, "model", 0),
        ({**ALONE, "BREAKERS": "model=3/20,model.local=2/20"}, "model", 1),
        ({**ALONE, "BREAKERS": "web_search=1/20"}, "model", 3),
        ({}, "get_weather", 3),
        ({"BREAKER_FAILURE_THRESHOLD": "1"}, "get_weather", 0),
        ({"BREAKERS": "get_weather.open_meteo=2/20"}, "get_weather", 1),
        ({"BREAKERS": "save_note=1/20"}, "disk", 0),
    ],
)
def test_how_many_failures_settings_survive(given: dict[str, str], target: str, tries: int, tmp_path: Path) -> None:
    assert make_ground(given, tmp_path, "http://127.0.0.1:1").tries(target) == tries


ODD = {"MAX_RETRIES": "0", "BREAKER_FAILURE_THRESHOLD": "1", "MODEL_CHAIN": "practice"}


@pytest.mark.parametrize(
    "name", ["model:error*1", "get_weather:error*1", "get_weather:error", "disk:full*1, then asked again", "model:auth"]
)
@pytest.mark.parametrize("setting", ODD)
def test_odd_settings_break_no_promise(setting: str, name: str) -> None:
    assert play(ROWS[name], "asyncio", {setting: ODD[setting]}, seed=1).verdict in (HELD, SKIPPED)


@pytest.mark.parametrize("chain", ["practice", "local:qwen3:8b@http://localhost:11434", "google:gemini-3.6-flash"])
def test_a_persons_own_chain_is_drilled(chain: str) -> None:
    given = {"MODEL_CHAIN": chain, "GEMINI_API_KEY": "mine"}
    assert play(ROWS["model:cut=text*1"], "asyncio", given, seed=1).verdict == HELD


# --- the ground ------------------------------------------------------------------------------------------


def test_nothing_of_the_persons_is_in_reach(tmp_path: Path) -> None:
    mine = {
        "ANTHROPIC_API_KEY": "sk-mine", "ANTHROPIC_BASE_URL": "http://mine.example", "NOTES_DIR": "/mine/notes",
        "STATE_DIR": "/mine/state", "REDIS_URL": "redis://:pw@mine.example", "TAVILY_API_KEY": "tvly-mine",
        "BRAVE_API_KEY": "mine", "GEMINI_API_KEY": "mine", "SEARXNG_URL": "http://mine.example",
        "WIKIPEDIA_URL": "http://mine.example", "OPEN_METEO_FORECAST_URL": "http://mine.example",
        "OPEN_METEO_GEOCODING_URL": "http://mine.example", "TAVILY_BASE_URL": "http://mine.example",
        "BRAVE_BASE_URL": "http://mine.example", "ALERT_WEBHOOK_URL": "http://mine.example", "HTTPS_PROXY": "http://p",
    }  # fmt: skip
    ground = make_ground(mine, tmp_path, "http://127.0.0.1:1")
    reached = {name: value for name, value in ground.environment.items() if "mine" in value}
    assert reached == {}
    assert ground.environment["NO_PROXY"] == "*"
    assert ground.settings.notes_dir == tmp_path / "notes"


def test_times_shrink_together_and_the_rest_stays(tmp_path: Path) -> None:
    given = {
        "TOTAL_TIMEOUT": "300", "LLM_TIMEOUT": "100", "TOOL_TIMEOUT": "200", "MAX_RETRIES": "2",
        "BREAKER_RECOVERY_TIMEOUT": "50", "BREAKERS": "model.anthropic=7/100", "BREAKER_FAILURE_THRESHOLD": "9",
    }  # fmt: skip
    used = make_ground(given, tmp_path, "http://127.0.0.1:1").settings
    assert (used.total_timeout_s, used.llm_timeout_s, used.tool_timeout_s) == (3.0, 1.0, 2.0)
    assert (used.max_retries, used.breaker_failure_threshold, used.breaker_recovery_timeout_s) == (2, 9, 0.5)
    assert (used.breakers[0].failures, used.breakers[0].open_s) == (7, 1.0)


def test_what_was_replaced_is_told(tmp_path: Path) -> None:
    chain = "anthropic:claude-haiku-5-5,google:gemini-3.6-flash"
    given = {"MODEL_CHAIN": chain, "GEMINI_API_KEY": "mine", "REDIS_URL": "redis://mine.example"}
    told = "\n".join(told_of(given, make_ground(given, tmp_path, "http://127.0.0.1:1")))
    assert "models: anthropic:claude-haiku-5-5, all played by the practice model" in told
    assert "left out: google:gemini-3.6-flash" in told
    assert "times divided by 40: LLM 0.75 s, TOOL 1 s, TOTAL 3 s" in told
    assert "your Redis is left alone" in told


# --- the server ------------------------------------------------------------------------------------------


def test_the_server_answers_the_model_and_its_pages_and_keeps_what_it_refused() -> None:
    with PracticeServer(page) as server, httpx2.Client(base_url=server.url) as client:
        question = {"model": "m", "max_tokens": 99, "messages": [{"role": "user", "content": SUM}]}
        assert client.post("/v1/messages", json=question).json()["stop_reason"] == "end_turn"
        assert "event: message_stop" in client.post("/v1/messages", json={**question, "stream": True}).text
        assert client.get("/v1/search", params={"name": "Seattle"}).json()["results"][0]["name"] == "Seattle"
        assert client.get("/v1/models").json()["data"][0]["id"] == "practice"
        assert client.get("/elsewhere").status_code == 404
        assert server.refused == []
        assert client.post("/v1/messages", json={**question, "messages": []}).status_code == 400
        assert len(server.refused) == 1


# --- the chart -------------------------------------------------------------------------------------------


@functools.cache
def points(questions: int, seed: int = 1) -> list[Point]:
    return list(survival.chart(read_settings({}), seed, questions))


def test_without_faults_every_question_survives_whatever_is_switched_off() -> None:
    assert {point.share for point in points(2) if point.rate == 0} == {1.0}


def test_each_guard_is_worth_something() -> None:
    at = {(point.trouble, point.setup, point.rate): point for point in points(40)}
    assert len(at) == survival.POINTS == len(TROUBLES) * len(SETUPS) * len(RATES)
    bare, retries, breakers, all_on = SETUPS
    assert at["passing", retries, 0.3].share > at["passing", bare, 0.3].share + 0.3
    assert at["outages", all_on, 0.3].share > at["outages", breakers, 0.3].share
    assert at["outages", breakers, 0.5].wait_s < at["outages", retries, 0.5].wait_s / 2
    assert at["outages", breakers, 0.5].requests < at["outages", retries, 0.5].requests


def test_one_seed_gives_one_chart() -> None:
    again = list(survival.chart(read_settings({}), 1, 2))
    assert again == points(2) != points(2, seed=2)
    assert picture.svg(again) == picture.svg(points(2))


def test_only_all_of_them_are_shown_as_100_percent() -> None:
    shown = [Point("passing", "retries", 0.1, 3000, survived, 2.0, 1.0).shown for survived in (0, 1500, 2999, 3000)]
    assert shown == ["0%", "50.0%", "99.9%", "100%"]
    assert "0.001 (3/N, 95 %)" in survival.bound(3000)


# --- what is told ----------------------------------------------------------------------------------------


def an_outcome(*results: Result) -> Outcome:
    return Outcome(1, 1, ("yours: <i>all</i>",), len(results), list(results), points(2), 1.5)


HOSTILE = Result(row(raising), "asyncio", BROKEN, "<script>alert(1)</script>", ("a & b", "\x1b[2J"), 3, 0.5, "uv run")


class Tags(html.parser.HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in ("meta", "br", "path", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_whole_escaped_and_loads_nothing() -> None:
    text = report.html(an_outcome(HOSTILE))
    tags = Tags(text)
    assert tags.open == []
    assert not tags.tags & {"script", "b", "i", "img", "link", "iframe"}
    assert not tags.attributes & {"src", "href", "onload", "onclick"}
    assert "&lt;script&gt;" in text
    assert "a &amp; b" in text
    assert "\x1b" not in text
    assert "default-src 'none'" in text
    assert re.findall("https?://[^\"' <]+", text) == ["http://www.w3.org/2000/svg"]
    assert "uv run" in text
    assert "1 broken" in text


def test_the_picture_is_whole_and_has_a_line_for_every_setup_in_every_panel() -> None:
    root = ElementTree.fromstring(picture.svg(points(2)))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 3 * len(SETUPS)
    places = [tuple(map(float, place.split(","))) for line in lines for place in line.attrib["points"].split()]
    assert all(0 <= x <= picture.WIDTH and 0 <= y <= picture.HEIGHT for x, y in places)


def test_a_chart_that_was_cut_off_is_drawn_as_far_as_it_got() -> None:
    cut = Outcome(1, 1, (), 0, [], points(2)[:3], 1.0, stopped=True)
    assert Tags(report.html(cut)).open == []
    assert Tags(report.html(Outcome(1, 1, (), 0))).open == []
    ElementTree.fromstring(picture.svg([]))


def test_tables_for_the_readme_escape_what_would_end_a_cell() -> None:
    piped = Result(Row("a|b", "p|q", raising), "asyncio", HELD, "x|y", (), 2, 0.1)
    table = markdown.matrix_table(an_outcome(piped).lines())
    assert r"| a\|b | p\|q | x\|y | 2 | 0.1 | held |" in table
    assert len(markdown.survival_table(points(2)).splitlines()) == 2 + len(TROUBLES) * len(SETUPS)


def test_a_narrow_terminal_gets_a_list_instead_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = screen.tables(an_outcome(HOSTILE), None)
    monkeypatch.setenv("COLUMNS", "40")
    narrow = screen.tables(an_outcome(HOSTILE), None)
    assert "what happened" in wide
    assert "what happened" not in narrow
    assert "BROKEN  <b>a</b> row\n" in narrow
    assert max(map(len, narrow.splitlines())) <= 40
    assert "\x1b" not in wide + narrow


def test_plays_of_one_row_are_one_line_with_the_worst_verdict() -> None:
    fine = Result(HOSTILE.row, "blocking", HELD, "ok", (), 2, 0.9)
    (line,) = an_outcome(fine, HOSTILE).lines()
    assert (line.verdict, line.happened, line.attempts, line.took_s) == (BROKEN, HOSTILE.happened, "2, 3", 0.9)
    assert line.agents == ("blocking", "asyncio")


def test_the_json_tells_it_all() -> None:
    told = outcome_json(an_outcome(HOSTILE), "r.html")
    assert (told["status"], told["broken"], told["report"], told["error"]) == ("failed", 1, "r.html", None)
    assert told["rows"][0]["breaches"] == ["a & b", "\x1b[2J"]
    assert len(told["survival"]) == survival.POINTS
    assert outcome_json(Outcome(1, 1, (), 5, stopped=True), None)["status"] == "cancelled"


# --- the program -----------------------------------------------------------------------------------------


def drill(folder: Path, *options: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program; with `code` after that."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['drill.py', *{options!r}]; {code}\n"
    start += "import drill; drill.main()"
    return subprocess.run(
        [sys.executable, "-c", start], cwd=folder, env={"PATH": "", **environment}, capture_output=True, text=True,
        encoding="utf-8", timeout=120,
    )  # fmt: skip


def test_a_drill_that_holds_ends_with_0_and_leaves_a_report(tmp_path: Path) -> None:
    done = drill(tmp_path, "--only", "model:overloaded*1", "--report", "r.html", PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"model:overloaded\*1 .* 3 .* held", done.stdout)
    assert "held, 0 broken, 0 skipped; seed 1" in done.stdout
    assert "bounds the rate" in done.stdout
    assert "\x1b" not in done.stdout
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html"]


BREAKING = "import drills.matrix as m; from tests.test_drill import row, wrongly; m.rows = lambda: [row(wrongly)];"


def test_a_drill_in_which_a_promise_breaks_ends_with_1_and_says_which(tmp_path: Path) -> None:
    done = drill(tmp_path, "--only", "row", "--runs", "2", "--seed", "5", code=BREAKING)
    assert (done.returncode, done.stderr) == (1, "")
    assert "BROKEN  <b>a</b> row (asyncio): it holds" in done.stdout
    assert "--only '<b>a</b> row' --seed 6" in done.stdout
    assert "0 held, 4 broken" in done.stdout
    assert "bounds the rate" not in done.stdout


def test_json_is_one_object_on_stdout(tmp_path: Path) -> None:
    done = drill(tmp_path, "--only", "row", "--json", code=BREAKING)
    told = json.loads(done.stdout)
    assert (done.returncode, told["status"], told["broken"], told["held"]) == (1, "failed", 2, 0)
    assert told["report"] == "drill-report.html"
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--only", "nonsense"], "no row has 'nonsense' in its name"),
        (["--runs", "0"], "--runs"),
        (["--seed", "x"], "--seed"),
        (["--report", ""], "--report is empty"),
        (["what"], "what"),
        (["--nothing"], "--nothing"),
    ],
)
def test_options_that_make_no_sense_end_with_2_and_one_line(options: list[str], words: str, tmp_path: Path) -> None:
    done = drill(tmp_path, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_with_json_also_a_mistake_in_the_options_is_one_object(tmp_path: Path) -> None:
    done = drill(tmp_path, "--json", "--only", "nonsense")
    told = json.loads(done.stdout)
    assert (done.returncode, told["status"], told["error"]["type"]) == (2, "failed", "ConfigurationError")


def test_a_setting_that_makes_no_sense_ends_with_2(tmp_path: Path) -> None:
    done = drill(tmp_path, "--only", "model:auth", TOTAL_TIMEOUT="soon")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "TOTAL_TIMEOUT" in done.stderr


def test_a_report_that_cannot_be_written_is_told_and_ends_with_1(tmp_path: Path) -> None:
    done = drill(tmp_path, "--only", "model:auth", "--report", "no/such/folder/r.html")
    assert done.returncode == 1
    assert "the report could not be written to no/such/folder/r.html" in done.stderr
    assert "2 held, 0 broken" in done.stdout


CUT_SHORT = """
import drills.matrix as m; from dataclasses import replace
chosen = sorted((row for row in m.rows() if row.name in ('model:auth', 'model:hang')), key=lambda row: row.name)
m.rows = lambda: [replace(row, agents=(AGENT,)) for row in chosen]
"""


@pytest.mark.parametrize(
    ("agent", "options", "number", "code", "words"),
    [
        ("asyncio", [], signal.SIGINT, 130, "Stopped after 1 of 2 plays"),
        ("blocking", ["--json"], signal.SIGTERM, 143, '"cancelled"'),
    ],
)
def test_a_signal_ends_it_and_what_was_played_is_told(
    agent: str, options: list[str], number: int, code: int, words: str, tmp_path: Path
) -> None:
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['drill.py', *{options!r}]; AGENT = {agent!r}"
    start += f"{CUT_SHORT}import drill; drill.main()"
    with contextlib.closing(Terminal(["-c", start], tmp_path, {"NO_COLOR": "1"}, columns=120)) as terminal:
        terminal.until(f"model:hang ({agent})")
        terminal.signal(number)
        terminal.until(words)
        assert terminal.exit_code() == code
