"""Every tool call ends as one truthful result, whatever the tool does; through every door."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from deadline import Deadline
from doors.aio import AsyncDoor
from doors.virtual import VirtualDoor
from errors import AgentError, BadInput, OutcomeUnknown
from events import (
    ApprovalAnswered,
    ApprovalAsked,
    AttemptFailed,
    AttemptStarted,
    EffectReconciled,
    ToolCallEnded,
    ToolCallStarted,
)
from faults import FaultPlan, parse_fault
from flow import Flow, Gate, blocking, pause
from guard import Guards
from messages import CallResult, ToolUse
from oversight.approvals import Answer, Approvals, AskHuman
from retry import RetryPolicy
from tests.support import Doors
from tools import (
    CALLS_PER_MESSAGE_MAX,
    OUTPUT_CHARS_MAX,
    CallContext,
    Prepared,
    Tool,
    Toolbox,
    ToolOutput,
    UserTool,
    approving,
    executing_all,
    prepare,
    result_of,
    telling_the_rest,
    tool,
)

Given = Mapping[str, Any]


class Bench:
    """Some tools behind one door, with guards whose jitter is 0."""

    def __init__(self, doors: Doors, *tools: UserTool | Tool, faults: Sequence[str] = (), retries: int = 3) -> None:
        self.doors, self.heard = doors, doors.heard
        self.virtual = VirtualDoor(listeners=[doors.heard]) if doors.name == "virtual" else None
        self.now: Callable[[], float] = self.virtual.now if self.virtual else time.monotonic
        self.guards = Guards(now=self.now, draws=lambda name: float, retry=RetryPolicy(retries))
        self.plan = FaultPlan([parse_fault(spec) for spec in faults], 1)
        self.toolbox = Toolbox(one.bind(self.guards, self.plan) if isinstance(one, UserTool) else one for one in tools)

    def run(self, flow: Flow[Any]) -> Any:
        return self.virtual.run(flow) if self.virtual else self.doors.run(flow)

    def call(self, *calls: ToolUse, tool_s: float = 5.0) -> list[CallResult]:
        batch = prepare(calls, self.toolbox, tainted=False)
        results: list[CallResult] = self.run(executing_all(batch, Deadline.after(self.now(), 60.0), tool_s, self.now))
        return results

    def ask(self, tool_name: str, tool_s: float = 5.0, **given: Any) -> CallResult:
        return self.call(ToolUse("c", tool_name, given), tool_s=tool_s)[0]


@pytest.fixture(params=["blocking", "asyncio"])
def real(request: pytest.FixtureRequest) -> Doors:
    return Doors(request.param)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets hanging threads go when the test is over."""
    event = threading.Event()
    yield event
    event.set()


# --- plain functions as tools ----------------------------------------------------------------------------


@tool()
def add(a: int, b: int = 1) -> str:
    """Add two numbers."""
    return str(a + b)


@tool()
async def greet(name: str) -> str:
    """Greet somebody."""
    return f"Hello, {name}!"


def test_a_plain_function_is_a_tool_and_stays_a_function(doors: Doors) -> None:
    bench = Bench(doors, add, greet)
    assert bench.ask("add", a=2, b=3).output == "5"
    assert bench.ask("add", a=2).output == "3"
    assert bench.ask("greet", name="Ada").output == "Hello, Ada!"
    assert add(2, b=5) == "7"
    spec = bench.toolbox.specs[0]
    assert (spec.name, spec.description) == ("add", "Add two numbers.")
    assert spec.input_schema == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }


def plain(**hints: Any) -> Callable[..., Any]:
    def made(x: Any) -> str:
        return ""

    made.__doc__, made.__annotations__ = "Does.", hints
    return made


def without_docstring(x: int) -> str:
    return ""


def with_stars(*many: int) -> str:
    """Does."""
    return ""


def with_unknown_hint(x: NotThere) -> str:  # type: ignore[name-defined]  # noqa: F821
    """Does."""
    return ""


def a_generator() -> Iterator[str]:
    """Does."""
    yield ""


async def an_async_generator() -> Any:
    """Does."""
    yield ""


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (without_docstring, "without_docstring needs a docstring"),
        (with_stars, "'many' must be an ordinary one"),
        (with_unknown_hint, "with_unknown_hint: a type hint cannot be read"),
        (plain(), "'x' needs a type hint"),
        (plain(x=set), "made.x: <class 'set'> has no JSON form"),
        (plain(x=Any), r"made.x: typing.Any has no JSON form"),
        (plain(x=int | str), r"made.x: int \| str has no JSON form"),
        (a_generator, "a_generator is a generator"),
        (an_async_generator, "an_async_generator is a generator"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused_and_told_why(function: Callable[..., Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tool()(function)


def test_names_and_schemas_the_api_would_refuse_are_refused_when_the_tool_is_registered() -> None:
    def run(context: CallContext, given: Given) -> Flow[ToolOutput]:
        return ToolOutput("")
        yield

    for name in ("größe", "", "a b", "x" * 65):
        with pytest.raises(ValueError, match="is no name for a tool"):
            Toolbox([Tool(name, "d", {"type": "object"}, run)])
    with pytest.raises(ValueError, match="type object"):
        Toolbox([Tool("x", "d", {"type": "string"}, run)])
    with pytest.raises(ValueError, match="two tools are named 'x'"):
        Toolbox([Tool("x", "d", {"type": "object"}, run)] * 2)


# --- what tools return -----------------------------------------------------------------------------------


def returning(value: Any, *, is_async: bool = False, **kind: bool) -> UserTool:
    def give() -> Any:
        """Give."""
        return value

    async def give_async() -> Any:
        """Give."""
        return value

    give_async.__name__ = "give"
    return tool(**kind)(give_async if is_async else give)


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
@pytest.mark.parametrize(
    ("value", "output"),
    [
        ("text", "text"),
        ("", ""),
        (None, "(done; it returned nothing)"),
        (b"caf\xc3\xa9 \xff", "café �"),
        ({"a": [1, "ü", None]}, '{"a": [1, "ü", null]}'),
        (3.5, "3.5"),
        (True, "true"),
        ("a\ud800b", "a�b"),
        ({"a": "\udfff"}, '{"a": "�"}'),
        (ToolOutput("own", source="me", untrusted=True), "own"),
    ],
    ids=repr,
)
def test_what_a_tool_returns_becomes_text_that_can_be_sent(
    doors: Doors, value: Any, output: str, is_async: bool
) -> None:
    result = Bench(doors, returning(value, is_async=is_async)).ask("give")
    assert (result.status, result.output, result.attempts) == ("ok", output, 1)
    result.output.encode()


@pytest.mark.parametrize("value", [math.nan, [math.inf], {1, 2}, object(), {"a": {3}}, {(1, 2): 3}], ids=repr)
def test_what_has_no_json_form_is_a_failure_of_the_tool_and_counts_against_it(doors: Doors, value: Any) -> None:
    bench = Bench(doors, returning(value))
    result = bench.ask("give")
    assert result.status == "degraded"
    assert f"it returned a {type(value).__name__}, which is not JSON" in result.output
    assert [event.outcome for event in bench.heard.of(AttemptFailed)] == ["failure"]


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_a_tool_that_wrote_has_written_whatever_it_returns(doors: Doors, is_async: bool) -> None:
    for value in ("saved", None, {1, 2}, ToolOutput("saved")):
        result = Bench(Doors(doors.name), returning(value, is_async=is_async, writes=True)).ask("give")
        assert (result.status, result.wrote) == ("ok", True)
    declined = Bench(doors, returning(ToolOutput("no space", degraded=True), writes=True)).ask("give")
    assert (declined.status, declined.wrote) == ("degraded", False)


def test_a_hundred_megabytes_are_cut_and_the_cut_is_told(doors: Doors) -> None:
    for huge in ("é" * 50_000_000, b"x" * 100_000_000):
        result = Bench(Doors(doors.name), returning(huge)).ask("give", tool_s=30)
        assert result.status == "ok"
        assert result.output.endswith(f"[cut here: {len(huge) - OUTPUT_CHARS_MAX} more characters]")
        assert len(result.output) < OUTPUT_CHARS_MAX + 60


def test_a_tool_that_says_it_is_degraded_is_believed_with_its_own_notice(doors: Doors) -> None:
    result = Bench(doors, returning(ToolOutput("old", "cache", degraded=True, notice="5 min old"))).ask("give")
    assert (result.status, result.source, result.notice, result.fatal) == ("degraded", "cache", "5 min old", False)


# --- what tools raise ------------------------------------------------------------------------------------


def raising(error: BaseException, *, is_async: bool = False, **kind: bool) -> UserTool:
    def boom() -> str:
        """Boom."""
        raise error

    async def boom_async() -> str:
        """Boom."""
        raise error

    boom_async.__name__ = "boom"
    return tool(**kind)(boom_async if is_async else boom)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


BUGS: list[BaseException] = [
    RuntimeError("broken"),
    KeyError("k"),
    TypeError("t"),
    ZeroDivisionError("z"),
    RecursionError("deep"),
    MemoryError(),
    SystemExit(3),
    StopIteration("early"),
    StopAsyncIteration(),
    AssertionError(),
    Mute(),
    ExceptionGroup("many", [ValueError("a")]),
]


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
def test_a_bug_in_a_tool_is_a_failure_of_it_counted_once_and_not_retried(
    doors: Doors, error: BaseException, is_async: bool
) -> None:
    bench = Bench(doors, raising(error, is_async=is_async))
    result = bench.ask("boom")
    assert (result.status, result.attempts, result.fatal) == ("degraded", 1, False)
    # What leaves a generator or a coroutine as StopIteration is turned into a RuntimeError by Python itself.
    assert type(error).__name__ in result.output or "StopIteration" in result.output
    assert [event.outcome for event in bench.heard.of(AttemptFailed)] == ["failure"]
    critical = Bench(Doors(doors.name), raising(error, is_async=is_async, critical=True)).ask("boom")
    assert (critical.status, critical.fatal) == ("failed", True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
def test_nothing_a_tool_raises_ends_the_program_or_passes_for_a_cancel(real: Doors, error: BaseException) -> None:
    assert Bench(real, raising(error)).ask("boom").status == "degraded"
    if not isinstance(error, GeneratorExit):  # Python itself gives that one a meaning inside coroutines
        assert Bench(Doors(real.name), raising(error, is_async=True)).ask("boom").status == "degraded"


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
@pytest.mark.parametrize("error", [ValueError("sides must be even"), BadInput("sides must be even")])
def test_a_value_error_is_about_the_input_and_blames_nobody(doors: Doors, error: Exception, is_async: bool) -> None:
    bench = Bench(doors, raising(error, is_async=is_async, critical=True))
    result = bench.ask("boom")
    assert (result.status, result.output, result.fatal) == ("invalid", "sides must be even", False)
    assert [event.outcome for event in bench.heard.of(AttemptFailed)] == ["neutral"]


def test_what_may_pass_by_itself_is_retried_unless_the_tool_writes(doors: Doors) -> None:
    left = [ConnectionResetError("reset"), TimeoutError("slow")]

    def flaky() -> str:
        """Flaky."""
        if left:
            raise left.pop()
        return "there"

    result = Bench(doors, tool()(flaky)).ask("flaky")
    assert (result.status, result.output, result.attempts) == ("ok", "there", 3)
    left.append(ConnectionResetError("reset"))
    writing = Bench(Doors(doors.name), tool(writes=True)(flaky)).ask("flaky")
    assert (writing.status, writing.attempts, left) == ("degraded", 1, [])


def test_an_error_that_goes_on_for_pages_is_told_in_one_line(doors: Doors) -> None:
    result = Bench(doors, raising(RuntimeError("x\n\x1b[2J" * 1_000_000))).ask("boom")
    assert len(result.output) < 600
    assert "\x1b" not in result.output
    assert "\n" not in result.output


def test_a_tool_written_as_a_flow_that_breaks_is_contained_too(doors: Doors) -> None:
    def run(context: CallContext, given: Given) -> Flow[ToolOutput]:
        yield from pause(0)
        raise LookupError("mine")

    def stumbling(given: Given) -> Flow[bool]:
        yield from pause(0)
        raise OSError("cannot look")

    def doubtful(context: CallContext, given: Given) -> Flow[ToolOutput]:
        yield from pause(0)
        raise OutcomeUnknown("no word")

    schema = {"type": "object"}
    bench = Bench(doors, Tool("a", "d", schema, run), Tool("b", "d", schema, doubtful, writes=True, look=stumbling))
    assert bench.ask("a").status == "degraded"
    assert bench.ask("b").status == "unknown"
    assert "could not look: cannot look" in bench.heard.of(EffectReconciled)[0].found


# --- prepare ---------------------------------------------------------------------------------------------


def test_calls_that_cannot_run_say_why_and_the_others_run_in_the_order_asked(doors: Doors) -> None:
    bench = Bench(doors, add)
    results = bench.call(
        ToolUse("1", "add", {"a": 1}),
        ToolUse("2", "nope\x1b", {}),
        ToolUse("3", "add", {}, raw='{"a": NaN' + "9" * 1000, problem="NaN is no JSON number"),
        ToolUse("4", "add", {"a": "1"}),
        ToolUse("5", "add", {"a": 1, "c": 2}),
        ToolUse("6", "add", {"a": 5}),
    )
    assert [result.call.id for result in results] == ["1", "2", "3", "4", "5", "6"]
    assert [result.status for result in results] == ["ok", "invalid", "invalid", "invalid", "invalid", "ok"]
    assert [result.attempts for result in results] == [1, 0, 0, 0, 0, 1]
    assert results[1].output == "There is no tool named 'nope␛'. The tools are: add."
    assert "NaN is no JSON number" in results[2].output
    assert len(results[2].output) < 300
    assert results[3].output == "input.a must be integer, not string"
    assert results[4].output == "input has an unknown field 'c'; known are: a, b"
    started = [event.call.id for event in bench.heard.of(ToolCallStarted)]
    ended = [event.result.call.id for event in bench.heard.of(ToolCallEnded)]
    assert sorted(started) == sorted(ended) == ["1", "2", "3", "4", "5", "6"]


def test_too_many_calls_in_one_message_and_in_one_question_are_answered_unrun() -> None:
    toolbox = Bench(Doors("virtual"), add).toolbox
    calls = [ToolUse(str(n), "add", {"a": n}) for n in range(CALLS_PER_MESSAGE_MAX + 2)]
    batch = prepare(calls, toolbox, tainted=False)
    assert [one.result and one.result.status for one in batch] == [None] * CALLS_PER_MESSAGE_MAX + ["skipped"] * 2
    last = prepare(calls[:3], toolbox, tainted=False, calls_left=1)
    assert [one.result and one.result.status for one in last] == [None, "skipped", "skipped"]
    assert last[1].result is not None
    assert "last call" in last[1].result.output


def test_the_same_write_twice_in_one_message_is_done_once_and_the_same_question_is_asked_twice(doors: Doors) -> None:
    done: list[str] = []

    def put(text: str) -> str:
        """Put."""
        done.append(text)
        return "put"

    def roll(text: str) -> str:
        """Roll."""
        done.append(text)
        return "4"

    bench = Bench(doors, tool(writes=True)(put), tool()(roll))
    results = bench.call(*(ToolUse(str(n), "put", {"text": text}) for n, text in enumerate("aba")))
    assert [result.status for result in results] == ["ok", "ok", "skipped"]
    assert sorted(done) == ["a", "b"]
    bench.call(*(ToolUse(str(n), "roll", {"text": "r"}) for n in range(2)))
    assert done[2:] == ["r", "r"]


# --- approvals -------------------------------------------------------------------------------------------


class Person:
    """Answers approval requests, and may do something to the request first."""

    def __init__(self, *answers: Answer, first: Callable[[AskHuman], object] = lambda effect: None) -> None:
        self.answers, self.first, self.asked = list(answers), first, 0

    def __call__(self, effect: AskHuman) -> Answer:
        self.asked += 1
        self.first(effect)
        return self.answers.pop(0)


def decide(doors: Doors, person: Person, *calls: ToolUse, tainted: bool = True) -> tuple[list[str], list[str], bool]:
    """Prepare, approve and run calls of a writing tool `put`: statuses, what was put, and whether nobody was there."""
    done: list[str] = []

    def put(text: str) -> str:
        """Put."""
        done.append(text)
        return "put"

    guards = Guards(now=time.monotonic, draws=lambda name: float)
    toolbox = Toolbox([tool(writes=True)(put).bind(guards, FaultPlan()), add.bind(guards, FaultPlan())])
    doors.world[AskHuman] = person
    deadline = Deadline.after(time.monotonic(), 60)

    def both() -> Flow[tuple[list[CallResult], bool]]:
        batch = prepare(calls, toolbox, tainted=tainted)
        nobody = yield from approving(batch, Approvals("ask"), deadline, time.monotonic)
        return (yield from executing_all(batch, deadline, 5, time.monotonic)), nobody

    results, nobody = doors.run(both())
    return [result.status for result in results], done, nobody


def test_only_a_doubtful_write_asks_and_only_a_yes_runs_it(doors: Doors) -> None:
    calls = [ToolUse("1", "put", {"text": "a"}), ToolUse("2", "add", {"a": 1}), ToolUse("3", "put", {"text": "b"})]
    person = Person(Answer.YES, Answer.NO)
    assert decide(doors, person, *calls) == (["ok", "ok", "denied"], ["a"], False)
    assert person.asked == 2
    clean = Person()
    assert decide(Doors(doors.name), clean, *calls, tainted=False)[0] == ["ok", "ok", "ok"]
    assert clean.asked == 0


def test_with_nobody_there_the_write_is_refused_and_that_is_told(doors: Doors) -> None:
    assert decide(doors, Person(Answer.NOBODY), ToolUse("1", "put", {"text": "a"})) == (["denied"], [], True)


def test_a_call_with_bad_input_never_asks_a_person(doors: Doors) -> None:
    person = Person()
    assert decide(doors, person, ToolUse("1", "put", {"text": 5}))[0] == ["invalid"]
    assert person.asked == 0


def test_what_runs_has_the_digest_that_was_approved(doors: Doors) -> None:
    given = {"text": "harmless"}

    def swap(effect: AskHuman) -> None:
        given["text"] = "evil"

    statuses, done, _ = decide(doors, Person(Answer.YES, first=swap), ToolUse("1", "put", given))
    assert (statuses, done) == (["denied"], [])


def test_the_events_of_an_approval_carry_the_digest_of_exactly_this_call(doors: Doors) -> None:
    decide(doors, Person(Answer.YES), ToolUse("1", "put", {"text": "a"}))
    asked, answered = doors.heard.of(ApprovalAsked)[0], doors.heard.of(ApprovalAnswered)[0]
    assert asked.digest == answered.digest
    assert (answered.granted, answered.by) == (True, "person")


# --- faults on purpose -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_injected_faults_strike_a_users_tool_and_attempts_are_counted(doors: Doors, is_async: bool) -> None:
    bench = Bench(doors, returning("there", is_async=is_async), faults=["give:refused*2"])
    result = bench.ask("give")
    assert (result.status, result.output, result.attempts) == ("ok", "there", 3)
    assert len(bench.heard.of(AttemptStarted)) == 3


def test_an_injected_error_fails_at_once_and_a_breaker_that_opened_counts_no_attempt(doors: Doors) -> None:
    bench = Bench(doors, returning("there"), faults=["give:error"])
    assert [bench.ask("give").attempts for _ in range(5)] == [1] * 5
    rejected = bench.ask("give")
    assert (rejected.status, rejected.attempts) == ("degraded", 0)
    assert "give is not asked" in rejected.output


def test_an_injected_hang_of_a_writing_tool_is_a_failure_since_it_never_began() -> None:
    bench = Bench(Doors("virtual"), returning("there", writes=True), faults=["give:hang"])
    result = bench.ask("give")
    assert (result.status, result.wrote, result.duration_ms) == ("degraded", False, 5000)


# --- time: what only real doors can show -----------------------------------------------------------------


def test_a_plain_tool_that_hangs_ends_by_its_timeout_retries_included(real: Doors, release: threading.Event) -> None:
    def hang() -> str:
        """Hang."""
        release.wait(20)
        return "late"

    bench = Bench(real, tool()(hang))
    started_s = time.monotonic()
    result = bench.ask("hang", tool_s=0.5)
    assert time.monotonic() - started_s < 0.75
    assert (result.status, result.attempts) == ("degraded", 2)
    assert "no answer within" in result.output


def test_an_async_tool_that_hangs_is_cancelled(real: Doors) -> None:
    ended = threading.Event()

    async def hang() -> str:
        """Hang."""
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return "never"

    assert Bench(real, tool()(hang), retries=0).ask("hang", tool_s=0.3).status == "degraded"
    assert ended.wait(10)


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_a_writing_tool_that_overruns_its_time_is_unknown_and_never_repeated(
    real: Doors, is_async: bool, release: threading.Event
) -> None:
    began: list[str] = []

    def put() -> str:
        """Put."""
        began.append("plain")
        release.wait(20)
        return "put"

    async def put_async() -> str:
        """Put."""
        began.append("async")
        await asyncio.Event().wait()
        return "put"

    put_async.__name__ = "put"
    bench = Bench(real, tool(writes=True, critical=True)(put_async if is_async else put))
    result = bench.ask("put", tool_s=0.3)
    assert (result.status, result.fatal, result.attempts, len(began)) == ("unknown", True, 1, 1)
    assert "may or may not" in result.output


@pytest.mark.parametrize(("found", "status"), [(True, "ok"), (False, "unknown")])
def test_after_an_unknown_outcome_a_look_tells_what_is_there(
    real: Doors, found: bool, status: str, release: threading.Event
) -> None:
    def run(context: CallContext, given: Given) -> Flow[ToolOutput]:
        def write(gate: Gate) -> ToolOutput:
            gate.claim()
            release.wait(20)
            return ToolOutput("written", wrote=True)

        return (yield from blocking(write, context.fresh_gate()))

    def look(given: Given) -> Flow[bool]:
        return (yield from blocking(lambda gate: found))

    bench = Bench(real, Tool("put", "d", {"type": "object"}, run, critical=True, writes=True, look=look))
    result = bench.ask("put", tool_s=0.1)
    assert (result.status, result.wrote, result.fatal) == (status, found, not found)
    assert len(bench.heard.of(EffectReconciled)) == 1


def test_one_hanging_tool_does_not_take_its_siblings_with_it(real: Doors, release: threading.Event) -> None:
    def hang() -> str:
        """Hang."""
        release.wait(20)
        return "late"

    bench = Bench(real, add, tool()(hang), retries=0)
    results = bench.call(
        ToolUse("1", "add", {"a": 1}), ToolUse("2", "hang", {}), ToolUse("3", "add", {"a": 2}), tool_s=0.3
    )
    assert [(result.call.id, result.status) for result in results] == [("1", "ok"), ("2", "degraded"), ("3", "ok")]


def stopped(*tools: UserTool, when: threading.Event) -> tuple[Bench, list[Prepared]]:
    """Run one call of each tool on asyncio, cancel it when `when` is set, then tell the rest."""
    bench = Bench(Doors("asyncio"), *tools)
    batch = prepare([ToolUse(one.name, one.name, {}) for one in tools], bench.toolbox, tainted=False)

    async def run() -> None:
        door = AsyncDoor(listeners=[bench.heard])
        flow = executing_all(batch, Deadline.after(bench.now(), 60), 30, bench.now)
        task = asyncio.create_task(door.run(flow))
        while not when.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await door.run(telling_the_rest(batch))

    asyncio.run(run())
    return bench, batch


@pytest.mark.parametrize("writes", [False, True])
def test_a_coroutine_cut_by_a_stop_is_unknown_if_it_writes(writes: bool) -> None:
    began = threading.Event()

    async def put() -> str:
        """Put."""
        began.set()
        await asyncio.Event().wait()
        return "put"

    bench, batch = stopped(tool(writes=writes)(put), when=began)
    assert result_of(batch[0]).status == ("unknown" if writes else "skipped")
    assert [event.result for event in bench.heard.of(ToolCallEnded)] == [batch[0].result]


def test_a_stop_tells_of_each_call_exactly_once(release: threading.Event) -> None:
    began = threading.Event()

    def quick() -> str:
        """Quick."""
        return "done"

    def slow() -> str:
        """Slow."""
        began.set()
        release.wait(20)
        return "late"

    bench, batch = stopped(tool()(quick), tool()(slow), when=began)
    assert [result_of(one).status for one in batch] == ["ok", "skipped"]
    ended = [event.result.call.id for event in bench.heard.of(ToolCallEnded)]
    started = [event.call.id for event in bench.heard.of(ToolCallStarted)]
    assert sorted(ended) == sorted(started) == ["quick", "slow"]


def test_a_call_that_never_began_is_told_as_skipped() -> None:
    doors = Doors("virtual")
    batch = prepare([ToolUse("1", "add", {"a": 1})], Bench(doors, add).toolbox, tainted=False)
    doors.run(telling_the_rest(batch))
    assert [event.result.status for event in doors.heard.of(ToolCallEnded)] == ["skipped"]
    assert len(doors.heard.of(ToolCallStarted)) == 1


def test_an_error_from_a_critical_tool_names_its_cause_and_an_optional_one_leaves_a_notice(doors: Doors) -> None:
    error = AgentError("the disk is full", reason="disk")
    critical = Bench(doors, raising(error, critical=True)).ask("boom")
    assert (critical.status, critical.fatal) == ("failed", True)
    assert "the disk is full" in critical.output
    optional = Bench(Doors(doors.name), raising(error)).ask("boom")
    assert (optional.status, optional.notice) == ("degraded", "boom is missing: the disk is full")


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "ok"), (AgentError("no space"), "skipped"), (OutcomeUnknown("not confirmed"), "unknown")],
)
def test_a_stop_right_after_the_act_tells_what_the_act_said(error: AgentError | None, status: str) -> None:
    one = Prepared(ToolUse("a", "put", {}), None, tainted=False)
    one.context = CallContext("a", Deadline.after(0, 10))
    gate = one.context.fresh_gate()
    assert gate.claim()
    gate.settle(error=error)
    assert result_of(one).status == status
