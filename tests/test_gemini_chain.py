"""The whole agent across providers, on real sockets: Claude fails, Gemini or a local server answers, Claude is back.

Both fakes validate every history they are sent, and answer a breach with 400; so an answer at the end says
that the conversation was valid in both dialects all the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import report_json
from dependencies import usable_links
from errors import ConfigurationError
from events import AttemptAbandoned, AttemptStarted, FaultInjected, FellBack, Stamped, TextStreamed
from faults import parse_fault
from tests.fake_gemini import FakeGemini, Refuse, call, calls, chunk, raw_chunk, says
from tests.fake_messages import Cut, Drip, FakeMessages, Scripted, Silence, Stall, Status, Stream
from tests.fake_messages import calls as claude_calls
from tests.fake_messages import message as claude_message
from tests.fake_messages import says as claude_says
from tests.support_agent import settings
from wiring import Answer, AsyncAgent, BlockingAgent

CLAUDE = "anthropic:claude-sonnet-5-5,anthropic:claude-haiku-5-5"
GEMINI = "google:gemini-3.6-flash"
THREE = f"{CLAUDE},{GEMINI}"
SUM = call("calculator", {"expression": "15 * 23"}, id="g1", thoughtSignature="c2lnMQ==")
NOTE = call("save_note", {"content": "345"})


class Two:
    """One agent on two fake providers. Claude does `claude` until told otherwise; Gemini follows its script."""

    def __init__(self, kind: str, folder: Path, claude: FakeMessages, gemini: FakeGemini, **variables: str) -> None:
        self.claude, self.gemini, self.events, self.folder = claude, gemini, list[Any](), folder
        variables = {
            "MODEL_CHAIN": THREE, "GEMINI_API_KEY": gemini.key, "GEMINI_BASE_URL": gemini.url,
            "MAX_RETRIES": "1", **variables,
        }  # fmt: skip
        read = settings(claude.url, variables.pop("MODEL_CHAIN"), folder, **variables)
        self._loop = asyncio.new_event_loop() if kind == "asyncio" else None
        self.agent: Any = (AsyncAgent if self._loop else BlockingAgent)(read, approve="auto", listeners=[self._heard])

    def _heard(self, stamped: Stamped) -> None:
        self.events.append(stamped.event)

    def ask(self, question: str) -> Answer:
        self.events.clear()
        asked = self.agent.ask(question)
        answer: Answer = self._loop.run_until_complete(asked) if self._loop else asked
        assert self.claude.breaches == [] == self.gemini.breaches
        return answer

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def hops(self) -> list[tuple[str, str]]:
        return [(hop.source, hop.to) for hop in self.of(FellBack)]

    @property
    def notes(self) -> list[Path]:
        return list((self.folder / "notes").glob("*.md"))

    def wait_ready(self, dependency: str) -> None:
        """Until the breaker of this link would let a call through."""
        end_s = time.monotonic() + 5
        while not self.agent.guards(dependency).is_ready():
            assert time.monotonic() < end_s
            time.sleep(0.005)

    def close(self) -> None:
        if self._loop:
            self._loop.run_until_complete(self.agent.aclose())
            self._loop.close()
        else:
            self.agent.close()


Make = Callable[..., Two]


@pytest.fixture(params=["asyncio", "blocking"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    with contextlib.ExitStack() as stack:

        def made(claude: list[Scripted], gemini: list[Scripted | Refuse], **variables: str) -> Two:
            first, second = stack.enter_context(FakeMessages(*claude)), stack.enter_context(FakeGemini(*gemini))
            two = Two(request.param, tmp_path, first, second, **variables)
            stack.callback(two.close)
            return two

        yield made


# --- there and back --------------------------------------------------------------------------------------


def test_gemini_answers_with_two_tools_when_claude_is_dead_and_claude_is_back_once_it_heals(make: Make) -> None:
    health: dict[str, Any] = {"claude": Status(529)}
    two = make(
        [lambda body: health["claude"]],
        [Stream(calls(SUM, NOTE)), Stream(says("345, and it is saved.", "c2lnMg==")), Stream(says("again"))],
        BREAKER_FAILURE_THRESHOLD="2",
        BREAKER_RECOVERY_TIMEOUT="0.3",
    )
    answer = two.ask("What is 15 * 23? Save the result.")
    report = answer.report
    assert (report.status, report.text, report.model) == ("ok", "345, and it is saved.", GEMINI)
    assert report.tool_calls[0].output == "345"
    assert [(one.call.name, one.status) for one in report.tool_calls] == [("calculator", "ok"), ("save_note", "ok")]
    assert len(two.notes) == 1
    names = THREE.split(",")
    assert two.hops[:2] == [(names[0], names[1]), (names[1], names[2])]
    assert report.cost_usd is None
    as_json = report_json(report, session_id="s", trace_id="t", model_attempts=answer.model_attempts)
    assert as_json["model"] == GEMINI

    health["claude"] = Stream(claude_says("I am back."))
    two.wait_ready("model.anthropic.claude-sonnet-5-5")
    report = two.ask("Are you there?").report
    assert (report.status, report.text, report.model) == ("ok", "I am back.", names[0])
    assert two.hops == []
    shown = two.claude.requests[-1].body["messages"]
    assert [message["role"] for message in shown] == ["user", "assistant", "user", "assistant", "user"]
    assert {block["type"] for message in shown for block in message["content"]} == {"text", "tool_use", "tool_result"}

    health["claude"] = Status(529)
    assert two.ask("And now?").report.text == "again"
    assert two.gemini.requests[-1].body["contents"][1]["parts"][0]["thoughtSignature"] == "c2lnMQ=="
    assert len(two.notes) == 1


def test_a_question_may_change_its_model_between_two_rounds_and_no_tool_runs_twice(make: Make) -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
    tools = claude_calls(("save_note", {"content": "milk"}), ("calculator", {"expression": "1+1"}))["content"]
    two = make(
        [Stream(claude_message([thought, *tools], "tool_use")), Status(529)],
        [Stream(calls(call("calculator", {"expression": "2+2"}, thoughtSignature="c2lnMw=="))), Stream(says("4"))],
        MODEL_CHAIN=f"anthropic:claude-sonnet-5-5,{GEMINI}",
    )
    report = two.ask("Save milk, then count.").report
    assert (report.status, report.text, report.model) == ("ok", "4", GEMINI)
    assert [one.call.name for one in report.tool_calls] == ["save_note", "calculator", "calculator"]
    assert len({one.call.id for one in report.tool_calls}) == 3
    assert len(two.notes) == 1
    parts = two.gemini.requests[0].body["contents"][1]["parts"]
    assert {part["thoughtSignature"] for part in parts} == {"skip_thought_signature_validator"}
    assert not any("Hm." in str(part) for part in parts)


def test_half_an_answer_of_claude_is_void_and_never_runs_into_that_of_gemini(make: Make) -> None:
    two = make([Cut(claude_says("Half an answer that never"), frames=5)], [Stream(says("A whole one."))])
    report = two.ask("Hello").report
    assert (report.status, report.text) == ("ok", "A whole one.")
    kinds = [type(event) for event in two.events if isinstance(event, (TextStreamed, AttemptAbandoned, FellBack))]
    assert AttemptAbandoned in kinds
    last_void = len(kinds) - 1 - kinds[::-1].index(AttemptAbandoned)
    assert kinds[last_void + 1] is FellBack or kinds[last_void + 1] is TextStreamed
    whole = "".join(event.text for event in two.of(TextStreamed)[-2:])
    assert whole == "A whole one."


# --- who is asked, and who is not ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "error_type"),
    [
        (Refuse(400, "INVALID_ARGUMENT", "Invalid value"), "BadRequest"),
        (Refuse(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."), "AuthenticationError"),
        (Refuse(403, "PERMISSION_DENIED"), "PermissionDenied"),
    ],
)
def test_a_refused_key_or_request_of_gemini_is_no_reason_to_ask_another(
    make: Make, refusal: Refuse, error_type: str
) -> None:
    two = make([Stream(claude_says("silently"))], [refusal], MODEL_CHAIN=f"{GEMINI},{CLAUDE}")
    report = two.ask("Hello").report
    assert report.error is not None
    assert (report.status, report.error.type) == ("failed", error_type)
    assert (len(two.gemini.requests), two.claude.requests, two.hops) == (1, [], [])


@pytest.mark.parametrize(
    ("behaviour", "requests"),
    [
        (Refuse(404, "NOT_FOUND"), 1),
        (Refuse(402), 1),
        (Refuse(503, "UNAVAILABLE", "The model is overloaded."), 1),
        (Refuse(503, "UNAVAILABLE", "unavailable"), 2),
        (Refuse(500, "INTERNAL"), 2),
        (Refuse(504, "DEADLINE_EXCEEDED"), 2),
        (Refuse(429, "RESOURCE_EXHAUSTED", "quota"), 2),
        (Refuse(429, "RESOURCE_EXHAUSTED", "quota", headers={"retry-after": "3600"}), 1),
        (Cut(says("half of it"), frames=1), 2),
        (Stream(calls(NOTE)[:1]), 2),
        (Stream([chunk(NOTE, finish="MALFORMED_FUNCTION_CALL")]), 2),
        (Stream([raw_chunk({"error": {"code": 503, "status": "UNAVAILABLE", "message": "overloaded"}})]), 1),
        (Status(200, b"<html>hi</html>", {"content-type": "text/html"}), 2),
        (Silence(), 1),
        (Stall(says("half of it"), frames=1), 1),
    ],
    ids=str,
)
def test_whatever_else_gemini_does_the_next_is_asked_and_it_is_told(
    make: Make, behaviour: Scripted | Refuse, requests: int
) -> None:
    two = make(
        [Stream(claude_says("fine"))],
        [behaviour],
        MODEL_CHAIN=f"{GEMINI},anthropic:claude-sonnet-5-5",
        LLM_TIMEOUT="0.3",
    )
    begun_s = time.monotonic()
    report = two.ask("Hello").report
    assert (report.status, report.text, report.model) == ("ok", "fine", "anthropic:claude-sonnet-5-5")
    assert len(two.gemini.requests) == requests
    assert two.hops == [(GEMINI, "anthropic:claude-sonnet-5-5")]
    assert (two.notes, report.tool_calls) == ([], ())
    assert time.monotonic() - begun_s < 3


@pytest.mark.parametrize("behaviour", [Silence(), Stall(says("half of it"), frames=1), Drip(says("a" * 99), 1, 0.03)])
def test_a_question_ends_by_its_deadline_whatever_gemini_does(make: Make, behaviour: Scripted) -> None:
    two = make([], [behaviour], MODEL_CHAIN=GEMINI, TOTAL_TIMEOUT="0.6")
    begun_s = time.monotonic()
    report = two.ask("Hello").report
    assert time.monotonic() - begun_s <= 0.6 + 0.25
    assert report.error is not None
    assert (report.status, report.error.type) == ("failed", "DeadlineExceeded")


def test_the_key_of_gemini_is_in_nothing_that_is_written(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    key = FakeGemini.key
    two = make([], [Refuse(403, "PERMISSION_DENIED", f"The key {key} was reported as leaked.")], MODEL_CHAIN=GEMINI)
    answer = two.ask("Hello")
    two.agent.traces.close(5.0)
    written = [str(answer.report.error), caplog.text, str(two.agent.traces.get(answer.trace_id)), str(two.events)]
    assert all("leaked" in text for text in written[:1])
    assert not any(key in text for text in written)
    assert not any(key in path.read_bytes().decode("latin-1") for path in two.folder.rglob("*") if path.is_file())


def test_an_empty_purse_at_anthropic_goes_to_the_other_provider_past_haiku(make: Make) -> None:
    two = make([Status(402)], [Stream(says("fine"))])
    assert two.ask("Hello").report.model == GEMINI
    assert len(two.claude.requests) == 1
    assert two.hops == [("anthropic:claude-sonnet-5-5", GEMINI)]


def test_when_all_fail_one_error_says_what_each_said_with_the_kind_of_the_last(make: Make) -> None:
    two = make([Status(529)], [Refuse(404, "NOT_FOUND", "models/gemini-3.6-flash is not found")])
    report = two.ask("Hello").report
    assert report.error is not None
    assert (report.status, report.error.type, report.error.kind.value) == ("failed", "ChainExhausted", "fatal")
    for name in THREE.split(","):
        assert f"{name} said" in str(report.error)
    assert "not found" in str(report.error)
    assert [to for _, to in two.hops] == [*THREE.split(",")[1:], ""]


def test_an_open_breaker_of_gemini_leaves_the_others_alone(make: Make) -> None:
    two = make(
        [Stream(claude_says("fine"))],
        [Refuse(500, "INTERNAL")],
        MODEL_CHAIN=f"{GEMINI},anthropic:claude-sonnet-5-5",
        BREAKER_FAILURE_THRESHOLD="2",
    )
    for _ in range(3):
        assert two.ask("Hello").report.status == "ok"
    assert (len(two.gemini.requests), len(two.claude.requests)) == (2, 3)


# --- what the model says ---------------------------------------------------------------------------------


def test_a_refusal_of_gemini_is_one_and_no_tool_runs(make: Make) -> None:
    blocked = raw_chunk({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}})
    for answer in ([chunk(NOTE, finish="SAFETY")], [blocked]):
        two = make([Status(529)], [Stream(answer)])
        report = two.ask("Hello").report
        assert report.error is not None
        assert (report.status, report.error.type, report.tool_calls, two.notes) == ("failed", "Refused", (), [])


def test_a_text_cut_by_max_tokens_is_degraded_and_a_call_is_not_run(make: Make) -> None:
    two = make([Status(529)], [Stream([chunk({"text": "Half"}, finish="MAX_TOKENS")])], MODEL_CHAIN=GEMINI)
    assert two.ask("Hello").report.status == "degraded"
    two = make([Status(529)], [Stream([chunk(NOTE, finish="MAX_TOKENS")])], MODEL_CHAIN=GEMINI)
    report = two.ask("Hello").report
    assert (report.status, report.tool_calls, two.notes) == ("failed", (), [])


def test_arguments_that_are_no_object_go_back_to_the_model(make: Make) -> None:
    two = make([], [Stream(calls(call("calculator", ["15*23"]))), Stream(says("Sorry."))], MODEL_CHAIN=GEMINI)
    report = two.ask("Hello").report
    assert (report.status, report.text) == ("ok", "Sorry.")
    assert [one.status for one in report.tool_calls] == ["invalid"]


def test_a_model_that_always_asks_for_tools_is_stopped(make: Make) -> None:
    two = make([], [Stream(calls(call("calculator", {"expression": "1+1"})))], MODEL_CHAIN=GEMINI)
    report = two.ask("Hello").report
    assert report.status == "failed"
    assert len(two.gemini.requests) <= 12


def test_faults_can_be_aimed_at_gemini_alone(make: Make) -> None:
    two = make([], [Stream(says("fine"))], MODEL_CHAIN=GEMINI)
    two.agent.plan.replace([parse_fault("model.google:error*1"), parse_fault("model.anthropic:auth")])
    assert two.ask("Hello").report.text == "fine"
    assert [fault.target for fault in two.of(FaultInjected)] == ["model.google.gemini-3.6-flash"]


# --- local servers ---------------------------------------------------------------------------------------


def test_a_local_server_is_one_more_link_and_needs_no_key(make: Make) -> None:
    two = make([Stream(claude_says("local"))], [Refuse(500)], MODEL_CHAIN="practice", ANTHROPIC_API_KEY="")
    chain = f"{GEMINI},local:qwen3:8b@{two.claude.url}"
    again = make([], [], MODEL_CHAIN=chain, GEMINI_BASE_URL=two.gemini.url, ANTHROPIC_API_KEY="")
    report = again.ask("Hello").report
    assert (report.status, report.text, report.model) == ("ok", "local", f"local:qwen3:8b@{two.claude.url}")
    assert again.of(AttemptStarted)[-1].dependency == "model.local.qwen3:8b"
    (sent,) = two.claude.requests
    assert (sent.path, sent.body["model"]) == ("/v1/messages", "qwen3:8b")
    assert (sent.headers["x-api-key"], sent.headers["anthropic-version"]) == ("local", "2023-06-01")
    assert not {"output_config", "cache_control"} & sent.body.keys()


def test_faults_can_be_aimed_at_a_local_model(make: Make) -> None:
    local = make([Stream(claude_says("hi"))], [])
    two = make([], [], MODEL_CHAIN=f"local:qwen3:8b@{local.claude.url}", ANTHROPIC_API_KEY="")
    two.agent.plan.replace([parse_fault("model.local.qwen3:8b:overloaded*1")])
    assert two.ask("Hello").report.text == "hi"
    assert [fault.target for fault in two.of(FaultInjected)] == ["model.local.qwen3:8b"]
    assert len(local.claude.requests) == 1


def test_a_password_of_a_local_server_goes_there_and_is_shown_nowhere(make: Make) -> None:
    local = make([Stream(claude_says("hi"))], [])
    url = local.claude.url.replace("//", "//me:hunter2-secret@")
    two = make([], [], MODEL_CHAIN=f"local:qwen3:8b@{url}")
    answer = two.ask("Hello")
    assert answer.report.text == "hi"
    assert local.claude.requests[0].headers["authorization"].startswith("Basic ")
    assert "hunter2" not in str(answer.report.model) + str(two.events) + repr(two.agent.settings)


def test_what_a_local_model_thought_is_never_sent_to_claude(make: Make) -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "bG9jYWw="}
    local = make([Stream(claude_message([thought, {"type": "text", "text": "42"}], usage={}))], [])
    chain = f"local:qwen3:8b@{local.claude.url},anthropic:claude-sonnet-5-5"
    two = make([Stream(claude_says("fine"))], [], MODEL_CHAIN=chain)
    report = two.ask("Hello").report
    assert (report.text, report.usage.input_tokens, report.cost_usd) == ("42", None, None)
    local.claude.__exit__(None, None, None)
    assert two.ask("And?").report.model == "anthropic:claude-sonnet-5-5"
    assert "Hm." not in str(two.claude.requests[-1].body)


# --- links without a key ---------------------------------------------------------------------------------


def test_links_without_their_key_are_left_out_and_a_chain_without_any_says_what_to_do(tmp_path: Path) -> None:
    def links(**variables: str) -> list[str]:
        return [link.name for link in usable_links(settings("http://h", THREE, tmp_path, **variables))]

    assert links() == CLAUDE.split(",")
    assert links(GEMINI_API_KEY="AIza-12345678") == THREE.split(",")
    assert links(GEMINI_API_KEY="AIza-12345678", ANTHROPIC_API_KEY="") == [GEMINI]
    with pytest.raises(ConfigurationError) as caught:
        links(ANTHROPIC_API_KEY="")
    assert str(caught.value) == "no model can be asked: ANTHROPIC_API_KEY and GEMINI_API_KEY are not set"
    assert "--offline" in caught.value.what_now
