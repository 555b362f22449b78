"""Lets the real `anthropic` SDK talk to the practice model without a network (floor 4).

One transport for both kinds of client: `httpx2.Client(transport=PracticeTransport())` and
`httpx2.AsyncClient(transport=PracticeTransport())`. Requests are checked as the real API checks them,
answered by `mind.think`, and written by `protocol`, so that the SDK, our stream parser, guards and
injected faults all meet the bytes they would meet online.

It keeps nothing between requests: the same request and seed give the same answer. It asks for no key,
limits no rate, and fails only where the request is wrong; other failures are injected around it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import httpx2

from models.practice import mind, protocol

_MODEL = {
    "type": "model",
    "id": "practice",
    "display_name": "Unflappable practice model",
    "created_at": "1970-01-01T00:00:00Z",  # the API's own way to say that there is no release date
    "lifecycle": "active",
}
_JSON = "application/json"


class PracticeTransport(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """Plays `POST /v1/messages`, `POST /v1/messages/count_tokens` and `GET /v1/models`.

    `seed` chooses among equally good phrases and goes into the ids. `chunk_s` is the pause in seconds
    before each frame of a stream, for watching an answer arrive; 0 sends at once.
    """

    def __init__(self, seed: int = 0, chunk_s: float = 0.0) -> None:
        self._seed = seed
        self._chunk_s = chunk_s

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a blocking client."""
        return self._answer(request, request.read())

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Answer an asyncio client."""
        return self._answer(request, await request.aread())

    def _answer(self, request: httpx2.Request, raw: bytes) -> httpx2.Response:
        request_id = "req_practice_" + hashlib.sha256(b"%d " % self._seed + raw).hexdigest()[:20]
        path = request.url.path.rstrip("/")
        allowed = _METHODS.get(path)
        if allowed is None:
            return _error(404, "not_found_error", f"Not found: {request.url.path}", request_id)
        if request.method != allowed:
            refusal = _error(405, "invalid_request_error", "Method Not Allowed", request_id)
            refusal.headers["allow"] = allowed
            return refusal
        if allowed == "GET":
            return _json(_models(path), request_id)
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            reason = f"The request body is not valid JSON: {error}"
            return _error(400, "invalid_request_error", reason, request_id)
        return self._post(path, body, request_id)

    def _post(self, path: str, body: Any, request_id: str) -> httpx2.Response:
        counting = path == _COUNT
        # Counting takes the same request without the length of an answer that is not wanted.
        checked = {"max_tokens": 1, **body} if counting and isinstance(body, dict) else body
        reason = protocol.validate_request(checked)
        if reason is not None:
            return _error(400, "invalid_request_error", reason, request_id)
        if counting:
            return _json({"input_tokens": mind.estimate_tokens(body)}, request_id)
        message = mind.think(body, seed=self._seed)
        if not body.get("stream"):
            return _response(200, _JSON, request_id, content=protocol.message_json(message))
        frames = _Frames(protocol.sse_events(message), self._chunk_s)
        return _response(200, "text/event-stream; charset=utf-8", request_id, stream=frames)


class _Frames(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """The body of a stream, made frame by frame while it is read."""

    def __init__(self, frames: Iterable[bytes], chunk_s: float) -> None:
        self._frames = frames
        self._chunk_s = chunk_s

    def __iter__(self) -> Iterator[bytes]:
        for frame in self._frames:
            if self._chunk_s > 0:
                time.sleep(self._chunk_s)
            yield frame

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for frame in self._frames:
            # Also without pacing other tasks get their turn between two frames, as they do on a socket.
            await asyncio.sleep(self._chunk_s)
            yield frame


_MESSAGES = "/v1/messages"
_COUNT = "/v1/messages/count_tokens"
_MODELS = "/v1/models"
_METHODS = {_MESSAGES: "POST", _COUNT: "POST", _MODELS: "GET", f"{_MODELS}/{_MODEL['id']}": "GET"}


def _models(path: str) -> dict[str, Any]:
    if path != _MODELS:
        return dict(_MODEL)
    name = _MODEL["id"]
    return {"data": [_MODEL], "has_more": False, "first_id": name, "last_id": name}


def _json(value: dict[str, Any], request_id: str) -> httpx2.Response:
    return _response(200, _JSON, request_id, content=protocol.message_json(value))


def _error(status: int, error_type: str, reason: str, request_id: str) -> httpx2.Response:
    body = protocol.error_json(error_type, reason, request_id)
    return _response(status, _JSON, request_id, content=body)


def _response(status: int, content_type: str, request_id: str, **body: Any) -> httpx2.Response:
    headers = {"content-type": content_type, "request-id": request_id}
    return httpx2.Response(status, headers=headers, **body)
