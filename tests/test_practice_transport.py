"""The practice model through the real SDK: blocking and asyncio, whole answers and streams."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest

from models.practice.transport import PracticeTransport

URL = "http://practice.local"
ASKED: list[Any] = [{"role": "user", "content": "What's the weather in Zürich and what's 15 * 23?"}]
TOOLS: list[Any] = [
    {"name": name, "description": name, "input_schema": {"type": "object"}} for name in ("calculator", "get_weather")
]
ARGUMENTS: dict[str, Any] = {"model": "practice", "max_tokens": 500, "messages": ASKED, "tools": TOOLS}
CALLS = [("get_weather", {"city": "Zürich"}), ("calculator", {"expression": "15 * 23"})]


@pytest.fixture
def client() -> Iterator[anthropic.Anthropic]:
    http = httpx2.Client(transport=PracticeTransport())
    with anthropic.Anthropic(api_key="practice", base_url=URL, http_client=http, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def raw() -> Iterator[httpx2.Client]:
    with httpx2.Client(transport=PracticeTransport(), base_url=URL) as http:
        yield http


def calls_of(message: anthropic.types.Message) -> list[tuple[str, object]]:
    return [(block.name, block.input) for block in message.content if block.type == "tool_use"]


def test_the_sdk_gets_the_same_message_whole_and_streamed(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**ARGUMENTS)
    with client.messages.stream(**ARGUMENTS) as stream:
        streamed = stream.get_final_message()
    assert calls_of(whole) == calls_of(streamed) == CALLS
    assert (whole.stop_reason, whole.model, whole.role) == ("tool_use", "practice", "assistant")
    assert whole.usage.input_tokens > 0
    assert whole.id == streamed.id
    assert whole._request_id is not None
    assert streamed.usage.output_tokens == whole.usage.output_tokens


def test_a_conversation_with_tools_ends_in_an_answer_made_of_the_results(client: anthropic.Anthropic) -> None:
    first = client.messages.create(**ARGUMENTS)
    said = {"get_weather": "Zürich: 12 °C", "calculator": "345"}
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": said[block.name]}
        for block in first.content
        if block.type == "tool_use"
    ]
    sent = [block.model_dump(include={"type", "id", "name", "input"}) for block in first.content]
    history = [*ASKED, {"role": "assistant", "content": sent}, {"role": "user", "content": results}]
    with client.messages.stream(**{**ARGUMENTS, "messages": history}) as stream:
        text = "".join(stream.text_stream)
        assert stream.get_final_message().stop_reason == "end_turn"
    assert text == "Zürich: 12 °C\n\n15 * 23 = 345"


def test_asyncio_gets_what_blocking_gets(client: anthropic.Anthropic) -> None:
    async def ask() -> tuple[anthropic.types.Message, list[str]]:
        http = httpx2.AsyncClient(transport=PracticeTransport())
        async with anthropic.AsyncAnthropic(api_key="practice", base_url=URL, http_client=http, max_retries=0) as sdk:
            message = await sdk.messages.create(**ARGUMENTS)
            events = await sdk.messages.create(**ARGUMENTS, stream=True)
            return message, [event.type async for event in events]

    message, names = asyncio.run(ask())
    assert message == client.messages.create(**ARGUMENTS)
    assert names == [event.type for event in client.messages.create(**ARGUMENTS, stream=True)]
    assert (names[0], names[-1]) == ("message_start", "message_stop")


def test_tokens_are_counted_and_models_listed(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="practice", messages=ASKED, tools=TOOLS)
    assert counted.input_tokens > 10
    assert [model.id for model in client.models.list()] == ["practice"]
    assert client.models.retrieve("practice").display_name == "Unflappable practice model"


def test_a_request_the_api_would_refuse_is_a_bad_request(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model="practice", max_tokens=5, messages=[])
    assert caught.value.type == "invalid_request_error"
    assert "at least one message" in caught.value.message


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "error_type"),
    [
        ("POST", "/v1/messages", b"{", 400, "invalid_request_error"),
        ("POST", "/v1/messages", b"\xff", 400, "invalid_request_error"),
        ("POST", "/v1/messages", b"[" * 100_000, 400, "invalid_request_error"),
        ("POST", "/v1/messages/count_tokens", b"[]", 400, "invalid_request_error"),
        ("POST", "/v1/complete", b"{}", 404, "not_found_error"),
        ("GET", "/v1/models/claude", b"", 404, "not_found_error"),
        ("GET", "/v1/messages", b"", 405, "invalid_request_error"),
        ("DELETE", "/v1/models", b"", 405, "invalid_request_error"),
    ],
)
def test_wrong_requests_get_the_apis_status_and_shape(
    raw: httpx2.Client, method: str, path: str, content: bytes, status: int, error_type: str
) -> None:
    answer = raw.request(method, path, content=content)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == error_type
    assert answer.json()["request_id"] == answer.headers["request-id"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get("allow") == {405: "POST" if path == "/v1/messages" else "GET"}.get(status)


def test_a_stream_comes_frame_by_frame_and_stops_when_the_reader_does(raw: httpx2.Client) -> None:
    with raw.stream("POST", "/v1/messages", json={**ARGUMENTS, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        frames = answer.iter_raw()
        assert next(frames).startswith(b"event: message_start\n")
        assert next(frames).startswith(b"event: ping\n")


def test_the_same_seed_repeats_every_byte_and_another_seed_changes_the_ids() -> None:
    bodies = []
    for seed in (1, 1, 2):
        with httpx2.Client(transport=PracticeTransport(seed), base_url=URL) as http:
            answer = http.post("/v1/messages", content=json.dumps({**ARGUMENTS, "stream": True}))
            bodies.append((answer.content, answer.headers["request-id"]))
    assert bodies[0] == bodies[1] != bodies[2]


def test_a_paced_stream_takes_its_time_before_each_frame() -> None:
    def took_s(chunk_s: float) -> float:
        with httpx2.Client(transport=PracticeTransport(chunk_s=chunk_s), base_url=URL) as http:
            begun = time.monotonic()
            frames = http.post("/v1/messages", json={**ARGUMENTS, "stream": True}).content.count(b"event:")
            return (time.monotonic() - begun) / frames

    assert took_s(0.002) >= 0.002
