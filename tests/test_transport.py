"""Faults on the wire: each strikes where it says, is told when it strikes, and is given back when it cannot."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events import Event, FaultInjected
from faults import Crashed, FaultPlan, parse_fault
from models.network import async_http, blocking_http
from models.practice.protocol import sse_events
from models.transport import ERROR_BYTES_MAX, FaultyTransport, fault_listener
from models.wire_faults import UNKNOWN_TOOL, BreakingPoint
from tests.fake_messages import calls, message, says

CALL = calls(("calculator", {"expression": "15 * 23"}))
BOTH = message([*says("One moment, please.")["content"], *CALL["content"]], "tool_use")
TOOLS = [
    {"name": "find_notes", "input_schema": {"type": "object", "properties": {}}},
    {"name": "save_note", "input_schema": {"type": "object", "required": ["content"]}},
    {
        "name": "calculator",
        "input_schema": {"type": "object", "properties": {"expression": {}}, "required": ["expression"]},
    },
]
BODY = {"model": "claude-sonnet-5-5", "messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS}


class Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    def __init__(self, chunks: list[bytes], error: Exception | None = None) -> None:
        self.chunks, self.error, self.read, self.closed = chunks, error, 0, False

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            self.read += len(chunk)
            yield chunk
        if self.error:
            raise self.error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class Inner(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """What is behind the faults: always the same answer, and a count of the requests that got through."""

    def __init__(self, whole: dict[str, Any] | None = None, **answer: Any) -> None:
        self.requests = 0
        self.body = Body(list(sse_events(whole or says("Hello, how are you today?"))))
        self.answer = {"status_code": 200, "headers": {"content-type": "text/event-stream"}, **answer}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests += 1
        return httpx2.Response(**{"stream": self.body, **self.answer})

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return self.handle_request(request)


class Wire:
    """A client of one kind whose requests meet the faults of a plan."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.told: list[Event] = []
        self.plan = FaultPlan()

    def post(
        self, inner: httpx2.BaseTransport, *faults: str, body: Any = BODY, belt_s: float = 5.0
    ) -> tuple[int, bytes]:
        """Status and body of one request; raises what the wire raises."""
        for fault in faults:
            self.plan.add(parse_fault(fault))
        transport = FaultyTransport(inner, self.plan, "anthropic")
        token = fault_listener.set(self.told.append)
        try:
            return self._post(transport, body, belt_s)
        finally:
            fault_listener.reset(token)

    def _post(self, transport: FaultyTransport, body: Any, belt_s: float) -> tuple[int, bytes]:
        url = "http://fake/v1/messages"
        if self.kind == "blocking":
            with blocking_http(transport, belt_s) as client, client.stream("POST", url, json=body) as answer:
                return answer.status_code, answer.read()

        async def run() -> tuple[int, bytes]:
            async with async_http(transport, belt_s) as client, client.stream("POST", url, json=body) as answer:
                return answer.status_code, await answer.aread()

        return asyncio.run(run())


@pytest.fixture(params=["blocking", "asyncio"])
def wire(request: pytest.FixtureRequest) -> Wire:
    return Wire(request.param)


def struck(kind: str, argument: str = "") -> list[FaultInjected]:
    return [FaultInjected("model.anthropic.claude-sonnet-5-5", kind, argument)]


def last_event(body: bytes) -> str:
    return body.rstrip().rpartition(b"event: ")[2].split()[0].decode()


# --- answers in place of the real one --------------------------------------------------------------------


def test_without_a_fault_everything_passes_as_it_is(wire: Wire) -> None:
    inner = Inner()
    assert wire.post(inner) == (200, b"".join(inner.body.chunks))
    assert wire.told == []


@pytest.mark.parametrize(
    ("fault", "status", "error_type"),
    [
        ("error", 500, "api_error"),
        ("server_error", 500, "api_error"),
        ("rate_limit", 429, "rate_limit_error"),
        ("overloaded", 529, "overloaded_error"),
        ("auth", 401, "authentication_error"),
        ("bad_request", 400, "invalid_request_error"),
    ],
)
def test_an_error_is_answered_as_the_api_does_without_asking_it(
    wire: Wire, fault: str, status: int, error_type: str
) -> None:
    inner = Inner()
    got, body = wire.post(inner, f"model:{fault}")
    assert (got, json.loads(body)["error"]["type"], inner.requests) == (status, error_type, 0)
    assert wire.told == struck(fault)


def test_a_rate_limit_may_say_how_long_to_wait() -> None:
    for spec, header in (("model:rate_limit=2.5", "2.5"), ("model:rate_limit", None)):
        transport = FaultyTransport(Inner(), FaultPlan([parse_fault(spec)]), "anthropic")
        with blocking_http(transport) as client:
            assert client.post("http://fake/v1/messages", json=BODY).headers.get("retry-after") == header


@pytest.mark.parametrize(("fault", "error"), [("refused", httpx2.ConnectError), ("reset", httpx2.ReadError)])
def test_a_broken_connection_raises_what_the_network_raises(wire: Wire, fault: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        wire.post(Inner(), f"model:{fault}")
    assert wire.told == struck(fault)


def test_rubbish_and_pages_come_with_a_200(wire: Wire) -> None:
    status, body = wire.post(Inner(), "model:garbage*1", "model:html*1")
    assert (status, b"message_start" in body, b"message_stop" in body) == (200, True, False)
    status, body = wire.post(Inner())
    assert (status, body[:9]) == (200, b"<!DOCTYPE")
    assert wire.told == [*struck("garbage"), *struck("html")]


def blocks_of(body: bytes) -> list[dict[str, Any]]:
    from models.sse import SseDecoder
    from models.stream import StreamParser

    parser = StreamParser("x")
    for name, data in SseDecoder().feed(body):
        parser.feed(name, data)
    return [block.to_wire() for block in parser.finish().blocks]


def test_a_model_can_call_what_nobody_offers_or_call_it_wrongly(wire: Wire) -> None:
    (call,) = blocks_of(wire.post(Inner(), "model:bad_tool*1")[1])
    assert call["name"] == UNKNOWN_TOOL not in {tool["name"] for tool in TOOLS}
    (call,) = blocks_of(wire.post(Inner(), "model:bad_args*1")[1])
    assert (call["name"], "content" in call["input"]) == ("save_note", False)


def test_a_looping_model_asks_for_the_same_again_with_another_id(wire: Wire) -> None:
    (first,) = blocks_of(wire.post(Inner(), "model:loop")[1])
    longer = {**BODY, "messages": [*BODY["messages"], {"role": "assistant", "content": [first]}]}
    (second,) = blocks_of(wire.post(Inner(), body=longer)[1])
    assert first["input"] == second["input"] == {"expression": "1 + 1"}
    assert first["id"] != second["id"]


@pytest.mark.parametrize(("fault", "reason"), [("refusal", "refusal"), ("max_tokens", "max_tokens")])
def test_a_model_can_refuse_and_can_be_cut_short(wire: Wire, fault: str, reason: str) -> None:
    _, body = wire.post(Inner(), f"model:{fault}")
    assert f'"stop_reason":"{reason}"'.encode() in body
    assert last_event(body) == "message_stop"


@pytest.mark.parametrize("fault", ["bad_args", "loop"])
def test_a_fault_that_needs_tools_waits_for_a_request_that_has_some(wire: Wire, fault: str) -> None:
    wire.post(Inner(), f"model:{fault}*1", body={**BODY, "tools": []})
    assert (wire.told, wire.plan.active) == ([], True)
    wire.post(Inner())
    assert (wire.told, wire.plan.active) == (struck(fault), False)


# --- waiting ---------------------------------------------------------------------------------------------


def test_slow_waits_and_then_lets_the_answer_through(wire: Wire) -> None:
    begun = time.monotonic()
    status, body = wire.post(Inner(), "model:slow=0.05")
    assert time.monotonic() - begun >= 0.05
    assert (status, last_event(body)) == (200, "message_stop")
    assert wire.told == struck("slow", "0.05")


def test_a_hang_ends_only_by_the_belt(wire: Wire) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        wire.post(Inner(), "model:hang", belt_s=0.02)
    assert wire.told == struck("hang")


def test_a_hang_can_be_cancelled() -> None:
    async def run() -> None:
        transport = FaultyTransport(Inner(), FaultPlan([parse_fault("model:hang")]), "anthropic")
        async with async_http(transport) as client:
            task = asyncio.create_task(client.post("http://fake/v1/messages", json=BODY))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(asyncio.wait_for(run(), 5))


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms on this platform")
@pytest.mark.parametrize("fault", ["hang", "slow=60", "stall=text"])
def test_an_alarm_interrupts_every_wait(fault: str) -> None:
    class Alarm(BaseException):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Alarm):
            Wire("blocking").post(Inner(), f"model:{fault}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- streams that break ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "last"),
    [
        ("start", "message_start"),
        ("text", "content_block_delta"),
        ("tool", "content_block_delta"),
        ("end", "message_delta"),
    ],
)
def test_a_cut_ends_the_stream_cleanly_at_its_place(wire: Wire, where: str, last: str) -> None:
    inner = Inner(BOTH)
    _, body = wire.post(inner, f"model:cut={where}*1")
    assert last_event(body) == last
    assert (b"tool_use" in body) == (where in ("tool", "end"))
    assert wire.told == struck("cut", where)
    assert (wire.plan.active, inner.body.closed) == (False, True)


def test_a_cut_in_the_text_leaves_some_of_it_and_not_all(wire: Wire) -> None:
    _, body = wire.post(Inner(), "model:cut=text")
    assert 0 < body.count(b"text_delta") < len(list(sse_events(says("Hello, how are you today?")))) - 6
    _, body = wire.post(Inner(says("Hi")))
    assert (body.count(b"text_delta"), last_event(body)) == (1, "content_block_delta")


def test_a_stall_falls_silent_at_its_place(wire: Wire) -> None:
    for where in ("text", "tool"):
        with pytest.raises(httpx2.ReadTimeout):
            wire.post(Inner(BOTH), f"model:stall={where}*1", belt_s=0.02)
    assert wire.told == [*struck("stall", "text"), *struck("stall", "tool")]


@pytest.mark.parametrize("kind", ["cut", "stall"])
def test_a_cut_is_spent_on_the_first_stream_that_has_what_it_cuts(wire: Wire, kind: str) -> None:
    for where, without in (("text", CALL), ("tool", says("Hello"))):
        inner = Inner(without)
        assert wire.post(inner, f"model:{kind}={where}*1") == (200, b"".join(inner.body.chunks))
        assert (wire.told, wire.plan.active) == ([], True)
        wire.plan.clear()


def test_a_call_without_arguments_is_a_call_to_cut(wire: Wire) -> None:
    _, body = wire.post(Inner(calls(("get_time", {}))), "model:cut=tool")
    assert last_event(body) == "content_block_delta"
    assert wire.told == struck("cut", "tool")


@pytest.mark.parametrize(
    "inner",
    [
        Inner(status_code=529, headers={"content-type": "application/json"}),
        Inner(headers={"content-type": "text/html"}),
    ],
)
def test_a_cut_is_given_back_when_there_is_no_stream(inner: Inner) -> None:
    wire = Wire("blocking")
    wire.post(inner, "model:cut=start*1")
    assert (wire.told, wire.plan.active) == ([], True)


def test_a_cut_is_given_back_when_the_network_fails_or_nobody_reads_on(wire: Wire) -> None:
    class Dead(Inner):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            raise httpx2.ConnectError("dead")

    with pytest.raises(httpx2.ConnectError):
        wire.post(Dead(), "model:cut=text*1")
    assert (wire.told, wire.plan.active) == ([], True)
    transport = FaultyTransport(Inner(), wire.plan, "anthropic")
    with blocking_http(transport) as client, client.stream("POST", "http://fake/v1/messages", json=BODY):
        pass
    assert wire.plan.active


@given(where=st.sampled_from(["start", "text", "tool", "end"]), cuts=st.lists(st.integers(0, 3000), max_size=10))
@settings(max_examples=100, deadline=None)
def test_where_a_stream_breaks_does_not_depend_on_the_network(where: str, cuts: list[int]) -> None:
    whole = b"".join(sse_events(BOTH))

    def passed(places: list[int]) -> bytes:
        point, out = BreakingPoint(where), b""
        for begin, end in pairwise(places):
            piece, breaks = point.feed(whole[begin:end])
            out += piece
            if breaks:
                return out
        raise AssertionError("it never broke")

    assert passed(sorted({0, *cuts, len(whole)})) == passed([0, len(whole)])


def test_rubbish_passes_a_breaking_point_as_it_is() -> None:
    point = BreakingPoint("text")
    rubbish = b"data: {oops\n\ndata: null\n\n\xff\xfe\n\nrest"
    assert point.feed(rubbish)[0] + point.rest() == rubbish


# --- whom it strikes, and how often ----------------------------------------------------------------------


def test_the_plan_is_asked_once_for_each_question_and_for_nothing_else(wire: Wire) -> None:
    inner = Inner()
    transport = FaultyTransport(inner, wire.plan, "anthropic")
    wire.plan.add(parse_fault("model:error*1+1"))
    with blocking_http(transport) as client:
        client.get("http://fake/v1/models")
        client.post("http://fake/v1/messages/count_tokens", json=BODY)
        statuses = [client.post("http://fake/prefix/v1/messages", json=BODY).status_code for _ in range(3)]
    assert statuses == [200, 500, 200]


@pytest.mark.parametrize(
    ("target", "strikes"),
    [
        ("*", True),
        ("model", True),
        ("model.anthropic", True),
        ("model.anthropic.claude-sonnet-5-5", True),
        ("model.anthropic.claude-haiku-5-5", False),
        ("model.practice", False),
        ("get_weather", False),
    ],
)
def test_a_target_names_the_model_of_the_request(target: str, strikes: bool) -> None:
    wire = Wire("blocking")
    assert wire.post(Inner(), f"{target}:error")[0] == (500 if strikes else 200)


def test_the_practice_model_has_one_name() -> None:
    plan = FaultPlan([parse_fault("model.practice:error")])
    with blocking_http(FaultyTransport(Inner(), plan, "practice")) as client:
        assert client.post("http://fake/v1/messages", json=BODY).status_code == 500


# --- error answers ---------------------------------------------------------------------------------------


def test_an_error_answer_is_read_no_further_than_needed(wire: Wire) -> None:
    inner = Inner(status_code=503)
    inner.body = Body([b"x" * 10_000] * 100)
    status, body = wire.post(inner)
    assert (status, len(body)) == (503, ERROR_BYTES_MAX)
    assert inner.body.read < ERROR_BYTES_MAX + 10_001


def test_an_error_answer_that_breaks_off_keeps_its_status(wire: Wire) -> None:
    inner = Inner(status_code=401)
    inner.body = Body([b'{"type":'], httpx2.ReadError("reset"))
    assert wire.post(inner) == (401, b'{"type":')


def test_a_good_answer_that_breaks_off_fails(wire: Wire) -> None:
    inner = Inner()
    inner.body = Body([b"data: 1"], httpx2.ReadError("reset"))
    with pytest.raises(httpx2.ReadError):
        wire.post(inner)


# --- the end of the process ------------------------------------------------------------------------------


def test_a_crash_before_strikes_with_the_request_and_asks_nobody(wire: Wire) -> None:
    inner = Inner()
    with pytest.raises(Crashed, match="model:crash"):
        wire.post(inner, "model:crash")
    assert (inner.requests, wire.told) == (0, struck("crash", "before"))


def test_a_crash_after_strikes_when_all_of_the_answer_has_come(wire: Wire) -> None:
    inner = Inner()
    with pytest.raises(Crashed, match="crash=after"):
        wire.post(inner, "model:crash=after")
    assert (inner.requests, wire.told) == (1, struck("crash", "after"))


def test_a_crash_after_waits_for_an_answer_that_is_one(wire: Wire) -> None:
    refused = Inner(status_code=529, headers={"content-type": "application/json"})
    assert wire.post(refused, "model:crash=after*1")[0] == 529
    assert wire.told == []
    with pytest.raises(Crashed):
        wire.post(Inner())
