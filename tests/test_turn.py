"""One question from start to end, through every door: how replies are read, how turns end, what history keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from core.conversation import Conversation
from core.journal import Checkpoint, RecordIntents
from core.report import TurnReport
from core.turn import (
    CALLS_MAX,
    CORRECTIONS_MAX,
    NUDGE,
    PAUSES_MAX,
    ROUNDS_MAX,
    AskModel,
    Meaning,
    Rules,
    Turn,
    answering,
    closing,
    meaning_of,
)
from doors.aio import AsyncDoor
from errors import AgentError, AttemptTimedOut, BadInput, ErrorType, OutcomeUnknown
from events import HistoryTrimmed, StuckNoticed, ToolCallEnded, TurnCancelled, TurnEnded
from flow import Flow, Gate, RunTools, blocking, pause
from messages import Message, Other, Reply, Text, Thinking, ToolResult, ToolUse, Usage, assistant, user
from oversight.approvals import Answer, ApproveMode, AskHuman
from tests.history_validator import breaches
from tests.support import Doors
from tools import CallContext, Tool, Toolbox, ToolOutput, executing_all

ANY_OBJECT = {"type": "object", "properties": {"x": {"type": "string"}}}


def said(text: str, stop: str = "end_turn", **more: Any) -> Reply:
    return Reply((Text(text),), stop, Usage(10, 5, 0, 0), link="anthropic:m", cost_usd=0.5, **more)


def asks(*calls: ToolUse, stop: str = "tool_use", text: str = "") -> Reply:
    blocks = ((Text(text),) if text else ()) + calls
    return Reply(blocks, stop, Usage(10, 5, 0, 0), link="anthropic:m", cost_usd=0.5)


def call(name: str, id: str = "c1", **given: Any) -> ToolUse:
    return ToolUse(id, name, given)


class World:
    """A scripted model, a few tools and a person, around one conversation."""

    def __init__(self, doors: Doors, *replies: Reply | AgentError, mode: ApproveMode = "ask") -> None:
        self.doors, self.replies, self.mode = doors, list(replies), mode
        self.requests: list[AskModel] = []
        self.human: list[Answer] = []
        self.asked: list[AskHuman] = []
        self.ran: list[str] = []
        self.kept: list[Checkpoint] = []
        self.broken: list[str] = []
        self.conversation = Conversation("s")
        self.clock = 1_000.0
        self.window_tokens = 1_000_000
        self.tools = [
            self.tool("good", lambda: ToolOutput("fine")),
            self.tool("write", lambda: ToolOutput("Saved.", wrote=True), writes=True, critical=True),
            self.tool("page", lambda: ToolOutput("words from outside", untrusted=True)),
            self.tool("picky", self._raise(BadInput("x must be even", what_now="Use 2."))),
            self.tool("gone", self._raise(AgentError("connection refused", reason="connection"))),
            self.tool("vital", self._raise(AgentError("cannot work", reason="server_error")), critical=True),
            self.tool("stale", lambda: ToolOutput("old", source="cache", degraded=True, notice="stale is 5 min old")),
            self.tool("dubious", self._raise(OutcomeUnknown("no word from it")), writes=True, critical=True),
        ]
        doors.world[AskModel] = self._answer
        doors.world[AskHuman] = self._person
        doors.world[Checkpoint] = self._keep
        doors.world[RecordIntents] = lambda effect: ""
        doors.flows[RunTools] = lambda effect: executing_all(effect.calls, self.turn.deadline, 10.0, self.now)

    def now(self) -> float:
        return self.clock

    @staticmethod
    def _raise(error: AgentError) -> Callable[[], ToolOutput]:
        def fail() -> ToolOutput:
            raise error

        return fail

    def tool(self, name: str, do: Callable[[], ToolOutput], *, critical: bool = False, writes: bool = False) -> Tool:
        def run(context: CallContext, given: Mapping[str, Any]) -> Flow[ToolOutput]:
            context.tried()
            self.ran.append(name)
            return do()
            yield

        return Tool(name, name, ANY_OBJECT, run, critical, writes)

    def _keep(self, effect: Checkpoint) -> str:
        self.kept.append(effect)
        return ""

    def _answer(self, effect: AskModel) -> Reply:
        self.requests.append(effect)
        wire = {
            "model": "m",
            "max_tokens": effect.request.max_tokens,
            "messages": [message.to_wire() for message in effect.request.messages],
        }
        self.broken += breaches(wire)  # not raised here: a turn survives whatever its world raises
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, AgentError):
            raise reply
        return reply

    def _person(self, effect: AskHuman) -> Answer:
        self.asked.append(effect)
        return self.human.pop(0)

    def rules(self) -> Rules:
        return Rules(Toolbox(self.tools), self.now, window_tokens=self.window_tokens, max_tokens=1_000)

    def ask(self, question: str = "?") -> TurnReport:
        self.turn = Turn.begin(self.conversation, question, self.mode, self.rules())
        report: TurnReport = self.doors.run(answering(self.turn, self.conversation, self.rules()))
        assert [*self.broken, *breaches(self.next_request())] == []
        return report

    def next_request(self) -> dict[str, Any]:
        messages = [*self.conversation.messages, user("next")]
        return {"model": "m", "max_tokens": 9, "messages": [message.to_wire() for message in messages]}


def test_a_plain_answer_is_ok_and_enters_history(doors: Doors) -> None:
    world = World(doors, said("hello"))
    report = world.ask("hi")
    assert (report.status, report.text, report.model, report.cost_usd) == ("ok", "hello", "anthropic:m", 0.5)
    assert world.conversation.messages == (user("hi"), assistant("hello"))
    assert [event.status for event in doors.heard.of(TurnEnded)] == ["ok"]
    assert world.kept[-1].messages == world.conversation.messages


def test_tools_run_and_their_results_go_back_in_the_order_asked(doors: Doors) -> None:
    world = World(doors, asks(call("good", "a"), call("gone", "b"), call("good", "c")), said("done"))
    report = world.ask()
    results = world.requests[1].request.messages[-1].blocks
    assert [block.tool_use_id for block in results if isinstance(block, ToolResult)] == ["a", "b", "c"]
    assert [result.status for result in report.tool_calls] == ["ok", "degraded", "ok"]
    assert report.usage == Usage(20, 10, 0, 0)
    assert report.cost_usd == 1.0


def test_a_missing_optional_tool_degrades_and_the_program_says_so(doors: Doors) -> None:
    report = World(doors, asks(call("gone")), said("I could not look.")).ask()
    assert (report.status, report.degraded) == ("degraded", ("gone",))
    assert report.text.startswith("I could not look.\n\n[gone is missing: connection refused")


def test_an_answer_from_the_cache_is_degraded_with_its_own_notice(doors: Doors) -> None:
    report = World(doors, asks(call("stale")), said("old news")).ask()
    assert report.text == "old news\n\n[stale is 5 min old]"
    assert report.status == "degraded"


def test_a_critical_tool_that_cannot_work_fails_the_turn_and_says_which(doors: Doors) -> None:
    world = World(doors, asks(call("good", "a"), call("vital", "b")), said("never"))
    report = world.ask()
    assert report.status == "failed"
    assert report.error is not None
    assert report.error.kind is ErrorType.FATAL
    assert "vital" in report.error.message
    assert "cannot work" in report.error.message
    assert [result.status for result in report.tool_calls] == ["ok", "failed"]  # the finished sibling stays visible
    assert len(world.requests) == 1
    assert world.conversation.messages == ()


def test_bad_input_goes_back_to_the_model_a_bounded_number_of_times(doors: Doors) -> None:
    world = World(doors, asks(call("picky", x="1")), said("sorry"))
    assert world.ask().status == "ok"
    result = world.requests[1].request.messages[-1].blocks[0]
    assert isinstance(result, ToolResult)
    assert (result.is_error, result.content) == (True, "x must be even Use 2.")
    stubborn = World(Doors(doors.name), *[asks(call("picky", x=str(n))) for n in range(9)])
    report = stubborn.ask()
    assert (report.status, len(report.tool_calls)) == ("failed", CORRECTIONS_MAX + 1)
    assert report.error is not None
    assert report.error.kind is ErrorType.LOGIC


def test_many_calls_wrong_in_the_same_way_in_one_message_are_one_correction(doors: Doors) -> None:
    world = World(doors, asks(*[call("picky", f"c{n}", x=str(n)) for n in range(9)]), said("I see"))
    report = world.ask()
    assert (report.status, len(report.tool_calls)) == ("ok", 9)


def test_an_unknown_tool_and_unreadable_input_are_told_to_the_model(doors: Doors) -> None:
    broken = ToolUse("b", "good", {}, raw='{"x": NaN}', problem="NaN is not JSON")
    world = World(doors, asks(call("nope", "a"), broken, call("good", "c", x=5)), said("ok"))
    report = world.ask()
    assert [result.status for result in report.tool_calls] == ["invalid"] * 3
    assert "There is no tool named 'nope'" in report.tool_calls[0].output
    assert "NaN is not JSON" in report.tool_calls[1].output
    assert report.tool_calls[2].output == "input.x must be string, not integer"
    assert world.ran == []


def test_names_and_ids_that_the_api_would_refuse_are_made_sendable(doors: Doors) -> None:
    calls = [call("ｅｖｉｌ name\x1b" * 50, ""), call("good", "same"), call("good", "same")]
    world = World(doors, asks(*calls), asks(call("good", "same", x="y")), said("ok"))
    assert world.ask().status == "ok"
    ids = [result.call.id for result in world.turn.results]
    assert len(set(ids)) == len(ids)


def test_a_write_after_untrusted_text_asks_and_one_beside_it_does_not(doors: Doors) -> None:
    world = World(doors, asks(call("page", "a"), call("write", "b")), asks(call("write", "c", x="evil")), said("ok"))
    world.human = [Answer.NO]
    report = world.ask()
    assert [result.status for result in report.tool_calls] == ["ok", "ok", "denied"]
    assert len(world.asked) == 1
    assert dict(world.asked[0].request.input) == {"x": "evil"}
    assert world.ran == ["page", "write"]
    assert report.status == "ok"


def test_with_nobody_there_a_doubtful_write_needs_a_human_and_the_program_says_so(doors: Doors) -> None:
    world = World(doors, asks(call("page")), asks(call("write", "w")), said("could not"))
    world.human = [Answer.NOBODY]
    report = world.ask()
    assert (report.status, report.error) == ("needs_human", None)
    assert report.text == "could not\n\n[write was not run: nobody was there to approve it.]"
    assert world.ran == ["page"]


def test_an_approved_write_runs_and_identical_requests_are_asked_once(doors: Doors) -> None:
    write = asks(call("write", "w1", x="1"), call("write", "w2", x="1"))
    world = World(doors, asks(call("page")), write, said("ok"))
    world.human = [Answer.YES]
    assert world.ask().status == "ok"
    assert world.ran == ["page", "write"]  # a write is never run twice for one message
    assert len(world.asked) == 1


@pytest.mark.parametrize(("mode", "status", "ran"), [("auto", "ok", 1), ("never", "denied", 0)])
def test_approve_auto_grants_and_never_refuses_without_asking(
    doors: Doors, mode: ApproveMode, status: str, ran: int
) -> None:
    world = World(doors, asks(call("page")), asks(call("write", "w")), said("ok"), mode=mode)
    report = world.ask()
    assert (report.status, report.tool_calls[1].status, world.ran.count("write")) == ("ok", status, ran)


def test_taint_lasts_into_the_next_question(doors: Doors) -> None:
    world = World(doors, asks(call("page")), said("read it"), asks(call("write", "w")), said("no"))
    world.ask("read")
    world.human = [Answer.NO]
    world.ask("save it")
    assert len(world.asked) == 1


def test_a_failed_turn_without_a_write_leaves_no_trace(doors: Doors) -> None:
    world = World(doors, asks(call("good")), AgentError("overloaded (529)", reason="overloaded"))
    report = world.ask()
    assert report.status == "failed"
    assert world.conversation.messages == ()


def test_a_failed_turn_that_wrote_keeps_its_closed_pairs_and_says_so(doors: Doors) -> None:
    world = World(doors, asks(call("write")), AgentError("overloaded (529)", reason="overloaded"))
    world.ask("save this")
    assert world.conversation.messages[0] == user("save this")
    assert world.conversation.messages[-1] == assistant("[stopped: write done, no answer]")


def test_an_unknown_outcome_is_said_and_kept(doors: Doors) -> None:
    world = World(doors, asks(call("dubious")), said("?"))
    report = world.ask()
    assert (report.status, report.tool_calls[0].status) == ("failed", "unknown")
    assert world.conversation.messages[-1] == assistant("[stopped: dubious: may or may not have happened, no answer]")
    assert report.error is not None
    assert "may or may not have happened" in report.error.message
    assert "Try again" not in report.error.what_now


def test_an_unknown_outcome_of_an_optional_tool_is_told_by_the_program(doors: Doors) -> None:
    world = World(doors, asks(call("doubtful")), said("done, I think"))
    world.tools.append(world.tool("doubtful", world._raise(OutcomeUnknown("no word")), writes=True))
    report = world.ask()
    assert (report.status, report.degraded) == ("degraded", ("doubtful",))
    assert report.text == "done, I think\n\n[doubtful: the outcome is unknown]"


def test_a_lookalike_of_a_tools_name_does_not_run_the_tool(doors: Doors) -> None:
    world = World(doors, asks(call("wri te", "a"), call("write\u200b", "b")), said("ok"))
    world.tools.append(world.tool("wri_te", lambda: ToolOutput("never"), writes=True))
    report = world.ask()
    assert [result.status for result in report.tool_calls] == ["invalid", "invalid"]
    assert world.ran == []


def test_a_model_that_only_went_silent_is_not_called_a_deadline(doors: Doors) -> None:
    world = World(doors, AttemptTimedOut(1.0, silent=True))
    silent = world.ask()
    assert silent.error is not None
    assert (silent.error.type, silent.error.message) == ("TimedOut", "no answer for 1 s")

    def late(effect: AskModel) -> Reply:
        world.clock += 200.0
        raise AttemptTimedOut(120.1)

    doors.world[AskModel] = late
    over = world.ask()
    assert over.error is not None
    assert (over.error.type, over.error.message) == ("DeadlineExceeded", "no answer within 120 s")


def test_an_empty_question_is_never_sent(doors: Doors) -> None:
    world = World(doors, said("?"))
    report = world.ask(" \n")
    assert (report.status, world.requests, world.conversation.messages) == ("failed", [], ())
    assert report.error is not None
    assert report.error.type == "BadInput"


def test_refusal_fails_runs_nothing_and_keeps_history_as_before(doors: Doors) -> None:
    world = World(doors, asks(call("write"), stop="refusal"))
    report = world.ask()
    assert (report.status, world.ran, world.conversation.messages) == ("failed", [], ())
    assert report.error is not None
    assert report.error.type == "Refused"


def test_text_cut_by_max_tokens_is_degraded_with_a_notice(doors: Doors) -> None:
    report = World(doors, said("half an ans", stop="max_tokens")).ask()
    assert report.status == "degraded"
    assert "cut off at MAX_TOKENS" in report.text


def test_a_tool_call_cut_by_max_tokens_is_asked_again_once_and_never_run(doors: Doors) -> None:
    world = World(doors, asks(call("write"), stop="max_tokens"), said("fine"))
    assert (world.ask().status, world.ran) == ("ok", [])
    stubborn = World(Doors(doors.name), asks(call("write"), stop="max_tokens"))
    assert (stubborn.ask().status, len(stubborn.requests), stubborn.ran) == ("failed", 2, [])


def test_an_empty_answer_gets_one_nudge(doors: Doors) -> None:
    world = World(doors, Reply((), "end_turn", Usage(1, 1, 0, 0)), said("here"))
    assert world.ask("q").text == "here"
    assert world.requests[1].request.messages[-1].blocks[-1] == Text(NUDGE)
    assert world.conversation.messages == (user("q"), assistant("here"))
    silent = World(Doors(doors.name), Reply((), "end_turn"))
    assert (silent.ask().status, len(silent.requests)) == ("failed", 2)


def test_tool_use_without_a_tool_is_void_once(doors: Doors) -> None:
    world = World(doors, said("", stop="tool_use"), said("ok"))
    assert (world.ask().status, len(world.requests)) == ("ok", 2)


def test_a_tool_under_end_turn_is_answered_like_any_other(doors: Doors) -> None:
    world = World(doors, asks(call("good"), stop="end_turn"), said("ok"))
    assert (world.ask().status, world.ran) == ("ok", ["good"])


def test_an_unknown_stop_reason_is_flagged_and_runs_no_tool(doors: Doors) -> None:
    report = World(doors, said("text", stop="cosmic_ray")).ask()
    assert report.status == "ok"
    assert "unknown reason (cosmic_ray)" in report.text
    world = World(Doors(doors.name), asks(call("write"), stop="cosmic_ray"))
    assert (world.ask().status, world.ran) == ("failed", [])


def test_a_paused_turn_goes_back_as_it_came_and_is_merged(doors: Doors) -> None:
    search = Other({"type": "server_tool_use", "id": "s1", "name": "x", "input": {}})
    paused = Reply((Text("Let me see. "), search), "pause_turn", Usage(1, 1, 0, 0), link="anthropic:m")
    world = World(doors, paused, said("Found."))
    report = world.ask("q")
    assert world.requests[1].request.messages[-1] == Message("assistant", (Text("Let me see. "), search))
    assert report.text == "Let me see. Found."
    assert world.conversation.messages[-1] == Message("assistant", (Text("Let me see. "), Text("Found.")))
    ended = World(Doors(doors.name), paused, Reply((), "end_turn", Usage(1, 1, 0, 0)))
    assert ended.ask("q").text == "Let me see."  # everything was said before the pause
    endless = World(Doors(doors.name), paused)
    assert (endless.ask().status, len(endless.requests)) == ("failed", PAUSES_MAX + 1)


def test_thinking_is_echoed_back_verbatim(doors: Doors) -> None:
    thought = Thinking({"type": "thinking", "thinking": "hm", "signature": "sig=="}, "m")
    world = World(doors, Reply((thought, call("good")), "tool_use", Usage(1, 1, 0, 0)), said("ok"))
    world.ask()
    assert world.requests[1].request.messages[1].blocks[0] == thought


def test_a_model_that_always_asks_for_tools_ends_by_rounds_or_calls(doors: Doors) -> None:
    many = World(doors, *[asks(call("good", f"c{n}", x=str(n))) for n in range(30)])
    assert (many.ask().status, len(many.requests)) == ("failed", ROUNDS_MAX)
    fifty = World(
        Doors(doors.name), *[asks(*[call("good", f"{r}_{n}", x=f"{r}{n}") for n in range(50)]) for r in "abcde"]
    )
    report = fifty.ask()
    assert (report.status, len(fifty.requests), len(fifty.ran)) == ("failed", 4, CALLS_MAX)


def test_calls_beyond_sixteen_in_one_message_are_answered_unrun(doors: Doors) -> None:
    world = World(doors, asks(*[call("good", f"c{n}", x=str(n)) for n in range(20)]), said("ok"))
    report = world.ask()
    assert [result.status for result in report.tool_calls] == ["ok"] * 16 + ["skipped"] * 4


def test_a_model_that_goes_round_in_circles_is_told_then_stopped(doors: Doors) -> None:
    world = World(doors, *[asks(call("good", f"c{n}", x="same")) for n in range(9)])
    report = world.ask()
    assert (report.status, len(world.ran)) == ("failed", 2)
    assert len(doors.heard.of(StuckNoticed)) == 2
    cured = World(Doors(doors.name), *[asks(call("good", f"c{n}")) for n in range(3)], said("I see"))
    assert cured.ask().status == "ok"


def test_too_long_for_the_model_trims_once_and_then_says_so(doors: Doors) -> None:
    full = AgentError("prompt is too long", reason="too_large")
    world = World(doors, full, said("fits"))
    world.conversation.messages = (user("old" * 500), assistant("a"), user("new"), assistant("b"))
    assert world.ask("q").status == "ok"
    assert len(world.requests[1].request.messages) < len(world.requests[0].request.messages)
    hopeless = World(Doors(doors.name), full)
    report = hopeless.ask()
    assert (report.status, len(hopeless.requests)) == ("failed", 1)
    assert report.error is not None
    assert "new" in report.error.what_now


def test_old_turns_are_left_out_when_the_window_is_full(doors: Doors) -> None:
    world = World(doors, said("ok"))
    world.window_tokens = 1_300
    world.conversation.messages = (user("x" * 3_000), assistant("a"), user("y"), assistant("b"))
    world.ask("q")
    assert world.requests[0].request.messages == (user("y"), assistant("b"), user("q"))
    assert doors.heard.of(HistoryTrimmed) == [HistoryTrimmed(2)]


def test_leaving_out_old_turns_is_told_once_and_not_at_every_round(doors: Doors) -> None:
    world = World(doors, asks(call("good", "a")), asks(call("good", "b")), said("ok"))
    world.window_tokens = 1_600
    world.conversation.messages = (user("x" * 3_000), assistant("a"))
    world.ask("q")
    assert doors.heard.of(HistoryTrimmed) == [HistoryTrimmed(2)]


def test_a_mistake_in_this_program_fails_the_turn_and_not_the_chat(doors: Doors) -> None:
    world = World(doors, said("x"))

    def missing(effect: AskModel) -> Reply:
        raise KeyError("missing")

    doors.world[AskModel] = missing
    report = world.ask()
    assert report.status == "failed"
    assert report.error is not None
    assert report.error.type == "InternalError"


def test_unknown_usage_stays_unknown(doors: Doors) -> None:
    world = World(doors, Reply((Text("x"),), "end_turn", Usage(None, 5, 0, 0), link="m"))
    report = world.ask()
    assert (report.usage.input_tokens, report.usage.output_tokens, report.cost_usd) == (None, 5, None)


def test_lone_surrogates_in_a_question_do_not_break_the_request(doors: Doors) -> None:
    world = World(doors, said("ok"))
    assert world.ask("a\ud800b").status == "ok"
    world.requests[0].request.messages[0].to_wire()["content"][0]["text"].encode()


@pytest.mark.parametrize(
    ("reply", "meaning"),
    [
        (said("x"), Meaning.ANSWER),
        (said("x", stop="stop_sequence"), Meaning.ANSWER),
        (said("  \n"), Meaning.EMPTY),
        (said("x", stop="refusal"), Meaning.REFUSED),
        (said("x", stop="model_context_window_exceeded"), Meaning.TOO_LONG),
        (said("", stop="max_tokens"), Meaning.AGAIN),
        (asks(call("good"), stop="pause_turn"), Meaning.TOOLS),
    ],
)
def test_how_replies_are_read(reply: Reply, meaning: Meaning) -> None:
    assert meaning_of(reply) is meaning


# --- stopped from outside -------------------------------------------------------------------------------


def stop_during(tools: Callable[[World], Tool], reply: Reply, until: Callable[[], bool]) -> tuple[World, TurnReport]:
    """Cancel a turn on asyncio as soon as `until()` holds, then run `closing`."""
    world = World(Doors("asyncio"), reply)
    world.tools.append(tools(world))

    async def run() -> TurnReport:
        async def model(effect: Any, branch: Any) -> Any:
            return world._answer(effect)

        async def keep(effect: Any, branch: Any) -> str:
            return world._keep(effect) if isinstance(effect, Checkpoint) else ""

        performers = {AskModel: model, Checkpoint: keep, RecordIntents: keep}
        door = AsyncDoor(performers, world.doors.flows, [world.doors.heard])
        world.turn = Turn.begin(world.conversation, "save it", "ask", world.rules())
        task = asyncio.create_task(door.run(answering(world.turn, world.conversation, world.rules())))
        while not until():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await door.run(closing(world.turn, world.conversation, world.rules()))

    report = asyncio.run(run())
    assert breaches(world.next_request()) == []
    return world, report


def hanging(name: str, running: list[bool], gate_of: list[Gate], *, claims: bool) -> Callable[[World], Tool]:
    def run(context: CallContext, given: Mapping[str, Any]) -> Flow[ToolOutput]:
        def work(gate: Gate) -> ToolOutput:
            if claims:
                gate.claim()
            gate_of.append(gate)
            running.append(True)
            deadline = 500
            while not claims and deadline and gate.claim() is not False:
                return ToolOutput("acted", wrote=True)
            import time

            time.sleep(0.05)
            return ToolOutput("saved", wrote=True)

        return (yield from blocking(work, context.fresh_gate()))

    return lambda world: Tool(name, name, ANY_OBJECT, run, critical=True, writes=True)


def test_a_stop_while_the_model_is_asked_leaves_history_as_before() -> None:
    asked: list[bool] = []

    def slow(world: World) -> Tool:
        def run(context: CallContext, given: Mapping[str, Any]) -> Flow[ToolOutput]:
            asked.append(True)
            yield from pause(60)
            return ToolOutput("never")

        return Tool("slow", "slow", ANY_OBJECT, run)

    world, report = stop_during(slow, asks(call("slow", "s"), call("good", "g")), lambda: bool(asked))
    assert report.status == "cancelled"
    assert world.conversation.messages == ()
    assert world.doors.heard.of(TurnCancelled) == [TurnCancelled("")]
    assert [event.result.status for event in world.doors.heard.of(ToolCallEnded)][-1] in ("ok", "skipped")


def test_a_stop_past_the_point_of_no_return_keeps_what_was_written() -> None:
    running: list[bool] = []
    tool = hanging("save", running, [], claims=True)
    world, report = stop_during(tool, asks(call("save")), lambda: bool(running))
    assert report.status == "cancelled"
    assert report.tool_calls[0].status == "ok"
    assert world.conversation.messages[-1] == assistant("[stopped: save done, no answer]")
