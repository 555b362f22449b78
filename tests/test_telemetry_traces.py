"""The tracer puts every event where it belongs, keeps branches apart, and hides what must be hidden."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import events as e
from bulkhead import Bulkhead
from circuit_breaker import BreakerPolicy, CircuitBreaker
from deadline import NEVER
from doors.virtual import VirtualDoor
from errors import AgentError
from events import Event, Stamped
from flow import Flow, emit, pause, within
from guard import Guard
from messages import CallResult, ToolUse, Usage
from retry import RetryPolicy, RetryQuota
from safe_text import MASK
from telemetry.spans import ENTRIES_MAX, TEXT_CHARS_MAX, Span, Trace
from telemetry.traces import TRACES_KEPT_MAX, Tracer

KEY = "sk-ant-api03-abcdefghijklmnop"
MODEL = "model.anthropic.claude-sonnet-5-5"


class Story:
    """Tells a tracer events, a millisecond apart, and keeps what reaches its sink."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.tracer = Tracer(lambda trace: self.told.append(trace.to_json()))
        self._sequence = 0

    def tell(self, event: Event, **scope: str | int) -> None:
        self._sequence += 1
        stamped = Stamped(event, {"turn": "t1", "session": "s1", "user": "ada", **scope}, self._sequence,
                          100 + self._sequence / 1000, 5000.0 + self._sequence)  # fmt: skip
        self.tracer(stamped)

    def start(self, question: str = "What is 15 * 23?", turn: str = "t1") -> None:
        self.tell(e.TurnStarted(question, 120.0), turn=turn)

    def attempt(self, dependency: str, number: int, *events: Event, **scope: str | int) -> None:
        self.tell(e.AttemptStarted(dependency, number, 4), dependency=dependency, attempt=number, **scope)
        for event in events:
            self.tell(event, dependency=dependency, attempt=number, **scope)

    def end(self, status: str = "ok", **more: Any) -> dict[str, Any]:
        self.tell(e.TurnEnded(status, "345", "practice", Usage(12, 3, 0, 0), 0.0012, **more))
        return self.told[-1]


def failed(dependency: str, number: int, reason: str = "overloaded", message: str = "overloaded (529)") -> Event:
    return e.AttemptFailed(dependency, number, reason, "transient", "failure", message, 529, "req_1")


def spans(trace: dict[str, Any]) -> Iterator[dict[str, Any]]:
    waiting = [trace["root"]]
    while waiting:
        span = waiting.pop(0)
        yield span
        waiting[:0] = span["children"]


def shape(span: dict[str, Any]) -> Any:
    return (span["name"], span["status"], [shape(child) for child in span["children"]])


def names(span: dict[str, Any]) -> list[str]:
    return [event["name"] for event in span["events"]]


def test_a_question_becomes_a_tree_of_rounds_attempts_and_tool_calls() -> None:
    story = Story()
    story.start()
    story.tell(e.RoundStarted(1))
    story.attempt(MODEL, 1, failed(MODEL, 1))
    story.tell(e.RetryScheduled(MODEL, 1, 0.8, "overloaded", "overloaded (529)"))
    story.attempt(MODEL, 2, e.AttemptSucceeded(MODEL, 2))
    call = ToolUse("c1", "calculator", {"expression": "15 * 23"})
    story.tell(e.ToolCallStarted(call), call="c1", tool="calculator")
    story.tell(e.ToolCallEnded(CallResult(call, "ok", "345", duration_ms=3)), call="c1", tool="calculator")
    story.tell(e.RoundStarted(2))
    story.attempt(MODEL, 1, e.AttemptSucceeded(MODEL, 1))
    trace = story.end()

    model = "chat claude-sonnet-5-5"
    assert shape(trace["root"]) == (
        "invoke_agent unflappable",
        "ok",
        [
            (
                "round 1",
                "ok",
                [(model, "overloaded", []), (model, "ok", []), ("execute_tool calculator", "ok", [])],
            ),
            ("round 2", "ok", [(model, "ok", [])]),
        ],
    )
    assert (trace["status"], trace["model_attempts"], trace["tool_calls"]) == ("ok", 3, 1)
    assert names(trace["root"]["children"][0]["children"][0]) == ["retry_scheduled"]


def test_attributes_use_the_words_of_opentelemetry() -> None:
    story = Story()
    story.start()
    story.tell(e.RoundStarted(1))
    answered = e.ModelAnswered("google:gemini-3.6-flash", "gemini-3.6-flash-001", "end_turn",
                               Usage(10, 5, 100, 7), 0.5, 0.25)  # fmt: skip
    name = "model.google.gemini-3.6-flash"
    story.attempt(name, 1, answered, e.AttemptSucceeded(name, 1))
    attributes = next(span for span in spans(story.end()) if span["kind"] == "model_attempt")["attributes"]
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.provider.name"] == "gcp.gemini"
    assert attributes["gen_ai.request.model"] == "gemini-3.6-flash"
    assert attributes["gen_ai.response.model"] == "gemini-3.6-flash-001"
    assert attributes["gen_ai.response.finish_reasons"] == ["end_turn"]
    assert attributes["gen_ai.usage.input_tokens"] == 117  # the conventions count cached tokens in
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 100
    assert attributes["unflappable.cost_usd"] == 0.5


def test_an_answer_told_after_its_attempt_ended_still_finds_it() -> None:
    story = Story()
    story.start()
    story.tell(e.RoundStarted(1))
    story.attempt(MODEL, 1, e.AttemptSucceeded(MODEL, 1))
    story.tell(e.ModelAnswered("l", "m", "end_turn", Usage(1, 2), None), link="l")
    span = next(span for span in spans(story.end()) if span["kind"] == "model_attempt")
    assert span["attributes"]["gen_ai.usage.output_tokens"] == 2


def test_unknown_usage_is_absent_and_not_zero() -> None:
    story = Story()
    story.start()
    story.tell(e.TurnEnded("failed", "", None, Usage(), None))
    assert story.told[-1]["usage"]["input_tokens"] is None
    assert story.told[-1]["cost_usd"] is None
    assert "gen_ai.usage.input_tokens" not in story.told[-1]["root"]["attributes"]


def test_times_are_relative_to_the_question_and_wall_times_stand_beside() -> None:
    story = Story()
    story.start()
    story.tell(e.RoundStarted(1))
    story.attempt(MODEL, 1, failed(MODEL, 1))
    trace = story.end()
    attempt = next(span for span in spans(trace) if span["kind"] == "model_attempt")
    assert (attempt["start_ms"], attempt["duration_ms"], attempt["start_wall_s"]) == (2.0, 1.0, 5003.0)
    assert (trace["started_wall_s"], trace["duration_ms"]) == (5001.0, 4.0)


def test_what_guards_and_faults_do_is_told_where_it_happened() -> None:
    story = Story()
    story.start()
    story.tell(e.RoundStarted(1))
    story.attempt(MODEL, 1, e.FaultInjected("model", "overloaded", ""), failed(MODEL, 1))
    story.tell(e.CircuitOpened(MODEL, 5, 60.0))
    story.tell(e.CallRejected(MODEL, "circuit_breaker", 60.0))
    story.tell(e.FellBack("a", "b", "rejected", "circuit open"))
    trace = story.end()
    (first,) = (span for span in spans(trace) if span["kind"] == "round")
    assert names(first["children"][0]) == ["fault_injected", "circuit_opened"]
    assert names(first) == ["call_rejected", "fell_back"]
    assert trace["faults"] == 1


def test_a_retry_of_the_next_round_is_not_put_under_an_attempt_of_the_last_one() -> None:
    story = Story()
    story.start()
    story.tell(e.RoundStarted(1))
    story.attempt(MODEL, 1, e.AttemptSucceeded(MODEL, 1))
    story.tell(e.RoundStarted(2))
    story.tell(e.RetryRefused(MODEL, "the quota is spent"))
    rounds = [span for span in spans(story.end()) if span["kind"] == "round"]
    assert [names(span) for span in rounds] == [[], ["retry_refused"]]


@settings(max_examples=150, deadline=None)
@given(st.permutations([branch for branch in range(3) for _ in range(6)]))
def test_tools_that_run_side_by_side_are_kept_apart(order: list[int]) -> None:
    """However their events mix, each call holds exactly its own attempts, retries and outcome."""

    def steps(branch: int) -> Iterator[tuple[Event, dict[str, str | int]]]:
        name = "search.wikipedia"  # one provider may serve several calls at once
        call = ToolUse(f"c{branch}", f"tool{branch}", {"n": branch})
        scope: dict[str, str | int] = {"call": call.id, "tool": call.name}
        within = {**scope, "dependency": name, "attempt": 1}
        yield e.ToolCallStarted(call), scope
        yield e.AttemptStarted(name, 1, 2), within
        yield e.FaultInjected(call.name, "error", str(branch)), within
        yield e.AttemptFailed(name, 1, "server_error", "transient", "failure", f"broken {branch}"), within
        yield e.RetryRefused(name, f"no {branch}"), scope
        yield e.ToolCallEnded(CallResult(call, "failed", f"out {branch}")), scope

    story = Story()
    story.start()
    story.tell(e.RoundStarted(1))
    stories = [steps(branch) for branch in range(3)]
    for branch in order:
        event, scope = next(stories[branch])
        story.tell(event, **scope)
    calls = [span for span in spans(story.end()) if span["kind"] == "tool_call"]
    assert len(calls) == 3
    for span in calls:
        branch = span["attributes"]["gen_ai.tool.call.id"][1:]
        (attempt,) = span["children"]
        assert attempt["attributes"]["unflappable.error.message"] == f"broken {branch}"
        assert [event["attributes"].get("argument", event["attributes"].get("why"))
                for event in attempt["events"]] == [branch, f"no {branch}"]  # fmt: skip
        assert (span["status"], span["attributes"]["gen_ai.tool.call.result"]) == ("failed", f"out {branch}")


def test_a_call_that_never_began_still_has_its_outcome() -> None:
    story = Story()
    story.start()
    story.tell(e.RoundStarted(1))
    call = ToolUse("c1", "save_note", {}, raw='{"content": ', problem="not JSON")
    story.tell(e.ToolCallEnded(CallResult(call, "invalid", "not JSON")))
    (span,) = (span for span in spans(story.end()) if span["kind"] == "tool_call")
    assert span["status"] == "invalid"
    assert span["attributes"]["gen_ai.tool.call.arguments"] == '{"content": '


def test_attempts_cut_off_with_their_call_are_unfinished_and_not_guessed() -> None:
    story = Story()
    story.start()
    story.tell(e.RoundStarted(1))
    call = ToolUse("c1", "save_note", {})
    story.tell(e.ToolCallStarted(call), call="c1")
    story.attempt("save_note", 1, call="c1")
    story.tell(e.ToolCallEnded(CallResult(call, "unknown", "?")), call="c1")
    found = {span["kind"]: span["status"] for span in spans(story.end())}
    assert (found["tool_call"], found["provider_attempt"]) == ("unknown", "unfinished")


def test_a_result_told_only_while_closing_a_cancelled_turn_ends_the_same_span() -> None:
    story = Story()
    story.start()
    story.tell(e.RoundStarted(1))
    call = ToolUse("c1", "save_note", {})
    story.tell(e.ToolCallStarted(call), call="c1")
    story.tell(e.TurnCancelled("nothing"))
    story.tell(e.ToolCallEnded(CallResult(call, "skipped", "stopped")), call="c1")
    trace = story.end("cancelled")
    assert [span["status"] for span in spans(trace) if span["kind"] == "tool_call"] == ["skipped"]
    assert trace["status"] == "cancelled"
    assert names(trace["root"]["children"][0]) == ["turn_cancelled"]


def test_a_result_told_twice_is_one_call_and_one_id_used_twice_is_two() -> None:
    """A cancelled turn tells the results of its open batch again; some models use an id twice."""
    story = Story()
    story.start()
    call = ToolUse("c1", "calculator", {})
    for number in (1, 2):
        story.tell(e.RoundStarted(number))
        story.tell(e.ToolCallStarted(call), call="c1")
        story.tell(e.ToolCallEnded(CallResult(call, "ok", "345")), call="c1")
    story.tell(e.ToolCallEnded(CallResult(call, "ok", "345")), call="c1")
    calls = [span for span in spans(story.end("cancelled")) if span["kind"] == "tool_call"]
    assert [(span["status"], span["duration_ms"]) for span in calls] == [("ok", 1.0), ("ok", 1.0)]


def test_what_is_learned_after_the_turn_is_added_and_told_again() -> None:
    story = Story()
    story.start()
    call = ToolUse("c1", "save_note", {})
    story.tell(e.ToolCallStarted(call), call="c1")
    story.tell(e.ToolCallEnded(CallResult(call, "unknown", "?")), call="c1")
    before = story.end()
    story.tell(e.EffectReconciled("save_note", "the note is there"), call="c1")
    after = story.told[-1]
    assert before["id"] == after["id"]
    assert [event["attributes"]["found"] for span in spans(after) for event in span["events"]] == ["the note is there"]


def test_a_running_question_is_visible_and_told_at_each_round() -> None:
    story = Story()
    story.start()
    story.tell(e.RoundStarted(1))
    story.attempt(MODEL, 1)
    assert [trace["status"] for trace in story.told] == ["running", "running"]
    (running,) = story.tracer.traces
    assert running.running
    assert running.to_json()["duration_ms"] is None
    assert story.end()["status"] == "ok"
    assert not running.running


def test_secrets_are_masked_in_every_text() -> None:
    story = Story()
    story.start(f"my key is {KEY}")
    story.tell(e.RoundStarted(1))
    story.attempt(MODEL, 1, failed(MODEL, 1, message=f"key {KEY} refused"))
    call = ToolUse("c1", "save_note", {"content": KEY, KEY: 1})
    story.tell(e.ToolCallStarted(call), call="c1")
    story.tell(e.ToolCallEnded(CallResult(call, "ok", f"saved {KEY}", source=KEY)), call="c1")
    story.tell(e.NoticeGiven(KEY))
    story.tell(e.FaultsChanged((KEY,)))
    story.tell(e.TurnEnded("failed", KEY, None, Usage(), None, (KEY,), "X", "fatal", KEY, KEY))
    told = json.dumps(story.told)
    assert KEY not in told
    assert told.count(MASK) > 10


def test_a_secret_across_the_cut_is_masked_before_the_text_is_cut() -> None:
    story = Story()
    story.start("x" * (TEXT_CHARS_MAX - 12) + " " + KEY)
    assert KEY[:9] not in json.dumps(story.end())


def test_texts_are_bounded_and_any_text_survives_as_json() -> None:
    story = Story()
    story.start("\ud800\x1b[31m\x00" + "a" * 5_000)
    question = json.loads(json.dumps(story.end()))["root"]["attributes"]["unflappable.question"]
    assert question.startswith("\ud800\x1b[31m\x00aaa")
    assert len(question) == TEXT_CHARS_MAX


def test_a_refused_request_leaves_its_shape_and_not_its_text() -> None:
    story = Story()
    story.start("the question")
    story.tell(e.RoundStarted(1))
    call = ToolUse("c1", "calculator", {"expression": "private"})
    story.tell(e.ToolCallEnded(CallResult(call, "ok", "private")))
    story.tell(e.RoundStarted(2))
    story.attempt(MODEL, 1, failed(MODEL, 1, "bad_request", "messages.2: no"))
    (span,) = (span for span in spans(story.end("failed")) if span["kind"] == "model_attempt")
    assert json.loads(span["attributes"]["unflappable.request.shape"]) == {
        "round": 2,
        "question_chars": 12,
        "tool_calls": [{"tool": "calculator", "status": "ok"}],
    }


def test_a_trace_is_bounded_and_says_what_it_left_out() -> None:
    story = Story()
    story.start()
    for _ in range(ENTRIES_MAX + 50):
        story.tell(e.FaultInjected("disk", "full", ""))
    trace = story.end()
    assert len(trace["root"]["events"]) == ENTRIES_MAX - 1
    assert trace["entries_dropped"] == 51
    assert trace["faults"] == ENTRIES_MAX + 50  # faults injected = faults in traces, whatever is drawn


def test_memory_is_bounded_and_late_news_of_a_forgotten_turn_make_no_new_trace() -> None:
    story = Story()
    for number in range(TRACES_KEPT_MAX + 1):
        story.start(turn=f"turn{number}")
    assert len(story.tracer.traces) == TRACES_KEPT_MAX
    told = len(story.told)
    story.tell(e.EffectReconciled("save_note", "there"), turn="turn0")
    assert len(story.told) == told


def test_events_outside_a_turn_and_streamed_words_leave_no_trace() -> None:
    story = Story()
    story.tracer(Stamped(e.CircuitOpened(MODEL, 5, 60.0), {}, 1, 0.0, 0.0))
    assert story.tracer.traces == ()
    story.start()
    story.tell(e.TextStreamed("hello"))
    assert "hello" not in json.dumps(story.end())


def test_numbers_json_cannot_say_become_words() -> None:
    story = Story()
    story.tell(e.TurnStarted("q", float("inf")))
    assert json.dumps(story.end(), allow_nan=False)


def test_real_guards_tell_a_story_that_fits_the_tree() -> None:
    """Through a real door and a real guard: each transition stands with the attempt that caused it."""
    story = Story()
    door = VirtualDoor(listeners=[story.tracer])
    guard = Guard(
        name=MODEL,
        breaker=CircuitBreaker(MODEL, BreakerPolicy(failure_threshold=2, open_s=5.0), now=door.now),
        bulkhead=Bulkhead(MODEL, 1),
        retry=RetryPolicy(retries=1),
        quota=RetryQuota(now=door.now),
        now=door.now,
        draw=lambda: 1.0,
    )

    def trying(number: int) -> Flow[int]:
        yield from emit(e.FaultInjected("model", "server_error", ""))
        raise AgentError("server error (500)", reason="server_error")

    def failing() -> Flow[None]:
        with suppress(AgentError):
            yield from guard.guarding(trying, deadline=NEVER, attempt_s=10.0)

    def turn() -> Flow[None]:
        yield from emit(e.TurnStarted("q", 120.0))
        yield from emit(e.RoundStarted(1))
        yield from within({"round": 1}, failing())  # two attempts; the second opens the circuit
        yield from within({"round": 1}, failing())  # refused
        yield from pause(5.0)
        yield from within({"round": 1}, failing())  # a probe, which fails
        yield from emit(e.TurnEnded("failed", "", None, Usage(), None))

    door.run(turn(), {"turn": "t1"})
    trace = story.told[-1]
    (first,) = (span for span in spans(trace) if span["kind"] == "round")
    assert [(span["status"], names(span)) for span in first["children"]] == [
        ("server_error", ["fault_injected", "retry_scheduled"]),
        ("server_error", ["fault_injected", "circuit_opened"]),
        ("server_error", ["fault_injected", "circuit_opened", "retry_refused"]),
    ]
    assert names(first) == ["call_rejected", "circuit_half_opened"]
    assert trace["faults"] == 3


_DEPENDENCIES = st.sampled_from(["", "model.practice", "get_weather.open_meteo"])
_EVENTS = st.one_of(
    st.builds(e.RoundStarted, st.integers(1, 3)),
    st.builds(e.AttemptStarted, _DEPENDENCIES, st.integers(1, 3), st.just(3)),
    st.builds(e.AttemptSucceeded, _DEPENDENCIES, st.integers(1, 3)),
    st.builds(failed, _DEPENDENCIES, st.integers(1, 3)),
    st.builds(e.CircuitHalfOpened, _DEPENDENCIES),
    st.builds(e.TurnCancelled, st.just("")),
    st.builds(lambda i: e.ToolCallStarted(ToolUse(i, "t", {})), st.sampled_from("ab")),
    st.builds(lambda i: e.ToolCallEnded(CallResult(ToolUse(i, "t", {}), "ok", "")), st.sampled_from("ab")),
)
_SCOPES = st.fixed_dictionaries(
    {}, optional={"call": st.sampled_from("ab"), "round": st.integers(1, 3), "dependency": _DEPENDENCIES}
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(_EVENTS, _SCOPES), max_size=25))
def test_no_order_of_events_breaks_the_tracer_or_leaves_a_span_open(told: list[tuple[Event, Any]]) -> None:
    story = Story()
    story.start()
    for event, scope in told:
        story.tell(event, **scope)
    trace = story.end("failed")
    assert trace["status"] == "failed"
    for span in spans(trace):
        assert span["status"] != "running"
        assert span["duration_ms"] >= 0


def test_a_span_walks_itself_and_all_below_it() -> None:
    leaf = Span("leaf", "round", 0.0, 0.0, 2)
    root = Span("root", "turn", 0.0, 0.0, 1, children=[leaf])
    assert [span.name for span in root.walk()] == ["root", "leaf"]
    assert Trace("t", None, None, root).to_json()["user"] is None
