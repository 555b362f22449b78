"""Both performers against a fake API over real sockets: what comes out of what comes in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest

from errors import AgentError, ConfigurationError, ErrorType, Outcome
from events import AttemptAbandoned, Event, FaultInjected, ModelAnswered, TextStreamed, ThinkingStreamed
from faults import FaultPlan, parse_fault
from messages import (
    Message,
    ModelRequest,
    Reply,
    Text,
    Thinking,
    ToolResult,
    ToolSpec,
    ToolUse,
    assistant,
    user,
)
from models.chain import PRACTICE, Converse, Link
from models.claude import ClaudeAsync, ClaudeBlocking, checked_key, preload
from models.practice.protocol import error_event, sse_events
from models.wire import params, sendable_id, sendable_name
from tests.fake_messages import (
    Cut,
    Drip,
    FakeMessages,
    Raw,
    Scripted,
    Silence,
    Stall,
    Status,
    Stream,
    calls,
    message,
    says,
)
from tests.history_validator import breaches

SONNET = Link("anthropic", "claude-sonnet-5-5")
QUESTION = ModelRequest("You are kind.", (user("Hi"),), (ToolSpec("calculator", "sums", {"type": "object"}),))
SSE_TYPE = {"content-type": "text/event-stream"}
WALL_S = 1_800_000_000.0


class Branch:
    """What a door hands to a performer."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.heard_times = 0
        self.on_text: Callable[[], None] | None = None

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if self.on_text and isinstance(event, TextStreamed):
            self.on_text()

    def heard(self) -> None:
        self.heard_times += 1

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class Asker:
    """One performer, blocking or asyncio, asked several things in one life."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.branch = Branch()
        self.plan = FaultPlan()

    def ask(
        self,
        api: FakeMessages,
        *requests: ModelRequest,
        link: Link = SONNET,
        key: str | None = FakeMessages.key,
        **more: Any,
    ) -> list[Reply]:
        """The answers to these requests, asked one after the other."""
        settings = {"base_url": api.url, "wall": lambda: WALL_S, **more}
        effects = [Converse(request, link) for request in requests or (QUESTION,)]
        if self.kind == "blocking":
            blocking = ClaudeBlocking(key, self.plan, **settings)
            with contextlib.closing(blocking):
                return [blocking(effect, self.branch) for effect in effects]

        async def run() -> list[Reply]:
            performer = ClaudeAsync(key, self.plan, **settings)
            async with contextlib.aclosing(performer):
                return [await performer(effect, self.branch) for effect in effects]

        return asyncio.run(run())

    def fails(self, *script: Scripted, **more: Any) -> AgentError:
        """The error after exactly one request."""
        with FakeMessages(*script) as api:
            with pytest.raises(AgentError) as caught:
                self.ask(api, **more)
            assert api.reached.wait(5)
            assert len(api.requests) == 1
        assert caught.value.dependency == "model.anthropic.claude-sonnet-5-5"
        assert self.branch.of(ModelAnswered) == []
        return caught.value


@pytest.fixture(params=["blocking", "asyncio"])
def asker(request: pytest.FixtureRequest) -> Asker:
    return Asker(request.param)


# --- answers ---------------------------------------------------------------------------------------------


def test_text_arrives_piece_by_piece_and_as_a_whole(asker: Asker) -> None:
    with FakeMessages(Stream(says("Good morning, world"))) as api:
        (reply,) = asker.ask(api)
    assert (reply.text, reply.stop_reason, reply.link) == ("Good morning, world", "end_turn", SONNET.name)
    pieces = asker.branch.of(TextStreamed)
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == "Good morning, world"
    answered = asker.branch.events[-1]
    assert isinstance(answered, ModelAnswered)
    assert (answered.link, answered.model, answered.stop_reason) == (SONNET.name, "claude-sonnet-5-5", "end_turn")
    assert reply.cost_usd == answered.cost_usd == pytest.approx((10 * 2 + 5 * 10) / 1e6)
    assert answered.first_token_s is not None
    assert not asker.branch.of(AttemptAbandoned)
    assert asker.branch.heard_times == len(pieces) + 4  # start, stop, message_delta, message_stop; not the ping


def test_thinking_and_tool_calls_come_whole(asker: Asker) -> None:
    thought = {"type": "thinking", "thinking": "15 × 23", "signature": "c2ln"}
    call = calls(("calculator", {"expression": "15 × 23"}))["content"][0]
    with FakeMessages(Stream(message([thought, call], "tool_use"))) as api:
        (reply,) = asker.ask(api)
    assert reply.blocks == (Thinking(thought, SONNET.name), ToolUse("toolu_1", "calculator", {"expression": "15 × 23"}))
    assert asker.branch.of(ThinkingStreamed)


def test_what_is_sent_is_what_the_api_wants(asker: Asker) -> None:
    with FakeMessages() as api:
        asker.ask(api)
    (sent,) = api.requests
    assert sent.headers["authorization"] == f"Bearer {api.key}"
    assert "x-api-key" not in sent.headers
    assert "traceparent" not in sent.headers
    assert sent.headers["accept-encoding"] == "identity"
    assert sent.body == {
        "model": "claude-sonnet-5-5",
        "max_tokens": 16384,
        "system": "You are kind.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "tools": [{"name": "calculator", "description": "sums", "input_schema": {"type": "object"}}],
        "stream": True,
        "output_config": {"effort": "low"},
        "cache_control": {"type": "ephemeral"},
    }
    assert api.breaches == []


def test_a_stream_dripping_byte_by_byte_is_the_same_answer(asker: Asker) -> None:
    with FakeMessages(Drip(says("Grüße 😀"))) as api:
        assert asker.ask(api)[0].text == "Grüße 😀"


def test_an_answer_counts_once_it_is_whole_whatever_the_connection_does_then(asker: Asker) -> None:
    whole = says("done")
    script = (Stall(whole, frames=99), Cut(whole, how="abrupt"), Stream(whole))
    with FakeMessages(*script) as api:
        replies = asker.ask(api, QUESTION, QUESTION, QUESTION)
    assert [reply.text for reply in replies] == ["done"] * 3
    assert len(asker.branch.of(ModelAnswered)) == 3
    assert not asker.branch.of(AttemptAbandoned)


def test_asyncio_keeps_its_connection_between_whole_answers() -> None:
    with FakeMessages() as api:
        Asker("asyncio").ask(api, QUESTION, QUESTION, QUESTION)
        assert (len(api.requests), api.connections) == (3, 1)


def test_a_call_id_that_the_history_has_already_is_refused(asker: Asker) -> None:
    history = (
        user("Hi"),
        Message("assistant", (ToolUse("toolu_1", "calculator", {}),)),
        Message("user", (ToolResult("toolu_1", "5"),)),
    )
    with FakeMessages(Stream(calls(("calculator", {})))) as api, pytest.raises(AgentError) as caught:
        asker.ask(api, ModelRequest("", history))
    assert caught.value.reason == "protocol"


# --- refusals by status ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "kind", "outcome"),
    [
        (400, "bad_request", ErrorType.FATAL, Outcome.NEUTRAL),
        (401, "authentication", ErrorType.FATAL, Outcome.NEUTRAL),
        (402, "billing", ErrorType.FATAL, Outcome.NEUTRAL),
        (403, "permission", ErrorType.FATAL, Outcome.NEUTRAL),
        (404, "not_found", ErrorType.FATAL, Outcome.NEUTRAL),
        (408, "timeout", ErrorType.TRANSIENT, Outcome.FAILURE),
        (409, "server_error", ErrorType.TRANSIENT, Outcome.FAILURE),
        (413, "too_large", ErrorType.FATAL, Outcome.NEUTRAL),
        (422, "bad_request", ErrorType.FATAL, Outcome.NEUTRAL),
        (429, "rate_limit", ErrorType.TRANSIENT, Outcome.THROTTLED),
        (500, "server_error", ErrorType.TRANSIENT, Outcome.FAILURE),
        (502, "server_error", ErrorType.TRANSIENT, Outcome.FAILURE),
        (503, "server_error", ErrorType.TRANSIENT, Outcome.FAILURE),
        (504, "server_error", ErrorType.TRANSIENT, Outcome.FAILURE),
        (529, "overloaded", ErrorType.TRANSIENT, Outcome.FAILURE),
    ],
)
def test_each_status_has_its_meaning_and_is_asked_once(
    asker: Asker, status: int, reason: str, kind: ErrorType, outcome: Outcome
) -> None:
    error = asker.fails(Status(status))
    assert (error.reason, error.kind, error.verdict.outcome) == (reason, kind, outcome)
    assert (error.status, error.request_id) == (status, "req_fake")


def test_html_of_a_gateway_is_never_shown(asker: Asker) -> None:
    page = b"<html><body>502 Bad Gateway nginx</body></html>"
    error = asker.fails(Status(502, page, {"content-type": "text/html"}))
    assert str(error) == "server error (502)"


def test_an_empty_purse_is_told_from_a_bad_request_and_from_a_rate_limit(asker: Asker) -> None:
    poor = b'{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low"}}'
    assert asker.fails(Status(400, poor)).reason == "billing"
    spent = (
        b'{"type":"error","error":{"type":"rate_limit_error","message":"limit",'
        b'"details":{"error_code":"enforced_spend_limit_reached"}}}'
    )
    assert asker.fails(Status(429, spent)).reason == "billing"


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after": formatdate(WALL_S + 20, usegmt=True)}, 20.0),
        ({"retry-after": formatdate(WALL_S - 20, usegmt=True)}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "86400"}, 86400.0),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_each_of_its_forms(headers: dict[str, str], wait_s: float | None) -> None:
    assert Asker("asyncio").fails(Status(429, headers=headers)).retry_after_s == wait_s


def test_a_server_may_forbid_a_retry(asker: Asker) -> None:
    assert asker.fails(Status(500, headers={"x-should-retry": "false"})).may_retry is False


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(asker: Asker, status: int) -> None:
    with FakeMessages() as elsewhere:
        error = asker.fails(Status(status, b"", {"location": elsewhere.url + "/v1/messages"}))
        assert elsewhere.requests == []
    assert (error.reason, error.status) == ("redirect", status)


def test_the_status_counts_although_its_body_breaks_off_or_never_ends(asker: Asker) -> None:
    broken = b"HTTP/1.1 401 No\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"
    assert asker.fails(Raw(broken)).reason == "authentication"
    endless = Status(529, b"x" * 5_000_000)
    assert asker.fails(endless).reason == "overloaded"


# --- what is no answer of the API ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Status(200, b"<html>Welcome</html>", {"content-type": "text/html; charset=utf-8"}), "text/html"),
        (Status(200, b"hello", {"content-type": "text/plain"}), "text/plain"),
        (Status(200, json.dumps(says("hi")).encode()), "application/json"),
        (Status(200, b"", {"content-type": ""}), "no content type"),
        (Status(204, b""), "application/json"),
        (Status(200, b"", {"content-type": "text/event-stream"}), "before the answer began"),
        (Status(200, b"rubbish\n\n", {"content-type": "text/event-stream"}), "before the answer began"),
        (Status(200, b"\x1f\x8brubb", {**SSE_TYPE, "content-encoding": "gzip"}), "not the answer"),
        (Stream([b"data: {oops\n\n"]), "not JSON"),
        (Stream([b"event: message_start\ndata: null\n\n"]), "without data"),
    ],
)  # fmt: skip
def test_whatever_else_comes_with_a_200_is_no_answer(asker: Asker, answer: Scripted, said: str) -> None:
    error = asker.fails(answer)
    assert (error.reason, error.kind) == ("protocol", ErrorType.TRANSIENT)
    assert said in str(error)


# --- broken connections ----------------------------------------------------------------------------------

TALK = message(
    [{"type": "text", "text": "abcdefghijklmnop"}, calls(("calculator", {"x": 1}))["content"][0]], "tool_use"
)
FRAMES = len(list(sse_events(TALK)))


@pytest.mark.parametrize("how", ["end", "abrupt", "reset"])
@pytest.mark.parametrize("frames", range(1, FRAMES))
def test_a_stream_cut_after_any_event_is_void(frames: int, how: str) -> None:
    asker = Asker("asyncio" if frames % 2 else "blocking")
    error = asker.fails(Cut(TALK, frames, how=how))
    # An RST may overtake what was sent before it: then nothing had begun.
    assert error.reason == "protocol" or (how == "reset" and error.reason == "connection")
    shown = sum(len(event.text) for event in asker.branch.of(TextStreamed))
    voided = [(event.dependency, event.chars_voided) for event in asker.branch.of(AttemptAbandoned)]
    assert voided == ([(SONNET.dependency, shown)] if shown else [])


def test_a_cut_in_the_middle_of_a_character_is_void(asker: Asker) -> None:
    whole = b"".join(sse_events(says("Ü" * 6)))
    error = asker.fails(Cut(says("Ü" * 6), after_bytes=whole.index("Ü".encode()) + 1))
    assert error.reason == "protocol"


@pytest.mark.parametrize("answer", [Raw(b""), Raw(b"", reset=True), Raw(b"HTTP/1.1 200"), Raw(b"SSH-2.0-x\r\n")])
def test_a_connection_that_breaks_before_the_answer_is_a_failed_connection(asker: Asker, answer: Scripted) -> None:
    error = asker.fails(answer)
    assert (error.reason, error.kind) == ("connection", ErrorType.TRANSIENT)


def test_a_refused_connection_says_so(asker: Asker) -> None:
    with FakeMessages() as api:
        pass
    with pytest.raises(AgentError) as caught:
        asker.ask(api)
    assert caught.value.reason == "connection"
    assert str(caught.value) != "connection failed: Connection error."


@pytest.mark.parametrize("frames", [0, 2, 4])
def test_error_events_in_the_stream_are_classified_by_type(asker: Asker, frames: int) -> None:
    said = [*list(sse_events(says("abcdefghijkl")))[:frames], error_event("overloaded_error", "Overloaded")]
    error = asker.fails(Stream(said))
    assert (error.reason, str(error)) == ("overloaded", "overloaded")
    assert len(asker.branch.of(AttemptAbandoned)) == (frames == 4)


# --- stalls, cancellation, alarms ------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [Silence(), Stall(says("x")), Stall(TALK, frames=4), Stall(TALK, 4, pings_s=0.005)])
def test_a_cancelled_question_ends_at_once_and_hangs_up(answer: Scripted) -> None:
    async def run(api: FakeMessages) -> tuple[Branch, float]:
        performer, branch = ClaudeAsync(api.key, FaultPlan(), base_url=api.url), Branch()
        task = asyncio.create_task(performer(Converse(QUESTION, SONNET), branch))
        await asyncio.to_thread(api.reached.wait, 5)
        while isinstance(answer, Stall) and answer.frames > 0 and not branch.of(TextStreamed):
            await asyncio.sleep(0.001)
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        took_s = time.monotonic() - begun
        assert await asyncio.to_thread(api.hung_up.wait, 5)
        await performer.aclose()
        return branch, took_s

    with FakeMessages(answer) as api:
        branch, took_s = asyncio.run(run(api))
    assert took_s < 0.2
    assert bool(branch.of(AttemptAbandoned)) == bool(branch.of(TextStreamed))
    assert branch.events[-1:] == branch.of(AttemptAbandoned)


def test_pings_alone_are_not_heard() -> None:
    async def run(api: FakeMessages) -> int:
        performer, branch = ClaudeAsync(api.key, FaultPlan(), base_url=api.url), Branch()
        task = asyncio.create_task(performer(Converse(QUESTION, SONNET), branch))
        await asyncio.to_thread(api.reached.wait, 5)
        await asyncio.wait([task], timeout=0.05)
        task.cancel()
        await asyncio.wait([task])
        await performer.aclose()
        return branch.heard_times

    with FakeMessages(Stall(says("x"), frames=2, pings_s=0.002)) as api:
        assert asyncio.run(run(api)) == 0


class Alarm(BaseException):
    """What the blocking door raises from its signal handler."""


def on_alarm(seconds: float) -> None:
    def ring(*_: object) -> None:
        raise Alarm

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)


@pytest.fixture
def _alarm_off() -> Any:
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this platform")
@pytest.mark.usefixtures("_alarm_off")
@pytest.mark.parametrize("answer", [Silence(), Stall(TALK, frames=4)], ids=["silence", "mid stream"])
def test_an_alarm_goes_through_and_its_connection_is_not_used_again(answer: Scripted) -> None:
    with FakeMessages(answer, Stream(says("next"))) as api:
        performer, branch = ClaudeBlocking(api.key, FaultPlan(), base_url=api.url), Branch()
        effect = Converse(QUESTION, SONNET)
        preload()  # not the import is to be interrupted
        on_alarm(0.15)
        with pytest.raises(Alarm):
            performer(effect, branch)
        assert api.hung_up.wait(5)
        assert bool(branch.of(AttemptAbandoned)) == bool(branch.of(TextStreamed)) == isinstance(answer, Stall)
        assert performer(effect, branch).text == "next"
        assert api.connections == 2
        performer.close()


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this platform")
@pytest.mark.usefixtures("_alarm_off")
def test_an_alarm_ends_a_name_that_is_never_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()

    def unanswered(*_: Any, **__: Any) -> list[Any]:
        never.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", unanswered)
    performer = ClaudeBlocking("sk-ant-test-key", FaultPlan(), base_url="http://dead.example")
    preload()
    begun = time.monotonic()
    on_alarm(0.1)
    with pytest.raises(Alarm):
        performer(Converse(QUESTION, SONNET), Branch())
    assert time.monotonic() - begun < 1.0
    never.set()


def test_the_belt_ends_what_nobody_else_ends(asker: Asker) -> None:
    error = asker.fails(Silence(), belt_s=0.1)
    assert (error.reason, error.kind) == ("timeout", ErrorType.TRANSIENT)


def test_an_unknown_host_is_said_to_be_one(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with FakeMessages() as api, pytest.raises(AgentError) as caught:
        asker.ask(api, base_url="http://no-such-host.example")
    assert caught.value.reason == "unknown_host"


def test_a_name_with_several_addresses_is_tried_until_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.2", "127.0.0.1")]
    with FakeMessages() as api:
        port, ask = api.url.rpartition(":")[2], socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *more, **named: rows if "two" in host else ask(host, *more, **named)
        )
        assert Asker("blocking").ask(api, base_url=f"http://two.example:{port}")[0].text == "Hello"
        assert api.requests[0].headers["host"] == f"two.example:{port}"


# --- proxies ---------------------------------------------------------------------------------------------


def test_the_proxy_of_the_environment_is_used(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeMessages() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert asker.ask(proxy, base_url="http://api.example")[0].text == "Hello"
        assert proxy.requests[0].headers["host"] == "api.example"


def test_a_proxy_that_refuses_is_named_as_the_cause(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeMessages(Status(407)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        with pytest.raises(AgentError) as caught:
            asker.ask(proxy, base_url="http://api.example")
    assert (caught.value.reason, caught.value.kind) == ("proxy", ErrorType.FATAL)


def test_no_proxy_is_used_for_hosts_that_are_excepted(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeMessages() as api, FakeMessages() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        asker.ask(api)
        assert (len(api.requests), len(proxy.requests)) == (1, 0)


def test_a_useless_proxy_is_a_configuration_error_without_its_password(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "gopher://me:hunter2@proxy.example")
    with FakeMessages() as api, pytest.raises(ConfigurationError) as caught:
        asker.ask(api)
    assert "hunter2" not in f"{caught.value} {caught.value.what_now}"


# --- keys and secrets ------------------------------------------------------------------------------------


def test_a_missing_key_is_said_before_anything_is_sent(asker: Asker) -> None:
    with FakeMessages() as api, pytest.raises(ConfigurationError, match="ANTHROPIC_API_KEY"):
        asker.ask(api, key=None)
    assert api.requests == []


@pytest.mark.parametrize("key", ["sk-ant-with space", "sk-ant-line\n", "sk-ant-ümlaut", "\x00sk-ant"])
def test_a_key_no_header_takes_is_refused_without_quoting_it(key: str) -> None:
    with pytest.raises(ConfigurationError, match="ANTHROPIC_API_KEY") as caught:
        checked_key(key)
    assert key not in str(caught.value)


def test_the_practice_model_needs_no_key(asker: Asker) -> None:
    with FakeMessages() as unused:
        (reply,) = asker.ask(unused, link=PRACTICE, key=None)
        assert unused.requests == []
    assert (reply.link, reply.cost_usd) == ("practice", 0.0)
    assert reply.text


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_no_secret_and_no_escape_of_an_error_reaches_the_message(asker: Asker, status: int) -> None:
    key = FakeMessages.key
    words = f"key {key} or Bearer {key} \x1b]0;owned\x07\nsecond line"
    body = json.dumps({"type": "error", "error": {"type": "api_error", "message": words}}).encode()
    error = asker.fails(Status(status, body))
    assert key not in str(error)
    assert "\x1b" not in str(error)
    assert "\n" not in str(error)


# --- what is written -------------------------------------------------------------------------------------


def test_lone_surrogates_are_made_encodable_on_the_wire(asker: Asker) -> None:
    history = (
        user("a\ud800b"),
        Message("assistant", (ToolUse("toolu_1", "x", {"k\udc00": ["\ud83d"]}),)),
        Message("user", (ToolResult("toolu_1", "\ud83d\ude00"),)),
    )
    with FakeMessages() as api:
        asker.ask(api, ModelRequest("s\ud800", history))
    assert api.breaches == []
    assert api.requests[0].body["messages"][0]["content"][0]["text"] == "a\ufffdb"
    assert api.requests[0].body["messages"][2]["content"][0]["content"] == "😀"


def test_a_history_with_odd_words_is_still_valid_on_the_wire() -> None:
    thought = Thinking({"type": "thinking", "thinking": "hm", "signature": "s"}, SONNET.name)
    history = (
        user("Hi"),
        Message("assistant", (thought, Text(" \n"), ToolUse("call:1.2", "look up!", {}), ToolUse("ü", "", {}))),
        Message("user", (ToolResult("call:1.2", ""), ToolResult("ü", "", is_error=True), Text(""))),
        Message("assistant", (Text("Well."), thought)),
        user("x"),
        Message("assistant", (Text("  "),)),
        user("and?"),
    )
    body = params(ModelRequest("", history), SONNET)
    assert breaches(body) == []
    assert body["messages"][1]["content"][0] == thought.block
    assert "system" not in body
    assert "tools" not in body


def test_names_and_ids_that_are_fine_stay_as_they_are() -> None:
    assert (sendable_name("get_weather-2"), sendable_id("toolu_01A-b")) == ("get_weather-2", "toolu_01A-b")
    assert len(sendable_name("x" * 500)) == 128
    assert sendable_id("a.b") == sendable_id("a.b") != sendable_id("a:b")


@pytest.mark.parametrize(
    ("link", "extras"),
    [
        (SONNET, True),
        (Link("anthropic", "claude-haiku-4-5"), False),
        (Link("anthropic", "qwen3:4b"), False),
        (PRACTICE, False),
    ],
)
def test_only_models_that_know_them_are_sent_effort_and_caching(link: Link, extras: bool) -> None:
    body = params(ModelRequest("", (user("x"), assistant("y"), user("z"))), link)
    assert ("output_config" in body, "cache_control" in body) == (extras, extras)


# --- faults ----------------------------------------------------------------------------------------------


def test_faults_strike_a_real_client_too_and_are_told(asker: Asker) -> None:
    asker.plan.add(parse_fault("model.anthropic:overloaded*1"))
    with FakeMessages() as api:
        with pytest.raises(AgentError, match="529"):
            asker.ask(api)
        assert api.requests == []
        assert asker.branch.events == [FaultInjected("model.anthropic.claude-sonnet-5-5", "overloaded", "")]
        assert asker.ask(api)[0].text == "Hello"


def test_the_wire_of_the_fake_is_the_wire_of_the_api() -> None:
    """A frame is what the SDK's own decoder takes, too: our parser and the fake do not agree on an error."""
    import anthropic

    question: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    with FakeMessages(Stream(TALK)) as api:
        client = anthropic.Anthropic(api_key=api.key, base_url=api.url, max_retries=0)
        with client, client.messages.stream(**question) as stream:
            whole = stream.get_final_message()
    assert [block.type for block in whole.content] == ["text", "tool_use"]
    assert api.breaches == []
