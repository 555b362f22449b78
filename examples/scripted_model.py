"""A stand-in for the Messages API that asks for one tool call, then repeats what the tool said.

For examples only: a model would read the question; this one knows in advance which tool it wants.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from models.practice.protocol import sse_events


@contextmanager
def serving(tool: str, given: dict[str, Any]) -> Iterator[str]:
    """The base URL of a model that calls `tool` with the input `given`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            last = request["messages"][-1]["content"][-1]
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            for frame in sse_events(_answer(last, tool, given)):
                self.wfile.write(frame)

        def log_message(self, *_: object) -> None:
            """Say nothing: the example does the talking."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _answer(last: dict[str, Any], tool: str, given: dict[str, Any]) -> dict[str, Any]:
    if last["type"] == "tool_result":
        said = last["content"] if isinstance(last["content"], str) else last["content"][0]["text"]
        content: dict[str, Any] = {"type": "text", "text": f"The tool says: {said}"}
    else:
        content = {"type": "tool_use", "id": "toolu_1", "name": tool, "input": given}
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5-5", "content": [content],
        "stop_reason": "tool_use" if content["type"] == "tool_use" else "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 5},
    }  # fmt: skip
