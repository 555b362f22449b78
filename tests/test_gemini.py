"""Both Gemini performers against a fake API over real sockets: what comes out of what comes in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable
from typing import Any

import pytest

from errors import AgentError, ConfigurationError, ErrorType, Outcome
from events import AttemptAbandoned, Event, FaultInjected, ModelAnswered, TextStreamed, ThinkingStreamed
from faults import FaultPlan, parse_fault
from messages import Message, ModelRequest, Reply, Text, ToolResult, ToolSpec, ToolUse, Usage, user
from models.chain import Converse, Link
from models.gemini import GeminiAsync, GeminiBlocking
from tests.fake_gemini import FakeGemini, Refuse, call, calls, chunk, error, raw_chunk, retry_info, says
from tests.fake_messages import Cut, Drip, Raw, Scripted, Silence, Stall, Status, Stream

FLASH = Link("google", "gemini-3.6-flash")
SUM = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}
QUESTION = ModelRequest("You are kind.", (user("Hi"),), (ToolSpec("calculator", "sums", SUM),))
SSE = {"content-type": "text/event-stream"}
TWO_CALLS = calls(
    call("calculator", {"expression": "15*23"}, id="a1", thoughtSignature="c2lnMQ=="),
    call("save_note", {"content": "milk"}, id="a2"),
)


class Branch:
    """What a door hands to a performer."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.heard_times = 0
        self.on_text: Callable[[], object] | None = None

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
        self, api: FakeGemini, *requests: ModelRequest, key: str | None = FakeGemini.key, url: str = "", **more: Any
    ) -> list[Reply]:
        """The answers to these requests, asked one after the other."""
        settings = {"base_url": url or api.url, "wall": lambda: 1_800_000_000.0, **more}
        effects = [Converse(request, FLASH) for request in requests or (QUESTION,)]
        if self.kind == "blocking":
            with contextlib.closing(GeminiBlocking(key, self.plan, **settings)) as blocking:
                return [blocking(effect, self.branch) for effect in effects]

        async def run() -> list[Reply]:
            async with contextlib.aclosing(GeminiAsync(key, self.plan, **settings)) as performer:
                return [await performer(effect, self.branch) for effect in effects]

        return asyncio.run(run())

    def fails(self, *script: Scripted | Refuse, **more: Any) -> AgentError:
        """The error after exactly one request."""
        with FakeGemini(*script) as api:
            with pytest.raises(AgentError) as caught:
                self.ask(api, **more)
            assert api.reached.wait(5)
            assert (len(api.requests), api.breaches) == (1, [])
        assert caught.value.dependency == "model.google.gemini-3.6-flash"
        assert self.branch.of(ModelAnswered) == []
        assert sum(event.chars_voided for event in self.branch.of(AttemptAbandoned)) == self.shown
        return caught.value

    @property
    def shown(self) -> int:
        return sum(len(event.text) for event in self.branch.of(TextStreamed))


@pytest.fixture(params=["blocking", "asyncio"])
def asker(request: pytest.FixtureRequest) -> Asker:
    return Asker(request.param)


# --- answers ---------------------------------------------------------------------------------------------


def test_text_arrives_piece_by_piece_and_as_a_whole(asker: Asker) -> None:
    with FakeGemini(Stream(says("Good morning, world"))) as api:
        (reply,) = asker.ask(api)
    assert (reply.text, reply.stop_reason, reply.link) == ("Good morning, world", "end_turn", FLASH.name)
    assert (reply.model, reply.id) == ("gemini-3.6-flash-001", "resp_1")
    assert [piece.text for piece in asker.branch.of(TextStreamed)] == ["Good m", "orning", ", worl", "d"]
    answered = asker.branch.events[-1]
    assert isinstance(answered, ModelAnswered)
    assert (answered.link, answered.stop_reason, answered.cost_usd) == (FLASH.name, "end_turn", None)
    assert reply.usage == Usage(12, 8, 0, 0)
    assert answered.first_token_s is not None
    assert not asker.branch.of(AttemptAbandoned)
    assert asker.branch.heard_times == 5


def test_what_is_sent_is_what_the_api_wants(asker: Asker) -> None:
    with FakeGemini() as api:
        asker.ask(api)
    (sent,) = api.requests
    assert (sent.method, sent.path) == ("POST", "/v1/models/gemini-3.6-flash:streamGenerateContent")
    assert sent.query == "alt=sse"
    assert sent.headers["x-goog-api-key"] == api.key
    assert "authorization" not in sent.headers
    assert sent.headers["accept-encoding"] == "identity"
    assert sent.body == {
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        "systemInstruction": {"parts": [{"text": "You are kind."}]},
        "tools": [
            {"functionDeclarations": [{"name": "calculator", "description": "sums", "parametersJsonSchema": SUM}]}
        ],
        "generationConfig": {"maxOutputTokens": 16384},
    }
    assert api.breaches == []


@pytest.mark.parametrize(
    ("suffix", "path"), [("", "/v1/"), ("/", "/v1/"), ("/v1beta", "/v1beta/"), ("/proxy/gemini", "/proxy/gemini/v1/")]
)
def test_a_base_url_keeps_its_path_and_its_version(suffix: str, path: str) -> None:
    with FakeGemini() as api:
        with contextlib.suppress(AgentError):
            Asker("blocking").ask(api, url=api.url + suffix)
        assert api.requests[0].path == f"{path}models/gemini-3.6-flash:streamGenerateContent"


def test_tool_calls_come_whole_and_go_back_with_their_signature(asker: Asker) -> None:
    with FakeGemini(Stream(TWO_CALLS), Stream(says("345. Saved.", "c2lnMg==")), Stream(says("You're welcome."))) as api:
        (first,) = asker.ask(api)
        assert first.stop_reason == "tool_use"
        assert first.tool_uses == (
            ToolUse("a1", "calculator", {"expression": "15*23"}),
            ToolUse("a2", "save_note", {"content": "milk"}),
        )
        results = Message("user", (ToolResult("a1", "345"), ToolResult("a2", "no room", is_error=True)))
        history: tuple[Message, ...] = (user("Hi"), Message("assistant", first.blocks), results)
        (second,) = asker.ask(api, ModelRequest("", history))
        history = (*history, Message("assistant", second.blocks), user("Thanks"))
        asker.ask(api, ModelRequest("", history))
        assert api.breaches == []
        assert api.requests[2].body["contents"][1:4] == [
            {
                "role": "model",
                "parts": [
                    {
                        "functionCall": {"id": "a1", "name": "calculator", "args": {"expression": "15*23"}},
                        "thoughtSignature": "c2lnMQ==",
                    },
                    {"functionCall": {"id": "a2", "name": "save_note", "args": {"content": "milk"}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "a1", "name": "calculator", "response": {"output": "345"}}},
                    {"functionResponse": {"id": "a2", "name": "save_note", "response": {"error": "no room"}}},
                ],
            },
            {
                "role": "model",
                "parts": [{"text": "345. Saved."}, {"text": "", "thoughtSignature": "c2lnMg=="}],
            },
        ]


def test_a_stream_dripping_byte_by_byte_is_the_same_answer(asker: Asker) -> None:
    with FakeGemini(Drip(says("Grüße 😀"))) as api:
        assert asker.ask(api)[0].text == "Grüße 😀"


def test_connections_are_kept_between_whole_answers(asker: Asker) -> None:
    with FakeGemini() as api:
        asker.ask(api, QUESTION, QUESTION, QUESTION)
        assert (len(api.requests), api.connections) == (3, 1)


def test_a_finish_without_the_end_of_the_body_is_no_whole_answer(asker: Asker) -> None:
    assert asker.fails(Cut(says("done"), how="abrupt")).reason == "protocol"


# --- refusals by status ----------------------------------------------------------------------------------

QUOTA = "You exceeded your current quota, please check your plan and billing details."


@pytest.mark.parametrize(
    ("code", "status", "words", "reason", "kind", "outcome"),
    [
        (400, "INVALID_ARGUMENT", "Invalid value at 'contents'", "bad_request", ErrorType.FATAL, Outcome.NEUTRAL),
        (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", "authentication", ErrorType.FATAL,
         Outcome.NEUTRAL),
        (400, "INVALID_ARGUMENT", "API key expired. Please renew the API key.", "authentication", ErrorType.FATAL,
         Outcome.NEUTRAL),
        (400, "INVALID_ARGUMENT",
         "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", "too_large",
         ErrorType.FATAL, Outcome.NEUTRAL),
        (400, "FAILED_PRECONDITION", "User location is not supported for the API use.", "bad_request", ErrorType.FATAL,
         Outcome.NEUTRAL),
        (400, "FAILED_PRECONDITION", "Please enable billing on your project.", "billing", ErrorType.FATAL,
         Outcome.NEUTRAL),
        (401, "UNAUTHENTICATED", "no", "authentication", ErrorType.FATAL, Outcome.NEUTRAL),
        (402, "", "no", "billing", ErrorType.FATAL, Outcome.NEUTRAL),
        (403, "PERMISSION_DENIED", "no", "permission", ErrorType.FATAL, Outcome.NEUTRAL),
        (404, "NOT_FOUND", "models/x is not found", "not_found", ErrorType.FATAL, Outcome.NEUTRAL),
        (413, "", "no", "too_large", ErrorType.FATAL, Outcome.NEUTRAL),
        (429, "RESOURCE_EXHAUSTED", QUOTA, "rate_limit", ErrorType.TRANSIENT, Outcome.THROTTLED),
        (429, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted.", "billing", ErrorType.FATAL,
         Outcome.NEUTRAL),
        (499, "CANCELLED", "no", "bad_request", ErrorType.FATAL, Outcome.NEUTRAL),
        (500, "INTERNAL", "no", "server_error", ErrorType.TRANSIENT, Outcome.FAILURE),
        (502, "", "no", "server_error", ErrorType.TRANSIENT, Outcome.FAILURE),
        (503, "UNAVAILABLE", "The service is currently unavailable.", "server_error", ErrorType.TRANSIENT,
         Outcome.FAILURE),
        (503, "UNAVAILABLE", "The model is overloaded. Please try again later.", "overloaded", ErrorType.TRANSIENT,
         Outcome.FAILURE),
        (503, "UNAVAILABLE", "This model is currently experiencing high demand.", "overloaded", ErrorType.TRANSIENT,
         Outcome.FAILURE),
        (504, "DEADLINE_EXCEEDED", "no", "server_error", ErrorType.TRANSIENT, Outcome.FAILURE),
        (529, "", "no", "overloaded", ErrorType.TRANSIENT, Outcome.FAILURE),
    ],
)  # fmt: skip
def test_each_status_has_its_meaning_and_is_asked_once(
    asker: Asker, code: int, status: str, words: str, reason: str, kind: ErrorType, outcome: Outcome
) -> None:
    error = asker.fails(Refuse(code, status, words))
    assert (error.reason, error.kind, error.verdict.outcome) == (reason, kind, outcome)
    assert error.status == code
    assert str(error).endswith(words)


def test_a_refused_key_is_told_by_its_detail_too_and_says_which_key() -> None:
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    error = Asker("asyncio").fails(Refuse(400, "INVALID_ARGUMENT", "Bad.", [detail]))
    assert (error.reason, error.what_now) == ("authentication", "Check GEMINI_API_KEY.")


@pytest.mark.parametrize(
    ("headers", "delay", "wait_s"),
    [
        ({}, "13s", 13.0),
        ({}, "0.5s", 0.5),
        ({"retry-after": "7"}, "", 7.0),
        ({"retry-after": "7"}, "13.25s", 13.25),
        ({"retry-after": "20"}, "13s", 20.0),
        ({}, "-3s", None),
        ({}, "soon", None),
        ({}, "1e9s", None),
        ({"retry-after": "nan"}, "", None),
    ],
)
def test_how_long_to_wait_is_read_in_each_of_its_forms(
    headers: dict[str, str], delay: str, wait_s: float | None
) -> None:
    refusal = Refuse(429, "RESOURCE_EXHAUSTED", QUOTA, [retry_info(delay)], headers)
    assert Asker("blocking").fails(refusal).retry_after_s == wait_s


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>502</html>", b"[]", b"null", b'"x"', b'{"error": "no"}', b'{"error": {"details": 7}}', b"\xff"],
)
def test_the_status_counts_whatever_the_body_says(asker: Asker, body: bytes) -> None:
    error = asker.fails(Status(502, body))
    assert (error.reason, error.status) == ("server_error", 502)
    assert "<" not in str(error)


def test_an_error_in_a_list_is_read_too() -> None:
    body = json.dumps([error(400, "INVALID_ARGUMENT", "API key not valid.")]).encode()
    assert Asker("blocking").fails(Status(400, body)).reason == "authentication"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(asker: Asker, status: int) -> None:
    with FakeGemini() as elsewhere:
        error = asker.fails(Status(status, b"", {"location": elsewhere.url}))
        assert elsewhere.requests == []
    assert (error.reason, error.status) == ("redirect", status)


# --- what is no answer of the API ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Status(200, b"<html>Welcome</html>", {"content-type": "text/html"}), "text/html"),
        (Status(200, json.dumps([{"candidates": []}]).encode()), "application/json"),
        (Status(204, b""), "application/json"),
        (Status(200, b"", SSE), "before it began"),
        (Status(200, b"rubbish\n\n", SSE), "before it began"),
        (Status(200, b"\x1f\x8brubb", {**SSE, "content-encoding": "gzip"}), "packed with gzip"),
        (Stream([b"data: {oops\r\n\r\n"]), "not JSON"),
        (Stream([b"data: null\r\n\r\n"]), "no object"),
        (Stream([raw_chunk([])]), "no object"),
    ],
)
def test_whatever_else_comes_with_a_200_is_no_answer(asker: Asker, answer: Scripted, said: str) -> None:
    error = asker.fails(answer)
    assert (error.reason, error.kind) == ("protocol", ErrorType.TRANSIENT)
    assert said in str(error)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (error(503, "UNAVAILABLE", "The model is overloaded."), "overloaded"),
        (error(500, "INTERNAL", "oops"), "server_error"),
        (error(429, "RESOURCE_EXHAUSTED", QUOTA, retry_info("3s")), "rate_limit"),
        (error(400, "INVALID_ARGUMENT", "bad"), "bad_request"),
        (error(504, "DEADLINE_EXCEEDED", "late"), "server_error"),
        ({"error": {"code": 403}}, "permission"),
        ({"error": {}}, "server_error"),
        ({"error": "down"}, "server_error"),
    ],
)
def test_an_error_in_the_middle_of_a_stream_is_classified_and_voids_it(
    asker: Asker, said: dict[str, Any], reason: str
) -> None:
    failed = asker.fails(Stream([chunk({"text": "Half an ans"}), raw_chunk(said)]))
    assert failed.reason == reason
    assert asker.shown == 11
    assert failed.retry_after_s == (3.0 if reason == "rate_limit" else None)


# --- broken connections ----------------------------------------------------------------------------------

TALK = [chunk({"text": "abcdef"}), chunk({"text": "ghijkl"}), *TWO_CALLS]
BYTES = b"".join(TALK)


@pytest.mark.parametrize("how", ["end", "abrupt", "reset"])
@pytest.mark.parametrize("frames", range(len(TALK)))
def test_a_stream_cut_after_any_chunk_is_void(frames: int, how: str) -> None:
    for kind in ("asyncio", "blocking"):
        error = Asker(kind).fails(Cut(TALK, frames, how=how))
        # An RST may overtake what was sent before it: then nothing had begun.
        assert error.reason == "protocol" or (how in ("reset", "abrupt") and error.reason == "connection")


def test_a_stream_cut_after_any_byte_is_void() -> None:
    places = [*range(0, len(BYTES) - 2, 7), *range(len(BYTES) - 12, len(BYTES) - 2)]
    asker = Asker("blocking")
    with FakeGemini(*(Cut(TALK, after_bytes=after) for after in places)) as api:
        performer = GeminiBlocking(api.key, asker.plan, base_url=api.url)
        with contextlib.closing(performer):
            for after in places:
                with pytest.raises(AgentError) as caught:
                    performer(Converse(QUESTION, FLASH), asker.branch)
                assert caught.value.reason == "protocol", after
    assert not asker.branch.of(ModelAnswered)


@pytest.mark.parametrize("behaviour", [Raw(b""), Raw(b"", reset=True)])
def test_a_connection_that_breaks_before_an_answer_is_a_failed_connection(asker: Asker, behaviour: Scripted) -> None:
    assert asker.fails(behaviour).reason == "connection"


def test_nobody_there_is_a_failed_connection(asker: Asker) -> None:
    with FakeGemini() as api:
        pass
    with pytest.raises(AgentError) as caught:
        asker.ask(api)
    assert (caught.value.reason, caught.value.dependency) == ("connection", "model.google.gemini-3.6-flash")


@pytest.mark.parametrize("frames", [0, 2])
def test_the_belt_ends_a_silence_that_nobody_else_ends(asker: Asker, frames: int) -> None:
    behaviour: Scripted = Stall(TALK, frames) if frames else Silence()
    assert asker.fails(behaviour, belt_s=0.2).reason in ("timeout", "protocol")


def test_cancelling_voids_what_was_shown_and_closes_the_connection() -> None:
    branch = Branch()

    async def run(api: FakeGemini) -> None:
        performer = GeminiAsync(api.key, FaultPlan(), base_url=api.url)
        async with contextlib.aclosing(performer):
            task = asyncio.create_task(performer(Converse(QUESTION, FLASH), branch))
            branch.on_text = task.cancel
            with pytest.raises(asyncio.CancelledError):
                await task

    with FakeGemini(Stall(TALK, 1)) as api:
        asyncio.run(run(api))
        assert api.hung_up.wait(5)
    assert [event.chars_voided for event in branch.of(AttemptAbandoned)] == [6]


class Alarm(BaseException):
    """As the blocking door raises it from a signal handler."""


def test_an_alarm_voids_what_was_shown_and_drops_the_connection() -> None:
    branch = Branch()

    def ring(*_: object) -> None:
        raise Alarm

    def set_alarm() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.02)

    before = signal.signal(signal.SIGALRM, ring)
    branch.on_text = set_alarm
    try:
        with (
            FakeGemini(Stall(TALK, 1), Stream(says("fine"))) as api,
            contextlib.closing(GeminiBlocking(api.key, FaultPlan(), base_url=api.url)) as performer,
        ):
            with pytest.raises(Alarm):
                performer(Converse(QUESTION, FLASH), branch)
            assert api.hung_up.wait(5)
            assert [event.chars_voided for event in branch.of(AttemptAbandoned)] == [6]
            branch.on_text = None
            assert performer(Converse(QUESTION, FLASH), branch).text == "fine"
    finally:
        signal.signal(signal.SIGALRM, before)


# --- keys ------------------------------------------------------------------------------------------------


def test_without_a_key_nothing_is_asked(asker: Asker) -> None:
    with FakeGemini() as api:
        with pytest.raises(ConfigurationError, match="GEMINI_API_KEY is not set"):
            asker.ask(api, key=None)
        assert api.requests == []


def test_a_key_no_header_takes_is_named_without_being_shown() -> None:
    with pytest.raises(ConfigurationError, match="GEMINI_API_KEY contains") as caught:
        GeminiBlocking("AIza\nsecret", FaultPlan())
    assert "secret" not in str(caught.value)


def test_a_key_in_an_error_is_masked(asker: Asker) -> None:
    error = asker.fails(Refuse(403, "PERMISSION_DENIED", f"Key {FakeGemini.key} was reported as leaked"))
    assert FakeGemini.key not in str(error)


# --- faults ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("error", "server_error"),
        ("server_error", "server_error"),
        ("rate_limit=7", "rate_limit"),
        ("overloaded", "overloaded"),
        ("auth", "authentication"),
        ("bad_request", "bad_request"),
        ("refused", "connection"),
        ("reset", "connection"),
        ("hang", "timeout"),
        ("garbage", "protocol"),
        ("html", "protocol"),
        ("cut=start", "protocol"),
        ("cut", "protocol"),
        ("cut=tool", "protocol"),
        ("cut=end", "protocol"),
        ("stall", "protocol"),
        ("stall=tool", "protocol"),
    ],
)
def test_a_fault_looks_like_the_real_thing(asker: Asker, kind: str, reason: str) -> None:
    asker.plan.replace([parse_fault(f"model.google:{kind}*1")])
    with FakeGemini(Stream(TALK)) as api:
        with pytest.raises(AgentError) as caught:
            asker.ask(api, belt_s=0.2)
        assert caught.value.reason in (reason, "timeout")
        assert (reason == "rate_limit") == (caught.value.retry_after_s == 7.0)
        (struck,) = asker.branch.of(FaultInjected)
        assert (struck.target, struck.kind) == ("model.google.gemini-3.6-flash", kind.partition("=")[0])
        assert asker.ask(api)[0].stop_reason == "tool_use"  # spent


@pytest.mark.parametrize(
    ("kind", "stop_reason"),
    [("bad_tool", "tool_use"), ("bad_args", "tool_use"), ("loop", "tool_use"), ("refusal", "refusal"),
     ("max_tokens", "max_tokens"), ("slow=0.01", "end_turn")],
)  # fmt: skip
def test_a_fault_in_what_the_model_says_is_a_whole_answer(asker: Asker, kind: str, stop_reason: str) -> None:
    asker.plan.replace([parse_fault(f"model:{kind}")])
    with FakeGemini() as api:
        (reply,) = asker.ask(api)
    assert reply.stop_reason == stop_reason
    assert len(asker.branch.of(FaultInjected)) == 1
    if kind == "loop":
        assert reply.tool_uses[0].input == {"expression": "1 + 1"}


def test_a_cut_in_a_tool_call_waits_for_an_answer_with_one(asker: Asker) -> None:
    asker.plan.replace([parse_fault("model:cut=tool*1")])
    with FakeGemini(Stream(says("no tool")), Stream(TWO_CALLS)) as api:
        assert asker.ask(api)[0].text == "no tool"
        assert not asker.branch.of(FaultInjected)
        with pytest.raises(AgentError):
            asker.ask(api)
    assert len(asker.branch.of(FaultInjected)) == 1


@pytest.mark.parametrize("where", ["start", "text", "end"])
def test_an_answer_of_one_chunk_can_be_cut_too(asker: Asker, where: str) -> None:
    asker.plan.replace([parse_fault(f"model:cut={where}*1")])
    with FakeGemini(Stream([chunk({"text": "all at once"}, finish="STOP")])) as api:
        with pytest.raises(AgentError):
            asker.ask(api)
        assert asker.ask(api)[0].text == "all at once"


def test_thoughts_are_told_by_their_length_and_are_no_answer(asker: Asker) -> None:
    thought = chunk({"text": "Let me see", "thought": True})
    with FakeGemini(Stream([thought, *says("Yes.")])) as api:
        (reply,) = asker.ask(api)
    assert reply.text == "Yes."
    assert [event.chars for event in asker.branch.of(ThinkingStreamed)] == [10]


def test_two_texts_stand_side_by_side_in_one_answer(asker: Asker) -> None:
    signed = chunk({"text": "signed", "thoughtSignature": "c2ln"})
    with FakeGemini(Stream([chunk({"text": "plain "}), signed, chunk({"text": " more"}, finish="STOP")])) as api:
        (reply,) = asker.ask(api)
        history = (user("Hi"), Message("assistant", reply.blocks), user("And?"))
        asker.ask(api, ModelRequest("", history))
        assert api.breaches == []
        parts = api.requests[1].body["contents"][1]["parts"]
    assert parts == [{"text": "plain "}, {"text": "signed", "thoughtSignature": "c2ln"}, {"text": " more"}]
    assert [block.text for block in reply.blocks if isinstance(block, Text)] == ["plain ", "signed", " more"]
