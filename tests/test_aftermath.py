"""What failed for good is kept, told and asked again; what is missing is filled in; a webhook can hurt nobody."""

from __future__ import annotations

import asyncio
import http.server
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config import Settings, read_settings
from core.later import FIRST_WAIT_S, TRIES_MAX, Parked, question_of
from core.letters import Letter, is_final
from core.resume import CutOff
from errors import AgentError, ConfigurationError
from events import AlertRaised, DeadLettered, StoreFailed
from stores import dead_letters, parked
from tests.support import Heard
from ui.command import CommandResult, Situation
from ui.commands import run_command
from wiring import AsyncAgent, BlockingAgent, World

SECRET = "sk-ant-planted0123456789"
QUESTION = f"what is 3*4? my key is {SECRET}"
BOTH = "what is 3*4 and the weather in Berlin?"


class Hook:
    """A webhook on loopback; `answer` is a status, "hang", or "redirect"."""

    def __init__(self, answer: int | str = 204) -> None:
        self.answer, self.bodies = answer, list[dict[str, Any]]()
        self.over = threading.Event()
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                if hook.answer == "hang":
                    hook.over.wait(20)
                    return
                self.send_response(307 if hook.answer == "redirect" else int(hook.answer))
                if hook.answer == "redirect":
                    self.send_header("Location", f"{hook.url}-elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/T0/k3y-of-this-hook"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


class Desk:
    """One agent after the other in the same folder, asked from plain test code."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self.heard = kind, folder, Heard()
        self.now_s = 0.0
        self.loop = asyncio.new_event_loop()
        self.agent: Any = None

    def settings(self, **variables: str) -> Settings:
        folders = {"STATE_DIR": str(self.folder / "state"), "NOTES_DIR": str(self.folder / "notes")}
        quick = {"RETRY_BASE_DELAY": "0.002", "MAX_RETRIES": "1", "WIKIPEDIA_URL": "http://127.0.0.1:9"}
        urls = dict.fromkeys(("OPEN_METEO_GEOCODING_URL", "OPEN_METEO_FORECAST_URL"), "http://127.0.0.1:9")
        return read_settings({**folders, **quick, **urls, **variables})

    def open(self, *faults: str, **variables: str) -> Desk:
        if self.agent is not None:
            self.close()
        make: Callable[..., Any] = BlockingAgent if self.kind == "blocking" else AsyncAgent
        world = World(now=lambda: time.monotonic() + self.now_s)
        self.agent = make(
            self.settings(**variables), offline=True, seed=1, fault_specs=faults, listeners=[self.heard], world=world
        )
        return self

    def run(self, value: Any) -> Any:
        return value if self.kind == "blocking" else self.loop.run_until_complete(value)

    def ask(self, question: str, errand: Any = None) -> Any:
        return self.run(self.agent.ask(question, errand=errand)).report

    def letters(self) -> list[Any]:
        letters: list[Any] = self.run(self.agent.perform(self.agent.aftermath.listing()))[0]
        return letters

    def say(self, line: str) -> str:
        """What a line comes to, with its work and its question done."""
        result: CommandResult = run_command(line, Situation(self.agent))
        texts = [result.text]
        while result.work is not None:
            value = self.run(result.work.begin())
            result = result.work.tell(value)
            texts.append(result.text)
        if result.turn is not None:
            texts.append(self.run(result.turn()).report.text)
        return "\n".join(filter(None, texts))

    def close(self) -> None:
        self.run(self.agent.close() if self.kind == "blocking" else self.agent.aclose())
        self.agent = None


@pytest.fixture(params=["asyncio", "blocking"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(request.param, tmp_path)
    yield desk
    if desk.agent is not None:
        desk.close()
    desk.loop.close()


# --- dead letters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "is_dead"),
    [("authentication", True), ("tls", True), ("disk", True), ("critical_tool", True), ("internal", True),
     ("poison", True), ("limit", True), ("refusal", False), ("too_large", False), ("bad_input", False),
     ("conflict", False), ("timeout", False), ("overloaded", False), ("rejected", False)],
)  # fmt: skip
def test_final_is_what_a_person_must_mend_and_not_the_askers_own(reason: str, is_dead: bool) -> None:
    assert is_final(AgentError("x", reason=reason)) is is_dead
    assert not is_final(None)


def test_a_refused_key_makes_a_dead_letter_an_alert_and_no_secret_of_it_is_kept(desk: Desk, hook: Hook) -> None:
    desk.open("model:auth*1", ALERT_WEBHOOK_URL=hook.url)
    assert desk.ask(QUESTION).status == "failed"
    (letter,) = desk.letters()
    assert (letter.number, letter.error_type, letter.question) == (
        1, "AuthenticationError", "what is 3*4? my key is [secret]",
    )  # fmt: skip
    assert desk.heard.of(DeadLettered) == [DeadLettered(1, "AuthenticationError", 0)]
    (alert,) = desk.heard.of(AlertRaised)
    assert (alert.letter, alert.error_kind) == (1, "fatal")
    session_id = desk.agent.session_id
    desk.close()
    (body,) = hook.bodies
    assert set(body) == {"type", "kind", "message", "what_now", "session_id", "trace_id", "when", "program"}
    assert (body["session_id"], body["trace_id"]) == (session_id, letter.trace_id)
    assert SECRET not in json.dumps(body)
    for file in (desk.folder / "state").glob("sessions.sqlite3*"):
        assert SECRET.encode() not in file.read_bytes()


def test_what_passes_by_itself_is_no_dead_letter(desk: Desk) -> None:
    desk.open("model:overloaded*9")
    assert desk.ask("hello").status == "failed"
    assert desk.letters() == []
    assert desk.heard.of(AlertRaised) == []


def test_a_letter_is_listed_shown_asked_again_and_settled_by_its_answer(desk: Desk) -> None:
    desk.open("model:auth*2")
    desk.ask("what is 3*4?")
    desk.open("model:auth*1")  # another process finds it
    assert "AuthenticationError" in desk.say("/deadletters")
    assert "what is 3*4?" in desk.say("/deadletters 1")
    desk.say("/deadletters retry 1")
    (letter,) = desk.letters()
    assert (letter.number, letter.tries) == (1, 2), "one that fails again stays the same letter"
    assert "12" in desk.say("/deadletters retry 1")
    assert desk.letters() == []
    assert "There are no dead letters." in desk.say("/deadletters")
    with pytest.raises(ConfigurationError, match="there is no dead letter 1"):
        desk.say("/deadletters 1")
    assert "is no number" in desk.say("/deadletters x")
    assert "allowed is" in desk.say("/deadletters a b c")


def test_a_dropped_letter_is_gone(desk: Desk) -> None:
    desk.open("model:auth*1")
    desk.ask("hello")
    assert "is dropped" in desk.say("/deadletters drop 1")
    assert desk.letters() == []


def test_a_store_that_fails_costs_the_letter_and_not_the_alert(desk: Desk, hook: Hook) -> None:
    (desk.folder / "state").mkdir()
    (desk.folder / "state" / "sessions.sqlite3").mkdir()
    desk.open("model:auth*1", ALERT_WEBHOOK_URL=hook.url)
    assert desk.ask("hello").status == "failed"
    assert [event.letter for event in desk.heard.of(AlertRaised)] == [None]
    assert len(desk.heard.of(StoreFailed)) == 1, "said once"
    desk.close()
    assert len(hook.bodies) == 1


@pytest.fixture
def table() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute(dead_letters.SHELF.schema)
    connection.execute(parked.SHELF.schema)
    return connection


def a_letter(turn_id: str) -> Letter:
    return Letter("s", turn_id, turn_id, "q", True, "T", "fatal", "m", "", (), 1, 0.0, "p")


def test_one_turn_has_one_letter_however_often_it_fails_and_also_once_settled(table: sqlite3.Connection) -> None:
    assert dead_letters.bury(table, a_letter("a")).is_new
    assert not dead_letters.bury(table, a_letter("a")).is_new
    dead_letters.settle(table, 1, "dropped")
    assert dead_letters.bury(table, a_letter("a")) == dead_letters.Buried(1, is_new=False)
    assert dead_letters.listing(table) == ([], 0)


def test_the_oldest_letters_go_and_that_is_said(table: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters.SHELF, "_items_max", 3)
    assert [dead_letters.bury(table, a_letter(str(n))).dropped for n in range(5)] == [0, 0, 0, 1, 1]
    assert [letter.number for letter in dead_letters.listing(table)[0]] == [5, 4, 3]


def test_a_damaged_letter_is_not_believed_but_counted(table: sqlite3.Connection) -> None:
    dead_letters.bury(table, a_letter("a"))
    dead_letters.bury(table, a_letter("b"))
    table.execute("UPDATE dead_letters SET body = replace(body, 'fatal', 'fitil') WHERE number = 1")
    letters, damaged = dead_letters.listing(table)
    assert ([letter.number for letter in letters], damaged) == ([2], 1)


def test_a_question_that_crashed_three_times_is_a_dead_letter_also_when_another_is_asked_instead(desk: Desk) -> None:
    desk.open()
    cut = CutOff("t", "poison", (), (), {"starts": 3}, {})
    aftermath = desk.agent.aftermath
    flow = desk.agent._begin("what is 3*4?", "")
    aftermath.around(flow, desk.agent.session.turn, "s", None, cut)
    desk.run(desk.agent._answer(flow))
    (letter,) = desk.letters()
    assert (letter.turn_id, letter.question, letter.error_type) == ("t", "poison", "PoisonTurn")


# --- the webhook -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [500, 404, "redirect"])
def test_a_webhook_that_fails_is_one_warning_and_is_not_followed_anywhere(
    desk: Desk, hook: Hook, answer: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    hook.answer = answer
    desk.open("model:auth*1", ALERT_WEBHOOK_URL=hook.url)
    with caplog.at_level(logging.WARNING, "unflappable.events"):
        desk.ask("hello")
        desk.agent.aftermath.alerter.close(5.0)
    told = [record for record in caplog.records if record.getMessage() == "alert_failed"]
    assert [record.levelname for record in told] == ["WARNING"]
    assert len(hook.bodies) == (2 if answer == 500 else 1)


def test_a_webhook_that_hangs_holds_neither_the_answer_nor_the_exit(
    desk: Desk, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    hook.answer = "hang"
    desk.open("model:auth*1", ALERT_WEBHOOK_URL=hook.url)
    begun_s = time.monotonic()
    desk.ask("hello")
    assert time.monotonic() - begun_s < 2.0
    begun_s = time.monotonic()
    with caplog.at_level(logging.WARNING, "unflappable.events"):
        desk.close()
    assert time.monotonic() - begun_s < 2.0
    assert [record.getMessage() for record in caplog.records].count("alert_failed") == 1


def test_a_storm_of_failures_sends_a_few_alerts(desk: Desk, hook: Hook) -> None:
    desk.open("model:auth", ALERT_WEBHOOK_URL=hook.url)
    for number in range(8):
        desk.ask(f"question {number}")
    desk.agent.aftermath.alerter.close(1.0)
    assert len(desk.heard.of(AlertRaised)) == 8
    assert 1 <= len(hook.bodies) <= 3


def test_faults_strike_the_webhook_by_its_name(desk: Desk, hook: Hook) -> None:
    desk.open("model:auth*1", "alert.webhook:refused*2", ALERT_WEBHOOK_URL=hook.url)
    desk.ask("hello")
    desk.agent.aftermath.alerter.close(5.0)
    assert hook.bodies == []
    assert desk.agent.plan.next("alert.webhook") is None, "both faults struck"


def test_without_a_webhook_there_is_no_thread(desk: Desk) -> None:
    desk.open("model:auth*1")
    desk.ask("hello")
    assert not any(thread.name == "alerts" for thread in threading.enumerate())


# --- answer later ----------------------------------------------------------------------------------------


def test_a_missing_part_is_offered_parked_and_filled_in_with_its_tool_alone(desk: Desk) -> None:
    desk.open("get_weather:server_error*9")
    assert desk.ask(BOTH).status == "degraded"
    later = desk.agent.aftermath.later
    assert later.offer.tools == ("get_weather",)
    assert "Parked as 1" in desk.say("/later")
    assert "get_weather" in desk.say("/later"), "the next one lists"
    assert not later.is_due, "not at once: it would fail again"
    desk.now_s += FIRST_WAIT_S + 1
    assert later.is_due
    one = later.take_due()
    assert not later.is_due, "whatever becomes of a try, it is not due again at once"
    report = desk.ask(question_of(one), errand=one)
    assert {call.call.name for call in report.tool_calls} == {"get_weather"}


def test_what_was_filled_in_is_settled(desk: Desk) -> None:
    desk.open("find_notes:error*1")
    assert desk.ask("find my notes about otters").status == "degraded"
    desk.say("/later")
    desk.now_s += 1_000
    one = desk.agent.aftermath.later.take_due()
    assert desk.ask(question_of(one), errand=one).status == "ok"
    assert "Nothing is parked" in desk.say("/later")
    desk.now_s += 1_000
    assert not desk.agent.aftermath.later.is_due


def test_nothing_that_writes_can_run_when_a_part_is_filled_in(desk: Desk) -> None:
    desk.open("find_notes:error*2")
    report = desk.ask("save a note that otters swim, and find my notes about otters")
    assert (report.status, [call.call.name for call in report.tool_calls if call.wrote]) == ("degraded", ["save_note"])
    desk.say("/later")
    one = desk.run(desk.agent.perform(desk.agent.aftermath.later.finding(1)))
    report = desk.ask(question_of(one), errand=one)
    assert {call.call.name for call in report.tool_calls} == {"find_notes"}


def test_an_open_circuit_is_waited_for(desk: Desk) -> None:
    desk.open("get_weather:server_error*9", BREAKERS="get_weather=1/300")
    desk.ask(BOTH)
    desk.say("/later")
    desk.now_s += 200
    assert not desk.agent.aftermath.later.is_due
    desk.now_s += 200
    assert desk.agent.aftermath.later.is_due


def test_what_is_parked_survives_the_program_and_belongs_to_its_session(desk: Desk) -> None:
    desk.open("get_weather:server_error*9")
    desk.ask(BOTH)
    desk.say("/later")
    session_id = desk.agent.session_id
    desk.open()
    assert not desk.agent.aftermath.later.is_due, "of another session"
    assert f"of the session {session_id}" in desk.say("/later")
    desk.run(desk.agent.open_session(session_id))
    assert desk.agent.aftermath.later.is_due


def test_tries_end_and_what_is_dropped_is_gone(desk: Desk) -> None:
    desk.open("get_weather:server_error")
    desk.ask(BOTH)
    desk.say("/later")
    for _ in range(TRIES_MAX):
        desk.now_s += 1_000
        assert desk.agent.aftermath.later.is_due
        desk.say("/later now")
    desk.now_s += 10_000
    assert not desk.agent.aftermath.later.is_due
    assert "not tried by itself any more" in desk.say("/later")
    assert "no longer parked" in desk.say("/later drop 1")
    assert "Nothing is parked" in desk.say("/later")


def test_a_try_is_counted_before_it_begins(table: sqlite3.Connection) -> None:
    one = parked.park(table, Parked("s", "t", "q", ("get_weather",), 0.0))
    assert parked.take(table, one.number, "s2", "t2").tries == 1
    found = parked.find(table, one.number)
    assert (found.tries, found.session_id, found.filling) == (1, "s2", "t2")
