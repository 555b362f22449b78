"""History is valid at every moment: whatever models, tools, people and Ctrl-C do in whatever order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.conversation import (
    LOST_END,
    LOST_RESULT,
    LOST_START,
    Conversation,
    closing_line,
    kept_after_failure,
    repaired,
    results_message,
    sendable,
    sendable_name,
    starts_turn,
    tokens_of,
    trimmed,
    with_sendable_calls,
)
from core.journal import Checkpoint, RecordIntents
from core.report import TurnReport
from core.turn import AskModel, Rules, Turn, answering, closing
from doors.virtual import VirtualDoor
from errors import AgentError, BadInput, OutcomeUnknown
from events import ToolCallEnded, ToolCallStarted, TurnEnded
from flow import Effect, Flow, Gate, RunTools, blocking, pause
from messages import (
    Block,
    CallResult,
    Message,
    Other,
    Reply,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
    Usage,
    assistant,
    user,
)
from models.practice.validation import validate_request
from oversight.approvals import Answer, AskHuman
from safe_text import encodable
from tests.history_validator import breaches
from tests.support import Heard
from tools import CallContext, Tool, Toolbox, ToolOutput, executing_all

# --- what may happen -------------------------------------------------------------------------------------

ODD_TEXT = st.sampled_from(["", " \n", "words", "a\ud800b", "\x00\x1b[2J", "é" * 50])
TOOLS = ["page", "write", "page", "write", "good", "picky", "gone", "vital", "dubious", "slow", "save_note"]
NAMES = st.sampled_from([*TOOLS, "save note", "gööd", "", "x" * 200])
IDS = st.sampled_from(["a", "b", "c", "", "ü", "toolu_1", "x" * 300, "a_2"])
INPUTS = st.sampled_from([{}, {"x": "1"}, {"x": 5}, {"y": [1]}])  # `models/tool_input.py` lets nothing else through
THINKING = st.builds(
    lambda text: Thinking({"type": "thinking", "thinking": text, "signature": "sig"}, "m"), st.sampled_from(["", "hm"])
)
CALLS = st.builds(ToolUse, IDS, NAMES, INPUTS) | st.builds(
    lambda id, name: ToolUse(id, name, {}, raw="{", problem="cut"), IDS, NAMES
)
BLOCKS: st.SearchStrategy[Block] = st.one_of(
    ODD_TEXT.map(Text), CALLS, THINKING, st.just(Other({"type": "unheard_of", "x": 1}))
)
ASKED = st.lists(
    st.builds(ToolUse, IDS, st.sampled_from(TOOLS), st.sampled_from([{}, {"x": "1"}])), min_size=1, max_size=3
)
PAUSED = st.just(
    Reply((Text("Let me see."), Other({"type": "server_tool_use", "id": "s", "name": "w", "input": {}})), "pause_turn")
)
STOPS = st.sampled_from(
    ["end_turn", "tool_use", "tool_use", "max_tokens", "refusal", "stop_sequence", "cosmic_ray",
     "model_context_window_exceeded"]
)  # fmt: skip
USAGE = Usage(1, 1, 0, 0)
REPLIES = st.builds(
    lambda blocks, stop: Reply(tuple(blocks), stop, USAGE, link="m"), st.lists(BLOCKS, max_size=4), STOPS
)
FAILURES = st.sampled_from(["overloaded", "authentication", "too_large", "timeout"]).map(
    lambda reason: AgentError(reason, reason=reason)
)
WORK = ASKED.map(lambda calls: Reply(tuple(calls), "tool_use", USAGE, link="m"))
STEPS = st.one_of(WORK, WORK, WORK, REPLIES, REPLIES, PAUSED, FAILURES)
TURNS = st.lists(
    st.tuples(
        st.lists(STEPS, max_size=5),
        st.lists(st.sampled_from(Answer), max_size=3),
        st.none() | st.none() | st.floats(0, 8),
    ),
    min_size=1,
    max_size=4,
)


class World:
    """A conversation on the virtual clock: a model and a person with a script, and tools of every kind."""

    def __init__(self, window_tokens: int = 1_000_000) -> None:
        self.conversation = Conversation("s")
        self.heard = Heard()
        self.written: list[str] = []
        self.broken: list[str] = []
        self.window_tokens = window_tokens
        raising: Callable[[AgentError], Any] = lambda error: lambda given: self._raise(error)  # noqa: E731
        self.toolbox = Toolbox(
            [
                self.tool("good", lambda given: ToolOutput("fine \ud800")),
                self.tool("write", self._write, writes=True, critical=True),
                self.tool("page", lambda given: ToolOutput("<b>obey</b>", untrusted=True)),
                self.tool("picky", raising(BadInput("no"))),
                self.tool("gone", raising(AgentError("refused", reason="connection"))),
                self.tool("vital", raising(AgentError("broken", reason="crashed")), critical=True),
                self.tool("dubious", raising(OutcomeUnknown("?")), writes=True),
                self.tool("slow", lambda given: ToolOutput(""), s=3.0),
                self.tool("save_note", self._write, writes=True, critical=True, s=0.5),
            ]
        )

    @staticmethod
    def _raise(error: AgentError) -> ToolOutput:
        raise error

    def _write(self, given: Mapping[str, Any]) -> ToolOutput:
        self.written.append(str(given))
        return ToolOutput("Saved.", wrote=True)

    @staticmethod
    def tool(
        name: str,
        do: Callable[[Mapping[str, Any]], ToolOutput],
        *,
        writes: bool = False,
        critical: bool = False,
        s: float = 0.0,
    ) -> Tool:
        def run(context: CallContext, given: Mapping[str, Any]) -> Flow[ToolOutput]:
            context.tried()
            yield from pause(s)

            def work(gate: Gate) -> ToolOutput:
                if writes:
                    assert gate.claim()
                return do(given)

            output = yield from blocking(work, context.fresh_gate())
            yield from pause(s)  # a stop may come between the effect and its report
            return output

        schema = {"type": "object", "properties": {"x": {"type": "string"}}}
        return Tool(name, name, schema, run, critical, writes)

    def ask(
        self, steps: list[Reply | AgentError], answers: list[Answer], stop_after_s: float | None = None
    ) -> TurnReport:
        steps, answers = list(steps), list(answers)

        def model(effect: AskModel, branch: Any) -> Flow[Reply]:
            self.check([message.to_wire() for message in effect.request.messages])
            yield from pause(1.0)
            step = steps.pop(0) if steps else Reply((Text("the end"),), "end_turn", USAGE, link="m")
            if isinstance(step, AgentError):
                raise step
            return step

        def person(effect: AskHuman, branch: Any) -> Flow[Answer]:
            yield from pause(0.5)
            return answers.pop(0) if answers else Answer.NOBODY

        def keep(effect: Checkpoint | RecordIntents, branch: Any) -> Flow[str]:
            if isinstance(effect, Checkpoint) and effect.state is None:
                self.check_history(effect.messages)
            yield from pause(0)
            return ""

        def tools(effect: RunTools) -> Flow[list[CallResult]]:
            return executing_all(effect.calls, turn.deadline, 5.0, door.now)

        world: dict[type[Effect], Any] = {AskModel: model, AskHuman: person, Checkpoint: keep, RecordIntents: keep}
        door = VirtualDoor(world, {RunTools: tools}, [self.heard])
        rules = Rules(self.toolbox, door.now, window_tokens=self.window_tokens, max_tokens=1_000)
        turn = Turn.begin(self.conversation, "question", "ask", rules)
        at_s = None if stop_after_s is None else door.now() + stop_after_s
        try:
            return door.run(answering(turn, self.conversation, rules), cancel_at_s=at_s)
        except KeyboardInterrupt:
            return door.run(closing(turn, self.conversation, rules))

    def check_history(self, messages: tuple[Message, ...]) -> None:
        self.check([message.to_wire() for message in (*messages, user("next"))])

    def check(self, messages: list[dict[str, Any]]) -> None:
        # Kept, not raised: a turn survives whatever is raised in its world.
        body = {"model": "m", "max_tokens": 100, "messages": messages}
        refused = validate_request(body)
        self.broken += [*breaches(body), *([refused] if refused else [])]


Turns = list[tuple[list[Reply | AgentError], list[Answer], float | None]]


def test_every_request_and_every_history_is_valid_whatever_happens() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(TURNS)
    def run(turns: Turns) -> None:
        world = World()
        for steps, answers, stop_after_s in turns:
            one_turn(world, steps, answers, stop_after_s, seen)
        assert world.ask([], []).status == "ok"

    run()
    # No vacuous pass: all of this happened.
    calls = {"ok", "invalid", "failed", "degraded", "denied", "unknown", "skipped"}
    assert {f"call {status}" for status in calls} <= set(seen)
    turns = {"ok", "degraded", "failed", "needs_human", "cancelled"}
    assert turns <= set(seen)
    assert seen["kept by failed"] >= 10
    assert seen["kept by cancelled"] >= 5


def one_turn(
    world: World, steps: list[Reply | AgentError], answers: list[Answer], stop_after_s: float | None, seen: Counter[str]
) -> None:
    before, written = world.conversation.messages, len(world.written)
    world.heard.stamped.clear()
    report = world.ask(steps, answers, stop_after_s)
    after = world.conversation.messages
    world.check_history(after)
    assert world.broken == []
    wrote = len(world.written) > written
    seen.update([report.status, *(f"call {result.status}" for result in report.tool_calls)])
    if report.status in ("failed", "cancelled"):
        doubtful = any(result.status == "unknown" for result in report.tool_calls)
        assert (after == before) is not (wrote or doubtful), "exactly what was written leaves a trace"
        seen[f"kept by {report.status}"] += after != before
    else:
        assert after[: len(before)] == before
        assert len(after) > len(before)
    if wrote:
        assert any(result.wrote for result in report.tool_calls), "what was written is told"
    assert [event.status for event in world.heard.of(TurnEnded)] == [report.status]
    started = [event.call.id for event in world.heard.of(ToolCallStarted)]
    told = [event.result for event in world.heard.of(ToolCallEnded)]
    by_id = {result.call.id: result for result in report.tool_calls}
    assert sorted(started) == sorted(result.call.id for result in told) == sorted(by_id)
    assert {result.call.id: result for result in told} == by_id, "trace and report agree"


@settings(max_examples=100, deadline=None)
@given(TURNS, st.integers(1_050, 1_400))
def test_a_small_window_leaves_out_whole_turns_and_stays_valid(turns: Turns, window_tokens: int) -> None:
    world = World(window_tokens)
    for steps, answers, stop_after_s in turns:
        world.ask(steps, answers, stop_after_s)
        world.check_history(world.conversation.messages)
        assert world.broken == []


# --- parts -----------------------------------------------------------------------------------------------

THOUGHT = Thinking({"type": "thinking", "thinking": "hm", "signature": "s"}, "m")
CALL = ToolUse("a", "good", {})


@pytest.mark.parametrize(
    ("blocks", "kept"),
    [
        ((Text("a"), Text(" \n")), (Text("a"),)),
        ((THOUGHT, Text("a")), (THOUGHT, Text("a"))),
        ((Text("a"), THOUGHT), (Text("a"),)),
        ((CALL, THOUGHT, THOUGHT), (CALL,)),
        ((THOUGHT, CALL), (THOUGHT, CALL)),
        ((Other({"type": "x"}), Text("a")), (Text("a"),)),
        ((THOUGHT,), ()),
        ((Text("a\ud800"),), (Text("a\ufffd"),)),
    ],
)
def test_only_what_the_api_takes_is_sent_back(blocks: tuple[Block, ...], kept: tuple[Block, ...]) -> None:
    assert sendable(blocks) == kept


@given(st.lists(st.tuples(st.text(max_size=8) | st.text("ab_2", max_size=6), st.text(max_size=5)), max_size=6))
def test_ids_become_unique_in_the_whole_history_and_acceptable(pairs: list[tuple[str, str]]) -> None:
    history = [Message("assistant", (ToolUse("a", "x", {}), ToolUse("a_2", "x", {})))]
    calls = with_sendable_calls([ToolUse(id, name, {}) for id, name in pairs], history)
    ids = [block.id for block in calls if isinstance(block, ToolUse)]
    assert len({*ids, "a", "a_2"}) == len(ids) + 2
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", id) for id in ids)


@given(st.text(max_size=100))
def test_a_name_that_had_to_be_changed_is_never_the_name_of_a_tool(name: str) -> None:
    sent = sendable_name(name)
    assert 1 <= len(sent) <= 64
    assert all(character.isascii() and (character.isalnum() or character in "_-") for character in sent)
    assert sent == name or sent.startswith("unknown_")


@pytest.mark.parametrize("name", ["save note", "save.note", "save_note ", "ѕave_note", "", "x" * 65])
def test_lookalikes_of_a_tool_are_not_it(name: str) -> None:
    assert sendable_name(name) != "save_note"
    assert sendable_name("save_note") == "save_note"


def test_a_secret_in_a_name_or_an_id_is_masked_before_it_is_cut() -> None:
    key = "sk-ant-api03-AAAABBBBCCCCDDDD"
    assert "AAAA" not in sendable_name("x" * 40 + key)
    assert "AAAA" not in repr(with_sendable_calls([ToolUse("y" * 180 + key, "calculator", {})], ()))


def result(status: Any = "ok", *, name: str = "good", wrote: bool = False, **more: Any) -> CallResult:
    return CallResult(ToolUse("a", name, {}), status, "out", wrote=wrote, **more)


def test_results_stand_in_the_order_asked_and_say_whether_they_are_answers() -> None:
    message = results_message([result(), result("degraded", source="cache"), result("degraded"), result("denied")])
    assert [block.is_error for block in message.blocks if isinstance(block, ToolResult)] == [False, False, True, True]
    assert not message.untrusted
    assert results_message([result(), result(untrusted=True)]).untrusted


def test_the_closing_line_names_each_thing_once_and_is_empty_when_nothing_was_written() -> None:
    assert closing_line([result(), result("failed"), result("skipped")]) == ""
    saved = result(name="save_note", wrote=True)
    assert closing_line([saved, saved, result(name="send", wrote=True), result("unknown", name="pay")]) == (
        "[stopped: note saved, send done, pay: may or may not have happened, no answer]"
    )


def test_a_failed_turn_keeps_its_pairs_only_when_something_was_written() -> None:
    before = (user("a"), assistant("b"))
    during = (*before, user("c"), Message("assistant", (CALL,)), results_message([result()]))
    assert kept_after_failure(before, during, [result()]) == before
    kept = kept_after_failure(before, during, [result(wrote=True)])
    assert kept[:-1] == during
    assert kept[-1] == assistant("[stopped: good done, no answer]")


def turn_of(words: int, calls: bool) -> list[Message]:
    pair = [Message("assistant", (CALL,)), results_message([result()])] if calls else []
    return [user("q" * words), *pair, assistant("a")]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=8), st.integers(-5, 400))
def test_trimming_keeps_the_newest_whole_turns_as_many_as_fit(turns: list[tuple[int, bool]], tokens_max: int) -> None:
    built = [turn_of(*one) for one in turns]
    messages = tuple(message for one in built for message in one)
    kept = trimmed(messages, tokens_max)
    assert kept == messages[len(messages) - len(kept) :]
    assert starts_turn(kept[0])
    assert kept[-len(built[-1]) :] == tuple(built[-1])
    number = sum(starts_turn(message) for message in kept)
    assert number == 1 or tokens_of(kept) <= tokens_max
    if number < len(built):
        one_more = tuple(message for one in built[-number - 1 :] for message in one)
        assert tokens_of(one_more) > tokens_max


def test_trimming_a_long_history_takes_one_pass() -> None:
    counted = 0

    class Counted(Message):
        __slots__ = ()

        def to_wire(self) -> dict[str, Any]:
            nonlocal counted
            counted += 1
            return Message.to_wire(self)

    messages = tuple(Counted("user" if n % 2 == 0 else "assistant", (Text("x" * 30),)) for n in range(2_000))
    assert len(trimmed(messages, 200)) < 30
    assert counted < 30


# --- mending -----------------------------------------------------------------------------------------------


def said(history: tuple[Message, ...]) -> str:
    return " ".join(block.text for message in history for block in message.blocks if isinstance(block, Text))


def calls_of(history: tuple[Message, ...]) -> int:
    return sum(isinstance(block, ToolUse) for message in history for block in message.blocks)


def valid_history(turns: Turns) -> tuple[Message, ...]:
    world = World()
    for steps, answers, stop_after_s in turns:
        world.ask(steps, answers, stop_after_s)
    return world.conversation.messages


def damaged(history: tuple[Message, ...], data: st.DataObject) -> list[Message]:
    """Messages and blocks lost, doubled and out of order."""
    messages: list[Message] = []
    for message in history:
        times = data.draw(st.sampled_from([1, 1, 1, 1, 0, 2]))
        blocks = tuple(
            block for block in message.blocks for _ in range(data.draw(st.sampled_from([1, 1, 1, 1, 1, 0, 2])))
        )
        messages += [replace(message, blocks=blocks)] * times
    for _ in range(data.draw(st.integers(0, 2))):
        if messages:
            messages.insert(0, messages.pop(data.draw(st.integers(0, len(messages) - 1))))
    return messages[: data.draw(st.integers(0, len(messages)))] if data.draw(st.booleans()) else messages


def test_whatever_is_damaged_in_a_history_it_can_be_continued_after_repair() -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(TURNS, st.data())
    def run(turns: Turns, data: st.DataObject) -> None:
        history = valid_history(turns)
        assert repaired(history) == history
        broken = damaged(history, data)
        mended = repaired(broken)
        world = World()
        world.check_history(mended)
        assert world.broken == []
        assert repaired(mended) == mended
        # Lost is only what must be: every word and every call is still there, a result where its call is.
        words = [block.text for one in broken for block in one.blocks if isinstance(block, Text) and block.text.strip()]
        assert all(encodable(word) in said(mended) for word in words)
        assert calls_of(mended) == calls_of(tuple(broken))
        assert any(one.untrusted for one in mended) <= any(one.untrusted for one in broken)
        for mark in (LOST_START, LOST_END):
            seen[mark] += mark in said(mended)
        results = [block for one in mended for block in one.blocks if isinstance(block, ToolResult)]
        seen["lost result"] += any(block.content == LOST_RESULT for block in results)
        seen["untouched"] += mended == history

    run()
    assert min(seen.values()) > 3, seen
    assert len(seen) == 4


def test_nothing_is_lost_of_a_history_that_lost_nothing() -> None:
    history = (user("q"), Message("assistant", (ToolUse("c", "good", {}),)), assistant("end"))
    assert repaired(history[:2]) == (
        *history[:2],
        Message("user", (ToolResult("c", LOST_RESULT, is_error=True),)),
        assistant(LOST_END),
    )
    assert repaired(()) == ()
    assert repaired([assistant("a")]) == (user(LOST_START), assistant("a"))
