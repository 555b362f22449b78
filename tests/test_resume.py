"""A question that is cut off anywhere goes on where it stood: the same answer, the same effects, nothing done twice."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import stores.sqlite_file
from config import read_settings
from core.journal import Checkpoint, RecordIntents, RecordOutcome, recording
from core.report import TurnReport
from core.resume import CRASHES_MAX
from core.turn import AskModel, Rules
from deadline import Deadline
from doors.virtual import VirtualBranch, VirtualDoor
from errors import AgentError, ConfigurationError
from events import EffectReconciled, StoreFailed, TurnPoisoned, TurnResumed
from flow import Effect, Flow, Gate, RunTools, blocking, pause
from messages import CallResult, Message, Reply, Text, Thinking, ToolResult, ToolUse, Usage, user
from oversight.approvals import Answer, ApproveMode, AskHuman
from session import Session
from stores.sessions import SessionStore
from tests.history_validator import breaches
from tests.support import Heard
from tools import CallContext, Tool, Toolbox, ToolOutput, executing_all
from wiring import AsyncAgent, BlockingAgent, preload

ROOT = Path(__file__).parent.parent

ANY_OBJECT = {"type": "object", "properties": {"x": {"type": "string"}}}
THOUGHT = Thinking({"type": "thinking", "thinking": "hm \u2028", "signature": "s1g=="}, "m")


class Killed(BaseException):
    """The process is gone."""


class Disk:
    """What outlives a process: the database, the notes, what was posted elsewhere."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.notes: list[str] = []
        self.posts: list[str] = []
        self.ran: list[str] = []
        self.models_asked = 0
        self.humans_asked = 0
        self.ids = itertools.count(1)

    def __del__(self) -> None:
        self.connection.close()


class Process:
    """One run of the program on the disk: a session, a model that follows the plan, tools of each kind."""

    def __init__(self, disk: Disk, *plan: tuple[ToolUse, ...], mode: ApproveMode = "ask") -> None:
        self.disk, self.plan, self.mode = disk, plan, mode
        self.heard = Heard()
        self.broken: list[str] = []
        tools = [
            self._tool("sum", lambda x: ToolOutput("5")),
            self._tool("page", lambda x: ToolOutput("words from outside", untrusted=True)),
            self._tool("note", self._note, writes=True, look=self._look, said=lambda given: f"Saved {given['x']}."),
            self._tool("post", self._post, writes=True),
        ]
        self.door = VirtualDoor({AskModel: self._model, AskHuman: self._human}, {RunTools: self._running}, [self.heard])
        self.rules = Rules(Toolbox(tools), self.door.now)
        self.store = SessionStore(disk.connection, self.door.now)
        self.session = Session(self.store, self.rules, lambda: f"s{next(disk.ids)}")
        self.door.flows |= {
            Checkpoint: self.store.checkpointing,
            RecordIntents: self.store.intending,
            RecordOutcome: self.store.recording,
        }

    def _running(self, effect: RunTools) -> Flow[Any]:
        def keep(result: CallResult) -> Flow[None]:
            return recording(self.session.id, self.session.turn.id, result, 1.0)

        return executing_all(effect.calls, Deadline(effect.deadline_at_s), 5.0, self.door.now, keep)

    def _tool(self, name: str, do: Callable[[str], ToolOutput], writes: bool = False, **more: Any) -> Tool:
        def run(context: CallContext, given: Mapping[str, Any]) -> Flow[ToolOutput]:
            self.disk.ran.append(name)
            yield from pause(0.1)
            output = yield from blocking(lambda gate: self._act(gate, do, given["x"]), context.fresh_gate())
            yield from pause(0.1)
            return output

        return Tool(name, name, ANY_OBJECT, run, False, writes, **more)

    @staticmethod
    def _act(gate: Gate, do: Callable[[str], ToolOutput], x: str) -> ToolOutput:
        gate.claim()
        return do(x)

    def _note(self, x: str) -> ToolOutput:
        if x not in self.disk.notes:
            self.disk.notes.append(x)
        return ToolOutput(f"Saved {x}.", wrote=True)

    def _post(self, x: str) -> ToolOutput:
        self.disk.posts.append(x)
        return ToolOutput(f"Posted {x}.", wrote=True)

    def _look(self, given: Mapping[str, Any]) -> Flow[bool]:
        yield from pause(0.1)
        return given["x"] in self.disk.notes

    def _model(self, effect: AskModel, branch: Any) -> Flow[Reply]:
        messages = effect.request.messages
        body = {"model": "m", "max_tokens": 9, "messages": [message.to_wire() for message in messages]}
        self.broken += breaches(body)
        self.disk.models_asked += 1
        yield from pause(1.0)
        last = max(
            at
            for at, message in enumerate(messages)
            if not any(map(is_result, message.blocks)) and message.role == "user"
        )
        step = sum(message.role == "assistant" for message in messages[last:])
        if step < len(self.plan):
            return Reply((THOUGHT, *self.plan[step]), "tool_use", Usage(10, 5, 0, 0), link="a:m", cost_usd=0.5)
        results = [
            block.content for message in messages[last:] for block in message.blocks if isinstance(block, ToolResult)
        ]
        return Reply((Text(f"Done: {results}"),), "end_turn", Usage(10, 5, 0, 0), link="a:m", cost_usd=0.5)

    def _human(self, effect: AskHuman, branch: Any) -> Flow[Answer]:
        self.disk.humans_asked += 1
        yield from pause(1.0)
        return Answer.YES

    def ask(self, question: str = "do it", task_id: str = "") -> TurnReport:
        self.session.begin(question, self.mode, f"t{next(self.disk.ids)}", task_id)
        return self._end(self.door.run(self.session.asking()))

    def open(self, which: str = "latest") -> Any:
        return self.door.run(self.session.opening(which))

    def resume(self) -> TurnReport:
        self.session.take_up(self.mode)
        return self._end(self.door.run(self.session.resuming()))

    def _end(self, report: TurnReport) -> TurnReport:
        messages = [message.to_wire() for message in (*self.session.conversation.messages, user("next"))]
        assert [*self.broken, *breaches({"model": "m", "max_tokens": 9, "messages": messages})] == []
        return report

    def finish(self) -> TurnReport:
        """Start again after a crash, and get the answer: resumed, or asked again where nothing had begun."""
        try:
            unfinished = self.open()
        except ConfigurationError:  # nothing was kept yet
            return self.ask()
        if unfinished:
            return self.resume()
        assert [type(event) for event in self.heard.events] == []
        text = "".join(block.text for block in self.session.conversation.messages[-1].blocks if isinstance(block, Text))
        return TurnReport("ok", text, "a:m", (), (), Usage(), None, 0)  # all was kept; only the program did not say so


def is_result(block: object) -> bool:
    return isinstance(block, ToolResult)


def call(name: str, id: str, x: str = "milk") -> ToolUse:
    return ToolUse(id, name, {"x": x})


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the process die in place of performing its n-th effect from now on."""
    real, left = VirtualBranch._perform, [0]

    def perform(branch: VirtualBranch, effect: Effect) -> bool:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return real(branch, effect)

    monkeypatch.setattr(VirtualBranch, "_perform", perform)
    return lambda n: left.__setitem__(0, n)


def killed_runs(
    kill_at: Callable[[int], None], *plan: tuple[ToolUse, ...], mode: ApproveMode = "ask"
) -> Iterator[Disk]:
    """The disks that are left by a process killed at its first, second, third ... effect, until it lives."""
    for n in itertools.count(1):
        disk = Disk()
        kill_at(n)
        try:
            Process(disk, *plan, mode=mode).ask()
        except Killed:
            kill_at(0)
            yield disk
        else:
            kill_at(0)
            return


TWO_TOOLS = ((call("sum", "c1"), call("note", "c2")), (call("note", "c3", "eggs"),))


def test_killed_at_any_step_the_answer_and_the_effects_are_those_of_an_unkilled_run(kill_at: Any) -> None:
    """D1, C1. A read may be under way twice, a model's reply may be lost on the way; never more than that."""
    kill_at(0)
    whole = Disk()
    expected = Process(whole, *TWO_TOOLS).ask()
    runs = 0
    for disk in killed_runs(kill_at, *TWO_TOOLS):
        runs += 1
        process = Process(disk, *TWO_TOOLS)
        report = process.finish()
        assert (report.status, report.text) == ("ok", expected.text)
        assert disk.notes == ["milk", "eggs"]
        assert disk.models_asked <= whole.models_asked + 1
        assert len(disk.ran) <= len(whole.ran) + 2
        assert process.session.unfinished is None
        assert process.ask("and now?").status == "ok"
    assert runs > 40


def test_killed_twice_it_still_comes_to_the_same_end(kill_at: Any) -> None:
    kill_at(0)
    expected = Process(Disk(), *TWO_TOOLS).ask()
    for at, disk in enumerate(killed_runs(kill_at, *TWO_TOOLS)):
        kill_at(3 + 7 * at % 31)
        try:
            report = Process(disk, *TWO_TOOLS).finish()
        except Killed:
            kill_at(0)
            report = Process(disk, *TWO_TOOLS).finish()
        kill_at(0)
        assert (report.text, disk.notes) == (expected.text, ["milk", "eggs"])


def test_an_effect_nobody_can_look_at_is_never_repeated_and_said_to_be_unknown(kill_at: Any) -> None:
    unknown = 0
    for disk in killed_runs(kill_at, (call("post", "c1"), call("sum", "c2"))):
        process = Process(disk, (call("post", "c1"), call("sum", "c2")))
        report = process.finish()
        assert len(disk.posts) <= 1
        statuses = {result.call.id: result.status for result in report.tool_calls}
        if statuses.get("c1") == "unknown":
            unknown += 1
            assert report.status == "degraded"
            assert "post: the outcome is unknown" in report.text
        else:
            assert disk.posts == ["milk"]
    assert unknown


def test_a_finished_step_is_not_run_again(kill_at: Any) -> None:
    plan = ((call("sum", "c1"), call("post", "c2")),)
    for disk in killed_runs(kill_at, *plan):
        rows = (
            disk.connection.execute("SELECT tool FROM calls WHERE status IS NOT NULL").fetchall()
            if tables(disk)
            else []
        )
        before = list(disk.ran)
        Process(disk, *plan).finish()
        again = disk.ran[len(before) :]
        assert not {name for (name,) in rows} & set(again)


def tables(disk: Disk) -> int:
    return len(disk.connection.execute("SELECT 1 FROM sqlite_master").fetchall())


def test_taint_and_approvals_survive(kill_at: Any) -> None:
    """What was approved before the crash is asked again only when the yes was not on record."""
    plan = ((call("page", "c1"),), (call("note", "c2"),))
    asked = set()
    for disk in killed_runs(kill_at, *plan):
        Process(disk, *plan).finish()
        asked.add(disk.humans_asked)
        assert disk.notes == ["milk"]
        assert 1 <= disk.humans_asked <= 2
    assert asked == {1, 2}


def test_thinking_survives_to_the_byte(kill_at: Any) -> None:
    disk = next(itertools.islice(killed_runs(kill_at, (call("sum", "c1"),)), 25, None))
    process = Process(disk, (call("sum", "c1"),))
    process.finish()
    thoughts = [
        block
        for message in process.session.conversation.messages
        for block in message.blocks
        if isinstance(block, Thinking)
    ]
    assert thoughts == [THOUGHT]


def test_a_question_that_ends_the_program_three_times_is_given_up(kill_at: Any) -> None:
    """D4. What it wrote stays known, and the next question works."""
    disk, plan = Disk(), ((call("post", "c1"),), (call("sum", "c2"),))

    def doomed(process: Process) -> None:
        def model(effect: AskModel, branch: Any) -> Flow[Reply]:
            if any(message.role == "assistant" for message in effect.request.messages):
                raise Killed
            return (yield from process._model(effect, branch))

        process.door.simulations[AskModel] = model

    for crash in range(CRASHES_MAX):
        process = Process(disk, *plan)
        doomed(process)
        if crash:
            assert process.open().crashes == crash
        with pytest.raises(Killed):
            process.resume() if crash else process.ask("poison")
    process = Process(disk, *plan)
    unfinished = process.open()
    assert (unfinished.crashes, unfinished.is_poison, unfinished.question) == (3, True, "poison")
    report = process.resume()
    assert report.status == "failed"
    assert report.error is not None
    assert report.error.type == "PoisonTurn"
    assert process.heard.of(TurnPoisoned) == [TurnPoisoned("poison", 3)]
    assert "post done" in process.session.conversation.messages[-1].blocks[0].to_wire()["text"]
    assert disk.posts == ["milk"]
    assert Process(disk).open() is None


def test_a_question_that_held_a_secret_is_not_asked_again_without_it() -> None:
    """A model that reads `[secret]` in its place would save a note that nobody asked for."""
    question = "note that the key is sk-ant-abcdefghijkl"
    disk = Disk()
    process = Process(disk, (call("note", "c1"),))
    process.door.simulations[AskModel] = dying
    with pytest.raises(Killed):
        process.ask(question)
    process = Process(disk, (call("note", "c1"),))
    assert process.open().question == "note that the key is [secret]"
    report = process.resume()
    assert (report.status, disk.notes, disk.models_asked) == ("failed", [], 0)
    assert report.error is not None
    assert "held a secret" in report.error.message
    assert process.session.unfinished is None
    assert process.ask(question).status == "ok"
    assert disk.notes == ["milk"]


def dying(effect: AskModel, branch: Any) -> Flow[Reply]:
    raise Killed
    yield


def test_a_new_question_gives_up_what_was_cut_off_and_knows_what_it_wrote(kill_at: Any) -> None:
    for disk in killed_runs(kill_at, (call("post", "c1"),), (call("sum", "c2"),)):
        process = Process(disk)
        try:
            unfinished = process.open()
        except ConfigurationError:
            continue
        process.ask("something else")
        words = " ".join(
            block.text
            for message in process.session.conversation.messages
            for block in message.blocks
            if isinstance(block, Text)
        )
        assert not disk.posts or "post" in words.lower()
        assert not unfinished or Process(disk).open() is None


def test_resuming_says_so(kill_at: Any) -> None:
    disk = next(itertools.islice(killed_runs(kill_at, *TWO_TOOLS), 30, None))
    process = Process(disk, *TWO_TOOLS)
    process.finish()
    assert [event.question for event in process.heard.of(TurnResumed)] == ["do it"]


def test_a_note_in_doubt_is_looked_for(kill_at: Any) -> None:
    found = set()
    for disk in killed_runs(kill_at, (call("note", "c1"),)):
        process = Process(disk, (call("note", "c1"),))
        process.finish()
        found |= {event.found for event in process.heard.of(EffectReconciled)}
    assert found == {"it is there", "it is not there (yet)"}


# --- tasks -----------------------------------------------------------------------------------------------


def test_the_same_task_asked_again_gets_its_stored_answer_without_a_model() -> None:
    disk = Disk()
    first = Process(disk, (call("post", "c1"),)).ask("do it", "task")
    asked = disk.models_asked
    again = Process(disk, (call("post", "c1"),)).ask("do it", "task")
    assert (again.text, again.tool_calls, again.usage) == (first.text, first.tool_calls, first.usage)
    assert (disk.models_asked, disk.posts) == (asked, ["milk"])


def test_the_same_task_with_another_question_is_a_conflict() -> None:
    disk = Disk()
    Process(disk).ask("do it", "task")
    report = Process(disk).ask("do something else", "task")
    assert report.error is not None
    assert (report.status, report.error.type) == ("failed", "Conflict")
    assert disk.models_asked == 1


def test_a_task_that_was_cut_off_anywhere_is_done_once(kill_at: Any) -> None:
    plan = ((call("sum", "c1"), call("note", "c2")),)
    kill_at(0)
    expected = Process(Disk(), *plan).ask("do it", "task")
    for n in itertools.count(1):
        disk = Disk()
        kill_at(n)
        try:
            Process(disk, *plan).ask("do it", "task")
        except Killed:
            kill_at(0)
        else:
            break
        report = Process(disk, *plan).ask("do it", "task")
        assert (report.text, disk.notes) == (expected.text, ["milk"])
        asked = disk.models_asked
        assert Process(disk, *plan).ask("do it", "task").text == expected.text
        assert disk.models_asked == asked
    assert n > 30


def test_a_stop_on_the_way_to_a_task_leaves_its_session_as_it_was(kill_at: Any) -> None:
    for n in itertools.count(1):
        disk = Disk()
        first = Process(disk)
        first.ask("hello")
        first.door.simulations[AskModel] = broken_model
        assert first.ask("do it", "task").status == "failed"
        kept = first.session.conversation.messages
        assert len(kept) == 2
        process = Process(disk)
        process.session.begin("do it", "ask", "t9", "task")
        kill_at(n)
        try:
            process.door.run(process.session.asking())
        except Killed:
            kill_at(0)
            process.door.run(process.session.closing())
        else:
            break
        other = Process(disk)
        other.open(first.session.id)
        assert other.session.conversation.messages[:2] == kept
    assert n > 15


def broken_model(effect: AskModel, branch: Any) -> Flow[Reply]:
    raise AgentError("down", reason="overloaded")
    yield


@pytest.mark.parametrize("task_id", [" ", "x" * 201])
def test_an_id_no_task_can_have_is_refused(task_id: str) -> None:
    with pytest.raises(ConfigurationError, match="task id"):
        Process(Disk()).ask("do it", task_id)


@pytest.mark.parametrize("task_id", ["\ud800", "a\x00b", "'; DROP TABLE tasks; --", "é" * 200])
def test_any_text_can_be_a_task_id(task_id: str) -> None:
    disk = Disk()
    Process(disk).ask("do it", task_id)
    Process(disk).ask("do it", task_id)
    assert disk.models_asked == 1


# --- a store that fails ------------------------------------------------------------------------------------


def test_a_write_that_cannot_be_recorded_does_not_run_and_the_rest_goes_on() -> None:
    disk = Disk()
    process = Process(disk, (call("sum", "c1"), call("post", "c2")))
    process.ask("hello")
    disk.connection.execute("CREATE TRIGGER full BEFORE INSERT ON calls BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    disk.posts.clear()
    report = process.ask("do it")
    assert {result.call.name: result.status for result in report.tool_calls}["post"] == "degraded"
    assert disk.posts == []
    assert "not run: it could not be recorded (disk full)" in report.text
    assert process.heard.of(StoreFailed) == [StoreFailed("what is about to run", "disk full")]


def test_a_write_whose_question_cannot_be_kept_does_not_run() -> None:
    """Else a crash would ask the model again, and the record of the call would never be found."""
    disk = Disk()
    process = Process(disk, (call("post", "c1"),))
    process.ask("hello")
    disk.posts.clear()
    disk.connection.execute("CREATE TRIGGER full BEFORE INSERT ON turns BEGIN SELECT RAISE(ABORT, 'full'); END")
    assert "not run: it could not be recorded (full)" in process.ask("do it").text
    assert disk.posts == []


def test_the_person_is_told_once_and_the_session_catches_up() -> None:
    disk = Disk()
    process = Process(disk)
    process.ask("one")
    disk.connection.execute("CREATE TRIGGER full BEFORE INSERT ON messages BEGIN SELECT RAISE(ABORT, 'full'); END")
    process.ask("two")
    assert process.ask("three").status == "ok"
    assert len(process.heard.of(StoreFailed)) == 1
    disk.connection.execute("DROP TRIGGER full")
    process.ask("four")
    other = Process(disk)
    other.open()
    assert other.session.conversation.messages == process.session.conversation.messages
    assert [Message] == list({type(message) for message in other.session.conversation.messages})


# --- the real program --------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
sys.path.insert(0, {root!r})
from config import read_settings
from wiring import BlockingAgent
left = [{count}]

def listen(stamped):
    left[0] -= type(stamped.event).__name__ == {event!r}
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

agent = BlockingAgent(read_settings({variables!r}), offline=True, seed=1, listeners=[listen])
agent.ask("what is 2+3, and save a note: buy milk")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize(("event", "count"), [("ToolCallStarted", 2), ("ToolCallEnded", 1), ("RoundStarted", 2)])
def test_kill_9_in_the_middle_of_a_turn_of_two_tools(tmp_path: Path, event: str, count: int) -> None:
    variables = {"NOTES_DIR": str(tmp_path / "notes"), "STATE_DIR": str(tmp_path / "state")}
    script = CHILD.format(root=str(ROOT), event=event, count=count, variables=variables)
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    agent = BlockingAgent(read_settings(variables), offline=True, seed=1)
    unfinished = agent.open_session("latest")
    assert unfinished is not None
    assert unfinished.question == "what is 2+3, and save a note: buy milk"
    report = agent.resume().report
    assert (report.status, report.text[:9]) == ("ok", "2 + 3 = 5")
    assert "Saved the note" in report.text
    assert [result.status for result in report.tool_calls] == ["ok", "ok"]
    assert len(list((tmp_path / "notes").iterdir())) == 1
    assert agent.unfinished is None
    agent.close()


def test_two_processes_asking_the_same_task_do_it_once(tmp_path: Path) -> None:
    variables = {"NOTES_DIR": str(tmp_path / "notes"), "STATE_DIR": str(tmp_path / "state")}

    async def both() -> list[Any]:
        agents = [AsyncAgent(read_settings(variables), offline=True, seed=1) for _ in range(3)]
        asked = [agent.ask("save a note: buy milk", "task") for agent in agents]
        answers = await asyncio.gather(*asked)
        for agent in agents:
            await agent.aclose()
        return answers

    answers = asyncio.run(both())
    assert [answer.report.status for answer in answers] == ["ok"] * 3
    assert len({answer.report.text for answer in answers}) == 1
    assert sorted(answer.model_attempts for answer in answers) == [0, 0, 2]


@pytest.mark.usefixtures("_no_garbage")
@pytest.mark.parametrize("kind", [AsyncAgent, BlockingAgent])
def test_a_disk_that_hangs_costs_no_answer_and_no_deadline(
    tmp_path: Path, kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1: from the first use on nothing comes back; one question waits for it, briefly, and it is said once."""
    released, heard = threading.Event(), Heard()
    connect = stores.sqlite_file.connect

    def hanging(path: Path) -> Any:
        return released.wait(60.0) if path.name.startswith("sessions") else connect(path)  # traces hang elsewhere

    monkeypatch.setattr(stores.sqlite_file, "connect", hanging)
    variables = {"NOTES_DIR": str(tmp_path / "notes"), "STATE_DIR": str(tmp_path / "state"), "TOTAL_TIMEOUT": "2"}
    agent = kind(read_settings(variables), offline=True, seed=1, listeners=[heard])
    preload()

    questions = ("what is 2+3?", "save a note: milk", "what is 3+4?")
    ended_s: list[float] = []

    def comes_back(number: int) -> None:
        ended_s.append(time.monotonic())
        if number == 2:  # the disk works again
            monkeypatch.setattr(stores.sqlite_file, "connect", connect)
            released.set()
            while not agent.sessions._hanging.settled.is_set():
                time.sleep(0.001)

    async def ask() -> list[Any]:
        answers = []
        for number, question in enumerate(questions, 1):
            answers.append(await agent.ask(question))
            comes_back(number)
        await agent.aclose()
        return answers

    begun_s = time.monotonic()
    if kind is BlockingAgent:
        answers = []
        for number, question in enumerate(questions, 1):
            answers.append(agent.ask(question))
            comes_back(number)
        agent.close()
    else:
        answers = asyncio.run(ask())
    assert [answer.report.status for answer in answers] == ["ok", "ok", "ok"]
    assert ended_s[1] - begun_s < 2.25
    assert agent.sessions.off == ""
    kept = sqlite3.connect(tmp_path / "state" / "sessions.sqlite3")
    with closing(kept):
        assert kept.execute("SELECT count(*) FROM messages").fetchone()[0] >= 6, "with what was said meanwhile"
    assert [event.what for event in heard.of(StoreFailed)] == ["sessions"]
